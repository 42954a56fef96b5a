// A hash table in a file that four processes have mapped shared, in a directory that is given. Each puts keys in, some
// of them the same; the file grows under it. The parent then checks it, by the map and by reading the file.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROCESSES = 4, SLOTS = 1 << 16, KEYS = 9000 };

struct slot {
    _Atomic uint64_t key;
    _Atomic uint64_t count;
};

// Key `index` of a process: two in three are its own, the third is everybody's.
static uint64_t key_of(int process, int index) {
    uint64_t number = index % 3 ? (uint64_t)process * KEYS + index + 1 : (uint64_t)index + 1;
    return index % 3 ? number | 1ULL << 40 : number;
}

static void put(struct slot *table, uint64_t key) {
    for (uint64_t at = key * 0x9e3779b97f4a7c15 >> 48;; at = (at + 1) % SLOTS) {
        uint64_t seen = 0;
        if (atomic_compare_exchange_strong(&table[at].key, &seen, key) || seen == key) {
            atomic_fetch_add(&table[at].count, 1);
            return;
        }
    }
}

int main(int argc, char **argv) {
    char path[200];
    snprintf(path, sizeof path, "%s/table.XXXXXX", argv[argc - 1]);
    int fd = mkstemp(path);
    if (fd < 0) return perror("mkstemp"), 1;
    size_t size = sizeof(struct slot) * SLOTS;
    // What is past the end comes to be there while it is mapped.
    struct slot *table = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (table == MAP_FAILED || ftruncate(fd, size)) return perror("table"), 1;
    for (int process = 0; process < PROCESSES; process++) {
        if (fork()) continue;
        // Every other one opens and maps it anew.
        if (process % 2) {
            munmap(table, size);
            fd = open(path, O_RDWR);
            table = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        }
        for (int index = 0; index < KEYS; index++) put(table, key_of(process, index));
        if (process == 0) msync(table, size, MS_SYNC);
        _exit(0);
    }
    int failed = 0, status;
    for (int process = 0; process < PROCESSES; process++)
        if (wait(&status) < 0 || status) failed++;
    uint64_t keys = 0, counts = 0, sum = 0, expected = 0;
    for (int at = 0; at < SLOTS; at++) {
        keys += table[at].key != 0;
        counts += table[at].count;
        sum += table[at].key * table[at].count;
    }
    for (int process = 0; process < PROCESSES; process++)
        for (int index = 0; index < KEYS; index++) expected += key_of(process, index);
    char *bytes = malloc(size);
    ssize_t count = pread(fd, bytes, size, 0);
    printf("failed %d, keys %ju, counts %ju, sum %s, file %s\n", failed, (uintmax_t)keys, (uintmax_t)counts,
           sum == expected ? "right" : "wrong", count == (ssize_t)size && !memcmp(bytes, table, size) ? "alike" : "other");
    unlink(path);
    return failed;
}
