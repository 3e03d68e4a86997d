/* SHA-256 (FIPS 180-4) of generated data. Size: KiB hashed. Rotates, adds and logic on 32-bit words. */
#include "guest.h"

static uint32_t constants[64];
static uint32_t initial[8];

/* The constants are the first 32 bits of the fractions of the cube (and square) roots of the first primes, FIPS 180-4
 * 4.2.2: found here with integers only, as the largest r with r^3 <= p * 2^96 (r^2 <= p * 2^64). */
static uint32_t root_fraction(uint32_t prime, int power) {
    uint64_t root = 0;
    for (int bit = 35; bit >= 0; bit--) {
        uint64_t guess = root | (UINT64_C(1) << bit);
        unsigned __int128 square = (unsigned __int128)guess * guess;
        if (power == 2) {
            if (square <= ((unsigned __int128)prime << 64))
                root = guess;
        } else {
            /* guess < 2^36, so guess^3 < 2^108 fits. */
            if (square * guess <= ((unsigned __int128)prime << 96))
                root = guess;
        }
    }
    return (uint32_t)root;
}

static void make_constants(void) {
    int count = 0;
    for (uint32_t candidate = 2; count < 64; candidate++) {
        int prime = 1;
        for (uint32_t d = 2; d * d <= candidate; d++)
            if (candidate % d == 0)
                prime = 0;
        if (!prime)
            continue;
        if (count < 8)
            initial[count] = root_fraction(candidate, 2);
        constants[count++] = root_fraction(candidate, 3);
    }
}

static inline uint32_t rotate(uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

static void compress(uint32_t state[8], const unsigned char *block) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t near = w[i - 2], far = w[i - 15];
        w[i] = w[i - 16] + w[i - 7] + (rotate(near, 17) ^ rotate(near, 19) ^ (near >> 10)) +
               (rotate(far, 7) ^ rotate(far, 18) ^ (far >> 3));
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
        uint32_t one = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + constants[i] + w[i];
        uint32_t two = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + one;
        d = c, c = b, b = a, a = one + two;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static void sha256(const unsigned char *data, size_t size, char text[65]) {
    uint32_t state[8];
    memcpy(state, initial, sizeof state);
    size_t at = 0;
    for (; at + 64 <= size; at += 64)
        compress(state, data + at);
    unsigned char last[128] = {0};
    size_t rest = size - at, padded = rest < 56 ? 64 : 128;
    memcpy(last, data + at, rest);
    last[rest] = 0x80;
    for (int i = 0; i < 8; i++)
        last[padded - 1 - i] = (unsigned char)((uint64_t)size * 8 >> (8 * i));
    for (size_t i = 0; i < padded; i += 64)
        compress(state, last + i);
    for (int i = 0; i < 8; i++)
        sprintf(text + 8 * i, "%08x", (unsigned)state[i]);
}

int main(int argc, char **argv) {
    size_t size = guest_size(argc, argv, 256) * 1024;
    unsigned char *data = malloc(size + 1);
    if (data == NULL)
        return 1;
    uint64_t seed = 1;
    for (size_t i = 0; i < size; i++)
        data[i] = (unsigned char)(guest_random(&seed) >> 56);
    char text[65];
    make_constants();
    sha256((const unsigned char *)"abc", 3, text);
    int right = strcmp(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad") == 0;
    printf("abc %s %s\n", text, right ? "ok" : "WRONG");
    sha256(data, size, text);
    printf("%zu bytes %s\n", size, text);
    free(data);
    return !right;
}
