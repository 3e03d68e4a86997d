/* A small compiler that writes machine code and changes it while it is hot. Size: rounds. Six ways: a writable and executable
 * page patched in place; pages switched between writable and executable; code patched by itself; pages unmapped and filled
 * again; many functions in one page; code run from two copies. */
#define _GNU_SOURCE
#include "guest.h"
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u

typedef long function(long);

struct writer {
    unsigned char *start, *at;
};

#if defined(__riscv)
static void word(struct writer *w, uint32_t insn) {
    /* Two halves: the place may be aligned to 2 only. */
    uint16_t halves[2] = {(uint16_t)insn, (uint16_t)(insn >> 16)};
    memcpy(w->at, halves, 4);
    w->at += 4;
}
static void emit_add(struct writer *w, int k) { word(w, (uint32_t)(k & 0xfff) << 20 | 10 << 15 | 0 << 12 | 10 << 7 | 0x13); }
static void emit_xor(struct writer *w, int k) { word(w, (uint32_t)(k & 0xfff) << 20 | 10 << 15 | 4 << 12 | 10 << 7 | 0x13); }
static void emit_triple(struct writer *w) {
    word(w, 1 << 20 | 10 << 15 | 1 << 12 | 5 << 7 | 0x13);   /* slli t0, a0, 1 */
    word(w, 5 << 20 | 10 << 15 | 0 << 12 | 10 << 7 | 0x33);  /* add a0, a0, t0 */
}
static void emit_return(struct writer *w) { word(w, 1 << 15 | 0x67); }
static void emit_short(struct writer *w) { /* c.nop: moves the rest off its 4-byte grid */
    w->at[0] = 0x01, w->at[1] = 0x00;
    w->at += 2;
}
#define FENCE() __asm__ volatile("fence.i" ::: "memory")
#elif defined(__x86_64__)
static void bytes(struct writer *w, const char *code, size_t n) {
    memcpy(w->at, code, n);
    w->at += n;
}
static void imm(struct writer *w, int k) {
    int32_t v = k;
    memcpy(w->at, &v, 4);
    w->at += 4;
}
static void emit_add(struct writer *w, int k) { bytes(w, "\x48\x81\xc7", 3), imm(w, k); }   /* add rdi, k */
static void emit_xor(struct writer *w, int k) { bytes(w, "\x48\x81\xf7", 3), imm(w, k); }   /* xor rdi, k */
static void emit_triple(struct writer *w) { bytes(w, "\x48\x8d\x3c\x7f", 4); }              /* lea rdi, [rdi+rdi*2] */
static void emit_return(struct writer *w) { bytes(w, "\x48\x89\xf8\xc3", 4); }              /* mov rax, rdi; ret */
static void emit_short(struct writer *w) { bytes(w, "\x90", 1); }
#define FENCE() __asm__ volatile("" ::: "memory")
#else
#error "the code writer knows RISC-V and x86-64"
#endif

static void flush(struct writer *w, int how) {
    if (how & 1)
        FENCE();
    else
        __builtin___clear_cache((char *)w->start, (char *)w->at);
}

/* A random straight-line function and what it must compute. */
static long make(struct writer *w, uint64_t *seed, long x) {
    int length = 1 + (int)(guest_random(seed) >> 60);
    for (int i = 0; i < length; i++) {
        uint64_t r = guest_random(seed);
        int k = (int)(r >> 40 & 0x7ff) - 1024;
        switch (r >> 62) {
        case 0: emit_add(w, k); x += k; break;
        case 1: emit_xor(w, k); x ^= k; break;
        case 2: emit_triple(w); x = (long)((unsigned long)x * 3); break;
        default: emit_short(w); break;
        }
    }
    emit_return(w);
    return x;
}

static unsigned char *page(int prot) {
    void *p = mmap(NULL, PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        puts("no page for code");
        exit(1);
    }
    return p;
}

static function *entry(unsigned char *p) {
    function *f;
    memcpy(&f, &p, sizeof f);
    return f;
}

