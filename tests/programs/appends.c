/*
 * What several do at once with names and files, in the directory that is the last argument: they append to a file, and, if
 * it is the only one, a directory is moved while it is current. Prints the same natively and in a guest.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "answer.h"

static char *volatile nowhere = (char *)16;

enum { PROCESSES = 4, LINES = 300, LENGTH = 9000 };

static char base[200];

/* Each line has one letter and its process's, in two pieces. */
static void append(int process, int fd)
{
    static char line[LENGTH];
    for (int i = 0; i < LINES; i++) {
        memset(line, 'a' + process, LENGTH);
        line[LENGTH - 1] = '\n';
        int half = (i * 37 + process * 11) % LENGTH;
        struct iovec pieces[2] = {{line, half}, {line + half, LENGTH - half}};
        if (writev(fd, pieces, 2) != LENGTH)
            _exit(1);
        if (i == 5 && lseek(fd, 0, SEEK_CUR) % LENGTH)
            _exit(2);
    }
    _exit(0);
}

static void appending(void)
{
    char path[250];
    snprintf(path, sizeof path, "%s/log", base);
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND, 0600), status, failed = 0;
    for (int process = 0; process < PROCESSES; process++)
        if (fork() == 0)
            /* Half of them with an open of their own. */
            append(process, process % 2 ? open(path, O_WRONLY | O_APPEND) : fd);
    for (int process = 0; process < PROCESSES; process++)
        if (wait(&status) < 0 || status)
            failed++;
    static char line[LENGTH];
    int whole = 0, of[PROCESSES] = {0};
    lseek(fd, 0, SEEK_SET);
    while (read(fd, line, LENGTH) == LENGTH) {
        int same = line[LENGTH - 1] == '\n';
        for (int i = 0; i < LENGTH - 1; i++)
            same &= line[i] == line[0];
        whole += same;
        if (line[0] >= 'a' && line[0] < 'a' + PROCESSES)
            of[line[0] - 'a']++;
    }
    printf("failed %d, whole lines %d, of each %d %d %d %d\n", failed, whole, of[0], of[1], of[2], of[3]);
    /* An offset does not count; a position does, for the next read. */
    TRY(pwrite(fd, "there", 5, 3));
    TRY(lseek(fd, 0, SEEK_END));
    TRY(lseek(fd, 7, SEEK_SET));
    TRY(write(fd, "end", 3));
    TRY(lseek(fd, 0, SEEK_CUR));
    TRY(write(fd, 0, 0));
    TRY(write(fd, nowhere, 3));
    TRY(pwrite(fd, "x", 1, -1));
    TRY(fcntl(fd, F_SETFL, 0));
    TRY(pwrite(fd, "X", 1, 0));
    TRY(fcntl(fd, F_SETFL, O_APPEND));
    TRY(pwrite(fd, "X", 1, 0));
    TRY(lseek(fd, 0, SEEK_END));
    unlink(path);
}

static void where(const char *when)
{
    char now[500] = "", link[500] = "";
    if (!getcwd(now, sizeof now))
        return answer(when, -1);
    readlink("/proc/self/cwd", link, sizeof link - 1);
    size_t length = strlen(base);
    printf("%s: %s, %s\n", when, strncmp(now, base, length) ? now : now + length, strncmp(link, base, length) ? link : link + length);
    fflush(stdout);
}

static void moving(void)
{
    TRY(chdir(base));
    mkdir("a", 0700);
    mkdir("a/b", 0700);
    mkdir("a/b/c", 0700);
    mkdir("d", 0700);
    TRY(chdir("a/b/c"));
    where("before");
    TRY(rename("../../../a/b", "../../../d/e"));
    where("above it moved");
    TRY(rename("../../../d", "../../../f"));
    where("higher up");
    TRY(chdir(".."));
    where("up");
    TRY(chdir(".."));
    where("up");
    struct stat one, other;
    TRY(chdir("e/c"));
    TRY(rename("../c", "../../c"));
    where("out of it");
    stat("..", &one);
    char path[250];
    snprintf(path, sizeof path, "%s/f", base);
    stat(path, &other);
    printf("above it: %d\n", one.st_ino == other.st_ino);
    int fd = open("made", O_CREAT | O_WRONLY, 0600);
    snprintf(path, sizeof path, "%s/f/c/made", base);
    TRY(access(path, F_OK));
    close(fd);
    unlink("made");
    TRY(syscall(SYS_renameat2, AT_FDCWD, "../c", AT_FDCWD, "../e", 2));
    where("exchanged");
    TRY(rmdir("../e"));
    where("removed");
    TRY(chdir(".."));
    TRY(chdir(base));
    TRY(rmdir("f/c"));
    TRY(rmdir("f"));
    TRY(rmdir("a"));
    TRY(chdir("/"));
}

static void handler(int number)
{
    (void)number;
}

static char stack[65536] __attribute__((aligned(16)));

static int executes(void *unused)
{
    (void)unused;
    char *argv[] = {"appends", "-", 0};
    execv("/proc/self/exe", argv);
    return 1;
}

/* Who shares what is done about signals, and descriptors, shares them up to an execve. */
static void sharing(void)
{
    struct sigaction action = {.sa_handler = handler}, now;
    int status;
    sigaction(SIGUSR1, &action, 0);
    signal(SIGUSR2, SIG_IGN);
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    fflush(stdout);
    pid_t pid = clone(executes, stack + sizeof stack, CLONE_VM | CLONE_SIGHAND | CLONE_FILES | CLONE_FS | SIGCHLD, 0);
    waitpid(pid, &status, 0);
    sigaction(SIGUSR1, 0, &now);
    printf("handled still: %d, open still: %d\n", now.sa_handler == handler, fcntl(fd, F_GETFD));
    /* Where it is is shared for ever. */
    char path[50];
    printf("is at %s\n", getcwd(path, sizeof path));
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "-")) {
        struct sigaction one, other;
        sigaction(SIGUSR1, 0, &one);
        sigaction(SIGUSR2, 0, &other);
        printf("after execve: %d %d\n", one.sa_handler == SIG_DFL, other.sa_handler == SIG_IGN);
        return chdir("/dev");
    }
    snprintf(base, sizeof base, "%s/appends.XXXXXX", argv[argc - 1]);
    if (!mkdtemp(base))
        return perror("mkdtemp"), 1;
    appending();
    if (argc == 2)
        moving();
    sharing();
    TRY(rmdir(base));
    return 0;
}
