/* Places for modules that the caller provides: ranges, reservations, memfds. Also what the kernel says is mapped
 * where. Comes after misuse.h. */
#ifndef PLACES_H
#define PLACES_H

#include <fcntl.h>

/* A private anonymous range of its own pages. */
static inline unsigned char *place(size_t pages, int access)
{
    void *range = mmap(NULL, pages * page_size(), access, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(range != MAP_FAILED);
    return range;
}

static inline void unplace(void *range, size_t pages)
{
    CHECK(munmap(range, pages * page_size()) == 0);
}

static inline int memfd_of(size_t pages)
{
    int fd = memfd_create("the caller's", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)(pages * page_size())) == 0);
    return fd;
}

static inline size_t memfd_pages(int fd)
{
    struct stat status;
    CHECK(fstat(fd, &status) == 0);
    return (size_t)status.st_size / page_size();
}

/* What is mapped in a range, a line for each page: access, offset, device and inode. The caller frees the text.
 * Mappings that are split or merged make no difference. */
static inline char *range_text(const void *address, size_t pages)
{
    const size_t line_length = 80, page = page_size();
    uintptr_t first = (uintptr_t)address & ~(page - 1), from, to, offset;
    char line[4096], access[8], device[16];
    unsigned long inode;
    char *text = calloc(pages + 1, line_length);
    FILE *maps = fopen("/proc/self/maps", "re");
    CHECK(text && maps);
    while (address && fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s %" SCNxPTR " %15s %lu", &from, &to, access, &offset, device,
                   &inode) != 6)
            FAIL("a line of /proc/self/maps cannot be read: %s", line);
        for (size_t i = 0; i < pages; i++) {
            uintptr_t at = first + i * page;
            if (at < from || at >= to) continue;
            snprintf(text + strlen(text), line_length, "page %zu: %s %" PRIxPTR " %s %lu\n", i, access,
                     inode ? offset + (at - from) : 0, device, inode);
        }
    }
    fclose(maps);
    return text;
}

#endif
