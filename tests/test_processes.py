"""Guest processes: the same C program, run here and as a guest, prints the same."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs_cc

HEAD = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
extern char **environ;
static void say(const char *what, long value) { printf("%s %ld\n", what, value); fflush(stdout); }
static int reap(pid_t pid) {
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    return status;
}
"""

FORK = r"""
int global = 1;
/* Whether /proc says of a process that it is as large as a small program: 1 for its size, 2 for what of it is there. */
static int small(pid_t pid) {
    char path[64], text[2048] = {0};
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY);
    read(fd, text, sizeof text - 1);
    close(fd);
    unsigned long size = 0, there = 0;
    sscanf(strrchr(text, ')') + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %*u %lu %lu", &size, &there);
    return (size > 0 && size < 1 << 30) | (there < 1 << 18) << 1;
}
int main(void) {
    int pipes[2], local = 2;
    pipe(pipes);
    pid_t me = getpid(), child = fork();
    if (!child) {
        global = 10, local = 20;
        int facts[4] = {getpid() != me, getppid() == me, global, local};
        write(pipes[1], facts, sizeof facts);
        _exit(77);
    }
    int facts[4];
    pid_t waits = fork();
    if (!waits) pause(), _exit(0);
    say("small", small(waits));
    kill(waits, SIGKILL);
    say("killed", reap(waits));
    say("read", read(pipes[0], facts, sizeof facts));
    say("other pid", facts[0]), say("parent", facts[1]), say("its global", facts[2]), say("its local", facts[3]);
    say("status", reap(child)), say("global", global), say("local", local);
    say("again", waitpid(child, 0, 0)), say("errno", errno);
    for (int n = 0; n < 3; n++)
        if (!(child = fork())) {
            if (n == 0) abort();
            if (n == 1) *(volatile int *)8 = 1;
            raise(SIGTERM);
        } else say("killed by", WTERMSIG(reap(child)));
    int sum = 0, status;
    for (int n = 1; n <= 20; n++) if (!fork()) _exit(n);
    while (waitpid(-1, &status, 0) > 0) sum += WEXITSTATUS(status);
    say("sum", sum);
    child = fork();
    if (!child) {  /* a grandchild outlives nobody: it is waited for by its parent */
        pid_t grand = fork();
        if (!grand) _exit(5);
        _exit(WEXITSTATUS(reap(grand)) + 1);
    }
    say("grandchild", WEXITSTATUS(reap(child)));
    int gone[2], changed = 0;
    pipe(gone);
    if (!(child = fork())) {  /* an orphan hears that it is one */
        pid_t before = getpid();
        if (fork()) _exit(0);
        for (int n = 0; n < 2000 && getppid() == before; n++) usleep(1000);
        changed = getppid() != before;
        write(gone[1], &changed, sizeof changed);
        _exit(0);
    }
    reap(child), read(gone[0], &changed, sizeof changed), say("orphan", changed);
    child = fork();
    if (!child) { usleep(20000); _exit(1); }
    say("not yet", waitpid(child, 0, WNOHANG));
    siginfo_t info;
    memset(&info, 0, sizeof info);
    say("waitid", waitid(P_PID, child, &info, WEXITED | WNOWAIT));
    say("code", info.si_code), say("status", info.si_status), say("pid", info.si_pid == child);
    struct rusage usage;
    say("wait4", wait4(child, &status, 0, &usage) == child);
    return 0;
}
"""

