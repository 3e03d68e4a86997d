/* printf, strtod, strtol and friends on many formats and values. Size: random doubles that make the round trip. */
#include "guest.h"
#include <ctype.h>
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>

static double from_bits(uint64_t bits) {
    double d;
    memcpy(&d, &bits, 8);
    return d;
}

static uint64_t to_bits(double d) {
    uint64_t bits;
    memcpy(&bits, &d, 8);
    return bits;
}

static void formats(void) {
    static const double values[] = {0.0, -0.0, 1.0, -1.5, 0.1, 2.5, 3.5, 0.5, 1e10, 123456.789, 9.999999, 1e-5, 1e100,
                                    DBL_MAX, DBL_MIN, 4.9406564584124654e-324, 2.2250738585072011e-308, 5e-324 * 12345,
                                    INFINITY, -INFINITY, 1.0 / 3, 9007199254740993.0, 0.000123456};
    static const char *const float_formats[] = {"%f", "%e", "%g", "%a", "%.0f", "%.1f", "%.3e", "%.0e", "%.17g", "%.12g",
                                                "%+.2f", "% .2f", "%012.3f", "%-14.4e|", "%#.0f", "%#g", "%G", "%E",
                                                "%.20f", "%.40g", "%.3a", "%20.10f", "%.0a"};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        printf("%zu:", i);
        for (size_t k = 0; k < sizeof float_formats / sizeof *float_formats; k++) {
            putchar(' ');
            printf(float_formats[k], values[i]);
        }
        putchar('\n');
    }
    printf("nan %f %5.1f %F %e %g\n", fabs(NAN), fabs(NAN), fabs(NAN), fabs(NAN), fabs(NAN));
    printf("half to even: %.0f %.0f %.0f %.0f %.1f %.1f %.2f\n", 0.5, 1.5, 2.5, -2.5, 0.25, 0.35, 1.005);
    printf("long double %Lf %Le %.30Lg %La\n", 1.0L / 3, -1e300L * 1e300L, 2.0L / 3, 0.1L);

    static const long long numbers[] = {0, 1, -1, 42, -42, INT_MAX, INT_MIN, LLONG_MAX, LLONG_MIN, 255, 1000000007};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        long long n = numbers[i];
        printf("%lld|%+lld|% lld|%24lld|%-24lld|%024lld|%.5lld|%llu|%llx|%#llX|%#llo\n", n, n, n, n, n, n, n,
               (unsigned long long)n, (unsigned long long)n, (unsigned long long)n, (unsigned long long)n);
        printf("%d|%hd|%hhd|%u|%x|%#x|%o|%5d|%-5d|%05d|%.3d\n", (int)n, (short)n, (signed char)n, (unsigned)n,
               (unsigned)n, (unsigned)n, (unsigned)n, (int)n, (int)n, (int)n, (int)n);
    }
    printf("%s|%10s|%-10s|%.3s|%10.2s|%c|%5c|%%|%*d|%-*d|%.*f\n", "text", "text", "text", "text", "text", 'c', 'c', 6, 42,
           6, 42, 3, 2.0 / 3);
    printf("%2$s %1$s\n", "second", "first");
    char small[8];
    int wanted = snprintf(small, sizeof small, "%d-%s", 12345, "truncated");
    printf("snprintf %d '%s'\n", wanted, small);
    int count = 0;
    sscanf("17 -4 0x1f abc 3.25", "%d%n", &wanted, &count);
    printf("sscanf %d at %d\n", wanted, count);
    int a, b;
    unsigned x;
    char word[16];
    double d;
    int got = sscanf("17 -4 0x1f abc 3.25", "%d %i %x %15s %lf", &a, &b, &x, word, &d);
    printf("sscanf %d: %d %d %x %s %g\n", got, a, b, x, word, d);
}

