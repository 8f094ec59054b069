/* struct_size: shorter structs, longer structs, and impossible sizes. Each struct is tried with every length, with
 * guard bytes on both sides, and where alignment allows it directly before a page that cannot be accessed. */
#include "misuse.h"

#include <stdbool.h>

static const char *directory;
static vmstore *store;
static unsigned tried;

/* One kind of struct: how to use it, and how to undo a use that succeeded. */
struct kind {
    const char *name;
    size_t size;
    bool output;
    int (*use)(void *options);
};

static int use_open(void *options)
{
    vmstore *opened = SENTINEL_POINTER(vmstore);
    int status = store_open(path_in(directory, "other"), options, &opened);
    if (status == VMSTORE_OK) OK(store_close(opened));
    else CHECK(opened == SENTINEL_POINTER(vmstore));
    return status;
}

static int use_map(void *options)
{
    vmstore_module *module = SENTINEL_POINTER(vmstore_module);
    int status = store_map_module(store, "other", page_size(), options, &module);
    if (status == VMSTORE_OK) OK(store_unmap_module(module));
    else CHECK(module == SENTINEL_POINTER(vmstore_module));
    return status;
}

static int use_commit(void *options)
{
    uint64_t commit = SENTINEL;
    int status = store_commit(store, options, &commit);
    CHECK(status == VMSTORE_OK ? commit == 1 : commit == SENTINEL);
    return status;
}

static int use_capture(void *options)
{
    vmstore_capture *capture = SENTINEL_POINTER(vmstore_capture);
    int status = store_capture(store, options, &capture);
    if (status == VMSTORE_OK) OK(store_capture_cancel(capture));
    else CHECK(capture == SENTINEL_POINTER(vmstore_capture));
    return status;
}

static int use_precopy(void *options)
{
    uint64_t left = SENTINEL;
    int status = store_precopy(store, options, &left);
    CHECK(status == VMSTORE_OK ? left == 0 : left == SENTINEL);
    return status;
}

static int use_persist(void *options)
{
    return store_persist(store, options);
}

static int use_restore(void *options)
{
    return store_restore(store, 1, options);
}

static int use_verify(void *options)
{
    return store_verify(store, options);
}

static int use_export(void *options)
{
    int fd = memfd_create("stream", MFD_CLOEXEC);
    CHECK(fd >= 0);
    int status = store_export_with(store, 0, 1, fd, options);
    close(fd);
    return status;
}

static int use_import(void *options)
{
    uint64_t there = 0;
    int fd = memfd_create("stream", MFD_CLOEXEC);
    CHECK(fd >= 0 && store_export(store, 0, 1, fd) == VMSTORE_OK && lseek(fd, 0, SEEK_SET) == 0);
    int status = store_import_with(store, fd, options, &there);
    close(fd);
    CHECK(status != VMSTORE_OK || there == 1); /* the commit is already in this store */
    return status;
}

static int use_stats(void *stats)
{
    return store_stats(store, stats);
}

static int use_info(void *info)
{
    return store_commit_info(store, 1, info);
}

static int use_probe(void *capabilities)
{
    return store_probe(directory, capabilities);
}

static const struct kind kinds[] = {
    {"vmstore_open_options", sizeof(vmstore_open_options), false, use_open},
    {"vmstore_map_options", sizeof(vmstore_map_options), false, use_map},
    {"vmstore_commit_options", sizeof(vmstore_commit_options), false, use_commit},
    {"vmstore_commit_options", sizeof(vmstore_commit_options), false, use_capture},
    {"vmstore_precopy_options", sizeof(vmstore_precopy_options), false, use_precopy},
    {"vmstore_persist_options", sizeof(vmstore_persist_options), false, use_persist},
    {"vmstore_restore_options", sizeof(vmstore_restore_options), false, use_restore},
    {"vmstore_verify_options", sizeof(vmstore_verify_options), false, use_verify},
    {"vmstore_transfer_options", sizeof(vmstore_transfer_options), false, use_export},
    {"vmstore_transfer_options", sizeof(vmstore_transfer_options), false, use_import},
    {"vmstore_stats", sizeof(vmstore_stats), true, use_stats},
    {"vmstore_commit_info", sizeof(vmstore_commit_info), true, use_info},
    {"vmstore_capabilities", sizeof(vmstore_capabilities), true, use_probe},
};

