/* Files that are cut short, made longer, overwritten with blocks of zeros, or filled with garbage: each file of a
 * store, at many lengths, and with VMSTORE_LONG=20 at every length. Also images that are cut and then mapped
 * lazily, where a SIGBUS could come from. */
#include "examine.h"

static struct model model;
static const char *master;
static uint64_t state = 3;

static void replaced(struct examination *e, const char *file, const unsigned char *bytes, size_t length)
{
    copy_with(e, master, file, bytes, length);
    examine(e);
}

/* Positions at, before and after each place where a record or field may end. In data pages only the positions
 * around the page ends. */
static int worth_trying(size_t length, size_t size)
{
    size_t in_page = length % page_size();
    if (is_long()) return 1;
    if (size <= 2048) return (length + 1) % 8 <= 2;
    if (size - length <= 600) return (length + 1) % 24 <= 2 || size - length < 20;
    return in_page <= 1 || in_page == page_size() - 1 || in_page == 1234;
}

static void cut(struct examination *e, const char *file, const unsigned char *bytes, size_t size)
{
    size_t step = stride(61);
    for (size_t length = 0; length < size; length += worth_trying(length, size) ? step : 1) {
        if (!worth_trying(length, size)) continue;
        trying("%s cut from %zu to %zu bytes", file, size, length);
        replaced(e, file, bytes, length);
    }
}

static void lengthened(struct examination *e, const char *file, const unsigned char *bytes, size_t size)
{
    const size_t more[] = {1, 8, 24, 64, 512, 4096, 5000};
    unsigned char *longer = malloc(2 * size + 8192);
    CHECK(longer);
    for (size_t i = 0; i < sizeof more / sizeof *more; i += stride(3))
        for (int kind = 0; kind < 2; kind++) {
            trying("%s with %zu more bytes, %s", file, more[i], kind ? "garbage" : "zeros");
            memcpy(longer, bytes, size);
            for (size_t at = 0; at < more[i]; at++)
                longer[size + at] = kind ? (unsigned char)next_random(&state) : 0;
            replaced(e, file, longer, size + more[i]);
        }
    trying("%s with its bytes twice", file);
    memcpy(longer, bytes, size);
    memcpy(longer + size, bytes, size);
    replaced(e, file, longer, 2 * size);
    free(longer);
}

/* What a disk returns after it has lost a write. */
static void zeroed(struct examination *e, const char *file, const unsigned char *bytes, size_t size)
{
    unsigned char *holed = malloc(size);
    CHECK(holed);
    for (size_t at = 0; at < size; at += 512 * stride(7)) {
        size_t length = size - at < 512 ? size - at : 512;
        if (all_bytes_are(bytes + at, length, 0)) continue; /* zeros already: no damage */
        trying("%s with %zu bytes from %zu of %zu zeroed", file, length, at, size);
        memcpy(holed, bytes, size);
        memset(holed + at, 0, length);
        replaced(e, file, holed, size);
    }
    trying("%s of %zu zeros", file, size);
    memset(holed, 0, size);
    replaced(e, file, holed, size);
    free(holed);
}

static void garbage(struct examination *e, const char *file, const unsigned char *bytes, size_t size)
{
    unsigned char *random = malloc(size + 5000);
    CHECK(random);
    for (int round = 0; round < 12; round += (int)stride(5)) {
        size_t length = round < 4 ? size : (size_t)next_random(&state) % (size + 5000);
        size_t kept = round % 4 == 3 && length > 40 ? 40 : 0; /* garbage after a valid beginning */
        for (size_t at = 0; at < length; at++) random[at] = (unsigned char)next_random(&state);
        if (kept > size) kept = size;
        memcpy(random, bytes, kept);
        trying("%s of %zu bytes replaced by %zu bytes of garbage, the first %zu bytes unchanged", file, size, length, kept);
        replaced(e, file, random, length);
    }
    for (int round = 0; round < 12; round += (int)stride(5)) {
        size_t at = (size_t)next_random(&state) % size;
        size_t length = (size_t)next_random(&state) % (size - at < 64 ? size - at : 64) + 1;
        if (at + length > size) length = size - at;
        memcpy(random, bytes, size);
        for (size_t i = 0; i < length; i++) random[at + i] = (unsigned char)next_random(&state);
        if (memcmp(random, bytes, size) == 0) continue;
        trying("%s with %zu bytes of garbage at %zu of %zu", file, length, at, size);
        replaced(e, file, random, size);
    }
    free(random);
}

