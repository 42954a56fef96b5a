// userfaultfd(2): what each ioctl answers, what is read and polled, what entries remember, and that nobody waits for ever.
// What is said is the same natively and in a guest.
#include "userfault.h"

#define AT ((char *)0x10000000000)

static char *bytes;

static uint64_t entry_of(void *at) {
    int fd = open("/proc/self/pagemap", O_RDONLY);
    uint64_t word = 0;
    pread(fd, &word, 8, (uint64_t)at / PAGE * 8);
    close(fd);
    // Not which frame.
    return word >> 63 ? word >> 55 : word >> 55 << 55 | (word & 0x3ff);
}

static void show(const char *what, char *at, int pages) {
    printf("%s:", what);
    for (int i = 0; i < pages; i++) printf(" %lx", entry_of(at + i * PAGE));
    printf("\n");
    fflush(stdout);
}

static void tell(const char *what, int answer, int64_t done) {
    printf("%s: %s, %ld\n", what, error(-answer), (long)done);
    fflush(stdout);
}
#define COPY(what, fd, to, from, len, mode) do { int64_t d; int a = copy_to(fd, to, from, len, mode, &d); tell(what, a, d); } while (0)
#define FILL(what, fd, request, at, len, mode) do { int64_t d; int a = fill(fd, request, at, len, mode, &d); tell(what, a, d); } while (0)
#define DO(call) do { int a = (call); printf("%s: %s\n", #call, error(-a)); fflush(stdout); } while (0)

static void print(const struct message *message) {
    printf("%x %lx %lx %lx\n", message->event, message->word[0], message->word[1], message->word[2]);
    fflush(stdout);
}

// What becomes of a touch: a message, or its end.
static pid_t touch(const char *what, int fd, void (*how)(void *), void *at) {
    pid_t pid = share(how, at);
    struct pollfd poll_fd = {fd, POLLIN, 0};
    printf("%s: ", what);
    for (;;) {
        int status;
        if (waitpid(pid, &status, WNOHANG) == pid) {
            if (WIFEXITED(status)) printf("exit %d\n", WEXITSTATUS(status));
            else printf("signal %d\n", WTERMSIG(status));
            fflush(stdout);
            return 0;
        }
        if (poll(&poll_fd, 1, 5) == 1) {
            struct message message;
            read(fd, &message, sizeof message);
            print(&message);
            return pid;
        }
    }
}

static void end(pid_t pid) {
    if (pid) printf("then %s\n", ended(pid));
    fflush(stdout);
}

static void interface(void) {
    struct message message[4];
    int number;
    int fd = syscall(SYS_userfaultfd, 0);
    struct pollfd poll_fd = {fd, POLLIN | POLLOUT | POLLRDNORM, 0};
    SAY(syscall(SYS_userfaultfd, 2));
    SAY(poll(&poll_fd, 1, -1));
    printf("%x\n", poll_fd.revents);
    SAY(read(fd, message, sizeof message));
    SAY(ioctl(fd, FIONREAD, &number));
    SAY(ioctl(fd, UFFDIO_WAKE, message));
    struct api api = {1, 0, 0};
    SAY(ioctl(fd, UFFDIO_API, &api));
    printf("%lx %lx %lx\n", api.api, api.features, api.ioctls);
    api = (struct api){0xaa, 1 << 17, 3};
    SAY(ioctl(fd, UFFDIO_API, &api));
    printf("%lx %lx %lx\n", api.api, api.features, api.ioctls);
    SAY(ioctl(fd, UFFDIO_API, 8));
    api = (struct api){0xaa, FEATURE_EVENT_FORK | FEATURE_WP_ASYNC, 9};
    SAY(ioctl(fd, UFFDIO_API, &api));
    SAY(ioctl(fd, UFFDIO_API, &api));
    SAY(poll(&poll_fd, 1, -1));
    printf("%x\n", poll_fd.revents);
    number = 1;
    SAY(ioctl(fd, FIONBIO, &number));
    SAY(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK));
    SAY(poll(&poll_fd, 1, 0));
    SAY(read(fd, message, 32));
    SAY(read(fd, message, 31));
    SAY(pread(fd, message, 32, 0));
    SAY(write(fd, message, 32));
    SAY(lseek(fd, 3, SEEK_SET));
    SAY(lseek(fd, 3, 77));
    SAY(ioctl(fd, 0x1234, message));
    errno = 0;
    mmap(0, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    printf("map: %s", error(errno));
    mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    printf(" %s\n", error(errno));
    close(fd);
}

