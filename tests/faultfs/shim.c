/*
 * A library to be preloaded into a process: it stands between the process and the files below one directory, counts what
 * would outlive the process, writes it down, and makes it fail, wait, or be the last thing the process does.
 *
 * Knows system calls only, nothing of what the files hold. What it is told, and how it is told while the process runs,
 * is the business of control.py, which has the same layout of the control block; trace.py reads what is written down.
 *
 * What is written through a shared mapping is not seen. The store writes no file so, but for LMDB's lock file, which
 * outlives nothing.
 */
#define _GNU_SOURCE
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The control block: eight-byte numbers, then the part of a path that faults are for, then who has joined. */
enum {
    OPERATIONS, KILL_AT, KILL_AFTER, KILL_ALL, KILLED, SYNC_ERRNO, SYNC_FAILURES, SYNC_DELAY, SYNC_LIE, SYNC_SKIP,
    SPACE_LEFT, WRITE_ERRNO, WRITE_FAILURES, WRITE_DELAY, CLOCK_OFFSET, KILL_KIND, BY_KIND, FIELDS = 32
};
#define FILTER_SIZE 256
#define MOST_PROCESSES 256

struct control {
    int64_t field[FIELDS];
    char filter[FILTER_SIZE];
    int64_t joined;
    int64_t pids[MOST_PROCESSES];
};

/* What is written down: this, the path (of a rename both, with a zero byte between), the data. */
enum { CREATE = 1, MKDIR, UNLINK, RMDIR, RENAME, WRITE, TRUNCATE, ALLOCATE, SYNC_BEGIN, SYNC_END, DIRECTORY_SYNCED };

struct record {
    uint32_t size, kind, pid, path_size;
    uint64_t inode, offset, length;
    int64_t operation;
};

#define MOST_DESCRIPTORS 65536
enum { UNKNOWN, FOREIGN, WATCHED };

struct descriptor {
    unsigned char state, synchronous, directory;
    uint64_t inode;
    char *path;
};

static struct descriptor descriptors[MOST_DESCRIPTORS];
static struct control *control;
static char root[PATH_MAX];
static size_t root_size;
static int trace = -1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static char control_variable[PATH_MAX + 32];

#define REAL(result, name, ...) static result (*real_##name)(__VA_ARGS__)
REAL(int, openat, int, const char *, int, ...);
REAL(int, close, int);
REAL(ssize_t, write, int, const void *, size_t);
REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
REAL(ssize_t, writev, int, const struct iovec *, int);
REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t);
REAL(int, fsync, int);
REAL(int, fdatasync, int);
REAL(int, sync_file_range, int, off_t, off_t, unsigned);
REAL(int, ftruncate, int, off_t);
REAL(int, fallocate, int, int, off_t, off_t);
REAL(int, renameat, int, const char *, int, const char *);
REAL(int, unlinkat, int, const char *, int);
REAL(int, mkdirat, int, const char *, mode_t);
REAL(int, dup2, int, int);
REAL(int, dup3, int, int, int);
REAL(ssize_t, sendfile, int, int, off_t *, size_t);
REAL(ssize_t, copy_file_range, int, off_t *, int, off_t *, size_t, unsigned);
REAL(int, clock_gettime, clockid_t, struct timespec *);
REAL(long, syscall, long, ...);

