/* What a small embedded program does, in four parts after one another: a linked list that is searched, reversed and sorted;
 * integer matrices; a state machine that reads numbers from text; a checksum over all results. Size: rounds. */
#include "guest.h"

#define ITEMS 240
#define SIDE 14
#define TEXT 640

/* -- list ------------------------------------------------------------------------------------------------------------ */

struct item {
    struct item *next;
    int16_t key, place;
};

static struct item items[ITEMS];

static uint16_t crc16(uint16_t crc, uint16_t value) {
    for (int k = 0; k < 16; k++) {
        uint16_t low = (uint16_t)((crc ^ value) & 1);
        crc >>= 1, value >>= 1;
        if (low)
            crc ^= 0xa001;
    }
    return crc;
}

static struct item *make_list(uint64_t *seed) {
    for (int i = 0; i < ITEMS; i++) {
        items[i].key = (int16_t)(guest_random(seed) >> 48);
        items[i].place = (int16_t)i;
        items[i].next = i + 1 < ITEMS ? &items[i + 1] : NULL;
    }
    return items;
}

static NOINLINE struct item *find(struct item *list, int16_t key) {
    while (list && (list->key & 0xff) != (key & 0xff))
        list = list->next;
    return list;
}

static NOINLINE struct item *reverse(struct item *list) {
    struct item *done = NULL;
    while (list) {
        struct item *next = list->next;
        list->next = done;
        done = list, list = next;
    }
    return done;
}

typedef int order(const struct item *, const struct item *);
static int by_key(const struct item *a, const struct item *b) { return a->key - b->key; }
static int by_place(const struct item *a, const struct item *b) { return a->place - b->place; }

/* Merges runs of doubling length, bottom up. */
static NOINLINE struct item *sort(struct item *list, order *compare) {
    for (int run = 1;; run *= 2) {
        struct item *p = list, *last = NULL;
        list = NULL;
        int merges = 0;
        while (p) {
            merges++;
            struct item *q = p;
            int np = 0, nq = run;
            while (np < run && q)
                np++, q = q->next;
            while (np > 0 || (nq > 0 && q)) {
                struct item *take;
                if (np > 0 && (nq == 0 || !q || compare(p, q) <= 0))
                    take = p, p = p->next, np--;
                else
                    take = q, q = q->next, nq--;
                if (last)
                    last->next = take;
                else
                    list = take;
                last = take;
            }
            p = q;
        }
        if (last)
            last->next = NULL;
        if (merges <= 1)
            return list;
    }
}

static uint16_t part_list(uint64_t *seed, uint16_t crc) {
    struct item *list = make_list(seed);
    int found = 0, missed = 0;
    for (int i = 0; i < 24; i++) {
        struct item *hit = find(list, (int16_t)(i * 11));
        if (hit) {
            found += hit->place & 7;
            hit->key ^= 0x55;
        } else {
            missed++;
        }
        list = reverse(list);
    }
    list = sort(list, by_key);
    for (struct item *p = list; p; p = p->next)
        if ((p->place & 15) == 0)
            crc = crc16(crc, (uint16_t)p->key);
    list = sort(list, by_place);
    return crc16(crc16(crc, (uint16_t)(found - missed)), (uint16_t)list->key);
}

/* -- matrix ---------------------------------------------------------------------------------------------------------- */

static int16_t a[SIDE][SIDE], b[SIDE][SIDE];
static int32_t c[SIDE][SIDE];

static NOINLINE void add_constant(int16_t m[SIDE][SIDE], int16_t k) {
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++)
            m[i][j] = (int16_t)(m[i][j] + k);
}

static NOINLINE void multiply(void) {
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            int32_t sum = 0;
            for (int k = 0; k < SIDE; k++)
                sum += a[i][k] * b[k][j];
            c[i][j] = sum;
        }
}

static NOINLINE void multiply_bits(void) {
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            int32_t sum = 0;
            for (int k = 0; k < SIDE; k++) {
                int32_t t = a[i][k] * b[k][j];
                sum += (t >> 2 & 15) * (t >> 5 & 127);
            }
            c[i][j] = sum;
        }
}

