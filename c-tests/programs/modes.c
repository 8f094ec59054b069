/* A random model over every mapping mode and tracker. Modules of all kinds are written side by side, marked,
 * imported, discarded, grown, precopied, committed in one step and in two, restored, deleted, compacted, unmapped,
 * and mapped again in another mode. After each commit a second, read-only opener reads exactly the shadow's bytes,
 * and after each restore the memory holds them. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/resource.h>

#include "grounds.h"

enum { BANKS = 3, KEPT = 10 };

/* What a commit holds. */
typedef struct {
    uint64_t number;
    size_t pages[BANKS]; /* 0: the commit does not have the module */
    unsigned char *bytes[BANKS];
} kept;

static char directory[4096];
static vmstore *store;
static bank banks[BANKS];
static kept history[KEPT], *head_kept;
static unsigned kept_count;
static int kernel; /* the kernel tracker works here */
static int reported; /* 1: no module that compares was written since the last commit */

enum { WRITE, HIDDEN, MARK, IMPORT, DISCARD, GROW, GREW_NOT, PRECOPY, COMMIT, NOTHING, CAPTURE, CANCEL,
       FAILED, RESTORE, REFUSED, REMAP, REOPEN, AUDIT, PERSIST, DELETE, COMPACT, KINDS };
static const char *const kind_names[KINDS] = {
    "writes", "hidden writes", "marks", "imports", "discards", "grows", "no room to grow", "precopies", "commits",
    "without change", "captures", "cancelled", "failed", "restores", "refused", "remaps", "reopens", "audits",
    "persists", "deletions", "compactions"};
static unsigned long done[KINDS], precopied, spills, compared, from_images;

static int compares(const bank *b)
{
    int falls_back = b->tracker == VMSTORE_TRACKER_AUTO && !kernel;
    return falls_back || b->tracker == VMSTORE_TRACKER_COMPARE || b->flags & VMSTORE_MAP_FOREIGN_WRITERS;
}

static void choose(rng *r, bank *b)
{
    /* The lazy mode more often: a module has an image under it only after it is mapped again. */
    b->mode = below(r, 3) ? (enum ground_mode)below(r, MODES) : PRIVATE_LAZY;
    /* Valgrind (3.19) miscounts files that are mapped in many parts. */
    if (slow() && b->mode == ADOPT_MIXED) b->mode = ADOPT_MEMFD;
    b->tracker = (uint32_t)below(r, 4);
    b->flags = below(r, 3) == 0 ? VMSTORE_MAP_FOREIGN_WRITERS : 0;
    if (b->tracker == VMSTORE_TRACKER_KERNEL && !kernel) b->tracker = VMSTORE_TRACKER_AUTO;
}

static int which(const bank *b)
{
    return (int)(b - banks);
}

static int count_from_images(const vmstore_module_info *i, void *user_data)
{
    if (i->address == ((bank *)user_data)->memory) from_images += i->unverified_bytes / PAGE;
    return 0;
}

static void map_one(rng *r, bank *b)
{
    size_t recorded = head_kept ? head_kept->pages[which(b)] : 0;
    b->pages = recorded ? recorded : 1 + below(r, MOST_PAGES / 2);
    map_bank(r, store, b, recorded ? head_kept->bytes[which(b)] : NULL);
    OK(store_list_modules(store, 0, count_from_images, b));
}

static void open_and_map(rng *r)
{
    static const uint64_t limits[] = {0, 16 * PAGE, 64 * PAGE, 256 * PAGE};
    vmstore_open_options options = {.struct_size = sizeof options};
    options.arena_limit = limits[below(r, 4)];
    OK(store_open(directory, &options, &store));
    for (int i = 0; i < BANKS; i++) map_one(r, &banks[i]);
}

static kept *find(uint64_t number)
{
    for (unsigned i = 0; i < kept_count; i++)
        if (history[i].number == number) return &history[i];
    return NULL;
}

/* Records what was committed, in the slot of an older commit that is not the head. */
static void keep(rng *r, uint64_t number, const kept *now)
{
    kept *slot = find(number);
    if (!slot && kept_count < KEPT) slot = &history[kept_count++];
    while (!slot) {
        slot = &history[below(r, KEPT)];
        if (slot == head_kept) slot = NULL;
    }
    for (int i = 0; i < BANKS; i++) free(slot->bytes[i]);
    *slot = *now;
    slot->number = number;
    head_kept = slot;
    CHECK(head(store) == number);
}

/* A copy of what a capture would take now. */
static kept snapshot(void)
{
    kept now = {0};
    for (int i = 0; i < BANKS; i++) {
        const bank *b = &banks[i];
        const unsigned char *bytes = b->mapped ? b->shadow : head_kept ? head_kept->bytes[i] : NULL;
        now.pages[i] = b->mapped ? b->pages : head_kept ? head_kept->pages[i] : 0;
        if (now.pages[i] == 0) continue;
        CHECK((now.bytes[i] = malloc(now.pages[i] * PAGE)));
        memcpy(now.bytes[i], bytes, now.pages[i] * PAGE);
    }
    return now;
}

