/*
 * System V shared memory: made, found, attached, taken off and removed, by one process and by its children. Prints what
 * each call answers: the same natively and in a guest.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"

#ifndef SHM_EXEC
#define SHM_EXEC 0100000
#endif
#ifndef SHM_REMAP
#define SHM_REMAP 040000
#endif
#ifndef SHM_HUGETLB
#define SHM_HUGETLB 04000
#endif
#ifndef SHM_NORESERVE
#define SHM_NORESERVE 010000
#endif
#define STAT 13
#define INFO 14
#define STAT_ANY 15

enum { PAGE = 4096 };

static char *const place = (char *)0x200000000000;
static char *volatile nowhere = (char *)16;

static int segment(size_t size, int flags)
{
    int id = shmget(IPC_PRIVATE, size, flags);
    if (id < 0)
        answer("shmget", id);
    return id;
}

static long at(int id, void *where, int flags)
{
    return syscall(SYS_shmat, id, where, flags);
}

/* Where it is is the kernel's to say. */
static void somewhere(const char *what, long result)
{
    answer(what, result < 0 ? -1 : 0);
}

static void state(const char *when, int id)
{
    struct shmid_ds s;
    memset(&s, 0xff, sizeof s);
    if (shmctl(id, IPC_STAT, &s))
        return answer(when, -1);
    int self = getpid(), parent = getppid();
    const char *creator = s.shm_cpid == self ? "I" : s.shm_cpid == parent ? "my parent" : "other";
    const char *last = !s.shm_lpid ? "nobody" : s.shm_lpid == self ? "I" : s.shm_lpid == parent ? "my parent" : "other";
    printf("%s: %zu bytes, %lu attached, mode %o, made by %s, last %s, attached %s, taken off %s, changed %s, owner %d %d, "
           "maker %d %d\n",
           when, s.shm_segsz, (unsigned long)s.shm_nattch, s.shm_perm.mode, creator, last, s.shm_atime ? "once" : "never",
           s.shm_dtime ? "once" : "never", s.shm_ctime ? "once" : "never", s.shm_perm.uid, s.shm_perm.gid,
           s.shm_perm.cuid, s.shm_perm.cgid);
    fflush(stdout);
}

/* The lines of a file with a text in them, without the numbers that differ each time. */
static void maps(const char *when, int id)
{
    char line[300], path[200] = "";
    unsigned long start, end, offset, inode;
    char mode[8], device[16];
    FILE *file = fopen("/proc/self/maps", "r");
    printf("%s\n", when);
    while (file && fgets(line, sizeof line, file)) {
        if (!strstr(line, "SYSV"))
            continue;
        sscanf(line, "%lx-%lx %7s %lx %15s %lu %199[^\n]", &start, &end, mode, &offset, device, &inode, path);
        long from = ((long)start - (long)place) / PAGE;
        /* Where the kernel has placed it is not compared, nor the key. */
        if (from < -100 || from > 100)
            from = 100;
        if (strncmp(path, "/SYSV00000000", 13))
            strcpy(path, "with a key");
        printf("  %lu pages at %ld %s %lx inode %s %s\n", (end - start) / PAGE, from, mode, offset,
               inode == (unsigned long)id ? "is its number" : "other", path);
    }
    if (file)
        fclose(file);
    fflush(stdout);
}

/* Runs a part in a child, which must end by itself. */
static void child(void (*part)(int), int id)
{
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        part(id);
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    printf("child: %x\n", status);
}

