/* Two processes that share System V objects and a POSIX queue by key and name, one of which may be a guest. */
#define _GNU_SOURCE
#include <errno.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>

struct message {
    long type;
    char text[64];
};
static int change(int set, int which, int by) {
    struct sembuf operation = {which, by, 0};
    return semop(set, &operation, 1);
}

int main(int argc, char **argv) {
    int first = argv[1][0] == 'f', key = strtol(argv[2], 0, 0), create = first ? IPC_CREAT | IPC_EXCL : 0;
    char name[64], text[64] = "";
    struct mq_attr attributes = {.mq_maxmsg = 2, .mq_msgsize = 64};
    struct message message = {first ? 1 : 2};
    sprintf(name, "/vm-exchange-%x", key);
    alarm(50);
    int messages = msgget(key, create | 0600), set = semget(key, 2, create | 0600), segment = shmget(key, 10000, create | 0600);
    mqd_t queue = first ? mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &attributes) : mq_open(name, O_RDWR);
    if (messages < 0 || set < 0 || segment < 0 || queue < 0) return printf("%s\n", strerror(errno)), 3;
    char *shared = shmat(segment, 0, 0);
    if (first) printf("ready\n"), fflush(stdout);
    /* memory, with a semaphore for each that says when it is written */
    strcpy(shared + (first ? 0 : 5000), first ? "from the first" : "from the second");
    change(set, first, 1);
    change(set, !first, -1);
    printf("%s\n", shared + (first ? 5000 : 0));
    /* messages: each waits for the other's */
    if (first) usleep(100000);
    strcpy(message.text, first ? "one" : "two");
    msgsnd(messages, &message, 4, 0);
    msgrcv(messages, &message, 64, first ? 2 : 1, 0);
    printf("%ld %s\n", message.type, message.text);
    if (first) {
        unsigned priority;
        mq_receive(queue, text, 64, &priority);
        printf("%s %u\n", text, priority);
    } else {
        usleep(100000), mq_send(queue, "posix", 6, 7);
    }
    shmdt(shared);
    change(set, first, 1), change(set, !first, -1); /* both are done */
    if (first) {
        msgctl(messages, IPC_RMID, 0), semctl(set, 0, IPC_RMID), shmctl(segment, IPC_RMID, 0), mq_unlink(name);
    }
    return 0;
}
