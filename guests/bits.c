/* Rotates, counts, byte swaps, extensions, single bits, shifted adds: what compilers turn into Zba, Zbb and Zbs. Size:
 * thousands of rounds. */
#include "guest.h"

static inline uint64_t rotate_left(uint64_t x, unsigned n) { return x << (n & 63) | x >> (-n & 63); }
static inline uint32_t rotate_left32(uint32_t x, unsigned n) { return x << (n & 31) | x >> (-n & 31); }

static NOINLINE unsigned slow_popcount(uint64_t x) {
    unsigned n = 0;
    for (; x; x &= x - 1)
        n++;
    return n;
}

static NOINLINE uint64_t shifted_adds(uint64_t x, uint64_t y, uint32_t w) {
    uint64_t r = (x << 1) + y;
    r ^= (x << 2) + y;
    r ^= (x << 3) + y;
    r ^= (uint64_t)w + y;
    r ^= ((uint64_t)w << 1) + y;
    r ^= ((uint64_t)w << 2) + x;
    r ^= ((uint64_t)w << 3) + x;
    r ^= (uint64_t)w << 7;
    return r;
}

static NOINLINE uint64_t logic(uint64_t x, uint64_t y) { return (x & ~y) ^ ((x | ~y) * 3) ^ ((x ^ ~y) * 5); }

static NOINLINE uint64_t orders(int64_t x, int64_t y) {
    uint64_t ux = (uint64_t)x, uy = (uint64_t)y;
    uint64_t r = (uint64_t)(x < y ? x : y) + 3 * (uint64_t)(x > y ? x : y);
    return r + 5 * (ux < uy ? ux : uy) + 7 * (ux > uy ? ux : uy);
}

static NOINLINE uint64_t single(uint64_t x, unsigned n) {
    uint64_t bit = UINT64_C(1) << (n & 63);
    uint64_t r = (x | bit) * 3 + (x & ~bit) * 5 + (x ^ bit) * 7 + (x >> (n & 63) & 1) * 11;
    r += (x | UINT64_C(1) << 63) ^ (x & ~(UINT64_C(1) << 40)) ^ (x ^ UINT64_C(1) << 33);
    return r + (x >> 37 & 1);
}

static NOINLINE uint64_t extensions(uint64_t x) {
    return (uint64_t)(int64_t)(int8_t)x + 3 * (uint64_t)(int64_t)(int16_t)x + 5 * (uint64_t)(uint16_t)x +
           7 * (uint64_t)(uint32_t)x + 11 * (uint64_t)(int64_t)(int32_t)x;
}

static NOINLINE uint64_t counts(uint64_t x) {
    uint32_t w = (uint32_t)x;
    uint64_t r = (uint64_t)__builtin_popcountll(x) * 100 + (uint64_t)__builtin_popcount(w);
    r = r * 100 + (x ? (unsigned)__builtin_clzll(x) : 64);
    r = r * 100 + (x ? (unsigned)__builtin_ctzll(x) : 64);
    r = r * 100 + (w ? (unsigned)__builtin_clz(w) : 32);
    return r * 100 + (w ? (unsigned)__builtin_ctz(w) : 32);
}

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 2) * 1000;
    static const uint64_t edges[] = {0, 1, 0x80, 0xff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
                                     UINT64_C(0x100000000), INT64_MAX, UINT64_C(1) << 63, UINT64_MAX};
    const unsigned long many = sizeof edges / sizeof *edges;
    uint64_t seed = 17, hash = GUEST_HASH;
    unsigned long wrong = 0;
    for (unsigned long i = 0; i < n + many * many; i++) {
        uint64_t x = guest_random(&seed), y = guest_random(&seed);
        if (i < many * many)
            x = edges[i / many], y = edges[i % many];
        unsigned s = (unsigned)(y >> 40);
        hash = guest_mix(hash, rotate_left(x, s) + 3 * rotate_left(x, -s) + rotate_left(x, 13));
        hash = guest_mix(hash, (uint64_t)rotate_left32((uint32_t)x, s) + 3 * (uint64_t)(int32_t)rotate_left32((uint32_t)x, -s) +
                                   rotate_left32((uint32_t)y, 9));
        hash = guest_mix(hash, shifted_adds(x, y, (uint32_t)(x >> 16)));
        hash = guest_mix(hash, logic(x, y));
        hash = guest_mix(hash, orders((int64_t)x, (int64_t)y));
        hash = guest_mix(hash, single(x, s));
        hash = guest_mix(hash, extensions(x));
        hash = guest_mix(hash, counts(x));
        hash = guest_mix(hash, counts(x & y));
        hash = guest_mix(hash, __builtin_bswap64(x) + 3 * __builtin_bswap32((uint32_t)y));
        wrong += (unsigned)__builtin_popcountll(x) != slow_popcount(x);
    }
    printf("%lu rounds: %016llx, wrong %lu\n", n, (unsigned long long)hash, wrong);
    return wrong != 0;
}
