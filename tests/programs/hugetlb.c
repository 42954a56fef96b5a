/*
 * Uses huge pages of the pool in every way that gives, shares, copies, moves or takes one, and looks at their bytes
 * each time. What is printed is Linux's, with a pool of eight pages that nobody else uses.
 *
 * usage: hugetlb ROUNDS   (with --hugetlb=2M:8)
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "answer.h"

#define HUGE (2ul << 20)
#define WORDS (HUGE / sizeof(uint64_t))

enum { POOL = 8 };

static char *base, *elsewhere;
/* What processes tell each other. */
static volatile int *told;

static void die(const char *what, long page)
{
    printf("hugetlb: %s, page %ld\n", what, page);
    exit(1);
}

static uint64_t *page_at(char *start, long page)
{
    return (uint64_t *)(start + page * HUGE);
}

static void put(char *start, long page, uint64_t seed)
{
    uint64_t *at = page_at(start, page);
    for (unsigned i = 0; i < WORDS; i += 511)
        at[i] = seed * 6364136223846793005ull + i;
}

static void look(char *start, long page, uint64_t seed, const char *when)
{
    uint64_t *at = page_at(start, page);
    for (unsigned i = 0; i < WORDS; i += 511)
        if (at[i] != (seed ? seed * 6364136223846793005ull + i : 0))
            die(when, page);
}

