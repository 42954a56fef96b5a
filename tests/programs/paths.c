// Paths: names made, moved, taken away and looked at, in a new directory in the one that is given. What is said is the same natively
// and in a guest, whether the directory is in memory or the host's.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *what, long answer) {
    printf("%-40s %ld%s%s\n", what, answer, answer < 0 ? " " : "", answer < 0 ? strerror(errno) : "");
    fflush(stdout);
}
#define SAY(call) say(#call, call)

static int by_name(const void *one, const void *other) {
    return strcmp(*(char *const *)one, *(char *const *)other);
}

// What maps calls what is mapped there, without the directory.
static void mapped(const void *at) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[600], *name;
    while (fgets(line, sizeof line, maps))
        if (strtoul(line, 0, 16) == (unsigned long)at && (name = strrchr(line, '/'))) printf("mapped: %s", name + 1);
    fclose(maps);
}

static void list(const char *path) {
    DIR *directory = opendir(path);
    if (!directory) {
        say(path, -1);
        return;
    }
    char *names[256];
    int count = 0;
    struct dirent *entry;
    while ((entry = readdir(directory)) && count < 256) {
        struct stat status;
        char text[600];
        fstatat(dirfd(directory), entry->d_name, &status, AT_SYMLINK_NOFOLLOW);
        // A directory's number of links and size are its file system's affair.
        int is_directory = S_ISDIR(status.st_mode);
        snprintf(text, sizeof text, "%s type %d mode %o links %d size %d%s", entry->d_name, entry->d_type, status.st_mode,
                 is_directory ? 0 : (int)status.st_nlink, is_directory ? 0 : (int)status.st_size,
                 status.st_ino == entry->d_ino || !strcmp(entry->d_name, "..") ? "" : ", another number");
        if (strcmp(entry->d_name, "..")) names[count++] = strdup(text);
    }
    closedir(directory);
    qsort(names, count, sizeof *names, by_name);
    printf("%s:\n", path);
    for (int i = 0; i < count; i++) {
        printf("    %s\n", names[i]);
        free(names[i]);
    }
}

