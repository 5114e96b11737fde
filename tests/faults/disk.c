/* A disk that fails. Preloaded into a process (LD_PRELOAD), it makes system calls on regular files
 * return an error while the file named by FAULTY_DISK says so: "fsync 5", or "write 30" (numbers
 * of errno.h: 5 is EIO, 30 is EROFS, 28 is ENOSPC). Anything else: the disk is sound. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int failing(int file, const char *call)
{
    struct stat about;
    const char *path = getenv("FAULTY_DISK");
    if (!path || fstat(file, &about) || !S_ISREG(about.st_mode))
        return 0;
    char said[32] = "", what[16] = "";
    int error = 0, told = syscall(SYS_open, path, O_RDONLY | O_CLOEXEC);
    if (told < 0)
        return 0;
    syscall(SYS_read, told, said, sizeof said - 1);
    syscall(SYS_close, told);
    if (sscanf(said, "%15s %d", what, &error) != 2 || strcmp(what, call))
        return 0;
    errno = error;
    return 1;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

int fsync(int file) { REAL(fsync); return failing(file, "fsync") ? -1 : real(file); }

int fdatasync(int file) { REAL(fdatasync); return failing(file, "fsync") ? -1 : real(file); }

ssize_t write(int file, const void *data, size_t size)
{
    REAL(write);
    return failing(file, "write") ? -1 : real(file, data, size);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t at)
{
    REAL(pwrite);
    return failing(file, "write") ? -1 : real(file, data, size, at);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t at)
{
    REAL(pwrite64);
    return failing(file, "write") ? -1 : real(file, data, size, at);
}
