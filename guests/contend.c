/* Threads in each other's way in the kernel: signals while masks change and while futexes are waited for, descriptors closed
 * under a reader, condition variables with timeouts, barriers, reader-writer locks. Size: rounds of each. */
#define _GNU_SOURCE
#include "guest.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#define VICTIMS 3
#define THREADS 4
#define NUMBER 100 /* the descriptor that comes and goes */

static unsigned long rounds;
static pthread_t threads[THREADS];
static _Atomic int stop;

static void start(int count, void *(*body)(void *)) {
    for (long i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, body, (void *)i) != 0) {
            puts("cannot create a thread");
            exit(1);
        }
}

static void join(int count) {
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

static _Atomic unsigned long seen[VICTIMS];
static sem_t beds[VICTIMS];
static _Thread_local long me;
static _Atomic int ready;

static void on_signal(int number) {
    (void)number;
    seen[me]++;
}

/* A signal may come at any point of these changes, and must not get lost. */
static void *changes_masks(void *arg) {
    me = (long)arg;
    ready++;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    for (unsigned long i = 0; !stop; i++) {
        pthread_sigmask(SIG_BLOCK, &set, NULL);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        if (i % 64 == 0)
            sched_yield();
    }
    return NULL;
}

static void *sleeps(void *arg) {
    me = (long)arg;
    ready++;
    while (!stop)
        sem_wait(&beds[me]);
    return NULL;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void storm(const char *name, void *(*victim)(void *)) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigaction(SIGUSR1, &action, NULL);
    stop = ready = 0;
    for (int i = 0; i < VICTIMS; i++) {
        seen[i] = 0;
        sem_init(&beds[i], 0, 0);
    }
    start(VICTIMS, victim);
    while (ready < VICTIMS)
        sched_yield();
    for (unsigned long n = 0; n < rounds; n++)
        for (int i = 0; i < VICTIMS; i++) {
            pthread_kill(threads[i], SIGUSR1);
            double begin = now();
            while (seen[i] == n)
                if (sched_yield() == 0 && now() - begin > 60) {
                    printf("WRONG: %s: signal %lu of thread %d is lost\n", name, n, i);
                    exit(1);
                }
        }
    stop = 1;
    for (int i = 0; i < VICTIMS; i++)
        sem_post(&beds[i]);
    join(VICTIMS);
    printf("%s: %lu %lu %lu\n", name, (unsigned long)seen[0], (unsigned long)seen[1], (unsigned long)seen[2]);
}

static _Atomic unsigned long wrong;

static void *reads(void *arg) {
    (void)arg;
    while (!stop) {
        char byte = 7;
        ssize_t n = read(NUMBER, &byte, 1);
        if (n == 1 ? byte != 0 : errno != EBADF)
            wrong++;
    }
    return NULL;
}

/* The readers' number names /dev/zero or nothing; other files must never be seen there. */
static void descriptors(void) {
    char name[] = "contend-XXXXXX";
    int file = mkstemp(name);
    if (file < 0 || write(file, "other", 5) != 5) {
        puts("cannot make a file");
        exit(1);
    }
    stop = 0;
    start(2, reads);
    for (unsigned long n = 0; n < rounds; n++) {
        int zero = open("/dev/zero", O_RDONLY), others[6];
        dup2(zero, NUMBER);
        close(zero);
        sched_yield();
        close(NUMBER);
        for (int i = 0; i < 6; i++)
            others[i] = open(name, O_RDONLY);
        for (int i = 0; i < 6; i++)
            close(others[i]);
    }
    stop = 1;
    join(2);
    close(file);
    unlink(name);
    printf("descriptors: %s\n", wrong ? "WRONG" : "right");
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned long length, given, taken;

static void *gives_or_takes(void *arg) {
    for (unsigned long i = 0; i < rounds; i++) {
        pthread_mutex_lock(&mutex);
        if ((long)arg % 2) {
            while (length >= 4)
                pthread_cond_wait(&changed, &mutex);
            length++, given++;
        } else {
            while (length == 0) {
                struct timespec soon;
                clock_gettime(CLOCK_REALTIME, &soon);
                soon.tv_nsec += 1000000;
                soon.tv_sec += soon.tv_nsec / 1000000000;
                soon.tv_nsec %= 1000000000;
                pthread_cond_timedwait(&changed, &mutex, &soon);
            }
            length--, taken++;
        }
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

static pthread_barrier_t barrier;
static unsigned long last;

static void *meets(void *arg) {
    (void)arg;
    for (unsigned long i = 0; i < rounds; i++)
        if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
            __atomic_fetch_add(&last, 1, __ATOMIC_RELAXED);
    return NULL;
}

static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static unsigned long written;

static void *reads_and_writes(void *arg) {
    for (unsigned long i = 0; i < rounds; i++)
        if ((i + (unsigned long)arg) % 4 == 0) {
            pthread_rwlock_wrlock(&lock);
            written++;
            pthread_rwlock_unlock(&lock);
        } else {
            pthread_rwlock_rdlock(&lock);
            unsigned long value = written;
            OPAQUE(value);
            pthread_rwlock_unlock(&lock);
        }
    return NULL;
}

int main(int argc, char **argv) {
    rounds = guest_size(argc, argv, 50);
    storm("masks", changes_masks);
    storm("sleepers", sleeps);
    descriptors();
    start(THREADS, gives_or_takes);
    join(THREADS);
    printf("queue: %lu left, %lu given, %lu taken\n", length, given, taken);
    pthread_barrier_init(&barrier, NULL, THREADS);
    start(THREADS, meets);
    join(THREADS);
    printf("barrier: %lu\n", last);
    start(THREADS, reads_and_writes);
    join(THREADS);
    printf("lock: %lu\n", written);
    return 0;
}
