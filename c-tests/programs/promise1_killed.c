/* Promise 1: a killed process loses nothing committed. A child commits, persists, restores, deletes and compacts.
 * Through a pipe it says what it begins and what has returned. SIGKILL kills it at random moments. Every commit
 * that returned must be there with its exact bytes, and every deleted commit must be gone. A commit or deletion
 * that was under way must be there whole or not at all. The head must be the last one that returned, or the one
 * that was under way. */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>

#include "model.h"

#define RAM_PAGES 256
#define ALL_PAGES (RAM_PAGES + 16)
enum { MOST_COMMITS = 8192 };

/* What goes through the pipe. A commit's bytes follow from its parent and its tag. */
typedef struct {
    enum { READY, BEGIN_COMMIT, BEGIN_RESTORE, BEGIN_PERSIST, BEGIN_DELETE, BEGIN_COMPACT, DONE } what;
    uint64_t tag, number; /* the target of a restore or deletion; with DONE, what the call returned */
} message;

/* The model of one store: the commits by number. `exists` is set only for a commit that was acknowledged or found
 * whole, and not deleted. */
static struct {
    int exists;
    uint64_t parent, tag; /* the commit that it was made on, which may be deleted */
} known[MOST_COMMITS];
static uint64_t model_head;

static unsigned long kills, acknowledged, restores_seen, persists_seen, deletions_seen, compactions_seen, found_whole,
    found_absent, found_deleted, compared;

/* The pages that a commit writes, and their contents. */
static size_t pages_of(uint64_t tag, size_t pages[16])
{
    rng r = {tag};
    size_t count = 1 + below(&r, 12);
    for (size_t i = 0; i < count; i++) pages[i] = below(&r, ALL_PAGES);
    return count;
}

static void write_page(unsigned char *page, uint64_t tag, size_t number)
{
    if ((tag ^ number) % 11 == 0) memset(page, 0, PAGE);
    else fill(page, PAGE, tag * ALL_PAGES + number);
}

/* The whole of both modules at a commit: goes up the chain of parents, and takes each page from the newest writer. */
static void bytes_of(uint64_t commit, unsigned char *all)
{
    unsigned char have[ALL_PAGES] = {0};
    memset(all, 0, ALL_PAGES * PAGE);
    for (uint64_t n = commit; n; n = known[n].parent) {
        size_t pages[16], count = pages_of(known[n].tag, pages);
        for (size_t i = 0; i < count; i++) {
            if (have[pages[i]]) continue;
            have[pages[i]] = 1;
            write_page(all + pages[i] * PAGE, known[n].tag, pages[i]);
        }
    }
}

typedef struct {
    vmstore *store;
    unsigned char *ram, *dev;
} machine;

static machine start(const char *directory, uint32_t mode)
{
    machine m = {.store = open_store(directory, 0)};
    m.ram = map(m.store, "ram", RAM_PAGES * PAGE, mode, 0).memory;
    m.dev = map(m.store, "dev", (ALL_PAGES - RAM_PAGES) * PAGE, mode, 0).memory;
    return m;
}

static void report(int fd, message m)
{
    CHECK(write(fd, &m, sizeof m) == sizeof m); /* below PIPE_BUF: written whole or not at all */
}

