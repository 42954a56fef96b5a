/*
 * What a process does with another one's memory: reads and writes it, advises about it, asks where its pages are; and
 * descriptors of processes. Prints what each call answers: the same natively and in a guest.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "answer.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#ifndef MADV_COLD
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#endif

enum { PAGE = 4096, PAGES = 8 };

static char *const place = (char *)0x200000000000;
static char *volatile nowhere = (char *)16;
static int ends[2], back[2];

static long reads(pid_t pid, struct iovec *own, long own_count, struct iovec *others, long others_count, long flags)
{
    return syscall(SYS_process_vm_readv, pid, own, own_count, others, others_count, flags);
}

static long writes(pid_t pid, struct iovec *own, long own_count, struct iovec *others, long others_count, long flags)
{
    return syscall(SYS_process_vm_writev, pid, own, own_count, others, others_count, flags);
}

static void tell(void)
{
    write(ends[1], "x", 1);
}

static void hear(int fd)
{
    char byte;
    read(fd, &byte, 1);
}

/* Has memory at the place, of which the sixth page is missing, the seventh for reading and the eighth for nobody. */
static pid_t with_memory(void)
{
    pid_t pid = fork();
    if (pid)
        return hear(ends[0]), pid;
    mmap(place, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    for (int i = 0; i < PAGES * PAGE - PAGE; i++)
        place[i] = 'a' + i % 23;
    munmap(place + 5 * PAGE, PAGE);
    mprotect(place + 6 * PAGE, PAGE, PROT_READ);
    mprotect(place + 7 * PAGE, PAGE, PROT_NONE);
    tell();
    hear(back[0]);
    printf("it has: %.5s %.5s %d\n", place, place + PAGE - 2, place[2 * PAGE]);
    fflush(stdout);
    tell();
    hear(back[0]);
    _exit(3);
}

static void transferring(pid_t pid)
{
    static char memory[PAGES * PAGE], more[PAGE];
    struct iovec own[2] = {{memory, sizeof memory}, {more, sizeof more}}, others[3] = {{place, 5}, {place + PAGE - 2, 5}, {place, PAGE}};
    answer("readv, flags", reads(-1, own, -1, others, -1, 1));
    answer("readv, too many", reads(-1, own, 1025, others, 1, 0));
    answer("readv, nowhere", reads(-1, (void *)nowhere, 1, others, 1, 0));
    answer("readv, too many others", reads(-1, own, 1, others, 1025, 0));
    answer("readv, others nowhere", reads(-1, own, 1, (void *)nowhere, 1, 0));
    answer("readv, of nobody", reads(-1, own, 1, others, 1, 0));
    answer("readv, of 0", reads(0, own, 1, others, 1, 0));
    answer("readv, nothing of nobody", reads(-1, own, 0, others, 1025, 0));
    own[0].iov_len = 0;
    answer("readv, empty of nobody", reads(-1, own, 1, (void *)nowhere, 1, 0));
    own[0].iov_len = sizeof memory;
    answer("readv, nothing", reads(-1, own, 1, others, 0, 0));
    others[0].iov_len = -1;
    answer("readv, negative", reads(-1, own, 1, others, 1, 0));
    others[0].iov_len = 5;
    own[0].iov_base = (void *)0xffff800000000000;
    answer("readv, to above", reads(-1, own, 1, others, 1, 0));
    own[0].iov_base = memory;
    answer("readv", reads(pid, own, 1, others, 2, 0));
    printf("%.10s\n", memory);
    own[0].iov_len = 3;
    memset(memory, 0, sizeof memory);
    answer("readv, in pieces", reads(pid, own, 2, others, 2, 0));
    printf("%.10s %.10s\n", memory, more);
    own[0].iov_len = sizeof memory;
    others[0] = (struct iovec){place, PAGES * PAGE};
    answer("readv, up to the hole", reads(pid, own, 1, others, 1, 0));
    others[0].iov_base = place + 5 * PAGE;
    answer("readv, the hole", reads(pid, own, 1, others, 1, 0));
    others[0].iov_base = place + 6 * PAGE;
    answer("readv, up to what is nobody's", reads(pid, own, 1, others, 1, 0));
    others[0].iov_base = place + 7 * PAGE;
    answer("readv, what is nobody's", reads(pid, own, 1, others, 1, 0));
    others[0].iov_base = (void *)0xffff800000000000;
    answer("readv, from above", reads(pid, own, 1, others, 1, 0));
    others[0].iov_base = (void *)-5000;
    answer("readv, from the end of all", reads(pid, own, 1, others, 1, 0));
    others[0] = (struct iovec){place, 10};
    own[0].iov_base = nowhere;
    answer("readv, to nowhere", reads(pid, own, 1, others, 1, 0));
    memcpy(memory, "MNOPQRSTUV", 10);
    own[0] = (struct iovec){memory, 10};
    others[0].iov_len = 5;
    answer("writev", writes(pid, own, 1, others, 2, 0));
    others[0] = (struct iovec){place + 6 * PAGE, 5};
    answer("writev, what is to be read", writes(pid, own, 1, others, 1, 0));
    others[0] = (struct iovec){place + 5 * PAGE - 4, 10};
    answer("writev, up to the hole", writes(pid, own, 1, others, 1, 0));
    own[0] = (struct iovec){memory, 4};
    memory[0] = 9;
    others[0] = (struct iovec){place + 2 * PAGE, 4};
    answer("writev", writes(pid, own, 1, others, 1, 0));
    others[0] = (struct iovec){memory, 4};
    answer("readv, oneself", reads(getpid(), own, 1, others, 1, 0));
}

static long advise(int pidfd, char *at, long len, int advice, long flags)
{
    struct iovec range = {at, len};
    return syscall(SYS_process_madvise, pidfd, &range, 1, advice, flags);
}

static void advising(pid_t pid, int pidfd)
{
    answer("advise, flags", advise(-1, nowhere, 1, 77, 1));
    answer("advise, no descriptor", advise(77, place, PAGE, MADV_COLD, 0));
    answer("advise, no process", advise(0, place, PAGE, MADV_COLD, 0));
    answer("advise, cold", advise(pidfd, place, 2 * PAGE, MADV_COLD, 0));
    answer("advise, out", advise(pidfd, place, 2 * PAGE, MADV_PAGEOUT, 0));
    answer("advise, will need", advise(pidfd, place, 2 * PAGE, MADV_WILLNEED, 0));
    answer("advise, do not need", advise(pidfd, place, 2 * PAGE, MADV_DONTNEED, 0));
    answer("advise, unknown", advise(pidfd, place, 2 * PAGE, 77, 0));
    answer("advise, a hole", advise(pidfd, place + 5 * PAGE, PAGE, MADV_COLD, 0));
    answer("advise, unaligned", advise(pidfd, place + 1, PAGE, MADV_COLD, 0));
    void *pages[3] = {place, place + 5 * PAGE, place + 7 * PAGE};
    int status[3] = {55, 55, 55}, nodes[3] = {0, 0, 0};
    answer("where are they", syscall(SYS_move_pages, pid, 3, pages, 0, status, 0));
    printf("%d %d %d\n", status[0], status[1], status[2]);
    answer("to where they are", syscall(SYS_move_pages, pid, 3, pages, nodes, status, 2));
    printf("%d %d %d\n", status[0], status[1], status[2]);
    answer("of nobody", syscall(SYS_move_pages, 99999, 3, pages, 0, status, 0));
    answer("of nobody", syscall(SYS_move_pages, -1, 3, pages, 0, status, 0));
    unsigned long one = 1;
    answer("migrate", syscall(SYS_migrate_pages, pid, 64, &one, &one));
    answer("migrate, nobody", syscall(SYS_migrate_pages, 99999, 64, &one, &one));
}

static void descriptors(void)
{
    int status;
    char byte;
    siginfo_t info;
    answer("pidfd_open, flags", syscall(SYS_pidfd_open, 99999, 1));
    answer("pidfd_open, 0", syscall(SYS_pidfd_open, 0, 0));
    answer("pidfd_open, negative", syscall(SYS_pidfd_open, -1, 0));
    answer("pidfd_open, nobody", syscall(SYS_pidfd_open, 99999, 0));
    signal(SIGUSR1, SIG_IGN);
    pid_t pid = fork();
    if (pid == 0)
        for (;;)
            pause();
    int fd = syscall(SYS_pidfd_open, pid, 0), again = syscall(SYS_pidfd_open, pid, O_NONBLOCK);
    printf("closed on exec %d, %x, %x\n", fcntl(fd, F_GETFD), fcntl(fd, F_GETFL) & O_NONBLOCK, fcntl(again, F_GETFL) & O_NONBLOCK);
    TRY(read(fd, &byte, 1));
    TRY(write(fd, &byte, 1));
    struct pollfd fds[2] = {{fd, POLLIN | POLLOUT, 0}, {again, POLLIN, 0}};
    TRY(poll(fds, 2, 0));
    int epoll = epoll_create1(0);
    struct epoll_event event = {EPOLLIN | EPOLLOUT, {.u64 = 5}};
    TRY(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    TRY(epoll_wait(epoll, &event, 1, 0));
    answer("waitid, alive", waitid(P_PIDFD, fd, &info, WEXITED | WNOHANG));
    answer("waitid, not to wait", waitid(P_PIDFD, again, &info, WEXITED));
    answer("waitid, no such", waitid(P_PIDFD, 77, &info, WEXITED));
    answer("waitid, no process", waitid(P_PIDFD, 0, &info, WEXITED));
    answer("send, flags", syscall(SYS_pidfd_send_signal, 77, 0, 0, 8));
    answer("send, two flags", syscall(SYS_pidfd_send_signal, fd, 0, 0, 3));
    answer("send, no such", syscall(SYS_pidfd_send_signal, 77, 0, 0, 0));
    answer("send, no process", syscall(SYS_pidfd_send_signal, 0, 0, 0, 0));
    answer("send, nothing", syscall(SYS_pidfd_send_signal, fd, 0, 0, 0));
    answer("send, unknown", syscall(SYS_pidfd_send_signal, fd, 99, 0, 0));
    answer("send, nowhere", syscall(SYS_pidfd_send_signal, fd, 10, nowhere, 0));
    memset(&info, 0, sizeof info);
    info.si_signo = 12;
    answer("send, another", syscall(SYS_pidfd_send_signal, fd, 10, &info, 0));
    info.si_signo = 10;
    answer("send, as the kernel", syscall(SYS_pidfd_send_signal, fd, 10, &info, 0));
    info.si_code = -1;
    answer("send, as one likes", syscall(SYS_pidfd_send_signal, fd, 10, &info, 0));
    answer("send", syscall(SYS_pidfd_send_signal, fd, SIGKILL, 0, 0));
    TRY(poll(fds, 2, 20000));
    printf("ended: %x\n", fds[0].revents & POLLIN);
    TRY(epoll_wait(epoll, &event, 1, 20000));
    answer("send, to a zombie", syscall(SYS_pidfd_send_signal, fd, 0, 0, 0));
    int third = syscall(SYS_pidfd_open, pid, 0);
    fds[0].fd = third;
    TRY(poll(fds, 1, 0));
    answer("waitid, left", waitid(P_PIDFD, fd, &info, WEXITED | WNOWAIT));
    answer("waitid", waitid(P_PIDFD, again, &info, WEXITED));
    printf("%d %d %d\n", info.si_pid == pid, info.si_code, info.si_status);
    answer("waitid, reaped", waitid(P_PIDFD, fd, &info, WEXITED));
    answer("send, reaped", syscall(SYS_pidfd_send_signal, fd, 0, 0, 0));
    answer("advise, reaped", advise(fd, place, PAGE, MADV_COLD, 0));
    answer("pidfd_open, reaped", syscall(SYS_pidfd_open, pid, 0));
    /* One that is a zombie before anybody has a descriptor of it. */
    pid = fork();
    if (pid == 0)
        _exit(0);
    waitid(P_PID, pid, &info, WEXITED | WNOWAIT);
    fds[0].fd = syscall(SYS_pidfd_open, pid, 0);
    TRY(poll(fds, 1, 0));
    TRY(waitpid(pid, &status, 0) == pid);
}

int main(void)
{
    setvbuf(stdout, 0, _IONBF, 0);
    pipe(ends);
    pipe(back);
    pid_t pid = with_memory();
    transferring(pid);
    write(back[1], "x", 1);
    hear(ends[0]);
    int pidfd = syscall(SYS_pidfd_open, pid, 0), status;
    advising(pid, pidfd);
    kill(pid, SIGSTOP);
    struct iovec own = {&status, 4}, others = {place, 4};
    answer("readv, one that has stopped", reads(pid, &own, 1, &others, 1, 0));
    kill(pid, SIGCONT);
    write(back[1], "x", 1);
    siginfo_t info;
    waitid(P_PID, pid, &info, WEXITED | WNOWAIT);
    answer("readv, a zombie", reads(pid, &own, 1, &others, 1, 0));
    answer("advise, a zombie", advise(pidfd, place, PAGE, MADV_COLD, 0));
    void *page = place;
    answer("where is it, of a zombie", syscall(SYS_move_pages, pid, 1, &page, 0, &status, 0));
    waitpid(pid, &status, 0);
    printf("%x\n", status);
    descriptors();
    return 0;
}
