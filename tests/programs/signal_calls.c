// Calls about signals with random arguments, of which half make sense: signal_calls CHILDREN. Each child makes
// some sixty; one that sleeps for too long is killed. Whoever runs it must only live.
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

static uint64_t state;
static unsigned char *memory;

static uint64_t number(void) {
    state = state * 6364136223846793005UL + 1442695040888963407UL;
    return state >> 20;
}

static uint64_t argument(void) {
    switch (number() % 8) {
    case 0: return 0;
    case 1: return (uint64_t)memory + number() % (2 * PAGE);
    case 2: return number() % 70;
    case 3: return number();
    case 4: return -1 - number() % 10;
    case 5: return 8;
    case 6: return (uint64_t)memory + 3 * PAGE - number() % 200;
    default: return 1UL << number() % 64;
    }
}

static const int calls[] = {
    SYS_rt_sigaction, SYS_rt_sigprocmask,   SYS_rt_sigpending,     SYS_rt_sigtimedwait, SYS_rt_sigsuspend,
    SYS_sigaltstack,  SYS_rt_sigqueueinfo,  SYS_rt_tgsigqueueinfo, SYS_rt_sigreturn,    SYS_kill,
    SYS_tkill,        SYS_tgkill,           SYS_alarm,             SYS_setitimer,       SYS_getitimer,
    SYS_poll,         SYS_restart_syscall,  SYS_wait4,             SYS_waitid,          SYS_nanosleep,
};

static void one(void) {
    int call = calls[number() % (sizeof calls / sizeof *calls)];
    uint64_t args[6];
    for (int i = 0; i < 6; i++)
        args[i] = argument();
    switch (call) {
    case SYS_kill:
    case SYS_tkill:
    case SYS_tgkill:
    case SYS_rt_sigqueueinfo:
    case SYS_rt_tgsigqueueinfo:
        // To nobody but itself, for it is run natively as well; and not to stop.
        args[0] = (uint64_t)getpid();
        if (call == SYS_tgkill || call == SYS_rt_tgsigqueueinfo)
            args[1] = args[0];
        for (int i = 1; i < 3; i++)
            if (args[i] >= SIGSTOP && args[i] <= SIGTTOU)
                args[i] = SIGUSR1;
        break;
    case SYS_rt_sigaction: {
        uint64_t handlers[] = {0, 1, (uint64_t)one, number()};
        uint64_t action[] = {handlers[number() % 4], 0x4000000 | (number() & 0xdc000007), (uint64_t)memory, number()};
        memcpy(memory, action, sizeof action);
        args[0] = 1 + number() % 64;
        args[1] = (uint64_t)memory;
        args[3] = 8;
        break;
    }
    default: break;
    }
    syscall(call, args[0], args[1], args[2], args[3], args[4], args[5]);
}

int main(int argc, char **argv) {
    long children = argc > 1 ? strtol(argv[1], NULL, 0) : 10;
    memory = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(memory + 3 * PAGE, PAGE, PROT_NONE);
    for (long i = 0; i < children; i++) {
        pid_t child = fork();
        if (child == 0) {
            state = (uint64_t)i * 77 + 5;
            for (int at = 0; at < 3 * PAGE; at++)
                memory[at] = (unsigned char)number();
            for (int k = 0; k < 60; k++)
                one();
            _exit(0);
        }
        for (int waited = 0; waitpid(child, NULL, WNOHANG) != child; waited++) {
            usleep(1000);
            if (waited == 100)
                kill(child, SIGKILL);
        }
    }
    printf("%ld children\n", children);
    return 0;
}
