/* A growing hash table of strings (open addressing) and one of numbers (chains), filled, searched and emptied. Size: thousands
 * of keys. Loads that depend on each other, short loops over bytes, allocation. */
#include "guest.h"

struct word {
    char *text;
    uint32_t length;
    uint64_t hash, count;
};

static struct word *words;
static size_t room, used;

static NOINLINE uint64_t hash_text(const char *text, size_t n) { return guest_hash(GUEST_HASH, text, n) | 1; }

static NOINLINE struct word *slot(const char *text, size_t n, uint64_t hash) {
    size_t i = (size_t)(hash >> 7) & (room - 1);
    while (words[i].hash && (words[i].hash != hash || words[i].length != n || memcmp(words[i].text, text, n) != 0))
        i = (i + 1) & (room - 1);
    return &words[i];
}

static void grow(void) {
    struct word *old = words;
    size_t before = room;
    room *= 2;
    words = calloc(room, sizeof *words);
    if (!words)
        exit(1);
    for (size_t i = 0; i < before; i++)
        if (old[i].hash)
            *slot(old[i].text, old[i].length, old[i].hash) = old[i];
    free(old);
}

static void count(const char *text, size_t n) {
    uint64_t hash = hash_text(text, n);
    struct word *w = slot(text, n, hash);
    if (!w->hash) {
        if (used * 4 >= room * 3) {
            grow();
            w = slot(text, n, hash);
        }
        char *copy = malloc(n + 1);
        if (!copy)
            exit(1);
        memcpy(copy, text, n);
        copy[n] = 0;
        *w = (struct word){copy, (uint32_t)n, hash, 0};
        used++;
    }
    w->count++;
}

static size_t write_word(char *out, uint64_t r) {
    static const char letters[] = "etaoinshrdlucmfw";
    size_t n = 0;
    do
        out[n++] = letters[r & 15];
    while ((r >>= 4) && n < 14);
    return n;
}

struct node {
    struct node *next;
    uint64_t key, value;
};

#define BUCKETS 4096
static struct node *buckets[BUCKETS];

static NOINLINE struct node **where(uint64_t key) {
    struct node **at = &buckets[key * UINT64_C(0x9e3779b97f4a7c15) >> 52];
    while (*at && (*at)->key != key)
        at = &(*at)->next;
    return at;
}

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 4) * 1000;
    if (n == 0)
        n = 60;
    room = 16;
    words = calloc(room, sizeof *words);
    if (!words)
        return 1;
    uint64_t seed = 41, hash = GUEST_HASH;
    char text[16];
    for (unsigned long i = 0; i < n; i++) {
        /* a product of two uniform numbers: some words are far more frequent than others */
        uint64_t r = guest_random(&seed);
        count(text, write_word(text, (r >> 44) * (r & 0xfffff) >> 20));
    }
    uint64_t most = 0;
    for (size_t i = 0; i < room; i++)
        if (words[i].hash) {
            most = words[i].count > most ? words[i].count : most;
            hash ^= words[i].hash * words[i].count;
            free(words[i].text);
        }
    printf("%lu words, %zu of them different, most frequent %llu, %016llx\n", n, used, (unsigned long long)most,
           (unsigned long long)hash);
    unsigned long held = 0, removed = 0;
    for (unsigned long i = 0; i < n; i++) {
        uint64_t key = guest_random(&seed) % (n / 2 + 1);
        struct node **at = where(key);
        if (!*at) {
            struct node *fresh = malloc(sizeof *fresh);
            if (!fresh)
                return 1;
            *fresh = (struct node){NULL, key, i};
            *at = fresh;
            held++;
        } else if (i % 3 == 0) {
            struct node *gone = *at;
            *at = gone->next;
            free(gone);
            held--, removed++;
        } else {
            (*at)->value += i;
        }
    }
    for (int i = 0; i < BUCKETS; i++)
        for (struct node *p = buckets[i], *next; p; p = next) {
            next = p->next;
            hash = guest_mix(hash, p->key ^ p->value);
            free(p);
        }
    printf("held %lu removed %lu %016llx\n", held, removed, (unsigned long long)hash);
    free(words);
    return 0;
}
