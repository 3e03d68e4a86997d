/* Signals of every kind that a program can catch, and what its handlers are told. Size: signals raised in the loops. */
#define _GNU_SOURCE
#include "guest.h"
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096u

static volatile sig_atomic_t seen, depth, deepest;
static volatile int last_code, last_signal;
static volatile uintptr_t last_address;
static volatile int value_of;
static sigjmp_buf escape;

/* `also` is a signal to block while the handler runs, or 0. On RISC-V by the system call itself: qemu 7.2 reads the mask
 * one word too far on, where musl leaves whatever the stack held, so both words are given the same mask. */
static void install_masking(int number, void (*handler)(int, siginfo_t *, void *), int flags, int also) {
#ifdef __riscv
    unsigned long mask = also ? 1ul << (also - 1) : 0;
    unsigned long action[4] = {(unsigned long)handler, (unsigned long)(SA_SIGINFO | flags), mask, mask};
    if (syscall(SYS_rt_sigaction, number, action, NULL, 8) != 0)
        printf("cannot install %d\n", number);
#else
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | flags;
    sigemptyset(&action.sa_mask);
    if (also)
        sigaddset(&action.sa_mask, also);
    if (sigaction(number, &action, NULL) != 0)
        printf("cannot install %d\n", number);
#endif
}

static void install(int number, void (*handler)(int, siginfo_t *, void *), int flags) {
    install_masking(number, handler, flags, 0);
}

static void count(int number, siginfo_t *info, void *context) {
    (void)context;
    seen++;
    last_signal = number;
    last_code = info->si_code;
    value_of = info->si_value.sival_int;
}

static void queued(void) {
    sigset_t set, pending;
    install(SIGUSR2, count, 0);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    seen = 0;
    sigprocmask(SIG_BLOCK, &set, NULL);
    kill(getpid(), SIGUSR2);
    kill(getpid(), SIGUSR2);
    sigpending(&pending);
    printf("blocked: seen %d pending %d\n", (int)seen, sigismember(&pending, SIGUSR2));
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    sigpending(&pending);
    printf("unblocked: seen %d pending %d from kill %d\n", (int)seen, sigismember(&pending, SIGUSR2), last_code == SI_USER);

    /* real-time signals queue and carry a value */
    int realtime = SIGRTMIN + 3;
    install(realtime, count, 0);
    sigemptyset(&set);
    sigaddset(&set, realtime);
    sigprocmask(SIG_BLOCK, &set, NULL);
    seen = 0;
    for (int i = 0; i < 3; i++) {
        union sigval v = {.sival_int = 100 + i};
        sigqueue(getpid(), realtime, v);
    }
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    printf("queued: seen %d value %d code %d\n", (int)seen, value_of, last_code == SI_QUEUE);

    sigprocmask(SIG_BLOCK, &set, NULL);
    union sigval v = {.sival_int = 55};
    sigqueue(getpid(), realtime, v);
    siginfo_t info;
    memset(&info, 0, sizeof info);
    int got = sigwaitinfo(&set, &info);
    printf("sigwaitinfo %d value %d\n", got == realtime, info.si_value.sival_int);
    struct timespec soon = {0, 2000000};
    got = sigtimedwait(&set, &info, &soon);
    printf("sigtimedwait %d %d\n", got, errno == EAGAIN);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static void nest(int number, siginfo_t *info, void *context) {
    (void)info, (void)context;
    seen++;
    depth++;
    if (depth > deepest)
        deepest = depth;
    if (seen < 4) /* not raise(): musl's blocks signals around its call */
        syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), number);
    depth--;
}

/* While the first signal's handler runs, the other must wait. */
static void first(int number, siginfo_t *info, void *context) {
    (void)number, (void)info, (void)context;
    sigset_t mask;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR2);
    printf("masked: own %d other %d seen %d\n", sigismember(&mask, SIGUSR1), sigismember(&mask, SIGUSR2), (int)seen);
}

static char *stack_low;
static volatile int on_stack, flagged;

