/* Loads and stores at every alignment, also across pages. Size: rounds. On RISC-V the plain instructions are used, which
 * Linux user mode completes at any alignment. */
#include "guest.h"
#include <sys/mman.h>

#ifdef __riscv
#define LOADER(name, type, insn)                                                                                       \
    static NOINLINE uint64_t name(const unsigned char *p) {                                                            \
        uint64_t r;                                                                                                    \
        __asm__ volatile(insn " %0, 0(%1)" : "=r"(r) : "r"(p) : "memory");                                             \
        return r;                                                                                                      \
    }
#define STORER(name, type, insn)                                                                                       \
    static NOINLINE void name(unsigned char *p, uint64_t v) {                                                          \
        __asm__ volatile(insn " %0, 0(%1)" : : "r"(v), "r"(p) : "memory");                                             \
    }
#else
#define LOADER(name, type, insn)                                                                                       \
    static NOINLINE uint64_t name(const unsigned char *p) {                                                            \
        type v;                                                                                                        \
        memcpy(&v, p, sizeof v);                                                                                       \
        return (uint64_t)(int64_t)v;                                                                                   \
    }
#define STORER(name, type, insn)                                                                                       \
    static NOINLINE void name(unsigned char *p, uint64_t v) {                                                          \
        type t = (type)v;                                                                                              \
        memcpy(p, &t, sizeof t);                                                                                       \
    }
#endif

LOADER(load_h, int16_t, "lh")
LOADER(load_hu, uint16_t, "lhu")
LOADER(load_w, int32_t, "lw")
LOADER(load_wu, uint32_t, "lwu")
LOADER(load_d, int64_t, "ld")
STORER(store_h, int16_t, "sh")
STORER(store_w, int32_t, "sw")
STORER(store_d, int64_t, "sd")

static NOINLINE uint64_t floats(unsigned char *p, uint64_t v) {
    double d;
    float f;
#ifdef __riscv
    __asm__ volatile("fmv.d.x %0, %2\n\tfsd %0, 0(%3)\n\tfld %0, 0(%3)\n\tflw %1, 4(%3)\n\tfsw %1, 1(%3)"
                     : "=&f"(d), "=&f"(f) : "r"(v), "r"(p) : "memory");
#else
    memcpy(p, &v, 8);
    memcpy(&d, p, 8);
    memcpy(&f, p + 4, 4);
    memmove(p + 1, p + 4, 4);
#endif
    uint64_t bits;
    uint32_t single;
    memcpy(&bits, &d, 8);
    memcpy(&single, &f, 4);
    return bits * 3 + single;
}

static uint64_t slow_load(const unsigned char *p, int size) {
    uint64_t v = 0;
    for (int i = size; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

int main(int argc, char **argv) {
    unsigned long rounds = guest_size(argc, argv, 4);
    unsigned char *area = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED)
        return 1;
    uint64_t seed = 31, hash = GUEST_HASH;
    unsigned long wrong = 0;
    for (unsigned long round = 0; round < rounds; round++) {
        for (long at = 4096 - 24; at < 4096 + 24; at++) {
            unsigned char *p = area + at + (round & 1) * 4096 - (round & 2) * 1000;
            uint64_t v = guest_random(&seed);
            store_d(p, v);
            wrong += load_d(p) != v || slow_load(p, 8) != v;
            store_w(p + 1, v >> 7);
            wrong += load_wu(p + 1) != (uint32_t)(v >> 7) || load_w(p + 1) != (uint64_t)(int32_t)(v >> 7);
            store_h(p + 3, v >> 23);
            wrong += load_hu(p + 3) != (uint16_t)(v >> 23) || load_h(p + 3) != (uint64_t)(int16_t)(v >> 23);
            hash = guest_mix(hash, floats(p, v ^ round));
            hash = guest_mix(hash, load_d(p));
            hash = guest_mix(hash, slow_load(p - 3, 8));
        }
    }
    printf("%lu rounds: %016llx, wrong %lu\n", rounds, (unsigned long long)hash, wrong);
    return wrong != 0;
}
