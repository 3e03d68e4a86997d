#include "abi.h"
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/sysmacros.h>

static volatile sig_atomic_t seen;
static void handler(int number) { seen = number; }
static int set(int which, rlim_t soft, rlim_t hard) {
    struct rlimit l = {soft, hard};
    return setrlimit(which, &l);
}
static int status(int (*child)(void)) {
    int s;
    pid_t pid = fork();
    if (!pid)
        _exit(child());
    waitpid(pid, &s, 0);
    return s;
}
static int spend(void) {
    set(RLIMIT_CPU, 1, 2);
    set(RLIMIT_CORE, 0, 0);
    for (;;)
        ;
}
static int spend_with_handler(void) {
    signal(SIGXCPU, handler);
    set(RLIMIT_CPU, 1, 3);
    while (!seen)
        ;
    return seen;
}
static int too_long(void) {
    set(RLIMIT_FSIZE, 4096, 4096);
    set(RLIMIT_CORE, 0, 0);
    int fd = open("long", O_RDWR | O_CREAT, 0600);
    char page[4096] = {1};
    return write(fd, page, 4096) == 4096 && write(fd, page, 1) < 0 ? 7 : 8;
}
/* What is no file to the program may be longer. */
static int no_files(void) {
    char text[1 << 16];
    int fd;
    signal(SIGXFSZ, SIG_DFL);
    set(RLIMIT_FSIZE, 1, RLIM_INFINITY);
    set(RLIMIT_CORE, 0, 0);
    T(read(open("/proc/self/maps", O_RDONLY), text, sizeof text) > 1);
    OK(mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0);
    OK(fd = shmget(IPC_PRIVATE, 1 << 20, 0600));
    T(shmctl(fd, IPC_RMID, 0));
    volatile unsigned long sum = 0;
    for (unsigned long n = 0; n < 20000000; n++)
        sum += n * n;
    T(ftruncate(syscall(SYS_memfd_create, "memory", 0), 2));
    return 0;
}
static int addresses(void) {
    set(RLIMIT_AS, 256 << 20, 256 << 20);
    T(mmap(0, 1 << 30, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    OK(mmap(0, 1 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
    T(malloc(1 << 30) == 0);
    return 0;
}
static int data(void) {
    set(RLIMIT_DATA, 64 << 20, 64 << 20);
    T(mmap(0, 1 << 28, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    OK(mmap(0, 1 << 28, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
    OK(mmap(0, 1 << 28, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
    T(syscall(SYS_brk, (char *)sbrk(0) + (1 << 28)) == (long)sbrk(0));
    return 0;
}
static int files(void) {
    set(RLIMIT_NOFILE, 4, 4);
    int fd;
    while ((fd = open("/dev/null", O_RDONLY)) >= 0)
        ;
    SHOW("%s", strerrorname_np(errno));
    return 0;
}

int main(void) {
    struct rlimit l = {9, 3};
    T(setrlimit(RLIMIT_CORE, &l));
    T(setrlimit(99, &l));
    T(setrlimit(-1, &l));
    T(getrlimit(99, &l));
    T(getrlimit(RLIMIT_CPU, (void *)1));
    T(syscall(SYS_prlimit64, 0, RLIMIT_CPU, 0, 0));
    T(syscall(SYS_prlimit64, 0, RLIMIT_CPU, 1, 0));
    T(syscall(SYS_prlimit64, -5, RLIMIT_CPU, 0, 0));
    T(syscall(SYS_prlimit64, getpid(), RLIMIT_STACK, 0, &l));
    T(set(RLIMIT_MEMLOCK, 4096, 8192));
    T(getrlimit(RLIMIT_MEMLOCK, &l));
    SHOW("%ld %ld", (long)l.rlim_cur, (long)l.rlim_max);
    SHOW("%d", status(spend));
    SHOW("%d", status(spend_with_handler));
    SHOW("%d", status(too_long));
    signal(SIGXFSZ, SIG_IGN);
    SHOW("%d", status(too_long));
    signal(SIGXFSZ, handler);
    SHOW("%d", status(too_long));
    unlink("long");
    SHOW("%d", status(no_files));
    SHOW("%d", status(addresses));
    SHOW("%d", status(data));
    SHOW("%d", status(files));

    umask(022);
    struct stat s;
    T(mknod("fifo", S_IFIFO | 0666, 0));
    T(stat("fifo", &s));
    SHOW("%o", s.st_mode);
    T(mknod("fifo", S_IFIFO | 0666, 0));
    T(mknod("file", 0644, 0));
    T(mknod("file", S_IFREG | 0644, 0));
    T(stat("file", &s));
    SHOW("%o %ld", s.st_mode, (long)s.st_size);
    T(mknod("socket", S_IFSOCK | 0777, 0));
    T(stat("socket", &s));
    SHOW("%o", s.st_mode);
    T(mknod("dir", S_IFDIR | 0777, 0));
    T(mknod("link", S_IFLNK | 0777, 0));
    T(mknod("what", 0150000, 0));
    T(mknod("no/where", S_IFIFO | 0666, 0));
    T(mknod((char *)1, S_IFIFO | 0666, 0));
    unlink("fifo");
    unlink("file");
    unlink("socket");
    return 0;
}
