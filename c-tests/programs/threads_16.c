/* Sixteen threads at once over one store, and then over four stores: they write memory and mark it, discard,
 * commit, capture, restore, persist, read, diff, list, delete, compact and verify. A model holds the full bytes of
 * every commit. Threads that write memory hold a lock for reading, and calls that need the writers paused hold it
 * for writing, as the contract demands. All other calls run at the same time. Also runs under ThreadSanitizer. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>

#include "model.h"

enum { MODULES = 2, ALL_PAGES = 24, MOST = 1024, THREADS = 16, WORLDS = 4 };

static const char *const names[MODULES] = {"dev", "ram"};
static const size_t pages_of[MODULES] = {8, 16};
static const size_t first_of[MODULES] = {0, 8};

typedef unsigned char image[ALL_PAGES][PAGE];

/* One store and what the test knows about it. */
typedef struct {
    vmstore *store;
    mapped modules[MODULES];
    pthread_rwlock_t guest; /* held for writing: the guest is paused */
    image now;              /* under `guest`; each page has one writer */
    pthread_mutex_t lock;   /* of the fields below */
    image *at[MOST];        /* by number; never freed before the end */
    uint64_t known[MOST];
    size_t count;
    atomic_uchar may_go[MOST]; /* its deletion has begun, or no rule keeps it */
    atomic_uint made, wanted;
} world;

typedef enum { WRITE, COMMIT, CAPTURE, RESTORE, PERSIST, READ, DIFF, DELETE, COMPACT, LOOK, JOBS } job;

static const char *const job_names[JOBS] = {"writes",  "commits", "captures",  "restores",    "persists",
                                            "reads",   "diffs",   "deletions", "compactions", "other looks"};
static atomic_ulong done[JOBS], gone, busy;

static int is_module(int m, size_t page) { return page >= first_of[m] && page < first_of[m] + pages_of[m]; }

static int module_of(size_t page) { return is_module(1, page); }

/* Records what a commit holds, and whether it is to stay, before other threads know its number. They may know it
 * already, if nothing had changed and the commit was the head. */
static void learn(world *w, uint64_t number, const image *bytes, int stays)
{
    CHECK(number > 0 && number < MOST);
    pthread_mutex_lock(&w->lock);
    if (w->at[number]) {
        same(*bytes, *w->at[number], sizeof *bytes, "a commit that was the head");
    } else {
        if (!stays) atomic_store(&w->may_go[number], 1);
        CHECK((w->at[number] = malloc(sizeof *bytes)) != NULL);
        memcpy(*w->at[number], *bytes, sizeof *bytes);
        w->known[w->count++] = number;
        atomic_fetch_add(&w->made, 1);
    }
    pthread_mutex_unlock(&w->lock);
}

/* Any commit that was made, whether or not it still exists; 0 when there is none. */
static uint64_t any(world *w, rng *r, image **bytes)
{
    uint64_t number = 0;
    pthread_mutex_lock(&w->lock);
    if (w->count) {
        size_t newest = w->count < 12 ? w->count : 12;
        number = w->known[below(r, 4) ? w->count - 1 - below(r, newest) : below(r, w->count)];
        *bytes = w->at[number];
    }
    pthread_mutex_unlock(&w->lock);
    return number;
}

/* The outcome of a call about a commit: 1 if the call succeeded, 0 if the commit is rightly gone. */
static int there(world *w, int status, uint64_t number, const char *call)
{
    if (status == VMSTORE_OK) return 1;
    if (status == VMSTORE_E_BUSY) {
        atomic_fetch_add(&busy, 1);
        return 0;
    }
    if (status != VMSTORE_E_NOT_FOUND || !atomic_load(&w->may_go[number]))
        FAIL("%s of commit %" PRIu64 ": %s: %s", call, number, store_strerror(status), last_error());
    atomic_fetch_add(&gone, 1);
    return 0;
}

