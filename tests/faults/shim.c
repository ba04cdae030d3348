/* Loaded before libc: counts the calls by which this process changes files below one folder, and at the n-th does what was asked.
 *
 * kind 1  SIGKILL before the call          kind 4  the call fails with EIO, once
 * kind 2  half of what is written, then SIGKILL    kind 5  from here on a write takes one byte less than half
 * kind 3  from here on calls fail with ENOSPC      kind 6  SIGKILL to the process group before the call
 * kind 100 + s  signal s, then the call    kind 7  a byte into descriptor 62, whose reader then kills all of us, before the call
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char prefix[4096];
static long at, count;
static int kind, owner, log_to;

/* log: a descriptor that gets the path of each call, or 0. */
void fault_arm(const char *folder, long nth, int what, int log) {
    snprintf(prefix, sizeof prefix, "%s", folder);
    at = nth; kind = what; count = 0; log_to = log; owner = getpid();
}
long fault_count(void) { return count; }

static int below(const char *path) {
    size_t n = strlen(prefix);
    return owner == getpid() && n && path && (path[0] != '/' || (!strncmp(path, prefix, n) && (path[n] == '/' || !path[n])));
}
static int below_fd(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, 4095);
    if (n <= 0) return 0;
    path[n] = 0;
    return path[0] == '/' && below(path);
}
/* What is to be done with this call: 0 nothing, else the kind; signals are sent here. */
static int struck(const char *path) {
    long n = ++count;
    if (log_to) dprintf(log_to, "%s\n", path);
    if (!at || n < at) return 0;
    if (kind == 3 || kind == 5) return kind;
    if (n != at) return 0;
    if (kind == 1) kill(getpid(), SIGKILL);
    if (kind == 6) kill(0, SIGKILL);
    if (kind == 7 && write(62, "", 1) == 1) for (;;) pause();
    if (kind > 100) { raise(kind - 100); return 0; }
    return kind;
}
static int fails(int what) {
    if (what == 3) errno = ENOSPC;
    else if (what == 4) errno = EIO;
    else { if (what == 2) kill(getpid(), SIGKILL); return 0; }
    return 1;
}
static size_t part(int what, size_t size) {
    return what == 2 || what == 5 ? (size > 2 ? size / 2 - (what == 5 && size > 4) : size) : size;
}

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, name)
ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    char path[4096];
    int what = owner && below_fd(fd, path) ? struck(path) : 0;
    if (what == 3 || what == 4) { fails(what); return -1; }
    ssize_t done = real(fd, data, part(what, size));
    if (what == 2) kill(getpid(), SIGKILL);
    return done;
}
static ssize_t positioned(ssize_t (*real)(int, const void *, size_t, off_t), int fd, const void *data, size_t size, off_t where) {
    char path[4096];
    int what = owner && below_fd(fd, path) ? struck(path) : 0;
    if (what == 3 || what == 4) { fails(what); return -1; }
    ssize_t done = real(fd, data, part(what, size), where);
    if (what == 2) kill(getpid(), SIGKILL);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t where) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return positioned(real, fd, data, size, where);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t where) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    return positioned(real, fd, data, size, where);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    char path[4096];
    int what = owner && below_fd(fd, path) ? struck(path) : 0;
    if (what == 3 || what == 4) { fails(what); return -1; }
    ssize_t done = real(fd, parts, what == 2 || what == 5 ? 1 : n);
    if (what == 2) kill(getpid(), SIGKILL);
    return done;
}
size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    REAL(size_t, "fwrite", const void *, size_t, size_t, FILE *);
    char path[4096];
    int what = owner && below_fd(fileno(file), path) ? struck(path) : 0;
    if (what == 3 || what == 4) { fails(what); return 0; }
    size_t done = real(data, size, what == 2 ? n / 2 : n, file); /* stdio itself goes on after a short write */
    if (what == 2) { fflush(file); kill(getpid(), SIGKILL); }
    return done;
}
int fsync(int fd) {
    REAL(int, "fsync", int);
    char path[4096];
    if (owner && below_fd(fd, path) && fails(struck(path))) return -1;
    return real(fd);
}
int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    char path[4096];
    if (owner && below_fd(fd, path) && fails(struck(path))) return -1;
    return real(fd);
}
int ftruncate64(int fd, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    char path[4096];
    if (owner && below_fd(fd, path) && fails(struck(path))) return -1;
    return real(fd, size);
}
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    if (owner && below(to) && fails(struck(to))) return -1;
    return real(from, to);
}
int link(const char *from, const char *to) {
    REAL(int, "link", const char *, const char *);
    if (owner && below(to) && fails(struck(to))) return -1;
    return real(from, to);
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
    REAL(int, "linkat", int, const char *, int, const char *, int);
    if (owner && below(to) && fails(struck(to))) return -1;
    return real(a, from, b, to, flags);
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    if (owner && below(path) && fails(struck(path))) return -1;
    return real(path, mode);
}
/* A full disk or a bad sector does not keep a name from being removed; a kill and a signal may come there. */
int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    if (owner && below(path) && struck(path) == 2) kill(getpid(), SIGKILL);
    return real(path);
}
int unlinkat(int fd, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    if (owner && below(path) && struck(path) == 2) kill(getpid(), SIGKILL);
    return real(fd, path, flags);
}
int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    if (owner && below(path) && struck(path) == 2) kill(getpid(), SIGKILL);
    return real(path);
}
#define OPEN(name)                                                            \
    int name(const char *path, int flags, ...) {                              \
        REAL(int, #name, const char *, int, ...);                             \
        va_list more;                                                         \
        va_start(more, flags);                                                \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                         \
        if ((flags & O_CREAT) && owner && below(path) && fails(struck(path))) return -1; \
        return real(path, flags, mode);                                       \
    }
OPEN(open)
OPEN(open64)
