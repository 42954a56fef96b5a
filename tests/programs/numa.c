/*
 * On a machine with two NUMA nodes: on which node pages come to lie by each policy, and go from one to the other. What it
 * prints is the same wherever Linux's memory manager is. On node 0 runs the CPU.
 *
 * usage: numa
 */
#define _GNU_SOURCE
#include "answer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 16 };

/* linux/mempolicy.h, which musl's compiler does not find. */
enum {
    MPOL_DEFAULT,
    MPOL_PREFERRED,
    MPOL_BIND,
    MPOL_INTERLEAVE,
    MPOL_LOCAL,
    MPOL_PREFERRED_MANY,
    MPOL_F_STATIC_NODES = 1 << 15,
    MPOL_F_RELATIVE_NODES = 1 << 14,
    MPOL_F_NODE = 1,
    MPOL_F_ADDR = 2,
    MPOL_MF_STRICT = 1,
    MPOL_MF_MOVE = 2,
    MPOL_MF_MOVE_ALL = 4,
};

static long mbind_(char *at, int pages, long mode, unsigned long nodes, long flags)
{
    return syscall(SYS_mbind, at, (long)pages * PAGE, mode, &nodes, 64L, flags);
}

static long set_policy(long mode, unsigned long nodes)
{
    return syscall(SYS_set_mempolicy, mode, &nodes, 64L);
}

static long home_node(char *at, int pages, unsigned long node, unsigned long flags)
{
    return syscall(450, at, (long)pages * PAGE, node, flags);
}

static long migrate(unsigned long from, unsigned long to)
{
    return syscall(SYS_migrate_pages, 0L, 64L, &from, &to);
}

static int status[PAGES];

/* Moves pages to a node, or with node -1 asks where they are. */
static long move(char *at, int pages, int node, long flags)
{
    void *addresses[PAGES];
    int nodes[PAGES];
    for (int i = 0; i < pages; i++) {
        addresses[i] = at + (long)i * PAGE;
        nodes[i] = node;
        status[i] = 999;
    }
    return syscall(SYS_move_pages, 0L, (long)pages, addresses, node < 0 ? 0 : nodes, status, flags);
}

static void show(const char *what, int pages)
{
    printf("%s:", what);
    for (int i = 0; i < pages; i++)
        printf(" %d", status[i]);
    puts("");
    fflush(stdout);
}

static void where(const char *what, char *at, int pages)
{
    if (move(at, pages, -1, 0))
        perror("move_pages");
    show(what, pages);
}

static void policy(const char *what, void *at, long flags)
{
    int mode = -1;
    unsigned long nodes[2] = { -1, -1 };
    long result = syscall(SYS_get_mempolicy, &mode, nodes, 128L, at, flags);
    printf("%s: %ld mode %#x nodes %#lx\n", what, result, mode, nodes[0]);
    fflush(stdout);
}

static void fill(char *at, int pages)
{
    for (int i = 0; i < pages; i++)
        memset(at + (long)i * PAGE, i + 1, PAGE);
}

static void check(const char *what, const char *at, int pages)
{
    for (long i = 0; i < pages * (long)PAGE; i++)
        if (at[i] != (char)(i / PAGE + 1)) {
            printf("%s: byte %ld is %d\n", what, i, at[i]);
            exit(1);
        }
}

static char *map(int flags)
{
    char *at = mmap((void *)0x10000000000, PAGES * PAGE, PROT_READ | PROT_WRITE,
                    MAP_FIXED | MAP_ANONYMOUS | flags, -1, 0);
    if (at == MAP_FAILED)
        exit(1);
    return at;
}

