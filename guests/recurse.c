/* Deep recursion and large stack frames. Size: thousands of frames, and how often they are entered (1). */
#include "guest.h"
#include <alloca.h>

static NOINLINE unsigned long down(unsigned long n) {
    if (n == 0)
        return 0;
    unsigned long below = down(n - 1);
    OPAQUE(below);
    return below + n;
}

static NOINLINE int odd(unsigned long n);
static NOINLINE int even(unsigned long n) {
    int r = n == 0 ? 1 : odd(n - 1);
    OPAQUE(r);
    return r;
}
static NOINLINE int odd(unsigned long n) {
    int r = n == 0 ? 0 : even(n - 1);
    OPAQUE(r);
    return r;
}

static NOINLINE unsigned long ackermann(unsigned long m, unsigned long n) {
    if (m == 0)
        return n + 1;
    if (n == 0)
        return ackermann(m - 1, 1);
    return ackermann(m - 1, ackermann(m, n - 1));
}

/* A frame of many pages: the stack must grow over all of them, whichever is touched first. */
static NOINLINE uint64_t large(size_t bytes) {
    unsigned char *block = alloca(bytes);
    OPAQUE(block);
    block[0] = 1;
    block[bytes - 1] = 2;
    for (size_t i = 0; i < bytes; i += 4096)
        block[i] = (unsigned char)(i >> 12);
    uint64_t hash = GUEST_HASH;
    for (size_t i = 0; i < bytes; i += 4096)
        hash = guest_mix(hash, block[i]);
    return hash;
}

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 20) * 1000;
    unsigned long times = argc > 2 ? strtoul(argv[2], NULL, 0) : 1, sum = 0;
    for (unsigned long i = 1; i < times; i++)
        sum += down(n - i) + (unsigned long)even(n - i) + (unsigned long)odd(n - 2 * i);
    if (times > 1)
        printf("%lu times %lu\n", times, sum);
    printf("down %lu = %lu\n", n, down(n));
    printf("even %d odd %d\n", even(n), odd(n));
    printf("ackermann %lu\n", ackermann(2, n / 1000));
    printf("large %016llx\n", (unsigned long long)large(100000));
    printf("larger %016llx\n", (unsigned long long)large(5000000));
    return 0;
}