static void second_reader(const kept *k)
{
    vmstore *reader = open_store(directory, VMSTORE_OPEN_READ_ONLY);
    CHECK(head(reader) == k->number);
    for (int i = 0; i < BANKS; i++) {
        char text[128];
        if (k->pages[i] == 0) continue;
        mapped m = map(reader, banks[i].id, k->pages[i] * PAGE, VMSTORE_MAP_EAGER, VMSTORE_TRACKER_CALLER);
        snprintf(text, sizeof text, "%s (%s, tracker %u, flags %#x) at commit %" PRIu64 " for a second reader",
                 banks[i].id, mode_names[banks[i].mode], banks[i].tracker, banks[i].flags, k->number);
        same(m.memory, k->bytes[i], k->pages[i] * PAGE, text);
        compared++;
    }
    OK(store_close(reader));
}

static void memory_is(const char *what)
{
    for (int i = 0; i < BANKS; i++)
        if (banks[i].mapped) {
            char text[128];
            snprintf(text, sizeof text, "%s (%s, tracker %u) %s", banks[i].id, mode_names[banks[i].mode],
                     banks[i].tracker, what);
            same(banks[i].memory, banks[i].shadow, banks[i].pages * PAGE, text);
        }
}

/* Reports some pages by a bitmap that begins before them and ends after them. */
static void import(rng *r, bank *b, size_t first, size_t count)
{
    uint64_t words[MOST_PAGES / 64 + 1] = {0};
    size_t start = below(r, first + 1), end = first + count + below(r, b->pages - first - count + 1);
    for (size_t bit = 0; bit < sizeof words * 8; bit++) {
        /* The library ignores what is behind the last bit. */
        int set = bit >= end - start ? (int)below(r, 2) : bit >= first - start && bit < first - start + count;
        words[bit / 64] = (words[bit / 64] & ~(UINT64_C(1) << bit % 64)) | (uint64_t)set << bit % 64;
    }
    OK(store_import_dirty_bitmap(b->handle, start * PAGE, words, end - start));
    done[IMPORT]++;
}

/* One write: through the mapping, or in a way that only the shadow and the marks know. */
static void write_one(rng *r, bank *b)
{
    static unsigned char bytes[6 * PAGE];
    size_t size = b->pages * PAGE, offset = below(r, size);
    size_t length = below(r, 3) ? 1 + below(r, 64) : 1 + below(r, sizeof bytes - 1);
    if (length > size - offset) length = size - offset;
    if (below(r, 5)) fill(bytes, sizeof bytes, next(r));
    else memset(bytes, 0, sizeof bytes); /* pages also become zero */
    int hidden = b->fd >= 0 && below(r, 3) == 0;
    if (hidden) CHECK(pwrite(b->fd, bytes, length, (off_t)(b->fd_offset + offset)) == (ssize_t)length);
    else memcpy(b->memory + offset, bytes, length);
    memcpy(b->shadow + offset, bytes, length);
    done[hidden ? HIDDEN : WRITE]++;
    if (compares(b)) {
        reported = 0;
        return;
    }
    if (!hidden && b->tracker != VMSTORE_TRACKER_CALLER) return;
    size_t first = offset / PAGE, last = (offset + length - 1) / PAGE;
    if (below(r, 2)) import(r, b, first, last - first + 1);
    else OK(store_mark_dirty(b->handle, offset, length));
}

static void write_some(rng *r)
{
    for (uint64_t count = below(r, 12) ? below(r, 6) : 80; count; count--) {
        bank *b = &banks[below(r, BANKS)];
        if (b->mapped) write_one(r, b);
    }
}

static void write_all(rng *r, bank *b)
{
    fill(b->shadow, b->pages * PAGE, next(r));
    memcpy(b->memory, b->shadow, b->pages * PAGE);
    OK(store_mark_dirty(b->handle, 0, b->pages * PAGE));
    if (compares(b)) reported = 0;
}

/* After a commit returned: either it was already the head, or it is new. */
static void committed(rng *r, uint64_t number, kept *now, uint64_t before)
{
    now->number = number;
    done[number == before ? NOTHING : COMMIT]++;
    second_reader(now);
    keep(r, number, now);
    reported = 1;
}

static void commit_now(rng *r)
{
    vmstore_stats then = stats(store);
    uint64_t before = head(store);
    kept now = snapshot();
    committed(r, commit(store), &now, before);
    precopied += stats(store).last_precopied_pages;
    spills += stats(store).arena_spills - then.arena_spills;
    memory_is("after a commit");
}

