/* Reads commits without mapping them: whole modules and ranges of any offset and length, at every commit of a
 * branching history, against a model. Also lists the files that hold them, against the directory. */
#define _GNU_SOURCE
#include "model.h"

enum { COMMITS = 40, PAGES = 40, MODULES = 2 };

static const char *const names[MODULES] = {"late", "ram"};
static unsigned char (*at)[MODULES][PAGES * 4096]; /* the bytes of each commit */
static unsigned long reads, files_reported;

static struct {
    const char *directory;
    uint64_t commit, below, images, calls, limit;
    char module[8];
} heard;

static int hear(const vmstore_file_info *file, void *user_data)
{
    CHECK(user_data == &heard && file->struct_size == sizeof *file);
    CHECK(file->module_commit <= heard.commit && file->parent < file->module_commit);
    /* Each chain goes down to an image. The next module comes after that. */
    if (heard.below) CHECK(!strcmp(heard.module, file->module_id) && heard.below == file->module_commit);
    else CHECK(strcmp(heard.module, file->module_id) < 0);
    snprintf(heard.module, sizeof heard.module, "%s", file->module_id);
    heard.below = file->parent;
    heard.images += file->parent == 0;
    char path[4096];
    struct stat found;
    snprintf(path, sizeof path, "%s/%s_Commit%" PRIu64, heard.directory, file->module_id, file->module_commit);
    CHECK(stat(path, &found) == 0 && (uint64_t)found.st_size == file->length);
    CHECK(file->module_size == PAGES * PAGE && file->data_pages + file->zero_pages <= PAGES);
    CHECK(file->length > (file->parent ? file->data_pages * PAGE : file->module_size));
    files_reported++;
    return ++heard.calls == heard.limit;
}

/* All files: each file once, and a parent before the files that were made on it. */
static int hear_all(const vmstore_file_info *file, void *user_data)
{
    static unsigned char reported[MODULES][COMMITS + 1];
    int m = !strcmp(file->module_id, names[1]);
    if (heard.calls == 0) memset(reported, 0, sizeof reported);
    CHECK(user_data == &heard && !strcmp(file->module_id, names[m]) && !reported[m][file->module_commit]);
    CHECK(strcmp(heard.module, file->module_id) < 0 || heard.below < file->module_commit);
    CHECK(file->parent == 0 || reported[m][file->parent]);
    snprintf(heard.module, sizeof heard.module, "%s", file->module_id);
    heard.below = file->module_commit;
    reported[m][file->module_commit] = 1;
    heard.calls++;
    return 0;
}

static void check_all(vmstore *store)
{
    uint64_t there = 0;
    heard.calls = heard.below = 0, heard.module[0] = 0;
    OK(store_list_files(store, 0, hear_all, &heard));
    for (const char *name = listing(heard.directory); (name = strstr(name, "_Commit")); name++)
        there++;
    /* Each link must give the file that it points to. */
    CHECK(there == heard.calls + MODULES);
}

static void check_commit(vmstore *store, rng *r, uint64_t number, int modules)
{
    static unsigned char got[PAGES * 4096 + 2];
    for (int m = MODULES - modules; m < MODULES; m++) {
        const unsigned char *want = at[number][m];
        for (int i = 0; i < 6; i++, reads++) {
            size_t offset = i ? below(r, PAGES * PAGE) : 0;
            size_t length = i ? below(r, PAGES * PAGE - offset + 1) : PAGES * PAGE;
            if (i > 3 && length > 100) length = 1 + below(r, 100);
            memset(got, 0xa5, sizeof got);
            OK(store_read(store, number, names[m], offset, got + 1, length));
            same(got + 1, want + offset, length, names[m]);
            CHECK(got[0] == 0xa5 && got[length + 1] == 0xa5);
        }
    }
    heard.commit = number, heard.below = heard.images = heard.calls = heard.limit = 0, heard.module[0] = 0;
    OK(store_list_files(store, number, hear, &heard));
    CHECK(heard.below == 0 && heard.images == (uint64_t)modules);
}

