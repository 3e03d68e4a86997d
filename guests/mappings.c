/* Mappings of files and shared memory: what they show, what others see of them, and what becomes of the pages of a file
 * that is truncated. Run in an empty directory. */
#define _GNU_SOURCE
#include "guest.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

static sigjmp_buf back;
static volatile int caught, code;
static char *volatile address;
static volatile char *file;
static volatile unsigned long sum;

static void handler(int number, siginfo_t *info, void *context) {
    (void)context;
    caught = number;
    code = info->si_code;
    address = info->si_addr;
    siglongjmp(back, 1);
}

#define TRY(what, ...)                                                                                                 \
    do {                                                                                                               \
        caught = 0;                                                                                                    \
        if (!sigsetjmp(back, 1)) {                                                                                     \
            __VA_ARGS__;                                                                                               \
            printf("%s: fine\n", what);                                                                                \
        } else {                                                                                                       \
            printf("%s: signal %d code %d offset %ld\n", what, caught, code, (long)(address - (char *)file));          \
        }                                                                                                              \
    } while (0)

static void said(const char *what, long result) {
    int error = errno;
    printf("%s: %ld%s%s\n", what, result, result < 0 ? " " : "", result < 0 ? strerror(error) : "");
}

static char at(int fd, off_t offset) {
    char byte = '?';
    if (pread(fd, &byte, 1, offset) != 1)
        return '-';
    return byte;
}

static void *map(size_t length, int prot, int flags, int fd, off_t offset) {
    void *place = mmap(NULL, length, prot, flags, fd, offset);
    if (place == MAP_FAILED) {
        printf("mmap: %s\n", strerror(errno));
        exit(1);
    }
    return place;
}

/* Hot before the file is cut, so that compiled code meets the fault. */
NOINLINE static unsigned long walk(volatile char *from, size_t length) {
    unsigned long total = 0;
    for (size_t i = 0; i < length; i++)
        total += (unsigned char)from[i];
    return total;
}

NOINLINE static void paint(volatile char *from, size_t length, char value) {
    for (size_t i = 0; i < length; i++)
        from[i] = value;
}

static void cut(void) {
    int fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0644);
    said("ftruncate", ftruncate(fd, 2 * PAGE + 100));
    pwrite(fd, "abc", 3, 2 * PAGE);
    file = map(5 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    printf("the last page: %d %d\n", file[2 * PAGE], file[2 * PAGE + 200]);
    for (int i = 0; i < 60; i++)
        sum += walk(file, 2 * PAGE), paint(file, 2 * PAGE, (char)i);
    printf("sum %lu\n", sum);
    TRY("load behind the end", (void)file[3 * PAGE + 5]);
    TRY("store behind the end", file[4 * PAGE + 7] = 1);
    TRY("walk over the end", sum = walk(file, 5 * PAGE));
    TRY("paint over the end", paint(file + PAGE, 4 * PAGE, 'p'));
    printf("painted to %c%c\n", at(fd, PAGE), at(fd, 2 * PAGE + 99));
    said("ftruncate", ftruncate(fd, PAGE));
    TRY("load of what was cut", (void)file[PAGE]);
    TRY("store to what was cut", file[2 * PAGE] = 2);
    TRY("walk", sum = walk(file + PAGE - 10, 100));
    TRY("paint", paint(file + PAGE - 10, 100, 'q'));
    TRY("add", __atomic_fetch_add((int *)(file + 2 * PAGE), 1, __ATOMIC_SEQ_CST));
    TRY("two pages", (void)*(volatile long *)(file + PAGE - 2));
    said("write", write(fd, (void *)(file + PAGE), 10));
    said("read", pread(fd, (void *)(file + 2 * PAGE), 10, 0));
    said("ftruncate", ftruncate(fd, 4 * PAGE));
    TRY("load of what came back", printf("%d\n", file[2 * PAGE]));
    TRY("store to what came back", file[2 * PAGE] = '5');
    printf("the file has %c\n", at(fd, 2 * PAGE));
    pwrite(fd, "Z", 1, 2 * PAGE + 1);
    printf("the mapping has %c\n", file[2 * PAGE + 1]);

    char *moved = mremap((void *)file, 5 * PAGE, 8 * PAGE, MREMAP_MAYMOVE);
    said("mremap", moved == MAP_FAILED ? -1 : 0);
    file = moved;
    printf("moved: %c %c\n", moved[2 * PAGE], moved[2 * PAGE + 1]);
    moved[3] = 'm';
    printf("the file has %c\n", at(fd, 3));
    said("ftruncate", ftruncate(fd, 8 * PAGE));
    TRY("behind the old mapping", file[7 * PAGE] = '7');
    printf("the file has %c\n", at(fd, 7 * PAGE));
    said("mremap", mremap(moved, 8 * PAGE, PAGE, 0) == moved ? 0 : -1);
    TRY("behind the small mapping", (void)file[PAGE]);
    munmap(moved, PAGE);
    TRY("unmapped", (void)file[0]);
    close(fd);
}

