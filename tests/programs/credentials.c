/*
 * Users, groups and capabilities, and what goes by them: memory that is locked, signals, files. To be run by root. Natively
 * CAP_SYS_RESOURCE may be there, so it is not looked at.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "answer.h"

#define SETUID(uid) syscall(SYS_setuid, uid)
#define SETREUID(a, b) syscall(SYS_setreuid, a, b)
#define SETRESUID(a, b, c) syscall(SYS_setresuid, a, b, c)
#define SETRESGID(a, b, c) syscall(SYS_setresgid, a, b, c)
#define SETFSUID(uid) syscall(SYS_setfsuid, uid)
#define SETGROUPS(count, groups) syscall(SYS_setgroups, count, groups)
#define ONE(capability) (UINT64_C(1) << (capability))
#define RESOURCE ONE(CAP_SYS_RESOURCE)

struct sets {
    uint64_t effective, permitted, inheritable;
};

static int caps(long call, uint32_t version, int pid, struct sets *sets)
{
    struct __user_cap_header_struct header = { version, pid };
    struct __user_cap_data_struct data[2] = {
        { sets->effective, sets->permitted, sets->inheritable },
        { sets->effective >> 32, sets->permitted >> 32, sets->inheritable >> 32 },
    };
    int result = syscall(call, &header, data);
    sets->effective = data[0].effective | (uint64_t)data[1].effective << 32;
    sets->permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
    sets->inheritable = data[0].inheritable | (uint64_t)data[1].inheritable << 32;
    return result;
}

static void show(const char *when)
{
    unsigned r, e, s;
    struct sets now = { 0, 0, 0 };
    syscall(SYS_getresuid, &r, &e, &s);
    printf("%s: uid %u %u %u fs %ld", when, r, e, s, SETFSUID(-1));
    syscall(SYS_getresgid, &r, &e, &s);
    caps(SYS_capget, _LINUX_CAPABILITY_VERSION_3, 0, &now);
    printf(" gid %u %u %u, effective %llx permitted %llx inheritable %llx\n", r, e, s,
           (unsigned long long)(now.effective & ~RESOURCE), (unsigned long long)(now.permitted & ~RESOURCE),
           (unsigned long long)now.inheritable);
    fflush(stdout);
}

static int set(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
    struct sets new = { effective, permitted, inheritable };
    return caps(SYS_capset, _LINUX_CAPABILITY_VERSION_3, 0, &new);
}

static uint64_t permitted(void)
{
    struct sets now = { 0, 0, 0 };
    caps(SYS_capget, _LINUX_CAPABILITY_VERSION_3, 0, &now);
    return now.permitted;
}

static void part(const char *what, void (*body)(void))
{
    int status;
    printf("%s\n", what);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        body();
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    printf("ended with %x\n", status);
}

static void users(void)
{
    TRY(SETREUID(-1, 7));
    show("effective");
    TRY(SETREUID(9, 0));
    show("real, and back");
    TRY(SETRESUID(-1, 8, -1));
    show("only effective");
    TRY(SETRESUID(-1, 5, -1));
    TRY(SETUID(0));
    show("back from saved");
    TRY(SETFSUID(6));
    show("files");
    TRY(SETRESGID(4, 5, 6));
    TRY(SETUID(11));
    show("nobody");
    TRY(SETUID(-1));
    TRY(SETUID(0));
    TRY(SETRESGID(5, 6, 4));
    TRY(SETRESGID(7, -1, -1));
    TRY(SETFSUID(0));
    TRY(SETGROUPS(0, 0));
    TRY(prctl(PR_GET_DUMPABLE));
}

static void groups(void)
{
    gid_t some[3] = { 30, 10, 20 }, seen[4] = { 0 };
    TRY(SETGROUPS(3, some));
    TRY(syscall(SYS_getgroups, 0, seen));
    TRY(syscall(SYS_getgroups, 2, seen));
    TRY(syscall(SYS_getgroups, -1, seen));
    TRY(syscall(SYS_getgroups, 4, seen));
    printf("%u %u %u %u\n", seen[0], seen[1], seen[2], seen[3]);
    TRY(SETGROUPS(65537, some));
    TRY(SETGROUPS(3, 0));
}

static void capabilities(void)
{
    struct sets none = { 0, 0, 0 };
    TRY(caps(SYS_capget, 1, 0, &none));
    TRY(caps(SYS_capget, _LINUX_CAPABILITY_VERSION_3, -1, &none));
    TRY(caps(SYS_capget, _LINUX_CAPABILITY_VERSION_3, 0x3ffffff, &none));
    TRY(caps(SYS_capset, _LINUX_CAPABILITY_VERSION_3, getppid(), &none));
    TRY(syscall(SYS_capget, 0, 0));
    uint64_t all = permitted();
    TRY(set(ONE(CAP_KILL), 0, 0));
    TRY(prctl(PR_CAPBSET_READ, CAP_KILL));
    TRY(prctl(PR_CAPBSET_DROP, CAP_KILL));
    TRY(prctl(PR_CAPBSET_READ, CAP_KILL));
    TRY(prctl(PR_CAPBSET_READ, 41));
    TRY(prctl(PR_CAPBSET_DROP, 41));
    TRY(set(all, all, ONE(CAP_KILL)));
    TRY(set(all, all, ONE(CAP_IPC_LOCK)));
    TRY(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_NICE, 0, 0));
    TRY(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_IPC_LOCK, 0, 0));
    TRY(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_IPC_LOCK, 0, 0));
    TRY(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 1, 0, 0));
    TRY(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, CAP_IPC_LOCK, 0, 0));
    TRY(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_IPC_LOCK, 0, 0));
    TRY(prctl(PR_GET_KEEPCAPS));
    TRY(prctl(PR_SET_KEEPCAPS, 2));
    TRY(prctl(PR_SET_KEEPCAPS, 1));
    TRY(prctl(PR_GET_SECUREBITS));
    TRY(prctl(PR_SET_SECUREBITS, 0x30));
    TRY(prctl(PR_SET_KEEPCAPS, 0));
    TRY(prctl(PR_SET_SECUREBITS, 0x20));
    TRY(SETUID(12));
    show("kept");
    TRY(set(ONE(CAP_SYS_NICE), ONE(CAP_SYS_NICE), 0));
    show("one");
    TRY(prctl(PR_CAPBSET_DROP, CAP_SYS_NICE));
    TRY(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 2, 0, 0, 0));
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    TRY(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

static void locking(void)
{
    struct rlimit limit = { 8192, 8192 };
    char *at = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TRY(setrlimit(RLIMIT_MEMLOCK, &limit));
    TRY(mlock(at, 16384));
    munlock(at, 16384);
    uint64_t all = permitted();
    TRY(set(all & ~ONE(CAP_IPC_LOCK), all, 0));
    TRY(mlock(at, 16384));
    TRY(mlock(at, 8192));
    munlock(at, 16384);
    TRY(set(all, all, 0));
    TRY(mlock(at, 16384));
    munlock(at, 16384);
    /* A child in the same memory gives up what it may; its parent does not. */
    pid_t pid = vfork();
    if (pid == 0) {
        SETUID(3);
        _exit(mlock(at, 16384) == 0);
    }
    int status;
    waitpid(pid, &status, 0);
    printf("child: %x\n", status);
    TRY(mlock(at, 16384));
}

