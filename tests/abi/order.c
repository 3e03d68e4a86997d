/* Which of several wrong arguments a call answers, and what an empty path means. */
#include "abi.h"
#include <sys/mman.h>

#define NONE 99

int main(void) {
    char text[16];
    int file = open("file", O_CREAT | O_RDWR, 0644), only = open("file", O_WRONLY), directory = open(".", O_RDONLY),
        path = open("file", O_PATH), root = open("/", O_RDONLY), root_path = open("/", O_PATH), pipes[2];
    pipe(pipes);

    T(syscall(SYS_faccessat, NONE, "", 0));
    T(syscall(SYS_faccessat, NONE, "x", 0));
    T(syscall(SYS_faccessat, NONE, "/", 0));
    T(syscall(SYS_faccessat, file, "", 0));
    T(syscall(SYS_faccessat, file, "x", 0));
    T(syscall(SYS_faccessat, AT_FDCWD, "", 0));
    T(syscall(439, NONE, "", 0, AT_EMPTY_PATH));
    T(syscall(439, file, "", R_OK, AT_EMPTY_PATH));
    T(syscall(439, AT_FDCWD, "", R_OK, AT_EMPTY_PATH));
    T(syscall(SYS_openat, NONE, "", 0));
    T(syscall(SYS_openat, file, "", 0));
    T(syscall(SYS_openat, NONE, "x", 0));
    T(syscall(SYS_openat, file, "x", 0));
    T(syscall(SYS_mkdirat, NONE, "", 0));
    T(syscall(SYS_unlinkat, NONE, "", 0));
    T(syscall(SYS_linkat, NONE, "", NONE, "", 0));
    T(syscall(SYS_linkat, AT_FDCWD, "file", NONE, "", 0));
    T(syscall(SYS_symlinkat, "", NONE, ""));
    T(syscall(SYS_symlinkat, "x", NONE, ""));
    T(syscall(SYS_renameat2, NONE, "", NONE, "", 0));
    T(syscall(SYS_mknodat, NONE, "", S_IFREG | 0644, 0));
    T(syscall(SYS_readlinkat, NONE, "", text, 0));
    T(syscall(SYS_readlinkat, NONE, "", text, 10));
    T(syscall(SYS_readlinkat, file, "", text, 10));
    T(syscall(SYS_readlinkat, AT_FDCWD, "", text, 10));
    T(syscall(SYS_fchownat, NONE, "", -1, -1, 0));
    T(syscall(SYS_fchownat, AT_FDCWD, "", -1, -1, AT_EMPTY_PATH));
    T(syscall(SYS_fchmodat, NONE, "", 0));
    T(syscall(SYS_fchmodat2, NONE, "", 0, AT_EMPTY_PATH));
    T(syscall(SYS_fchmodat2, AT_FDCWD, "", 0755, AT_EMPTY_PATH));
    T(syscall(SYS_newfstatat, NONE, "", 0, 0));
    T(syscall(SYS_statx, NONE, "", 0, 0, 0));
    T(syscall(SYS_execveat, NONE, "", 0, 0, 0));
    struct timespec times[2] = {{5, 6}, {7, 8}};
    struct stat found;
    T(syscall(SYS_utimensat, NONE, "", 0, 0));
    T(syscall(SYS_utimensat, NONE, 0, 0, 0));
    T(syscall(SYS_utimensat, AT_FDCWD, 0, 0, 0));
    T(syscall(SYS_utimensat, file, 0, 0, AT_SYMLINK_NOFOLLOW));
    T(syscall(SYS_utimensat, file, "", 0, 0));
    T(syscall(SYS_utimensat, file, 0, 0, 0x800000));
    T(syscall(SYS_utimensat, path, 0, times, 0));
    T(syscall(SYS_utimensat, path, "", times, AT_EMPTY_PATH));
    T(fstat(file, &found));
    SHOW("%ld %ld %ld %ld", found.st_atim.tv_sec, found.st_atim.tv_nsec, found.st_mtim.tv_sec, found.st_mtim.tv_nsec);

    T(mmap(0, 0, PROT_READ, MAP_PRIVATE, -1, 0));
    T(mmap(0, 0, PROT_READ, MAP_PRIVATE, file, 0));
    T(mmap(0, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    T(mmap(0, 0, PROT_READ, 0, -1, 0));
    T(mmap(0, 4096, PROT_READ, 0, -1, 0));
    T(mmap(0, 4096, PROT_READ, MAP_ANONYMOUS, -1, 0));
    T(mmap(0, 4096, PROT_READ, MAP_PRIVATE, -1, 1));
    T(mmap(0, 4096, PROT_READ, MAP_PRIVATE, file, 1));
    T(mmap((void *)1, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    T(mmap((void *)1, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED, -1, 0));
    T(mmap(0, 1ul << 62, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    T(mmap(0, -1ul, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    T(mmap(0, 1ul << 62, PROT_READ, MAP_PRIVATE, -1, 0));
    T(mmap(0, 4096, PROT_READ, MAP_PRIVATE, directory, 0));
    T(mmap(0, 4096, PROT_READ, MAP_PRIVATE, root, 0));
    T(mmap(0, 4096, PROT_READ, MAP_PRIVATE, path, 0));
    T(mmap(0, 4096, PROT_READ, MAP_PRIVATE, root_path, 0));
    T(mmap(0, 4096, PROT_READ, MAP_PRIVATE, only, 0));
    T(mmap(0, 4096, PROT_READ, MAP_PRIVATE, pipes[0], 0));
    T(mmap(0, 4096, PROT_READ, MAP_PRIVATE, pipes[1], 0));
    T(mmap(0, 0, PROT_READ, MAP_PRIVATE, pipes[0], 0));
    unlink("file");
}
