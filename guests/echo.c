/* Prints what the kernel gave it: arguments, environment (names that start with GUEST_), auxiliary vector, input.
 * Exits with the status in the first argument. */
#include "guest.h"
#include <elf.h>
#include <sys/auxv.h>
#include <unistd.h>

extern char **environ;

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int main(int argc, char **argv) {
    /* argv[0] is a path that differs from place to place: only its last part is shown. */
    const char *slash = strrchr(argv[0], '/');
    printf("argc %d name %s\n", argc, slash ? slash + 1 : argv[0]);
    for (int i = 1; i < argc; i++)
        printf("argv[%d] '%s'\n", i, argv[i]);
    printf("argv ends %d\n", argv[argc] == NULL);
    char *mine[64];
    size_t count = 0;
    for (char **e = environ; *e && count < 64; e++)
        if (strncmp(*e, "GUEST_", 6) == 0)
            mine[count++] = *e;
    qsort(mine, count, sizeof *mine, by_text);
    for (size_t i = 0; i < count; i++)
        printf("env %s\n", mine[i]);
    printf("getenv %s\n", getenv("GUEST_A") ? getenv("GUEST_A") : "(none)");

    printf("auxv page %lu phent %lu phnum>0 %d entry!=0 %d\n", getauxval(AT_PAGESZ), getauxval(AT_PHENT),
           getauxval(AT_PHNUM) > 0, getauxval(AT_ENTRY) != 0);
    printf("auxv ids %d %d %d %d secure %lu\n", getauxval(AT_UID) == getuid(), getauxval(AT_EUID) == geteuid(),
           getauxval(AT_GID) == getgid(), getauxval(AT_EGID) == getegid(), getauxval(AT_SECURE));
    const unsigned char *random = (const unsigned char *)getauxval(AT_RANDOM);
    printf("auxv random %d execfn %d\n", random != NULL, getauxval(AT_EXECFN) != 0);
#ifdef __riscv
    const char *letters = "IMAFDC";
    unsigned long have = getauxval(AT_HWCAP), all = 1;
    for (const char *l = letters; *l; l++)
        all &= have >> (*l - 'A') & 1;
    printf("hwcap IMAFDC %lu\n", all);
    /* The program headers that the kernel points to must be readable and start like an executable's. */
    const Elf64_Phdr *headers = (const Elf64_Phdr *)getauxval(AT_PHDR);
    unsigned long loads = 0;
    for (unsigned long i = 0; i < getauxval(AT_PHNUM); i++)
        loads += headers[i].p_type == PT_LOAD;
    printf("phdr loads>0 %d\n", loads > 0);
#endif
    uintptr_t stack;
#ifdef __riscv
    __asm__ volatile("mv %0, sp" : "=r"(stack));
    printf("sp aligned %d\n", stack % 16 == 0);
#else
    (void)stack;
#endif
    /* Standard input, to the end. */
    uint64_t hash = GUEST_HASH;
    unsigned long total = 0;
    unsigned char buffer[512];
    ssize_t n;
    while ((n = read(0, buffer, sizeof buffer)) > 0) {
        hash = guest_hash(hash, buffer, (size_t)n);
        total += (unsigned long)n;
    }
    printf("input %lu bytes %016llx\n", total, (unsigned long long)hash);
    fflush(stdout);
    fprintf(stderr, "to stderr\n");
    return argc > 1 ? atoi(argv[1]) : 0;
}
