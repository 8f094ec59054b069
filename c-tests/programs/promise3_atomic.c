/* Promise 3: all or nothing. Calls are made to fail: by a file size limit at every step of their writing, by a lack
 * of descriptors, by a directory that cannot be changed, by a damaged commit file. After each failure the head, the
 * history, the directory and the memory are unchanged, and the next commit has every dirty page. */
#define _GNU_SOURCE
#include <linux/fs.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "model.h"

#define RAM_SIZE (48 * PAGE)
#define DEV_SIZE (8 * PAGE)

static char directory[4096];
static unsigned failures, successes;

/* What a call that fails must not change, and memory as the model has it. */
typedef struct {
    vmstore *store;
    mapped ram, dev;
    unsigned char *want_ram, *want_dev;
    char *files;
    uint64_t head;
    size_t commits;
} scene;

static void remember(scene *s)
{
    free(s->files);
    s->files = strdup(listing(directory));
    s->head = head(s->store), s->commits = commit_count(s->store);
    memcpy(s->want_ram, s->ram.memory, RAM_SIZE);
    memcpy(s->want_dev, s->dev.memory, DEV_SIZE);
}

static void unchanged(scene *s, const char *what)
{
    same(s->ram.memory, s->want_ram, RAM_SIZE, what);
    same(s->dev.memory, s->want_dev, DEV_SIZE, what);
    CHECK(head(s->store) == s->head && commit_count(s->store) == s->commits);
    const char *now = listing(directory);
    if (strcmp(now, s->files)) FAIL("%s: ls shows\n  %s\ninstead of\n  %s", what, now, s->files);
    CHECK(stats(s->store).poisoned == 0);
    failures++;
}

static scene set(const char *stores, const char *name, uint32_t mode)
{
    scene s = {.want_ram = malloc(RAM_SIZE), .want_dev = malloc(DEV_SIZE)};
    name_directory(directory, stores, name);
    s.store = open_store(directory, 0);
    s.ram = map(s.store, "ram", RAM_SIZE, mode, 0);
    s.dev = map(s.store, "dev", DEV_SIZE, mode, 0);
    fill(s.ram.memory, RAM_SIZE, 1), fill(s.dev.memory, DEV_SIZE, 2);
    CHECK(commit(s.store) == 1);
    OK(store_persist(s.store, NULL));
    return s;
}

/* The pages that are dirty now must be in the next commit. The test commits, restores another commit, restores this
 * one, and compares. */
static void next_commit_is_exact(scene *s, const char *what)
{
    uint64_t number = commit(s->store);
    CHECK(number > s->head && info(s->store, number).parent == s->head);
    OK(store_restore(s->store, 1, NULL));
    OK(store_restore(s->store, number, NULL));
    same(s->ram.memory, s->want_ram, RAM_SIZE, what);
    same(s->dev.memory, s->want_dev, DEV_SIZE, what);
    successes++;
}

static void end(scene *s)
{
    OK(store_verify(s->store, NULL));
    OK(store_close(s->store));
    s->store = open_store(directory, 0); /* recovery finds no leftovers of the failed calls that stop it */
    OK(store_verify(s->store, NULL));
    OK(store_close(s->store));
    free(s->want_ram), free(s->want_dev), free(s->files);
}

static void limit(int resource, rlim_t value)
{
    struct rlimit r;
    CHECK(getrlimit(resource, &r) == 0);
    r.rlim_cur = value < r.rlim_max ? value : r.rlim_max;
    CHECK(setrlimit(resource, &r) == 0);
}

