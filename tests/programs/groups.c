/*
 * Process groups and sessions: made, joined, signalled and waited for; orphaned ones. Numbers are printed as those of whom
 * they are: the same natively and in a guest. Argument: none, or what it is to do after execve.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "answer.h"

static int pipes[2];
static volatile int *shared;

/* Runs a part in a child, which must end by itself. */
static void child(const char *what, void (*part)(void))
{
    int status;
    printf("%s\n", what);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        part();
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    printf("ended with %x\n", status);
}

static void waits(void)
{
    for (;;)
        pause();
}

/* A child that waits, in this group; -1 for its parent's. */
static pid_t waiting(pid_t group)
{
    pid_t pid = fork();
    if (pid == 0)
        waits();
    if (group >= 0)
        setpgid(pid, group);
    return pid;
}

static const char *whose(pid_t number, pid_t one, pid_t other)
{
    return number == getpid() ? "mine" : number == one ? "the first's" : number == other ? "the second's" : number == getppid() ? "my parent's" : "another's";
}

static void joining(void)
{
    pid_t old = getpgrp();
    TRY(setsid() == getpid());
    TRY(setsid());
    TRY(setpgid(0, 0));
    printf("group %s, session %s\n", whose(getpgrp(), 0, 0), whose(getsid(0), 0, 0));
    pid_t one = waiting(-1), two = waiting(-1);
    printf("groups %s %s\n", whose(getpgid(one), one, two), whose(getpgid(two), one, two));
    TRY(setpgid(one, 0));
    TRY(setpgid(two, one));
    printf("groups %s %s, sessions %s %s\n", whose(getpgid(one), one, two), whose(getpgid(two), one, two),
           whose(getsid(one), one, two), whose(getsid(two), one, two));
    TRY(setpgid(one, -1));
    TRY(setpgid(-1, 1));
    TRY(setpgid(99999, 1));
    TRY(setpgid(99999, -1));
    TRY(setpgid(getppid(), 0));
    TRY(setpgid(one, old));
    TRY(setpgid(one, 99999));
    TRY(setpgid(0, one));
    TRY(getpgid(-1));
    TRY(getpgid(99999));
    TRY(getsid(-1));
    TRY(getsid(99999));
    TRY(kill(-99999, 0));
    TRY(kill(-one, 0));
    TRY(kill(-one, 999));
    TRY(kill(-99999, 999));
    TRY(kill(-one, SIGTERM));
    int status;
    siginfo_t info;
    TRY(waitpid(-99999, &status, 0));
    TRY(waitpid(-getpid(), &status, WNOHANG));
    TRY(waitpid(0, &status, WNOHANG));
    TRY(waitid(P_PGID, 99999, &info, WEXITED));
    TRY(waitid(P_PGID, 0, &info, WEXITED));
    TRY(waitid(P_PGID, -1, &info, WEXITED));
    TRY(waitid(P_PGID, one, &info, WEXITED | WNOWAIT));
    int got = waitpid(-one, &status, 0);
    printf("one of both: %d, %x\n", got == one || got == two, status);
    got = got == one ? two : one;
    printf("the other one: %d", waitpid(-one, &status, 0) == got);
    printf(", %x\n", status);
    TRY(waitpid(-one, &status, 0));
    /* A zombie's group is there, and can be changed. */
    one = waiting(0);
    kill(one, SIGKILL);
    waitid(P_PID, one, &info, WEXITED | WNOWAIT);
    printf("a zombie's group %s\n", whose(getpgid(one), one, 0));
    TRY(kill(-one, 0));
    TRY(setpgid(one, getpid()));
    TRY(kill(-one, 0));
    printf("a zombie's group %s\n", whose(getpgid(one), one, 0));
    TRY(waitpid(0, &status, 0) == one);
}

