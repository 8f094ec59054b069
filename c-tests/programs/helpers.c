/* Captures with helper threads give the same bytes as captures without them: over several modules, with less room
 * in the arena than there are pages, after a precopy, with marks alone, and where the host forbids clone. No thread
 * is left afterwards, and no helper runs a signal handler of the host. */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "misuse.h"
#include "needs.h"
#include "sandbox.h"

enum { MOST_PAGES = 8192, FEWER_PAGES = 4608, MODULES = 2 };

static unsigned commits, restores, strange;
static pthread_t host;
static size_t pages; /* of a module; a capture of 4,096 has helpers */

#if defined(__SANITIZE_THREAD__)
enum { OWN_THREADS = 2 }; /* one belongs to the sanitizer */
#else
enum { OWN_THREADS = 1 };
#endif

static unsigned threads(void)
{
    DIR *stream = opendir("/proc/self/task");
    unsigned count = 0;
    CHECK(stream);
    while (readdir(stream)) count++;
    closedir(stream);
    return count - 2;
}

static void handler(int number)
{
    (void)number;
    if (!pthread_equal(pthread_self(), host)) strange++;
}

/* One store: writes, commits with this many helpers, and compares every commit with what was written. */
static void run(const char *directory, unsigned helpers, uint64_t arena, int precopy, unsigned tracker)
{
    vmstore_open_options open = {.struct_size = sizeof open, .arena_limit = arena};
    vmstore_map_options map = {.struct_size = sizeof map, .tracker = tracker};
    vmstore *store;
    vmstore_module *modules[MODULES];
    unsigned char *memory[MODULES], *shadow[4][MODULES];
    const char *names[MODULES] = {"ram", "vram"};
    size_t length = pages * page_size();
    uint64_t numbers[4];
    OK(store_open(directory, &open, &store));
    for (int m = 0; m < MODULES; m++) {
        OK(store_map_module(store, names[m], length, &map, &modules[m]));
        memory[m] = store_module_address(modules[m]);
    }
    for (int round = 0; round < 4; round++) {
        for (int m = 0; m < MODULES; m++) {
            for (size_t page = (size_t)round % 2; page < pages; page += round ? 1 + (size_t)m : 1) {
                uint64_t value = (uint64_t)round << 48 | (uint64_t)m << 40 | page;
                memcpy(memory[m] + page * page_size() + 8 * (page % 500), &value, sizeof value);
                if (tracker == VMSTORE_TRACKER_CALLER) OK(store_mark_dirty(modules[m], page * page_size(), page_size()));
                if (precopy && page == pages / 2 && m == 0) {
                    uint64_t left;
                    OK(store_precopy(store, NULL, &left));
                }
            }
            shadow[round][m] = malloc(length);
            CHECK(shadow[round][m]);
            memcpy(shadow[round][m], memory[m], length);
        }
        vmstore_commit_options options = {.struct_size = sizeof options, .helpers = helpers};
        OK(store_commit(store, &options, &numbers[round]));
        commits++;
    }
    for (int round = 3; round >= 0; round--) {
        OK(store_restore(store, numbers[round], NULL));
        for (int m = 0; m < MODULES; m++)
            if (memcmp(memory[m], shadow[round][m], length)) FAIL("%u helpers: module %d at commit %d", helpers, m, round);
        restores++;
    }
    for (int round = 0; round < 4; round++)
        for (int m = 0; m < MODULES; m++) free(shadow[round][m]);
    OK(store_close(store));
    /* A thread that was joined may still be listed for a moment. */
    for (int tries = 0; threads() > OWN_THREADS; tries++) {
        CHECK(tries < 1000);
        usleep(1000);
    }
}

static void misuse(const char *directory)
{
    vmstore *store;
    uint64_t commit;
    vmstore_commit_options options = {.struct_size = sizeof options, .helpers = 16};
    OK(store_open(directory, NULL, &store));
    FAILS(store_commit(store, &options, &commit), VMSTORE_E_INVALID, "helpers");
    options.helpers = 0, options.reserved = 1;
    FAILS(store_commit(store, &options, &commit), VMSTORE_E_INVALID, "reserved");
    OK(store_close(store));
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    char path[4096];
    host = pthread_self();
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    int few = brief() || slow();
    pages = few ? FEWER_PAGES : MOST_PAGES;
    struct itimerval often = {{0, slow() ? 50000 : 200}, {0, slow() ? 50000 : 200}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    const struct {
        unsigned helpers;
        uint64_t arena;
        int precopy;
        unsigned tracker;
    } ways[] = {{1, 0, 0, VMSTORE_TRACKER_AUTO},   {3, 0, 0, VMSTORE_TRACKER_AUTO},   {15, 0, 0, VMSTORE_TRACKER_CALLER},
                {1, 4 << 20, 0, VMSTORE_TRACKER_AUTO}, {2, 0, 1, VMSTORE_TRACKER_AUTO}, {1, 0, 1, VMSTORE_TRACKER_CALLER}};
    for (unsigned w = 0; w < (few ? 2 : sizeof ways / sizeof *ways); w++) {
        snprintf(path, sizeof path, "%s/%u", arguments[1], w);
        run(path, ways[w].helpers, ways[w].arena, ways[w].precopy, ways[w].tracker);
    }
    snprintf(path, sizeof path, "%s/misuse", arguments[1]);
    misuse(path);
    CHECK(strange == 0);
    struct itimerval never = {{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    int forbidden = have("a seccomp filter", sandbox_why_not());
    if (forbidden) {
        fflush(NULL);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            static sandbox s;
            sandbox_begin(&s, SECCOMP_RET_ALLOW);
            sandbox_rule(&s, (sandbox_call){SYS_clone, -1, 0}, SECCOMP_RET_ERRNO | EPERM);
            sandbox_rule(&s, (sandbox_call){SYS_clone3, -1, 0}, SECCOMP_RET_ERRNO | EPERM);
            sandbox_enter(&s);
            snprintf(path, sizeof path, "%s/forbidden", arguments[1]);
            run(path, 3, 0, 0, VMSTORE_TRACKER_AUTO);
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
        commits += 4, restores += 4;
    }
    printf("%u commits with helpers and %u restores, %s\n", commits, restores,
           forbidden ? "4 of each where clone is forbidden" : "clone was not forbidden");
    return 0;
}
