/* Two stores in one process do not affect each other: modules of the same name, errors, an outstanding capture, a
 * failed sync that poisons, and a close belong to one store alone. Children do all that a child can do to what it
 * inherited - write, unmap, close every descriptor, exec, exit - and their parent's store must not change. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "misuse.h"
#include "needs.h"
#include "sandbox.h"

enum { PAGES = 64 };

typedef struct {
    vmstore *store;
    vmstore_module *module;
    unsigned char *memory;
    uint64_t last;
    unsigned char now;
} side;

static const char *directory;
static unsigned checks, children;

static void begin(side *s, const char *name, uint32_t mode)
{
    vmstore_map_options options = {.struct_size = sizeof options, .flags = mode};
    OK(store_open(path_in(directory, name), NULL, &s->store));
    OK(store_map_module(s->store, "ram", PAGES * page_size(), &options, &s->module));
    s->memory = store_module_address(s->module);
}

/* Writes all pages, commits, and restores the commit before exactly. */
static void works(side *s, unsigned char byte)
{
    uint64_t number;
    memset(s->memory, byte, PAGES * page_size());
    OK(store_commit(s->store, NULL, &number));
    if (s->last) {
        OK(store_restore(s->store, s->last, NULL));
        CHECK(all_bytes_are(s->memory, PAGES * page_size(), s->now));
        OK(store_restore(s->store, number, NULL));
    }
    CHECK(all_bytes_are(s->memory, PAGES * page_size(), byte));
    s->last = number, s->now = byte;
    checks++;
}

/* In a thread whose syncs fail, because a filter makes them fail. */
static void *persist_on_a_broken_disk(void *argument)
{
    static sandbox s;
    const side *a = argument;
    sandbox_begin(&s, SECCOMP_RET_ALLOW);
    sandbox_rule(&s, (sandbox_call){SYS_fdatasync, -1, 0}, SECCOMP_RET_ERRNO | EIO);
    sandbox_enter(&s);
    FAILS(store_persist(a->store, NULL), VMSTORE_E_IO, "fdatasync");
    return NULL;
}

static void two_stores(void)
{
    side a = {0}, b = {0};
    uint64_t number;
    pthread_t thread;
    vmstore_capture *capture;
    begin(&a, "a", VMSTORE_MAP_PRIVATE);
    begin(&b, "b", VMSTORE_MAP_SHARED);
    works(&a, 1), works(&b, 2), works(&a, 3), works(&b, 4);

    trying("a capture of one store");
    memset(a.memory, 5, PAGES * page_size());
    OK(store_capture(a.store, NULL, &capture));
    FAILS(store_commit(a.store, NULL, &number), VMSTORE_E_BUSY, "capture");
    works(&b, 6);
    OK(store_capture_commit(capture, &a.last));
    a.now = 5;
    works(&a, 7);

    trying("an error of one store");
    FAILS(store_restore(a.store, 99, NULL), VMSTORE_E_NOT_FOUND, "/a:");
    works(&b, 8);
    FAILS(store_restore(b.store, 99, NULL), VMSTORE_E_NOT_FOUND, "/b:");

    if (have("a failed sync", sandbox_why_not())) {
        trying("a poisoned store beside another");
        CHECK(pthread_create(&thread, NULL, persist_on_a_broken_disk, &a) == 0 && pthread_join(thread, NULL) == 0);
        vmstore_stats stats = {.struct_size = sizeof stats};
        OK(store_stats(a.store, &stats));
        CHECK(stats.poisoned);
        FAILS(store_commit(a.store, NULL, &number), VMSTORE_E_POISONED, "");
        works(&b, 9);
        OK(store_persist(b.store, NULL));
        OK(store_stats(b.store, &stats));
        CHECK(!stats.poisoned);
    }
    trying("a closed store beside another");
    OK(store_close(a.store));
    works(&b, 10);
    store_calls_fail(a.store, VMSTORE_E_HANDLE, "store");
    a.last = 0;
    begin(&a, "a", VMSTORE_MAP_PRIVATE);
    works(&a, 11), works(&b, 12);
    OK(store_verify(a.store, NULL));
    OK(store_close(b.store));
    works(&a, 13);
    OK(store_close(a.store));
}

/* ---- children ---- */

static void child_writes(const side *s) { memset(s->memory, 0xEE, PAGES * page_size()); }

static void child_unmaps(const side *s) { CHECK(munmap(s->memory, PAGES * page_size()) == 0); }

static void child_discards(const side *s) { CHECK(madvise(s->memory, PAGES * page_size(), MADV_DONTNEED) == 0); }

static void child_closes_all(const side *s)
{
    (void)s;
    for (int fd = 3; fd < 256; fd++) close(fd);
}

static void child_uses_handles(const side *s)
{
    store_calls_fail(s->store, VMSTORE_E_FORKED, "fork");
    module_calls_fail(s->module, VMSTORE_E_FORKED, "fork");
}

static void child_execs(const side *s)
{
    (void)s;
    execl("/bin/sh", "sh", "-c", "for f in /proc/self/fd/*; do readlink $f; done | grep -q -e pagemap -e userfault -e vmstore && exit 9; exit 0",
          (char *)NULL);
    _exit(8);
}

static void child_exits(const side *s)
{
    (void)s;
    trying_text[0] = 0;
    exit(0);
}

static void hostile_children(const char *name, uint32_t mode)
{
    void (*const all[])(const side *) = {child_writes,       child_unmaps, child_discards, child_closes_all,
                                         child_uses_handles, child_execs,  child_exits};
    side s = {0};
    begin(&s, name, mode);
    works(&s, 1);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i] == child_writes && mode != VMSTORE_MAP_PRIVATE) continue; /* shared memory is shared */
        trying("child %zu of %s", i, name);
        memset(s.memory, (int)(100 + i), 8 * page_size()); /* written before, */
        fflush(NULL);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(60);
            all[i](&s);
            _exit(0);
        }
        memset(s.memory + 8 * page_size(), (int)(100 + i), 8 * page_size()); /* while, */
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        if (status) FAIL("the child ended with %#x", status);
        memset(s.memory + 16 * page_size(), (int)(100 + i), (PAGES - 16) * page_size()); /* and after it lived */
        uint64_t number;
        OK(store_commit(s.store, NULL, &number));
        OK(store_restore(s.store, s.last, NULL));
        CHECK(all_bytes_are(s.memory, PAGES * page_size(), s.now));
        OK(store_restore(s.store, number, NULL));
        CHECK(all_bytes_are(s.memory, PAGES * page_size(), (int)(100 + i)));
        s.last = number, s.now = (unsigned char)(100 + i);
        children++;
    }
    OK(store_persist(s.store, NULL));
    OK(store_verify(s.store, NULL));
    OK(store_close(s.store));
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    directory = arguments[1];
    two_stores();
    hostile_children("private", VMSTORE_MAP_PRIVATE);
    hostile_children("shared", VMSTORE_MAP_SHARED);
    hostile_children("memfd", VMSTORE_MAP_MEMFD);
    return finished("two stores of one process: %u commits undisturbed; %u hostile children, and the commits of their parent were exact", checks,
                    children);
}