static void every_way(const char *file, struct examination e)
{
    char path[4200];
    size_t size;
    CHECK(snprintf(path, sizeof path, "%s/%s", master, file) < (int)sizeof path);
    unsigned char *bytes = read_file(path, &size);
    e.model = &model;
    e.persisted = PERSISTED;
    if (size > 0) {
        cut(&e, file, bytes, size);
        zeroed(&e, file, bytes, size);
        garbage(&e, file, bytes, size);
    }
    lengthened(&e, file, bytes, size);
    free(bytes);
}

/* An image that is cut to any length before it is mapped is refused, or every page of it can be read. */
static void lazily_mapped(void)
{
    static const char *const images[] = {"ram_Commit1", "dev_Commit1"};
    for (int i = 0; i < 2; i++) {
        char path[4200];
        size_t size;
        CHECK(snprintf(path, sizeof path, "%s/%s", master, images[i]) < (int)sizeof path);
        unsigned char *bytes = read_file(path, &size);
        for (size_t length = 0; length < size; length += is_long() ? 1 : 509 * stride(11)) {
            const char *copy = fresh_copy(master);
            vmstore *store;
            vmstore_module *module;
            CHECK(snprintf(path, sizeof path, "%s/%s", copy, images[i]) < (int)sizeof path);
            trying("%s cut to %zu bytes, mapped lazily", images[i], length);
            write_file(path, bytes, length);
            alarm(60);
            int status = store_open(copy, NULL, &store);
            outcome.tried++;
            if (status == VMSTORE_OK) {
                status = store_restore(store, 1, NULL);
                if (status == VMSTORE_OK)
                    status = store_map_module(store, module_ids[i], 0, NULL, &module);
                if (status == VMSTORE_OK) {
                    const unsigned char *expected =
                        model.bytes[1] + (i ? module_pages[0] * page_size() : 0);
                    CHECK(memcmp(store_module_address(module), expected, module_pages[i] * page_size()) == 0);
                    outcome.harmless++;
                } else {
                    FAILS_WITH(status, VMSTORE_E_CORRUPT, images[i], images[i]);
                    outcome.corrupt_later++;
                }
                OK(store_close(store));
            } else {
                FAILS_WITH(status, VMSTORE_E_CORRUPT, images[i], images[i]);
                outcome.refused++;
            }
            alarm(0);
        }
        free(bytes);
    }
}

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    watch_signals();
    master = path_in(argv[1], "master");
    build_store(master, 3, 0, &model);

    struct examination commits = {.names = {"commits"}, .allowed = COMMITS_DAMAGED, .salvage_every = 5};
    every_way("commits", commits);
    CHECK(outcome.salvaged > 0);

    char names[64][64], hidden[4200];
    CHECK(snprintf(hidden, sizeof hidden, "%s/.vmstore", master) < (int)sizeof hidden);
    size_t count = files_of(hidden, names, 64);
    CHECK(count == 3);
    for (size_t i = 0; i < count; i++) {
        char file[80];
        snprintf(file, sizeof file, ".vmstore/%s", names[i]);
        struct examination e = {.names = {names[i]}};
        if (strcmp(names[i], "journal") == 0) {
            e.allowed = COMMITS_DAMAGED;
            e.salvage_every = 3;
        }
        every_way(file, e);
    }
    CHECK(outcome.forgotten == 0);

    static const char *const files[] = {DELTA, "dev_Commit1", "late_Commit3", "ram_Commit5"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct examination e = {.names = {files[i]}};
        unsigned before = outcome.corrupt_later + outcome.refused;
        every_way(files[i], e);
        CHECK(outcome.corrupt_later + outcome.refused > before);
    }
    lazily_mapped();

    master_is_intact((struct examination){.path = master, .model = &model, .persisted = PERSISTED});
    free_model(&model);
    return finished_damage();
}
