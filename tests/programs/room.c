// Names and opens without end: each kind ends with the errno that is its own, and begins again once there is room.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

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

int main(void) {
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
