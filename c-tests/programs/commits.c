/* What a commit holds, and what it does not write: zero pages, pages rewritten with the same bytes, commits without
 * changes, modules that are not mapped, labels and user data, commit numbers that are never reused, and a dirty set
 * larger than the memory given to captures. */
#define _GNU_SOURCE
#include "model.h"

static unsigned commits, checks;
static char directory[4096];

static vmstore *fresh_store(const char *stores, const char *name)
{
    name_directory(directory, stores, name);
    return open_store(directory, 0);
}

static int has_file(const char *module, uint64_t number)
{
    char name[64];
    snprintf(name, sizeof name, "%s_Commit%" PRIu64, module, number);
    return access(path_in(directory, name), F_OK) == 0;
}

static void expect_bytes(const mapped *module, const unsigned char *want, size_t size, const char *what)
{
    same(module->memory, want, size, what);
    checks++;
}

static void zero_pages(const char *stores, uint32_t mode)
{
    size_t size = 32 * PAGE;
    unsigned char *one = malloc(size), *two = malloc(size);
    vmstore *store = fresh_store(stores, mode ? "zero-shared" : "zero-private");
    mapped ram = map(store, "ram", size, mode, 0);
    fill(ram.memory, size, 1);
    memset(ram.memory + 7 * PAGE, 0, PAGE); /* a hole in the image */
    memcpy(one, ram.memory, size);
    uint64_t first = commit(store);
    CHECK(stats(store).last_written_pages == 31);

    memset(ram.memory + 3 * PAGE, 0, 2 * PAGE);
    memset(ram.memory + 31 * PAGE, 0, PAGE);
    fill(ram.memory + 7 * PAGE, PAGE, 2);
    memcpy(two, ram.memory, size);
    uint64_t second = commit(store);
    CHECK(stats(store).last_zero_pages == 3 && stats(store).last_written_pages == 1);

    for (int again = 0; again < 2; again++) {
        OK(store_restore(store, first, NULL));
        expect_bytes(&ram, one, size, "the commit before the zeros");
        OK(store_restore(store, second, NULL));
        expect_bytes(&ram, two, size, "the commit with the zeros");
    }
    memset(ram.memory, 0, size); /* the whole module: a commit of zero pages only */
    uint64_t third = commit(store);
    CHECK(stats(store).last_written_pages == 0);
    OK(store_restore(store, first, NULL));
    expect_bytes(&ram, one, size, "from all zeros back");
    OK(store_restore(store, third, NULL));
    memset(one, 0, size);
    expect_bytes(&ram, one, size, "all zeros");
    OK(store_unmap_module(ram.handle));
    ram = map(store, "ram", 0, mode | VMSTORE_MAP_EAGER, 0);
    expect_bytes(&ram, one, size, "all zeros, mapped again");
    OK(store_close(store));
    commits += 3;
    free(one), free(two);
}

static void no_change(const char *stores, uint32_t tracker)
{
    size_t size = 16 * PAGE;
    unsigned char *copy = malloc(size);
    vmstore *store = fresh_store(stores, tracker == VMSTORE_TRACKER_COMPARE ? "same-compare" : "same");
    uint64_t empty = commit(store); /* before the first commit there is no head, so an empty commit is made */
    CHECK(empty == 1 && head(store) == 1 && commit_count(store) == 1 && info(store, 1).modules == 0);
    CHECK(commit(store) == 1 && commit_count(store) == 1);

    mapped ram = map(store, "ram", size, 0, tracker);
    uint64_t news = commit(store); /* nothing was written, but the module is new */
    CHECK(news == 2 && commit_count(store) == 2 && has_file("ram", 2));

    fill(ram.memory, 8 * PAGE, 5);
    memcpy(copy, ram.memory, size);
    uint64_t number = commit(store);
    CHECK(number == 3);
    CHECK(commit(store) == number && commit_count(store) == 3);

    /* Written, but with the bytes that they already had. */
    volatile unsigned char *bytes = ram.memory;
    for (size_t page = 0; page < 8; page += 2) {
        unsigned char had = bytes[page * PAGE + 9];
        bytes[page * PAGE + 9] = (unsigned char)~had;
        bytes[page * PAGE + 9] = had;
    }
    OK(store_mark_dirty(ram.handle, 9 * PAGE + 1, PAGE)); /* rounds outward: pages 9 and 10 */
    const char *before = strdup(listing(directory));
    CHECK(commit(store) == number && commit_count(store) == 3 && head(store) == number);
    if (strcmp(before, listing(directory))) FAIL("a commit without changes changed the directory: %s", listing(directory));
    free((char *)before);
    if (tracker != VMSTORE_TRACKER_COMPARE && kernel_tracker()) {
        vmstore_stats s = stats(store);
        if (s.last_unchanged_pages != 6 || s.last_dirty_pages != 6)
            FAIL("%" PRIu64 " dirty and %" PRIu64 " unchanged pages instead of 6", s.last_dirty_pages,
                 s.last_unchanged_pages);
    }

    /* One of the rewritten pages really changed: only this page is written. */
    bytes[0] ^= 1, bytes[2 * PAGE] ^= 1, bytes[2 * PAGE] ^= 1;
    copy[0] ^= 1;
    CHECK(commit(store) == 4 && stats(store).last_written_pages == 1);

    vmstore_commit_options labelled = {.struct_size = sizeof labelled, .label = "only a label"};
    uint64_t named = 0;
    OK(store_commit(store, &labelled, &named));
    CHECK(named == 5 && info(store, 5).parent == 4 && !has_file("ram", 5));
    CHECK(!strcmp(info(store, 5).label, "only a label") && info(store, 4).label[0] == 0);

    labelled.label = ""; /* an empty label means no label */
    OK(store_commit(store, &labelled, &named));
    CHECK(named == 5 && commit_count(store) == 5);

    OK(store_restore(store, 2, NULL));
    memset(ram.memory + PAGE, 1, 1);
    OK(store_restore(store, 5, NULL));
    expect_bytes(&ram, copy, size, "a commit that has only a label");
    CHECK(commit(store) == 5); /* restored and not written: nothing changed */

    OK(store_restore(store, 4, NULL));
    bytes[5 * PAGE]++;
    uint64_t branch = commit(store);
    CHECK(branch == 6 && info(store, branch).parent == 4); /* 5 is never reused */
    OK(store_close(store));
    commits += 6;
    free(copy);
}

