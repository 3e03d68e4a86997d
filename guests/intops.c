/* Multiply-high, division and remainder with their corners, shifts, 32-bit forms. Size: thousands of rounds.
 * On RISC-V the instructions themselves run; elsewhere C says what they must give. */
#include "guest.h"

#ifdef __riscv
#define OP(name, rule)                                                                                                 \
    static inline uint64_t do_##name(uint64_t a, uint64_t b) {                                                         \
        uint64_t r;                                                                                                    \
        __asm__(#name " %0, %1, %2" : "=r"(r) : "r"(a), "r"(b));                                                       \
        return r;                                                                                                      \
    }                                                                                                                  \
    static NOINLINE uint64_t want_##name(uint64_t a, uint64_t b) { return rule; }
#else
#define OP(name, rule)                                                                                                 \
    static NOINLINE uint64_t want_##name(uint64_t a, uint64_t b) { return rule; }                                      \
    static inline uint64_t do_##name(uint64_t a, uint64_t b) { return want_##name(a, b); }
#endif

#define S(x) ((int64_t)(x))
#define W(x) ((int32_t)(x))
#define UW(x) ((uint32_t)(x))
#define SIGNED32(x) ((uint64_t)(int64_t)(int32_t)(x))

OP(mul, a * b)
OP(mulh, (uint64_t)((__int128)S(a) * S(b) >> 64))
OP(mulhu, (uint64_t)((unsigned __int128)a * b >> 64))
OP(mulhsu, (uint64_t)((__int128)S(a) * (__int128)(unsigned __int128)b >> 64))
OP(mulw, SIGNED32(UW(a) * UW(b)))
OP(div, b == 0 ? UINT64_MAX : a == (uint64_t)INT64_MIN && b == UINT64_MAX ? a : (uint64_t)(S(a) / S(b)))
OP(divu, b == 0 ? UINT64_MAX : a / b)
OP(rem, b == 0 ? a : a == (uint64_t)INT64_MIN && b == UINT64_MAX ? 0 : (uint64_t)(S(a) % S(b)))
OP(remu, b == 0 ? a : a % b)
OP(divw, UW(b) == 0 ? UINT64_MAX : UW(a) == 0x80000000u && UW(b) == UINT32_MAX ? SIGNED32(a) : SIGNED32(W(a) / W(b)))
OP(divuw, UW(b) == 0 ? UINT64_MAX : SIGNED32(UW(a) / UW(b)))
OP(remw, UW(b) == 0 ? SIGNED32(a) : UW(a) == 0x80000000u && UW(b) == UINT32_MAX ? 0 : SIGNED32(W(a) % W(b)))
OP(remuw, UW(b) == 0 ? SIGNED32(a) : SIGNED32(UW(a) % UW(b)))
OP(add, a + b)
OP(sub, a - b)
OP(addw, SIGNED32(a + b))
OP(subw, SIGNED32(a - b))
OP(sll, a << (b & 63))
OP(srl, a >> (b & 63))
OP(sra, (uint64_t)(S(a) >> (b & 63)))
OP(sllw, SIGNED32(UW(a) << (b & 31)))
OP(srlw, SIGNED32(UW(a) >> (b & 31)))
OP(sraw, SIGNED32(W(a) >> (b & 31)))
OP(slt, S(a) < S(b))
OP(sltu, a < b)
OP(and, a & b)
OP(or, a | b)
OP(xor, a ^ b)

struct row {
    const char *name;
    uint64_t (*run)(uint64_t, uint64_t), (*want)(uint64_t, uint64_t);
};

#define ROW(name) {#name, do_##name, want_##name}
static const struct row rows[] = {
    ROW(mul), ROW(mulh), ROW(mulhu), ROW(mulhsu), ROW(mulw), ROW(div), ROW(divu), ROW(rem), ROW(remu), ROW(divw),
    ROW(divuw), ROW(remw), ROW(remuw), ROW(add), ROW(sub), ROW(addw), ROW(subw), ROW(sll), ROW(srl), ROW(sra),
    ROW(sllw), ROW(srlw), ROW(sraw), ROW(slt), ROW(sltu), ROW(and), ROW(or), ROW(xor),
};

static const uint64_t edges[] = {0, 1, 2, 3, 31, 32, 33, 63, 64, 0x7fffffff, 0x80000000, 0xffffffff,
                                 UINT64_C(0x100000000), UINT64_C(0xffffffff80000000), UINT64_C(0xffffffff7fffffff), INT64_MAX, UINT64_C(1) << 63,
                                 (UINT64_C(1) << 63) + 1, UINT64_MAX - 1, UINT64_MAX};

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 1) * 1000;
    const unsigned long many = sizeof edges / sizeof *edges;
    int failed = 0;
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        uint64_t seed = 23 + k, hash = GUEST_HASH;
        for (unsigned long i = 0; i < n + many * many; i++) {
            uint64_t a, b;
            if (i < many * many && n > 0) {
                a = edges[i / many], b = edges[i % many];
            } else {
                a = guest_random(&seed), b = guest_random(&seed);
                unsigned narrow = (unsigned)(a >> 58);
                if (i & 1)
                    b >>= narrow;
                if (i & 2)
                    a = (uint64_t)((int64_t)a >> (narrow ^ 21));
            }
            uint64_t got = rows[k].run(a, b), want = rows[k].want(a, b);
            hash = guest_mix(hash, got);
            if (got != want && failed++ < 20)
                printf("WRONG %s %016llx %016llx: %016llx, not %016llx\n", rows[k].name, (unsigned long long)a,
                       (unsigned long long)b, (unsigned long long)got, (unsigned long long)want);
            if (n == 0 && i > 20)
                break;
        }
        printf("%-6s %016llx\n", rows[k].name, (unsigned long long)hash);
    }
    return failed != 0;
}