static void making(void)
{
    key_t key = 0x6d6d7600 + getpid() % 200;
    TRY(shmget(IPC_PRIVATE, 0, 0600));
    TRY(shmget(IPC_PRIVATE, SIZE_MAX, 0600));
    TRY(shmget(IPC_PRIVATE, SIZE_MAX - (1UL << 24), 0600));
    TRY(shmget(IPC_PRIVATE, SIZE_MAX / 2, 0600));
    TRY(shmget(IPC_PRIVATE, 1UL << 60, 0600));
    TRY(shmget(IPC_PRIVATE, 1UL << 60, 0600 | SHM_HUGETLB));
    TRY(shmget(IPC_PRIVATE, PAGE, 0600 | SHM_HUGETLB | 5 << 26));
    TRY(shmget(IPC_PRIVATE, 0, 0600 | SHM_HUGETLB | 5 << 26));
    errno = 0;
    answer("shmget, no such", shmget(key, PAGE, 0600));
    int id = shmget(key, PAGE + 1, 0640 | IPC_CREAT);
    somewhere("shmget, made", id);
    state("made", id);
    answer("shmget, found", shmget(key, 0, 0) - id);
    answer("shmget, found, its size", shmget(key, PAGE + 1, 0666) - id);
    answer("shmget, found, one more byte", shmget(key, PAGE + 2, 0) < 0 ? -1 : 1);
    answer("shmget, exclusive", shmget(key, 1, IPC_CREAT | IPC_EXCL));
    answer("shmget, exclusive and too large", shmget(key, PAGE * 9, IPC_CREAT | IPC_EXCL));
    answer("shmget, unknown flags", shmget(key, 1, 0x7fff0000) - id);
    answer("shmget, exclusive alone", shmget(key, 1, IPC_EXCL) - id);
    char *memory = shmat(id, place, 0);
    printf("at its place: %d\n", memory == place);
    maps("with a key", id);
    char line[300], wanted[40];
    snprintf(wanted, sizeof wanted, "/SYSV%08x (deleted)", key);
    FILE *file = fopen("/proc/self/maps", "r");
    int found = 0;
    while (file && fgets(line, sizeof line, file))
        found += strstr(line, wanted) != 0;
    if (file)
        fclose(file);
    printf("named by its key: %d\n", found);
    TRY(shmctl(id, IPC_RMID, 0));
    answer("shmget, removed but there", shmget(key, 0, 0));
    state("removed but there", id);
    TRY(shmctl(id, IPC_RMID, 0));
    TRY(shmdt(memory));
    state("gone", id);
    TRY(shmctl(id, IPC_RMID, 0));
    answer("shmat, gone", at(id, 0, 0));
}

static void attaching(void)
{
    int id = segment(3 * PAGE, 0600);
    TRY(at(-1, 0, 0));
    TRY(at(0x7fffffff, 0, 0));
    answer("shmat, another's sequence", at(id ^ 1 << 16, 0, 0));
    answer("shmat, unaligned", at(id, place + 1, 0));
    answer("shmat, unaligned, negative", at(-1, place + 1, 0));
    somewhere("shmat, rounded", at(id, place + 1, SHM_RND) - (long)place);
    state("attached", id);
    answer("shmat, in its way", at(id, place, 0));
    answer("shmat, in its way at its end", at(id, place - 2 * PAGE, 0));
    somewhere("shmat, just before", at(id, place - 3 * PAGE, 0));
    answer("shmat, instead, nowhere", at(id, 0, SHM_REMAP));
    answer("shmat, instead, rounded to 0", at(id, (char *)5, SHM_REMAP | SHM_RND));
    somewhere("shmat, instead", at(id, place + PAGE, SHM_REMAP));
    state("three times", id);
    maps("one over the other", id);
    somewhere("shmat, low", at(id, (char *)PAGE, SHM_REMAP));
    TRY(shmdt((char *)PAGE));
    answer("shmat, past the end", at(id, (char *)0x7ffffffff000, 0));
    answer("shmat, past all", at(id, (char *)0xfffffffffffff000, 0));
    answer("shmat, the upper half", at(id, (char *)0xffff800000000000, 0));
    somewhere("shmat, unknown flags", at(id, place + 16 * PAGE, 0x7fff0fff & ~(SHM_REMAP | SHM_RDONLY | SHM_EXEC)));
    TRY(shmdt(place + 16 * PAGE));
    TRY(shmdt(place + PAGE));
    maps("the last gone", id);
    TRY(shmdt(place));
    TRY(shmdt(place - 3 * PAGE));
    TRY(shmdt(place - 3 * PAGE));
    TRY(shmdt(place + 1));
    TRY(shmdt(0));
    TRY(shmdt((char *)0xfffffffffffff000));
    state("none", id);
    TRY(shmctl(id, IPC_RMID, 0));
}

static void writes(char *memory)
{
    memory[0]++;
}

static void reads(int id)
{
    char *memory = shmat(id, place, SHM_RDONLY);
    printf("reads %s\n", memory);
    fflush(stdout);
    TRY(mprotect(memory, PAGE, PROT_READ | PROT_WRITE));
    TRY(mprotect(memory, PAGE, PROT_READ | PROT_EXEC));
    maps("to be read", id);
    writes(memory);
}

static void executes(int id)
{
    unsigned char *memory = shmat(id, place, SHM_EXEC);
    maps("to be executed", id);
    memcpy(memory, "\xb8\x2a\0\0\0\xc3", 6);
    printf("it says %d\n", ((int (*)(void))(uintptr_t)memory)());
    shmdt(memory);
    somewhere("shmat, read and executed", at(id, place, SHM_EXEC | SHM_RDONLY));
    maps("to be read and executed", id);
}