static void child(const char *directory, uint32_t mode, uint64_t content, int fd)
{
    rng r = {content};
    machine m = start(directory, mode);
    uint64_t commits[MOST_COMMITS], number;
    size_t count, pages[16];
    report(fd, (message){READY, 0, 0});
    OK(store_list_commits(m.store, commits, MOST_COMMITS, &count));
    uint64_t now = head(m.store);
    for (;;) {
        uint64_t kind = below(&r, 16), tag = next(&r);
        if (kind == 0 && count) {
            number = commits[below(&r, count)];
            report(fd, (message){BEGIN_RESTORE, 0, number});
            OK(store_restore(m.store, number, NULL));
            report(fd, (message){DONE, 0, number});
            now = number;
        } else if (kind == 3 && count > 1) {
            size_t at = below(&r, count);
            number = commits[at];
            if (number == now) continue;
            report(fd, (message){BEGIN_DELETE, 0, number});
            OK(store_delete_commit(m.store, number));
            report(fd, (message){DONE, 0, number});
            memmove(commits + at, commits + at + 1, (--count - at) * sizeof *commits);
        } else if (kind == 4 && tag % 4 == 0) {
            report(fd, (message){BEGIN_COMPACT, 0, 0});
            OK(store_compact(m.store, NULL));
            report(fd, (message){DONE, 0, 0});
        } else if (kind <= 2) {
            report(fd, (message){BEGIN_PERSIST, 0, 0});
            OK(store_persist(m.store, NULL));
            report(fd, (message){DONE, 0, 0});
        } else {
            size_t writes = pages_of(tag, pages);
            for (size_t i = 0; i < writes; i++) {
                size_t page = pages[i];
                write_page(page < RAM_PAGES ? m.ram + page * PAGE : m.dev + (page - RAM_PAGES) * PAGE,
                           tag, page);
            }
            /* With the label there is a commit even if the writes changed nothing. */
            vmstore_commit_options options = {.struct_size = sizeof options, .label = "k"};
            report(fd, (message){BEGIN_COMMIT, tag, 0});
            OK(store_commit(m.store, &options, &number));
            report(fd, (message){DONE, tag, number});
            CHECK(count < MOST_COMMITS);
            commits[count++] = now = number;
        }
    }
}

static void check_commit(const machine *m, uint64_t commit)
{
    static unsigned char want[ALL_PAGES * PAGE];
    char what[64];
    snprintf(what, sizeof what, "commit %" PRIu64 " after a kill", commit);
    OK(store_restore(m->store, commit, NULL));
    bytes_of(commit, want);
    same(m->ram, want, RAM_PAGES * PAGE, what);
    same(m->dev, want + RAM_PAGES * PAGE, (ALL_PAGES - RAM_PAGES) * PAGE, what);
    uint64_t parent = known[commit].parent;
    while (parent && !known[parent].exists) parent = known[parent].parent;
    CHECK(info(m->store, commit).parent == parent);
    model_head = commit;
    compared++;
}

static void learn(uint64_t number, uint64_t parent, uint64_t tag)
{
    CHECK(number > 0 && number < MOST_COMMITS && !known[number].exists && !known[number].tag);
    known[number].exists = 1, known[number].parent = parent, known[number].tag = tag;
}

/* Opens what the kill left behind, and compares it with what was acknowledged. */
static void check_after_kill(rng *r, const char *directory, uint32_t mode, int fd)
{
    static uint64_t commits[MOST_COMMITS];
    message m, begun = {.what = READY};
    while (read(fd, &m, sizeof m) == sizeof m) {
        if (m.what != DONE) {
            begun = m;
            continue;
        }
        if (begun.what == BEGIN_COMMIT) learn(m.number, model_head, m.tag), acknowledged++;
        if (begun.what == BEGIN_RESTORE) restores_seen++;
        if (begun.what == BEGIN_PERSIST) persists_seen++;
        if (begun.what == BEGIN_COMPACT) compactions_seen++;
        if (begun.what == BEGIN_DELETE) known[m.number].exists = 0, deletions_seen++;
        if (begun.what == BEGIN_COMMIT || begun.what == BEGIN_RESTORE) model_head = m.number;
        begun = m;
    }

    machine now = {.store = open_store(directory, 0)};
    uint64_t found_head = head(now.store), fresh = 0;
    size_t count;
    OK(store_list_commits(now.store, commits, MOST_COMMITS, &count));
    CHECK(count <= MOST_COMMITS);
    if (begun.what == BEGIN_DELETE) {
        int there = 0;
        for (size_t i = 0; i < count; i++) there |= commits[i] == begun.number;
        known[begun.number].exists = there;
        found_deleted += !there;
    }
    size_t expected = 0;
    for (uint64_t n = 1; n < MOST_COMMITS; n++) expected += (size_t)known[n].exists;
    for (size_t i = 0; i < count; i++) {
        if (known[commits[i]].exists) {
            expected--;
        } else {
            if (fresh || begun.what != BEGIN_COMMIT)
                FAIL("commit %" PRIu64 " exists, but was never begun", commits[i]);
            fresh = commits[i];
        }
    }
    if (expected) FAIL("%zu acknowledged commits are missing after kill %lu", expected, kills);
    if (fresh) {
        learn(fresh, model_head, begun.tag);
        found_whole++;
    } else if (begun.what == BEGIN_COMMIT) {
        found_absent++;
    }
    int head_is_new = (fresh && found_head == fresh) ||
                      (begun.what == BEGIN_RESTORE && found_head == begun.number);
    if (found_head != model_head && !head_is_new)
        FAIL("the head is %" PRIu64 " instead of %" PRIu64 " (under way: %d)", found_head, model_head,
             (int)begun.what);
    if (fresh && found_head != fresh) FAIL("commit %" PRIu64 " is there, but it is not the head", fresh);
    model_head = found_head;

    /* The head is checked by mapping. The newest few and some other commits are checked by restoring. */
    uint32_t eager = below(r, 2) ? VMSTORE_MAP_EAGER : 0;
    now.ram = map(now.store, "ram", RAM_PAGES * PAGE, mode | eager, 0).memory;
    now.dev = map(now.store, "dev", (ALL_PAGES - RAM_PAGES) * PAGE, mode | eager, 0).memory;
    if (model_head) check_commit(&now, model_head);
    for (size_t i = 0; i < 2 && count; i++) check_commit(&now, commits[below(r, count)]);
    if (count > 1) check_commit(&now, commits[count - 2]);
    if (count) check_commit(&now, commits[count - 1]);
    OK(store_close(now.store));
}