/* Writes, marks and discards pages that belong to this thread. */
static void write_some(world *w, rng *r, size_t part, size_t parts)
{
    pthread_rwlock_rdlock(&w->guest);
    for (int i = 0; i < 3; i++) {
        size_t page = part + parts * below(r, (ALL_PAGES - part + parts - 1) / parts);
        int m = module_of(page);
        uint64_t offset = (page - first_of[m]) * PAGE;
        if (below(r, 5) == 0) {
            OK(store_discard(w->modules[m].handle, offset, PAGE));
            memset(w->now[page], 0, PAGE);
        } else {
            fill(w->now[page], PAGE, next(r));
            memcpy(w->modules[m].memory + offset, w->now[page], PAGE);
            OK(store_mark_dirty(w->modules[m].handle, offset, PAGE));
        }
    }
    pthread_rwlock_unlock(&w->guest);
    /* A page that did not change may be marked at any time. */
    int m = (int)below(r, MODULES);
    OK(store_mark_dirty(w->modules[m].handle, below(r, pages_of[m]) * PAGE, PAGE));
}

/* Commits that are to stay have a label, which is the rule of the compactions. */
static vmstore_commit_options options_of(rng *r, int *stays)
{
    *stays = below(r, 3) != 0;
    return (vmstore_commit_options){.struct_size = sizeof(vmstore_commit_options), .label = *stays ? "stays" : NULL};
}

static void commit_all(world *w, rng *r)
{
    int stays;
    uint64_t number;
    vmstore_commit_options options = options_of(r, &stays);
    pthread_rwlock_wrlock(&w->guest);
    int status = store_commit(w->store, &options, &number);
    if (status == VMSTORE_OK) learn(w, number, (const image *)&w->now, stays);
    pthread_rwlock_unlock(&w->guest);
    if (status == VMSTORE_E_BUSY) atomic_fetch_add(&busy, 1);
    else OK(status);
}

static void capture_all(world *w, rng *r, image *copy)
{
    int stays;
    uint64_t number;
    vmstore_capture *capture;
    vmstore_commit_options options = options_of(r, &stays);
    pthread_rwlock_wrlock(&w->guest);
    int status = store_capture(w->store, &options, &capture);
    if (status == VMSTORE_OK) memcpy(*copy, w->now, sizeof w->now);
    pthread_rwlock_unlock(&w->guest);
    if (status == VMSTORE_E_BUSY) {
        atomic_fetch_add(&busy, 1);
        return;
    }
    OK(status);
    if (below(r, 4) == 0) {
        OK(store_capture_cancel(capture));
        return;
    }
    OK(store_capture_commit(capture, &number));
    learn(w, number, (const image *)copy, stays);
}

static void compare_memory(world *w, const char *what)
{
    for (int m = 0; m < MODULES; m++)
        same(w->modules[m].memory, w->now[first_of[m]], pages_of[m] * PAGE, what);
}

static void restore_one(world *w, rng *r)
{
    image *bytes;
    uint64_t number = any(w, r, &bytes);
    if (!number) return;
    pthread_rwlock_wrlock(&w->guest);
    if (there(w, store_restore(w->store, number, NULL), number, "restore")) memcpy(w->now, *bytes, sizeof w->now);
    compare_memory(w, "after a restore");
    pthread_rwlock_unlock(&w->guest);
}

static void read_one(world *w, rng *r)
{
    image *bytes;
    static _Thread_local unsigned char buffer[16 * PAGE];
    uint64_t number = any(w, r, &bytes);
    if (!number) return;
    int m = (int)below(r, MODULES);
    uint64_t offset = below(r, pages_of[m] * PAGE), length = 1 + below(r, pages_of[m] * PAGE - offset);
    if (there(w, store_read(w->store, number, names[m], offset, buffer, length), number, "read"))
        same(buffer, (*bytes)[first_of[m]] + offset, length, "what was read");
}

