/* Functions to be called from outside, in a program that has not come further than main. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int counter;
static char *kept;
double scale = 2;

long add(long a, long b, long c, long d, long e, long f) { return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f; }
long count(void) { return ++counter; }
long total(const unsigned char *bytes, long length)
{
    long sum = 0;
    while (length--)
        sum += *bytes++;
    return sum;
}
long grow(long length)
{
    kept = malloc(length);
    memset(kept, 1, length);
    counter += 10;
    return kept[length - 1];
}
long fault(void) { return *(volatile int *)8; }
long forever(void)
{
    for (;;)
        counter++;
}
long leave(void) { exit(3); }
long identify(void)
{
    static char buffer[9000];
    FILE *file = fopen("/proc/self/comm", "r");
    long length = fread(buffer + 8000, 1, 100, file);
    fclose(file);
    return length + 1000 * buffer[0] + 1000000 * (++buffer[0]);
}
long scaled(long factor)
{
    scale *= factor;
    return (long)(scale * 10);
}
long mode(long set)
{
    unsigned value;
    __asm__ volatile("stmxcsr %0" : "=m"(value));
    if (set) {
        unsigned changed = value | 0x6000;
        __asm__ volatile("ldmxcsr %0" ::"m"(changed));
    }
    return value & 0x6000;
}

int main(void)
{
    printf("not reached\n");
    return 0;
}
