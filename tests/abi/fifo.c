/* Opening a FIFO waits for the other side. */
#include "abi.h"

static void handler(int number) {
    (void)number;
}

static void after(int milliseconds) {
    struct timespec pause = {0, milliseconds * 1000000L};
    nanosleep(&pause, 0);
}

int main(void) {
    char text[16] = {0};
    mkfifo("there", 0600);
    mkfifo("back", 0600);

    /* Neither side has anything to read when it is let in. */
    if (fork() == 0) {
        int out = open("there", O_WRONLY);
        int in = open("back", O_RDONLY);
        read(in, text, 1);
        write(out, text, 1);
        _exit(0);
    }
    after(50);
    int in = open("there", O_RDONLY), out = open("back", O_WRONLY);
    T(write(out, "x", 1));
    T(read(in, text, 2));
    SHOW("%s", text);
    T(read(in, text, 2));
    wait(0);
    close(in);
    close(out);

    /* A writer that comes late, and one that leaves at once. */
    if (fork() == 0) {
        after(100);
        out = open("there", O_WRONLY);
        after(50);
        write(out, "late", 4);
        _exit(0);
    }
    in = open("there", O_RDONLY);
    memset(text, 0, sizeof text);
    T(read(in, text, 8));
    SHOW("%s", text);
    T(read(in, text, 8));
    wait(0);
    close(in);
    if (fork() == 0) {
        after(50);
        close(open("there", O_WRONLY));
        _exit(0);
    }
    in = open("there", O_RDONLY);
    T(read(in, text, 8));
    wait(0);
    close(in);

    /* Without waiting; and a wait that a signal ends. */
    in = open("there", O_RDONLY | O_NONBLOCK);
    T(read(in, text, 8));
    close(in);
    T(open("there", O_WRONLY | O_NONBLOCK));
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGALRM, &action, 0);
    ualarm(50000, 0);
    T(open("there", O_RDONLY));
    ualarm(50000, 0);
    T(open("there", O_WRONLY));
    unlink("there");
    unlink("back");
}
