/*
 * Writes and reads more of the file that it has as descriptor 3 than there is memory to show it in. Prints what
 * came of it: the same natively and in a guest.
 *
 * usage: windows MEBIBYTES PAGES 3<>FILE     touches each PAGESth page
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096 };

static volatile unsigned long *shared, *private;
static size_t pages, step;

static volatile unsigned long *map(int flags)
{
    void *at = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, flags, 3, 0);
    if (at == MAP_FAILED)
        exit(1);
    return at;
}

static size_t word(size_t page)
{
    return page * PAGE / sizeof(long);
}

/* How many pages have this in them, seen in an order of its own. */
static size_t count(volatile unsigned long *at, unsigned long plus)
{
    size_t right = 0, all = pages / step;
    for (size_t i = 0; i < all; i++) {
        size_t page = i * 7919 % all * step;
        right += at[word(page)] == page + plus;
    }
    return right;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 1;
    pages = strtoul(argv[1], 0, 10) * 256, step = strtoul(argv[2], 0, 10);
    if (ftruncate(3, 0) || ftruncate(3, (off_t)(pages * PAGE)))
        return 1;
    shared = map(MAP_SHARED), private = map(MAP_PRIVATE | MAP_NORESERVE);

    unsigned char there[4];
    if (pwrite(3, "x", 1, 2 * PAGE) != 1 || mincore((void *)shared, sizeof there * PAGE, there))
        return 1;
    printf("in memory before any touch: %d %d %d %d\n", there[0], there[1], there[2], there[3]);

    for (size_t page = 0; page < pages; page += step)
        shared[word(page)] = page + 1;
    printf("%zu of %zu pages are right\n", count(shared, 1), pages / step);
    private[0] = 5;
    printf("of the private map %zu, and its own: %lu\n", count(private, 1), private[0]);
    fflush(stdout);
    if (!fork()) {
        for (size_t page = 0; page < pages; page += step)
            shared[word(page)] += 1;
        _exit(0);
    }
    wait(0);
    printf("a child has written %zu\n", count(shared, 2));
    unsigned long last = 0;
    size_t page = (pages - 1) / step * step;
    printf("the file has the last one: %d\n",
           pread(3, &last, sizeof last, (off_t)(page * PAGE)) == sizeof last && last == page + 2);
    return !!ftruncate(3, 0);
}
