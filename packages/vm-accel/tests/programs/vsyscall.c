/* The calls of a page that old C libraries have at a fixed address, whether the host still has it or not. */
#define _GNU_SOURCE
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#define PAGE 0xffffffffff600000

static sigjmp_buf back;

static void handler(int number, siginfo_t *info, void *context) {
    printf("signal %d code %d\n", number, info->si_code);
    siglongjmp(back, 1);
}

#define TRY(what, ...)                                                                                                 \
    do {                                                                                                               \
        printf("%s: ", what);                                                                                          \
        if (!sigsetjmp(back, 1)) {                                                                                     \
            __VA_ARGS__;                                                                                               \
            printf("returned\n");                                                                                      \
        }                                                                                                              \
    } while (0)

int main(void) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    int (*now_of)(struct timeval *, struct timezone *) = (void *)PAGE;
    time_t (*time_of)(time_t *) = (void *)(PAGE + 0x400);
    int (*cpu_of)(unsigned *, unsigned *, void *) = (void *)(PAGE + 0x800);
    struct timeval now = {0};
    time_t before = time(0), stored = 0, seconds;
    unsigned cpu = ~0u, node = ~0u;

    sigaction(SIGSEGV, &action, 0);
    printf("gettimeofday %d", now_of(&now, 0));
    printf(" %d\n", now.tv_sec >= before && now.tv_sec < before + 60);
    seconds = time_of(&stored);
    printf("time %d %d\n", seconds == stored, seconds >= before && seconds < before + 60);
    printf("getcpu %d", cpu_of(&cpu, &node, 0));
    printf(" %d %d\n", cpu < 65536, node < 65536);
    TRY("bad pointer", now_of((void *)8, 0));
    TRY("another function", ((void (*)(void))(PAGE + 0xc00))());
    TRY("inside", ((void (*)(void))(PAGE + 0x10))());
    TRY("read", stored = *(volatile char *)PAGE);
    return 0;
}
