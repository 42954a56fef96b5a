// A program that pages itself: another process serves its missing pages from what it computes, then tracks which pages it
// writes, then maps shared memory in for it. What is said is the same natively and in a guest.
#include "userfault.h"

enum { PAGES = 64 };

static int uffd;
static volatile int served, written[PAGES], order;
static char *memory, *alias;

static unsigned char byte_of(uint64_t page, uint64_t at) { return page * 31 + at * 7 + 3; }

static void compute(char *page, uint64_t number) {
    for (uint64_t i = 0; i < PAGE; i++) page[i] = byte_of(number, i);
}

// Serves until it is killed.
static void serve(void *unused) {
    static char page[PAGE];
    struct message message;
    int64_t done;
    (void)unused;
    while (read(uffd, &message, sizeof message) == sizeof message) {
        char *at = (char *)(message.word[1] & ~(PAGE - 1));
        uint64_t number = (at - memory) / PAGE;
        if (message.event != 0x12) _exit(2);
        served++;
        if (message.word[0] & 2) {
            written[number] = ++order;
            if (write_protect(uffd, at, PAGE, 0)) _exit(3);
        } else if (message.word[0] & 4) {
            // The bytes come by another map of the same memory.
            compute(alias + number * PAGE, number);
            if (fill(uffd, UFFDIO_CONTINUE, at, PAGE, 0, &done)) _exit(4);
        } else {
            compute(page, number);
            if (copy_to(uffd, at, page, PAGE, 0, &done)) _exit(5);
        }
    }
    _exit(6);
}

// Serves from a process with memory of its own: the descriptor is about its parent's.
static pid_t fork_server(void) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) serve(0);
    return pid;
}

static void stop(pid_t server) {
    kill(server, SIGKILL);
    printf("server: %s\n", ended(server));
}

static int wrong_bytes(void) {
    int wrong = 0;
    for (uint64_t page = 0; page < PAGES; page++)
        for (uint64_t i = 0; i < PAGE; i++)
            wrong += ((volatile unsigned char *)memory)[page * PAGE + i] != byte_of(page, i);
    return wrong;
}

static void check(void) {
    int wrong = wrong_bytes();
    printf("wrong bytes %d, served %d\n", wrong, served);
}

int main(void) {
    uint64_t len = PAGES * PAGE;
    uffd = open_uffd(O_CLOEXEC, 0);
    memory = map(0, len, OWN, -1);
    printf("missing: %d\n", watch(uffd, memory, len, MISSING | WP));
    pid_t server = share(serve, 0);
    check();
    stop(server);

    // By a process of its own: calls' copies, too.
    madvise(memory, len, MADV_DONTNEED);
    server = fork_server();
    int pipes[2];
    if (pipe(pipes)) return 1;
    char text[] = "into a page that is missing";
    write(pipes[1], text, sizeof text);
    printf("read: %zd\n", read(pipes[0], memory + 5 * PAGE - 9, sizeof text));
    printf("bytes: %s\n", memory + 5 * PAGE - 9);
    write(pipes[1], memory + 9 * PAGE, 8);
    unsigned char back[8];
    printf("written: %zd", read(pipes[0], back, 8));
    for (int i = 0; i < 8; i++) printf(" %d", back[i] == byte_of(9, i));
    printf("\npopulate: %d\n", madvise(memory + 20 * PAGE, 3 * PAGE, 23));
    printf("lock: %d\n", mlock(memory + 30 * PAGE, 2 * PAGE));
    unsigned char vector[PAGES];
    mincore(memory, PAGES * PAGE, vector);
    for (int i = 0; i < PAGES; i++) putchar('0' + (vector[i] & 1));
    munlock(memory + 30 * PAGE, 2 * PAGE);
    printf("\n");
    stop(server);
    close(pipes[0]);
    close(pipes[1]);

    // Which pages are written, and in which order.
    server = share(serve, 0);
    madvise(memory, len, MADV_DONTNEED);
    printf("wrong bytes %d\n", wrong_bytes());
    printf("protect: %d\n", write_protect(uffd, memory, PAGES * PAGE, 1));
    int seed = 1, writes = 0;
    for (int i = 0; i < 40; i++) {
        seed = seed * 75 % 65537;
        int page = seed % PAGES;
        volatile char *byte = memory + page * PAGE + i;
        *byte ^= 1;
        writes++;
        *byte ^= 1;
    }
    printf("dirty:");
    for (int i = 0; i < PAGES; i++) printf(" %d", written[i]);
    printf("\nwrong bytes %d after %d writes\n", wrong_bytes(), writes);
    for (int i = 0; i < PAGES; i++) written[i] = 0;
    order = 0;
    printf("protect: %d\n", write_protect(uffd, memory, PAGES * PAGE, 1));
    if (fork() == 0) {
        // A child's is not told.
        memory[3 * PAGE] = 1;
        _exit(written[3]);
    }
    int status;
    wait(&status);
    write_byte(memory + 4 * PAGE);
    printf("child %d, written[4] %d\n", status, written[4]);
    stop(server);
    close(uffd);

    // Shared memory, which is there but not mapped.
    uffd = open_uffd(0, 0);
    int file = syscall(SYS_memfd_create, "pages", 0);
    if (ftruncate(file, len)) return 1;
    memory = map(0, len, MAP_SHARED, file);
    alias = map(0, len, MAP_SHARED, file);
    memset(alias, 1, len);
    printf("minor: %d\n", watch(uffd, memory, len, MINOR | MISSING | WP));
    served = 0;
    server = share(serve, 0);
    check();
    // And what is not there at all.
    fallocate(file, 3 /* PUNCH_HOLE | KEEP_SIZE */, 7 * PAGE, 2 * PAGE);
    check();
    stop(server);
    return 0;
}