static void cumulative(const char *stores)
{
    size_t size = 8 * PAGE;
    unsigned char *a = malloc(size), *b = malloc(size);
    vmstore *store = fresh_store(stores, "cumulative");
    mapped ma = map(store, "a", size, 0, 0), mb = map(store, "b", size, VMSTORE_MAP_SHARED, 0);
    fill(ma.memory, size, 1), fill(mb.memory, size, 2);
    memcpy(a, ma.memory, size);
    CHECK(commit(store) == 1);

    fill(mb.memory, size, 99); /* dropped by unmapping */
    OK(store_unmap_module(mb.handle));
    fill(b, size, 2);
    fill(ma.memory + PAGE, PAGE, 3);
    memcpy(a, ma.memory, size);
    CHECK(commit(store) == 2 && info(store, 2).modules == 2 && !has_file("b", 2));

    mb = map(store, "b", 0, VMSTORE_MAP_SHARED, 0);
    expect_bytes(&mb, b, size, "a module that was not mapped during a commit");
    OK(store_unmap_module(ma.handle));
    mb.memory[PAGE]++, b[PAGE]++;
    CHECK(commit(store) == 3 && !has_file("a", 3) && has_file("b", 3));

    OK(store_restore(store, 1, NULL)); /* a is not mapped; when it is mapped later, it is at commit 1 */
    ma = map(store, "a", 0, 0, 0);
    fill(a, size, 1);
    expect_bytes(&ma, a, size, "mapped after a restore");
    OK(store_restore(store, 3, NULL));
    fill(a + PAGE, PAGE, 3);
    expect_bytes(&ma, a, size, "a at 3");
    expect_bytes(&mb, b, size, "b at 3");

    OK(store_close(store));
    store = open_store(directory, 0);
    mb = map(store, "b", 0, 0, 0);
    mapped mc = map(store, "c", size, 0, 0); /* new: no earlier commit has it */
    mc.memory[0] = 1;
    CHECK(commit(store) == 4 && info(store, 4).modules == 3);
    OK(store_restore(store, 1, NULL));
    memset(a, 0, size);
    expect_bytes(&mc, a, size, "a module that the commit does not know");
    OK(store_close(store));
    commits += 4;
    free(a), free(b);
}

