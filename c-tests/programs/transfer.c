/* Export and import: a branching history goes into other stores, as a whole and in steps, through files and a pipe,
 * with its bytes and unique ids. Commits that are already there change nothing. A stream that is cut, flipped or
 * reordered anywhere is refused, and nothing is imported. A model holds the expected bytes. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/mman.h>

#include "model.h"

enum { COMMITS = 16, PAGES = 24, MODULES = 2 };

static const char *const names[MODULES] = {"ram", "late"};
static const size_t sizes[MODULES] = {PAGES * PAGE, 4 * PAGE};
static unsigned char *at[COMMITS + 1][MODULES];
static uint64_t parent[COMMITS + 1];
static vmstore_commit_info infos[COMMITS + 1];
static uint64_t changed[COMMITS + 1];
static unsigned long imports, refused, cancelled, compared;
static vmstore *source;

static void make_source(const char *directory)
{
    rng r = {seed()};
    mapped modules[MODULES] = {{0}};
    source = open_store(directory, 0);
    modules[0] = map(source, names[0], sizes[0], 0, VMSTORE_TRACKER_AUTO);
    for (uint64_t n = 1; n <= COMMITS; n++) {
        parent[n] = head(source);
        if (n > 1 && below(&r, 4) == 0) OK(store_restore(source, parent[n] = 1 + below(&r, n - 1), NULL));
        if (n == 5) modules[1] = map(source, names[1], sizes[1], 0, VMSTORE_TRACKER_AUTO);
        for (int i = 0; i < 5; i++) {
            int m = n >= 5 && below(&r, 4) == 0;
            size_t page = below(&r, sizes[m] / PAGE);
            if (below(&r, 4)) fill(modules[m].memory + page * PAGE, PAGE, next(&r));
            else memset(modules[m].memory + page * PAGE, 0, PAGE);
        }
        memcpy(modules[0].memory, &n, sizeof n);
        char label[16];
        snprintf(label, sizeof label, "n%d", (int)n);
        vmstore_commit_options options = {
            .struct_size = sizeof options, .label = label, .user_data = &n, .user_data_length = sizeof n};
        uint64_t made;
        OK(store_commit(source, &options, &made));
        CHECK(made == n);
        changed[n] = stats(source).last_written_pages + stats(source).last_zero_pages;
        infos[n] = info(source, n);
        for (int m = 0; m < MODULES; m++) {
            CHECK((at[n][m] = calloc(1, sizes[m])));
            if (modules[m].memory) memcpy(at[n][m], modules[m].memory, sizes[m]);
        }
    }
}

static unsigned char *stream_of(uint64_t from, uint64_t to, size_t *length)
{
    FILE *file = tmpfile();
    CHECK(file);
    OK(store_export(source, from, to, fileno(file)));
    off_t end = lseek(fileno(file), 0, SEEK_END);
    unsigned char *bytes = malloc((size_t)end);
    CHECK(bytes && pread(fileno(file), bytes, (size_t)end, 0) == end && !fclose(file));
    *length = (size_t)end;
    return bytes;
}

static int import(vmstore *store, const void *bytes, size_t length, uint64_t *commit)
{
    int fd = memfd_create("stream", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, bytes, length) == (ssize_t)length && lseek(fd, 0, SEEK_SET) == 0);
    int status = store_import(store, fd, commit);
    close(fd);
    return status;
}

/* Commit `there` of `store` must be commit `n` of the source. */
static void check_commit(vmstore *store, uint64_t n, uint64_t there)
{
    vmstore_commit_info i = info(store, there);
    uint64_t data = 0, found = 0;
    size_t length = 0;
    CHECK(!memcmp(i.unique_id, infos[n].unique_id, 16) && i.time == infos[n].time);
    CHECK(!strcmp(i.label, infos[n].label) && i.modules == infos[n].modules);
    OK(store_commit_user_data(store, there, &data, sizeof data, &length));
    CHECK(length == sizeof data && data == n);
    OK(store_find_commit(store, infos[n].label, &found));
    CHECK(found == there);
    uint64_t back = head(store);
    OK(store_restore(store, there, NULL));
    for (int m = 0; m < (int)i.modules; m++) {
        mapped module = map(store, names[m], 0, VMSTORE_MAP_EAGER, VMSTORE_TRACKER_CALLER);
        same(module.memory, at[n][m], sizes[m], "an imported commit");
        OK(store_unmap_module(module.handle));
        compared++;
    }
    if (back) OK(store_restore(store, back, NULL));
}

