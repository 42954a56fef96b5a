/*
 * Gives up most of its memory with MADV_FREE, then needs more than there is without it. What was given up
 * must be there as it was or read as zeros, page by page; what was written since, locked, or never given up
 * must be as it was; and so for a child that was forked in between. The last that it needs is a memfd's: half of
 * it by write(2), half by fallocate(2).
 *
 * usage: lazy   (in 16 MiB)
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    PAGE = 4096,
    WORDS = PAGE / sizeof(uint64_t),
    PAGES = 10 << 8, /* 10 MiB */
    KEPT = 1 << 8,   /* the first of them are not given up */
    LOCKED = 16,     /* the next ones are locked */
    AGAIN = 32,      /* of the rest, every so manyth page is written again */
    MORE = 9 << 8,
};

static void die(const char *what, int page)
{
    fprintf(stderr, "lazy: %s, page %d\n", what, page);
    exit(1);
}

static uint64_t *map(int pages)
{
    void *at = mmap(NULL, (size_t)pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        perror("lazy: mmap");
        exit(1);
    }
    return at;
}

static void fill(uint64_t *page, uint64_t seed)
{
    for (int i = 0; i < WORDS; i++)
        page[i] = seed * 6364136223846793005ull + i;
}

static int holds(const uint64_t *page, uint64_t seed)
{
    for (int i = 0; i < WORDS; i++)
        if (page[i] != seed * 6364136223846793005ull + i)
            return 0;
    return 1;
}

static int is_zero(const uint64_t *page)
{
    for (int i = 0; i < WORDS; i++)
        if (page[i])
            return 0;
    return 1;
}

static int written_again(int page)
{
    return page >= KEPT + LOCKED && page % AGAIN == 0;
}

static void check(uint64_t *memory)
{
    for (int i = 0; i < PAGES; i++) {
        const uint64_t *page = memory + (size_t)i * WORDS;
        if (written_again(i)) {
            if (!holds(page, i + PAGES))
                die("lost what was written since", i);
        } else if (i < KEPT + LOCKED) {
            if (!holds(page, i))
                die("lost what nobody gave up", i);
        } else if (!holds(page, i) && !is_zero(page)) {
            die("neither what it was nor zeros", i);
        }
    }
}

/* So many pages of a memfd, which hold their number and the seed. */
static uint64_t *memfd(int pages, uint64_t seed)
{
    static uint64_t page[WORDS];
    const size_t half = (size_t)pages / 2 * PAGE;
    int fd = memfd_create("lazy", 0);
    for (int i = 0; i < pages / 2; i++) {
        fill(page, seed + i);
        if (pwrite(fd, page, PAGE, (off_t)i * PAGE) != PAGE)
            die("a write was refused, or short", i);
    }
    if (fallocate(fd, 0, half, half))
        die("there was no room", pages);
    uint64_t *at = mmap(NULL, 2 * half, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        die("no map of a memfd", pages);
    for (int i = pages / 2; i < pages; i++)
        fill(at + (size_t)i * WORDS, seed + i);
    return at;
}

int main(void)
{
    uint64_t *memory = map(PAGES);
    for (int i = 0; i < PAGES; i++)
        fill(memory + (size_t)i * WORDS, i);
    uint64_t *given_up = memory + (size_t)KEPT * WORDS;
    if (madvise(given_up, (size_t)(PAGES - KEPT) * PAGE, MADV_FREE)) {
        perror("lazy: madvise");
        return 1;
    }
    /* On fault: locking must not bring anything in, and so write it. */
    if (mlock2(given_up, (size_t)LOCKED * PAGE, MLOCK_ONFAULT)) {
        perror("lazy: mlock2");
        return 1;
    }
    for (int i = 0; i < PAGES; i++)
        if (written_again(i))
            fill(memory + (size_t)i * WORDS, i + PAGES);
    fflush(stdout);
    pid_t child = fork();
    if (child < 0) {
        perror("lazy: fork");
        return 1;
    }
    if (child == 0) {
        uint64_t *more = map(MORE / 4);
        for (int i = 0; i < MORE / 4; i++)
            fill(more + (size_t)i * WORDS, 3 * PAGES + i);
        check(memory);
        _exit(0);
    }
    uint64_t *more = map(MORE / 2);
    for (int i = 0; i < MORE / 2; i++)
        fill(more + (size_t)i * WORDS, 2 * PAGES + i);
    int status;
    if (waitpid(child, &status, 0) != child || status != 0)
        die("the child did not end well", status);
    uint64_t *rest = memfd(MORE / 2, 4 * PAGES);
    check(memory);
    for (int i = 0; i < MORE / 2; i++)
        if (!holds(more + (size_t)i * WORDS, 2 * PAGES + i) || !holds(rest + (size_t)i * WORDS, 4 * PAGES + i))
            die("lost what was written last", i);
    puts("lazy: all as it was, or zeros");
    return 0;
}
