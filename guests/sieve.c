/* The sieve of Eratosthenes over odd numbers. Size: thousands. Byte stores with growing strides. */
#include "guest.h"

int main(int argc, char **argv) {
    unsigned long limit = guest_size(argc, argv, 100) * 1000;
    unsigned long half = limit / 2;
    unsigned char *composite = calloc(half + 1, 1);
    if (!composite)
        return 1;
    unsigned long count = limit > 2, last = 2;
    for (unsigned long i = 1; i < half; i++) {
        if (composite[i])
            continue;
        unsigned long p = 2 * i + 1;
        count++;
        last = p;
        for (unsigned long j = 2 * i * (i + 1); j < half; j += p)
            composite[j] = 1;
    }
    printf("%lu primes below %lu, the last is %lu\n", count, limit, last);
    return 0;
}
