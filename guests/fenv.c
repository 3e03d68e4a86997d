/* Rounding modes and exception flags through <fenv.h>. Size: rounds of random operands. */
#include "guest.h"
#include <fenv.h>
#include <float.h>
#include <math.h>

static const int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
static const char *const mode_names[] = {"nearest", "zero", "down", "up"};

static const char *flags(void) {
    static char text[8];
    int f = fetestexcept(FE_ALL_EXCEPT), n = 0;
    if (f & FE_INVALID)
        text[n++] = 'V';
    if (f & FE_DIVBYZERO)
        text[n++] = 'Z';
    if (f & FE_OVERFLOW)
        text[n++] = 'O';
    if (f & FE_UNDERFLOW)
        text[n++] = 'U';
    if (f & FE_INEXACT)
        text[n++] = 'X';
    if (n == 0)
        text[n++] = '-';
    text[n] = 0;
    return text;
}

static NOINLINE double operate(int which, volatile double a, volatile double b) {
    switch (which) {
    case 0: return a + b;
    case 1: return a - b;
    case 2: return a * b;
    case 3: return a / b;
    case 4: return sqrt(a);
    case 5: return fma(a, b, 1.0);
    case 6: return (double)(float)a;
    case 7: return (float)a * (float)b;
    case 8: return (float)a / (float)b;
    default: return (float)a + (float)b;
    }
}

#define OPERATIONS 10

static uint64_t bits_of(double d) {
    uint64_t bits;
    if (d != d)
        return UINT64_C(0x7ff8000000000000);
    memcpy(&bits, &d, 8);
    return bits;
}

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 100);
    static const double edges[] = {0.0, -0.0, 1.0, -1.0, 3.0, 1.0 / 3, 1e-30, DBL_MAX, DBL_MIN, 4.9406564584124654e-324,
                                   FLT_MAX, FLT_MIN, 1e-46, INFINITY, -INFINITY, 16777217.0};
    const int many = sizeof edges / sizeof *edges;
    printf("start mode %d flags %s\n", fegetround() == FE_TONEAREST, flags());
    for (int m = 0; m < 4; m++) {
        printf("%s: set %d", mode_names[m], fesetround(modes[m]));
        printf(" get %d\n", fegetround() == modes[m]);
        for (int which = 0; which < OPERATIONS; which++) {
            uint64_t hash = GUEST_HASH;
            for (int i = 0; i < (n < 100 ? 2 : many); i++)
                for (int j = 0; j < (n < 100 ? 2 : many); j++) {
                    feclearexcept(FE_ALL_EXCEPT);
                    double r = operate(which, edges[i], edges[j]);
                    const char *f = flags();
                    hash = guest_mix(hash, bits_of(r));
                    hash = guest_hash(hash, f, strlen(f));
                    if (n >= 100 && which < 4 && i < 7 && j < 7 && (i + j) % 3 == 0)
                        printf("  %d %a %a -> %a %s\n", which, edges[i], edges[j], r == r ? r : fabs(NAN), f);
                }
            uint64_t seed = 41;
            for (unsigned long i = 0; i < n; i++) {
                uint64_t a = guest_random(&seed), b = guest_random(&seed);
                if (i % 2) { /* exponents near each other, so that bits are lost in the middle */
                    a = (a & ~(UINT64_C(0x7ff) << 52)) | UINT64_C(0x3fe) << 52;
                    b = (b & ~(UINT64_C(0x7f0) << 52)) | UINT64_C(0x3f0) << 52;
                }
                double x, y;
                memcpy(&x, &a, 8);
                memcpy(&y, &b, 8);
                feclearexcept(FE_ALL_EXCEPT);
                double r = operate(which, x, y);
                const char *f = flags();
                hash = guest_mix(hash, bits_of(r));
                hash = guest_hash(hash, f, strlen(f));
            }
            printf("%s %d %016llx\n", mode_names[m], which, (unsigned long long)hash);
        }
        feclearexcept(FE_ALL_EXCEPT);
        volatile double halves[] = {0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.4999, 1e15 + 0.5};
        printf("rint");
        for (int i = 0; i < (n < 100 ? 2 : 8); i++)
            printf(" %g/%g/%ld", rint(halves[i]), nearbyint(halves[i]), lrint(halves[i]));
        printf(" %s\n", flags());
    }
    fesetround(FE_TONEAREST);

    feclearexcept(FE_ALL_EXCEPT);
    feraiseexcept(FE_DIVBYZERO | FE_INEXACT);
    printf("raised %s\n", flags());
    fenv_t saved;
    feholdexcept(&saved);
    printf("held %s\n", flags());
    volatile double zero = 0.0, result = zero / zero;
    (void)result;
    printf("invalid %s\n", flags());
    feupdateenv(&saved);
    printf("updated %s\n", flags());
    fexcept_t some;
    fegetexceptflag(&some, FE_INVALID);
    feclearexcept(FE_ALL_EXCEPT);
    fesetexceptflag(&some, FE_INVALID);
    printf("set %s\n", flags());
    fesetenv(FE_DFL_ENV);
    printf("default %s mode %d\n", flags(), fegetround() == FE_TONEAREST);

#ifdef __riscv
    /* Every rounding mode that an instruction can name, and the fifth one (to nearest, ties away) in frm. */
    static const double odd[] = {0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 2.4999, -7.75, 4503599627370497.5, 1e300, -1e300};
#define CONVERT(mode)                                                                                                  \
    for (int i = 0; i < 11; i++) {                                                                                     \
        long whole;                                                                                                    \
        int word;                                                                                                      \
        feclearexcept(FE_ALL_EXCEPT);                                                                                  \
        __asm__ volatile("fcvt.l.d %0, %1, " #mode : "=r"(whole) : "f"(odd[i]));                                       \
        __asm__ volatile("fcvt.w.d %0, %1, " #mode : "=r"(word) : "f"(odd[i]));                                        \
        printf("%s%ld/%d/%s", i ? " " : #mode " ", whole, word, flags());                                              \
    }                                                                                                                  \
    putchar('\n');
    CONVERT(rne)
    CONVERT(rtz)
    CONVERT(rdn)
    CONVERT(rup)
    CONVERT(rmm)
    unsigned long old, now;
    __asm__ volatile("fsrm %0, %1" : "=r"(old) : "r"(4));
    __asm__ volatile("frrm %0" : "=r"(now));
    printf("frm %lu then %lu\n", old, now);
    volatile double one = 1.0, tiny = 0x1p-53, three = 3.0;
    printf("ties away %a %a %a\n", one + tiny, -one - tiny, one / three);
    CONVERT(dyn)
    __asm__ volatile("csrw fcsr, zero");
    unsigned long all = 0xff, before;
    __asm__ volatile("csrrw %0, fcsr, %1\n\tcsrr %1, fflags" : "=r"(before), "+r"(all));
    printf("fcsr %lu fflags %lu", before, all);
    __asm__ volatile("csrrc %0, fflags, %1\n\tcsrr %1, fcsr" : "=r"(before), "+r"(all));
    printf(" then %lu %lx\n", before, all);
    __asm__ volatile("csrw fcsr, zero");
#endif
    return 0;
}
