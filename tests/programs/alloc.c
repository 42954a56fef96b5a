/*
 * Allocates, touches, resizes and frees 200 MiB in pieces from 16 bytes to 64 MiB, and checks that no
 * byte of a live piece ever changes by itself. Prints a checksum of everything it did.
 *
 * usage: alloc [MIB [SEED]]
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIECES = 512 };

struct piece {
    unsigned char *at;
    size_t size;
    unsigned char mark;
};

static uint64_t state = 88172645463325252ull;

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* 16 bytes to 64 MiB, every power of two as likely as the next. */
static size_t some_size(size_t most)
{
    size_t size = (size_t)16 << next() % 23;
    size += next() % size;
    return size < most ? size : most;
}

/* One byte in each page and the last one say whose the piece is. */
static void mark(struct piece *p, size_t from)
{
    for (size_t i = from & ~(size_t)4095; i < p->size; i += 4096)
        p->at[i] = p->mark;
    p->at[p->size - 1] = p->mark;
}

static void check(const struct piece *p, size_t upto, const char *when)
{
    for (size_t i = 0; i < upto; i += 4096)
        if (p->at[i] != p->mark) {
            printf("alloc: byte %zu of %zu is %d, not %d, %s\n", i, p->size, p->at[i], p->mark, when);
            exit(1);
        }
}

int main(int argc, char **argv)
{
    static struct piece pieces[PIECES];
    size_t budget = (argc > 1 ? strtoull(argv[1], 0, 10) : 200) << 20;
    size_t live = 0, total = 0;
    uint64_t sum = 0;
    state += argc > 2 ? strtoull(argv[2], 0, 10) : 0;

    while (total < budget) {
        struct piece *p = &pieces[next() % PIECES];
        size_t size = some_size((size_t)64 << 20);
        if (p->at && next() % 3) {
            check(p, p->size, "before free");
            free(p->at);
            live -= p->size;
            p->at = 0;
        } else if (live + size > budget) {
            continue;
        } else if (p->at) {
            size_t kept = size < p->size ? size : p->size;
            unsigned char *moved = realloc(p->at, size);
            if (!moved)
                return printf("alloc: no %zu bytes\n", size), 1;
            p->at = moved;
            check(p, kept, "after realloc");
            live += size - p->size;
            p->size = size;
            mark(p, kept);
            total += size;
        } else {
            p->at = size % 2 ? malloc(size) : calloc(1, size);
            if (!p->at)
                return printf("alloc: no %zu bytes\n", size), 1;
            for (size_t i = 0; size % 2 == 0 && i < size; i += 4096)
                if (p->at[i])
                    return printf("alloc: calloc gave %d at %zu\n", p->at[i], i), 1;
            p->size = size;
            p->mark = (unsigned char)(next() | 1);
            live += size;
            total += size;
            mark(p, 0);
        }
        sum = sum * 31 + size;
    }
    for (int i = 0; i < PIECES; i++)
        if (pieces[i].at) {
            check(&pieces[i], pieces[i].size, "at the end");
            free(pieces[i].at);
        }
    printf("%zu MiB, checksum %016llx\n", total >> 20, (unsigned long long)sum);
    return 0;
}
