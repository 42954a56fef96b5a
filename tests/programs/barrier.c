// A write barrier as a generational collector has it: pages are made read-only, and the first write to each is
// caught, noted, and let through. barrier ROUNDS PAGES
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

static char *heap;
static size_t pages;
static unsigned char *dirty;
static unsigned long caught, wrong;

static void barrier(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    size_t page = (size_t)((char *)info->si_addr - heap) / PAGE;
    if (info->si_code != SEGV_ACCERR || page >= pages || dirty[page]) {
        wrong++;
        _exit(1);
    }
    dirty[page] = 1;
    caught++;
    mprotect(heap + page * PAGE, PAGE, PROT_READ | PROT_WRITE);
}

int main(int argc, char **argv) {
    unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 0) : 10, sum = 0;
    pages = argc > 2 ? strtoul(argv[2], NULL, 0) : 100;
    heap = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    dirty = calloc(pages, 1);
    struct sigaction action = {.sa_sigaction = barrier, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    uint32_t state = 12345;
    for (unsigned long round = 0; round < rounds; round++) {
        mprotect(heap, pages * PAGE, PROT_READ);
        for (size_t i = 0; i < pages; i++)
            dirty[i] = 0;
        for (size_t i = 0; i < pages; i++) {
            state = state * 1664525 + 1013904223;
            uint32_t *at = (uint32_t *)(heap + i * PAGE) + (state >> 8) % (PAGE / 4);
            *at += state;
            at[0] ^= 1;
        }
        for (size_t i = 0; i < pages; i++)
            sum += dirty[i];
    }
    for (size_t i = 0; i < pages * PAGE / 4; i++)
        sum = sum * 31 + ((uint32_t *)heap)[i];
    printf("caught %lu, wrong %lu, sum %lx\n", caught, wrong, sum);
    return 0;
}
