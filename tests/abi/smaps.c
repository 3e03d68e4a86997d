#include "abi.h"
#include <sys/mman.h>

#define PAGES 16
#define BYTES (PAGES << 12)

/* What smaps says of the mapping that begins there: only those lines whose names are in ``wanted``, or all. */
static void show(const char *what, void *at, const char *wanted) {
    char line[512], name[32];
    FILE *file = fopen("/proc/self/smaps", "r");
    int inside = 0;
    unsigned long start, end;
    printf("%s\n", what);
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
            inside = start == (unsigned long)at;
            if (inside)
                printf("%ld bytes%.5s\n", end - start, strchr(line, ' '));
        } else if (inside && sscanf(line, "%31[^:]", name) == 1 && strcmp(name, "ProtectionKey") &&
                   (!wanted || strstr(wanted, name)))
            fputs(line, stdout);
    }
    fclose(file);
    fflush(stdout);
}
/* A mapping that has no neighbour. */
static char *alone(int prot, int flags, int fd) {
    char *at = mmap(0, BYTES + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mmap(at + 4096, BYTES, prot, flags | MAP_FIXED, fd, 0);
}
static void names(const char *path) {
    char line[512], name[64];
    FILE *file = fopen(path, "r");
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "%63[^:]", name) == 1 && strcmp(name, "ProtectionKey"))
            printf("%s\n", strchr(line, '[') ? strchr(line, '[') : name);
    fclose(file);
}
int main(void) {
    char *memory = alone(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    show("untouched", memory, 0);
    memset(memory, 1, 5 << 12);
    show("5 pages written", memory, 0);
    volatile char c = memory[9 << 12];
    show("one read", memory, "Rss Anonymous Private_Dirty Shared_Clean");
    madvise(memory, 2 << 12, MADV_DONTNEED);
    madvise(memory + (9 << 12), 1 << 12, MADV_DONTNEED);
    show("2 given back", memory, "Rss Pss Anonymous");
    int pipes[2];
    pipe(pipes);
    pid_t child = fork();
    if (!child) {
        close(pipes[1]);
        char end;
        read(pipes[0], &end, 1);
        _exit(0);
    }
    show("with a child", memory, "Rss Shared_Dirty Private_Dirty Pss");
    memory[3 << 12] = 2;
    show("of which one is written", memory, "Rss Shared_Dirty Private_Dirty Pss");
    close(pipes[1]);
    waitpid(child, 0, 0);
    show("when it is gone", memory, "Rss Shared_Dirty Private_Dirty Pss");
    mprotect(memory, BYTES, PROT_READ);
    show("for reading", memory, "Rss");
    mprotect(memory, BYTES, PROT_NONE);

    char *shared = alone(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    memset(shared, 1, 3 << 12);
    show("shared", shared, "Size Rss Pss Pss_Dirty Private_Dirty Anonymous VmFlags");

    int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600);
    ftruncate(fd, BYTES);
    char *private = alone(PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    private[0] = private[2 << 12] = 1;
    show("a file's", private, "Size Anonymous Private_Dirty VmFlags");
    show("for reading", alone(PROT_READ, MAP_PRIVATE, fd), "Size VmFlags Rss");
    show("to share", alone(PROT_READ, MAP_SHARED, fd), "Size VmFlags Rss");
    close(fd);
    fd = open("file", O_RDONLY);
    show("opened for reading", alone(PROT_READ, MAP_SHARED, fd), "Size VmFlags Rss");
    unlink("file");

    names("/proc/self/smaps_rollup");
    OK(open("/proc/thread-self/smaps", O_RDONLY));
    T(access("/proc/self/smaps_rollup", R_OK));
    return 0;
}