EXEC = r"""
int main(int argc, char **argv) {
    if (argc > 1) {
        printf("%s: %s %s X=%s Y=%s fd %d\n", argv[0], argv[1], argv[2], getenv("X"), getenv("Y"),
               fcntl(100, F_GETFD) < 0 ? -1 : 1);
        struct sigaction action;
        sigaction(SIGUSR1, 0, &action), say("SIGUSR1", action.sa_handler == SIG_DFL);
        sigaction(SIGUSR2, 0, &action), say("SIGUSR2", action.sa_handler == SIG_IGN);
        sigset_t mask;
        sigprocmask(0, 0, &mask), say("blocked", sigismember(&mask, SIGHUP));
        return 9;
    }
    char *words[] = {"me", "one", "two", 0}, *env[] = {"Y=why", 0};
    sigset_t mask;
    sigemptyset(&mask), sigaddset(&mask, SIGHUP), sigprocmask(SIG_BLOCK, &mask, 0);
    signal(SIGUSR1, (void (*)(int))main), signal(SIGUSR2, SIG_IGN);
    setenv("X", "yes", 1);
    pid_t child = fork();
    if (!child) { execv("/proc/self/exe", words); _exit(1); }
    say("exec", WEXITSTATUS(reap(child)));
    dup3(1, 100, O_CLOEXEC);
    if (!(child = fork())) { execve("/proc/self/exe", words, env); _exit(1); }
    say("exec", WEXITSTATUS(reap(child)));
    int spawned = posix_spawn(&child, "/proc/self/exe", 0, 0, words, env);
    say("spawned", WEXITSTATUS(reap(child))), say("spawn", spawned);
    say("no such program", posix_spawn(&child, "/nonexistent", 0, 0, words, environ));
    execv("/", words), say("a directory", errno);
    int fd = open("script", O_CREAT | O_WRONLY, 0755);
    dprintf(fd, "#!%s  an option \nrest", realpath("/proc/self/exe", 0)), close(fd);
    if (!(child = fork())) { execv("./script", words); _exit(errno); }
    say("script", WEXITSTATUS(reap(child)));
    chmod("script", 0644), execv("script", words), say("not executable", errno);
    fd = open("text", O_CREAT | O_WRONLY, 0755), write(fd, "text\n", 5), close(fd);
    execv("text", words), say("no format", errno);
    fd = open("loop", O_CREAT | O_WRONLY, 0755), write(fd, "#!loop\n", 7), close(fd);
    execv("loop", words), say("loop", errno);
    execv("script", (char **)8), say("bad pointer", errno);
    execv("./dynamic", words), say("no interpreter", errno);
    system("true"), say("not waited for twice", waitpid(-1, 0, 0));
    if (!(child = vfork())) { execv("/proc/self/exe", words); _exit(1); }
    say("vfork", WEXITSTATUS(reap(child)));
    volatile int seen = 0;
    if (!(child = vfork())) { seen = 1; _exit(3); }
    say("vfork shares memory", seen), say("vfork", WEXITSTATUS(reap(child)));
    execv("/proc/self/exe", words);
    return 1;
}
"""

SIGNALS = r"""
static volatile sig_atomic_t count, code, sender, value;
static void handler(int number, siginfo_t *info, void *context) {
    count++, code = info->si_code, sender = info->si_pid, value = info->si_value.sival_int;
}
int main(void) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    for (int n = SIGRTMIN; n <= SIGRTMIN + 2; n++) sigaction(n, &action, 0);
    sigaction(SIGUSR1, &action, 0);
    sigset_t all, none;
    sigfillset(&all), sigemptyset(&none);
    sigprocmask(SIG_BLOCK, &all, 0);
    pid_t me = getpid(), child = fork();
    if (!child) { kill(me, SIGUSR1); _exit(0); }
    sigsuspend(&none);
    if (code == CLD_EXITED) sigsuspend(&none);
    say("signals", count), say("code", code), say("from the child", sender == child), reap(child);
    count = 0;
    if (!(child = fork())) {
        for (int n = 0; n < 10; n++) sigqueue(me, SIGRTMIN + 1, (union sigval){.sival_int = n + 5});
        _exit(0);
    }
    reap(child);
    while (count < 10) sigsuspend(&none);
    say("queued", count), say("code", code), say("value", value);
    int ready[2];
    char byte;
    pipe(ready);
    signal(SIGCHLD, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, 0);
    if (!(child = fork())) { write(ready[1], "x", 1); for (;;) pause(); }
    read(ready[0], &byte, 1);
    int status;
    kill(child, SIGSTOP);
    say("stopped", waitpid(child, &status, WUNTRACED) == child), say("by", WSTOPSIG(status));
    kill(child, SIGTSTP), kill(child, SIGCONT);
    say("continued", waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status));
    kill(child, SIGKILL);
    say("killed", WTERMSIG(reap(child)));
    say("gone", kill(child, 0)), say("errno", errno);
    setpgid(0, 0);
    for (int n = 0; n < 3; n++)
        if (!(child = fork())) { signal(SIGUSR2, SIG_DFL); write(ready[1], "x", 1); for (;;) pause(); }
    for (int n = 0; n < 3; n++) read(ready[0], &byte, 1);
    signal(SIGUSR2, SIG_IGN);
    say("group", kill(0, SIGUSR2));
    for (int n = 0; n < 3; n++) { wait(&status); say("killed", WTERMSIG(status)); }
    signal(SIGCHLD, SIG_IGN);
    if (!(child = fork())) _exit(1);
    say("forgotten", waitpid(child, 0, 0)), say("errno", errno);
    alarm(1);
    if (!(child = fork())) { say("no alarm", alarm(0)); _exit(0); }
    usleep(50000);
    say("alarm", alarm(0));
    return 0;
}
"""

