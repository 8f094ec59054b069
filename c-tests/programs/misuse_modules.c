/* Module ids, sizes and addresses: each rule of store_map_module, once broken and once just kept. */
#include "misuse.h"

static const char *directory;
static vmstore *store;
static unsigned refused, accepted;

static void bad_name(const char *name)
{
    vmstore_module *module = SENTINEL_POINTER(vmstore_module);
    trying("the module id \"%.40s\" of %zu bytes", name, strlen(name));
    FAILS(store_map_module(store, name, page_size(), NULL, &module), VMSTORE_E_INVALID, "module");
    CHECK(module == SENTINEL_POINTER(vmstore_module));
    refused++;
}

static void good_name(const char *name)
{
    vmstore_module *module = NULL;
    trying("the module id \"%.40s\" of %zu bytes", name, strlen(name));
    OK(store_map_module(store, name, page_size(), NULL, &module));
    CHECK(exists(path_in(path_in(directory, "store"), name)));
    OK(store_unmap_module(module));
    accepted++;
}

static void names(void)
{
    static const char *const bad[] = {
        "", ".", "..", ".x", ".vmstore", "commits", "_last", "a_last", "a_Commit1_last", "_Commit0",
        "_Commit1", "a_Commit1", "a_Commit0", "a_Commit007", "a_Commit18446744073709551616",
        "a_Commit1_Commit2", "x/y", "/x", "x/", "../x", "a b", " ", "a\n", "a\t", "a\x7f", "\x01", "a:b",
        "a\\b", "a*", "a+b", "a,b", "a=b", "a@b", "a~", "\xc3\xa9", "a\xff", "\xed\xa0\x80", "%00",
    };
    static const char *const good[] = {
        "a", "0", "_", "-", "--", "a.", "a..b", "a_Commit", "_Commit", "a_Commit1x", "a_Commit1.",
        "a_commit1", "a_Commit-1", "aCommit1", "a_last_", "a_Last", "last", "a_last.x", "commits_",
        "Commits", "commits.x", "x.vmstore", "Az09._-", "a__Commit_1",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) bad_name(bad[i]);
    for (int byte = 1; byte < 256; byte++) {
        const char name[] = {'a', (char)byte, 0};
        int letter = (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z');
        if (letter || (byte >= '0' && byte <= '9') || strchr("._-", byte)) good_name(name);
        else bad_name(name);
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) good_name(good[i]);
    good_name(repeated('a', 200));
    bad_name(repeated('a', 201));
    bad_name(repeated('a', 255));
    bad_name(repeated('a', 5000));

    vmstore_module *module = SENTINEL_POINTER(vmstore_module);
    trying("the texts of refused ids");
    FAILS(store_map_module(store, "x/y", page_size(), NULL, &module), VMSTORE_E_INVALID, "x/y");
    FAILS(store_map_module(store, "a_last", page_size(), NULL, &module), VMSTORE_E_INVALID, "_last");
    FAILS(store_map_module(store, repeated('b', 201), page_size(), NULL, &module), VMSTORE_E_INVALID, "200");
}

/* A name whose file names have the greatest length works through a whole life. */
static void the_longest_name(void)
{
    vmstore_module *module;
    uint64_t first, second;
    const char *name = repeated('z', 200);
    trying("commits of a module with an id of 200 bytes");
    OK(store_map_module(store, name, page_size(), NULL, &module));
    char *memory = store_module_address(module);
    memory[0] = 1;
    OK(store_commit(store, NULL, &first));
    memory[0] = 2;
    OK(store_commit(store, NULL, &second));
    OK(store_persist(store, NULL));
    OK(store_restore(store, first, NULL));
    CHECK(memory[0] == 1);
    OK(store_unmap_module(module));
}

static void sizes(void)
{
    const uint64_t page = page_size();
    const uint64_t unaligned[] = {1, 7, page - 1, page + 1, 3 * page / 2, (UINT64_C(1) << 63) + 1,
                                  UINT64_MAX};
    const uint64_t huge[] = {UINT64_C(1) << 63, UINT64_MAX - (page - 1), UINT64_C(1) << 50,
                             (UINT64_C(1) << 63) - page, UINT64_C(1) << 62};
    vmstore_module *module = SENTINEL_POINTER(vmstore_module);
    uint64_t commit;
    for (size_t i = 0; i < sizeof unaligned / sizeof *unaligned; i++) {
        char number[24];
        snprintf(number, sizeof number, "%" PRIu64, unaligned[i]);
        trying("the size %s", number);
        FAILS_WITH(store_map_module(store, "sized", unaligned[i], NULL, &module), VMSTORE_E_INVALID,
                   "size", number);
        refused++;
    }
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++)
        for (uint32_t mode = VMSTORE_MAP_PRIVATE; mode <= VMSTORE_MAP_SHARED; mode++) {
            vmstore_map_options options = {.struct_size = sizeof options, .flags = mode};
            trying("the size %#" PRIx64 ", mode %" PRIu32, huge[i], mode);
            int status = store_map_module(store, "sized", huge[i], &options, &module);
            if (status != VMSTORE_E_INVALID && status != VMSTORE_E_NO_MEMORY &&
                status != VMSTORE_E_NO_SPACE && status != VMSTORE_E_IO)
                FAIL("got %d (%s)", status, status ? last_error() : "-");
            CHECK(last_error()[0] != 0);
            refused++;
        }
    trying("size 0 of a module that is not known");
    FAILS_WITH(store_map_module(store, "sized", 0, NULL, &module), VMSTORE_E_INVALID, "size", "sized");
    CHECK(module == SENTINEL_POINTER(vmstore_module));
    CHECK(!exists(path_in(directory, "store/sized")));

    trying("another size than the recorded one");
    OK(store_map_module(store, "sized", 2 * page, NULL, &module));
    OK(store_commit(store, NULL, &commit));
    OK(store_unmap_module(module));
    char recorded[24], wanted[24];
    snprintf(recorded, sizeof recorded, "%" PRIu64, 2 * page);
    for (uint64_t pages = 1; pages <= 5; pages += 2) {
        vmstore_module *other = SENTINEL_POINTER(vmstore_module);
        snprintf(wanted, sizeof wanted, "%" PRIu64, pages * page);
        FAILS_WITH(store_map_module(store, "sized", pages * page, NULL, &other), VMSTORE_E_SIZE,
                   recorded, wanted);
        CHECK(strstr(last_error(), "sized") && other == SENTINEL_POINTER(vmstore_module));
        refused++;
    }
    trying("size 0 of a module that is known");
    OK(store_map_module(store, "sized", 0, NULL, &module));
    CHECK(store_module_size(module) == 2 * page);

    vmstore_module *twice = SENTINEL_POINTER(vmstore_module);
    trying("a module that is mapped already");
    FAILS(store_map_module(store, "sized", 2 * page, NULL, &twice), VMSTORE_E_EXISTS, "sized");
    CHECK(twice == SENTINEL_POINTER(vmstore_module));
    OK(store_unmap_module(module));
}