static void where(int number, siginfo_t *info, void *context) {
    (void)number, (void)info, (void)context;
    char here;
    stack_t now;
    sigaltstack(NULL, &now);
    char *volatile address = &here;
    on_stack = address >= stack_low && address < stack_low + 65536;
    flagged = (now.ss_flags & SS_ONSTACK) != 0;
}

static void alternate(void) {
    stack_t s, old;
    memset(&s, 0, sizeof s);
    stack_low = malloc(65536);
    s.ss_sp = stack_low;
    s.ss_size = 65536;
    printf("sigaltstack %d\n", sigaltstack(&s, &old));
    printf("old disabled %d\n", (old.ss_flags & SS_DISABLE) != 0);
    install(SIGUSR1, where, SA_ONSTACK);
    raise(SIGUSR1);
    printf("with SA_ONSTACK: there %d flag %d\n", on_stack, flagged);
    install(SIGUSR1, where, 0);
    raise(SIGUSR1);
    printf("without: there %d flag %d\n", on_stack, flagged);
    s.ss_size = 16;
    int r = sigaltstack(&s, NULL);
    printf("too small %d %d\n", r, errno == ENOMEM);
}

static void open_page(int number, siginfo_t *info, void *context) {
    (void)context;
    seen++;
    last_signal = number;
    last_code = info->si_code;
    last_address = (uintptr_t)info->si_addr;
    mprotect((void *)(last_address & -(uintptr_t)PAGE), PAGE, PROT_READ | PROT_WRITE);
}

static void leave(int number, siginfo_t *info, void *context) {
    (void)context;
    last_signal = number;
    last_code = info->si_code;
    last_address = (uintptr_t)info->si_addr;
    siglongjmp(escape, number);
}

