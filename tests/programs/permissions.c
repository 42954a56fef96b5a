/*
 * What one process may do with another one by who both are: how nice it is, its limits, its memory, its signals; and with
 * segments of shared memory. To be run by root, whose CAP_SYS_RESOURCE is given up first: a guest's has none. What a call
 * answered is a value behind an equals sign, or an errno alone, in a line for all calls of one process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>


#define TRY(call) answer((long)(call))
#define ONE(capability) (UINT64_C(1) << (capability))
#define ALL (ONE(41) - 1)
#define SETGID(gid) syscall(SYS_setgid, gid)
#define SETUID(uid) syscall(SYS_setuid, uid)
#define SETRESUID(a, b, c) syscall(SYS_setresuid, a, b, c)
#define SETRESGID(a, b, c) syscall(SYS_setresgid, a, b, c)

enum { OWNER = 21, OTHER = 22, GROUP = 31, OTHERS = 32, MORE = 33, KEY = 0x51d15eed };

static char bytes[64] = "bytes";
static pid_t target;

static void answer(long result)
{
    if (result < 0)
        printf(" %d", errno);
    else
        printf(" =%ld", result);
}

static long set(uint64_t effective, uint64_t permitted)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2] = {
        { effective, permitted, 0 },
        { effective >> 32, permitted >> 32, 0 },
    };
    return syscall(SYS_capset, &header, data);
}

static void become(unsigned user, unsigned group)
{
    gid_t more = MORE;
    syscall(SYS_setgroups, 1, &more);
    SETGID(group);
    SETUID(user);
}

/* In a process of its own, so that nothing comes back. */
static void part(const char *what, void (*body)(void))
{
    int status;
    printf("%s:", what);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        body();
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    if (status)
        printf(" ended with %x", status);
    printf("\n");
}

/* A process that `be` makes somebody, and waits. */
static void with_target(void (*be)(void))
{
    int ends[2];
    char byte;
    pipe(ends);
    target = fork();
    if (target == 0) {
        be();
        write(ends[1], "x", 1);
        for (;;)
            pause();
    }
    read(ends[0], &byte, 1);
    close(ends[0]), close(ends[1]);
}

static void end_target(void)
{
    int status;
    kill(target, SIGKILL);
    waitpid(target, &status, 0);
}

static void all(void)
{
    char own[8];
    struct iovec here = { own, 5 }, there = { bytes, 5 }, page = { (void *)((uintptr_t)bytes & -4096), 4096 };
    struct rlimit limit = { 1, 0 };
    cpu_set_t cpus;
    void *pages[1] = { page.iov_base };
    unsigned long node = 1;
    int where = 0, fd = syscall(SYS_pidfd_open, target, 0);
    TRY(kill(target, 0));
    TRY(kill(target, 99));
    TRY(setpriority(PRIO_PROCESS, target, 5));
    TRY(setpriority(PRIO_PROCESS, target, 3));
    TRY(setpriority(PRIO_PROCESS, target, 7));
    TRY(getpriority(PRIO_PROCESS, target));
    TRY(syscall(SYS_prlimit64, target, RLIMIT_CORE, 0, &limit));
    TRY(syscall(SYS_prlimit64, target, 99, 0, &limit));
    limit.rlim_cur = 2, limit.rlim_max = 1;
    TRY(syscall(SYS_prlimit64, target, RLIMIT_CORE, &limit, 0));
    TRY(syscall(SYS_prlimit64, target, RLIMIT_CORE, (void *)16, 0));
    TRY(syscall(SYS_process_vm_readv, target, &here, 1, &there, 1, 0));
    TRY(syscall(SYS_process_vm_writev, target, &here, 1, &there, 1, 0));
    TRY(syscall(SYS_process_vm_readv, target, &here, 1, &there, 1, 1));
    TRY(syscall(SYS_process_vm_readv, target, &here, 0, &there, 1, 0));
    TRY(syscall(SYS_process_madvise, fd, &page, 1, MADV_COLD, 0));
    TRY(syscall(SYS_process_madvise, fd, &page, 1, MADV_DONTNEED, 0));
    TRY(syscall(SYS_move_pages, target, 1, pages, 0, &where, 0));
    TRY(syscall(SYS_move_pages, target, 1, pages, 0, &where, 4));
    TRY(syscall(SYS_migrate_pages, target, 64, &node, &node));
    memset(&cpus, 0xff, sizeof cpus);
    TRY(sched_setaffinity(target, sizeof cpus, &cpus));
    TRY(sched_setaffinity(target, sizeof cpus, (void *)16));
    close(fd);
}

