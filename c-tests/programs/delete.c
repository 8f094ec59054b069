/* Deleting: a branching history of 200 commits of three modules is deleted commit by commit, in random orders. No
 * deletion changes what another commit restores, in place or in a fresh opener. None writes more than twice the
 * bytes that its commit wrote. Deleting a leaf frees exactly the leaf's blocks. The head cannot be deleted. A model
 * holds the full bytes of every commit. VMSTORE_ORDERS is the number of orders that are tried. */
#define _GNU_SOURCE
#include "model.h"

enum { COMMITS = 200, MODULES = 3 };

static const char *const names[MODULES] = {"ram", "dev", "rom"};
static const size_t sizes[MODULES] = {24 * PAGE, 6 * PAGE, 2 * PAGE};

static struct {
    unsigned char *now[MODULES], *at[COMMITS + 1][MODULES];
    uint64_t parent[COMMITS + 1], cost[COMMITS + 1];
} model;

static unsigned long deletions, restores, most_percent;

static void write_pages(rng *r, mapped *modules, int module)
{
    size_t pages = sizes[module] / PAGE, length = 1 + below(r, pages / 4 + 1);
    size_t first = below(r, pages - length + 1);
    for (size_t page = first; page < first + length; page++) {
        unsigned char *to = model.now[module] + page * PAGE;
        if (below(r, 8) == 0) memset(to, 0, PAGE);
        else fill(to, PAGE, next(r));
        memcpy(modules[module].memory + page * PAGE, to, PAGE);
    }
}

static void map_all(vmstore *store, mapped *modules, int known)
{
    for (int m = 0; m < MODULES; m++)
        modules[m] = map(store, names[m], known ? 0 : sizes[m], 0, VMSTORE_TRACKER_AUTO);
}

static void compare(const mapped *modules, uint64_t commit, const char *where)
{
    char what[128];
    for (int m = 0; m < MODULES; m++) {
        snprintf(what, sizeof what, "%s: %s at commit %" PRIu64, where, names[m], commit);
        same(modules[m].memory, model.at[commit][m], sizes[m], what);
    }
    restores++;
}

static void make_master(const char *directory)
{
    rng r = {seed()};
    mapped modules[MODULES];
    vmstore *store = open_store(directory, 0);
    map_all(store, modules, 0);
    for (uint64_t n = 1; n <= COMMITS; n++) {
        uint64_t at = head(store);
        if (n > 1 && below(&r, 4) == 0) {
            at = 1 + below(&r, n - 1);
            OK(store_restore(store, at, NULL));
            for (int m = 0; m < MODULES; m++) memcpy(model.now[m], model.at[at][m], sizes[m]);
        }
        write_pages(&r, modules, 0);
        if (below(&r, 2)) write_pages(&r, modules, 1);
        if (n == 1 || below(&r, 20) == 0) write_pages(&r, modules, 2);
        memcpy(model.now[0], &n, sizeof n);
        memcpy(modules[0].memory, &n, sizeof n);
        uint64_t before = stats(store).bytes_written;
        CHECK(commit(store) == n);
        model.cost[n] = stats(store).bytes_written - before;
        model.parent[n] = at;
        for (int m = 0; m < MODULES; m++) memcpy(model.at[n][m], model.now[m], sizes[m]);
        if (n == COMMITS / 2) OK(store_persist(store, NULL));
    }
    OK(store_close(store));
}

/* The disk blocks of a directory, in units of 512 bytes, each file counted once. `commits` is left out, because it
 * reserves room ahead. */
static uint64_t blocks(const char *directory)
{
    static struct { dev_t device; ino_t inode; } seen[4096];
    size_t count = 0;
    uint64_t sum = 0;
    DIR *stream = opendir(directory);
    CHECK(stream != NULL);
    for (struct dirent *entry; (entry = readdir(stream));) {
        struct stat file;
        if (fstatat(dirfd(stream), entry->d_name, &file, AT_SYMLINK_NOFOLLOW) || !S_ISREG(file.st_mode)) continue;
        if (!strcmp(entry->d_name, "commits")) continue;
        size_t i = 0;
        while (i < count && (seen[i].inode != file.st_ino || seen[i].device != file.st_dev)) i++;
        if (i < count) continue;
        CHECK(count < sizeof seen / sizeof *seen);
        seen[count].device = file.st_dev, seen[count++].inode = file.st_ino;
        sum += (uint64_t)file.st_blocks;
    }
    closedir(stream);
    return sum;
}

static uint64_t own_blocks(const char *directory, uint64_t commit)
{
    uint64_t sum = 0;
    for (int m = 0; m < MODULES; m++) {
        char path[4200];
        struct stat file;
        snprintf(path, sizeof path, "%s/%s_Commit%" PRIu64, directory, names[m], commit);
        if (stat(path, &file) == 0) sum += (uint64_t)file.st_blocks;
    }
    return sum;
}

/* The parent that a commit has once the commits that are not `there` are gone. */
static uint64_t parent_among(const int *there, uint64_t commit)
{
    uint64_t parent = model.parent[commit];
    while (parent && !there[parent]) parent = model.parent[parent];
    return parent;
}

static int has_child(const int *there, uint64_t commit)
{
    for (uint64_t n = commit + 1; n <= COMMITS; n++)
        if (there[n] && parent_among(there, n) == commit) return 1;
    return 0;
}

