/* An interpreter for a small register machine, dispatched by a switch and by computed goto. Size: numbers whose Collatz
 * chains it follows. Indirect jumps that depend on data: the hard case for translators. */
#include "guest.h"

enum op { LOAD, MOVE, ADD, ADDI, MUL, AND, SHIFT, LESS, JUMP, ZERO, NONZERO, GET, PUT, MIX, HALT, OPS };

struct code {
    uint8_t op, a, b, c;
    int32_t k;
};

#define CELLS 64

/* r1 number, r2 end, r3 chain value, r4 length, r5 longest, r6 its number, r7 scratch, r8 hash, r9 constant 1 */
static const struct code program[] = {
    /* 0 */ {LOAD, 1, 0, 0, 1},
    /* 1 */ {LOAD, 9, 0, 0, 1},
    /* 2 */ {LOAD, 5, 0, 0, 0},
    /* 3 */ {LOAD, 8, 0, 0, 7},
    /* next number */
    /* 4 */ {LESS, 7, 1, 2, 0},
    /* 5 */ {ZERO, 7, 0, 0, 24},
    /* 6 */ {MOVE, 3, 1, 0, 0},
    /* 7 */ {LOAD, 4, 0, 0, 0},
    /* chain */
    /* 8 */ {LESS, 7, 9, 3, 0},
    /* 9 */ {ZERO, 7, 0, 0, 18},
    /* 10 */ {ADDI, 4, 4, 0, 1},
    /* 11 */ {AND, 7, 3, 9, 0},
    /* 12 */ {NONZERO, 7, 0, 0, 15},
    /* 13 */ {SHIFT, 3, 3, 0, 1},
    /* 14 */ {JUMP, 0, 0, 0, 8},
    /* 15 */ {MUL, 3, 3, 0, 3},
    /* 16 */ {ADDI, 3, 3, 0, 1},
    /* 17 */ {JUMP, 0, 0, 0, 8},
    /* chain done: count it in a cell, keep the longest */
    /* 18 */ {GET, 7, 4, 0, 0},
    /* 19 */ {ADDI, 7, 7, 0, 1},
    /* 20 */ {PUT, 7, 4, 0, 0},
    /* 21 */ {MIX, 8, 8, 4, 0},
    /* 22 */ {LESS, 7, 5, 4, 0},
    /* 23 */ {NONZERO, 7, 0, 0, 26},
    /* 24: after the last number r1 == r2 leaves; else go on */
    /* 24 */ {ADDI, 1, 1, 0, 1},
    /* 25 */ {JUMP, 0, 0, 0, 29},
    /* 26 */ {MOVE, 5, 4, 0, 0},
    /* 27 */ {MOVE, 6, 1, 0, 0},
    /* 28 */ {JUMP, 0, 0, 0, 24},
    /* 29 */ {LESS, 7, 1, 2, 0},
    /* 30 */ {NONZERO, 7, 0, 0, 4},
    /* 31 */ {HALT, 0, 0, 0, 0},
};

struct machine {
    uint64_t r[16], cells[CELLS], steps;
};

static NOINLINE void run_switch(struct machine *m) {
    uint64_t *r = m->r, steps = 0;
    const struct code *pc = program;
    for (;;) {
        const struct code *i = pc++;
        steps++;
        switch (i->op) {
        case LOAD: r[i->a] = (uint64_t)(int64_t)i->k; break;
        case MOVE: r[i->a] = r[i->b]; break;
        case ADD: r[i->a] = r[i->b] + r[i->c]; break;
        case ADDI: r[i->a] = r[i->b] + (uint64_t)(int64_t)i->k; break;
        case MUL: r[i->a] = r[i->b] * (uint64_t)(int64_t)i->k; break;
        case AND: r[i->a] = r[i->b] & r[i->c]; break;
        case SHIFT: r[i->a] = r[i->b] >> i->k; break;
        case LESS: r[i->a] = r[i->b] < r[i->c]; break;
        case JUMP: pc = program + i->k; break;
        case ZERO: if (r[i->a] == 0) pc = program + i->k; break;
        case NONZERO: if (r[i->a] != 0) pc = program + i->k; break;
        case GET: r[i->a] = m->cells[r[i->b] % CELLS]; break;
        case PUT: m->cells[r[i->b] % CELLS] = r[i->a]; break;
        case MIX: r[i->a] = guest_mix(r[i->b], r[i->c]); break;
        case HALT: m->steps = steps; return;
        default: abort();
        }
    }
}

static NOINLINE void run_goto(struct machine *m) {
    static const void *const labels[OPS] = {
        [LOAD] = &&load, [MOVE] = &&move, [ADD] = &&add, [ADDI] = &&addi, [MUL] = &&mul,
        [AND] = &&and, [SHIFT] = &&shift, [LESS] = &&less, [JUMP] = &&jump, [ZERO] = &&zero,
        [NONZERO] = &&nonzero, [GET] = &&get, [PUT] = &&put, [MIX] = &&mix, [HALT] = &&halt,
    };
    uint64_t *r = m->r, steps = 0;
    const struct code *pc = program, *i;
#define NEXT() do { i = pc++; steps++; goto *labels[i->op]; } while (0)
    NEXT();
load: r[i->a] = (uint64_t)(int64_t)i->k; NEXT();
move: r[i->a] = r[i->b]; NEXT();
add: r[i->a] = r[i->b] + r[i->c]; NEXT();
addi: r[i->a] = r[i->b] + (uint64_t)(int64_t)i->k; NEXT();
mul: r[i->a] = r[i->b] * (uint64_t)(int64_t)i->k; NEXT();
and: r[i->a] = r[i->b] & r[i->c]; NEXT();
shift: r[i->a] = r[i->b] >> i->k; NEXT();
less: r[i->a] = r[i->b] < r[i->c]; NEXT();
jump: pc = program + i->k; NEXT();
zero: if (r[i->a] == 0) pc = program + i->k; NEXT();
nonzero: if (r[i->a] != 0) pc = program + i->k; NEXT();
get: r[i->a] = m->cells[r[i->b] % CELLS]; NEXT();
put: m->cells[r[i->b] % CELLS] = r[i->a]; NEXT();
mix: r[i->a] = guest_mix(r[i->b], r[i->c]); NEXT();
halt: m->steps = steps;
}

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 400);
    static struct machine a, b;
    a.r[2] = b.r[2] = n + 1;
    run_switch(&a);
    run_goto(&b);
    printf("up to %lu: longest chain %llu from %llu, %llu steps\n", n, (unsigned long long)a.r[5],
           (unsigned long long)a.r[6], (unsigned long long)a.steps);
    printf("cells %016llx mix %016llx equal %d\n", (unsigned long long)guest_hash(GUEST_HASH, a.cells, sizeof a.cells),
           (unsigned long long)a.r[8], memcmp(&a, &b, sizeof a) == 0);
    return 0;
}
