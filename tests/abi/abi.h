/* Programs that print what system calls return: the same on this machine's kernel and under vm. */
#ifndef ABI_H
#define ABI_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Newer than the headers of some machines. */
#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif
#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

/* The result of an expression, with the error's name. */
#define T(expression)                                                                                                  \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        long result_ = (long)(expression);                                                                             \
        printf("%d %s = %ld%s%s\n", __LINE__, #expression, result_, result_ == -1 ? " " : "",                          \
               result_ == -1 ? strerrorname_np(errno) : "");                                                           \
        fflush(stdout);                                                                                                \
    } while (0)

/* Only whether it worked: for descriptors and other numbers that may differ. */
#define OK(expression)                                                                                                 \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        long result_ = (long)(expression);                                                                             \
        printf("%d %s: %s\n", __LINE__, #expression, result_ >= 0 ? "ok" : strerrorname_np(errno));                    \
        fflush(stdout);                                                                                                \
    } while (0)

#define SHOW(format, ...)                                                                                              \
    do {                                                                                                               \
        printf("%d " format "\n", __LINE__, __VA_ARGS__);                                                              \
        fflush(stdout);                                                                                                \
    } while (0)

#endif
