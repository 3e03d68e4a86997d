/* CRC-32 (reflected, polynomial 0xedb88320) bit by bit, by one table and by four. Size: KiB. */
#include "guest.h"

static uint32_t table[4][256];

static uint32_t bit_by_bit(uint32_t crc, const unsigned char *p, size_t n) {
    while (n-- > 0) {
        crc ^= *p++;
        for (int k = 0; k < 8; k++)
            crc = (crc >> 1) ^ (0xedb88320u & -(crc & 1));
    }
    return crc;
}

static void make_tables(void) {
    for (int i = 0; i < 256; i++) {
        unsigned char byte = (unsigned char)i;
        table[0][i] = bit_by_bit(0, &byte, 1);
    }
    for (int t = 1; t < 4; t++)
        for (int i = 0; i < 256; i++)
            table[t][i] = table[t - 1][i] >> 8 ^ table[0][table[t - 1][i] & 255];
}

static NOINLINE uint32_t by_table(uint32_t crc, const unsigned char *p, size_t n) {
    while (n-- > 0)
        crc = crc >> 8 ^ table[0][(crc ^ *p++) & 255];
    return crc;
}

static NOINLINE uint32_t by_four(uint32_t crc, const unsigned char *p, size_t n) {
    for (; n >= 4; n -= 4, p += 4) {
        crc ^= p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        crc = table[3][crc & 255] ^ table[2][crc >> 8 & 255] ^ table[1][crc >> 16 & 255] ^ table[0][crc >> 24];
    }
    return by_table(crc, p, n);
}

int main(int argc, char **argv) {
    size_t size = guest_size(argc, argv, 64) * 1024;
    unsigned char *data = malloc(size + 1);
    if (!data)
        return 1;
    uint64_t seed = 11;
    for (size_t i = 0; i < size; i++)
        data[i] = (unsigned char)(guest_random(&seed) >> 40);
    make_tables();
    uint32_t check = ~by_table(~0u, (const unsigned char *)"123456789", 9);
    uint32_t one = ~bit_by_bit(~0u, data, size), two = ~by_table(~0u, data, size), three = ~by_four(~0u, data, size);
    printf("check %08x %s\n", (unsigned)check, check == 0xcbf43926u ? "ok" : "WRONG");
    printf("%zu bytes: %08x %08x %08x\n", size, (unsigned)one, (unsigned)two, (unsigned)three);
    return !(one == two && two == three);
}
