/* The ioctls of /proc/PID/maps (PROCMAP_QUERY) and /proc/PID/pagemap (PAGEMAP_SCAN): every flag and category that a program
   can bring about, and what is wrong in the order in which it is found. Addresses are told from the start of the memory
   that is asked about. */
#define _GNU_SOURCE
#include "answer.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096 };

struct query {
    uint64_t size, flags, addr, start, end, vma_flags, page_size, offset, inode;
    uint32_t major, minor, name_size, id_size;
    uint64_t name, id;
    uint64_t more; /* Not Linux's: what a later version might have. */
};

enum { QUERY_SIZE = 104, READABLE = 1, WRITABLE = 2, EXECUTABLE = 4, SHARED = 8, NEXT = 16, FILE_BACKED = 32 };

#define PROCMAP_QUERY 0xc0686611
#define PAGEMAP_SCAN 0xc0606610

static char *base;
static int maps, pagemap;

static struct query ask(uint64_t flags, void *at)
{
    return (struct query){.size = QUERY_SIZE, .flags = flags, .addr = (uintptr_t)at};
}

/* What is found of an address, its name included. */
static void tell(const char *what, uint64_t flags, void *at)
{
    char name[4096] = "";
    struct query q = ask(flags, at);
    q.name = (uintptr_t)name, q.name_size = sizeof name;
    if (ioctl(maps, PROCMAP_QUERY, &q)) {
        printf("%s: errno %d\n", what, errno);
        return;
    }
    char *last = strrchr(name, '/');
    printf("%s: %ld..%ld flags %lx page %lu offset %lx inode %d device %d name %u '%s'\n", what,
           (long)(q.start - (uintptr_t)base), (long)(q.end - (uintptr_t)base), q.vma_flags, q.page_size, q.offset, q.inode != 0,
           q.major || q.minor, last ? 0 : q.name_size, last ? last : name);
}

