#include "abi.h"
#include <sys/time.h>
#include <sys/times.h>

static volatile int seen, value;
static void handler(int number, siginfo_t *info, void *context) {
    (void)context;
    seen++;
    value = info->si_code == SI_TIMER ? info->si_value.sival_int : -info->si_code;
    (void)number;
}
static void burn(int until) {
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while (seen < until && now.tv_sec - begin.tv_sec < 10);
}

int main(void) {
    struct sigaction a = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGVTALRM, &a, 0);
    sigaction(SIGPROF, &a, 0);
    sigaction(SIGALRM, &a, 0);
    sigaction(SIGRTMIN, &a, 0);
    struct itimerval soon = {{0, 0}, {0, 20000}}, old, bad = {{0, 0}, {0, 1000000}};
    T(setitimer(ITIMER_VIRTUAL, &soon, 0));
    burn(1);
    SHOW("%d", seen);
    T(setitimer(ITIMER_PROF, &soon, 0));
    burn(2);
    SHOW("%d", seen);
    T(setitimer(ITIMER_REAL, &soon, 0));
    T(getitimer(ITIMER_REAL, &old));
    SHOW("%d", old.it_value.tv_usec > 0 && old.it_value.tv_usec <= 20000);
    burn(3);
    T(getitimer(ITIMER_REAL, &old));
    SHOW("%ld", (long)old.it_value.tv_usec);
    T(setitimer(9, &soon, 0));
    T(getitimer(9, &old));
    T(setitimer(ITIMER_REAL, &bad, 0));

    timer_t timer;
    struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 77};
    struct itimerspec once = {{0, 0}, {0, 10000000}}, often = {{0, 2000000}, {0, 2000000}}, never = {0}, left;
    T(timer_create(CLOCK_PROCESS_CPUTIME_ID, &e, &timer));
    T(timer_settime(timer, 0, &once, 0));
    seen = 0;
    burn(1);
    SHOW("%d %d", seen, value);
    T(timer_delete(timer));
    T(timer_create(CLOCK_THREAD_CPUTIME_ID, &e, &timer));
    T(timer_settime(timer, 0, &once, 0));
    seen = 0;
    burn(1);
    SHOW("%d %d", seen, value);
    T(timer_delete(timer));
    T(timer_create(CLOCK_MONOTONIC, &e, &timer));
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, 0);
    T(timer_settime(timer, 0, &often, 0));
    struct timespec moment = {0, 100000000};
    nanosleep(&moment, 0);
    siginfo_t info;
    T(sigwaitinfo(&set, &info) == SIGRTMIN);
    SHOW("code %d value %d", info.si_code, info.si_value.sival_int);
    T(timer_getoverrun(timer) > 10);
    T(timer_settime(timer, 0, &never, 0));
    struct timespec zero = {0, 0};
    sigtimedwait(&set, 0, &zero);
    T(timer_gettime(timer, &left));
    SHOW("%ld", (long)left.it_value.tv_nsec);
    T(timer_delete(timer));
    T(timer_delete((timer_t)0x12345));
    T(timer_create(CLOCK_REALTIME_COARSE, &e, &timer));
    e.sigev_signo = 99;
    T(timer_create(CLOCK_REALTIME, &e, &timer));
    T(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &moment, 0));
    T(clock_nanosleep(CLOCK_MONOTONIC_COARSE, 0, &moment, 0));
    T(clock_nanosleep(77, 0, &moment, 0));
    moment.tv_nsec = 1000000000;
    T(clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, 0));
    T(nanosleep(&moment, 0));
    struct timespec now;
    T(clock_gettime(CLOCK_TAI, &now));
    T(clock_gettime(CLOCK_BOOTTIME, &now));
    T(clock_gettime(77, &now));
    T(clock_getres(CLOCK_MONOTONIC, &now));
    SHOW("%ld", now.tv_nsec);
    clockid_t own;
    T(clock_getcpuclockid(0, &own));
    T(clock_gettime(own, &now));
    T(alarm(100));
    T(alarm(0));
    return 0;
}
