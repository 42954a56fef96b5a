// Signals while a call waits: what is interrupted, what is made again, and the timers that send them. Prints the
// same natively and in a guest. Its standard input must stay open with nothing to read, for `waits read`.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void check(int good, const char *what) {
    if (!good) {
        printf("failed: %s, errno %d\n", what, errno);
        fflush(stdout);
        _exit(1);
    }
}

static volatile int count, last_code;
static int most;
static sigjmp_buf place;

static void note(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    count++;
    last_code = info->si_code;
    if (most && count == most)
        siglongjmp(place, 1);
}

static void on(int number, int flags) {
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO | flags};
    check(!sigaction(number, &action, NULL), "sigaction");
    count = 0;
    most = 0;
}

static void timer(int which, long first, long then) {
    struct itimerval value = {{0, then}, {0, first}};
    check(!setitimer(which, &value, NULL), "setitimer");
}

// Again and again, since one could come before the wait begins.
static void ticking(void) {
    timer(ITIMER_REAL, 5000, 5000);
}

static void quiet(void) {
    timer(ITIMER_REAL, 0, 0);
}

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

static long answer(long result) {
    return result < 0 ? -errno : result;
}

static void interrupted(int flags) {
    struct timespec second = {.tv_sec = 100}, left = {0}, end;
    struct pollfd none = {.fd = -1, .events = POLLIN};
    on(SIGALRM, flags);
    ticking();
    long result = answer(pause());
    printf("pause %ld, code %d", result, last_code);
    result = answer(nanosleep(&second, &left));
    printf(", nanosleep %ld left %d", result, left.tv_sec == 99 && left.tv_nsec > 0);
    result = answer(nanosleep(&second, NULL));
    printf(", without left %ld", result);
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += 100;
    printf(", until %d", clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL));
    result = answer(poll(&none, 1, 100000));
    printf(", poll %ld", result);
    result = answer(poll(&none, 1, -1));
    printf(", for ever %ld\n", result);
    quiet();
}

static void waiting(void) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        sleep(1);
        _exit(5);
    }
    on(SIGALRM, 0);
    ticking();
    int status = 0;
    long result = answer(wait4(child, &status, 0, NULL));
    printf("wait4 %ld", result);
    siginfo_t info = {0};
    result = answer(waitid(P_PID, (id_t)child, &info, WEXITED));
    printf(", waitid %ld", result);
    quiet();
    on(SIGALRM, SA_RESTART);
    timer(ITIMER_REAL, 5000, 0);
    result = answer(wait4(child, &status, 0, NULL));
    printf(", again: %d status %d signals %d\n", result == child, WEXITSTATUS(status), count);
}

static void reading(void) {
    char byte;
    on(SIGALRM, 0);
    ticking();
    long result = answer(read(0, &byte, 1));
    printf("read %ld", result);
    quiet();
    on(SIGALRM, SA_RESTART);
    most = 3;
    if (sigsetjmp(place, 1) == 0) {
        ticking();
        result = answer(read(0, &byte, 1));
        printf(", %ld", result);
    } else {
        printf(", left by a jump");
    }
    quiet();
    printf(", signals %d\n", count);
}

static void timers(void) {
    struct itimerval value, old;
    on(SIGALRM, SA_RESTART);
    printf("alarm %u", alarm(100));
    printf(" %u", alarm(7));
    check(!getitimer(ITIMER_REAL, &value), "getitimer");
    printf(", left %d, period %ld", value.it_value.tv_sec == 6 && value.it_value.tv_usec > 0,
           value.it_interval.tv_sec);
    value = (struct itimerval){{3, 4}, {5, 6}};
    check(!setitimer(ITIMER_REAL, &value, &old), "setitimer");
    check(!setitimer(ITIMER_REAL, &(struct itimerval){0}, &value), "setitimer");
    printf(", old %d, new %d period %ld.%06ld\n", old.it_value.tv_sec == 6,
           value.it_value.tv_sec == 5 || value.it_value.tv_sec == 4, value.it_interval.tv_sec, value.it_interval.tv_usec);
    value = (struct itimerval){{0, 1000000}, {0, 1}};
    long result = answer(setitimer(ITIMER_REAL, &value, NULL));
    printf("bad %ld", result);
    value = (struct itimerval){{0, 0}, {-1, 0}};
    result = answer(setitimer(ITIMER_REAL, &value, NULL));
    printf(" %ld", result);
    result = answer(setitimer(3, &old, NULL));
    printf(" %ld", result);
    result = answer(syscall(SYS_getitimer, 7, &old));
    printf(" %ld\n", result);
    // A period, while the program runs.
    on(SIGALRM, 0);
    timer(ITIMER_REAL, 1000, 1000);
    while (count < 5) {
    }
    quiet();
    printf("periods: enough, code %d\n", last_code);
    // A child has none.
    timer(ITIMER_REAL, 60 * 10000, 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        getitimer(ITIMER_REAL, &value);
        _exit(value.it_value.tv_sec || value.it_value.tv_usec);
    }
    int status;
    check(waitpid(child, &status, 0) == child, "waitpid");
    quiet();
    printf("a child's: %d\n", WEXITSTATUS(status));
    // Processor time.
    for (int which = ITIMER_VIRTUAL; which <= ITIMER_PROF; which++) {
        on(which == ITIMER_VIRTUAL ? SIGVTALRM : SIGPROF, 0);
        timer(which, 20000, 10000);
        struct timespec used, before;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
        usleep(1000);
        check(!count, "not yet");
        while (count < 3) {
        }
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
        timer(which, 0, 0);
        long took = (used.tv_sec - before.tv_sec) * 1000 + (used.tv_nsec - before.tv_nsec) / 1000000;
        printf("processor time: code %d, no sooner %d\n", last_code, took >= 20);
    }
    // Nothing is interrupted by what is ignored.
    signal(SIGALRM, SIG_IGN);
    timer(ITIMER_REAL, 1000, 0);
    long begun = now();
    result = answer(usleep(20000));
    printf("ignored: %ld, slept %d\n", result, now() - begun >= 20000000);
    signal(SIGALRM, SIG_DFL);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        alarm(1);
        timer(ITIMER_REAL, 1000, 0);
        for (;;) {
        }
    }
    check(waitpid(child, &status, 0) == child, "waitpid");
    printf("killed by %d\n", WTERMSIG(status));
}

// A program that computes and is interrupted at any instruction computes the same.
static void computing(void) {
    unsigned long sum[2];
    for (int round = 0; round < 2; round++) {
        on(SIGALRM, 0);
        if (round)
            timer(ITIMER_REAL, 500, 500);
        double x = 1.0;
        unsigned long state = 12345;
        for (int i = 0; i < 20000000; i++) {
            state = state * 6364136223846793005UL + 1442695040888963407UL;
            x = x * 1.0000001 + (double)(state >> 40);
            if (i % 20000 == 0) {
                // Faults and calls, too.
                volatile char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                page[4096] = page[0] + 1;
                x += page[4096];
                munmap((void *)page, 8192);
            }
        }
        quiet();
        memcpy(&sum[round], &x, sizeof x);
        sum[round] ^= state;
    }
    printf("computed: %d, interrupted: %d\n", sum[0] == sum[1], count > 0);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    if (argc > 1 && !strcmp(argv[1], "read")) {
        reading();
        return 0;
    }
    interrupted(0);
    interrupted(SA_RESTART);
    waiting();
    timers();
    computing();
    return 0;
}
