/*
 * Shows descriptor 3, a file that somebody else makes longer and shorter all the time, in shared and in private
 * memory, and touches it from one process after another. A page holds nothing, or what was written to that page;
 * or the process is killed by SIGBUS. Anything else is wrong.
 *
 * usage: cut ROUNDS PAGES 3<>FILE
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

enum { PAGE = 4096, TOUCHES = 200, FILE_FD = 3, WRONG = 3 };

static unsigned pages;

static volatile uint64_t *word(char *at, unsigned page)
{
    return (volatile uint64_t *)(at + (size_t)page * PAGE + 8 * (page % 500));
}

/* What is written to a page says which one it is. */
static int foreign(uint64_t found, unsigned page)
{
    return found != 0 && found >> 32 != page + 1;
}

static void touch(char *shared, char *private, unsigned round)
{
    uint64_t random = round * 2654435761u + 1;
    for (unsigned i = 0; i < TOUCHES; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        unsigned page = (random >> 32) % pages;
        uint64_t stamp = (uint64_t)(page + 1) << 32 | i, found;
        if (foreign(*word(shared, page), page) || foreign(*word(private, page), page))
            _exit(WRONG);
        *word(shared, page) = stamp;
        if (i % 8 == 0)
            *word(private, page) = stamp;
        if (i % 32 == 0 && pread(FILE_FD, &found, 8, (char *)word(shared, page) - shared) == 8
            && foreign(found, page))
            _exit(WRONG);
    }
    _exit(0);
}

int main(int count, char **arguments)
{
    unsigned rounds = count > 1 ? (unsigned)atoi(arguments[1]) : 100, ended = 0, killed = 0;
    pages = count > 2 ? (unsigned)atoi(arguments[2]) : 64;
    char *shared = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, FILE_FD, 0);
    char *private = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, FILE_FD, 0);
    if (shared == MAP_FAILED || private == MAP_FAILED)
        return perror("mmap"), 2;
    for (unsigned round = 0; round < rounds; round++) {
        int status;
        pid_t child = fork();
        if (child == 0)
            touch(shared, private, round);
        if (child < 0 || waitpid(child, &status, 0) != child)
            return perror("fork"), 2;
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS)
            killed++;
        else if (status == 0)
            ended++;
        else
            return printf("round %u: status %#x\n", round, status), 1;
    }
    printf("%u ended, %u were killed\n", ended, killed);
    return ended && killed ? 0 : 1;
}
