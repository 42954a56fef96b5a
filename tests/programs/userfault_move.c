// UFFDIO_MOVE and /dev/userfaultfd: what is answered, where pages are after it, and that who waits for them is woken. What
// is said is the same natively and in a guest.
#include "userfault.h"

#define AT ((char *)0x10000000000)
#define TO ((char *)0x20000000000)
#define HUGE (512 * PAGE)

struct move { uint64_t to, from, len, mode; int64_t done; };
#define UFFDIO_MOVE 0xc028aa05UL
#define USERFAULTFD_IOC_NEW 0xaa00UL
enum { DONTWAKE = 1, HOLES = 2 };

static int uffd;

static void move(const char *what, char *to, char *from, uint64_t len, uint64_t mode) {
    struct move move = {(uint64_t)to, (uint64_t)from, len, mode, 77};
    errno = 0;
    int answer = ioctl(uffd, UFFDIO_MOVE, &move);
    printf("%s: %d %s, %ld\n", what, answer, error(errno), (long)move.done);
    fflush(stdout);
}

// What is at pages: nothing, a page and its first byte, or something else.
static void show(const char *what, char *at, int pages) {
    int fd = open("/proc/self/pagemap", O_RDONLY);
    printf("%s:", what);
    for (int i = 0; i < pages; i++) {
        uint64_t word = 0;
        pread(fd, &word, 8, ((uint64_t)at / PAGE + i) * 8);
        if (word >> 63) printf(" %d%s%s", at[i * PAGE], word >> 57 & 1 ? "p" : "", word >> 56 & 1 ? "" : "s");
        else printf(" %s", word >> 58 & 1 ? "guard" : word >> 57 & 1 ? "p" : word ? "?" : ".");
    }
    printf("\n");
    fflush(stdout);
    close(fd);
}

static void fill_pages(char *at, int pages) {
    for (int i = 0; i < pages; i++) at[i * PAGE] = 'a' - 96 + i;
}

static long huge_kib(char *at) {
    FILE *file = fopen("/proc/self/smaps", "r");
    char line[256];
    long kib = -1, here = 0;
    while (fgets(line, sizeof line, file)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2) here = start <= (uint64_t)at && (uint64_t)at < end;
        if (here) sscanf(line, "AnonHugePages: %ld", &kib);
    }
    fclose(file);
    return kib;
}

static void registered(char *at, uint64_t len, uint64_t mode) {
    struct registered range = {{(uint64_t)at, len}, mode, 0};
    ioctl(uffd, UFFDIO_REGISTER, &range);
    printf("ioctls %lx\n", range.ioctls);
}

