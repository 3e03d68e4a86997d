/* Ends in the way that the first argument names, most of them badly. Prints first what must be reported: the address of the
 * instruction (pc) and of the access. Without an argument it lists its names. */
#define _GNU_SOURCE
#include "guest.h"
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __riscv
extern const char at_load[], at_store[], at_word[], at_half[], at_break[], at_amo[], at_reserve[], at_fstore[];
#endif

static void say(const char *pc, const volatile void *address) {
    printf("pc %lx address %lx\n", (unsigned long)(uintptr_t)pc, (unsigned long)(uintptr_t)address);
    fflush(stdout);
}

static NOINLINE long endless(long n) {
    volatile char frame[4096];
    frame[0] = (char)n;
    return endless(n + 1) + frame[0];
}

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "";
    unsigned char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int is_load = strcmp(how, "load") == 0, is_null = strcmp(how, "null") == 0;
#ifdef __riscv
    if (is_load || is_null) {
        unsigned long bad = is_null ? 0 : 0xdead000, value;
        say(at_load, (void *)bad);
        __asm__ volatile(".globl at_load\nat_load: ld %0, 0(%1)" : "=r"(value) : "r"(bad));
    } else if (strcmp(how, "wild") == 0) { /* far outside any guest address space */
        unsigned long bad = 0x7ffffffffffff000, value;
        say(at_half, (void *)bad);
        __asm__ volatile(".globl at_half\nat_half: lhu %0, 0(%1)" : "=r"(value) : "r"(bad));
    } else if (strcmp(how, "store") == 0) {
        unsigned long bad = 0xdead008;
        say(at_store, (void *)bad);
        __asm__ volatile(".globl at_store\nat_store: sw %0, 0(%1)" : : "r"(1), "r"(bad) : "memory");
    } else if (strcmp(how, "readonly") == 0) {
        say(at_fstore, page + 24);
        __asm__ volatile(".globl at_fstore\nat_fstore: fsd %0, 24(%1)" : : "f"(1.0), "r"(page) : "memory");
    } else if (strcmp(how, "amo") == 0) {
        say(at_amo, page + 8);
        __asm__ volatile(".globl at_amo\nat_amo: amoadd.d %0, %0, (%1)" : : "r"(1l), "r"(page + 8) : "memory");
    } else if (strcmp(how, "reserve") == 0) {
        unsigned long bad = 0xdead010, value;
        say(at_reserve, (void *)bad);
        __asm__ volatile(".globl at_reserve\nat_reserve: lr.w %0, (%1)" : "=r"(value) : "r"(bad) : "memory");
    } else if (strcmp(how, "word") == 0) {
        say(at_word, at_word);
        __asm__ volatile(".balign 4\n.globl at_word\nat_word: .word 0xffffffff");
    } else if (strcmp(how, "zero") == 0) {
        unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        void (*run)(void);
        memcpy(&run, &code, sizeof run);
        say((char *)code, code);
        run();
    } else if (strcmp(how, "break") == 0) {
        say(at_break, at_break);
        __asm__ volatile(".globl at_break\nat_break: ebreak");
    } else
#else
    (void)is_load, (void)is_null;
#endif
    if (strcmp(how, "fetch") == 0) {
        void (*nowhere)(void) = (void (*)(void))(uintptr_t)0xdead020;
        OPAQUE(nowhere);
        say((char *)0xdead020, (void *)0xdead020);
        nowhere();
    } else if (strcmp(how, "data") == 0) { /* readable, but not executable */
        void (*run)(void);
        memcpy(&run, &page, sizeof run);
        say((char *)page, page);
        run();
    } else if (strcmp(how, "stack") == 0) {
        puts("endless recursion");
        fflush(stdout);
        return (int)endless(0);
    } else if (strcmp(how, "abort") == 0) {
        puts("abort");
        fflush(stdout);
        abort();
    } else if (strcmp(how, "term") == 0) {
        puts("term");
        fflush(stdout);
        kill(getpid(), SIGTERM);
    } else if (strcmp(how, "kill") == 0) {
        puts("kill");
        fflush(stdout);
        raise(SIGKILL);
    } else if (strcmp(how, "pipe") == 0) {
        int ends[2];
        if (pipe(ends) != 0)
            return 1;
        close(ends[0]);
        puts("pipe");
        fflush(stdout);
        if (write(ends[1], "x", 1) < 0)
            return 1;
    } else if (strcmp(how, "exit") == 0) {
        puts("exit");
        return argc > 2 ? atoi(argv[2]) : 7;
    } else if (strcmp(how, "spin") == 0) {
        puts("spin");
        fflush(stdout);
        for (volatile unsigned long i = 0;; i++)
            ;
    } else if (strcmp(how, "eat") == 0) { /* asks for memory until there is none */
        unsigned long got = 0;
        for (;; got++) {
            char *more = malloc(1 << 20);
            OPAQUE(more); /* clang knows what malloc is, and would leave it out */
            if (more == NULL)
                break;
            memset(more, 1, 1 << 20);
            OPAQUE(more);
        }
        printf("malloc failed after %lu MiB\n", got);
        return 9;
    } else {
        puts("null load wild store readonly amo reserve word zero break fetch data stack abort term kill pipe exit spin eat");
        return how[0] ? 2 : 0;
    }
    puts("still alive");
    return 3;
}