static size_t path_to(uint64_t to, uint64_t *path)
{
    size_t count = 0;
    for (uint64_t n = to; n; n = parent[n]) count++;
    for (uint64_t n = to, i = count; n; n = parent[n]) path[--i] = n;
    return count;
}

static void into_others(const char *stores)
{
    uint64_t path[COMMITS + 1], there = 0, again = 0;
    size_t length, count = path_to(COMMITS, path);
    unsigned char *bytes = stream_of(0, COMMITS, &length);

    /* All of it, into a new store, whose head is then the last commit. Then the same stream again: nothing changes. */
    char directory[4096];
    name_directory(directory, stores, "new");
    vmstore *store = open_store(directory, 0);
    OK(import(store, bytes, length, &there));
    CHECK(there == count && commit_count(store) == count && head(store) == count);
    for (size_t i = 0; i < count; i++) check_commit(store, path[i], i + 1);
    OK(import(store, bytes, length, &again));
    CHECK(again == there && commit_count(store) == count && ++imports);
    OK(store_verify(store, NULL));
    OK(store_close(store));
    store = open_store(directory, VMSTORE_OPEN_NO_CREATE);
    for (size_t i = 0; i < count; i++) check_commit(store, path[i], i + 1);

    /* The other branches in steps. Each step has the size of its delta. */
    uint64_t number[COMMITS + 1] = {0};
    for (size_t i = 0; i < count; i++) number[path[i]] = i + 1;
    free(bytes);
    for (uint64_t n = 1; n <= COMMITS; n++) {
        if (number[n]) continue;
        bytes = stream_of(parent[n], n, &length);
        if (length > changed[n] * (PAGE + 256) + 1024)
            FAIL("the stream of a step of %" PRIu64 " pages has %zu bytes", changed[n], length);
        OK(import(store, bytes, length, &number[n]));
        free(bytes);
        check_commit(store, n, number[n]);
        CHECK(info(store, number[n]).parent == number[parent[n]] && ++imports);
    }
    CHECK(commit_count(store) == COMMITS && head(store) == count);
    OK(store_persist(store, NULL));
    OK(store_close(store));

    /* Into a store with a history and mapped memory of its own, which do not change. Then the store goes on. */
    store = open_store(path_in(stores, "own"), 0);
    mapped ram = map(store, "ram", 2 * PAGE, 0, VMSTORE_TRACKER_AUTO);
    bytes = stream_of(0, COMMITS, &length);
    FAILS(import(store, bytes, length, &there), VMSTORE_E_BUSY, "mapped");
    ram.memory[5] = 7;
    uint64_t own = commit(store);
    ram.memory[6] = 8;
    vmstore_capture *capture;
    OK(store_capture(store, NULL, &capture));
    FAILS(import(store, bytes, length, &there), VMSTORE_E_BUSY, "capture");
    OK(store_capture_cancel(capture));
    OK(import(store, bytes, length, &there));
    CHECK(head(store) == own && ram.memory[5] == 7 && ram.memory[6] == 8 && there == own + count && ++imports);
    CHECK(commit(store) == own + count + 1);
    OK(store_unmap_module(ram.handle));
    for (size_t i = 0; i < count; i++) check_commit(store, path[i], own + 1 + i);
    OK(store_delete_commit(store, own + 1));
    vmstore_compact_options images = {.struct_size = sizeof images, .image_percent = 1};
    OK(store_compact(store, &images));
    for (size_t i = 1; i < count; i++) check_commit(store, path[i], own + 1 + i);
    OK(store_verify(store, NULL));
    OK(store_close(store));
    free(bytes);
}

