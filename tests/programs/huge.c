/*
 * Uses huge pages in every way that takes one apart, moves it, shares it or gives its place to another, again and
 * again at the same addresses, and looks at all bytes each time. With `small` the same with small pages, all of
 * which are written one after the other and then forked: large entries stand for them then.
 *
 * usage: huge ROUNDS [small]   (with --thp=madvise)
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    PAGE = 4096,
    HUGE = 2 << 20,
    IN_HUGE = HUGE / PAGE,
    MOST = 24 * IN_HUGE,
};

static char *base, *elsewhere;
/* What each page has: a seed, 0 for zeros. */
static uint32_t has[MOST];
static unsigned round_number;
static int huges = 4, pages = 4 * IN_HUGE, advice = MADV_HUGEPAGE;

static void die(const char *what, long page)
{
    fprintf(stderr, "huge: round %u: %s, page %ld\n", round_number, what, page);
    exit(1);
}

static uint64_t *page_at(int page)
{
    return (uint64_t *)(base + (size_t)page * PAGE);
}

static void put(int page, uint32_t seed)
{
    uint64_t *at = page_at(page);
    at[0] = at[77] = at[511] = seed * 6364136223846793005ull;
    has[page] = seed;
}

static void look(const char *when)
{
    for (int page = 0; page < pages; page++) {
        uint64_t *at = page_at(page), expected = has[page] * 6364136223846793005ull;
        if (at[0] != expected || at[77] != expected || at[511] != expected || at[300] != 0)
            die(when, page);
    }
}

static void forget(int page, int count)
{
    memset(has + page, 0, count * sizeof *has);
}

static int resident(char *at, int of)
{
    static unsigned char in[MOST];
    int count = 0;
    if (mincore(at, (size_t)of * PAGE, in))
        die("mincore", 0);
    for (int page = 0; page < of; page++)
        count += in[page] & 1;
    return count;
}

/* New memory in the place of what is there. */
static void map(int huge, int count)
{
    char *at = base + (size_t)huge * HUGE;
    size_t len = (size_t)count * HUGE;
    if (mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at
        || madvise(at, len, advice))
        die("mmap", huge);
    forget(huge * IN_HUGE, count * IN_HUGE);
}

static void in_a_child(uint32_t seed)
{
    int status;
    pid_t child = fork();
    if (child < 0)
        die("fork", 0);
    if (!child) {
        look("what the child has");
        for (int page = seed % 3; page < pages; page += 3)
            put(page, seed + page);
        look("what the child has written");
        _exit(0);
    }
    for (int page = seed % 5; page < pages; page += 5)
        put(page, ~seed - page);
    look("what the parent has written");
    if (waitpid(child, &status, 0) != child || status)
        die("the child", status);
    look("after the child");
}

/* All pages are written, and a child comes and goes. */
static void fork_all(uint32_t seed)
{
    int status;
    for (int page = 0; page < pages; page++)
        put(page, seed ^ page);
    pid_t child = fork();
    if (!child)
        _exit(0);
    if (child < 0 || waitpid(child, &status, 0) != child || status)
        die("fork", 0);
    look("after a fork");
}

static void one_round(uint32_t seed)
{
    map(0, huges);
    put(3, seed);
    if (advice == MADV_NOHUGEPAGE) {
        if (resident(base, pages) != 1)
            die("one touch brings in", resident(base, pages));
        fork_all(seed);
        if (resident(base, pages) != pages)
            die("resident", resident(base, pages));
    } else if (resident(base, IN_HUGE) != IN_HUGE || resident(base + HUGE, IN_HUGE) != 0)
        die("one touch brings in", resident(base, pages));
    look("the first touch");
    for (int page = 0; page < pages; page += 7)
        put(page, seed + page);
    look("all of it");

    /* A part that may not be written, for a while. */
    if (mprotect(page_at(100), 900 * PAGE, PROT_READ))
        die("mprotect", 100);
    look("a part that may not be written");
    if (mprotect(page_at(100), 900 * PAGE, PROT_READ | PROT_WRITE))
        die("mprotect", 100);
    put(101, seed + 1);
    put(999, seed + 2);
    look("a part that may be written again");

    in_a_child(seed);
    if (advice == MADV_NOHUGEPAGE)
        fork_all(seed * 5);

    /* All of one, part of another. */
    if (madvise(page_at(2 * IN_HUGE), HUGE, MADV_DONTNEED) || madvise(page_at(40), 3 * PAGE, MADV_DONTNEED))
        die("madvise", 0);
    forget(2 * IN_HUGE, IN_HUGE);
    forget(40, 3);
    look("what was given up");
    put(2 * IN_HUGE + 9, seed + 9);
    look("what came instead");

    /* Zeros that are read first. */
    map(3, 1);
    look("zeros");
    put(3 * IN_HUGE + 5, seed + 5);
    look("zeros that were written");

    /* To another place and back. */
    if (advice == MADV_NOHUGEPAGE)
        fork_all(seed * 7);
    char *to = mremap(base + HUGE, HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere);
    if (to != elsewhere)
        die("mremap", 0);
    char *back = mremap(to, HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, base + HUGE);
    if (back != base + HUGE)
        die("mremap back", 0);
    look("what was moved");
    put(IN_HUGE + 8, seed + 8);

    /* Small pages in the place of huge ones. */
    if (munmap(page_at(IN_HUGE), HUGE))
        die("munmap", IN_HUGE);
    char *at = mmap(page_at(IN_HUGE), HUGE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (at != base + HUGE)
        die("mmap small", IN_HUGE);
    forget(IN_HUGE, IN_HUGE);
    put(IN_HUGE + 1, seed + 11);
    put(IN_HUGE + 500, seed + 12);
    look("small pages");
    in_a_child(seed * 3 + 1);
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 10;
    if (argc > 2 && !strcmp(argv[2], "small")) {
        advice = MADV_NOHUGEPAGE;
        huges = MOST / IN_HUGE;
        pages = MOST;
    }
    base = mmap(NULL, (2 * huges + 2) * (size_t)HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        die("mmap", 0);
    base = (char *)(((uintptr_t)base + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    elsewhere = base + (size_t)huges * HUGE;
    for (round_number = 0; round_number < rounds; round_number++)
        one_round(round_number * 2654435761u + 1);
    printf("%u rounds\n", rounds);
    return 0;
}
