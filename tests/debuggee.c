/* What a debugger is tried on: calls, a variable that changes, a signal handler, threads, and waits. */

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))

volatile long total;
volatile int caught;
volatile int ready;
__thread volatile long mine = 7;
static pthread_barrier_t barrier;

NOINLINE int add(int a, int b)
{
    return a + b;
}

NOINLINE void accumulate(int rounds)
{
    for (int i = 1; i <= rounds; i++)
        total += add(i, i);
}

NOINLINE void note(int number)
{
    caught = number;
}

static void handler(int number)
{
    note(number);
}

NOINLINE void interrupted(void)
{
    raise(SIGUSR1);
}

NOINLINE void at_work(long number)
{
    __atomic_fetch_add(&ready, (int)number, __ATOMIC_SEQ_CST);
}

static void *worker(void *argument)
{
    mine += (long)argument;
    at_work((long)argument);
    pthread_barrier_wait(&barrier);
    return 0;
}

NOINLINE void together(void)
{
    ready = ready;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    accumulate(3);
    if (!strcmp(what, "signal")) {
        signal(SIGUSR1, handler);
        interrupted();
    }
    if (!strcmp(what, "threads")) {
        pthread_t threads[3];
        pthread_barrier_init(&barrier, 0, 4);
        for (long i = 0; i < 3; i++)
            pthread_create(&threads[i], 0, worker, (void *)(i + 1));
        while (ready != 6)
            usleep(1000);
        together();
        pthread_barrier_wait(&barrier);
        for (int i = 0; i < 3; i++)
            pthread_join(threads[i], 0);
    }
    if (!strcmp(what, "spin"))
        for (;;)
            accumulate(1000);
    if (!strcmp(what, "read")) {
        char letter = 0;
        if (read(0, &letter, 1) == 1)
            printf("read %c\n", letter);
    }
    if (!strcmp(what, "crash"))
        *(volatile int *)(total - 4) = 1; /* address 20 - 4 */
    printf("total %ld caught %d\n", total, caught);
    return 0;
}