static void private(void) {
    int fd = open("f", O_RDWR | O_TRUNC);
    ftruncate(fd, 2 * PAGE);
    pwrite(fd, "AB", 2, PAGE);
    char *mine = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    volatile char *look = mine;
    printf("private %c%c\n", look[PAGE], look[PAGE + 1]);
    pwrite(fd, "C", 1, PAGE);
    printf("before it is written: %c\n", look[PAGE]);
    look[PAGE + 1] = 'x';
    pwrite(fd, "DE", 2, PAGE);
    printf("after: %c%c, the file %c%c\n", look[PAGE], look[PAGE + 1], at(fd, PAGE), at(fd, PAGE + 1));
    said("madvise", madvise(mine, 2 * PAGE, MADV_DONTNEED));
    printf("after that: %c%c\n", look[PAGE], look[PAGE + 1]);
    mine[0] = 'k';
    char *moved = mremap(mine, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE);
    printf("moved %c%c\n", moved[0], moved[PAGE]);
    /* Anonymous memory over a part of it, and what is left around that. */
    char *hole = mmap(moved + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    printf("hole %d %d %c\n", hole == moved + PAGE, hole[0], moved[0]);
    file = moved;
    TRY("behind the file", (void)file[2 * PAGE]);
    said("mprotect", mprotect(moved, PAGE, PROT_READ));
    TRY("store to what is protected", file[0] = 1);
    munmap(moved, 3 * PAGE);
    close(fd);
    fd = open("f", O_RDONLY);
    char *shown = map(PAGE, PROT_READ, MAP_SHARED, fd, PAGE);
    printf("shared, for reading: %c\n", shown[0]);
    said("mprotect", mprotect(shown, PAGE, PROT_READ | PROT_WRITE));
    said("read", pread(fd, shown, 10, 0));
    said("mmap", mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
    said("msync", msync(shown, PAGE, MS_SYNC));
    munmap(shown, PAGE);
    close(fd);
    unlink("f");
}

static void shared(void) {
    int *number = map(3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int *own = map(PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = memfd_create("numbers", 0);
    ftruncate(fd, PAGE);
    int *third = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    printf("shared memory: %d %d\n", number[0], number[2 * PAGE / 4]);
    number[0] = own[0] = third[0] = 1;
    pid_t child = fork();
    if (child == 0) {
        number[0] += 10;
        number[2 * PAGE / 4] = 7;
        own[0] += 10;
        third[0] += 10;
        _exit(number[0] == 11 && own[0] == 11 && third[0] == 11 ? 3 : 4);
    }
    int status = 0;
    waitpid(child, &status, 0);
    printf("child %d: %d %d %d %d\n", WEXITSTATUS(status), number[0], number[2 * PAGE / 4], own[0], third[0]);
    int *place = map(3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int *moved = mremap(number, 3 * PAGE, 3 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    said("mremap", moved == place ? 0 : -1);
    printf("moved: %d\n", moved[0]);
    said("madvise", madvise(moved, PAGE, MADV_DONTNEED));
    printf("still: %d\n", moved[0]);
    munmap(moved, 3 * PAGE);
    munmap(third, PAGE);
    close(fd);
}

int main(void) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    setvbuf(stdout, NULL, _IONBF, 0);
    cut();
    private();
    shared();
    return 0;
}
