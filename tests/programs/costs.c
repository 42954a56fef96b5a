// What single things cost a program, measured by itself: costs FILE TIMES [THING]. Each line is a thing, and nanoseconds
// of TIMES of them, by the clock and of the processor; with THING of that one alone, so that its exits can be counted.
//
//   segv  a caught SIGSEGV, whose handler goes on behind the write    fork  fork, exit of the child, wait
//   pipe  a byte to a child and its answer, through two pipes         read  4 KiB of FILE from its beginning
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096
// Bytes of `movb $1, (%rdi)`.
#define WRITE_LENGTH 3

static const char *path;
static volatile unsigned long caught;

static void must(int done) {
    if (!done) {
        perror("costs");
        _exit(1);
    }
}

static uint64_t nanoseconds(clockid_t clock) {
    struct timespec now;
    must(clock_gettime(clock, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t started[2];

static void start(void) {
    started[0] = nanoseconds(CLOCK_MONOTONIC);
    started[1] = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
}

static void stop(const char *thing) {
    uint64_t processor = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - started[1];
    uint64_t wall = nanoseconds(CLOCK_MONOTONIC) - started[0];
    printf("%s %lu %lu\n", thing, wall, processor);
}

static void skip(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += WRITE_LENGTH;
    caught++;
}

static void segv(unsigned long times) {
    void *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(page != MAP_FAILED);
    struct sigaction action = {.sa_sigaction = skip, .sa_flags = SA_SIGINFO};
    must(sigaction(SIGSEGV, &action, NULL) == 0);
    start();
    for (unsigned long i = 0; i < times; i++)
        __asm__ volatile("movb $1, (%%rdi)" : : "D"(page) : "memory");
    stop("segv");
    must(caught == times);
}

static void fork_and_wait(unsigned long times) {
    start();
    for (unsigned long i = 0; i < times; i++) {
        int status;
        pid_t child = fork();
        if (child == 0)
            _exit(7);
        must(child > 0 && waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7);
    }
    stop("fork");
}

static void pipes(unsigned long times) {
    int there[2], back[2], status;
    char byte = 0;
    must(pipe(there) == 0 && pipe(back) == 0);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1) {
            byte++;
            must(write(back[1], &byte, 1) == 1);
        }
        _exit(0);
    }
    close(there[0]);
    start();
    for (unsigned long i = 0; i < times; i++)
        must(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1);
    stop("pipe");
    must(byte == (char)times);
    close(there[1]);
    must(waitpid(child, &status, 0) == child && status == 0);
    close(back[0]), close(back[1]);
}

static void read_file(unsigned long times) {
    static char bytes[PAGE];
    int file = open(path, O_RDONLY);
    must(file >= 0);
    start();
    for (unsigned long i = 0; i < times; i++)
        must(pread(file, bytes, PAGE, 0) == PAGE);
    stop("read");
    close(file);
}

static const struct {
    const char *name;
    void (*measure)(unsigned long times);
} things[] = {{"segv", segv}, {"fork", fork_and_wait}, {"pipe", pipes}, {"read", read_file}};

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    path = argv[1];
    unsigned long times = strtoul(argv[2], NULL, 0);
    for (size_t i = 0; i < sizeof things / sizeof *things; i++)
        if (argc == 3 || strcmp(argv[3], things[i].name) == 0)
            things[i].measure(times);
    return 0;
}