static void be_root(void) {}
static void be_owner(void)
{
    become(OWNER, GROUP);
    prctl(PR_SET_DUMPABLE, 1);
}
static void be_hidden(void) { become(OWNER, GROUP); }
static void be_of_another_group(void)
{
    become(OWNER, OTHERS);
    prctl(PR_SET_DUMPABLE, 1);
}
static void be_half(void)
{
    SETRESGID(GROUP, GROUP, GROUP);
    SETRESUID(OWNER, OWNER, 0);
    prctl(PR_SET_DUMPABLE, 1);
}
static void be_other_by_effect(void)
{
    SETRESGID(GROUP, GROUP, GROUP);
    SETRESUID(0, OWNER, 0);
    prctl(PR_SET_DUMPABLE, 1);
}
static void be_capable(void)
{
    SETRESGID(GROUP, GROUP, GROUP);
    prctl(PR_SET_KEEPCAPS, 1);
    SETUID(OWNER);
    set(0, ONE(CAP_KILL));
    prctl(PR_SET_DUMPABLE, 1);
}

static void as_owner(void)
{
    become(OWNER, GROUP);
    all();
}
static void as_root(void) { all(); }
static void as_root_without(uint64_t without)
{
    set(ALL & ~ONE(CAP_SYS_RESOURCE) & ~without, ALL & ~ONE(CAP_SYS_RESOURCE));
    all();
}
static void as_root_without_ptrace(void) { as_root_without(ONE(CAP_SYS_PTRACE)); }
static void as_root_without_nice(void) { as_root_without(ONE(CAP_SYS_NICE)); }
static void as_root_without_any(void) { as_root_without(ALL); }
static void as_owner_by_effect(void)
{
    SETRESGID(-1, GROUP, -1);
    SETRESUID(-1, OWNER, -1);
    all();
}
static void as_capable(void)
{
    be_capable();
    all();
}

static const struct {
    const char *name;
    void (*be)(void);
} whom[] = {
    { "root", be_root }, { "owner", be_owner }, { "hidden", be_hidden }, { "of another group", be_of_another_group },
    { "root saved", be_half }, { "owner by effect", be_other_by_effect }, { "capable", be_capable },
}, who[] = {
    { "root", as_root }, { "owner", as_owner }, { "root without CAP_SYS_PTRACE", as_root_without_ptrace },
    { "root without CAP_SYS_NICE", as_root_without_nice }, { "root without any", as_root_without_any },
    { "owner by effect", as_owner_by_effect }, { "capable", as_capable },
};

static void ended(void)
{
    siginfo_t info;
    target = fork();
    if (target == 0)
        become(OTHER, GROUP), _exit(0);
    waitid(P_PID, target, &info, WEXITED | WNOWAIT);
    char own[8];
    struct iovec here = { own, 5 }, there = { bytes, 5 };
    void *pages[1] = { bytes };
    int where;
    become(OWNER, GROUP);
    TRY(syscall(SYS_process_vm_readv, target, &here, 1, &there, 1, 0));
    TRY(syscall(SYS_move_pages, target, 1, pages, 0, &where, 0));
    TRY(setpriority(PRIO_PROCESS, target, 5));
    TRY(kill(target, 0));
}

static void several(void)
{
    with_target(be_owner);
    pid_t first = target;
    with_target(be_root);
    setpgid(first, first), setpgid(target, first);
    TRY(setpriority(PRIO_USER, OWNER, 4));
    TRY(getpriority(PRIO_PROCESS, first));
    TRY(getpriority(PRIO_USER, OWNER));
    TRY(getpriority(PRIO_USER, OTHER));
    TRY(setpriority(PRIO_USER, OTHER, 4));
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        become(OWNER, GROUP);
        TRY(setpriority(PRIO_PGRP, first, 9));
        TRY(getpriority(PRIO_PROCESS, first));
        TRY(getpriority(PRIO_PROCESS, target));
        TRY(setpriority(PRIO_USER, 0, 10));
        TRY(getpriority(PRIO_PROCESS, first));
        TRY(getpriority(PRIO_USER, 0));
        TRY(setpriority(PRIO_USER, OWNER, 8));
        struct rlimit limit = { 12, 12 };
        TRY(setrlimit(RLIMIT_NICE, &limit));
        TRY(nice(-1));
        TRY(nice(1));
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    end_target();
    target = first;
    end_target();
    struct rlimit limit = { 15, 15 };
    TRY(setrlimit(RLIMIT_NICE, &limit));
}

static int made(int mode)
{
    int id = shmget(KEY, 4096, IPC_CREAT | IPC_EXCL | mode);
    printf(" made %o: %d\n", mode, id < 0 ? errno : 0);
    return id;
}

