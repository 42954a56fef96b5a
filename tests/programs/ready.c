/*
 * Waiting for any of several descriptors: poll, select, epoll and their siblings, with masks, times and signals. Prints what
 * each call answers: the same natively and in a guest.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"

static char *volatile nowhere = (char *)16;
static volatile int handled;

static void handler(int number)
{
    (void)number;
    handled++;
}

static void catch(int number, int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigaction(number, &action, 0);
}

static sigset_t only(int number)
{
    sigset_t set;
    sigemptyset(&set);
    if (number)
        sigaddset(&set, number);
    return set;
}

/* The C library's would not tell what time is left. */
static long waits(struct pollfd *fds, long count, struct timespec *time, const sigset_t *mask)
{
    return syscall(SYS_ppoll, fds, count, time, mask, 8);
}

/* A child that sends its parent a signal a little later. */
static pid_t signals_later(int number)
{
    pid_t pid = fork();
    if (pid == 0) {
        usleep(50000);
        kill(getppid(), number);
        _exit(0);
    }
    return pid;
}

static void polling(void)
{
    int ends[2], pair[2], file = open("/tmp", O_RDONLY | O_DIRECTORY), path = open("/tmp", O_PATH);
    pipe(ends);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    struct timespec none = {0, 0}, soon = {0, 30000000}, bad = {0, 1000000000}, past = {-1, 0};
    struct pollfd fds[] = {{ends[0], POLLIN, 0}, {ends[1], POLLOUT, 0}, {pair[0], POLLIN | POLLOUT, 0},
                           {file, POLLIN, 0},    {path, POLLIN, 0},     {-1, POLLIN, 0}, {900, POLLIN, 0}};
    TRY(waits(fds, 7, &none, 0));
    for (int i = 0; i < 7; i++)
        printf(" %x", fds[i].revents);
    printf("\n");
    TRY(waits(fds, 1, &none, 0));
    TRY(waits(fds, 1, &soon, 0));
    printf("nothing is left: %d\n", soon.tv_sec == 0 && soon.tv_nsec == 0);
    TRY(waits(fds, 1, &bad, 0));
    TRY(waits(fds, 1, &past, 0));
    answer("ppoll, time nowhere", syscall(SYS_ppoll, fds, 1, nowhere, 0, 8));
    answer("ppoll, a mask of 4 bytes", syscall(SYS_ppoll, fds, 1, &none, nowhere, 4));
    answer("ppoll, mask nowhere", syscall(SYS_ppoll, fds, 1, &none, nowhere, 8));
    answer("ppoll, no mask of 4 bytes", syscall(SYS_ppoll, fds, 1, &none, 0, 4));
    answer("ppoll, nowhere", syscall(SYS_ppoll, nowhere, 1, &none, 0, 8));
    answer("ppoll, too many", syscall(SYS_ppoll, nowhere, 1 << 30, &none, 0, 8));
    struct timespec longer = {20, 0};
    write(ends[1], "x", 1);
    TRY(waits(fds, 1, &longer, 0));
    printf("time is left: %d\n", longer.tv_sec == 19);
    close(ends[1]);
    read(ends[0], &file, 1);
    TRY(waits(fds, 1, 0, 0));
    printf("the end: %x\n", fds[0].revents);
}

