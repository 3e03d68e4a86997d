/* What every guest program shares: its size argument, a generator of test data and a checksum.
 * Results must not depend on the host, on addresses, or on time, so that two runs can be compared byte for byte. */
#ifndef GUEST_H
#define GUEST_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__clang__)
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noinline, noclone))
#endif

/* Keeps the compiler from knowing a value, without costing an instruction. */
#define OPAQUE(value) __asm__ volatile("" : "+r"(value))

/* The first argument: how much work to do. */
static inline unsigned long guest_size(int argc, char **argv, unsigned long otherwise) {
    if (argc < 2)
        return otherwise;
    char *end;
    unsigned long size = strtoul(argv[1], &end, 0);
    if (*end != 0 || end == argv[1]) {
        fprintf(stderr, "%s: the size must be a number, not '%s'\n", argv[0], argv[1]);
        exit(2);
    }
    return size;
}

/* xorshift64 with a multiplied output; the state must not be 0. */
static inline uint64_t guest_random(uint64_t *state) {
    uint64_t s = *state;
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    *state = s;
    return s * UINT64_C(0x9e3779b97f4a7c15);
}

#define GUEST_HASH UINT64_C(0xcbf29ce484222325)

/* FNV-1a: order matters, so a swapped result shows. */
static inline uint64_t guest_hash(uint64_t hash, const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* As guest_hash, eight bytes at a step: cheap enough for inner loops. */
static inline uint64_t guest_mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * UINT64_C(0x9e3779b97f4a7c15);
    return hash ^ (hash >> 29);
}

#endif
