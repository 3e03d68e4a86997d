#include "abi.h"
#include <mqueue.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/select.h>

static volatile sig_atomic_t seen, value;
static void handler(int number, siginfo_t *info, void *context) {
    (void)context;
    seen = number;
    value = info->si_code == SI_MESGQ ? info->si_value.sival_int : -1;
}
static int ended(pid_t pid) {
    int status;
    waitpid(pid, &status, 0);
    return status;
}

static sem_t told;
static volatile int argument;
static void thread(union sigval given) {
    argument = given.sival_int;
    sem_post(&told);
}

/* What poll, select and epoll say of a queue; the last as edges. */
static void ready(const char *when, mqd_t q, int set) {
    struct pollfd p = {.fd = q, .events = POLLIN | POLLOUT};
    struct timeval now = {0};
    fd_set in, out;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_SET(q, &in), FD_SET(q, &out);
    int polled = poll(&p, 1, 0), selected = select(q + 1, &in, &out, 0, &now);
    struct epoll_event event = {0};
    int waited = epoll_wait(set, &event, 1, 0);
    SHOW("%s: poll %d %x, select %d %d %d, epoll %d %x", when, polled, p.revents, selected, FD_ISSET(q, &in) != 0,
         FD_ISSET(q, &out) != 0, waited, event.events);
}

static void polls(const char *name, struct mq_attr *a) {
    char buffer[100];
    mqd_t q = mq_open(name, O_RDWR | O_CREAT | O_NONBLOCK, 0600, a), other = mq_open(name, O_RDWR);
    int set = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT};
    struct stat info;
    fstat(q, &info);
    SHOW("%o", info.st_mode);
    T(epoll_ctl(set, EPOLL_CTL_ADD, q, &event));
    ready("empty", q, set);
    T(mq_send(other, "a", 1, 0));
    ready("one", q, set);
    for (int n = 1; n < a->mq_maxmsg; n++) mq_send(other, "b", 1, 0);
    ready("full", q, set);
    ready("full", other, set);
    T(mq_receive(q, buffer, 100, 0));
    ready("one less", q, set);
    while (mq_receive(q, buffer, 100, 0) >= 0) {}
    ready("empty again", q, set);
    /* another process sends, and takes what the first one waits to be taken */
    pid_t child = fork();
    if (!child) {
        struct pollfd p = {.fd = q, .events = POLLIN};
        usleep(50000), mq_send(other, "c", 1, 0);
        while (poll(&p, 1, 0) > 0) usleep(1000);
        _exit(0);
    }
    struct pollfd p = {.fd = q, .events = POLLIN};
    T(poll(&p, 1, 10000));
    T(mq_receive(q, buffer, 100, 0));
    SHOW("%d", ended(child));
    event.events = EPOLLIN | EPOLLET;
    T(epoll_ctl(set, EPOLL_CTL_MOD, q, &event));
    child = fork();
    if (!child) {
        mqd_t own = mq_open(name, O_RDWR);
        usleep(50000), mq_send(own, "d", 1, 0);
        _exit(0);
    }
    T(epoll_wait(set, &event, 1, 10000));
    T(epoll_wait(set, &event, 1, 0));
    SHOW("%d", ended(child));
    child = fork();
    if (!child) {  /* what the parent watches its child has too */
        struct epoll_event mine;
        struct pollfd full = {.fd = other, .events = POLLOUT};
        int came = poll(&full, 1, 10000);
        _exit(came + 2 * (mq_receive(q, buffer, 100, 0) == 1));
    }
    SHOW("%d", ended(child) >> 8);

    struct sigevent by_thread = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = thread, .sigev_value.sival_int = 77};
    sem_init(&told, 0, 0);
    T(mq_notify(q, &by_thread));
    T(mq_notify(other, &by_thread));
    child = fork();
    if (!child) _exit(mq_send(other, "e", 1, 0));
    SHOW("%d", ended(child));
    T(sem_wait(&told));
    SHOW("%d", argument);
    T(mq_receive(q, buffer, 100, 0));
    by_thread.sigev_value.sival_int = 78;
    T(mq_notify(q, &by_thread));
    T(mq_send(q, "f", 1, 0));
    T(sem_wait(&told));
    SHOW("%d", argument);
    T(mq_receive(q, buffer, 100, 0));
    T(mq_notify(q, &by_thread));
    T(mq_notify(other, 0));
    T(mq_notify(q, &by_thread));
    T(mq_close(other));
    T(mq_notify(q, &by_thread));
    char cookie[32] = "";
    struct sigevent raw = {.sigev_notify = SIGEV_THREAD, .sigev_signo = 99, .sigev_value.sival_ptr = cookie};
    T(syscall(SYS_mq_notify, q, &raw));
    raw.sigev_signo = 0;
    T(syscall(SYS_mq_notify, q, &raw));
    raw.sigev_value.sival_ptr = (void *)8;
    T(syscall(SYS_mq_notify, q, &raw));
    raw.sigev_notify = 3;
    T(syscall(SYS_mq_notify, q, &raw));
    T(mq_unlink(name));
    T(mq_close(q));
}

