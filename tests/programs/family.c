/*
 * Forks a tree of processes that each change memory of their own, waits for all of them in different ways,
 * and prints what it saw: the same natively and in a guest.
 *
 * usage: family [CHILDREN [PAGES]]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096 };

static size_t pages = 64;
static unsigned char *own, *shared;

static int ended(const char *what, pid_t pid)
{
    int status = -1;
    pid_t got = waitpid(pid, &status, 0);
    if (got != pid)
        return printf("%s: waitpid: %s\n", what, strerror(errno)), -1;
    if (WIFEXITED(status))
        printf("%s: exited with %d\n", what, WEXITSTATUS(status));
    else if (WIFSIGNALED(status))
        printf("%s: killed by %d\n", what, WTERMSIG(status));
    return status;
}

/* A child sees its parent's bytes, and its own changes are nobody else's. */
static int child(int number)
{
    for (size_t i = 0; i < pages; i++)
        if (own[i * PAGE] != (unsigned char)(i + 1))
            return 100;
    memset(own, number, pages * PAGE);
    for (size_t i = 0; i < pages; i++)
        if (own[i * PAGE + i] != (unsigned char)number)
            return 101;
    shared[number] = (unsigned char)number;
    pid_t grandchild = fork();
    if (grandchild == 0)
        _exit(own[5] == (unsigned char)number ? number : 102);
    int status;
    if (waitpid(grandchild, &status, 0) != grandchild || !WIFEXITED(status))
        return 103;
    return WEXITSTATUS(status);
}

static void handled(int signal) { (void)signal; }

int main(int argc, char **argv)
{
    int children = argc > 1 ? atoi(argv[1]) : 8;
    if (argc > 2)
        pages = strtoul(argv[2], 0, 10);
    setvbuf(stdout, 0, _IOLBF, 0);
    double third = 1.0 / 3.0;
    own = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    shared = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (size_t i = 0; i < pages; i++)
        own[i * PAGE] = (unsigned char)(i + 1);

    for (int number = 1; number <= children; number++) {
        pid_t pid = fork();
        if (pid < 0)
            return printf("fork: %s\n", strerror(errno)), 1;
        if (pid == 0)
            _exit(child(number));
    }
    int sum = 0, count = 0, status;
    while (wait(&status) > 0) {
        sum += WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
        count++;
    }
    printf("%d children, sum %d, then %s\n", count, sum, strerror(errno));
    int bytes = 0;
    for (int number = 1; number <= children; number++)
        bytes += shared[number];
    for (size_t i = 0; i < pages; i++)
        bytes += own[i * PAGE] != (unsigned char)(i + 1);
    printf("shared bytes %d\n", bytes);

    pid_t pid = fork();
    if (pid == 0)
        *(volatile int *)0 = 1;
    ended("a null pointer", pid);
    pid = fork();
    if (pid == 0)
        abort();
    ended("abort", pid);
    pid = fork();
    if (pid == 0)
        for (;;)
            ;
    kill(pid, SIGTERM);
    ended("a loop, killed", pid);
    pid = fork();
    if (pid == 0)
        for (;;)
            sleep(1000);
    kill(pid, SIGKILL);
    ended("a sleep, killed", pid);
    pid = fork();
    if (pid == 0) {
        char byte;
        _exit(read(0, &byte, 1) == 0 ? 3 : 4);
    }
    ended("a read at the end of input", pid);

    /* Registers and vector state are the parent's. */
    volatile double kept = third;
    pid = fork();
    if (pid == 0)
        _exit(kept * 3.0 == 1.0 && third == kept ? 42 : 1);
    ended("arithmetic", pid);

    siginfo_t info;
    memset(&info, 0, sizeof info);
    pid = fork();
    if (pid == 0)
        _exit(9);
    if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0)
        printf("waitid: code %d, status %d, mine %d\n", info.si_code, info.si_status, info.si_pid == pid);
    ended("the same again", pid);
    printf("waitid of nobody: %d\n", waitid(P_ALL, 0, &info, WEXITED) == -1 && errno == ECHILD);
    pid = fork();
    if (pid == 0)
        for (;;)
            pause();
    printf("WNOHANG: %d\n", waitpid(pid, &status, WNOHANG));
    kill(pid, SIGKILL);
    ended("pause, killed", pid);
    printf("kill of nobody: %d\n", kill(pid, 0) == -1 && errno == ESRCH);

    /* vfork: the child's writes are the parent's, and the parent waits. */
    volatile int written = 0;
    pid = vfork();
    if (pid == 0) {
        written = 7;
        _exit(6);
    }
    printf("vfork: %d\n", written);
    ended("vfork", pid);

    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    printf("children used memory: %d\n", used.ru_maxrss > 0 && used.ru_minflt > 0);

    signal(SIGCHLD, SIG_IGN);
    pid = fork();
    if (pid == 0)
        _exit(1);
    printf("SIGCHLD ignored: %d\n", waitpid(pid, &status, 0) == -1 && errno == ECHILD);
    signal(SIGUSR1, handled);
    printf("done\n");
    return 0;
}
