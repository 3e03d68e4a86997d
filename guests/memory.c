/* The C library's memory and string routines on blocks from 16 bytes to 64 KiB. Size: rounds. What counts is how fast the
 * library's own loops run; strings.c checks what they give. */
#include "guest.h"

static void *(*volatile do_memcpy)(void *, const void *, size_t) = memcpy;
static void *(*volatile do_memmove)(void *, const void *, size_t) = memmove;
static void *(*volatile do_memset)(void *, int, size_t) = memset;
static int (*volatile do_memcmp)(const void *, const void *, size_t) = memcmp;
static void *(*volatile do_memchr)(const void *, int, size_t) = memchr;
static size_t (*volatile do_strlen)(const char *) = strlen;
static int (*volatile do_strcmp)(const char *, const char *) = strcmp;
static char *(*volatile do_strcpy)(char *, const char *) = strcpy;
static char *(*volatile do_strchr)(const char *, int) = strchr;

#define LARGEST 65536
static char from[LARGEST + 64], to[LARGEST + 64];

int main(int argc, char **argv) {
    unsigned long rounds = guest_size(argc, argv, 4);
    static const size_t sizes[] = {16, 40, 100, 256, 1000, 4096, 20000, LARGEST};
    size_t kinds = rounds == 0 ? 3 : sizeof sizes / sizeof *sizes;
    unsigned long work = rounds == 0 ? 300 : LARGEST;
    uint64_t hash = GUEST_HASH, seed = 13;
    for (size_t i = 0; i < sizeof from; i++)
        from[i] = (char)('a' + (i * 7 + i / 11) % 26);
    for (unsigned long r = 0; r < (rounds ? rounds : 1); r++)
        for (size_t k = 0; k < kinds; k++) {
            size_t n = sizes[k];
            /* as many calls for each length as make up the same number of bytes */
            for (unsigned long i = 0; i <= work / n; i++) {
                uint64_t x = guest_random(&seed);
                size_t a = x >> 60, b = x >> 56 & 15;
                do_memcpy(to + a, from + b, n);
                do_memset(to + b, (int)('A' + (x & 15)), n / 2);
                do_memmove(to + b, to + a, n);
                char keep = to[a + n];
                to[a + n] = 0;
                size_t length = do_strlen(to + a);
                char *upper = do_strchr(to + a, 'z'), *end = do_memchr(to + a, 0, n + 1);
                do_strcpy(from + b, to + a);
                int same = do_strcmp(from + b, to + a), equal = do_memcmp(from + b, to + a, n);
                to[a + n] = keep;
                hash = guest_mix(hash, length + (uint64_t)(end - to) * 3 + (upper ? (uint64_t)(upper - to) : 1) +
                                           (uint64_t)(same == 0) + (uint64_t)(equal == 0) * 2);
            }
        }
    printf("%lu rounds %016llx %016llx\n", rounds, (unsigned long long)hash,
           (unsigned long long)guest_hash(guest_hash(GUEST_HASH, to, sizeof to), from, sizeof from));
    return 0;
}
