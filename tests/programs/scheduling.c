/*
 * How processes are scheduled: policies, priorities, their children's, priorities of I/O, barriers. Prints what each call
 * answers: the same natively and in a guest. Policies for real time are asked of one who may not have them.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "answer.h"

/* By their numbers: musl refuses to ask for all but the two of priorities. */
#define GET(pid) syscall(SYS_sched_getscheduler, pid)
#define SET(pid, policy, param) syscall(SYS_sched_setscheduler, pid, policy, param)
#define GET_PARAM(pid, param) syscall(SYS_sched_getparam, pid, param)
#define SET_PARAM(pid, param) syscall(SYS_sched_setparam, pid, param)
#define INTERVAL(pid, at) syscall(SYS_sched_rr_get_interval, pid, at)
#define IO(kind, who) syscall(SYS_ioprio_get, kind, who)
#define BARRIER(command, flags) syscall(SYS_membarrier, command, flags, 0)

enum { NOBODY = 99999, RESET = 0x40000000 };

static void *const nowhere = (void *)16;

static void priorities(void)
{
    for (int policy = -1; policy < 9; policy++) {
        printf("policy %d\n", policy);
        TRY(sched_get_priority_max(policy));
        TRY(sched_get_priority_min(policy));
    }
}

static void asking(void)
{
    int priority = 7;
    long interval[2] = { 7, 7 };
    TRY(GET(0));
    TRY(GET(getpid()) == GET(0));
    TRY(GET(-1));
    TRY(GET(NOBODY));
    TRY(GET_PARAM(0, &priority));
    printf("%d\n", priority);
    TRY(GET_PARAM(-1, &priority));
    TRY(GET_PARAM(NOBODY, 0));
    TRY(GET_PARAM(NOBODY, nowhere));
    TRY(GET_PARAM(0, nowhere));
    TRY(INTERVAL(0, interval));
    TRY(INTERVAL(-1, nowhere));
    TRY(INTERVAL(NOBODY, nowhere));
    TRY(INTERVAL(0, nowhere));
}

static void in_child(const char *what)
{
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        printf("%s, child: %lx, nice %ld\n", what, GET(0), 20 - syscall(SYS_getpriority, PRIO_PROCESS, 0));
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, &status, 0);
}

static void setting(void)
{
    static const int policies[] = { 0, 3, 5, 0, 4, 6, 7, 8, 99, -1, 3 | RESET, 3, 5 | RESET, RESET, 0 };
    int none = 0, some = 1, most = 99, more = 100, negative = -1;
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        printf("to %x: %ld, errno %d\n", policies[i], SET(0, policies[i], &none), errno);
        errno = 0;
        printf("is %lx\n", GET(0));
        TRY(SET(0, policies[i], &some));
        TRY(SET(0, policies[i], &negative));
    }
    TRY(SET(0, 1, &none));
    TRY(SET(0, 1, &more));
    TRY(SET(0, 2, &negative));
    TRY(SET(0, 0, 0));
    TRY(SET(0, 99, nowhere));
    TRY(SET(-1, 99, nowhere));
    TRY(SET(NOBODY, 99, nowhere));
    TRY(SET(NOBODY, 99, &none));
    TRY(SET_PARAM(0, &none));
    TRY(SET_PARAM(0, &some));
    TRY(SET_PARAM(NOBODY, &none));
    TRY(SET_PARAM(0, 0));
    TRY(SET_PARAM(0, nowhere));
    in_child("same");
    TRY(setpriority(PRIO_PROCESS, 0, 3));
    TRY(SET(0, 3 | RESET, &none));
    in_child("nicer");
    TRY(setpriority(PRIO_PROCESS, 0, -3));
    in_child("less nice");
    TRY(SET_PARAM(0, &none));
    printf("is %lx\n", GET(0));
    TRY(SET(0, 0, &none));
    TRY(setpriority(PRIO_PROCESS, 0, 0));
    fflush(stdout);
    pid_t child = fork(), root = getppid();
    int status;
    if (child == 0) {
        syscall(SYS_setuid, 7);
        TRY(SET(root, 0, &none));
        TRY(SET(root, 1, &some));
        TRY(SET(0, 1, &some));
        TRY(SET(0, 2, &most));
        TRY(SET(0, 3 | RESET, &none));
        TRY(SET(0, 3, &none));
        TRY(SET(0, 5 | RESET, &none));
        TRY(SET(0, 5, &none));
        TRY(SET(0, 3 | RESET, &none));
        TRY(SET_PARAM(0, &none));
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, &status, 0);
}

static void of_io(void)
{
    setpgid(0, 0);
    TRY(IO(0, 0));
    TRY(IO(4, 0));
    for (int kind = 1; kind < 4; kind++) {
        TRY(IO(kind, NOBODY));
        TRY(IO(kind, -1));
    }
    TRY(IO(1, 0));
    for (int nice = -20; nice < 20; nice += 3) {
        setpriority(PRIO_PROCESS, 0, nice);
        TRY(IO(2, 0));
    }
    int none = 0;
    SET(0, 5, &none);
    TRY(IO(2, 0));
    SET(0, 0, &none);
    setpriority(PRIO_PROCESS, 0, 0);
}

static void barriers(void)
{
    /* Those for restartable sequences, and their registration by the C library, are left out. */
    enum { RSEQ = 0x180 };
    TRY(BARRIER(0, 0) & ~RSEQ);
    TRY(BARRIER(0, 1));
    TRY(BARRIER(-1, 0));
    TRY(BARRIER(1024, 0));
    TRY(BARRIER(24, 0));
    TRY(BARRIER(512, 0) & ~RSEQ);
    TRY(BARRIER(8, 0));
    TRY(BARRIER(32, 0));
    for (int command = 1; command < 128; command *= 2) {
        printf("command %d\n", command);
        TRY(BARRIER(command, 1));
        TRY(BARRIER(command, 0));
    }
    TRY(BARRIER(8, 0));
    TRY(BARRIER(32, 0));
    TRY(BARRIER(512, 0) & ~RSEQ);
    fflush(stdout);
    int status;
    pid_t child = fork();
    if (child == 0) {
        TRY(BARRIER(512, 0) & ~RSEQ);
        execl("/proc/self/exe", "scheduling", "again", (char *)0);
        _exit(1);
    }
    waitpid(child, &status, 0);
    printf("ended with %x\n", status);
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1) {
        printf("after execve: %lx\n", BARRIER(512, 0) & ~0x180L);
        return 0;
    }
    priorities();
    asking();
    setting();
    of_io();
    barriers();
    return 0;
}
