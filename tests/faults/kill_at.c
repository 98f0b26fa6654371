/* Ends a process at its n-th call that changes something below one folder.

   Loaded before the C library; `arm` says which call and where. A write is half done first, if
   `torn` is set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096];
static long last = -1, torn = 0;
static volatile long count = 0;

void arm(const char *where, long n, long half) {
  strncpy(folder, where, sizeof folder - 1);
  last = n;
  torn = half;
  count = 0;
}

long counted(void) { return count; }

static int inside(const char *path) { return *folder && strncmp(path, folder, strlen(folder)) == 0; }

static int at(int fd, const char *path) {
  char name[64], real[4096];
  if (!*folder) return 0;
  if (path && path[0] == '/') return inside(path);
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(name, real, sizeof real - 1);
  if (n < 0) return 0;
  real[n] = 0;
  return inside(real);
}

/* Whether this call is the one. */
static int due(void) { return __sync_add_and_fetch(&count, 1) == last; }

static void end(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

#define REAL(type, name, ...) \
  static type (*real)(__VA_ARGS__); \
  if (!real) real = dlsym(RTLD_NEXT, #name)

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(int, name, const char *, int, ...); \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    if (flags & (O_CREAT | O_TRUNC) && inside(path) && due()) end(); \
    return real(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
  int name(int fd, const char *path, int flags, ...) { \
    REAL(int, name, int, const char *, int, ...); \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    if (flags & (O_CREAT | O_TRUNC) && at(fd, path) && due()) end(); \
    return real(fd, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

#define PATH(name, params, given, where) \
  int name params { \
    REAL(int, name, ); \
    if (where && due()) end(); \
    return ((int(*) params)real) given; \
  }
PATH(mkdir, (const char *p, mode_t m), (p, m), inside(p))
PATH(mkdirat, (int d, const char *p, mode_t m), (d, p, m), at(d, p))
PATH(rmdir, (const char *p), (p), inside(p))
PATH(unlink, (const char *p), (p), inside(p))
PATH(unlinkat, (int d, const char *p, int f), (d, p, f), at(d, p))
PATH(rename, (const char *p, const char *q), (p, q), inside(q))
PATH(renameat, (int d, const char *p, int e, const char *q), (d, p, e, q), at(e, q))
PATH(renameat2, (int d, const char *p, int e, const char *q, unsigned f), (d, p, e, q, f), at(e, q))
PATH(link, (const char *p, const char *q), (p, q), inside(q))
PATH(fsync, (int d), (d), at(d, 0))
PATH(fdatasync, (int d), (d), at(d, 0))
PATH(ftruncate, (int d, off_t n), (d, n), at(d, 0))
PATH(ftruncate64, (int d, off64_t n), (d, n), at(d, 0))

ssize_t write(int fd, const void *data, size_t size) {
  REAL(ssize_t, write, int, const void *, size_t);
  if (at(fd, 0) && due()) {
    if (torn) real(fd, data, size / 2);
    end();
  }
  return real(fd, data, size);
}

#define PWRITE(name, offset) \
  ssize_t name(int fd, const void *data, size_t size, offset place) { \
    REAL(ssize_t, name, int, const void *, size_t, offset); \
    if (at(fd, 0) && due()) { \
      if (torn) real(fd, data, size / 2, place); \
      end(); \
    } \
    return real(fd, data, size, place); \
  }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *data, int n) {
  REAL(ssize_t, writev, int, const struct iovec *, int);
  if (at(fd, 0) && due()) {
    if (torn) real(fd, data, n / 2);
    end();
  }
  return real(fd, data, n);
}