int main(int count, char **arguments)
{
    CHECK(count >= 2);
    require_small_pages("read");
    rng r = {seed()};
    at = calloc(COMMITS + 1, sizeof *at);
    CHECK(at);
    mapped modules[MODULES] = {{0}};
    heard.directory = path_in(arguments[1], "store");
    vmstore *store = open_store(heard.directory, 0);
    modules[1] = map(store, names[1], PAGES * PAGE, 0, VMSTORE_TRACKER_AUTO);
    for (uint64_t n = 1; n <= COMMITS; n++) {
        if (n > 1 && below(&r, 3) == 0) OK(store_restore(store, 1 + below(&r, n - 1), NULL));
        if (n == 10) modules[0] = map(store, names[0], PAGES * PAGE, 0, VMSTORE_TRACKER_AUTO);
        for (int i = 0; i < 6; i++) {
            unsigned char *page = modules[n >= 10 ? below(&r, MODULES) : 1].memory + below(&r, PAGES) * PAGE;
            uint64_t content = below(&r, 1000);
            if (content > 300) fill(page, PAGE, content);
            else memset(page, 0, PAGE);
        }
        uint64_t made = commit(store);
        if (made < n) { /* no byte really changed */
            n--;
            continue;
        }
        for (int m = 0; m < MODULES; m++)
            if (modules[m].memory) memcpy(at[n][m], modules[m].memory, PAGES * PAGE);
    }
    unsigned char some[16];
    FAILS(store_read(store, COMMITS + 1, "ram", 0, some, 1), VMSTORE_E_NOT_FOUND, "commit");
    FAILS(store_read(store, 5, "late", 0, some, 1), VMSTORE_E_NOT_FOUND, "it has ram");
    FAILS(store_read(store, 5, NULL, 0, some, 1), VMSTORE_E_INVALID, "NULL");
    FAILS(store_read(store, 5, "ram", 0, NULL, 1), VMSTORE_E_INVALID, "NULL");
    FAILS(store_read(store, 5, "ram", PAGES * PAGE - 15, some, 16), VMSTORE_E_INVALID, "within module");
    FAILS(store_read(store, 5, "ram", UINT64_MAX, some, 16), VMSTORE_E_INVALID, "within module");
    OK(store_read(store, 5, "ram", PAGES * PAGE, NULL, 0));
    /* After a refused length the output must not be written. */
    memset(some, 0xa5, sizeof some);
    FAILS(store_read(store, 5, "ram", 0, some, SIZE_MAX), VMSTORE_E_INVALID, "within module");
    FAILS(store_read(store, COMMITS + 1, "ram", 0, some, SIZE_MAX), VMSTORE_E_NOT_FOUND, "commit");
    FAILS(store_read(store, 5, "late", 0, some, SIZE_MAX), VMSTORE_E_NOT_FOUND, "it has ram");
    for (size_t i = 0; i < sizeof some; i++) CHECK(some[i] == 0xa5);
    FAILS(store_list_files(store, COMMITS + 1, hear, &heard), VMSTORE_E_NOT_FOUND, "commit");
    FAILS(store_list_files(store, 1, NULL, &heard), VMSTORE_E_INVALID, "callback");
    heard.commit = COMMITS, heard.below = heard.calls = 0, heard.module[0] = 0, heard.limit = 1;
    OK(store_list_files(store, COMMITS, hear, &heard));
    CHECK(heard.calls == 1);

    for (int round = 0; round < 2; round++) {
        for (uint64_t n = 1; n <= COMMITS; n++)
            if (n % 5 || !round) {
                vmstore_commit_info known = info(store, n);
                check_commit(store, &r, n, (int)known.modules);
            }
        /* Some commits are deleted, and chains become images. The commits that are left read as before. */
        if (round) break;
        for (uint64_t n = 5; n <= COMMITS; n += 5)
            if (n != head(store)) OK(store_delete_commit(store, n));
        vmstore_compact_options images = {.struct_size = sizeof images, .image_percent = 50};
        OK(store_compact(store, &images));
    }
    check_all(store);
    /* A reader beside the writer reads the same bytes. A flipped bit is reported. */
    vmstore *reader = open_store(heard.directory, VMSTORE_OPEN_READ_ONLY);
    check_commit(reader, &r, 1, 1);
    char path[4096];
    snprintf(path, sizeof path, "%s/ram_Commit1", heard.directory);
    int fd = open(path, O_RDWR);
    vmstore_commit_info first = info(reader, 1);
    CHECK(fd >= 0 && first.modules == 1);
    size_t page = 0;
    while (page < PAGES && at[1][1][page * PAGE] == 0) page++;
    CHECK(page < PAGES);
    unsigned char byte = at[1][1][page * PAGE] ^ 1;
    CHECK(pwrite(fd, &byte, 1, (off_t)(page * PAGE)) == 1 && close(fd) == 0);
    FAILS(store_read(reader, 1, "ram", page * PAGE, some, 1), VMSTORE_E_CORRUPT, "ram_Commit1");
    OK(store_close(reader));
    OK(store_close(store));
    printf("read: seed %" PRIu64 ": %lu reads as in the model, %lu files reported exactly\n", seed(), reads, files_reported);
    free(at);
    return 0;
}