static void check_listing(vmstore *store, const int *there)
{
    static uint64_t listed[COMMITS + 1];
    size_t count = 0, expected = 0;
    OK(store_list_commits(store, listed, COMMITS + 1, &count));
    for (uint64_t n = 1; n <= COMMITS; n++) {
        vmstore_commit_info i = {.struct_size = sizeof i};
        if (there[n]) {
            CHECK(expected < count && listed[expected] == n);
            expected++;
            CHECK(info(store, n).parent == parent_among(there, n));
        } else {
            FAILS(store_commit_info(store, n, &i), VMSTORE_E_NOT_FOUND, "deleted");
        }
    }
    CHECK(count == expected);
}

static void one_order(const char *master, const char *directory, uint64_t order)
{
    rng r = {seed() + 1000 + order};
    int there[COMMITS + 1], left = COMMITS, keep = (int)below(&r, 4) ? 1 : 20;
    mapped modules[MODULES];
    copy_directory(master, directory);
    vmstore *store = open_store(directory, VMSTORE_OPEN_NO_CREATE);
    for (uint64_t n = 1; n <= COMMITS; n++) there[n] = 1;
    uint64_t at = 1 + below(&r, COMMITS);
    OK(store_restore(store, at, NULL));
    map_all(store, modules, 1);
    while (left > keep) {
        uint64_t victim = 1 + below(&r, COMMITS);
        if (order % 3 == 1) /* oldest first, as a retention rule does */
            for (victim = 1; !there[victim] || victim == at; victim++) {}
        if (order % 3 == 2 && below(&r, 8)) /* newest first */
            for (victim = COMMITS; !there[victim] || victim == at; victim--) {}
        if (!there[victim]) continue;
        if (victim == at) {
            FAILS(store_delete_commit(store, victim), VMSTORE_E_BUSY, "head");
            continue;
        }
        int leaf = !has_child(there, victim) && below(&r, 4) == 0;
        if (leaf) OK(store_persist(store, NULL));
        uint64_t before = leaf ? blocks(directory) : 0, own = leaf ? own_blocks(directory, victim) : 0;
        uint64_t written = stats(store).bytes_written;
        OK(store_delete_commit(store, victim));
        written = stats(store).bytes_written - written;
        /* A deletion that writes only its record may write more than a very small commit: 64 bytes are allowed. */
        if (written > 2 * model.cost[victim] + 64)
            FAIL("deleting commit %" PRIu64 " wrote %" PRIu64 " bytes, making it wrote %" PRIu64, victim,
                 written, model.cost[victim]);
        if (written * 100 / model.cost[victim] > most_percent) most_percent = written * 100 / model.cost[victim];
        there[victim] = 0, left--, deletions++;
        if (leaf) {
            OK(store_persist(store, NULL));
            uint64_t after = blocks(directory);
            if (after + own > before)
                FAIL("deleting a leaf of %" PRIu64 " blocks left %" PRIu64 " of %" PRIu64 " blocks", own, after, before);
        }
        FAILS(store_delete_commit(store, victim), VMSTORE_E_NOT_FOUND, "deleted");
        if (below(&r, 12) == 0) {
            uint64_t to = 1 + below(&r, COMMITS);
            if (!there[to]) continue;
            modules[0].memory[below(&r, sizes[0])] ^= 1;
            OK(store_restore(store, to, NULL));
            compare(modules, at = to, "in place");
        } else if (below(&r, 40) == 0) {
            OK(store_close(store));
            store = open_store(directory, VMSTORE_OPEN_NO_CREATE);
            CHECK(head(store) == at);
            map_all(store, modules, 1);
            compare(modules, at, "fresh");
        } else if (below(&r, 20) == 0) {
            OK(store_persist(store, NULL));
        }
    }
    check_listing(store, there);
    OK(store_verify(store, NULL));
    OK(store_close(store));
    store = open_store(directory, VMSTORE_OPEN_NO_CREATE);
    map_all(store, modules, 1);
    for (uint64_t n = 1; n <= COMMITS; n++) {
        if (!there[n]) continue;
        OK(store_restore(store, n, NULL));
        compare(modules, n, "what stayed");
    }
    /* The store can still be used. */
    modules[0].memory[0] ^= 0xff;
    CHECK(commit(store) > COMMITS);
    OK(store_verify(store, NULL));
    OK(store_close(store));
}

static void remove_directory(const char *directory)
{
    extern char **environ;
    char *arguments[] = {"rm", "-rf", (char *)directory, NULL};
    pid_t child;
    int status;
    CHECK(posix_spawnp(&child, "rm", NULL, NULL, arguments, environ) == 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

int main(int count, char **arguments)
{
    CHECK(count >= 2);
    require_small_pages("delete");
    char master[4096], copy[4096];
    name_directory(master, arguments[1], "master");
    name_directory(copy, arguments[1], "copy");
    for (int m = 0; m < MODULES; m++) {
        CHECK((model.now[m] = calloc(1, sizes[m])));
        for (int n = 0; n <= COMMITS; n++) CHECK((model.at[n][m] = malloc(sizes[m])));
    }
    make_master(master);
    const char *asked = getenv("VMSTORE_ORDERS");
    uint64_t orders = asked ? strtoull(asked, NULL, 10) : slow() || brief() ? 2 : 30;
    for (uint64_t order = 0; order < orders; order++) {
        one_order(master, copy, order);
        remove_directory(copy);
    }
    printf("delete: seed %" PRIu64 ": %" PRIu64 " orders over %d commits of %d modules, %lu deletions, %lu "
           "restores compared byte for byte, no deletion wrote more than %lu%% of what its commit did\n",
           seed(), orders, COMMITS, MODULES, deletions, restores, most_percent);
    return 0;
}
