/* How often a second a program can ask its kernel for something: each line is one operation and the nanoseconds that it takes,
 * by the wall clock and by the processor time of the process and its children. Arguments: operations a measurement, then what
 * execve needs in front of this program, if something. */
#define _GNU_SOURCE
#include "guest.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS 64
static char *itself, *prefix;
static int zero, null, file;

static double wall(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e9 + now.tv_nsec;
}

static double processor(int who) {
    struct rusage used;
    getrusage(who, &used);
    return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e9 + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e3;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void op_getpid(unsigned long count) {
    while (count--)
        syscall(SYS_getpid);
}

static void op_read(unsigned long count) {
    char byte;
    while (count--)
        if (read(zero, &byte, 1) != 1)
            fail("read");
}

static void op_write(unsigned long count) {
    while (count--)
        if (write(null, "x", 1) != 1)
            fail("write");
}

static void op_clock(unsigned long count) {
    struct timespec now;
    while (count--)
        clock_gettime(CLOCK_MONOTONIC, &now);
}

static void op_stat(unsigned long count) {
    struct stat info;
    while (count--)
        if (stat(".", &info))
            fail("stat");
}

static void op_stat_deep(unsigned long count) {
    struct stat info;
    while (count--)
        if (stat("rates.dir/one/two/three", &info))
            fail("stat");
}

static void op_fstat(unsigned long count) {
    struct stat info;
    while (count--)
        if (fstat(file, &info))
            fail("fstat");
}

static void op_lseek(unsigned long count) {
    while (count--)
        if (lseek(file, count & 4095, SEEK_SET) < 0)
            fail("lseek");
}

static void op_absent(unsigned long count) {
    while (count--)
        if (open("rates.none", O_RDONLY) >= 0)
            fail("open");
}

static void op_getdents(unsigned long count) {
    char entries[4096];
    int fd = open("rates.dir", O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        fail("open");
    while (count--)
        if (lseek(fd, 0, SEEK_SET) || syscall(SYS_getdents64, fd, entries, sizeof entries) <= 0)
            fail("getdents64");
    close(fd);
}

static void op_poll(unsigned long count) {
    struct pollfd one = {zero, POLLIN, 0};
    while (count--)
        if (poll(&one, 1, 0) != 1)
            fail("poll");
}

static void op_sendmsg(unsigned long count) {
    int pair[2];
    char sent = 'x', got;
    struct iovec from = {&sent, 1}, to = {&got, 1};
    struct msghdr out = {.msg_iov = &from, .msg_iovlen = 1}, in = {.msg_iov = &to, .msg_iovlen = 1};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        fail("socketpair");
    while (count--)
        if (sendmsg(pair[0], &out, 0) != 1 || recvmsg(pair[1], &in, 0) != 1)
            fail("sendmsg");
    close(pair[0]), close(pair[1]);
}

static void op_open(unsigned long count) {
    while (count--) {
        int fd = open("rates.tmp", O_RDWR | O_CREAT, 0600);
        if (fd < 0)
            fail("open");
        close(fd);
    }
    unlink("rates.tmp");
}

static void op_mmap(unsigned long count) {
    while (count--) {
        char *page = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED)
            fail("mmap");
        *page = 1;
        munmap(page, 65536);
    }
}

static volatile sig_atomic_t signals;
static void count_signal(int number) { signals += number != 0; }

static void op_signal(unsigned long count) {
    signal(SIGUSR1, count_signal);
    while (count--)
        raise(SIGUSR1);
}

static _Atomic uint32_t ball;

static void futex(int operation, uint32_t value) { syscall(SYS_futex, &ball, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0); }

static void play(uint32_t mine, unsigned long count) {
    while (count--) {
        while (ball != mine)
            futex(FUTEX_WAIT, !mine);
        ball = !mine;
        futex(FUTEX_WAKE, 1);
    }
}

static void *other_player(void *count) {
    play(1, *(unsigned long *)count);
    return NULL;
}

static void op_futex(unsigned long count) {
    pthread_t other;
    if (pthread_create(&other, NULL, other_player, &count))
        fail("pthread_create");
    play(0, count);
    pthread_join(other, NULL);
}

static int ping[2], pong[2];

static void *echo(void *count) {
    char byte;
    for (unsigned long left = *(unsigned long *)count; left; left--)
        if (read(ping[0], &byte, 1) != 1 || write(pong[1], &byte, 1) != 1)
            fail("echo");
    return NULL;
}

static void op_pipe(unsigned long count) {
    pthread_t other;
    char byte = 0;
    if (pipe(ping) || pipe(pong) || pthread_create(&other, NULL, echo, &count))
        fail("pipe");
    for (unsigned long left = count; left; left--)
        if (write(ping[1], &byte, 1) != 1 || read(pong[0], &byte, 1) != 1)
            fail("pipe");
    pthread_join(other, NULL);
    for (int end = 0; end < 2; end++)
        close(ping[end]), close(pong[end]);
}

static void *nothing(void *argument) { return argument; }

static void op_thread(unsigned long count) {
    pthread_t one;
    while (count--)
        if (pthread_create(&one, NULL, nothing, NULL) || pthread_join(one, NULL))
            fail("pthread_create");
}

static _Atomic unsigned long total;

static void *add(void *count) {
    for (unsigned long left = *(unsigned long *)count; left; left--)
        total++;
    return NULL;
}

static void op_atomics(unsigned long count) {
    pthread_t all[THREADS];
    for (int n = 0; n < THREADS; n++)
        if (pthread_create(&all[n], NULL, add, &count))
            fail("pthread_create");
    for (int n = 0; n < THREADS; n++)
        pthread_join(all[n], NULL);
}

static void reap(pid_t child) {
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status)
        fail("child");
}

