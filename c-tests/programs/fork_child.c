/* A forked child: every call with the parent's handles is VMSTORE_E_FORKED and does nothing, and the child opens
 * stores of its own. The parent's commits are exact while the child runs and after it has ended. */
#include "misuse.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

enum { MODULES = 4, PAGES = 16, COMMITS = 400 };

static const char *directory;
static vmstore *store;
static vmstore_module *modules[MODULES];
static unsigned char *memories[MODULES];
static vmstore_capture *capture;
static unsigned forks, beside;

/* What each module held at each commit: one number for each page, which fills the whole page. */
static unsigned char model[COMMITS][MODULES][PAGES];
static unsigned char now[MODULES][PAGES];

static void write_pages(uint64_t *state, int count)
{
    for (int i = 0; i < count; i++) {
        uint64_t random = next_random(state);
        int which = (int)(random % MODULES), page = (int)(random / 16 % PAGES);
        unsigned char value = (unsigned char)(random >> 32);
        memset(memories[which] + (size_t)page * page_size(), value, page_size());
        now[which][page] = value;
        if (which == MODULES - 1) /* the module whose writes the caller reports */
            OK(store_mark_dirty(modules[which], (uint64_t)page * page_size(), page_size()));
    }
}

static uint64_t commit_now(void)
{
    uint64_t commit = 0;
    vmstore_commit_options options = {.struct_size = sizeof options, .label = "by the parent"};
    OK(store_commit(store, &options, &commit));
    CHECK(commit > 0 && commit < COMMITS);
    memcpy(model[commit], now, sizeof now);
    return commit;
}

static void memory_is(uint64_t commit)
{
    for (int which = 0; which < MODULES; which++)
        for (int page = 0; page < PAGES; page++)
            if (!all_bytes_are(memories[which] + (size_t)page * page_size(), page_size(), model[commit][which][page]))
                FAIL("module %d, page %d is not as in commit %" PRIu64, which, page, commit);
}

static void every_commit_is_exact(void)
{
    static uint64_t commits[COMMITS];
    size_t count = 0;
    OK(store_list_commits(store, commits, COMMITS, &count));
    CHECK(count > 0 && count < COMMITS);
    for (size_t i = 0; i < count; i++) {
        trying("restoring commit %" PRIu64 " in the parent", commits[i]);
        OK(store_restore(store, commits[i], NULL));
        memory_is(commits[i]);
    }
    memcpy(now, model[commits[count - 1]], sizeof now);
}

static void all_forked(void)
{
    store_calls_fail(store, VMSTORE_E_FORKED, "fork");
    for (int which = 0; which < MODULES; which++)
        module_calls_fail(modules[which], VMSTORE_E_FORKED, "fork");
    if (capture) capture_calls_fail(capture, VMSTORE_E_FORKED, "fork");
}

/* Where the library can see that a value never was a handle, the child too gets VMSTORE_E_HANDLE: NULL is such a
 * value. */
static void a_store_of_its_own(const char *name)
{
    vmstore *own;
    vmstore_module *module;
    uint64_t first = 0, second = 0;
    OK(store_open(path_in(directory, name), NULL, &own));
    OK(store_map_module(own, "ram", 4 * page_size(), NULL, &module));
    unsigned char *memory = store_module_address(module);
    memset(memory, 1, 4 * page_size());
    OK(store_commit(own, NULL, &first));
    memset(memory + page_size(), 2, page_size());
    OK(store_commit(own, NULL, &second));
    CHECK(second > first);
    OK(store_persist(own, NULL));
    OK(store_restore(own, first, NULL));
    CHECK(all_bytes_are(memory, 4 * page_size(), 1));
    all_forked();
    FAILS(store_close(NULL), VMSTORE_E_HANDLE, "store");
    FAILS(store_unmap_module(NULL), VMSTORE_E_HANDLE, "module");
    FAILS(store_capture_cancel(NULL), VMSTORE_E_HANDLE, "capture");
    OK(store_close(own));
    FAILS(store_close(own), VMSTORE_E_HANDLE, "store");
    all_forked();
}

static void wait_for(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) FAIL("the child ended with %#x", status);
    forks++;
}

