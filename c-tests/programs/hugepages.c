/* Huge pages: memfds that the library makes and memfds of the caller, a reservation, and adopted memory. If the
 * host has too few huge pages and the program may, it reserves some, and sets the old number again at the end. A
 * write makes a whole huge page dirty, a commit writes only the small pages that changed, and where there are too
 * few huge pages, the refusal says how many there are. */
#define _GNU_SOURCE
#include <sys/file.h>
#include <sys/mman.h>

#include "model.h"
#include "needs.h"

#define HUGE ((size_t)2 << 20)
#define HUGE_2M_BITS (21u << 26) /* MAP_HUGE_2MB of linux/mman.h, and MFD_HUGE_2MB */
enum { WANTED = 24, START = 3, MOST = 6 };

static const char *const count_path = "/proc/sys/vm/nr_hugepages";
static int count_fd = -1;
static unsigned long count_before;
static pid_t owner;
static unsigned store_count, commits, restores, refusals;
static rng random_state;

static void set_count(unsigned long count)
{
    char text[32];
    int length = snprintf(text, sizeof text, "%lu", count);
    (void)!pwrite(count_fd, text, (size_t)length, 0);
}

static unsigned long get_count(void)
{
    char text[32] = {0};
    CHECK(pread(count_fd, text, sizeof text - 1, 0) > 0);
    return strtoul(text, NULL, 10);
}

static void put_back(void)
{
    if (count_fd >= 0 && getpid() == owner) set_count(count_before);
}

static vmstore_capabilities probe(void)
{
    vmstore_capabilities c = {.struct_size = sizeof c};
    OK(store_probe(NULL, &c));
    return c;
}

/* Returns NULL when enough huge pages are free now. The programs of the different linkages take turns. */
static const char *reserve_huge_pages(void)
{
    owner = getpid();
    if (access("/sys/kernel/mm/hugepages/hugepages-2048kB", F_OK)) return "this host has no pages of 2 MiB";
    count_fd = open(count_path, O_RDWR | O_CLOEXEC);
    if (count_fd < 0) return probe().free_huge_2m >= WANTED ? NULL : "their number cannot be set here, and few are free";
    CHECK(flock(count_fd, LOCK_EX) == 0);
    count_before = get_count();
    CHECK(atexit(put_back) == 0);
    if (probe().free_huge_2m < WANTED) set_count(count_before + WANTED);
    return probe().free_huge_2m >= WANTED ? NULL : "the host's memory is too scattered for them";
}

enum { OWN, BORROWED, RESERVATION, ADOPT_SHARED, ADOPT_PRIVATE, KINDS };

typedef struct {
    vmstore_module *handle;
    unsigned char *memory, *shadow, *region;
    size_t size;
    int fd;
} hugemodule;