static void pages(void) {
    map(AT, 16 * PAGE, OWN, -1), map(TO, 16 * PAGE, OWN, -1);
    registered(TO, 8 * PAGE, MISSING | WP);
    fill_pages(AT, 8);
    move("pages", TO, AT, 3 * PAGE, 0);
    show("source", AT, 8), show("target", TO, 3);
    move("there already", TO + 2 * PAGE, AT + 4 * PAGE, PAGE, 0);
    move("a hole", TO + 3 * PAGE, AT + 2 * PAGE, 2 * PAGE, 0);
    move("up to a hole", TO + 3 * PAGE, AT + 7 * PAGE, 2 * PAGE, 0);
    move("over holes", TO + 4 * PAGE, AT + 2 * PAGE, 2 * PAGE, HOLES);
    show("target", TO + 3 * PAGE, 1), show("target", TO + 5 * PAGE, 1);
    move("not registered", TO + 9 * PAGE, AT + 4 * PAGE, PAGE, 0);
    move("past the end", TO + 6 * PAGE, AT + 4 * PAGE, 3 * PAGE, 0);
    move("unaligned", TO + 6 * PAGE, AT + 4 * PAGE + 1, PAGE, 0);
    move("unaligned", TO + 6 * PAGE + 1, AT + 4 * PAGE, PAGE, 0);
    move("nothing", TO + 6 * PAGE, AT + 4 * PAGE, 0, 0);
    move("unknown", TO + 6 * PAGE, AT + 4 * PAGE, PAGE, 4);
    move("unmapped", TO + 6 * PAGE, AT + 100 * PAGE, PAGE, 4);
    move("unmapped", TO + 6 * PAGE, AT + 100 * PAGE, PAGE, 0);
    move("unmapped", TO + 100 * PAGE, AT + 4 * PAGE, PAGE, 0);
    SAY(ioctl(uffd, UFFDIO_MOVE, 16));
    madvise(AT + 8 * PAGE, PAGE, 102);
    move("a guard", TO + 6 * PAGE, AT + 8 * PAGE, PAGE, HOLES);
    AT[9 * PAGE] = 3;
    mprotect(AT + 9 * PAGE, PAGE, PROT_READ);
    move("read only", TO + 6 * PAGE, AT + 9 * PAGE, PAGE, 0);
    mprotect(AT + 9 * PAGE, PAGE, PROT_READ | PROT_WRITE);
    mlock(AT + 9 * PAGE, PAGE);
    move("locked", TO + 6 * PAGE, AT + 9 * PAGE, PAGE, 0);
    munlock(AT + 9 * PAGE, PAGE);
    move("any more", TO + 6 * PAGE, AT + 9 * PAGE, PAGE, 0);
    struct protect protect = {{(uint64_t)TO + 6 * PAGE, PAGE}, 1};
    ioctl(uffd, UFFDIO_WRITEPROTECT, &protect);
    show("protected", TO + 6 * PAGE, 1);
    move("what was protected", TO + 7 * PAGE, TO + 6 * PAGE, PAGE, 0);
    show("not any more", TO + 7 * PAGE, 1);
    map(AT, PAGE, MAP_SHARED | MAP_ANONYMOUS, -1);
    AT[0] = 1;
    move("shared", TO + 6 * PAGE, AT, PAGE, 0);
}

static void others(void) {
    map(AT, 16 * PAGE, OWN, -1), map(TO, 16 * PAGE, OWN, -1);
    registered(TO, 8 * PAGE, MISSING);
    fflush(stdout);
    fill_pages(AT, 8);
    int ends[2], status;
    char byte;
    pipe(ends);
    pid_t child = fork();
    if (child == 0) {
        move("by a child", TO, AT, PAGE, 0);
        close(ends[1]);
        read(ends[0], &byte, 1);
        _exit(0);
    }
    usleep(20000);
    move("a child has it", TO, AT, PAGE, 0);
    AT[PAGE] = 9;
    move("copied", TO, AT + PAGE, PAGE, 0);
    close(ends[0]), close(ends[1]);
    waitpid(child, &status, 0);
    move("a child had it", TO + PAGE, AT, PAGE, 0);
    AT[0] = 8;
    move("written since", TO + PAGE, AT, PAGE, 0);
    byte = *(volatile char *)(AT + 9 * PAGE);
    move("zeros", TO + 2 * PAGE, AT + 9 * PAGE, PAGE, 0);
    show("both", TO, 3);
    TO[2 * PAGE] = 5;
    show("written", TO + 2 * PAGE, 1);
}

