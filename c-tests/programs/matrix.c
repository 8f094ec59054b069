/* Mode x tracker x writer. Whatever way bytes take into a module, the commit is exact, or the call is refused, or
 * the case is one of the blind spots that docs/tracking.md names. In a blind spot store_audit finds exactly the
 * pages that were missed, and the commit is exact once these pages are marked. No cell may be wrong without a
 * report. Prints the table that was found, which must be the table of the documentation. */
#define _GNU_SOURCE
#include "writers.h"

enum { PAGES = 48, COLUMNS = 8, TRACKERS = 5 };

static const struct {
    enum ground_mode mode;
    int image; /* mapped from the image that an earlier process left */
} columns[COLUMNS] = {{PRIVATE_LAZY, 0}, {PRIVATE_LAZY, 1}, {SHARED, 0},      {MEMFD_OWN, 0},
                      {MEMFD_FD, 0},     {ADOPT_ANONYMOUS, 0}, {ADOPT_MEMFD, 0}, {ADOPT_FILE, 0}};

static const struct {
    uint32_t tracker, flags;
} trackers[TRACKERS] = {{VMSTORE_TRACKER_KERNEL, 0},
                        {VMSTORE_TRACKER_CALLER, 0},
                        {VMSTORE_TRACKER_COMPARE, 0},
                        {VMSTORE_TRACKER_KERNEL, VMSTORE_MAP_FOREIGN_WRITERS},
                        {VMSTORE_TRACKER_CALLER, VMSTORE_MAP_FOREIGN_WRITERS}};

/* What is expected: one letter for each of `trackers`. This is the table of docs/tracking.md, word for word:
 *   +  the commit is exact          m  missed unless it is marked
 *   r  the next call is refused     =  nothing changes, and nothing is missed
 *   .  this writer cannot reach such a module */
static const char *const expected[2 + WRITERS] = {
    "| written by                   | private | image | shared | memfd | fd    | adopted: anonymous | adopted: shared | adopted: private file |",
    "|------------------------------|---------|-------|--------|-------|-------|--------------------|-----------------|-----------------------|",
    "| store by this process        | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` |",
    "| read(2)                      | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` |",
    "| O_DIRECT read                | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` |",
    "| process_vm_writev            | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` |",
    "| vCPU under KVM_RUN           | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` | `+m+++` |",
    "| store by another process     | `.....` | `.....` | `mm+++` | `mm+++` | `mm+++` | `.....` | `mm+++` | `.....` |",
    "| pwrite on the descriptor     | `.....` | `.....` | `mm+++` | `mm+++` | `mm+++` | `.....` | `mm+++` | `.....` |",
    "| DMA into pages pinned before | `mm+++` | `mm+++` | `mm+++` | `mm+++` | `mm+++` | `mm+++` | `mm+++` | `mm+++` |",
    "| MADV_DONTNEED                | `+m+++` | `mm+++` | `=====` | `=====` | `=====` | `+m+++` | `=====` | `mm+++` |",
    "| fallocate(PUNCH_HOLE)        | `.....` | `.....` | `mm+++` | `mm+++` | `mm+++` | `.....` | `mm+++` | `.....` |",
    "| mmap(MAP_FIXED) over it      | `rm+r+` | `rm+r+` | `rm+r+` | `rm+r+` | `rm+r+` | `rm+r+` | `rm+r+` | `rm+r+` |",
};

static char directory[4096], scratch[4096];
static unsigned cells, commits, missed_pages, audits, refusals, restores, skipped;

/* The kernel does not allow long-term pins of a shared mapping of a file on a disk. On tmpfs it allows them. */
static const char *stores_for(const char *stores, enum writer w, int column)
{
    return w == IO_URING && columns[column].mode == SHARED ? directory_in_memory() : stores;
}

static char expected_of(enum writer w, int column, int tracker)
{
    const char *cell = expected[2 + w];
    CHECK(strncmp(cell + 2, writer_names[w], strlen(writer_names[w])) == 0);
    for (int i = 0; i <= column; i++) CHECK((cell = strchr(cell + 1, '`')) && (i == column || (cell = strchr(cell + 1, '`'))));
    return cell[1 + tracker];
}

