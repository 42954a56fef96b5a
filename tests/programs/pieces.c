/*
 * Shows descriptor 3, a file of 8 MiB each of whose pages begins with its number and 1, which the host may have in its
 * memory in pieces of 2 MiB, and takes what shows it apart in each way there is. Prints what is found: the same natively
 * and in a guest.
 *
 * usage: pieces 3<FILE
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, HUGE = 512, PAGES = 4 * HUGE };

static volatile unsigned *word(char *at, unsigned page)
{
    return (volatile unsigned *)(at + (size_t)page * PAGE);
}

static char *show(int prot, int flags)
{
    char *at = mmap(0, (size_t)PAGES * PAGE, prot, flags, 3, 0);
    if (at == MAP_FAILED)
        perror("mmap"), exit(2);
    return at;
}

/* The sum of what the pages of a range begin with. */
static unsigned long sum(char *at, unsigned from, unsigned to)
{
    unsigned long all = 0;
    for (unsigned page = from; page < to; page++)
        all += *word(at, page);
    return all;
}

static void tell(const char *what, unsigned long value)
{
    printf("%s: %lu\n", what, value);
    fflush(stdout);
}

/* How a child ends that does this to a page. */
static int child(void (*what)(char *, unsigned), char *at, unsigned page)
{
    pid_t pid = fork();
    if (pid == 0)
        what(at, page), _exit(0);
    int status;
    waitpid(pid, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void reads(char *at, unsigned page)
{
    if (*word(at, page) != page + 1)
        _exit(1);
}

static void writes(char *at, unsigned page)
{
    *word(at, page) = 7;
}

int main(void)
{
    char *shared = show(PROT_READ, MAP_SHARED), *own = show(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    tell("shared", sum(shared, 0, PAGES));
    tell("private", sum(own, 0, PAGES));

    *word(own, 5) = 1000, *word(own, HUGE + 9) = 1000;
    tell("private, two pages written", sum(own, 0, PAGES));
    tell("shared then", sum(shared, 0, PAGES));
    tell("a child reads", child(reads, own, 600));
    tell("a child writes its own", child(writes, own, 601));
    tell("and what is shared", child(writes, shared, 601));
    tell("private then", sum(own, 0, PAGES));

    mprotect(shared + 3 * PAGE, 2 * PAGE, PROT_NONE);
    tell("a child reads what it may not", child(reads, shared, 3));
    tell("and beside it", child(reads, shared, 5));
    mprotect(shared + 3 * PAGE, 2 * PAGE, PROT_READ);
    munmap(shared + (size_t)HUGE * PAGE, 3 * PAGE);
    tell("a child reads what is not there", child(reads, shared, HUGE + 2));
    tell("the rest", sum(shared, 0, HUGE) + sum(shared, HUGE + 3, PAGES));
    madvise(own, 7 * PAGE, MADV_DONTNEED);
    tell("private, as it was", sum(own, 0, HUGE));

    size_t len = (size_t)2 * HUGE * PAGE;
    char *moved = mremap(shared + len, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, shared + 4 * len + 5 * PAGE);
    tell("moved", moved == MAP_FAILED ? 0 : sum(moved, 0, 2 * HUGE));
    madvise(moved, len, MADV_DONTNEED);
    tell("and read again", sum(moved, 0, 2 * HUGE));
    tell("where it was", child(reads, shared, 2 * HUGE));
    return 0;
}
