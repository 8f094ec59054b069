/* The library does not disturb the process of its host. The program runs a whole life of a store, in every setting,
 * while seccomp forbids clone and fork, the host owns every signal, and descriptors 0, 1 and 2 are pipes that must
 * stay empty, or are closed. What the host writes to these descriptors must not reach a file of the store. A write
 * beyond RLIMIT_FSIZE is an error and not a signal, at every step. Calls that fail print nothing either.
 * two_stores.c tries two stores in one process. */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "life.h"
#include "needs.h"
#include "sandbox.h"

/* REPORT: a descriptor for messages about failures, while the usual ones are closed. */
enum { REPORT = 200, SIGNALS = 64 };

static unsigned lives, steps_seen, limited, processes;

/* Ends this process with a line in the report. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            dprintf(REPORT, "%s:%d: [%s] %s, step %d: %s does not hold (%s)\n", __FILE__, __LINE__, \
                    now ? now->words : "", now ? steps[at].function : "", at, #condition, last_error()); \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static int at; /* the number of the step */

/* ---- what a host owns, and must find unchanged ---- */

typedef struct {
    void *handlers[SIGNALS + 1];
    int flags[SIGNALS + 1];
    sigset_t blocked;
    struct rlimit limits[RLIM_NLIMITS];
    mode_t mask;
    char directory[4096];
} belongings;

static volatile sig_atomic_t signals_handled;

static void handler(int number)
{
    (void)number;
    signals_handled++;
}

static void look(belongings *b)
{
    memset(b, 0, sizeof *b);
    for (int i = 1; i <= SIGNALS; i++) {
        struct sigaction action;
        if (sigaction(i, NULL, &action)) continue;
        memcpy(&b->handlers[i], &action.sa_handler, sizeof b->handlers[i]);
        b->flags[i] = action.sa_flags;
    }
    pthread_sigmask(SIG_SETMASK, NULL, &b->blocked);
    for (unsigned i = 0; i < RLIM_NLIMITS; i++) getrlimit(i, &b->limits[i]);
    umask(b->mask = umask(0));
    MUST(getcwd(b->directory, sizeof b->directory));
}

static unsigned entries(const char *path)
{
    DIR *stream = opendir(path);
    unsigned count = 0;
    MUST(stream);
    while (readdir(stream)) count++;
    closedir(stream);
    return count;
}

/* The host owns these signals. One of them is blocked, and stays blocked. */
static void own_signals(void)
{
    const int own[] = {SIGSEGV, SIGBUS, SIGXFSZ, SIGPIPE, SIGUSR1};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigset_t blocked;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) MUST(sigaction(own[i], &action, NULL) == 0);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    MUST(sigprocmask(SIG_BLOCK, &blocked, NULL) == 0);
}

static void forbid_processes_and_threads(void)
{
    static sandbox s;
    const int forbidden[] = {
        SYS_clone, SYS_clone3,
#ifdef SYS_fork
        SYS_fork, SYS_vfork,
#endif
    };
    sandbox_begin(&s, SECCOMP_RET_ALLOW);
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++)
        sandbox_rule(&s, (sandbox_call){forbidden[i], -1, 0}, SECCOMP_RET_KILL_PROCESS);
    sandbox_enter(&s);
}

static void as_before(const belongings *before)
{
    static belongings after;
    look(&after);
    MUST(!memcmp(&after, before, sizeof after));
    MUST(signals_handled == 0);
#ifndef __SANITIZE_THREAD__ /* it has a thread of its own */
    MUST(entries("/proc/self/task") == 3); /* `.`, `..` and the one thread */
#endif
    steps_seen++;
}

/* ---- lives ---- */

/* A host that prints although its descriptors are closed. */
static void print_anyway(void)
{
    static const char garbage[] = "printed by the host, and not meant for a file of the store\n";
    for (int fd = 0; fd < 3; fd++) {
        ssize_t written = write(fd, garbage, sizeof garbage - 1);
        MUST(written < 0 && errno == EBADF);
    }
}

/* The state of 0, 1 and 2; CLOSED_LATER: closed while the store is open. */
enum { OPEN, CLOSED, CLOSED_LATER, DESCRIPTORS };

static void live_politely(int descriptors, int sandboxed)
{
    static belongings before;
    own_signals();
    if (descriptors == CLOSED) close(0), close(1), close(2);
    if (sandboxed) forbid_processes_and_threads();
    unsigned open_files = entries("/proc/self/fd");
    look(&before);
    for (at = 0; at < STEPS; at++) {
        if (steps[at].before) steps[at].before();
        steps[at].call();
        as_before(&before);
        if (at == 0 && descriptors == CLOSED_LATER) close(0), close(1), close(2), open_files -= 3;
        if (descriptors != OPEN) print_anyway();
    }
    MUST(entries("/proc/self/fd") == open_files); /* no descriptor is left open */
    _exit(0);
}

