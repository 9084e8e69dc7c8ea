/* faults.c - a library for LD_PRELOAD that lets the calls a program makes fail, for tests/fault_test.py.
 *
 *   FAULT_LOG=FD     at the end, the number of calls seen goes to this descriptor, as decimal text
 *   FAULT_KIND=NAME  which calls are counted: io (all but malloc), mem, or one name as the table of WRAPs has it
 *   FAULT_AT=N       the Nth of them (from 1) ...
 *   FAULT_DO=WHAT    ... fails with this errno (a number), or the process is killed: "before" or "after" it
 *   FAULT_SHORT=1    every read and write is short, every other one gives EINTR
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE 1
#undef _FILE_OFFSET_BITS

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int ready, log_fd = -1, error, before, after, shorten;
static long at, calls;
static const char *kind = "";
static unsigned long chance = 88172645463325252u;

__attribute__((constructor)) static void begin(void) {
    const char *s;
    if ((s = getenv("FAULT_LOG"))) log_fd = atoi(s);
    if ((s = getenv("FAULT_AT"))) at = atol(s);
    if ((s = getenv("FAULT_KIND"))) kind = s;
    if ((s = getenv("FAULT_DO")))
        before = strcmp(s, "before") == 0, after = strcmp(s, "after") == 0, error = atoi(s);
    shorten = getenv("FAULT_SHORT") != NULL;
    ready = 1;
}

__attribute__((destructor)) static void end(void) {
    char text[32];
    ready = 0;
    const int n = snprintf(text, sizeof text, "%ld\n", calls);
    if (log_fd >= 0 && pwrite(log_fd, text, (size_t)n, 0) != n) _exit(99);
}

/* Counts a call; whether it has to fail. */
static int hit(const char *name) {
    const int mem = strcmp(name, "mem") == 0;
    if (!ready || (strcmp(kind, name) != 0 && (mem || strcmp(kind, "io") != 0))) return 0;
    if (++calls != at) return 0;
    if (before) raise(SIGKILL);
    if (!error) return 0;
    errno = error;
    return 1;
}

/* After the call was carried out. */
static void done(const char *name) {
    const int mem = strcmp(name, "mem") == 0;
    if (ready && after && calls == at && !mem && (strcmp(kind, name) == 0 || strcmp(kind, "io") == 0))
        raise(SIGKILL);
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define WRAP(type, name, kind_name, bad, params, args) \
    type name params {                                 \
        REAL(name);                                    \
        if (hit(kind_name)) return bad;                \
        type result = real args;                       \
        const int kept = errno;                        \
        done(kind_name);                               \
        errno = kept;                                  \
        return result;                                 \
    }

WRAP(int, fsync, "fsync", -1, (int fd), (fd))
WRAP(int, close, "close", (real(fd), errno = error, -1), (int fd),
     (fd)) /* it is closed all the same, as on Linux */
WRAP(int, rename, "rename", -1, (const char *a, const char *b), (a, b))
WRAP(int, link, "link", -1, (const char *a, const char *b), (a, b))
WRAP(int, unlink, "unlink", -1, (const char *a), (a))
WRAP(int, unlinkat, "unlink", -1, (int fd, const char *a, int flags), (fd, a, flags))
WRAP(int, rmdir, "unlink", -1, (const char *a), (a))
WRAP(int, mkstemp, "open", -1, (char *a), (a))
WRAP(int, mkstemp64, "open", -1, (char *a), (a))
WRAP(char *, mkdtemp, "mkdir", NULL, (char *a), (a))
WRAP(int, ftruncate, "truncate", -1, (int fd, off_t n), (fd, n))
WRAP(int, ftruncate64, "truncate", -1, (int fd, off64_t n), (fd, n))
WRAP(off_t, lseek, "seek", -1, (int fd, off_t n, int whence), (fd, n, whence))
WRAP(off64_t, lseek64, "seek", -1, (int fd, off64_t n, int whence), (fd, n, whence))
WRAP(int, fchmod, "chmod", -1, (int fd, mode_t m), (fd, m))
WRAP(int, chmod, "chmod", -1, (const char *a, mode_t m), (a, m))
WRAP(int, stat, "stat", -1, (const char *a, struct stat *s), (a, s))
WRAP(int, stat64, "stat", -1, (const char *a, struct stat64 *s), (a, s))
WRAP(int, lstat, "stat", -1, (const char *a, struct stat *s), (a, s))
WRAP(int, lstat64, "stat", -1, (const char *a, struct stat64 *s), (a, s))
WRAP(int, fstat, "stat", -1, (int fd, struct stat *s), (fd, s))
WRAP(int, fstat64, "stat", -1, (int fd, struct stat64 *s), (fd, s))
WRAP(ssize_t, readlink, "readlink", -1, (const char *a, char *to, size_t n), (a, to, n))
WRAP(FILE *, fopen, "open", NULL, (const char *a, const char *mode), (a, mode))
WRAP(FILE *, fopen64, "open", NULL, (const char *a, const char *mode), (a, mode))
WRAP(DIR *, opendir, "opendir", NULL, (const char *a), (a))
WRAP(struct dirent *, readdir, "readdir", NULL, (DIR * d), (d))
WRAP(struct dirent64 *, readdir64, "readdir", NULL, (DIR * d), (d))

#define WRAP_OPEN(name)                          \
    int name(const char *path, int flags, ...) { \
        REAL(name);                              \
        va_list rest;                            \
        va_start(rest, flags);                   \
        const int mode = va_arg(rest, int);      \
        va_end(rest);                            \
        if (hit("open")) return -1;              \
        const int fd = real(path, flags, mode);  \
        const int kept = errno;                  \
        done("open");                            \
        errno = kept;                            \
        return fd;                               \
    }
WRAP_OPEN(open)
WRAP_OPEN(open64)

/* Two names that change places: the one call that is made by its number. */
long syscall(long number, ...) {
    REAL(syscall);
    va_list rest;
    long a[6];
    va_start(rest, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
    va_end(rest);
    const char *name = number == SYS_renameat2 ? "swap" : "";
    if (*name && hit(name)) return -1;
    const long result = real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    const int kept = errno;
    if (*name) done(name);
    errno = kept;
    return result;
}

/* How much of n bytes a call gets; 0: it is interrupted. */
static size_t part(size_t n) {
    static int turn;
    if (!shorten || !n) return n;
    if (turn++ & 1) return 0;
    chance ^= chance << 13, chance ^= chance >> 7, chance ^= chance << 17;
    return chance & 3 ? 1 + chance % n : 1;
}

#define WRAP_IO(name, kind_name, params, args)       \
    ssize_t name params {                            \
        REAL(name);                                  \
        if (hit(kind_name)) return -1;               \
        const size_t all = n;                        \
        n = part(n);                                 \
        if (n == 0 && all) return errno = EINTR, -1; \
        const ssize_t result = real args;            \
        const int kept = errno;                      \
        done(kind_name);                             \
        errno = kept;                                \
        return result;                               \
    }
WRAP_IO(read, "read", (int fd, void *p, size_t n), (fd, p, n))
WRAP_IO(write, "write", (int fd, const void *p, size_t n), (fd, p, n))
WRAP_IO(pread, "pread", (int fd, void *p, size_t n, off_t off), (fd, p, n, off))
WRAP_IO(pread64, "pread", (int fd, void *p, size_t n, off64_t off), (fd, p, n, off))

/* glibc's own names: dlsym() itself may allocate. */
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
void *malloc(size_t n) { return hit("mem") ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return hit("mem") ? NULL : __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return hit("mem") ? NULL : __libc_realloc(p, n); }
