// Returns from handlers with frames that somebody has made up: each way in a child, which goes on, or gets a
// SIGSEGV, or dies, the same natively and in a guest. With a number, so many frames with random bytes instead,
// of which only their survivors' sanity is told.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static char other_stack[1 << 15] __attribute__((aligned(4096)));
static int way;

struct way {
    const char *name;
    void (*change)(ucontext_t *uc, greg_t *r, uint32_t *state);
};

#define WAY(name, body)                                                                                  \
    static void name(ucontext_t *uc, greg_t *r, uint32_t *state) {                                       \
        (void)uc, (void)r, (void)state;                                                                  \
        body                                                                                             \
    }
#define LOW(value) (r[REG_CSGSFS] = (r[REG_CSGSFS] & ~0xffffLL) | (value))
#define HIGH(value) (r[REG_CSGSFS] = (r[REG_CSGSFS] & ~(0xffffLL << 48)) | ((long)(value) << 48))

WAY(untouched, )
WAY(rip_between, r[REG_RIP] = 0x800000000000;)
WAY(rip_noncanonical, r[REG_RIP] = (long)0x8000000000000000;)
WAY(rip_kernel, r[REG_RIP] = (long)0xffff888000000000;)
WAY(rip_null, r[REG_RIP] = 0;)
WAY(rsp_null, r[REG_RSP] = 0;)
WAY(rsp_noncanonical, r[REG_RSP] = (long)0x8000000000000000;)
WAY(rsp_top, r[REG_RSP] = -8;)
WAY(cs_null, LOW(0);)
WAY(cs_kernel, LOW(0x10);)
WAY(cs_ring_0, LOW(0x30);)
WAY(cs_none, LOW(0x1053);)
WAY(ss_null, HIGH(0);)
WAY(ss_code, HIGH(0x33);)
WAY(ss_ring_0, HIGH(0x28);)
WAY(ss_old_program, HIGH(0x1234); uc->uc_flags = 0;)
// Alignment is checked only where the processor is, or emulates, a real one.
WAY(flags_all, r[REG_EFL] = -1 & ~0x40100;)
WAY(flags_iopl_nt_vm, r[REG_EFL] |= 0x3000 | 0x4000 | 0x20000;)
WAY(flags_trap, r[REG_EFL] |= 0x100;)
WAY(flags_none, r[REG_EFL] = 0;)
WAY(flags_id, r[REG_EFL] ^= 0x200000;)
WAY(mxcsr_reserved, state[6] |= 0x80000000;)
WAY(mxcsr_own, state[6] = 0x7fa0;)
WAY(x87_control, state[0] = (state[0] & ~0xffffU) | 0xe7f;)
WAY(component_62, *(uint64_t *)(state + 128) |= 1UL << 62;)
WAY(component_supervisor, *(uint64_t *)(state + 128) |= 1 << 8;)
WAY(components_none, *(uint64_t *)(state + 128) = 0;)
WAY(header_reserved, state[132] = 1;)
WAY(header_end, state[143] = 0x80000000;)
WAY(compaction_bit_0, state[130] = 1;)
WAY(magic_1, state[116] = 0; state[6] = 0x1fa0;)
WAY(magic_2, state[state[120] / 4] = 0; state[6] = 0x1fa0;)
WAY(size_small, state[120] = 8;)
WAY(size_large, state[120] += 64;)
WAY(size_extended, state[117] = 0;)
WAY(features_none, *(uint64_t *)(state + 118) = 0;)
WAY(features_all, *(uint64_t *)(state + 118) = ~0UL;)
WAY(features_x87, *(uint64_t *)(state + 118) = 1;)
WAY(state_none, uc->uc_mcontext.fpregs = NULL;)
WAY(state_unaligned, uc->uc_mcontext.fpregs = (fpregset_t)((char *)state + 8);)
WAY(state_unmapped, uc->uc_mcontext.fpregs = (fpregset_t)0x1000;)
WAY(state_kernel, uc->uc_mcontext.fpregs = (fpregset_t)0xffff888000000000;)
WAY(state_noncanonical, uc->uc_mcontext.fpregs = (fpregset_t)0x8000000000000000;)
WAY(state_last_page, uc->uc_mcontext.fpregs = (fpregset_t)0x7ffffffff000;)
WAY(stack_other, uc->uc_stack = ((stack_t){.ss_sp = other_stack, .ss_size = sizeof other_stack});)
WAY(stack_other_and_bad, uc->uc_stack = ((stack_t){.ss_sp = other_stack, .ss_size = sizeof other_stack});
    state[6] = ~0U;)
WAY(stack_bad, uc->uc_stack = ((stack_t){.ss_sp = (void *)5, .ss_size = 7, .ss_flags = 99});)
WAY(mask_all, memset(&uc->uc_sigmask, 0xff, 8);)
WAY(mask_all_and_bad, memset(&uc->uc_sigmask, 0xff, 8); state[6] = ~0U;)
WAY(several, HIGH(0); LOW(3); r[REG_RIP] = (long)0x8000000000000000; r[REG_EFL] = -1 & ~0x40000;)

