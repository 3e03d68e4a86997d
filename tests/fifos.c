/* One side of two FIFOs, which are opened and closed in turn: prints how often a byte did not get through. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int writes = argv[1][0] == 'w', broken = 0;
    signal(SIGPIPE, SIG_IGN);
    for (int n = 0; n < 400; n++) {
        const char *name = n % 2 ? "one" : "two";
        char byte = 'x';
        for (;;) {
            int fd = open(name, writes ? O_WRONLY : O_RDONLY);
            int done = writes ? write(fd, &byte, 1) : read(fd, &byte, 1);
            close(fd);
            if (done == 1) break;
            broken++;
        }
    }
    printf("%d\n", broken);
    return 0;
}
