/* The C library's string and memory routines against plain loops, at all alignments. Size: longest length tried. */
#include "guest.h"

/* Through volatile pointers, so that the library's own code runs and nothing is folded. */
static void *(*volatile do_memcpy)(void *, const void *, size_t) = memcpy;
static void *(*volatile do_memmove)(void *, const void *, size_t) = memmove;
static void *(*volatile do_memset)(void *, int, size_t) = memset;
static int (*volatile do_memcmp)(const void *, const void *, size_t) = memcmp;
static void *(*volatile do_memchr)(const void *, int, size_t) = memchr;
static size_t (*volatile do_strlen)(const char *) = strlen;
static int (*volatile do_strcmp)(const char *, const char *) = strcmp;
static int (*volatile do_strncmp)(const char *, const char *, size_t) = strncmp;
static char *(*volatile do_strcpy)(char *, const char *) = strcpy;
static char *(*volatile do_strncpy)(char *, const char *, size_t) = strncpy;
static char *(*volatile do_strcat)(char *, const char *) = strcat;
static char *(*volatile do_strchr)(const char *, int) = strchr;
static char *(*volatile do_strrchr)(const char *, int) = strrchr;
static char *(*volatile do_strstr)(const char *, const char *) = strstr;
static size_t (*volatile do_strspn)(const char *, const char *) = strspn;
static size_t (*volatile do_strcspn)(const char *, const char *) = strcspn;

#define ALIGN 8
#define EDGE 32

static unsigned char *source, *target, *model;
static size_t area;
static unsigned long failures, checks;

static void expect(int right, const char *what, size_t a, size_t b, size_t n) {
    checks++;
    if (!right && failures++ < 10)
        printf("WRONG %s at alignments %zu and %zu, length %zu\n", what, a, b, n);
}

static int sign(int x) { return (x > 0) - (x < 0); }

static int same(void) {
    for (size_t i = 0; i < area; i++)
        if (target[i] != model[i])
            return 0;
    return 1;
}

static void reset(void) {
    for (size_t i = 0; i < area; i++)
        target[i] = model[i] = (unsigned char)(i * 7 + 1);
}

static void copies(size_t a, size_t b, size_t n) {
    reset();
    for (size_t i = 0; i < n; i++)
        model[EDGE + b + i] = source[EDGE + a + i];
    expect(do_memcpy(target + EDGE + b, source + EDGE + a, n) == target + EDGE + b && same(), "memcpy", a, b, n);
    /* overlapping, both directions */
    reset();
    unsigned char *from = model + EDGE + a, *to = model + EDGE + b;
    if (to <= from)
        for (size_t i = 0; i < n; i++)
            to[i] = from[i];
    else
        for (size_t i = n; i-- > 0;)
            to[i] = from[i];
    do_memmove(target + EDGE + b, target + EDGE + a, n);
    expect(same(), "memmove", a, b, n);
    reset();
    for (size_t i = 0; i < n; i++)
        model[EDGE + a + i] = (unsigned char)(b * 31 + 5);
    do_memset(target + EDGE + a, (int)(b * 31 + 5 + 0x5500), n);
    expect(same(), "memset", a, b, n);
}

static void comparisons(size_t a, size_t b, size_t n) {
    unsigned char *x = target + EDGE + a, *y = model + EDGE + b;
    for (size_t i = 0; i < n; i++)
        x[i] = y[i] = (unsigned char)('a' + i % 26);
    x[n] = y[n] = 0;
    expect(do_memcmp(x, y, n) == 0 && do_strcmp((char *)x, (char *)y) == 0, "equal", a, b, n);
    expect(do_strlen((char *)x) == n, "strlen", a, b, n);
    expect(do_strchr((char *)x, 0) == (char *)x + n, "strchr 0", a, b, n);
    expect(do_memchr(x, 0, n) == NULL && do_memchr(x, 0, n + 1) == x + n, "memchr", a, b, n);
    expect(do_strchr((char *)x, '!') == NULL, "strchr absent", a, b, n);
    /* one differing byte, at a few places; values over 127 must compare unsigned */
    for (size_t at = n == 0 ? 1 : 0; at < n; at += 1 + n / 3) {
        unsigned char keep = y[at];
        y[at] = 0xf0;
        expect(sign(do_memcmp(x, y, n)) == -1 && sign(do_strcmp((char *)y, (char *)x)) == 1, "differ", a, b, n);
        expect(do_strncmp((char *)x, (char *)y, at) == 0 && do_strncmp((char *)x, (char *)y, at + 1) < 0, "strncmp", a, b, n);
        expect(do_strchr((char *)y, 0xf0) == (char *)y + at && do_strrchr((char *)y, 0xf0) == (char *)y + at, "strchr", a, b, n);
        expect(do_strcspn((char *)y, "\xf0") == at, "strcspn", a, b, n);
        y[at] = keep;
    }
}

static void building(size_t a, size_t b, size_t n) {
    unsigned char *x = source + EDGE + a;
    unsigned char keep = x[n];
    for (size_t i = 0; i < n; i++)
        if (x[i] == 0)
            x[i] = 1;
    x[n] = 0;
    reset();
    for (size_t i = 0; i <= n; i++)
        model[EDGE + b + i] = x[i];
    do_strcpy((char *)target + EDGE + b, (char *)x);
    expect(same(), "strcpy", a, b, n);
    for (size_t i = 0; i <= n; i++)
        model[EDGE + b + n + i] = x[i];
    do_strcat((char *)target + EDGE + b, (char *)x);
    expect(same(), "strcat", a, b, n);
    reset();
    for (size_t i = 0; i < n + 9; i++)
        model[EDGE + b + i] = i < n ? x[i] : 0;
    do_strncpy((char *)target + EDGE + b, (char *)x, n + 9);
    expect(same(), "strncpy", a, b, n);
    x[n] = keep;
}

int main(int argc, char **argv) {
    size_t longest = guest_size(argc, argv, 40);
    area = 2 * longest + 2 * EDGE + 64;
    source = malloc(area), target = malloc(area), model = malloc(area);
    if (!source || !target || !model)
        return 1;
    uint64_t seed = 77;
    for (size_t i = 0; i < area; i++)
        source[i] = (unsigned char)(guest_random(&seed) >> 57) + 1;
    for (size_t n = 0; n <= longest; n += n < 40 ? 1 : 17)
        for (size_t a = 0; a < (longest ? ALIGN : 3); a++)
            for (size_t b = 0; b < (longest ? ALIGN : 3); b++) {
                copies(a, b, n);
                comparisons(a, b, n);
                building(a, b, n);
            }
    char text[] = "the needle is in the haystack, not in the needles";
    printf("strstr %td %td %d\n", do_strstr(text, "needles") - text, do_strstr(text, "hay") - text,
           do_strstr(text, "straw") == NULL);
    printf("strspn %zu\n", do_strspn(text, "the nd"));
    printf("checks %lu failures %lu hash %016llx\n", checks, failures,
           (unsigned long long)guest_hash(guest_hash(GUEST_HASH, target, area), model, area));
    return failures != 0;
}
