/* NULL in each place of every function, and flags, trackers and reserved fields with unknown values: each call is
 * refused with a text that says why, and changes neither its outputs nor the store. */
#include "misuse.h"

static vmstore *store;
static vmstore_module *module;
static unsigned calls;

#define REFUSED(call, words)                                                                       \
    do {                                                                                           \
        FAILS(call, VMSTORE_E_INVALID, words);                                                     \
        calls++;                                                                                   \
    } while (0)

static void null_outputs(const char *directory)
{
    const char *untouched = path_in(directory, "never-made");
    uint64_t number = SENTINEL;
    size_t length = (size_t)SENTINEL;
    int fd = -77;
    char byte = GUARD;

    trying("NULL for the place of an output");
    REFUSED(store_open(untouched, NULL, NULL), "store");
    CHECK(!exists(untouched));
    REFUSED(store_stats(store, NULL), "stats");
    REFUSED(store_probe(directory, NULL), "capabilities");
    REFUSED(store_probe(NULL, NULL), "capabilities");
    REFUSED(store_map_module(store, "other", page_size(), NULL, NULL), "module");
    CHECK(!exists(path_in(directory, "store/other")));
    REFUSED(store_commit(store, NULL, NULL), "commit");
    REFUSED(store_capture(store, NULL, NULL), "capture");
    REFUSED(store_precopy(store, NULL, NULL), "pages_left");
    REFUSED(store_audit(store, NULL), "missed_pages");
    REFUSED(store_import_dirty_bitmap(module, 0, NULL, 1), "bitmap");
    OK(store_import_dirty_bitmap(module, 0, NULL, 0));
    REFUSED(store_head(store, NULL), "commit");
    REFUSED(store_list_commits(store, &number, 1, NULL), "count");
    CHECK(number == SENTINEL);
    REFUSED(store_list_commits(store, NULL, 0, NULL), "count");
    REFUSED(store_list_commits(store, NULL, 1, &length), "commits");
    REFUSED(store_commit_info(store, 1, NULL), "info");
    REFUSED(store_commit_user_data(store, 1, &byte, 1, NULL), "length");
    CHECK(byte == GUARD);
    REFUSED(store_commit_user_data(store, 1, NULL, 1, &length), "buffer");
    CHECK(length == (size_t)SENTINEL);
    REFUSED(store_list_modules(store, 1, NULL, NULL), "callback");
    REFUSED(store_list_modules(store, 0, NULL, NULL), "callback");
    REFUSED(store_module_fd(module, NULL, &number), "fd");
    REFUSED(store_module_fd(module, &fd, NULL), "offset");
    CHECK(number == SENTINEL && fd == -77);
}

static void null_inputs(const char *directory)
{
    vmstore *opened = SENTINEL_POINTER(vmstore);
    vmstore_module *mapped = SENTINEL_POINTER(vmstore_module);
    vmstore_commit_options options = {.struct_size = sizeof options, .user_data_length = 1};
    vmstore_capture *capture = SENTINEL_POINTER(vmstore_capture);
    uint64_t commit = SENTINEL;
    (void)directory;

    trying("NULL for an input");
    REFUSED(store_open(NULL, NULL, &opened), "directory");
    CHECK(opened == SENTINEL_POINTER(vmstore));
    REFUSED(store_map_module(store, NULL, page_size(), NULL, &mapped), "module_id");
    CHECK(mapped == SENTINEL_POINTER(vmstore_module));
    REFUSED(store_commit(store, &options, &commit), "user_data");
    CHECK(commit == SENTINEL);
    REFUSED(store_capture(store, &options, &capture), "user_data");
    CHECK(capture == SENTINEL_POINTER(vmstore_capture));
}

/* A call with NULL for its output does not end the capture. */
static void null_for_a_capture(void)
{
    vmstore_capture *capture;
    uint64_t commit = SENTINEL;
    memset(store_module_address(module), 7, 1);
    OK(store_capture(store, NULL, &capture));
    trying("store_capture_commit with NULL, then again");
    REFUSED(store_capture_commit(capture, NULL), "commit");
    OK(store_capture_commit(capture, &commit));
    CHECK(commit == 2);
}

static void null_handles(void)
{
    trying("NULL for a handle");
    calls += store_calls_fail(NULL, VMSTORE_E_HANDLE, "store");
    calls += module_calls_fail(NULL, VMSTORE_E_HANDLE, "module");
    calls += capture_calls_fail(NULL, VMSTORE_E_HANDLE, "capture");
}

/* Where NULL is allowed, it means what the header says: the defaults, or no output. */
static void null_that_is_allowed(const char *directory)
{
    vmstore_capabilities capabilities = {.struct_size = sizeof capabilities};
    vmstore_capture *capture;
    size_t count = 0, length = 99;
    uint64_t commit;
    char byte;

    trying("NULL where it is allowed");
    OK(store_probe(NULL, &capabilities));
    CHECK(capabilities.page_size == page_size() && capabilities.file_system[0] == 0);
    CHECK(capabilities.is_store == 0 && capabilities.tracker_reason[0] != 0);
    OK(store_probe(path_in(directory, "store"), &capabilities));
    CHECK(capabilities.is_store == 1 && capabilities.file_system[0] != 0);
    OK(store_list_commits(store, NULL, 0, &count));
    CHECK(count == 2);
    OK(store_commit_user_data(store, 1, NULL, 0, &length));
    CHECK(length == 0);
    OK(store_commit_user_data(store, 1, &byte, 1, &length));
    OK(store_persist(store, NULL));
    OK(store_verify(store, NULL));
    OK(store_restore(store, 2, NULL));
    OK(store_capture(store, NULL, &capture));
    OK(store_capture_cancel(capture));
    OK(store_commit(store, NULL, &commit));
    CHECK(commit == 2);
}

