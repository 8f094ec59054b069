/* Every way in which bytes get into a module's memory. Each is a function that writes the pages that it is given,
 * and the shadow. Comes after grounds.h. */
#ifndef WRITERS_H
#define WRITERS_H

#include <sys/uio.h>

#include "grounds.h"
#include "needs.h"
#include "uring.h"
#include "vcpu.h"

enum writer {
    CPU_STORE,
    READ,
    READ_DIRECT,
    PROCESS_VM_WRITEV,
    KVM_VCPU,
    SECOND_PROCESS,
    PWRITE,
    IO_URING,
    DONTNEED,
    PUNCH_HOLE,
    MAPPED_OVER,
    WRITERS
};
/* The names that docs/tracking.md uses. */
static const char *const writer_names[WRITERS] = {
    "store by this process",
    "read(2)",
    "O_DIRECT read",
    "process_vm_writev",
    "vCPU under KVM_RUN",
    "store by another process",
    "pwrite on the descriptor",
    "DMA into pages pinned before",
    "MADV_DONTNEED",
    "fallocate(PUNCH_HOLE)",
    "mmap(MAP_FIXED) over it"};

/* Two neighbouring pages and one further away. */
enum { TOUCHED = 3 };
static const size_t touched[TOUCHED] = {3, 4, 9};

/* What the writers need for one module. */
typedef struct {
    bank *b;
    const unsigned char *image; /* the bytes of the image under the module, or NULL */
    const char *scratch;        /* a file that may be written */
    int source, direct;         /* this file, opened as usual and with O_DIRECT */
    uring ring;
    vcpu guest;
} ways;

/* Returns NULL when the writer can be tried on this host. */
static inline const char *writer_missing(enum writer w, const char *scratch)
{
    uring ring;
    vcpu guest;
    const char *why = NULL;
    if (w == IO_URING && !(why = uring_open(&ring))) uring_close(&ring);
    if (w == KVM_VCPU && !(why = vcpu_open(&guest))) vcpu_close(&guest);
    if (w == READ_DIRECT) {
        int fd = open(scratch, O_RDONLY | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
        if (fd < 0) why = "the file system has no O_DIRECT";
        else close(fd);
    }
    return why;
}

/* Whether this writer can reach a module of this mode. */
static inline int writer_applies(enum writer w, const bank *b)
{
    return (w != SECOND_PROCESS && w != PWRITE && w != PUNCH_HOLE) || b->fd >= 0;
}

/* What must happen before the last commit: opens, pins, registers. Returns NULL, or why this memory cannot have
 * this writer. */
static inline const char *writer_begin(ways *way, enum writer w)
{
    const char *why = NULL;
    way->source = open(way->scratch, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(way->source >= 0);
    if (w == READ_DIRECT) CHECK((way->direct = open(way->scratch, O_RDONLY | O_DIRECT | O_CLOEXEC)) >= 0);
    if (w == IO_URING) {
        CHECK(uring_open(&way->ring) == NULL);
        why = uring_pin(&way->ring, way->b->memory, way->b->pages * PAGE);
        if (why) uring_close(&way->ring), close(way->source);
    }
    if (w == KVM_VCPU) {
        CHECK(vcpu_open(&way->guest) == NULL);
        vcpu_slot(&way->guest, 0, 0, way->b->memory, way->b->pages * PAGE, KVM_MEM_LOG_DIRTY_PAGES);
    }
    return why;
}

static inline void writer_end(ways *way, enum writer w)
{
    close(way->source);
    if (w == READ_DIRECT) close(way->direct);
    if (w == IO_URING) uring_close(&way->ring);
    if (w == KVM_VCPU) vcpu_close(&way->guest);
}

/* Another process maps the same file and writes into it. */
static inline void store_elsewhere(const bank *b, size_t page, const unsigned char *bytes)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        unsigned char *other = mmap(NULL, b->pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, b->fd,
                                    (off_t)b->fd_offset);
        if (other == MAP_FAILED) _exit(1);
        memcpy(other + page * PAGE, bytes, PAGE);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* Another process copies into this one. Where this is forbidden, this process copies into itself. */
static inline void copied_from_elsewhere(unsigned char *to, const unsigned char *bytes)
{
    struct iovec from = {(void *)(uintptr_t)bytes, PAGE}, into = {to, PAGE};
    int status;
    pid_t child = fork(), parent = getppid();
    CHECK(child >= 0);
    if (child == 0) {
        parent = getppid();
        _exit(process_vm_writev(parent, &from, 1, &into, 1, 0) == (ssize_t)PAGE ? 0 : 1);
    }
    CHECK(waitpid(child, &status, 0) == child);
    if (status != 0) CHECK(process_vm_writev(getpid(), &from, 1, &into, 1, 0) == (ssize_t)PAGE);
}

/* Writes one page of the memory and of the shadow. */
static inline void write_page(ways *way, enum writer w, size_t page, uint64_t content)
{
    static unsigned char bytes[PAGE] __attribute__((aligned(4096)));
    bank *b = way->b;
    unsigned char *memory = b->memory + page * PAGE, *shadow = b->shadow + page * PAGE;
    off_t at = (off_t)(page * PAGE);
    fill(bytes, PAGE, content);
    if (w == READ || w == READ_DIRECT || w == IO_URING) {
        CHECK(pwrite(way->source, bytes, PAGE, at) == (ssize_t)PAGE);
        if (w == READ_DIRECT) CHECK(fsync(way->source) == 0);
    }
    switch (w) {
    case CPU_STORE:
        memcpy(memory, bytes, PAGE);
        break;
    case READ:
        CHECK(pread(way->source, memory, PAGE, at) == (ssize_t)PAGE);
        break;
    case READ_DIRECT:
        CHECK(pread(way->direct, memory, PAGE, at) == (ssize_t)PAGE);
        break;
    case PROCESS_VM_WRITEV:
        copied_from_elsewhere(memory, bytes);
        break;
    case KVM_VCPU: /* one byte, which is enough to change the page */
        memcpy(bytes, shadow, PAGE);
        bytes[77] ^= (unsigned char)(content | 1);
        vcpu_store(&way->guest, (uint32_t)(page * PAGE + 77), bytes[77]);
        break;
    case SECOND_PROCESS:
        store_elsewhere(b, page, bytes);
        break;
    case PWRITE:
        CHECK(pwrite(b->fd, bytes, PAGE, (off_t)b->fd_offset + at) == (ssize_t)PAGE);
        break;
    case IO_URING:
        uring_read_fixed(&way->ring, way->source, (uint64_t)at, memory, PAGE);
        break;
    case DONTNEED:
        CHECK(madvise(memory, PAGE, MADV_DONTNEED) == 0);
        memset(bytes, 0, PAGE);
        if (b->fd >= 0) memcpy(bytes, shadow, PAGE);
        else if (way->image) memcpy(bytes, way->image + page * PAGE, PAGE);
        else if (b->under >= 0) CHECK(pread(b->under, bytes, PAGE, at) == (ssize_t)PAGE);
        break;
    case PUNCH_HOLE:
        CHECK(fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)b->fd_offset + at, PAGE) == 0);
        memset(bytes, 0, PAGE);
        break;
    default:
        map_fixed(memory, 1, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memcpy(memory, bytes, PAGE);
    }
    memcpy(shadow, bytes, PAGE);
}

#endif