/* Counts the head's wrong pages, as a second reader sees them. All must be pages that were touched. */
static size_t wrong_pages(const bank *b, const char *what)
{
    vmstore *reader = open_store(directory, VMSTORE_OPEN_READ_ONLY);
    mapped m = map(reader, b->id, b->pages * PAGE, VMSTORE_MAP_EAGER, VMSTORE_TRACKER_CALLER);
    size_t wrong = 0;
    for (size_t page = 0; page < b->pages; page++) {
        if (memcmp(m.memory + page * PAGE, b->shadow + page * PAGE, PAGE) == 0) continue;
        int is_touched = 0;
        for (int i = 0; i < TOUCHED; i++) is_touched |= touched[i] == page;
        if (!is_touched) FAIL("%s: page %zu is wrong, although no writer wrote there", what, page);
        wrong++;
    }
    OK(store_close(reader));
    commits++;
    return wrong;
}

static uint64_t audit(vmstore *store)
{
    uint64_t missed = UINT64_MAX;
    OK(store_audit(store, &missed));
    audits++;
    return missed;
}

static int maps_an_image(const vmstore_module_info *info, void *user_data)
{
    *(int *)user_data = info->unverified_bytes > 0;
    return 0;
}

static void mark(bank *b, ways *way, enum writer w)
{
    uint64_t bitmap[PAGES / 64 + 1] = {0};
    if (w == KVM_VCPU) { /* only KVM's dirty log is reported */
        vcpu_dirty_log(&way->guest, 0, bitmap);
        for (int i = 0; i < TOUCHED; i++) CHECK(bitmap[0] >> touched[i] & 1);
        OK(store_import_dirty_bitmap(b->handle, 0, bitmap, PAGES));
        return;
    }
    for (int i = 0; i < TOUCHED; i++) OK(store_mark_dirty(b->handle, touched[i] * PAGE, PAGE));
}

/* The tracker reports that something was mapped over the module. Mapped afresh, the module has the head's bytes. */
static void refused_by_name(rng *r, vmstore *store, bank *b, const unsigned char *at_head)
{
    uint64_t number = 0;
    vmstore_capture *capture;
    const char *words = "something was mapped over it";
    FAILS(store_commit(store, NULL, &number), VMSTORE_E_INVALID, words);
    FAILS(store_capture(store, NULL, &capture), VMSTORE_E_INVALID, words);
    FAILS(store_restore(store, head(store), NULL), VMSTORE_E_INVALID, words);
    FAILS(store_audit(store, &number), VMSTORE_E_INVALID, words);
    /* A precopy leaves out a module that is compared. */
    if (!b->flags) FAILS(store_precopy(store, NULL, &number), VMSTORE_E_INVALID, words);
    CHECK(number == 0);
    refusals += 4 + !b->flags;
    OK(store_unmap_module(b->handle));
    if (b->mode == MEMFD_FD) /* the memfd does not hold what was mapped over the module */
        CHECK(pread(b->fd, b->shadow, b->pages * PAGE, (off_t)b->fd_offset) == (ssize_t)(b->pages * PAGE));
    ground_after_unmap(b);
    map_bank(r, store, b, at_head);
    b->memory[0] ^= 1, b->shadow[0] ^= 1;
    OK(store_mark_dirty(b->handle, 0, 1));
    commit(store);
    CHECK(wrong_pages(b, "mapped afresh") == 0);
}

