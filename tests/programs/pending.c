// Signals that wait, are waited for, and are sent: what comes in which order, and what is told. Prints the same
// natively and in a guest.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
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

static void note(int number, siginfo_t *info, void *context) {
    (void)context;
    printf(" %d", number);
    if (info->si_code == SI_QUEUE)
        printf("=%d", info->si_value.sival_int);
    if (info->si_code == SI_TKILL)
        printf("t");
}

static void on(int number, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    check(!sigaction(number, &action, NULL), "sigaction");
}

static uint64_t mask(int how, uint64_t set) {
    uint64_t old;
    check(!syscall(SYS_rt_sigprocmask, how, &set, &old, 8), "sigprocmask");
    return old;
}

static uint64_t pending(void) {
    uint64_t set = 0;
    check(!syscall(SYS_rt_sigpending, &set, 8), "sigpending");
    return set;
}

static int queue(int number, int value) {
    siginfo_t info = {.si_code = SI_QUEUE};
    info.si_pid = getpid();
    info.si_value.sival_int = value;
    return (int)syscall(SYS_rt_sigqueueinfo, getpid(), number, &info);
}

static int tgkill_self(int number) {
    return (int)syscall(SYS_tgkill, getpid(), getpid(), number);
}

// Not the C libraries' own.
static int is_ours(int number) {
    return number != SIGKILL && number != SIGSTOP && (number < 32 || number > 34);
}

static void order(void) {
    for (int number = 1; number <= 64; number++)
        if (is_ours(number))
            on(number, note, 0);
    mask(SIG_SETMASK, ~0UL);
    int sent[] = {40, SIGUSR2, SIGUSR1, SIGTERM, SIGUSR1, 36, SIGCHLD, SIGHUP, SIGUSR2};
    for (size_t i = 0; i < sizeof sent / sizeof *sent; i++)
        kill(getpid(), sent[i]);
    for (int i = 0; i < 3; i++) {
        check(!queue(38, i), "queue");
        check(!queue(35, 10 * i), "queue");
    }
    tgkill_self(SIGUSR2);
    tgkill_self(SIGALRM);
    kill(getpid(), SIGSEGV);
    printf("pending %#lx\norder", pending());
    // The last frame is the first to run: with everything blocked in handlers they come one by one.
    struct sigaction one;
    for (int number = 1; number <= 64; number++)
        if (!sigaction(number, NULL, &one) && one.sa_sigaction == note) {
            sigfillset(&one.sa_mask);
            sigaction(number, &one, NULL);
        }
    mask(SIG_SETMASK, 0);
    printf("\npending %#lx\n", pending());
    // Nested: each is interrupted by the next at its first instruction.
    for (int number = 1; number <= 64; number++)
        if (is_ours(number))
            on(number, note, 0);
    mask(SIG_SETMASK, ~0UL);
    for (int i = 0; i < 4; i++)
        kill(getpid(), (int[]){40, SIGTERM, SIGUSR1, SIGSEGV}[i]);
    printf("nested");
    mask(SIG_SETMASK, 0);
    printf("\n");
}

static void forgotten(void) {
    mask(SIG_SETMASK, ~0UL);
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGCHLD);
    queue(40, 1);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
    signal(40, SIG_IGN);
    printf("ignored: %#lx\n", pending());
    kill(getpid(), SIGUSR1);
    printf("ignored and blocked: %#lx\n", pending());
    on(SIGUSR1, note, 0);
    kill(getpid(), SIGCONT);
    kill(getpid(), SIGTSTP);
    printf("a stop: %#lx\n", pending());
    kill(getpid(), SIGCONT);
    printf("continued: %#lx\n", pending());
    signal(SIGCONT, SIG_DFL);
    pid_t child = fork();
    if (child == 0)
        _exit(pending() != 0 || mask(SIG_SETMASK, 0) != ~(1UL << (SIGKILL - 1) | 1UL << (SIGSTOP - 1)));
    int status;
    check(waitpid(child, &status, 0) == child, "waitpid");
    printf("a child: %d\n", status);
    on(SIGUSR1, note, 0);
    mask(SIG_SETMASK, 0);
    printf("\n");
}

static void waited_for(void) {
    uint64_t set = 1UL << (SIGUSR1 - 1) | 1UL << (40 - 1);
    struct timespec soon = {.tv_nsec = 1000000}, never = {0}, bad = {.tv_nsec = 1000000000};
    siginfo_t info;
    mask(SIG_SETMASK, set);
    long got = syscall(SYS_rt_sigtimedwait, &set, &info, &never, 8);
    printf("at once: %ld %d", got, errno);
    got = syscall(SYS_rt_sigtimedwait, &set, &info, &soon, 8);
    printf(", soon: %ld %d", got, errno);
    got = syscall(SYS_rt_sigtimedwait, &set, &info, &bad, 8);
    printf(", bad: %ld %d", got, errno);
    got = syscall(SYS_rt_sigtimedwait, &set, &info, &soon, 4);
    printf(", size: %ld %d\n", got, errno);
    queue(40, 7);
    kill(getpid(), SIGUSR1);
    memset(&info, 0xff, sizeof info);
    got = syscall(SYS_rt_sigtimedwait, &set, &info, NULL, 8);
    printf("got %ld code %d from self %d", got, info.si_code, info.si_pid == getpid());
    got = syscall(SYS_rt_sigtimedwait, &set, &info, NULL, 8);
    printf(", %ld code %d value %d\n", got, info.si_code, info.si_value.sival_int);
    // From another process, while it waits; and one that it does not wait for interrupts.
    pid_t parent = getpid(), child = fork();
    if (child == 0) {
        usleep(20000);
        kill(parent, SIGUSR1);
        usleep(20000);
        kill(parent, SIGUSR2);
        _exit(0);
    }
    on(SIGUSR2, note, SA_RESTART);
    signal(SIGCHLD, SIG_DFL);
    got = syscall(SYS_rt_sigtimedwait, &set, &info, NULL, 8);
    printf("from a child: %ld %d\n", got, info.si_pid == child);
    got = syscall(SYS_rt_sigtimedwait, &set, &info, NULL, 8);
    printf("\ninterrupted: %ld %d\n", got, errno);
    check(waitpid(child, NULL, 0) == child, "waitpid");
    mask(SIG_SETMASK, 0);
}