static void refused_address(void *address, uint64_t size, int status)
{
    vmstore_map_options options = {.struct_size = sizeof options, .address = address};
    vmstore_module *module = SENTINEL_POINTER(vmstore_module);
    trying("the address %p for %" PRIu64 " bytes", address, size);
    FAILS(store_map_module(store, "placed", size, &options, &module), status, "address");
    CHECK(module == SENTINEL_POINTER(vmstore_module));
    CHECK(!exists(path_in(directory, "store/placed")));
    refused++;
}

static void addresses(void)
{
    const size_t page = page_size(), room = 16 * page;
    unsigned char *place = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(place != MAP_FAILED && munmap(place, room) == 0);
    refused_address(place + 1, 4 * page, VMSTORE_E_INVALID);
    refused_address(place + page / 2, 4 * page, VMSTORE_E_INVALID);
    refused_address((void *)(uintptr_t)1, 4 * page, VMSTORE_E_INVALID);
    refused_address((void *)UINTPTR_MAX, 4 * page, VMSTORE_E_INVALID);

    /* An occupied range is not changed, also where only its first or last page is occupied. */
    for (int part = 0; part < 3; part++) {
        unsigned char *other = place + (part == 2 ? 3 * page : 0);
        size_t length = part == 0 ? 4 * page : page;
        CHECK(mmap(other, length, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == other);
        memset(other, 0x77, length);
        refused_address(place, 4 * page, VMSTORE_E_EXISTS);
        CHECK(all_bytes_are(other, length, 0x77));
        CHECK(munmap(other, length) == 0);
    }

    /* No process has these addresses. Which error comes depends on what the kernel checks first. */
    const uintptr_t outside[] = {UINTPTR_MAX - page + 1, UINTPTR_MAX - 4 * page + 1, (uintptr_t)1 << 63};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        vmstore_map_options options = {.struct_size = sizeof options, .address = (void *)outside[i]};
        vmstore_module *module = SENTINEL_POINTER(vmstore_module);
        trying("the address %#" PRIxPTR, outside[i]);
        int status = store_map_module(store, "placed", 4 * page, &options, &module);
        if (status != VMSTORE_E_INVALID && status != VMSTORE_E_NO_MEMORY && status != VMSTORE_E_EXISTS &&
            status != VMSTORE_E_IO)
            FAIL("got %d (%s)", status, status ? last_error() : "-");
        CHECK(module == SENTINEL_POINTER(vmstore_module));
        CHECK(!exists(path_in(directory, "store/placed")));
        refused++;
    }

    for (uint32_t mode = VMSTORE_MAP_PRIVATE; mode <= VMSTORE_MAP_SHARED; mode++) {
        vmstore_map_options options = {
            .struct_size = sizeof options, .flags = mode, .address = place + page};
        vmstore_module *module;
        trying("the exact address %p, mode %" PRIu32, options.address, mode);
        OK(store_map_module(store, mode ? "placed-s" : "placed-p", 4 * page, &options, &module));
        CHECK(store_module_address(module) == options.address);
        CHECK(all_bytes_are(options.address, 4 * page, 0));
        memset(options.address, 0x11, 4 * page);
        OK(store_unmap_module(module));
        /* The range is free again. */
        CHECK(mmap(place, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) ==
              place);
        CHECK(munmap(place, room) == 0);
        accepted++;
    }
}

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    directory = argv[1];
    OK(store_open(path_in(directory, "store"), NULL, &store));
    names();
    the_longest_name();
    sizes();
    addresses();
    OK(store_verify(store, NULL));
    OK(store_close(store));
    return finished("%u module ids, sizes and addresses refused, %u accepted", refused, accepted);
}
