/* The most memory that processes have had, in MiB, as getrusage tells it: all that was touched by then, children's too. */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void show(const char *when, int who)
{
    struct rusage usage;
    getrusage(who, &usage);
    printf("%s: %ld\n", when, usage.ru_maxrss >> 10);
    fflush(stdout);
}

static void use(long megabytes, int prot, int flags)
{
    long len = megabytes << 20;
    char *at = mmap(0, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    for (long i = 0; !(flags & MAP_POPULATE) && i < len; i += 4096)
        at[i] = 1;
    show("used", RUSAGE_SELF);
}

int main(void)
{
    if (fork() == 0) {
        use(4, PROT_WRITE, MAP_POPULATE);
        _exit(0);
    }
    wait(0);
    show("populated", RUSAGE_CHILDREN);
    if (fork() == 0) {
        use(8, PROT_READ | PROT_WRITE, 0);
        _exit(0);
    }
    wait(0);
    show("touched", RUSAGE_CHILDREN);
    if (fork() == 0) {
        if (fork() == 0) {
            use(16, PROT_READ | PROT_WRITE, 0);
            _exit(0);
        }
        wait(0);
        show("by a child", RUSAGE_CHILDREN);
        _exit(0);
    }
    wait(0);
    show("by a child's child", RUSAGE_CHILDREN);
    return 0;
}