/* The bytes behind struct_size do not belong to the struct. They hold garbage that would be refused if the library
 * read it, or they cannot be accessed. Afterwards they must be unchanged. */
static void shorter(const struct kind *kind, unsigned char *end)
{
    const size_t align = sizeof(size_t);
    for (size_t size = align; size <= kind->size; size++) {
        size_t room = (size + align - 1) / align * align;
        unsigned char *place = end - room;
        unsigned char *full = end - page_size();
        trying("%s of %zu bytes before a page that cannot be touched", kind->name, size);
        memset(full, GUARD, page_size());
        memset(place, 0, size);
        memcpy(place, &size, sizeof size);
        OK(kind->use(place));
        CHECK(memcmp(place, &size, sizeof size) == 0);
        CHECK(all_bytes_are(place + size, room - size, GUARD));
        CHECK(all_bytes_are(full, page_size() - room, GUARD));
        if (!kind->output) CHECK(all_bytes_are(place + align, size - align, 0));

        trying("%s of %zu bytes with garbage behind it", kind->name, size);
        memset(full, GUARD, page_size());
        place = full + 512;
        memset(place, 0, size);
        memcpy(place, &size, sizeof size);
        OK(kind->use(place));
        CHECK(memcmp(place, &size, sizeof size) == 0);
        CHECK(all_bytes_are(full, 512, GUARD));
        CHECK(all_bytes_are(place + size, page_size() - 512 - size, GUARD));
        tried += 2;
    }
}

/* A longer struct, as a newer caller has it: accepted if all fields unknown to this version are zero, otherwise
 * refused. */
static void longer(const struct kind *kind, unsigned char *end)
{
    const size_t more[] = {1, 7, 8, 24, 64, 1024};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        size_t size = kind->size + more[i];
        unsigned char *place = end - (size + 7) / 8 * 8;
        unsigned char *full = end - page_size();
        trying("%s with %zu more bytes, all zero", kind->name, more[i]);
        memset(full, GUARD, page_size());
        memset(place, 0, size);
        memcpy(place, &size, sizeof size);
        OK(kind->use(place));
        CHECK(memcmp(place, &size, sizeof size) == 0);
        CHECK(all_bytes_are(place + kind->size, more[i], 0));
        CHECK(all_bytes_are(full, (size_t)(place - full), GUARD));

        const size_t spots[] = {0, more[i] / 2, more[i] - 1};
        for (size_t spot = 0; spot < 3; spot++) {
            trying("%s with %zu more bytes, byte %zu of them not zero", kind->name, more[i], spots[spot]);
            memset(place, 0, size);
            memcpy(place, &size, sizeof size);
            place[kind->size + spots[spot]] = 0x80;
            FAILS_WITH(kind->use(place), VMSTORE_E_INVALID, "struct_size", kind->name);
            CHECK(all_bytes_are(place + sizeof size, kind->size - sizeof size, 0));
            tried++;
        }
        tried++;
    }
}

/* No struct has these sizes, and only the first eight bytes can be read. */
static void impossible(const struct kind *kind, unsigned char *end)
{
    const size_t sizes[] = {0, 1, 3, 7, (size_t)1 << 20, (size_t)1 << 40, (size_t)1 << 63, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t size = sizes[i];
        unsigned char *place = size < sizeof size ? end - sizeof size : end - kind->size;
        trying("%s with struct_size %zu", kind->name, size);
        memset(end - page_size(), GUARD, page_size());
        memcpy(place, &size, sizeof size);
        if (size > sizeof size) memset(place + sizeof size, 0, kind->size - sizeof size);
        FAILS_WITH(kind->use(place), VMSTORE_E_INVALID, "struct_size", kind->name);
        CHECK(memcmp(place, &size, sizeof size) == 0);
        tried++;
    }
}

