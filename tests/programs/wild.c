// Random calls with random arguments, in process after process: half of the pointers lead to memory. Never to be run
// be run natively. Arguments: how many calls, a seed, and how many do them at a time. What becomes of the processes
// does not matter; that the machine goes on does.
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t state;
static uint64_t *area;

static uint64_t any(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint64_t argument(void) {
    switch (any() % 12) {
    case 0: return any();
    case 1: return -(any() % 4096);
    case 2: return 1ULL << any() % 64;
    case 3: return any() % 4096 * 4096;
    case 4: return any() % 8;
    case 5: return any() % 1024;
    default: {
        // What is there is as random: numbers, flags, pointers to itself, and now and then a path.
        uint64_t at = any() % 8000;
        for (int i = 0; i < 4; i++) area[at + i] = any() % 3 ? any() >> any() % 64 : (uint64_t)&area[any() % 8000];
        if (any() % 4 == 0) snprintf((char *)&area[at], 32, "/%s/%d", any() % 2 ? "tmp" : "proc/self", (int)(any() % 20));
        return (uint64_t)&area[at] + any() % 3;
    }
    }
}

// Calls that end the process, or wait for what never comes.
static int is_left_out(long number) {
    switch (number) {
    case SYS_exit: case SYS_exit_group: case SYS_pause: case SYS_rt_sigsuspend: case SYS_vfork: return 1;
    // Its own parent would not be spared.
    case SYS_kill: case SYS_tkill: case SYS_tgkill: case SYS_rt_sigqueueinfo: case SYS_rt_tgsigqueueinfo: return 1;
    default: return 0;
    }
}

// Segments of shared memory stay when all who had them have ended.
static void remove_segments(void) {
    struct shm_info info;
    int highest = shmctl(0, SHM_INFO, (struct shmid_ds *)&info);
    struct shmid_ds segment;
    for (int i = 0; i <= highest; i++) {
        int id = shmctl(i, SHM_STAT, &segment);
        if (id >= 0) shmctl(id, IPC_RMID, 0);
    }
}

// So many calls, in one process after the other.
static int work(uint64_t calls) {
    uint64_t *done = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    while (*done < calls) {
        // Far from the numbers that the last process had.
        for (int i = 0; i < 40000; i++) any();
        uint64_t before = *done;
        pid_t child = fork();
        if (child < 0) return perror("fork"), 1;
        if (child == 0) {
            area = mmap(0, 65536 * 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            for (int i = 0; i < 2000; i++) {
                // Memory's calls as often as all others together.
                static const short memory[] = {9, 10, 11, 12, 25, 26, 27, 28, 149, 150, 151, 152, 216, 237, 325, 329, 319, 29, 30, 31, 67};
                long number = any() % 2 ? memory[any() % (sizeof memory / sizeof *memory)] : (long)(any() % 470);
                if (is_left_out(number)) continue;
                ++*done;
                uint64_t a = argument(), b = argument(), c = argument();
                long made = syscall(number, a, b, c, argument(), argument(), argument());
                // A process of its own goes on with other numbers.
                if ((number == SYS_fork || number == SYS_clone) && made == 0) _exit(0);
            }
            _exit(0);
        }
        int status, waited = 0;
        // It may wait for ever, and block what would end that.
        while (waitpid(child, &status, WNOHANG) != child) {
            if (++waited == 40) kill(child, SIGKILL);
            usleep(1000);
        }
        // What is done counts also where its number was written over.
        if (*done < before || *done > before + 1000000) *done = before + 100;
        while (waitpid(-1, &status, WNOHANG) > 0) {}
        remove_segments();
    }
    return 0;
}

int main(int argc, char **argv) {
    uint64_t calls = strtoull(argv[1], 0, 10), seed = strtoull(argv[2], 0, 10);
    int workers = argc > 3 ? atoi(argv[3]) : 1;
    pid_t pids[64];
    // A worker that others have ended, by whatever call, is replaced: with other numbers.
    for (int at = 0, tries = 0; at < workers; tries++) {
        pids[at] = fork();
        if (pids[at] == 0) {
            state = (seed + tries) * 0x9e3779b97f4a7c15 | 1;
            _exit(work(calls / workers));
        }
        if (pids[at] > 0) at++;
        else usleep(1000);
        while (at == workers) {
            int status;
            pid_t ended = waitpid(-1, &status, 0);
            if (ended < 0) return printf("enough\n"), 0;
            for (int i = 0; i < workers; i++)
                if (pids[i] == ended && status && tries < 1000) pids[i] = pids[--at];
        }
    }
    return 1;
}
