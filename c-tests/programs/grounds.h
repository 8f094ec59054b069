/* A module in any mapping mode, with what the caller provides for the mode: reservations, descriptors, memory to
 * adopt. Provides this ground, maps the module, checks what the header says about the caller's bytes, and removes
 * the ground again. Needs _GNU_SOURCE. */
#ifndef GROUNDS_H
#define GROUNDS_H

#include <sys/mman.h>

#include "model.h"

/* No module of these programs grows larger. */
#define MOST_PAGES ((size_t)160)

enum ground_mode {
    PRIVATE_LAZY,
    PRIVATE_EAGER,
    SHARED,
    MEMFD_OWN,
    MEMFD_FD,
    ADOPT_ANONYMOUS,
    ADOPT_MEMFD,
    ADOPT_MIXED,
    ADOPT_FILE,
    RESERVED,
    RESERVED_MEMFD,
    MODES
};
static const char *const mode_names[MODES] = {
    "private",     "eager",       "shared",     "memfd",    "fd",            "adopt-anon",
    "adopt-memfd", "adopt-mixed", "adopt-file", "reserved", "reserved-memfd"};

typedef struct {
    const char *id;
    enum ground_mode mode;
    uint32_t tracker, flags; /* `flags`: VMSTORE_MAP_FOREIGN_WRITERS or 0 */
    size_t pages;
    int mapped, max_size;
    vmstore_module *handle;
    unsigned char *memory, *shadow; /* `shadow` has room for MOST_PAGES */
    /* What the caller owns. */
    unsigned char *region;
    size_t region_pages;
    int fd; /* the descriptor of the memory, in the modes that have one for all of it */
    uint64_t fd_offset;
    int own_fd; /* the caller has to close it */
    int under;  /* what an adopted private file mapping shows where it was not written */
} bank;

static inline int is_adopted(const bank *b)
{
    return b->mode >= ADOPT_ANONYMOUS && b->mode <= ADOPT_FILE;
}

/* The caller's bytes are in the memory before the library's. */
static inline int has_own_bytes(const bank *b)
{
    return is_adopted(b) || b->mode == MEMFD_FD;
}

static inline unsigned char *reserve(size_t pages)
{
    void *region = mmap(NULL, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(region != MAP_FAILED);
    return region;
}

static inline int sealed_memfd(uint64_t length)
{
    int fd = memfd_create("the caller's", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)length) == 0);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    return fd;
}

static inline void map_fixed(unsigned char *at, size_t pages, int flags, int fd, uint64_t offset)
{
    CHECK(mmap(at, pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, (off_t)offset) == at);
}

/* Fills some of the pages with the caller's bytes, and leaves holes in the others. */
static inline void own_bytes(rng *r, unsigned char *memory, size_t pages)
{
    for (size_t page = 0; page < pages; page++)
        if (below(r, 3) == 0) fill(memory + page * PAGE, PAGE, next(r));
}

/* A file with bytes in every other page. */
static inline int file_with_bytes(size_t pages)
{
    int fd = sealed_memfd(pages * PAGE);
    for (size_t page = 0; page < pages; page += 2)
        CHECK(pwrite(fd, "the file's", 10, (off_t)(page * PAGE)) == 10);
    return fd;
}

/* Maps a part of an adopted module, of a random kind. The mapping keeps a file alive after its descriptor is
 * closed. */
