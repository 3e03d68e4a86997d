/* Files and directories, all inside a new directory in the current one. Size: KiB written. */
#define _GNU_SOURCE
#include "guest.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char top[64];

#define TRY(what) do { errno = 0; long r_ = (long)(what); printf("%-44s %ld%s%s\n", #what, r_, r_ < 0 ? " " : "", r_ < 0 ? name_of(errno) : ""); } while (0)

static const char *name_of(int code) {
    switch (code) {
    case ENOENT: return "ENOENT";
    case EEXIST: return "EEXIST";
    case ENOTDIR: return "ENOTDIR";
    case EISDIR: return "EISDIR";
    case ENOTEMPTY: return "ENOTEMPTY";
    case EBADF: return "EBADF";
    case EINVAL: return "EINVAL";
    case EFAULT: return "EFAULT";
    case ESPIPE: return "ESPIPE";
    case EACCES: return "EACCES";
    case EAGAIN: return "EAGAIN";
    case ELOOP: return "ELOOP";
    case ENOTTY: return "ENOTTY";
    default: return "another error";
    }
}

static int by_text(const void *a, const void *b) { return strcmp(a, b); }

static void list(const char *path) {
    char names[32][64];
    size_t count = 0;
    DIR *d = opendir(path);
    if (d == NULL) {
        printf("cannot list: %s\n", name_of(errno));
        return;
    }
    struct dirent *e;
    while ((e = readdir(d)) != NULL && count < 32)
        snprintf(names[count++], sizeof names[0], "%.50s %d", e->d_name, e->d_type);
    closedir(d);
    qsort(names, count, sizeof names[0], by_text);
    printf("list:");
    for (size_t i = 0; i < count; i++)
        printf(" [%s]", names[i]);
    putchar('\n');
}

