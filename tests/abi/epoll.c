#include "abi.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

static void ready(int set, int timeout) {
    struct epoll_event events[8];
    int count = epoll_wait(set, events, 8, timeout);
    printf("  %d:", count);
    unsigned long seen[8];
    for (int i = 0; i < count; i++)
        seen[i] = events[i].data.u64 << 16 | events[i].events;
    for (int i = 0; i < count; i++)
        for (int j = i + 1; j < count; j++)
            if (seen[j] < seen[i]) {
                unsigned long t = seen[i];
                seen[i] = seen[j];
                seen[j] = t;
            }
    for (int i = 0; i < count; i++)
        printf(" %lx", seen[i]);
    printf("\n");
    fflush(stdout);
}

static struct epoll_event *event(uint32_t events, uint64_t data) {
    static struct epoll_event e;
    e.events = events;
    e.data.u64 = data;
    return &e;
}

int main(void) {
    int pair[2], pipes[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    pipe(pipes);
    int set = epoll_create1(EPOLL_CLOEXEC);
    OK(set);
    T(epoll_create1(1));
    T(epoll_ctl(set, EPOLL_CTL_ADD, pair[0], event(EPOLLIN | EPOLLOUT | EPOLLET, 0x1111)));
    T(epoll_ctl(set, EPOLL_CTL_ADD, pair[0], event(EPOLLIN, 2)));
    T(epoll_ctl(set, EPOLL_CTL_ADD, pipes[0], event(EPOLLIN | EPOLLONESHOT, 0xabcdef)));
    T(epoll_ctl(set, EPOLL_CTL_ADD, set, event(EPOLLIN, 2)));
    T(epoll_ctl(set, EPOLL_CTL_ADD, 77, event(EPOLLIN, 2)));
    T(epoll_ctl(77, EPOLL_CTL_ADD, pipes[0], event(EPOLLIN, 2)));
    T(epoll_ctl(pipes[0], EPOLL_CTL_ADD, pipes[1], event(EPOLLIN, 2)));
    T(epoll_ctl(set, EPOLL_CTL_DEL, pipes[1], 0));
    T(epoll_ctl(set, EPOLL_CTL_MOD, pipes[1], event(EPOLLIN, 2)));
    T(epoll_ctl(set, 9, pair[0], event(EPOLLIN, 2)));
    int file = open("regular", O_CREAT | O_RDWR, 0600);
    T(epoll_ctl(set, EPOLL_CTL_ADD, file, event(EPOLLIN, 2)));
    ready(set, 0);
    ready(set, 0);
    T(write(pair[1], "x", 1));
    ready(set, 0);
    ready(set, 10);
    T(write(pair[1], "y", 1));
    ready(set, 0);
    T(write(pipes[1], "z", 1));
    ready(set, 0);
    ready(set, 0);
    T(epoll_ctl(set, EPOLL_CTL_MOD, pipes[0], event(EPOLLIN | EPOLLONESHOT, 0x77)));
    ready(set, 0);

    int twin = dup(pipes[0]);
    T(epoll_ctl(set, EPOLL_CTL_ADD, twin, event(EPOLLIN, 0x99)));
    ready(set, 0);
    T(epoll_ctl(set, EPOLL_CTL_DEL, pipes[0], 0));
    ready(set, 0);
    T(epoll_ctl(set, EPOLL_CTL_DEL, twin, 0));
    T(epoll_ctl(set, EPOLL_CTL_DEL, twin, 0));
    ready(set, 0);
    close(twin);
    char c;
    T(read(pipes[0], &c, 1));
    close(pipes[1]);
    T(read(pipes[0], &c, 1));

    int outer = epoll_create1(0), event_fd = eventfd(0, EFD_NONBLOCK);
    T(epoll_ctl(outer, EPOLL_CTL_ADD, set, event(EPOLLIN, 5)));
    T(epoll_ctl(set, EPOLL_CTL_ADD, outer, event(EPOLLIN, 5)));
    T(epoll_ctl(set, EPOLL_CTL_ADD, event_fd, event(EPOLLIN, 6)));
    ready(outer, 0);
    T(eventfd_write(event_fd, 3));
    ready(outer, 0);
    ready(set, 0);
    eventfd_t value;
    T(eventfd_read(event_fd, &value));
    SHOW("%lu", value);
    T(eventfd_read(event_fd, &value));
    ready(outer, 0);
    T(epoll_ctl(set, EPOLL_CTL_MOD, event_fd, event(EPOLLIN | EPOLLEXCLUSIVE, 6)));
    T(epoll_ctl(set, EPOLL_CTL_DEL, event_fd, 0));
    T(epoll_ctl(set, EPOLL_CTL_ADD, event_fd, event(EPOLLIN | EPOLLEXCLUSIVE, 6)));
    T(epoll_ctl(set, EPOLL_CTL_ADD, outer, event(EPOLLIN | EPOLLEXCLUSIVE, 6)));
    T(epoll_wait(set, 0, 0, 0));
    T(epoll_wait(set, (void *)8, 1, 0));
    T(epoll_wait(pair[0], (void *)8, 1, 0));

    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec soon = {{0, 0}, {0, 20000000}};
    T(timerfd_settime(timer, 0, &soon, 0));
    T(epoll_ctl(set, EPOLL_CTL_ADD, timer, event(EPOLLIN, 0x7171)));
    ready(set, 1000);
    uint64_t times;
    T(read(timer, &times, 8));
    T(read(timer, &times, 8));
    T(read(timer, &times, 4));
    T(timerfd_create(1, 1));
    struct timespec wait = {0, 5000000};
    struct epoll_event events[4];
    T(syscall(SYS_epoll_pwait2, set, events, 4, &wait, 0, 8));
    int semaphore = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
    T(read(semaphore, &times, 8));
    SHOW("%lu", times);
    T(read(semaphore, &times, 8));
    T(read(semaphore, &times, 8));
    T(eventfd(0, 0x100));
    unlink("regular");
    return 0;
}
