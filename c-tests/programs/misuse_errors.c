/* The texts about failures: store_strerror, the statuses, store_last_error by the rules of snprintf, and one text
 * and one errno for each thread. */
#include "misuse.h"

#include <limits.h>
#include <pthread.h>

static const int statuses[] = {
    VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND, VMSTORE_E_EXISTS, VMSTORE_E_LOCKED,
    VMSTORE_E_BUSY, VMSTORE_E_SIZE, VMSTORE_E_READ_ONLY, VMSTORE_E_CORRUPT, VMSTORE_E_VERSION, VMSTORE_E_IO,
    VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY, VMSTORE_E_UNSUPPORTED, VMSTORE_E_POISONED, VMSTORE_E_FORKED,
    VMSTORE_E_CANCELLED, VMSTORE_E_INTERNAL, VMSTORE_E_STALE,
};
enum { STATUSES = sizeof statuses / sizeof *statuses };

static void the_statuses(void)
{
    const char *unknown_text = store_strerror(-1);
    CHECK(unknown_text && strcmp(unknown_text, "unknown status") == 0);
    CHECK(VMSTORE_OK == 0 && store_strerror(VMSTORE_OK)[0] != 0);
    for (int i = 0; i < STATUSES; i++) {
        const char *text = store_strerror(statuses[i]);
        trying("the status %d", statuses[i]);
        CHECK(statuses[i] < -4096);
        CHECK(text && text[0] && strcmp(text, unknown_text) != 0);
        CHECK(strcmp(text, store_strerror(VMSTORE_OK)) != 0);
        CHECK(text == store_strerror(statuses[i])); /* static */
        for (int j = 0; j < i; j++) {
            CHECK(statuses[i] != statuses[j]);
            CHECK(strcmp(text, store_strerror(statuses[j])) != 0);
        }
    }
    const int unknown[] = {-1, 1, -4096, -5000, -5020, -5999, 5001, INT_MAX, INT_MIN, INT_MIN + 1};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        trying("the unknown status %d", unknown[i]);
        CHECK(strcmp(store_strerror(unknown[i]), unknown_text) == 0);
    }
}

static void the_names(void)
{
    static const char *const modes[] = {"private", "shared", "memfd", "unknown", "adopt", "unknown"};
    static const char *const trackers[] = {"auto", "kernel", "caller", "compare", "unknown"};
    const uint32_t flags = VMSTORE_MAP_EAGER | VMSTORE_MAP_FD | VMSTORE_MAP_FOREIGN_WRITERS;
    for (uint32_t i = 0; i < 6; i++) {
        trying("the name of mode %u", (unsigned)i);
        CHECK(strcmp(store_mode_name(i), modes[i]) == 0);
        CHECK(store_mode_name(i | flags) == store_mode_name(i)); /* static, and flags make no difference */
    }
    for (uint32_t i = 0; i < 5; i++) {
        trying("the name of tracker %u", (unsigned)i);
        CHECK(strcmp(store_tracker_name(i), trackers[i]) == 0);
        CHECK(store_tracker_name(i) == store_tracker_name(i));
    }
    trying("numbers that are no mode and no tracker");
    CHECK(strcmp(store_mode_name(UINT32_MAX), "unknown") == 0);
    CHECK(strcmp(store_tracker_name(UINT32_MAX), "unknown") == 0);
}

static void the_version(void)
{
    unsigned major, minor, patch;
    char after;
    trying("the version \"%s\"", store_version());
    CHECK(sscanf(store_version(), "%u.%u.%u%c", &major, &minor, &patch, &after) == 3);
    CHECK(store_abi_version() == VMSTORE_ABI_VERSION);
}

/* For the present last failure: every capacity gives the length of the whole text, and the beginning of the text. */
static void every_capacity(void)
{
    static char whole[1024], part[1100];
    size_t length = store_last_error(whole, sizeof whole);
    CHECK(length == strlen(whole) && length > 0 && length <= 1023);
    CHECK(store_last_error(NULL, 0) == length);
    for (size_t capacity = 0; capacity <= length + 2; capacity++) {
        trying("a text of %zu bytes in room for %zu", length, capacity);
        memset(part, GUARD, sizeof part);
        CHECK(store_last_error(part, capacity) == length);
        size_t copied = capacity == 0 ? 0 : capacity <= length ? capacity - 1 : length;
        CHECK(memcmp(part, whole, copied) == 0);
        if (capacity) CHECK(part[copied] == 0);
        CHECK(all_bytes_are(part + copied + (capacity ? 1 : 0), 1, GUARD));
        CHECK(all_bytes_are(part + capacity, sizeof part - capacity, GUARD));
    }
    unsigned char *end = end_of_memory();
    for (size_t capacity = 1; capacity <= 8; capacity++)
        CHECK(store_last_error((char *)end - capacity, capacity) == length && end[-1] == 0);
    CHECK(munmap(end - page_size(), 2 * page_size()) == 0);
}

