/* /proc/self/mem: what it reads and writes that the program itself may not (Linux's FOLL_FORCE), what it does not, and what
   comes of it. */
#define _GNU_SOURCE
#include "answer.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096 };

static int mem;

static char *map(int prot, int flags, int fd, off_t offset)
{
    return mmap(0, 4 * PAGE, prot, flags | (fd < 0 ? MAP_ANONYMOUS : 0), fd, offset);
}

static long put(void *to, const char *text, size_t count)
{
    return pwrite(mem, text, count, (off_t)to);
}

static long get(void *from, char *text, size_t count)
{
    memset(text, 0, count);
    return pread(mem, text, count, (off_t)from);
}

/* The permissions in maps, Anonymous and Private_Dirty in smaps, of what is mapped there; VmRSS says nothing new. */
static void shown(void *at)
{
    static char text[1 << 16];
    char want[40], *found;
    int fd = open("/proc/self/smaps", O_RDONLY);
    size_t length = 0;
    for (ssize_t count; (count = read(fd, text + length, sizeof text - 1 - length)) > 0;) length += count;
    text[length] = 0;
    close(fd);
    snprintf(want, sizeof want, "%lx-", (unsigned long)at);
    if (!(found = strstr(text, want))) {
        puts("not shown");
        return;
    }
    int dirty = 0, own = 0;
    sscanf(strstr(found, "Private_Dirty:"), "Private_Dirty: %d", &dirty);
    sscanf(strstr(found, "Anonymous:"), "Anonymous: %d", &own);
    printf("%.4s dirty %d own %d\n", strchr(found, ' ') + 1, dirty, own);
}

static int file(void)
{
    char path[] = "/tmp/forced.XXXXXX";
    int fd = mkstemp(path);
    unlink(path);
    for (int page = 0; page < 4; page++) {
        char text[PAGE];
        memset(text, 'a' + page, PAGE);
        if (write(fd, text, PAGE) != PAGE) perror("write");
    }
    return fd;
}

static void anonymous(int prot, const char *what)
{
    char text[16], *at = map(PROT_READ | PROT_WRITE, MAP_PRIVATE, -1, 0);
    printf("private, %s\n", what);
    strcpy(at + PAGE, "own");
    mprotect(at, 4 * PAGE, prot);
    TRY(get(at, text, 4));
    TRY(get(at + PAGE, text, 4));
    puts(text);
    TRY(put(at + PAGE, "new", 4));
    TRY(put(at + 2 * PAGE, "fresh", 6));
    TRY(put(at, "zeros", 6));
    shown(at);
    mprotect(at, 4 * PAGE, PROT_READ);
    printf("%s %s %s\n", at, at + PAGE, at + 2 * PAGE);
    munmap(at, 4 * PAGE);
}

static void of_file(int flags, int prot, const char *what, int fd)
{
    char text[16], *at = map(prot, flags, fd, 0);
    printf("%s\n", what);
    TRY(get(at, text, 4));
    printf("%.4s\n", text);
    TRY(put(at, "new", 3));
    if (prot & PROT_READ) printf("%.4s\n", at + PAGE);
    TRY(put(at + PAGE + 4094, "across", 6));
    mprotect(at, 4 * PAGE, PROT_READ);
    printf("%.4s %.4s %.6s\n", at, at + 2 * PAGE, at + PAGE + 4094);
    if (pread(fd, text, 4, 0) == 4) printf("file: %.4s\n", text);
    munmap(at, 4 * PAGE);
}

static int after(char *at)
{
    return *(volatile char *)at;
}

