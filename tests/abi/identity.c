#include "abi.h"
#include <grp.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/times.h>
#include <sys/utsname.h>

struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

int main(void) {
    struct sched_param p = {0};
    T(sched_getscheduler(0));
    T(sched_setscheduler(0, SCHED_BATCH, &p));
    T(sched_getscheduler(0));
    T(sched_setscheduler(0, SCHED_OTHER, &p));
    T(sched_setscheduler(0, 77, &p));
    p.sched_priority = 5;
    T(sched_setscheduler(0, SCHED_OTHER, &p));
    p.sched_priority = 100;
    T(sched_setscheduler(0, SCHED_FIFO, &p));
    p.sched_priority = 0;
    T(sched_setscheduler(-1, SCHED_OTHER, &p));
    T(sched_getscheduler(-1));
    T(sched_getscheduler(0x7ffffff0));
    T(sched_getparam(0, &p));
    SHOW("%d", p.sched_priority);
    T(sched_setparam(0, &p));
    T(sched_get_priority_max(SCHED_FIFO));
    T(sched_get_priority_min(SCHED_RR));
    T(sched_get_priority_max(SCHED_OTHER));
    T(sched_get_priority_max(55));
    struct timespec slice;
    T(sched_rr_get_interval(0, &slice));
    T(sched_rr_get_interval(-1, &slice));
    struct attributes a = {0};
    T(syscall(SYS_sched_getattr, 0, &a, sizeof a, 0));
    SHOW("%d %d %d", a.size >= 48, a.policy, a.nice);
    T(syscall(SYS_sched_getattr, 0, &a, 8, 0));
    T(syscall(SYS_sched_getattr, 0, &a, sizeof a, 1));
    cpu_set_t set;
    CPU_ZERO(&set);
    T(sched_getaffinity(0, sizeof set, &set));
    int first = -1;
    for (int i = 0; i < CPU_SETSIZE && first < 0; i++)
        if (CPU_ISSET(i, &set))
            first = i;
    CPU_ZERO(&set);
    T(sched_setaffinity(0, sizeof set, &set));
    CPU_SET(first, &set);
    T(sched_setaffinity(0, sizeof set, &set));
    CPU_ZERO(&set);
    T(sched_getaffinity(0, sizeof set, &set));
    SHOW("%d", CPU_COUNT(&set));
    T(sched_getcpu() == first);
    T(syscall(SYS_sched_getaffinity, 0, 7, &set));
    T(sched_getaffinity(-1, sizeof set, &set));
    T(sched_getaffinity(0x7ffffff0, sizeof set, &set));
    if (!fork()) {
        CPU_ZERO(&set);
        T(sched_getaffinity(0, sizeof set, &set));
        SHOW("%d", CPU_COUNT(&set));
        exit(0);
    }
    wait(0);

    T(getpriority(PRIO_PROCESS, 0));
    T(setpriority(PRIO_PROCESS, 0, 3));
    T(getpriority(PRIO_PROCESS, 0));
    T(nice(2));
    T(getpriority(PRIO_PROCESS, getpid()));
    T(getpriority(9, 0));
    T(getpriority(PRIO_PROCESS, 0x7ffffff0));
    T(setpriority(PRIO_PROCESS, 0, 100));
    T(getpriority(PRIO_PROCESS, 0));
    T(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6));
    T(syscall(SYS_ioprio_get, 1, 0));
    T(syscall(SYS_ioprio_set, 1, 0, 3));
    T(syscall(SYS_ioprio_set, 9, 0, 3));

    uid_t r, e, s;
    T(getresuid(&r, &e, &s));
    SHOW("%d", r == getuid() && e == geteuid() && s == r);
    T(setresuid(-1, -1, -1));
    T(setuid(getuid()));
    T(setreuid(-1, geteuid()));
    T(setgid(getgid()));
    T(syscall(SYS_setfsuid, -1) == geteuid());
    T(setuid(-1));
    gid_t groups[100];
    T(getgroups(0, groups) >= 0);
    T(getgroups(-1, groups));
    T(setgroups(100000, groups));

    struct __user_cap_header_struct header = {0, 0};
    struct __user_cap_data_struct data[2];
    T(syscall(SYS_capget, &header, data));
    SHOW("%x", header.version);
    T(syscall(SYS_capget, &header, data));
    T(syscall(SYS_capset, &header, data));
    header.version = 5;
    T(syscall(SYS_capget, &header, 0));
    header.pid = -5;
    T(syscall(SYS_capget, &header, data));
    T(syscall(SYS_personality, 0xffffffff));
    T(syscall(SYS_personality, 0x40000));
    T(syscall(SYS_personality, 0xffffffff));

    int value = -1;
    char name[16];
    T(prctl(PR_SET_NAME, "a name that is too long"));
    T(prctl(PR_GET_NAME, name));
    SHOW("%s", name);
    FILE *comm = fopen("/proc/self/comm", "r");
    T(fgets(name, 16, comm) != 0);
    SHOW("%s", name);
    T(prctl(PR_GET_DUMPABLE));
    T(prctl(PR_SET_DUMPABLE, 7));
    T(prctl(PR_SET_DUMPABLE, 0));
    T(prctl(PR_GET_DUMPABLE));
    T(prctl(PR_SET_DUMPABLE, 1));
    T(prctl(PR_SET_PDEATHSIG, SIGTERM));
    T(prctl(PR_GET_PDEATHSIG, &value));
    SHOW("%d", value);
    T(prctl(PR_SET_PDEATHSIG, 0));
    T(prctl(PR_SET_PDEATHSIG, 99));
    T(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    T(prctl(PR_SET_NO_NEW_PRIVS, 2, 0, 0, 0));
    T(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    T(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    T(prctl(PR_SET_CHILD_SUBREAPER, 1));
    T(prctl(PR_GET_CHILD_SUBREAPER, &value));
    SHOW("%d", value);
    T(prctl(PR_GET_TIMERSLACK));
    T(prctl(PR_SET_TIMERSLACK, 1000));
    T(prctl(PR_GET_TIMERSLACK));
    T(prctl(PR_CAPBSET_READ, 99));
    T(prctl(PR_GET_KEEPCAPS));
    T(prctl(0x7777));
    struct rlimit limit;
    T(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = 64;
    T(setrlimit(RLIMIT_NOFILE, &limit));
    T(dup2(1, 64));
    T(dup2(1, 63));
    limit.rlim_cur = limit.rlim_max + 1;
    if (limit.rlim_max != RLIM_INFINITY)
        T(setrlimit(RLIMIT_NOFILE, &limit));
    T(prlimit(0, 99, 0, &limit));
    T(prlimit(0x7ffffff0, RLIMIT_NOFILE, 0, &limit));
    struct rusage usage;
    T(getrusage(RUSAGE_SELF, &usage));
    T(getrusage(RUSAGE_CHILDREN, &usage));
    T(getrusage(RUSAGE_THREAD, &usage));
    T(getrusage(7, &usage));
    struct tms ticks;
    T(times(&ticks) > 0);
    struct utsname u;
    T(uname(&u));
    SHOW("%s", u.sysname);
    T(getpgid(0x7ffffff0));
    T(getsid(0x7ffffff0));
    T(setpgid(0, -1));
    return 0;
}
