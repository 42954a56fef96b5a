// Handlers: what they are told, on which stack they run, what they can change, and what kills. Prints the same
// natively and in a guest.
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
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

#define PAGE 4096
// The kernel's MINSIGSTKSZ; the C library's may be larger.
#define SMALLEST 2048
#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

static void check(int good, const char *what) {
    if (!good) {
        printf("failed: %s, errno %d\n", what, errno);
        fflush(stdout);
        _exit(1);
    }
}

static void on(int signal, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    check(!sigaction(signal, &action, NULL), "sigaction");
}

// Each begins with the instruction that faults, and can be left as by `ret`.
#define STUB(name, body)                                                                                 \
    __asm__(".text\n.globl " #name "\n" #name ":\n" body "\n");                                          \
    long name(void *)
STUB(load, "movzbl (%rdi), %eax\n ret");
STUB(store, "movb $1, (%rdi)\n ret");
STUB(jump, "jmp *%rdi");
STUB(undefined, "ud2");
STUB(breakpoint, "int3\n ret");
STUB(halt, "hlt");
STUB(port, "in $0x60, %al\n ret");
STUB(divide, "divl (%rdi)\n ret");
STUB(divide_sse, "divsd (%rdi), %xmm0\n ret");
STUB(root_sse, "sqrtsd (%rdi), %xmm0\n ret");
STUB(wait_x87, "fwait\n ret");

static struct {
    void *stub;
    unsigned long last_cr2;
    int flag_direction;
} expected;

static unsigned long flags_now(void) {
    unsigned long flags;
    __asm__ volatile("pushf\n pop %0" : "=r"(flags));
    return flags;
}

static void told(int number, siginfo_t *info, void *context) {
    unsigned long flags = flags_now();
    ucontext_t *uc = context;
    greg_t *r = uc->uc_mcontext.gregs;
    unsigned char *state = (unsigned char *)uc->uc_mcontext.fpregs;
    uint32_t *software = (uint32_t *)(state + 464);
    printf("signal %d code %d errno %d", number, info->si_code, info->si_errno);
    if (info->si_code == SI_KERNEL)
        printf(" address %p", info->si_addr);
    else if (info->si_addr == expected.stub)
        printf(" address rip");
    else
        printf(" address %#lx", (unsigned long)info->si_addr);
    long past = (long)r[REG_RIP] - (long)expected.stub;
    printf(" rip %+ld err %#lx trap %ld", past, (long)r[REG_ERR], (long)r[REG_TRAPNO]);
    if (r[REG_TRAPNO] == 14) {
        expected.last_cr2 = r[REG_CR2];
        printf(" cr2 %s", (void *)r[REG_CR2] == info->si_addr ? "address" : "other");
    } else {
        printf(" cr2 %s", (unsigned long)r[REG_CR2] == expected.last_cr2 ? "last" : "other");
    }
    printf(" cs %#lx oldmask %#lx\n", (long)(r[REG_CSGSFS] & 0xffff00000000ffff), (long)r[REG_OLDMASK]);
    check(!(flags & 0x500), "no direction, no trace");
    check(!!(r[REG_EFL] & 0x400) == expected.flag_direction, "the direction as it was");
    check((unsigned long)context % 16 == 0 && (unsigned long)state % 64 == 0, "alignment");
    check((char *)info == (char *)context + 304, "siginfo is behind ucontext");
    check(state >= (unsigned char *)info + 128 && state < (unsigned char *)info + 128 + 80, "state's place");
    check(uc->uc_flags == 7 && !uc->uc_link, "uc_flags");
    check(software[0] == 0x46505853 && software[1] == software[4] + 4, "magic 1");
    check(*(uint32_t *)(state + software[4]) == 0x46505845, "magic 2");
    check((software[2] & 3) == 3 && (*(uint64_t *)(state + 512) & 3) == 3, "x87 and SSE");
    check((*(uint64_t *)(state + 512) & ~*(uint64_t *)&software[2]) == 0, "no other component");
    // As by `ret`, with another result.
    r[REG_RIP] = *(long *)r[REG_RSP];
    r[REG_RSP] += 8;
    r[REG_RAX] = number;
    r[REG_EFL] &= ~0x100;
}

static void fault(long (*stub)(void *), void *argument, void *rip) {
    expected.stub = rip;
    expected.flag_direction = 0;
    long result = stub(argument);
    check(result > 0 && result < 32, "the result is the handler's");
}

// Exceptions of SSE, which QEMU's emulation does not raise.
static void of_sse(void) {
    static double none = 0.0, negative = -1.0;
    on(SIGFPE, told, 0);
    unsigned unmasked = 0x1900, masked = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(unmasked));
    __asm__ volatile("movsd %0, %%xmm0" : : "m"(negative) : "xmm0");
    fault(divide_sse, &none, divide_sse);
    __asm__ volatile("ldmxcsr %0" : : "m"(unmasked));
    fault(root_sse, &negative, root_sse);
    __asm__ volatile("ldmxcsr %0" : : "m"(masked));
}

