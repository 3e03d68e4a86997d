/* Threads, faults and signals. What it prints is the same under vm as on the host itself. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static atomic_long sum;
static long guarded;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local long own;

static void *work(void *argument)
{
    for (int i = 0; i < 200000; i++) {
        sum++;
        own++;
        if (i % 1000 == 0) {
            pthread_mutex_lock(&mutex);
            guarded++;
            pthread_mutex_unlock(&mutex);
        }
    }
    return (void *)own;
}

static sigjmp_buf back;
static siginfo_t seen;

static void caught(int number, siginfo_t *info, void *context)
{
    seen = *info;
    siglongjmp(back, 1);
}

static volatile int ticks;

static void tick(int number)
{
    __asm__ volatile("vzeroall" ::: "memory");
    ticks++;
}

#define AT(name, statement)                                                                                       \
    do {                                                                                                          \
        if (!sigsetjmp(back, 1)) {                                                                                \
            statement;                                                                                            \
            printf("%s: nothing\n", name);                                                                        \
        } else                                                                                                    \
            printf("%s: %d %d %p\n", name, seen.si_signo, seen.si_code, seen.si_addr);                            \
    } while (0)
#define SIGNAL(name, statement)                                                                                   \
    do {                                                                                                          \
        if (!sigsetjmp(back, 1)) {                                                                                \
            statement;                                                                                            \
            printf("%s: nothing\n", name);                                                                        \
        } else                                                                                                    \
            printf("%s: %d\n", name, seen.si_signo);                                                              \
    } while (0)

int main(void)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], 0, work, 0);
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(threads[i], &result);
        printf("thread %ld\n", (long)result);
    }
    printf("sum %ld guarded %ld\n", (long)sum, guarded);

    struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO};
    int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    for (int i = 0; i < 5; i++)
        sigaction(numbers[i], &action, 0);
    AT("null", *(volatile int *)16 = 1);
    AT("read", (void)*(volatile int *)0x1234568);
    char *page = mmap((void *)0x38000000, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    page[0] = 1;
    page[4096] = 2;
    mprotect(page, 4096, PROT_READ);
    AT("write read-only", page[5] = 2);
    AT("read read-only", (void)*(volatile char *)page);
    mprotect(page, 4096, PROT_NONE);
    AT("read none", (void)*(volatile char *)page);
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
    AT("write again", page[5] = 2);
    AT("run", ((void (*)(void))page)());
    memcpy(page, "\xc3", 1);
    mprotect(page, 4096, PROT_READ | PROT_EXEC);
    AT("run allowed", ((void (*)(void))page)());
    munmap(page, 4096);
    AT("unmapped", (void)*(volatile char *)page);
    printf("neighbour %d\n", page[4096]);
    AT("not canonical", (void)*(volatile char *)0x8000000000000000ull);
    AT("hlt", __asm__ volatile("hlt"));
    AT("out 7", __asm__ volatile("outb %al, $7"));
    AT("cli", __asm__ volatile("cli"));
    AT("vm's pages", (void)*(volatile char *)0x7f0000008000);
    AT("vm's entry", *(volatile char *)0x7f000000a000 = 1);
    AT("the kernel's", (void)*(volatile char *)0xffffffff81000000);
    SIGNAL("ud2", __asm__ volatile("ud2"));
    SIGNAL("int3", __asm__ volatile("int3"));
    SIGNAL("divide", __asm__ volatile("xor %%ecx, %%ecx; mov $1, %%eax; cltd; idiv %%ecx" ::: "eax", "ecx", "edx"));

    /* Vector registers outlive a handler that changes them, and the red zone too. */
    signal(SIGALRM, tick);
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    struct itimerspec often = {{0, 5000000}, {0, 5000000}};
    timer_settime(timer, 0, &often, 0);
    long lost = 0;
    while (ticks < 10) {
        unsigned long in[4] = {1, 2, 3, 4}, out[4];
        __asm__ volatile("vmovdqu %1, %%ymm5; mov $3000000, %%ecx; movq $77, -64(%%rsp); 1: dec %%ecx; jnz 1b; vmovdqu %%ymm5, %0;"
                         "cmpq $77, -64(%%rsp); je 2f; ud2; 2:"
                         : "=m"(out) : "m"(in) : "ecx", "xmm5", "memory");
        lost += memcmp(in, out, 32) != 0;
    }
    printf("vectors lost %ld\n", lost);
    return 7;
}