static unsigned char *aligned_reservation(unsigned char **region)
{
    *region = mmap(NULL, (MOST + 1) * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(*region != MAP_FAILED);
    return (unsigned char *)(((uintptr_t)*region + HUGE - 1) & ~(HUGE - 1));
}

static hugemodule map_huge(vmstore *store, int kind, uint32_t tracker)
{
    hugemodule m = {.size = START * HUGE, .fd = -1};
    vmstore_map_options o = {.struct_size = sizeof o, .tracker = tracker};
    CHECK((m.shadow = calloc(MOST, HUGE)));
    switch (kind) {
    case OWN:
        o.flags = VMSTORE_MAP_MEMFD | VMSTORE_MAP_HUGE_2M, o.max_size = MOST * HUGE;
        break;
    case BORROWED:
        m.fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | HUGE_2M_BITS);
        CHECK(m.fd >= 0 && ftruncate(m.fd, (MOST + 1) * HUGE) == 0);
        o.flags = VMSTORE_MAP_MEMFD | VMSTORE_MAP_FD, o.fd = m.fd, o.fd_offset = HUGE, o.max_size = MOST * HUGE;
        break;
    case RESERVATION:
        o.flags = VMSTORE_MAP_MEMFD | VMSTORE_MAP_HUGE_2M | VMSTORE_MAP_RESERVED;
        o.address = aligned_reservation(&m.region);
        break;
    default:
        o.flags = VMSTORE_MAP_ADOPT;
        o.address = aligned_reservation(&m.region);
        CHECK(mmap(o.address, m.size, PROT_READ | PROT_WRITE,
                   (kind == ADOPT_SHARED ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED |
                       HUGE_2M_BITS,
                   -1, 0) == o.address);
    }
    OK(store_map_module(store, "ram", m.size, &o, &m.handle));
    m.memory = store_module_address(m.handle);
    CHECK((uintptr_t)m.memory % HUGE == 0 && (!o.address || m.memory == o.address));
    return m;
}

static void end_huge(hugemodule *m)
{
    OK(store_unmap_module(m->handle));
    free(m->shadow);
    if (m->region) CHECK(munmap(m->region, (MOST + 1) * HUGE) == 0);
    if (m->fd >= 0) CHECK(close(m->fd) == 0);
}

static void write_page(hugemodule *m, size_t offset)
{
    fill(m->shadow + offset, 300, next(&random_state));
    memcpy(m->memory + offset, m->shadow + offset, 300);
}

static void reader_has(const char *path, const hugemodule *m)
{
    vmstore *reader = open_store(path, VMSTORE_OPEN_READ_ONLY);
    mapped small = map(reader, "ram", m->size, VMSTORE_MAP_EAGER, VMSTORE_TRACKER_CALLER);
    same(small.memory, m->shadow, m->size, "huge pages for a second reader");
    OK(store_close(reader));
    commits++;
}

static void restored(vmstore *store, uint64_t number, hugemodule *m, const unsigned char *bytes, size_t size)
{
    OK(store_restore(store, number, NULL));
    memset(m->shadow, 0, MOST * HUGE);
    memcpy(m->shadow, bytes, size);
    same(m->memory, m->shadow, m->size, "restored huge pages");
    restores++;
}

static void live(const char *stores, int kind, uint32_t tracker)
{
    char path[4096], name[64];
    snprintf(name, sizeof name, "huge%d-%u", kind, tracker);
    name_directory(path, stores, name);
    vmstore *store = open_store(path, 0);
    hugemodule m = map_huge(store, kind, tracker);
    uint64_t first = commit(store);
    unsigned char *zeros = calloc(1, m.size);
    CHECK(zeros);
    store_count++;

    /* Two small pages in two huge pages: 1024 pages are reported dirty, 2 are written. */
    write_page(&m, 5 * PAGE);
    write_page(&m, 2 * HUGE + 100 * PAGE);
    uint64_t second = commit(store);
    vmstore_stats s = stats(store);
    if (s.last_written_pages != 2) FAIL("%" PRIu64 " pages were written instead of 2", s.last_written_pages);
    if (tracker == VMSTORE_TRACKER_KERNEL && s.last_dirty_pages != 1024)
        FAIL("%" PRIu64 " pages were reported as dirty instead of 1024", s.last_dirty_pages);
    reader_has(path, &m);
    unsigned char *at_second = malloc(m.size);
    CHECK(at_second);
    memcpy(at_second, m.shadow, m.size);
    CHECK(commit(store) == second); /* tracked again, and nothing was written */
    CHECK(tracker == VMSTORE_TRACKER_COMPARE || stats(store).last_dirty_pages == 0);

    restored(store, first, &m, zeros, m.size);
    write_page(&m, HUGE);
    restored(store, second, &m, at_second, m.size);
    write_page(&m, 2 * HUGE + 101 * PAGE); /* beside the page that the library has just restored */
    uint64_t third = commit(store);
    CHECK(third > second && stats(store).last_written_pages == 1);
    reader_has(path, &m);
    /* One small page is restored, in memory that the tracker can only arm in whole huge pages. */
    unsigned char *at_third = malloc(m.size);
    CHECK(at_third);
    memcpy(at_third, m.shadow, m.size);
    restored(store, second, &m, at_second, m.size);
    CHECK(commit(store) == second);
    CHECK(tracker == VMSTORE_TRACKER_COMPARE || stats(store).last_dirty_pages == 0);
    restored(store, third, &m, at_third, m.size);
    write_page(&m, 2 * HUGE + 101 * PAGE);
    commit(store);
    reader_has(path, &m);
    restored(store, third, &m, at_third, m.size);
    free(at_third);

    /* Discards parts of huge pages, and whole huge pages. */
    OK(store_discard(m.handle, 5 * PAGE, PAGE));
    memset(m.shadow + 5 * PAGE, 0, PAGE);
    same(m.memory, m.shadow, m.size, "a small page discarded");
    OK(store_discard(m.handle, HUGE - 3 * PAGE, HUGE + 7 * PAGE));
    memset(m.shadow + HUGE - 3 * PAGE, 0, HUGE + 7 * PAGE);
    OK(store_discard(m.handle, 2 * HUGE, HUGE));
    memset(m.shadow + 2 * HUGE, 0, HUGE);
    same(m.memory, m.shadow, m.size, "huge pages discarded");
    uint64_t fourth = commit(store), left;
    CHECK(fourth > third && stats(store).last_zero_pages == 3);
    reader_has(path, &m);
    write_page(&m, 2 * HUGE);
    OK(store_precopy(store, NULL, &left));
    write_page(&m, 2 * HUGE + PAGE);
    commit(store);
    reader_has(path, &m);

    if (kind == OWN || kind == BORROWED) {
        FAILS(store_grow_module(m.handle, m.size + PAGE), VMSTORE_E_INVALID, "2097152");
        OK(store_grow_module(m.handle, m.size + HUGE));
        m.size += HUGE;
        write_page(&m, m.size - PAGE);
        commit(store);
        reader_has(path, &m);
        restored(store, second, &m, at_second, START * HUGE);
        commit(store);
        reader_has(path, &m);
    }
    uint64_t missed;
    OK(store_audit(store, &missed));
    CHECK(missed == 0);
    end_huge(&m);
    OK(store_close(store));
    free(zeros), free(at_second);
}

static void refuse(const char *stores, uint32_t flags, uint64_t size, const char *words)
{
    vmstore *store = open_store(path_in(stores, "refused"), 0);
    vmstore_module *module = NULL;
    vmstore_map_options o = {.struct_size = sizeof o, .flags = VMSTORE_MAP_MEMFD | flags};
    FAILS(store_map_module(store, "ram", size, &o, &module), VMSTORE_E_UNSUPPORTED, words);
    CHECK(module == NULL && strstr(last_error(), "pages of"));
    CHECK(access(path_in(stores, "refused/ram"), F_OK) < 0);
    OK(store_close(store));
    refusals++;
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("hugepages");
    random_state.state = seed();
    vmstore_capabilities c = probe();
    if (c.free_huge_1g == 0) refuse(arguments[1], VMSTORE_MAP_HUGE_1G, (uint64_t)1 << 30, "hugepages");
    if (!have("2 MiB pages", reserve_huge_pages())) {
        if (probe().free_huge_2m == 0) refuse(arguments[1], VMSTORE_MAP_HUGE_2M, HUGE, "hugepages");
        printf("hugepages: skipped, except %u refusals\n", refusals);
        return 0;
    }
    char free_now[48];
    snprintf(free_now, sizeof free_now, "%" PRIu64 " are free", probe().free_huge_2m);
    refuse(arguments[1], VMSTORE_MAP_HUGE_2M, (probe().free_huge_2m + 1) * HUGE, free_now);
    for (int kind = 0; kind < KINDS; kind++)
        for (uint32_t tracker = VMSTORE_TRACKER_AUTO; tracker <= VMSTORE_TRACKER_COMPARE; tracker++) {
            if (tracker == VMSTORE_TRACKER_CALLER) continue;
            if (tracker == VMSTORE_TRACKER_KERNEL && !c.kernel_tracker) continue;
            live(arguments[1], kind, tracker);
        }
    CHECK(probe().has_huge_2m == 1);
    printf("hugepages: %u stores, %u commits exact for a second reader, %u restores, %u refusals that say how many huge pages "
           "there are\n",
           store_count, commits, restores, refusals);
    return 0;
}