// A page of its own.
static volatile char *area(unsigned long at, int protection) {
    void *page = mmap((void *)at, PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    check(page == (void *)at, "mmap");
    return page;
}

static void faults(void) {
    for (int i = 0; i < 5; i++)
        on((int[]){SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}[i], told, 0);
    fault(load, (void *)0x10, load);
    fault(store, (void *)0x18, store);
    fault(jump, (void *)0x20, (void *)0x20);
    printf("PROT_NONE\n");
    area(0x200000, PROT_NONE);
    fault(load, (void *)0x200010, load);
    fault(store, (void *)0x200010, store);
    printf("not writable, not executable\n");
    check(area(0x300000, PROT_READ)[0] == 0, "read");
    fault(store, (void *)0x300000, store);
    area(0x310000, PROT_READ | PROT_WRITE)[0] = (char)0xc3;
    fault(jump, (void *)0x310000, (void *)0x310000);
    printf("past the end of a file\n");
    int fd = (int)syscall(SYS_memfd_create, "file", 0);
    check(fd >= 0 && !ftruncate(fd, PAGE), "memfd");
    check(mmap((void *)0x500000000, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0)
              == (void *)0x500000000, "mmap");
    fault(load, (void *)(0x500000000 + PAGE), load);
    fault(store, (void *)(0x500000000 + PAGE + 8), store);
    printf("not the program's\n");
    fault(load, (void *)0xffff800000000000, load);
    fault(store, (void *)0xffffffffffffff00, store);
    fault(jump, (void *)0xffff900000000000, (void *)0xffff900000000000);
    printf("not canonical\n");
    fault(load, (void *)0x800000000000, load);
    fault(store, (void *)0xffff7fffffffff00, store);
    printf("instructions\n");
    fault(undefined, NULL, undefined);
    fault(breakpoint, NULL, breakpoint);
    fault(halt, NULL, halt);
    fault(port, NULL, port);
    printf("arithmetic\n");
    static int zero;
    fault(divide, &zero, divide);
    unsigned short control = 0x37b;
    __asm__ volatile("fninit\n fldcw %0\n fld1\n fldz\n fdivrp" : : "m"(control));
    fault(wait_x87, NULL, wait_x87);
    __asm__ volatile("fninit");
    printf("a step\n");
    extern char stepped[];
    expected.stub = stepped;
    long after;
    __asm__ volatile("sub $256, %%rsp\n call 1f\n jmp 2f\n"
                     "1: pushf\n orl $0x100, (%%rsp)\n popf\n nop\n .globl stepped\nstepped: ud2\n"
                     "2: add $256, %%rsp"
                     : "=a"(after) : : "memory", "cc");
    check(after == SIGTRAP, "one step");
    printf("with the direction set\n");
    expected.stub = undefined;
    expected.flag_direction = 1;
    __asm__ volatile("sub $256, %%rsp\n std\n call undefined\n pushf\n cld\n pop %%rdx\n add $256, %%rsp"
                     : "=a"(after), "=d"(expected.last_cr2) : : "memory", "cc");
    check(expected.last_cr2 & 0x400, "the direction is back");
}

static void nothing(int number, siginfo_t *info, void *context) {
    (void)number, (void)info, (void)context;
}

// What is below the stack pointer is the program's own.
static void red_zone(void) {
    long sum;
    on(SIGTRAP, nothing, 0);
    __asm__ volatile("sub $512, %%rsp\n mov %%rsp, %%rdi\n mov $-128, %%rcx\n"
                     "1: mov %%rcx, (%%rsp,%%rcx)\n add $8, %%rcx\n jnz 1b\n"
                     "int3\n"
                     "xor %%eax, %%eax\n mov $-128, %%rcx\n"
                     "2: add (%%rsp,%%rcx), %%rax\n add $8, %%rcx\n jnz 2b\n add $512, %%rsp"
                     : "=a"(sum) : : "rcx", "rdi", "r11", "memory", "cc");
    printf("red zone: %ld\n", sum);
}

// Vector registers, a handler's own and the program's.
static unsigned char wanted[32], seen[32];
static int with_avx, changes;

static void clobber(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    unsigned mxcsr;
    unsigned short control;
    __asm__ volatile("stmxcsr %0\n fnstcw %1" : "=m"(mxcsr), "=m"(control));
    check(mxcsr == 0x1f80 && control == 0x37f, "a handler's state is fresh");
    if (with_avx)
        __asm__ volatile(".byte 0xc5, 0xfc, 0x77"); // vzeroall
    else
        __asm__ volatile("pxor %%xmm5, %%xmm5" : : : "xmm5");
    if (changes) {
        unsigned char *state = (unsigned char *)((ucontext_t *)context)->uc_mcontext.fpregs;
        memset(state + 160 + 16 * 5, 0x5a, 16);
        *(uint64_t *)(state + 512) |= 2;
        if (with_avx) {
            memset(state + 576 + 16 * 5, 0xa5, 16);
            *(uint64_t *)(state + 512) |= 4;
        }
    }
}

static void vectors(void) {
    on(SIGUSR1, clobber, 0);
    __builtin_cpu_init();
    with_avx = !!__builtin_cpu_supports("avx");
    for (changes = 0; changes < 2; changes++) {
        for (int i = 0; i < 32; i++)
            wanted[i] = (unsigned char)(i + 1);
        unsigned mxcsr = 0x3f80, after;
        long pid = getpid();
        __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
        if (with_avx)
            __asm__ volatile("vmovdqu %1, %%ymm5\n mov $62, %%eax\n syscall\n vmovdqu %%ymm5, %0\n vzeroupper"
                             : "=m"(seen) : "m"(wanted), "D"(pid), "S"(SIGUSR1)
                             : "rax", "rcx", "r11", "xmm5", "memory");
        else
            __asm__ volatile("movdqu %1, %%xmm5\n mov $62, %%eax\n syscall\n movdqu %%xmm5, %0"
                             : "=m"(seen) : "m"(wanted), "D"(pid), "S"(SIGUSR1)
                             : "rax", "rcx", "r11", "xmm5", "memory");
        __asm__ volatile("stmxcsr %0" : "=m"(after));
        if (changes) {
            memset(wanted, 0x5a, 16);
            memset(wanted + 16, 0xa5, 16);
        }
        int bytes = with_avx ? 32 : 16;
        printf("vectors %s, mxcsr %#x\n", memcmp(wanted, seen, (size_t)bytes) ? "lost" : "right", after);
        mxcsr = 0x1f80;
        __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
    }
}

static char stack[1 << 16] __attribute__((aligned(4096)));

static void on_stack(int number, siginfo_t *info, void *context) {
    (void)info;
    char here;
    ucontext_t *uc = context;
    stack_t now, other = {.ss_sp = stack, .ss_size = 8192};
    check(!sigaltstack(NULL, &now), "sigaltstack");
    printf("signal %d: on it %d, told %#x size %zu, in ucontext %#x size %zu", number,
           &here >= stack && &here < stack + sizeof stack, now.ss_flags, now.ss_size, uc->uc_stack.ss_flags,
           uc->uc_stack.ss_size);
    int changed = sigaltstack(&other, NULL);
    printf(", changed: %d %d\n", changed, changed ? errno : 0);
    if (number == SIGUSR1)
        raise(SIGUSR2);
}

static sigjmp_buf place;

static void leave(int number, siginfo_t *info, void *context) {
    (void)info, (void)context;
    siglongjmp(place, number);
}

static volatile int bottom = 1 << 30;

static int deep(int depth) {
    volatile char here[1000];
    here[0] = here[999] = 1;
    return depth == bottom ? 0 : deep(depth + 1) + here[0];
}

static void nested(int number, siginfo_t *info, void *context) {
    (void)info, (void)context;
    raise(number);
}

static void stacks(void) {
    stack_t none = {.ss_flags = SS_DISABLE}, old;
    stack_t small = {.ss_sp = stack, .ss_size = SMALLEST - 1}, odd = {.ss_sp = stack, .ss_size = 9999, .ss_flags = 7};
    stack_t good = {.ss_sp = stack, .ss_size = sizeof stack};
    check(!sigaltstack(&none, &old) && old.ss_flags == SS_DISABLE, "none");
    // The C library looks at the size itself.
    long answer = syscall(SYS_sigaltstack, &small, NULL);
    printf("small: %ld %d", answer, errno);
    answer = syscall(SYS_sigaltstack, &odd, NULL);
    printf(", odd: %ld %d\n", answer, errno);
    check(!sigaltstack(&good, NULL) && !sigaltstack(NULL, &old), "set");
    printf("flags %#x size %zu\n", old.ss_flags, old.ss_size);
    on(SIGUSR2, on_stack, SA_ONSTACK);
    on(SIGUSR1, on_stack, SA_ONSTACK);
    raise(SIGUSR1);
    on(SIGUSR2, on_stack, 0);
    raise(SIGUSR2);
    good.ss_flags = (int)SS_AUTODISARM;
    check(!sigaltstack(&good, NULL), "autodisarm");
    on(SIGUSR2, on_stack, SA_ONSTACK);
    raise(SIGUSR2);
    check(!sigaltstack(NULL, &old), "told");
    printf("after: flags %#x size %zu\n", old.ss_flags, old.ss_size);
    // The stack overflows, again and again, and a jump out of the handler goes on.
    on(SIGSEGV, leave, SA_ONSTACK);
    good.ss_flags = 0;
    check(!sigaltstack(&good, NULL), "again");
    volatile int overflows = 0;
    for (int i = 0; i < 3; i++)
        if (sigsetjmp(place, 1) == 0)
            deep(0);
        else
            overflows++;
    printf("overflows of the stack: %d\n", overflows);
    check(!sigaltstack(&none, NULL), "none");
}

static void masks_in(int number, siginfo_t *info, void *context) {
    (void)info;
    uint64_t now, saved = *(uint64_t *)&((ucontext_t *)context)->uc_sigmask;
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &now, 8);
    struct sigaction action;
    sigaction(number, NULL, &action);
    printf("signal %d: blocked %#lx, before %#lx, handler %d\n", number, now, saved, action.sa_handler != SIG_DFL);
    if (number == SIGUSR1 && !(now >> (SIGUSR2 - 1) & 1))
        raise(SIGUSR2);
    // What is blocked when it has returned.
    *(uint64_t *)&((ucontext_t *)context)->uc_sigmask |= 1UL << (SIGWINCH - 1) | 1UL << (SIGKILL - 1);
}

