/* Floating-point operations on edge and random operands, as bit patterns. Size: rounds. NaNs are printed as one NaN, so
 * that machines which keep different payloads agree; the RISC-V part at the end keeps every bit and every flag. */
#include "guest.h"
#include <float.h>
#include <math.h>

static double d_of(uint64_t bits) {
    double d;
    memcpy(&d, &bits, 8);
    return d;
}

static float f_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static uint64_t bits_d(double d) {
    uint64_t bits;
    if (d != d)
        return UINT64_C(0x7ff8000000000000);
    memcpy(&bits, &d, 8);
    return bits;
}

static uint32_t bits_f(float f) {
    uint32_t bits;
    if (f != f)
        return 0x7fc00000;
    memcpy(&bits, &f, 4);
    return bits;
}

/* Machines differ in the sign of a NaN that a conversion makes. */
static float narrowed(uint64_t bits) { return f_of(bits_f((float)d_of(bits))); }

static const uint64_t edges[] = {
    0, UINT64_C(0x8000000000000000), 1, UINT64_C(0x8000000000000001), UINT64_C(0x000fffffffffffff),
    UINT64_C(0x0010000000000000), UINT64_C(0x3ff0000000000000), UINT64_C(0xbff0000000000000),
    UINT64_C(0x3ff0000000000001), UINT64_C(0x3fefffffffffffff), UINT64_C(0x4000000000000000),
    UINT64_C(0x43e0000000000000), UINT64_C(0x41dfffffffc00000), UINT64_C(0x7fefffffffffffff),
    UINT64_C(0x7ff0000000000000), UINT64_C(0xfff0000000000000), UINT64_C(0x7ff8000000000000),
    UINT64_C(0x7ff0000000000001), UINT64_C(0xfff8000000000001), UINT64_C(0x3810000000000000),
    UINT64_C(0x47efffffe0000000), UINT64_C(0x3690000000000000)};
#define EDGES (sizeof edges / sizeof *edges)

static NOINLINE uint64_t doubles(uint64_t hash, volatile double a, volatile double b, volatile double c) {
    hash = guest_mix(hash, bits_d(a + b));
    hash = guest_mix(hash, bits_d(a - b));
    hash = guest_mix(hash, bits_d(a * b));
    hash = guest_mix(hash, bits_d(a / b));
    hash = guest_mix(hash, bits_d(sqrt(a)));
    hash = guest_mix(hash, bits_d(fma(a, b, c)));
    hash = guest_mix(hash, bits_d(fma(-a, b, c)));
    hash = guest_mix(hash, bits_d(fma(a, b, -c)));
    hash = guest_mix(hash, bits_d(-fma(a, b, c)));
    hash = guest_mix(hash, bits_d(copysign(a, b)));
    hash = guest_mix(hash, bits_d(fabs(b)));
    hash = guest_mix(hash, (uint64_t)(a < b) | (uint64_t)(a <= b) << 1 | (uint64_t)(a == b) << 2 | (uint64_t)(a > b) << 3 |
                               (uint64_t)(a >= b) << 4 | (uint64_t)(a != b) << 5 | (uint64_t)isunordered(a, b) << 6);
    hash = guest_mix(hash, (uint64_t)fpclassify(a) << 1 | (signbit(a) != 0));
    hash = guest_mix(hash, bits_f((float)a));
    if (a > -9e18 && a < 9e18)
        hash = guest_mix(hash, (uint64_t)(int64_t)a);
    if (a > -2e9 && a < 2e9)
        hash = guest_mix(hash, (uint64_t)(int32_t)a);
    if (a > -1 && a < 1.8e19)
        hash = guest_mix(hash, (uint64_t)a);
    hash = guest_mix(hash, bits_d(floor(a)) + bits_d(ceil(b)) + bits_d(trunc(c)) + bits_d(round(a)));
    return hash;
}

static NOINLINE uint64_t singles(uint64_t hash, volatile float a, volatile float b, volatile float c) {
    hash = guest_mix(hash, bits_f(a + b));
    hash = guest_mix(hash, bits_f(a - b));
    hash = guest_mix(hash, bits_f(a * b));
    hash = guest_mix(hash, bits_f(a / b));
    hash = guest_mix(hash, bits_f(sqrtf(a)));
    hash = guest_mix(hash, bits_f(fmaf(a, b, c)));
    hash = guest_mix(hash, bits_f(fmaf(-a, b, -c)));
    hash = guest_mix(hash, bits_f(copysignf(a, b)));
    hash = guest_mix(hash, (uint64_t)(a < b) | (uint64_t)(a <= b) << 1 | (uint64_t)(a == b) << 2);
    hash = guest_mix(hash, bits_d((double)a));
    if (a > -2e9f && a < 2e9f)
        hash = guest_mix(hash, (uint64_t)(int64_t)a);
    return hash;
}

