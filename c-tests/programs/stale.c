/* A reader beside a writer that deletes and compacts. What the reader can still read is exact. What it cannot read
 * is VMSTORE_E_STALE, and never damage. After it is opened again, the reader has everything. */
#define _GNU_SOURCE
#include "model.h"

enum { PAGES = 64, COMMITS = 6 };

static unsigned exact, stale, reopened, answers, behind;
static unsigned char bytes[COMMITS + 1][PAGES * PAGE];

/* Restores and maps a commit in a reader. Returns whether the reader could do so. */
static int look(vmstore *reader, uint64_t number)
{
    vmstore_map_options options = {.struct_size = sizeof options, .flags = VMSTORE_MAP_EAGER};
    vmstore_module *module;
    int status = store_restore(reader, number, NULL);
    if (status == VMSTORE_OK) status = store_map_module(reader, "ram", 0, &options, &module);
    if (status == VMSTORE_E_STALE) {
        CHECK(strstr(last_error(), "open it again"));
        stale++;
        return 0;
    }
    if (status != VMSTORE_OK) FAIL("commit %u: %s", (unsigned)number, last_error());
    same(store_module_address(module), bytes[number], PAGES * PAGE, "a reader's memory");
    OK(store_unmap_module(module));
    exact++;
    return 1;
}

static int a_range(const char *module, uint64_t offset, uint64_t length, void *user_data)
{
    (void)module, (void)offset, (void)length;
    ++*(unsigned *)user_data;
    return 0;
}

static int a_file(const vmstore_file_info *file, void *user_data)
{
    (void)file;
    ++*(unsigned *)user_data;
    return 0;
}

/* The same without mapping any module. */
static void ask(vmstore *reader, uint64_t number, const char *clone)
{
    static unsigned char got[PAGES * PAGE];
    unsigned calls = 0;
    int sink = open("/dev/null", O_WRONLY | O_CLOEXEC);
    int statuses[] = {
        store_read(reader, number, "ram", 0, got, sizeof got),
        store_diff(reader, 0, number, NULL, a_range, &calls),
        store_list_files(reader, number, a_file, &calls),
        store_export(reader, 0, number, sink),
        store_clone(reader, number, clone),
    };
    close(sink);
    if (statuses[0] == VMSTORE_OK) same(got, bytes[number], sizeof got, "what a reader read");
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        if (statuses[i] != VMSTORE_OK && statuses[i] != VMSTORE_E_STALE)
            FAIL("commit %u, call %u: %s, last %s", (unsigned)number, (unsigned)i, store_strerror(statuses[i]), last_error());
        if (statuses[i] == VMSTORE_OK) answers++;
        else behind++;
    }
}

static void round_of(const char *directory, int compacts)
{
    rng r = {seed() + (uint64_t)compacts};
    vmstore *writer = open_store(directory, 0), *reader;
    mapped ram = map(writer, "ram", PAGES * PAGE, 0, VMSTORE_TRACKER_CALLER);
    for (int i = 1; i <= COMMITS; i++) {
        for (int n = 0; n < 12; n++) {
            size_t page = below(&r, PAGES);
            fill(ram.memory + page * PAGE, PAGE, next(&r));
            OK(store_mark_dirty(ram.handle, page * PAGE, PAGE));
        }
        CHECK(commit(writer) == (uint64_t)i);
        memcpy(bytes[i], ram.memory, PAGES * PAGE);
    }
    OK(store_persist(writer, NULL));
    for (uint64_t gone = 1; gone < COMMITS; gone++) {
        reader = open_store(directory, VMSTORE_OPEN_READ_ONLY);
        /* The fresh reader has the present indexes. */
        for (uint64_t number = gone; number <= COMMITS; number++) CHECK(look(reader, number));
        OK(store_delete_commit(writer, gone));
        OK(store_persist(writer, NULL));
        if (compacts) OK(store_compact(writer, NULL));
        for (uint64_t number = gone; number <= COMMITS; number++) {
            char clone[4200];
            snprintf(clone, sizeof clone, "%s-%u-%u", directory, (unsigned)gone, (unsigned)number);
            look(reader, number);
            ask(reader, number, clone);
        }
        OK(store_close(reader));
        reader = open_store(directory, VMSTORE_OPEN_READ_ONLY);
        FAILS(store_restore(reader, gone, NULL), VMSTORE_E_NOT_FOUND, "commit");
        for (uint64_t number = gone + 1; number <= COMMITS; number++) CHECK(look(reader, number));
        reopened++;
        OK(store_close(reader));
    }
    OK(store_close(writer));
}

int main(int argc, char **argv)
{
    char directory[4096];
    CHECK(argc > 1);
    require_small_pages("stale");
    name_directory(directory, argv[1], "deletes");
    round_of(directory, 0);
    name_directory(directory, argv[1], "compacts");
    round_of(directory, 1);
    CHECK(stale > 0 && behind > 0 && answers > 0);
    printf("stale: seed %" PRIu64 ": %u reads exact, %u stale, %u readers opened again; "
           "unmapped: %u calls answered, %u stale\n", seed(), exact, stale, reopened, answers, behind);
    return 0;
}
