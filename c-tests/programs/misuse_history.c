/* Commits that do not exist, output arrays that are too small, labels and user data that break a rule, and ranges
 * of store_mark_dirty that overflow. */
#include "misuse.h"

static vmstore *store;
static vmstore_module *module;
static unsigned refused;

enum { USER_DATA_LIMIT = 16 << 20 };

static void unknown_commits(void)
{
    const uint64_t unknown[] = {0, 4, 999, UINT64_C(1) << 32, (UINT64_C(1) << 32) + 1,
                                UINT64_C(1) << 63, UINT64_MAX};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        vmstore_commit_info info = {.struct_size = sizeof info};
        vmstore_verify_options verify = {.struct_size = sizeof verify, .commit = unknown[i]};
        size_t length = (size_t)SENTINEL;
        char number[24], byte = GUARD;
        snprintf(number, sizeof number, "%" PRIu64, unknown[i]);
        trying("commit %s", number);
        FAILS_WITH(store_restore(store, unknown[i], NULL), VMSTORE_E_NOT_FOUND, "commit", number);
        FAILS_WITH(store_commit_info(store, unknown[i], &info), VMSTORE_E_NOT_FOUND, "commit", number);
        CHECK(all_bytes_are((char *)&info + sizeof(size_t), sizeof info - sizeof(size_t), 0));
        FAILS_WITH(store_commit_user_data(store, unknown[i], &byte, 1, &length), VMSTORE_E_NOT_FOUND,
                   "commit", number);
        CHECK(byte == GUARD && length == (size_t)SENTINEL);
        refused += 3;
        if (unknown[i] == 0) continue; /* 0 means the head, or everything, in these calls: see below */
        FAILS_WITH(store_list_modules(store, unknown[i], must_not_be_called, NULL), VMSTORE_E_NOT_FOUND,
                   "commit", number);
        FAILS_WITH(store_verify(store, &verify), VMSTORE_E_NOT_FOUND, "commit", number);
        verify.flags = VMSTORE_VERIFY_METADATA;
        FAILS_WITH(store_verify(store, &verify), VMSTORE_E_NOT_FOUND, "commit", number);
        refused += 3;
    }
    trying("the head and the memory after restores that failed");
    uint64_t head = 0;
    OK(store_head(store, &head));
    CHECK(head == 3 && all_bytes_are(store_module_address(module), page_size(), 3));
}

static void small_rooms(void)
{
    for (size_t capacity = 0; capacity <= 5; capacity++) {
        uint64_t numbers[6];
        size_t count = 0;
        trying("room for %zu commits of 3", capacity);
        memset(numbers, GUARD, sizeof numbers);
        OK(store_list_commits(store, numbers, capacity, &count));
        CHECK(count == 3);
        for (size_t i = 0; i < 6; i++)
            if (i < capacity && i < 3) CHECK(numbers[i] == i + 1);
            else CHECK(all_bytes_are(&numbers[i], sizeof *numbers, GUARD));
    }
    for (size_t capacity = 0; capacity <= 10; capacity++) {
        char bytes[11];
        size_t length = 0;
        trying("room for %zu bytes of user data of 8", capacity);
        memset(bytes, GUARD, sizeof bytes);
        OK(store_commit_user_data(store, 3, bytes, capacity, &length));
        CHECK(length == 8);
        size_t copied = capacity < 8 ? capacity : 8;
        CHECK(memcmp(bytes, "user\0dat", copied) == 0);
        CHECK(all_bytes_are(bytes + copied, sizeof bytes - copied, GUARD));
    }
}

