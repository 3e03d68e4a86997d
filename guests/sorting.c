/* Five ways to sort: the library's qsort with a comparison function, heap sort, merge sort, shell sort and by digits.
 * Size: thousands of elements. */
#include "guest.h"

static uint64_t *data, *copy, *spare;
static size_t n;

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static NOINLINE void with_library(void) { qsort(data, n, sizeof *data, ascending); }

static NOINLINE void with_heap(void) {
    size_t end = n, root = n / 2;
    while (end > 1) {
        if (root > 0) {
            root--;
        } else {
            uint64_t t = data[--end];
            data[end] = data[0];
            data[0] = t;
        }
        uint64_t sinking = data[root];
        size_t at = root, child;
        while ((child = 2 * at + 1) < end) {
            if (child + 1 < end && data[child + 1] > data[child])
                child++;
            if (data[child] <= sinking)
                break;
            data[at] = data[child];
            at = child;
        }
        data[at] = sinking;
    }
}

static void merge_part(uint64_t *a, uint64_t *t, size_t size) {
    if (size <= 12) {
        for (size_t i = 1; i < size; i++) {
            uint64_t x = a[i];
            size_t k = i;
            for (; k > 0 && a[k - 1] > x; k--)
                a[k] = a[k - 1];
            a[k] = x;
        }
        return;
    }
    size_t half = size / 2, i = 0, j = half, o = 0;
    merge_part(a, t, half);
    merge_part(a + half, t + half, size - half);
    while (i < half && j < size)
        t[o++] = a[i] <= a[j] ? a[i++] : a[j++];
    while (i < half)
        t[o++] = a[i++];
    memcpy(a, t, o * sizeof *a);
}

static NOINLINE void with_merges(void) { merge_part(data, spare, n); }

static NOINLINE void with_gaps(void) {
    size_t gap = 1;
    while (gap < n / 3)
        gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3)
        for (size_t i = gap; i < n; i++) {
            uint64_t x = data[i];
            size_t k = i;
            for (; k >= gap && data[k - gap] > x; k -= gap)
                data[k] = data[k - gap];
            data[k] = x;
        }
}

static NOINLINE void with_digits(void) {
    uint64_t *a = data, *b = spare;
    for (int shift = 0; shift < 64; shift += 8) {
        size_t starts[257] = {0};
        for (size_t i = 0; i < n; i++)
            starts[(a[i] >> shift & 255) + 1]++;
        for (int k = 0; k < 256; k++)
            starts[k + 1] += starts[k];
        for (size_t i = 0; i < n; i++)
            b[starts[a[i] >> shift & 255]++] = a[i];
        uint64_t *t = a;
        a = b, b = t;
    }
}

int main(int argc, char **argv) {
    n = guest_size(argc, argv, 4) * 1000;
    if (n == 0)
        n = 60;
    data = malloc(n * sizeof *data), copy = malloc(n * sizeof *copy), spare = malloc(n * sizeof *spare);
    if (!data || !copy || !spare)
        return 1;
    uint64_t seed = 19;
    for (size_t i = 0; i < n; i++)
        copy[i] = guest_random(&seed) >> (i % 3 == 0 ? 50 : 20);
    static const struct {
        const char *name;
        void (*run)(void);
    } ways[] = {{"qsort", with_library}, {"heap", with_heap}, {"merge", with_merges}, {"shell", with_gaps}, {"digits", with_digits}};
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        memcpy(data, copy, n * sizeof *data);
        ways[w].run();
        int sorted = 1;
        for (size_t i = 1; i < n; i++)
            sorted &= data[i - 1] <= data[i];
        printf("%s %s %016llx\n", ways[w].name, sorted ? "sorted" : "WRONG",
               (unsigned long long)guest_hash(GUEST_HASH, data, n * sizeof *data));
    }
    return 0;
}
