/*
 * Memory with a descriptor: written, read, mapped, cut and sealed, by one process and by its child. Of huge pages,
 * too, of which there are none. Prints what each call answers: the same natively and in a guest.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "answer.h"

/* Not every C library has them. */
#ifndef FALLOC_FL_ZERO_RANGE
#define FALLOC_FL_COLLAPSE_RANGE 0x08
#define FALLOC_FL_ZERO_RANGE 0x10
#endif
#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4
#endif

enum { PAGE = 4096, HUGE = 2 << 20 };

static char *volatile nowhere = (char *)16;

static void status(const char *when, int fd)
{
    struct stat s;
    memset(&s, 0xff, sizeof s);
    if (fstat(fd, &s))
        return answer("fstat", -1);
    printf("%s: %lld bytes, %lld blocks of 512, in %ld, mode %o, %ld links\n", when, (long long)s.st_size,
           (long long)s.st_blocks, (long)s.st_blksize, s.st_mode, (long)s.st_nlink);
}

static void flags_of_creation(void)
{
    char name[252];
    memset(name, 'n', sizeof name);
    name[249] = 0;
    TRY(close(memfd_create(name, 0)));
    name[249] = 'n', name[250] = 0;
    TRY(memfd_create(name, 0));
    name[250] = 'n', name[251] = 0;
    TRY(memfd_create(name, 0));
    TRY(memfd_create("flags", 0x20));
    TRY(memfd_create("flags", 1 << 26));
    TRY(memfd_create("both", 0x18));
    TRY(memfd_create(nowhere, 0));
    int fd = memfd_create("plain", MFD_CLOEXEC);
    TRY(fcntl(fd, F_GETFD));
    TRY(fcntl(fd, F_GETFL));
    TRY(fcntl(fd, F_GET_SEALS));
    TRY(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    status("plain", fd);
    close(fd);
    fd = memfd_create("never executable", 8);
    TRY(fcntl(fd, F_GET_SEALS));
    status("never executable", fd);
    close(fd);
}

static void bytes(int fd)
{
    char buffer[3 * PAGE], pair[2][8];
    memset(buffer, 'x', sizeof buffer);
    TRY(write(fd, buffer, PAGE + 10));
    TRY(lseek(fd, 0, SEEK_CUR));
    TRY(pwrite(fd, "abc", 3, 5 * PAGE - 1));
    status("a hole", fd);
    TRY(lseek(fd, 0, SEEK_HOLE));
    TRY(lseek(fd, 3 * PAGE, SEEK_DATA));
    TRY(lseek(fd, 6 * PAGE, SEEK_DATA));
    TRY(lseek(fd, -1, SEEK_SET));
    TRY(lseek(fd, 1, 9));
    TRY(lseek(fd, -2, SEEK_END));
    TRY(read(fd, buffer, sizeof buffer));
    printf("%.2s\n", buffer);
    TRY(read(fd, buffer, sizeof buffer));
    TRY(pread(fd, buffer, 4, 5 * PAGE - 2));
    printf("%d %.3s\n", buffer[0], buffer + 1);
    TRY(pread(fd, buffer, 4, -1));
    TRY(pread(fd, nowhere, 4, 0));
    TRY(pwrite(fd, nowhere, 4, 0));
    TRY(pwrite(fd, "x", 1, 0x7fffffffffffffff));
    TRY(pwrite(fd, "x", 0, 0x7fffffffffffffff));
    struct iovec vector[2] = {{pair[0], 8}, {pair[1], 8}};
    memcpy(pair[0], "first---", 8), memcpy(pair[1], "second--", 8);
    TRY(lseek(fd, 100, SEEK_SET));
    TRY(writev(fd, vector, 2));
    memset(pair, 0, sizeof pair);
    TRY(lseek(fd, 104, SEEK_SET));
    TRY(readv(fd, vector, 2));
    printf("%.8s %.8s\n", pair[0], pair[1]);
    TRY(fcntl(fd, F_SETFL, O_APPEND | O_WRONLY));
    TRY(fcntl(fd, F_GETFL));
    TRY(pwrite(fd, "end", 3, 0));
    status("appended", fd);
    TRY(fcntl(fd, F_SETFL, 0));
    /* Half of it is there. */
    char *edge = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(edge + PAGE, PAGE);
    TRY(pwrite(fd, edge, 2 * PAGE, 0));
    TRY(pread(fd, edge, 2 * PAGE, 0));
    munmap(edge, PAGE);
    struct pollfd poll_fd = {fd, POLLIN | POLLOUT | POLLPRI, 0};
    TRY(poll(&poll_fd, 1, -1));
    printf("ready for %#x\n", poll_fd.revents);
    TRY(fsync(fd));
}

static void length(int fd)
{
    TRY(ftruncate(fd, -1));
    TRY(ftruncate(fd, 2 * PAGE + 5));
    status("shorter", fd);
    TRY(ftruncate(fd, 1L << 40));
    status("a tebibyte", fd);
    TRY(ftruncate(fd, PAGE));
    TRY(fallocate(fd, 0, PAGE, 0));
    TRY(fallocate(fd, 0, -1, 1));
    TRY(fallocate(fd, 0, PAGE, 2 * PAGE));
    status("allocated", fd);
    TRY(fallocate(fd, FALLOC_FL_KEEP_SIZE, 3 * PAGE, 1));
    status("allocated past the end", fd);
    TRY(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, PAGE));
    TRY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100, 2 * PAGE));
    status("a hole in it", fd);
    TRY(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, PAGE));
    TRY(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, PAGE));
    TRY(fallocate(fd, 0x80000, 0, PAGE));
    TRY(fallocate(fd, 0, 0x7fffffffffffffff, 1));
}

