/*
 * Writes to all pages of the file that it has as descriptor 3, through a map of it, where the disk has no room for
 * all of them. Says how its children end: the same natively and in a guest.
 *
 * usage: full 3<>FILE     or     mmvisor run --file FILE full
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096 };

int main(void)
{
    struct stat s;
    fstat(3, &s);
    size_t pages = s.st_size / PAGE;
    char *file = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 3, 0);
    volatile size_t *written = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (file == MAP_FAILED || written == MAP_FAILED)
        return 1;
    for (int round = 0; round < 3; round++) {
        *written = 0;
        pid_t child = fork();
        if (!child) {
            for (; *written < pages; ++*written)
                file[*written * PAGE] = (char)(*written + 1);
            _exit(0);
        }
        int end;
        waitpid(child, &end, 0);
        printf("signal %d, %s\n", WIFSIGNALED(end) ? WTERMSIG(end) : 0,
               *written == 0 ? "nothing was written" : *written < pages ? "some was" : "all was");
        size_t right = 0;
        for (size_t i = 0; i < *written; i++) {
            char byte = 0;
            right += pread(3, &byte, 1, (off_t)(i * PAGE)) == 1 && byte == (char)(i + 1);
        }
        printf("%s\n", right == *written ? "the file has it" : "THE FILE HAS NOT");
        fflush(stdout);
    }
    return 0;
}