THREADS = r"""
static void *spin(void *flag) { while (!*(volatile int *)flag) sched_yield(); return 0; }
static volatile unsigned long counted, lost;
static void *counts(void *flag) {
    for (unsigned long mine = 0; !*(volatile int *)flag; counted = ++mine) lost += counted != mine;
    return 0;
}
static void *forks(void *result) {
    pid_t child = fork();
    if (!child) {
        pthread_t one;
        int flag = 1;
        pthread_create(&one, 0, spin, &flag), pthread_join(one, 0);
        _exit(getpid() == (pid_t)syscall(SYS_gettid) ? 21 : 1);
    }
    *(int *)result = WEXITSTATUS(reap(child));
    return 0;
}
static void *execs(void *words) { execv("/proc/self/exe", words); return 0; }
int main(int argc, char **argv) {
    if (argc > 1) { say("a thread executed it, as the first one", getpid() == (pid_t)syscall(SYS_gettid)); return 4; }
    pthread_t spinning, forking;
    int flag = 0, result = 0;
    pthread_create(&spinning, 0, spin, &flag);
    pthread_create(&forking, 0, forks, &result), pthread_join(forking, 0);
    say("forked in a thread", result);
    int *shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (!child) { *shared = 42; _exit(0); }
    reap(child), say("shared memory", *shared);
    if (!(child = fork())) {
        char *words[] = {"me", "again", 0};
        pthread_create(&forking, 0, execs, words);
        for (;;) pause();
    }
    say("status", WEXITSTATUS(reap(child)));
    flag = 1, pthread_join(spinning, 0);
    flag = 0, pthread_create(&spinning, 0, counts, &flag);
    int failed = 0;
    for (int n = 0; n < 10; n++) failed += posix_spawn(&child, "/nonexistent", 0, 0, argv, environ) == ENOENT;
    say("not started", failed);
    flag = 1, pthread_join(spinning, 0), say("lost", lost);
    char *words[] = {"me", "again", 0};
    pthread_create(&forking, 0, execs, words);
    for (;;) pause();
}
"""

MANY = r"""
int main(void) {
    for (int round = 0; round < 2; round++) {
        int made = 0;
        pid_t child, all[64];
        while (made < 64 && (child = fork()) > 0)
            all[made++] = child;
        if (!child)
            return pause();
        say(strerror(errno), made);
        for (int i = 0; i < made; i++)
            kill(all[i], SIGKILL), say("killed", reap(all[i]));
    }
    return 0;
}
"""

