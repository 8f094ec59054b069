/* Images that record how they differ from an earlier image: a restore from one image to the next, and an export,
 * cost only the pages that differ, not the whole module. Where the earlier image is gone, they cost more and are as
 * exact. A model holds the bytes of every commit. */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "model.h"

enum { PAGES = 512, DIRTY = 8, COMMITS = 20, MOST = 400 };

static unsigned char *at[MOST];
static unsigned long jumps, worst, restores, deletions, compactions;

static void compact(vmstore *store, uint32_t image_percent)
{
    vmstore_compact_options options = {.struct_size = sizeof options, .image_percent = image_percent};
    OK(store_compact(store, &options));
    compactions++;
}

static void keep(uint64_t commit, const unsigned char *memory)
{
    CHECK(commit < MOST && !at[commit] && (at[commit] = malloc(PAGES * PAGE)));
    memcpy(at[commit], memory, PAGES * PAGE);
}

static void forget_all(void)
{
    for (int n = 0; n < MOST; n++) free(at[n]), at[n] = NULL;
}

static void restore(vmstore *store, const mapped *ram, uint64_t to)
{
    char what[64];
    snprintf(what, sizeof what, "commit %" PRIu64, to);
    OK(store_restore(store, to, NULL));
    same(ram->memory, at[to], PAGES * PAGE, what);
    restores++;
}

static size_t differing(uint64_t a, uint64_t b)
{
    size_t pages = 0;
    for (size_t page = 0; page < PAGES; page++) pages += memcmp(at[a] + page * PAGE, at[b] + page * PAGE, PAGE) != 0;
    return pages;
}

static uint64_t exported(vmstore *store, uint64_t from, uint64_t to)
{
    struct stat file;
    int fd = memfd_create("stream", MFD_CLOEXEC);
    CHECK(fd >= 0);
    OK(store_export(store, from, to, fd));
    CHECK(fstat(fd, &file) == 0 && close(fd) == 0);
    return (uint64_t)file.st_size;
}

/* A line of commits, each an image. */
static void costs(const char *directory)
{
    rng r = {seed()};
    vmstore *store = open_store(directory, 0);
    mapped ram = map(store, "ram", PAGES * PAGE, 0, VMSTORE_TRACKER_AUTO);
    fill(ram.memory, PAGES * PAGE, next(&r));
    for (uint64_t n = 1; n <= COMMITS; n++) {
        for (int i = 0; i < DIRTY; i++) fill(ram.memory + below(&r, PAGES) * PAGE, PAGE, next(&r));
        CHECK(commit(store) == n);
        keep(n, ram.memory);
    }
    compact(store, 1);
    for (uint64_t n = 2; n <= COMMITS; n++) {
        struct stat file;
        char name[32];
        snprintf(name, sizeof name, "ram_Commit%" PRIu64, n);
        CHECK(stat(path_in(directory, name), &file) == 0 && (size_t)file.st_size > PAGES * PAGE);
    }
    for (uint64_t n = COMMITS; n-- > 1;) {
        size_t differ = differing(n, n + 1);
        restore(store, &ram, n);
        uint64_t restored = stats(store).last_restored_pages;
        if (restored > worst) worst = restored;
        if (restored > DIRTY)
            FAIL("from commit %" PRIu64 " to %" PRIu64 ": %" PRIu64 " pages were restored, but only %zu differ", n + 1, n, restored, differ);
        uint64_t bytes = exported(store, n, n + 1);
        if (bytes > differ * (PAGE + 256) + 1024)
            FAIL("exporting commit %" PRIu64 " took %" PRIu64 " bytes for %zu pages", n + 1, bytes, differ);
        jumps++;
    }
    /* After a restore the store knows from other files where the pages are: the earlier files may be deleted. */
    restore(store, &ram, 10);
    restore(store, &ram, 9);
    OK(store_delete_commit(store, 10));
    OK(store_persist(store, NULL));
    CHECK(access(path_in(directory, "ram_Commit10"), F_OK) != 0);
    memset(ram.memory, 0x5a, PAGES * PAGE);
    restore(store, &ram, 9);
    /* The commit that the next image refers to is deleted: the restore costs more, and its bytes are right. */
    OK(store_delete_commit(store, COMMITS - 1));
    OK(store_persist(store, NULL));
    CHECK(access(path_in(directory, "ram_Commit19"), F_OK) != 0);
    restore(store, &ram, COMMITS);
    restore(store, &ram, COMMITS - 2);
    OK(store_verify(store, NULL));
    OK(store_close(store));
    forget_all();
}

/* A tree of commits, deleted and compacted at random, with writes after restores. The store must not read a page
 * from a file that is gone. */
static void at_random(const char *directory, uint64_t steps)
{
    rng r = {seed() + 3};
    uint64_t listed[MOST];
    size_t count = 0;
    vmstore *store = open_store(directory, 0);
    mapped ram = map(store, "ram", PAGES * PAGE, 0, VMSTORE_TRACKER_AUTO);
    fill(ram.memory, PAGES / 2 * PAGE, next(&r));
    for (uint64_t step = 0; step < steps; step++) {
        for (uint64_t i = below(&r, 3 * DIRTY); i-- > 0;) {
            unsigned char *page = ram.memory + below(&r, PAGES) * PAGE;
            if (below(&r, 4)) fill(page, PAGE, below(&r, 4) ? next(&r) : below(&r, 5));
            else memset(page, 0, PAGE);
        }
        if (step % 4) {
            uint64_t made = commit(store);
            if (!at[made]) keep(made, ram.memory);
        }
        OK(store_list_commits(store, listed, MOST, &count));
        if (count && below(&r, 2)) restore(store, &ram, listed[below(&r, count)]);
        if (count > 4 && below(&r, 3) == 0) {
            uint64_t victim = listed[below(&r, count)];
            if (victim == head(store)) continue;
            OK(store_delete_commit(store, victim));
            deletions++;
        }
        if (below(&r, 4) == 0) compact(store, (uint32_t[]){1, 20, 200}[below(&r, 3)]);
        if (count && below(&r, 25) == 0) {
            restore(store, &ram, head(store));
            OK(store_close(store));
            store = open_store(directory, VMSTORE_OPEN_NO_CREATE);
            ram = map(store, "ram", 0, 0, VMSTORE_TRACKER_AUTO);
        }
    }
    OK(store_list_commits(store, listed, MOST, &count));
    for (size_t i = 0; i < count; i++)
        for (int again = 0; again < 2; again++) restore(store, &ram, listed[again ? below(&r, count) : i]);
    OK(store_verify(store, NULL));
    OK(store_close(store));
    forget_all();
}

int main(int count, char **arguments)
{
    CHECK(count >= 2);
    require_small_pages("images");
    char directory[4096];
    name_directory(directory, arguments[1], "costs");
    costs(directory);
    name_directory(directory, arguments[1], "random");
    at_random(directory, slow() || brief() ? 60 : 500);
    printf("images: seed %" PRIu64 ": %lu steps from image to image restored at most %lu pages of %d, and were exported as "
           "that; %lu compactions and %lu deletions, %lu restores as in the model\n",
           seed(), jumps, worst, PAGES, compactions, deletions, restores);
    return 0;
}