/* What waits gets in as the call begins, and its mask comes back. */
static void masks(void)
{
    int ends[2], status;
    pipe(ends);
    struct pollfd fds = {ends[0], POLLIN, 0};
    sigset_t usr1 = only(SIGUSR1), none = only(0), now;
    struct timespec zero = {0, 0}, longer = {20, 0};
    catch(SIGUSR1, SA_RESTART);
    sigprocmask(SIG_SETMASK, &usr1, 0);
    raise(SIGUSR1);
    TRY(waits(&fds, 1, &zero, 0));
    TRY(waits(&fds, 1, &longer, &none));
    sigprocmask(0, 0, &now);
    printf("handled %d, blocked %d, time left %d\n", handled, sigismember(&now, SIGUSR1), longer.tv_sec == 19);
    raise(SIGUSR1);
    TRY(waits(&fds, 1, &zero, &none));
    printf("handled %d\n", handled);
    raise(SIGUSR1);
    write(ends[1], "x", 1);
    TRY(waits(&fds, 1, &longer, &none));
    sigprocmask(0, 0, &now);
    printf("ready first: handled %d, blocked %d\n", handled, sigismember(&now, SIGUSR1));
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    TRY(pselect(ends[0] + 1, &set, 0, 0, 0, &none));
    printf("ready first: handled %d\n", handled);
    FD_ZERO(&set);
    TRY(pselect(1, &set, 0, 0, 0, &none));
    printf("handled %d\n", handled);
    raise(SIGUSR1);
    struct timespec little = {0, 1000000};
    TRY(pselect(0, 0, 0, 0, &little, 0));
    printf("handled %d\n", handled);
    int epoll = epoll_create1(0);
    struct epoll_event event;
    TRY(epoll_pwait(epoll, &event, 1, 0, &none));
    printf("handled %d\n", handled);
    sigprocmask(SIG_SETMASK, &usr1, 0);
    raise(SIGUSR1);
    TRY(epoll_pwait(epoll, &event, 1, 20000, &none));
    sigprocmask(0, 0, &now);
    printf("handled %d, blocked %d\n", handled, sigismember(&now, SIGUSR1));
    answer("epoll_pwait, a mask of 4 bytes", syscall(SYS_epoll_pwait, 99, nowhere, 1, 0, nowhere, 4));
    answer("epoll_pwait, mask nowhere", syscall(SYS_epoll_pwait, 99, nowhere, 1, 0, nowhere, 8));
    /* A signal that is not handled has the call go on; one that is handled ends it, whatever SA_RESTART says. */
    sigprocmask(SIG_SETMASK, &none, 0);
    signal(SIGUSR2, SIG_IGN);
    pid_t child = signals_later(SIGUSR2);
    little.tv_nsec = 200000000;
    TRY(waits(0, 0, &little, 0));
    waitpid(child, &status, 0);
    child = signals_later(SIGUSR1);
    longer.tv_sec = 20;
    TRY(waits(0, 0, &longer, 0));
    waitpid(child, &status, 0);
    child = signals_later(SIGUSR1);
    struct timeval while_ = {20, 0};
    answer("select", syscall(SYS_select, 0, 0, 0, 0, &while_));
    printf("time is left: %d\n", (int)while_.tv_sec == 19);
    waitpid(child, &status, 0);
    child = signals_later(SIGUSR1);
    TRY(epoll_wait(epoll, &event, 1, -1));
    waitpid(child, &status, 0);
    /* A stop ends none of them but epoll's. */
    child = fork();
    if (child == 0) {
        pid_t parent = getppid();
        usleep(50000);
        kill(parent, SIGUSR2);
        usleep(50000);
        write(ends[1], "y", 1);
        _exit(0);
    }
    char byte;
    read(ends[0], &byte, 1);
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    TRY(select(ends[0] + 1, &set, 0, 0, 0));
    waitpid(child, &status, 0);
    printf("handled %d\n", handled);
}

static void show(const char *what, fd_set *set, int most)
{
    printf("  %s:", what);
    for (int fd = 3; fd < most; fd++)
        if (FD_ISSET(fd, set))
            printf(" %d", fd);
    printf("\n");
}

