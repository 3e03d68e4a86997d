/* What becomes of a child whose parent ends: who its parent is then, and who can wait for it. */
#include "abi.h"
#include <sys/prctl.h>

static int words[2], ends[2];

static void handler(int number) {
    (void)number;
}

/* A child that ends at once, and its child, which tells who its parent is when that has ended, and ends by 6. */
static pid_t orphan(void) {
    pid_t child = fork();
    if (!child) {
        pid_t parent = getpid();
        if (!fork()) {
            char end;
            while (getppid() == parent)
                usleep(1000);
            pid_t now = getppid();
            write(words[1], &now, sizeof now);
            read(ends[0], &end, 1);
            _exit(6);
        }
        _exit(5);
    }
    return child;
}

/* Whose the orphan is. Its parent's pid. */
static pid_t look(void) {
    int status;
    pid_t now = 0, child = orphan();
    T(waitpid(child, &status, 0) == child);
    SHOW("%d", WEXITSTATUS(status));
    read(words[0], &now, sizeof now);
    SHOW("a child of mine: %d", now == getpid());
    T(waitpid(-1, &status, WNOHANG));
    write(ends[1], "", 1);
    return child;
}

int main(void) {
    int status;
    pipe(words);
    pipe(ends);
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGCHLD, &action, 0);

    int subreaper = -1;
    T(prctl(PR_GET_CHILD_SUBREAPER, &subreaper));
    SHOW("%d", subreaper);
    T(prctl(PR_SET_CHILD_SUBREAPER, 1));
    T(prctl(PR_GET_CHILD_SUBREAPER, &subreaper));
    SHOW("%d", subreaper);

    pid_t child = look();
    pid_t found;
    while ((found = waitpid(-1, &status, 0)) < 0 && errno == EINTR)
        ;
    SHOW("%d %d", found > 0 && found != child, WEXITSTATUS(status));
    T(waitpid(-1, &status, 0));

    /* Without that it is somebody else's. */
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    look();
}