static long map(char *at, long pages, int flags)
{
    flags |= MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED;
    char *map = mmap(at, pages * HUGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    return map == MAP_FAILED ? -1 : map - at;
}

static void tell(int what)
{
    *told = what;
}

static void wait_for(int what)
{
    while (*told != what)
        ;
}

/* By what signal a process ends that does this; 0 if by none. */
#define SIGNAL_OF(deed)                                                     \
    ({                                                                      \
        pid_t child = fork();                                               \
        if (child == 0) {                                                   \
            deed;                                                           \
            _exit(0);                                                       \
        }                                                                   \
        ending(child);                                                      \
    })

static int ending(pid_t child)
{
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child)
        die("no child", child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static void promises(void)
{
    TRY(map(base, POOL + 1, MAP_PRIVATE));
    TRY(map(base, POOL, MAP_PRIVATE));
    TRY(map(elsewhere, 1, MAP_PRIVATE));
    TRY(map(elsewhere, 1, MAP_SHARED));
    TRY(map(elsewhere, 2, MAP_PRIVATE | MAP_NORESERVE));
    TRY(SIGNAL_OF(put(elsewhere, 0, 1)));
    for (long page = 0; page < POOL; page++)
        put(base, page, page + 1);
    TRY(munmap(base + 4 * HUGE, HUGE));
    TRY(SIGNAL_OF(put(elsewhere, 0, 1)));
    TRY(madvise(base, HUGE, MADV_DONTNEED));
    look(elsewhere, 1, 0, "promised to nobody");
    TRY(SIGNAL_OF(put(elsewhere, 0, 1)));
    look(base, 0, 0, "dropped");
    TRY(munmap(base, POOL * HUGE));
    TRY(munmap(elsewhere, 2 * HUGE));
}

/* Both sides of a fork write; the child finds no page, the parent takes the child's. */
static void forks(void)
{
    TRY(map(base, POOL, MAP_PRIVATE));
    for (long page = 0; page < POOL; page++)
        put(base, page, page + 1);
    TRY(SIGNAL_OF(put(base, 0, 9)));
    tell(0);
    pid_t child = fork();
    if (child == 0) {
        look(base, 1, 2, "the child's");
        tell(1);
        wait_for(2);
        look(base, 2, 3, "the child's");
        tell(3);
        look(base, 1, 2, "what the parent took");
        _exit(0);
    }
    wait_for(1);
    put(base, 1, 20);
    tell(2);
    wait_for(3);
    TRY(ending(child));
    look(base, 1, 20, "the parent's");
    TRY(munmap(base + 4 * HUGE, 4 * HUGE));
    tell(0);
    child = fork();
    if (child == 0) {
        for (long page = 0; page < 4; page++)
            put(base, page, page + 30);
        tell(1);
        wait_for(2);
        for (long page = 0; page < 4; page++)
            look(base, page, page + 30, "the child's copy");
        _exit(0);
    }
    wait_for(1);
    for (long page = 0; page < 4; page++)
        look(base, page, page == 1 ? 20 : page + 1, "the parent's, copied by the child");
    for (long page = 0; page < 4; page++)
        put(base, page, page + 40);
    tell(2);
    TRY(ending(child));
    for (long page = 0; page < 4; page++)
        look(base, page, page + 40, "the parent's, written anew");
    TRY(munmap(base, 4 * HUGE));
}

static void changes(void)
{
    /* Of a part of a map that moves Linux forgets what the rest was promised. */
    TRY(map(base, 1, MAP_PRIVATE));
    TRY(map(base + HUGE, 1, MAP_PRIVATE));
    put(base, 0, 1);
    put(base, 1, 2);
    TRY(mprotect(base, 4096, PROT_READ));
    TRY(mprotect(base, HUGE, PROT_READ));
    TRY(SIGNAL_OF(put(base, 0, 3)));
    look(base, 0, 1, "read-only");
    TRY(mprotect(base, HUGE, PROT_READ | PROT_WRITE));
    put(base, 0, 4);
    TRY(mremap(base + HUGE, HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere) != elsewhere);
    look(elsewhere, 0, 2, "moved");
    put(elsewhere, 0, 5);
    TRY(SIGNAL_OF(put(base, 1, 6)));
    TRY(madvise(elsewhere, HUGE, MADV_DONTNEED));
    look(elsewhere, 0, 0, "moved and dropped");
    look(base, 0, 4, "left");
    TRY(munmap(base, 4096));
    TRY(munmap(base, 3 * HUGE));
    TRY(munmap(elsewhere, HUGE));
}

static void memfds(void)
{
    int fd = memfd_create("huge", MFD_HUGETLB);
    uint64_t word = 0;
    TRY(ftruncate(fd, 3 * HUGE));
    TRY(mmap(base, 3 * HUGE, 3, MAP_SHARED | MAP_FIXED, fd, 0) != base);
    TRY(mmap(elsewhere, 3 * HUGE, 3, MAP_PRIVATE | MAP_FIXED, fd, 0) != elsewhere);
    put(base, 0, 1);
    look(elsewhere, 0, 1, "the file's");
    put(elsewhere, 0, 2);
    look(base, 0, 1, "the file's, copied");
    TRY(SIGNAL_OF(put(base, 1, 3)));
    look(base, 1, 3, "the child's");
    TRY(pread(fd, &word, sizeof word, HUGE) != sizeof word || word != *page_at(base, 1));
    TRY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, HUGE));
    look(base, 0, 0, "the hole");
    look(elsewhere, 0, 0, "the hole, once copied");
    TRY(fallocate(fd, 0, 2 * HUGE, HUGE));
    TRY(fallocate(fd, 0, 0, 20 * HUGE));
    TRY(ftruncate(fd, HUGE));
    TRY(SIGNAL_OF(put(base, 1, 3)));
    TRY(SIGNAL_OF(look(elsewhere, 2, 0, "past the end")));
    TRY(munmap(base, 3 * HUGE));
    TRY(munmap(elsewhere, 3 * HUGE));
    TRY(close(fd));
}

/* The same addresses, again and again of other memory. */
static void turns(unsigned rounds)
{
    for (unsigned round = 1; round <= rounds; round++) {
        if (map(base, POOL, round % 2 ? MAP_PRIVATE : MAP_SHARED) != 0)
            die("no promise", round);
        for (long page = 0; page < POOL; page++) {
            look(base, page, 0, "fresh");
            put(base, page, round + page);
        }
        for (long page = 0; page < POOL; page++)
            look(base, page, round + page, "just written");
        char *small = mmap(base, POOL * HUGE, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (small != base)
            die("no small pages", round);
        for (long page = 0; page < POOL; page++) {
            if (*page_at(base, page) != 0)
                die("a small page is the huge one", page);
            *page_at(base, page) = 1;
        }
    }
    TRY(munmap(base, POOL * HUGE));
    printf("%u rounds\n", rounds);
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? atoi(argv[1]) : 1;
    base = (char *)0x10000000000;
    elsewhere = base + 64 * HUGE;
    told = mmap(NULL, 4096, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    promises();
    forks();
    changes();
    memfds();
    turns(rounds);
    return 0;
}
