/* Adopted memory, which belongs to the caller, with something wrong: another userfaultfd has registered a part of
 * the memory, or the head that the library has to load into the memory is damaged. A call that fails leaves the
 * bytes and the registrations of the memory unchanged. The trackers that the refusal offers instead work. */
#include "misuse.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "needs.h"
#include "places.h"

enum { PAGES = 12 };

static const char *directory;
static unsigned refused, commits, brought;

/* ---- another userfaultfd ---- */

static int new_userfault(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = {.api = UFFD_API};
    if (fd >= 0 && ioctl(fd, UFFDIO_API, &api)) {
        close(fd);
        return -1;
    }
    return fd;
}

static int try_register(int fd, void *memory, size_t pages)
{
    struct uffdio_register r = {.range = {(uintptr_t)memory, pages * page_size()},
                                .mode = UFFDIO_REGISTER_MODE_MISSING};
    return ioctl(fd, UFFDIO_REGISTER, &r) ? errno : 0;
}

static void unregister(int fd, void *memory, size_t pages)
{
    struct uffdio_range r = {(uintptr_t)memory, pages * page_size()};
    CHECK(ioctl(fd, UFFDIO_UNREGISTER, &r) == 0);
}

/* Whether any userfaultfd has registered the page. */
static int is_registered(unsigned char *page)
{
    int fd = new_userfault(), error = try_register(fd, page, 1);
    if (error == 0) unregister(fd, page, 1);
    close(fd);
    CHECK(error == 0 || error == EBUSY);
    return error == EBUSY;
}

static vmstore_module *adopt(vmstore *store, unsigned char *memory, uint32_t tracker)
{
    vmstore_map_options options = {.struct_size = sizeof options,
                                   .flags = VMSTORE_MAP_ADOPT,
                                   .tracker = tracker,
                                   .address = memory};
    vmstore_module *module;
    OK(store_map_module(store, "ram", PAGES * page_size(), &options, &module));
    return module;
}

static void reader_has(const char *path, const unsigned char *bytes)
{
    vmstore_open_options options = {.struct_size = sizeof options, .flags = VMSTORE_OPEN_READ_ONLY};
    vmstore_map_options eager = {.struct_size = sizeof eager, .flags = VMSTORE_MAP_EAGER};
    vmstore *reader;
    vmstore_module *module;
    OK(store_open(path, &options, &reader));
    OK(store_map_module(reader, "ram", 0, &eager, &module));
    CHECK(memcmp(store_module_address(module), bytes, PAGES * page_size()) == 0);
    OK(store_close(reader));
    commits++;
}

static int trackers_are(const vmstore_module_info *info, void *user_data)
{
    CHECK(info->tracker == *(uint32_t *)user_data && !info->fell_back && info->mode == VMSTORE_MAP_ADOPT);
    CHECK(info->compared == (info->tracker == VMSTORE_TRACKER_COMPARE) && info->mapped_size == info->size);
    return 0;
}

