/* Clocks and sleeping: only facts that hold in every run are printed. Size: readings. */
#include "guest.h"
#include <errno.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/times.h>
#include <time.h>
#include <unistd.h>

static int64_t now(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t) != 0)
        return -1;
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 100);
    static const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID,
                                       CLOCK_BOOTTIME};
    for (size_t k = 0; k < sizeof clocks / sizeof *clocks; k++) {
        int64_t before = now(clocks[k]);
        int steady = before >= 0;
        for (unsigned long i = 0; i < n; i++) {
            int64_t t = now(clocks[k]);
            steady &= clocks[k] == CLOCK_REALTIME || t >= before;
            before = t;
        }
        struct timespec resolution;
        printf("clock %zu steady %d resolution %d\n", k, steady,
               clock_getres(clocks[k], &resolution) == 0 && resolution.tv_sec == 0 && resolution.tv_nsec > 0);
    }
    struct timespec bad;
    errno = 0;
    int refused = clock_gettime((clockid_t)9999, &bad);
    printf("bad clock %d errno %d\n", refused, errno == EINVAL);

    int64_t start = now(CLOCK_MONOTONIC);
    struct timespec nap = {0, 3000000};
    int slept = nanosleep(&nap, NULL);
    int64_t took = now(CLOCK_MONOTONIC) - start;
    printf("nanosleep %d long enough %d not forever %d\n", slept, took >= 3000000, took < 2000000000);
    start = now(CLOCK_MONOTONIC);
    struct timespec until = {(time_t)((start + 2000000) / 1000000000), (long)((start + 2000000) % 1000000000)};
    slept = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    printf("absolute sleep %d long enough %d\n", slept, now(CLOCK_MONOTONIC) - start >= 2000000);

    struct timeval of_day;
    gettimeofday(&of_day, NULL);
    int64_t difference = now(CLOCK_REALTIME) / 1000 - ((int64_t)of_day.tv_sec * 1000000 + of_day.tv_usec);
    printf("gettimeofday agrees %d, after 2020 %d\n", difference >= 0 && difference < 5000000, of_day.tv_sec > 1577836800);
    time_t seconds = time(NULL);
    printf("time agrees %d\n", seconds - of_day.tv_sec <= 5);
    time_t fixed = 1000000000;
    struct tm *parts = gmtime(&fixed);
    char text[64];
    strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S %j %a", parts);
    printf("gmtime %s\n", text);
    struct rusage usage;
    printf("rusage %d\n", getrusage(RUSAGE_SELF, &usage) == 0 && usage.ru_utime.tv_sec >= 0);
    struct tms ticks;
    printf("times %d\n", times(&ticks) != (clock_t)-1);
#ifdef __riscv
    uint64_t a, b;
    __asm__ volatile("rdtime %0" : "=r"(a));
    usleep(2000);
    __asm__ volatile("rdtime %0" : "=r"(b));
    printf("rdtime grows %d\n", b > a);
#endif
    return 0;
}
