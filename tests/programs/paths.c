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

#include "answer.h"

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
        answer(path, -1);
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
    if (stat(path, &status)) return answer("stat", -1);
    printf("%s: accessed %ld.%09ld modified %ld.%09ld\n", path, status.st_atim.tv_sec, status.st_atim.tv_nsec,
           status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
}

int main(int argc, char **argv) {
    char cwd[PATH_MAX], buffer[PATH_MAX], longest_read[16];
    struct stat status;
    char own[PATH_MAX];
    snprintf(own, sizeof own, "%s/paths.XXXXXX", argv[argc - 1]);
    answer("mkdtemp", mkdtemp(own) ? 0 : -1);
    TRY(chdir(own));
    answer("getcwd", getcwd(cwd, sizeof cwd) ? 0 : -1);
    printf("in the right place: %d\n", strcmp(cwd, own) == 0);
    umask(027);

    // Files.
    int fd;
    TRY(open("none", O_RDONLY));
    TRY(open("", O_RDONLY));
    TRY(open("none/a", O_RDONLY));
    TRY(open("none/", O_RDWR | O_CREAT, 0666));
    TRY(open(".", O_RDWR));
    TRY(open(".", O_RDONLY | O_CREAT, 0666));
    TRY(open("x", O_CREAT | O_DIRECTORY | O_RDWR, 0666));
    TRY(fd = open("a", O_RDWR | O_CREAT | O_EXCL, 0666));
    TRY(open("a", O_RDWR | O_CREAT | O_EXCL, 0666));
    TRY(write(fd, "some bytes", 10));
    TRY(lseek(fd, 0, SEEK_CUR));
    TRY(pread(fd, buffer, 100, 5));
    printf("flags %#x\n", fcntl(fd, F_GETFL));
    TRY(ftruncate(fd, 5000));
    TRY(fstat(fd, &status));
    printf("size %ld mode %o links %ld\n", (long)status.st_size, status.st_mode, (long)status.st_nlink);
    TRY(open("a/", O_RDONLY));
    TRY(open("a/b", O_RDONLY));
    TRY(open("a", O_DIRECTORY | O_RDONLY));
    TRY(unlink("a"));
    TRY(fstat(fd, &status));
    printf("size %ld links %ld\n", (long)status.st_size, (long)status.st_nlink);
    TRY(close(fd));
    int only_read, only_written;
    TRY(only_written = open("b", O_WRONLY | O_CREAT | O_APPEND, 0644));
    TRY(only_read = open("b", O_RDONLY));
    TRY(write(only_read, "x", 1));
    TRY(read(only_written, buffer, 1));
    TRY(write(only_written, "one", 3));
    TRY(lseek(only_written, 0, SEEK_SET));
    TRY(write(only_written, "two", 3));
    TRY(read(only_read, buffer, 100));
    printf("%.6s\n", buffer);
    TRY(ftruncate(only_read, 1));
    TRY(close(only_written));
    TRY(fd = open("b", O_RDWR | O_TRUNC));
    TRY(read(only_read, buffer, 100));
    TRY(fstat(fd, &status));
    printf("size %ld\n", (long)status.st_size);
    TRY(truncate("b", 8192));
    TRY(truncate(".", 0));
    TRY(truncate("b", -1));

    // What is mapped is the file.
    char *map = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    strcpy(map + 4096, "written through a map");
    TRY(pread(only_read, buffer, 100, 4096));
    printf("%s\n", buffer);
    TRY(pwrite(fd, "by a call", 10, 0));
    printf("%s\n", map);
    char *private_map = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, only_read, 0);
    private_map[0] = 'B';
    printf("%s, %s\n", map, private_map);
    answer("a shared map to be written, of what is only read",
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
    TRY(mkdir("d", 0777));
    TRY(mkdir("d", 0777));
    TRY(mkdir(".", 0777));
    TRY(mkdir("d/e/", 0777));
    TRY(mkdir("d/none/e", 0777));
    TRY(mkdir("b/e", 0777));
    TRY(rmdir("d"));
    TRY(rmdir("b"));
    TRY(rmdir("d/e/."));
    TRY(rmdir("d/e/.."));
    TRY(unlink("d"));
    TRY(unlink("d/"));
    TRY(unlink("b/"));
    TRY(chdir("b"));
    TRY(chdir("d/e"));
    TRY(open("../../b", O_RDONLY));
    close(fd);
    TRY(rmdir("../e"));
    answer("getcwd", syscall(SYS_getcwd, buffer, sizeof buffer));
    TRY(open("f", O_RDWR | O_CREAT, 0666));
    TRY(mkdir("f", 0777));
    TRY(chdir(cwd));
    TRY(fd = open("d", O_RDONLY | O_DIRECTORY));
    TRY(read(fd, buffer, 10));
    TRY(openat(fd, "../b", O_RDONLY));
    TRY(mkdirat(fd, "g", 0700));
    TRY(openat(fd, "h", O_RDWR | O_CREAT, 0640));
    TRY(openat(-1, "h", O_RDONLY));
    TRY(openat(0, "h", O_RDONLY) < 0);
    TRY(unlinkat(fd, "g", 0));
    TRY(unlinkat(fd, "g", AT_REMOVEDIR));
    TRY(faccessat(fd, "h", X_OK, 0));
    TRY(faccessat(fd, "h", R_OK | W_OK, 0));
    TRY(access("d", X_OK));
    TRY(access("d", 8));
    TRY(fchdir(fd));
    TRY(access("h", F_OK));
    TRY(chdir(".."));
    answer("getdents64, no room", syscall(SYS_getdents64, fd, buffer, 10));
    long first = syscall(SYS_getdents64, fd, buffer, 30);
    answer("getdents64, room for one", first);
    close(fd);

    // Links.
    TRY(symlink("", "l"));
    TRY(symlink("b", "l"));
    TRY(symlink("b", "l"));
    TRY(readlink("l", buffer, sizeof buffer));
    TRY(readlink("l", buffer, 0));
    TRY(readlink("b", buffer, sizeof buffer));
    TRY(lstat("l", &status));
    printf("mode %o size %ld\n", status.st_mode, (long)status.st_size);
    TRY(stat("l", &status));
    printf("mode %o size %ld\n", status.st_mode, (long)status.st_size);
    TRY(open("l", O_RDONLY | O_NOFOLLOW));
    TRY(symlink("loop", "loop"));
    TRY(open("loop", O_RDONLY));
    TRY(open("loop", O_RDWR | O_CREAT, 0600));
    TRY(symlink("made", "to-made"));
    TRY(open("to-made", O_RDWR | O_CREAT | O_EXCL, 0600));
    TRY(fd = open("to-made", O_RDWR | O_CREAT, 0600));
    close(fd);
    TRY(access("made", F_OK));
    TRY(symlink("d", "to-d"));
    TRY(access("to-d/h", F_OK));
    TRY(access("to-d/../b", F_OK));
    TRY(unlink("to-d/"));
    TRY(rmdir("to-d"));
    TRY(link("b", "b2"));
    TRY(link("b", "b2"));
    TRY(link("d", "d2"));
    TRY(link("l", "l2"));
    TRY(linkat(AT_FDCWD, "l", AT_FDCWD, "b3", AT_SYMLINK_FOLLOW));
    TRY(stat("b3", &status));
    printf("links %ld\n", (long)status.st_nlink);

    // Renaming.
    TRY(rename("none", "x"));
    TRY(rename("b3", "d/moved"));
    TRY(rename("b2", "b"));
    TRY(access("b2", F_OK));
    TRY(mkdir("e", 0777));
    TRY(rename("e", "d/e"));
    TRY(rename("d", "d/e/inside"));
    TRY(rename("d/e", "d"));
    TRY(rename("b2", "d"));
    TRY(rename("d", "b2"));
    TRY(rename("d/.", "x"));
    TRY(rename("b2/", "x"));
    TRY(mkdir("f", 0777));
    TRY(rename("f", "d/e"));
    TRY(renameat2(AT_FDCWD, "b2", AT_FDCWD, "made", RENAME_NOREPLACE));
    TRY(renameat2(AT_FDCWD, "b2", AT_FDCWD, "d", RENAME_EXCHANGE));
    TRY(renameat2(AT_FDCWD, "b2", AT_FDCWD, "none", RENAME_EXCHANGE));
    TRY(renameat2(AT_FDCWD, "b2", AT_FDCWD, "x", RENAME_EXCHANGE | RENAME_NOREPLACE));
    list("b2");
    list(".");

    // Attributes.
    TRY(chmod("d", 04751));
    TRY(chmod("none", 0));
    struct timespec set[2] = {{1000, 5}, {2000, 6}}, wrong[2] = {{0, 1000000000}, {0, 0}};
    struct timespec stays[2] = {{0, UTIME_OMIT}, {3000, 7}};
    TRY(utimensat(AT_FDCWD, "d", set, 0));
    times("d");
    TRY(utimensat(AT_FDCWD, "d", stays, 0));
    times("d");
    TRY(utimensat(AT_FDCWD, "d", wrong, 0));
    TRY(chown("d", 0, 0));
    TRY(fstatat(AT_FDCWD, "d", &status, 0x10000));
    struct statx extended;
    TRY(statx(AT_FDCWD, "d", 0, STATX_BASIC_STATS, &extended));
    printf("mode %o size %ld modified %ld\n", extended.stx_mode, (long)extended.stx_size, (long)extended.stx_mtime.tv_sec);
    TRY(fd = open("d", O_PATH));
    TRY(read(fd, buffer, 1));
    TRY(fchmod(fd, 0600));
    TRY(fstat(fd, &status));
    TRY(fstatat(fd, "", &status, AT_EMPTY_PATH));
    printf("mode %o\n", status.st_mode);
    TRY(fcntl(fd, F_GETFL));
    close(fd);
    // So long ago that no difference can be told.
    struct timespec ago[2] = {{LONG_MIN, 0}, {0, UTIME_OMIT}};
    TRY(utimensat(AT_FDCWD, "d", ago, 0));
    TRY(fd = open("d", O_RDONLY));
    TRY(read(fd, buffer, 10));
    close(fd);

    // Offsets that are addresses go all the way up, and around.
    TRY(fd = open("/proc/self/mem", O_RDWR));
    strcpy(buffer, "found");
    TRY(pread(fd, longest_read, 6, (long)buffer));
    printf("%s\n", longest_read);
    TRY(pwrite(fd, "other", 6, (long)buffer));
    printf("%s\n", buffer);
    TRY(lseek(fd, -1, SEEK_SET) == -1);
    TRY(read(fd, buffer, 10));
    TRY(lseek(fd, -4096, SEEK_SET) == -4096);
    TRY(read(fd, buffer, sizeof buffer));
    TRY(lseek(fd, 8192, SEEK_CUR));
    TRY(read(fd, buffer, 1));
    close(fd);
    TRY(fd = open("/proc/self/pagemap", O_RDONLY));
    TRY(lseek(fd, -8, SEEK_SET) == -8);
    TRY(read(fd, buffer, 16));
    TRY(pread(fd, buffer, 7, 0));
    close(fd);
    char longest[300];
    memset(longest, 'n', sizeof longest);
    longest[256] = 0;
    TRY(open(longest, O_RDWR | O_CREAT, 0600));
    longest[255] = 0;
    TRY(access(longest, F_OK));
    struct statvfs system;
    TRY(statvfs(".", &system));

    // Devices.
    TRY(fd = open("/dev/null", O_RDWR));
    TRY(read(fd, buffer, 10));
    TRY(write(fd, buffer, 10));
    TRY(fstat(fd, &status));
    printf("mode %o device %#lx\n", status.st_mode, (long)status.st_rdev);
    answer("a map of it", mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0);
    close(fd);
    TRY(fd = open("/dev/zero", O_RDWR));
    TRY(read(fd, buffer, 4096));
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
    TRY(fd = open("/dev/full", O_WRONLY));
    TRY(write(fd, buffer, 1));
    close(fd);
    TRY(fd = open("/dev/urandom", O_RDONLY));
    TRY(read(fd, buffer, 3000));
    close(fd);

    // What cannot be mapped.
    const char *const unmappable[] = {".", "/proc", "/proc/self/maps", "/dev/null"};
    for (int i = 0; i < 5; i++) {
        fd = i < 4 ? open(unmappable[i], O_RDONLY) : open(".", O_PATH);
        answer("a map of it, to be read", mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
        answer("to be run", mmap(0, 4096, PROT_EXEC, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
        close(fd);
    }

    // What is mapped, without a name, and with one of two.
    TRY(fd = open("mapped", O_CREAT | O_RDWR, 0600));
    map = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    mapped(map);
    TRY(link("mapped", "other"));
    TRY(unlink("other"));
    mapped(map);
    TRY(unlink("mapped"));
    mapped(map);
    close(fd);
    mapped(map);
    TRY(fd = open("mapped", O_CREAT | O_RDWR, 0600));
    map = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    TRY(open("over", O_CREAT | O_RDWR, 0600) >= 0);
    TRY(rename("over", "mapped"));
    mapped(map);
    TRY(unlink("mapped"));
    close(fd);

    // Away with it.
    TRY(rmdir("b2/e"));
    TRY(unlink("b2/h"));
    TRY(unlink("b2/moved"));
    TRY(rmdir("b2"));
    for (const char *const *name = (const char *const[]){"b", "d", "l", "l2", "loop", "made", "to-d", "to-made", 0}; *name;
         name++)
        TRY(unlink(*name));
    list(".");
    TRY(rmdir(own));
    return 0;
}