BESIDE = r"""
/* A thread whose stack lies in front of what another one writes, as those of goroutines do, starts processes. */
static volatile int over;
static void *starts(void *unused) {
    volatile struct { int first, seen; char text[3000]; } it = {1, 0, {0}};
    for (int n = 0; n < 20; n++) {
        pid_t child = vfork();
        if (!child) { it.seen++, it.text[2000] = 'x', it.text[2001 + n] = 'a' + n, usleep(5000); _exit(n); }
        if (WEXITSTATUS(reap(child)) != n) it.first = -1;
    }
    say("first", it.first), say("seen", it.seen), say((const char *)it.text + 2000, 0);
    over = 1;
    return 0;
}
int main(void) {
    size_t size = 128 << 10, many = 4096;
    char *place = mmap(0, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    volatile unsigned long *counts = (void *)(place + size), turns = 0, lost = 0;
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes), pthread_attr_setstack(&attributes, place, size);
    pthread_create(&thread, &attributes, starts, 0);
    for (; !over; turns++) for (size_t n = 0; n < many; n++) counts[n]++;
    pthread_join(thread, 0);
    for (size_t n = 0; n < many; n++) lost += counts[n] != turns;
    say("lost", lost);
    return 0;
}
"""

PROGRAMS = {
    "beside": BESIDE,
    "many": MANY,
    "fork": FORK,
    "exec": EXEC,
    "signals": SIGNALS,
    "threads": THREADS,
}


def build(directory: Path, name: str, compiler: str, *options: str) -> Path:
    found = shutil.which(compiler)
    if found is None:
        pytest.skip(f"{compiler} is not installed")
    source, out = directory / f"{name}.c", directory / "program"
    source.write_text(HEAD + PROGRAMS[name])
    subprocess.run([found, "-O1", "-w", "-pthread", *options, "-o", out, source], check=True, timeout=100)
    return out


# Which engine it is makes no difference to most of the calls; but each has its own part in a fork.
CASES = [(name, engine) for name in ("fork", "exec", "signals", "threads") for engine in ("jit", "interp")]