static void answers(void) {
    int fd = open_uffd(O_NONBLOCK, FEATURE_THREAD_ID), other = open_uffd(O_NONBLOCK, FEATURE_EXACT_ADDRESS);
    char *at = map(AT, 16 * PAGE, OWN, -1);
    DO(watch(fd, at, 16 * PAGE, 0));
    DO(watch(fd, at, 16 * PAGE, 8));
    DO(watch(fd, at + 1, PAGE, MISSING));
    DO(watch(fd, at, 0, MISSING));
    DO(watch(fd, at, PAGE, MINOR));
    DO(watch(fd, at, 16 * PAGE, MISSING));
    DO(watch(other, at, PAGE, MISSING));
    DO(unwatch(other, at, PAGE));
    FILL("zeros", fd, UFFDIO_ZEROPAGE, at, 2 * PAGE, 0);
    FILL("again", fd, UFFDIO_ZEROPAGE, at, 2 * PAGE, 0);
    FILL("another page", fd, UFFDIO_ZEROPAGE, at + PAGE, 4 * PAGE, 0);
    FILL("unknown mode", fd, UFFDIO_ZEROPAGE, at + 3 * PAGE, PAGE, 2);
    FILL("unaligned", fd, UFFDIO_ZEROPAGE, at + 3, PAGE, 0);
    FILL("by another", other, UFFDIO_ZEROPAGE, at + 3 * PAGE, PAGE, 1);
    COPY("copy", fd, at + 4 * PAGE, bytes, PAGE, 0);
    COPY("again", fd, at + 4 * PAGE, bytes, PAGE, 0);
    COPY("unaligned", fd, at + 1, bytes, PAGE, 0);
    COPY("unaligned length", fd, at, bytes, 7, 0);
    COPY("nothing", fd, at, bytes, 0, 0);
    COPY("unaligned bytes", fd, at + 5 * PAGE, bytes + 3 * PAGE + 3, PAGE, 0);
    COPY("unknown mode", fd, at + 6 * PAGE, bytes, PAGE, 4);
    COPY("protected, not registered so", fd, at + 6 * PAGE, bytes, PAGE, 2);
    COPY("no bytes", fd, at + 6 * PAGE, (void *)8, PAGE, 0);
    COPY("too few bytes", fd, at + 6 * PAGE, bytes + 7 * PAGE, 2 * PAGE, 0);
    COPY("past the end", fd, at + 15 * PAGE, bytes, 2 * PAGE, 0);
    COPY("nowhere", fd, at + 0x1000000, bytes, PAGE, 0);
    COPY("not registered", fd, bytes + 8 * PAGE, bytes, PAGE, 0);
    COPY("outside", fd, (void *)(1UL << 47), bytes, PAGE, 0);
    COPY("bytes that wrap", fd, at + 7 * PAGE, (void *)-1L, PAGE, 0);
    COPY("a length that wraps", fd, at + 7 * PAGE, bytes, -4096, 0);
    COPY("up to one that is there", fd, at + 2 * PAGE, bytes, 3 * PAGE, 1);
    SAY(ioctl(fd, UFFDIO_COPY, 8));
    DO(write_protect(fd, at, PAGE, 1));
    DO(write_protect(fd, at, PAGE, 3));
    DO(write_protect(fd, at, PAGE, 4));
    FILL("continue, no object", fd, UFFDIO_CONTINUE, at + 9 * PAGE, PAGE, 0);
    FILL("unknown mode", fd, UFFDIO_CONTINUE, at + 9 * PAGE, PAGE, 4);
    FILL("poison, there is one", fd, UFFDIO_POISON, at, PAGE, 0);
    FILL("poison", fd, UFFDIO_POISON, at + 9 * PAGE, 2 * PAGE, 0);
    FILL("unknown mode", fd, UFFDIO_POISON, at + 9 * PAGE, PAGE, 2);
    end(touch("poisoned", fd, read_byte, at + 9 * PAGE));
    FILL("again", fd, UFFDIO_POISON, at + 9 * PAGE, PAGE, 0);
    FILL("zeros", fd, UFFDIO_ZEROPAGE, at + 9 * PAGE, PAGE, 0);
    show("poison", at + 9 * PAGE, 2);
    COPY("copy", fd, at + 10 * PAGE, bytes, PAGE, 0);
    madvise(at + 14 * PAGE, PAGE, 102 /* GUARD_INSTALL */);
    FILL("guarded, zeros", fd, UFFDIO_ZEROPAGE, at + 14 * PAGE, PAGE, 0);
    DO(wake(fd, at, 0));
    DO(wake(fd, at + 1, PAGE));
    DO(wake(fd, at + 0x10000000, PAGE));
    show("all", at, 16);
    end(touch("after all of it is unregistered", fd, write_byte, (unwatch(fd, at, 16 * PAGE), at + 11 * PAGE)));
    close(fd);
    DO(watch(other, at, 16 * PAGE, MISSING));
    pid_t pid = touch("an exact address", other, write_byte, at + 12 * PAGE + 77);
    COPY("copy, and wake later", other, at + 12 * PAGE, bytes, PAGE, 1);
    at[12 * PAGE] = 99;
    DO(wake(other, at + 12 * PAGE, PAGE));
    end(pid);
    printf("%d %d\n", at[12 * PAGE], at[12 * PAGE + 77]);
    close(other);
    munmap(at, 16 * PAGE);
}

