/* Misuse of the mapping modes: combinations that make no sense, ranges that are in use, not mapped or not writable,
 * descriptors that cannot serve, memory that another userfaultfd has registered, damaged heads. Each call is
 * refused with a text that says why, and the caller's memory, descriptors and reservations do not change. */
#include "misuse.h"

#include <fcntl.h>
#include <sys/socket.h>

#include "places.h"

static const char *directory;
static vmstore *store;
static unsigned refused;

/* The call fails with this status and text. The range around `options.address` does not change, and no module has
 * the name. */
static void refuse(const char *what, uint64_t size, vmstore_map_options options, int status, const char *words)
{
    vmstore_module *mapped = SENTINEL_POINTER(vmstore_module);
    options.struct_size = sizeof options;
    trying("%s", what);
    char *before = range_text(options.address, 16);
    FAILS_WITH(store_map_module(store, "m", size, &options, &mapped), status, words, "store_map_module");
    CHECK(mapped == SENTINEL_POINTER(vmstore_module));
    char *after = range_text(options.address, 16);
    if (strcmp(before, after) != 0) FAIL("the range was\n%s\nand is\n%s", before, after);
    CHECK(!exists(path_in(directory, "store/m")));
    free(before), free(after);
    refused++;
}

#define REFUSE(what, size, status, words, ...) \
    refuse(what, size, (vmstore_map_options){__VA_ARGS__}, status, words)

static void rules(void)
{
    const uint64_t page = page_size(), size = 4 * page, huge = UINT64_C(2) << 20;
    const uint32_t adopt = VMSTORE_MAP_ADOPT, memfd = VMSTORE_MAP_MEMFD, reserved = VMSTORE_MAP_RESERVED;
    const int invalid = VMSTORE_E_INVALID;
    unsigned char *memory = place(8, PROT_READ | PROT_WRITE), *reservation = place(8, PROT_NONE);
    char number[32];
    for (uint32_t mode = 3; mode < 256; mode++) {
        if (mode == VMSTORE_MAP_ADOPT) continue;
        snprintf(number, sizeof number, "mode %" PRIu32, mode);
        REFUSE(number, size, invalid, number, .flags = mode);
    }
    REFUSE("huge pages, private", huge, invalid, "huge pages go with", .flags = VMSTORE_MAP_HUGE_2M);
    REFUSE("huge pages, shared", huge, invalid, "huge pages go with", .flags = VMSTORE_MAP_SHARED | VMSTORE_MAP_HUGE_1G);
    REFUSE("huge pages, adopted", huge, invalid, "huge pages go with", .flags = adopt | VMSTORE_MAP_HUGE_2M,
           .address = memory);
    REFUSE("huge pages of a descriptor", huge, invalid, "a descriptor has a page size of its own",
           .flags = memfd | VMSTORE_MAP_FD | VMSTORE_MAP_HUGE_2M, .fd = 0);
    REFUSE("both huge sizes", huge, invalid, "exclude one another",
           .flags = memfd | VMSTORE_MAP_HUGE_2M | VMSTORE_MAP_HUGE_1G);
    REFUSE("less than a huge page", size, invalid, "multiple of the page size, 2097152",
           .flags = memfd | VMSTORE_MAP_HUGE_2M);
    REFUSE("a huge page where a small one is", huge, invalid, "multiple of the page size, 2097152",
           .flags = memfd | VMSTORE_MAP_HUGE_2M, .address = (void *)(uintptr_t)(huge * 64 + page));
    REFUSE("a huge max_size of small pages", huge, invalid, "max_size", .flags = memfd | VMSTORE_MAP_HUGE_2M,
           .max_size = huge + page);
    const uint32_t without[] = {VMSTORE_MAP_PRIVATE, VMSTORE_MAP_SHARED, adopt};
    for (int i = 0; i < 3; i++)
        REFUSE("a descriptor without MEMFD", size, invalid, "goes with VMSTORE_MAP_MEMFD",
               .flags = without[i] | VMSTORE_MAP_FD, .fd = 0, .address = i == 2 ? memory : NULL);
    REFUSE("an address between pages", size, invalid, "multiple of the page size", .address = memory + 8);
    REFUSE("adopted between pages", size, invalid, "multiple of the page size", .flags = adopt, .address = memory + 1);
    REFUSE("reserved between pages", size, invalid, "multiple of the page size", .flags = reserved,
           .address = reservation + page / 2);
    REFUSE("adopt nothing", size, invalid, "need the address", .flags = adopt);
    REFUSE("reserved nowhere", size, invalid, "need the address", .flags = reserved);
    REFUSE("reserved and adopted", size, invalid, "takes memory that is mapped", .flags = adopt | reserved, .address = memory);
    REFUSE("beyond the address space", size, invalid, "address space", .flags = adopt, .address = (void *)-page);
    REFUSE("beyond the address space, reserved", size, invalid, "address space", .flags = reserved,
           .address = (void *)-page);
    REFUSE("a kernel's address", size, invalid, "nothing is", .flags = adopt,
           .address = (void *)(uintptr_t)0xffff800000000000u);
    REFUSE("max_size below the size", size, invalid, "max_size", .max_size = size - page);
    REFUSE("max_size of half a page", size, invalid, "max_size", .max_size = size + page / 2);
    REFUSE("max_size of adopted memory", size, invalid, "the caller owns the address space", .flags = adopt, .address = memory,
           .max_size = 2 * size);
    REFUSE("max_size in a reservation", size, invalid, "the caller owns the address space", .flags = reserved, .address = reservation,
           .max_size = 2 * size);
    if (!slow()) /* valgrind's mmap has another error for that */
        REFUSE("max_size beyond everything", size, VMSTORE_E_NO_MEMORY, "address space", .max_size = UINT64_C(1) << 62);
    REFUSE("no whole page", page / 2, invalid, "multiple of the page size", .flags = adopt, .address = memory);
    REFUSE("size 0 of a new module", 0, invalid, "recorded", .flags = adopt, .address = memory);
    unplace(memory, 8), unplace(reservation, 8);
}