/* A field is read as soon as struct_size covers it, and not before. */
static void fields_are_honoured(void)
{
    vmstore *opened = SENTINEL_POINTER(vmstore);
    vmstore_open_options open = {.struct_size = 12, .flags = VMSTORE_OPEN_NO_CREATE, .reserved = 9};
    const char *missing = path_in(directory, "missing");
    trying("open options of 12 bytes: flags, but no reserved");
    FAILS(store_open(missing, &open, &opened), VMSTORE_E_NOT_FOUND, "missing");
    open.struct_size = 16;
    FAILS(store_open(missing, &open, &opened), VMSTORE_E_INVALID, "reserved");
    open.struct_size = 8;
    OK(store_open(missing, &open, &opened));
    OK(store_close(opened));

    uint64_t commit = 0;
    size_t length = 0;
    vmstore_commit_info info = {.struct_size = sizeof info};
    vmstore_commit_options options = {
        .struct_size = 16, .label = "short", .user_data = NULL, .user_data_length = 5};
    trying("commit options of 16 bytes: a label, but no user data");
    OK(store_commit(store, &options, &commit));
    OK(store_commit_info(store, commit, &info));
    CHECK(strcmp(info.label, "short") == 0 && info.user_data_length == 0);
    CHECK(info.struct_size == sizeof info && info.commit == commit && info.parent == 1);
    OK(store_commit_user_data(store, commit, NULL, 0, &length));
    CHECK(length == 0);

    /* The struct, its label and its bytes may lie in memory that cannot be written. */
    unsigned char *memory = end_of_memory() - page_size();
    vmstore_commit_options *constant = (void *)memory;
    *constant = (vmstore_commit_options){.struct_size = sizeof *constant,
                                         .label = (char *)memory + 512,
                                         .user_data = memory + 1024,
                                         .user_data_length = 3};
    memcpy(memory + 512, "constant", 9);
    memcpy(memory + 1024, "\0\1\2", 3);
    CHECK(mprotect(memory, page_size(), PROT_READ) == 0);
    trying("options in memory that cannot be written");
    OK(store_commit(store, constant, &commit));
    OK(store_commit_info(store, commit, &info));
    CHECK(strcmp(info.label, "constant") == 0 && info.user_data_length == 3);
    /* The library has copied the struct: later changes of the caller's struct make no difference. */
    CHECK(munmap(memory, 2 * page_size()) == 0);
    unsigned char bytes[4] = {GUARD, GUARD, GUARD, GUARD};
    OK(store_commit_user_data(store, commit, bytes, sizeof bytes, &length));
    CHECK(length == 3 && memcmp(bytes, "\0\1\2\x5A", 4) == 0);
}

/* The call fills as much of an info struct as struct_size covers, with the same bytes as in a whole struct. */
static void short_outputs_are_filled(void)
{
    vmstore_commit_info whole = {.struct_size = sizeof whole}, part;
    OK(store_commit_info(store, 2, &whole));
    for (size_t size = sizeof(size_t); size < sizeof part; size++) {
        trying("vmstore_commit_info of %zu bytes against a whole one", size);
        memset(&part, GUARD, sizeof part);
        memset(&part, 0, size);
        part.struct_size = size;
        OK(store_commit_info(store, 2, &part));
        CHECK(part.struct_size == size);
        CHECK(memcmp((char *)&part + sizeof size, (char *)&whole + sizeof size, size - sizeof size) == 0);
        CHECK(all_bytes_are((char *)&part + size, sizeof part - size, GUARD));
    }
}

int main(int argc, char **argv)
{
    vmstore_module *module;
    uint64_t commit;
    CHECK(argc > 1);
    directory = argv[1];
    unsigned char *end = end_of_memory();
    OK(store_open(path_in(directory, "store"), NULL, &store));
    OK(store_map_module(store, "ram", page_size(), NULL, &module));
    OK(store_commit(store, NULL, &commit));
    CHECK(commit == 1);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        shorter(&kinds[i], end);
        longer(&kinds[i], end);
        impossible(&kinds[i], end);
    }
    fields_are_honoured();
    short_outputs_are_filled();
    OK(store_close(store));
    CHECK(munmap(end - page_size(), 2 * page_size()) == 0);
    return finished("%u structs of odd sizes were taken or refused by the rule", tried);
}