static int hear(const char *id, uint64_t offset, uint64_t length, void *reported)
{
    int m = strcmp(id, names[1]) == 0;
    memset((char *)reported + first_of[m] + offset / PAGE, 1, length / PAGE);
    return 0;
}

static void diff_two(world *w, rng *r)
{
    image *a, *b;
    char reported[ALL_PAGES] = {0};
    uint64_t from = any(w, r, &a), to = any(w, r, &b);
    if (!from || !to) return;
    int status = store_diff(w->store, from, to, NULL, hear, reported);
    if (status == VMSTORE_E_NOT_FOUND && atomic_load(&w->may_go[from])) return;
    if (!there(w, status, to, "diff")) return;
    for (size_t page = 0; page < ALL_PAGES; page++)
        if (reported[page] != (memcmp((*a)[page], (*b)[page], PAGE) != 0))
            FAIL("from %" PRIu64 " to %" PRIu64 ": page %zu is reported wrongly", from, to, page);
}

static void delete_one(world *w, rng *r)
{
    image *bytes;
    uint64_t number = any(w, r, &bytes);
    if (!number) return;
    /* The call refuses the head. The test marks it as well: it may be gone later. */
    atomic_store(&w->may_go[number], 1);
    there(w, store_delete_commit(w->store, number), number, "delete");
}

static void compact_some(world *w, rng *r)
{
    vmstore_compact_options options = {
        .struct_size = sizeof options,
        .flags = below(r, 3) ? 0 : VMSTORE_COMPACT_KEEP_LABELLED,
        .image_percent = below(r, 2) ? 50 : 0,
    };
    OK(store_compact(w->store, &options));
}

static void look(world *w, rng *r)
{
    uint64_t numbers[MOST];
    size_t count = 0;
    image *bytes;
    OK(store_list_commits(w->store, numbers, MOST, &count));
    for (size_t i = 1; i < count; i++) CHECK(numbers[i - 1] < numbers[i]);
    uint64_t number = any(w, r, &bytes);
    vmstore_commit_info known = {.struct_size = sizeof known};
    if (number && there(w, store_commit_info(w->store, number, &known), number, "info")) CHECK(known.commit == number);
    vmstore_verify_options options = {.struct_size = sizeof options, .commit = number};
    if (number && below(r, 4) == 0) there(w, store_verify(w->store, &options), number, "verify");
    (void)stats(w->store), (void)head(w->store);
}

typedef struct {
    world *w;
    const job *jobs;
    size_t count, part, parts;
    uint64_t seed;
    image copy;
} worker;

static void *work(void *argument)
{
    worker *me = argument;
    world *w = me->w;
    rng r = {me->seed};
    while (atomic_load(&w->made) < w->wanted) {
        job what = me->jobs[below(&r, me->count)];
        switch (what) {
        case WRITE: write_some(w, &r, me->part, me->parts); break;
        case COMMIT: commit_all(w, &r); break;
        case CAPTURE: capture_all(w, &r, &me->copy); break;
        case RESTORE: restore_one(w, &r); break;
        case PERSIST: OK(store_persist(w->store, NULL)); break;
        case READ: read_one(w, &r); break;
        case DIFF: diff_two(w, &r); break;
        case DELETE: delete_one(w, &r); break;
        case COMPACT: compact_some(w, &r); break;
        default: look(w, &r); break;
        }
        atomic_fetch_add(&done[what], 1);
        usleep((useconds_t)below(&r, what == COMPACT ? 20000 : 2000)); /* deletions wait for a compaction */
    }
    return NULL;
}