/* The life up to one step, which then may write no byte to a file. */
static void live_within_a_limit(int step)
{
    static belongings before;
    own_signals();
    for (at = 0; at < step; at++) {
        if (steps[at].before) steps[at].before();
        steps[at].call();
    }
    if (steps[at].before) steps[at].before();
    struct rlimit limit = {1, RLIM_INFINITY}, none = {RLIM_INFINITY, RLIM_INFINITY};
    MUST(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    look(&before);
    steps[at].call();
    as_before(&before);
    /* The host's own write beyond the limit still gives the host its signal. */
    char path[4200];
    snprintf(path, sizeof path, "%s-own", directory);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    MUST(fd >= 0 && pwrite(fd, "x", 1, 4096) < 0 && errno == EFBIG && signals_handled == 1);
    close(fd);
    MUST(setrlimit(RLIMIT_FSIZE, &none) == 0);
    _exit(0);
}

/* All failures that need no broken disk, with no log callback. */
static void live_wrongly(void)
{
    static belongings before;
    uint64_t number;
    vmstore *none = NULL;
    char path[4200];
    own_signals();
    look(&before);
    do_open(), do_map(), write_pages();
    MUST(store_commit(store, NULL, &number) == VMSTORE_OK && store_persist(store, NULL) == VMSTORE_OK);
    MUST(store_open(directory, NULL, &none) == VMSTORE_E_LOCKED);
    MUST(store_open("/dev/null", NULL, &none) == VMSTORE_E_EXISTS);
    MUST(store_restore(store, 99, NULL) == VMSTORE_E_NOT_FOUND);
    MUST(store_map_module(store, "commits", page_size(), NULL, &module) == VMSTORE_E_INVALID);
    MUST(store_unmap_module(NULL) == VMSTORE_E_HANDLE);
    as_before(&before);
    MUST(store_close(store) == VMSTORE_OK);
    snprintf(path, sizeof path, "%s/ram_Commit1", directory);
    MUST(truncate(path, 100) == 0); /* damage that recovery meets */
    snprintf(path, sizeof path, "%s/.vmstore/journal", directory);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    MUST(fd >= 0 && pwrite(fd, "????????", 8, 0) == 8);
    close(fd);
    MUST(store_open(directory, NULL, &store) != VMSTORE_OK ||
         store_verify(store, NULL) == VMSTORE_E_CORRUPT);
    as_before(&before);
    _exit(0);
}

/* Runs in a process of its own, with pipes for descriptors 0 to 2, which must stay empty. */
static void in_a_process(const char *stores, int setting_number, int kind, int argument)
{
    int pipes[3][2], report[2];
    char text[2048];
    for (int i = 0; i < 3; i++) CHECK(pipe(pipes[i]) == 0);
    CHECK(pipe(report) == 0);
    processes++;
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char fresh[4096];
        snprintf(fresh, sizeof fresh, "%s/polite-%u", stores, processes);
        dup2(report[1], REPORT);
        dup2(pipes[0][0], 0), dup2(pipes[1][1], 1), dup2(pipes[2][1], 2);
        for (int i = 0; i < 3; i++) close(pipes[i][0]), close(pipes[i][1]);
        close(report[0]), close(report[1]);
        begin_life(&settings[setting_number], fresh);
        if (kind == 0) live_politely(argument % DESCRIPTORS, argument < DESCRIPTORS);
        if (kind == 1) live_within_a_limit(argument);
        live_wrongly();
    }
    int status;
    ssize_t length, printed = 0;
    close(report[1]);
    for (int i = 0; i < 3; i++) close(pipes[i][i != 0]);
    length = read(report[0], text, sizeof text - 1);
    text[length < 0 ? 0 : length] = 0;
    CHECK(waitpid(child, &status, 0) == child);
    for (int i = 1; i < 3; i++) {
        char output[1024];
        ssize_t n = read(pipes[i][0], output, sizeof output - 1);
        output[n < 0 ? 0 : n] = 0;
        printed += n;
        if (n) fprintf(stderr, "on descriptor %d: %s\n", i, output);
    }
    if (printed || !WIFEXITED(status) || WEXITSTATUS(status))
        FAIL("kind %d, %d [%s]: ended with %#x, printed %zd bytes; %s", kind, argument,
             settings[setting_number].words, status, printed, text);
    close(report[0]);
    for (int i = 0; i < 3; i++) close(pipes[i][i == 0]);
}

int main(int count, char **arguments)
{
    CHECK(count == 2 && store_abi_version() == VMSTORE_ABI_VERSION);
    const char *fast = directory_in_memory(), *why_not = sandbox_why_not();
    const char *stores = fast ? fast : arguments[1];
    /* A wrapper has descriptors and signals of its own, and may not know the calls of the kernel tracker. */
    if (slow()) return have("a life under a wrapper", why_not);
    int sandboxed = have("a host that forbids clone", why_not);
    for (int s = 0; s < SETTINGS; s++) {
        int fails = strstr(settings[s].words, "fails") != NULL;
        int step = (int)stride(4), first = s % step;
        for (int how = first; !fails && how < DESCRIPTORS; how += step, lives++)
            in_a_process(lives ? stores : arguments[1], s, 0, how + (sandboxed ? 0 : DESCRIPTORS));
        for (int i = first; fails && i < STEPS; i += step, limited++) in_a_process(stores, s, 1, i);
    }
    in_a_process(stores, 0, 2, 0);
    printf("%u lives with %d steps each, without threads, signals or output; %u steps beyond RLIMIT_FSIZE\n", lives,
           STEPS, limited);
    return 0;
}
