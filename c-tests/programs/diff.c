/* Diffs of every ordered pair of commits of a branching history, against a model: also for commits that were
 * compacted into images and for modules that one side does not have. Also finds commits by their labels. */
#define _GNU_SOURCE
#include "model.h"

enum { COMMITS = 40, PAGES = 48, MODULES = 2 };

static const char *const names[MODULES] = {"late", "ram"};
static uint64_t at[COMMITS + 1][MODULES][PAGES]; /* what each page holds; 0: zeros */
static unsigned long pairs, pages_reported;

static struct {
    unsigned char reported[MODULES][PAGES];
    int last;
    uint64_t end, calls, limit;
} heard;

static int hear(const char *id, uint64_t offset, uint64_t length, void *user_data)
{
    int module = strcmp(id, names[1]) == 0;
    CHECK(user_data == &heard && strcmp(id, names[module]) == 0);
    CHECK(offset % PAGE == 0 && length % PAGE == 0 && length > 0 && (offset + length) / PAGE <= PAGES);
    /* In order, and neighbouring pages in one call. */
    CHECK(module > heard.last || (module == heard.last && offset > heard.end) || heard.calls == 0);
    heard.last = module, heard.end = offset + length;
    for (uint64_t page = offset / PAGE; page < (offset + length) / PAGE; page++, pages_reported++)
        heard.reported[module][page] = 1;
    return ++heard.calls == heard.limit;
}

static void check_pair(vmstore *store, uint64_t from, uint64_t to, const char *only)
{
    memset(&heard, 0, sizeof heard);
    OK(store_diff(store, from, to, only, hear, &heard));
    for (int m = 0; m < MODULES; m++)
        for (int page = 0; page < PAGES; page++) {
            int differs = (!only || !strcmp(only, names[m])) && at[from][m][page] != at[to][m][page];
            if (heard.reported[m][page] != differs)
                FAIL("from %" PRIu64 " to %" PRIu64 ": page %d of %s is reported as %s", from, to, page, names[m],
                     differs ? "the same" : "different");
        }
    pairs++;
}

int main(int count, char **arguments)
{
    CHECK(count >= 2);
    require_small_pages("diff");
    rng r = {seed()};
    uint64_t now[MODULES][PAGES] = {{0}}, found = 0;
    mapped modules[MODULES] = {{0}};
    vmstore *store = open_store(path_in(arguments[1], "store"), 0);
    modules[1] = map(store, names[1], PAGES * PAGE, 0, VMSTORE_TRACKER_AUTO);
    for (uint64_t n = 1; n <= COMMITS; n++) {
        if (n > 1 && below(&r, 3) == 0) {
            uint64_t to = 1 + below(&r, n - 1);
            OK(store_restore(store, to, NULL));
            memcpy(now, at[to], sizeof now);
        }
        if (n == 10) modules[0] = map(store, names[0], PAGES * PAGE, 0, VMSTORE_TRACKER_AUTO);
        for (int i = 0; i < 8; i++) {
            int m = n >= 10 ? (int)below(&r, MODULES) : 1;
            size_t page = below(&r, PAGES);
            now[m][page] = below(&r, 5); /* few different contents, so a page often gets an earlier content again */
            if (now[m][page]) fill(modules[m].memory + page * PAGE, PAGE, now[m][page]);
            else memset(modules[m].memory + page * PAGE, 0, PAGE);
        }
        char label[32];
        snprintf(label, sizeof label, "label-%d", (int)(n % 7));
        vmstore_commit_options options = {.struct_size = sizeof options, .label = label};
        OK(store_commit(store, &options, &found));
        CHECK(found == n);
        memcpy(at[n], now, sizeof now);
    }
    for (int round = 0; round < 2; round++) {
        for (uint64_t from = 0; from <= COMMITS; from++)
            for (uint64_t to = 1; to <= COMMITS; to++) check_pair(store, from, to, NULL);
        check_pair(store, 3, 20, "late");
        check_pair(store, 3, 20, "ram");
        vmstore_compact_options images = {.struct_size = sizeof images, .image_percent = 50};
        OK(store_compact(store, &images));
    }
    memset(&heard, 0, sizeof heard);
    heard.limit = 1;
    OK(store_diff(store, 0, COMMITS, NULL, hear, &heard));
    CHECK(heard.calls == 1);
    for (int n = 0; n < 7; n++) {
        char label[32];
        snprintf(label, sizeof label, "label-%d", n);
        OK(store_find_commit(store, label, &found));
        CHECK(found <= COMMITS && found > COMMITS - 7 && found % 7 == (uint64_t)n);
    }
    FAILS(store_find_commit(store, "no such", &found), VMSTORE_E_NOT_FOUND, "no such");
    FAILS(store_find_commit(store, "", &found), VMSTORE_E_INVALID, "empty");
    FAILS(store_find_commit(store, NULL, &found), VMSTORE_E_INVALID, "NULL");
    FAILS(store_diff(store, 1, COMMITS + 1, NULL, hear, &heard), VMSTORE_E_NOT_FOUND, "commit");
    FAILS(store_diff(store, 1, 2, "nobody", hear, &heard), VMSTORE_E_NOT_FOUND, "nobody");
    FAILS(store_diff(store, 1, 2, NULL, NULL, &heard), VMSTORE_E_INVALID, "callback");
    OK(store_close(store));
    printf("diff: seed %" PRIu64 ": %lu pairs of commits, %lu differing pages reported, all as in the model\n",
           seed(), pairs, pages_reported);
    return 0;
}