static void parsing(void) {
    static const char *const texts[] = {
        "0", "-0", "1", "1.", ".5", "1e5", "1E-5", "  12.5xyz", "+3", "-", "", "e5", "0x1p0", "0x1.8p3", "-0x.4p-2", "0x",
        "0x1p-1074", "0x1p-1075", "0x1.8p-1075", "0x1.fffffffffffff8p0", "0x1.fffffffffffff7p0", "inf", "-INFINITY",
        "infinit", "nan", "1e308", "1.8e308", "1e309", "-1e400", "1e-323", "2e-324", "3e-324", "1e-400",
        "2.2250738585072012e-308", "2.2250738585072011e-308", "9007199254740993", "9007199254740992.5",
        "9007199254740993.00000000000000000000000000000000000001", "1.7976931348623157e308", "1.7976931348623159e308",
        "123456789012345678901234567890", "0.1", "0.30000000000000004", "1e23", "8.5e22", "1e22", "5e-324",
        "2.47032822920623272088284396434110686182e-324", "2.47032822920623272088284396434110686183e-324",
        "6.631236846766476e-316", "179769313486231580793728971405301e276", "1_000", "1,5", "0e99999999999", "1e-99999999999"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char *end;
        errno = 0;
        double d = strtod(texts[i], &end);
        if (d != d)
            d = fabs(NAN);
        printf("strtod '%s' %a %.17g rest '%s' range %d\n", texts[i], d, d, end, errno == ERANGE);
        float f = strtof(texts[i], NULL);
        printf("strtof %a\n", (double)(f != f ? fabsf((float)NAN) : f));
    }
    static const char *const wholes[] = {"0", "-1", "42abc", "0x7f", "077", "08", "zz", "9223372036854775807",
                                         "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
                                         "18446744073709551616", "  +5", "", "0x", "1010"};
    static const int bases[] = {0, 2, 8, 10, 16, 36};
    for (size_t i = 0; i < sizeof wholes / sizeof *wholes; i++) {
        printf("strtol '%s'", wholes[i]);
        for (size_t k = 0; k < sizeof bases / sizeof *bases; k++) {
            char *end;
            errno = 0;
            long v = strtol(wholes[i], &end, bases[k]);
            int range = errno == ERANGE;
            errno = 0;
            unsigned long u = strtoul(wholes[i], NULL, bases[k]);
            printf(" %ld/%lu/%td%s", v, u, end - wholes[i], range ? "!" : "");
        }
        putchar('\n');
    }
}

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 200);
    if (n >= 100) {
        formats();
        parsing();
    } else {
        printf("%d %s %.3f %e %g %a\n", 42, "text", 3.14159, 1e-300, 0.1, 5e-324);
    }
    uint64_t seed = 37, hash = GUEST_HASH;
    unsigned long wrong = 0;
    for (unsigned long i = 0; i < n; i++) {
        uint64_t bits = guest_random(&seed);
        if (i % 8 == 0)
            bits &= ~(UINT64_C(0x7ff) << 52); /* a denormal */
        double d = from_bits(bits);
        if (d != d || d - d != 0)
            continue;
        char text[64];
        int length = sprintf(text, "%.17g", d);
        hash = guest_hash(hash, text, (size_t)length);
        wrong += to_bits(strtod(text, NULL)) != bits;
        sprintf(text, "%a", d);
        wrong += to_bits(strtod(text, NULL)) != bits;
        float f = (float)d;
        if (f - f == 0) {
            length = sprintf(text, "%.9g", (double)f);
            wrong += strtof(text, NULL) != f;
        }
        length = sprintf(text, "%.*f", (int)(i % 20), from_bits((bits & ~(UINT64_C(0x7ff) << 52)) | UINT64_C(0x405) << 52));
        hash = guest_hash(hash, text, (size_t)length);
    }
    printf("%lu doubles: text %016llx, wrong %lu\n", n, (unsigned long long)hash, wrong);
    return wrong != 0;
}
