// Pipes and pairs of sockets between processes: what is said is the same natively and in a guest.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "answer.h"

static void echo(int from, int to) {
    char buffer[512];
    ssize_t count;
    while ((count = read(from, buffer, sizeof buffer)) > 0)
        for (ssize_t done = 0; done < count;)
            done += write(to, buffer + done, count - done);
    _exit(count < 0);
}

// What cannot be mapped is refused otherwise where nothing can be executed either.
static void mapped(const char *what, int fd) {
    for (int kind = MAP_SHARED; kind <= MAP_PRIVATE; kind++) {
        void *read = mmap(0, 4096, PROT_READ, kind, fd, 0);
        printf("%s mapped: %s", what, read == MAP_FAILED ? strerror(errno) : "done");
        void *run = mmap(0, 4096, PROT_EXEC, kind, fd, 0);
        printf(", to be run: %s\n", run == MAP_FAILED ? strerror(errno) : "done");
    }
}

int main(void) {
    int there[2], back[2], pair[2];
    answer("pipe2, unknown flags", pipe2(there, O_APPEND));
    int *volatile nowhere = (int *)8;
    answer("pipe2, nowhere to write", pipe2(nowhere, 0));
    answer("pipe", pipe(there));
    answer("pipe2", pipe2(back, O_CLOEXEC));
    printf("descriptors %d %d %d %d, flags %d %d\n", there[0], there[1], back[0], back[1], fcntl(there[0], F_GETFD),
           fcntl(back[0], F_GETFD));
    printf("modes %#x %#x\n", fcntl(there[0], F_GETFL), fcntl(there[1], F_GETFL));
    mapped("a pipe's end to read", there[0]);
    mapped("a pipe's end to write", there[1]);
    answer("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    mapped("a socket", pair[0]);
    close(pair[0]);
    close(pair[1]);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        close(there[1]);
        close(back[0]);
        echo(there[0], back[1]);
    }
    close(there[0]);
    close(back[1]);
    // More than a pipe holds, so that both wait.
    unsigned sum = 0, back_sum = 0;
    pid_t writer = fork();
    if (writer == 0) {
        close(back[0]);
        unsigned char block[1000];
        for (int i = 0; i < 1000; i++) {
            memset(block, i, sizeof block);
            for (size_t done = 0; done < sizeof block;) {
                ssize_t count = write(there[1], block + done, sizeof block - done);
                if (count < 0) _exit(1);
                done += count;
            }
        }
        _exit(0);
    }
    close(there[1]);
    unsigned char buffer[4096];
    long total = 0;
    ssize_t count;
    while ((count = read(back[0], buffer, sizeof buffer)) > 0) {
        total += count;
        for (ssize_t i = 0; i < count; i++) back_sum += buffer[i];
    }
    for (int i = 0; i < 1000; i++) sum += 1000 * (i & 255);
    int status;
    waitpid(writer, &status, 0);
    printf("writer %d, ", status);
    waitpid(child, &status, 0);
    printf("child %d, bytes %ld, sum %s\n", status, total, sum == back_sum ? "right" : "wrong");
    close(back[0]);

    answer("pipe", pipe2(there, O_NONBLOCK));
    answer("read, nothing there", read(there[0], buffer, 10));
    long filled = 0;
    while ((count = write(there[1], buffer, sizeof buffer)) > 0) filled += count;
    answer("write, full", count);
    int queued = 0;
    answer("FIONREAD", ioctl(there[0], FIONREAD, &queued));
    printf("filled %ld, queued %d, size %d\n", filled, queued, fcntl(there[0], F_GETPIPE_SZ));
    struct pollfd fds[2] = {{there[0], POLLIN, 0}, {there[1], POLLOUT, 0}};
    answer("poll", poll(fds, 2, 0));
    printf("ready for %#x %#x\n", fds[0].revents, fds[1].revents);
    answer("lseek", lseek(there[0], 0, SEEK_SET));
    answer("pread", pread(there[0], buffer, 1, 0));
    answer("write to the end that is read", write(there[0], buffer, 1));
    close(there[1]);
    while ((count = read(there[0], buffer, sizeof buffer)) > 0) filled -= count;
    printf("left %ld\n", filled);
    answer("read, nobody writes", count);
    close(there[0]);

    signal(SIGPIPE, SIG_IGN);
    answer("pipe", pipe(there));
    close(there[0]);
    answer("write, nobody reads", write(there[1], buffer, 1));
    close(there[1]);

    answer("socketpair of another family", socketpair(1000, SOCK_STREAM, 0, pair));
    answer("socketpair, unknown flags", socketpair(AF_UNIX, SOCK_STREAM | 0x100, 0, pair));
    answer("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    child = fork();
    if (child == 0) {
        close(pair[0]);
        echo(pair[1], pair[1]);
    }
    close(pair[1]);
    answer("write", write(pair[0], "there and back", 14));
    answer("shutdown", shutdown(pair[0], SHUT_WR));
    memset(buffer, 0, sizeof buffer);
    answer("read", read(pair[0], buffer, sizeof buffer));
    printf("%s\n", (char *)buffer);
    answer("read, the end", read(pair[0], buffer, sizeof buffer));
    waitpid(child, &status, 0);
    printf("child %d\n", status);
    return 0;
}