static void placed(const char *what, long mode, unsigned long nodes)
{
    char *at = map(MAP_PRIVATE);
    TRY(mbind_(at + 4 * PAGE, 8, mode, nodes, 0));
    fill(at, PAGES);
    where(what, at, PAGES);
    at = map(MAP_PRIVATE);
    TRY(set_policy(mode, nodes));
    fill(at, PAGES);
    where("by the task", at, PAGES);
    policy("the task's", 0, 0);
    policy("the memory's", at, MPOL_F_ADDR);
    policy("the page's node", at + PAGE, MPOL_F_NODE | MPOL_F_ADDR);
    TRY(set_policy(MPOL_DEFAULT, 0));
}

static void policies(void)
{
    placed("preferred", MPOL_PREFERRED, 2);
    placed("bind", MPOL_BIND, 2);
    placed("bind to both", MPOL_BIND, 3);
    placed("interleave", MPOL_INTERLEAVE, 3);
    placed("interleave on one", MPOL_INTERLEAVE, 2);
    placed("local", MPOL_LOCAL, 0);
    placed("preferred many", MPOL_PREFERRED_MANY, 2);
    placed("bind, static", MPOL_BIND | MPOL_F_STATIC_NODES, 6);
    placed("bind, relative", MPOL_BIND | MPOL_F_RELATIVE_NODES, 8);
    placed("no such node", MPOL_BIND, 4);
}

static void homes(void)
{
    char *at = map(MAP_PRIVATE);
    TRY(home_node(at, 4, 1, 0));
    TRY(mbind_(at, 8, MPOL_BIND, 3, 0));
    TRY(mbind_(at + 12 * PAGE, 2, MPOL_INTERLEAVE, 3, 0));
    TRY(home_node(at, 4, 1, 0));
    TRY(home_node(at, 4, 2, 0));
    TRY(home_node(at, 4, 1, 1));
    TRY(home_node(at + 1, 4, 1, 0));
    TRY(home_node(at + 8 * PAGE, 8, 1, 0));
    fill(at, 8);
    where("homes", at, 8);
}

static void moves(void)
{
    char *at = map(MAP_PRIVATE);
    fill(at, 12);
    volatile char zero = at[12 * PAGE];
    (void)zero;
    /* Of pages that are not there Linux 6.1 says something else than 6.18. */
    where("before", at, 13);
    TRY(move(at, 13, 1, MPOL_MF_MOVE));
    show("moved", 13);
    TRY(move(at + 2 * PAGE, 3, 0, MPOL_MF_MOVE));
    where("back", at, 13);
    check("moved", at, 12);
    TRY(move(at, 1, 2, MPOL_MF_MOVE));
    TRY(move(at, 1, 1, 8));
    /* Of a page with PROT_NONE 6.1 says that it is not there, and 6.18 on which node. */
    TRY(mprotect(at, PAGE, PROT_READ));
    TRY(mlock(at + PAGE, 2 * PAGE));
    TRY(move(at, 4, 0, MPOL_MF_MOVE));
    where("read-only and locked", at, 4);
    TRY(mprotect(at, PAGE, PROT_READ | PROT_WRITE));
    check("read-only and locked", at, 12);

    void *addresses[] = { at, at, at + 4 * PAGE, at + PAGE, (void *)4096 };
    int nodes[] = { 1, 1, 0, 1, 1 };
    for (int i = 0; i < 5; i++)
        status[i] = 999;
    TRY(syscall(SYS_move_pages, 0L, 5L, addresses, nodes, status, (long)MPOL_MF_MOVE));
    show("one page twice", 5);
    nodes[3] = 7;
    for (int i = 0; i < 5; i++)
        status[i] = 999;
    TRY(syscall(SYS_move_pages, 0L, 5L, addresses, nodes, status, (long)MPOL_MF_MOVE));
    show("no such node", 5);

    TRY(migrate(2, 1));
    where("all on 0", at, 12);
    TRY(migrate(1, 2));
    where("all on 1", at, 12);
    TRY(migrate(3, 1));
    TRY(migrate(1, 4));
    TRY(migrate(4, 1));
    where("all on 0", at, 12);
    check("migrated", at, 12);
}

