/* From any commit to any commit: 50 commits on a branching history of three modules, of which one appears late and
 * one never changes. The test restores between pairs of these commits, in the process that made them and in a fresh
 * process, under each tracker and mode. A model holds the full bytes of every commit. */
#define _GNU_SOURCE
#include "model.h"

enum { COMMITS = 50, LATE_FROM = 20, MODULES = 3 };
enum { RAM, LATE, STILL };

static const char *const names[MODULES] = {"ram", "late", "still"};
static const size_t sizes[MODULES] = {64 * PAGE, 16 * PAGE, 8 * PAGE};

/* The model: what memory holds now, and what it held at each commit. Zeros where a module is unknown. */
static struct {
    unsigned char *now[MODULES];
    unsigned char *at[COMMITS + 1][MODULES];
    uint64_t parent[COMMITS + 1], label[COMMITS + 1];
    int knows_late[COMMITS + 1];
} model;

/* The store under test; all NULL when only the model is made. */
static struct {
    vmstore *store;
    mapped module[MODULES];
    uint32_t mode, tracker;
} under;

static unsigned long restores, pages_written;

static void write_pages(rng *r, int module, int to_model)
{
    size_t pages = sizes[module] / PAGE;
    for (uint64_t left = 1 + below(r, pages / 3 + 1); left > 0; left--) {
        size_t offset = below(r, pages) * PAGE;
        uint64_t kind = below(r, 8), content = next(r);
        unsigned char page[PAGE];
        memcpy(page, model.now[module] + offset, PAGE);
        if (kind == 0) memset(page, 0, PAGE);
        else if (kind == 1) page[content % PAGE] ^= (unsigned char)(1 | content >> 32);
        else if (kind == 2) fill(page + PAGE / 2, PAGE / 2, content);
        else fill(page, PAGE, content);
        if (to_model) memcpy(model.now[module] + offset, page, PAGE);
        if (under.store) {
            memcpy(under.module[module].memory + offset, page, PAGE);
            if (under.tracker == VMSTORE_TRACKER_CALLER)
                OK(store_mark_dirty(under.module[module].handle, offset + 5, PAGE - 5));
        }
        pages_written++;
    }
}

static void map_module(int module, uint32_t flags)
{
    if (under.store)
        under.module[module] = map(under.store, names[module], sizes[module], under.mode | flags,
                                   under.tracker);
}

static void compare(uint64_t commit, const char *where)
{
    for (int m = 0; m < MODULES; m++) {
        if (!under.module[m].memory) continue;
        char what[128];
        snprintf(what, sizeof what, "%s: %s at commit %" PRIu64, where, names[m], commit);
        same(under.module[m].memory, model.at[commit][m], sizes[m], what);
    }
}

static void restore_to(rng *r, uint64_t commit, const char *where)
{
    int scribbled = under.module[LATE].memory ? (int)below(r, 2) : RAM;
    if (below(r, 3) == 0) write_pages(r, scribbled, 0); /* these bytes must never be seen again */
    OK(store_restore(under.store, commit, NULL));
    CHECK(head(under.store) == commit);
    compare(commit, where);
    restores++;
}

