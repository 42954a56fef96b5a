/*
 * Works on the files that it has as descriptors 3 (to be written) and 4 (to be read): by calls, and by memory
 * that shows them. Prints what came of it: the same natively and in a guest.
 *
 * usage: files 3<>WRITTEN 4<READ     or     mmvisor run --file WRITTEN --file READ:ro files
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "answer.h"

enum { PAGE = 4096, WRITTEN = 3, READ = 4, PAGES = 1100 };

static void check(const char *what, int is)
{
    printf("%s: %s\n", what, is ? "yes" : "NO");
    fflush(stdout);
}

static char *map(int fd, int prot, int flags, size_t pages)
{
    char *at = mmap(0, pages * PAGE, prot, flags, fd, 0);
    if (at == MAP_FAILED)
        answer("mmap", -1);
    return at;
}

static unsigned long sum(const char *at, size_t len)
{
    unsigned long sum = 0;
    for (size_t i = 0; i < len; i++)
        sum = sum * 31 + (unsigned char)at[i];
    return sum;
}

static void by_calls(void)
{
    struct stat s;
    TRY(ftruncate(WRITTEN, 0));
    TRY(write(WRITTEN, "hello, file", 11));
    TRY(pwrite(WRITTEN, "x", 1, 3 * PAGE));
    TRY(fstat(WRITTEN, &s));
    printf("%lld bytes, a regular file: %d\n", (long long)s.st_size, S_ISREG(s.st_mode));
    TRY(lseek(WRITTEN, 0, SEEK_CUR));
    TRY(write(READ, "x", 1));
    TRY(pwrite(READ, "x", 1, 0));
    TRY(ftruncate(READ, 1));
    TRY(fcntl(READ, F_GETFL) & O_ACCMODE);
    TRY(fcntl(WRITTEN, F_GETFL) & O_ACCMODE);
    TRY(fcntl(WRITTEN, F_GET_SEALS));
    TRY(fsync(WRITTEN));
}

static void by_memory(void)
{
    char buffer[16] = "";
    char *shared = map(WRITTEN, PROT_READ | PROT_WRITE, MAP_SHARED, 4);
    char *private = map(WRITTEN, PROT_READ | PROT_WRITE, MAP_PRIVATE, 4);
    printf("%.11s, %c, %.11s\n", shared, shared[3 * PAGE], private);
    memcpy(shared, "HELLO", 5);
    TRY(pread(WRITTEN, buffer, 11, 0));
    printf("%s, %.11s\n", buffer, private);
    memcpy(private + 7, "mine", 4);
    TRY(pwrite(WRITTEN, "FILE", 4, 7));
    printf("%.11s, %.11s\n", shared, private);
    TRY(msync(shared, 4 * PAGE, MS_SYNC));
    TRY(madvise(private, PAGE, MADV_DONTNEED));
    printf("%.11s\n", private);
    pid_t child = fork();
    if (!child) {
        memcpy(shared + PAGE, "from the child", 15);
        memcpy(private + PAGE, "the child's own", 16);
        _exit(0);
    }
    waitpid(child, 0, 0);
    printf("%s, %s\n", shared + PAGE, private + PAGE);
    TRY(madvise(shared, PAGE, MADV_REMOVE));
    check("a hole reads as zero", shared[0] == 0 && private[0] == 0);
    munmap(private, 4 * PAGE);
    munmap(shared, 4 * PAGE);
    check("a read-only file is not written", mmap(0, PAGE, PROT_WRITE, MAP_SHARED, READ, 0) == MAP_FAILED
                                                 && errno == EACCES);
    char *copy = map(READ, PROT_READ | PROT_WRITE, MAP_PRIVATE, 1);
    copy[0] ^= 1;
    check("a copy of it is", pread(READ, buffer, 1, 0) == 1 && buffer[0] == (copy[0] ^ 1));
    munmap(copy, PAGE);
}

/* More than one window of 2 MiB, grown while it is mapped. */
static void large(void)
{
    TRY(ftruncate(WRITTEN, PAGE));
    char *shared = map(WRITTEN, PROT_READ | PROT_WRITE, MAP_SHARED, PAGES);
    shared[0] = 1;
    TRY(ftruncate(WRITTEN, (long)PAGES * PAGE));
    for (size_t i = 0; i < PAGES; i++)
        memset(shared + i * PAGE, (int)(i * 7), PAGE);
    char *bytes = malloc((size_t)PAGES * PAGE);
    TRY(pread(WRITTEN, bytes, (size_t)PAGES * PAGE, 0));
    check("a large file is what memory says", !memcmp(bytes, shared, (size_t)PAGES * PAGE));
    printf("its sum is %lx\n", sum(bytes, (size_t)PAGES * PAGE));
    free(bytes);
    munmap(shared, (size_t)PAGES * PAGE);
}

/* What happens to one who touches what is there no more. */
static void shorter(void)
{
    char *shared = map(WRITTEN, PROT_READ | PROT_WRITE, MAP_SHARED, 4);
    char *private = map(WRITTEN, PROT_READ | PROT_WRITE, MAP_PRIVATE, 4);
    for (int i = 0; i < 4; i++)
        shared[i * PAGE] = private[i * PAGE] = 'a';
    TRY(ftruncate(WRITTEN, PAGE + 1));
    check("the rest of the last page is zero", shared[PAGE + 1] == 0);
    char *gone[] = {shared + 2 * PAGE, private + 2 * PAGE, shared + PAGE};
    for (int i = 0; i < 3; i++) {
        fflush(stdout);
        pid_t child = fork();
        if (!child) {
            *(volatile char *)gone[i];
            _exit(0);
        }
        int end;
        waitpid(child, &end, 0);
        printf("touch %d: signal %d\n", i, WIFSIGNALED(end) ? WTERMSIG(end) : 0);
    }
    TRY(write(1, gone[0], 1));
    TRY(pread(READ, gone[0], 1, 0));
    TRY(ftruncate(WRITTEN, 4 * PAGE));
    check("it is longer again, and zero", shared[2 * PAGE] == 0 && private[2 * PAGE] == 0);
    munmap(shared, 4 * PAGE), munmap(private, 4 * PAGE);
}

int main(void)
{
    char *read_only = map(READ, PROT_READ, MAP_SHARED, 2);
    printf("the file to be read has the sum %lx\n", sum(read_only, 2 * PAGE));
    by_calls();
    by_memory();
    large();
    shorter();
    TRY(pwrite(WRITTEN, "the end", 7, 0));
    TRY(ftruncate(WRITTEN, 7));
    return 0;
}