static void selecting(void)
{
    int ends[2], other[2];
    fd_set in, out, ex;
    struct timeval none = {0, 0};
    for (int fd = 3; fd < 64; fd++)
        close(fd);
    pipe(ends);
    pipe(other);
    int file = open("/proc/self/exe", O_RDONLY), null = open("/dev/null", O_RDWR), path = open("/tmp", O_PATH);
    write(ends[1], "x", 1);
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_ZERO(&ex);
    for (int fd = 3; fd < 9; fd++) {
        FD_SET(fd, &in);
        FD_SET(fd, &out);
        FD_SET(fd, &ex);
    }
    printf("%d %d %d %d %d\n", ends[0], other[1], file, null, path);
    TRY(select(9, &in, &out, &ex, &none));
    show("in", &in, 12), show("out", &out, 12), show("ex", &ex, 12);
    FD_SET(path, &in);
    TRY(select(path + 1, &in, 0, 0, &none));
    show("in", &in, 12);
    FD_ZERO(&in);
    FD_SET(20, &in);
    TRY(select(21, &in, 0, 0, &none));
    show("as before", &in, 30);
    TRY(select(20, &in, 0, 0, &none));
    show("as before", &in, 30);
    FD_ZERO(&in);
    FD_SET(100, &in);
    TRY(select(64, &in, 0, 0, &none));
    TRY(select(-1, &in, 0, 0, &none));
    answer("select, nowhere", syscall(SYS_select, 5, nowhere, 0, 0, &none));
    answer("select, time nowhere", syscall(SYS_select, -1, nowhere, 0, 0, nowhere));
    struct timeval negative = {-1, 0}, micros = {0, -1}, many = {0, 1000001};
    TRY(select(-1, 0, 0, 0, &negative));
    TRY(select(0, 0, 0, 0, &micros));
    answer("select, more than a second", syscall(SYS_select, 0, 0, 0, 0, &many));
    printf("nothing is left: %ld %ld\n", (long)many.tv_sec, (long)many.tv_usec);
    struct timespec bad = {0, 1000000000}, zero = {0, 0};
    answer("pselect6, time", syscall(SYS_pselect6, 0, 0, 0, 0, &bad, 0));
    answer("pselect6, mask first", syscall(SYS_pselect6, -1, 0, 0, 0, &bad, nowhere));
    struct { void *set; size_t size; } mask = {nowhere, 4};
    answer("pselect6, size", syscall(SYS_pselect6, -1, 0, 0, 0, &zero, &mask));
    mask.size = 8;
    answer("pselect6, nowhere", syscall(SYS_pselect6, -1, 0, 0, 0, &zero, &mask));
    mask.set = 0;
    answer("pselect6, negative", syscall(SYS_pselect6, -1, 0, 0, 0, &zero, &mask));
    /* One whose other side is gone is exceptional to nobody. */
    close(other[1]);
    FD_ZERO(&ex);
    FD_SET(other[0], &ex);
    struct timeval soon = {0, 50000};
    answer("select", syscall(SYS_select, other[0] + 1, 0, 0, &ex, &soon));
    printf("nothing is left: %ld %ld\n", (long)soon.tv_sec, (long)soon.tv_usec);
    FD_SET(other[0], &in);
    TRY(select(other[0] + 1, &in, 0, 0, 0));
    /* A time that cannot be written is no error. */
    struct timeval *fixed = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fixed->tv_usec = 1000;
    mprotect(fixed, 4096, PROT_READ);
    answer("select, for a time that cannot be written", syscall(SYS_select, 0, 0, 0, 0, fixed));
}

static void watch(const char *what, int epoll, int op, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {events, {.u64 = data}};
    answer(what, epoll_ctl(epoll, op, fd, &event));
}

static void happened(const char *what, int epoll, int most)
{
    struct epoll_event events[8];
    int count = epoll_wait(epoll, events, most, 0);
    printf("%s: %d", what, count);
    for (int i = 0; i < count; i++)
        printf(" %x of %llx", events[i].events, (unsigned long long)events[i].data.u64);
    printf("\n");
}