static void binds(void)
{
    char *at = map(MAP_PRIVATE);
    fill(at, 8);
    TRY(mbind_(at, 8, MPOL_BIND, 2, MPOL_MF_STRICT));
    TRY(mbind_(at, 8, MPOL_BIND, 2, MPOL_MF_STRICT | MPOL_MF_MOVE));
    where("bound", at, 8);
    TRY(mbind_(at, 8, MPOL_INTERLEAVE, 1, MPOL_MF_MOVE));
    where("interleaved on 0", at, 8);
    TRY(mbind_(at, 8, MPOL_INTERLEAVE, 3, MPOL_MF_MOVE | MPOL_MF_STRICT));
    where("none is misplaced", at, 8);
    TRY(mbind_(at, 4, MPOL_PREFERRED, 2, MPOL_MF_MOVE));
    where("preferred", at, 8);
    TRY(mbind_(at, 8, MPOL_DEFAULT, 0, MPOL_MF_MOVE));
    where("default", at, 8);
    TRY(mbind_(at, 8, MPOL_DEFAULT, 0, MPOL_MF_STRICT));
    TRY(mbind_(at + 8 * PAGE, 16, MPOL_BIND, 1, 0));
    check("bound", at, 8);
}

/* Says what a child did, after it has. */
static void in_child(void (*act)(char *), char *at)
{
    pid_t child = fork();
    if (child == 0) {
        act(at);
        fflush(stdout);
        _exit(0);
    }
    int how;
    waitpid(child, &how, 0);
    printf("the child: %#x\n", how);
    fflush(stdout);
}

static void childs_moves(char *at)
{
    TRY(move(at, 4, 1, MPOL_MF_MOVE));
    show("the parent's", 4);
    TRY(move(at, 4, 1, MPOL_MF_MOVE_ALL));
    show("moved for both", 4);
    check("in the child", at, 8);
    TRY(mbind_(at + 4 * PAGE, 4, MPOL_BIND, 2, MPOL_MF_MOVE | MPOL_MF_STRICT));
    where("not misplaced enough", at, 8);
    TRY(mbind_(at + 4 * PAGE, 4, MPOL_BIND, 2, MPOL_MF_MOVE_ALL | MPOL_MF_STRICT));
    where("moved", at, 8);
    at[0] = 77;
    at[4 * PAGE] = 78;
}

static void families(void)
{
    char *at = map(MAP_PRIVATE);
    fill(at, 8);
    in_child(childs_moves, at);
    where("the parent's pages", at, 8);
    check("in the parent", at, 8);
    fill(at, 8);
    where("written again", at, 8);
}

static void childs_shared(char *at)
{
    check("shared, in the child", at, 8);
    TRY(move(at, 4, 0, MPOL_MF_MOVE_ALL));
    where("shared, in the child", at, 8);
    memset(at + 4 * PAGE, 5, PAGE);
}

static void objects(void)
{
    char *at = map(MAP_SHARED);
    TRY(mbind_(at, 8, MPOL_BIND, 2, 0));
    fill(at, 8);
    where("shared", at, 8);
    policy("shared", at, MPOL_F_ADDR);
    in_child(childs_shared, at);
    check("shared", at, 8);
    where("shared", at, 8);
    TRY(move(at + 4 * PAGE, 2, 0, MPOL_MF_MOVE));
    where("shared, moved", at, 8);
    check("shared, moved", at, 8);
    /* The first page's node depends on the object. */
    at = map(MAP_SHARED);
    TRY(mbind_(at, PAGES, MPOL_INTERLEAVE, 3, 0));
    fill(at, PAGES);
    move(at, PAGES, -1, 0);
    for (int i = PAGES - 1; i >= 0; i--)
        status[i] ^= status[0];
    show("shared, interleaved", PAGES);
}

int main(void)
{
    unsigned cpu = 99, node = 99;
    TRY(syscall(SYS_getcpu, &cpu, &node, 0L));
    printf("node %u\n", node);
    policies();
    homes();
    moves();
    binds();
    families();
    objects();
    return 0;
}
