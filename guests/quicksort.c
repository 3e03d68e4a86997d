/* Sorting three ways: our own quicksort, the C library's qsort with a comparison function, and strings. Size: elements. */
#include "guest.h"

static NOINLINE void quicksort(uint32_t *v, long low, long high) {
    while (high - low > 12) {
        long middle = low + (high - low) / 2;
        uint32_t a = v[low], b = v[middle], c = v[high];
        uint32_t pivot = a < b ? (b < c ? b : (a < c ? c : a)) : (a < c ? a : (b < c ? c : b));
        long i = low, j = high;
        while (i <= j) {
            while (v[i] < pivot)
                i++;
            while (v[j] > pivot)
                j--;
            if (i <= j) {
                uint32_t t = v[i];
                v[i++] = v[j];
                v[j--] = t;
            }
        }
        /* Recurse into the smaller part, so that the depth stays logarithmic. */
        if (j - low < high - i) {
            quicksort(v, low, j);
            low = i;
        } else {
            quicksort(v, i, high);
            high = j;
        }
    }
    for (long i = low + 1; i <= high; i++) {
        uint32_t t = v[i];
        long j = i - 1;
        for (; j >= low && v[j] > t; j--)
            v[j + 1] = v[j];
        v[j + 1] = t;
    }
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static int sorted(const uint32_t *v, long n) {
    for (long i = 1; i < n; i++)
        if (v[i - 1] > v[i])
            return 0;
    return 1;
}

int main(int argc, char **argv) {
    long n = (long)guest_size(argc, argv, 20000);
    uint32_t *ours = malloc(n * sizeof *ours + 1), *theirs = malloc(n * sizeof *theirs + 1);
    long words = n / 8;
    char **texts = malloc(words * sizeof *texts + 1), *letters = malloc(words * 8 + 1);
    if (!ours || !theirs || !texts || !letters)
        return 1;
    uint64_t seed = 42;
    for (long i = 0; i < n; i++)
        ours[i] = theirs[i] = (uint32_t)(guest_random(&seed) >> (i % 3 == 0 ? 56 : 32));
    for (long i = 0; i < words; i++) {
        texts[i] = letters + 8 * i;
        int length = (int)(guest_random(&seed) >> 61);
        for (int k = 0; k < length; k++)
            texts[i][k] = (char)('a' + (guest_random(&seed) >> 62));
        texts[i][length] = 0;
    }
    quicksort(ours, 0, n - 1);
    qsort(theirs, n, sizeof *theirs, by_value);
    qsort(texts, words, sizeof *texts, by_text);
    int texts_sorted = 1;
    uint64_t hash = GUEST_HASH;
    for (long i = 0; i < words; i++) {
        if (i > 0 && strcmp(texts[i - 1], texts[i]) > 0)
            texts_sorted = 0;
        hash = guest_hash(hash, texts[i], strlen(texts[i]) + 1);
    }
    printf("sorted %d equal %d hash %016llx\n", sorted(ours, n), memcmp(ours, theirs, n * sizeof *ours) == 0,
           (unsigned long long)guest_hash(GUEST_HASH, ours, n * sizeof *ours));
    printf("texts sorted %d hash %016llx\n", texts_sorted, (unsigned long long)hash);
    return 0;
}