static void queries(void)
{
    maps = open("/proc/self/maps", O_RDONLY);
    int memfd = memfd_create("asked", 0);
    if (ftruncate(memfd, 8 * PAGE)) perror("ftruncate");
    base = mmap(0, 32 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mmap(base + 4 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd, PAGE);
    mmap(base + 8 * PAGE, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, memfd, 2 * PAGE);
    mmap(base + 12 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    mmap(base + 16 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    munmap(base + 20 * PAGE, PAGE);

    tell("none", 0, base + 5);
    tell("shared", 0, base + 5 * PAGE + 17);
    tell("private file", 0, base + 8 * PAGE);
    tell("shared anonymous", 0, base + 12 * PAGE);
    tell("hole", 0, base + 20 * PAGE);
    tell("after the hole", NEXT, base + 20 * PAGE);
    tell("writable here", WRITABLE, base);
    tell("writable next", NEXT | WRITABLE, base);
    tell("executable next", NEXT | EXECUTABLE, base);
    tell("executable and readable next", NEXT | EXECUTABLE | READABLE, base + PAGE);
    tell("shared next", NEXT | SHARED, base + 9 * PAGE);
    tell("file next", NEXT | FILE_BACKED, base + 9 * PAGE);
    tell("file here", FILE_BACKED, base + 16 * PAGE);
    tell("readable only", READABLE, base + 16 * PAGE);
    tell("nothing above", NEXT, (void *)0xfffffffffffff000);
    tell("shared here, not readable", SHARED | READABLE | WRITABLE | EXECUTABLE, base + 5 * PAGE);
    int on_stack;
    char name[64];
    struct query q = ask(0, &on_stack);
    q.name = (uintptr_t)name, q.name_size = sizeof name;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    printf("%s %u %lx\n", name, q.name_size, q.vma_flags);
    q = ask(0, sbrk(4096));
    q.name = (uintptr_t)name, q.name_size = 6;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    q.name_size = 7;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    printf("%s %u\n", name, q.name_size);

    /* Names: too little room, none, nowhere. */
    q = ask(0, base + 4 * PAGE);
    q.name = (uintptr_t)name, q.name_size = 5;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    q.name_size = sizeof "/memfd:asked (deleted)" - 1;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    q.name_size++;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    printf("%u %s\n", q.name_size, name);
    q.name_size = 60, q.name = 8;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    q = ask(0, base);
    q.name_size = 60, q.name = 8;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    printf("%u\n", q.name_size);
    q.name_size = 60, q.name = 0;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    q.name_size = 0, q.name = 8;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    q.flags = 64;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));

    /* Identities of builds. */
    unsigned char id[32] = "";
    q = ask(FILE_BACKED, (void *)&queries);
    q.id = (uintptr_t)id, q.id_size = sizeof id;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    printf("%u: ", q.id_size);
    for (unsigned at = 0; at < sizeof id; at++) printf("%02x", id[at]);
    puts("");
    q.id_size = 19;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    q.id_size = 20;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    printf("%u\n", q.id_size);
    q.id = 8;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    q.id_size = 0;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    q = ask(0, base + 4 * PAGE);
    q.id = (uintptr_t)id, q.id_size = sizeof id;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    printf("%u\n", q.id_size);
    q = ask(0, base);
    q.id = (uintptr_t)id, q.id_size = sizeof id;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    printf("%u\n", q.id_size);

    /* Sizes: what is older, what is newer. */
    static const uint64_t sizes[] = {0, 8, 23, 24, 31, 80, 104, 112, 4096, 4097, -1ul};
    for (unsigned at = 0; at < sizeof sizes / sizeof *sizes; at++) {
        static struct query big[80];
        memset(big, 0, sizeof big);
        *big = ask(NEXT, base + 4 * PAGE);
        big->size = sizes[at];
        int result = ioctl(maps, PROCMAP_QUERY, big);
        printf("size %ld: %d errno %d, %d %d\n", sizes[at], result, result ? errno : 0, big->start != 0, big->page_size != 0);
    }
    q = ask(64, base);
    q.size = 112, q.more = 1;
    TRY(ioctl(maps, PROCMAP_QUERY, &q));
    TRY(ioctl(maps, PROCMAP_QUERY, 8));
    TRY(ioctl(maps, PROCMAP_QUERY, base + 16 * PAGE));
    char *edge = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(edge + PAGE, PAGE, PROT_NONE);
    q = ask(0, base);
    memcpy(edge + PAGE - 100, &q, 100);
    TRY(ioctl(maps, PROCMAP_QUERY, edge + PAGE - 100));
    q = ask(0, base);
    q.size = 24;
    memcpy(edge + PAGE - 24, &q, 24);
    TRY(ioctl(maps, PROCMAP_QUERY, edge + PAGE - 24));
    q = ask(0, base);
    memcpy(edge, &q, 104);
    mprotect(edge, PAGE, PROT_READ);
    TRY(ioctl(maps, PROCMAP_QUERY, edge));

    /* Other files, other requests. */
    q = ask(0, base);
    int smaps = open("/proc/self/smaps", O_RDONLY), status = open("/proc/self/status", O_RDONLY);
    pagemap = open("/proc/self/pagemap", O_RDONLY);
    int mem = open("/proc/self/mem", O_RDONLY);
    TRY(ioctl(smaps, PROCMAP_QUERY, &q));
    TRY(ioctl(status, PROCMAP_QUERY, &q));
    TRY(ioctl(mem, PROCMAP_QUERY, &q));
    TRY(ioctl(pagemap, PROCMAP_QUERY, &q));
    TRY(ioctl(maps, PAGEMAP_SCAN, &q));
    TRY(ioctl(mem, PAGEMAP_SCAN, &q));

    /* Another process; one that has ended; one that is another program. */
    fflush(stdout);
    int pipes[2];
    if (pipe(pipes)) perror("pipe");
    pid_t child = fork();
    if (!child) {
        char byte;
        munmap(base + 4 * PAGE, PAGE);
        if (read(pipes[0], &byte, 1) == 1) _exit(0);
    }
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/maps", child);
    int others = open(path, O_RDONLY);
    errno = 0;
    do q = ask(NEXT | WRITABLE, base);
    while (!ioctl(others, PROCMAP_QUERY, &q) && q.start == (uintptr_t)base + 4 * PAGE);
    printf("child: %ld, errno %d\n", (long)(q.start - (uintptr_t)base), errno);
    if (write(pipes[1], "x", 1) != 1) perror("write");
    wait(0);
    TRY(ioctl(others, PROCMAP_QUERY, &q));
    close(others);
    munmap(base, 32 * PAGE);
}

struct scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, anyof, returned;
};