static void times(const char *path) {
    struct stat status;
    if (stat(path, &status)) return say("stat", -1);
    printf("%s: accessed %ld.%09ld modified %ld.%09ld\n", path, status.st_atim.tv_sec, status.st_atim.tv_nsec,
           status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
}

int main(int argc, char **argv) {
    char cwd[PATH_MAX], buffer[PATH_MAX], longest_read[16];
    struct stat status;
    char own[PATH_MAX];
    snprintf(own, sizeof own, "%s/paths.XXXXXX", argv[argc - 1]);
    say("mkdtemp", mkdtemp(own) ? 0 : -1);
    SAY(chdir(own));
    say("getcwd", getcwd(cwd, sizeof cwd) ? 0 : -1);
    printf("in the right place: %d\n", strcmp(cwd, own) == 0);
    umask(027);

    // Files.
    int fd;
    SAY(open("none", O_RDONLY));
    SAY(open("", O_RDONLY));
    SAY(open("none/a", O_RDONLY));
    SAY(open("none/", O_RDWR | O_CREAT, 0666));
    SAY(open(".", O_RDWR));
    SAY(open(".", O_RDONLY | O_CREAT, 0666));
    SAY(open("x", O_CREAT | O_DIRECTORY | O_RDWR, 0666));
    SAY(fd = open("a", O_RDWR | O_CREAT | O_EXCL, 0666));
    SAY(open("a", O_RDWR | O_CREAT | O_EXCL, 0666));
    SAY(write(fd, "some bytes", 10));
    SAY(lseek(fd, 0, SEEK_CUR));
    SAY(pread(fd, buffer, 100, 5));
    printf("flags %#x\n", fcntl(fd, F_GETFL));
    SAY(ftruncate(fd, 5000));
    SAY(fstat(fd, &status));
    printf("size %ld mode %o links %ld\n", (long)status.st_size, status.st_mode, (long)status.st_nlink);
    SAY(open("a/", O_RDONLY));
    SAY(open("a/b", O_RDONLY));
    SAY(open("a", O_DIRECTORY | O_RDONLY));
    SAY(unlink("a"));
    SAY(fstat(fd, &status));
    printf("size %ld links %ld\n", (long)status.st_size, (long)status.st_nlink);
    SAY(close(fd));
    int only_read, only_written;
    SAY(only_written = open("b", O_WRONLY | O_CREAT | O_APPEND, 0644));
    SAY(only_read = open("b", O_RDONLY));
    SAY(write(only_read, "x", 1));
    SAY(read(only_written, buffer, 1));
    SAY(write(only_written, "one", 3));
    SAY(lseek(only_written, 0, SEEK_SET));
    SAY(write(only_written, "two", 3));
    SAY(read(only_read, buffer, 100));
    printf("%.6s\n", buffer);
    SAY(ftruncate(only_read, 1));
    SAY(close(only_written));
    SAY(fd = open("b", O_RDWR | O_TRUNC));
    SAY(read(only_read, buffer, 100));
    SAY(fstat(fd, &status));
    printf("size %ld\n", (long)status.st_size);
    SAY(truncate("b", 8192));
    SAY(truncate(".", 0));
    SAY(truncate("b", -1));

    // What is mapped is the file.
    char *map = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    strcpy(map + 4096, "written through a map");
    SAY(pread(only_read, buffer, 100, 4096));
    printf("%s\n", buffer);
    SAY(pwrite(fd, "by a call", 10, 0));
    printf("%s\n", map);
    char *private_map = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, only_read, 0);
    private_map[0] = 'B';
    printf("%s, %s\n", map, private_map);
    say("a shared map to be written, of what is only read",
        mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, only_read, 0) == MAP_FAILED ? -1 : 0);
    pid_t child = fork();
    if (child == 0) {
        strcpy(map, "by a child");
        _exit(0);
    }
    waitpid(child, 0, 0);
    printf("%s, %s\n", map, private_map);
    munmap(map, 8192);
    munmap(private_map, 8192);
    close(fd);
    close(only_read);

    // Directories.
    SAY(mkdir("d", 0777));
    SAY(mkdir("d", 0777));
    SAY(mkdir(".", 0777));
    SAY(mkdir("d/e/", 0777));
    SAY(mkdir("d/none/e", 0777));
    SAY(mkdir("b/e", 0777));
    SAY(rmdir("d"));
    SAY(rmdir("b"));
    SAY(rmdir("d/e/."));
    SAY(rmdir("d/e/.."));
    SAY(unlink("d"));
    SAY(unlink("d/"));
    SAY(unlink("b/"));
    SAY(chdir("b"));
    SAY(chdir("d/e"));
    SAY(open("../../b", O_RDONLY));
    close(fd);
    SAY(rmdir("../e"));
    say("getcwd", syscall(SYS_getcwd, buffer, sizeof buffer));
    SAY(open("f", O_RDWR | O_CREAT, 0666));
    SAY(mkdir("f", 0777));
    SAY(chdir(cwd));
    SAY(fd = open("d", O_RDONLY | O_DIRECTORY));
    SAY(read(fd, buffer, 10));
    SAY(openat(fd, "../b", O_RDONLY));
    SAY(mkdirat(fd, "g", 0700));
    SAY(openat(fd, "h", O_RDWR | O_CREAT, 0640));
    SAY(openat(-1, "h", O_RDONLY));
    SAY(openat(0, "h", O_RDONLY) < 0);
    SAY(unlinkat(fd, "g", 0));
    SAY(unlinkat(fd, "g", AT_REMOVEDIR));
    SAY(faccessat(fd, "h", X_OK, 0));
    SAY(faccessat(fd, "h", R_OK | W_OK, 0));
    SAY(access("d", X_OK));
    SAY(access("d", 8));
    SAY(fchdir(fd));
    SAY(access("h", F_OK));
    SAY(chdir(".."));
    say("getdents64, no room", syscall(SYS_getdents64, fd, buffer, 10));
    long first = syscall(SYS_getdents64, fd, buffer, 30);
    say("getdents64, room for one", first);
    close(fd);

    // Links.
    SAY(symlink("", "l"));
    SAY(symlink("b", "l"));
    SAY(symlink("b", "l"));
    SAY(readlink("l", buffer, sizeof buffer));
    SAY(readlink("l", buffer, 0));
    SAY(readlink("b", buffer, sizeof buffer));
    SAY(lstat("l", &status));
    printf("mode %o size %ld\n", status.st_mode, (long)status.st_size);
    SAY(stat("l", &status));
    printf("mode %o size %ld\n", status.st_mode, (long)status.st_size);
    SAY(open("l", O_RDONLY | O_NOFOLLOW));
    SAY(symlink("loop", "loop"));
    SAY(open("loop", O_RDONLY));
    SAY(open("loop", O_RDWR | O_CREAT, 0600));
    SAY(symlink("made", "to-made"));
    SAY(open("to-made", O_RDWR | O_CREAT | O_EXCL, 0600));
    SAY(fd = open("to-made", O_RDWR | O_CREAT, 0600));
    close(fd);
    SAY(access("made", F_OK));
    SAY(symlink("d", "to-d"));
    SAY(access("to-d/h", F_OK));
    SAY(access("to-d/../b", F_OK));
    SAY(unlink("to-d/"));
    SAY(rmdir("to-d"));
    SAY(link("b", "b2"));
    SAY(link("b", "b2"));
    SAY(link("d", "d2"));
    SAY(link("l", "l2"));
    SAY(linkat(AT_FDCWD, "l", AT_FDCWD, "b3", AT_SYMLINK_FOLLOW));
    SAY(stat("b3", &status));
    printf("links %ld\n", (long)status.st_nlink);

    // Renaming.
    SAY(rename("none", "x"));
    SAY(rename("b3", "d/moved"));
    SAY(rename("b2", "b"));
    SAY(access("b2", F_OK));
    SAY(mkdir("e", 0777));
    SAY(rename("e", "d/e"));
    SAY(rename("d", "d/e/inside"));
    SAY(rename("d/e", "d"));
    SAY(rename("b2", "d"));
    SAY(rename("d", "b2"));
    SAY(rename("d/.", "x"));
    SAY(rename("b2/", "x"));
    SAY(mkdir("f", 0777));
    SAY(rename("f", "d/e"));
    SAY(renameat2(AT_FDCWD, "b2", AT_FDCWD, "made", RENAME_NOREPLACE));
    SAY(renameat2(AT_FDCWD, "b2", AT_FDCWD, "d", RENAME_EXCHANGE));
    SAY(renameat2(AT_FDCWD, "b2", AT_FDCWD, "none", RENAME_EXCHANGE));
    SAY(renameat2(AT_FDCWD, "b2", AT_FDCWD, "x", RENAME_EXCHANGE | RENAME_NOREPLACE));
    list("b2");
    list(".");

    // Attributes.
    SAY(chmod("d", 04751));
    SAY(chmod("none", 0));
    struct timespec set[2] = {{1000, 5}, {2000, 6}}, wrong[2] = {{0, 1000000000}, {0, 0}};
    struct timespec stays[2] = {{0, UTIME_OMIT}, {3000, 7}};
    SAY(utimensat(AT_FDCWD, "d", set, 0));
    times("d");
    SAY(utimensat(AT_FDCWD, "d", stays, 0));
    times("d");
    SAY(utimensat(AT_FDCWD, "d", wrong, 0));
    SAY(chown("d", 0, 0));
    SAY(fstatat(AT_FDCWD, "d", &status, 0x10000));
    struct statx extended;
    SAY(statx(AT_FDCWD, "d", 0, STATX_BASIC_STATS, &extended));
    printf("mode %o size %ld modified %ld\n", extended.stx_mode, (long)extended.stx_size, (long)extended.stx_mtime.tv_sec);
    SAY(fd = open("d", O_PATH));
    SAY(read(fd, buffer, 1));
    SAY(fchmod(fd, 0600));
    SAY(fstat(fd, &status));
    SAY(fstatat(fd, "", &status, AT_EMPTY_PATH));
    printf("mode %o\n", status.st_mode);
    SAY(fcntl(fd, F_GETFL));
    close(fd);
    // So long ago that no difference can be told.
    struct timespec ago[2] = {{LONG_MIN, 0}, {0, UTIME_OMIT}};
    SAY(utimensat(AT_FDCWD, "d", ago, 0));
    SAY(fd = open("d", O_RDONLY));
    SAY(read(fd, buffer, 10));
    close(fd);

    // Offsets that are addresses go all the way up, and around.
    SAY(fd = open("/proc/self/mem", O_RDWR));
    strcpy(buffer, "found");
    SAY(pread(fd, longest_read, 6, (long)buffer));
    printf("%s\n", longest_read);
    SAY(pwrite(fd, "other", 6, (long)buffer));
    printf("%s\n", buffer);
    SAY(lseek(fd, -1, SEEK_SET) == -1);
    SAY(read(fd, buffer, 10));
    SAY(lseek(fd, -4096, SEEK_SET) == -4096);
    SAY(read(fd, buffer, sizeof buffer));
    SAY(lseek(fd, 8192, SEEK_CUR));
    SAY(read(fd, buffer, 1));
    close(fd);
    SAY(fd = open("/proc/self/pagemap", O_RDONLY));
    SAY(lseek(fd, -8, SEEK_SET) == -8);
    SAY(read(fd, buffer, 16));
    SAY(pread(fd, buffer, 7, 0));
    close(fd);
    char longest[300];
    memset(longest, 'n', sizeof longest);
    longest[256] = 0;
    SAY(open(longest, O_RDWR | O_CREAT, 0600));
    longest[255] = 0;
    SAY(access(longest, F_OK));
    struct statvfs system;
    SAY(statvfs(".", &system));

    // Devices.
    SAY(fd = open("/dev/null", O_RDWR));
    SAY(read(fd, buffer, 10));
    SAY(write(fd, buffer, 10));
    SAY(fstat(fd, &status));
    printf("mode %o device %#lx\n", status.st_mode, (long)status.st_rdev);
    say("a map of it", mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0);
    close(fd);
    SAY(fd = open("/dev/zero", O_RDWR));
    SAY(read(fd, buffer, 4096));
    char *zeros = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    zeros[0]++;
    printf("%d %d\n", zeros[0], zeros[4096]);
    char *shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if ((child = fork()) == 0) {
        shared[0] = 7;
        zeros[1] = 7;
        _exit(0);
    }
    waitpid(child, 0, 0);
    printf("%d %d\n", shared[0], zeros[1]);
    close(fd);
    SAY(fd = open("/dev/full", O_WRONLY));
    SAY(write(fd, buffer, 1));
    close(fd);
    SAY(fd = open("/dev/urandom", O_RDONLY));
    SAY(read(fd, buffer, 3000));
    close(fd);

    // What cannot be mapped.
    const char *const unmappable[] = {".", "/proc", "/proc/self/maps", "/dev/null"};
    for (int i = 0; i < 5; i++) {
        fd = i < 4 ? open(unmappable[i], O_RDONLY) : open(".", O_PATH);
        say("a map of it, to be read", mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
        say("to be run", mmap(0, 4096, PROT_EXEC, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
        close(fd);
    }

    // What is mapped, without a name, and with one of two.
    SAY(fd = open("mapped", O_CREAT | O_RDWR, 0600));
    map = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    mapped(map);
    SAY(link("mapped", "other"));
    SAY(unlink("other"));
    mapped(map);
    SAY(unlink("mapped"));
    mapped(map);
    close(fd);
    mapped(map);
    SAY(fd = open("mapped", O_CREAT | O_RDWR, 0600));
    map = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    SAY(open("over", O_CREAT | O_RDWR, 0600) >= 0);
    SAY(rename("over", "mapped"));
    mapped(map);
    SAY(unlink("mapped"));
    close(fd);

    // Away with it.
    SAY(rmdir("b2/e"));
    SAY(unlink("b2/h"));
    SAY(unlink("b2/moved"));
    SAY(rmdir("b2"));
    for (const char *const *name = (const char *const[]){"b", "d", "l", "l2", "loop", "made", "to-d", "to-made", 0}; *name;
         name++)
        SAY(unlink(*name));
    list(".");
    SAY(rmdir(own));
    return 0;
}