/* One round in a cell that is not refused. Returns '+', 'm' or '='. */
static char epoch(vmstore *store, bank *b, ways *way, enum writer w, int marked, int audit_first, int compared,
                  uint64_t content)
{
    char what[160];
    snprintf(what, sizeof what, "%s, %s, tracker %u, flags %#x%s", writer_names[w], mode_names[b->mode], b->tracker,
             b->flags, marked ? ", marked" : "");
    unsigned char before[TOUCHED][PAGE];
    size_t changed = 0;
    for (int i = 0; i < TOUCHED; i++) {
        memcpy(before[i], b->shadow + touched[i] * PAGE, PAGE);
        write_page(way, w, touched[i], content + (uint64_t)i);
        changed += memcmp(before[i], b->shadow + touched[i] * PAGE, PAGE) != 0;
    }
    /* Another write besides, which the commit must have in any case. */
    fill(b->memory + 20 * PAGE, 64, content);
    memcpy(b->shadow + 20 * PAGE, b->memory + 20 * PAGE, 64);
    OK(store_mark_dirty(b->handle, 20 * PAGE, 64));
    same(b->memory, b->shadow, b->pages * PAGE, what);
    if (marked) mark(b, way, w);
    uint64_t found = audit_first ? audit(store) : 0;
    commit(store);
    size_t wrong = wrong_pages(b, what);
    if (audit_first) {
        /* The audit finds all pages that neither the tracker nor marks reported, and has marked them dirty. */
        if (wrong) FAIL("%s: %zu wrong pages after an audit", what, wrong);
        if (found != 0 && found != changed) FAIL("%s: the audit found %" PRIu64 " of %zu pages", what, found, changed);
        wrong = compared ? 0 : found;
    } else if (wrong) {
        if (audit(store) != wrong) FAIL("%s: the audit does not find the %zu wrong pages", what, wrong);
        commit(store);
        if (wrong_pages(b, what)) FAIL("%s: wrong pages after an audit", what);
    }
    CHECK(audit(store) == 0);
    if (marked && (wrong || found)) FAIL("%s: pages were missed although they were marked", what);
    missed_pages += wrong;
    return changed == 0 ? '=' : wrong == changed ? 'm' : wrong == 0 ? '+' : '?';
}

/* Maps the module again as an earlier process left it, with pages of its own over the image. */
static void map_again_from_image(rng *r, vmstore **store, bank *b, unsigned char *image, int compared)
{
    int lazily = 0;
    memcpy(image, b->shadow, PAGES * PAGE);
    OK(store_close(*store));
    ground_after_unmap(b);
    *store = open_store(directory, 0);
    map_bank(r, *store, b, image);
    OK(store_list_modules(*store, 0, maps_an_image, &lazily));
    CHECK(lazily == !compared);
}

