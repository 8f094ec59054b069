/* Who may open a store that is already open: no second writer, neither in this process nor in another; readers
 * beside the writer; and any process as soon as the owner is dead, also while a fork of the owner lives on. */
#include "misuse.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

static const char *directory;
static unsigned locked, taken_over;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Refused, and without waiting. */
static void is_locked(const char *path)
{
    vmstore *store = SENTINEL_POINTER(vmstore);
    double start = seconds();
    FAILS(store_open(path, NULL, &store), VMSTORE_E_LOCKED, "store");
    if (seconds() - start > 2.0) FAIL("it took %.1f s to say so", seconds() - start);
    CHECK(store == SENTINEL_POINTER(vmstore));
    locked++;
}

static void wait_for(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) FAIL("the child ended with %#x", status);
}

static pid_t start(void)
{
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    return child;
}

static void second_openers(void)
{
    const char *path = path_in(directory, "store");
    const char *link = path_in(directory, "link");
    vmstore *store, *again;
    vmstore_open_options salvage = {.struct_size = sizeof salvage, .flags = VMSTORE_OPEN_SALVAGE};
    trying("a second opener in this process");
    OK(store_open(path, NULL, &store));
    CHECK(symlink("store", link) == 0);
    for (int i = 0; i < 3; i++) is_locked(path);
    is_locked(link);
    is_locked(path_in(directory, "./store/../store/"));
    /* A salvaging opener writes nothing: it may be let in, but only as a reader. */
    int status = store_open(path, &salvage, &again);
    if (status == VMSTORE_OK) {
        uint64_t commit = SENTINEL;
        FAILS(store_commit(again, NULL, &commit), VMSTORE_E_READ_ONLY, "read");
        OK(store_close(again));
    } else {
        CHECK(status == VMSTORE_E_LOCKED);
    }
    is_locked(path);

    trying("a second opener in another process");
    pid_t child = start();
    if (child == 0) {
        is_locked(path);
        fflush(NULL);
        _exit(0);
    }
    wait_for(child);
    locked++;
    trying("the first opener after the others were refused");
    is_locked(path);
    OK(store_close(store));
    OK(store_open(path, NULL, &store));
    is_locked(path);
    OK(store_close(store));
    trying("opening in another process after closing in this one");
    child = start();
    if (child == 0) {
        OK(store_open(path, NULL, &store));
        OK(store_close(store));
        fflush(NULL);
        _exit(0);
    }
    wait_for(child);
}

static void reader_checks(vmstore *reader, int expected)
{
    vmstore_module *module, *other = SENTINEL_POINTER(vmstore_module);
    vmstore_capture *capture = SENTINEL_POINTER(vmstore_capture);
    vmstore_stats stats = {.struct_size = sizeof stats};
    vmstore_map_options shared = {.struct_size = sizeof shared, .flags = VMSTORE_MAP_SHARED};
    uint64_t commit = SENTINEL, head = 0;
    FAILS(store_map_module(reader, "new", page_size(), NULL, &other), VMSTORE_E_READ_ONLY, "new");
    FAILS(store_map_module(reader, "ram", 0, &shared, &other), VMSTORE_E_READ_ONLY, "ram");
    CHECK(other == SENTINEL_POINTER(vmstore_module));
    OK(store_map_module(reader, "ram", 0, NULL, &module));
    unsigned char *memory = store_module_address(module);
    CHECK(all_bytes_are(memory, page_size(), expected));
    memset(memory, 0xEE, page_size());
    FAILS(store_commit(reader, NULL, &commit), VMSTORE_E_READ_ONLY, "read");
    FAILS(store_capture(reader, NULL, &capture), VMSTORE_E_READ_ONLY, "read");
    FAILS(store_persist(reader, NULL), VMSTORE_E_READ_ONLY, "read");
    CHECK(commit == SENTINEL && capture == SENTINEL_POINTER(vmstore_capture));
    OK(store_restore(reader, 1, NULL));
    CHECK(all_bytes_are(memory, page_size(), 1));
    OK(store_head(reader, &head));
    CHECK(head == 1);
    OK(store_stats(reader, &stats));
    CHECK(stats.read_only == 1);
    OK(store_verify(reader, NULL));
}

static void readers(void)
{
    const char *path = path_in(directory, "read");
    vmstore *writer, *reader, *second;
    vmstore_module *module;
    vmstore_open_options options = {.struct_size = sizeof options, .flags = VMSTORE_OPEN_READ_ONLY};
    uint64_t commit = 0, head = 0;
    trying("readers beside a writer");
    OK(store_open(path, NULL, &writer));
    OK(store_map_module(writer, "ram", page_size(), NULL, &module));
    unsigned char *memory = store_module_address(module);
    for (int i = 1; i <= 3; i++) {
        memset(memory, i, page_size());
        OK(store_commit(writer, NULL, &commit));
        if (i == 2) OK(store_persist(writer, NULL));
    }
    OK(store_open(path, &options, &reader));
    OK(store_open(path, &options, &second));
    reader_checks(reader, 3);
    trying("the writer beside readers that restored and wrote");
    CHECK(all_bytes_are(memory, page_size(), 3));
    memset(memory, 4, page_size());
    OK(store_commit(writer, NULL, &commit));
    CHECK(commit == 4);
    OK(store_persist(writer, NULL));
    OK(store_head(second, &head));
    CHECK(head == 3 || head == 4);
    OK(store_close(reader));
    is_locked(path);
    trying("a reader in another process");
    pid_t child = start();
    if (child == 0) {
        OK(store_open(path, &options, &reader));
        reader_checks(reader, 4);
        OK(store_close(reader));
        fflush(NULL);
        _exit(0);
    }
    wait_for(child);
    OK(store_restore(writer, 3, NULL));
    CHECK(all_bytes_are(memory, page_size(), 3));
    OK(store_close(writer));

    trying("a writer beside a reader");
    OK(store_open(path, NULL, &writer));
    OK(store_head(writer, &head));
    CHECK(head == 3);
    OK(store_close(second));
    OK(store_close(writer));
}

