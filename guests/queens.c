/* The queens' problem by recursion over bit masks, and the moves of the towers of Hanoi. Size: side of the board. */
#include "guest.h"

static unsigned long nodes;

static NOINLINE unsigned long place(uint32_t all, uint32_t columns, uint32_t left, uint32_t right) {
    nodes++;
    if (columns == all)
        return 1;
    unsigned long found = 0;
    for (uint32_t free_places = all & ~(columns | left | right); free_places;) {
        uint32_t bit = free_places & -free_places;
        free_places ^= bit;
        found += place(all, columns | bit, (left | bit) << 1, (right | bit) >> 1);
    }
    return found;
}

static uint64_t towers[3];

static NOINLINE void move(unsigned n, int from, int to) {
    if (n == 0)
        return;
    move(n - 1, from, 3 - from - to);
    towers[from] = towers[from] * 5 + n, towers[to] = towers[to] * 7 + n;
    move(n - 1, 3 - from - to, to);
}

int main(int argc, char **argv) {
    unsigned long side = guest_size(argc, argv, 6);
    if (side > 16)
        return 2;
    printf("%lu solutions", place((uint32_t)(1ul << side) - 1, 0, 0, 0));
    printf(", %lu nodes\n", nodes);
    move((unsigned)(side * 2 - side / 3), 0, 2);
    printf("%016llx %016llx %016llx\n", (unsigned long long)towers[0], (unsigned long long)towers[1],
           (unsigned long long)towers[2]);
    return 0;
}