static void label(const char *text, int good)
{
    vmstore_commit_options options = {.struct_size = sizeof options, .label = text};
    char *before = strdup(text);
    CHECK(before);
    trying("a label of %zu bytes that begins with \"%.20s\"", strlen(text), text);
    if (good) {
        vmstore_commit_info info = {.struct_size = sizeof info};
        uint64_t commit = 0;
        OK(store_commit(store, &options, &commit));
        OK(store_commit_info(store, commit, &info));
        CHECK(info.commit == commit && strcmp(info.label, text) == 0);
    } else {
        uint64_t commit = SENTINEL, head = 0, head_after = 0;
        vmstore_capture *capture = SENTINEL_POINTER(vmstore_capture);
        OK(store_head(store, &head));
        FAILS(store_commit(store, &options, &commit), VMSTORE_E_INVALID, "label");
        FAILS(store_capture(store, &options, &capture), VMSTORE_E_INVALID, "label");
        CHECK(commit == SENTINEL && capture == SENTINEL_POINTER(vmstore_capture));
        OK(store_head(store, &head_after));
        CHECK(head == head_after);
        refused += 2;
    }
    CHECK(strcmp(before, text) == 0);
    free(before);
}

static void labels(void)
{
    static const char *const bad[] = {
        "\xff", "a\x80", "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\xf8\x88\x80\x80\x80",
        "two\nlines", "\t", "\x1b[31m", "\x7f", "\x01", "\xc2\x85",
    };
    char text[300];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) label(bad[i], 0);
    for (char control = 1; control < ' '; control++) {
        snprintf(text, sizeof text, "a%cb", control);
        label(text, 0);
    }
    label(repeated('x', 256), 0);
    label(repeated('x', 5000), 0);
    label(repeated('x', 255), 1);
    label("before the update \xe2\x80\x94 \xc3\xa9t\xc3\xa9 \xf0\x9f\x90\xa7", 1);
    memset(text, 0, sizeof text);
    for (int i = 0; i < 127; i++) memcpy(text + 2 * i, "\xc3\xa9", 2);
    label(text, 1); /* 254 bytes */
    strcat(text, "x");
    label(text, 1);
    text[254] = 0;
    strcat(text, "\xc3\xa9"); /* 256 bytes; the 255th and 256th are one character */
    label(text, 0);

    uint64_t commit = 0, again = 0;
    vmstore_commit_options none = {.struct_size = sizeof none, .label = ""};
    trying("an empty label, which means no label");
    OK(store_head(store, &commit));
    OK(store_commit(store, &none, &again));
    CHECK(commit == again);
}

static void user_data(void)
{
    unsigned char *bytes = malloc(USER_DATA_LIMIT + 1), *back = malloc(USER_DATA_LIMIT);
    CHECK(bytes && back);
    uint64_t state = 5, commit = SENTINEL;
    for (size_t i = 0; i < USER_DATA_LIMIT; i += 8) {
        uint64_t word = next_random(&state);
        memcpy(bytes + i, &word, 8);
    }
    vmstore_commit_options options = {.struct_size = sizeof options, .user_data = bytes};
    vmstore_capture *capture = SENTINEL_POINTER(vmstore_capture);
    const size_t lengths[] = {USER_DATA_LIMIT + 1, SIZE_MAX, (size_t)1 << 63, SIZE_MAX / 2};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        trying("user data of %zu bytes", lengths[i]);
        options.user_data_length = lengths[i];
        FAILS(store_commit(store, &options, &commit), VMSTORE_E_INVALID, "user_data");
        FAILS(store_capture(store, &options, &capture), VMSTORE_E_INVALID, "user_data");
        CHECK(commit == SENTINEL && capture == SENTINEL_POINTER(vmstore_capture));
        options.user_data = NULL;
        FAILS(store_commit(store, &options, &commit), VMSTORE_E_INVALID, "user_data");
        options.user_data = bytes;
        refused += 3;
    }
    options.user_data_length = USER_DATA_LIMIT / stride(16);
    trying("user data of %zu bytes, which may be 16 MiB exactly", options.user_data_length);
    OK(store_commit(store, &options, &commit));
    size_t length = 0;
    memset(back, 0, USER_DATA_LIMIT);
    OK(store_commit_user_data(store, commit, back, USER_DATA_LIMIT, &length));
    CHECK(length == options.user_data_length && memcmp(bytes, back, length) == 0);
    free(bytes);
    free(back);

    uint64_t again = 0;
    vmstore_commit_options empty = {.struct_size = sizeof empty};
    trying("NULL with length 0, which means no user data");
    OK(store_commit(store, &empty, &again));
    CHECK(commit == again);
}

