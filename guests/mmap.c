/* mmap, munmap, mprotect, mremap, madvise, brk, checked against what must be in memory. Size: random steps. */
#define _GNU_SOURCE
#include "guest.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096u
#define SLOTS 24

struct slot {
    unsigned char *at;
    size_t pages;
    unsigned char mark;
};

static struct slot slots[SLOTS];

static void fill(struct slot *s, size_t from) {
    for (size_t p = from; p < s->pages; p++) {
        s->at[p * PAGE] = (unsigned char)(s->mark + p);
        s->at[p * PAGE + PAGE - 1] = (unsigned char)(s->mark ^ p);
    }
}

static int intact(const struct slot *s, size_t pages) {
    for (size_t p = 0; p < pages; p++)
        if (s->at[p * PAGE] != (unsigned char)(s->mark + p) || s->at[p * PAGE + PAGE - 1] != (unsigned char)(s->mark ^ p))
            return 0;
    return 1;
}

static unsigned char *map(size_t pages, int prot) {
    void *p = mmap(NULL, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Whether the kernel can read (or write) there: system calls answer EFAULT where an access would trap. */
static int readable(const void *p) {
    int ends[2];
    if (pipe(ends) != 0)
        return -1;
    int ok = write(ends[1], p, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return ok;
}

static int writable(void *p) {
    int ends[2];
    if (pipe(ends) != 0)
        return -1;
    char byte = 1;
    int ok = write(ends[1], &byte, 1) == 1 && read(ends[0], p, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return ok;
}

static void show(void *p) {
    printf(" %s", readable(p) ? "r" : "-");
    printf("%s", writable(p) ? "w" : "-");
}

static unsigned char *kernel_brk(unsigned char *end) { return (unsigned char *)syscall(SYS_brk, end); }

int main(int argc, char **argv) {
    unsigned long steps = guest_size(argc, argv, 300);
    unsigned char *p = map(8, PROT_READ | PROT_WRITE);
    printf("mapped %d zero %d aligned %d\n", p != NULL, p[0] == 0 && p[8 * PAGE - 1] == 0, (uintptr_t)p % PAGE == 0);
    memset(p, 7, 8 * PAGE);
    printf("unmap middle %d\n", munmap(p + 3 * PAGE, 2 * PAGE));
    printf("around the hole: ");
    show(p + 3 * PAGE - 1);
    show(p + 3 * PAGE);
    show(p + 5 * PAGE - 1);
    show(p + 5 * PAGE);
    putchar('\n');
    unsigned char *q = mmap(p + 3 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    printf("fixed %d zero %d neighbour %d\n", q == p + 3 * PAGE, q[5] == 0, p[3 * PAGE - 1] == 7);
    q = mmap(p, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    printf("over %d zero %d rest %d\n", q == p, p[0] == 0, p[2 * PAGE] == 7);
    static const int protections[] = {PROT_READ, PROT_NONE, PROT_READ | PROT_WRITE};
    for (int i = 0; i < 3; i++) {
        printf("mprotect %d:", mprotect(p, PAGE, protections[i]));
        show(p);
        putchar('\n');
    }
    int refused = mprotect(p + 4 * PAGE, PAGE, PROT_READ); /* a hole */
    printf("hole %d %d\n", refused, errno == ENOMEM);
    refused = munmap(p + 1, PAGE);
    printf("unaligned %d %d\n", refused, errno == EINVAL);
    refused = mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED;
    printf("empty %d %d\n", refused, errno == EINVAL);
    p[2 * PAGE] = 9;
    printf("dontneed %d", madvise(p + 2 * PAGE, PAGE, MADV_DONTNEED));
    printf(" zero %d\n", p[2 * PAGE] == 0);
    munmap(p, 8 * PAGE);
    printf("gone %d\n", readable(p));

    p = map(2, PROT_READ | PROT_WRITE);
    p[0] = 11, p[2 * PAGE - 1] = 12;
    unsigned char *grown = mremap(p, 2 * PAGE, 40 * PAGE, MREMAP_MAYMOVE);
    printf("grown %d kept %d zero %d\n", grown != MAP_FAILED, grown[0] == 11 && grown[2 * PAGE - 1] == 12, grown[2 * PAGE] == 0);
    unsigned char *shrunk = mremap(grown, 40 * PAGE, PAGE, 0);
    printf("shrunk %d kept %d cut %d\n", shrunk == grown, shrunk[0] == 11, readable(shrunk + PAGE));
    munmap(shrunk, PAGE);

    int fd = open("guest-mmap.tmp", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0)
        return 1;
    unlink("guest-mmap.tmp");
    char text[2 * 4096];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('a' + i % 26);
    if (write(fd, text, sizeof text) != (ssize_t)sizeof text)
        return 1;
    p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    printf("private file %d\n", p != MAP_FAILED && memcmp(p, text, sizeof text) == 0);
    p[0] = '!';
    char byte;
    printf("file untouched %d\n", pread(fd, &byte, 1, 0) == 1 && byte == 'a');
    q = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, PAGE);
    printf("offset %d\n", q != MAP_FAILED && memcmp(q, text + PAGE, PAGE) == 0);
    munmap(p, 2 * PAGE);
    munmap(q, PAGE);
    close(fd);

    /* The system call itself: musl's brk() always refuses. */
    unsigned char *end = kernel_brk(NULL), *whole = (unsigned char *)(((uintptr_t)end + PAGE - 1) & -(uintptr_t)PAGE);
    printf("brk grows %d\n", kernel_brk(whole + 5 * PAGE) == whole + 5 * PAGE);
    whole[0] = 1, whole[5 * PAGE - 1] = 2;
    printf("brk shrinks %d\n", kernel_brk(whole) == whole); /* qemu 7.2 leaves the pages mapped, so that is not asked */
    printf("brk zero again %d\n", kernel_brk(whole + PAGE) == whole + PAGE && whole[0] == 0);
    printf("brk below its start %d\n", kernel_brk((unsigned char *)PAGE) == whole + PAGE);
    kernel_brk(end);

    uint64_t seed = 67;
    unsigned long wrong = 0, pages = 0;
    for (unsigned long i = 0; i < steps; i++) {
        uint64_t r = guest_random(&seed);
        struct slot *s = &slots[r % SLOTS];
        unsigned what = (unsigned)(r >> 60);
        if (s->at == NULL) {
            s->pages = 1 + (r >> 32) % 20;
            s->mark = (unsigned char)(r >> 24);
            s->at = map(s->pages, PROT_READ | PROT_WRITE);
            wrong += s->at == NULL;
            fill(s, 0);
            continue;
        }
        wrong += !intact(s, s->pages);
        size_t other = 1 + (r >> 40) % 30, least = other < s->pages ? other : s->pages;
        if (what < 4) {
            wrong += munmap(s->at, s->pages * PAGE) != 0;
            s->at = NULL;
        } else if (what < 8) {
            unsigned char *moved = mremap(s->at, s->pages * PAGE, other * PAGE, MREMAP_MAYMOVE);
            if (moved == MAP_FAILED) {
                wrong++;
                continue;
            }
            s->at = moved;
            s->pages = other;
            wrong += !intact(s, least);
            fill(s, least);
        } else if (what < 10) {
            wrong += mprotect(s->at, s->pages * PAGE, PROT_READ) != 0 || !intact(s, s->pages);
            wrong += mprotect(s->at, s->pages * PAGE, PROT_READ | PROT_WRITE) != 0;
        } else if (what < 12) {
            wrong += madvise(s->at, s->pages * PAGE, MADV_DONTNEED) != 0 || s->at[0] != 0;
            fill(s, 0);
        } else if (what < 14 && s->pages > 1) { /* cut the last page off */
            s->pages--;
            wrong += munmap(s->at + s->pages * PAGE, PAGE) != 0;
        } else {
            s->mark++;
            fill(s, 0);
        }
        pages += s->pages;
    }
    for (int i = 0; i < SLOTS; i++)
        wrong += slots[i].at != NULL && !intact(&slots[i], slots[i].pages);
    printf("%lu steps, %lu pages, wrong %lu\n", steps, pages, wrong);
    return wrong != 0;
}
