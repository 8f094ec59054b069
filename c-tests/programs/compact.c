/* Compaction: a guest commits 64 pages again and again while compactions keep the last 50 commits and those with a
 * label. The store's disk use stays within 1.5 times the live bytes, opening stays quick, and every kept commit
 * restores exactly, in place and in a fresh opener, also while another thread commits. A module that grows keeps
 * its bytes through deletions and images. A model holds the expected bytes. VMSTORE_COMMITS is the number of
 * commits. */
#define _GNU_SOURCE
#include <pthread.h>

#include "model.h"

enum { PAGES = 1024, DIRTY = 64, KEEP = 50, EVERY = 100 };

/* The model: what was written last to each page, at each commit. */
static uint64_t *contents; /* [commit % RING][page] */
enum { RING = 512 };
static uint64_t now[PAGES];
static unsigned long compactions, restores;
static double worst_ratio, slowest_open;

static uint64_t *model_of(uint64_t commit)
{
    return contents + commit % RING * PAGES;
}

static void page_is(const unsigned char *memory, size_t page, uint64_t content, uint64_t commit)
{
    unsigned char expected[PAGE] = {0};
    char what[64];
    if (content) fill(expected, PAGE, content);
    snprintf(what, sizeof what, "commit %" PRIu64 ", page %zu", commit, page);
    same(memory + page * PAGE, expected, PAGE, what);
}

static void compare(const unsigned char *memory, uint64_t commit)
{
    for (size_t page = 0; page < PAGES; page++) page_is(memory, page, model_of(commit)[page], commit);
    restores++;
}

static void write_and_commit(rng *r, vmstore *store, unsigned char *memory, const char *label)
{
    vmstore_commit_options options = {.struct_size = sizeof options, .label = label};
    uint64_t number = 0;
    for (int i = 0; i < DIRTY; i++) {
        size_t page = below(r, PAGES);
        now[page] = below(r, 16) ? next(r) | 1 : 0;
        if (now[page]) fill(memory + page * PAGE, PAGE, now[page]);
        else memset(memory + page * PAGE, 0, PAGE);
    }
    OK(store_commit(store, &options, &number));
    memcpy(model_of(number), now, sizeof now);
}

static size_t listed(vmstore *store, uint64_t *commits, size_t capacity)
{
    size_t count = 0;
    OK(store_list_commits(store, commits, capacity, &count));
    CHECK(count <= capacity);
    return count;
}

static uint64_t disk_use(const char *directory)
{
    static ino_t seen[8192];
    size_t count = 0;
    uint64_t sum = 0;
    DIR *stream = opendir(directory);
    CHECK(stream != NULL);
    for (struct dirent *entry; (entry = readdir(stream));) {
        struct stat file;
        size_t i = 0;
        if (fstatat(dirfd(stream), entry->d_name, &file, AT_SYMLINK_NOFOLLOW) || !S_ISREG(file.st_mode)) continue;
        while (i < count && seen[i] != file.st_ino) i++;
        if (i < count) continue;
        CHECK(count < sizeof seen / sizeof *seen);
        seen[count++] = file.st_ino;
        sum += (uint64_t)file.st_blocks * 512;
    }
    closedir(stream);
    return sum;
}

/* The least that a store needs for these commits: each page of each kept commit, counted once for as long as it
 * does not change. */
static uint64_t live_bytes(const uint64_t *commits, size_t count)
{
    uint64_t pages = 0;
    for (size_t i = 0; i < count; i++)
        for (size_t page = 0; page < PAGES; page++) {
            uint64_t content = model_of(commits[i])[page];
            pages += content && (i == 0 || model_of(commits[i - 1])[page] != content);
        }
    return pages * PAGE;
}

static int count_calls(uint64_t done, uint64_t total, void *user_data)
{
    unsigned long *calls = user_data;
    CHECK(done <= total);
    ++*calls;
    return 0;
}

static int cancel_at(uint64_t done, uint64_t total, void *user_data)
{
    (void)done, (void)total;
    return --*(int *)user_data < 0;
}

