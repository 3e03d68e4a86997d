/* Iterations of z := z*z + c over a square of the plane. Size: pixels a side. Short double loops with a data-dependent exit. */
#include "guest.h"

static NOINLINE int iterations(double cx, double cy, int limit) {
    double x = 0.0, y = 0.0;
    int n = 0;
    while (n < limit) {
        double xx = x * x, yy = y * y;
        if (xx + yy > 4.0)
            break;
        y = 2.0 * x * y + cy;
        x = xx - yy + cx;
        n++;
    }
    return n;
}

int main(int argc, char **argv) {
    int size = (int)guest_size(argc, argv, 96);
    const int limit = 256;
    uint64_t hash = GUEST_HASH;
    unsigned long long total = 0, inside = 0;
    for (int row = 0; row < size; row++) {
        double cy = 2.5 * row / size - 1.25;
        for (int column = 0; column < size; column++) {
            int n = iterations(2.5 * column / size - 2.0, cy, limit);
            total += (unsigned)n;
            inside += n == limit;
            hash = guest_mix(hash, (uint64_t)n);
        }
    }
    printf("%d x %d: %llu iterations, %llu inside, %016llx\n", size, size, total, inside, (unsigned long long)hash);
    return 0;
}
