/*
 * What processes have used, and what they may: times, faults and pages of one's own, of children and of others; limits,
 * priorities and CPUs. Prints what each call answers, and whether what it says is right: the same natively and in a guest.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/times.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"

/* Linux counts pages a few dozen at a time. */
enum { PAGE = 4096, PAGES = 2000, MANY = PAGES * 3 };

static char *volatile nowhere = (char *)16;

/* Uses so much processor time, in milliseconds. */
static void work(int millis)
{
    struct timespec now;
    clockid_t clock = CLOCK_PROCESS_CPUTIME_ID;
    clock_gettime(clock, &now);
    long end = now.tv_sec * 1000 + now.tv_nsec / 1000000 + millis;
    do
        clock_gettime(clock, &now);
    while (now.tv_sec * 1000 + now.tv_nsec / 1000000 < end);
}

static void touch(int pages)
{
    char *memory = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
    for (int i = pages; i--;)
        memory[(i * 7 % pages) * PAGE] = 1;
    munmap(memory, pages * PAGE);
}

static long millis(const struct rusage *used)
{
    return (used->ru_utime.tv_sec + used->ru_stime.tv_sec) * 1000 + (used->ru_utime.tv_usec + used->ru_stime.tv_usec) / 1000;
}

static long nanos(const struct timespec *time)
{
    return time->tv_sec * 1000000000 + time->tv_nsec;
}

/* A field of /proc/PID/stat, from 3 on. */
static long field(pid_t pid, int number)
{
    char path[40], text[1000] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file || !fgets(text, sizeof text, file))
        return -1;
    fclose(file);
    char *at = strrchr(text, ')') + 1;
    for (int i = 3; i < number; i++)
        at = strchr(at + 1, ' ');
    return strtol(at, 0, 10);
}

static void of_oneself(void)
{
    struct rusage before, after;
    TRY(getrusage(3, &before));
    TRY(getrusage(-2, &before));
    answer("getrusage, nowhere", syscall(SYS_getrusage, RUSAGE_SELF, nowhere));
    TRY(getrusage(RUSAGE_SELF, &before));
    touch(PAGES);
    work(100);
    TRY(getrusage(RUSAGE_SELF, &after));
    long faults = after.ru_minflt - before.ru_minflt, time = millis(&after) - millis(&before);
    printf("some faults: %d, as many pages: %d, major %ld\n", faults > 10, after.ru_maxrss >= MANY, after.ru_majflt - before.ru_majflt);
    printf("as much time: %d\n", time >= 95);
    TRY(getrusage(RUSAGE_THREAD, &before));
    printf("the thread's: %d %d\n", millis(&before) >= millis(&after), before.ru_maxrss >= MANY);
    struct tms used;
    times(&used);
    long ticks = used.tms_utime + used.tms_stime;
    printf("ticks: %d, of children %ld %ld\n", ticks >= 9, (long)used.tms_cutime, (long)used.tms_cstime);
    printf("in /proc: %d\n", field(getpid(), 14) + field(getpid(), 15) >= ticks - 2);
    struct timespec own, thread, by_number;
    clockid_t clock = (~getpid() << 3) | 2;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
    TRY(clock_gettime(clock, &by_number));
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &thread);
    printf("one after the other: %d %d\n", nanos(&own) <= nanos(&by_number), nanos(&by_number) <= nanos(&thread));
    TRY(clock_gettime(((unsigned)~99999 << 3) | 2, &own));
    TRY(clock_gettime(((unsigned)~0 << 3) | 2, &own));
    TRY(clock_getres(clock, &own));
    printf("resolution %ld\n", own.tv_nsec);
}

static void of_children(void)
{
    struct rusage used, children, before;
    int status;
    getrusage(RUSAGE_CHILDREN, &before);
    pid_t child = fork();
    if (child == 0) {
        if (fork() == 0) {
            touch(PAGES);
            work(60);
            _exit(0);
        }
        wait(&status);
        work(60);
        _exit(0);
    }
    TRY(wait4(child, &status, 0, &used) == child);
    getrusage(RUSAGE_CHILDREN, &children);
    printf("both: %d, %d\n", millis(&used) >= 110, used.ru_minflt > 10);
    printf("pages: %d, children's: %d, faults: %d\n", used.ru_maxrss >= MANY, children.ru_maxrss >= MANY,
           children.ru_minflt - before.ru_minflt == used.ru_minflt);
    struct tms ticks;
    times(&ticks);
    printf("ticks: %d\n", ticks.tms_cutime + ticks.tms_cstime >= 10);
    printf("in /proc: %d %d\n", field(getpid(), 16) + field(getpid(), 17) >= 10, field(getpid(), 11) == children.ru_minflt);
    /* One that was not waited for is nobody's. */
    signal(SIGCHLD, SIG_IGN);
    getrusage(RUSAGE_CHILDREN, &before);
    child = fork();
    if (child == 0) {
        work(60);
        _exit(0);
    }
    TRY(wait(&status));
    signal(SIGCHLD, SIG_DFL);
    getrusage(RUSAGE_CHILDREN, &children);
    printf("not waited for: %ld\n", millis(&children) - millis(&before));
}