static char cell(const char *stores, enum writer w, int column, int tracker, int marked)
{
    static unsigned char shadow[MOST_PAGES * PAGE], image[PAGES * PAGE], at_head[PAGES * PAGE];
    char name[64], outcome = 0;
    int compared = trackers[tracker].flags || trackers[tracker].tracker == VMSTORE_TRACKER_COMPARE;
    rng r = {seed() + (uint64_t)w * 1000 + (uint64_t)column * 10 + (uint64_t)tracker};
    snprintf(name, sizeof name, "cell-%d-%d-%d-%d", w, column, tracker, marked);
    name_directory(directory, stores, name);
    bank b = {.id = "ram", .mode = columns[column].mode, .pages = PAGES, .shadow = shadow,
              .tracker = trackers[tracker].tracker, .flags = trackers[tracker].flags};
    ways way = {.b = &b, .scratch = scratch};

    vmstore *store = open_store(directory, 0);
    map_bank(&r, store, &b, NULL);
    fill(b.shadow, PAGES * PAGE, next(&r));
    memcpy(b.memory, b.shadow, PAGES * PAGE);
    OK(store_mark_dirty(b.handle, 0, PAGES * PAGE));
    commit(store);
    if (columns[column].image) {
        map_again_from_image(&r, &store, &b, image, compared);
        if (!compared) way.image = image;
    }
    const char *why = writer_applies(w, &b) ? writer_begin(&way, w) : "this writer cannot reach such a module";
    unsigned epochs = brief() ? 2 : 4;
    for (unsigned e = 0; !why && e < epochs; e++) {
        /* Every touched page becomes private, is committed, and is tracked again. */
        uint64_t content = next(&r);
        for (int i = 0; i < TOUCHED; i++) write_page(&way, CPU_STORE, touched[i], content + (uint64_t)i);
        OK(store_mark_dirty(b.handle, 0, 10 * PAGE));
        uint64_t number = commit(store);
        CHECK(wrong_pages(&b, "a store that is marked") == 0);
        memcpy(at_head, b.shadow, PAGES * PAGE);
        if (expected_of(w, column, tracker) == 'r') {
            for (int i = 0; i < TOUCHED; i++) write_page(&way, w, touched[i], next(&r));
            if (marked) mark(&b, &way, w);
            refused_by_name(&r, store, &b, at_head);
            outcome = 'r';
            continue;
        }
        char now = epoch(store, &b, &way, w, marked, e % 2 && (!compared || !marked), compared, next(&r));
        if (outcome && now != outcome) FAIL("%s: the outcome was first %c, then %c", name, outcome, now);
        outcome = now;
        /* A restore takes back all changes that it knows of. It does not know of missed ones. */
        if (outcome == 'm') continue;
        if (e % 2) {
            number = head(store);
            memcpy(at_head, b.shadow, PAGES * PAGE);
        }
        for (int i = 0; i < TOUCHED; i++) write_page(&way, w, touched[i], next(&r));
        if (marked) mark(&b, &way, w);
        OK(store_restore(store, number, NULL));
        memcpy(b.shadow, at_head, PAGES * PAGE);
        same(b.memory, b.shadow, PAGES * PAGE, "restored over the writer");
        CHECK(audit(store) == 0);
        restores++;
    }
    if (!why) writer_end(&way, w);
    OK(store_close(store));
    if (b.mode == MEMFD_FD && w == MAPPED_OVER)
        CHECK(pread(b.fd, b.shadow, PAGES * PAGE, (off_t)b.fd_offset) == (ssize_t)(PAGES * PAGE));
    ground_after_unmap(&b);
    cells += !why;
    return why ? '.' : outcome;
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("matrix");
    CHECK(setvbuf(stdout, NULL, _IONBF, 0) == 0); /* children are forked in the middle of lines */
    name_directory(scratch, arguments[1], "scratch");
    int kernel = have("the kernel tracker", kernel_tracker() ? NULL : "its self-test failed");
    unsigned counts[128] = {0};
    printf("%s\n%s\n", expected[0], expected[1]);
    for (enum writer w = 0; w < WRITERS; w++) {
        int there = have(writer_names[w], writer_missing(w, scratch));
        printf("| %-28s |", writer_names[w]);
        for (int column = 0; column < COLUMNS; column++) {
            printf(" `");
            for (int tracker = 0; tracker < TRACKERS; tracker++) {
                char want = expected_of(w, column, tracker), found = '?';
                /* Under valgrind a few cells are enough, and the kernel tracker is missing. A brief run tries every
                 * third cell. */
                int wanted = slow() ? column == 1 || column == 4 : !brief() || ((int)w + column) % 3 == 0;
                const char *stores = stores_for(arguments[1], w, column);
                if (!there || !wanted || !have("a store in /dev/shm", stores ? NULL : "it cannot be written") || (!kernel && trackers[tracker].tracker == VMSTORE_TRACKER_KERNEL)) {
                    skipped++;
                    putchar('?');
                    continue;
                }
                found = cell(stores, w, column, tracker, 0);
                if (found != want)
                    FAIL("%s, column %d, tracker %d: found %c, documented %c", writer_names[w], column, tracker, found, want);
                if (want == 'm' || (want != '.' && !brief())) {
                    char marked = cell(stores, w, column, tracker, 1);
                    CHECK(marked == (want == 'm' ? '+' : want));
                }
                counts[(unsigned char)found]++;
                putchar(found);
            }
            printf("` |");
        }
        putchar('\n');
    }
    printf("matrix: %u cells exact, %u missed and exact once marked, %u refused, %u where nothing changes, %u that the writer "
           "cannot reach, %u not tried here; %u runs, %u commits compared, %u audits found %u missed pages, %u refusals, %u "
           "restores\n",
           counts['+'], counts['m'], counts['r'], counts['='], counts['.'], skipped, cells, commits, audits, missed_pages,
           refusals, restores);
    return 0;
}