static void begin(world *w, const char *directory, const char *name, unsigned wanted)
{
    memset(w, 0, sizeof *w);
    pthread_rwlockattr_t kind;
    CHECK(pthread_rwlockattr_init(&kind) == 0);
#ifdef __GLIBC__ /* the readers of glibc's lock would otherwise keep writers out for ever */
    CHECK(pthread_rwlockattr_setkind_np(&kind, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP) == 0);
#endif
    CHECK(pthread_rwlock_init(&w->guest, &kind) == 0 && pthread_mutex_init(&w->lock, NULL) == 0);
    w->store = open_store(path_in(directory, name), 0);
    for (int m = 0; m < MODULES; m++)
        w->modules[m] = map(w->store, names[m], pages_of[m] * PAGE, 0, VMSTORE_TRACKER_AUTO);
    atomic_store(&w->wanted, wanted);
}

/* Everything that must exist does exist and is right, before and after the store is opened again. */
static unsigned long end(world *w, const char *directory, const char *name)
{
    unsigned long right = 0;
    OK(store_persist(w->store, NULL));
    OK(store_verify(w->store, NULL));
    for (int again = 0; again < 2; again++) {
        for (size_t i = 0; i < w->count; i++) {
            uint64_t number = w->known[i];
            if (!there(w, store_restore(w->store, number, NULL), number, "restore")) continue;
            memcpy(w->now, *w->at[number], sizeof w->now);
            compare_memory(w, "at the end");
            right++;
        }
        OK(store_close(w->store));
        if (again) break;
        w->store = open_store(path_in(directory, name), 0);
        for (int m = 0; m < MODULES; m++) w->modules[m] = map(w->store, names[m], 0, 0, VMSTORE_TRACKER_AUTO);
    }
    for (size_t i = 0; i < w->count; i++) free(w->at[w->known[i]]);
    return right;
}

static const job one_of_each[THREADS] = {WRITE,   WRITE,   WRITE, WRITE, COMMIT, CAPTURE, RESTORE, PERSIST,
                                         PERSIST, READ,    READ,  DIFF,  DELETE, COMPACT, LOOK,    LOOK};
static const job anything[] = {WRITE, WRITE, WRITE, COMMIT, CAPTURE, RESTORE, PERSIST, READ, DIFF, DELETE, COMPACT,
                               LOOK};

static world worlds[WORLDS];
static worker workers[THREADS];

static unsigned long run(const char *directory, size_t stores, unsigned wanted)
{
    char name[WORLDS][64];
    pthread_t threads[THREADS];
    unsigned long right = 0;
    for (size_t i = 0; i < stores; i++) {
        snprintf(name[i], sizeof name[i], "of-%zu-%zu", stores, i);
        begin(&worlds[i], directory, name[i], wanted);
    }
    for (size_t i = 0; i < THREADS; i++) {
        worker *me = &workers[i];
        me->w = &worlds[i % stores], me->seed = seed() + i * 7919 + stores;
        if (stores == 1) {
            me->jobs = &one_of_each[i], me->count = 1, me->part = i, me->parts = 4;
        } else {
            me->jobs = anything, me->count = sizeof anything / sizeof *anything;
            me->part = i / stores, me->parts = THREADS / stores;
        }
        CHECK(pthread_create(&threads[i], NULL, work, me) == 0);
    }
    for (size_t i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    for (size_t i = 0; i < stores; i++) right += end(&worlds[i], directory, name[i]);
    return right;
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("threads_16");
    const char *text = getenv("VMSTORE_ROUNDS");
    unsigned rounds = text ? (unsigned)strtoul(text, NULL, 0) : slow() ? 10 : brief() ? 40 : 200;
    if (rounds > MOST / 2) rounds = MOST / 2;
    unsigned long right = run(arguments[1], 1, rounds);
    right += run(arguments[1], WORLDS, rounds / 2 + 1);
    printf("16 threads, seed %" PRIu64 ":", seed());
    for (int i = 0; i < JOBS; i++) printf(" %lu %s,", atomic_load(&done[i]), job_names[i]);
    printf(" %lu busy, %lu gone; %lu commits right at the end\n", atomic_load(&busy), atomic_load(&gone), right);
    return 0;
}
