/* A VMM whose threads run under filters made from docs/system-calls.md. The VMM's own thread takes captures, and
 * may make no system call in the library except ioctl(PAGEMAP_SCAN). A storage thread commits, persists and
 * restores. The store was opened and its modules were mapped before. Then two threads use one store at a time:
 * besides their own calls they need only the lock's call. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "documented.h"
#include "misuse.h"
#include "needs.h"

enum { PAGES = 256, ROUNDS = 24 };
#define WORDS "private shared kernel again"

static vmstore *store;
static vmstore_module *module;
static unsigned char *memory;
static char directory[4096];
static unsigned runs;

/* ---- the VMM's own thread and a storage thread pass captures and commits to each other through pipes ---- */

typedef struct {
    vmstore_capture *capture; /* the capture to commit; NULL: restore `commit` instead */
    uint64_t commit;
} order;

static int to_storage[2], to_vmm[2];
static const char *storage_without; /* a call that the storage thread's filter does not allow */

static void pass(int pipe, void *what, size_t length, int out)
{
    ssize_t n = out ? write(pipe, what, length) : read(pipe, what, length);
    if (n != (ssize_t)length) _exit(n == 0 ? 0 : 3);
}

static void *storage(void *unused)
{
    static sandbox s;
    void *volatile warm = malloc(1 << 10);
    (void)unused;
    free(warm);
    sandbox_begin(&s, SECCOMP_RET_KILL_PROCESS);
    const char *const sections[] = {"store_capture_commit", "store_persist", "store_restore", ALLOCATOR};
    for (int i = 0; i < 4; i++) allow_documented(&s, sections[i], WORDS " thread new image", storage_without);
    sandbox_allow(&s, SYS_read);
    sandbox_allow(&s, SYS_write);
    sandbox_allow(&s, SYS_exit_group);
    sandbox_enter(&s);
    for (order o;;) {
        pass(to_storage[0], &o, sizeof o, 0);
        if (o.capture) {
            if (store_capture_commit(o.capture, &o.commit)) _exit(4);
            if (o.commit % 5 == 0 && store_persist(store, NULL)) _exit(5);
        } else if (store_restore(store, o.commit, NULL)) {
            _exit(6);
        }
        pass(to_vmm[1], &o, sizeof o, 1);
    }
}

static void open_and_map(uint32_t mode)
{
    vmstore_map_options options = {
        .struct_size = sizeof options, .flags = mode, .tracker = VMSTORE_TRACKER_KERNEL};
    OK(store_open(directory, NULL, &store));
    OK(store_map_module(store, "ram", PAGES * page_size(), &options, &module));
    memory = store_module_address(module);
}

/* Round r fills every third page with r, from page r modulo 3 on. */
static void write_round(unsigned char *to, unsigned round)
{
    for (size_t page = round % 3; page < PAGES; page += 3) memset(to + page * page_size(), (int)round, page_size());
}

static void vmm(uint32_t mode, const char *without)
{
    static unsigned char then[ROUNDS][PAGES];
    static sandbox s;
    uint64_t commits[ROUNDS], first;
    open_and_map(mode);
    OK(store_commit(store, NULL, &first));
    unsigned char *model = calloc(PAGES, page_size());
    CHECK(model && pipe(to_storage) == 0 && pipe(to_vmm) == 0);
    storage_without = without && without[0] ? without : NULL;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, storage, NULL) == 0);

    sandbox_begin(&s, SECCOMP_RET_KILL_PROCESS);
    /* No more than this call, whatever the document says. */
    if (!without || without[0])
        sandbox_rule(&s, (sandbox_call){SYS_ioctl, 1, PAGEMAP_SCAN}, SECCOMP_RET_ALLOW);
    sandbox_allow(&s, SYS_read);
    sandbox_allow(&s, SYS_write);
    sandbox_allow(&s, SYS_exit_group);
    sandbox_enter(&s);

    for (unsigned round = 0; round < ROUNDS; round++) {
        order o = {0};
        write_round(memory, round + 1);
        write_round(model, round + 1);
        if (store_mark_dirty(module, 0, page_size())) _exit(7);
        if (store_capture(store, NULL, &o.capture)) _exit(8);
        for (size_t page = 0; page < PAGES; page++) then[round][page] = model[page * page_size()];
        pass(to_storage[1], &o, sizeof o, 1);
        memset(memory + 17 * page_size(), 0xEE, page_size()); /* the guest goes on during the commit */
        memset(model + 17 * page_size(), 0xEE, page_size());
        pass(to_vmm[0], &o, sizeof o, 0);
        commits[round] = o.commit;
    }
    for (unsigned round = 0; round < ROUNDS; round += 3) {
        order o = {.commit = commits[round]};
        pass(to_storage[1], &o, sizeof o, 1);
        pass(to_vmm[0], &o, sizeof o, 0);
        for (size_t page = 0; page < PAGES; page++)
            if (!all_bytes_are(memory + page * page_size(), page_size(), then[round][page])) _exit(9);
    }
    _exit(0);
}

