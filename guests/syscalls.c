/* System calls in loops: the cheapest there is, clocks, reads and writes of a few and of many bytes on a pipe, a file and
 * /dev/zero, seeking, asking about files. Size: hundreds of rounds. */
#define _GNU_SOURCE
#include "guest.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 1) * 100, done = 0, failed = 0;
    if (n == 0)
        n = 3;
    int ends[2], zero = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_WRONLY), file = memfd_create("bench", 0);
    if (pipe(ends) != 0 || zero < 0 || null < 0 || file < 0)
        return 1;
    static char block[4096], back[4096];
    uint64_t hash = GUEST_HASH;
    for (unsigned long i = 0; i < n; i++) {
        for (int k = 0; k < 10; k++)
            failed += syscall(SYS_getpid) <= 0;
        struct timespec now;
        failed += syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now) != 0;
        block[0] = (char)i;
        failed += write(ends[1], block, 16) != 16;
        failed += read(ends[0], back, 16) != 16 || back[0] != (char)i;
        failed += write(null, block, 64) != 64;
        failed += read(zero, back, sizeof back) != sizeof back || back[0] != 0;
        failed += pwrite(file, block, sizeof block, (off_t)(i % 16) * 4096) != sizeof block;
        failed += lseek(file, (off_t)(i % 16) * 4096, SEEK_SET) < 0;
        failed += read(file, back, 100) != 100;
        hash = guest_mix(hash, (unsigned char)back[0]);
        struct iovec parts[2] = {{block, 8}, {block + 8, 24}};
        failed += writev(null, parts, 2) != 32;
        struct stat info;
        failed += fstat(file, &info) != 0;
        done += 20;
    }
    printf("%lu calls, failed %lu, %016llx\n", done, failed, (unsigned long long)hash);
    return failed != 0;
}
