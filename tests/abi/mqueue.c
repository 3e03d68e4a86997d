#include "abi.h"
#include <mqueue.h>

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
    return 0;
}