int main(int argc, char **argv) {
    unsigned long rounds = guest_size(argc, argv, 50), wrong = 0;
    uint64_t seed = 71, hash = GUEST_HASH;

    unsigned char *code = page(PROT_READ | PROT_WRITE | PROT_EXEC);
    for (unsigned long i = 0; i < rounds; i++) {
        struct writer w = {code, code};
        long want = make(&w, &seed, (long)i);
        flush(&w, (int)i);
        long got = entry(code)((long)i);
        wrong += got != want;
        hash = guest_mix(hash, (uint64_t)got);
    }
    printf("patched in place: wrong %lu %016llx\n", wrong, (unsigned long long)hash);

    /* One instruction's immediate changes after the function has become hot. */
    unsigned long hot = rounds < 10 ? 20 : 2000;
    unsigned long bad = 0;
    for (int k = 1; k < 6; k++) {
        struct writer w = {code, code};
        emit_add(&w, k);
        emit_return(&w);
        flush(&w, k);
        long x = 0;
        for (unsigned long i = 0; i < hot; i++)
            x = entry(code)(x);
        bad += x != (long)hot * k;
        hash = guest_mix(hash, (uint64_t)x);
    }
    printf("hot then patched: wrong %lu %016llx\n", bad, (unsigned long long)hash);
    wrong += bad;

    bad = 0;
    unsigned char *strict = page(PROT_READ | PROT_WRITE);
    for (unsigned long i = 0; i < rounds; i++) {
        bad += mprotect(strict, PAGE, PROT_READ | PROT_WRITE) != 0;
        struct writer w = {strict, strict};
        long want = make(&w, &seed, 5);
        bad += mprotect(strict, PAGE, PROT_READ | PROT_EXEC) != 0;
        flush(&w, 0);
        long got = entry(strict)(5);
        bad += got != want;
        hash = guest_mix(hash, (uint64_t)got);
    }
    printf("switched: wrong %lu %016llx\n", bad, (unsigned long long)hash);
    wrong += bad;

    bad = 0;
    for (unsigned long i = 0; i < rounds; i++) { /* other code at the same address */
        munmap(strict, PAGE);
        void *again = mmap(strict, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (again != strict)
            return 1;
        struct writer w = {strict, strict};
        long want = make(&w, &seed, -9);
        flush(&w, 1);
        long got = entry(strict)(-9);
        bad += got != want;
        hash = guest_mix(hash, (uint64_t)got);
    }
    printf("mapped again: wrong %lu %016llx\n", bad, (unsigned long long)hash);
    wrong += bad;

    bad = 0;
    unsigned char *starts[16];
    long wants[16];
    for (unsigned long i = 0; i < rounds; i++) { /* sixteen functions in one page, one of them replaced each time */
        unsigned which = (unsigned)(i % 16);
        starts[which] = code + which * 256;
        struct writer w = {starts[which], starts[which]};
        wants[which] = make(&w, &seed, 100);
        flush(&w, 1);
        for (unsigned k = 0; k <= (i < 16 ? which : 15); k++)
            bad += entry(starts[k])(100) != wants[k];
    }
    printf("shared page: wrong %lu\n", bad);
    wrong += bad;

    bad = 0;
    unsigned char *twin = page(PROT_READ | PROT_WRITE | PROT_EXEC);
    struct writer w = {code, code};
    long want = make(&w, &seed, 77);
    memcpy(twin, code, PAGE);
    FENCE();
    bad += entry(twin)(77) != want;
    struct writer v = {code, code};
    long other = make(&v, &seed, 77);
    FENCE();
    bad += entry(twin)(77) != want || entry(code)(77) != other;
    printf("twins: wrong %lu\n", bad);
    wrong += bad;

#ifdef __riscv
    /* A loop that rewrites its own body: each time round, `addi a0, a0, k` becomes `addi a0, a0, k + 1`. */
    static const uint32_t loop[] = {
        0x00000297, /* 0:  auipc t0, 0 */
        0x0142a303, /* 4:  lw t1, 20(t0): the instruction at 20 */
        0x00100393, /* 8:  li t2, 1 */
        0x01439393, /* 12: slli t2, t2, 20 */
        0x0000100f, /* 16: fence.i */
        0x00150513, /* 20: addi a0, a0, 1: the one that changes */
        0x00730333, /* 24: add t1, t1, t2 */
        0x0062aa23, /* 28: sw t1, 20(t0) */
        0x0000100f, /* 32: fence.i */
        0xfff58593, /* 36: addi a1, a1, -1 */
        0xfe0596e3, /* 40: bnez a1, 20 */
        0x00008067, /* 44: ret */
    };
    long times = rounds < 1000 ? (long)rounds : 1000;
    memcpy(code, loop, sizeof loop);
    FENCE();
    long (*run)(long, long);
    memcpy(&run, &code, sizeof run);
    long got = run(0, times);
    printf("self: wrong %d\n", got != times * (times + 1) / 2);
    wrong += got != times * (times + 1) / 2;
#endif
    printf("all %016llx\n", (unsigned long long)hash);
    return wrong != 0;
}