static void *next(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

static void join(void) {
    const char *path = getenv("FAULTFS_CONTROL"), *below = getenv("FAULTFS_ROOT"), *log = getenv("FAULTFS_TRACE");
    if (!path || !below) return;
    int fd = real_openat(AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    real_close(fd);
    if (mapped == MAP_FAILED) return;
    snprintf(root, sizeof root, "%s", below);
    root_size = strlen(root);
    snprintf(control_variable, sizeof control_variable, "FAULTFS_CONTROL=%s", path);
    if (log) trace = real_openat(AT_FDCWD, log, O_WRONLY | O_APPEND | O_CLOEXEC | O_CREAT, 0600);
    control = mapped;
    int64_t place = __atomic_fetch_add(&control->joined, 1, __ATOMIC_SEQ_CST);
    if (place < MOST_PROCESSES) control->pids[place] = getpid();
}

static void begin(void) {
#define FIND(name) real_##name = next(#name)
    FIND(openat); FIND(close); FIND(write); FIND(pwrite); FIND(writev); FIND(pwritev); FIND(fsync); FIND(fdatasync);
    FIND(sync_file_range); FIND(ftruncate); FIND(fallocate); FIND(renameat); FIND(unlinkat); FIND(mkdirat); FIND(dup2);
    FIND(dup3); FIND(sendfile); FIND(copy_file_range); FIND(clock_gettime); FIND(syscall);
    join();
}

__attribute__((constructor)) static void loaded(void) { pthread_once(&once, begin); }
#define READY() pthread_once(&once, begin)

/* Numbers of the control block. */

static int64_t get(int field) { return __atomic_load_n(&control->field[field], __ATOMIC_SEQ_CST); }
static int64_t add(int field, int64_t n) { return __atomic_add_fetch(&control->field[field], n, __ATOMIC_SEQ_CST); }

/* Use up one of a number of failures; a negative number is for ever. */
static int take(int field) {
    int64_t left = get(field);
    while (left > 0)
        if (__atomic_compare_exchange_n(&control->field[field], &left, left - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return 1;
    return left < 0;
}

static void wait_microseconds(int64_t delay) {
    struct timespec left = {delay / 1000000, delay % 1000000 * 1000};
    while (delay > 0 && nanosleep(&left, &left) && errno == EINTR) {}
}

static int chosen(const char *path) { return !control->filter[0] || strstr(path + root_size, control->filter); }

/* The end of all processes that have joined. */

static int is_ours(pid_t pid) {
    char path[64];
    static char environment[1 << 16];
    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    int fd = real_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t size = 0, more;
    while (size < (ssize_t)sizeof environment && (more = read(fd, environment + size, sizeof environment - size)) > 0)
        size += more;
    real_close(fd);
    return memmem(environment, size, control_variable, strlen(control_variable) + 1) != NULL;
}

static void end(int64_t operation) {
    __atomic_store_n(&control->field[KILLED], operation, __ATOMIC_SEQ_CST);
    int64_t count = get(KILL_ALL) ? __atomic_load_n(&control->joined, __ATOMIC_SEQ_CST) : 0;
    for (int64_t place = 0; place < count && place < MOST_PROCESSES; place++) {
        pid_t pid = (pid_t)control->pids[place];
        if (pid > 0 && pid != getpid() && is_ours(pid)) kill(pid, SIGKILL);
    }
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static __thread int64_t last_operation;

/* An operation begins. Its number among all of them. */
static int64_t count(int kind) {
    int64_t operation = add(OPERATIONS, 1), of_kind = add(BY_KIND + kind, 1);
    int64_t wanted = get(KILL_KIND);
    if (get(KILL_AT) == (wanted == kind ? of_kind : wanted ? -1 : operation)) {
        if (!get(KILL_AFTER)) end(operation);
        last_operation = operation;
    }
    return operation;
}

/* It has ended. */
static void counted(int64_t operation) {
    if (last_operation == operation) end(operation);
}

/* The trace. One order for all processes: what is done and written down under the lock is one step. */

static void lock(void) {
    pthread_mutex_lock(&mutex);
    if (trace >= 0) while (flock(trace, LOCK_EX) && errno == EINTR) {}
}

static void unlock(void) {
    int saved = errno;
    if (trace >= 0) flock(trace, LOCK_UN);
    pthread_mutex_unlock(&mutex);
    errno = saved;
}

static void note_data(int kind, int64_t operation, uint64_t inode, const char *path, size_t path_size, uint64_t offset,
                      uint64_t length, const struct iovec *data, int parts) {
    if (trace < 0) return;
    int saved = errno;
    struct record head = {0, kind, getpid(), path_size, inode, offset, length, operation};
    size_t left = parts ? length : 0;
    head.size = sizeof head + path_size + left;
    struct iovec whole[2 + IOV_MAX / 2] = {{&head, sizeof head}, {(void *)path, path_size}};
    int used = 2;
    for (int part = 0; part < parts && left; part++) {
        size_t size = data[part].iov_len < left ? data[part].iov_len : left;
        if (used == (int)(sizeof whole / sizeof *whole)) abort();
        whole[used].iov_base = data[part].iov_base;
        whole[used++].iov_len = size;
        left -= size;
    }
    if (real_writev(trace, whole, used) != (ssize_t)head.size) abort();
    errno = saved;
}

static void note(int kind, int64_t operation, uint64_t inode, const char *path, uint64_t offset, uint64_t length) {
    note_data(kind, operation, inode, path + root_size, path ? strlen(path + root_size) : 0, offset, length, NULL, 0);
}

/* Which files are watched. */

static int below_root(const char *path) {
    return control && !strncmp(path, root, root_size) && (path[root_size] == '/' || !path[root_size]);
}

static int name_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    path[size < 0 ? 0 : size] = 0;
    return size > 0;
}

static void forget(int fd) {
    if (fd >= 0 && fd < MOST_DESCRIPTORS) descriptors[fd].state = UNKNOWN;
}

static struct descriptor *watched(int fd) {
    if (!control || fd < 0 || fd >= MOST_DESCRIPTORS) return NULL;
    struct descriptor *entry = &descriptors[fd];
    if (entry->state == FOREIGN) return NULL;
    struct stat status;
    int saved = errno;
    int found = !fstat(fd, &status) && (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode));
    if (entry->state == UNKNOWN || (entry->state == WATCHED && (!found || status.st_ino != entry->inode))) {
        char path[PATH_MAX];
        entry->state = FOREIGN;
        if (found && name_of(fd, path) && below_root(path)) {
            free(entry->path);
            entry->path = strdup(path);
            entry->inode = status.st_ino;
            entry->directory = S_ISDIR(status.st_mode);
            entry->synchronous = (fcntl(fd, F_GETFL) & O_DSYNC) != 0;
            entry->state = WATCHED;
        }
    }
    errno = saved;
    return entry->state == WATCHED ? entry : NULL;
}

/* A file that was just opened. `synchronous`: as it was asked for, whatever became of it. */
static void adopt(int fd, int synchronous) {
    forget(fd);
    struct descriptor *entry = watched(fd);
    if (entry) entry->synchronous = synchronous;
}

/* The whole path of a name, if it is below the root. */
static int resolve(int directory, const char *name, char *path) {
    if (!control) return 0;
    if (name[0] == '/') snprintf(path, PATH_MAX, "%s", name);
    else {
        char base[PATH_MAX];
        if (directory == AT_FDCWD ? !getcwd(base, sizeof base) : !name_of(directory, base)) return 0;
        size_t size = strlen(base);
        if (size + strlen(name) + 2 > PATH_MAX) return 0;
        memcpy(path, base, size);
        path[size] = '/';
        strcpy(path + size + 1, name);
    }
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/') path[--size] = 0;
    return below_root(path);
}

static uint64_t inode_of(const char *path) {
    struct stat status;
    return fstatat(AT_FDCWD, path, &status, AT_SYMLINK_NOFOLLOW) ? 0 : status.st_ino;
}

/* Opening and closing. */

static int do_open(int directory, const char *name, int flags, mode_t mode) {
    READY();
    char path[PATH_MAX];
    int changes = flags & (O_CREAT | O_TRUNC) && (flags & O_TMPFILE) != O_TMPFILE;
    int synchronous = flags & O_DSYNC;
    if (!(changes || synchronous) || !resolve(directory, name, path)) {
        int fd = real_openat(directory, name, flags, mode);
        forget(fd);
        return fd;
    }
    if (synchronous && get(SYNC_SKIP)) flags &= ~(O_SYNC | O_DSYNC);
    if (!changes) {
        int fd = real_openat(directory, name, flags, mode);
        adopt(fd, synchronous != 0);
        return fd;
    }
    int64_t operation = 0;
    lock();
    int existed = inode_of(path) != 0;
    if (!existed || flags & O_TRUNC) operation = count(existed ? TRUNCATE : CREATE);
    int fd = real_openat(directory, name, flags, mode);
    adopt(fd, synchronous != 0);
    if (fd >= 0) {
        uint64_t inode = inode_of(path);
        if (!existed) note(CREATE, operation, inode, path, 0, 0);
        else if (flags & O_TRUNC) note(TRUNCATE, operation, inode, path, 0, 0);
    }
    unlock();
    if (operation) counted(operation);
    return fd;
}

static mode_t mode_of(int flags, va_list arguments) {
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? (mode_t)va_arg(arguments, int) : 0;
}

int open(const char *name, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = mode_of(flags, arguments);
    va_end(arguments);
    return do_open(AT_FDCWD, name, flags, mode);
}

int openat(int directory, const char *name, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = mode_of(flags, arguments);
    va_end(arguments);
    return do_open(directory, name, flags, mode);
}

int creat(const char *name, mode_t mode) { return do_open(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int __open_2(const char *name, int flags) { return do_open(AT_FDCWD, name, flags, 0); }
int __openat_2(int directory, const char *name, int flags) { return do_open(directory, name, flags, 0); }
int open64(const char *, int, ...) __attribute__((alias("open")));
int openat64(int, const char *, int, ...) __attribute__((alias("openat")));
int creat64(const char *, mode_t) __attribute__((alias("creat")));
int __open64_2(const char *, int) __attribute__((alias("__open_2")));
int __openat64_2(int, const char *, int) __attribute__((alias("__openat_2")));

int close(int fd) {
    READY();
    forget(fd);
    return real_close(fd);
}

int dup2(int from, int to) {
    READY();
    forget(to);
    return real_dup2(from, to);
}

int dup3(int from, int to, int flags) {
    READY();
    forget(to);
    return real_dup3(from, to, flags);
}

/* Writing. */

static size_t total(const struct iovec *data, int parts) {
    size_t size = 0;
    for (int part = 0; part < parts; part++) size += data[part].iov_len;
    return size;
}

/* How much of a write up to `end` still finds room; the room is taken. Negative: none of it. */
static int64_t room(int fd, off_t offset, size_t size) {
    if (get(SPACE_LEFT) < 0) return (int64_t)size;
    struct stat status;
    if (fstat(fd, &status)) return (int64_t)size;
    int64_t growth = (int64_t)offset + (int64_t)size - status.st_size;
    if (growth <= 0) return (int64_t)size;
    int64_t left = get(SPACE_LEFT);
    int64_t taken = growth < left ? growth : left;
    add(SPACE_LEFT, -taken);
    int64_t written = (int64_t)size - growth + taken;
    return written > 0 ? written : -1;
}

/* A write at `offset`, or where the descriptor stands if that is negative. */
static ssize_t do_write(struct descriptor *entry, int fd, const struct iovec *data, int parts, off_t offset) {
    int64_t operation = count(WRITE);
    size_t size = total(data, parts);
    if (chosen(entry->path)) {
        wait_microseconds(get(WRITE_DELAY));
        if (get(WRITE_ERRNO) && take(WRITE_FAILURES)) {
            errno = (int)get(WRITE_ERRNO);
            return -1;
        }
        if (entry->synchronous) wait_microseconds(get(SYNC_DELAY));
        if (entry->synchronous && get(SYNC_ERRNO) && take(SYNC_FAILURES)) {
            errno = (int)get(SYNC_ERRNO);
            return -1;
        }
    }
    lock();
    int append = (fcntl(fd, F_GETFL) & O_APPEND) != 0;
    off_t at = append ? lseek(fd, 0, SEEK_END) : offset >= 0 ? offset : lseek(fd, 0, SEEK_CUR);
    int64_t allowed = chosen(entry->path) ? room(fd, at, size) : (int64_t)size;
    ssize_t written;
    if (allowed < 0) {
        errno = ENOSPC;
        written = -1;
    } else if ((size_t)allowed < size && parts > 1) {
        written = data[0].iov_len < (size_t)allowed ? (ssize_t)data[0].iov_len : (ssize_t)allowed;
        written = offset >= 0 ? real_pwrite(fd, data[0].iov_base, written, offset)
                              : real_write(fd, data[0].iov_base, written);
    } else if (parts == 1) {
        written = offset >= 0 ? real_pwrite(fd, data[0].iov_base, allowed, offset)
                              : real_write(fd, data[0].iov_base, allowed);
    } else
        written = offset >= 0 ? real_pwritev(fd, data, parts, offset) : real_writev(fd, data, parts);
    if (written > 0) {
        note_data(WRITE, operation, entry->inode, NULL, 0, at, written, data, parts);
        /* One record more: a power cut may come between a synchronous write's beginning and its end. */
        if (entry->synchronous && !get(SYNC_LIE)) note(SYNC_END, operation, entry->inode, entry->path, at, written);
    }
    unlock();
    counted(operation);
    return written;
}

ssize_t write(int fd, const void *data, size_t size) {
    READY();
    struct descriptor *entry = watched(fd);
    struct iovec part = {(void *)data, size};
    return entry ? do_write(entry, fd, &part, 1, -1) : real_write(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    READY();
    struct descriptor *entry = watched(fd);
    struct iovec part = {(void *)data, size};
    return entry ? do_write(entry, fd, &part, 1, offset) : real_pwrite(fd, data, size, offset);
}

ssize_t writev(int fd, const struct iovec *data, int parts) {
    READY();
    struct descriptor *entry = watched(fd);
    return entry ? do_write(entry, fd, data, parts, -1) : real_writev(fd, data, parts);
}

ssize_t pwritev(int fd, const struct iovec *data, int parts, off_t offset) {
    READY();
    struct descriptor *entry = watched(fd);
    return entry ? do_write(entry, fd, data, parts, offset) : real_pwritev(fd, data, parts, offset);
}

ssize_t pwritev2(int fd, const struct iovec *data, int parts, off_t offset, int flags) {
    static ssize_t (*real)(int, const struct iovec *, int, off_t, int);
    READY();
    struct descriptor *entry = watched(fd);
    if (!real) real = next("pwritev2");
    /* Flags that make one write synchronous are not told apart: it counts as an ordinary one, which is the strict way. */
    return entry ? do_write(entry, fd, data, parts, offset) : real(fd, data, parts, offset, flags);
}

ssize_t pwrite64(int, const void *, size_t, off64_t) __attribute__((alias("pwrite")));
ssize_t pwritev64(int, const struct iovec *, int, off64_t) __attribute__((alias("pwritev")));
ssize_t pwritev64v2(int, const struct iovec *, int, off64_t, int) __attribute__((alias("pwritev2")));

/* Asynchronous writes (io_submit), which nobody has a function for: each is done by a thread, as any other write. */

struct beside {
    aio_context_t context;
    struct iocb control;
    struct descriptor *entry;
};

#define MOST_EVENTS 256
static struct { aio_context_t context; struct io_event event; } ended[MOST_EVENTS];
static int ended_count;
static aio_context_t own_contexts[MOST_EVENTS];
static int own_count;
static pthread_mutex_t ended_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ended_condition = PTHREAD_COND_INITIALIZER;

static void *write_beside(void *argument) {
    struct beside *beside = argument;
    struct iovec part = {(void *)(uintptr_t)beside->control.aio_buf, beside->control.aio_nbytes};
    int fd = (int)beside->control.aio_fildes;
    ssize_t written = do_write(beside->entry, fd, &part, 1, beside->control.aio_offset);
    int64_t result = written < 0 ? -errno : written;
    pthread_mutex_lock(&ended_mutex);
    if (ended_count == MOST_EVENTS) abort();
    ended[ended_count].context = beside->context;
    ended[ended_count++].event = (struct io_event){beside->control.aio_data, 0, result, 0};
    pthread_cond_broadcast(&ended_condition);
    pthread_mutex_unlock(&ended_mutex);
    uint64_t one = 1;
    if (beside->control.aio_flags & IOCB_FLAG_RESFD
        && real_write((int)beside->control.aio_resfd, &one, sizeof one) != sizeof one) abort();
    free(beside);
    return NULL;
}

static int is_own(aio_context_t context) {
    for (int place = 0; place < own_count; place++)
        if (own_contexts[place] == context) return 1;
    return 0;
}

/* Whether the writes are ours to do, and begun; all of one call are to watched files or none. */
static int submit_beside(aio_context_t context, long count, struct iocb **controls) {
    for (long place = 0; place < count; place++) {
        struct descriptor *entry = watched((int)controls[place]->aio_fildes);
        if (!entry || controls[place]->aio_lio_opcode != IOCB_CMD_PWRITE) return 0;
        struct beside *beside = malloc(sizeof *beside);
        pthread_t thread;
        *beside = (struct beside){context, *controls[place], entry};
        pthread_mutex_lock(&ended_mutex);
        if (own_count == MOST_EVENTS) abort();
        if (!is_own(context)) own_contexts[own_count++] = context;
        pthread_mutex_unlock(&ended_mutex);
        if (pthread_create(&thread, NULL, write_beside, beside)) abort();
        pthread_detach(thread);
    }
    return 1;
}

static long events_beside(aio_context_t context, long most, struct io_event *events, const struct timespec *patience) {
    struct timespec until;
    real_clock_gettime(CLOCK_REALTIME, &until);
    if (patience) {
        until.tv_sec += patience->tv_sec + (until.tv_nsec + patience->tv_nsec) / 1000000000;
        until.tv_nsec = (until.tv_nsec + patience->tv_nsec) % 1000000000;
    }
    long found = 0;
    pthread_mutex_lock(&ended_mutex);
    for (;;) {
        for (int place = 0; place < ended_count && found < most;)
            if (ended[place].context == context) {
                events[found++] = ended[place].event;
                ended[place] = ended[--ended_count];
            } else place++;
        if (found) break;
        if (!patience) pthread_cond_wait(&ended_condition, &ended_mutex);
        else if (pthread_cond_timedwait(&ended_condition, &ended_mutex, &until)) break;
    }
    pthread_mutex_unlock(&ended_mutex);
    return found;
}

long syscall(long number, ...) {
    READY();
    va_list list;
    long argument[6];
    va_start(list, number);
    for (int place = 0; place < 6; place++) argument[place] = va_arg(list, long);
    va_end(list);
    if (control && number == SYS_io_setup && getenv("FAULTFS_NOTHING_BESIDE")) {
        errno = ENOSYS;
        return -1;
    }
    if (control && number == SYS_io_submit && submit_beside(argument[0], argument[1], (struct iocb **)argument[2]))
        return argument[1];
    if (control && number == SYS_io_getevents && is_own(argument[0]))
        return events_beside(argument[0], argument[2], (struct io_event *)argument[3], (struct timespec *)argument[4]);
    return real_syscall(number, argument[0], argument[1], argument[2], argument[3], argument[4], argument[5]);
}

/* Copies within the kernel are refused for watched files: whoever asks has another way, which is seen. */

ssize_t sendfile(int to, int from, off_t *offset, size_t size) {
    READY();
    if (!watched(to)) return real_sendfile(to, from, offset, size);
    errno = EINVAL;
    return -1;
}

ssize_t copy_file_range(int from, off_t *from_offset, int to, off_t *to_offset, size_t size, unsigned flags) {
    READY();
    if (!watched(to)) return real_copy_file_range(from, from_offset, to, to_offset, size, flags);
    errno = EXDEV;
    return -1;
}

ssize_t sendfile64(int, int, off64_t *, size_t) __attribute__((alias("sendfile")));

/* Sizes. */

static int resize(struct descriptor *entry, int fd, int kind, off_t offset, off_t size) {
    int64_t operation = count(kind);
    lock();
    int result = chosen(entry->path) && room(fd, offset, size) < size ? ENOSPC : 0;
    if (!result && kind == TRUNCATE) result = real_ftruncate(fd, offset + size) ? errno : 0;
    if (!result && kind == ALLOCATE) result = real_fallocate(fd, 0, offset, size) ? errno : 0;
    if (!result) note(kind, operation, entry->inode, entry->path, kind == TRUNCATE ? 0 : offset, size);
    unlock();
    counted(operation);
    return result;
}

int ftruncate(int fd, off_t size) {
    READY();
    struct descriptor *entry = watched(fd);
    if (!entry) return real_ftruncate(fd, size);
    int error = resize(entry, fd, TRUNCATE, 0, size);
    if (error) errno = error;
    return error ? -1 : 0;
}

int truncate(const char *name, off_t size) {
    int fd = do_open(AT_FDCWD, name, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0) return -1;
    int result = ftruncate(fd, size), saved = errno;
    close(fd);
    errno = saved;
    return result;
}

int posix_fallocate(int fd, off_t offset, off_t size) {
    READY();
    struct descriptor *entry = watched(fd);
    if (!entry) return real_fallocate(fd, 0, offset, size) ? errno : 0;
    return resize(entry, fd, ALLOCATE, offset, size);
}

int fallocate(int fd, int mode, off_t offset, off_t size) {
    READY();
    struct descriptor *entry = watched(fd);
    if (!entry) return real_fallocate(fd, mode, offset, size);
    /* Ways of allocating that the model of a disk does not know are refused rather than taken for plain ones. */
    int error = mode ? EOPNOTSUPP : resize(entry, fd, ALLOCATE, offset, size);
    if (error) errno = error;
    return error ? -1 : 0;
}

int ftruncate64(int, off64_t) __attribute__((alias("ftruncate")));
int truncate64(const char *, off64_t) __attribute__((alias("truncate")));
int posix_fallocate64(int, off64_t, off64_t) __attribute__((alias("posix_fallocate")));
int fallocate64(int, int, off64_t, off64_t) __attribute__((alias("fallocate")));

/* Syncing. */

static int do_sync(struct descriptor *entry, int fd, int (*real)(int)) {
    int64_t operation = count(entry->directory ? DIRECTORY_SYNCED : SYNC_BEGIN);
    int counts = chosen(entry->path), result = 0;
    if (!entry->directory) {
        lock();
        note(SYNC_BEGIN, operation, entry->inode, entry->path, 0, 0);
        unlock();
    }
    if (counts) wait_microseconds(get(SYNC_DELAY));
    if (counts && get(SYNC_ERRNO) && take(SYNC_FAILURES)) {
        errno = (int)get(SYNC_ERRNO);
        result = -1;
    } else if (counts && get(SYNC_LIE)) {
        counts = -1;
    } else if (!get(SYNC_SKIP))
        result = real(fd);
    if (!result && counts >= 0) {
        lock();
        note(entry->directory ? DIRECTORY_SYNCED : SYNC_END, operation, entry->inode, entry->path, 0, 0);
        unlock();
    }
    counted(operation);
    return result;
}

int fsync(int fd) {
    READY();
    struct descriptor *entry = watched(fd);
    return entry ? do_sync(entry, fd, real_fsync) : real_fsync(fd);
}

int fdatasync(int fd) {
    READY();
    struct descriptor *entry = watched(fd);
    return entry ? do_sync(entry, fd, real_fdatasync) : real_fdatasync(fd);
}

int sync_file_range(int fd, off_t offset, off_t size, unsigned flags) {
    READY();
    /* Starts or awaits writing, and promises nothing about what survives. */
    if (watched(fd) && get(SYNC_SKIP)) return 0;
    return real_sync_file_range(fd, offset, size, flags);
}

/* Names. */

int renameat(int from_directory, const char *from, int to_directory, const char *to) {
    READY();
    char old[PATH_MAX], new[PATH_MAX], both[2 * PATH_MAX];
    int is_old = resolve(from_directory, from, old), is_new = resolve(to_directory, to, new);
    if (!is_old && !is_new) return real_renameat(from_directory, from, to_directory, to);
    if (!is_old || !is_new) {
        errno = EXDEV;
        return -1;
    }
    int64_t operation = count(RENAME);
    lock();
    uint64_t inode = inode_of(old);
    int result = real_renameat(from_directory, from, to_directory, to);
    if (!result) {
        size_t first = strlen(old + root_size) + 1, second = strlen(new + root_size);
        memcpy(both, old + root_size, first);
        memcpy(both + first, new + root_size, second);
        note_data(RENAME, operation, inode, both, first + second, 0, 0, NULL, 0);
    }
    unlock();
    counted(operation);
    return result;
}

int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int unlinkat(int directory, const char *name, int flags) {
    READY();
    char path[PATH_MAX];
    if (!resolve(directory, name, path)) return real_unlinkat(directory, name, flags);
    if (!inode_of(path)) return real_unlinkat(directory, name, flags);
    int64_t operation = count(flags & AT_REMOVEDIR ? RMDIR : UNLINK);
    lock();
    uint64_t inode = inode_of(path);
    int result = real_unlinkat(directory, name, flags);
    if (!result) note(flags & AT_REMOVEDIR ? RMDIR : UNLINK, operation, inode, path, 0, 0);
    unlock();
    counted(operation);
    return result;
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int directory, const char *name, mode_t mode) {
    READY();
    char path[PATH_MAX];
    if (!resolve(directory, name, path)) return real_mkdirat(directory, name, mode);
    if (inode_of(path)) return real_mkdirat(directory, name, mode);
    int64_t operation = count(MKDIR);
    lock();
    int result = real_mkdirat(directory, name, mode);
    if (!result) note(MKDIR, operation, inode_of(path), path, 0, 0);
    unlock();
    counted(operation);
    return result;
}

int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

/* The time of day. */

static void shift(struct timespec *now) {
    int64_t offset = get(CLOCK_OFFSET);
    if (!offset) return;
    int64_t nanoseconds = now->tv_nsec + offset % 1000000000;
    now->tv_sec += offset / 1000000000 + (nanoseconds >= 1000000000) - (nanoseconds < 0);
    now->tv_nsec = (nanoseconds + 1000000000) % 1000000000;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    READY();
    int result = real_clock_gettime(clock, now);
    if (!result && control && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) shift(now);
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
    *now = (struct timeval){precise.tv_sec, precise.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
