/* Precopy beside a writer that never stops: 50,000 pages a second at random places of 1 GiB, of which one in 64 is
 * given back by a balloon. Rounds of precopy run, the writer pauses, and the capture copies only what was written
 * since the last round. A second reader must read every byte. Reports the rates that it reached; no check depends
 * on speed. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "model.h"

enum { MOST_ROUNDS = 12, LOG = 1 << 22 };

static size_t pages;
static double rate, seconds_of_writing;
static char directory[4096];

/* ---- the writer ---- */

static unsigned char *memory, *shadow;
static vmstore_module *module;
static uint32_t tracker;
static uint32_t *written; /* the page of each write, in order */
static atomic_ulong write_count;
static atomic_int pause_wanted, paused, stop;
static unsigned long writes_in_all;
static double written_in;

/* Makes as many writes as the time that has passed requires, a hundred at a time. */
static void *writer(void *argument)
{
    rng r = {*(uint64_t *)argument};
    double begun = seconds();
    unsigned long mine = 0;
    while (!atomic_load(&stop)) {
        if (atomic_load(&pause_wanted)) {
            double since = seconds();
            atomic_store(&paused, 1);
            while (atomic_load(&pause_wanted) && !atomic_load(&stop)) usleep(100);
            atomic_store(&paused, 0);
            begun += seconds() - since;
            continue;
        }
        if ((double)mine > (seconds() - begun) * rate) {
            usleep(500);
            continue;
        }
        for (int i = 0; i < 100; i++, mine++) {
            size_t page = below(&r, pages), at = page * PAGE + below(&r, PAGE / 8) * 8;
            uint64_t value = next(&r);
            if (value % 64 == 0) { /* now and then the balloon gives a page back */
                memset(shadow + page * PAGE, 0, PAGE);
                OK(store_discard(module, page * PAGE, PAGE));
            } else {
                memcpy(shadow + at, &value, 8);
                memcpy(memory + at, &value, 8);
                if (tracker == VMSTORE_TRACKER_CALLER) OK(store_mark_dirty(module, at, 8));
            }
            unsigned long number = atomic_load(&write_count);
            CHECK(number < LOG);
            written[number] = (uint32_t)page;
            atomic_store(&write_count, number + 1);
        }
    }
    writes_in_all += mine, written_in += seconds() - begun;
    return NULL;
}

static void pause_writer(void)
{
    atomic_store(&pause_wanted, 1);
    while (!atomic_load(&paused)) usleep(50);
}

static void resume_writer(void)
{
    atomic_store(&pause_wanted, 0);
    while (atomic_load(&paused)) usleep(50);
}

static void write_for(double time)
{
    double until = seconds() + time;
    while (seconds() < until) usleep(1000);
}

/* The pages of the writes from number `from` on, each counted once. */
static uint64_t distinct_since(unsigned long from)
{
    unsigned char *seen = calloc(1, pages);
    uint64_t count = 0;
    CHECK(seen);
    for (unsigned long i = from, end = atomic_load(&write_count); i < end; i++)
        count += !seen[written[i]], seen[written[i]] = 1;
    free(seen);
    return count;
}

/* ---- the commits ---- */

static unsigned long compared;

/* Called while the writer is paused. */
static void exact(const char *what)
{
    vmstore *reader = open_store(directory, VMSTORE_OPEN_READ_ONLY);
    mapped m = map(reader, "ram", pages * PAGE, VMSTORE_MAP_EAGER, VMSTORE_TRACKER_CALLER);
    same(m.memory, shadow, pages * PAGE, what);
    OK(store_close(reader));
    compared++;
}

typedef struct {
    uint64_t dirty, copied, precopied, left;
    double capture_ms;
    unsigned rounds;
} outcome;

static outcome capture_now(vmstore *store)
{
    vmstore_capture *capture;
    uint64_t number;
    OK(store_capture(store, NULL, &capture));
    vmstore_stats s = stats(store);
    outcome o = {.dirty = s.last_dirty_pages,
                 .copied = s.last_copied_pages,
                 .precopied = s.last_precopied_pages,
                 .capture_ms = (double)s.last_capture_ns * 1e-6};
    OK(store_capture_commit(capture, &number));
    return o;
}

