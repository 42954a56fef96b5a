/*
 * Files that may not grow: by RLIMIT_FSIZE, and by seals. Vectors at offsets. A memfd that is opened again through /proc. clone3.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "answer.h"

static volatile sig_atomic_t caught;

static void on_signal(int signal)
{
    caught = signal;
}

static void limited(int fd)
{
    static char bytes[16384];
    struct rlimit old, limit;
    getrlimit(RLIMIT_FSIZE, &old);
    limit = old;
    limit.rlim_cur = 6000;
    signal(SIGXFSZ, on_signal);
    TRY(ftruncate(fd, 7000));
    TRY(setrlimit(RLIMIT_FSIZE, &limit));
    TRY(pwrite(fd, bytes, 10, 5995));
    printf("signal %d\n", caught);
    TRY(pwrite(fd, bytes, 0, 6000));
    TRY(pwrite(fd, bytes, 1, 6000));
    printf("signal %d\n", caught), caught = 0;
    TRY(pwrite(fd, bytes, sizeof bytes, 0));
    TRY(ftruncate(fd, 6500));
    TRY(ftruncate(fd, 6501));
    printf("signal %d\n", caught), caught = 0;
    TRY(fallocate(fd, 0, 0, 6501));
    printf("signal %d\n", caught), caught = 0;
    TRY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 9000));
    TRY(lseek(fd, 5999, SEEK_SET));
    TRY(write(fd, bytes, 3));
    TRY(write(fd, bytes, 3));
    TRY(lseek(fd, 0, SEEK_CUR));
    fcntl(fd, F_SETFL, O_APPEND);
    TRY(write(fd, bytes, 3));
    setrlimit(RLIMIT_FSIZE, &old);
    TRY(write(fd, bytes, 3));
    TRY(lseek(fd, 0, SEEK_END));
}

static int sealed(long size)
{
    int fd = memfd_create("sealed", MFD_ALLOW_SEALING);
    ftruncate(fd, size);
    fcntl(fd, F_ADD_SEALS, F_SEAL_GROW);
    return fd;
}

static void seals(void)
{
    char *bytes = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(bytes + 8192, 4096);
    /* The buffer is cut by pages otherwise than the file. */
    TRY(pwrite(sealed(3072), bytes + 3600, 2048, 2048));
    TRY(pwrite(sealed(3072), bytes + 3600, 1024, 2048));
    TRY(pwrite(sealed(4096), bytes + 3600, 2048, 3072));
    TRY(pwrite(sealed(8192), bytes + 7168, 2048, 3072));
    TRY(pwrite(sealed(4096), bytes + 7168, 2048, 0));
    TRY(pwrite(sealed(1500), bytes + 7168, 2048, 0));
    TRY(pwrite(sealed(4096), bytes + 8192, 1, 0));
}

static void vectors(void)
{
    char text[] = "abcdefgh", back[9] = "", *hole = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct iovec out[] = { { text, 3 }, { 0, 0 }, { text + 5, 3 } };
    struct iovec in[] = { { back, 2 }, { back + 2, 6 } };
    static struct iovec many[1025];
    struct iovec bad[] = { { text, 2 }, { hole, 5 } };
    int fd = memfd_create("vectors", 0), pipes[2];
    TRY(pwritev(fd, out, 3, 4));
    TRY(preadv(fd, in, 2, 2));
    TRY(memcmp(back, "\0\0abcfgh", 8));
    TRY(lseek(fd, 0, SEEK_CUR));
    TRY(preadv(fd, in, 2, -1));
    TRY(syscall(SYS_preadv2, fd, in, 2, -1L, 0L, 0));
    TRY(lseek(fd, 0, SEEK_CUR));
    TRY(syscall(SYS_pwritev2, fd, out, 3, 20L, 0L, 1 << 20));
    TRY(syscall(SYS_pwritev2, fd, out, 3, 20L, 0L, 4));
    TRY(pwritev(fd, bad, 2, 0));
    TRY(pwritev(fd, bad + 1, 1, 0));
    TRY(pwritev(fd, many, 1025, 0));
    pipe(pipes);
    TRY(pwritev(pipes[1], out, 3, 0));
    TRY(pwritev(99, out, 3, 0));
}