struct region {
    uint64_t start, end, categories;
};

enum {
    WPALLOWED = 1, WRITTEN = 2, FILES = 4, PRESENT = 8, SWAPPED = 16, PFNZERO = 32, HUGE = 64, SOFT_DIRTY = 128, GUARD = 256,
    /* Whether soft-dirty bits are kept is the kernel's affair, and was there is a matter of tables. */
    ALL = FILES | PRESENT | SWAPPED | PFNZERO | HUGE | GUARD | WPALLOWED,
};

enum { WP_MATCHING = 1, CHECK_WPASYNC = 2 };

static struct region regions[2000];

static struct scan over(uint64_t from, uint64_t to)
{
    return (struct scan){.size = sizeof(struct scan),
                         .start = (uintptr_t)base + from * PAGE,
                         .end = (uintptr_t)base + to * PAGE,
                         .vec = (uintptr_t)regions,
                         .vec_len = 2000,
                         .returned = ALL};
}

static void scan(const char *what, struct scan *s)
{
    long count = ioctl(pagemap, PAGEMAP_SCAN, s);
    if (count < 0) {
        printf("%s: errno %d, to %ld\n", what, errno, s->walk_end ? (long)(s->walk_end - (uintptr_t)base) / PAGE : -1);
        return;
    }
    printf("%s: %ld to %ld:", what, count, (long)(s->walk_end - (uintptr_t)base) / PAGE);
    for (long at = 0; at < count && at < 20 && s->vec; at++)
        printf(" %ld-%ld:%lx", (long)(regions[at].start - (uintptr_t)base) / PAGE, (long)(regions[at].end - (uintptr_t)base) / PAGE,
               regions[at].categories);
    puts("");
}

