/* setjmp and longjmp: values, nesting, out of deep recursion, with registers that must survive. Size: thousands of jumps. */
#include "guest.h"
#include <setjmp.h>
#include <signal.h>

static jmp_buf outer, inner;

static NOINLINE void descend(int depth, int value) {
    volatile char frame[64];
    frame[depth % 64] = (char)depth;
    if (depth == 0)
        longjmp(outer, value);
    descend(depth - 1, value);
    frame[0] = frame[depth % 64];
}

/* Values kept in callee-saved registers, whole and floating, must have the setjmp-time or later contents afterwards;
 * volatile ones must have the newest. */
static NOINLINE double registers(int rounds) {
    volatile int newest = 0;
    const long a = rounds, b = a * 3, c = b ^ 0x55, d = c + 17;
    const double x = rounds * 0.5, y = x + 0.25, z = x * y;
    for (int i = 0; i < rounds; i++) {
        int value = setjmp(outer);
        if (value == 0) {
            newest = i;
            descend(i % 20, i + 1);
        }
        if (newest != i || value != i + 1) {
            printf("WRONG value %d in round %d\n", value, i);
            exit(1);
        }
    }
    return (double)(a + b + c + d) + x + y + z;
}

static NOINLINE int nested(void) {
    volatile int trail = 0;
    int first = setjmp(outer);
    trail = trail * 10 + 1 + first;
    if (first == 3)
        return trail;
    int second = setjmp(inner);
    trail = trail * 10 + 5 + second;
    if (second == 0)
        longjmp(inner, 2);
    longjmp(outer, first == 0 ? 1 : 3);
}

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 1) * 1000;
    printf("registers %.4f\n", registers(100));
    printf("nested %d\n", nested());

    /* longjmp(…, 0) returns 1 */
    volatile int zero_seen = 0;
    int value = setjmp(inner);
    if (value == 0 && !zero_seen) {
        zero_seen = 1;
        longjmp(inner, 0);
    }
    printf("zero becomes %d\n", value);

    /* sigsetjmp keeps the signal mask only when asked to */
    sigset_t block, now;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    for (int keep = 0; keep < 2; keep++) {
        sigjmp_buf place;
        sigprocmask(SIG_UNBLOCK, &block, NULL);
        if (sigsetjmp(place, keep) == 0) {
            sigprocmask(SIG_BLOCK, &block, NULL);
            siglongjmp(place, 1);
        }
        sigprocmask(SIG_SETMASK, NULL, &now);
        printf("mask kept %d: blocked %d\n", keep, sigismember(&now, SIGUSR1));
    }

    uint64_t seed = 13, hash = GUEST_HASH;
    volatile unsigned long i = 0;
    volatile uint64_t seed_kept = seed, hash_kept = hash;
    value = setjmp(outer);
    if (value != 0)
        hash_kept = guest_mix(hash_kept, (uint64_t)value);
    if (i < n) {
        i++;
        seed = seed_kept;
        int depth = (int)(guest_random(&seed) >> 60);
        seed_kept = seed;
        descend(depth, depth + 1);
    }
    printf("%lu jumps: %016llx\n", n, (unsigned long long)hash_kept);
    return 0;
}