static void nothing_came(vmstore *store, const char *directory, size_t commits)
{
    char hidden[4200];
    snprintf(hidden, sizeof hidden, "%s/.vmstore", directory);
    CHECK(commit_count(store) == commits);
    CHECK(!strcmp(listing(hidden), "high-water identity journal "));
    CHECK(!strstr(listing(directory), "Commit2"));
    refused++;
}

static void bad_streams(const char *stores)
{
    char directory[4096];
    uint64_t there = 77;
    size_t length, frames = 0, starts[2000];
    name_directory(directory, stores, "bad");
    vmstore *store = open_store(directory, 0);
    uint64_t tip = 3;
    while (parent[tip] != tip - 1) tip++;
    unsigned char *bytes = stream_of(parent[tip], tip, &length);
    FAILS(import(store, bytes, length, &there), VMSTORE_E_NOT_FOUND, "on which the stream builds");
    free(bytes);
    mapped ram = map(store, "own", PAGE, 0, VMSTORE_TRACKER_AUTO);
    ram.memory[0] = 1;
    commit(store);
    bytes = stream_of(0, tip, &length);
    unsigned char *bad = malloc(length);
    CHECK(bad);
    for (size_t offset = 96; offset < length;) {
        uint64_t payload;
        memcpy(&payload, bytes + offset + 8, 8);
        CHECK(frames < 1999);
        starts[frames++] = offset;
        offset += 48 + payload;
    }
    starts[frames] = length;
    for (size_t cut = 0; cut < length; cut += cut < 300 ? 1 : brief() || slow() ? 2003 : 211) {
        CHECK(import(store, bytes, cut, &there) == VMSTORE_E_CORRUPT);
        nothing_came(store, directory, 1);
    }
    for (size_t flip = 0; flip < length; flip += flip < 600 ? 1 : slow() || brief() ? 2003 : 211) {
        memcpy(bad, bytes, length);
        bad[flip] ^= (unsigned char)(1 << flip % 8);
        int status = import(store, bad, length, &there);
        if (status != VMSTORE_E_CORRUPT) FAIL("a stream with byte %zu flipped gave %s", flip, store_strerror(status));
        nothing_came(store, directory, 1);
    }
    for (size_t a = 0; a + 1 < frames; a++) {
        /* Two frames are exchanged; one is missing; one comes twice. */
        size_t first = starts[a + 1] - starts[a], second = starts[a + 2] - starts[a + 1];
        memcpy(bad, bytes, length);
        memcpy(bad + starts[a], bytes + starts[a + 1], second);
        memcpy(bad + starts[a] + second, bytes + starts[a], first);
        CHECK(import(store, bad, length, &there) == VMSTORE_E_CORRUPT);
        nothing_came(store, directory, 1);
        memcpy(bad, bytes, length);
        memmove(bad + starts[a], bytes + starts[a + 1], length - starts[a + 1]);
        CHECK(import(store, bad, length - first, &there) == VMSTORE_E_CORRUPT);
        nothing_came(store, directory, 1);
    }
    CHECK(there == 77);
    OK(import(store, bytes, length, &there));
    check_commit(store, tip, there);
    FAILS(store_import(store, -1, &there), VMSTORE_E_INVALID, "descriptor");
    FAILS(store_export(source, 0, tip, -1), VMSTORE_E_INVALID, "descriptor");
    FAILS(store_export(source, tip, tip, 1), VMSTORE_E_INVALID, "itself");
    FAILS(store_export(source, 0, 99, 1), VMSTORE_E_NOT_FOUND, "99");
    FAILS(store_export(source, COMMITS, 1, 1), VMSTORE_E_INVALID, "not a descendant");
    free(bad);
    free(bytes);
    OK(store_close(store));
}