static NOINLINE uint64_t wholes(uint64_t hash, volatile int64_t a) {
    hash = guest_mix(hash, bits_d((double)a));
    hash = guest_mix(hash, bits_d((double)(uint64_t)a));
    hash = guest_mix(hash, bits_d((double)(int32_t)a));
    hash = guest_mix(hash, bits_d((double)(uint32_t)a));
    hash = guest_mix(hash, bits_f((float)a));
    hash = guest_mix(hash, bits_f((float)(uint64_t)a));
    hash = guest_mix(hash, bits_f((float)(int32_t)a));
    hash = guest_mix(hash, bits_f((float)(uint32_t)a));
    return hash;
}

#ifdef __riscv
/* Each instruction on raw bits, its flags mixed in. */
#define FLAGS_CLEAR() __asm__ volatile("csrw fflags, zero")
static inline uint64_t flags_now(void) {
    uint64_t f;
    __asm__ volatile("csrr %0, fflags" : "=r"(f));
    return f;
}

#define TWO(insn)                                                                                                      \
    {                                                                                                                  \
        double r;                                                                                                      \
        FLAGS_CLEAR();                                                                                                 \
        __asm__ volatile(insn " %0, %1, %2" : "=f"(r) : "f"(a), "f"(b));                                               \
        uint64_t bits;                                                                                                 \
        __asm__ volatile("fmv.x.d %0, %1" : "=r"(bits) : "f"(r));                                                      \
        hash = guest_mix(guest_mix(hash, bits), flags_now());                                                          \
    }
#define THREE(insn)                                                                                                    \
    {                                                                                                                  \
        double r;                                                                                                      \
        FLAGS_CLEAR();                                                                                                 \
        __asm__ volatile(insn " %0, %1, %2, %3" : "=f"(r) : "f"(a), "f"(b), "f"(c));                                   \
        uint64_t bits;                                                                                                 \
        __asm__ volatile("fmv.x.d %0, %1" : "=r"(bits) : "f"(r));                                                      \
        hash = guest_mix(guest_mix(hash, bits), flags_now());                                                          \
    }
#define ONE(insn)                                                                                                      \
    {                                                                                                                  \
        double r;                                                                                                      \
        FLAGS_CLEAR();                                                                                                 \
        __asm__ volatile(insn " %0, %1" : "=f"(r) : "f"(a));                                                           \
        uint64_t bits;                                                                                                 \
        __asm__ volatile("fmv.x.d %0, %1" : "=r"(bits) : "f"(r));                                                      \
        hash = guest_mix(guest_mix(hash, bits), flags_now());                                                          \
    }
#define COMPARE(insn)                                                                                                  \
    {                                                                                                                  \
        uint64_t r;                                                                                                    \
        FLAGS_CLEAR();                                                                                                 \
        __asm__ volatile(insn " %0, %1, %2" : "=r"(r) : "f"(a), "f"(b));                                               \
        hash = guest_mix(guest_mix(hash, r), flags_now());                                                             \
    }
#define TO_WHOLE(insn)                                                                                                 \
    {                                                                                                                  \
        uint64_t r;                                                                                                    \
        FLAGS_CLEAR();                                                                                                 \
        __asm__ volatile(insn " %0, %1" : "=r"(r) : "f"(a));                                                           \
        hash = guest_mix(guest_mix(hash, r), flags_now());                                                             \
    }
#define FROM_WHOLE(insn)                                                                                               \
    {                                                                                                                  \
        double r;                                                                                                      \
        FLAGS_CLEAR();                                                                                                 \
        __asm__ volatile(insn " %0, %1" : "=f"(r) : "r"(whole));                                                       \
        uint64_t bits;                                                                                                 \
        __asm__ volatile("fmv.x.d %0, %1" : "=r"(bits) : "f"(r));                                                      \
        hash = guest_mix(guest_mix(hash, bits), flags_now());                                                          \
    }

/* One line a group, so that a difference names its instructions. The operands are raw: single-precision instructions
 * also meet registers that are not NaN-boxed. */