/* What it used before execve is its own, and what its parent did before vfork is not. */
static void of_programs(void)
{
    struct rusage used;
    int status;
    touch(PAGES);
    pid_t child = vfork();
    if (child == 0)
        _exit(0);
    wait4(child, &status, 0, &used);
    printf("a child that shares memory: %d faults\n", used.ru_minflt > 1000);
    child = fork();
    if (child == 0) {
        char *argv[] = {"usage", "after", 0};
        touch(PAGES);
        work(60);
        execv("/proc/self/exe", argv);
    }
    waitpid(child, &status, 0);
}

static void after_exec(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("after execve: time %d, pages %d, faults %d\n", millis(&used) >= 55, used.ru_maxrss >= MANY, used.ru_minflt > 10);
}

static void of_others(void)
{
    int ends[2], back[2], status;
    char byte;
    pipe(ends);
    pipe(back);
    pid_t child = fork();
    if (child == 0) {
        work(200);
        write(ends[1], "x", 1);
        read(back[0], &byte, 1);
        struct rlimit now;
        getrlimit(RLIMIT_NOFILE, &now);
        printf("its limit: %ld\n", (long)now.rlim_cur);
        printf("its priority: %d\n", getpriority(PRIO_PROCESS, 0));
        _exit(0);
    }
    read(ends[0], &byte, 1);
    printf("another's ticks: %d\n", field(child, 14) + field(child, 15) >= 19);
    struct timespec time;
    TRY(clock_gettime((~child << 3) | 2, &time));
    printf("its clock: %d\n", nanos(&time) >= 195 * 1000000);
    struct rlimit limit, old;
    TRY(prlimit(child, RLIMIT_NOFILE, 0, &limit));
    limit.rlim_cur = 77;
    TRY(prlimit(child, RLIMIT_NOFILE, &limit, &old));
    TRY(prlimit(child, RLIMIT_NOFILE, 0, &limit));
    printf("it was %d, is %ld\n", old.rlim_cur != 77, (long)limit.rlim_cur);
    TRY(prlimit(99999, RLIMIT_NOFILE, 0, &limit));
    TRY(prlimit(-1, RLIMIT_NOFILE, 0, &limit));
    TRY(prlimit(99999, 99, 0, &limit));
    TRY(prlimit(child, 99, 0, &limit));
    answer("prlimit, nowhere", syscall(SYS_prlimit64, 99999, 99, nowhere, 0));
    TRY(setpriority(PRIO_PROCESS, child, 7));
    TRY(getpriority(PRIO_PROCESS, child));
    TRY(getpriority(PRIO_PROCESS, 0));
    TRY(getpriority(PRIO_PROCESS, 99999));
    TRY(getpriority(3, 0));
    TRY(getpriority(-1, 0));
    TRY(setpriority(3, 0, 0));
    TRY(setpriority(PRIO_PROCESS, 99999, 0));
    TRY(setpriority(PRIO_PROCESS, child, 100));
    answer("getpriority, raw", syscall(SYS_getpriority, PRIO_PROCESS, child));
    TRY(setpriority(PRIO_PROCESS, child, -100));
    answer("getpriority, raw", syscall(SYS_getpriority, PRIO_PROCESS, child));
    printf("in /proc: %ld %ld\n", field(child, 18), field(child, 19));
    TRY(setpriority(PRIO_USER, 12345, 0));
    cpu_set_t set;
    unsigned cpu;
    CPU_ZERO(&set);
    answer("sched_getaffinity, too small", syscall(SYS_sched_getaffinity, 0, 0, &set));
    answer("sched_getaffinity, no whole word", syscall(SYS_sched_getaffinity, 0, 65, &set));
    answer("sched_getaffinity, of nobody", syscall(SYS_sched_getaffinity, 99999, sizeof set, &set));
    answer("sched_getaffinity, nowhere", syscall(SYS_sched_getaffinity, 0, sizeof set, nowhere));
    TRY(syscall(SYS_sched_getaffinity, 0, sizeof set, &set) >= 8);
    syscall(SYS_getcpu, &cpu, 0, 0);
    printf("on one of them: %d\n", !!CPU_ISSET(cpu, &set));
    TRY(sched_setaffinity(0, sizeof set, &set));
    CPU_ZERO(&set);
    TRY(sched_setaffinity(0, sizeof set, &set));
    TRY(sched_setaffinity(99999, sizeof set, &set));
    TRY(sched_yield());
    write(back[1], "x", 1);
    waitpid(child, &status, 0);
    TRY(prlimit(child, RLIMIT_NOFILE, 0, &limit));
    printf("nice: %d\n", nice(3));
    child = fork();
    if (child == 0) {
        printf("a child's: %d\n", getpriority(PRIO_PROCESS, 0));
        _exit(0);
    }
    waitpid(child, &status, 0);
}

int main(int argc, char **argv)
{
    (void)argv;
    setvbuf(stdout, 0, _IONBF, 0);
    if (argc > 1)
        return after_exec(), 0;
    of_oneself();
    of_children();
    of_programs();
    of_others();
    return 0;
}
