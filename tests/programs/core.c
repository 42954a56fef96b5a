// A program with memory of all kinds at places of its own, which dies with known registers. Its arguments: the filter of
// its core file, how it dies, and a file to map.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define PLACE(n) ((char *)0x10000000 + (n) * 0x100000)
enum { PAGE = 4096, PAGES = 4 };

static void check(int good, const char *what)
{
    if (!good) {
        perror(what);
        _exit(1);
    }
}

static char *map(int n, int protection, int flags, int fd, off_t offset)
{
    char *at = mmap(PLACE(n), PAGES * PAGE, protection, flags | MAP_FIXED, fd, offset);
    check(at == PLACE(n), "mmap");
    return at;
}

static void maps(const char *name)
{
    enum { RW = PROT_READ | PROT_WRITE, OWN = MAP_PRIVATE | MAP_ANONYMOUS };
    memset(map(0, RW, OWN, -1, 0) + PAGE, 'a', PAGE);
    map(1, RW, OWN, -1, 0);
    strcpy(map(2, RW, OWN, -1, 0), "hidden");
    check(!mprotect(PLACE(2), PAGES * PAGE, PROT_NONE), "mprotect");
    memset(map(3, RW, OWN, -1, 0), 'd', PAGES * PAGE);
    check(!madvise(PLACE(3), PAGES * PAGE, MADV_DONTDUMP), "MADV_DONTDUMP");
    strcpy(map(4, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0) + 2 * PAGE, "shared");
    int memory = memfd_create("memory", 0);
    check(memory >= 0 && !ftruncate(memory, 3 * PAGE), "memfd_create");
    check(pwrite(memory, "not touched", 11, PAGE) == 11, "pwrite");
    map(5, RW, MAP_SHARED, memory, 0);
    int file = open(name, O_RDWR);
    check(file >= 0, name);
    map(6, PROT_READ, MAP_PRIVATE, file, 0);
    strcpy(map(7, RW, MAP_PRIVATE, file, PAGE) + PAGE, "written");
    map(8, PROT_READ, MAP_SHARED, file, 0);
    int elf = open("/proc/self/exe", O_RDONLY);
    check(elf >= 0, "/proc/self/exe");
    map(9, PROT_READ, MAP_PRIVATE, elf, 0);
    map(10, PROT_READ, MAP_PRIVATE, elf, PAGE);
    // Its first page is only in the page table of a child.
    char *last = map(11, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (fork() == 0) {
        strcpy(last, "child");
        _exit(0);
    }
    check(wait(NULL) > 0, "wait");
}

int main(int argc, char **argv)
{
    check(argc == 4, "arguments");
    struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
    check(!setrlimit(RLIMIT_CORE, &limit), "setrlimit");
    FILE *filter = fopen("/proc/self/coredump_filter", "w");
    check(filter && fputs(argv[1], filter) > 0 && !fclose(filter), "coredump_filter");
    maps(argv[3]);
    // In a child, whose parent tells what it was told. One that waits is killed there, however early.
    int waits = !strcmp(argv[2], "wait");
    sigset_t none, quit;
    sigemptyset(&none);
    sigemptyset(&quit);
    sigaddset(&quit, SIGQUIT);
    check(!sigprocmask(SIG_SETMASK, waits ? &quit : &none, NULL), "sigprocmask");
    pid_t child = fork();
    if (child != 0) {
        check(!waits || !kill(child, SIGQUIT), "kill");
        siginfo_t info;
        check(!waitid(P_PID, child, &info, WEXITED | WNOWAIT), "waitid");
        int status;
        check(wait(&status) == child, "wait");
        printf("%d %d %x\n", info.si_code, info.si_status, status);
        return 0;
    }
    if (!strcmp(argv[2], "small")) {
        limit.rlim_cur = 4095;
        check(!setrlimit(RLIMIT_CORE, &limit), "setrlimit");
    }
    if (!strcmp(argv[2], "limited")) {
        limit.rlim_cur = 16384;
        check(!setrlimit(RLIMIT_CORE, &limit), "setrlimit");
    }
    if (!strcmp(argv[2], "secret"))
        check(!prctl(PR_SET_DUMPABLE, 0), "PR_SET_DUMPABLE");
    if (waits)
        sigsuspend(&none);
    if (!strcmp(argv[2], "call")) {
        sigset_t blocked;
        sigemptyset(&blocked);
        sigaddset(&blocked, SIGUSR1);
        sigprocmask(SIG_SETMASK, &blocked, NULL);
        abort();
    }
    static const uint64_t pattern[2] = { 0x1111222233334444, 0x5555666677778888 };
    static const uint64_t wide[4] = { 1, 2, 0x9999aaaabbbbcccc, 0xddddeeeeffff0000 };
    __asm__ volatile(
        "movups %0, %%xmm5\n fld1\n fldpi\n"
        "cmpl $0, %2\n je 1f\n vmovups %1, %%ymm9\n1:\n"
        "mov $1, %%rbx\n mov $2, %%rcx\n mov $3, %%rdx\n mov $4, %%rsi\n mov $5, %%rdi\n mov $6, %%rbp\n"
        "mov $8, %%r8\n mov $9, %%r9\n mov $10, %%r10\n mov $11, %%r11\n mov $12, %%r12\n mov $13, %%r13\n"
        "mov $14, %%r14\n mov $15, %%r15\n mov $0x123000, %%rsp\n xor %%eax, %%eax\n"
        "movl $7, 0x456(%%rax)\n"
        :: "m"(pattern), "m"(wide), "r"(__builtin_cpu_supports("avx")) : "memory");
    return 2;
}
