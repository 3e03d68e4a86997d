/* Which orders of other threads' accesses a thread may see: what the memory model forbids must not come (RISC-V Unprivileged
 * ISA 20240411, chapter 17; the shapes are those of litmus tests). Each shape runs over many pairs of words, so that the
 * threads meet at all distances. Size: rounds of each. Prints how often a forbidden outcome came: never. */
#include "guest.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define PLACES 256
#define THREADS 4

#ifdef __riscv
#define FENCE(before, after) __asm__ volatile("fence " before "," after ::: "memory")
#define FENCE_TSO() __asm__ volatile("fence.tso" ::: "memory")
#define SWAP(order, place, value) \
    do { \
        unsigned long old_; \
        __asm__ volatile("amoswap.d" order " %0, %2, (%1)" : "=r"(old_) : "r"(place), "r"(value) : "memory"); \
    } while (0)
#else
#define FENCE(before, after) atomic_thread_fence(memory_order_seq_cst)
#define FENCE_TSO() atomic_thread_fence(memory_order_seq_cst)
#define SWAP(order, place, value) __atomic_exchange_n(place, value, __ATOMIC_SEQ_CST)
#endif

typedef struct {
    _Alignas(128) volatile unsigned long x;
    _Alignas(128) volatile unsigned long y;
    _Alignas(128) volatile unsigned long seen[THREADS];
} Place;

static Place places[PLACES];
static unsigned long rounds;
static _Atomic int arrived, round_number;

/* One shape: what each thread does at a place, and whether what came of it is forbidden. */
typedef struct {
    const char *name;
    int threads;
    void (*thread[THREADS])(Place *);
    int (*forbidden)(const Place *);
} Shape;

#define DO(name, ...) \
    static void name(Place *p) { __VA_ARGS__; }
#define WHEN(name, condition) \
    static int name(const Place *p) { return condition; }

DO(sb_0, p->x = 1; FENCE("rw", "rw"); p->seen[0] = p->y)
DO(sb_1, p->y = 1; FENCE("rw", "rw"); p->seen[1] = p->x)
DO(sb_wr_0, p->x = 1; FENCE("w", "r"); p->seen[0] = p->y)
DO(sb_wr_1, p->y = 1; FENCE("w", "r"); p->seen[1] = p->x)
DO(sb_io_0, p->x = 1; FENCE("iorw", "iorw"); p->seen[0] = p->y)
DO(sb_io_1, p->y = 1; FENCE("ow", "ir"); p->seen[1] = p->x)
DO(sb_amo_0, SWAP(".aqrl", &p->x, 1UL); p->seen[0] = p->y)
DO(sb_amo_1, SWAP(".aqrl", &p->y, 1UL); p->seen[1] = p->x)
WHEN(both_zero, !p->seen[0] && !p->seen[1])

DO(mp_w, p->x = 1; FENCE("w", "w"); p->y = 1)
DO(mp_r, p->seen[0] = p->y; FENCE("r", "r"); p->seen[1] = p->x)
DO(mp_release, p->x = 1; FENCE("rw", "w"); p->y = 1)
DO(mp_acquire, p->seen[0] = p->y; FENCE("r", "rw"); p->seen[1] = p->x)
DO(mp_tso_w, p->x = 1; FENCE_TSO(); p->y = 1)
DO(mp_tso_r, p->seen[0] = p->y; FENCE_TSO(); p->seen[1] = p->x)
DO(mp_amo, p->x = 1; SWAP(".rl", &p->y, 1UL))
WHEN(late, p->seen[0] && !p->seen[1])

DO(lb_0, p->seen[0] = p->x; FENCE("r", "w"); p->y = 1)
DO(lb_1, p->seen[1] = p->y; FENCE("r", "w"); p->x = 1)
WHEN(both_one, p->seen[0] && p->seen[1])

DO(r_0, p->x = 1; FENCE("w", "w"); p->y = 1)
DO(r_1, p->y = 2; FENCE("w", "r"); p->seen[0] = p->x)
WHEN(second_without_first, p->y == 2 && !p->seen[0])

DO(w_0, p->x = 1; FENCE("w", "w"); p->y = 2)
DO(w_1, p->y = 1; FENCE("w", "w"); p->x = 2)
WHEN(both_first, p->x == 1 && p->y == 1)

DO(iriw_x, p->x = 1)
DO(iriw_y, p->y = 1)
DO(iriw_xy, p->seen[0] = p->x; FENCE("r", "r"); p->seen[1] = p->y)
DO(iriw_yx, p->seen[2] = p->y; FENCE("r", "r"); p->seen[3] = p->x)
WHEN(disagree, p->seen[0] && !p->seen[1] && p->seen[2] && !p->seen[3])

static const Shape SHAPES[] = {
    {"SB, fence rw,rw", 2, {sb_0, sb_1}, both_zero},
    {"SB, fence w,r", 2, {sb_wr_0, sb_wr_1}, both_zero},
    {"SB, fence iorw,iorw and ow,ir", 2, {sb_io_0, sb_io_1}, both_zero},
    {"SB, amoswap.aqrl", 2, {sb_amo_0, sb_amo_1}, both_zero},
    {"MP, fence w,w and r,r", 2, {mp_w, mp_r}, late},
    {"MP, fence rw,w and r,rw", 2, {mp_release, mp_acquire}, late},
    {"MP, fence.tso", 2, {mp_tso_w, mp_tso_r}, late},
    {"MP, amoswap.rl and fence r,r", 2, {mp_amo, mp_r}, late},
    {"LB, fence r,w", 2, {lb_0, lb_1}, both_one},
    {"R, fence w,w and w,r", 2, {r_0, r_1}, second_without_first},
    {"2+2W, fence w,w", 2, {w_0, w_1}, both_first},
    {"IRIW, fence r,r", 4, {iriw_x, iriw_y, iriw_xy, iriw_yx}, disagree},
};
static const Shape *shape;

/* All threads go on when the last has come. */
static void meet(int threads) {
    int number = atomic_load(&round_number);
    if (atomic_fetch_add(&arrived, 1) + 1 == threads) {
        atomic_store(&arrived, 0);
        atomic_store(&round_number, number + 1);
        return;
    }
    for (int turns = 0; atomic_load(&round_number) == number; turns++)
        if (turns % 1024 == 1023)
            sched_yield();
}

static unsigned long found;

static void *run(void *argument) {
    long me = (long)argument;
    for (unsigned long n = 0; n < rounds; n++) {
        if (!me)
            memset(places, 0, sizeof places);
        meet(shape->threads);
        for (int i = 0; i < PLACES; i++)
            shape->thread[me](&places[i]);
        meet(shape->threads);
        if (!me)
            for (int i = 0; i < PLACES; i++)
                found += shape->forbidden(&places[i]) != 0;
    }
    return NULL;
}

int main(int argc, char **argv) {
    rounds = guest_size(argc, argv, 1);
    for (size_t n = 0; n < sizeof SHAPES / sizeof *SHAPES; n++) {
        pthread_t other[THREADS];
        shape = &SHAPES[n];
        found = 0;
        for (long i = 1; i < shape->threads; i++)
            if (pthread_create(&other[i], NULL, run, (void *)i)) {
                puts("cannot create a thread");
                return 1;
            }
        run(NULL);
        for (int i = 1; i < shape->threads; i++)
            pthread_join(other[i], NULL);
        printf("%s: %lu\n", shape->name, found);
    }
    return 0;
}
