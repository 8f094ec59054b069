/* The commit in two steps, and what may happen between the steps: a guest that writes during the second step, a
 * cancelled capture, a second capture, a persist, progress callbacks that watch and that cancel, and the descriptor
 * of a shared module. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "model.h"

static unsigned captures, callbacks;
static char directory[4096];

/* ---- a guest: a thread that writes all the time, except while it is paused ---- */

#define GUEST_SIZE (256 * PAGE)

static struct {
    unsigned char *memory;
    atomic_int want_pause, paused, stop;
    atomic_ulong written;
} guest;

static void *run_guest(void *unused)
{
    rng r = {seed()};
    (void)unused;
    while (!guest.stop) {
        if (guest.want_pause) {
            guest.paused = 1;
            while (guest.want_pause && !guest.stop) usleep(20);
            guest.paused = 0;
            continue;
        }
        /* Whole pages and single bytes: a page that is torn by a late copy would be seen. */
        unsigned char *page = guest.memory + below(&r, GUEST_SIZE / PAGE) * PAGE;
        if (below(&r, 4) == 0) fill(page, PAGE, next(&r));
        else page[below(&r, PAGE)]++;
        guest.written++;
    }
    return NULL;
}

static void pause_guest(void)
{
    guest.want_pause = 1;
    while (!guest.paused) usleep(20);
}

static void resume_guest(void)
{
    unsigned long from = guest.written;
    guest.want_pause = 0;
    while (guest.written < from + 3) usleep(20); /* wait until the guest has written */
}

static void capture_under_a_running_guest(const char *stores, uint32_t mode)
{
    enum { ROUNDS = 60 };
    unsigned char *moments[ROUNDS];
    name_directory(directory, stores, mode ? "guest-shared" : "guest-private");
    vmstore *store = open_store(directory, 0);
    mapped ram = map(store, "ram", GUEST_SIZE, mode, 0);
    guest.memory = ram.memory;
    guest.stop = guest.want_pause = guest.paused = 0;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, run_guest, NULL) == 0);

    unsigned rounds = brief() ? 10 : ROUNDS;
    for (unsigned i = 0; i < rounds; i++) {
        vmstore_capture *capture;
        uint64_t number;
        pause_guest();
        OK(store_capture(store, NULL, &capture));
        CHECK((moments[i] = malloc(GUEST_SIZE)));
        memcpy(moments[i], ram.memory, GUEST_SIZE);
        resume_guest();
        if (i % 4 == 1) OK(store_persist(store, NULL)); /* allowed while a capture is outstanding */
        OK(store_capture_commit(capture, &number));
        CHECK(number == i + 1 && head(store) == number);
        captures++;
    }
    guest.stop = 1;
    CHECK(pthread_join(thread, NULL) == 0);
    for (unsigned i = 0; i < rounds; i++) {
        OK(store_restore(store, rounds - i, NULL));
        same(ram.memory, moments[rounds - i - 1], GUEST_SIZE, "the capture moment");
        free(moments[rounds - i - 1]);
    }
    OK(store_close(store));
}

/* ---- one capture at a time, cancelled or written ---- */

