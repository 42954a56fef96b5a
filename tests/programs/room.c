// Names and opens without end: each kind ends with the errno that is its own, and begins again once there is room.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (1 << 20)

static int make(int kind, int number) {
    char name[64], target[4000];
    snprintf(name, sizeof name, "/tmp/%d-%d", kind, number);
    memset(target, 't', sizeof target);
    target[sizeof target - 1] = 0;
    if (kind == 0) return mkdir(name, 0700);
    if (kind == 1) return symlink(target, name);
    int fd = open(name, O_CREAT | O_RDWR, 0600);
    return fd < 0 ? -1 : close(fd);
}

static void take_away(int kind, int count) {
    for (int i = 0; i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "/tmp/%d-%d", kind, i);
        if (kind == 0 ? rmdir(name) : unlink(name)) perror(name);
    }
}

// Programs that run out of memory's files: each is a copy on the host, holes left out.
static void programs(const char *own) {
    int count = 0, status = 0, said[2];
    pid_t children[100];
    if (pipe(said)) return;
    // Where a program that has begun says so.
    dup2(said[1], 100);
    char name[64], *bytes = malloc(SIZE);
    for (; count < 100 && !status; count++) {
        snprintf(name, sizeof name, "/tmp/program-%d", count);
        int from = open(own, O_RDONLY), to = open(name, O_CREAT | O_WRONLY, 0700);
        for (ssize_t some; (some = read(from, bytes, SIZE)) > 0;)
            if (write(to, bytes, some) != some) perror(name);
        memset(bytes, 1, SIZE);
        if (pwrite(to, bytes, SIZE, 1l << 30) != SIZE || ftruncate(to, 1l << 40)) perror(name);
        close(from);
        close(to);
        fflush(stdout);
        if (!(children[count] = fork())) {
            execl(name, name, "waits", NULL);
            char error = errno;
            _exit(write(100, &error, 1) != 1);
        }
        char error;
        if (read(said[0], &error, 1) != 1) return;
        status = error;
        unlink(name);
    }
    for (int i = 0; i < count; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    printf("programs: %s after %s\n", strerror(status), count > 3 ? "many" : "few");
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "waits")) {
        if (write(100, "", 1) == 1) pause();
        return 1;
    }
    programs("/proc/self/exe");
    const char *kinds[] = {"directories", "links", "files"};
    for (int kind = 0; kind < 3; kind++) {
        int first = 0, second = 0;
        while (first < 1 << 20 && !make(kind, first)) first++;
        printf("%s: %s after %s", kinds[kind], strerror(errno), first > 2000 ? "many" : "few");
        take_away(kind, first);
        while (second < 1 << 20 && !make(kind, second)) second++;
        printf(", %s as before\n", first == second ? "as many" : "not as many");
        take_away(kind, second);
    }
    // Processes that have as many open as each can, until one cannot.
    int processes = 0, pipes[2], status = 0;
    if (pipe(pipes)) return 1;
    do {
        fflush(stdout);
        if (!fork()) {
            while (open("/dev/null", O_RDONLY) >= 0) {}
            char errors = errno;
            if (write(pipes[1], &errors, 1) != 1) _exit(1);
            pause();
        }
        processes++;
        char errors;
        if (read(pipes[0], &errors, 1) != 1) return 1;
        status = errors;
    } while (status == EMFILE && processes < 100);
    printf("%s after %s\n", strerror(status), processes > 10 ? "many" : "few");
    return 0;
}