static void maps(int fd)
{
    TRY(ftruncate(fd, 2 * PAGE));
    char *shared = mmap(0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *private = mmap(0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    strcpy(shared, "by memory");
    char buffer[16] = "";
    TRY(pread(fd, buffer, 9, 0));
    TRY(pwrite(fd, "BY", 2, 0));
    printf("%s, %s, %s\n", buffer, shared, private);
    strcpy(private, "my own");
    printf("%s, %s\n", shared, private);
    pid_t child = fork();
    if (!child) {
        strcpy(shared + PAGE, "the child's");
        lseek(fd, 77, SEEK_SET);
        TRY(ftruncate(fd, PAGE + 100));
        _exit(0);
    }
    waitpid(child, 0, 0);
    printf("%s, and the child left us at %ld\n", shared + PAGE, (long)lseek(fd, 0, SEEK_CUR));
    for (int past = 0; past < 2; past++) {
        fflush(stdout);
        child = fork();
        if (!child) {
            TRY(ftruncate(fd, past ? 100 : PAGE));
            *(volatile char *)(past ? private : shared + PAGE);
            printf("page %d is there\n", past);
            fflush(stdout);
            *(volatile char *)(shared + PAGE);
            _exit(0);
        }
        int end;
        waitpid(child, &end, 0);
        printf("the child: signal %d\n", WIFSIGNALED(end) ? WTERMSIG(end) : 0);
    }
    munmap(shared, 3 * PAGE), munmap(private, 3 * PAGE);
}

static void seals(void)
{
    int fd = memfd_create("sealed", MFD_ALLOW_SEALING);
    TRY(ftruncate(fd, 2 * PAGE));
    char *map = mmap(0, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    TRY(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    TRY(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK));
    TRY(fcntl(fd, F_ADD_SEALS, 1 << 20));
    munmap(map, PAGE);
    map = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    TRY(ftruncate(fd, PAGE));
    TRY(ftruncate(fd, 3 * PAGE));
    TRY(fallocate(fd, 0, 0, 3 * PAGE));
    TRY(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 3 * PAGE));
    TRY(pwrite(fd, "xyz", 3, 2 * PAGE - 2));
    TRY(pwrite(fd, "xyz", 3, 2 * PAGE - 3));
    TRY(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    TRY(fcntl(fd, F_GET_SEALS));
    TRY(pwrite(fd, "x", 1, 0));
    TRY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE));
    map = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    answer("a writable map", map == MAP_FAILED ? -1 : 0);
    map = mmap(0, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    answer("a read-only map", map == MAP_FAILED ? -1 : 0);
    TRY(mprotect(map, PAGE, PROT_READ | PROT_WRITE));
    TRY(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
    TRY(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
    close(fd);
}

static void descriptors(void)
{
    int fd = memfd_create("twice", 0), other = dup(fd);
    TRY(write(fd, "12345", 5));
    TRY(lseek(other, 0, SEEK_CUR));
    TRY(close(fd));
    TRY(write(fd, "x", 1));
    TRY(ftruncate(fd, 1));
    TRY(fallocate(fd, 0, 0, 1));
    status("the other", other);
    TRY(fcntl(other, F_DUPFD, 100));
    TRY(ftruncate(100, 3));
    status("the other", other);
    TRY(close(100));
    TRY(close(other));
}

/* Maps so much from an offset on, and says whether that went well. */
static void map_huge(int fd, size_t length, int protection, int flags, off_t offset)
{
    char *map = mmap(0, length, protection, flags, fd, offset);
    printf("%zu bytes from %lld, protection %d, flags %#x: ", length, (long long)offset, protection, flags);
    answer("mmap", map == MAP_FAILED ? -1 : 0);
    if (map == MAP_FAILED)
        return;
    printf("at a multiple of 2 MiB %+ld\n", (long)map & (HUGE - 1));
    TRY(munmap(map, (length + HUGE - 1) / HUGE * HUGE));
}

static void huge_flags(void)
{
    TRY(memfd_create("size", MFD_HUGETLB | 16u << 26));
    TRY(memfd_create("size", MFD_HUGETLB | 63u << 26));
    TRY(memfd_create(nowhere, MFD_HUGETLB | 16u << 26));
    TRY(memfd_create("flags", MFD_HUGETLB | 0x20));
    int fd = memfd_create("huge", MFD_HUGETLB | MFD_CLOEXEC);
    TRY(fcntl(fd, F_GETFL));
    TRY(fcntl(fd, F_GET_SEALS));
    status("of the default size", fd);
    close(fd);
    fd = memfd_create("huge", MFD_HUGETLB | 8 | 21u << 26);
    TRY(fcntl(fd, F_GET_SEALS));
    status("of 2 MiB, never executable", fd);
    close(fd);
    fd = memfd_create("huge", MFD_HUGETLB | 30u << 26);
    TRY(ftruncate(fd, HUGE));
    TRY(ftruncate(fd, 1l << 30));
    status("of 1 GiB", fd);
    close(fd);
}

static void huge_bytes(int fd)
{
    char buffer[8];
    memset(buffer, 'x', sizeof buffer);
    TRY(ftruncate(fd, PAGE));
    TRY(ftruncate(fd, -1));
    TRY(ftruncate(fd, 0x7fffffffffe00000));
    TRY(ftruncate(fd, 4 * HUGE));
    status("four pages", fd);
    TRY(read(fd, buffer, sizeof buffer));
    printf("%d\n", buffer[0]);
    TRY(pread(fd, buffer, sizeof buffer, 4 * HUGE - 5));
    TRY(pread(fd, buffer, sizeof buffer, 4 * HUGE));
    TRY(pread(fd, nowhere, 4, 0));
    /* There is no way to write, whatever it is. */
    TRY(write(fd, buffer, 1));
    TRY(write(fd, nowhere, 1));
    TRY(write(fd, buffer, 0));
    TRY(pwrite(fd, buffer, 1, 0));
    TRY(pwrite(fd, buffer, 1, -1));
    struct iovec vector = {buffer, 4};
    TRY(writev(fd, &vector, 1));
    TRY(writev(fd, (struct iovec *)nowhere, 1));
    TRY(readv(fd, &vector, 1));
    TRY(lseek(fd, 0, SEEK_CUR));
    TRY(lseek(fd, -5, SEEK_END));
    TRY(lseek(fd, 5, SEEK_DATA));
    TRY(lseek(fd, 5, SEEK_HOLE));
    TRY(lseek(fd, 4 * HUGE, SEEK_DATA));
    TRY(lseek(fd, 4 * HUGE, SEEK_HOLE));
    TRY(lseek(fd, -1, SEEK_DATA));
    TRY(lseek(fd, -1, SEEK_HOLE));
    struct pollfd poll_fd = {fd, POLLIN | POLLOUT | POLLPRI, 0};
    TRY(poll(&poll_fd, 1, -1));
    TRY(fsync(fd));
}

static void huge_room(int fd)
{
    TRY(fallocate(fd, 0, 0, HUGE));
    TRY(fallocate(fd, 0, 0, 1));
    TRY(fallocate(fd, FALLOC_FL_KEEP_SIZE, 8 * HUGE, HUGE));
    TRY(fallocate(fd, 0, 0x7fffffffffffffff, 1));
    TRY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, HUGE));
    TRY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100, 5));
    TRY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 20 * HUGE, HUGE));
    TRY(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, HUGE));
    TRY(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, HUGE));
    status("no room", fd);
}