static void huge(void) {
    map(AT, 4 * HUGE, OWN, -1), map(TO, 4 * HUGE, OWN, -1);
    madvise(AT, 4 * HUGE, MADV_HUGEPAGE), madvise(TO, 4 * HUGE, MADV_HUGEPAGE);
    registered(TO, 4 * HUGE, MISSING);
    for (int i = 0; i < 3; i++) memset(AT + i * HUGE, 3 + i, HUGE);
    printf("huge %ld %ld\n", huge_kib(AT), huge_kib(TO));
    move("whole", TO + HUGE, AT, HUGE, 0);
    printf("huge %ld %ld\n", huge_kib(AT), huge_kib(TO));
    show("it", TO + HUGE + 7 * PAGE, 2);
    move("beside it", TO + HUGE + PAGE, AT + HUGE, PAGE, 0);
    move("parts", TO + 2 * HUGE, AT + HUGE + PAGE, 2 * PAGE, 0);
    printf("huge %ld %ld\n", huge_kib(AT), huge_kib(TO));
    show("source", AT + HUGE, 4), show("target", TO + 2 * HUGE, 2);
    move("where a table is", TO + 2 * HUGE, AT + 2 * HUGE, HUGE, 0);
    move("nothing at all", TO, AT + 3 * HUGE, HUGE, 0);
    move("holes", TO, AT + 3 * HUGE, HUGE, HOLES);
    printf("huge %ld %ld\n", huge_kib(AT), huge_kib(TO));
}

static void waits(void *at) { _exit(*(volatile char *)at == 7 ? 0 : 1); }

static void waiting(void) {
    map(AT, 4 * PAGE, OWN, -1), map(TO, 4 * PAGE, OWN, -1);
    registered(TO, 4 * PAGE, MISSING);
    AT[0] = 7, AT[PAGE] = 7;
    for (int i = 0; i < 2; i++) {
        int status;
        struct message message;
        struct range range = {(uint64_t)TO + i * PAGE, PAGE};
        pid_t pid = share(waits, TO + i * PAGE);
        read(uffd, &message, sizeof message);
        printf("%x %lx\n", message.event, message.word[1]);
        move("for who waits", TO + i * PAGE, AT + i * PAGE, PAGE, i ? DONTWAKE : 0);
        if (i) {
            usleep(20000);
            printf("asleep: %d\n", waitpid(pid, &status, WNOHANG | __WALL));
            ioctl(uffd, UFFDIO_WAKE, &range);
        }
        waitpid(pid, &status, __WALL);
        printf("ended with %x\n", status);
    }
}

static void part(const char *what, void (*body)(void)) {
    struct api api = {0xaa, 0, 0};
    printf("- %s\n", what);
    fflush(stdout);
    uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
    ioctl(uffd, UFFDIO_API, &api);
    body();
    close(uffd);
}

static void device(void) {
    int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), status;
    char byte;
    struct api api = {0xaa, 0, 0};
    printf("open: %d\n", fd >= 0);
    SAY(ioctl(fd, USERFAULTFD_IOC_NEW + 1, 0));
    SAY(ioctl(fd, USERFAULTFD_IOC_NEW, 2));
    SAY(read(fd, &byte, 1));
    SAY(write(fd, &byte, 1));
    int made = ioctl(fd, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    printf("made: %d\n", made >= 0);
    SAY(ioctl(made, UFFDIO_API, &api));
    SAY(fcntl(made, F_GETFL) & O_NONBLOCK);
    SAY(fcntl(made, F_GETFD));
    close(made);
    pid_t child = fork();
    if (child == 0) {
        syscall(SYS_setuid, 77);
        SAY(open("/dev/userfaultfd", O_RDWR));
        SAY(syscall(SYS_userfaultfd, 2));
        SAY(syscall(SYS_userfaultfd, 0));
        SAY(syscall(SYS_userfaultfd, 3));
        SAY(syscall(SYS_userfaultfd, 1) >= 0 ? 0 : -1);
        made = ioctl(fd, USERFAULTFD_IOC_NEW, 0);
        api = (struct api){0xaa, FEATURE_EVENT_FORK, 0};
        SAY(ioctl(made, UFFDIO_API, &api));
        api = (struct api){0xaa, 0, 0};
        SAY(ioctl(made, UFFDIO_API, &api));
        _exit(0);
    }
    waitpid(child, &status, 0);
    close(fd);
}

int main(void) {
    device();
    part("pages", pages);
    part("others", others);
    part("huge", huge);
    part("waiting", waiting);
    return 0;
}
