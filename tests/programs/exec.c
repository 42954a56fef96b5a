// Programs that execute programs: what is said is the same natively and in a guest.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const SELF = "/proc/self/exe";

static void handler(int signal) { (void)signal; }

// What an executed program finds.
static int executed(int argc, char **argv, char **envp) {
    char name[16];
    struct sigaction action;
    struct rlimit limit;
    prctl(PR_GET_NAME, name);
    const char *called = strrchr(argv[0], 0x2f) ? strrchr(argv[0], 0x2f) + 1 : argv[0];
    printf("executed: %d arguments, %s %s, first variable %s, name %s, called %s\n", argc, called, argv[1],
           envp[0] ? envp[0] : "none", name, (char *)getauxval(AT_EXECFN));
    sigaction(SIGUSR1, 0, &action);
    printf("SIGUSR1 %s, ", action.sa_handler == SIG_DFL ? "default" : "not default");
    sigaction(SIGUSR2, 0, &action);
    printf("SIGUSR2 %s\n", action.sa_handler == SIG_IGN ? "ignored" : "not ignored");
    getrlimit(RLIMIT_DATA, &limit);
    printf("fd 10 %d, fd 11 %d, RLIMIT_DATA %lld, umask %o\n", fcntl(10, F_GETFD), fcntl(11, F_GETFD) >= 0,
           (long long)limit.rlim_cur, umask(0));
    fflush(stdout);
    return argc > 2 ? atoi(argv[2]) : 0;
}

static void tell(const char *what, pid_t pid) {
    int status = -1;
    waitpid(pid, &status, 0);
    printf("%s: %#x\n", what, status);
    fflush(stdout);
}

static void refused(const char *path) {
    char *argv[] = {"x", 0};
    execve(path, argv, environ);
    printf("%s: %s\n", path, strerror(errno));
    fflush(stdout);
}

int main(int argc, char **argv, char **envp) {
    if (argc > 1 && !strcmp(argv[1], "executed")) return executed(argc, argv, envp);
    char *arguments[] = {"other", "executed", "7", 0}, *variables[] = {"A=1", 0}, *none[] = {0};
    signal(SIGUSR1, handler);
    signal(SIGUSR2, SIG_IGN);
    umask(031);
    dup2(0, 10);
    fcntl(10, F_SETFD, FD_CLOEXEC);
    dup2(0, 11);
    struct rlimit limit = {1 << 30, RLIM_INFINITY};
    setrlimit(RLIMIT_DATA, &limit);
    prctl(PR_SET_NAME, "before");

    pid_t child = fork();
    if (child == 0) {
        execve(SELF, arguments, variables);
        _exit(99);
    }
    tell("fork", child);
    child = vfork();
    if (child == 0) {
        execve(SELF, arguments, none);
        _exit(99);
    }
    tell("vfork", child);
    printf("fd 10 still %d\n", fcntl(10, F_GETFD));

    // Sixteen times in a row, and through a script.
    char directory[] = "/tmp/exec.XXXXXX", script[100], program[100], text[200];
    printf("mkdtemp %d\n", mkdtemp(directory) ? 0 : -1);
    snprintf(script, sizeof script, "%s/script", directory);
    snprintf(program, sizeof program, "%s/program", directory);
    int from = open(SELF, O_RDONLY), to = open(program, O_WRONLY | O_CREAT, 0755);
    char buffer[65536];
    ssize_t count;
    while ((count = read(from, buffer, sizeof buffer)) > 0)
        if (write(to, buffer, count) != count) return 1;
    close(from);
    fchmod(to, 0755);
    close(to);
    to = open(script, O_WRONLY | O_CREAT, 0700);
    dprintf(to, "#! %s executed\nnothing\n", program);
    fchmod(to, 0700);
    close(to);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        // Its name is the interpreter's third argument.
        chdir(directory);
        char *just[] = {"script", "and more", 0};
        execve("./script", just, none);
        _exit(99);
    }
    int status;
    waitpid(child, &status, 0);
    snprintf(text, sizeof text, "script: %#x", status);
    // What it was called by is in a directory of its own.
    puts(text);
    refused("/none");
    refused("");
    refused("/tmp");
    refused("/dev/null");
    refused("/dev/null/x");
    chmod(script, 0600);
    execve(script, arguments, none);
    printf("not executable: %s\n", strerror(errno));
    to = open(script, O_WRONLY | O_TRUNC);
    chmod(script, 0700);
    dprintf(to, "no program");
    close(to);
    execve(script, arguments, none);
    printf("no program: %s\n", strerror(errno));
    to = open(script, O_WRONLY | O_TRUNC);
    dprintf(to, "#!\n");
    close(to);
    execve(script, arguments, none);
    printf("no interpreter: %s\n", strerror(errno));
    to = open(script, O_WRONLY | O_TRUNC);
    dprintf(to, "#!%s\n", script);
    close(to);
    execve(script, arguments, none);
    printf("its own interpreter: %s\n", strerror(errno));
    char *longest = malloc(1 << 18);
    memset(longest, 'x', (1 << 18) - 1);
    longest[(1 << 18) - 1] = 0;
    char *too_long[] = {longest, 0};
    execve(program, too_long, none);
    printf("an argument too long: %s\n", strerror(errno));
    char **too_many = calloc(1 << 20, sizeof *too_many);
    for (int i = 0; i < (1 << 20) - 1; i++) too_many[i] = "many";
    execve(program, too_many, none);
    printf("too many: %s\n", strerror(errno));
    execve(program, (char **)8, none);
    printf("no arguments: %s\n", strerror(errno));
    unlink(script);
    unlink(program);
    printf("rmdir %d\n", rmdir(directory));
    fflush(stdout);
    for (int i = 0; i < 16; i++) {
        child = fork();
        if (child == 0) {
            if (freopen("/dev/null", "w", stdout)) execve(SELF, arguments, none);
            _exit(99);
        }
        waitpid(child, &status, 0);
        if (status != 0x700) printf("round %d: %#x\n", i, status);
    }
    return 0;
}