static void signals(void)
{
    signal(SIGCONT, SIG_IGN);
    pid_t root = fork();
    if (root == 0) {
        /* Nobody may end it here, so it does that itself. */
        alarm(2);
        for (;;)
            pause();
    }
    pid_t own = fork();
    if (own == 0) {
        SETUID(21);
        for (;;)
            pause();
    }
    usleep(50000);
    siginfo_t info;
    sigset_t some;
    sigemptyset(&some);
    sigaddset(&some, SIGUSR1);
    sigprocmask(SIG_BLOCK, &some, 0);
    TRY(SETUID(21));
    TRY(kill(root, 0));
    TRY(kill(root, SIGUSR1));
    TRY(kill(root, SIGCONT));
    TRY(kill(getpid(), SIGUSR1));
    sigwaitinfo(&some, &info);
    printf("from user %d\n", info.si_uid);
    TRY(kill(own, SIGKILL));
    memset(&info, 0, sizeof info);
    waitid(P_PID, own, &info, WEXITED);
    printf("of user %d\n", info.si_uid);
    TRY(kill(root, 99));
    fflush(stdout);
    _exit(0);
}

static void open_close(const char *path, int flags)
{
    int fd = open(path, flags, 0640);
    printf("open %s %x: %d\n", path, flags, fd < 0 ? -errno : 0);
    if (fd >= 0)
        close(fd);
}