static void label_and_user_data(const char *stores)
{
    static const size_t lengths[] = {0, 1, 1 << 20, 4097};
    static unsigned char data[1 << 20], back[1 << 20];
    char label[256];
    memset(label, 'x', 255), label[255] = 0;
    const char *labels[] = {NULL, "caf\303\251 \360\237\220\247", label, "d"};
    vmstore *store = fresh_store(stores, "labels");
    vmstore_commit_info before[5] = {{.struct_size = 0}};
    mapped ram = map(store, "ram", PAGE, 0, 0);
    for (uint64_t n = 1; n <= 4; n++) {
        vmstore_commit_options options = {.struct_size = sizeof options,
                                          .label = labels[n - 1],
                                          .user_data = lengths[n - 1] ? data : NULL,
                                          .user_data_length = lengths[n - 1]};
        uint64_t number;
        ram.memory[0]++;
        fill(data, sizeof data, n);
        data[0] = (unsigned char)n;
        OK(store_commit(store, &options, &number));
        CHECK(number == n);
        memset(data, 0xee, sizeof data); /* the library has copied the data */
        before[n] = info(store, n);
    }
    for (int pass = 0; pass < 4; pass++) {
        for (uint64_t n = 1; n <= 4; n++) {
            size_t length = 12345;
            vmstore_commit_info i = info(store, n);
            CHECK(!strcmp(i.label, labels[n - 1] ? labels[n - 1] : ""));
            CHECK(i.user_data_length == lengths[n - 1] && i.time == before[n].time && i.time != 0);
            CHECK(!memcmp(i.unique_id, before[n].unique_id, 16));
            CHECK(n == 1 || memcmp(i.unique_id, before[n - 1].unique_id, 16));
            CHECK(i.persisted == (pass >= 2));
            OK(store_commit_user_data(store, n, NULL, 0, &length));
            CHECK(length == lengths[n - 1]);
            memset(back, 0x77, sizeof back);
            OK(store_commit_user_data(store, n, back, sizeof back, &length));
            fill(data, sizeof data, n), data[0] = (unsigned char)n;
            CHECK(length == lengths[n - 1] && !memcmp(back, data, length));
            CHECK(length == sizeof back || back[length] == 0x77);
            memset(back, 0x77, sizeof back);
            /* Cut to one byte; the call gives the whole length. */
            OK(store_commit_user_data(store, n, back, 1, &length));
            CHECK(length == lengths[n - 1] && back[1] == 0x77);
            checks++;
        }
        if (pass == 1) OK(store_persist(store, NULL));
        if (pass == 0 || pass == 2) {
            OK(store_close(store));
            store = open_store(directory, 0);
        }
    }
    OK(store_close(store));
    commits += 4;
}

/* Captures get less memory than there are dirty pages: the pages without room are written while the guest is
 * paused. */
static void small_arena(const char *stores)
{
    size_t size = 600 * PAGE;
    unsigned char *want[3] = {malloc(size), malloc(size), malloc(size)};
    name_directory(directory, stores, "arena");
    vmstore_open_options options = {.struct_size = sizeof options, .arena_limit = 16 * PAGE};
    vmstore *store;
    OK(store_open(directory, &options, &store));
    mapped ram = map(store, "ram", size, 0, 0), dev = map(store, "dev", 40 * PAGE, 0, 0);
    uint64_t spills = 0;
    for (uint64_t n = 1; n <= 3; n++) {
        for (size_t page = n; page < 600; page += n) fill(ram.memory + page * PAGE, PAGE, n << 32 | page);
        fill(dev.memory, 40 * PAGE, n);
        memset(ram.memory + 500 * PAGE, 0, PAGE);
        memcpy(want[n - 1], ram.memory, size);
        if (n == 2) { /* in two steps, and the guest goes on in between */
            vmstore_capture *capture;
            uint64_t number;
            OK(store_capture(store, NULL, &capture));
            memset(ram.memory, 0x5a, size);
            OK(store_capture_commit(capture, &number));
            CHECK(number == 2);
            memcpy(ram.memory, want[1], size);
        } else {
            CHECK(commit(store) == n);
        }
        uint64_t now = stats(store).arena_spills;
        if (now <= spills) FAIL("%" PRIu64 " spills after commit %" PRIu64, now, n);
        spills = now;
    }
    CHECK(stats(store).arena_bytes <= 16 * PAGE);
    for (uint64_t n = 1; n <= 3; n++) {
        unsigned char *device = malloc(40 * PAGE);
        fill(device, 40 * PAGE, n);
        OK(store_restore(store, n, NULL));
        expect_bytes(&ram, want[n - 1], size, "a commit that did not fit into the arena");
        expect_bytes(&dev, device, 40 * PAGE, "the other module of it");
        free(device);
    }
    OK(store_verify(store, NULL));
    OK(store_close(store));
    commits += 3;
    for (int i = 0; i < 3; i++) free(want[i]);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("commits");
    zero_pages(arguments[1], VMSTORE_MAP_PRIVATE);
    zero_pages(arguments[1], VMSTORE_MAP_SHARED);
    no_change(arguments[1], VMSTORE_TRACKER_AUTO);
    no_change(arguments[1], VMSTORE_TRACKER_COMPARE);
    cumulative(arguments[1]);
    label_and_user_data(arguments[1]);
    small_arena(arguments[1]);
    printf("commits: %u commits, %u comparisons: zeros, no change, cumulative, labels, user data, "
           "small arena\n",
           commits, checks);
    return 0;
}