static void capture_now(rng *r, int cancel)
{
    vmstore_capture *capture;
    uint64_t number = 0, before = head(store);
    kept now = snapshot();
    OK(store_capture(store, NULL, &capture));
    write_some(r);
    if (cancel) {
        OK(store_capture_cancel(capture));
        for (int i = 0; i < BANKS; i++) free(now.bytes[i]);
        done[CANCEL]++;
        return;
    }
    OK(store_capture_commit(capture, &number));
    committed(r, number, &now, before);
    reported = 0;
    done[CAPTURE]++;
}

/* No file may grow longer than a few pages: most commits fail on the way. */
static void commit_that_fails(rng *r)
{
    struct rlimit old, low;
    uint64_t number = 0, before = head(store);
    kept now = snapshot();
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
    low = old, low.rlim_cur = PAGE * below(r, 4);
    CHECK(setrlimit(RLIMIT_FSIZE, &low) == 0);
    int status = store_commit(store, NULL, &number);
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
    memory_is("after a commit that may have failed");
    if (status == VMSTORE_OK) {
        committed(r, number, &now, before);
        return;
    }
    if (status != VMSTORE_E_IO || store_last_errno() != EFBIG) FAIL("%d: %s", status, last_error());
    for (int i = 0; i < BANKS; i++) free(now.bytes[i]);
    CHECK(head(store) == before && number == 0);
    done[FAILED]++;
}

static void restore_one(rng *r)
{
    if (kept_count == 0) return;
    kept *k = &history[below(r, kept_count)];
    int fits = 1;
    for (int i = 0; i < BANKS; i++) fits &= !banks[i].mapped || k->pages[i] <= banks[i].pages;
    if (!fits) {
        FAILS(store_restore(store, k->number, NULL), VMSTORE_E_SIZE, "mapped smaller");
        memory_is("after a refused restore");
        done[REFUSED]++;
        return;
    }
    OK(store_restore(store, k->number, NULL));
    for (int i = 0; i < BANKS; i++) {
        memset(banks[i].shadow, 0, MOST_PAGES * PAGE);
        if (k->pages[i]) memcpy(banks[i].shadow, k->bytes[i], k->pages[i] * PAGE);
    }
    head_kept = k;
    memory_is("after a restore");
    done[RESTORE]++;
}

static void audit(void)
{
    uint64_t missed = UINT64_MAX;
    OK(store_audit(store, &missed));
    if (missed && reported) FAIL("store_audit finds %" PRIu64 " pages that no tracker reported", missed);
    reported = 1;
    done[AUDIT]++;
}

/* Any commit except the head, whether or not the model still has it. */
static void delete_one(rng *r)
{
    static uint64_t numbers[4096];
    size_t count = 0;
    OK(store_list_commits(store, numbers, 4096, &count));
    CHECK(count <= 4096);
    uint64_t number = numbers[below(r, count)];
    if (number == head(store)) {
        FAILS(store_delete_commit(store, number), VMSTORE_E_BUSY, "head");
        return;
    }
    OK(store_delete_commit(store, number));
    FAILS(store_restore(store, number, NULL), VMSTORE_E_NOT_FOUND, "commit");
    memory_is("after a deletion");
    done[DELETE]++;
    kept *gone = find(number), *last = &history[kept_count - 1];
    if (!gone) return;
    for (int i = 0; i < BANKS; i++) free(gone->bytes[i]);
    if (head_kept == last) head_kept = gone;
    *gone = *last;
    memset(last, 0, sizeof *last);
    kept_count--;
}

static void precopy(rng *r)
{
    vmstore_precopy_options options = {.struct_size = sizeof options,
                                       .target_pages = below(r, 8),
                                       .max_rounds = (uint32_t)below(r, 4)};
    uint64_t left = UINT64_MAX;
    OK(store_precopy(store, below(r, 3) ? &options : NULL, &left));
    CHECK(left <= BANKS * MOST_PAGES);
    done[PRECOPY]++;
}

static void remap(rng *r, bank *b)
{
    if (b->mapped) {
        OK(store_unmap_module(b->handle));
        ground_after_unmap(b);
        if (below(r, 3) == 0) return; /* for a while the module stays unmapped, and commits keep its bytes */
    }
    choose(r, b);
    map_one(r, b);
    if (compares(b)) reported = 0;
    done[REMAP]++;
}

