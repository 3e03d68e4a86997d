#include "abi.h"
#include <sys/inotify.h>
#include <sys/signalfd.h>

static void changes(int watch) {
    char buffer[4096] __attribute__((aligned(8)));
    long count = read(watch, buffer, sizeof buffer);
    if (count < 0) {
        printf("  %s\n", strerrorname_np(errno));
        return;
    }
    for (long at = 0; at < count;) {
        struct inotify_event *e = (void *)(buffer + at);
        printf("  wd %d mask %x name %s\n", e->wd, e->mask, e->len ? e->name : "-");
        at += sizeof *e + e->len;
    }
}

int main(void) {
    sigset_t set, none;
    sigemptyset(&none);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &set, 0);
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    OK(fd);
    T(signalfd(-1, &set, 1));
    T(signalfd(0, &set, 0));
    T(signalfd(99, &set, 0));
    struct signalfd_siginfo info[4];
    struct pollfd p = {fd, POLLIN, 0};
    T(read(fd, info, sizeof info));
    T(poll(&p, 1, 0));
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGUSR1);
    union sigval v = {.sival_int = 42};
    sigqueue(getpid(), SIGRTMIN + 1, v);
    sigqueue(getpid(), SIGRTMIN + 1, v);
    T(poll(&p, 1, 0));
    SHOW("%x", p.revents);
    T(read(fd, info, 16));
    T(read(fd, info, sizeof info[0]));
    SHOW("%d code %d own %d", info[0].ssi_signo, info[0].ssi_code, info[0].ssi_pid == (unsigned)getpid());
    T(read(fd, info, sizeof info));
    SHOW("%d code %d value %d", info[0].ssi_signo - SIGRTMIN, info[0].ssi_code, info[0].ssi_int);
    T(poll(&p, 1, 0));
    kill(getpid(), SIGUSR1);
    struct timespec zero = {0, 0};
    T(poll(&p, 1, 0));
    T(sigtimedwait(&set, 0, &zero));
    T(poll(&p, 1, 0));
    T(signalfd(fd, &none, 0) == fd);
    kill(getpid(), SIGUSR1);
    T(poll(&p, 1, 0));
    T(signalfd(fd, &set, 0) == fd);
    T(poll(&p, 1, 0));
    T(write(fd, info, 8));
    T(lseek(fd, 0, SEEK_SET));
    T(read(fd, info, sizeof info));
    T(close(fd));

    mkdir("watched", 0700);
    int watch = inotify_init1(IN_NONBLOCK);
    OK(watch);
    T(inotify_init1(3));
    T(inotify_add_watch(watch, "watched", IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_CLOSE_WRITE));
    T(inotify_add_watch(watch, "missing", IN_CREATE));
    T(inotify_add_watch(watch, "watched", 0));
    T(inotify_add_watch(1, "watched", IN_CREATE));
    int file = open("watched/a", O_CREAT | O_WRONLY, 0600);
    write(file, "x", 1);
    close(file);
    changes(watch);
    rename("watched/a", "watched/b");
    changes(watch);
    T(inotify_add_watch(watch, "watched/b", IN_ONLYDIR | IN_CREATE));
    T(inotify_add_watch(watch, "watched/b", IN_MODIFY | IN_DELETE_SELF));
    file = open("watched/b", O_WRONLY);
    write(file, "x", 1);
    close(file);
    changes(watch);
    unlink("watched/b");
    changes(watch);
    symlink("watched", "link");
    T(inotify_add_watch(watch, "link", IN_DONT_FOLLOW | IN_ATTRIB));
    T(inotify_rm_watch(watch, 1));
    changes(watch);
    T(inotify_rm_watch(watch, 1));
    T(inotify_rm_watch(watch, 77));
    changes(watch);
    unlink("link");
    rmdir("watched");

    int self = syscall(SYS_pidfd_open, getpid(), 0);
    OK(self);
    T(fcntl(self, F_GETFD));
    T(syscall(SYS_pidfd_open, -1, 0));
    T(syscall(SYS_pidfd_open, getpid(), 1));
    T(syscall(SYS_pidfd_send_signal, self, 0, 0, 0));
    T(syscall(SYS_pidfd_send_signal, 1, 0, 0, 0));
    char place[32];
    sprintf(place, "/proc/%d", getpid());
    int directory = open(place, O_RDONLY | O_DIRECTORY);
    T(syscall(SYS_pidfd_send_signal, directory, 0, 0, 0));
    T(syscall(SYS_pidfd_send_signal, directory, 0, 0, 99));
    T(syscall(SYS_pidfd_send_signal, open("/proc", O_RDONLY | O_DIRECTORY), 0, 0, 0));
    p.fd = self;
    T(poll(&p, 1, 0));
    T(read(self, info, 8));
    return 0;
}