static void the_text(const char *directory)
{
    vmstore *store = SENTINEL_POINTER(vmstore);
    char before[1024], after[1024];
    trying("the text before anything failed");
    memset(before, GUARD, sizeof before);
    CHECK(store_last_error(NULL, 0) == 0 && store_last_errno() == 0);
    CHECK(store_last_error(before, sizeof before) == 0 && before[0] == 0 && before[1] == GUARD);

    FAILS(store_close(NULL), VMSTORE_E_HANDLE, "store");
    every_capacity();
    CHECK(store_last_errno() == 0);

    /* A long path is cut in the text, and the text is not longer than the header says. */
    const char *long_path = path_in(directory, repeated('p', 3000));
    trying("the text about a path of more than 3000 bytes");
    vmstore_open_options options = {.struct_size = sizeof options, .flags = VMSTORE_OPEN_NO_CREATE};
    CHECK(store_open(long_path, &options, &store) < -4096);
    CHECK(store == SENTINEL_POINTER(vmstore));
    every_capacity();
    CHECK(store_last_errno() == ENAMETOOLONG);

    trying("the errno of a failure, and none for the next");
    FAILS(store_open(NULL, NULL, &store), VMSTORE_E_INVALID, "directory");
    CHECK(store_last_errno() == 0);
    CHECK(store_open(long_path, NULL, &store) < -4096);

    trying("a success does not change the text and the errno");
    store_last_error(before, sizeof before);
    OK(store_open(path_in(directory, "store"), NULL, &store));
    OK(store_close(store));
    store_last_error(after, sizeof after);
    CHECK(strcmp(before, after) == 0 && store_last_errno() == ENAMETOOLONG);
}

/* The library reports by its results. It does not promise a value of errno, so errno is not checked here. A text
 * that has several lines or control characters would spoil a log. */
static void text_is_one_line(const char *directory)
{
    static const char *const paths[] = {"line\nbreak/x", "tab\t/x", "escape\x1b[31m/x", "\xff\xfe/x", "quote\"/x"};
    vmstore *store = SENTINEL_POINTER(vmstore);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        trying("the text about path %zu of odd bytes", i);
        FAILS(store_open(path_in(directory, paths[i]), NULL, &store), VMSTORE_E_NOT_FOUND, "/x");
        CHECK(store_last_error(NULL, 0) == strlen(last_error()));
    }
}

static const char *thread_directory;
static pthread_barrier_t barrier;

static void *other_thread(void *argument)
{
    int number = *(int *)argument;
    char text[1024], name[512], path[4096];
    vmstore *store = SENTINEL_POINTER(vmstore);
    if (store_last_error(text, sizeof text) != 0 || text[0] || store_last_errno() != 0)
        return "a new thread sees another's failure";
    snprintf(name, sizeof name, "thread-%d-%0300d", number, 0); /* longer than a name may be */
    snprintf(path, sizeof path, "%s/%s", thread_directory, name);
    for (int i = 0; i < 50; i++) {
        if (store_open(path, NULL, &store) != VMSTORE_E_IO) return "not VMSTORE_E_IO";
        pthread_barrier_wait(&barrier); /* now every thread has failed, each in its own way */
        store_last_error(text, sizeof text);
        if (!strstr(text, name)) return "a text of another thread";
        if (store_last_errno() != ENAMETOOLONG) return "an errno of another thread";
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

static void one_text_for_each_thread(const char *directory)
{
    enum { THREADS = 6 };
    pthread_t threads[THREADS];
    int numbers[THREADS];
    char mine[1024], after[1024];
    trying("failures in %d threads", THREADS);
    FAILS(store_close(NULL), VMSTORE_E_HANDLE, "store");
    store_last_error(mine, sizeof mine);
    thread_directory = directory;
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, other_thread, &numbers[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *failure;
        CHECK(pthread_join(threads[i], &failure) == 0);
        if (failure) FAIL("thread %d: %s", i, (const char *)failure);
    }
    pthread_barrier_destroy(&barrier);
    store_last_error(after, sizeof after);
    CHECK(strcmp(mine, after) == 0 && store_last_errno() == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    the_text(argv[1]);
    the_statuses();
    the_version();
    the_names();
    text_is_one_line(argv[1]);
    one_text_for_each_thread(argv[1]);
    return finished("%d statuses, and the texts about failures, follow their rules", STATUSES);
}