static void past_the_end(int id)
{
    char *memory = shmat(id, place, 0);
    printf("grown: %d\n", mremap(memory, 2 * PAGE, 4 * PAGE, 0) == memory);
    fflush(stdout);
    writes(memory + 2 * PAGE - 1);
    writes(memory + 2 * PAGE);
}

static void sharing(void)
{
    int id = segment(PAGE + 5, 0600);
    char *memory = shmat(id, 0, 0);
    strcpy(memory, "what the parent wrote");
    child(reads, id);
    child(executes, id);
    child(past_the_end, id);
    state("children gone", id);
    struct rlimit none = {0, 0};
    TRY(mlock(memory, PAGE));
    TRY(shmdt(memory));
    setrlimit(RLIMIT_AS, &none);
    answer("shmat, no room", at(id, 0, 0));
    state("as before", id);
    TRY(shmctl(id, IPC_RMID, 0));
}

/* Who has it, as pieces are cut, moved, merged and copied. */
static void counting_child(int id)
{
    state("in a child", id);
    TRY(shmdt(place));
    state("in a child, without", id);
}

static void pieces(void)
{
    int id = segment(8 * PAGE, 0600);
    shmat(id, place, 0);
    TRY(mprotect(place + 2 * PAGE, PAGE, PROT_READ));
    state("cut in three", id);
    maps("cut in three", id);
    TRY(mprotect(place + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE));
    state("alike again", id);
    maps("alike again", id);
    TRY(mprotect(place + 2 * PAGE, PAGE, PROT_READ));
    TRY(mprotect(place + 3 * PAGE, PAGE, PROT_READ));
    maps("the border moved", id);
    TRY(munmap(place + 5 * PAGE, PAGE));
    state("with a hole", id);
    child(counting_child, id);
    state("the child gone", id);
    printf("moved: %d\n", mremap(place + 6 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place + 20 * PAGE) == place + 20 * PAGE);
    state("one moved", id);
    maps("one moved", id);
    printf("doubled: %d\n", mremap(place, 0, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place + 30 * PAGE) == place + 30 * PAGE);
    state("one doubled", id);
    TRY(shmdt(place + PAGE));
    TRY(shmdt(place));
    state("its pieces gone", id);
    maps("its pieces gone", id);
    TRY(shmdt(place + 14 * PAGE));
    TRY(shmdt(place + 30 * PAGE));
    state("all gone", id);
    /* Another segment's piece with the right offset between its own. */
    int other = segment(8 * PAGE, 0600);
    shmat(id, place, 0);
    shmat(other, place + 40 * PAGE, 0);
    mremap(place + 43 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place + 3 * PAGE);
    maps("two of them", id);
    TRY(shmdt(place));
    maps("what is left of two", other);
    TRY(shmdt(place));
    maps("of the other one", other);
    TRY(shmdt(place + 40 * PAGE));
    TRY(shmdt(place + 40 * PAGE));
    /* The first piece that fits counts, wherever it is. */
    shmat(id, place, 0);
    munmap(place, 6 * PAGE);
    munmap(place + 7 * PAGE, PAGE);
    TRY(shmdt(place - 8 * PAGE));
    TRY(shmdt(place + 6 * PAGE));
    TRY(shmdt(place));
    state("its last piece gone", id);
    TRY(shmctl(id, IPC_RMID, 0));
    TRY(shmctl(other, IPC_RMID, 0));
}

static void leaves(int id)
{
    writes(shmat(id, 0, 0));
    TRY(shmctl(id, IPC_RMID, 0));
    state("removed", id);
}

static void executed(int id)
{
    char *memory = shmat(id, 0, 0);
    char number[20], *argv[] = {"segments", "after", number, 0};
    memory[1] = 'x';
    snprintf(number, sizeof number, "%d", id);
    execv("/proc/self/exe", argv);
}

static void killed(int id)
{
    shmat(id, 0, 0);
    state("to be killed", id);
    raise(9);
}

