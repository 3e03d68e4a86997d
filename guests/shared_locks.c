/* Locks in memory that two processes share: semaphores, a condition, a barrier, and a lock whose owner dies. */
#define _GNU_SOURCE
#include "guest.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define TURNS 300

struct shared {
    pthread_mutex_t lock, robust;
    pthread_cond_t changed;
    pthread_barrier_t both;
    sem_t there, back;
    int turn, sum;
};

static void prepare(struct shared *s) {
    pthread_mutexattr_t mutex;
    pthread_condattr_t condition;
    pthread_barrierattr_t barrier;
    pthread_mutexattr_init(&mutex);
    pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&s->lock, &mutex);
    pthread_mutexattr_setrobust(&mutex, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&s->robust, &mutex);
    pthread_condattr_init(&condition);
    pthread_condattr_setpshared(&condition, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&s->changed, &condition);
    pthread_barrierattr_init(&barrier);
    pthread_barrierattr_setpshared(&barrier, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&s->both, &barrier, 2);
    sem_init(&s->there, 1, 0);
    sem_init(&s->back, 1, 0);
}

static void semaphores(struct shared *s, int child) {
    for (int i = 0; i < TURNS; i++) {
        if (child) {
            sem_wait(&s->there);
            s->sum++;
            sem_post(&s->back);
        } else {
            sem_post(&s->there);
            sem_wait(&s->back);
            s->sum++;
        }
    }
    pthread_barrier_wait(&s->both);
}

static void turns(struct shared *s, int child) {
    for (int i = 0; i < TURNS; i++) {
        pthread_mutex_lock(&s->lock);
        while (s->turn % 2 != child)
            pthread_cond_wait(&s->changed, &s->lock);
        s->turn++;
        pthread_cond_signal(&s->changed);
        pthread_mutex_unlock(&s->lock);
    }
    pthread_barrier_wait(&s->both);
}

int main(void) {
    setvbuf(stdout, NULL, _IONBF, 0);
    struct shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    prepare(s);
    pid_t pid = fork();
    int child = pid == 0;
    semaphores(s, child);
    if (!child)
        printf("semaphores: %d\n", s->sum);
    turns(s, child);
    if (child) {
        pthread_mutex_lock(&s->robust);
        pthread_barrier_wait(&s->both);
        usleep(50000); /* the parent waits by now, or finds it soon */
        _exit(0);
    }
    printf("turns: %d\n", s->turn);
    pthread_barrier_wait(&s->both);
    int error = pthread_mutex_lock(&s->robust);
    printf("the owner: %s\n", strerror(error));
    pthread_mutex_consistent(&s->robust);
    pthread_mutex_unlock(&s->robust);
    int status = 0;
    waitpid(pid, &status, 0);
    printf("child: %d\n", status);
    return 0;
}
