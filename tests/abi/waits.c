/* What poll and select tell of the time that is left, and which descriptors select looks at. */
#include "abi.h"
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/time.h>

static struct timespec left;

/* Nothing, some of the half second, or all of it. */
static void show(const char *what, long result) {
    const char *how = left.tv_sec == 0 && left.tv_nsec == 0 ? "none"
                      : left.tv_sec == 0 && left.tv_nsec < 500000000 ? "some"
                                                                       : "all";
    SHOW("%s %ld %s: %s is left", what, result, result < 0 ? strerrorname_np(errno) : "", how);
}

static void wait_for(long nanoseconds) {
    left.tv_sec = 0;
    left.tv_nsec = nanoseconds;
}

static void handler(int number) {
    (void)number;
}

int main(void) {
    int pipes[2];
    pipe(pipes);
    unsigned long mask = 0;
    struct {
        const void *mask;
        size_t size;
    } wrong = {&mask, 4};
    struct pollfd ready = {pipes[1], POLLOUT, 0}, not_ready = {pipes[0], POLLIN, 0};
    fd_set set;

    wait_for(500000000);
    show("ppoll ready", syscall(SYS_ppoll, &ready, 1, &left, 0, 8));
    wait_for(20000000);
    show("ppoll", syscall(SYS_ppoll, &not_ready, 1, &left, 0, 8));
    wait_for(0);
    show("ppoll of no time", syscall(SYS_ppoll, &not_ready, 1, &left, 0, 8));
    wait_for(500000000);
    show("ppoll, wrong mask", syscall(SYS_ppoll, &ready, 1, &left, &mask, 4));
    wait_for(1000000000);
    show("ppoll, wrong time", syscall(SYS_ppoll, &ready, 1, &left, 0, 8));

    wait_for(500000000);
    FD_ZERO(&set);
    FD_SET(pipes[1], &set);
    show("pselect ready", syscall(SYS_pselect6, pipes[1] + 1, 0, &set, 0, &left, NULL));
    wait_for(20000000);
    FD_ZERO(&set);
    FD_SET(pipes[0], &set);
    show("pselect", syscall(SYS_pselect6, pipes[0] + 1, &set, 0, 0, &left, NULL));
    wait_for(500000000);
    show("pselect, wrong mask", syscall(SYS_pselect6, 0, 0, 0, 0, &left, &wrong));
    wait_for(500000000);
    show("pselect, count", syscall(SYS_pselect6, -1, 0, 0, 0, &left, NULL));
    wait_for(500000000);
    FD_ZERO(&set);
    FD_SET(60, &set);
    show("pselect, no such file", syscall(SYS_pselect6, 61, &set, 0, 0, &left, NULL));

    /* Beyond the table, nothing is looked at. */
    wait_for(20000000);
    FD_ZERO(&set);
    FD_SET(1000, &set);
    show("pselect, far", syscall(SYS_pselect6, 1001, &set, 0, 0, &left, NULL));
    wait_for(0);
    show("pselect, farther", syscall(SYS_pselect6, 1 << 30, 0, 0, 0, &left, NULL));

    /* A place that cannot be written changes nothing. */
    struct timespec *fixed = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fixed->tv_nsec = 20000000;
    mprotect(fixed, 4096, PROT_READ);
    T(syscall(SYS_ppoll, &ready, 1, fixed, 0, 8));
    T(syscall(SYS_pselect6, 0, 0, 0, 0, fixed, NULL));

    /* A handler ends both, and the time that had passed is not waited for again. */
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, 0);
    struct itimerval soon = {{0, 0}, {0, 50000}};
    wait_for(499999999);
    setitimer(ITIMER_REAL, &soon, 0);
    show("ppoll, handler", syscall(SYS_ppoll, &not_ready, 1, &left, 0, 8));
    wait_for(499999999);
    setitimer(ITIMER_REAL, &soon, 0);
    show("pselect, handler", syscall(SYS_pselect6, 0, 0, 0, 0, &left, NULL));
    fixed = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fixed->tv_nsec = 400000000;
    mprotect(fixed, 4096, PROT_READ);
    setitimer(ITIMER_REAL, &soon, 0);
    T(syscall(SYS_ppoll, &not_ready, 1, fixed, 0, 8));
}