static void raw(unsigned long n) {
    static const char *const names[] = {"arithmetic.d", "arithmetic.s", "fma.d", "fma.s", "minmax", "sign", "compare", "sqrt",
                                        "to-whole.d", "to-whole.s", "from-whole", "convert", "class-move"};
    for (int group = 0; group < 13; group++) {
        uint64_t seed = 53, hash = GUEST_HASH;
        for (unsigned long i = 0; i < n; i++) {
            uint64_t x = guest_random(&seed), y = guest_random(&seed), z = guest_random(&seed), whole = guest_random(&seed);
            unsigned pick = (unsigned)(whole & 15);
            if (pick < 4)
                x = edges[whole >> 8 & 15], y = edges[(whole >> 16) % EDGES], z = edges[(whole >> 24) % EDGES];
            if (pick == 4)
                x = edges[(whole >> 8) % EDGES], z = x ^ UINT64_C(1) << 63;
            if (pick >= 8 && pick < 14) { /* boxed singles */
                x = x >> 32 | UINT64_C(0xffffffff00000000);
                y = y >> 32 | UINT64_C(0xffffffff00000000);
                z = z >> 32 | UINT64_C(0xffffffff00000000);
                if (pick < 11) {
                    x = (x & ~UINT64_C(0x7f800000)) | UINT64_C(0x3f800000);
                    y = (y & ~UINT64_C(0x7f000000)) | UINT64_C(0x3f000000);
                }
            }
            if (pick == 5)
                whole >>= whole >> 58;
            double a = d_of(x), b = d_of(y), c = d_of(z);
            switch (group) {
            case 0: TWO("fadd.d") TWO("fsub.d") TWO("fmul.d") TWO("fdiv.d") break;
            case 1: TWO("fadd.s") TWO("fsub.s") TWO("fmul.s") TWO("fdiv.s") break;
            case 2: THREE("fmadd.d") THREE("fmsub.d") THREE("fnmadd.d") THREE("fnmsub.d") break;
            case 3: THREE("fmadd.s") THREE("fmsub.s") THREE("fnmadd.s") THREE("fnmsub.s") break;
            case 4: TWO("fmin.d") TWO("fmax.d") TWO("fmin.s") TWO("fmax.s") break;
            case 5: TWO("fsgnj.d") TWO("fsgnjn.d") TWO("fsgnjx.d") TWO("fsgnj.s") TWO("fsgnjn.s") TWO("fsgnjx.s") break;
            case 6: COMPARE("feq.d") COMPARE("flt.d") COMPARE("fle.d") COMPARE("feq.s") COMPARE("flt.s") COMPARE("fle.s") break;
            case 7: ONE("fsqrt.d") ONE("fsqrt.s") break;
            case 8: TO_WHOLE("fcvt.w.d") TO_WHOLE("fcvt.wu.d") TO_WHOLE("fcvt.l.d") TO_WHOLE("fcvt.lu.d") break;
            case 9: TO_WHOLE("fcvt.w.s") TO_WHOLE("fcvt.wu.s") TO_WHOLE("fcvt.l.s") TO_WHOLE("fcvt.lu.s") break;
            case 10:
                FROM_WHOLE("fcvt.d.w") FROM_WHOLE("fcvt.d.wu") FROM_WHOLE("fcvt.d.l") FROM_WHOLE("fcvt.d.lu")
                FROM_WHOLE("fcvt.s.w") FROM_WHOLE("fcvt.s.wu") FROM_WHOLE("fcvt.s.l") FROM_WHOLE("fcvt.s.lu")
                break;
            case 11: ONE("fcvt.s.d") ONE("fcvt.d.s") break;
            default: TO_WHOLE("fclass.d") TO_WHOLE("fclass.s") TO_WHOLE("fmv.x.w") FROM_WHOLE("fmv.w.x") break;
            }
        }
        printf("raw %-12s %016llx\n", names[group], (unsigned long long)hash);
    }
}
#endif

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 500);
    uint64_t hash = GUEST_HASH;
    unsigned long edge = n < 100 ? 3 : EDGES;
    for (unsigned long i = 0; i < edge * edge; i++)
        hash = doubles(hash, d_of(edges[i / edge]), d_of(edges[i % edge]), d_of(edges[(i * 7) % EDGES]));
    printf("double edges %016llx\n", (unsigned long long)hash);
    hash = GUEST_HASH;
    for (unsigned long i = 0; i < edge * edge; i++)
        hash = singles(hash, narrowed(edges[i / edge]), narrowed(edges[i % edge]), narrowed(edges[(i * 7) % EDGES]));
    printf("single edges %016llx\n", (unsigned long long)hash);
    uint64_t seed = 59, one = GUEST_HASH, two = GUEST_HASH, three = GUEST_HASH;
    for (unsigned long i = 0; i < n; i++) {
        uint64_t x = guest_random(&seed), y = guest_random(&seed), z = guest_random(&seed);
        if (i & 1) { /* magnitudes near one */
            x = (x & ~(UINT64_C(0x7f0) << 52)) | UINT64_C(0x3f0) << 52;
            y = (y & ~(UINT64_C(0x7f0) << 52)) | UINT64_C(0x3f0) << 52;
            z = (z & ~(UINT64_C(0x7f0) << 52)) | UINT64_C(0x3f0) << 52;
        }
        one = doubles(one, d_of(x), d_of(y), d_of(z));
        two = singles(two, f_of((uint32_t)(x >> 32)), f_of((uint32_t)(y >> 32)), f_of((uint32_t)(z >> 32)));
        three = wholes(three, (int64_t)x >> (y >> 58));
    }
    printf("random doubles %016llx singles %016llx wholes %016llx\n", (unsigned long long)one, (unsigned long long)two,
           (unsigned long long)three);
#ifdef __riscv
    raw(n);
#endif
    return 0;
}