/* Makes the history from the seed: in the model, and also in the store if there is one. */
static void make_history(uint64_t from_seed)
{
    rng r = {from_seed}, plan;
    uint64_t at = 0;
    for (int m = 0; m < MODULES; m++) memset(model.now[m], 0, sizes[m]);
    map_module(RAM, 0);
    map_module(STILL, 0);
    for (int m = RAM; m <= STILL; m += STILL) {
        fill(model.now[m], sizes[m] / 2, next(&r));
        if (!under.store) continue;
        memcpy(under.module[m].memory, model.now[m], sizes[m]);
        if (under.tracker == VMSTORE_TRACKER_CALLER)
            OK(store_mark_dirty(under.module[m].handle, 0, sizes[m]));
    }
    for (uint64_t n = 1; n <= COMMITS; n++) {
        if (n > 1 && below(&r, 3) == 0) {
            at = 1 + below(&r, n - 1);
            for (int m = 0; m < MODULES; m++) memcpy(model.now[m], model.at[at][m], sizes[m]);
            plan = (rng){next(&r)};
            if (under.store) restore_to(&plan, at, "between commits");
        }
        if (n == LATE_FROM) map_module(LATE, 0);
        write_pages(&r, RAM, 1);
        if (n >= LATE_FROM && below(&r, 2) == 0) write_pages(&r, LATE, 1);
        pages_written++;
        memcpy(model.now[RAM], &n, sizeof n); /* no two commits are alike */
        if (under.store) {
            memcpy(under.module[RAM].memory, &n, sizeof n);
            if (under.tracker == VMSTORE_TRACKER_CALLER)
                OK(store_mark_dirty(under.module[RAM].handle, 0, 1));
            CHECK(commit(under.store) == n);
            if (below(&(rng){n * from_seed}, 5) == 0) OK(store_persist(under.store, NULL));
        }
        model.parent[n] = at;
        model.knows_late[n] = n >= LATE_FROM;
        for (int m = 0; m < MODULES; m++) memcpy(model.at[n][m], model.now[m], sizes[m]);
        at = n;
    }
}

static int count_module(const vmstore_module_info *module, void *user_data)
{
    int *seen = user_data, known = 0;
    for (int m = 0; m < MODULES; m++) {
        if (strcmp(module->module_id, names[m])) continue;
        CHECK(module->size == sizes[m]);
        if (m == STILL) CHECK(module->module_commit == 1);
        known = 1;
    }
    CHECK(known);
    ++*seen;
    return 0;
}

static void check_tree(void)
{
    uint64_t numbers[COMMITS + 2];
    size_t count = 0;
    OK(store_list_commits(under.store, numbers, COMMITS + 2, &count));
    CHECK(count == COMMITS);
    for (uint64_t n = 1; n <= COMMITS; n++) {
        int seen = 0;
        CHECK(numbers[n - 1] == n);
        vmstore_commit_info i = info(under.store, n);
        CHECK(i.parent == model.parent[n]);
        CHECK(i.modules == (model.knows_late[n] ? 3u : 2u));
        OK(store_list_modules(under.store, n, count_module, &seen));
        CHECK(seen == (int)i.modules);
    }
}

static void random_pairs(rng *r, unsigned pairs, const char *where)
{
    while (pairs--) restore_to(r, 1 + below(r, COMMITS), where);
}

/* Every ordered pair: from each commit to each other commit and back. */
static void all_pairs(rng *r)
{
    for (uint64_t a = 1; a <= COMMITS; a++) {
        restore_to(r, a, "all pairs");
        for (uint64_t b = a + 1; b <= COMMITS; b++) {
            restore_to(r, b, "all pairs");
            restore_to(r, a, "all pairs");
        }
    }
}

/* What the program does when it is started again by itself: a fresh process, which gets the store and the seed. */
static int child(char **a)
{
    const char *directory = a[2];
    uint64_t from_seed = strtoull(a[3], NULL, 10), expected = strtoull(a[6], NULL, 10);
    make_history(from_seed);
    rng r = {from_seed + 77};
    under.store = open_store(directory, VMSTORE_OPEN_NO_CREATE);
    under.mode = (uint32_t)strtoul(a[4], NULL, 10) & 0xff;
    under.tracker = (uint32_t)strtoul(a[5], NULL, 10);
    CHECK(head(under.store) == expected);
    for (int m = 0; m < MODULES; m++) map_module(m, (uint32_t)strtoul(a[4], NULL, 10) & ~0xffu);
    compare(expected, "fresh process, mapped");
    check_tree();
    random_pairs(&r, brief() ? 10 : 60, "fresh process");
    OK(store_verify(under.store, NULL));
    uint64_t last = 1 + below(&r, COMMITS);
    restore_to(&r, last, "fresh process, last");
    OK(store_close(under.store));
    FILE *result = fopen(a[7], "w");
    CHECK(result && fprintf(result, "%" PRIu64 " %lu\n", last, restores) > 0 && !fclose(result));
    return 0;
}

