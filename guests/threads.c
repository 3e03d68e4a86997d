/* Threads: mutex, condition, atomics of every kind, barriers that spin, message passing, thread-local storage. Size:
 * thousands of operations a thread. */
#define _GNU_SOURCE
#include "guest.h"
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>

#define THREADS 4

static unsigned long rounds;
static pthread_t threads[THREADS];

static void together(void *(*body)(void *)) {
    for (long i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, body, (void *)i) != 0) {
            puts("cannot create a thread");
            exit(1);
        }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static unsigned long plain;

static void *with_mutex(void *arg) {
    (void)arg;
    for (unsigned long i = 0; i < rounds; i++) {
        pthread_mutex_lock(&mutex);
        plain++;
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

static _Atomic uint64_t wide, bits_set, bits_cleared, toggled, largest;
static _Atomic uint32_t narrow;

static void *with_atomics(void *arg) {
    uint64_t me = (uint64_t)arg;
    for (unsigned long i = 0; i < rounds; i++) {
        atomic_fetch_add(&wide, me + 1);
        atomic_fetch_add_explicit(&narrow, 0x10000001u, memory_order_relaxed);
        atomic_fetch_or_explicit(&bits_set, UINT64_C(1) << ((me * 16 + i) & 63), memory_order_release);
        atomic_fetch_and_explicit(&bits_cleared, ~(UINT64_C(1) << ((me * 16 + i % 16) & 63)), memory_order_acquire);
        atomic_fetch_xor(&toggled, UINT64_C(0x0101010101010101) << me);
        uint64_t seen = atomic_load_explicit(&largest, memory_order_relaxed), mine = me * rounds + i;
        while (seen < mine && !atomic_compare_exchange_weak(&largest, &seen, mine))
            ;
    }
    return NULL;
}

/* The same counter by load-reserved and store-conditional, 32 and 64 bits, and the min/max instructions that C lacks. */
static uint64_t reserved_wide;
static uint32_t reserved_narrow;
static int64_t amo_min;
static uint64_t amo_max;

static void *with_reservation(void *arg) {
    uint64_t me = (uint64_t)arg;
    for (unsigned long i = 0; i < rounds; i++) {
#ifdef __riscv
        uint64_t old, failed;
        __asm__ volatile("1: lr.d.aq %0, (%2)\n\taddi %0, %0, 3\n\tsc.d.rl %1, %0, (%2)\n\tbnez %1, 1b"
                         : "=&r"(old), "=&r"(failed) : "r"(&reserved_wide) : "memory");
        __asm__ volatile("1: lr.w %0, (%2)\n\taddiw %0, %0, 1\n\tsc.w %1, %0, (%2)\n\tbnez %1, 1b"
                         : "=&r"(old), "=&r"(failed) : "r"(&reserved_narrow) : "memory");
        __asm__ volatile("amomin.d zero, %0, (%1)" : : "r"(-(int64_t)(me * 1000 + i)), "r"(&amo_min) : "memory");
        __asm__ volatile("amomaxu.d.aqrl zero, %0, (%1)" : : "r"(me * 1000 + i), "r"(&amo_max) : "memory");
#else
        __atomic_fetch_add(&reserved_wide, 3, __ATOMIC_SEQ_CST);
        __atomic_fetch_add(&reserved_narrow, 1, __ATOMIC_SEQ_CST);
        int64_t low = __atomic_load_n(&amo_min, __ATOMIC_RELAXED), mine = -(int64_t)(me * 1000 + i);
        while (mine < low && !__atomic_compare_exchange_n(&amo_min, &low, mine, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            ;
        uint64_t high = __atomic_load_n(&amo_max, __ATOMIC_RELAXED), other = me * 1000 + i;
        while (other > high && !__atomic_compare_exchange_n(&amo_max, &high, other, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            ;
#endif
    }
    return NULL;
}

static _Atomic unsigned arrived, phase;
static unsigned long columns[THREADS][8], barrier_wrong;

static void spin_barrier(void) {
    unsigned now = atomic_load_explicit(&phase, memory_order_relaxed);
    if (atomic_fetch_add(&arrived, 1) == THREADS - 1) {
        atomic_store_explicit(&arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&phase, now + 1, memory_order_release);
        return;
    }
    unsigned long spins = 0;
    while (atomic_load_explicit(&phase, memory_order_relaxed) == now)
        if (++spins % 2000 == 0)
            sched_yield();
    atomic_thread_fence(memory_order_acquire);
}

static void *with_barrier(void *arg) {
    long me = (long)arg;
    unsigned long steps = rounds < 100 ? 4 : 50;
    for (unsigned long i = 0; i < steps; i++) {
        columns[me][0] = i * THREADS + (unsigned long)me;
        spin_barrier();
        for (int k = 0; k < THREADS; k++)
            if (columns[k][0] != i * THREADS + (unsigned long)k)
                __atomic_fetch_add(&barrier_wrong, 1, __ATOMIC_RELAXED);
        spin_barrier();
    }
    return NULL;
}

/* Message passing through a ring: the reader must see what was written before the index moved. */
#define RING 64
static uint64_t ring[RING];
static _Atomic unsigned long head, tail;
static uint64_t received;

static void *sender(void *arg) {
    (void)arg;
    uint64_t seed = 83;
    for (unsigned long i = 0; i < rounds; i++) {
        while (i - atomic_load_explicit(&tail, memory_order_acquire) >= RING)
            sched_yield();
        ring[i % RING] = guest_random(&seed);
        atomic_store_explicit(&head, i + 1, memory_order_release);
    }
    return NULL;
}

static void *receiver(void *arg) {
    (void)arg;
    uint64_t hash = GUEST_HASH;
    for (unsigned long i = 0; i < rounds; i++) {
        while (atomic_load_explicit(&head, memory_order_acquire) <= i)
            sched_yield();
        hash = guest_mix(hash, ring[i % RING]);
        atomic_store_explicit(&tail, i + 1, memory_order_release);
    }
    received = hash;
    return NULL;
}

static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static int turn;
static char order[THREADS * 4 + 1];
static int order_length;

static void *in_turn(void *arg) {
    long me = (long)arg;
    for (int i = 0; i < 4; i++) {
        pthread_mutex_lock(&mutex);
        while (turn != me)
            pthread_cond_wait(&turn_changed, &mutex);
        order[order_length++] = (char)('a' + me);
        turn = (turn + 1) % THREADS;
        pthread_cond_broadcast(&turn_changed);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

static _Thread_local unsigned long mine = 7;
static _Thread_local char name[16] = "initial";
static unsigned long tls_wrong;
static pthread_key_t key;
static _Atomic int destroyed;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic int once_count;
static void only_once(void) { atomic_fetch_add(&once_count, 1); }
static void destroy(void *value) { atomic_fetch_add(&destroyed, value != NULL); }

static void *with_tls(void *arg) {
    unsigned long me = (unsigned long)arg, wrong = mine != 7 || strcmp(name, "initial") != 0;
    pthread_once(&once, only_once);
    pthread_setspecific(key, &threads[me]);
    for (unsigned long i = 0; i < 50; i++) {
        mine += me;
        if (i % 10 == 0)
            sched_yield();
    }
    snprintf(name, sizeof name, "thread %lu", me);
    wrong += mine != 7 + 50 * me || name[7] != (char)('0' + me) || pthread_getspecific(key) != &threads[me];
    __atomic_fetch_add(&tls_wrong, wrong, __ATOMIC_RELAXED);
    return (void *)(me * 10);
}

static sem_t items;
static _Atomic unsigned long taken;
static void *with_semaphore(void *arg) {
    long me = (long)arg;
    for (unsigned long i = 0; i < 25; i++) {
        if (me == 0) {
            for (int k = 0; k < THREADS - 1; k++)
                sem_post(&items);
        } else {
            sem_wait(&items);
            atomic_fetch_add(&taken, 1);
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    rounds = guest_size(argc, argv, 2) * 1000;
    if (rounds == 0)
        rounds = 20;
    together(with_mutex);
    printf("mutex %d\n", plain == THREADS * rounds);

    atomic_store(&bits_cleared, UINT64_MAX);
    together(with_atomics);
    printf("wide %d narrow %d set %016llx cleared %016llx toggled %016llx largest %d\n",
           atomic_load(&wide) == 10 * rounds, atomic_load(&narrow) == (uint32_t)(THREADS * rounds) * 0x10000001u,
           (unsigned long long)(rounds >= 64 ? atomic_load(&bits_set) : 0), (unsigned long long)(rounds >= 16 ? atomic_load(&bits_cleared) : 0),
           (unsigned long long)atomic_load(&toggled), atomic_load(&largest) == THREADS * rounds - 1);

    together(with_reservation);
    printf("reserved %d %d min %d max %d\n", reserved_wide == 3 * THREADS * rounds, reserved_narrow == (uint32_t)(THREADS * rounds),
           amo_min == -(int64_t)((THREADS - 1) * 1000 + rounds - 1), amo_max == (THREADS - 1) * 1000 + rounds - 1);

    together(with_barrier);
    printf("barrier wrong %lu\n", barrier_wrong);

    pthread_create(&threads[0], NULL, receiver, NULL);
    pthread_create(&threads[1], NULL, sender, NULL);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    uint64_t seed = 83, hash = GUEST_HASH;
    for (unsigned long i = 0; i < rounds; i++)
        hash = guest_mix(hash, guest_random(&seed));
    printf("messages %d\n", received == hash);

    together(in_turn);
    printf("turns %s\n", order);

    pthread_key_create(&key, destroy);
    unsigned long returned = 0;
    for (long i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, with_tls, (void *)i);
    for (int i = 0; i < THREADS; i++) {
        void *value;
        pthread_join(threads[i], &value);
        returned += (unsigned long)value;
    }
    printf("tls wrong %lu destroyed %d once %d returned %lu main %lu %s\n", tls_wrong, atomic_load(&destroyed),
           atomic_load(&once_count), returned, mine, name);

    sem_init(&items, 0, 0);
    together(with_semaphore);
    printf("semaphore %lu\n", atomic_load(&taken));

    /* a few hundred threads, one after the other: stacks and ids must be given back */
    unsigned long many = rounds < 100 ? 5 : 200, ended = 0;
    for (unsigned long i = 0; i < many; i++) {
        pthread_t t;
        void *value;
        if (pthread_create(&t, NULL, with_tls, (void *)1) == 0 && pthread_join(t, &value) == 0)
            ended += value == (void *)10;
    }
    printf("in a row %d\n", ended == many);
    return 0;
}
