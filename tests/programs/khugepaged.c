/*
 * Writes small pages over and over while huge ones are made of them, which their neighbours' presence tells; again
 * and again at the same addresses, alone and beside a child that has the pages, too.
 *
 * usage: khugepaged ROUNDS   (with --khugepaged=MS)
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, HUGE = 2 << 20, IN_HUGE = HUGE / PAGE, HUGES = 3, PAGES = HUGES * IN_HUGE };

/* Long enough for any machine. */
enum { PASSES = 1000000 };

static char *base;
static uint64_t has[PAGES];
static unsigned round_number;

static void die(const char *what, long page)
{
    fprintf(stderr, "khugepaged: round %u: %s, page %ld\n", round_number, what, page);
    exit(1);
}

static uint64_t *page_at(int page)
{
    return (uint64_t *)(base + (size_t)page * PAGE);
}

/* Every seventh page, in three places. */
static void write_some(uint64_t seed)
{
    for (int page = round_number % 7; page < PAGES; page += 7) {
        uint64_t *at = page_at(page);
        if (at[0] != has[page] || at[99] != has[page] || at[511] != has[page])
            die("other bytes", page);
        at[0] = at[99] = at[511] = has[page] = seed + page;
    }
}

static void look(const char *when)
{
    for (int page = 0; page < PAGES; page++) {
        uint64_t *at = page_at(page);
        if (at[0] != has[page] || at[99] != has[page] || at[511] != has[page] || at[300])
            die(when, page);
    }
}

static int all_resident(void)
{
    static unsigned char in[PAGES];
    int count = 0;
    if (mincore(base, (size_t)PAGES * PAGE, in))
        die("mincore", 0);
    for (int page = 0; page < PAGES; page++)
        count += in[page] & 1;
    return count == PAGES;
}

/* Until all of it is there: the neighbours of what is written come by themselves. */
static void write_until_huge(uint64_t seed)
{
    for (int pass = 1; !all_resident(); pass++) {
        if (pass == PASSES)
            die("no huge pages", 0);
        for (int again = 0; again < 20; again++)
            write_some(seed + pass * 20 + again);
    }
}

static void one_round(uint64_t seed)
{
    int status;
    char *at = mmap(base, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (at != base)
        die("mmap", 0);
    for (int page = 0; page < PAGES; page++)
        has[page] = 0;
    write_some(seed);
    pid_t child = 0;
    if (round_number % 2) {
        child = fork();
        if (child < 0)
            die("fork", 0);
    }
    if (madvise(base, (size_t)PAGES * PAGE, MADV_HUGEPAGE))
        die("madvise", 0);
    write_until_huge(seed);
    look("what has huge pages");
    if (round_number % 2 && !child)
        _exit(0);
    /* Small again, and huge again. */
    if (mprotect(page_at(9), 5 * PAGE, PROT_READ) || madvise(page_at(40), 3 * PAGE, MADV_DONTNEED))
        die("mprotect", 9);
    if (mprotect(page_at(9), 5 * PAGE, PROT_READ | PROT_WRITE))
        die("mprotect", 9);
    has[40] = has[41] = has[42] = 0;
    write_until_huge(~seed);
    look("what is huge again");
    if (child && (waitpid(child, &status, 0) != child || status))
        die("the child", status);
    if (munmap(base, HUGE + PAGE))
        die("munmap", 0);
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 4;
    base = mmap(NULL, (HUGES + 1) * (size_t)HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        die("mmap", 0);
    base = (char *)(((uintptr_t)base + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    for (round_number = 0; round_number < rounds; round_number++)
        one_round(round_number * 0x9e3779b97f4a7c15ull);
    printf("%u rounds\n", rounds);
    return 0;
}