static inline void map_piece(rng *r, unsigned char *at, size_t pages)
{
    int fd;
    switch (below(r, 4)) {
    case 0:
        fd = sealed_memfd((pages + 2) * PAGE);
        map_fixed(at, pages, MAP_SHARED, fd, below(r, 3) * PAGE);
        close(fd);
        break;
    case 1: /* a private file mapping, with the file's bytes */
        fd = file_with_bytes(pages);
        map_fixed(at, pages, MAP_PRIVATE, fd, 0);
        close(fd);
        break;
    case 2:
        map_fixed(at, pages, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        break;
    default:
        map_fixed(at, pages, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (below(r, 4) == 0) (void)!mlock(at, pages * PAGE); /* such pages cannot be dropped, only zeroed */
    }
}

static inline void ground_before_map(rng *r, bank *b, vmstore_map_options *options)
{
    static const uint32_t flags[MODES] = {
        VMSTORE_MAP_PRIVATE, VMSTORE_MAP_PRIVATE | VMSTORE_MAP_EAGER,
        VMSTORE_MAP_SHARED, VMSTORE_MAP_MEMFD, VMSTORE_MAP_MEMFD | VMSTORE_MAP_FD,
        VMSTORE_MAP_ADOPT, VMSTORE_MAP_ADOPT, VMSTORE_MAP_ADOPT, VMSTORE_MAP_ADOPT,
        VMSTORE_MAP_PRIVATE | VMSTORE_MAP_RESERVED, VMSTORE_MAP_MEMFD | VMSTORE_MAP_RESERVED};
    options->struct_size = sizeof *options;
    options->flags = flags[b->mode] | b->flags;
    options->tracker = b->tracker;
    b->region = NULL, b->fd = b->under = -1, b->own_fd = 0, b->fd_offset = 0;
    if (b->mode == MEMFD_FD) {
        b->fd_offset = below(r, 4) * PAGE;
        b->fd = sealed_memfd(b->fd_offset + (b->pages + below(r, 2) * 5) * PAGE);
        b->own_fd = 1;
        for (size_t page = 0; page < b->pages; page++)
            if (below(r, 3) == 0)
                CHECK(pwrite(b->fd, &b->pages, 5, (off_t)(b->fd_offset + page * PAGE + below(r, PAGE - 8))) == 5);
        for (uint64_t at = 0; at < b->fd_offset; at += PAGE) CHECK(pwrite(b->fd, "before", 6, (off_t)at) == 6);
        options->fd = b->fd, options->fd_offset = b->fd_offset;
    }
    if (is_adopted(b) || b->mode >= RESERVED) {
        b->region_pages = MOST_PAGES + 4;
        b->region = reserve(b->region_pages);
        options->address = b->region + 2 * PAGE;
    }
    unsigned char *at = options->address;
    if (b->mode == ADOPT_ANONYMOUS) map_fixed(at, b->pages, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->mode == ADOPT_MEMFD) {
        b->fd = sealed_memfd(MOST_PAGES * PAGE), b->own_fd = 1;
        map_fixed(at, b->pages, MAP_SHARED, b->fd, 0);
    }
    if (b->mode == ADOPT_FILE) map_fixed(at, b->pages, MAP_PRIVATE, b->under = file_with_bytes(MOST_PAGES), 0);
    if (b->mode == ADOPT_MIXED)
        for (size_t page = 0, count; page < b->pages; page += count) {
            count = 1 + below(r, b->pages - page < 30 ? b->pages - page : 30);
            map_piece(r, at + page * PAGE, count);
        }
    if (is_adopted(b)) own_bytes(r, at, b->pages);
    b->max_size = !is_adopted(b) && b->mode < RESERVED && below(r, 2);
    if (b->max_size) options->max_size = MOST_PAGES * PAGE;
}

/* Maps the bank as its mode says. `recorded`: the bank's bytes at the head, of `pages` pages; NULL: the bank is
 * new. */
static inline void map_bank(rng *r, vmstore *store, bank *b, const unsigned char *recorded)
{
    vmstore_map_options options = {0};
    ground_before_map(r, b, &options);
    memset(b->shadow, 0, MOST_PAGES * PAGE);
    if (recorded) memcpy(b->shadow, recorded, b->pages * PAGE);
    else if (is_adopted(b)) memcpy(b->shadow, options.address, b->pages * PAGE);
    else if (b->mode == MEMFD_FD)
        CHECK(pread(b->fd, b->shadow, b->pages * PAGE, (off_t)b->fd_offset) == (ssize_t)(b->pages * PAGE));
    OK(store_map_module(store, b->id, recorded && below(r, 2) ? 0 : b->pages * PAGE, &options, &b->handle));
    b->memory = store_module_address(b->handle);
    CHECK(b->memory && (!options.address || b->memory == options.address));
    CHECK(store_module_size(b->handle) == b->pages * PAGE);
    int fd;
    uint64_t offset;
    if (b->mode >= SHARED && b->mode <= MEMFD_FD) {
        OK(store_module_fd(b->handle, &fd, &offset));
        CHECK(offset == b->fd_offset);
        if (b->mode == MEMFD_FD) CHECK(fd != b->fd); /* the library's own duplicate of the caller's descriptor */
        else b->fd = fd;
    } else if (b->mode == RESERVED_MEMFD) {
        OK(store_module_fd(b->handle, &b->fd, &offset));
    } else {
        FAILS(store_module_fd(b->handle, &fd, &offset), VMSTORE_E_UNSUPPORTED, b->id);
    }
    b->mapped = 1;
    same(b->memory, b->shadow, b->pages * PAGE, "the memory when mapped");
}

/* After store_unmap_module or store_close: the caller's memory and descriptor have the bytes that the guest left. */
static inline void ground_after_unmap(bank *b)
{
    static unsigned char bytes[MOST_PAGES * PAGE];
    b->mapped = 0;
    if (is_adopted(b)) same(b->memory, b->shadow, b->pages * PAGE, "adopted memory after the unmap");
    if (b->mode == MEMFD_FD) {
        CHECK(pread(b->fd, bytes, b->pages * PAGE, (off_t)b->fd_offset) == (ssize_t)(b->pages * PAGE));
        same(bytes, b->shadow, b->pages * PAGE, "the caller's descriptor after the unmap");
        for (uint64_t at = 0; at < b->fd_offset; at += PAGE) {
            CHECK(pread(b->fd, bytes, 6, (off_t)at) == 6);
            CHECK(memcmp(bytes, "before", 6) == 0);
        }
    }
    if (b->mode >= RESERVED && !slow()) { /* valgrind reports this check as an error */
        /* The range is a reservation again: no access is possible. */
        int ends[2];
        CHECK(pipe2(ends, O_CLOEXEC) == 0);
        for (size_t page = 0; page < b->region_pages; page++)
            CHECK(write(ends[1], b->region + page * PAGE, 1) < 0 && errno == EFAULT);
        close(ends[0]), close(ends[1]);
    }
    if (b->own_fd) CHECK(close(b->fd) == 0); /* the library did not close it */
    if (b->under >= 0) CHECK(close(b->under) == 0);
    if (b->region) CHECK(munmap(b->region, b->region_pages * PAGE) == 0);
}

/* Grows the bank. Where the mode says so, makes room first, as the caller must. Returns 0 if something is in the
 * way. */
static inline int grow_bank(rng *r, bank *b, size_t pages)
{
    size_t added = pages - b->pages;
    unsigned char *behind = b->memory + b->pages * PAGE, *shadow = b->shadow + b->pages * PAGE;
    memset(shadow, 0, added * PAGE);
    if (b->mode == ADOPT_ANONYMOUS) map_fixed(behind, added, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->mode == ADOPT_MEMFD) map_fixed(behind, added, MAP_SHARED, b->fd, b->pages * PAGE);
    if (b->mode == ADOPT_MIXED) map_piece(r, behind, added);
    if (b->mode == ADOPT_FILE) map_fixed(behind, added, MAP_PRIVATE, b->under, b->pages * PAGE);
    if (is_adopted(b)) {
        own_bytes(r, behind, added);
        memcpy(shadow, behind, added * PAGE);
    }
    if (b->mode == MEMFD_FD) {
        CHECK(ftruncate(b->fd, (off_t)(b->fd_offset + MOST_PAGES * PAGE)) == 0);
        fill(shadow + below(r, added) * PAGE, PAGE, next(r));
        CHECK(pwrite(b->fd, shadow, added * PAGE, (off_t)(b->fd_offset + b->pages * PAGE)) ==
              (ssize_t)(added * PAGE));
    }
    int status = store_grow_module(b->handle, pages * PAGE);
    if (status == VMSTORE_E_EXISTS && !b->max_size && !b->region) {
        CHECK(strstr(last_error(), "something is mapped"));
        CHECK(store_module_size(b->handle) == b->pages * PAGE);
        return 0;
    }
    OK(status);
    b->pages = pages;
    CHECK(store_module_size(b->handle) == pages * PAGE && store_module_address(b->handle) == b->memory);
    return 1;
}

#endif