static void watching(void)
{
    int ends[2], pair[2], status, buffer[4];
    struct epoll_event events[4];
    answer("epoll_create(0)", syscall(SYS_epoll_create, 0));
    TRY(epoll_create1(1));
    int epoll = epoll_create1(EPOLL_CLOEXEC), other = epoll_create(1);
    printf("closed on exec: %d %d\n", fcntl(epoll, F_GETFD), fcntl(other, F_GETFD));
    pipe(ends);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    watch("add", epoll, EPOLL_CTL_ADD, ends[0], EPOLLIN, 0x1111111122222222);
    watch("again", epoll, EPOLL_CTL_ADD, ends[0], EPOLLIN, 1);
    watch("modify another", epoll, EPOLL_CTL_MOD, ends[1], EPOLLOUT, 1);
    watch("remove another", epoll, EPOLL_CTL_DEL, ends[1], 0, 1);
    watch("unknown", epoll, 9, ends[1], 0, 1);
    watch("itself", epoll, EPOLL_CTL_ADD, epoll, EPOLLIN, 1);
    watch("not open", epoll, EPOLL_CTL_ADD, 77, EPOLLIN, 1);
    watch("no epoll", ends[0], EPOLL_CTL_ADD, ends[1], EPOLLIN, 1);
    watch("not open, no epoll", 77, EPOLL_CTL_ADD, ends[1], EPOLLIN, 1);
    int file = open("/proc/self/exe", O_RDONLY), null = open("/dev/null", O_RDWR), path = open("/tmp", O_PATH);
    int memory = memfd_create("m", 0), directory = open("/tmp", O_RDONLY);
    watch("a file", epoll, EPOLL_CTL_ADD, file, EPOLLIN, 1);
    watch("null", epoll, EPOLL_CTL_ADD, null, EPOLLIN, 1);
    watch("memory", epoll, EPOLL_CTL_ADD, memory, EPOLLIN, 1);
    watch("a directory", epoll, EPOLL_CTL_DEL, directory, EPOLLIN, 1);
    watch("a place", epoll, EPOLL_CTL_ADD, path, EPOLLIN, 1);
    watch("a file of no epoll", ends[0], EPOLL_CTL_ADD, file, EPOLLIN, 1);
    answer("event nowhere", epoll_ctl(77, EPOLL_CTL_ADD, 78, (void *)nowhere));
    answer("remove, event nowhere", epoll_ctl(epoll, EPOLL_CTL_DEL, ends[1], (void *)nowhere));
    TRY(epoll_wait(77, events, 0, 0));
    TRY(epoll_wait(ends[0], events, 0, 0));
    TRY(epoll_wait(ends[0], events, 1, 0));
    TRY(epoll_wait(epoll, events, 0, 0));
    TRY(syscall(SYS_epoll_wait, epoll, events, -1, 0));
    answer("too many", syscall(SYS_epoll_wait, epoll, events, 0x7fffffff, 0));
    answer("events past all", syscall(SYS_epoll_wait, epoll, 0xffffffffffff0000, 1, 0));
    happened("nothing", epoll, 4);
    write(ends[1], "xy", 2);
    happened("there is", epoll, 4);
    happened("there is still", epoll, 4);
    watch("for edges", epoll, EPOLL_CTL_MOD, ends[0], EPOLLIN | EPOLLET, 3);
    happened("edge", epoll, 4);
    happened("no edge", epoll, 4);
    write(ends[1], "z", 1);
    happened("edge", epoll, 4);
    watch("once", epoll, EPOLL_CTL_MOD, ends[0], EPOLLIN | EPOLLONESHOT, 4);
    happened("once", epoll, 4);
    write(ends[1], "z", 1);
    happened("no more", epoll, 4);
    watch("exclusively", epoll, EPOLL_CTL_MOD, ends[0], EPOLLIN | EPOLLEXCLUSIVE, 4);
    watch("exclusively", epoll, EPOLL_CTL_ADD, ends[1], EPOLLOUT | EPOLLEXCLUSIVE | EPOLLONESHOT, 4);
    watch("exclusively", epoll, EPOLL_CTL_ADD, ends[1], EPOLLOUT | EPOLLEXCLUSIVE, 5);
    watch("exclusively", epoll, EPOLL_CTL_MOD, ends[1], EPOLLOUT, 5);
    happened("writable", epoll, 4);
    watch("remove", epoll, EPOLL_CTL_DEL, ends[1], 0, 0);
    watch("remove again", epoll, EPOLL_CTL_DEL, ends[1], 0, 0);
    /* One open under two numbers is watched twice. */
    int copy = dup(pair[0]);
    watch("the first", epoll, EPOLL_CTL_ADD, pair[0], EPOLLOUT, 10);
    watch("modify the second", epoll, EPOLL_CTL_MOD, copy, EPOLLOUT, 11);
    watch("the second", epoll, EPOLL_CTL_ADD, copy, EPOLLOUT, 11);
    watch("the second again", epoll, EPOLL_CTL_ADD, copy, EPOLLOUT, 11);
    happened("both", epoll, 4);
    happened("of both", epoll, 1);
    happened("of both", epoll, 1);
    watch("not the first", epoll, EPOLL_CTL_DEL, pair[0], 0, 0);
    happened("the second", epoll, 4);
    watch("the first again", epoll, EPOLL_CTL_ADD, pair[0], EPOLLOUT, 12);
    close(copy);
    happened("closed, but open", epoll, 4);
    close(pair[0]);
    happened("closed", epoll, 4);
    char byte;
    TRY(read(pair[1], &byte, 1));
    /* One in the other, but not in a ring. */
    watch("nested", other, EPOLL_CTL_ADD, epoll, EPOLLIN, 20);
    watch("a ring", epoll, EPOLL_CTL_ADD, other, EPOLLIN, 21);
    watch("nested, exclusively", other, EPOLL_CTL_MOD, epoll, EPOLLIN | EPOLLEXCLUSIVE, 20);
    happened("nothing", other, 4);
    watch("again for reading", epoll, EPOLL_CTL_MOD, ends[0], EPOLLIN, 22);
    happened("by way of the other", other, 4);
    struct pollfd fds = {epoll, POLLIN, 0};
    TRY(poll(&fds, 1, 0));
    TRY(read(epoll, &byte, 1));
    TRY(write(epoll, &byte, 1));
    /* The child's is the parent's. */
    fflush(stdout);
    if (fork() == 0) {
        watch("in a child", epoll, EPOLL_CTL_DEL, ends[0], 0, 0);
        _exit(0);
    }
    wait(&status);
    happened("nothing", epoll, 4);
    if (fork() == 0) {
        usleep(50000);
        watch("in a child", epoll, EPOLL_CTL_ADD, ends[0], EPOLLIN, 30);
        _exit(0);
    }
    int count = epoll_wait(epoll, events, 4, 20000);
    wait(&status);
    printf("%d: %x of %llx\n", count, events[0].events, (unsigned long long)events[0].data.u64);
    read(ends[0], buffer, 16);
    close(ends[1]);
    happened("the other side is gone", epoll, 4);
    struct timespec little = {0, 1000000};
    watch("nothing", epoll, EPOLL_CTL_DEL, ends[0], 0, 0);
    answer("for a while", syscall(441, epoll, events, 4, &little, 0, 8));
    little.tv_nsec = -1;
    answer("for no time", syscall(441, 77, events, 4, &little, 0, 8));
    TRY(epoll_wait(epoll, events, 4, 20));
}