@pytest.mark.parametrize(("name", "engine"), [*CASES, ("fork", "reference"), ("beside", "jit")])
def test_as_on_the_host(tmp_path: Path, name: str, engine: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    native = build(here, name, "gcc")
    guest = build(there, name, "riscv64-linux-gnu-gcc", "-static")
    for directory, compiler in ((here, "gcc"), (there, "riscv64-linux-gnu-gcc")):
        command = [
            compiler,
            "-w",
            "-Wl,--dynamic-linker=/nonexistent/ld.so",
            "-o",
            directory / "dynamic",
            directory / f"{name}.c",
        ]
        subprocess.run(command, check=True, timeout=100)
    wanted = subprocess.run([native], cwd=here, capture_output=True, text=True, timeout=60, check=False)
    found = subprocess.run(
        [sys.executable, "-m", "vm_cli", "run", "--engine", engine, guest],
        cwd=there, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert found.stderr == ""
    assert found.stdout.replace("/there/", "/here/") == wanted.stdout
    assert found.returncode == wanted.returncode


INHERITED = r"""
static volatile int came;
static void seen(int number) { came = number; }
int main(int argc, char **argv) {
    int numbers[] = {SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGTERM, SIGPIPE};
    for (int n = 0; n < 6; n++) {
        struct sigaction action;
        sigaction(numbers[n], 0, &action), say("ignored", action.sa_handler == SIG_IGN);
    }
    raise(SIGHUP), raise(SIGQUIT);
    pid_t me = getpid(), child;
    signal(SIGUSR1, seen);
    if (argc > 1) {  /* without any process of its own: what comes is from outside */
        say("pid", me);
        while (!came) usleep(1000);
        signal(SIGHUP, SIG_DFL), say("came", came == SIGUSR1);
        for (;;) pause();
    }
    if (!(child = fork())) for (;;) pause();
    kill(child, SIGHUP), usleep(50000), say("lives", waitpid(child, 0, WNOHANG) == 0);
    kill(child, SIGKILL), say("by", WTERMSIG(reap(child)));
    signal(SIGHUP, SIG_DFL), signal(SIGQUIT, seen);
    if (!(child = fork())) for (;;) pause();
    kill(child, SIGHUP), say("by", WTERMSIG(reap(child)));
    if (!fork()) kill(me, SIGQUIT), _exit(0);
    while (!came) usleep(1000);
    say("came", came == SIGQUIT);
    if (!fork()) kill(me, SIGHUP), _exit(0);
    for (;;) pause();
}
"""
PROGRAMS["inherited"] = INHERITED
"""Started with some signals ignored, as by nohup."""


IGNORING = ["/bin/sh", "-c", "trap '' HUP QUIT USR1; exec \"$@\"", "sh"]


def test_what_is_ignored_at_first_is_the_guests_to_change(tmp_path: Path) -> None:
    """asyncio's test of signals hung under nohup: the child had put SIGHUP back to its default, and the host still ignored it."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    native = build(here, "inherited", "gcc")
    guest = build(there, "inherited", "riscv64-linux-gnu-gcc", "-static")
    vm = [*IGNORING, sys.executable, "-m", "vm_cli", "run", guest]
    wanted, found = (
        subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        for command in ([*IGNORING, native], vm)
    )
    assert (wanted.returncode, wanted.stdout.splitlines()[:6]) == (
        -signal.SIGHUP,
        ["ignored 1", "ignored 0", "ignored 1", "ignored 1", "ignored 0", "ignored 0"],
    )
    assert found.stdout == wanted.stdout
    assert "killed by SIGHUP" in found.stderr
    assert found.returncode == 128 + signal.SIGHUP
    with subprocess.Popen([*vm, "alone"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("pid"):
            pass
        process.send_signal(signal.SIGHUP)  # is ignored
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "came 1\n"
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) in (-signal.SIGHUP, 128 + signal.SIGHUP)


JOBS = r"""
static void seen(int number) { write(1, number == SIGCONT ? "continued\n" : "winch\n", number == SIGCONT ? 10 : 6); }
int main(void) {
    int status;
    signal(SIGTTOU, SIG_IGN);
    setsid(), setpgid(0, 0);
    pid_t child = fork();
    if (!child) {
        setpgid(0, 0), tcsetpgrp(0, getpid());
        signal(SIGTTOU, SIG_DFL), signal(SIGCONT, seen);
        say("foreground", tcgetpgrp(0) == getpid());
        char line[20] = "";
        ssize_t count;
        while ((count = read(0, line, 19)) < 0 && errno == EINTR) {}
        say(line, count);
        for (;;) pause();
    }
    setpgid(child, child), tcsetpgrp(0, child);
    waitpid(child, &status, WUNTRACED);
    say("stopped", WIFSTOPPED(status)), say("by", WSTOPSIG(status));
    tcsetpgrp(0, getpgid(0));
    kill(-child, SIGCONT);
    waitpid(child, &status, WUNTRACED);  /* it reads in the background */
    say("stopped", WIFSTOPPED(status)), say("by", WSTOPSIG(status));
    tcsetpgrp(0, child), kill(-child, SIGCONT);
    say("ended", waitpid(child, &status, WUNTRACED) == child), say("by", WTERMSIG(status));
    tcsetpgrp(0, getpgid(0));
    say("own group", tcgetpgrp(0) == getpgid(0));
    struct termios modes;
    say("modes", tcgetattr(0, &modes)), modes.c_lflag &= ~ECHO, say("set", tcsetattr(0, TCSANOW, &modes));
    tcgetattr(0, &modes), say("echo", !!(modes.c_lflag & ECHO));
    return 0;
}
"""
PROGRAMS["jobs"] = JOBS
"""Run on a terminal by the test below."""


def on_a_terminal(command: list[str | Path]) -> str:
    """What a shell's user sees who types Ctrl-Z, then a line, then Ctrl-C, each when it is time."""
    pid, terminal = pty.fork()
    if not pid:
        os.execvp(command[0], [os.fspath(word) for word in command])
    out, typed = "", 0
    keys = [("foreground 1\r\n", 1, "\x1a"), ("continued\r\n", 2, "line\n"), ("line\r\n 5\r\n", 1, "\x03")]
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                data = os.read(terminal, 4096)
            except OSError:
                break
            if not data:
                break
            out += data.decode()
        if typed < len(keys) and out.count(keys[typed][0]) >= keys[typed][1]:
            os.write(terminal, keys[typed][2].encode())
            typed += 1
    os.close(terminal)
    status = os.waitpid(pid, 0)[1]
    return f"{out}{os.waitstatus_to_exitcode(status)}"


def test_job_control_as_on_the_host(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    wanted = on_a_terminal([build(here, "jobs", "gcc")])
    guest = build(there, "jobs", "riscv64-linux-gnu-gcc", "-static")
    assert on_a_terminal([sys.executable, "-m", "vm_cli", "run", guest]) == wanted
    assert "own group 1" in wanted


APART = r"""#include <sys/time.h>
/* What signals a process gets of its own making, and of its children's. */
static volatile int came, last, value;
static volatile pid_t sender;
static void seen(int number, siginfo_t *info, void *context) {
    came++, last = number, sender = info->si_pid, value = info->si_value.sival_int;
}
static void handle(int number, int flags) {
    struct sigaction action = {.sa_sigaction = seen, .sa_flags = SA_SIGINFO | flags};
    sigaction(number, &action, 0);
}
static void until(int count) { for (int n = 0; n < 2000 && came < count; n++) usleep(5000); }
int main(int argc, char **argv) {
    int status, pipes[2], more[2];
    char byte = 0;
    pid_t child, me = getpid();
    sigset_t set, old;
    if (argc > 1) {  /* killed by its child */
        if (!(child = fork())) { usleep(50000); kill(me, atoi(argv[1])); _exit(0); }
        for (;;) pause();
    }
    handle(SIGALRM, 0), handle(SIGUSR1, 0), handle(SIGPIPE, 0), handle(SIGCHLD, SA_RESTART), handle(SIGRTMIN + 1, 0);
    alarm(1), say("pause", pause()), say("alarm", last == SIGALRM);
    struct itimerval each = {{0, 20000}, {0, 20000}};
    came = 0, setitimer(ITIMER_REAL, &each, 0), until(3);
    memset(&each, 0, sizeof each), setitimer(ITIMER_REAL, &each, 0), say("setitimer", came >= 3);
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1, .sigev_value.sival_int = 42};
    struct itimerspec once = {{0, 0}, {0, 10000000}};
    came = 0, timer_create(CLOCK_MONOTONIC, &event, &timer), timer_settime(timer, 0, &once, 0), until(1);
    say("timer_create", last == SIGRTMIN + 1), say("value", value);
    pipe(pipes), close(pipes[0]), came = 0;
    say("EPIPE", write(pipes[1], "", 1) == -1 && errno == EPIPE), say("SIGPIPE", last == SIGPIPE), close(pipes[1]);
    pipe(pipes), pipe(more), came = 0;
    sigemptyset(&set), sigaddset(&set, SIGCHLD), sigaddset(&set, SIGUSR1), sigaddset(&set, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &set, &old);
    if (!(child = fork())) {
        kill(me, SIGUSR1), read(pipes[0], &byte, 1);
        kill(me, SIGUSR1), read(pipes[0], &byte, 1);
        for (int n = 0; n < 5; n++) sigqueue(me, SIGRTMIN + 1, (union sigval){n});
        read(pipes[0], &byte, 1), _exit(3);
    }
    say("sigsuspend", sigsuspend(&old)), say("from child", sender == child), say("SIGUSR1", last == SIGUSR1);
    siginfo_t info;
    write(pipes[1], "", 1), say("sigwaitinfo", sigwaitinfo(&set, &info) == SIGUSR1), say("its pid", info.si_pid == child);
    struct timespec ten = {10};
    write(pipes[1], "", 1);
    for (int n = 0; n < 5; n++) {
        say("queued", sigtimedwait(&set, &info, &ten) - SIGRTMIN), say("value", info.si_value.sival_int);
        say("by sigqueue", info.si_code == SI_QUEUE);
    }
    write(pipes[1], "", 1), say("SIGCHLD", sigtimedwait(&set, &info, &ten) == SIGCHLD);
    say("status", info.si_status), say("code", info.si_code == CLD_EXITED), say("reaped", WEXITSTATUS(reap(child)));
    sigprocmask(SIG_SETMASK, &old, 0);
    /* calls that wait: a handler ends them, or they start again after it */
    for (int flags = 0; flags <= SA_RESTART; flags += SA_RESTART) {
        handle(SIGUSR1, flags), came = 0;
        if (!(child = fork())) { usleep(100000), kill(me, SIGUSR1), usleep(100000), write(more[1], "", 1), _exit(0); }
        long got = read(more[0], &byte, 1);
        say("read", got), say("errno", got < 0 ? errno : 0), say("came", came >= 1), reap(child);
        if (got < 0) read(more[0], &byte, 1);
    }
    handle(SIGCHLD, 0), came = 0;
    if (!(child = fork())) { raise(SIGSTOP); _exit(4); }
    say("stopped", waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status)), until(1);
    say("SIGCHLD", last == SIGCHLD && sender == child), kill(child, SIGCONT);
    say("continued", waitpid(child, &status, WCONTINUED) == child), reap(child), came = 0;
    if (!(child = fork())) { for (;;) pause(); }
    kill(child, SIGTERM), until(1), say("SIGCHLD", last == SIGCHLD && sender == child), say("by", WTERMSIG(reap(child)));
    /* a grandchild, whose parent is another than who it signals */
    handle(SIGUSR1, 0), came = 0;
    if (!(child = fork())) { if (!(child = fork())) { kill(me, SIGUSR1); _exit(0); } _exit(WEXITSTATUS(reap(child))); }
    while (reap(child) < 0) {}
    until(2), say("from a grandchild", came >= 2);
    signal(SIGCHLD, SIG_IGN);
    if (!(child = fork())) _exit(0);
    say("forgotten", wait(&status)), say("errno", errno);
    return 0;
}
"""
PROGRAMS["apart"] = APART
"""Run by a Python program, which none of its signals may reach."""

CALLER = """
import signal, sys, threading, vm_core

def run(argv):
    result = vm_core.run(argv, timeout=60)
    print(result.returncode, file=sys.stderr)

def scheduled(argv):
    with vm_core.Scheduler(workers=1) as scheduler:
        print(scheduler.add(argv, stdout=None, timeout=60).result().returncode, file=sys.stderr)

how, argv = sys.argv[1], sys.argv[2:]
if how == "thread":
    thread = threading.Thread(target=run, args=(argv,))
    thread.start()
    thread.join()
elif how == "main":
    run(argv)
else:
    scheduled(argv)
print(signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL, file=sys.stderr)
"""


@pytest.mark.parametrize("how", ["thread", "main", "scheduler"])
def test_signals_of_a_guest_in_somebodys_program(tmp_path: Path, how: str) -> None:
    """Those of its own processes and timers come to it wherever it runs, and none of them to the program."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    native, guest = build(here, "apart", "gcc"), build(there, "apart", "riscv64-linux-gnu-gcc", "-static")
    for arguments in ([], ["9"], ["15"], ["10"]):
        wanted = subprocess.run([native, *arguments], capture_output=True, text=True, timeout=60, check=False)
        command = [sys.executable, "-c", CALLER, how, guest, *arguments]
        found = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert found.stdout == wanted.stdout
        assert (found.returncode, found.stderr) == (0, f"{wanted.returncode}\nTrue\n")


TRACED = """
import os, subprocess, sys, vm_core

def descriptors():
    vm_core.run(sys.argv[1:], strace=lambda line: None, timeout=60, stdout=subprocess.DEVNULL)
    return len(os.listdir("/proc/self/fd"))

print(descriptors() == descriptors())
"""


def test_a_traced_guest_that_forks_leaves_no_descriptors(tmp_path: Path) -> None:
    guest = build(tmp_path, "fork", "riscv64-linux-gnu-gcc", "-static")
    command = [sys.executable, "-c", TRACED, guest]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_no_more_processes_than_are_allowed(tmp_path: Path) -> None:
    """A program that forks until it may not, twice: children that are over make room."""
    program = build(tmp_path, "many", "riscv64-linux-gnu-gcc", "-static")
    done = subprocess.run(
        [sys.executable, "-m", "vm_cli", "run", "--max-processes", "5", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    expected = "Resource temporarily unavailable 4\n" + "killed 9\n" * 4
    assert (done.returncode, done.stdout, done.stderr) == (0, expected * 2, "")
