#include "abi.h"
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>

static long futex(void *address, int operation, unsigned value, void *timeout, void *second, unsigned third) {
    return syscall(SYS_futex, address, operation, value, timeout, second, third);
}

static pthread_mutex_t mutex;
static volatile int inside, most, counter;
static void *work(void *unused) {
    for (int i = 0; i < 2000; i++) {
        pthread_mutex_lock(&mutex);
        if (++inside > most)
            most = inside;
        counter++;
        inside--;
        pthread_mutex_unlock(&mutex);
    }
    return unused;
}
static void *dies(void *m) {
    pthread_mutex_lock(m);
    return 0;
}
static void *holds(void *m) {
    pthread_mutex_lock(m);
    struct timespec moment = {0, 100000000};
    nanosleep(&moment, 0);
    pthread_mutex_unlock(m);
    return 0;
}

static void contend(int protocol, int robust, const char *what) {
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setprotocol(&a, protocol);
    if (robust)
        pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_settype(&a, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&mutex, &a);
    counter = most = 0;
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], 0, work, 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], 0);
    SHOW("%s %d %d", what, counter, most);
    T(pthread_mutex_trylock(&mutex));
    T(pthread_mutex_trylock(&mutex));
    T(pthread_mutex_lock(&mutex));
    T(pthread_mutex_unlock(&mutex));
    T(pthread_mutex_unlock(&mutex));
    pthread_t thread;
    pthread_create(&thread, 0, holds, &mutex);
    struct timespec moment = {0, 30000000}, limit;
    nanosleep(&moment, 0);
    T(pthread_mutex_trylock(&mutex));
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_nsec += 10000000;
    if (limit.tv_nsec >= 1000000000)
        limit.tv_sec++, limit.tv_nsec -= 1000000000;
    T(pthread_mutex_timedlock(&mutex, &limit));
    T(pthread_mutex_lock(&mutex));
    T(pthread_mutex_unlock(&mutex));
    pthread_join(thread, 0);
    if (robust) {
        pthread_create(&thread, 0, dies, &mutex);
        pthread_join(thread, 0);
        T(pthread_mutex_lock(&mutex));
        T(pthread_mutex_consistent(&mutex));
        T(pthread_mutex_unlock(&mutex));
        T(pthread_mutex_lock(&mutex));
        T(pthread_mutex_unlock(&mutex));
        pthread_create(&thread, 0, dies, &mutex);
        pthread_join(thread, 0);
        T(pthread_mutex_lock(&mutex));
        T(pthread_mutex_unlock(&mutex));
        T(pthread_mutex_lock(&mutex));
    }
}

struct shared {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    sem_t semaphore;
    pthread_barrier_t barrier;
    int turns, count, word;
};

int main(void) {
    contend(PTHREAD_PRIO_NONE, 0, "plain");
    contend(PTHREAD_PRIO_NONE, 1, "robust");
    contend(PTHREAD_PRIO_INHERIT, 0, "inherit");
    contend(PTHREAD_PRIO_INHERIT, 1, "robust inherit");

    unsigned word = 0, own = syscall(SYS_gettid);
    T(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0));
    SHOW("%d", word == own);
    T(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0));
    T(futex(&word, FUTEX_TRYLOCK_PI_PRIVATE, 0, 0, 0, 0));
    T(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0));
    SHOW("%u", word);
    T(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0));
    word = 0x3ffffff0;
    T(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0));
    word = 5;
    T(futex(&word, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 6, 0, &counter, 0));
    T(futex(&word, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, (void *)1, (void *)&counter, 6));
    T(futex(&word, FUTEX_CMP_REQUEUE_PI_PRIVATE, 2, (void *)1, (void *)&counter, 5));
    T(futex(&word, FUTEX_WAIT_PRIVATE, 6, 0, 0, 0));
    T(futex(&word, FUTEX_WAKE, 6, 0, 0, 0));
    T(futex((char *)&word + 1, FUTEX_WAKE, 6, 0, 0, 0));
    T(futex(&word, 77, 6, 0, 0, 0));
    T(futex(&word, FUTEX_WAIT_BITSET, 6, 0, 0, 0));
    struct timespec moment = {0, 10000000}, bad = {0, 1000000000};
    T(futex(&word, FUTEX_WAIT_PRIVATE, 5, &moment, 0, 0));
    T(futex(&word, FUTEX_WAIT_PRIVATE, 5, &bad, 0, 0));

    struct { uint64_t value, address; uint32_t flags, reserved; } v[3] = {
        {5, (uintptr_t)&word, 2 | 128, 0}, {0, (uintptr_t)&counter, 2 | 128, 0}};
    T(syscall(449, v, 2, 0, 0, 0) == -1 && errno == EAGAIN);
    counter = 0;
    struct timespec limit;
    clock_gettime(CLOCK_MONOTONIC, &limit);
    limit.tv_sec++;
    limit.tv_nsec = 0;
    T(syscall(449, v, 2, 0, &limit, CLOCK_MONOTONIC));
    v[0].value = 6;
    T(syscall(449, v, 2, 0, 0, 0));
    T(syscall(449, v, 0, 0, 0, 0));
    v[0].flags = 1;
    T(syscall(449, v, 2, 0, 0, 0));
    T(syscall(449, v, 2, 1, 0, 0));

    struct shared *s = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t ma;
    pthread_condattr_t ca;
    pthread_barrierattr_t ba;
    pthread_mutexattr_init(&ma);
    pthread_mutexattr_setpshared(&ma, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&ma, PTHREAD_MUTEX_ROBUST);
    pthread_condattr_init(&ca);
    pthread_condattr_setpshared(&ca, PTHREAD_PROCESS_SHARED);
    pthread_barrierattr_init(&ba);
    pthread_barrierattr_setpshared(&ba, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&s->mutex, &ma);
    pthread_cond_init(&s->cond, &ca);
    sem_init(&s->semaphore, 1, 0);
    pthread_barrier_init(&s->barrier, &ba, 3);
    pid_t child[2];
    for (int i = 0; i < 2; i++)
        if (!(child[i] = fork())) {
            pthread_barrier_wait(&s->barrier);
            for (int n = 0; n < 200; n++) {
                pthread_mutex_lock(&s->mutex);
                while (s->turns % 2 != i)
                    pthread_cond_wait(&s->cond, &s->mutex);
                s->turns++;
                s->count++;
                pthread_cond_broadcast(&s->cond);
                pthread_mutex_unlock(&s->mutex);
            }
            sem_post(&s->semaphore);
            _exit(0);
        }
    pthread_barrier_wait(&s->barrier);
    T(sem_wait(&s->semaphore));
    T(sem_wait(&s->semaphore));
    waitpid(child[0], 0, 0);
    waitpid(child[1], 0, 0);
    SHOW("%d %d", s->turns, s->count);
    if (!fork()) {
        pthread_mutex_lock(&s->mutex);
        _exit(0);
    }
    wait(0);
    T(pthread_mutex_lock(&s->mutex));
    if (!fork()) {
        futex(&s->word, FUTEX_WAIT, 0, 0, 0, 0);
        _exit(7);
    }
    int status;
    moment.tv_nsec = 100000000;
    nanosleep(&moment, 0);
    T(futex(&s->word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0));
    /* However long the child takes until it waits. */
    long woken;
    while (!(woken = futex(&s->word, FUTEX_WAKE, 1, 0, 0, 0)))
        nanosleep(&moment, 0);
    SHOW("%ld", woken);
    wait(&status);
    SHOW("%d", WEXITSTATUS(status));
    return 0;
}