static void compact(vmstore *store, uint64_t keep_last, vmstore_progress_callback progress, void *user_data,
                    int status)
{
    vmstore_compact_options options = {.struct_size = sizeof options,
                                       .keep_last = keep_last,
                                       .progress = progress,
                                       .user_data = user_data};
    int got = store_compact(store, &options);
    if (got != status) FAIL("store_compact: %s (%s)", store_strerror(got), got ? last_error() : "");
    compactions += got == VMSTORE_OK;
}

static void retention(const char *directory, uint64_t commits)
{
    rng r = {seed()};
    uint64_t kept[RING], before[RING];
    vmstore *store = open_store(directory, 0);
    mapped ram = map(store, "ram", PAGES * PAGE, 0, VMSTORE_TRACKER_AUTO);
    for (uint64_t n = 1; n <= commits; n++) {
        write_and_commit(&r, store, ram.memory, NULL);
        if (n % 1000 == 0) {
            OK(store_close(store));
            store = open_store(directory, VMSTORE_OPEN_NO_CREATE);
            ram = map(store, "ram", 0, 0, VMSTORE_TRACKER_AUTO);
            compare(ram.memory, n);
        }
        if (n % EVERY && n != commits) continue;
        /* A compaction that is cancelled half way changes no kept commit. A compaction that is cancelled at its
         * first call changes nothing. */
        size_t count = listed(store, before, RING);
        int calls = 0;
        compact(store, KEEP, cancel_at, &calls, VMSTORE_E_CANCELLED);
        CHECK(listed(store, kept, RING) == count);
        calls = (int)below(&r, 3) + 1;
        vmstore_compact_options options = {.struct_size = sizeof options, .keep_last = KEEP,
                                           .progress = cancel_at, .user_data = &calls};
        int status = store_compact(store, &options);
        CHECK(status == VMSTORE_OK || status == VMSTORE_E_CANCELLED);
        unsigned long heard = 0;
        compact(store, KEEP, count_calls, &heard, VMSTORE_OK);
        CHECK(heard >= 2);
        count = listed(store, kept, RING);
        CHECK(count == (n < KEEP ? n : KEEP) && kept[count - 1] == n);
        uint64_t live = live_bytes(kept, count), used = disk_use(directory);
        if ((double)used / (double)live > worst_ratio) worst_ratio = (double)used / (double)live;
        if (2 * used > 3 * live + (128 << 10))
            FAIL("after %" PRIu64 " commits there are %" PRIu64 " bytes on disk, %" PRIu64 " of them live", n, used, live);
        for (int i = 0; i < 3; i++) {
            uint64_t to = kept[below(&r, count)];
            OK(store_restore(store, to, NULL));
            compare(ram.memory, to);
        }
        OK(store_restore(store, n, NULL));
        compare(ram.memory, n);
    }
    OK(store_verify(store, NULL));
    OK(store_close(store));
    double fastest = 1;
    for (int i = 0; i < 5; i++) {
        clock_t begun = clock();
        store = open_store(directory, VMSTORE_OPEN_NO_CREATE);
        double took = (double)(clock() - begun) / CLOCKS_PER_SEC;
        if (took < fastest) fastest = took;
        if (i < 4) OK(store_close(store));
    }
    slowest_open = fastest;
    if (!slow() && fastest > 0.02) FAIL("opening takes %.1f ms of processor time", fastest * 1e3);
    ram = map(store, "ram", 0, 0, VMSTORE_TRACKER_AUTO);
    size_t count = listed(store, kept, RING);
    for (size_t i = 0; i < count; i++) {
        OK(store_restore(store, kept[i], NULL));
        compare(ram.memory, kept[i]);
        OK(store_unmap_module(ram.handle));
        ram = map(store, "ram", 0, i % 2 ? VMSTORE_MAP_EAGER : 0, VMSTORE_TRACKER_AUTO);
        compare(ram.memory, kept[i]);
    }
    /* Numbers are never used again, also after the newest commits are deleted. */
    OK(store_restore(store, kept[0], NULL));
    for (size_t i = 1; i < count; i++) OK(store_delete_commit(store, kept[i]));
    compact(store, 0, NULL, NULL, VMSTORE_OK);
    OK(store_close(store));
    store = open_store(directory, VMSTORE_OPEN_NO_CREATE);
    ram = map(store, "ram", 0, 0, VMSTORE_TRACKER_AUTO);
    compare(ram.memory, kept[0]);
    ram.memory[0] ^= 1;
    CHECK(commit(store) == kept[count - 1] + 1);
    OK(store_close(store));
}