static void events(void)
{
    uint64_t value;
    answer("eventfd, unknown", eventfd(0, 2));
    int event = eventfd(3, EFD_NONBLOCK | EFD_CLOEXEC), each = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
    printf("flags: %d %x\n", fcntl(event, F_GETFD), fcntl(event, F_GETFL));
    TRY(read(event, &value, 7));
    TRY(read(event, &value, 8));
    printf("value %llu\n", (unsigned long long)value);
    TRY(read(event, &value, 8));
    value = UINT64_MAX;
    TRY(write(event, &value, 8));
    value = UINT64_MAX - 1;
    TRY(write(event, &value, 8));
    value = 1;
    TRY(write(event, &value, 8));
    TRY(write(event, &value, 4));
    struct pollfd fds = {event, POLLIN | POLLOUT, 0};
    TRY(poll(&fds, 1, 0));
    printf("ready for %x\n", fds.revents);
    TRY(read(each, &value, 8));
    TRY(read(each, &value, 8));
    TRY(read(each, &value, 8));
    int blocks = eventfd(0, 0), status;
    pid_t child = fork();
    if (child == 0) {
        usleep(50000);
        value = 7;
        write(blocks, &value, 8);
        _exit(0);
    }
    TRY(read(blocks, &value, 8));
    printf("value %llu\n", (unsigned long long)value);
    waitpid(child, &status, 0);
    value = UINT64_MAX - 1;
    write(blocks, &value, 8);
    child = signals_later(SIGUSR1);
    catch(SIGUSR1, 0);
    value = 5;
    TRY(write(blocks, &value, 8));
    waitpid(child, &status, 0);
    int epoll = epoll_create1(0);
    watch("an event", epoll, EPOLL_CTL_ADD, blocks, EPOLLIN | EPOLLOUT, 5);
    happened("an event", epoll, 4);
    TRY(lseek(event, 0, SEEK_SET));
    TRY(ftruncate(event, 0));
}

int main(void)
{
    polling();
    masks();
    selecting();
    watching();
    events();
    return 0;
}
