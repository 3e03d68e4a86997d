/* Zstandard at three levels, there and back, on made-up text. Size: hundreds of KiB. The library is fetched (see
 * tools/build_guests.py); this is what drives it. */
#include "guest.h"
#define ZSTD_DISABLE_ASM 1
#include <zstd.c>

int main(int argc, char **argv) {
    size_t size = guest_size(argc, argv, 1) * 102400, room = ZSTD_compressBound(size);
    char *text = malloc(size + 1), *packed = malloc(room), *back = malloc(size + 1);
    if (!text || !packed || !back)
        return 1;
    static const char *const parts[] = {"the ", "machine ", "runs ", "guest ", "code ", "and ", "of ", "memory ",
                                        "page ", "a ", "fault ", "in ", "loop ", "register ", "was ", "is "};
    uint64_t seed = 2024;
    for (size_t at = 0; at < size;) {
        uint64_t r = guest_random(&seed);
        for (const char *p = parts[r >> 60]; *p && at < size; p++)
            text[at++] = *p;
        if ((r >> 50 & 7) == 0 && at < size)
            text[at++] = (char)(r >> 20);
    }
    static const int levels[] = {1, 3, 9};
    int wrong = 0;
    for (int i = 0; i < 3; i++) {
        size_t length = ZSTD_compress(packed, room, text, size, levels[i]);
        if (ZSTD_isError(length) || ZSTD_decompress(back, size, packed, length) != size || memcmp(text, back, size) != 0)
            wrong++, length = 0;
        printf("level %d: %zu -> %zu %016llx\n", levels[i], size, length,
               (unsigned long long)guest_hash(GUEST_HASH, packed, length));
    }
    return wrong;
}
