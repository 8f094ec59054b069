/* Promise 5: dirty tracking is complete. Random writers of every kind that the header lists as seen write into
 * module memory and into a shadow copy: stores, read(2) from a pipe and from a file, readv, process_vm_writev,
 * MADV_DONTNEED. After each commit a second, read-only opener must read the shadow's bytes. Writers that the kernel
 * tracker cannot see are exact once marked, and exact under the comparing tracker without marks. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/uio.h>

#include "model.h"

#define RAM_PAGES 96
#define DEV_PAGES 24
enum { KEPT = 40 };

typedef struct {
    const char *id;
    size_t pages;
    mapped m;
    unsigned char *shadow;
    int fd;                /* of a shared module */
    unsigned char *second; /* a second mapping of the same file */
} bank;

enum {
    STORE_BYTE,
    STORE_PAGES,
    ZERO_PAGES,
    READ_PIPE,
    READ_FILE,
    READV_ACROSS,
    VM_WRITEV,
    DONTNEED,
    PWRITE_FD, /* from here on: the kernel tracker does not see them */
    OTHER_MAPPING,
    PUNCH_HOLE,
    KINDS
};
static const char *const kind_names[KINDS] = {
    "byte stores", "page stores", "zeroed",    "pipe reads",     "file reads",   "readv",
    "vm_writev",   "dontneed",    "fd pwrites", "other mapping", "punched holes"};

static char directory[4096], data_file[4096];
static unsigned long writes[KINDS], commits, compared;
static int pipe_ends[2], source_fd;

/* One random write, into the bank and its shadow. Returns whether the kernel tracker may miss it. */
static int write_one(rng *r, bank *b, int hidden, size_t *offset, size_t *length)
{
    static unsigned char bytes[4 * PAGE];
    size_t size = b->pages * PAGE, first = below(r, b->pages);
    size_t count = 1 + below(r, b->pages - first < 4 ? b->pages - first : 4);
    unsigned char *memory = b->m.memory;
    int kind = (int)below(r, b->fd >= 0 && hidden ? KINDS : PWRITE_FD);

    /* Most writes begin and end at any byte, and cross page borders. */
    *offset = first * PAGE + below(r, PAGE);
    *length = 1 + below(r, sizeof bytes - 1);
    if (*offset + *length > size) *length = size - *offset;
    fill(bytes, sizeof bytes, next(r));
    switch (kind) {
    case STORE_BYTE:
        *length = 1;
        memory[*offset] = bytes[0];
        break;
    case ZERO_PAGES:
        *offset = first * PAGE, *length = count * PAGE;
        memset(bytes, 0, *length);
        memset(memory + *offset, 0, *length);
        break;
    case READ_PIPE:
        CHECK(write(pipe_ends[1], bytes, *length) == (ssize_t)*length);
        CHECK(read(pipe_ends[0], memory + *offset, *length) == (ssize_t)*length);
        break;
    case READ_FILE: {
        off_t from = (off_t)below(r, 1 << 16);
        CHECK(pread(source_fd, bytes, *length, from) == (ssize_t)*length);
        CHECK(pread(source_fd, memory + *offset, *length, from) == (ssize_t)*length);
        break;
    }
    case READV_ACROSS: {
        size_t half = *length / 2;
        struct iovec parts[2] = {{memory + *offset, half}, {memory + *offset + half, *length - half}};
        CHECK(write(pipe_ends[1], bytes, *length) == (ssize_t)*length);
        CHECK(readv(pipe_ends[0], parts, 2) == (ssize_t)*length);
        break;
    }
    case VM_WRITEV: {
        struct iovec from = {bytes, *length}, to = {memory + *offset, *length};
        if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) == (ssize_t)*length) break;
        kind = STORE_PAGES; /* a wrapper or a policy forbids process_vm_writev */
        memcpy(memory + *offset, bytes, *length);
        break;
    }
    case DONTNEED:
        *offset = first * PAGE, *length = count * PAGE;
        CHECK(madvise(memory + *offset, *length, MADV_DONTNEED) == 0);
        if (b->fd < 0) memset(bytes, 0, *length); /* private memory without an image: zeros now */
        else memcpy(bytes, b->shadow + *offset, *length); /* a file keeps its bytes */
        break;
    case PWRITE_FD:
        CHECK(pwrite(b->fd, bytes, *length, (off_t)*offset) == (ssize_t)*length);
        break;
    case OTHER_MAPPING:
        memcpy(b->second + *offset, bytes, *length);
        break;
    case PUNCH_HOLE:
        *offset = first * PAGE, *length = count * PAGE;
        memset(bytes, 0, *length);
        if (fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)*offset,
                      (off_t)*length)) {
            CHECK(errno == EOPNOTSUPP);
            kind = ZERO_PAGES;
            memset(memory + *offset, 0, *length);
        }
        break;
    default:
        memcpy(memory + *offset, bytes, *length);
    }
    memcpy(b->shadow + *offset, bytes, *length);
    writes[kind]++;
    return kind >= PWRITE_FD;
}

/* What another process sees that opens the store now. */
static void second_reader(bank banks[2], uint64_t number, const char *what)
{
    vmstore *reader = open_store(directory, VMSTORE_OPEN_READ_ONLY);
    CHECK(head(reader) == number);
    for (int i = 0; i < 2; i++) {
        char text[128];
        mapped m = map(reader, banks[i].id, 0, VMSTORE_MAP_EAGER, VMSTORE_TRACKER_COMPARE);
        snprintf(text, sizeof text, "%s, %s at commit %" PRIu64, what, banks[i].id, number);
        same(m.memory, banks[i].shadow, banks[i].pages * PAGE, text);
        compared++;
    }
    OK(store_close(reader));
}

