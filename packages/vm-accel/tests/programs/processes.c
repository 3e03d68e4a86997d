/* fork with vector registers in use, wait, execve, and a pipe to a shell. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int counter = 5;

int main(int count, char **words)
{
    if (count > 1) {
        printf("now %s\n", words[1]);
        return 4;
    }
    unsigned long in[4] = {1, 2, 3, 4}, out[4];
    long pid;
    __asm__ volatile("vmovdqu %2, %%ymm7; syscall; vmovdqu %%ymm7, %1"
                     : "=a"(pid), "=m"(out) : "m"(in), "a"(SYS_fork) : "rcx", "r11", "xmm7", "memory");
    if (!pid) {
        counter++;
        printf("child %d %d\n", counter, memcmp(in, out, 32));
        fflush(stdout);
        if (!fork()) {
            printf("grandchild\n");
            fflush(stdout);
            _exit(2);
        }
        int status;
        wait(&status);
        printf("grandchild ended with %d\n", WEXITSTATUS(status));
        fflush(stdout);
        execl(words[0], words[0], "again", (char *)0);
        _exit(9);
    }
    int status;
    waitpid(pid, &status, 0);
    printf("parent %d %d, child ended with %d\n", counter, memcmp(in, out, 32), WEXITSTATUS(status));
    char line[50];
    FILE *pipe = popen("echo said; exit 3", "r");
    fgets(line, sizeof line, pipe);
    printf("the shell %s", line);
    printf("and ended with %d\n", WEXITSTATUS(pclose(pipe)));
    return 0;
}