/* What another session's may. */
static void sessions(void)
{
    setpgid(0, 0);
    int status;
    pid_t other = fork();
    if (other == 0) {
        setsid();
        write(pipes[1], "x", 1);
        waits();
    }
    char byte;
    read(pipes[0], &byte, 1);
    printf("session %s, group %s\n", whose(getsid(other), other, 0), whose(getpgid(other), other, 0));
    TRY(setpgid(other, 0));
    TRY(setpgid(other, getpid()));
    TRY(setpgid(0, other));
    TRY(kill(-other, SIGKILL));
    waitpid(other, &status, 0);
    /* A group that its leader has left is there; its number is nobody's. */
    pid_t one = waiting(0), two = waiting(one);
    kill(one, SIGKILL);
    waitpid(one, &status, 0);
    TRY(getpgid(one));
    TRY(kill(-one, 0));
    TRY(setpgid(0, one));
    TRY(setpgid(0, 0));
    TRY(kill(-one, SIGKILL));
    waitpid(two, &status, 0);
    TRY(kill(-one, 0));
    /* To all of one's own, oneself included. */
    signal(SIGUSR1, SIG_IGN);
    one = waiting(-1);
    TRY(kill(0, SIGUSR1));
    kill(one, SIGKILL);
    waitpid(0, &status, 0);
    printf("%x\n", status);
    kill(0, SIGTERM);
    printf("not reached\n");
}

static void executed(void)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        char *argv[] = {"groups", "waits", 0};
        execv("/proc/self/exe", argv);
    }
    char byte;
    dup2(pipes[1], 30);
    read(pipes[0], &byte, 1);
    TRY(setpgid(pid, 0));
    TRY(setpgid(pid, getpgrp()));
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    /* One that shares its parent's memory is a child like others. */
    pid = vfork();
    if (pid == 0)
        _exit(setpgid(0, 0) != 0 || getpgrp() != getpid());
    waitpid(pid, &status, 0);
    printf("%x\n", status);
}

static void caught(int number)
{
    shared[number]++;
}

/* A group of two, of whom one has stopped, loses the only one that could continue it. */
static void orphans(void)
{
    setsid();
    pid_t leader = fork();
    if (leader == 0) {
        setpgid(0, 0);
        signal(SIGHUP, caught);
        signal(SIGCONT, caught);
        if (fork() == 0) {
            raise(SIGSTOP);
            /* Continued. That nobody could do any more: so it does not stop. */
            shared[40] = raise(SIGTSTP) == 0;
            shared[41] = raise(SIGTTIN) == 0;
            while (!shared[SIGHUP] || !shared[SIGCONT])
                usleep(1000);
            shared[42] = 1;
            _exit(0);
        }
        int status;
        waitpid(-1, &status, WUNTRACED);
        shared[43] = WIFSTOPPED(status);
        _exit(0);
    }
    int status;
    waitpid(leader, &status, 0);
    for (int i = 0; i < 5000 && !shared[42]; i++)
        usleep(1000);
    printf("stopped %d, told %d, continued %d, does not stop %d %d, has gone on %d\n", shared[43], shared[SIGHUP],
           shared[SIGCONT], shared[40], shared[41], shared[42]);
}

/* Where nobody has stopped nobody is told; where somebody outside is left neither. */
static void no_orphans(void)
{
    memset((void *)shared, 0, 4096);
    setsid();
    signal(SIGHUP, caught);
    pid_t leader = fork();
    if (leader == 0) {
        setpgid(0, 0);
        if (fork() == 0) {
            usleep(100000);
            shared[40] = 1;
            _exit(0);
        }
        _exit(0);
    }
    int status;
    waitpid(leader, &status, 0);
    while (!shared[40])
        usleep(1000);
    printf("told %d\n", shared[SIGHUP]);
    pid_t one = waiting(0), two = waiting(one);
    kill(two, SIGSTOP);
    waitpid(two, &status, WUNTRACED);
    kill(one, SIGKILL);
    waitpid(one, &status, 0);
    printf("still stopped: %d\n", waitpid(two, &status, WNOHANG | WCONTINUED));
    kill(two, SIGKILL);
    waitpid(two, &status, 0);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, 0, _IONBF, 0);
    if (argc > 1 && !strcmp(argv[1], "waits")) {
        write(30, "x", 1);
        waits();
    }
    pipe(pipes);
    dup2(pipes[1], 30);
    shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    child("joining", joining);
    child("sessions", sessions);
    child("executed", executed);
    child("orphans", orphans);
    child("no orphans", no_orphans);
    return 0;
}