static void masks(void) {
    struct sigaction action = {.sa_sigaction = masks_in, .sa_flags = SA_SIGINFO};
    sigaddset(&action.sa_mask, SIGTERM);
    sigaddset(&action.sa_mask, SIGSTOP);
    sigaction(SIGUSR1, &action, NULL);
    on(SIGUSR2, masks_in, SA_NODEFER | SA_RESETHAND);
    raise(SIGUSR1);
    sigset_t now;
    sigprocmask(SIG_SETMASK, NULL, &now);
    printf("after: %#lx\n", *(uint64_t *)&now);
    sigemptyset(&now);
    sigprocmask(SIG_SETMASK, &now, NULL);
    sigaction(SIGUSR2, NULL, &action);
    printf("once: %d, flags %#x\n", action.sa_handler == SIG_DFL, action.sa_flags & ~0x4000000);
    long invalid = syscall(SYS_rt_sigaction, 65, NULL, NULL, 8);
    printf("no signal: %ld %d", invalid, errno);
    action.sa_handler = SIG_IGN;
    invalid = sigaction(SIGKILL, &action, NULL);
    printf(", SIGKILL: %ld %d", invalid, errno);
    invalid = syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 4);
    printf(", size: %ld %d\n", invalid, errno);
}

// Each in a child, which dies of it.
static void again(int number, siginfo_t *info, void *context) {
    (void)number, (void)info, (void)context;
    *(volatile int *)0x10 = 1;
}

