/* Follows pointers around one random cycle. Size: thousands of nodes (0: a hundred); each is visited sixteen times. */
#include "guest.h"

struct node {
    struct node *next;
    uint64_t value;
};

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 10) * 1000;
    if (n == 0)
        n = 100;
    struct node *nodes = malloc((n + 1) * sizeof *nodes);
    uint32_t *order = malloc((n + 1) * sizeof *order);
    if (!nodes || !order)
        return 1;
    uint64_t seed = 9;
    for (unsigned long i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    for (unsigned long i = n - 1; i > 0; i--) {
        unsigned long j = (guest_random(&seed) >> 32) % (i + 1);
        uint32_t t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (unsigned long i = 0; i < n; i++) {
        nodes[order[i]].next = &nodes[order[(i + 1) % n]];
        nodes[order[i]].value = guest_random(&seed);
    }
    uint64_t sum = 0;
    struct node *at = nodes;
    for (unsigned long i = 0; i < 16 * n; i++) {
        sum = sum * 3 + at->value;
        at = at->next;
    }
    printf("%lu nodes, sum %016llx, home %d\n", n, (unsigned long long)sum, at == nodes);
    return 0;
}
