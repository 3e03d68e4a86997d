/* System calls whose trace does not depend on the machine: run natively under strace and as a guest, the lines must be equal.
 * close(-77) marks the place where the start-up code of the C library, which differs, is over. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char buffer[4096];
static void on_signal(int number, siginfo_t *info, void *context) {}

static void files(void) {
    struct stat st;
    struct statx sx;
    int fd = openat(AT_FDCWD, "a file", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    write(fd, "hello \"world\"\n\1\0022\377\t\\\r\f\v", 23);
    write(fd, "0123456789012345678901234567890123456789", 40);
    write(fd, "01234567890123456789012345678901", 32);
    write(fd, "", 0);
    write(fd, (void *)8, 4);
    lseek(fd, 0, SEEK_SET), lseek(fd, -1, SEEK_SET), lseek(fd, 2, 77);
    read(fd, buffer, 10), read(fd, (void *)8, 10), read(99, buffer, 10);
    pread(fd, buffer, 100, 2), pwrite(fd, "xy", 2, 5);
    struct iovec out[2] = {{"ab", 2}, {"cdefg", 5}}, in[2] = {{buffer, 3}, {buffer + 10, 4}};
    writev(fd, out, 2), writev(fd, out, 0), lseek(fd, 0, SEEK_SET), readv(fd, in, 2), preadv(fd, in, 2, 1), readv(99, in, 2);
    syscall(SYS_statx, AT_FDCWD, "missing", AT_STATX_DONT_SYNC, STATX_ALL, &sx);
    syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_MODE | STATX_SIZE, (void *)8);
    fstat(fd, &st), fstat(99, &st), fstat(fd, (void *)8);
    syscall(SYS_newfstatat, AT_FDCWD, "a file", &st, AT_SYMLINK_NOFOLLOW);
    syscall(SYS_newfstatat, AT_FDCWD, "/dev/null", &st, 0);
    ftruncate(fd, 100), fsync(fd), fchmod(fd, 04600), fallocate(fd, 0, 0, 200);
    syscall(SYS_fchmodat, AT_FDCWD, "a file", 0640), fchown(fd, -1, -1);
    syscall(SYS_faccessat, AT_FDCWD, "a file", R_OK | W_OK), syscall(SYS_faccessat, 99, "x", F_OK);
    syscall(SYS_faccessat2, AT_FDCWD, "a file", X_OK, AT_EACCESS);
    fcntl(fd, F_GETFD), fcntl(fd, F_SETFD, 0), fcntl(fd, F_GETFD), fcntl(fd, F_SETFD, FD_CLOEXEC), fcntl(fd, F_GETFL);
    fcntl(fd, F_SETFL, O_NONBLOCK | O_APPEND), fcntl(fd, F_GETFL), fcntl(fd, 7777, 1);
    close(fcntl(fd, F_DUPFD_CLOEXEC, 20)), close(99), dup3(fd, 30, O_CLOEXEC), close(30), dup(99);
    struct flock lock = {F_WRLCK, SEEK_SET, 0, 10};
    fcntl(fd, F_SETLK, &lock), lock.l_type = F_RDLCK, fcntl(fd, F_GETLK, &lock), flock(fd, LOCK_EX | LOCK_NB);
    struct timespec times[2] = {{1000, 5}, {0, UTIME_NOW}};
    utimensat(AT_FDCWD, "a file", times, 0), times[0].tv_nsec = UTIME_OMIT, futimens(fd, times);
    utimensat(AT_FDCWD, "a file", NULL, AT_SYMLINK_NOFOLLOW);
    mkdirat(AT_FDCWD, "dir", 0755), mkdirat(AT_FDCWD, "dir", 0), symlinkat("target", AT_FDCWD, "dir/link");
    readlinkat(AT_FDCWD, "dir/link", buffer, 100), readlinkat(AT_FDCWD, "dir", buffer, 100);
    syscall(SYS_renameat2, AT_FDCWD, "dir/link", AT_FDCWD, "dir/other", RENAME_NOREPLACE);
    linkat(AT_FDCWD, "a file", AT_FDCWD, "dir/hard", 0), mknodat(AT_FDCWD, "dir/fifo", S_IFIFO | 0600, 0);
    int dir = openat(AT_FDCWD, "dir", O_RDONLY | O_DIRECTORY);
    syscall(SYS_getdents64, dir, buffer, 4096), syscall(SYS_getdents64, dir, buffer, 4096), syscall(SYS_getdents64, fd, buffer, 9);
    fchdir(99), close(dir);
    unlinkat(AT_FDCWD, "dir/other", 0), unlinkat(AT_FDCWD, "dir/hard", 0), unlinkat(AT_FDCWD, "dir/fifo", 0);
    unlinkat(AT_FDCWD, "dir", AT_REMOVEDIR), unlinkat(AT_FDCWD, "a file", 0), unlinkat(AT_FDCWD, "a file", 0);
    openat(AT_FDCWD, "missing", O_RDONLY | O_NOFOLLOW), openat(AT_FDCWD, (char *)8, O_WRONLY), openat(99, NULL, O_RDONLY);
    openat(AT_FDCWD, "01234567890123456789012345678901234567890123456789", O_RDONLY | O_PATH);
    openat(AT_FDCWD, ".", O_RDWR | O_TMPFILE | O_EXCL, 0600), close(4);
    umask(027), umask(022), syscall(SYS_getcwd, buffer, 1), close(fd);
}

static void waiting(void) {
    struct timespec none = {0, 0}, some = {0, 1000};
    int ends[2];
    pipe2(ends, O_CLOEXEC | O_NONBLOCK), pipe2((void *)8, 0), read(ends[0], buffer, 10);
    struct pollfd files[2] = {{ends[0], POLLIN | POLLPRI}, {ends[1], POLLOUT}};
    syscall(SYS_ppoll, files, 1, &none, NULL, 8), write(ends[1], "z", 1), syscall(SYS_ppoll, files, 2, NULL, NULL, 8);
    files[0].fd = -1, syscall(SYS_ppoll, files, 1, &none, NULL, 8), syscall(SYS_ppoll, NULL, 0, &none, NULL, 8);
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    syscall(SYS_pselect6, ends[0] + 1, &set, NULL, NULL, &none, NULL);
    read(ends[0], buffer, 10), syscall(SYS_pselect6, ends[0] + 1, &set, NULL, NULL, &none, NULL);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {EPOLLIN | EPOLLET, {.u64 = 0x1234567890}}, events[4];
    epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event), epoll_ctl(epoll, 9, ends[0], &event);
    syscall(SYS_epoll_pwait, epoll, events, 4, 0, NULL, 8), write(ends[1], "z", 1);
    syscall(SYS_epoll_pwait, epoll, events, 4, 100, NULL, 8), epoll_ctl(epoll, EPOLL_CTL_DEL, ends[0], NULL);
    int counter = eventfd(3, EFD_CLOEXEC | EFD_NONBLOCK), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    read(counter, buffer, 8);
    struct itimerspec when = {{0, 0}, {10, 500}};
    timerfd_settime(timer, 0, &when, NULL), timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, &when);
    struct itimerval alarm = {{0, 0}, {100, 0}};
    setitimer(ITIMER_REAL, &alarm, NULL), alarm.it_value.tv_sec = 0, setitimer(ITIMER_REAL, &alarm, NULL);
    getitimer(ITIMER_REAL, &alarm);
    int word = 7;
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1), syscall(SYS_futex, &word, FUTEX_WAIT, 8, NULL);
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 7, &some);
    syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 8, NULL, NULL, FUTEX_BITSET_MATCH_ANY);
    syscall(SYS_futex, &word, FUTEX_CMP_REQUEUE_PRIVATE, 1, 2, &event, 7), syscall(SYS_futex, &word, FUTEX_WAKE_BITSET, 1, 0, 0, 5);
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now), syscall(SYS_clock_gettime, 77, &now);
    syscall(SYS_clock_getres, CLOCK_REALTIME, NULL), syscall(SYS_nanosleep, &some, NULL);
    syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &some, NULL), some.tv_nsec = -1, syscall(SYS_nanosleep, &some, &now);
    close(ends[0]), close(ends[1]), close(epoll), close(counter), close(timer);
}

static void signals(void) {
    sigset_t set, old;
    sigemptyset(&set), sigaddset(&set, SIGINT), sigaddset(&set, SIGCHLD), sigaddset(&set, SIGRTMIN + 2);
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, NULL, 8), syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &old, 8);
    sigfillset(&set), syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &set, &old, 8), sigdelset(&set, SIGTERM);
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, &old, 8), sigemptyset(&set);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &set, NULL, 8), syscall(SYS_rt_sigprocmask, 77, &set, NULL, 8);
    struct sigaction action = {0}, before;
    action.sa_sigaction = on_signal, action.sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER, sigaddset(&action.sa_mask, SIGUSR2);
    sigaction(SIGUSR1, &action, NULL), sigaction(SIGUSR1, NULL, &before);
    signal(SIGPIPE, SIG_IGN), sigaction(SIGPIPE, NULL, &before), syscall(SYS_rt_sigaction, 65, NULL, NULL, 8);
    syscall(SYS_rt_sigpending, &old, 8), sigaltstack(NULL, &(stack_t){0});
    kill(getpid(), SIGUSR1), syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1), kill(getpid(), 0), kill(getpid(), SIGWINCH);
    sigaddset(&set, SIGUSR2), syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, NULL, 8), kill(getpid(), SIGUSR2);
    siginfo_t info;
    struct timespec none = {0, 0};
    syscall(SYS_rt_sigtimedwait, &set, &info, &none, 8), syscall(SYS_rt_sigtimedwait, &set, &info, &none, 8);
    union sigval value = {.sival_int = 42};
    sigqueue(getpid(), SIGUSR1, value);
}

static void memory(void) {
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(pages, 4096, PROT_READ | PROT_EXEC), mprotect(pages, 4096, PROT_NONE), madvise(pages, 8192, MADV_DONTNEED);
    munmap(pages, 8192), msync(pages, 4096, MS_SYNC | MS_INVALIDATE), munmap((void *)1, 1), mprotect(NULL, 0, PROT_READ);
    close(memfd_create("memory", MFD_CLOEXEC)), syscall(SYS_mlockall, MCL_CURRENT | MCL_ONFAULT);
    int fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL), fcntl(fd, F_GET_SEALS), ftruncate(fd, 8192);
    pages = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 4096), munmap(pages, 4096), close(fd);
}

static void identity(void) {
    struct rlimit limit = {100, RLIM_INFINITY};
    syscall(SYS_prlimit64, 0, RLIMIT_CORE, &limit, NULL), syscall(SYS_prlimit64, 0, RLIMIT_CORE, NULL, &limit);
    syscall(SYS_prlimit64, 0, 77, NULL, &limit), syscall(SYS_getpriority, PRIO_PROCESS, 0);
    prctl(PR_SET_NAME, "tracee"), prctl(PR_GET_NAME, buffer), prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM), sched_yield(), getpgid(99999999), getrandom(NULL, 0, GRND_NONBLOCK);
    struct timeval now;
    syscall(SYS_gettimeofday, &now, NULL), syscall(1000, 1, 2, 3, 4, 5, 0xfffffffffffff);
}

static void sockets(void) {
    int pair[2], other[2], one = 1;
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), socketpair(77, 9, 0, other);
    send(pair[0], "message", 7, MSG_NOSIGNAL), recv(pair[1], buffer, 100, MSG_DONTWAIT | MSG_PEEK);
    recv(pair[1], buffer, 100, MSG_DONTWAIT), recv(pair[1], buffer, 100, MSG_DONTWAIT);
    struct iovec part = {"data", 4};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    sendmsg(pair[0], &message, 0), part.iov_base = buffer, part.iov_len = 50, recvmsg(pair[1], &message, MSG_DONTWAIT);
    ioctl(pair[0], FIONREAD, &one), one = 1, ioctl(pair[0], FIONBIO, &one), ioctl(pair[0], FIOCLEX), ioctl(pair[0], TCGETS, buffer);
    ioctl(pair[0], 0x1234, buffer), shutdown(pair[0], SHUT_RDWR), getsockopt(pair[0], SOL_SOCKET, SO_TYPE, &one, &(socklen_t){4});
    struct sockaddr_un path = {AF_UNIX, "nosuch.sock"};
    int unix_one = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    connect(unix_one, (void *)&path, sizeof path), connect(unix_one, (void *)&path, 2), bind(99, (void *)&path, 14);
    socklen_t length = 100;
    getpeername(unix_one, (void *)&path, &length), accept4(unix_one, NULL, NULL, SOCK_CLOEXEC);
    ioctl(pair[0], FIONBIO, (void *)8), close(pair[0]), close(pair[1]), close(unix_one);
}

static void children(char *self) {
    char *arguments[] = {self, "child", "with \"words\"", NULL}, *none[] = {NULL};
    struct rusage usage;
    siginfo_t info;
    int status;
    pid_t child = fork();
    if (!child) {
        execve("/nonexistent", arguments, none), execve("./nothing", NULL, NULL);
        execve(self, arguments, none);
        _exit(1);
    }
    wait4(child, &status, 0, &usage);
    child = fork();
    if (!child) {
        usleep(50000);
        raise(SIGTERM);
    }
    waitid(P_PID, child, &info, WEXITED);
    waitid(P_ALL, 0, &info, WEXITED | WNOHANG), wait4(-1, NULL, WNOHANG | __WALL, NULL);
}

int main(int argc, char **argv) {
    close(-77);
    if (argc > 1) {
        usleep(50000);
        return 3;
    }
    files(), waiting(), signals(), memory(), identity(), sockets();
    children(argv[0]);
    *(volatile int *)16 = 1;
}
