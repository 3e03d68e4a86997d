/* What a handler is told of an exception of the processor, and with which floating point it begins. */
#define _GNU_SOURCE
#include <fenv.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>

static sigjmp_buf back;

static void handler(int number, siginfo_t *info, void *context) {
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned short control;
    unsigned mxcsr;
    __asm__ volatile("fnstcw %0; stmxcsr %1" : "=m"(control), "=m"(mxcsr));
    /* Bit 0 of the error code depends on whether the host has the page already. */
    printf("  signal %d code %d trap %d error %x cr2 %d address %s x87 %x mxcsr %x\n", number, info->si_code,
           (int)regs[REG_TRAPNO], (unsigned)regs[REG_ERR] & 0x16, regs[REG_CR2] == 8,
           !info->si_addr                                     ? "0"
           : (uintptr_t)info->si_addr == (uintptr_t)regs[REG_RIP] ? "pc"
                                                                  : "other",
           control, mxcsr & 0xffc0);
    siglongjmp(back, 1);
}

#define TRY(what, ...)                                                                                                 \
    do {                                                                                                               \
        printf("%s\n", what);                                                                                          \
        if (!sigsetjmp(back, 1)) {                                                                                     \
            __VA_ARGS__;                                                                                               \
            printf("  none\n");                                                                                        \
        }                                                                                                              \
        fedisableexcept(FE_ALL_EXCEPT);                                                                                \
        feclearexcept(FE_ALL_EXCEPT);                                                                                  \
    } while (0)

int main(void) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER};
    int signals[] = {SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV};
    volatile int zero = 0, number = 1234;
    volatile double small = 0, large = 1e308;
    volatile long double wide = 0;
    volatile char *page = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    for (int i = 0; i < 5; i++)
        sigaction(signals[i], &action, 0);
    TRY("read", zero = *(volatile int *)8);
    TRY("write", *(volatile int *)8 = 1);
    TRY("write what is read-only", page[1] = 1);
    TRY("run what is data", ((void (*)(void))page)());
    TRY("divide", zero = number / zero);
    TRY("ud2", __asm__ volatile("ud2"));
    TRY("int3", __asm__ volatile("int3"));
    TRY("hlt", __asm__ volatile("hlt"));
    TRY("division by zero", feenableexcept(FE_DIVBYZERO); small = 1 / small);
    TRY("invalid", feenableexcept(FE_INVALID); small = 0; small = small / small);
    TRY("overflow", feenableexcept(FE_OVERFLOW); large *= 10);
    TRY("x87", feenableexcept(FE_DIVBYZERO); wide = 1 / wide; __asm__ volatile("fwait"));
    return 0;
}