/* What a child does. `kind` decides how thoroughly, and how the child ends. */
static pid_t child_that(int kind)
{
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child) return child;
    alarm(60);
    char name[64];
    vmstore *second = SENTINEL_POINTER(vmstore);
    trying("kind %d of child, with its parent's handles", kind);
    all_forked();
    trying("kind %d of child, opening its parent's store", kind);
    FAILS(store_open(path_in(directory, "store"), NULL, &second), VMSTORE_E_LOCKED, "store");
    CHECK(second == SENTINEL_POINTER(vmstore));
    snprintf(name, sizeof name, "child-%ld", (long)getpid());
    trying("kind %d of child, with a store of its own", kind);
    a_store_of_its_own(name);
    if (kind == 1) { /* a child of the child: the handles of its parent and of its grandparent are not its own */
        vmstore *own;
        OK(store_open(path_in(directory, name), NULL, &own));
        fflush(NULL);
        pid_t grandchild = fork();
        CHECK(grandchild >= 0);
        if (grandchild == 0) {
            alarm(60);
            trying("a child's child");
            all_forked();
            store_calls_fail(own, VMSTORE_E_FORKED, "fork");
            a_store_of_its_own("grandchild");
            fflush(NULL);
            _exit(0);
        }
        wait_for(grandchild);
        uint64_t head = 0;
        OK(store_head(own, &head));
        CHECK(head == 1);
        OK(store_close(own));
    }
    trying_text[0] = 0;
    if (kind == 2) exit(0); /* runs whatever the library may do at exit */
    fflush(NULL);
    _exit(0);
}

static void children_beside_commits(uint64_t *state)
{
    for (int round = 0; round < 12; round += (int)stride(4)) {
        trying("the parent in round %d", round);
        write_pages(state, 6);
        pid_t child = child_that(round / (int)stride(4) % 3);
        write_pages(state, 6); /* pages that the child still shares */
        for (size_t i = 0; i < 8; i += stride(4)) {
            commit_now();
            write_pages(state, 5);
        }
        if (round % 8 > 3) OK(store_persist(store, NULL));
        wait_for(child);
        commit_now();
        write_pages(state, 3);
        memory_is(commit_now());
    }
}

/* A capture that is outstanding at the fork stays the parent's, unchanged. */
static void with_a_capture(uint64_t *state)
{
    for (int kind = 0; kind < 3; kind += (int)stride(3)) {
        uint64_t commit = 0, before = commit_now();
        trying("a fork between capture and commit");
        write_pages(state, 10);
        OK(store_capture(store, NULL, &capture));
        unsigned char captured[MODULES][PAGES];
        memcpy(captured, now, sizeof now);
        pid_t child = child_that(kind);
        write_pages(state, 10);
        if (kind == 0) wait_for(child);
        OK(store_capture_commit(capture, &commit));
        capture = NULL;
        CHECK(commit > before);
        memcpy(model[commit], captured, sizeof captured);
        if (kind != 0) wait_for(child);
        commit_now();
    }
}

/* Forks while another thread is inside the library: the child waits for no lock that this thread held. */
static atomic_int ended;

static void *busy_thread(void *argument)
{
    vmstore *busy = argument;
    uint64_t commit;
    vmstore_commit_options options = {.struct_size = sizeof options, .label = "busy"};
    vmstore_module *module;
    if (store_map_module(busy, "ram", 8 * page_size(), NULL, &module)) return "map";
    unsigned char *memory = store_module_address(module);
    for (unsigned i = 0; !ended; i++) {
        memory[i % 8 * page_size()] = (unsigned char)i;
        if (store_commit(busy, &options, &commit)) return "commit";
        if (slow()) usleep(5000); /* valgrind runs one thread at a time, and does not alternate fairly */
        vmstore *none = NULL;
        if (i % 4 == 0 && store_open("/dev/null", NULL, &none) == VMSTORE_OK) return "open";
        if (i % 64 == 0 && store_unmap_module(module)) return "unmap";
        if (i % 64 == 0 && store_map_module(busy, "ram", 0, NULL, &module)) return "map again";
        memory = store_module_address(module);
    }
    return NULL;
}

/* Left out under the AddressSanitizer of GCC up to 13, which does not handle forks: if another thread is in its
 * allocator, the child waits in malloc for a lock that no thread of the child holds, whoever called. The allocators
 * of the C libraries handle forks, and so does the runtime that .ci/sanitize links. */
static int forks_beside_a_thread(void)
{
#if defined(__SANITIZE_ADDRESS__)
    if (!getenv("VMSTORE_C_RUNTIME")) return 0;
#endif
    return 40;
}

static void while_a_thread_commits(void)
{
    vmstore *busy;
    pthread_t thread;
    void *failure;
    int count = forks_beside_a_thread();
    OK(store_open(path_in(directory, "busy"), NULL, &busy));
    CHECK(pthread_create(&thread, NULL, busy_thread, busy) == 0);
    for (int i = 0; i < count; i += (int)stride(8)) {
        trying("fork %d while a thread commits", i);
        fflush(NULL);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(20);
            store_calls_fail(busy, VMSTORE_E_FORKED, "fork");
            all_forked();
            if (i % 8 == 0) {
                char name[64];
                snprintf(name, sizeof name, "busy-child-%d", i);
                a_store_of_its_own(name);
            }
            _exit(0);
        }
        wait_for(child);
        beside++;
        sched_yield();
    }
    ended = 1;
    CHECK(pthread_join(thread, &failure) == 0);
    if (failure) FAIL("the busy thread: %s: %s", (const char *)failure, last_error());
    OK(store_verify(busy, NULL));
    OK(store_close(busy));
}

