/* userfaultfd(2) as the kernel's header has it from Linux 6.8 on: the one of a distribution may be older, and musl's
   compiler does not find it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL

enum {
    UFFD_USER_MODE_ONLY = 1,
    FEATURE_EVENT_FORK = 1 << 1,
    FEATURE_EVENT_REMAP = 1 << 2,
    FEATURE_EVENT_REMOVE = 1 << 3,
    FEATURE_EVENT_UNMAP = 1 << 6,
    FEATURE_SIGBUS = 1 << 7,
    FEATURE_THREAD_ID = 1 << 8,
    FEATURE_EXACT_ADDRESS = 1 << 11,
    FEATURE_WP_UNPOPULATED = 1 << 13,
    FEATURE_WP_ASYNC = 1 << 15,
    MISSING = 1,
    WP = 2,
    MINOR = 4,
};

struct range { uint64_t start, len; };
struct api { uint64_t api, features, ioctls; };
struct registered { struct range range; uint64_t mode, ioctls; };
struct copy { uint64_t to, from, len, mode; int64_t done; };
struct fill { struct range range; uint64_t mode; int64_t done; };
struct protect { struct range range; uint64_t mode; };
struct message { uint8_t event, zero[7]; uint64_t word[3]; };

#define UFFDIO_API 0xc018aa3fUL
#define UFFDIO_REGISTER 0xc020aa00UL
#define UFFDIO_UNREGISTER 0x8010aa01UL
#define UFFDIO_WAKE 0x8010aa02UL
#define UFFDIO_COPY 0xc028aa03UL
#define UFFDIO_ZEROPAGE 0xc020aa04UL
#define UFFDIO_WRITEPROTECT 0xc018aa06UL
#define UFFDIO_CONTINUE 0xc020aa07UL
#define UFFDIO_POISON 0xc020aa08UL

static __attribute__((unused)) const char *error(int number) {
    static char text[16];
    switch (number) {
#define NAME(errno) case errno: return #errno;
        NAME(EINVAL) NAME(ENOENT) NAME(EEXIST) NAME(EAGAIN) NAME(EFAULT) NAME(ENOMEM) NAME(EPERM) NAME(EBUSY) NAME(ESRCH)
        NAME(EINTR) NAME(EBADF) NAME(ESPIPE) NAME(ENODEV) NAME(EACCES)
    case 0: return "ok";
    }
    snprintf(text, sizeof text, "%d", number);
    return text;
}

/* The value of a call and its errno, once each. */
#define SAY(call) say(#call, (errno = 0, (long)(call)))
static __attribute__((unused)) long say(const char *what, long answer) {
    printf("%s: %ld %s\n", what, answer, error(answer < 0 ? errno : 0));
    fflush(stdout);
    return answer;
}

static __attribute__((unused)) int open_uffd(int flags, uint64_t features) {
    int fd = syscall(SYS_userfaultfd, flags);
    struct api api = {0xaa, features, 0};
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api)) {
        printf("no userfaultfd: %s\n", error(errno));
        exit(1);
    }
    return fd;
}

static __attribute__((unused)) int watch(int fd, void *at, uint64_t len, uint64_t mode) {
    struct registered range = {{(uint64_t)at, len}, mode, 0};
    return ioctl(fd, UFFDIO_REGISTER, &range) ? -errno : 0;
}

static __attribute__((unused)) int unwatch(int fd, void *at, uint64_t len) {
    struct range range = {(uint64_t)at, len};
    return ioctl(fd, UFFDIO_UNREGISTER, &range) ? -errno : 0;
}

static __attribute__((unused)) int wake(int fd, void *at, uint64_t len) {
    struct range range = {(uint64_t)at, len};
    return ioctl(fd, UFFDIO_WAKE, &range) ? -errno : 0;
}

static __attribute__((unused)) int write_protect(int fd, void *at, uint64_t len, uint64_t mode) {
    struct protect protect = {{(uint64_t)at, len}, mode};
    return ioctl(fd, UFFDIO_WRITEPROTECT, &protect) ? -errno : 0;
}

static __attribute__((unused)) int copy_to(int fd, void *to, const void *from, uint64_t len, uint64_t mode, int64_t *done) {
    struct copy copy = {(uint64_t)to, (uint64_t)from, len, mode, 77};
    int answer = ioctl(fd, UFFDIO_COPY, &copy) ? -errno : 0;
    *done = copy.done;
    return answer;
}

static __attribute__((unused)) int fill(int fd, unsigned long request, void *at, uint64_t len, uint64_t mode, int64_t *done) {
    struct fill fill = {{(uint64_t)at, len}, mode, 77};
    int answer = ioctl(fd, request, &fill) ? -errno : 0;
    *done = fill.done;
    return answer;
}

/* A process that shares memory and descriptors. */
struct job { void (*run)(void *); void *with; };
static int begin(void *of) {
    struct job *job = of;
    job->run(job->with);
    _exit(0);
}
static __attribute__((unused)) pid_t share(void (*run)(void *), void *with) {
    char *stack = mmap(0, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct job *job = (struct job *)stack;
    *job = (struct job){run, with};
    fflush(stdout);
    return clone(begin, stack + 16 * PAGE - 64, CLONE_VM | CLONE_FILES | SIGCHLD, job);
}

static __attribute__((unused)) const char *ended(pid_t pid) {
    static char text[32];
    int status = 0;
    waitpid(pid, &status, 0);
    if (WIFEXITED(status)) snprintf(text, sizeof text, "exit %d", WEXITSTATUS(status));
    else snprintf(text, sizeof text, "signal %d", WTERMSIG(status));
    return text;
}

static __attribute__((unused)) void read_byte(void *at) { (void)*(volatile char *)at; }
static __attribute__((unused)) void write_byte(void *at) { *(volatile char *)at = 7; }

static __attribute__((unused)) char *map(void *at, uint64_t len, int flags, int fd) {
    flags |= at ? MAP_FIXED : 0;
    char *memory = mmap(at, len, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return memory;
}
#define OWN (MAP_PRIVATE | MAP_ANONYMOUS)