static uint64_t fresh_process(const char *self, const char *directory, uint64_t from_seed,
                              uint32_t flags, uint32_t tracker, uint64_t expected)
{
    extern char **environ;
    char text[4][32], result[4096];
    snprintf(text[0], 32, "%" PRIu64, from_seed);
    snprintf(text[1], 32, "%u", flags);
    snprintf(text[2], 32, "%u", tracker);
    snprintf(text[3], 32, "%" PRIu64, expected);
    snprintf(result, sizeof result, "%s.result", directory);
    char *arguments[] = {(char *)self, "child", (char *)directory, text[0], text[1],
                         text[2],      text[3], result,            NULL};
    pid_t pid;
    int status;
    CHECK(posix_spawn(&pid, self, NULL, NULL, arguments, environ) == 0);
    CHECK(waitpid(pid, &status, 0) == pid);
    if (status) FAIL("the fresh process (flags %u tracker %u) ended with %d", flags, tracker, status);

    uint64_t last;
    unsigned long done;
    FILE *file = fopen(result, "r");
    CHECK(file && fscanf(file, "%" SCNu64 " %lu", &last, &done) == 2 && !fclose(file));
    restores += done;
    return last;
}

static void one_store(char **arguments, uint64_t from_seed, uint32_t mode, uint32_t tracker)
{
    char directory[4096], name[64];
    snprintf(name, sizeof name, "mode%u-tracker%u", mode, tracker);
    name_directory(directory, arguments[1], name);
    under.mode = mode, under.tracker = tracker;
    under.store = open_store(directory, 0);
    make_history(from_seed);
    check_tree();

    rng r = {from_seed + 1};
    if (tracker == VMSTORE_TRACKER_AUTO && mode == VMSTORE_MAP_PRIVATE && !brief()) all_pairs(&r);
    random_pairs(&r, brief() ? 20 : 100, "in place");
    uint64_t last = head(under.store);
    OK(store_close(under.store));
    memset(under.module, 0, sizeof under.module);

    last = fresh_process(arguments[0], directory, from_seed, mode, tracker, last);
    last = fresh_process(arguments[0], directory, from_seed, mode | VMSTORE_MAP_EAGER, tracker, last);
    fresh_process(arguments[0], directory, from_seed, mode ^ VMSTORE_MAP_SHARED, tracker, last);
    under.store = NULL;
}

int main(int count, char **arguments)
{
    CHECK(count >= 2);
    require_small_pages("history");
    for (int m = 0; m < MODULES; m++) {
        CHECK((model.now[m] = malloc(sizes[m])));
        for (int n = 0; n <= COMMITS; n++) CHECK((model.at[n][m] = malloc(sizes[m])));
    }
    if (count == 8) return child(arguments);

    unsigned stores = 0;
    uint32_t trackers[] = {VMSTORE_TRACKER_AUTO, VMSTORE_TRACKER_KERNEL, VMSTORE_TRACKER_COMPARE,
                           VMSTORE_TRACKER_CALLER};
    for (size_t t = 0; t < sizeof trackers / sizeof *trackers; t++) {
        if (trackers[t] == VMSTORE_TRACKER_KERNEL && !kernel_tracker()) continue;
        one_store(arguments, seed() + t, VMSTORE_MAP_PRIVATE, trackers[t]);
        one_store(arguments, seed() + t + 100, VMSTORE_MAP_SHARED, trackers[t]);
        stores += 2;
    }
    printf("history: seed %" PRIu64 ": %u stores of %d commits, kernel tracker %s, %lu restores "
           "compared byte for byte\n",
           seed(), stores, COMMITS, kernel_tracker() ? "yes" : "no", restores);
    return 0;
}
