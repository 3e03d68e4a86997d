/* clone and clone3: what they refuse, and what the child begins with. */
#include "abi.h"
#include <sched.h>
#include <linux/sched.h>

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif
struct arguments {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};
static long clone_with(uint64_t flags, uint64_t exit_signal, size_t size) {
    struct arguments arguments = {.flags = flags, .exit_signal = exit_signal};
    return syscall(SYS_clone3, &arguments, size);
}
static void handler(int number) { (void)number; }
static int disposition(int number) {
    struct sigaction action;
    sigaction(number, 0, &action);
    return action.sa_handler == SIG_DFL ? 1 : action.sa_handler == SIG_IGN ? 2 : 3;
}
static int status_of(long pid) {
    int status = -1;
    waitpid(pid, &status, __WALL);
    return status;
}

int main(void) {
    signal(SIGUSR1, handler);
    signal(SIGUSR2, SIG_IGN);
    T(clone_with(0, SIGCHLD, 63));
    T(clone_with(0, SIGCHLD, 5000));
    T(clone_with(SIGCHLD, 0, 88));
    T(clone_with(0, 65, 88));
    T(clone_with(CLONE_THREAD, 0, 88));
    T(clone_with(CLONE_SIGHAND, SIGCHLD, 88));
    T(clone_with(CLONE_CLEAR_SIGHAND | CLONE_SIGHAND | CLONE_VM, SIGCHLD, 88));
    T(syscall(SYS_clone3, (void *)8, 88));
    for (int how = 0; how < 3; how++) {
        uint64_t flags = how ? CLONE_CLEAR_SIGHAND : 0;
        if (how == 2) flags |= CLONE_VFORK;
        long pid = clone_with(flags, SIGCHLD, 88);
        if (!pid) _exit(disposition(SIGUSR1) * 10 + disposition(SIGUSR2));
        SHOW("%d %d %d", status_of(pid) >> 8, disposition(SIGUSR1), disposition(SIGUSR2));
    }
    /* A child whose end sends nothing is waited for by those who ask for such. */
    long pid = clone_with(0, 0, 88);
    if (!pid) _exit(7);
    SHOW("%d", status_of(pid) >> 8);
    int fd = -1;
    struct arguments arguments = {.flags = CLONE_PIDFD, .pidfd = (uintptr_t)&fd, .exit_signal = SIGCHLD};
    pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (!pid) _exit(9);
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    T(poll(&ready, 1, 10000));
    SHOW("%d", status_of(pid) >> 8);
    return 0;
}