/* ---- two threads inside one store ---- */

static volatile int inside, waited_for;

static int slow_progress(uint64_t done, uint64_t total, void *user_data)
{
    (void)done, (void)total, (void)user_data;
    inside = 1;
    for (int i = 0; i < 400 && !waited_for; i++) usleep(1000);
    usleep(100000); /* by now the other thread waits for the lock */
    return 0;
}

static void *persists_slowly(void *unused)
{
    vmstore_persist_options options = {.struct_size = sizeof options, .progress = slow_progress};
    (void)unused;
    if (store_persist(store, &options)) _exit(10);
    return NULL;
}

static void two_threads(const char *without)
{
    static sandbox s;
    uint64_t number;
    pthread_t thread;
    open_and_map(VMSTORE_MAP_PRIVATE);
    OK(store_commit(store, NULL, &number));
    CHECK(pthread_create(&thread, NULL, persists_slowly, NULL) == 0);
    while (!inside) usleep(1000);
    sandbox_begin(&s, SECCOMP_RET_KILL_PROCESS);
    allow_documented(&s, "store_persist", WORDS, NULL);
    allow_documented(&s, ALLOCATOR, WORDS, NULL);
    allow_documented(&s, LOCK, WORDS, without);
    sandbox_allow(&s, SYS_exit_group);
    sandbox_enter(&s);
    waited_for = 1;
    if (store_persist(store, NULL)) _exit(11);
    _exit(0);
}

static int killed(const char *stores, const char *what, uint32_t mode, const char *without)
{
    fflush(NULL);
    snprintf(directory, sizeof directory, "%s/vmm-%u", stores, runs++);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        alarm(120);
        if (what[0] == 'v') vmm(mode, without);
        two_threads(without);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) return 1;
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        FAIL("%s, mode %u, without %s: ended with %#x", what, mode, without ? without : "nothing", status);
    return 0;
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    if (!have("a seccomp filter", sandbox_why_not())) return 0;
    const char *stores = arguments[1];
    const uint32_t modes[] = {VMSTORE_MAP_PRIVATE, VMSTORE_MAP_SHARED};
    for (int i = 0; i < 2; i++) CHECK(!killed(stores, "vmm", modes[i], NULL));
    /* The filters must be able to fail. "" takes ioctl(PAGEMAP_SCAN) from the VMM's own thread. */
    const char *const missed[] = {"", "openat", "pwritev", "renameat", "rt_sigprocmask", "ioctl(PAGEMAP_SCAN)"};
    for (size_t i = 0; i < sizeof missed / sizeof *missed; i++) {
        if (killed(stores, "vmm", VMSTORE_MAP_PRIVATE, missed[i])) continue;
        FAIL("the VMM survived without \"%s\"", missed[i]);
    }
    CHECK(!killed(stores, "two threads", 0, NULL));
    CHECK(killed(stores, "two threads", 0, "futex"));
    CHECK(killed(stores, "two threads", 0, "sched_yield"));
    printf("a VMM thread that may only ioctl(PAGEMAP_SCAN) captured %d times in each of 2 modes, a storage thread wrote and "
           "restored; %zu filters without one call killed\n",
           ROUNDS, sizeof missed / sizeof *missed + 2);
    return 0;
}
