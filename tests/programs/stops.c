// Processes that stop and go on. Prints the same natively and in a guest.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int heard, quiet;
static volatile int *said;

static void note(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    if (!quiet)
        printf("SIGCHLD: code %d status %d\n", info->si_code, info->si_status);
    heard = info->si_code;
}

// Until the parent has heard this, and a child has said what it has to.
static void until(int code, int what) {
    while (heard != code || *said != what)
        usleep(1000);
}

static void told(int got, int status) {
    if (got <= 0)
        printf("%d\n", got);
    else if (WIFSTOPPED(status))
        printf("stopped by %d\n", WSTOPSIG(status));
    else if (WIFCONTINUED(status))
        printf("continued\n");
    else if (WIFSIGNALED(status))
        printf("killed by %d\n", WTERMSIG(status));
    else
        printf("exited with %d\n", WEXITSTATUS(status));
}

static void wait_for(pid_t child, int options) {
    int status = 0;
    int got;
    do
        got = waitpid(child, &status, options);
    while (got < 0 && errno == EINTR);
    told(got, status);
}

static void caught(int number) {
    (void)number;
    *said = 1;
}

int main(void) {
    setvbuf(stdout, NULL, _IONBF, 0);
    said = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};
    sigaction(SIGCHLD, &action, NULL);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGCHLD, SIG_DFL);
        signal(SIGCONT, caught);
        raise(SIGSTOP);
        for (;;)
            pause();
    }
    wait_for(child, WUNTRACED);
    wait_for(child, WUNTRACED | WNOHANG);
    kill(child, SIGTERM);
    kill(child, SIGTSTP);
    wait_for(child, WUNTRACED | WCONTINUED | WNOHANG);
    // It dies as it goes on; of the two signals about that the second may come too soon to be another one.
    quiet = 1;
    kill(child, SIGCONT);
    wait_for(child, 0);
    quiet = 0;

    child = fork();
    if (child == 0) {
        signal(SIGCHLD, SIG_DFL);
        signal(SIGCONT, caught);
        raise(SIGSTOP);
        signal(SIGCONT, SIG_DFL);
        struct timespec time = {.tv_nsec = 150000000}, begun, ended;
        clock_gettime(CLOCK_MONOTONIC, &begun);
        int slept = nanosleep(&time, NULL);
        clock_gettime(CLOCK_MONOTONIC, &ended);
        long took = (ended.tv_sec - begun.tv_sec) * 1000 + (ended.tv_nsec - begun.tv_nsec) / 1000000;
        if (slept || took < 150)
            printf("slept %d, for %ld ms\n", slept, took);
        *said = 2;
        pause();
        _exit(1);
    }
    wait_for(child, WUNTRACED);
    kill(child, SIGCONT);
    until(CLD_CONTINUED, 1);
    wait_for(child, WCONTINUED);
    // Mostly in its sleep.
    usleep(50000);
    kill(child, SIGTSTP);
    wait_for(child, WUNTRACED);
    kill(child, SIGCONT);
    until(CLD_CONTINUED, 2);
    wait_for(child, WCONTINUED);
    kill(child, SIGSTOP);
    siginfo_t info;
    waitid(P_PID, (id_t)child, &info, WSTOPPED | WNOWAIT);
    printf("code %d status %d\n", info.si_code, info.si_status);
    wait_for(child, WUNTRACED);
    kill(child, SIGKILL);
    wait_for(child, WUNTRACED);

    action.sa_flags |= SA_NOCLDSTOP;
    sigaction(SIGCHLD, &action, NULL);
    child = fork();
    if (child == 0) {
        raise(SIGTTIN);
        _exit(3);
    }
    wait_for(child, WUNTRACED);
    kill(child, SIGCONT);
    wait_for(child, 0);
    return 0;
}