static void ends(void)
{
    int id = segment(PAGE, 0600);
    child(killed, id);
    state("after a kill", id);
    child(executed, id);
    char *memory = shmat(id, 0, 0);
    printf("it wrote %c\n", memory[1]);
    shmdt(memory);
    child(leaves, id);
    state("after the last", id);
    /* Who attaches it again before it goes. */
    id = segment(PAGE, 0600);
    memory = shmat(id, 0, 0);
    *memory = 'a';
    TRY(shmctl(id, IPC_RMID, 0));
    char *again = shmat(id, 0, 0);
    printf("again %c\n", *again);
    shmdt(memory);
    state("still there", id);
    TRY(shmctl(id, SHM_LOCK, 0));
    state("still there, locked", id);
    shmdt(again);
    state("gone", id);
}

static void controlling(void)
{
    int id = segment(PAGE, 0600 | 01000);
    struct shmid_ds s;
    TRY(shmctl(-1, IPC_STAT, &s));
    TRY(shmctl(-1, 77, &s));
    answer("shmctl, negative command", shmctl(id, -1, &s));
    answer("shmctl, unknown", shmctl(id, 77, &s));
    answer("shmctl, unknown, none such", shmctl(0x7fffffff, 77, 0));
    answer("shmctl, version", shmctl(id, IPC_STAT | 0x100, &s));
    answer("shmctl, nowhere", syscall(SYS_shmctl, id, IPC_STAT, nowhere));
    answer("shmctl, set from nowhere", syscall(SYS_shmctl, id, IPC_SET, nowhere));
    answer("shmctl, set from nowhere, none such", syscall(SYS_shmctl, 0x7fffffff, IPC_SET, nowhere));
    answer("shmctl, stat to nowhere, none such", syscall(SYS_shmctl, 0x7fffffff, IPC_STAT, nowhere));
    answer("shmctl, info to nowhere", syscall(SYS_shmctl, 5, IPC_INFO, nowhere));
    answer("shmctl, shm_info to nowhere", syscall(SYS_shmctl, 5, INFO, nowhere));
    answer("shmctl, remove, none such", shmctl(0x7fffffff, IPC_RMID, 0));
    TRY(shmctl(0x7fffffff, SHM_LOCK, 0));
    TRY(shmctl(0x7fffffff, STAT, &s));
    TRY(shmctl(0x7fffffff, STAT_ANY, &s));
    shmctl(id, IPC_STAT, &s);
    s.shm_perm.mode = 07777;
    s.shm_perm.uid = 12;
    s.shm_perm.gid = 34;
    s.shm_segsz = 7;
    TRY(shmctl(id, IPC_SET, &s));
    state("set", id);
    s.shm_perm.uid = -1;
    TRY(shmctl(id, IPC_SET, &s));
    s.shm_perm.uid = 12, s.shm_perm.gid = -1;
    TRY(shmctl(id, IPC_SET, &s));
    state("still", id);
    TRY(shmctl(id, SHM_UNLOCK, 0));
    TRY(shmctl(id, SHM_LOCK, 0));
    state("locked", id);
    TRY(shmctl(id, SHM_LOCK, 0));
    TRY(shmctl(id, SHM_UNLOCK, 0));
    state("unlocked", id);
    unsigned long info[16];
    memset(info, 0xff, sizeof info);
    int highest = syscall(SYS_shmctl, 0, IPC_INFO, info);
    printf("limits: at most %#lx, at least %lu, %lu of them, %lu for each, %#lx pages; %lx, %lx\n", info[0], info[1], info[2],
           info[3], info[4], info[5], info[9]);
    int found = 0;
    for (int place = 0; place <= highest; place++)
        found += shmctl(place, STAT, &s) == id;
    printf("found by its place: %d\n", found);
    found = 0;
    for (int place = 0; place <= highest; place++)
        found += shmctl(place | 1 << 20, STAT_ANY, &s) == id;
    printf("found by anybody: %d\n", found);
    memset(info, 0xff, sizeof info);
    printf("as high: %d\n", (int)syscall(SYS_shmctl, 77, INFO, info) == highest);
    int used = info[0];
    long pages = info[1], there = info[2];
    char *memory = shmat(id, 0, 0);
    *memory = 1;
    int more = segment(9 * PAGE + 1, 0600);
    syscall(SYS_shmctl, 0, INFO, info);
    printf("one more: %d, %ld pages, %ld there, %ld out, %ld, %ld\n", (int)info[0] - used, (long)info[1] - pages,
           (long)info[2] - there, (long)info[3], (long)info[4], (long)info[5]);
    shmctl(more, IPC_RMID, 0);
    shmctl(id, IPC_RMID, 0);
    syscall(SYS_shmctl, 0, INFO, info);
    printf("removed but there: %d, %ld pages\n", (int)info[0] - used, (long)info[1] - pages);
    shmdt(memory);
    syscall(SYS_shmctl, 0, INFO, info);
    printf("both gone: %d, %ld pages\n", (int)info[0] - used, (long)info[1] - pages);
    /* Numbers come round late. */
    int first = segment(PAGE, 0600);
    shmctl(first, IPC_RMID, 0);
    int second = segment(PAGE, 0600);
    printf("another number: %d\n", first != second);
    shmctl(second, IPC_RMID, 0);
}

