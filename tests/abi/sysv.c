#include "abi.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

union semun {
    int val;
    void *buf;
    unsigned short *array;
};
static int ended(pid_t pid) {
    int status;
    waitpid(pid, &status, 0);
    return status;
}
static void handler(int number) { (void)number; }
static void alarm_in(int milliseconds) {
    struct sigaction a = {.sa_handler = handler, .sa_flags = SA_RESTART};
    struct itimerspec soon = {{0, 0}, {0, milliseconds * 1000000L}};
    sigaction(SIGALRM, &a, 0);
    timer_t timer;
    timer_create(CLOCK_MONOTONIC, 0, &timer);
    timer_settime(timer, 0, &soon, 0);
}
static int op(int id, int number, int change, int flags) {
    struct sembuf b = {number, change, flags};
    return semop(id, &b, 1);
}

static void memory(int key) {
    struct shmid_ds s;
    T(shmget(key, 4096, 0));
    T(shmget(key, 0, IPC_CREAT | 0600));
    int id = shmget(key, 5000, IPC_CREAT | 0640);
    SHOW("%d", id >= 0);
    T(shmget(key, 5000, IPC_CREAT | IPC_EXCL | 0600));
    T(shmget(key, 9000, 0));
    T(shmget(key, 100, 0) == id);
    T(shmctl(id, IPC_STAT, &s));
    SHOW("%d %o %ld %d %d %d %d", s.shm_perm.__key == key, s.shm_perm.mode, (long)s.shm_segsz, (int)s.shm_nattch,
         s.shm_cpid == getpid(), s.shm_lpid, s.shm_atime == 0);
    char *a = shmat(id, 0, 0), *b = shmat(id, 0, SHM_RDONLY);
    SHOW("%d %d", a != (void *)-1, b != (void *)-1);
    strcpy(a, "hello");
    SHOW("%s %d", b, a[4999]);
    T(shmat(id, a, 0));
    T(shmat(id, a + 1, 0));
    T(shmat(id + 77777, 0, 0));
    T(shmat(id, 0, SHM_REMAP));
    T(shmat(id, a + 5, SHM_RND | SHM_REMAP) == a);
    T(shmctl(id, IPC_STAT, &s));
    SHOW("%d", s.shm_lpid == getpid());
    T(shmdt(b));
    T(shmdt(b));
    T(shmdt(a + 1));
    pid_t child = fork();
    if (!child) {
        strcpy(a + 100, "child");
        char *again = shmat(shmget(key, 0, 0), 0, 0);
        again[200] = 'x';
        _exit(0);
    }
    SHOW("%d", ended(child));
    SHOW("%s %c", a + 100, a[200]);
    T(shmctl(id, IPC_RMID, 0));
    T(shmget(key, 100, 0));
    T(shmctl(id, IPC_STAT, &s));
    SHOW("%o %ld", s.shm_perm.mode, (long)s.shm_nattch);
    SHOW("%s", a);
    T(shmdt(a));
    T(shmctl(id, IPC_STAT, &s));
    T(shmctl(id, IPC_RMID, 0));
    T(shmctl(-1, IPC_RMID, 0));
    T(shmctl(id, 1234, 0));
    id = shmget(IPC_PRIVATE, 10, 0600);
    a = shmat(id, 0, 0);
    child = fork();
    if (!child)
        raise(SIGKILL);
    SHOW("%d", ended(child));
    T(shmctl(id, IPC_STAT, &s));
    SHOW("%ld", (long)s.shm_nattch);
    s.shm_perm.mode = 0400;
    T(shmctl(id, IPC_SET, &s));
    T(shmctl(id, IPC_STAT, &s));
    SHOW("%o", s.shm_perm.mode);
    T(shmctl(id, IPC_STAT, (void *)1));
    T(shmctl(id, IPC_RMID, 0));
}

static void semaphores(int key) {
    struct semid_ds s;
    union semun u = {.buf = &s};
    unsigned short values[4] = {9, 9, 9, 9};
    T(semget(key, 3, 0));
    T(semget(key, 0, IPC_CREAT | 0600));
    T(semget(key, -1, IPC_CREAT | 0600));
    T(semget(key, 40000, IPC_CREAT | 0600));
    int id = semget(key, 3, IPC_CREAT | 0600);
    T(semget(key, 4, 0));
    T(semget(key, 2, 0) == id);
    T(semctl(id, 0, IPC_STAT, u));
    SHOW("%ld %o %ld", (long)s.sem_nsems, s.sem_perm.mode, (long)s.sem_otime);
    T(semctl(id, 1, SETVAL, (union semun){.val = 5}));
    T(semctl(id, 3, SETVAL, (union semun){.val = 5}));
    T(semctl(id, 1, SETVAL, (union semun){.val = -1}));
    T(semctl(id, 1, SETVAL, (union semun){.val = 32768}));
    T(semctl(id, 1, GETVAL));
    T(semctl(id, 1, GETPID) == getpid());
    T(semctl(id, 0, GETPID));
    T(semctl(id, 0, GETALL, (union semun){.array = values}));
    SHOW("%d %d %d %d", values[0], values[1], values[2], values[3]);
    T(op(id, 1, -3, 0));
    T(op(id, 1, -3, IPC_NOWAIT));
    T(op(id, 1, 0, IPC_NOWAIT));
    T(op(id, 0, 0, IPC_NOWAIT));
    T(op(id, 7, 1, 0));
    T(op(id, 1, 32767, 0));
    T(semop(id, 0, 0));
    T(semop(id, (void *)1, 1));
    T(semop(id, (void *)1, 501));
    T(op(id + 77777, 0, 1, 0));
    struct sembuf both[2] = {{0, 1, 0}, {1, -9, IPC_NOWAIT}};
    T(semop(id, both, 2));
    T(semctl(id, 0, GETVAL));
    struct timespec soon = {0, 20000000}, bad = {0, 1000000000};
    struct sembuf one = {2, -1, 0};
    T(semtimedop(id, &one, 1, &soon));
    T(semtimedop(id, &one, 1, &bad));
    alarm_in(30);
    T(op(id, 2, -1, 0));
    pid_t child = fork();
    if (!child) {
        op(id, 2, -1, 0);
        op(id, 0, 7, SEM_UNDO);
        op(id, 1, -1, SEM_UNDO);
        _exit(semctl(id, 0, GETVAL));
    }
    while (semctl(id, 2, GETNCNT) != 1)
        usleep(1000);
    T(semctl(id, 2, GETZCNT));
    T(op(id, 2, 1, 0));
    SHOW("%d", ended(child));
    T(semctl(id, 0, GETVAL));
    T(semctl(id, 1, GETVAL));
    T(semctl(id, 2, GETVAL));
    child = fork();
    if (!child) {
        op(id, 0, 4, SEM_UNDO);
        raise(SIGKILL);
    }
    SHOW("%d", ended(child));
    T(semctl(id, 0, GETVAL));
    child = fork();
    if (!child) {
        int result = op(id, 1, 0, 0);
        _exit(result < 0 ? errno : 0);
    }
    while (semctl(id, 1, GETZCNT) != 1)
        usleep(1000);
    T(semctl(id, 0, IPC_RMID));
    SHOW("%d", ended(child) == EIDRM << 8);
    T(semctl(id, 0, GETVAL));
    T(semctl(-1, 0, GETVAL));
}