int main(void) {
    char name[64], buffer[100], big[100] = "";
    sprintf(name, "/vm-%d", getpid());
    struct mq_attr a = {.mq_maxmsg = 3, .mq_msgsize = 50}, bad = {.mq_maxmsg = 0, .mq_msgsize = 50}, got;
    unsigned priority;
    T(mq_open(name, O_RDWR));
    T(mq_open("noslash", O_RDWR | O_CREAT, 0600, &a));
    T(mq_open("/", O_RDWR | O_CREAT, 0600, &a));
    T(mq_open("/a/b", O_RDWR | O_CREAT, 0600, &a));
    T(mq_open(name, O_RDWR | O_CREAT, 0600, &bad));
    mqd_t q = mq_open(name, O_RDWR | O_CREAT, 0600, &a);
    SHOW("%d", q >= 0);
    SHOW("%d", fcntl(q, F_GETFD));
    T(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &a));
    T(mq_getattr(q, &got));
    SHOW("%ld %ld %ld %ld", got.mq_flags, got.mq_maxmsg, got.mq_msgsize, got.mq_curmsgs);
    T(mq_send(q, "low", 4, 1));
    T(mq_send(q, "high", 5, 9));
    T(mq_send(q, "low too", 8, 1));
    T(mq_send(q, big, 51, 1));
    T(mq_send(q, big, 5, 32768));
    T(mq_getattr(q, &got));
    SHOW("%ld", got.mq_curmsgs);
    struct timespec past = {1, 0}, invalid = {1, 1000000000}, soon;
    T(mq_timedsend(q, "x", 1, 0, &past));
    T(mq_timedsend(q, "x", 1, 0, &invalid));
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_sec++;
    T(mq_receive(q, buffer, 49, &priority));
    T(mq_receive(q, buffer, 100, &priority));
    SHOW("%s %u", buffer, priority);
    T(mq_receive(q, buffer, 100, &priority));
    SHOW("%s %u", buffer, priority);
    T(mq_receive(q, buffer, 100, 0));
    SHOW("%s", buffer);
    T(mq_timedreceive(q, buffer, 100, 0, &past));
    a.mq_flags = O_NONBLOCK;
    T(mq_setattr(q, &a, &got));
    SHOW("%ld", got.mq_flags);
    T(mq_receive(q, buffer, 100, 0));
    a.mq_flags = O_APPEND;
    T(mq_setattr(q, &a, 0));
    a.mq_flags = 0;
    T(mq_setattr(q, &a, 0));

    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGUSR1, &action, 0);
    struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 42};
    T(mq_notify(q, &e));
    T(mq_notify(q, &e));
    pid_t child = fork();
    if (!child) {
        int busy = mq_notify(q, &e) < 0 && errno == EBUSY;
        mqd_t again = mq_open(name, O_WRONLY);
        char text[10];
        int refused = mq_receive(again, text, 50, 0) < 0 && errno == EBADF;
        mq_send(again, "told", 5, 0);
        _exit(busy + 2 * refused);
    }
    SHOW("%d", ended(child));
    while (!seen)
        usleep(1000);
    SHOW("%d %d", seen, value);
    T(mq_receive(q, buffer, 100, 0));
    T(mq_notify(q, &e));
    T(mq_notify(q, 0));
    e.sigev_signo = 99;
    T(mq_notify(q, &e));
    child = fork();
    if (!child) {
        usleep(20000);
        _exit(mq_send(q, "late", 5, 3));
    }
    T(mq_timedreceive(q, buffer, 100, &priority, &soon));
    SHOW("%s %u %d", buffer, priority, ended(child));
    T(mq_unlink(name));
    T(mq_unlink(name));
    T(mq_open(name, O_RDWR));
    T(mq_send(q, "still", 6, 0));
    T(mq_receive(q, buffer, 100, 0));
    T(mq_close(q));
    T(mq_send(q, "gone", 5, 0));
    T(mq_receive(0, buffer, 100, 0));
    polls(name, &a);
    return 0;
}
