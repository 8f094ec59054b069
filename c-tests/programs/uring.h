/* io_uring with one pinned range, by system calls alone. It is a writer that reaches the pages of memory directly
 * and not through this process's page tables, as a device's DMA does. Needs _GNU_SOURCE.
 *
 *     uring u;
 *     if (have("io_uring", uring_open(&u))) {
 *         why = uring_pin(&u, memory, length);              pinned from here to uring_unpin or uring_close
 *         uring_read_fixed(&u, fd, at, memory + 4096, 512); file bytes go into the pinned pages
 *         uring_write_fixed(&u, fd, at, memory, 512);       pinned pages go into the file
 *         uring_close(&u);
 *     }
 */
#ifndef URING_H
#define URING_H

#include <linux/io_uring.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "check.h"

typedef struct {
    int fd;
    unsigned char *ring; /* both rings: IORING_FEAT_SINGLE_MMAP */
    size_t ring_size, entries_size;
    struct io_uring_sqe *entries;
    struct io_uring_params params;
    unsigned long done;  /* operations completed */
} uring;

/* Returns NULL, or why there is no io_uring on this host. */
static inline const char *uring_open(uring *u)
{
    memset(u, 0, sizeof *u);
    u->fd = (int)syscall(__NR_io_uring_setup, 4, &u->params);
    if (u->fd < 0)
        return errno == ENOSYS ? "this kernel has no io_uring"
               : errno == EPERM ? "io_uring is forbidden here"
                                : "io_uring_setup fails";
    if (!(u->params.features & IORING_FEAT_SINGLE_MMAP)) {
        close(u->fd);
        return "io_uring of before Linux 5.4";
    }
    size_t submissions = u->params.sq_off.array + u->params.sq_entries * sizeof(unsigned);
    size_t completions =
        u->params.cq_off.cqes + u->params.cq_entries * sizeof(struct io_uring_cqe);
    u->ring_size = submissions > completions ? submissions : completions;
    u->entries_size = u->params.sq_entries * sizeof(struct io_uring_sqe);
    void *ring = mmap(NULL, u->ring_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd,
                      (off_t)IORING_OFF_SQ_RING);
    void *entries = mmap(NULL, u->entries_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                         u->fd, (off_t)IORING_OFF_SQES);
    CHECK(ring != MAP_FAILED && entries != MAP_FAILED);
    u->ring = ring, u->entries = entries;
    return NULL;
}

/* Pins a range as fixed buffer 0. Returns NULL, or why the kernel refuses (a shared mapping of a file on
 * a disk cannot be pinned for long). */
static inline const char *uring_pin(uring *u, void *address, size_t length)
{
    struct iovec range = {.iov_base = address, .iov_len = length};
    if (syscall(__NR_io_uring_register, u->fd, IORING_REGISTER_BUFFERS, &range, 1) == 0) return NULL;
    return strerror(errno);
}

static inline void uring_unpin(uring *u)
{
    CHECK(syscall(__NR_io_uring_register, u->fd, IORING_UNREGISTER_BUFFERS, NULL, 0) == 0);
}

/* One operation on the pinned range, from submission to completion. */
static inline void uring_transfer(uring *u, int operation, int fd, uint64_t offset, void *memory,
                                  size_t length)
{
    _Atomic unsigned *tail = (_Atomic unsigned *)(void *)(u->ring + u->params.sq_off.tail);
    unsigned *array = (unsigned *)(void *)(u->ring + u->params.sq_off.array);
    unsigned mask = u->params.sq_entries - 1, now = atomic_load(tail), slot = now & mask;
    u->entries[slot] = (struct io_uring_sqe){.opcode = (unsigned char)operation,
                                             .fd = fd,
                                             .off = offset,
                                             .addr = (uintptr_t)memory,
                                             .len = (unsigned)length,
                                             .user_data = u->done};
    array[slot] = slot;
    atomic_store(tail, now + 1);
    long submitted;
    do
        submitted = syscall(__NR_io_uring_enter, u->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0);
    while (submitted < 0 && errno == EINTR);
    if (submitted != 1) FAIL("io_uring_enter returned %ld: %s", submitted, strerror(errno));

    _Atomic unsigned *first = (_Atomic unsigned *)(void *)(u->ring + u->params.cq_off.head);
    _Atomic unsigned *last = (_Atomic unsigned *)(void *)(u->ring + u->params.cq_off.tail);
    unsigned head = atomic_load(first);
    CHECK(atomic_load(last) == head + 1);
    struct io_uring_cqe *cqes = (struct io_uring_cqe *)(void *)(u->ring + u->params.cq_off.cqes);
    struct io_uring_cqe outcome = cqes[head & (u->params.cq_entries - 1)];
    atomic_store(first, head + 1);
    CHECK(outcome.user_data == u->done);
    if (outcome.res != (int)length)
        FAIL("io_uring moved %d of %zu bytes: %s", outcome.res, length,
             outcome.res < 0 ? strerror(-outcome.res) : "too few");
    u->done++;
}

/* `length` bytes of a file go to `memory`, which lies in the pinned range. */
static inline void uring_read_fixed(uring *u, int fd, uint64_t offset, void *memory, size_t length)
{
    uring_transfer(u, IORING_OP_READ_FIXED, fd, offset, memory, length);
}

/* `length` bytes of the pinned range go to a file. */
static inline void uring_write_fixed(uring *u, int fd, uint64_t offset, void *memory, size_t length)
{
    uring_transfer(u, IORING_OP_WRITE_FIXED, fd, offset, memory, length);
}

static inline void uring_close(uring *u)
{
    munmap(u->ring, u->ring_size);
    munmap(u->entries, u->entries_size);
    close(u->fd);
}

#endif