static void ranges(void)
{
    const size_t page = page_size();
    const uint32_t adopt = VMSTORE_MAP_ADOPT, reserved = VMSTORE_MAP_RESERVED;
    for (size_t at = 0; at < 6; at++) {
        /* One page of the six is not as the mode needs it. */
        const int invalid = VMSTORE_E_INVALID, exists_already = VMSTORE_E_EXISTS;
        unsigned char *memory = place(16, PROT_READ | PROT_WRITE), *wrong = memory + at * page;
        memset(memory, GUARD, 6 * page);
        CHECK(mprotect(wrong, page, PROT_READ) == 0);
        REFUSE("adopt a page that can only be read", 6 * page, invalid, "is not", .flags = adopt, .address = memory);
        CHECK(mprotect(wrong, page, PROT_NONE) == 0);
        REFUSE("adopt a page without access", 6 * page, invalid, "is not", .flags = adopt, .address = memory);
#ifdef __GLIBC__ /* musl's malloc takes single pages from the kernel, and would get this page */
        CHECK(munmap(wrong, page) == 0);
        REFUSE("adopt where nothing is mapped", 6 * page, invalid, "nothing is", .flags = adopt, .address = memory);
#endif
        for (size_t i = 0; i < 6; i++)
            if (i != at) CHECK(all_bytes_are(memory + i * page, page, GUARD));
        CHECK(munmap(memory, 16 * page) == 0);

        unsigned char *reservation = place(16, PROT_NONE);
        wrong = reservation + at * page;
        int fd = memfd_of(1);
        CHECK(mmap(wrong, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == wrong);
        memset(wrong, GUARD, page);
        REFUSE("a reservation with memory in it", 6 * page, exists_already, "in use", .flags = reserved,
               .address = reservation);
        REFUSE("a shared memfd over it", 6 * page, exists_already, "in use",
               .flags = reserved | VMSTORE_MAP_MEMFD, .address = reservation);
        REFUSE("without the flag", 6 * page, exists_already, "mapped", .address = reservation);
        CHECK(all_bytes_are(wrong, page, GUARD));
        CHECK(mmap(wrong, page, PROT_NONE, MAP_PRIVATE | MAP_FIXED, fd, 0) == wrong);
        REFUSE("a reservation with a file in it", 6 * page, exists_already, "in use", .flags = reserved,
               .address = reservation);
        CHECK(mmap(wrong, page, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == wrong);
        REFUSE("a shared reservation", 6 * page, exists_already, "in use", .flags = reserved, .address = reservation);
#ifdef __GLIBC__
        CHECK(munmap(wrong, page) == 0);
        REFUSE("a reservation with a hole", 6 * page, invalid, "nothing is", .flags = reserved, .address = reservation);
#endif
        close(fd);
        CHECK(munmap(reservation, 16 * page) == 0);
    }
}

/* Memory that already belongs to a module, or into which a module may grow. */
static void overlaps(void)
{
    const size_t page = page_size();
    unsigned char *memory = place(16, PROT_READ | PROT_WRITE);
    memset(memory, GUARD, 16 * page);
    vmstore_module *first, *second;
    vmstore_map_options options = {.struct_size = sizeof options, .flags = VMSTORE_MAP_ADOPT, .address = memory + 4 * page};
    OK(store_map_module(store, "first", 4 * page, &options, &first));
    for (int from = 1; from < 8; from++)
        REFUSE("adopt a part of a module", 4 * page, VMSTORE_E_EXISTS, "a part of them is module \"first\"",
               .flags = VMSTORE_MAP_ADOPT, .address = memory + from * page);
    REFUSE("adopt all around a module", 12 * page, VMSTORE_E_EXISTS, "first", .flags = VMSTORE_MAP_ADOPT,
           .address = memory);
    options.address = memory + 10 * page;
    OK(store_map_module(store, "second", 2 * page, &options, &second));
    trying("growing into another module");
    char *before = range_text(memory, 16);
    FAILS_WITH(store_grow_module(first, 7 * page), VMSTORE_E_EXISTS, "second", "store_grow_module");
    CHECK(store_module_size(first) == 4 * page);
    OK(store_grow_module(first, 6 * page));
    FAILS_WITH(store_grow_module(first, 7 * page), VMSTORE_E_EXISTS, "second", "store_grow_module");
    char *after = range_text(memory, 16);
    CHECK(strcmp(before, after) == 0 && all_bytes_are(memory, 16 * page, GUARD));
    free(before), free(after);
    refused += 2;

    trying("growing into memory that is not mapped, or not writable");
    CHECK(mprotect(memory + 13 * page, page, PROT_READ) == 0);
    FAILS(store_grow_module(second, 4 * page), VMSTORE_E_INVALID, "is not");
    CHECK(munmap(memory + 13 * page, page) == 0);
    FAILS(store_grow_module(second, 4 * page), VMSTORE_E_INVALID, "nothing is");
    FAILS(store_grow_module(second, page), VMSTORE_E_SIZE, "shrink");
    FAILS(store_grow_module(second, 2 * page + 1), VMSTORE_E_INVALID, "multiple");
    FAILS(store_grow_module(second, UINT64_MAX / page * page), VMSTORE_E_NO_MEMORY, "host");
    OK(store_grow_module(second, 2 * page));
    CHECK(store_module_size(second) == 2 * page && all_bytes_are(memory, 13 * page, GUARD));
    refused += 5;
    OK(store_unmap_module(first));
    OK(store_unmap_module(second));
    CHECK(munmap(memory, 16 * page) == 0);
}

static void descriptors(void)
{
    const size_t page = page_size();
    const uint32_t flags = VMSTORE_MAP_MEMFD | VMSTORE_MAP_FD;
    const int invalid = VMSTORE_E_INVALID;
    int fd = memfd_of(8), pipes[2], sockets[2];
    char text[64], *bytes = repeated('x', page);
    for (int i = 0; i < 8; i += 2) CHECK(pwrite(fd, bytes, page, (off_t)(i * page)) == (ssize_t)page);
    CHECK(lseek(fd, 12345, SEEK_SET) == 12345);
    snprintf(text, sizeof text, "/proc/self/fd/%d", fd);
    int reading = open(text, O_RDONLY | O_CLOEXEC), writing = open(text, O_WRONLY | O_CLOEXEC);
    int place_only = open(text, O_PATH | O_CLOEXEC), folder = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(reading >= 0 && writing >= 0 && place_only >= 0 && folder >= 0 && pipe2(pipes, O_CLOEXEC) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0);

    REFUSE("a closed descriptor", 4 * page, invalid, "open descriptor", .flags = flags, .fd = 987654);
    REFUSE("descriptor -1", 4 * page, invalid, "open descriptor", .flags = flags, .fd = -1);
    REFUSE("open for reading", 4 * page, invalid, "reading and writing", .flags = flags, .fd = reading);
    REFUSE("open for writing", 4 * page, invalid, "reading and writing", .flags = flags, .fd = writing);
    REFUSE("O_PATH", 4 * page, invalid, "reading and writing", .flags = flags, .fd = place_only);
    REFUSE("a directory", 4 * page, invalid, "regular file", .flags = flags, .fd = folder);
    REFUSE("a pipe", 4 * page, invalid, "regular file", .flags = flags, .fd = pipes[0]);
    REFUSE("a socket", 4 * page, invalid, "regular file", .flags = flags, .fd = sockets[0]);
    REFUSE("too short", 9 * page, VMSTORE_E_SIZE, "too short", .flags = flags, .fd = fd);
    REFUSE("too short from there", 4 * page, VMSTORE_E_SIZE, "too short", .flags = flags, .fd = fd, .fd_offset = 5 * page);
    REFUSE("from its end", page, VMSTORE_E_SIZE, "too short", .flags = flags, .fd = fd, .fd_offset = 8 * page);
    REFUSE("from far away", page, VMSTORE_E_SIZE, "too short", .flags = flags, .fd = fd, .fd_offset = UINT64_MAX / page * page);
    REFUSE("from between pages", page, invalid, "multiples", .flags = flags, .fd = fd, .fd_offset = 512);
    int sealed = memfd_of(4);
    CHECK(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE) == 0);
    REFUSE("sealed against writing", 4 * page, VMSTORE_E_INVALID, "F_SEAL_WRITE", .flags = flags, .fd = sealed);

    trying("a descriptor that the library must ignore");
    vmstore_module *module;
    vmstore_map_options options = {.struct_size = sizeof options, .fd = 987654, .fd_offset = 3};
    OK(store_map_module(store, "unlooked", page, &options, &module));
    OK(store_unmap_module(module));

    trying("the caller's descriptor after all refusals");
    CHECK(lseek(fd, 0, SEEK_CUR) == 12345 && memfd_pages(fd) == 8);
    unsigned char *all = mmap(NULL, 8 * page, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(all != MAP_FAILED);
    for (size_t i = 0; i < 8; i++) CHECK(all_bytes_are(all + i * page, page, i % 2 ? 0 : 'x'));
    options = (vmstore_map_options){.struct_size = sizeof options, .flags = flags, .fd = fd, .fd_offset = 2 * page,
                                    .max_size = 16 * page};
    OK(store_map_module(store, "grows", 4 * page, &options, &module));
    CHECK(lseek(fd, 0, SEEK_CUR) == 12345);
    FAILS(store_grow_module(module, 7 * page), VMSTORE_E_SIZE, "make the file longer first");
    CHECK(store_module_size(module) == 4 * page);
    OK(store_unmap_module(module));
    CHECK(memfd_pages(fd) == 8 && all_bytes_are(all + 2 * page, page, 'x'));
    CHECK(munmap(all, 8 * page) == 0);
    int all_of_them[] = {fd, reading, writing, place_only, folder, pipes[0], pipes[1], sockets[0], sockets[1], sealed};
    for (size_t i = 0; i < sizeof all_of_them / sizeof *all_of_them; i++) CHECK(close(all_of_them[i]) == 0);
    refused++;
}

/* Offsets, lengths and bitmaps of the calls that report and discard pages. */
static void reports(void)
{
    const size_t page = page_size();
    vmstore_module *module;
    uint64_t words[2] = {UINT64_MAX, UINT64_MAX};
    OK(store_map_module(store, "reported", 70 * page, NULL, &module));
    unsigned char *memory = store_module_address(module);
    memset(memory, GUARD, 70 * page);
    const uint64_t odd[] = {1, page / 2, page - 1, page + 1};
    for (size_t i = 0; i < 4; i++) {
        FAILS(store_import_dirty_bitmap(module, odd[i], words, 1), VMSTORE_E_INVALID, "multiples");
        FAILS(store_discard(module, odd[i], page), VMSTORE_E_INVALID, "multiples");
        FAILS(store_discard(module, 0, odd[i]), VMSTORE_E_INVALID, "multiples");
    }
    FAILS(store_import_dirty_bitmap(module, 0, words, 71), VMSTORE_E_INVALID, "end within");
    FAILS(store_import_dirty_bitmap(module, 70 * page, words, 1), VMSTORE_E_INVALID, "end within");
    FAILS(store_import_dirty_bitmap(module, page, words, UINT64_MAX / page), VMSTORE_E_INVALID, "within");
    FAILS(store_import_dirty_bitmap(module, 0, words, UINT64_MAX), VMSTORE_E_INVALID, "page_count");
    FAILS(store_discard(module, 69 * page, 2 * page), VMSTORE_E_INVALID, "end within");
    FAILS(store_discard(module, page, -page), VMSTORE_E_INVALID, "end within");
    FAILS(store_mark_dirty(module, 69 * page, page + 1), VMSTORE_E_INVALID, "end within");
    FAILS(store_mark_dirty(module, UINT64_MAX, 2), VMSTORE_E_INVALID, "end within");
    OK(store_discard(module, 70 * page, 0));
    OK(store_import_dirty_bitmap(module, 70 * page, words, 0));
    CHECK(all_bytes_are(memory, 70 * page, GUARD));
    OK(store_unmap_module(module));
    refused += 20;
}

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    directory = argv[1];
    OK(store_open(path_in(directory, "store"), NULL, &store));
    rules();
    ranges();
    overlaps();
    descriptors();
    reports();
    trying("the store after all refusals");
    uint64_t commit;
    OK(store_commit(store, NULL, &commit));
    OK(store_verify(store, NULL));
    OK(store_close(store));
    return finished("%u calls with impossible modes, ranges and descriptors were refused, and the memory did not change", refused);
}