/* The other userfaultfd has `count` pages from page `from` on. */
static void another_has_a_part(size_t from, size_t count)
{
    static unsigned char before[PAGES * 65536];
    const size_t page = page_size();
    const char *path = path_in(directory, repeated('s', 1 + refused));
    unsigned char *memory = place(PAGES, PROT_READ | PROT_WRITE), *its = memory + from * page;
    for (size_t i = 0; i < PAGES; i++) memset(memory + i * page, (int)i + 1, page);
    int other = new_userfault();
    CHECK(other >= 0 && try_register(other, its, count) == 0);
    memcpy(before, memory, PAGES * page);

    vmstore *store;
    OK(store_open(path, NULL, &store));
    const uint32_t no[] = {VMSTORE_TRACKER_AUTO, VMSTORE_TRACKER_KERNEL};
    for (int i = 0; i < 2; i++) {
        vmstore_module *module = SENTINEL_POINTER(vmstore_module);
        vmstore_map_options options = {
            .struct_size = sizeof options, .flags = VMSTORE_MAP_ADOPT, .tracker = no[i], .address = memory};
        trying("tracker %u where another userfaultfd has %zu pages from page %zu", no[i], count, from);
        FAILS_WITH(store_map_module(store, "ram", PAGES * page, &options, &module), VMSTORE_E_UNSUPPORTED,
                   "VMSTORE_TRACKER_CALLER", "VMSTORE_TRACKER_COMPARE");
        CHECK(strstr(last_error(), "userfaultfd") && module == SENTINEL_POINTER(vmstore_module));
        CHECK(memcmp(memory, before, PAGES * page) == 0);
        for (size_t p = 0; p < PAGES; p++) CHECK(is_registered(memory + p * page) == (p >= from && p < from + count));
        refused++;
    }
    const uint32_t yes[] = {VMSTORE_TRACKER_CALLER, VMSTORE_TRACKER_COMPARE};
    for (int i = 0; i < 2; i++) {
        uint64_t first, second;
        uint32_t tracker = yes[i];
        trying("tracker %u where another userfaultfd has %zu pages", tracker, count);
        vmstore_module *module = adopt(store, memory, tracker);
        OK(store_list_modules(store, 0, trackers_are, &tracker));
        OK(store_commit(store, NULL, &first));
        memcpy(before, memory, PAGES * page);
        its[1] = 77, memory[0] ^= 1;
        if (i == 0) {
            OK(store_mark_dirty(module, 0, 1));
            OK(store_mark_dirty(module, from * page, 2));
        }
        OK(store_commit(store, NULL, &second));
        CHECK(second == first + 1);
        reader_has(path, memory);
        OK(store_restore(store, first, NULL));
        CHECK(memcmp(memory, before, PAGES * page) == 0);
        OK(store_unmap_module(module));
        CHECK(memcmp(memory, before, PAGES * page) == 0 && is_registered(its));
        OK(store_restore(store, second, NULL));
    }

    for (int i = 0; i < 2; i++) {
        vmstore_module *module = SENTINEL_POINTER(vmstore_module);
        vmstore_map_options options = {
            .struct_size = sizeof options, .flags = VMSTORE_MAP_ADOPT, .tracker = no[i], .address = memory};
        trying("tracker %u for a module that the head has, where another userfaultfd has %zu pages", no[i], count);
        memset(memory, GUARD, PAGES * page);
        FAILS_WITH(store_map_module(store, "ram", PAGES * page, &options, &module), VMSTORE_E_UNSUPPORTED,
                   "VMSTORE_TRACKER_CALLER", "VMSTORE_TRACKER_COMPARE");
        CHECK(all_bytes_are(memory, PAGES * page, GUARD));
        refused++;
    }

    trying("the kernel tracker after the other userfaultfd is gone");
    unregister(other, its, count);
    vmstore_module *module = adopt(store, memory, VMSTORE_TRACKER_KERNEL);
    CHECK(is_registered(memory));
    memory[3] = 99;
    uint64_t commit;
    OK(store_commit(store, NULL, &commit));
    reader_has(path, memory);
    OK(store_unmap_module(module));
    CHECK(!is_registered(memory)); /* no registration of the library is left */
    OK(store_close(store));
    close(other);
    unplace(memory, PAGES);
}

/* ---- a damaged head ---- */

static void flip(const char *path, off_t at)
{
    unsigned char byte;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0 && pread(fd, &byte, 1, at) == 1);
    byte ^= 0x10;
    CHECK(pwrite(fd, &byte, 1, at) == 1 && close(fd) == 0);
}

/* A store with an image and a delta. One page of either is damaged. The caller's memory must not change, not even
 * where the pages are good. */
