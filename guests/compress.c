/* A dictionary compressor (LZ77 with hash chains and byte-aligned tokens) and its inverse. Size: KiB of made-up text. */
#include "guest.h"

#define WINDOW 32768
#define SHORTEST 4
#define LONGEST 271
#define BUCKETS 8192

static int32_t newest[BUCKETS];
static int32_t older[WINDOW];

static unsigned bucket(const unsigned char *p) {
    uint32_t word = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    return word * 2654435761u >> 19;
}

static void remember(const unsigned char *data, long at) {
    unsigned b = bucket(data + at);
    older[at % WINDOW] = newest[b];
    newest[b] = (int32_t)at;
}

/* A token is 0nnnnnnn and n+1 plain bytes, or 1nnnnnnn (a copy of n+4 bytes; with n = 127 a byte follows that is added)
 * and the distance back as two bytes, low first. */
static long pack(const unsigned char *in, long size, unsigned char *out) {
    long o = 0, plain = 0, at = 0;
    for (int i = 0; i < BUCKETS; i++)
        newest[i] = -1;
    while (at < size) {
        long best = 0, distance = 0;
        if (at + SHORTEST <= size) {
            long candidate = newest[bucket(in + at)];
            for (int tries = 0; tries < 16 && candidate >= 0 && at - candidate < WINDOW; tries++) {
                long n = 0, most = size - at < LONGEST ? size - at : LONGEST;
                while (n < most && in[candidate + n] == in[at + n])
                    n++;
                if (n > best)
                    best = n, distance = at - candidate;
                long next = older[candidate % WINDOW];
                if (next >= candidate)
                    break;
                candidate = next;
            }
        }
        long step = best >= SHORTEST ? best : 1;
        if (best >= SHORTEST) {
            for (long from = at - plain; plain > 0;) {
                long n = plain < 128 ? plain : 128;
                out[o++] = (unsigned char)(n - 1);
                memcpy(out + o, in + from, (size_t)n);
                o += n, from += n, plain -= n;
            }
            long extra = best - SHORTEST;
            out[o++] = (unsigned char)(0x80 | (extra < 127 ? extra : 127));
            if (extra >= 127)
                out[o++] = (unsigned char)(extra - 127);
            out[o++] = (unsigned char)distance;
            out[o++] = (unsigned char)(distance >> 8);
        } else {
            plain++;
        }
        for (long k = 0; k < step && at + k + SHORTEST <= size; k++)
            remember(in, at + k);
        at += step;
    }
    for (long from = at - plain; plain > 0;) {
        long n = plain < 128 ? plain : 128;
        out[o++] = (unsigned char)(n - 1);
        memcpy(out + o, in + from, (size_t)n);
        o += n, from += n, plain -= n;
    }
    return o;
}

static long unpack(const unsigned char *in, long size, unsigned char *out) {
    long at = 0, o = 0;
    while (at < size) {
        unsigned token = in[at++];
        if (token < 0x80) {
            for (unsigned i = 0; i <= token; i++)
                out[o++] = in[at++];
            continue;
        }
        long n = (token & 0x7f) + SHORTEST;
        if (n == 127 + SHORTEST)
            n += in[at++];
        long distance = in[at] | (long)in[at + 1] << 8;
        at += 2;
        for (long from = o - distance; n > 0; n--)
            out[o++] = out[from++];
    }
    return o;
}

static void write_text(unsigned char *data, long size) {
    static const char *const parts[] = {"the ", "machine ", "runs ", "guest ", "code ", "and ", "of ", "memory ", "page ",
                                        "a ", "fault ", "in ", "loop ", "register ", "was ", "is "};
    uint64_t seed = 2024;
    long at = 0;
    while (at < size) {
        uint64_t r = guest_random(&seed);
        const char *part = parts[r >> 60];
        if ((r >> 40 & 31) == 0)
            part = "\n";
        char number[24];
        if ((r >> 48 & 15) == 1) {
            sprintf(number, "%u ", (unsigned)(r >> 32 & 0xffff));
            part = number;
        }
        for (; *part && at < size; part++)
            data[at++] = (unsigned char)*part;
    }
}

int main(int argc, char **argv) {
    long size = (long)guest_size(argc, argv, 64) * 1024;
    unsigned char *text = malloc((size_t)size + 1), *packed = malloc((size_t)size + size / 64 + 64),
                  *back = malloc((size_t)size + 1);
    if (!text || !packed || !back)
        return 1;
    write_text(text, size);
    long length = pack(text, size, packed);
    long again = unpack(packed, length, back);
    int same = again == size && memcmp(text, back, (size_t)size) == 0;
    printf("%ld -> %ld bytes, round trip %s, packed %016llx\n", size, length, same ? "ok" : "WRONG",
           (unsigned long long)guest_hash(GUEST_HASH, packed, (size_t)length));
    return !same;
}