static void cancel_and_busy(const char *stores, uint32_t tracker)
{
    size_t size = 64 * PAGE;
    unsigned char *base = malloc(size), *want = malloc(size);
    name_directory(directory, stores, tracker ? "cancel-caller" : "cancel");
    vmstore *store = open_store(directory, 0);
    mapped ram = map(store, "ram", size, 0, tracker);
    fill(ram.memory, size, 1);
    memcpy(base, ram.memory, size);
    OK(store_mark_dirty(ram.handle, 0, size));
    CHECK(commit(store) == 1);

    vmstore_capture *capture, *second = NULL;
    vmstore_module *other;
    uint64_t number = 0;
    fill(ram.memory + 3 * PAGE, 5 * PAGE, 2);
    OK(store_mark_dirty(ram.handle, 3 * PAGE, 5 * PAGE));
    vmstore_commit_options named = {.struct_size = sizeof named, .label = "given up"};
    OK(store_capture(store, &named, &capture));
    FAILS(store_capture(store, NULL, &second), VMSTORE_E_BUSY, "capture");
    FAILS(store_commit(store, NULL, &number), VMSTORE_E_BUSY, "capture");
    FAILS(store_restore(store, 1, NULL), VMSTORE_E_BUSY, "capture");
    FAILS(store_map_module(store, "other", PAGE, NULL, &other), VMSTORE_E_BUSY, "capture");
    FAILS(store_unmap_module(ram.handle), VMSTORE_E_BUSY, "capture");
    CHECK(second == NULL && number == 0);
    OK(store_persist(store, NULL));

    fill(ram.memory + 10 * PAGE, PAGE, 3); /* the guest goes on, and the capture is cancelled */
    OK(store_mark_dirty(ram.handle, 10 * PAGE, PAGE));
    const char *before = strdup(listing(directory));
    OK(store_capture_cancel(capture));
    FAILS(store_capture_commit(capture, &number), VMSTORE_E_HANDLE, "capture");
    FAILS(store_capture_cancel(capture), VMSTORE_E_HANDLE, "capture");
    if (strcmp(before, listing(directory))) FAIL("a cancelled capture changed the directory: %s", listing(directory));
    free((char *)before);
    CHECK(commit_count(store) == 1 && head(store) == 1);

    memcpy(want, ram.memory, size);
    /* Holds the changes of both: pages 3 to 7, and page 10. */
    CHECK(commit(store) == 2 && info(store, 2).label[0] == 0);
    OK(store_restore(store, 1, NULL));
    same(ram.memory, base, size, "before the cancelled capture");
    OK(store_restore(store, 2, NULL));
    same(ram.memory, want, size, "the commit after a cancelled capture");

    /* A capture without changes makes no commit. With a label it makes a commit of the same bytes. */
    OK(store_capture(store, NULL, &capture));
    OK(store_capture_commit(capture, &number));
    CHECK(number == 2 && commit_count(store) == 2);
    OK(store_capture(store, &named, &capture));
    fill(ram.memory, PAGE, 4); /* after the capture: not in commit 3, but in the next commit */
    OK(store_mark_dirty(ram.handle, 0, PAGE));
    OK(store_capture_commit(capture, &number));
    CHECK(number == 3 && !strcmp(info(store, 3).label, "given up"));
    CHECK(commit(store) == 4);
    OK(store_restore(store, 3, NULL));
    same(ram.memory, want, size, "the capture with only a label");
    fill(want, PAGE, 4);
    OK(store_restore(store, 4, NULL));
    same(ram.memory, want, size, "written between the two halves");

    OK(store_capture(store, &named, &capture)); /* closing the store cancels the capture */
    OK(store_close(store));
    FAILS(store_capture_commit(capture, &number), VMSTORE_E_HANDLE, "capture");
    store = open_store(directory, 0);
    CHECK(commit_count(store) == 4 && head(store) == 4);
    OK(store_close(store));
    captures += 6;
    free(base), free(want);
}

/* ---- progress: values rise to the total; a cancelled call leaves everything unchanged ---- */

typedef struct {
    vmstore *store;
    uint64_t last, total, calls, cancel_at;
} watch;

static int watching(uint64_t done, uint64_t total, void *user_data)
{
    watch *w = user_data;
    uint64_t number;
    if (done < w->last || done > total || (w->calls && total != w->total))
        FAIL("progress went to %" PRIu64 " of %" PRIu64 " from %" PRIu64 " of %" PRIu64, done, total, w->last,
             w->total);
    FAILS(store_head(w->store, &number), VMSTORE_E_BUSY, "callback");
    w->last = done, w->total = total, w->calls++, callbacks++;
    return w->cancel_at == w->calls;
}

static void watched(const watch *w)
{
    if (w->calls == 0 || w->last != w->total)
        FAIL("progress ended at %" PRIu64 " of %" PRIu64 " after %" PRIu64 " calls", w->last, w->total,
             w->calls);
}