// Several messages by one read, some to nowhere.
static void reading(void) {
    int fd = open_uffd(O_NONBLOCK, 0);
    char *at = map(AT, 16 * PAGE, OWN, -1);
    watch(fd, at, 16 * PAGE, MISSING);
    pid_t pids[3];
    struct message message[4];
    struct pollfd poll_fd = {fd, POLLIN | POLLOUT, 0};
    struct epoll_event event = {EPOLLIN | EPOLLOUT, {.u64 = 7}};
    int epoll = epoll_create1(0);
    SAY(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    SAY(epoll_wait(epoll, &event, 1, 0));
    for (int i = 0; i < 3; i++) {
        pids[i] = touch("page", fd, i % 2 ? read_byte : write_byte, at + i * PAGE);
        // Told anew.
        wake(fd, at + i * PAGE, PAGE);
        poll(&poll_fd, 1, -1);
        if (i < 2) FILL("zeros, asleep", fd, UFFDIO_ZEROPAGE, at + i * PAGE, PAGE, 1);
    }
    SAY(epoll_wait(epoll, &event, 1, -1));
    printf("%x %d\n", event.events, (int)event.data.u64);
    SAY(read(fd, (void *)8, 32));
    for (int i = 0; i < 3; i++) wake(fd, at + i * PAGE, PAGE);
    poll(&poll_fd, 1, -1);
    memset(message, 0, sizeof message);
    SAY(read(fd, message, 100));
    print(message);
    SAY(poll(&poll_fd, 1, 0));
    SAY(epoll_wait(epoll, &event, 1, 0));
    close(epoll);
    SAY(read(fd, message, 100));
    FILL("zeros", fd, UFFDIO_ZEROPAGE, at + 2 * PAGE, PAGE, 0);
    for (int i = 0; i < 3; i++) end(pids[i]);
    close(fd);
    munmap(at, 16 * PAGE);
}

static void protection(uint64_t features) {
    int fd = open_uffd(O_NONBLOCK, features);
    char *at = map(AT, 8 * PAGE, OWN, -1);
    at[0] = at[PAGE] = 1;
    (void)*(volatile char *)(at + 2 * PAGE);
    printf("features %lx\n", features);
    DO(watch(fd, at, 8 * PAGE, WP));
    DO(write_protect(fd, at, 4 * PAGE, 1));
    show("protected", at, 5);
    for (int i = 0; i < 5; i++) {
        pid_t pid = touch("write", fd, write_byte, at + i * PAGE);
        if (pid) DO(write_protect(fd, at + i * PAGE, PAGE, 0));
        end(pid);
    }
    show("written", at, 5);
    write_protect(fd, at, 8 * PAGE, 1);
    show("all", at, 8);
    madvise(at, 2 * PAGE, MADV_DONTNEED);
    mprotect(at, 8 * PAGE, PROT_READ);
    mprotect(at, 8 * PAGE, PROT_READ | PROT_WRITE);
    show("two dropped", at, 8);
    fflush(stdout);
    if (fork() == 0) {
        show("child", at, 8);
        at[2 * PAGE] = 8;
        _exit(0);
    }
    wait(0);
    (void)*(volatile char *)(at + 5 * PAGE);
    show("parent, one read", at, 8);
    DO(write_protect(fd, at, 8 * PAGE, 2));
    show("not protected", at, 8);
    write_protect(fd, at, PAGE, 1);
    mremap(at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT + 0x200000);
    show("moved", AT + 0x200000, 1);
    DO(write_protect(fd, at, 8 * PAGE, 1));
    DO(write_protect(fd, AT + 0x200000, PAGE, 1));
    DO(unwatch(fd, at, 8 * PAGE));
    show("unregistered", at, 8);
    end(touch("write", fd, write_byte, at + 3 * PAGE));
    close(fd);
    munmap(AT, 0x201000);
}

static void objects(int shared) {
    int file = syscall(SYS_memfd_create, "object", 0);
    ftruncate(file, 8 * PAGE);
    int fd = open_uffd(O_NONBLOCK, 0);
    char *at = map(AT, 12 * PAGE, shared ? MAP_SHARED : MAP_PRIVATE, file);
    pwrite(file, bytes, PAGE, 0);
    pwrite(file, bytes, PAGE, PAGE);
    printf("%s\n", shared ? "shared" : "private");
    DO(watch(fd, at, 12 * PAGE, MISSING | WP | MINOR));
    pid_t pid = touch("read 0", fd, read_byte, at);
    FILL("continue 0", fd, UFFDIO_CONTINUE, at, PAGE, 0);
    end(pid);
    FILL("again", fd, UFFDIO_CONTINUE, at, PAGE, 0);
    FILL("continue, no page", fd, UFFDIO_CONTINUE, at + 2 * PAGE, PAGE, 0);
    FILL("continue 1, protected", fd, UFFDIO_CONTINUE, at + PAGE, 3 * PAGE, 2);
    FILL("continue past the end", fd, UFFDIO_CONTINUE, at + 8 * PAGE, PAGE, 0);
    COPY("copy past the end", fd, at + 8 * PAGE, bytes, PAGE, 0);
    FILL("zeros past the end", fd, UFFDIO_ZEROPAGE, at + 8 * PAGE, PAGE, 0);
    FILL("poison past the end", fd, UFFDIO_POISON, at + 8 * PAGE, PAGE, 0);
    show("two", at, 10);
    pid = touch("write 1", fd, write_byte, at + PAGE);
    write_protect(fd, at + PAGE, PAGE, 0);
    end(pid);
    pid = touch("write 2", fd, write_byte, at + 2 * PAGE);
    COPY("copy 2, protected", fd, at + 2 * PAGE, bytes, PAGE, 2);
    poll(&(struct pollfd){fd, POLLIN, 0}, 1, -1);
    struct message message;
    read(fd, &message, sizeof message);
    print(&message);
    write_protect(fd, at + 2 * PAGE, PAGE, 0);
    end(pid);
    COPY("copy 2 again", fd, at + 2 * PAGE, bytes, PAGE, 0);
    madvise(at + 2 * PAGE, PAGE, MADV_DONTNEED);
    COPY("copy 2, not mapped", fd, at + 2 * PAGE, bytes, PAGE, 0);
    FILL("continue 2", fd, UFFDIO_CONTINUE, at + 2 * PAGE, PAGE, 0);
    FILL("zeros 3", fd, UFFDIO_ZEROPAGE, at + 3 * PAGE, PAGE, 0);
    show("four", at, 5);
    write_protect(fd, at, 8 * PAGE, 1);
    show("protected", at, 9);
    madvise(at, 8 * PAGE, MADV_DONTNEED);
    show("dropped", at, 9);
    FILL("continue 0", fd, UFFDIO_CONTINUE, at, PAGE, 0);
    COPY("copy 5", fd, at + 5 * PAGE, bytes, PAGE, 0);
    FILL("zeros 6", fd, UFFDIO_ZEROPAGE, at + 6 * PAGE, PAGE, 0);
    FILL("poison 4", fd, UFFDIO_POISON, at + 4 * PAGE, PAGE, 0);
    show("filled", at, 9);
    write_protect(fd, at, 8 * PAGE, 1);
    ftruncate(file, 4 * PAGE);
    show("cut", at, 9);
    write_protect(fd, at, 12 * PAGE, 0);
    show("not protected", at, 9);
    end(touch("past the end", fd, write_byte, at + 9 * PAGE));
    close(fd);
    close(file);
    munmap(at, 12 * PAGE);
}

static int input;
static void read_input(void *at) { read(input, at, 3); }

// Whoever ends, however: nobody waits for ever.
static void ends(void) {
    int fd = open_uffd(O_NONBLOCK, 0);
    char *at = map(AT, 8 * PAGE, OWN, -1);
    watch(fd, at, 8 * PAGE, MISSING);
    pid_t pid = touch("killed", fd, write_byte, at);
    kill(pid, SIGKILL);
    end(pid);
    pid = touch("unmapped", fd, write_byte, at + PAGE);
    munmap(at + PAGE, PAGE);
    wake(fd, at + PAGE, PAGE);
    end(pid);
    pid = touch("protected", fd, write_byte, at + 2 * PAGE);
    mprotect(at + 2 * PAGE, PAGE, PROT_READ);
    wake(fd, at + 2 * PAGE, PAGE);
    end(pid);
    pid = touch("moved", fd, write_byte, at + 3 * PAGE);
    mremap(at + 3 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT + 0x100000);
    wake(fd, at + 3 * PAGE, PAGE);
    end(pid);
    pid = touch("unregistered", fd, write_byte, at + 4 * PAGE);
    unwatch(fd, at + 4 * PAGE, PAGE);
    end(pid);
    pid = touch("closed", fd, write_byte, at + 5 * PAGE);
    close(fd);
    end(pid);
    printf("%d %d\n", at[4 * PAGE], at[5 * PAGE]);
    // The handler is another process, and is killed.
    fd = open_uffd(0, 0);
    watch(fd, at + 6 * PAGE, 2 * PAGE, MISSING);
    int tell_me[2];
    if (pipe(tell_me)) exit(1);
    pid_t handler = fork();
    if (handler == 0) {
        struct message message;
        read(fd, &message, sizeof message);
        write(tell_me[1], "", 1);
        for (;;) pause();
    }
    close(fd);
    pid = share(write_byte, at + 6 * PAGE);
    char byte;
    read(tell_me[0], &byte, 1);
    kill(handler, SIGKILL);
    printf("handler %s\n", ended(handler));
    end(pid);
    // A call that waits is killed.
    fd = open_uffd(O_NONBLOCK, 0);
    watch(fd, at + 7 * PAGE, PAGE, MISSING);
    if (write(tell_me[1], "abc", 3) != 3) exit(1);
    input = tell_me[0];
    pid = touch("a call, killed", fd, read_input, at + 7 * PAGE);
    kill(pid, SIGKILL);
    end(pid);
    close(fd);
    close(tell_me[0]);
    close(tell_me[1]);
    munmap(AT, 0x101000);
}

static volatile int handled;
static void handle(int signal) { handled = signal; }

static void signals(void) {
    int fd = open_uffd(O_NONBLOCK, 0);
    char *at = map(AT, 2 * PAGE, OWN, -1);
    watch(fd, at, 2 * PAGE, MISSING);
    struct sigaction action = {.sa_handler = handle};
    sigaction(SIGUSR1, &action, 0);
    pid_t pid = touch("before a signal", fd, write_byte, at);
    kill(pid, SIGUSR1);
    struct message message;
    poll(&(struct pollfd){fd, POLLIN, 0}, 1, -1);
    read(fd, &message, sizeof message);
    print(&message);
    printf("handled %d\n", handled == SIGUSR1);
    FILL("zeros", fd, UFFDIO_ZEROPAGE, at, PAGE, 0);
    end(pid);
    close(fd);
    fd = open_uffd(O_NONBLOCK, FEATURE_SIGBUS);
    watch(fd, at + PAGE, PAGE, MISSING);
    end(touch("SIGBUS", fd, read_byte, at + PAGE));
    int zeros = open("/dev/zero", O_RDONLY);
    SAY(read(zeros, at + PAGE + 3, 9));
    SAY(madvise(at + PAGE, PAGE, 22));
    SAY(madvise(at + PAGE, PAGE, 23));
    SAY(mlock(at + PAGE, PAGE));
    munlock(at + PAGE, PAGE);
    close(fd);
    fd = open_uffd(UFFD_USER_MODE_ONLY, 0);
    watch(fd, at + PAGE, PAGE, MISSING);
    SAY(read(zeros, at + PAGE + 3, 9));
    SAY(madvise(at + PAGE, PAGE, 22));
    close(fd);
    SAY(read(zeros, at + PAGE + 3, 9));
    close(zeros);
    munmap(at, 2 * PAGE);
}

// What happens to the memory, read by another process.
struct heard { int uffd, count; struct message message[8]; };

static void listen_for(void *with) {
    volatile struct heard *heard = with;
    struct message message;
    for (;;) {
        if (read(heard->uffd, &message, sizeof message) != sizeof message) _exit(1);
        *(struct message *)&heard->message[heard->count] = message;
        heard->count++;
        if (message.event == 0x12) _exit(0);
    }
}

static void events(void) {
    uint64_t all = FEATURE_EVENT_REMAP | FEATURE_EVENT_REMOVE | FEATURE_EVENT_UNMAP;
    struct heard *heard = (void *)map(0, PAGE, MAP_SHARED | MAP_ANONYMOUS, -1);
    int fd = open_uffd(0, all);
    char *at = map(AT, 16 * PAGE, OWN, -1);
    memset(at, 1, 15 * PAGE);
    heard->uffd = fd;
    watch(fd, at, 16 * PAGE, MISSING | WP);
    write_protect(fd, at + 12 * PAGE, PAGE, 1);
    pid_t listener = share(listen_for, heard);
    SAY(madvise(at, 2 * PAGE, MADV_DONTNEED));
    SAY(madvise(at + 2 * PAGE, PAGE - 1, MADV_FREE));
    SAY(munmap(at + 4 * PAGE, 2 * PAGE));
    map(at + 7 * PAGE, PAGE, OWN, -1);
    mremap(at + 12 * PAGE, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, AT + 0x100000);
    show("moved", AT + 0x100000, 2);
    SAY(madvise(at + 4 * PAGE, PAGE, MADV_DONTNEED));
    pid_t last = share(read_byte, at + 15 * PAGE);
    printf("listener %s\n", ended(listener));
    for (int i = 0; i < heard->count; i++) print(&heard->message[i]);
    FILL("zeros", fd, UFFDIO_ZEROPAGE, at + 15 * PAGE, PAGE, 0);
    end(last);
    close(fd);
    munmap(AT, 0x200000);
}

// A child's memory is served by a descriptor that its fork's message brings.
static void serve_child(void *with) {
    volatile int *uffd = with;
    struct message message;
    int64_t done;
    if (read(*uffd, &message, sizeof message) != sizeof message) _exit(1);
    printf("event %x\n", message.event);
    int child = (int)message.word[0];
    printf("close on exec %d\n", fcntl(child, F_GETFD));
    for (int i = 0; i < 2; i++) {
        if (read(child, &message, sizeof message) != sizeof message) _exit(2);
        print(&message);
        char *page = (char *)message.word[1];
        if (message.word[0] & 2) write_protect(child, page, PAGE, 0);
        else copy_to(child, page, bytes, PAGE, 0, &done);
    }
    fflush(stdout);
    _exit(0);
}

static void forks(void) {
    static volatile int fd;
    fd = open_uffd(O_CLOEXEC, FEATURE_EVENT_FORK);
    char *at = map(AT, 8 * PAGE, OWN, -1);
    at[PAGE] = 1;
    watch(fd, at, 8 * PAGE, MISSING | WP);
    write_protect(fd, at, 8 * PAGE, 1);
    pid_t server = share(serve_child, (void *)&fd);
    pid_t child = fork();
    if (child == 0) {
        int right = at[2 * PAGE] == bytes[0];
        at[PAGE] = 2;
        _exit(right ? 7 : 8);
    }
    printf("child %s\n", ended(child));
    printf("server %s\n", ended(server));
    show("parent", at, 3);
    close(fd);
    munmap(at, 8 * PAGE);
}

int main(void) {
    bytes = map((char *)0x20000000000, 8 * PAGE, OWN, -1);
    for (uint64_t i = 0; i < 8 * PAGE; i++) bytes[i] = i / PAGE + 5;
    interface();
    answers();
    reading();
    protection(0);
    protection(FEATURE_WP_UNPOPULATED);
    protection(FEATURE_WP_ASYNC);
    objects(1);
    objects(0);
    ends();
    signals();
    forks();
    events();
    return 0;
}