static uint64_t in_handler;

static void see_mask(int number, siginfo_t *info, void *context) {
    (void)number, (void)info, (void)context;
    in_handler = mask(SIG_BLOCK, 0);
}

static void suspended(void) {
    on(SIGUSR1, see_mask, 0);
    mask(SIG_SETMASK, 1UL << (SIGUSR1 - 1));
    kill(getpid(), SIGUSR1);
    uint64_t set = 1UL << (SIGUSR2 - 1);
    long got = syscall(SYS_rt_sigsuspend, &set, 8);
    printf("suspended: %ld %d, in handler %#lx, after %#lx\n", got, errno, in_handler, mask(SIG_BLOCK, 0));
    // One that is freed by the mask that comes back is not lost.
    kill(getpid(), SIGUSR2);
    mask(SIG_SETMASK, 0);
    printf("\n");
    got = syscall(SYS_rt_sigsuspend, &set, 4);
    printf("size: %ld %d\n", got, errno);
}

static void senders(void) {
    siginfo_t info = {.si_code = SI_USER};
    long got[12];
    int n = 0;
    on(SIGUSR1, note, 0);
#define TRY(call)                                                                                        \
    do {                                                                                                 \
        errno = 0;                                                                                       \
        long answer = call;                                                                              \
        got[n++] = answer < 0 ? -errno : answer;                                                         \
    } while (0)
    TRY(kill(getpid(), 65));
    TRY(kill(getpid(), 0));
    TRY(kill(1 << 29, SIGUSR1));
    TRY(kill((int)0x80000000, 0));
    TRY(syscall(SYS_tkill, 0, SIGUSR1));
    TRY(syscall(SYS_tgkill, getpid(), 1 << 29, SIGUSR1));
    TRY(syscall(SYS_tgkill, -1, getpid(), SIGUSR1));
    TRY(syscall(SYS_rt_sigqueueinfo, 1 << 29, SIGUSR1, &info));
    info.si_code = SI_QUEUE;
    TRY(syscall(SYS_rt_sigqueueinfo, 1 << 29, SIGUSR1, &info));
    TRY(syscall(SYS_rt_sigqueueinfo, getpid(), 65, &info));
    TRY(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, NULL));
    TRY(syscall(SYS_rt_tgsigqueueinfo, getpid(), getpid(), SIGUSR1, &info));
    printf("\nanswers");
    for (int i = 0; i < n; i++)
        printf(" %ld", got[i]);
    printf("\n");
}

static volatile int heard;

static void child_changed(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    printf("child: code %d status %d errno %d uid %d\n", info->si_code, info->si_status, info->si_errno,
           (int)info->si_uid - (int)getuid());
    heard = info->si_pid;
}

static void children(void) {
    on(SIGCHLD, child_changed, 0);
    for (int way = 0; way < 3; way++) {
        heard = 0;
        mask(SIG_BLOCK, 1UL << (SIGCHLD - 1));
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            if (way == 1)
                kill(getpid(), SIGTERM);
            if (way == 2)
                *(volatile int *)8 = 1;
            _exit(7);
        }
        signal(SIGTERM, SIG_DFL);
        uint64_t none = 0;
        while (!heard)
            syscall(SYS_rt_sigsuspend, &none, 8);
        check(heard == child, "si_pid");
        siginfo_t info;
        check(!waitid(P_PID, (id_t)child, &info, WEXITED), "waitid");
        printf("waited: code %d status %d\n", info.si_code, info.si_status);
        mask(SIG_SETMASK, 0);
    }
    on(SIGCHLD, child_changed, SA_NOCLDWAIT);
    fflush(stdout);
    if (fork() == 0)
        _exit(1);
    int status, got = waitpid(-1, &status, 0);
    printf("no zombie: %d %d\n", got, errno);
    signal(SIGCHLD, SIG_IGN);
    if (fork() == 0)
        _exit(1);
    got = waitpid(-1, &status, 0);
    printf("ignored: %d %d\n", got, errno);
    signal(SIGCHLD, SIG_DFL);
}

int main(void) {
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    signal(SIGTERM, SIG_DFL);
    order();
    signal(SIGSEGV, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    forgotten();
    waited_for();
    suspended();
    senders();
    children();
    return 0;
}