/* The default action of SIGXFSZ ends the process: the signal must not come, neither now nor later. */
static void no_signal_waits(void)
{
    sigset_t set;
    struct sigaction action;
    CHECK(sigpending(&set) == 0 && !sigismember(&set, SIGXFSZ));
    CHECK(sigprocmask(SIG_BLOCK, NULL, &set) == 0 && !sigismember(&set, SIGXFSZ));
    CHECK(sigaction(SIGXFSZ, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
}

static void too_large(int status, const char *what)
{
    if (status != VMSTORE_E_IO || store_last_errno() != EFBIG)
        FAIL("%s: %s, errno %d (%s)", what, store_strerror(status), store_last_errno(), last_error());
    no_signal_waits();
}

static void file_size_limit(const char *stores, uint32_t mode)
{
    scene s = set(stores, mode ? "limit-shared" : "limit-private", mode);
    unsigned failed_commits = 0, failed_persists = 0, failed_restores = 0;
    uint64_t number = 0;
    rng r = {seed()};

    /* With each limit the call can write more before it fails: pages, indexes, footers, the journal. */
    for (rlim_t bytes = 0; bytes < 30 * PAGE; bytes += bytes < 1024 ? 64 : bytes / 4) {
        char what[64];
        snprintf(what, sizeof what, "a limit of %lu bytes", (unsigned long)bytes);
        for (int i = 0; i < 6; i++) fill(s.ram.memory + below(&r, 48) * PAGE, PAGE, next(&r));
        fill(s.dev.memory + below(&r, 8) * PAGE, PAGE, next(&r));
        remember(&s);

        limit(RLIMIT_FSIZE, bytes);
        int status = store_commit(s.store, NULL, &number);
        limit(RLIMIT_FSIZE, RLIM_INFINITY);
        if (status != VMSTORE_OK) {
            too_large(status, what), failed_commits++;
            unchanged(&s, what);
            next_commit_is_exact(&s, what);
        }
        remember(&s);

        limit(RLIMIT_FSIZE, bytes);
        status = store_persist(s.store, NULL);
        limit(RLIMIT_FSIZE, RLIM_INFINITY);
        if (status != VMSTORE_OK) too_large(status, what), failed_persists++;
        unchanged(&s, what);
        if (below(&r, 2)) OK(store_persist(s.store, NULL));

        fill(s.ram.memory + below(&r, 48) * PAGE, PAGE, next(&r));
        remember(&s);
        limit(RLIMIT_FSIZE, bytes);
        status = store_restore(s.store, 1, NULL);
        limit(RLIMIT_FSIZE, RLIM_INFINITY);
        if (status != VMSTORE_OK) {
            too_large(status, what), failed_restores++;
            unchanged(&s, what);
            next_commit_is_exact(&s, what);
        }
        OK(store_restore(s.store, 1, NULL));
    }
    CHECK(failed_commits > 10);

    vmstore_module *other = NULL;
    vmstore_map_options options = {.struct_size = sizeof options, .flags = mode};
    remember(&s);
    limit(RLIMIT_FSIZE, PAGE);
    too_large(store_map_module(s.store, "other", 64 * PAGE, &options, &other), "mapping");
    limit(RLIMIT_FSIZE, RLIM_INFINITY);
    CHECK(other == NULL);
    unchanged(&s, "mapping beyond the limit");
    OK(store_map_module(s.store, "other", 64 * PAGE, &options, &other));
    OK(store_unmap_module(other));
    printf("  file size limit: %u commits, %u persists, %u restores failed\n", failed_commits,
           failed_persists, failed_restores);
    end(&s);
}

/* No descriptor is free: a call does without one or fails, and in both cases the store stays whole. */
static void no_descriptors(const char *stores)
{
    scene s = set(stores, "descriptors", VMSTORE_MAP_PRIVATE);
    rng r = {seed() + 1};
    int lowest = dup(0);
    CHECK(lowest >= 0 && close(lowest) == 0);
    for (int spare = 0; spare < 6; spare++) {
        uint64_t number;
        fill(s.ram.memory + below(&r, 48) * PAGE, PAGE, next(&r));
        fill(s.dev.memory, PAGE, next(&r));
        remember(&s);
        limit(RLIMIT_NOFILE, (rlim_t)(lowest + spare));
        int status = store_commit(s.store, NULL, &number);
        int reason = store_last_errno();
        limit(RLIMIT_NOFILE, RLIM_INFINITY);
        if (status != VMSTORE_OK) {
            if (status != VMSTORE_E_IO || reason != EMFILE)
                FAIL("%s, errno %d: %s", store_strerror(status), reason, last_error());
            unchanged(&s, "a commit without descriptors");
            next_commit_is_exact(&s, "the commit after it");
        }
        fill(s.ram.memory + PAGE, PAGE, next(&r));
        remember(&s);
        limit(RLIMIT_NOFILE, (rlim_t)(lowest + spare));
        status = store_restore(s.store, 1, NULL);
        limit(RLIMIT_NOFILE, RLIM_INFINITY);
        if (status != VMSTORE_OK) {
            CHECK(status == VMSTORE_E_IO);
            unchanged(&s, "a restore without descriptors");
            next_commit_is_exact(&s, "the commit after it");
        }
    }
    end(&s);
}

/* ---- a directory in which nothing can be made ---- */

static int immutable(int on)
{
    int flags, fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), done = -1;
    if (fd >= 0 && ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags = on ? flags | FS_IMMUTABLE_FL : flags & ~FS_IMMUTABLE_FL;
        done = ioctl(fd, FS_IOC_SETFLAGS, &flags);
    }
    if (fd >= 0) close(fd);
    return done;
}

static void mutable_again(void)
{
    immutable(0);
}

static void unwritable_directory(const char *stores)
{
    scene s = set(stores, "unwritable", VMSTORE_MAP_PRIVATE);
    int root = geteuid() == 0; /* file modes do not stop root */
    atexit(mutable_again);     /* otherwise the directory could not be removed */
    for (int i = 0; i < 3; i++) {
        uint64_t number;
        vmstore_module *other;
        fill(s.ram.memory + (size_t)(3 + i) * PAGE, 2 * PAGE, (uint64_t)i + 9);
        remember(&s);
        if (root ? immutable(1) : chmod(directory, 0500)) {
            printf("  unwritable directory: not tried: %s\n", strerror(errno));
            break;
        }
        int status = store_commit(s.store, NULL, &number);
        if (status != VMSTORE_E_IO && status != VMSTORE_E_READ_ONLY)
            FAIL("%s: %s", store_strerror(status), status ? last_error() : "");
        unchanged(&s, "a commit in an unwritable directory");
        status = store_restore(s.store, 1, NULL);
        if (status != VMSTORE_OK) unchanged(&s, "a restore in an unwritable directory");
        CHECK(store_map_module(s.store, "other", PAGE, NULL, &other) != VMSTORE_OK);
        CHECK((root ? immutable(0) : chmod(directory, 0700)) == 0);
        if (status == VMSTORE_OK) continue;
        next_commit_is_exact(&s, "the commit after it");
    }
    end(&s);
}

/* ---- a restore that meets damage ---- */

static void flip(const char *file, off_t offset)
{
    unsigned char byte;
    int fd = open(path_in(directory, file), O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0 && pread(fd, &byte, 1, offset) == 1);
    byte ^= 0x10;
    CHECK(pwrite(fd, &byte, 1, offset) == 1 && close(fd) == 0);
}

static void damaged_target(const char *stores, uint32_t mode)
{
    scene s = set(stores, mode ? "damaged-shared" : "damaged-private", mode);
    fill(s.ram.memory + 4 * PAGE, 6 * PAGE, 21), fill(s.dev.memory + PAGE, PAGE, 22);
    CHECK(commit(s.store) == 2);
    fill(s.ram.memory + 2 * PAGE, 9 * PAGE, 31), fill(s.dev.memory + PAGE, 2 * PAGE, 32);
    CHECK(commit(s.store) == 3);
    for (off_t page = 0; page < 6; page++) {
        off_t at = page * (off_t)PAGE + page * 100;
        fill(s.ram.memory + 20 * PAGE + PAGE * (size_t)page, PAGE, 41 + (uint64_t)page);
        s.dev.memory[7 * PAGE] += 3;
        remember(&s);
        flip("ram_Commit2", at);
        FAILS(store_restore(s.store, 2, NULL), VMSTORE_E_CORRUPT, "ram_Commit2");
        unchanged(&s, "a restore that met damage");
        flip("ram_Commit2", at);
        next_commit_is_exact(&s, "the commit after a restore that met damage");
        OK(store_restore(s.store, 2, NULL)); /* after the repair the commit can be restored */
        OK(store_restore(s.store, 3, NULL));
    }
    flip("dev_Commit2", 5); /* damage to one module also keeps the other module from moving */
    remember(&s);
    FAILS(store_restore(s.store, 2, NULL), VMSTORE_E_CORRUPT, "dev_Commit2");
    unchanged(&s, "damage in the other module");
    OK(store_restore(s.store, 1, NULL));
    flip("dev_Commit2", 5);
    end(&s);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("promise3_atomic");
    signal(SIGXFSZ, SIG_DFL);
    file_size_limit(arguments[1], VMSTORE_MAP_PRIVATE);
    file_size_limit(arguments[1], VMSTORE_MAP_SHARED);
    no_descriptors(arguments[1]);
    unwritable_directory(arguments[1]);
    damaged_target(arguments[1], VMSTORE_MAP_PRIVATE);
    damaged_target(arguments[1], VMSTORE_MAP_SHARED);
    printf("promise 3: seed %" PRIu64 ": %u failed calls changed nothing, %u commits after them exact\n",
           seed(), failures, successes);
    return 0;
}
