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
    /* Bit 0 of a page fault's error code depends on whether the host has the page already; the kernel's are never told. */
    unsigned error = regs[REG_ERR] & (regs[REG_TRAPNO] == 14 && regs[REG_CR2] >= 0 ? 0x16 : ~0u);
    /* Its own accesses need not be aligned. */
    __asm__ volatile("pushfq; andl $~0x40000, (%%rsp); popfq" ::: "memory", "cc");
    __asm__ volatile("fnstcw %0; stmxcsr %1" : "=m"(control), "=m"(mxcsr));
    printf("  signal %d code %d trap %d error %x cr2 %d flags %x address %s x87 %x mxcsr %x\n", number, info->si_code,
           (int)regs[REG_TRAPNO], error, regs[REG_CR2] == 8, (unsigned)regs[REG_EFL] & 0x10100,
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

#define STEP "pushfq; orl $0x100, (%%rsp); popfq;"

static char other_stack[1 << 16];

int main(void) {
    stack_t stack = {.ss_sp = other_stack, .ss_size = sizeof other_stack};
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    int signals[] = {SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV};
    volatile int zero = 0, number = 1234;
    volatile double small = 0, large = 1e308;
    volatile long double wide = 0;
    volatile char *page = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    sigaltstack(&stack, 0);
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
    TRY("int 3", __asm__ volatile(".byte 0xcd, 3"));
    TRY("int 4", __asm__ volatile("int $4"));
    TRY("int 0", __asm__ volatile("int $0"));
    TRY("int 14", __asm__ volatile("int $14"));
    TRY("int 0x81", __asm__ volatile("int $0x81"));
    TRY("int1", __asm__ volatile(".byte 0xf1"));
    TRY("into", __asm__ volatile(".byte 0xce"));
    TRY("step", __asm__ volatile(STEP "nop; nop" ::: "memory"));
    TRY("step system call", __asm__ volatile(STEP "syscall; nop" ::"a"(39) : "rcx", "r11", "memory"));
    TRY("step off", __asm__ volatile("pushfq;" STEP "popfq; nop" ::: "memory"));
    TRY("step int1", __asm__ volatile(STEP ".byte 0xf1; nop" ::: "memory"));
    TRY("step what looks like it", __asm__ volatile(STEP "mov $0xf1, %%al; nop" ::: "rax", "memory"));
    TRY("step ud2", __asm__ volatile(STEP "ud2" ::: "memory"));
    TRY("segment", __asm__ volatile("mov %0, %%ds" ::"r"(0x5003)));
    TRY("segment of a local table", __asm__ volatile("mov %0, %%ds" ::"r"(0x5007)));
    TRY("the first of a local table", __asm__ volatile("mov %0, %%es" ::"r"(0x7)));
    TRY("the last of a local table", __asm__ volatile("mov %0, %%es" ::"r"(0xffff)));
    TRY("stack", __asm__ volatile("mov %0, %%rsp; pop %%rax" ::"r"(1ul << 63) : "rax"));
    TRY("alignment", __asm__ volatile("pushfq; orl $0x40000, (%%rsp); popfq; mov 1(%%rsp), %%eax" ::: "rax", "memory"));
    TRY("the kernel's", zero = *(volatile int *)0xffffffff81000000);
    TRY("division by zero", feenableexcept(FE_DIVBYZERO); small = 1 / small);
    TRY("invalid", feenableexcept(FE_INVALID); small = 0; small = small / small);
    TRY("overflow", feenableexcept(FE_OVERFLOW); large *= 10);
    TRY("x87", feenableexcept(FE_DIVBYZERO); wide = 1 / wide; __asm__ volatile("fwait"));
    return 0;
}