static int names_commit(const vmstore_module_info *module, void *user_data)
{
    return *(uint64_t *)user_data = module->module_commit, 0;
}

static uint64_t size_of(const char *directory, const char *name)
{
    struct stat file;
    if (stat(path_in(directory, name), &file)) return 0;
    return (uint64_t)file.st_size;
}

/* Which rule keeps which commits, and chains that become images. */
static void rules(const char *directory)
{
    rng r = {seed() + 5};
    uint64_t kept[RING], expected[] = {5, 10, 13, 15, 19, 20}, names = 0;
    vmstore *store = open_store(directory, 0);
    mapped ram = map(store, "ram", PAGES * PAGE, 0, VMSTORE_TRACKER_AUTO);
    memset(now, 0, sizeof now);
    for (uint64_t n = 1; n <= 20; n++) write_and_commit(&r, store, ram.memory, n == 13 ? "gold" : NULL);
    vmstore_compact_options options = {.struct_size = sizeof options,
                                       .flags = VMSTORE_COMPACT_KEEP_LABELLED,
                                       .keep_last = 2,
                                       .keep_every = 5};
    OK(store_compact(store, &options));
    CHECK(listed(store, kept, RING) == 6 && !memcmp(kept, expected, sizeof expected));
    options = (vmstore_compact_options){.struct_size = sizeof options, .keep_seconds = 3600};
    OK(store_compact(store, &options));
    CHECK(listed(store, kept, RING) == 6);
    options = (vmstore_compact_options){.struct_size = sizeof options, .flags = 1u << 31};
    FAILS(store_compact(store, &options), VMSTORE_E_INVALID, "flags");
    /* At this limit each delta becomes an image: the file begins with the module's plain memory. */
    options = (vmstore_compact_options){.struct_size = sizeof options, .image_percent = 1};
    OK(store_compact(store, &options));
    OK(store_list_modules(store, 20, names_commit, &names));
    CHECK(names == 20 && size_of(directory, "ram_Commit20") > PAGES * PAGE);
    FILE *image = fopen(path_in(directory, "ram_Commit20"), "rb");
    unsigned char *plain = malloc(PAGES * PAGE);
    CHECK(image && plain && fread(plain, PAGE, PAGES, image) == PAGES && !fclose(image));
    compare(plain, 20);
    free(plain);
    for (size_t i = 0; i < 6; i++) {
        OK(store_restore(store, kept[i], NULL));
        compare(ram.memory, kept[i]);
    }
    OK(store_verify(store, NULL));
    OK(store_close(store));
}