static void shared_ways_in(bank *b, uint32_t mode)
{
    uint64_t offset;
    b->fd = -1, b->second = NULL;
    if (mode != VMSTORE_MAP_SHARED) return;
    OK(store_module_fd(b->m.handle, &b->fd, &offset));
    CHECK(offset == 0);
    b->second = mmap(NULL, b->pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, b->fd, 0);
    CHECK(b->second != MAP_FAILED);
}

/* `hidden`: uses the writers that the kernel tracker misses. They are marked if `mark` says so. */
static void run(const char *stores, uint32_t mode, uint32_t tracker, int hidden, int mark,
                unsigned rounds)
{
    static unsigned char *kept[KEPT][2];
    uint64_t kept_number[KEPT];
    unsigned kept_count = 0;
    char name[64];
    snprintf(name, sizeof name, "mode%u-tracker%u-hidden%d", mode, tracker, hidden);
    name_directory(directory, stores, name);
    rng r = {seed() + mode * 7 + tracker * 31 + (uint64_t)hidden};
    vmstore *store = open_store(directory, 0);
    bank banks[2] = {{.id = "ram", .pages = RAM_PAGES}, {.id = "dev", .pages = DEV_PAGES}};
    for (int i = 0; i < 2; i++) {
        banks[i].m = map(store, banks[i].id, banks[i].pages * PAGE, mode, tracker);
        CHECK((banks[i].shadow = calloc(banks[i].pages, PAGE)));
        shared_ways_in(&banks[i], mode);
    }
    for (unsigned round = 0; round < rounds; round++) {
        /* Few writes or none, and sometimes very many. */
        uint64_t count = below(&r, 10) == 0 ? 60 : below(&r, 8);
        while (count--) {
            bank *b = &banks[below(&r, 4) == 0];
            size_t offset, length;
            int unseen = write_one(&r, b, hidden, &offset, &length);
            if ((unseen && mark) || tracker == VMSTORE_TRACKER_CALLER)
                OK(store_mark_dirty(b->m.handle, offset, length));
        }
        uint64_t number = commit(store);
        commits++;
        same(banks[0].m.memory, banks[0].shadow, RAM_PAGES * PAGE, "the memory itself");
        second_reader(banks, number, name);
        if (below(&r, 16) == 0) OK(store_persist(store, NULL));

        if (kept_count < KEPT && below(&r, 3) == 0) {
            for (int i = 0; i < 2; i++) {
                CHECK((kept[kept_count][i] = malloc(banks[i].pages * PAGE)));
                memcpy(kept[kept_count][i], banks[i].shadow, banks[i].pages * PAGE);
            }
            kept_number[kept_count++] = number;
        }
        /* A restore writes memory too. Its writes are not the guest's, and writes after it must not be missed. */
        if (kept_count && below(&r, 5) == 0) {
            unsigned k = (unsigned)below(&r, kept_count);
            OK(store_restore(store, kept_number[k], NULL));
            for (int i = 0; i < 2; i++) {
                memcpy(banks[i].shadow, kept[k][i], banks[i].pages * PAGE);
                same(banks[i].m.memory, banks[i].shadow, banks[i].pages * PAGE, "restored in between");
            }
        }
    }
    for (unsigned k = 0; k < kept_count; k++) {
        OK(store_restore(store, kept_number[k], NULL));
        for (int i = 0; i < 2; i++) {
            same(banks[i].m.memory, kept[k][i], banks[i].pages * PAGE, "restored at the end");
            free(kept[k][i]);
        }
    }
    OK(store_close(store));
    for (int i = 0; i < 2; i++) {
        free(banks[i].shadow);
        if (banks[i].second) CHECK(munmap(banks[i].second, banks[i].pages * PAGE) == 0);
    }
}

int main(int count, char **arguments)
{
    static unsigned char noise[(1 << 16) + 4 * PAGE];
    CHECK(count == 2);
    require_small_pages("promise5_tracking");
    CHECK(pipe2(pipe_ends, O_CLOEXEC) == 0);
    name_directory(data_file, arguments[1], "noise");
    source_fd = open(data_file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    fill(noise, sizeof noise, seed());
    CHECK(source_fd >= 0 && write(source_fd, noise, sizeof noise) == sizeof noise);

    unsigned rounds = brief() ? 15 : 100;
    int kernel = kernel_tracker();
    uint32_t seeing = kernel ? VMSTORE_TRACKER_KERNEL : VMSTORE_TRACKER_COMPARE;
    run(arguments[1], VMSTORE_MAP_PRIVATE, seeing, 0, 0, rounds);
    run(arguments[1], VMSTORE_MAP_SHARED, seeing, 0, 0, rounds);
    run(arguments[1], VMSTORE_MAP_SHARED, seeing, 1, 1, rounds); /* marked: exact */
    run(arguments[1], VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_CALLER, 0, 1, rounds / 2);
    if (kernel) run(arguments[1], VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_COMPARE, 0, 0, rounds / 2);
    run(arguments[1], VMSTORE_MAP_SHARED, VMSTORE_TRACKER_COMPARE, 1 + 1, 0, rounds); /* unmarked: exact */

    printf("promise 5: seed %" PRIu64 ": kernel tracker %s, %lu commits, %lu comparisons with a second "
           "reader, 0 missed pages;",
           seed(), kernel ? "yes" : "no", commits, compared);
    for (int k = 0; k < KINDS; k++) printf(" %lu %s%s", writes[k], kind_names[k], k + 1 < KINDS ? "," : "\n");
    return 0;
}