static void faults(unsigned long n) {
    unsigned pages = n < 16 ? 4 : 16;
    unsigned char *area = mmap(NULL, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    install(SIGSEGV, open_page, 0);
    seen = 0;
    uint64_t sum = 0, wrong = 0;
    for (unsigned i = 0; i < pages; i++) {
        volatile unsigned char *p = area + i * PAGE + i * 8;
        if (i & 1)
            *p = (unsigned char)(i + 1);
        else
            sum += *p + i;
        wrong += last_address != (uintptr_t)p || last_code != SEGV_ACCERR || last_signal != SIGSEGV;
        sum += *p;
    }
    printf("opened pages: seen %d sum %llu wrong %llu\n", (int)seen, (unsigned long long)sum, (unsigned long long)wrong);

    /* out of the handler by siglongjmp: reads and writes, unmapped and protected */
    install(SIGSEGV, leave, 0);
    mprotect(area, PAGE, PROT_READ);
    mprotect(area + PAGE, PAGE, PROT_NONE);
    unsigned char *gone = area + (pages - 1) * PAGE;
    munmap(gone, PAGE);
    volatile unsigned char *const places[] = {(unsigned char *)16, area + 100, area + PAGE + 7, gone + 9, NULL};
    static const char *const names[] = {"low", "read only", "no access", "unmapped", "null"};
    for (int i = 0; i < 5; i++)
        for (int writing = 0; writing < 2; writing++) {
            volatile unsigned char *p = places[i];
            OPAQUE(p);
            volatile int got = 0;
            last_code = 0;
            last_address = 1;
            int number = sigsetjmp(escape, 1);
            if (number == 0) {
                if (writing)
                    *p = 1;
                else
                    got = *p + 1;
            }
            printf("%s %s: signal %d code %d address %d done %d\n", writing ? "write" : "read", names[i], number, last_code,
                   last_address == (uintptr_t)p, got);
        }
    /* many of them: nothing may leak or be left blocked */
    volatile unsigned long times = 0;
    volatile uint64_t hash = GUEST_HASH;
    for (times = 0; times < n; times++)
        if (sigsetjmp(escape, 1) == 0)
            *(volatile int *)(times % 500 * 8) = 1;
        else
            hash = guest_mix(hash, last_address);
    printf("%lu escapes %016llx\n", n, (unsigned long long)hash);

    /* a jump to where nothing is; a jump into data that may not run */
    void (*volatile nowhere)(void) = (void (*)(void))(uintptr_t)0x1000;
    int number = sigsetjmp(escape, 1);
    if (number == 0)
        nowhere();
    printf("jump nowhere: signal %d code %d address %lx\n", number, last_code, (unsigned long)last_address);
    void *data = area + 2 * PAGE;
    mprotect(data, PAGE, PROT_READ | PROT_WRITE);
    memcpy((void *)&nowhere, &data, sizeof data);
    number = sigsetjmp(escape, 1);
    if (number == 0)
        nowhere();
    printf("jump into data: signal %d code %d address %d\n", number, last_code, last_address == (uintptr_t)data);
    signal(SIGSEGV, SIG_DFL);
}

/* The handler steps over the instruction that trapped. */
static void step_over(int number, siginfo_t *info, void *context) {
    ucontext_t *u = context;
    seen++;
    last_signal = number;
    last_code = info->si_code;
#if defined(__riscv)
    uintptr_t pc = u->uc_mcontext.__gregs[0];
    last_address = (uintptr_t)info->si_addr - pc;
    u->uc_mcontext.__gregs[0] += (*(uint16_t *)pc & 3) == 3 ? 4 : 2;
#elif defined(__x86_64__)
    last_address = number == SIGILL ? (uintptr_t)info->si_addr - (uintptr_t)u->uc_mcontext.gregs[REG_RIP] : 0;
    if (number == SIGILL)
        u->uc_mcontext.gregs[REG_RIP] += 2;
#endif
}

#ifdef __riscv
/* Registers as the handler sees them, and as it leaves them. */
static volatile unsigned long shown[32];
static void registers(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    ucontext_t *u = context;
    for (int i = 0; i < 32; i++)
        shown[i] = u->uc_mcontext.__gregs[i];
    u->uc_mcontext.__gregs[0] += 4;
    u->uc_mcontext.__gregs[10] = 0x1111; /* a0 */
    u->uc_mcontext.__gregs[28] += 1;     /* t3 */
    /* Whatever the handler does to its own registers must not be seen outside. */
    __asm__ volatile("li t4, 1\n\tfcvt.d.l fa0, t4\n\tfcvt.d.l ft5, t4\n\tfsflagsi 31\n\tfsrmi 1" ::: "t4", "fa0", "ft5");
}

static NOINLINE void context_test(void) {
    register unsigned long a0 __asm__("a0") = 0xaaaa, a1 __asm__("a1") = 0xbbbb, t3 __asm__("t3") = 0x3333,
                           t4 __asm__("t4") = 0x4444, s5 __asm__("s5") = 0x5555;
    register double fa0 __asm__("fa0") = 1.25, ft5 __asm__("ft5") = -2.5;
    unsigned long flags;
    __asm__ volatile("csrw fcsr, zero\n\t"
                     ".balign 4\n\t"
                     ".word 0xffffffff\n\t" /* no instruction, four bytes */
                     "csrr %[flags], fcsr"
                     : "+r"(a0), "+r"(a1), "+r"(t3), "+r"(t4), "+r"(s5), "+f"(fa0), "+f"(ft5), [flags] "=&r"(flags)
                     :
                     : "memory");
    unsigned long after[5] = {a0, a1, t3, t4, s5};
    double floats[2] = {fa0, ft5};
    printf("in handler: a0 %lx a1 %lx t3 %lx t4 %lx s5 %lx\n", shown[10], shown[11], shown[28], shown[29], shown[21]);
    printf("after: a0 %lx a1 %lx t3 %lx t4 %lx s5 %lx fa0 %g ft5 %g fcsr %lx\n", after[0], after[1], after[2], after[3],
           after[4], floats[0], floats[1], flags);
}
#endif

static volatile sig_atomic_t alarms;
static void on_alarm(int number) {
    (void)number;
    alarms++;
}

static int restart_end;
static void on_alarm_write(int number) {
    (void)number;
    if (write(restart_end, "r", 1) != 1)
        abort();
}

static void timers(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm;
    sigemptyset(&action.sa_mask);
    sigaction(SIGALRM, &action, NULL);
    struct itimerval often = {{0, 5000}, {0, 5000}}, off = {{0, 0}, {0, 0}}, left;
    setitimer(ITIMER_REAL, &often, NULL);
    volatile unsigned long spins = 0;
    while (alarms < 3) /* a loop without a system call must be interrupted too */
        spins++;
    printf("spun %d\n", spins > 0);
    sigset_t none;
    sigemptyset(&none);
    int r = sigsuspend(&none);
    printf("sigsuspend %d %d\n", r, errno == EINTR);
    setitimer(ITIMER_REAL, &off, &left);
    printf("timer was on %d\n", left.it_interval.tv_usec == 5000);

    int ends[2];
    char byte;
    if (pipe(ends) != 0)
        return;
    struct itimerval once = {{0, 0}, {0, 10000}};
    setitimer(ITIMER_REAL, &once, NULL);
    ssize_t n = read(ends[0], &byte, 1);
    printf("read %zd %d\n", n, n < 0 && errno == EINTR);
    once.it_value.tv_usec = 10000;
    setitimer(ITIMER_REAL, &once, NULL);
    struct timespec nap = {5, 0}, rest = {0, 0};
    r = nanosleep(&nap, &rest);
    printf("nanosleep %d %d rest %d\n", r, errno == EINTR, rest.tv_sec == 4);
    /* SA_RESTART: the read goes on, and ends by the byte that the handler writes */
    restart_end = ends[1];
    action.sa_handler = on_alarm_write;
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
    once.it_value.tv_usec = 10000;
    setitimer(ITIMER_REAL, &once, NULL);
    n = read(ends[0], &byte, 1);
    printf("restarted read %zd '%c'\n", n, byte);
    close(ends[0]);
    close(ends[1]);
}

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 200);
    install(SIGUSR1, count, 0);
    for (unsigned long i = 0; i < n; i++)
        raise(SIGUSR1);
    printf("raised %lu seen %d signal %d from tkill %d\n", n, (int)seen, last_signal, last_code == SI_TKILL);
    queued();

    install(SIGUSR1, nest, SA_NODEFER);
    seen = 0;
    raise(SIGUSR1);
    printf("nodefer: seen %d deepest %d\n", (int)seen, (int)deepest);
    install(SIGUSR1, nest, 0);
    seen = depth = deepest = 0;
    raise(SIGUSR1);
    printf("deferred: seen %d deepest %d\n", (int)seen, (int)deepest);
    install_masking(SIGUSR1, first, 0, SIGUSR2);
    seen = 0;
    raise(SIGUSR1);
    printf("after the mask: seen %d\n", (int)seen);
    install(SIGUSR1, count, SA_RESETHAND);
    raise(SIGUSR1);
    struct sigaction now;
    sigaction(SIGUSR1, NULL, &now);
    printf("resethand: default again %d\n", now.sa_handler == SIG_DFL);
    signal(SIGUSR1, SIG_IGN);
    seen = 0;
    raise(SIGUSR1);
    printf("ignored: seen %d\n", (int)seen);
    struct sigaction refused;
    memset(&refused, 0, sizeof refused);
    refused.sa_handler = on_alarm;
    int r = sigaction(SIGKILL, &refused, NULL);
    printf("kill cannot be caught %d %d\n", r, errno == EINVAL);
    r = kill(getpid(), 0);
    printf("kill 0 %d\n", r);

    alternate();
    faults(n);

    install(SIGILL, step_over, 0);
    seen = 0;
    for (unsigned long i = 0; i < n; i++) {
#if defined(__riscv)
        __asm__ volatile(".half 0" ::: "memory");
        __asm__ volatile(".balign 4\n\t.word 0xffffffff" ::: "memory");
#elif defined(__x86_64__)
        __asm__ volatile("ud2\n\tud2" ::: "memory");
#endif
    }
    printf("illegal: seen %d signal %d code %d address %ld\n", (int)seen, last_signal, last_code, (long)last_address);
    install(SIGTRAP, step_over, 0);
    seen = 0;
#if defined(__riscv)
    __asm__ volatile("ebreak" ::: "memory");
#elif defined(__x86_64__)
    __asm__ volatile("int3" ::: "memory");
#endif
    printf("breakpoint: seen %d signal %d\n", (int)seen, last_signal);
#ifdef __riscv
    install(SIGILL, registers, 0);
    context_test();
#endif
    timers();
    return 0;
}