/* A module that grows along its chain. The chain is merged and made an image. */
static void growth(const char *directory)
{
    enum { STEPS = 8 };
    static unsigned char at[STEPS + 1][STEPS * PAGE];
    rng r = {seed() + 9};
    vmstore *store = open_store(directory, 0);
    vmstore_map_options options = {.struct_size = sizeof options, .max_size = STEPS * PAGE};
    mapped ram;
    OK(store_map_module(store, "ram", PAGE, &options, &ram.handle));
    ram.memory = store_module_address(ram.handle);
    for (uint64_t n = 1; n <= STEPS; n++) {
        OK(store_grow_module(ram.handle, n * PAGE));
        memcpy(at[n], at[n - 1], sizeof at[n]);
        if (n % 3) {
            size_t page = n % 2 ? n - 1 : below(&r, n);
            fill(at[n] + page * PAGE, PAGE, next(&r));
            memcpy(ram.memory + page * PAGE, at[n] + page * PAGE, PAGE);
        }
        CHECK(commit(store) == n);
    }
    for (int percent = 0; percent < 2; percent++) {
        uint64_t victims[] = {2, 5, 1, 3};
        for (int i = 0; i < 2; i++) OK(store_delete_commit(store, victims[2 * percent + i]));
        vmstore_compact_options how = {.struct_size = sizeof how, .image_percent = (uint32_t)percent};
        OK(store_compact(store, &how));
        for (uint64_t n = 1; n <= STEPS; n++) {
            vmstore_commit_info i = {.struct_size = sizeof i};
            if (store_commit_info(store, n, &i)) continue;
            OK(store_restore(store, n, NULL));
            same(ram.memory, at[n], STEPS * PAGE, "a module that grew");
            restores++;
        }
        OK(store_verify(store, NULL));
    }
    OK(store_close(store));
    store = open_store(directory, VMSTORE_OPEN_NO_CREATE);
    OK(store_restore(store, 4, NULL));
    ram = map(store, "ram", 0, 0, VMSTORE_TRACKER_AUTO);
    CHECK(store_module_size(ram.handle) == 4 * PAGE);
    same(ram.memory, at[4], 4 * PAGE, "a module that grew");
    OK(store_close(store));
}

static _Atomic int stop;

static void *compact_again(void *store)
{
    uint64_t rounds = 0;
    vmstore_compact_options options = {.struct_size = sizeof options, .keep_last = 20};
    while (!stop) {
        options.image_percent = rounds++ % 2 ? 1 : 200;
        OK(store_compact(store, &options));
    }
    compactions += rounds;
    return NULL;
}

/* Commits and restores go on while another thread compacts. */
static void beside_commits(const char *directory, unsigned commits)
{
    rng r = {seed() + 11};
    uint64_t kept[RING];
    pthread_t thread;
    vmstore *store = open_store(directory, 0);
    mapped ram = map(store, "ram", PAGES * PAGE, 0, VMSTORE_TRACKER_AUTO);
    memset(now, 0, sizeof now);
    CHECK(pthread_create(&thread, NULL, compact_again, store) == 0);
    for (unsigned n = 0; n < commits; n++) {
        write_and_commit(&r, store, ram.memory, NULL);
        if (below(&r, 8)) continue;
        ram.memory[below(&r, PAGES) * PAGE] ^= 1;
        OK(store_restore(store, head(store), NULL));
        compare(ram.memory, head(store));
    }
    stop = 1;
    CHECK(pthread_join(thread, NULL) == 0);
    size_t count = listed(store, kept, RING);
    for (size_t i = 0; i < count; i++) {
        OK(store_restore(store, kept[i], NULL));
        compare(ram.memory, kept[i]);
    }
    OK(store_verify(store, NULL));
    OK(store_close(store));
}

int main(int count, char **arguments)
{
    CHECK(count >= 2);
    require_small_pages("compact");
    CHECK((contents = calloc((size_t)RING * PAGES, sizeof *contents)));
    const char *asked = getenv("VMSTORE_COMMITS");
    uint64_t commits = asked ? strtoull(asked, NULL, 10) : slow() ? 120 : brief() ? 400 : 1500;
    retention(path_in(arguments[1], "retention"), commits);
    rules(path_in(arguments[1], "rules"));
    growth(path_in(arguments[1], "growth"));
    beside_commits(path_in(arguments[1], "beside"), slow() ? 30 : brief() ? 150 : 400);
    printf("compact: seed %" PRIu64 ": %" PRIu64 " commits under a retention of %d, %lu compactions, %lu "
           "restores compared byte for byte, at most %.2f times the live bytes on disk, opened in %.1f ms of processor time\n",
           seed(), commits, KEEP, compactions, restores, worst_ratio, slowest_open * 1e3);
    return 0;
}
