/* A read-only opener maps a commit, its guest writes, and a restore takes the memory back in place, again and
 * again: over an image, over pages that were laid over the image, and in holes, which are not tracked before the
 * first restore. Every byte is the commit's each time, and no more pages are restored than can have changed. */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "model.h"

/* Each stripe has data in its first pages. The rest is a hole, with a few pages of later commits in it. */
enum { STRIPES = 8, DATA = 300, STRIPE = 1500, PAGES = STRIPES * STRIPE, COMMITS = 5 };

static unsigned char *kept[COMMITS];
static uint64_t numbers[COMMITS];
static char directory[4096];
static unsigned char touched[PAGES]; /* since the last restore */

static size_t in_a_hole(rng *r) { return below(r, STRIPES) * STRIPE + DATA + below(r, STRIPE - DATA); }

static void make(rng *r)
{
    vmstore *store = open_store(directory, 0);
    mapped m = map(store, "ram", PAGES * PAGE, 0, VMSTORE_TRACKER_AUTO);
    for (size_t page = 0; page < PAGES; page++)
        if (page % STRIPE < DATA) fill(m.memory + page * PAGE, PAGE, next(r));
    for (int c = 0; c < COMMITS; c++) {
        numbers[c] = commit(store);
        CHECK((kept[c] = malloc(PAGES * PAGE)));
        memcpy(kept[c], m.memory, PAGES * PAGE);
        for (int i = 0; i < 6; i++) {
            fill(m.memory + below(r, PAGES) * PAGE, PAGE, next(r));
            memset(m.memory + below(r, PAGES) * PAGE, 0, PAGE);
            fill(m.memory + in_a_hole(r) * PAGE, PAGE, next(r));
        }
    }
    OK(store_close(store));
}

static unsigned long wrote, dropped, discarded, looked;

static void one(rng *r, mapped *m)
{
    size_t page = below(r, 3) ? in_a_hole(r) : below(r, PAGES), count = 1;
    unsigned char *at = m->memory + page * PAGE;
    switch (below(r, 8)) {
    case 0: /* reading makes no page dirty */
        CHECK(*(volatile unsigned char *)at == *at);
        looked++;
        return;
    case 1: /* the host drops pages: the tracker sees this except where the image shows through (the header says so) */
        page = in_a_hole(r), count = 1 + below(r, 3);
        while (page + count > PAGES || (page + count - 1) % STRIPE < DATA) count--;
        CHECK(madvise(m->memory + page * PAGE, count * PAGE, MADV_DONTNEED) == 0);
        dropped++;
        break;
    case 2:
        count = 1 + below(r, PAGES - page < 40 ? PAGES - page : 40);
        OK(store_discard(m->handle, page * PAGE, count * PAGE));
        discarded++;
        break;
    case 3: /* a present page of zeros */
        memset(at, 0, PAGE);
        wrote++;
        break;
    default:
        at[below(r, PAGE)] ^= (unsigned char)(1 + below(r, 255));
        wrote++;
    }
    memset(touched + page, 1, count);
}

static size_t may_differ(const unsigned char *a, const unsigned char *b)
{
    size_t n = 0;
    for (size_t page = 0; page < PAGES; page++)
        n += touched[page] || memcmp(a + page * PAGE, b + page * PAGE, PAGE) != 0;
    return n;
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("readonly_rewind");
    rng r = {seed()};
    name_directory(directory, arguments[1], "store");
    make(&r);
    unsigned mappings = slow() ? 3 : brief() ? 10 : 60, restores = 0, most = 6;
    unsigned long put_back = 0, could = 0;
    for (unsigned round = 0; round < mappings; round++) {
        vmstore *store = open_store(directory, VMSTORE_OPEN_READ_ONLY);
        int from = (int)below(&r, COMMITS);
        OK(store_restore(store, numbers[from], NULL));
        uint32_t eager = below(&r, 4) ? 0 : VMSTORE_MAP_EAGER;
        mapped m = map(store, "ram", PAGES * PAGE, eager, VMSTORE_TRACKER_AUTO);
        same(m.memory, kept[from], PAGES * PAGE, "as mapped");
        if (below(&r, 2)) { /* maps again before all of the mapping was read */
            OK(store_unmap_module(m.handle));
            m = map(store, "ram", PAGES * PAGE, eager, VMSTORE_TRACKER_AUTO);
        }
        for (unsigned k = 0; k < most; k++) {
            for (uint64_t writes = below(&r, 3) ? below(&r, 12) : 200; writes; writes--) one(&r, &m);
            int to = (int)below(&r, COMMITS);
            OK(store_restore(store, numbers[to], NULL));
            same(m.memory, kept[to], PAGES * PAGE, "restored in place");
            size_t differ = may_differ(kept[from], kept[to]);
            uint64_t pages = stats(store).last_restored_pages;
            /* The first restore also restores the pages that were laid over the image: at most all that later
             * commits changed. */
            size_t laid = k == 0 ? 18 * COMMITS : 0;
            if (kernel_tracker() && pages > differ + laid)
                FAIL("%" PRIu64 " pages were restored, but only %zu can have changed", pages, differ);
            put_back += pages, could += differ;
            memset(touched, 0, sizeof touched);
            from = to, restores++;
        }
        OK(store_close(store));
    }
    for (int c = 0; c < COMMITS; c++) free(kept[c]);
    printf("readonly_rewind: %u mappings, %u restores in place exact, after %lu writes, %lu pages dropped, %lu discarded, "
           "%lu read; %lu pages restored of %lu that can have changed\n",
           mappings, restores, wrote, dropped, discarded, looked, put_back, could);
    return 0;
}
