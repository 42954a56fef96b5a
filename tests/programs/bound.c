/*
 * Where the host has the memory of a guest's NUMA nodes.
 *
 * usage: bound                        in the guest, with three nodes: has memory on each, says so, waits for its input's end
 *        bound COMMAND [ARGUMENTS]    on the host: runs that, and when it says so, tells on which nodes the command's memory
 *                                     is that has a node for its policy (/proc/PID/numa_maps), in KiB
 */
#define _GNU_SOURCE
#include "answer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NODES = 3, HOST_NODES = 2, MIB = 1 << 20, MPOL_BIND = 2 };

static int in_guest(void)
{
    for (int node = 0; node < NODES; node++) {
        size_t length = (size_t)(4 << node) * MIB;
        unsigned long mask = 1ul << node;
        char *at = mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED || syscall(SYS_mbind, at, length, MPOL_BIND, &mask, 64L, 0L)) {
            perror("bound");
            return 1;
        }
        memset(at, 1, length);
    }
    puts("ready");
    fflush(stdout);
    char byte;
    return read(0, &byte, 1) != 0;
}

static void tell(pid_t child)
{
    char path[64], line[4096];
    long pages[HOST_NODES][HOST_NODES] = { 0 };
    snprintf(path, sizeof path, "/proc/%d/numa_maps", (int)child);
    FILE *maps = fopen(path, "r");
    while (maps && fgets(line, sizeof line, maps)) {
        char *policy = strstr(line, " prefer:");
        if (!policy)
            continue;
        int wanted = atoi(policy + strlen(" prefer:")) % HOST_NODES;
        for (int node = 0; node < HOST_NODES; node++) {
            char name[8];
            snprintf(name, sizeof name, " N%d=", node);
            char *there = strstr(line, name);
            pages[wanted][node] += there ? atol(there + strlen(name)) : 0;
        }
    }
    for (int wanted = 0; wanted < HOST_NODES; wanted++)
        printf("prefer:%d %ld %ld\n", wanted, pages[wanted][0] * 4, pages[wanted][1] * 4);
    fflush(stdout);
}

int main(int count, char **arguments)
{
    if (count < 2)
        return in_guest();
    int input[2], output[2];
    if (pipe(input) || pipe(output))
        return 1;
    pid_t child = fork();
    if (child == 0) {
        dup2(input[0], 0);
        dup2(output[1], 1);
        close(input[1]);
        close(output[0]);
        execv(arguments[1], arguments + 1);
        _exit(126);
    }
    close(input[0]);
    close(output[1]);
    char said[6] = "";
    if (read(output[0], said, sizeof said) == sizeof said && !memcmp(said, "ready\n", sizeof said))
        tell(child);
    close(input[1]);
    int how;
    waitpid(child, &how, 0);
    TRY(how);
    return 0;
}
