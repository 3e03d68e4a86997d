/* Matrix product in double, float and 32-bit integers. Size: rows. The entries are small whole numbers, so every sum is
 * exact and the order of additions (or a fused multiply-add) cannot change a bit. */
#include "guest.h"

static NOINLINE void multiply_double(int n, const double *a, const double *b, double *c) {
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n; k++) {
            double f = a[i * n + k];
            for (int j = 0; j < n; j++)
                c[i * n + j] += f * b[k * n + j];
        }
}

static NOINLINE void multiply_float(int n, const float *a, const float *b, float *c) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            float sum = 0.0f;
            for (int k = 0; k < n; k++)
                sum += a[i * n + k] * b[k * n + j];
            c[i * n + j] = sum;
        }
}

static NOINLINE void multiply_int(int n, const int32_t *a, const int32_t *b, int32_t *c) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            int32_t sum = 0;
            for (int k = 0; k < n; k++)
                sum += a[i * n + k] * b[k * n + j];
            c[i * n + j] = sum;
        }
}

int main(int argc, char **argv) {
    int n = (int)guest_size(argc, argv, 48);
    size_t cells = (size_t)n * n;
    double *a = calloc(cells + 1, 8), *b = calloc(cells + 1, 8), *c = calloc(cells + 1, 8);
    float *fa = calloc(cells + 1, 4), *fb = calloc(cells + 1, 4), *fc = calloc(cells + 1, 4);
    int32_t *ia = calloc(cells + 1, 4), *ib = calloc(cells + 1, 4), *ic = calloc(cells + 1, 4);
    if (!a || !b || !c || !fa || !fb || !fc || !ia || !ib || !ic)
        return 1;
    uint64_t seed = 3;
    for (size_t i = 0; i < cells; i++) {
        ia[i] = (int32_t)(guest_random(&seed) >> 58) - 32;
        ib[i] = (int32_t)(guest_random(&seed) >> 58) - 32;
        a[i] = ia[i], b[i] = ib[i];
        fa[i] = (float)ia[i], fb[i] = (float)ib[i];
    }
    multiply_double(n, a, b, c);
    multiply_float(n, fa, fb, fc);
    multiply_int(n, ia, ib, ic);
    double trace = 0.0;
    int equal = 1;
    for (int i = 0; i < n; i++)
        trace += c[i * n + i];
    for (size_t i = 0; i < cells; i++)
        equal &= c[i] == (double)ic[i] && fc[i] == (float)ic[i];
    printf("%d: trace %.0f equal %d hash %016llx\n", n, trace, equal,
           (unsigned long long)guest_hash(GUEST_HASH, c, cells * 8));
    return 0;
}
