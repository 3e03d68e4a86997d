/* A stack machine with byte codes, calls and frames, dispatched by computed goto: it finds primes, counts the solutions of the
 * queens' problem and computes Fibonacci numbers. Size: rounds. */
#include "guest.h"

enum { PUSH, GET, SET, ADD, SUB, MUL, LESS, EQUAL, JUMP, FALSE_JUMP, CALL, RETURN, LOAD, STORE, DROP, HALT, OPS };

#define MEMORY 4096
#define DEPTH 8192

/* Written by a tiny assembler: labels are places in `code`, patched when they are known. */
static unsigned char code[1024];
static int at;

static void op(int o) { code[at++] = (unsigned char)o; }
static void op1(int o, int k) { op(o), op(k); }
static void op2(int o, int k) { op(o), code[at++] = (unsigned char)k, code[at++] = (unsigned char)(k >> 8); }
static int forward(int o) { op2(o, 0); return at - 2; }
static void land(int hole) { code[hole] = (unsigned char)at, code[hole + 1] = (unsigned char)(at >> 8); }
static void call(int target, int arguments) { op2(CALL, target), op(arguments); }
static void push(int k) { op2(PUSH, k); }
static void get(int local) { op1(GET, local); }
static void set(int local) { op1(SET, local); }

static int64_t memory[MEMORY], stack[DEPTH];
static uint64_t steps;

static NOINLINE int64_t run(int entry, int64_t argument) {
    static const void *const labels[OPS] = {
        [PUSH] = &&do_push, [GET] = &&do_get, [SET] = &&do_set, [ADD] = &&do_add, [SUB] = &&do_sub, [MUL] = &&do_mul,
        [LESS] = &&do_less, [EQUAL] = &&do_equal, [JUMP] = &&do_jump, [FALSE_JUMP] = &&do_false_jump, [CALL] = &&do_call,
        [RETURN] = &&do_return, [LOAD] = &&do_load, [STORE] = &&do_store, [DROP] = &&do_drop, [HALT] = &&do_halt,
    };
    int64_t *sp = stack, *frame = stack;
    const unsigned char *pc = code;
    uint64_t count = 0;
    /* The frame of the first call returns to HALT, at 0. A frame: arguments and locals, above them what to go back to. */
    *sp++ = argument;
    int64_t *links = stack + DEPTH;
    *--links = 0, *--links = 0;
    pc = code + entry;
#define WIDE() (pc += 2, pc[-2] | pc[-1] << 8)
#define NEXT() do { count++; goto *labels[*pc++]; } while (0)
    NEXT();
do_push: *sp++ = (int16_t)WIDE(); NEXT();
do_get: *sp++ = frame[*pc++]; NEXT();
do_set: frame[*pc++] = *--sp; NEXT();
do_add: sp--; sp[-1] += sp[0]; NEXT();
do_sub: sp--; sp[-1] -= sp[0]; NEXT();
do_mul: sp--; sp[-1] *= sp[0]; NEXT();
do_less: sp--; sp[-1] = sp[-1] < sp[0]; NEXT();
do_equal: sp--; sp[-1] = sp[-1] == sp[0]; NEXT();
do_jump: { int t = WIDE(); pc = code + t; } NEXT();
do_false_jump: { int t = WIDE(); if (!*--sp) pc = code + t; } NEXT();
do_call: {
    int t = WIDE(), arguments = *pc++;
    *--links = pc - code, *--links = frame - stack;
    frame = sp - arguments;
    pc = code + t;
} NEXT();
do_return: {
    int64_t value = *--sp;
    sp = frame;
    *sp++ = value;
    frame = stack + *links++, pc = code + *links++;
} NEXT();
do_load: sp[-1] = memory[sp[-1] & (MEMORY - 1)]; NEXT();
do_store: sp -= 2; memory[sp[0] & (MEMORY - 1)] = sp[1]; NEXT();
do_drop: sp--; NEXT();
do_halt: steps += count; return sp[-1];
}