static void again(void)
{
    char path[32], target[64] = "";
    int fd = memfd_create("again", MFD_ALLOW_SEALING), read_only;
    write(fd, "bytes", 5);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    read_only = open(path, O_RDONLY);
    TRY(read(read_only, target, sizeof target));
    TRY(write(read_only, "x", 1));
    TRY(fcntl(read_only, F_ADD_SEALS, F_SEAL_WRITE));
    TRY(fcntl(read_only, F_GET_SEALS));
    TRY(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
    TRY(open(path, O_RDWR | O_TRUNC));
    int other = open(path, O_RDWR | O_CREAT, 0600);
    TRY(other == -1 ? -1 : 0);
    TRY(fcntl(other, F_GET_SEALS));
    char *map = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0);
    map[0] = 'B';
    TRY(pread(fd, target, 1, 0));
    printf("%c\n", target[0]);
    snprintf(path, sizeof path, "/proc/self/fd/%d", other);
    memset(target, 0, sizeof target);
    TRY(readlink(path, target, sizeof target));
    puts(target);
}

static long cloned(struct clone_args *arguments, size_t size)
{
    long pid = syscall(SYS_clone3, arguments, size);
    if (pid == 0) {
        struct sigaction used, ignored;
        sigaction(SIGUSR1, 0, &used), sigaction(SIGUSR2, 0, &ignored);
        syscall(SYS_exit, (used.sa_handler == SIG_DFL) + 2 * (ignored.sa_handler == SIG_IGN));
    }
    return pid;
}

static void clones(void)
{
    _Alignas(8) char longer[4096 + 8] = { 0 };
    struct clone_args *arguments = (void *)longer;
    int status = 0, tid = 0;
    signal(SIGUSR1, on_signal), signal(SIGUSR2, SIG_IGN);
    arguments->exit_signal = SIGCHLD;
    for (int clears = 0; clears < 2; clears++) {
        arguments->flags = CLONE_PARENT_SETTID | (clears ? CLONE_CLEAR_SIGHAND : 0);
        arguments->parent_tid = (uintptr_t)&tid;
        long pid = cloned(arguments, clears ? 88 : 64);
        TRY(pid == tid);
        TRY(waitpid(pid, &status, 0) == pid);
        printf("status %x\n", status);
    }
    arguments->flags = 0;
    TRY(cloned(arguments, 63));
    TRY(cloned(arguments, 4097));
    long pid = cloned(arguments, 4096);
    TRY(waitpid(pid, &status, 0) == pid);
    longer[100] = 1;
    TRY(cloned(arguments, 4096));
    TRY(cloned((void *)8, 88));
    arguments->exit_signal = 65;
    TRY(cloned(arguments, 88));
    arguments->exit_signal = SIGCHLD, arguments->flags = CLONE_PARENT;
    TRY(cloned(arguments, 88));
    arguments->flags = SIGCHLD;
    TRY(cloned(arguments, 88));
    arguments->flags = CLONE_SIGHAND | CLONE_CLEAR_SIGHAND | CLONE_VM;
    TRY(cloned(arguments, 88));
    arguments->flags = CLONE_SIGHAND;
    TRY(cloned(arguments, 88));
    arguments->flags = 0, arguments->stack = 4096;
    TRY(cloned(arguments, 88));
    arguments->stack = 0, arguments->stack_size = 4096;
    TRY(cloned(arguments, 88));
    arguments->stack_size = 0, arguments->set_tid_size = 1;
    TRY(cloned(arguments, 88));
    arguments->set_tid_size = 0, arguments->flags = UINT64_C(1) << 40;
    TRY(cloned(arguments, 88));
}

int main(void)
{
    limited(memfd_create("limited", 0));
    seals();
    vectors();
    again();
    clones();
    return 0;
}