#define W(name) {#name, name}
static const struct way ways[] = {
    W(untouched), W(rip_between), W(rip_noncanonical), W(rip_kernel), W(rip_null), W(rsp_null),
    W(rsp_noncanonical), W(rsp_top), W(cs_null), W(cs_kernel), W(cs_ring_0), W(cs_none), W(ss_null), W(ss_code),
    W(ss_ring_0), W(ss_old_program), W(flags_all), W(flags_iopl_nt_vm), W(flags_trap), W(flags_none), W(flags_id),
    W(mxcsr_reserved), W(mxcsr_own), W(x87_control), W(component_62), W(component_supervisor), W(components_none),
    W(header_reserved), W(header_end), W(compaction_bit_0), W(magic_1), W(magic_2), W(size_small), W(size_large),
    W(size_extended), W(features_none), W(features_all), W(features_x87), W(state_none), W(state_unaligned),
    W(state_unmapped), W(state_kernel), W(state_noncanonical), W(state_last_page), W(stack_other),
    W(stack_other_and_bad), W(stack_bad), W(mask_all), W(mask_all_and_bad), W(several),
};
#define WAYS (sizeof ways / sizeof *ways)

static greg_t good_rip, good_rsp;

static void say(const char *text) {
    if (write(1, text, strlen(text)) < 0)
        _exit(2);
}

static void fault(int number, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    greg_t *r = uc->uc_mcontext.gregs;
    char line[400], here;
    snprintf(line, sizeof line,
             "%s: signal %d code %d address %#lx rip %s rsp %s cs %#lx flags %#lx err %#lx trap %ld, on other %d, "
             "mask %#lx\n",
             ways[way].name, number, info->si_code,
             number == SIGTRAP ? (long)info->si_addr - (long)good_rip : (long)info->si_addr,
             r[REG_RIP] == good_rip ? "good" : "other", r[REG_RSP] == good_rsp ? "good" : "other",
             (long)(r[REG_CSGSFS] & 0xffff00000000ffff), (long)(r[REG_EFL] & 0x243500), (long)r[REG_ERR],
             (long)r[REG_TRAPNO], &here > other_stack && &here < other_stack + sizeof other_stack,
             *(unsigned long *)&uc->uc_sigmask);
    say(line);
    _exit(0);
}

static void change(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    ucontext_t *uc = context;
    good_rip = uc->uc_mcontext.gregs[REG_RIP];
    good_rsp = uc->uc_mcontext.gregs[REG_RSP];
    ways[way].change(uc, uc->uc_mcontext.gregs, (uint32_t *)uc->uc_mcontext.fpregs);
}

static void on(int number, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    if (sigaction(number, &action, NULL))
        _exit(2);
}

static void one(void) {
    char line[300];
    unsigned mxcsr;
    unsigned short control;
    unsigned long flags, mask;
    unsigned char before[16], after[16];
    memset(before, 0x77, 16);
    long pid = getpid();
    __asm__ volatile("movdqu %1, %%xmm7\n mov $62, %%eax\n syscall\n movdqu %%xmm7, %0\n pushf\n pop %2\n"
                     : "=m"(after), "+m"(before), "=d"(flags) : "D"(pid), "S"(SIGUSR1)
                     : "rax", "rcx", "r11", "xmm7", "memory");
    __asm__ volatile("stmxcsr %0\n fnstcw %1\n cld" : "=m"(mxcsr), "=m"(control));
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8);
    stack_t stack;
    sigaltstack(NULL, &stack);
    snprintf(line, sizeof line,
             "%s: goes on, mxcsr %#x, control %#x, xmm7 %#x, flags %#lx, mask %#lx, stack %d size %zu flags %#x\n",
             ways[way].name, mxcsr, control, after[3], flags & 0x247fd5, mask, stack.ss_sp == other_stack,
             stack.ss_size, stack.ss_flags);
    say(line);
    _exit(0);
}

// Random frames.
static uint64_t random_state;

static uint64_t random_number(void) {
    random_state = random_state * 6364136223846793005UL + 1442695040888963407UL;
    return random_state >> 33 | (random_state & 0xffffffff00000000);
}

static void scramble(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    unsigned char *frame = (unsigned char *)context - 8;
    unsigned char *state = (unsigned char *)((ucontext_t *)context)->uc_mcontext.fpregs;
    int changes = 1 + (int)(random_number() % 8);
    for (int i = 0; i < changes; i++) {
        uint64_t value = random_number(), where = random_number();
        if (value % 3 == 0)
            value = 1UL << (value >> 8) % 64;
        if (where & 1)
            memcpy(frame + 8 + (where >> 8) % 300, &value, 1 + (where >> 32) % 8);
        else if (where & 2)
            memcpy(state + 464 + (where >> 8) % 110, &value, 1 + (where >> 32) % 8);
        else
            memcpy(state + (where >> 8) % 2400, &value, 1 + (where >> 32) % 8);
    }
}

static void random_frames(long count) {
    long ended = 0;
    for (long i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            // It may go on anywhere, but not for long.
            alarm(2);
            random_state = (uint64_t)i * 7919 + 1;
            on(SIGUSR1, scramble, 0);
            if (i % 2) {
                stack_t stack = {.ss_sp = other_stack, .ss_size = sizeof other_stack};
                sigaltstack(&stack, NULL);
                on(SIGSEGV, scramble, SA_ONSTACK);
            }
            raise(SIGUSR1);
            _exit(0);
        }
        int status;
        ended += waitpid(child, &status, 0) == child;
    }
    printf("%ld frames\n", ended);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        random_frames(strtol(argv[1], NULL, 0));
        return 0;
    }
    for (way = 0; way < (int)WAYS; way++) {
        pid_t child = fork();
        if (child == 0) {
            on(SIGUSR1, change, 0);
            for (int i = 0; i < 4; i++)
                on((int[]){SIGSEGV, SIGTRAP, SIGBUS, SIGILL}[i], fault, SA_ONSTACK);
            one();
        }
        int status;
        waitpid(child, &status, 0);
        if (status) {
            char line[100];
            snprintf(line, sizeof line, "%s: status %#x\n", ways[way].name, status);
            say(line);
        }
    }
    return 0;
}
