/* A small compiler for sums of products: it writes machine code for a random expression of one variable, calls it a number
 * of times, and goes on to the next. Size: expressions. RISC-V and x86-64 code have the same shape. */
#define _GNU_SOURCE
#include "guest.h"
#include <sys/mman.h>

#define SPACE (1u << 20)
#define LIMIT 1024 /* bytes that one function can need */

static unsigned char *start, *at;

static void put(const void *bytes, size_t n) {
    memcpy(at, bytes, n);
    at += n;
}

/* The value so far is in `a`, the variable in `x`; `t` is free. Each emitter is one step of the expression. */
#if defined(__riscv)
static void word(uint32_t insn) { put(&insn, 4); }
enum { A = 10, X = 11, T = 12, COUNT = 13 };
static void r_type(int funct7, int rs2, int rs1, int funct3, int rd) {
    word((uint32_t)funct7 << 25 | (uint32_t)rs2 << 20 | (uint32_t)rs1 << 15 | (uint32_t)funct3 << 12 | (uint32_t)rd << 7 | 0x33);
}
static void i_type(int imm, int rs1, int funct3, int rd) {
    word((uint32_t)(imm & 0xfff) << 20 | (uint32_t)rs1 << 15 | (uint32_t)funct3 << 12 | (uint32_t)rd << 7 | 0x13);
}
static void emit_start(void) { i_type(0, A, 0, X), i_type(0, A, 0, A), i_type(8, 0, 0, COUNT); }
static void emit_add(int k) { i_type(k, A, 0, A); }
static void emit_xor(int k) { i_type(k, A, 4, A); }
static void emit_times_x(void) { r_type(1, X, A, 0, A); }
static void emit_plus_x(void) { r_type(0, X, A, 0, A); }
static void emit_shift_mix(int k) { i_type(k, A, 5, T), r_type(0, T, A, 4, A); } /* a ^= a >> k */
static void emit_loop(unsigned char *top) {
    i_type(-1, COUNT, 0, COUNT);
    int d = (int)(top - at); /* bnez count, top */
    word((uint32_t)(d >> 12 & 1) << 31 | (uint32_t)(d >> 5 & 63) << 25 | (uint32_t)COUNT << 15 | 1u << 12 |
         (uint32_t)(d >> 1 & 15) << 8 | (uint32_t)(d >> 11 & 1) << 7 | 0x63);
}
static void emit_return(void) { word(1 << 15 | 0x67); }
static void ready(void) { __asm__ volatile("fence.i" ::: "memory"); }
#elif defined(__x86_64__)
static void imm(int k) { put(&k, 4); }
static void emit_start(void) { put("\x48\x89\xfe\x48\x89\xf8\xb9\x08\0\0\0", 11); }       /* mov rsi, rdi; mov rax, rdi; mov ecx, 8 */
static void emit_add(int k) { put("\x48\x05", 2), imm(k); }                             /* add rax, k */
static void emit_xor(int k) { put("\x48\x35", 2), imm(k); }                             /* xor rax, k */
static void emit_times_x(void) { put("\x48\x0f\xaf\xc6", 4); }                          /* imul rax, rsi */
static void emit_plus_x(void) { put("\x48\x01\xf0", 3); }                               /* add rax, rsi */
static void emit_shift_mix(int k) {
    unsigned char code[] = {0x48, 0x89, 0xc2, 0x48, 0xc1, 0xea, (unsigned char)k, 0x48, 0x31, 0xd0};
    put(code, sizeof code); /* mov rdx, rax; shr rdx, k; xor rax, rdx */
}
static void emit_loop(unsigned char *top) {
    put("\xff\xc9\x0f\x85", 4); /* dec ecx; jnz top */
    imm((int)(top - (at + 4)));
}
static void emit_return(void) { put("\xc3", 1); }
static void ready(void) { __asm__ volatile("" ::: "memory"); }
#else
#error "the code writer knows RISC-V and x86-64"
#endif

struct step {
    int kind, k;
};

static uint64_t by_hand(const struct step *steps, int n, uint64_t x) {
    uint64_t a = x;
    for (int round = 0; round < 8; round++)
        for (int i = 0; i < n; i++)
            switch (steps[i].kind) {
            case 0: a += (uint64_t)(int64_t)steps[i].k; break;
            case 1: a ^= (uint64_t)(int64_t)steps[i].k; break;
            case 2: a *= x; break;
            case 3: a += x; break;
            default: a ^= a >> steps[i].k; break;
            }
    return a;
}

int main(int argc, char **argv) {
    unsigned long expressions = guest_size(argc, argv, 40), wrong = 0;
    uint64_t seed = 29, hash = GUEST_HASH;
    at = start = mmap(NULL, SPACE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return 1;
    for (unsigned long e = 0; e < expressions; e++) {
        struct step steps[24];
        int n = 6 + (int)(guest_random(&seed) >> 60);
        if (at + LIMIT > start + SPACE)
            at = start; /* the oldest code is written over */
        uint64_t (*compiled)(uint64_t);
        memcpy(&compiled, &at, sizeof compiled);
        emit_start();
        unsigned char *top = at;
        for (int i = 0; i < n; i++) {
            uint64_t r = guest_random(&seed);
            int kind = (int)(r >> 61), k = (int)(r >> 20 & 0x7ff) - 1024;
            steps[i] = (struct step){kind > 4 ? 4 : kind, kind >= 4 ? 1 + (k & 31) : k};
            switch (steps[i].kind) {
            case 0: emit_add(k); break;
            case 1: emit_xor(k); break;
            case 2: emit_times_x(); break;
            case 3: emit_plus_x(); break;
            default: emit_shift_mix(steps[i].k); break;
            }
        }
        emit_loop(top);
        emit_return();
        while ((uintptr_t)at & 15)
            at++;
        ready();
        wrong += compiled(e) != by_hand(steps, n, e);
        /* most are called a few times, every sixteenth often */
        unsigned long calls = e % 16 == 0 ? 4000 : 100;
        if (expressions < 10)
            calls = 3;
        for (unsigned long i = 0; i < calls; i++)
            hash = guest_mix(hash, compiled(hash + i));
    }
    printf("%lu expressions, wrong %lu, %016llx\n", expressions, wrong, (unsigned long long)hash);
    return wrong != 0;
}