static void progress(const char *stores)
{
    size_t size = 512 * PAGE;
    unsigned char *one = malloc(size), *two = malloc(size), *dirty = malloc(size);
    name_directory(directory, stores, "progress");
    vmstore *store = open_store(directory, 0);
    mapped ram = map(store, "ram", size, 0, 0), dev = map(store, "dev", size, VMSTORE_MAP_SHARED, 0);
    fill(ram.memory, size, 1), fill(dev.memory, size, 1);
    memcpy(one, ram.memory, size);
    CHECK(commit(store) == 1);
    fill(ram.memory, size, 2), fill(dev.memory, size, 2);
    memcpy(two, ram.memory, size);
    CHECK(commit(store) == 2);

    watch w = {.store = store, .cancel_at = 1};
    vmstore_persist_options persist = {
        .struct_size = sizeof persist, .progress = watching, .user_data = &w};
    FAILS(store_persist(store, &persist), VMSTORE_E_CANCELLED, "");
    CHECK(stats(store).unpersisted_commits == 2 && !info(store, 1).persisted);
    /* The first persist makes the file, a cancelled one does not. */
    CHECK(access(path_in(directory, "commits"), F_OK) == -1);
    w = (watch){.store = store};
    OK(store_persist(store, &persist));
    watched(&w);
    CHECK(stats(store).unpersisted_commits == 0 && info(store, 2).persisted);
    CHECK(access(path_in(directory, "commits"), F_OK) == 0);

    vmstore_stats before = stats(store); /* without changes a commit writes nothing */
    OK(store_persist(store, NULL));
    CHECK(stats(store).syncs == before.syncs && stats(store).bytes_written == before.bytes_written);

    /* Restore, cancelled at each of its callbacks in turn: memory, head and dirty pages do not change. */
    fill(ram.memory + 7 * PAGE, PAGE, 77);
    memcpy(dirty, ram.memory, size);
    vmstore_restore_options restore = {
        .struct_size = sizeof restore, .progress = watching, .user_data = &w};
    for (uint64_t at = 1, status = 1; status; at += 1 + at / 4) {
        w = (watch){.store = store, .cancel_at = at};
        int result = store_restore(store, 1, &restore);
        status = result != VMSTORE_OK;
        if (!status) break;
        CHECK(result == VMSTORE_E_CANCELLED && w.calls == at && head(store) == 2);
        same(ram.memory, dirty, size, "after a cancelled restore");
        same(dev.memory, two, size, "after a cancelled restore");
    }
    watched(&w);
    same(ram.memory, one, size, "restored after cancelled tries");
    same(dev.memory, one, size, "restored after cancelled tries");

    OK(store_restore(store, 2, NULL));
    fill(ram.memory + 7 * PAGE, PAGE, 77);
    w = (watch){.store = store, .cancel_at = 1};
    FAILS(store_restore(store, 1, &restore), VMSTORE_E_CANCELLED, "");
    CHECK(commit(store) == 3 && stats(store).last_written_pages == 1);
    OK(store_restore(store, 1, NULL));
    OK(store_restore(store, 3, NULL));
    same(ram.memory, dirty, size, "pages that were dirty before a cancelled restore");

    vmstore_verify_options verify = {
        .struct_size = sizeof verify, .progress = watching, .user_data = &w};
    w = (watch){.store = store};
    OK(store_verify(store, &verify));
    watched(&w);
    w = (watch){.store = store, .cancel_at = w.calls};
    FAILS(store_verify(store, &verify), VMSTORE_E_CANCELLED, "");
    w = (watch){.store = store};
    verify.commit = 2, verify.flags = VMSTORE_VERIFY_METADATA;
    OK(store_verify(store, &verify));
    OK(store_close(store));
    free(one), free(two), free(dirty);
}

/* ---- the descriptor of a shared module ---- */

static void descriptor(const char *stores)
{
    size_t size = 32 * PAGE;
    unsigned char *one = malloc(size), *two = malloc(size);
    name_directory(directory, stores, "descriptor");
    vmstore *store = open_store(directory, 0);
    mapped ram = map(store, "ram", size, VMSTORE_MAP_SHARED, 0), own = map(store, "own", PAGE, 0, 0);
    int fd = -1;
    uint64_t offset = 99;
    FAILS(store_module_fd(own.handle, &fd, &offset), VMSTORE_E_UNSUPPORTED, "");
    CHECK(fd == -1 && offset == 99);
    OK(store_module_fd(ram.handle, &fd, &offset));
    CHECK(fd >= 0 && offset % PAGE == 0 && (fcntl(fd, F_GETFD) & FD_CLOEXEC));

    const unsigned char *second = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, (off_t)offset);
    CHECK(second != MAP_FAILED);
    fill(ram.memory, size, 1);
    memcpy(one, ram.memory, size);
    same(second, one, size, "the second mapping");
    CHECK(commit(store) == 1);
    fill(ram.memory + 5 * PAGE, 9 * PAGE, 2);
    memcpy(two, ram.memory, size);
    CHECK(commit(store) == 2);
    for (int i = 0; i < 3; i++) {
        OK(store_restore(store, 1, NULL));
        same(second, one, size, "the second mapping after a restore");
        OK(store_restore(store, 2, NULL));
        same(second, two, size, "the second mapping after a restore");
    }
    OK(store_unmap_module(ram.handle));
    CHECK(munmap((void *)(uintptr_t)second, size) == 0);
    OK(store_close(store));
    free(one), free(two);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("captures");
    capture_under_a_running_guest(arguments[1], VMSTORE_MAP_PRIVATE);
    capture_under_a_running_guest(arguments[1], VMSTORE_MAP_SHARED);
    cancel_and_busy(arguments[1], VMSTORE_TRACKER_AUTO);
    cancel_and_busy(arguments[1], VMSTORE_TRACKER_CALLER);
    progress(arguments[1]);
    descriptor(arguments[1]);
    printf("captures: seed %" PRIu64 ": %u captures, %lu writes beside them, %u progress callbacks\n",
           seed(), captures, (unsigned long)guest.written, callbacks);
    return 0;
}