static void huge_maps(int fd)
{
    const int both = PROT_READ | PROT_WRITE;
    map_huge(fd, HUGE, both, MAP_SHARED, 0);
    map_huge(fd, HUGE, PROT_READ, MAP_PRIVATE, 0);
    map_huge(fd, HUGE, both, MAP_SHARED, PAGE);
    map_huge(fd, HUGE, both, MAP_SHARED | MAP_NORESERVE, PAGE);
    map_huge(fd, PAGE, both, MAP_SHARED | MAP_NORESERVE, 0);
    map_huge(fd, HUGE, both, MAP_PRIVATE | MAP_NORESERVE | MAP_POPULATE, HUGE);
    status("not longer", fd);
    map_huge(fd, 5 * HUGE, PROT_READ, MAP_SHARED | MAP_NORESERVE, 0);
    map_huge(fd, 5 * HUGE, both, MAP_SHARED, 0);
    status("not longer", fd);
    map_huge(fd, 4 * HUGE, both, MAP_SHARED | MAP_NORESERVE, 2 * HUGE);
    status("as long as a map", fd);
    map_huge(fd, 7 * HUGE, both, MAP_PRIVATE | MAP_NORESERVE, 0);
    status("as long as a private map", fd);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        *(volatile char *)mmap(0, HUGE, both, MAP_SHARED | MAP_NORESERVE, fd, 0) = 1;
        _exit(0);
    }
    int end;
    waitpid(child, &end, 0);
    printf("a touch: signal %d\n", WIFSIGNALED(end) ? WTERMSIG(end) : 0);
}