static outcome without_precopy(vmstore *store)
{
    write_for(seconds_of_writing);
    pause_writer();
    outcome o = capture_now(store);
    CHECK(o.copied == o.dirty && o.precopied == 0);
    exact("a commit without precopy");
    atomic_store(&write_count, 0);
    resume_writer();
    return o;
}

static outcome with_precopy(vmstore *store, int room)
{
    vmstore_precopy_options one_round = {.struct_size = sizeof one_round, .max_rounds = 1, .target_pages = 1};
    unsigned long before_the_last = 0, after_the_last;
    uint64_t left = 0;
    unsigned rounds = 0;
    write_for(seconds_of_writing);
    do {
        before_the_last = atomic_load(&write_count);
        OK(store_precopy(store, &one_round, &left));
        after_the_last = atomic_load(&write_count);
        rounds++;
    } while (left > pages / 512 && rounds < MOST_ROUNDS);
    pause_writer();
    outcome o = capture_now(store);
    o.left = left, o.rounds = rounds;
    /* The capture copies no page that was last written before the last round, and every page that was written after
     * it. The counters may be wrong by one: one write was under way when each was read. */
    uint64_t most = distinct_since(before_the_last ? before_the_last - 1 : 0);
    uint64_t least = distinct_since(after_the_last);
    if (room && o.copied > most)
        FAIL("the capture copied %" PRIu64 " pages, and %" PRIu64 " were written since the last round began", o.copied, most);
    if (o.copied < least || o.copied < left)
        FAIL("the capture copied %" PRIu64 " pages of %" PRIu64 " written since the last round, %" PRIu64 " were left",
             o.copied, least, left);
    CHECK(o.dirty >= o.copied && o.dirty <= distinct_since(0));
    CHECK(!room || o.dirty == distinct_since(0));
    exact("a commit with precopy");
    atomic_store(&write_count, 0);
    resume_writer();
    return o;
}

static void run(const char *stores, const char *name, uint32_t with_tracker, uint64_t arena_limit, unsigned times)
{
    uint64_t random = seed() + with_tracker + arena_limit;
    vmstore_open_options options = {.struct_size = sizeof options, .arena_limit = arena_limit};
    vmstore *store;
    pthread_t thread;
    name_directory(directory, stores, name);
    OK(store_open(directory, &options, &store));
    mapped m = map(store, "ram", pages * PAGE, 0, with_tracker);
    module = m.handle, memory = m.memory, tracker = with_tracker;
    shadow = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(shadow != MAP_FAILED);
    commit(store);
    atomic_store(&stop, 0), atomic_store(&pause_wanted, 0), atomic_store(&write_count, 0);
    writes_in_all = 0, written_in = 0;
    CHECK(pthread_create(&thread, NULL, writer, &random) == 0);

    outcome plain = without_precopy(store), best = {0};
    for (unsigned i = 0; i < times; i++) {
        outcome o = with_precopy(store, arena_limit > pages * PAGE);
        if (i == 0 || o.capture_ms < best.capture_ms) best = o;
    }
    atomic_store(&stop, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    OK(store_close(store));
    CHECK(munmap(shadow, pages * PAGE) == 0);
    printf("; %s: %.0f pages/s; capture without precopy %.2f ms for %" PRIu64 " pages; after %u rounds, with %" PRIu64
           " left, %.2f ms for %" PRIu64 " of %" PRIu64,
           name, (double)writes_in_all / written_in, plain.capture_ms, plain.dirty, best.rounds, best.left,
           best.capture_ms, best.copied, best.dirty);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("precopy_rate");
    size_t size = slow() ? 16u << 20 : brief() ? 128u << 20 : 1u << 30;
    pages = size / PAGE;
    rate = slow() ? 1000 : 50000;
    seconds_of_writing = brief() ? 0.2 : 1;
    CHECK((written = malloc(LOG * sizeof *written)));
    unsigned times = brief() ? 1 : 3;
    printf("precopy of %zu MiB", size >> 20);
    if (kernel_tracker()) run(arguments[1], "kernel", VMSTORE_TRACKER_KERNEL, 2 * size, times);
    run(arguments[1], "caller", VMSTORE_TRACKER_CALLER, 2 * size, times);
    run(arguments[1], "small arena", VMSTORE_TRACKER_CALLER, size / 256, 1);
    printf("; %lu commits exact\n", compared);
    free(written);
    return 0;
}