static void ranges(void)
{
    const uint64_t size = store_module_size(module);
    const uint64_t beyond[][2] = {
        {0, size + 1}, {0, UINT64_MAX}, {1, size}, {1, UINT64_MAX}, {size - 1, 2}, {size, 1},
        {size, UINT64_MAX}, {size + 1, 1}, {size, UINT64_MAX - size + 1}, {UINT64_MAX, 1}, {UINT64_MAX, 2},
        {UINT64_MAX, UINT64_MAX}, {UINT64_MAX - size + 1, size}, {UINT64_C(1) << 63, UINT64_C(1) << 63},
        {UINT64_MAX - 4095, 4096}, {4096, UINT64_MAX - 4095},
    };
    const uint64_t within[][2] = {
        {0, 0}, {size, 0}, {size - 1, 0}, {0, 1}, {size - 1, 1}, {0, size}, {1, size - 1}, {4095, 2},
    };
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++) {
        char offset[24];
        snprintf(offset, sizeof offset, "%" PRIu64, beyond[i][0]);
        trying("marking %" PRIu64 " bytes from %s of %" PRIu64, beyond[i][1], offset, size);
        FAILS_WITH(store_mark_dirty(module, beyond[i][0], beyond[i][1]), VMSTORE_E_INVALID, offset, "ram");
        refused++;
    }
    uint64_t commit = 0, again = 0;
    trying("a commit after marks that were refused");
    OK(store_head(store, &commit));
    OK(store_commit(store, NULL, &again));
    CHECK(commit == again);
    for (size_t i = 0; i < sizeof within / sizeof *within; i++) {
        trying("marking %" PRIu64 " bytes from %" PRIu64 " of %" PRIu64, within[i][1], within[i][0], size);
        OK(store_mark_dirty(module, within[i][0], within[i][1]));
    }
    trying("a commit after marks of pages that did not change");
    OK(store_commit(store, NULL, &again));
    CHECK(commit == again);
    int fd = -77;
    uint64_t offset = SENTINEL;
    FAILS(store_module_fd(module, &fd, &offset), VMSTORE_E_UNSUPPORTED, "ram");
    CHECK(fd == -77 && offset == SENTINEL);
}

/* Before the first commit nothing can be found. The calls report this in the same way. */
static void empty_history(const char *directory)
{
    vmstore *empty;
    uint64_t head = SENTINEL;
    size_t count = SENTINEL;
    vmstore_commit_info info = {.struct_size = sizeof info};
    trying("an empty history");
    OK(store_open(path_in(directory, "empty"), NULL, &empty));
    OK(store_head(empty, &head));
    OK(store_list_commits(empty, NULL, 0, &count));
    CHECK(head == 0 && count == 0);
    OK(store_list_modules(empty, 0, must_not_be_called, NULL));
    OK(store_verify(empty, NULL));
    OK(store_persist(empty, NULL));
    FAILS(store_restore(empty, 1, NULL), VMSTORE_E_NOT_FOUND, "1");
    FAILS(store_restore(empty, 0, NULL), VMSTORE_E_NOT_FOUND, "0");
    FAILS(store_commit_info(empty, 1, &info), VMSTORE_E_NOT_FOUND, "1");
    OK(store_close(empty));
    refused += 3;
}

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    OK(store_open(path_in(argv[1], "store"), NULL, &store));
    OK(store_map_module(store, "ram", 4 * page_size(), NULL, &module));
    for (int i = 1; i <= 3; i++) {
        vmstore_commit_options options = {
            .struct_size = sizeof options, .user_data = "user\0data", .user_data_length = i == 3 ? 8 : 0};
        uint64_t commit = 0;
        memset(store_module_address(module), i, page_size());
        OK(store_commit(store, &options, &commit));
        CHECK(commit == (uint64_t)i);
    }
    unknown_commits();
    small_rooms();
    labels();
    user_data();
    ranges();
    empty_history(argv[1]);
    trying("the store after all refusals");
    OK(store_restore(store, 1, NULL));
    CHECK(all_bytes_are(store_module_address(module), page_size(), 1));
    OK(store_verify(store, NULL));
    OK(store_close(store));
    return finished("%u calls with unknown commits, bad labels, data and ranges were refused", refused);
}