static void huge_seals(int fd)
{
    const int both = PROT_READ | PROT_WRITE;
    char *map = mmap(0, HUGE, both, MAP_SHARED | MAP_NORESERVE, fd, 0);
    TRY(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    TRY(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK));
    TRY(fcntl(fd, F_ADD_SEALS, 1 << 20));
    TRY(madvise(map, HUGE, MADV_REMOVE));
    TRY(munmap(map, PAGE));
    munmap(map, HUGE);
    TRY(ftruncate(fd, 0));
    TRY(ftruncate(fd, 100l * HUGE));
    TRY(ftruncate(fd, 100l * HUGE + 1));
    TRY(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 100l * HUGE));
    TRY(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, HUGE));
    map_huge(fd, 100l * HUGE, both, MAP_SHARED | MAP_NORESERVE, 0);
    status("longer all the same", fd);
    TRY(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    TRY(fcntl(fd, F_GET_SEALS));
    TRY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, HUGE));
    map_huge(fd, HUGE, both, MAP_SHARED | MAP_NORESERVE, 0);
    map_huge(fd, HUGE, both, MAP_PRIVATE | MAP_NORESERVE, 0);
    map = mmap(0, HUGE, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    TRY(mprotect(map, HUGE, both));
    TRY(madvise(map, HUGE, MADV_REMOVE));
    munmap(map, HUGE);
}

int main(void)
{
    flags_of_creation();
    int fd = memfd_create("bytes", MFD_ALLOW_SEALING);
    bytes(fd);
    length(fd);
    maps(fd);
    close(fd);
    seals();
    descriptors();
    huge_flags();
    fd = memfd_create("huge", MFD_HUGETLB | MFD_ALLOW_SEALING);
    huge_bytes(fd);
    huge_room(fd);
    huge_maps(fd);
    huge_seals(fd);
    close(fd);
    return 0;
}
