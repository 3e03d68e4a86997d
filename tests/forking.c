/* Forks, vforks and executes itself, for a debugger. */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int value;

__attribute__((noinline)) void in_child(int number) { value = number; }
__attribute__((noinline)) void in_parent(int number) { value = number; }

int main(int argc, char **argv) {
    int status = 0;
    if (argc > 1 && !strcmp(argv[1], "again")) {
        in_child(3);
        return 9;
    }
    pid_t child = fork();
    if (!child) {
        in_child(1);
        _exit(5);
    }
    in_parent(child > 0);
    waitpid(child, &status, 0);
    printf("first %d\n", WEXITSTATUS(status));
    fflush(stdout);
    if (argc > 1 && !strcmp(argv[1], "vfork")) {
        child = vfork();
        if (!child) {
            execl(argv[0], argv[0], "again", (char *)0);
            _exit(1);
        }
        in_parent(2);
        waitpid(child, &status, 0);
        printf("second %d\n", WEXITSTATUS(status));
    }
    return 3;
}