/* Its line in /proc, from its size on and without times. */
static void listed(int id)
{
    char line[400];
    FILE *file = fopen("/proc/sysvipc/shm", "r");
    for (int first = 1; file && fgets(line, sizeof line, file); first = 0) {
        int key, number, mode, uid, gid, cuid, cgid, cpid, lpid;
        unsigned long size, attached, times[3], resident, swapped;
        if (first)
            fputs(line, stdout);
        int fields = sscanf(line, "%d %d %o %lu %d %d %lu %d %d %d %d %lu %lu %lu %lu %lu", &key, &number, &mode, &size, &cpid,
                            &lpid, &attached, &uid, &gid, &cuid, &cgid, times, times + 1, times + 2, &resident, &swapped);
        if (fields != 16 || number != id)
            continue;
        line[10] = 0;
        printf("key '%s', %o, %lu bytes, %d, %d, %lu attached, %d %d %d %d, %d %d %d, %lu and %lu bytes; %zu\n", line, mode, size,
               cpid == getpid(), lpid == getpid(), attached, uid, gid, cuid, cgid, times[0] != 0, times[1] != 0, times[2] != 0,
               resident, swapped, strlen(line + 11));
    }
    if (file)
        fclose(file);
}

/* Where pages come from and go to, and what calls about memory say of it. */
static void memory_calls(void)
{
    int id = segment(4 * PAGE, 0600 | SHM_NORESERVE);
    unsigned char seen[4];
    char *memory = shmat(id, place, 0);
    memory[PAGE] = 5;
    TRY(mincore(memory, 4 * PAGE, seen));
    listed(id);
    printf("there: %d %d %d %d\n", seen[0] & 1, seen[1] & 1, seen[2] & 1, seen[3] & 1);
    TRY(madvise(memory, PAGE * 4, MADV_DONTNEED));
    printf("kept: %d\n", memory[PAGE]);
    TRY(madvise(memory, PAGE * 4, MADV_REMOVE));
    printf("removed: %d\n", memory[PAGE]);
    TRY(madvise(memory, PAGE, MADV_DONTFORK));
    TRY(msync(memory, PAGE * 4, MS_SYNC));
    state("not for children", id);
    child(counting_child, id);
    FILE *file = fopen("/proc/self/smaps", "r");
    char line[300];
    int in = 0;
    while (file && fgets(line, sizeof line, file)) {
        if (strstr(line, "SYSV"))
            in = 1;
        if (in && !strncmp(line, "VmFlags", 7)) {
            fputs(line, stdout);
            in = 0;
        }
    }
    if (file)
        fclose(file);
    TRY(mlockall(MCL_FUTURE));
    int other = segment(2 * PAGE, 0600);
    char *locked = shmat(other, 0, 0);
    TRY(mincore(locked, 2 * PAGE, seen));
    printf("there: %d %d\n", seen[0] & 1, seen[1] & 1);
    munlockall();
    shmctl(other, IPC_RMID, 0);
    shmctl(id, IPC_RMID, 0);
    shmdt(locked);
    shmdt(memory);
    shmdt(memory + PAGE);
}

/* As many as there can be; not natively, where others have some. */
static void limits(void)
{
    int made = 0, id, last = -1;
    while ((id = shmget(IPC_PRIVATE, 1, 0600)) >= 0)
        made++, last = id;
    answer("shmget", id);
    printf("made %d\n", made);
    shmctl(last, IPC_RMID, 0);
    TRY(shmget(IPC_PRIVATE, 1, 0600) >= 0);
}

int main(int argc, char **argv)
{
    // Natively nobody else's segments, if that may be (CLONE_NEWIPC): what there are in all is asked for, too.
    if (argc == 1)
        syscall(SYS_unshare, 0x08000000);
    if (argc == 3) {
        state("after exec", atoi(argv[2]));
        return 0;
    }
    if (argc == 2)
        return limits(), 0;
    making();
    attaching();
    pieces();
    ends();
    controlling();
    memory_calls();
    /* After it nothing more can be mapped. */
    sharing();
    return 0;
}