static void owned(const char *path)
{
    struct stat stat;
    if (lstat(path, &stat))
        printf("%s: errno %d\n", path, errno);
    else
        printf("%s: %o %u %u\n", path, stat.st_mode, stat.st_uid, stat.st_gid);
}

static void files(void)
{
    umask(0);
    mkdir("open", 0777), mkdir("closed", 0700), mkdir("seen", 0755), mkdir("sticky", 01777), mkdir("group", 02777);
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = { "closed/file", "seen/file", "sticky/file" };
        close(open(names[i], O_CREAT | O_RDWR, 0644));
    }
    close(open("open/secret", O_CREAT | O_RDWR, 0600));
    close(open("open/program", O_CREAT | O_RDWR, 0644));
    TRY(chown("group", 0, 44));
    gid_t more[] = { 55 };
    SETGROUPS(1, more);
    SETRESGID(66, 66, 66);
    TRY(SETRESUID(77, 77, 0));
    TRY(access("closed/file", F_OK));
    TRY(access("seen/file", W_OK));
    TRY(access("seen/file", R_OK));
    TRY(access("open/program", X_OK));
    TRY(chdir("closed"));
    open_close("closed/file", O_RDONLY);
    open_close("closed/new", O_CREAT | O_RDWR);
    open_close("closed", O_RDONLY | O_DIRECTORY);
    open_close("seen/file", O_RDONLY);
    open_close("seen/file", O_WRONLY);
    open_close("seen/file", O_RDONLY | O_TRUNC);
    open_close("seen/file", O_RDONLY | O_NOATIME);
    open_close("seen/new", O_CREAT | O_RDWR);
    open_close("open/secret", O_RDONLY);
    open_close("open/secret", O_PATH);
    open_close("open/new", O_CREAT | O_RDWR);
    open_close("group/new", O_CREAT | O_RDWR);
    owned("open/new");
    owned("group/new");
    TRY(mkdir("seen/directory", 0777));
    TRY(mkdir("seen", 0777));
    TRY(mkdir("group/directory", 0777));
    owned("group/directory");
    TRY(symlink("x", "seen/link"));
    TRY(unlink("seen/file"));
    TRY(unlink("sticky/file"));
    TRY(unlink("sticky/none"));
    TRY(rename("sticky/file", "open/file"));
    TRY(rename("open/new", "sticky/file"));
    TRY(rename("open/new", "open/newer"));
    TRY(rename("seen", "open/seen"));
    TRY(link("open/secret", "open/other"));
    TRY(link("open/newer", "open/other"));
    TRY(truncate("seen/file", 0));
    TRY(truncate("open/newer", 5));
    TRY(chmod("seen/file", 0777));
    TRY(chmod("open/newer", 02755));
    owned("open/newer");
    TRY(chown("open/newer", 77, 55));
    owned("open/newer");
    TRY(chown("open/newer", 77, 44));
    TRY(chown("open/newer", 78, -1));
    TRY(utimensat(AT_FDCWD, "seen/file", 0, 0));
    struct timespec times[2] = { { 5, 5 }, { 5, 5 } };
    TRY(utimensat(AT_FDCWD, "open/newer", times, 0));
    TRY(utimensat(AT_FDCWD, "open/program", times, 0));
    char *const arguments[] = { "x", 0 };
    TRY(execve("open/program", arguments, arguments));
    /* Files are root's again, the real user is not: access(2) goes by that. */
    TRY(SETRESUID(-1, 0, -1));
    open_close("closed/file", O_RDONLY);
    TRY(access("closed/file", R_OK));
    TRY(syscall(SYS_faccessat2, AT_FDCWD, "closed/file", R_OK, AT_EACCESS));
    TRY(access("open/program", X_OK));
    TRY(execve("open/program", arguments, arguments));
}

int main(int argc, char **argv)
{
    char place[] = "/tmp/credentials-XXXXXX";
    if (argc > 1) {
        show(argv[1]);
        return 0;
    }
    SETGROUPS(0, 0);
    part("users", users);
    part("groups", groups);
    part("capabilities", capabilities);
    part("locking", locking);
    part("signals", signals);
    if (!mkdtemp(place) || chdir(place))
        return 1;
    chmod(place, 0777);
    part("files", files);
    return 0;
}