/* Each bit of a flags field that the header does not define is refused, and the text has the value in hexadecimal. */
static void unknown_flags(const char *directory)
{
    const uint32_t open_known =
        VMSTORE_OPEN_READ_ONLY | VMSTORE_OPEN_NO_CREATE | VMSTORE_OPEN_SALVAGE;
    /* The lowest byte is the mode's number: misuse_modes.c tries the modes. */
    const uint32_t map_known = 0xff | VMSTORE_MAP_EAGER | VMSTORE_MAP_RESERVED | VMSTORE_MAP_FD |
                               VMSTORE_MAP_HUGE_2M | VMSTORE_MAP_HUGE_1G | VMSTORE_MAP_FOREIGN_WRITERS;
    const char *untouched = path_in(directory, "never-made");
    for (int bit = 0; bit < 32; bit++) {
        uint32_t flag = UINT32_C(1) << bit;
        char hexadecimal[16];
        snprintf(hexadecimal, sizeof hexadecimal, "%" PRIx32, flag);
        trying("the flag 0x%s", hexadecimal);
        if (!(flag & open_known)) {
            vmstore *opened = SENTINEL_POINTER(vmstore);
            vmstore_open_options options = {.struct_size = sizeof options, .flags = flag};
            FAILS_WITH(store_open(untouched, &options, &opened), VMSTORE_E_INVALID, "flags", hexadecimal);
            CHECK(opened == SENTINEL_POINTER(vmstore) && !exists(untouched));
            calls++;
        }
        if (!(flag & map_known)) {
            vmstore_module *mapped = SENTINEL_POINTER(vmstore_module);
            vmstore_map_options options = {.struct_size = sizeof options, .flags = flag};
            FAILS_WITH(store_map_module(store, "other", page_size(), &options, &mapped),
                       VMSTORE_E_INVALID, "flags", hexadecimal);
            CHECK(mapped == SENTINEL_POINTER(vmstore_module));
            calls++;
        }
        if (flag != VMSTORE_VERIFY_METADATA) {
            vmstore_verify_options options = {.struct_size = sizeof options, .flags = flag};
            FAILS_WITH(store_verify(store, &options), VMSTORE_E_INVALID, "flags", hexadecimal);
            calls++;
        }
    }
}

static void reserved_fields(const char *directory)
{
    const char *untouched = path_in(directory, "never-made");
    const uint32_t values[] = {1, 0x80000000, UINT32_MAX};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        vmstore *opened = SENTINEL_POINTER(vmstore);
        vmstore_open_options open = {.struct_size = sizeof open, .reserved = values[i]};
        vmstore_verify_options verify = {.struct_size = sizeof verify, .reserved = values[i]};
        vmstore_map_options map = {.struct_size = sizeof map, .reserved = values[i]};
        vmstore_precopy_options precopy = {.struct_size = sizeof precopy, .reserved = values[i]};
        vmstore_module *mapped = SENTINEL_POINTER(vmstore_module);
        uint64_t left = SENTINEL;
        trying("reserved = %" PRIu32, values[i]);
        REFUSED(store_map_module(store, "other", page_size(), &map, &mapped), "reserved");
        REFUSED(store_precopy(store, &precopy, &left), "reserved");
        CHECK(mapped == SENTINEL_POINTER(vmstore_module) && left == SENTINEL);
        REFUSED(store_open(untouched, &open, &opened), "reserved");
        CHECK(opened == SENTINEL_POINTER(vmstore) && !exists(untouched));
        REFUSED(store_verify(store, &verify), "reserved");
    }
}

static void unknown_trackers(const char *directory)
{
    const uint32_t values[] = {VMSTORE_TRACKER_COMPARE + 1, 77, UINT32_MAX};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        vmstore_module *mapped = SENTINEL_POINTER(vmstore_module);
        vmstore_map_options options = {.struct_size = sizeof options, .tracker = values[i]};
        char number[16];
        snprintf(number, sizeof number, "%" PRIu32, values[i]);
        trying("the tracker %s", number);
        FAILS_WITH(store_map_module(store, "other", page_size(), &options, &mapped),
                   VMSTORE_E_INVALID, "tracker", number);
        CHECK(mapped == SENTINEL_POINTER(vmstore_module));
        calls++;
    }
    CHECK(!exists(path_in(directory, "store/other")));
}

int main(int argc, char **argv)
{
    uint64_t commit = 0;
    CHECK(argc > 1);
    OK(store_open(path_in(argv[1], "store"), NULL, &store));
    OK(store_map_module(store, "ram", page_size(), NULL, &module));
    OK(store_commit(store, NULL, &commit));
    CHECK(commit == 1);

    null_outputs(argv[1]);
    null_inputs(argv[1]);
    null_handles();
    null_for_a_capture();
    null_that_is_allowed(argv[1]);
    unknown_flags(argv[1]);
    reserved_fields(argv[1]);
    unknown_trackers(argv[1]);

    trying("the store after all that");
    OK(store_head(store, &commit));
    CHECK(commit == 2 && *(char *)store_module_address(module) == 7);
    OK(store_close(store));
    return finished("%u calls with NULL, unknown flags, trackers and reserved fields were refused", calls);
}
