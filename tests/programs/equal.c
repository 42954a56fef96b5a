/*
 * Processes whose pages are equal, mostly: each writes some of its own over and over, the same as the others or not,
 * while equal ones are merged, and looks at all bytes each time.
 *
 * usage: equal PROCESSES PAGES ROUNDS   (with --ksm=MS)
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, MOST = 1 << 16 };

static uint64_t *memory;
/* What each page has been filled with. */
static uint64_t has[MOST];
static unsigned pages, process;

static void die(const char *what, long page)
{
    fprintf(stderr, "equal: process %u: %s, page %ld\n", process, what, page);
    exit(1);
}

static uint64_t *page_at(unsigned page)
{
    return memory + (size_t)page * (PAGE / 8);
}

static void put(unsigned page, uint64_t seed)
{
    for (int i = 0; i < PAGE / 8; i++)
        page_at(page)[i] = seed * (i + 1);
    has[page] = seed;
}

static void look(void)
{
    for (unsigned page = 0; page < pages; page++)
        for (int i = 0; i < PAGE / 8; i++)
            if (page_at(page)[i] != has[page] * (i + 1))
                die("other bytes", page);
}

static void map(void)
{
    memory = mmap(NULL, (size_t)pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || madvise(memory, (size_t)pages * PAGE, MADV_MERGEABLE))
        die("mmap", 0);
    for (unsigned page = 0; page < pages; page++)
        put(page, 1 + page % 8);
}

static void rounds(unsigned count)
{
    for (unsigned round = 1; round <= count; round++) {
        usleep(2000);
        look();
        /* A fourth becomes something of its own, and then what all have again. */
        for (unsigned page = round % 4; page < pages; page += 4)
            put(page, round % 2 ? 100 * process + round : 1 + page % 8);
        look();
        if (round == count / 2 && madvise(memory, (size_t)pages / 2 * PAGE, MADV_UNMERGEABLE))
            die("madvise", 0);
        if (round == count / 2 + 3 && madvise(memory, (size_t)pages * PAGE, MADV_MERGEABLE))
            die("madvise", 0);
    }
    for (unsigned page = 0; page < pages; page++)
        put(page, 1 + page % 8);
    usleep(300000);
    look();
}

int main(int argc, char **argv)
{
    unsigned processes = argc > 1 ? strtoul(argv[1], NULL, 10) : 4;
    unsigned count = argc > 3 ? strtoul(argv[3], NULL, 10) : 50;
    pages = argc > 2 ? strtoul(argv[2], NULL, 10) : 64;
    if (pages > MOST)
        die("too many", pages);
    map();
    for (process = 1; process < processes; process++) {
        pid_t child = fork();
        if (child < 0)
            die("fork", 0);
        if (!child) {
            /* Every second one has memory that is nobody else's. */
            if (process % 2)
                map();
            rounds(count);
            _exit(0);
        }
    }
    process = 0;
    rounds(count);
    for (unsigned left = processes; left > 1; left--) {
        int status;
        if (wait(&status) < 0 || status)
            die("a process", status);
    }
    printf("%u processes\n", processes);
    return 0;
}