static NOINLINE int steps_over(int32_t limit) {
    int32_t sum = 0, before = 0;
    int steps = 0;
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            sum += c[i][j];
            if (sum > limit)
                steps += 10, sum = 0;
            else
                steps += c[i][j] > before;
            before = c[i][j];
        }
    return steps;
}

static uint16_t part_matrix(uint64_t *seed, uint16_t crc) {
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++)
            a[i][j] = (int16_t)(guest_random(seed) >> 55), b[i][j] = (int16_t)(guest_random(seed) >> 55);
    for (int16_t k = 1; k < 4; k++) {
        add_constant(a, k);
        multiply();
        crc = crc16(crc, (uint16_t)steps_over(4000000));
        multiply_bits();
        crc = crc16(crc, (uint16_t)steps_over(900));
        add_constant(a, (int16_t)-k);
    }
    return crc;
}

/* -- state machine --------------------------------------------------------------------------------------------------- */

enum state { START, SIGN, WHOLE, POINT, FRACTION, EXPONENT, EXPONENT_SIGN, POWER, WRONG, STATES };

static char text[TEXT + 1];

static void make_text(uint64_t *seed) {
    static const char *const words[] = {"5012", "-874", "+122", "35.54400", ".1234500", "-110.700", "5.500e+3", "-.123e-2",
                                        "T0.3e-1F", "87e+832", "1.e5.6", "-", "0.7e", "99", "12a", "4.5E7"};
    int at = 0;
    for (;;) {
        const char *word = words[guest_random(seed) >> 60];
        int n = (int)strlen(word);
        if (at + n + 1 > TEXT)
            break;
        memcpy(text + at, word, (size_t)n);
        at += n;
        text[at++] = ',';
    }
    memset(text + at, 0, (size_t)(TEXT + 1 - at));
}

static NOINLINE enum state next_token(const char **from, unsigned *changes) {
    const char *p = *from;
    enum state s = START;
    for (; *p && *p != ','; p++) {
        unsigned char ch = (unsigned char)*p;
        int digit = ch >= '0' && ch <= '9';
        enum state was = s;
        switch (s) {
        case START: s = digit ? WHOLE : ch == '+' || ch == '-' ? SIGN : ch == '.' ? POINT : WRONG; break;
        case SIGN: s = digit ? WHOLE : ch == '.' ? POINT : WRONG; break;
        case WHOLE: s = digit ? WHOLE : ch == '.' ? FRACTION : ch == 'e' || ch == 'E' ? EXPONENT : WRONG; break;
        case POINT: s = digit ? FRACTION : WRONG; break;
        case FRACTION: s = digit ? FRACTION : ch == 'e' || ch == 'E' ? EXPONENT : WRONG; break;
        case EXPONENT: s = digit ? POWER : ch == '+' || ch == '-' ? EXPONENT_SIGN : WRONG; break;
        case EXPONENT_SIGN: s = digit ? POWER : WRONG; break;
        case POWER: s = digit ? POWER : WRONG; break;
        default: break;
        }
        changes[s] += s != was;
    }
    *from = *p ? p + 1 : p;
    return s;
}

static uint16_t part_states(uint64_t *seed, uint16_t crc) {
    make_text(seed);
    unsigned finals[STATES] = {0}, changes[STATES] = {0};
    for (int pass = 0; pass < 2; pass++) {
        for (const char *p = text; *p;)
            finals[next_token(&p, changes)]++;
        for (int i = pass; i < TEXT; i += 37)
            if (text[i] && text[i] != ',')
                text[i] ^= 3;
    }
    for (int s = 0; s < STATES; s++)
        crc = crc16(crc16(crc, (uint16_t)finals[s]), (uint16_t)changes[s]);
    return crc;
}

int main(int argc, char **argv) {
    unsigned long rounds = guest_size(argc, argv, 40);
    uint64_t seed = 3;
    uint16_t list = 0, matrix = 0, states = 0;
    for (unsigned long i = 0; i < rounds; i++) {
        list = part_list(&seed, list);
        matrix = part_matrix(&seed, matrix);
        states = part_states(&seed, states);
    }
    printf("%lu rounds: list %04x matrix %04x states %04x\n", rounds, list, matrix, states);
    return 0;
}