/* The owner: opens the store, commits twice, reports its process id, and waits to be killed. With `fork_too` a fork
 * of the owner reports its own id, and lives on. */
static void own(const char *path, int fork_too, int report)
{
    vmstore *store;
    vmstore_module *module;
    uint64_t commit = 0;
    OK(store_open(path, NULL, &store));
    OK(store_map_module(store, "ram", 2 * page_size(), NULL, &module));
    unsigned char *memory = store_module_address(module);
    memset(memory, 1, 2 * page_size());
    OK(store_commit(store, NULL, &commit));
    OK(store_persist(store, NULL));
    memset(memory, 2, page_size());
    OK(store_commit(store, NULL, &commit));
    memset(memory, 3, page_size()); /* never committed */
    pid_t number = getpid();
    if (fork_too) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child > 0)
            for (;;) pause();
        number = getpid(); /* the child itself reports: then fork has returned in the child too */
        alarm(60);
    }
    CHECK(write(report, &number, sizeof number) == sizeof number);
    for (;;) pause();
}

static void after_the_owner_was_killed(int round, int fork_too)
{
    char name[32];
    int report[2];
    pid_t reporter = 0;
    snprintf(name, sizeof name, "killed-%d", round);
    const char *path = path_in(directory, name);
    CHECK(pipe2(report, O_CLOEXEC) == 0);
    trying("opening after SIGKILL of the owner%s", fork_too ? ", of which a fork lives on" : "");
    pid_t owner = start();
    if (owner == 0) {
        alarm(60);
        own(path, fork_too, report[1]);
        _exit(1);
    }
    CHECK(close(report[1]) == 0);
    CHECK(read(report[0], &reporter, sizeof reporter) == sizeof reporter && reporter > 0);
    CHECK(fork_too ? reporter != owner : reporter == owner);
    is_locked(path);
    CHECK(kill(owner, SIGKILL) == 0);
    int status;
    CHECK(waitpid(owner, &status, 0) == owner && WIFSIGNALED(status));
    if (fork_too) CHECK(kill(reporter, 0) == 0);

    vmstore *store;
    vmstore_module *module;
    uint64_t commit = 0;
    OK(store_open(path, NULL, &store));
    OK(store_head(store, &commit));
    CHECK(commit == 2);
    OK(store_map_module(store, "ram", 0, NULL, &module));
    unsigned char *memory = store_module_address(module);
    CHECK(all_bytes_are(memory, page_size(), 2) && all_bytes_are(memory + page_size(), page_size(), 1));
    is_locked(path);
    memory[0] = 4;
    OK(store_commit(store, NULL, &commit));
    CHECK(commit == 3);
    if (fork_too) {
        CHECK(kill(reporter, 0) == 0); /* it is still alive: its death did not free the lock */
        CHECK(kill(reporter, SIGKILL) == 0);
        trying("the new owner after the end of the old one's fork");
        is_locked(path);
    }
    OK(store_restore(store, 1, NULL));
    CHECK(all_bytes_are(memory, 2 * page_size(), 1));
    OK(store_close(store));
    CHECK(close(report[0]) == 0);
    taken_over++;
}

/* A fork that lives on does not keep the store open after the owner has closed it. Closing releases the lock
 * itself. It does not depend on handlers that run in a forked child: a bare clone skips them. */
static void after_the_owner_closed(int bare)
{
    const char *path = path_in(directory, bare ? "closed-bare" : "closed");
    vmstore *store;
    char byte = 0;
    int report[2];
    trying("opening after closing, while a %s made in between lives on", bare ? "bare clone" : "fork");
    CHECK(pipe2(report, O_CLOEXEC) == 0);
    OK(store_open(path, NULL, &store));
    fflush(NULL);
    pid_t child = bare ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60);
        if (write(report[1], &byte, 1) != 1) _exit(1);
        for (;;) pause();
    }
    CHECK(read(report[0], &byte, 1) == 1);
    is_locked(path);
    OK(store_close(store));
    OK(store_open(path, NULL, &store));
    is_locked(path);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    is_locked(path);
    OK(store_close(store));
    CHECK(close(report[0]) == 0 && close(report[1]) == 0);
    taken_over++;
}

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    directory = argv[1];
    second_openers();
    readers();
    for (int round = 0; round < 10; round++) after_the_owner_was_killed(round, round >= 5);
    after_the_owner_closed(0);
    after_the_owner_closed(1);
    return finished("%u second openers refused, %u stores taken over", locked, taken_over);
}