/* fib(n) */
static int write_fib(void) {
    int entry = at;
    get(0), push(2), op(LESS);
    int deeper = forward(FALSE_JUMP);
    get(0), op(RETURN);
    land(deeper);
    get(0), push(1), op(SUB), call(entry, 1);
    get(0), push(2), op(SUB), call(entry, 1);
    op(ADD), op(RETURN);
    return entry;
}

/* primes(limit): locals 0 limit, 1 i, 2 j, 3 count */
static int write_primes(void) {
    int entry = at;
    push(2), push(0), push(0);
    /* clear */
    int clear = at;
    get(2), get(0), op(LESS);
    int cleared = forward(FALSE_JUMP);
    get(2), push(0), op(STORE), get(2), push(1), op(ADD), set(2), op2(JUMP, clear);
    land(cleared);
    int outer = at;
    get(1), get(0), op(LESS);
    int done = forward(FALSE_JUMP);
    get(1), op(LOAD), push(0), op(EQUAL);
    int composite = forward(FALSE_JUMP);
    get(3), push(1), op(ADD), set(3);
    get(1), get(1), op(MUL), set(2);
    int inner = at;
    get(2), get(0), op(LESS);
    int marked = forward(FALSE_JUMP);
    get(2), push(1), op(STORE), get(2), get(1), op(ADD), set(2), op2(JUMP, inner);
    land(marked), land(composite);
    get(1), push(1), op(ADD), set(1), op2(JUMP, outer);
    land(done);
    get(3), op(RETURN);
    return entry;
}

/* place(row, n), local 2 column, 3 earlier row, 4 found, 5 scratch; memory[row] is its queen's column */
static int write_queens(void) {
    int entry = at;
    push(0), push(0), push(0), push(0);
    get(0), get(1), op(EQUAL);
    int more = forward(FALSE_JUMP);
    push(1), op(RETURN);
    land(more);
    int column = at;
    get(2), get(1), op(LESS);
    int out = forward(FALSE_JUMP);
    push(0), set(3);
    int check = at;
    get(3), get(0), op(LESS);
    int free_place = forward(FALSE_JUMP);
    get(3), op(LOAD), set(5);
    get(5), get(2), op(EQUAL), push(0), op(EQUAL);
    int hit1 = forward(FALSE_JUMP);
    get(5), get(2), op(SUB), get(0), get(3), op(SUB), op(EQUAL), push(0), op(EQUAL);
    int hit2 = forward(FALSE_JUMP);
    get(2), get(5), op(SUB), get(0), get(3), op(SUB), op(EQUAL), push(0), op(EQUAL);
    int hit3 = forward(FALSE_JUMP);
    get(3), push(1), op(ADD), set(3), op2(JUMP, check);
    land(free_place);
    get(0), get(2), op(STORE);
    get(4), get(0), push(1), op(ADD), get(1), call(entry, 2), op(ADD), set(4);
    land(hit1), land(hit2), land(hit3);
    get(2), push(1), op(ADD), set(2), op2(JUMP, column);
    land(out);
    get(4), op(RETURN);
    return entry;
}

int main(int argc, char **argv) {
    unsigned long rounds = guest_size(argc, argv, 2);
    int small = rounds == 0;
    op(HALT);
    int fib = write_fib(), primes = write_primes(), queens = write_queens(), start = at;
    push(0), get(0), call(queens, 2), op(RETURN);
    int64_t sum = 0, a = 0, b = 0, c = 0;
    for (unsigned long i = 0; i < (small ? 1 : rounds); i++) {
        a = run(fib, small ? 6 : 18), b = run(primes, small ? 50 : MEMORY), c = run(start, small ? 4 : 7);
        sum = sum * 3 + a + b + c;
    }
    printf("fib %lld primes %lld queens %lld sum %016llx, %llu steps\n", (long long)a, (long long)b, (long long)c,
           (unsigned long long)sum, (unsigned long long)steps);
    return 0;
}
