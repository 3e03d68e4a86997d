/* Calls through tables of function pointers chosen by data. Size: thousands of calls. */
#include "guest.h"

typedef uint64_t action(uint64_t);

#define ACTION(name, body) static uint64_t name(uint64_t x) { return body; }
ACTION(a0, x + 0x1234567)
ACTION(a1, x ^ (x >> 17))
ACTION(a2, x * 3)
ACTION(a3, ~x)
ACTION(a4, x << 1 | x >> 63)
ACTION(a5, x - (x >> 3))
ACTION(a6, (x & 0xff) + (x >> 8))
ACTION(a7, x * x + 1)
ACTION(a8, x | 0x100000)
ACTION(a9, x > 1000 ? x / 7 : x + 1000)
ACTION(a10, (uint64_t)((int64_t)x >> 5) ^ x)
ACTION(a11, x % 1000003)
ACTION(a12, x + (x << 5))
ACTION(a13, x ^ 0xdeadbeefcafef00d)
ACTION(a14, -x)
ACTION(a15, x >> 11 | x << 53)

static action *volatile table[16] = {a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15};

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 100) * 1000;
    uint64_t x = 1, seed = 5;
    for (unsigned long i = 0; i < n; i++) {
        x = table[i & 15](x);                          /* a regular pattern */
        x = table[guest_random(&seed) >> 60](x);       /* an irregular one */
    }
    printf("%lu calls: %016llx\n", 2 * n, (unsigned long long)x);
    return 0;
}