static void step(rng *r)
{
    bank *b = &banks[below(r, BANKS)];
    size_t first = b->mapped ? below(r, b->pages) : 0;
    size_t count = b->mapped ? 1 + below(r, b->pages - first) : 0;
    switch (below(r, 28)) {
    case 0:
        if (!b->mapped) break;
        OK(store_mark_dirty(b->handle, first * PAGE + below(r, PAGE), below(r, (count - 1) * PAGE + 1)));
        done[MARK]++;
        break;
    case 1:
        if (b->mapped) import(r, b, first, count);
        break;
    case 2:
    case 3:
        if (!b->mapped) break;
        OK(store_discard(b->handle, first * PAGE, count * PAGE));
        memset(b->shadow + first * PAGE, 0, count * PAGE);
        done[DISCARD]++;
        break;
    case 4:
        if (!b->mapped || b->pages == MOST_PAGES) break;
        done[grow_bank(r, b, b->pages + 1 + below(r, MOST_PAGES - b->pages < 40 ? MOST_PAGES - b->pages : 40))
                 ? GROW : GREW_NOT]++;
        if (compares(b)) reported = 0;
        break;
    case 5:
    case 6:
    case 7:
        precopy(r);
        break;
    case 8: case 9: case 10: commit_now(r); break;
    case 11: capture_now(r, 0); break;
    case 12: capture_now(r, 1); break;
    case 13: commit_that_fails(r); break;
    case 14: case 15: restore_one(r); break;
    case 16: remap(r, b); break;
    case 17:
        if (below(r, 4)) break;
        OK(store_close(store));
        for (int i = 0; i < BANKS; i++) {
            if (banks[i].mapped) ground_after_unmap(&banks[i]);
            if (below(r, 2)) choose(r, &banks[i]);
        }
        open_and_map(r);
        reported = 0;
        done[REOPEN]++;
        break;
    case 18: audit(); break;
    case 19:
        if (below(r, 4)) break;
        OK(store_persist(store, NULL));
        done[PERSIST]++;
        break;
    case 20: delete_one(r); break;
    case 21:
        if (below(r, 4)) break;
        OK(store_compact(store, NULL));
        memory_is("after a compaction");
        done[COMPACT]++;
        break;
    default: write_some(r);
    }
}

static void run(const char *stores, unsigned number, unsigned steps)
{
    char name[32];
    rng r = {seed() + number};
    snprintf(name, sizeof name, "store%u", number);
    name_directory(directory, stores, name);
    static const char *const ids[BANKS] = {"ram", "dev", "vram"};
    for (int i = 0; i < BANKS; i++) {
        banks[i].id = ids[i];
        choose(&r, &banks[i]);
    }
    /* The first rounds try each mode with each tracker in turn. The later rounds choose at random. */
    banks[0].mode = slow() && number % MODES == ADOPT_MIXED ? ADOPT_MEMFD : number % MODES;
    banks[0].tracker = number / MODES % 4;
    banks[0].flags = number / MODES / 4 % 2 ? VMSTORE_MAP_FOREIGN_WRITERS : 0;
    if (!kernel && banks[0].tracker == VMSTORE_TRACKER_KERNEL) banks[0].tracker = 0;
    kept_count = 0, head_kept = NULL, reported = 0;
    open_and_map(&r);
    /* Long runs of data in the images: lazy mappings then map them. */
    for (int i = 0; i < BANKS; i++) write_all(&r, &banks[i]);
    commit_now(&r);
    for (unsigned i = 0; i < steps; i++) step(&r);
    for (int i = 0; i < BANKS; i++)
        if (!banks[i].mapped) remap(&r, &banks[i]);
    memory_is("at the end");
    commit_now(&r);
    audit();
    OK(store_verify(store, NULL));
    OK(store_close(store));
    for (int i = 0; i < BANKS; i++) ground_after_unmap(&banks[i]);
    for (unsigned i = 0; i < kept_count; i++)
        for (int bank = 0; bank < BANKS; bank++) free(history[i].bytes[bank]), history[i].bytes[bank] = NULL;
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("modes");
    kernel = kernel_tracker();
    for (int i = 0; i < BANKS; i++) CHECK((banks[i].shadow = malloc(MOST_PAGES * PAGE)));
    unsigned runs = slow() ? MODES : brief() ? MODES * 4 : MODES * 8, steps = slow() ? 6 : brief() ? 40 : 160;
    for (unsigned number = 0; number < runs; number++) run(arguments[1], number, steps);
    /* Each of these must have happened at least once. */
    if (!slow() && !brief()) {
        for (int k = 0; k < KINDS; k++)
            if (done[k] == 0) FAIL("no %s were tried", kind_names[k]);
        CHECK(precopied > 0 && spills > 0 && from_images > 0);
    }
    for (int i = 0; i < BANKS; i++) free(banks[i].shadow);
    printf("modes: seed %" PRIu64 ": kernel tracker %s, %u stores, %lu modules compared with a second reader, %lu "
           "pages precopied, %lu pages mapped from images, %lu captures that outgrew the arena;",
           seed(), kernel ? "yes" : "no", runs, compared, precopied, from_images, spills);
    for (int k = 0; k < KINDS; k++) printf(" %lu %s%s", done[k], kind_names[k], k + 1 < KINDS ? "," : "\n");
    return 0;
}