static void block(int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

static void deadly(int way) {
    signal(SIGSEGV, SIG_DFL);
    // Nothing below it.
    char *area = mmap(NULL, 5 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(area + PAGE, 4 * PAGE, PROT_READ | PROT_WRITE);
    stack_t none = {.ss_sp = area, .ss_size = PAGE}, page = {.ss_sp = area + PAGE, .ss_size = 4 * PAGE};
    switch (way) {
    case 0: on(SIGSEGV, again, 0); break;
    case 1: on(SIGSEGV, nothing, 0); block(SIGSEGV); break;
    case 2: signal(SIGSEGV, SIG_IGN); break;
    case 3: on(SIGSEGV, nothing, 0); deep(0); break;
    case 4: // A frame cannot be written.
        sigaltstack(&none, NULL);
        on(SIGUSR1, nothing, SA_ONSTACK);
        raise(SIGUSR1);
        _exit(0);
    case 5: // The alternate stack overflows.
        sigaltstack(&page, NULL);
        on(SIGUSR1, nested, SA_ONSTACK | SA_NODEFER);
        raise(SIGUSR1);
        _exit(0);
    case 6: // No place for a frame: SIGSEGV, whose handler has one.
        on(SIGUSR1, nothing, 0);
        sigaltstack(&page, NULL);
        on(SIGSEGV, leave, SA_ONSTACK);
        if (sigsetjmp(place, 1))
            _exit(7);
        __asm__ volatile("mov $0x1000, %%rsp\n mov $39, %%eax\n syscall\n mov %%eax, %%edi\n mov $10, %%esi\n"
                         "mov $62, %%eax\n syscall" : : : "rax", "rcx", "rdi", "rsi", "r11", "memory");
        break;
    case 7: on(SIGSEGV, again, SA_RESETHAND | SA_NODEFER); break;
    case 8: // No restorer.
        syscall(SYS_rt_sigaction, SIGUSR1, (uint64_t[4]){(uint64_t)nothing, SA_SIGINFO, 0, 0}, NULL, 8);
        raise(SIGUSR1);
        _exit(0);
    case 9: abort();
    case 10: on(SIGABRT, nothing, 0); abort();
    case 11: raise(SIGKILL); break;
    case 12: signal(SIGTERM, SIG_IGN); block(SIGTERM); raise(SIGTERM); _exit(9);
    case 13: raise(64); break;
    default: _exit(1);
    }
    *(volatile int *)0x10 = 1;
}

static void deaths(void) {
    for (int way = 0; way < 14; way++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0)
            deadly(way);
        int status;
        check(waitpid(child, &status, 0) == child, "waitpid");
        printf("way %d: %s %d\n", way, WIFSIGNALED(status) ? "signal" : "status",
               WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
}

// Frames that a stack grows for, at each depth another one.
static int at_depth(int depth) {
    volatile char here[1024];
    here[0] = here[1023] = 1;
    if (depth > 0)
        return at_depth(depth - 1) + here[0];
    return raise(SIGUSR1) + here[1023];
}

static void growing(void) {
    on(SIGUSR1, nothing, 0);
    int sum = 0;
    for (int depth = 100; depth < 180; depth++)
        sum += at_depth(depth);
    printf("depths: %d\n", sum);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    if (argc > 1 && !strcmp(argv[1], "sse")) {
        of_sse();
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "growing")) {
        growing();
        return 0;
    }
    faults();
    vectors();
    stacks();
    masks();
    red_zone();
    deaths();
    return 0;
}