static void scans(void)
{
    char *fixed = (char *)0x200000000000;
    base = mmap(fixed, 1024 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    madvise(base, 1024 * PAGE, MADV_NOHUGEPAGE);
    int memfd = memfd_create("scanned", 0);
    if (ftruncate(memfd, 64 * PAGE)) perror("ftruncate");
    /* 2, 3 own; 5 read; 7 a guard; 10..14 shared, of which 11, 12 were written; 16..20 private of a file, 17 read, 18 written;
       24 own without rights; 28 a hole. */
    base[2 * PAGE] = base[3 * PAGE] = 1;
    volatile char seen = base[5 * PAGE];
    TRY(madvise(base + 7 * PAGE, PAGE, 102));
    mmap(base + 10 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd, 0);
    base[11 * PAGE] = base[12 * PAGE] = 1;
    mmap(base + 16 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, memfd, 32 * PAGE);
    madvise(base + 16 * PAGE, 4 * PAGE, MADV_RANDOM);
    if (pwrite(memfd, "x", 1, 33 * PAGE) != 1) perror("pwrite");
    seen = base[17 * PAGE];
    base[18 * PAGE] = 1;
    base[24 * PAGE] = 1;
    mprotect(base + 24 * PAGE, PAGE, PROT_NONE);
    munmap(base + 28 * PAGE, PAGE);
    (void)seen;

    struct scan s = over(0, 64);
    s.anyof = ALL;
    scan("all there is", &s);
    s = over(0, 64), scan("all pages", &s);
    static const uint64_t kinds[] = {PRESENT, FILES, PFNZERO, GUARD, SWAPPED, HUGE, WPALLOWED};
    for (unsigned at = 0; at < sizeof kinds / sizeof *kinds; at++) {
        char what[64];
        s = over(0, 64), s.mask = kinds[at];
        snprintf(what, sizeof what, "mask %lx", kinds[at]), scan(what, &s);
        s = over(0, 64), s.mask = s.inverted = kinds[at];
        snprintf(what, sizeof what, "not %lx", kinds[at]), scan(what, &s);
        s = over(0, 64), s.anyof = kinds[at] | PFNZERO, s.returned = kinds[at];
        snprintf(what, sizeof what, "any of %lx, 20", kinds[at]), scan(what, &s);
    }
    s = over(0, 64), s.mask = PRESENT | FILES, s.inverted = FILES, scan("own pages", &s);
    s = over(0, 64), s.mask = PRESENT, s.returned = 0, scan("nothing told", &s);
    /* What was there and is written: by another way than the rest, where nothing else is asked for. */
    s = over(0, 64), s.mask = WRITTEN, s.returned = WRITTEN | PRESENT, scan("written, present", &s);
    s = over(0, 64), s.mask = WRITTEN | PRESENT, s.returned = WRITTEN, scan("written and present", &s);
    s = over(0, 64), s.anyof = WRITTEN, s.returned = WRITTEN, scan("any of written", &s);
    s = over(0, 64), s.mask = s.inverted = WRITTEN, s.returned = WRITTEN, scan("not written", &s);
    s = over(0, 64), s.mask = s.returned = WRITTEN, scan("written alone", &s);
    s = over(600, 1024), s.mask = s.returned = WRITTEN, scan("written, no table", &s);

    for (int most = 1; most < 12; most += 2) {
        s = over(0, 64), s.mask = PRESENT, s.max_pages = most, scan("so many pages", &s);
        s = over(0, 64), s.mask = PRESENT, s.vec_len = most, scan("so many regions", &s);
    }
    s = over(0, 64), s.anyof = ALL, s.max_pages = 4, s.vec_len = 2, scan("both", &s);
    s = over(0, 64), s.mask = PRESENT, s.vec = s.vec_len = 0, scan("no room", &s);
    s = over(0, 64), s.mask = PRESENT, s.vec_len = 0, s.max_pages = 1, scan("no room, a place", &s);
    s = over(3, 3), s.mask = PRESENT, scan("nothing", &s);
    s = over(0, 64), s.mask = PRESENT, s.end -= 64 * PAGE - 5, scan("a part of a page", &s);
    s = over(2, 3), s.end -= 1, scan("a part of page 2", &s);
    s = over(64, 70), scan("no entries", &s);
    s = over(27, 30), scan("around the hole", &s);
    s = over(28, 29), scan("the hole", &s);
    s = over(0, 64), s.mask = PRESENT, s.walk_end = 7, s.max_pages = 100, scan("walk_end is written only", &s);

    /* More than is kept at once. */
    for (int page = 0; page < 1024; page += 2)
        if (page > 128) base[page * PAGE] = 1;
    s = over(0, 1024), s.mask = PRESENT, scan("many", &s);
    char *more = mmap(base + 2048 * PAGE, 2048 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    madvise(more, 2048 * PAGE, MADV_NOHUGEPAGE);
    for (int page = 0; page < 1400; page += 2) more[page * PAGE] = 1;
    s = over(2048, 4096), s.mask = PRESENT, scan("more", &s);
    s = over(2048, 4096), s.mask = PRESENT, s.vec_len = 513, scan("513", &s);
    s = over(2048, 4096), s.mask = PRESENT, s.vec_len = 512, scan("512", &s);
    s = over(2048, 4096), s.mask = PRESENT, s.max_pages = 513, scan("513 pages", &s);
    s = over(2048, 4096), s.mask = PRESENT, s.max_pages = 512, scan("512 pages", &s);

    /* Huge pages. */
    char *huge = mmap(fixed + (1 << 30), 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    TRY(madvise(huge, 4 << 20, MADV_HUGEPAGE));
    huge[0] = 1;
    seen = huge[2 << 20];
    base = huge;
    s = over(0, 1024), scan("huge", &s);
    s = over(0, 1024), s.mask = HUGE | PFNZERO, scan("huge zeros", &s);
    s = over(5, 700), s.mask = HUGE, s.max_pages = 100, scan("a part of a huge one", &s);
    s = over(5, 700), s.mask = HUGE, s.vec_len = 1, scan("one region", &s);
    base = fixed;

    /* Memory whose writes are noted without asking anybody. */
    int uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
    struct { uint64_t version, features, calls; } api = {0xaa, 1 << 15, 0};
    TRY(ioctl(uffd, 0xc018aa3f, &api));
    struct { uint64_t start, len, mode, calls; } range = {(uintptr_t)fixed + 32 * PAGE, 8 * PAGE, 2, 0};
    base[33 * PAGE] = 1;
    TRY(ioctl(uffd, 0xc020aa00, &range));
    s = over(30, 42), scan("some noted", &s);
    s = over(30, 42), s.mask = WPALLOWED, scan("noted", &s);
    s = over(30, 42), s.mask = s.inverted = WPALLOWED, scan("not noted", &s);
    s = over(32, 40), s.flags = CHECK_WPASYNC, s.returned |= WRITTEN, scan("checked", &s);
    s = over(30, 42), s.flags = CHECK_WPASYNC, scan("checked before", &s);
    s = over(33, 42), s.flags = CHECK_WPASYNC, scan("checked behind", &s);
    s = over(30, 42), s.flags = WP_MATCHING, s.vec_len = 2, scan("protected in part", &s);
    s = over(30, 42), scan("some protected", &s);
    s = over(30, 42), s.flags = WP_MATCHING, s.vec = s.vec_len = 0, scan("protected", &s);
    s = over(30, 42), scan("all protected", &s);
    base[33 * PAGE] = base[36 * PAGE] = 2;
    seen = base[38 * PAGE];
    s = over(32, 40), s.mask = WRITTEN, s.flags = WP_MATCHING | CHECK_WPASYNC, scan("written since", &s);
    s = over(32, 40), s.mask = WRITTEN, scan("and protected again", &s);
    s = over(30, 42), scan("all of them", &s);
    TRY(ioctl(uffd, 0x8010aa01, &range));
    s = over(32, 40), s.flags = CHECK_WPASYNC, scan("no more", &s);

    /* What is wrong, the first thing first. */
    s = over(0, 64), s.size = 0, s.flags = 4, scan("size", &s);
    s = over(0, 64), s.size = sizeof s + 8, scan("size too large", &s);
    s = over(0, 64), s.flags = 4, s.start = 1, scan("flags", &s);
    s = over(0, 64), s.mask = 512, scan("mask", &s);
    s = over(0, 64), s.anyof = 512, scan("anyof", &s);
    s = over(0, 64), s.inverted = 512, scan("inverted", &s);
    s = over(0, 64), s.returned = 512, scan("returned", &s);
    s = over(0, 64), s.start += 1, s.end = -1, scan("start", &s);
    s = over(0, 64), s.end = 1ul << 63, scan("end", &s);
    s = over(64, 0), scan("backwards", &s);
    s = over(0, 64), s.vec = 0, scan("no vector", &s);
    s = over(0, 64), s.vec = -8, scan("vector", &s);
    s = over(0, 64), s.vec_len = -1, scan("vector's length", &s);
    s = over(0, 64), s.vec = 8, scan("vector that is not there", &s);
    s = over(64, 70), s.mask = PRESENT, s.vec = 8, scan("vector that is not used", &s);
    s = over(0, 1ul << 35), s.mask = PRESENT, s.end = 0x7ffffffff000, s.max_pages = 6, scan("far", &s);
    TRY(ioctl(pagemap, PAGEMAP_SCAN, 8));
    TRY(ioctl(pagemap, 0x5401, 0));
    TRY(ioctl(pagemap, PAGEMAP_SCAN + 1, 0));
    char *edge = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    s = over(0, 64), s.mask = PRESENT;
    memcpy(edge, &s, sizeof s);
    mprotect(edge, PAGE, PROT_READ);
    TRY(ioctl(pagemap, PAGEMAP_SCAN, edge));
    s = over(0, 64), s.flags = CHECK_WPASYNC, scan("not registered", &s);
    s = over(0, 64), s.flags = WP_MATCHING, scan("not to be protected", &s);
    s = over(0, 64), s.flags = WP_MATCHING | CHECK_WPASYNC, s.vec = s.vec_len = 0, scan("both flags", &s);
    s = over(28, 29), s.flags = CHECK_WPASYNC, scan("both flags in the hole", &s);
}

int main(void)
{
    queries();
    scans();
    return 0;
}
