/* Naive Fibonacci: calls and returns. Size: n. */
#include "guest.h"

static NOINLINE unsigned long fib(unsigned long n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 20);
    printf("fib(%lu) = %lu\n", n, fib(n));
    return 0;
}
