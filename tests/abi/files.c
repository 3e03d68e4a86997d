#include "abi.h"
#include <sys/ioctl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <linux/openat2.h>

static void text(const char *what, const void *data, long size) {
    printf("  %s ", what);
    for (long i = 0; i < size; i++)
        printf("%c", ((const char *)data)[i] ? ((const char *)data)[i] : '.');
    printf("\n");
}

static long at2(int dfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve) {
    struct open_how how = {flags, mode, resolve};
    return syscall(SYS_openat2, dfd, path, &how, sizeof how);
}

int main(void) {
    umask(022);
    char buffer[4096];
    int file = open("file", O_CREAT | O_RDWR | O_EXCL, 0666);
    T(open("file", O_CREAT | O_RDWR | O_EXCL, 0666));
    struct stat st;
    fstat(file, &st);
    SHOW("%o %ld", st.st_mode, (long)st.st_size);
    T(write(file, "0123456789", 10));
    T(fallocate(file, 0, 0, 8192));
    T(fallocate(file, FALLOC_FL_KEEP_SIZE, 8192, 4096));
    T(fallocate(file, FALLOC_FL_PUNCH_HOLE, 0, 4));
    T(fallocate(file, 0x1000, 0, 4));
    T(fallocate(file, 0, -1, 4));
    T(fallocate(file, 0, 0, 0));
    fstat(file, &st);
    SHOW("%ld", (long)st.st_size);
    T(ftruncate(file, 10));
    T(ftruncate(file, -1));
    T(posix_fadvise(file, 0, 0, POSIX_FADV_WILLNEED));
    T(posix_fadvise(file, 0, 0, 99));
    T(readahead(file, 0, 100));
    T(sync_file_range(file, 0, 10, SYNC_FILE_RANGE_WRITE));
    T(sync_file_range(file, 0, 10, 99));

    int pipes[2], more[2];
    pipe(pipes);
    pipe(more);
    T(fcntl(pipes[0], F_GETFL));
    loff_t at = 2;
    T(splice(file, &at, pipes[1], 0, 5, 0));
    SHOW("%ld", (long)at);
    T(tee(pipes[0], more[1], 3, 0));
    T(read(more[0], buffer, 64));
    text("teed", buffer, 3);
    T(splice(pipes[0], 0, file, 0, 64, 0));
    T(lseek(file, 0, SEEK_CUR));
    T(splice(pipes[0], 0, file, 0, 64, SPLICE_F_NONBLOCK));
    T(splice(file, 0, file, 0, 64, 0));
    T(splice(pipes[0], &at, file, 0, 64, 0));
    T(splice(pipes[0], 0, file, 0, 64, 0x100));
    T(tee(file, pipes[1], 3, 0));
    struct iovec v[2] = {{"abc", 3}, {"defg", 4}};
    T(vmsplice(pipes[1], v, 2, 0));
    T(read(pipes[0], buffer, 64));
    text("spliced", buffer, 7);
    T(pread(file, buffer, 64, 0));
    text("file", buffer, 15);
    off_t from = 3;
    T(sendfile(pipes[1], file, &from, 4));
    SHOW("%ld", (long)from);
    T(read(pipes[0], buffer, 64));
    T(sendfile(file, pipes[0], 0, 4));
    T(sendfile(pipes[0], file, 0, 4));
    int out = open("out", O_CREAT | O_RDWR, 0600);
    T(lseek(file, 0, SEEK_SET));
    T(sendfile(out, file, 0, 100));
    T(lseek(file, 0, SEEK_CUR));
    at = 1;
    loff_t to = 20;
    T(copy_file_range(file, &at, out, &to, 5, 0));
    SHOW("%ld %ld", (long)at, (long)to);
    T(copy_file_range(file, &at, out, &to, 5, 1));
    T(copy_file_range(file, &at, pipes[1], 0, 5, 0));
    T(pread(out, buffer, 64, 0));
    text("out", buffer, 25);

    v[0] = (struct iovec){buffer, 3};
    v[1] = (struct iovec){buffer + 3, 4};
    T(preadv2(file, v, 2, 1, 0));
    T(preadv2(file, v, 2, -1, 0));
    T(preadv2(file, v, 2, 1, 0x1000));
    T(pwritev2(file, v, 2, 1, RWF_DSYNC));
    T(pwritev2(file, v, 2, 1, RWF_APPEND));
    T(lseek(file, 0, SEEK_END));
    T(lseek(file, -1, SEEK_SET));
    T(lseek(file, 0, 99));
    T(lseek(pipes[0], 0, SEEK_CUR));
    T(pread(pipes[0], buffer, 1, 0));
    T(read(pipes[1], buffer, 1));
    T(write(pipes[0], buffer, 1));

    T(setxattr("file", "user.name", "value", 5, 0));
    T(setxattr("file", "user.name", "value", 5, XATTR_CREATE));
    T(setxattr("file", "user.other", "value", 5, XATTR_REPLACE));
    T(getxattr("file", "user.name", buffer, 64));
    T(getxattr("file", "user.name", buffer, 2));
    T(getxattr("file", "user.name", 0, 0));
    T(fgetxattr(file, "user.none", buffer, 64));
    T(fsetxattr(file, "user.b", "", 0, 0));
    T(listxattr("file", buffer, 64) > 0);
    T(fremovexattr(file, "user.b"));
    T(removexattr("file", "user.b"));
    T(getxattr("file", "bad", buffer, 64));
    T(getxattr("none", "user.name", buffer, 64));
    symlink("file", "link");
    T(lgetxattr("link", "user.name", buffer, 64));
    T(getxattr("link", "user.name", buffer, 64));

    T(flock(file, LOCK_EX));
    int again = open("file", O_RDWR);
    T(flock(again, LOCK_EX | LOCK_NB));
    T(flock(file, LOCK_UN));
    T(flock(again, LOCK_SH | LOCK_NB));
    T(flock(again, 99));
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10};
    T(fcntl(file, F_SETLK, &lock));
    T(fcntl(again, F_SETLK, &lock));
    if (!fork()) {
        T(fcntl(again, F_SETLK, &lock));
        T(fcntl(again, F_GETLK, &lock));
        SHOW("%d %d %ld %ld", lock.l_type, lock.l_pid == getppid(), (long)lock.l_start, (long)lock.l_len);
        exit(0);
    }
    wait(0);
    close(dup(file));
    if (!fork()) {
        T(fcntl(again, F_SETLK, &lock));
        exit(0);
    }
    wait(0);
    lock.l_pid = 0;
    T(fcntl(file, F_OFD_SETLK, &lock));
    T(fcntl(again, F_OFD_SETLK, &lock));
    T(fcntl(again, F_OFD_GETLK, &lock));
    SHOW("%d %d", lock.l_type, lock.l_pid);
    lock.l_type = 77;
    T(fcntl(file, F_SETLK, &lock));
    T(fcntl(file, F_SETFL, O_APPEND | O_NONBLOCK));
    SHOW("%x", fcntl(file, F_GETFL) & ~0x8000);
    T(fcntl(file, F_DUPFD_CLOEXEC, 100));
    T(fcntl(100, F_GETFD));
    T(fcntl(file, F_DUPFD, -1));
    T(fcntl(file, F_DUPFD, 100000000));
    T(fcntl(file, F_GETLEASE));
    T(fcntl(file, F_GETOWN));
    T(fcntl(file, F_SETOWN, getpid()));
    T(fcntl(file, F_GETOWN) == getpid());
    T(fcntl(file, F_GETSIG));
    T(fcntl(file, 9999));
    T(fcntl(pipes[0], F_GETPIPE_SZ));
    T(fcntl(pipes[0], F_SETPIPE_SZ, 8192));
    T(dup2(file, 150));
    T(dup3(file, file, 0));
    T(dup3(file, 151, 1));
    T(dup2(999, 5));
    T(dup2(file, 100000000));
    T(syscall(SYS_close_range, 100, 160, 0));
    T(fcntl(100, F_GETFD));
    T(syscall(SYS_close_range, 160, 100, 0));
    T(syscall(SYS_close_range, 160, 170, 9));

    int memory = memfd_create("name", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    T(fcntl(memory, F_GET_SEALS));
    T(ftruncate(memory, 4096));
    T(fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
    T(ftruncate(memory, 8192));
    T(ftruncate(memory, 100));
    T(fcntl(memory, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL));
    T(write(memory, "x", 1));
    T(fcntl(memory, F_ADD_SEALS, F_SEAL_WRITE));
    T(fcntl(memory, F_GET_SEALS));
    T(fcntl(file, F_GET_SEALS));
    T(memfd_create("x", 0x8000));
    T(fcntl(memfd_create("x", 0), F_GET_SEALS));

    int value = 0;
    T(ioctl(pipes[0], FIONREAD, &value));
    T(write(pipes[1], "12345", 5));
    T(ioctl(pipes[0], FIONREAD, &value));
    SHOW("%d", value);
    T(ioctl(file, FIONREAD, &value));
    T(ioctl(file, TCGETS, buffer));
    T(ioctl(file, TIOCGWINSZ, buffer));
    T(ioctl(file, TIOCGPGRP, buffer));
    T(ioctl(file, 0x12345678, buffer));
    T(ioctl(file, FIOCLEX));
    T(fcntl(file, F_GETFD));
    T(ioctl(file, FIONCLEX));
    T(fcntl(file, F_GETFD));
    value = 1;
    T(ioctl(pipes[0], FIONBIO, &value));
    T(fcntl(pipes[0], F_GETFL));

    mkdir("dir", 0755);
    mkdir("dir/sub", 0755);
    close(open("dir/sub/leaf", O_CREAT | O_WRONLY, 0644));
    symlink("sub/leaf", "dir/short");
    symlink("../file", "dir/up");
    symlink("/sub/leaf", "dir/absolute");
    int dir = open("dir", O_RDONLY | O_DIRECTORY);
    OK(at2(dir, "sub/leaf", O_RDONLY, 0, 0));
    OK(at2(dir, "sub/leaf", O_RDONLY, 0, RESOLVE_BENEATH));
    OK(at2(dir, "short", O_RDONLY, 0, RESOLVE_BENEATH));
    OK(at2(dir, "sub/../sub/leaf", O_RDONLY, 0, RESOLVE_BENEATH));
    OK(at2(dir, "up", O_RDONLY, 0, RESOLVE_BENEATH));
    OK(at2(dir, "../file", O_RDONLY, 0, RESOLVE_BENEATH));
    OK(at2(dir, "absolute", O_RDONLY, 0, RESOLVE_BENEATH));
    OK(at2(dir, "absolute", O_RDONLY, 0, RESOLVE_IN_ROOT));
    OK(at2(dir, "/sub/leaf", O_RDONLY, 0, RESOLVE_IN_ROOT));
    OK(at2(dir, "../../sub/leaf", O_RDONLY, 0, RESOLVE_IN_ROOT));
    OK(at2(dir, "/sub/leaf", O_RDONLY, 0, RESOLVE_BENEATH));
    OK(at2(dir, "short", O_RDONLY, 0, RESOLVE_NO_SYMLINKS));
    OK(at2(dir, "sub/leaf", O_RDONLY, 0, RESOLVE_NO_SYMLINKS));
    OK(at2(dir, "short", O_RDONLY | O_PATH | O_NOFOLLOW, 0, RESOLVE_NO_SYMLINKS));
    OK(at2(dir, "sub/leaf", O_RDONLY, 0, RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS));
    OK(at2(dir, "/proc/self/cwd/file", O_RDONLY, 0, RESOLVE_NO_MAGICLINKS));
    OK(at2(dir, "sub/new", O_CREAT | O_RDWR, 0600, RESOLVE_BENEATH));
    OK(at2(dir, "../new", O_CREAT | O_RDWR, 0600, RESOLVE_BENEATH));
    OK(at2(dir, "sub/new", O_RDWR, 0600, 0));
    OK(at2(dir, "sub/new", O_RDWR, 0, 0x1000));
    OK(at2(dir, "sub/new", O_RDWR | (1ul << 40), 0, 0));
    OK(at2(dir, "sub/none", O_RDWR, 0, RESOLVE_BENEATH));
    OK(at2(dir, "sub/leaf/x", O_RDWR, 0, RESOLVE_IN_ROOT));
    uint64_t long_how[5] = {O_RDONLY, 0, 0, 0, 1};
    T(syscall(SYS_openat2, dir, "sub", long_how, 40));
    long_how[4] = 0;
    OK(syscall(SYS_openat2, dir, "sub", long_how, 40));
    T(syscall(SYS_openat2, dir, "sub", long_how, 16));

    struct statx x;
    T(statx(AT_FDCWD, "file", 0, STATX_BASIC_STATS | STATX_BTIME, &x));
    SHOW("%o %lu %d %d", x.stx_mode, (unsigned long)x.stx_size, x.stx_nlink, (x.stx_mask & STATX_BTIME) != 0);
    T(statx(AT_FDCWD, "link", AT_SYMLINK_NOFOLLOW, STATX_TYPE, &x));
    SHOW("%o", x.stx_mode);
    T(statx(file, "", AT_EMPTY_PATH, STATX_ALL, &x));
    T(statx(file, "", 0, STATX_ALL, &x));
    T(statx(AT_FDCWD, "none", 0, STATX_ALL, &x));
    T(statx(AT_FDCWD, "file/", 0, STATX_ALL, &x));
    T(statx(AT_FDCWD, "file", 0x80000, STATX_ALL, &x));
    T(statx(AT_FDCWD, "file", 0, 0x80000000, &x));
    struct statfs fs;
    T(statfs(".", &fs));
    SHOW("%d", fs.f_bsize > 0 && fs.f_type != 0);
    T(fstatfs(memory, &fs));
    SHOW("%lx", (long)fs.f_type);
    T(statfs("/proc", &fs));
    SHOW("%lx", (long)fs.f_type);

    T(syscall(SYS_renameat2, AT_FDCWD, "file", AT_FDCWD, "out", RENAME_NOREPLACE));
    T(syscall(SYS_renameat2, AT_FDCWD, "file", AT_FDCWD, "dir", RENAME_EXCHANGE));
    T(stat("file/sub", &st));
    T(syscall(SYS_renameat2, AT_FDCWD, "file", AT_FDCWD, "dir", RENAME_EXCHANGE));
    T(syscall(SYS_renameat2, AT_FDCWD, "file", AT_FDCWD, "dir", 3));
    T(syscall(SYS_renameat2, AT_FDCWD, "file", AT_FDCWD, "new", RENAME_NOREPLACE));
    T(rename("new", "file"));
    T(syscall(SYS_fchmodat2, AT_FDCWD, "file", 0640, 0));
    T(syscall(SYS_fchmodat2, AT_FDCWD, "link", 0640, AT_SYMLINK_NOFOLLOW));
    T(syscall(SYS_fchmodat2, AT_FDCWD, "file", 0640, 0x80000));
    T(fchmod(open("file", O_PATH), 0600));
    T(syscall(SYS_fchmodat2, open("file", O_PATH), "", 0604, AT_EMPTY_PATH));
    stat("file", &st);
    SHOW("%o", st.st_mode);
    T(faccessat(AT_FDCWD, "file", R_OK | W_OK, AT_EACCESS));
    T(faccessat(AT_FDCWD, "file", X_OK, 0));
    T(faccessat(AT_FDCWD, "file", 9, 0));
    T(faccessat(AT_FDCWD, "none", F_OK, 0));
    T(syscall(SYS_faccessat2, file, "", R_OK, AT_EMPTY_PATH));
    T(access("link", R_OK));
    T(faccessat(AT_FDCWD, "link", F_OK, AT_SYMLINK_NOFOLLOW));
    T(unlinkat(AT_FDCWD, "file", 0x10));
    T(unlinkat(AT_FDCWD, "file", AT_REMOVEDIR));
    T(unlink("dir"));
    T(rmdir("dir"));
    T(link("file", "hard"));
    T(linkat(AT_FDCWD, "link", AT_FDCWD, "soft", 0));
    T(linkat(AT_FDCWD, "link", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW));
    stat("file", &st);
    SHOW("%d", (int)st.st_nlink);
    int hidden = open(".", O_TMPFILE | O_RDWR, 0600);
    sprintf(buffer, "/proc/self/fd/%d", hidden);
    T(linkat(AT_FDCWD, buffer, AT_FDCWD, "visible", AT_SYMLINK_FOLLOW));
    T(access("visible", F_OK));
    T(mkfifo("fifo", 0666));
    stat("fifo", &st);
    SHOW("%o", st.st_mode);
    T(open("fifo", O_WRONLY | O_NONBLOCK));
    int both = open("fifo", O_RDWR);
    T(write(both, "abc", 3));
    T(read(both, buffer, 10));
    struct timespec times[2] = {{1000000000, 123456789}, {0, UTIME_OMIT}};
    T(utimensat(AT_FDCWD, "file", times, 0));
    stat("file", &st);
    SHOW("%ld %ld", (long)st.st_atim.tv_sec, st.st_atim.tv_nsec);
    times[0].tv_nsec = 1000000000;
    T(utimensat(AT_FDCWD, "file", times, 0));
    T(utimensat(AT_FDCWD, "none", 0, 0));
    T(umask(077));
    T(mkdir("private", 0777));
    stat("private", &st);
    SHOW("%o", st.st_mode);
    T(mkdir("private", 0777));
    T(open("dir", O_WRONLY));
    T(open("file/x", O_RDONLY));
    T(open("", O_RDONLY));
    T(open("link", O_RDONLY | O_NOFOLLOW));
    T(open("file", O_RDONLY | O_DIRECTORY));
    T(read(dir, buffer, 10));
    T(readlink("link", buffer, 64));
    T(readlink("link", buffer, 2));
    T(readlink("file", buffer, 64));
    T(readlink("link", buffer, 0));
    T(chdir("file"));
    T(chdir("none"));
    T(fchdir(file));
    T(fchdir(dir));
    T(access("sub/leaf", F_OK));
    chdir("..");
    T(truncate("file", 3));
    T(truncate("dir", 3));
    T(truncate("none", 3));
    const char *gone[] = {"dir/sub/leaf", "dir/sub/new", "dir/short", "dir/up", "dir/absolute", "file", "out", "link",
                          "hard", "soft", "followed", "visible", "fifo"};
    for (unsigned i = 0; i < sizeof gone / sizeof *gone; i++)
        unlink(gone[i]);
    rmdir("dir/sub");
    rmdir("dir");
    rmdir("private");
    return 0;
}