/* What the header says about a child that reads the modules' memory: private memory stays as it was at the fork,
 * and shared memory is the parent's, with its later writes and restores. */
static void what_a_child_reads(void)
{
    enum { KINDS = 5, BYTES = 4 };
    const uint32_t modes[KINDS] = {VMSTORE_MAP_PRIVATE, VMSTORE_MAP_SHARED, VMSTORE_MAP_MEMFD, VMSTORE_MAP_ADOPT,
                                   VMSTORE_MAP_ADOPT};
    const int shared[KINDS] = {0, 1, 1, 0, 1};
    unsigned char *memory[KINDS];
    vmstore_module *module[KINDS];
    vmstore *own;
    uint64_t first;
    int go[2], done[2];
    size_t length = BYTES * page_size();
    OK(store_open(path_in(directory, "read"), NULL, &own));
    for (int i = 0; i < KINDS; i++) {
        char id[16];
        vmstore_map_options options = VMSTORE_INIT(vmstore_map_options);
        snprintf(id, sizeof id, "m%d", i);
        options.flags = modes[i];
        if (modes[i] == VMSTORE_MAP_ADOPT) {
            int kind = shared[i] ? MAP_SHARED : MAP_PRIVATE;
            options.address = mmap(NULL, length, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS, -1, 0);
            CHECK(options.address != MAP_FAILED);
        }
        OK(store_map_module(own, id, length, &options, &module[i]));
        memory[i] = store_module_address(module[i]);
        memset(memory[i], 1, length);
    }
    OK(store_commit(own, NULL, &first));
    for (int i = 0; i < KINDS; i++) memset(memory[i], 2, length);
    char byte = 0;
    CHECK(pipe(go) == 0 && pipe(done) == 0);
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60);
        for (int round = 0; round < 2; round++) {
            CHECK(read(go[0], &byte, 1) == 1); /* the parent has restored; in the second round it has written */
            for (int i = 0; i < KINDS; i++) {
                trying("a child that reads memory of mode %u", (unsigned)modes[i]);
                CHECK(store_module_address(module[i]) == NULL);
                CHECK(all_bytes_are(memory[i], length, (unsigned char)(!shared[i] ? 2 : round == 0 ? 1 : 3)));
            }
            CHECK(write(done[1], &byte, 1) == 1);
        }
        _exit(0);
    }
    CHECK(close(go[0]) == 0 && close(done[1]) == 0); /* if the child fails, the parent reads the end of the pipe */
    OK(store_restore(own, first, NULL));
    CHECK(write(go[1], &byte, 1) == 1 && read(done[0], &byte, 1) == 1);
    for (int i = 0; i < KINDS; i++) memset(memory[i], 3, length);
    CHECK(write(go[1], &byte, 1) == 1 && read(done[0], &byte, 1) == 1);
    wait_for(child);
    CHECK(close(go[1]) == 0 && close(done[0]) == 0);
    OK(store_close(own));
}

int main(int argc, char **argv)
{
    const char *const ids[MODULES] = {"private", "shared", "compare", "caller"};
    const uint32_t flags[MODULES] = {VMSTORE_MAP_PRIVATE, VMSTORE_MAP_SHARED, VMSTORE_MAP_PRIVATE, VMSTORE_MAP_PRIVATE};
    const uint32_t trackers[MODULES] = {
        VMSTORE_TRACKER_AUTO, VMSTORE_TRACKER_AUTO, VMSTORE_TRACKER_COMPARE, VMSTORE_TRACKER_CALLER};
    uint64_t state = 42;
    CHECK(argc > 1);
    directory = argv[1];
    OK(store_open(path_in(directory, "store"), NULL, &store));
    for (int which = 0; which < MODULES; which++) {
        vmstore_map_options options = {
            .struct_size = sizeof options, .flags = flags[which], .tracker = trackers[which]};
        OK(store_map_module(store, ids[which], PAGES * page_size(), &options, &modules[which]));
        memories[which] = store_module_address(modules[which]);
    }
    write_pages(&state, 40);
    commit_now();
    children_beside_commits(&state);
    with_a_capture(&state);
    while_a_thread_commits();
    what_a_child_reads();
    every_commit_is_exact();
    OK(store_verify(store, NULL));
    OK(store_close(store));
    return finished("%u children, %u beside a busy thread, got VMSTORE_E_FORKED for their parent's handles, and their parent's commits were exact",
                    forks, beside);
}