static void a_damaged_head(void)
{
    const size_t page = page_size(), size = PAGES * page;
    const char *path = path_in(directory, "damaged");
    unsigned char *head = malloc(size);
    uint64_t commit;
    vmstore *store;
    vmstore_module *module;
    CHECK(head);
    OK(store_open(path, NULL, &store));
    OK(store_map_module(store, "ram", size, NULL, &module));
    unsigned char *memory = store_module_address(module);
    for (size_t i = 0; i < PAGES; i++) memset(memory + i * page, (int)i + 1, page);
    OK(store_commit(store, NULL, &commit));
    memset(memory + 5 * page, 200, 3 * page);
    OK(store_commit(store, NULL, &commit));
    memcpy(head, memory, size);
    OK(store_close(store));
    const char *const files[] = {"ram_Commit1", "ram_Commit2"};
    const off_t spots[2][3] = {{0, 4 * (off_t)page + 7, 11 * (off_t)page}, {0, 2 * (off_t)page + 9, 3 * (off_t)page - 1}};
    const uint32_t modes[] = {VMSTORE_MAP_ADOPT, VMSTORE_MAP_MEMFD | VMSTORE_MAP_FD,
                              VMSTORE_MAP_PRIVATE | VMSTORE_MAP_EAGER | VMSTORE_MAP_RESERVED,
                              VMSTORE_MAP_MEMFD | VMSTORE_MAP_RESERVED};
    for (int file = 0; file < 2; file++)
        for (int spot = 0; spot < 3; spot++)
            for (int which = 0; which < 4; which++) {
                char damaged[4200];
                CHECK(snprintf(damaged, sizeof damaged, "%s/%s", path, files[file]) < (int)sizeof damaged);
                int fd = memfd_of(PAGES + 1), access = which >= 2 ? PROT_NONE : PROT_READ | PROT_WRITE;
                unsigned char *ground = place(PAGES, access), *shared;
                shared = mmap(NULL, (PAGES + 1) * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
                CHECK(shared != MAP_FAILED);
                memset(shared, GUARD, (PAGES + 1) * page);
                if (access) memset(ground, GUARD, size);
                vmstore_map_options options = {.struct_size = sizeof options,
                                               .flags = modes[which],
                                               .address = which == 1 ? NULL : ground,
                                               .fd = fd,
                                               .fd_offset = page};
                trying("%s damaged at %ld, mode %d", files[file], (long)spots[file][spot], which);
                flip(damaged, spots[file][spot]);
                OK(store_open(path, NULL, &store));
                module = SENTINEL_POINTER(vmstore_module);
                /* Pages 5 to 7 of the image are not needed: the head has newer bytes for them. */
                FAILS_WITH(store_map_module(store, "ram", 0, &options, &module), VMSTORE_E_CORRUPT, files[file], "ram");
                CHECK(module == SENTINEL_POINTER(vmstore_module));
                CHECK(all_bytes_are(shared, (PAGES + 1) * page, GUARD));
                if (access) CHECK(all_bytes_are(ground, size, GUARD));
                char *mappings = range_text(ground, PAGES);
                CHECK((strstr(mappings, "rw") == NULL) == !access);
                free(mappings);
                flip(damaged, spots[file][spot]);
                refused++;

                trying("%s repaired, mode %d", files[file], which);
                OK(store_map_module(store, "ram", 0, &options, &module));
                CHECK(memcmp(store_module_address(module), head, size) == 0);
                if (which == 1) CHECK(all_bytes_are(shared, page, GUARD) && memcmp(shared + page, head, size) == 0);
                OK(store_close(store));
                if (access && which == 0) CHECK(memcmp(ground, head, size) == 0);
                CHECK(munmap(shared, (PAGES + 1) * page) == 0 && close(fd) == 0);
                unplace(ground, PAGES);
                brought++;
            }
    free(head);
}

/* A directory stands at the path of the backing file: the map fails after all pages were read, and the caller's
 * memory keeps its bytes. */
static void no_place_for_the_backing_file(void)
{
    const size_t page = page_size(), size = PAGES * page;
    char path[4096], file[4200];
    uint64_t commit;
    vmstore *store;
    vmstore_module *module;
    CHECK(snprintf(path, sizeof path, "%s/placeless", directory) < (int)sizeof path);
    CHECK(snprintf(file, sizeof file, "%s/ram", path) < (int)sizeof file);
    OK(store_open(path, NULL, &store));
    OK(store_map_module(store, "ram", size, NULL, &module));
    memset(store_module_address(module), 7, size);
    OK(store_commit(store, NULL, &commit));
    OK(store_unmap_module(module));
    CHECK(unlink(file) == 0 && mkdir(file, 0700) == 0);
    unsigned char *ground = place(PAGES, PROT_READ | PROT_WRITE);
    int fd = memfd_of(PAGES);
    unsigned char *shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(shared != MAP_FAILED);
    memset(ground, GUARD, size);
    memset(shared, GUARD, size);
    vmstore_map_options adopt = {
        .struct_size = sizeof adopt, .flags = VMSTORE_MAP_ADOPT, .address = ground};
    vmstore_map_options borrow = {
        .struct_size = sizeof borrow, .flags = VMSTORE_MAP_MEMFD | VMSTORE_MAP_FD, .fd = fd};
    trying("a directory at the path of the backing file");
    FAILS(store_map_module(store, "ram", 0, &adopt, &module), VMSTORE_E_IO, "ram");
    FAILS(store_map_module(store, "ram", 0, &borrow, &module), VMSTORE_E_IO, "ram");
    CHECK(all_bytes_are(ground, size, GUARD) && all_bytes_are(shared, size, GUARD));
    refused += 2;
    CHECK(rmdir(file) == 0);
    OK(store_map_module(store, "ram", 0, &adopt, &module));
    CHECK(all_bytes_are(ground, size, 7));
    brought++;
    OK(store_close(store));
    CHECK(munmap(shared, size) == 0 && close(fd) == 0);
    unplace(ground, PAGES);
}

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    directory = argv[1];
    vmstore_capabilities c = {.struct_size = sizeof c};
    OK(store_probe(NULL, &c));
    int found = have("userfaultfd", c.kernel_tracker ? NULL : c.tracker_reason);
    if (found) {
        another_has_a_part(0, PAGES);
        another_has_a_part(0, 2);
        another_has_a_part(5, 3);
        another_has_a_part(PAGES - 2, 2);
    }
    a_damaged_head();
    no_place_for_the_backing_file();
    return finished("%u maps were refused and did not change the caller's memory%s, %u commits with the trackers that were "
                    "offered instead, %u heads loaded into the caller's memory",
                    refused, found ? "" : " (without userfaultfd)", commits, brought);
}
