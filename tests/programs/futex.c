/* Waiting for words of memory: what futex(2) answers, and that who changes one finds who waits for it. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "answer.h"

/* linux/futex.h, which not every C library has. */
enum {
    FUTEX_WAIT = 0,
    FUTEX_WAKE = 1,
    FUTEX_FD = 2,
    FUTEX_REQUEUE = 3,
    FUTEX_CMP_REQUEUE = 4,
    FUTEX_WAIT_BITSET = 9,
    FUTEX_WAKE_BITSET = 10,
    FUTEX_CLOCK_REALTIME = 256,
    FUTEX_WAIT_PRIVATE = FUTEX_WAIT | 128,
    FUTEX_WAKE_PRIVATE = FUTEX_WAKE | 128,
};

#define WAITERS 4
#define ROUNDS 2000

static long futex(void *word, int operation, unsigned value, void *time, void *second, unsigned third)
{
    return syscall(SYS_futex, word, operation, value, time, second, third);
}

static void on_signal(int signal) { (void)signal; }

/* Waits until so many sleep. */
static void asleep(const pid_t *children, int count)
{
    for (int i = 0; i < count; i++) {
        char path[64], stat[256];
        do {
            usleep(1000);
            snprintf(path, sizeof path, "/proc/%d/stat", children[i]);
            FILE *file = fopen(path, "r");
            size_t len = file ? fread(stat, 1, sizeof stat - 1, file) : 0;
            if (file) fclose(file);
            stat[len] = 0;
        } while (!strstr(stat, ") S "));
    }
}

static void wait_in_children(pid_t *children, _Atomic uint32_t *word, int count, unsigned bits)
{
    for (int i = 0; i < count; i++)
        if (!(children[i] = fork()))
            _exit(futex((void *)word, FUTEX_WAIT_BITSET, 0, 0, 0, bits << i) ? errno : 0);
    asleep(children, count);
}

static void reap(const pid_t *children, int count)
{
    for (int i = 0; i < count; i++) {
        int status = -1;
        waitpid(children[i], &status, 0);
        printf("child %d: %#x\n", i, status);
    }
}

int main(void)
{
    _Atomic uint32_t *shared = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct timespec nothing = {0, 1000}, bad = {0, 1000000000}, past = {1, 0};
    uint32_t own = 7;
    char *bytes = (char *)shared;
    pid_t children[WAITERS];

    TRY(futex(&own, FUTEX_WAIT_PRIVATE, 6, 0, 0, 0));
    TRY(futex(&own, FUTEX_WAIT_PRIVATE, 7, &nothing, 0, 0));
    TRY(futex(&own, FUTEX_WAIT, 7, &nothing, 0, 0));
    TRY(futex(&own, FUTEX_WAIT, 7, &bad, 0, 0));
    TRY(futex(&own, FUTEX_WAIT, 7, (void *)8, 0, 0));
    TRY(futex(&own, FUTEX_WAIT_BITSET, 7, &past, 0, 1));
    TRY(futex(&own, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 7, &past, 0, 1));
    TRY(futex(&own, FUTEX_WAIT_BITSET, 7, 0, 0, 0));
    TRY(futex(&own, FUTEX_WAIT | FUTEX_CLOCK_REALTIME, 7, &past, 0, 0));
    TRY(futex(bytes + 1, FUTEX_WAIT, 0, &nothing, 0, 0));
    TRY(futex(bytes + 1, FUTEX_WAKE, 1, 0, 0, 0));
    TRY(futex((void *)8, FUTEX_WAIT, 0, &nothing, 0, 0));
    TRY(futex((void *)8, FUTEX_WAKE, 1, 0, 0, 0));
    TRY(futex((void *)8, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0));
    TRY(futex((void *)(1ul << 63), FUTEX_WAKE_PRIVATE, 1, 0, 0, 0));
    TRY(futex(&own, FUTEX_WAKE_BITSET, 1, 0, 0, 0));
    TRY(futex(&own, FUTEX_WAKE, 1, 0, 0, 0));
    TRY(futex(&own, 99, 1, 0, 0, 0));
    TRY(futex(&own, FUTEX_FD, 1, 0, 0, 0));
    TRY(futex(&own, FUTEX_CMP_REQUEUE, 1, (void *)1, shared, 6));
    TRY(futex(&own, FUTEX_REQUEUE, -1, (void *)1, shared, 0));

    wait_in_children(children, shared, WAITERS, 1);
    TRY(futex((void *)shared, FUTEX_WAKE_BITSET, 9, 0, 0, 5));
    TRY(futex((void *)shared, FUTEX_WAKE_PRIVATE, 9, 0, 0, 0));
    TRY(futex((void *)shared, FUTEX_WAKE, 0, 0, 0, 0));
    TRY(futex((void *)shared, FUTEX_WAKE, 9, 0, 0, 0));
    reap(children, WAITERS);

    wait_in_children(children, shared, WAITERS, 1);
    TRY(futex((void *)shared, FUTEX_CMP_REQUEUE, 1, (void *)2, (void *)(shared + 1024), 0));
    TRY(futex((void *)shared, FUTEX_WAKE, 9, 0, 0, 0));
    TRY(futex((void *)(shared + 1024), FUTEX_WAKE, 9, 0, 0, 0));
    reap(children, WAITERS);

    /* A signal ends a wait, or has it go on. */
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, 0);
    wait_in_children(children, shared, 1, 1);
    kill(children[0], SIGUSR1);
    reap(children, 1);
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &action, 0);
    wait_in_children(children, shared, 1, 1);
    kill(children[0], SIGUSR1);
    usleep(20000);
    while (futex((void *)shared, FUTEX_WAKE, 9, 0, 0, 0) != 1)
        usleep(1000);
    reap(children, 1);

    /* Two count in turns: a wake that were lost would end it by the alarm. */
    alarm(60);
    pid_t other = fork();
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t turn = 2 * i + !other, now;
        while ((now = atomic_load(&shared[1])) != turn)
            futex((void *)&shared[1], FUTEX_WAIT, now, 0, 0, 0);
        atomic_store(&shared[1], turn + 1);
        futex((void *)&shared[1], FUTEX_WAKE, 1, 0, 0, 0);
    }
    if (!other) _exit(0);
    children[0] = other;
    reap(children, 1);
    printf("counted to %u\n", atomic_load(&shared[1]));
    return 0;
}