static void does(int id)
{
    struct shmid_ds status;
    printf(" get");
    for (int mode = 0; mode < 0777; mode = mode ? mode * 8 : 1)
        TRY(shmget(KEY, 0, mode) == id ? 0 : -1);
    TRY(shmget(KEY, 0, 0600) == id ? 0 : -1);
    TRY(shmget(KEY, 8192, 0600));
    TRY(shmget(KEY, 8192, IPC_CREAT | IPC_EXCL | 0600));
    printf(" attach");
    int flags[] = { 0, SHM_RDONLY, SHM_EXEC, SHM_RDONLY | SHM_EXEC };
    for (int i = 0; i < 4; i++) {
        void *at = shmat(id, 0, flags[i]);
        TRY(at == (void *)-1 ? -1 : 0);
        if (at != (void *)-1)
            shmdt(at);
    }
    printf(" control");
    TRY(shmctl(id, IPC_STAT, &status));
    TRY(shmctl(id, IPC_STAT, (void *)16));
    TRY(shmctl(id & 32767, SHM_STAT, &status) == id ? 0 : -1);
    TRY(shmctl(id & 32767, 15 /* SHM_STAT_ANY */, &status) == id ? 0 : -1);
    printf(" (%u %u by %u %u, %o)", status.shm_perm.uid, status.shm_perm.gid, status.shm_perm.cuid, status.shm_perm.cgid,
           status.shm_perm.mode);
    TRY(shmctl(id, SHM_LOCK, 0));
    TRY(shmctl(id, SHM_UNLOCK, 0));
    TRY(shmctl(id, IPC_SET, (void *)16));
    status.shm_perm.uid = -1;
    TRY(shmctl(id, IPC_SET, &status));
}

static int segment;
static unsigned as_user, as_group;
static uint64_t as_with;

static void does_as(void)
{
    become(as_user, as_group);
    if (as_user == 0)
        set(as_with, as_with);
    does(segment);
}

static void removes(void)
{
    become(as_user, as_group);
    TRY(shmctl(segment, IPC_RMID, 0));
}

static void makes(void)
{
    become(OWNER, GROUP);
    segment = made(0640);
}

static void segments(void)
{
    static const int modes[] = { 0600, 0640, 0666, 0424, 0146, 0000, 0707 };
    for (int i = 0; i < 7; i++) {
        struct shmid_ds status;
        segment = made(modes[i]);
        shmctl(segment, IPC_STAT, &status);
        status.shm_perm.uid = OWNER, status.shm_perm.gid = GROUP;
        shmctl(segment, IPC_SET, &status);
        as_with = 0;
        as_user = OWNER, as_group = OTHERS;
        part("its owner", does_as);
        as_user = OTHER, as_group = GROUP;
        part("one of its group", does_as);
        as_group = OTHERS;
        part("another", does_as);
        as_group = 0;
        part("one of its maker's group", does_as);
        as_user = 0, as_group = OTHERS;
        part("its maker, without any", does_as);
        status.shm_perm.gid = MORE;
        shmctl(segment, IPC_SET, &status);
        as_user = OTHER;
        part("one of a group of many", does_as);
        part("removes another's", removes);
        as_user = OWNER;
        part("removes", removes);
    }
    part("makes", makes);
    segment = shmget(KEY, 0, 0);
    as_user = 0, as_with = 0;
    part("root without any", does_as);
    as_with = ONE(CAP_IPC_OWNER);
    part("root with CAP_IPC_OWNER", does_as);
    as_with = ONE(CAP_SYS_ADMIN);
    part("root with CAP_SYS_ADMIN", does_as);
    as_with = ONE(CAP_IPC_LOCK);
    part("root with CAP_IPC_LOCK", does_as);
    as_user = OTHER;
    part("removes another's", removes);
    as_user = 0;
    part("removes", removes);
}

int main(void)
{
    struct rlimit locked = { 65536, 65536 };
    setrlimit(RLIMIT_MEMLOCK, &locked);
    prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE);
    set(ALL & ~ONE(CAP_SYS_RESOURCE), ALL & ~ONE(CAP_SYS_RESOURCE));
    for (size_t i = 0; i < sizeof whom / sizeof *whom; i++)
        for (size_t j = 0; j < sizeof who / sizeof *who; j++) {
            char name[80];
            snprintf(name, sizeof name, "%s to %s", who[j].name, whom[i].name);
            with_target(whom[i].be);
            part(name, who[j].be);
            end_target();
        }
    part("one that has ended", ended);
    part("several", several);
    part("segments", segments);
    return 0;
}
