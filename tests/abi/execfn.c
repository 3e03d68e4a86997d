#include "abi.h"
#include <sys/auxv.h>

/* The program itself, which says what it has been told that it is called. */
static void told(char **argv) {
    char comm[32] = {0}, *name = (char *)getauxval(AT_EXECFN);
    /* Of a mere descriptor, kernels before 6.14 make its number. */
    if (strspn(name, "/dev/fd/0123456789") < strlen(name))
        read(open("/proc/self/comm", O_RDONLY), comm, sizeof comm - 1);
    printf("  %s, arguments", name);
    for (char **word = argv; *word; word++)
        printf(" %s", *word);
    comm[strcspn(comm, "\n")] = 0;
    printf(", comm %s\n", comm);
    fflush(stdout);
}
static void script(const char *name, const char *interpreter) {
    FILE *file = fopen(name, "w");
    fprintf(file, "#!%s option\n", interpreter);
    fclose(file);
    chmod(name, 0755);
}
static char *const ARGV[] = {"argv0", "told", 0};
static char *const ENV[] = {0};
static void by_name(const char *name) { execve(name, ARGV, ENV); }
static void by_descriptor(const char *name) { fexecve(open(name, O_PATH), ARGV, ENV); }
static void below(const char *name) { syscall(SYS_execveat, 5, name, ARGV, ENV, 0); }
static void as(const char *what, void (*execute)(const char *), const char *name) {
    int status;
    printf("%s %s\n", what, name);
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        execute(name);
        printf("  %s\n", strerrorname_np(errno));
        _exit(1);
    }
    waitpid(pid, &status, 0);
}
int main(int argc, char **argv) {
    if (argc > 1)
        return told(argv), 0;
    char here[256];
    getcwd(here, sizeof here);
    OK(mkdir("sub", 0755));
    T(dup2(open("sub", O_RDONLY | O_DIRECTORY), 5));
    /* A copy, so that its name is known. */
    int from = open("/proc/self/exe", O_RDONLY), to = open("sub/program", O_WRONLY | O_CREAT, 0755);
    struct stat info;
    fstat(from, &info);
    char *all = malloc(info.st_size);
    OK(write(to, all, read(from, all, info.st_size)) == info.st_size ? 0 : -1);
    close(to);
    T(symlink("sub/program", "link"));
    script("script", "sub/program");
    script("sub/second", "./script");
    T(symlink("sub/second", "to-script"));
    as("name", by_name, "sub/program");
    as("name", by_name, "./sub/../sub/program");
    as("name", by_name, "link");
    as("name", by_name, "./script");
    as("name", by_name, "sub/second");
    as("name", by_name, "to-script");
    as("below", below, "program");
    as("below", below, "../link");
    as("below", below, "second");
    as("descriptor", by_descriptor, "link");
    const char *files[] = {"sub/program", "sub/second", "sub", "link", "script", "to-script"};
    for (int i = 0; i < 6; i++)
        remove(files[i]);
    return 0;
}