static void messages(int key) {
    struct {
        long type;
        char text[9000];
    } m = {1, ""}, got;
    struct msqid_ds s;
    T(msgget(key, 0));
    int id = msgget(key, IPC_CREAT | 0600);
    T(msgget(key, IPC_CREAT | IPC_EXCL));
    T(msgrcv(id, &got, 100, 0, IPC_NOWAIT));
    for (int i = 1; i <= 4; i++) {
        m.type = 5 - i;
        sprintf(m.text, "message %d", i);
        T(msgsnd(id, &m, 10, 0));
    }
    T(msgctl(id, IPC_STAT, &s));
    SHOW("%ld %ld %ld %d %d %d", (long)s.msg_qnum, (long)s.__msg_cbytes, (long)s.msg_qbytes, s.msg_lspid == getpid(),
         s.msg_lrpid, s.msg_rtime == 0);
    T(msgrcv(id, &got, 5, 2, 0));
    for (int n = -1; n < 6; n++) {
        memset(&got, 0, sizeof got);
        T(msgrcv(id, &got, 100, n, MSG_COPY | IPC_NOWAIT));
        SHOW("%ld %.20s", got.type, got.text);
    }
    T(msgrcv(id, &got, 100, 0, MSG_COPY));
    T(msgrcv(id, &got, 100, 0, MSG_COPY | MSG_EXCEPT | IPC_NOWAIT));
    T(msgrcv(id, &got, 1, 0, MSG_COPY | IPC_NOWAIT));
    T(msgrcv(id, &got, 1, 0, MSG_COPY | MSG_NOERROR | IPC_NOWAIT));
    T(msgrcv(id, &got, 100, 2, 0));
    SHOW("%ld %s", got.type, got.text);
    T(msgrcv(id, &got, 100, -3, 0));
    SHOW("%ld %s", got.type, got.text);
    T(msgrcv(id, &got, 100, 4, MSG_EXCEPT));
    SHOW("%ld %s", got.type, got.text);
    T(msgrcv(id, &got, 3, 0, MSG_NOERROR));
    SHOW("%ld %.3s", got.type, got.text);
    T(msgrcv(id, &got, 100, 9, IPC_NOWAIT));
    m.type = 0;
    T(msgsnd(id, &m, 1, 0));
    m.type = 1;
    T(msgsnd(id, &m, 8193, 0));
    T(msgsnd(id, &m, -1, 0));
    T(msgrcv(id, &got, -1, 0, 0));
    T(msgsnd(id, (void *)1, 1, 0));
    T(msgsnd(id, &m, 8192, 0));
    T(msgsnd(id, &m, 8192, 0));
    T(msgsnd(id, &m, 1, IPC_NOWAIT));
    T(msgsnd(id, &m, 0, IPC_NOWAIT));
    pid_t child = fork();
    if (!child) {
        strcpy(m.text, "late");
        _exit(msgsnd(id, &m, 100, 0));
    }
    usleep(30000);
    for (int i = 0; i < 3; i++)
        T(msgrcv(id, &got, 9000, 0, 0));
    T(msgrcv(id, &got, 9000, 0, 0));
    SHOW("%s %d", got.text, ended(child));
    alarm_in(30);
    T(msgrcv(id, &got, 100, 0, 0));
    s.msg_qbytes = 100;
    s.msg_perm.mode = 0600;
    T(msgctl(id, IPC_SET, &s));
    T(msgsnd(id, &m, 101, IPC_NOWAIT));
    child = fork();
    if (!child)
        _exit(msgrcv(id, &got, 100, 0, 0) < 0 ? errno : 0);
    usleep(50000);
    T(msgctl(id, IPC_RMID, 0));
    SHOW("%d", ended(child) == EIDRM << 8);
    T(msgsnd(id, &m, 1, 0));
    T(msgctl(id, IPC_STAT, &s));
}

int main(void) {
    int key = 0x564d0000 | (getpid() & 0xffff);
    memory(key);
    semaphores(key);
    messages(key);
    return 0;
}