int main(void)
{
    mem = open("/proc/self/mem", O_RDWR);
    anonymous(PROT_READ, "to be read");
    anonymous(PROT_NONE, "nothing allowed");
    anonymous(PROT_EXEC, "to be executed");
    anonymous(PROT_WRITE, "to be written");

    int fd = file(), memfd = memfd_create("forced", 0);
    if (ftruncate(memfd, 4 * PAGE) || pwrite(memfd, "aaaa", 4, 0) != 4) perror("memfd");
    of_file(MAP_PRIVATE, PROT_READ, "private of a file, to be read", fd);
    of_file(MAP_PRIVATE, PROT_NONE, "private of a file, nothing allowed", fd);
    of_file(MAP_PRIVATE, PROT_READ | PROT_EXEC, "private of a file, code", fd);
    of_file(MAP_PRIVATE, PROT_READ, "private of a memfd", memfd);
    of_file(MAP_SHARED, PROT_READ, "shared of a memfd, to be read", memfd);
    of_file(MAP_SHARED, PROT_NONE, "shared of a memfd, nothing allowed", memfd);
    of_file(MAP_SHARED, PROT_READ | PROT_WRITE, "shared of a memfd, all allowed", memfd);
    int reader = open("/proc/self/exe", O_RDONLY);
    of_file(MAP_SHARED, PROT_READ, "shared of a file that is open to be read", reader);
    char text[3 * PAGE], *at = map(PROT_NONE, MAP_SHARED, -1, 0);
    puts("shared anonymous, nothing allowed");
    TRY(get(at, text, 4));
    TRY(put(at, "new", 3));

    /* A breakpoint in code that runs. */
    unsigned char code[16];
    puts("code");
    TRY(get((void *)after, (char *)code, 1));
    TRY(put((void *)after, (char *)code, 1));
    printf("%d\n", after("x"));

    /* Page by page, and what is not there. */
    puts("parts");
    at = map(PROT_READ | PROT_WRITE, MAP_PRIVATE, -1, 0);
    munmap(at + 2 * PAGE, PAGE);
    strcpy(at + 2 * PAGE - 8, "the end");
    TRY(get(at + 2 * PAGE - 8, text, 100));
    puts(text);
    TRY(get(at + 2 * PAGE, text, 100));
    TRY(get(at, text, 3 * PAGE));
    TRY(put(at + 2 * PAGE - 3, "across", 6));
    printf("%.3s\n", at + 2 * PAGE - 3);
    TRY(put(at + 2 * PAGE, "x", 1));
    TRY(put(at + PAGE, "x", 0));
    TRY(get(0, text, 1));
    TRY(madvise(at, PAGE, 102));
    TRY(get(at, text, 1));
    TRY(put(at, "x", 1));
    at = map(PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 2 * PAGE);
    TRY(get(at + 2 * PAGE - 1, text, 2));
    TRY(get(at + 2 * PAGE, text, 1));
    TRY(put(at + 2 * PAGE, "x", 1));
    /* Buffers that are not there. */
    at = map(PROT_READ, MAP_PRIVATE, -1, 0);
    char *volatile nowhere = (char *)8;
    TRY(pread(mem, nowhere, 1, (off_t)at));
    TRY(pwrite(mem, nowhere, 1, (off_t)at));
    TRY(pread(mem, nowhere, 1, 0));
    TRY(pwrite(mem, nowhere, 1, 0));
    char *room = map(PROT_READ | PROT_WRITE, MAP_PRIVATE, -1, 0);
    munmap(room + PAGE, PAGE);
    TRY(pread(mem, room, 2 * PAGE, (off_t)at));
    TRY(pwrite(mem, room, 2 * PAGE, (off_t)at));
    TRY(pread(mem, room + PAGE - 5, 10, (off_t)at));
    TRY(pwrite(mem, room + PAGE - 5, 10, (off_t)at));

    /* Each has his own after fork. */
    puts("fork");
    at = map(PROT_READ | PROT_WRITE, MAP_PRIVATE, -1, 0);
    strcpy(at, "both");
    strcpy(at + PAGE, "both");
    mprotect(at, 4 * PAGE, PROT_NONE);
    fflush(stdout);
    if (!fork()) {
        close(mem);
        mem = open("/proc/self/mem", O_RDWR);
        put(at, "child", 6);
        get(at, text, 6), printf("child: %s", text);
        get(at + PAGE, text, 6), printf(" %s\n", text);
        fflush(stdout);
        _exit(0);
    }
    wait(0);
    put(at + PAGE, "parent", 7);
    get(at, text, 6), printf("parent: %s", text);
    get(at + PAGE, text, 7), printf(" %s\n", text);
    mprotect(at, 4 * PAGE, PROT_READ | PROT_WRITE);
    at[0] = 'B';
    printf("%s %s\n", at, at + PAGE);

    /* Huge pages. */
    at = mmap((void *)0x200000000000, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    madvise(at, 2 << 20, MADV_HUGEPAGE);
    strcpy(at + 5 * PAGE, "huge");
    mprotect(at, 2 << 20, PROT_NONE);
    puts("huge");
    TRY(get(at + 5 * PAGE, text, 5));
    puts(text);
    TRY(put(at + 5 * PAGE, "HUGE", 5));
    TRY(put(at + 6 * PAGE, "more", 5));
    TRY(get(at + 7 * PAGE, text, 5));
    mprotect(at, 2 << 20, PROT_READ);
    printf("%s %s\n", at + 5 * PAGE, at + 6 * PAGE);
    /* The stack grows for it. */
    puts("stack");
    char *below = (char *)(((long)&at & -PAGE) - 40 * PAGE);
    TRY(put(below, "deep", 5));
    puts(below);
    return 0;
}
