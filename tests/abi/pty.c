#include "abi.h"
#include <pty.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <utmp.h>

int main(void) {
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    OK(master);
    T(grantpt(master));
    T(unlockpt(master));
    char name[64], buffer[256];
    T(ptsname_r(master, name, sizeof name));
    T(strncmp(name, "/dev/pts/", 9));
    int slave = open(name, O_RDWR | O_NOCTTY);
    OK(slave);
    struct stat st, st2;
    T(stat(name, &st));
    T(fstat(slave, &st2));
    SHOW("%d %d %d", st.st_rdev == st2.st_rdev, st.st_ino == st2.st_ino, S_ISCHR(st.st_mode));
    T(isatty(slave));
    T(isatty(master));
    T(ttyname_r(slave, buffer, sizeof buffer));
    T(strcmp(buffer, name));
    struct termios t;
    T(tcgetattr(slave, &t));
    cfmakeraw(&t);
    T(tcsetattr(slave, TCSANOW, &t));
    struct winsize w = {24, 80, 0, 0}, w2;
    T(ioctl(master, TIOCSWINSZ, &w));
    T(ioctl(slave, TIOCGWINSZ, &w2));
    SHOW("%d %d", w2.ws_row, w2.ws_col);
    T(write(slave, "out", 3));
    T(read(master, buffer, sizeof buffer));
    T(write(master, "in", 2));
    T(read(slave, buffer, sizeof buffer));
    T(tcgetpgrp(slave));
    T(tcgetsid(slave));
    T(tcflush(slave, TCIOFLUSH));
    T(tcdrain(slave));
    int value;
    T(ioctl(master, TIOCGPTN, &value));
    T(ioctl(slave, TIOCGPTN, &value));
    close(slave);
    T(read(master, buffer, sizeof buffer));
    T(close(master));
    T(open(name, O_RDWR | O_NOCTTY));
    T(open("/dev/pts/999999", O_RDWR | O_NOCTTY));
    T(open("/dev/tty", O_RDWR));

    pid_t child = forkpty(&master, 0, 0, &w);
    if (!child) {
        printf("tty %d\n", isatty(0));
        printf("session %d group %d\n", getsid(0) == getpid(), tcgetpgrp(0) == getpid());
        int tty = open("/dev/tty", O_RDWR);
        write(tty, "by tty\n", 7);
        fflush(stdout);
        char line[64];
        if (!fgets(line, sizeof line, stdin))
            _exit(3);
        printf("got %s", line);
        fflush(stdout);
        signal(SIGINT, SIG_DFL);
        pause();
        _exit(9);
    }
    T(write(master, "hello\n", 6));
    size_t have = 0;
    while (!memmem(buffer, have, "got hello", 9)) {
        ssize_t n = read(master, buffer + have, sizeof buffer - have);
        if (n <= 0)
            break;
        have += n;
    }
    /* The echo may come anywhere. */
    SHOW("%d %d %d", memmem(buffer, have, "tty 1\r\n", 7) != 0, memmem(buffer, have, "session 1 group 1", 17) != 0,
         memmem(buffer, have, "by tty", 6) != 0);
    struct timespec moment = {0, 100000000};
    nanosleep(&moment, 0);
    T(write(master, "\003", 1));
    int status = 0;
    T(waitpid(child, &status, 0) == child);
    SHOW("%d %d", WIFSIGNALED(status), WTERMSIG(status));
    return 0;
}