static void op_fork(unsigned long count) {
    while (count--) {
        pid_t child = fork();
        if (!child)
            _exit(0);
        reap(child);
    }
}

static void become(void) {
    if (prefix)
        execl(prefix, prefix, itself, "0", (char *)NULL);
    else
        execl(itself, itself, "0", (char *)NULL);
    _exit(1);
}

static void op_fork_exec(unsigned long count) {
    while (count--) {
        pid_t child = fork();
        if (!child)
            become();
        reap(child);
    }
}

static void op_vfork_exec(unsigned long count) {
    while (count--) {
        pid_t child = vfork();
        if (!child)
            become();
        reap(child);
    }
}

static const struct {
    const char *name;
    void (*run)(unsigned long);
    unsigned long part; /* of the operations asked for: one of so many */
} OPERATIONS[] = {
    {"getpid", op_getpid, 1},       {"read", op_read, 1},           {"write", op_write, 1},
    {"clock", op_clock, 1},         {"stat", op_stat, 10},          {"stat, deep", op_stat_deep, 10},
    {"fstat", op_fstat, 5},         {"lseek", op_lseek, 2},         {"open+close", op_open, 20},
    {"open, absent", op_absent, 10}, {"getdents", op_getdents, 20}, {"poll", op_poll, 10},
    {"sendmsg+recvmsg", op_sendmsg, 20},
    {"mmap+munmap", op_mmap, 20},   {"signal", op_signal, 10},      {"futex ping-pong", op_futex, 20},
    {"pipe ping-pong", op_pipe, 20}, {"thread", op_thread, 100},    {"64 threads, atomics", op_atomics, 1},
    {"fork", op_fork, 2000},        {"fork+exec", op_fork_exec, 5000}, {"vfork+exec", op_vfork_exec, 5000},
};

int main(int argc, char **argv) {
    unsigned long size = guest_size(argc, argv, 0);
    if (!size)
        return 0;
    prefix = argc > 2 ? argv[2] : NULL;
    itself = argv[0];
    zero = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_WRONLY);
    file = open("rates.file", O_RDWR | O_CREAT, 0600);
    if (mkdir("rates.dir", 0700) && errno != EEXIST)
        fail("mkdir");
    if (mkdir("rates.dir/one", 0700) && errno != EEXIST)
        fail("mkdir");
    if (mkdir("rates.dir/one/two", 0700) && errno != EEXIST)
        fail("mkdir");
    close(open("rates.dir/one/two/three", O_RDWR | O_CREAT, 0600));
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t n = 0; n < sizeof OPERATIONS / sizeof *OPERATIONS; n++) {
        unsigned long count = size / OPERATIONS[n].part;
        if (!count)
            count = 1;
        double begin = wall(), used = processor(RUSAGE_SELF) + processor(RUSAGE_CHILDREN);
        OPERATIONS[n].run(count);
        double ended = wall(), after = processor(RUSAGE_SELF) + processor(RUSAGE_CHILDREN);
        unsigned long made = OPERATIONS[n].run == op_atomics ? count * THREADS : count;
        printf("%s\t%.1f\t%.1f\n", OPERATIONS[n].name, (ended - begin) / made, (after - used) / made);
    }
    return 0;
}