int main(int argc, char **argv) {
    size_t size = guest_size(argc, argv, 16) * 1024;
    struct stat s;
    snprintf(top, sizeof top, "guest-files-%d", (int)getpid());
    int made = mkdir(top, 0755), entered = chdir(top);
    printf("mkdir %d chdir %d\n", made, entered);
    if (made || entered)
        return 1;
    umask(022);
    TRY(mkdir("sub", 0700));
    TRY(mkdir("sub", 0700));
    TRY(open("absent", O_RDONLY));
    TRY(open("absent/below", O_RDONLY));
    TRY(stat("absent", &s));

    int fd = open("data", O_RDWR | O_CREAT | O_EXCL, 0644);
    printf("created %d\n", fd >= 0);
    TRY(open("data", O_RDWR | O_CREAT | O_EXCL, 0644));
    TRY(open("data/below", O_RDONLY));
    TRY(open("sub", O_WRONLY));
    unsigned char *buffer = malloc(size + 16);
    uint64_t seed = 61;
    for (size_t i = 0; i < size; i++)
        buffer[i] = (unsigned char)(guest_random(&seed) >> 56);
    uint64_t hash = guest_hash(GUEST_HASH, buffer, size);
    TRY(write(fd, buffer, size) == (ssize_t)size);
    TRY(lseek(fd, 0, SEEK_CUR) == (off_t)size);
    TRY(lseek(fd, 10, SEEK_SET));
    TRY(lseek(fd, -11, SEEK_CUR));
    TRY(lseek(fd, -1, SEEK_END) == (off_t)size - 1);
    TRY(lseek(fd, 0, SEEK_SET));
    memset(buffer, 0, size);
    TRY(read(fd, buffer, size) == (ssize_t)size);
    TRY(guest_hash(GUEST_HASH, buffer, size) == hash);
    TRY(read(fd, buffer, 10));
    TRY(pwrite(fd, "patched", 7, 100));
    TRY(pread(fd, buffer, 9, 99));
    printf("middle '%.7s'\n", (char *)buffer + 1);
    TRY(pread(fd, buffer, 9, -1));
    TRY(fstat(fd, &s));
    printf("size %d regular %d mode %o links %d\n", s.st_size == (off_t)size, S_ISREG(s.st_mode), (unsigned)(s.st_mode & 07777),
           (int)s.st_nlink);
    TRY(ftruncate(fd, 50));
    TRY(lseek(fd, 0, SEEK_END));
    TRY(ftruncate(fd, 5000));
    TRY(pread(fd, buffer, 10, 4000));
    printf("hole %d\n", buffer[0] == 0 && buffer[9] == 0);

    struct iovec parts[3] = {{"one ", 4}, {"", 0}, {"two three", 9}};
    TRY(lseek(fd, 0, SEEK_SET));
    TRY(writev(fd, parts, 3));
    char a[6] = {0}, b[10] = {0};
    struct iovec into[2] = {{a, 5}, {b, 8}};
    TRY(lseek(fd, 0, SEEK_SET));
    TRY(readv(fd, into, 2));
    printf("readv '%s' '%s'\n", a, b);
    const void *volatile nowhere = (const void *)16;
    TRY(write(fd, nowhere, 4));
    TRY(read(-1, buffer, 4));
    TRY(write(99, "x", 1));
    TRY(fsync(fd));
    TRY(close(fd));
    TRY(close(fd));

    TRY(link("data", "second"));
    TRY(symlink("data", "soft"));
    TRY(symlink("loop", "loop"));
    TRY(open("loop", O_RDONLY));
    ssize_t n = readlink("soft", (char *)buffer, 100);
    printf("readlink %zd '%.*s'\n", n, (int)n, (char *)buffer);
    TRY(readlink("data", (char *)buffer, 100));
    TRY(lstat("soft", &s));
    printf("soft is link %d\n", S_ISLNK(s.st_mode));
    TRY(stat("second", &s));
    printf("links %d\n", (int)s.st_nlink);
    TRY(rename("second", "sub/moved"));
    TRY(rename("absent", "sub/nothing"));
    list(".");
    list("sub");
    TRY(access("data", R_OK | W_OK));
    TRY(access("absent", F_OK));
    TRY(chmod("data", 0600));
    TRY(stat("data", &s));
    printf("mode %o\n", (unsigned)(s.st_mode & 07777));
    TRY(rmdir("sub"));
    TRY(rmdir("data"));
    TRY(unlink("sub"));
    struct timespec times[2] = {{1000000000, 0}, {1100000000, 0}};
    TRY(utimensat(AT_FDCWD, "data", times, 0));
    TRY(stat("data", &s));
    printf("mtime %ld atime %ld\n", (long)s.st_mtime, (long)s.st_atime);

    /* relative to a directory descriptor */
    int dir = open("sub", O_RDONLY | O_DIRECTORY);
    printf("directory %d\n", dir >= 0);
    int inner = openat(dir, "inner", O_CREAT | O_WRONLY | O_APPEND, 0600);
    TRY(write(inner, "ab", 2));
    TRY(lseek(inner, 0, SEEK_SET));
    TRY(write(inner, "cd", 2));
    TRY(close(inner));
    TRY(fstatat(dir, "inner", &s, 0));
    printf("inner size %d\n", (int)s.st_size);
    TRY(unlinkat(dir, "inner", 0));
    TRY(close(dir));

    /* duplicates, flags, pipes */
    fd = open("data", O_RDONLY);
    int copy = dup(fd);
    TRY(lseek(fd, 7, SEEK_SET));
    TRY(lseek(copy, 0, SEEK_CUR));
    TRY(dup2(copy, 77));
    TRY(lseek(77, 0, SEEK_CUR));
    TRY(fcntl(fd, F_GETFD));
    TRY(fcntl(fd, F_SETFD, FD_CLOEXEC));
    TRY(fcntl(fd, F_GETFD));
    TRY(fcntl(fd, F_GETFL) & O_ACCMODE);
    TRY(fcntl(fd, F_DUPFD, 90));
    TRY(close(90));
    TRY(close(77));
    TRY(close(copy));
    TRY(write(fd, "x", 1));
    TRY(isatty(fd));
    TRY(close(fd));
    int ends[2];
    TRY(pipe(ends));
    TRY(write(ends[1], "through the pipe", 16));
    TRY(read(ends[0], buffer, 100));
    printf("pipe '%.16s'\n", (char *)buffer);
    TRY(lseek(ends[0], 0, SEEK_SET));
    TRY(fcntl(ends[0], F_SETFL, O_NONBLOCK));
    TRY(read(ends[0], buffer, 100));
    TRY(close(ends[1]));
    TRY(read(ends[0], buffer, 100));
    TRY(close(ends[0]));

    /* the C library's streams */
    FILE *f = fopen("stream", "w+");
    for (int i = 0; i < 100; i++)
        fprintf(f, "line %d\n", i);
    fseek(f, 0, SEEK_SET);
    int lines = 0;
    char line[64];
    while (fgets(line, sizeof line, f))
        lines++;
    printf("stream lines %d at %ld last %s", lines, ftell(f), line);
    fclose(f);
    char cwd[4096];
    printf("getcwd %d\n", getcwd(cwd, sizeof cwd) != NULL && strcmp(strrchr(cwd, '/') + 1, top) == 0);

    TRY(unlink("stream"));
    TRY(unlink("sub/moved"));
    TRY(unlink("soft"));
    TRY(unlink("loop"));
    TRY(unlink("data"));
    TRY(rmdir("sub"));
    TRY(chdir(".."));
    int removed = rmdir(top);
    printf("removed %d\n", removed);
    free(buffer);
    return 0;
}