static void one_kill(rng *r, const char *directory, uint32_t mode)
{
    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    uint64_t content = next(r);
    int from_the_fork = below(r, 4) == 0;
    useconds_t life = (useconds_t)below(r, slow() ? 1500000 : from_the_fork ? 30000 : 15000);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends[0]);
        child(directory, mode, content, ends[1]);
    }
    close(ends[1]);
    /* In one life of four the time counts from the fork: the child may be killed while it opens the store. */
    struct pollfd opened = {.fd = ends[0], .events = POLLIN};
    if (!from_the_fork) CHECK(poll(&opened, 1, 60000) == 1);
    usleep(life);
    int status;
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, &status, 0) == pid);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) FAIL("the child ended with %d", status);
    kills++;
    check_after_kill(r, directory, mode, ends[0]);
    close(ends[0]);
}

/* Most stores are in memory. Calls take microseconds there, so a short life has many calls and kills hit every
 * place. The other stores are in the caller's directory, which is usually on a disk. */
static char in_memory[] = "/dev/shm/vmstore-promise1-XXXXXX";

static void remove_all(char *directory)
{
    extern char **environ;
    char *arguments[] = {"rm", "-rf", directory, NULL};
    pid_t child;
    if (posix_spawnp(&child, "rm", NULL, NULL, arguments, environ) == 0) waitpid(child, NULL, 0);
}

static void remove_in_memory(void)
{
    remove_all(in_memory);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("promise1_killed");
    int have_memory = mkdtemp(in_memory) != NULL;
    if (have_memory) atexit(remove_in_memory);
    rng r = {seed()};
    unsigned wanted = slow() ? 20 : brief() ? 60 : 2000 * longer();
    /* 50 kills for each store: a fast machine makes some thousands of commits in that time. */
    unsigned stores = wanted > 500 ? wanted / 50 : 10;
    for (unsigned s = 0; s < stores; s++) {
        char directory[4096], name[32];
        uint32_t mode = s % 2 ? VMSTORE_MAP_SHARED : VMSTORE_MAP_PRIVATE;
        snprintf(name, sizeof name, "store%u", s);
        name_directory(directory, s >= 2 && have_memory ? in_memory : arguments[1], name);
        memset(known, 0, sizeof known);
        model_head = 0;
        while (kills < (unsigned long)wanted * (s + 1) / stores) one_kill(&r, directory, mode);

        machine end = start(directory, mode);
        for (uint64_t n = 1; n < MOST_COMMITS; n++)
            if (known[n].exists) check_commit(&end, n);
        OK(store_verify(end.store, NULL));
        OK(store_close(end.store));
        remove_all(directory);
    }
    printf("promise 1: seed %" PRIu64 ": %lu kills, %lu commits acknowledged and 0 lost, %lu persists, %lu restores, "
           "%lu deletions, %lu compactions; under way: %lu whole, %lu absent, %lu deleted; %lu commits compared byte for byte\n",
           seed(), kills, acknowledged, persists_seen, restores_seen, deletions_seen, compactions_seen, found_whole,
           found_absent, found_deleted, compared);
    CHECK(wanted < 1000 || (deletions_seen > 100 && compactions_seen > 20));
    return 0;
}