static void *exporter(void *fd)
{
    OK(store_export(source, 0, COMMITS, *(int *)fd));
    close(*(int *)fd);
    return NULL;
}

static void through_a_pipe(const char *stores)
{
    int ends[2];
    uint64_t there = 0, path[COMMITS + 1];
    pthread_t thread;
    vmstore *store = open_store(path_in(stores, "piped"), 0);
    CHECK(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
    CHECK(pthread_create(&thread, NULL, exporter, &ends[1]) == 0);
    OK(store_import(store, ends[0], &there));
    CHECK(pthread_join(thread, NULL) == 0 && there == path_to(COMMITS, path));
    check_commit(store, COMMITS, there);
    OK(store_close(store));
    close(ends[0]);
    /* The pipe has no reader: an error, and no SIGPIPE. */
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    close(ends[0]);
    CHECK(store_export(source, 0, COMMITS, ends[1]) == VMSTORE_E_IO && store_last_errno() == EPIPE);
    close(ends[1]);
    imports++;
}

static struct {
    unsigned long calls, until;
    uint64_t done, total;
} heard;

static int hear(uint64_t done, uint64_t total, void *user_data)
{
    CHECK(user_data == &heard && done <= total && done >= heard.done);
    heard.done = done, heard.total = total;
    return ++heard.calls == heard.until;
}

/* Progress on both sides, to the end. Then cancelled at every call, with nothing imported. */
static void with_progress(const char *directory)
{
    vmstore_transfer_options options = {.struct_size = sizeof options, .progress = hear, .user_data = &heard};
    uint64_t there = 0;
    int fd = memfd_create("stream", MFD_CLOEXEC);
    CHECK(fd >= 0);
    memset(&heard, 0, sizeof heard);
    OK(store_export_with(source, 0, COMMITS, fd, &options));
    unsigned long calls = heard.calls;
    uint64_t total = heard.total;
    CHECK(calls > 3 && heard.done == total && total > 0);
    for (unsigned long until = 1; until <= calls; until++, cancelled++) {
        int cut = memfd_create("stream", MFD_CLOEXEC);
        memset(&heard, 0, sizeof heard), heard.until = until;
        FAILS(store_export_with(source, 0, COMMITS, cut, &options), VMSTORE_E_CANCELLED, "export");
        close(cut);
    }
    vmstore *store = open_store(directory, 0);
    for (unsigned long until = 1;; until++, cancelled++) {
        CHECK(lseek(fd, 0, SEEK_SET) == 0);
        memset(&heard, 0, sizeof heard), heard.until = until;
        int status = store_import_with(store, fd, &options, &there);
        if (status == VMSTORE_OK) break;
        CHECK(status == VMSTORE_E_CANCELLED && heard.calls == until && there == 0 && commit_count(store) == 0);
    }
    /* The progress of an import gives the stream's total. */
    CHECK(heard.total == total && heard.calls > 3);
    check_commit(store, COMMITS, there);
    OK(store_close(store));
    close(fd);
    imports++;
}

int main(int count, char **arguments)
{
    CHECK(count >= 2);
    require_small_pages("transfer");
    make_source(path_in(arguments[1], "source"));
    into_others(arguments[1]);
    bad_streams(arguments[1]);
    through_a_pipe(arguments[1]);
    with_progress(path_in(arguments[1], "progress"));
    /* Also from a store whose files are images of compacted chains. */
    vmstore_compact_options images = {.struct_size = sizeof images, .image_percent = 1};
    OK(store_compact(source, &images));
    char again[4096];
    name_directory(again, arguments[1], "again");
    CHECK(mkdir(again, 0700) == 0);
    into_others(again);
    OK(store_close(source));
    printf("transfer: seed %" PRIu64 ": %lu imports, %lu modules compared, %lu bad streams refused with nothing "
           "imported, %lu exports and imports cancelled\n",
           seed(), imports, compared, refused, cancelled);
    return 0;
}
