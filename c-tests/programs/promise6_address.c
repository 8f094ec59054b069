/* Promise 6: memory keeps its address. Over restores a module stays at its address, /proc/self/maps shows the same
 * mapping of the same file, and a KVM memory slot over the module keeps working: a real-mode guest counts in the
 * module, a restore resets the counter, and the guest counts on from there. */
#define _GNU_SOURCE
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "model.h"

static char directory[4096];
static unsigned restores;

/* ---- the mapping as the kernel shows it ---- */

typedef struct {
    unsigned long start, end, offset, inode;
    char permissions[8], device[16];
} region;

static region region_of(const void *address)
{
    char line[4096];
    region r;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx %7s %lx %15s %lu", &r.start, &r.end, r.permissions, &r.offset,
                   r.device, &r.inode) != 6)
            continue;
        if (r.start > (uintptr_t)address || (uintptr_t)address >= r.end) continue;
        fclose(maps);
        return r;
    }
    FAIL("%p is not mapped", address);
}

/* A private mapping may be merged with its neighbours, which moves its ends. The page itself stays at its address. */
static void stays(const void *address, const region *before, int whole)
{
    region now = region_of(address);
    CHECK(!strcmp(now.permissions, before->permissions) && !strcmp(now.device, before->device));
    CHECK(now.inode == before->inode);
    if (whole)
        CHECK(now.start == before->start && now.end == before->end && now.offset == before->offset);
}

static void address_stays(const char *stores, uint32_t mode, int reopened)
{
    size_t size = 64 * PAGE;
    unsigned char *one = malloc(size), *two = malloc(size), *three = malloc(size);
    char name[64];
    snprintf(name, sizeof name, "address%u", mode);
    name_directory(directory, stores, name);
    vmstore *store = open_store(directory, 0);
    mapped ram;
    if (!reopened) {
        ram = map(store, "ram", size, mode, 0);
        fill(ram.memory, size, 1);
        CHECK(commit(store) == 1);
        fill(ram.memory + 9 * PAGE, 20 * PAGE, 2);
        memset(ram.memory + 40 * PAGE, 0, 3 * PAGE);
        CHECK(commit(store) == 2);
    } else {
        /* An exact address: one that is free, and one that is in use. */
        void *far = (void *)(uintptr_t)0x100000000000; /* nothing is mapped here by chance */
        void *wanted = mmap(far, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(wanted != MAP_FAILED);
        vmstore_map_options options = {
            .struct_size = sizeof options, .flags = mode, .address = wanted};
        ram.handle = NULL;
        FAILS(store_map_module(store, "ram", size, &options, &ram.handle), VMSTORE_E_EXISTS, "");
        CHECK(munmap(wanted, size) == 0 && ram.handle == NULL);
        OK(store_map_module(store, "ram", size, &options, &ram.handle));
        ram.memory = store_module_address(ram.handle);
        CHECK((void *)ram.memory == wanted);
    }
    fill(one, size, 1);
    memcpy(two, one, size);
    fill(two + 9 * PAGE, 20 * PAGE, 2);
    memset(two + 40 * PAGE, 0, 3 * PAGE);

    /* A pointer into the middle, as a device thread may have one. */
    volatile unsigned char *held = ram.memory + 11 * PAGE + 5;
    region before = region_of(ram.memory);
    for (int i = 0; i < 20; i++) {
        int to_one = i % 2 == 0;
        if (i % 3 == 0) fill(ram.memory + (size_t)i * PAGE, 2 * PAGE, 99);
        OK(store_restore(store, to_one ? 1 : 2, NULL));
        restores++;
        CHECK(store_module_address(ram.handle) == ram.memory);
        stays(ram.memory, &before, mode == VMSTORE_MAP_SHARED);
        same(ram.memory, to_one ? one : two, size, "restored at its address");
        CHECK(*held == (to_one ? one : two)[11 * PAGE + 5]);
    }
    if (mode == VMSTORE_MAP_SHARED) {
        struct stat s;
        CHECK(stat(path_in(directory, "ram"), &s) == 0 && s.st_ino == before.inode);
        CHECK(before.permissions[3] == 's' && before.offset == 0);
    } else {
        CHECK(before.permissions[3] == 'p');
    }

    /* Protections and advice on the range survive, because the restore maps nothing over the range. */
    CHECK(madvise(ram.memory + 30 * PAGE, PAGE, MADV_DONTFORK) == 0);
    OK(store_restore(store, 1, NULL));
    region middle = region_of(ram.memory + 30 * PAGE);
    CHECK(middle.start == (uintptr_t)(ram.memory + 30 * PAGE) && middle.end == middle.start + PAGE);
    memcpy(three, one, size);
    same(ram.memory, three, size, "restored across an advised page");

    void *address = ram.memory;
    OK(store_unmap_module(ram.handle));
    void *again = mmap(address, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(again == address && munmap(again, size) == 0); /* the unmap freed the whole range */
    OK(store_restore(store, 2, NULL));
    OK(store_close(store));
    free(one), free(two), free(three);
}

/* ---- a guest ---- */

#define GUEST_SIZE (16 * PAGE)
#define COUNTER (8 * PAGE)

typedef struct {
    int kvm, machine, vcpu;
    struct kvm_run *run;
    size_t run_size;
} guest;

/* 16-bit code at 0x1000: add one to the 32-bit word at 0x8000, halt, and again. */
static const unsigned char code[] = {0x66, 0xff, 0x06, 0x00, 0x80, 0xf4, 0xeb, 0xf8};

static int start_guest(guest *g, unsigned char *memory)
{
    g->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (g->kvm < 0) {
        printf("  the KVM slot was not tried: /dev/kvm: %s\n", strerror(errno));
        return 0;
    }
    g->machine = ioctl(g->kvm, KVM_CREATE_VM, 0);
    CHECK(g->machine >= 0);
    /* Old Intel processors need this to emulate real mode. Other processors do not know the call. */
    (void)ioctl(g->machine, KVM_SET_TSS_ADDR, 0xfffbd000ul);
    struct kvm_userspace_memory_region slot = {
        .slot = 0, .memory_size = GUEST_SIZE, .userspace_addr = (uintptr_t)memory};
    CHECK(ioctl(g->machine, KVM_SET_USER_MEMORY_REGION, &slot) == 0);
    g->vcpu = ioctl(g->machine, KVM_CREATE_VCPU, 0);
    CHECK(g->vcpu >= 0);
    g->run_size = (size_t)ioctl(g->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    g->run = mmap(NULL, g->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu, 0);
    CHECK(g->run != MAP_FAILED);

    struct kvm_sregs segments;
    CHECK(ioctl(g->vcpu, KVM_GET_SREGS, &segments) == 0);
    segments.cs.base = 0, segments.cs.selector = 0;
    segments.ds.base = 0, segments.ds.selector = 0;
    CHECK(ioctl(g->vcpu, KVM_SET_SREGS, &segments) == 0);
    struct kvm_regs registers = {.rip = 0x1000, .rflags = 2};
    CHECK(ioctl(g->vcpu, KVM_SET_REGS, &registers) == 0);
    return 1;
}

static void count_on(guest *g, unsigned times)
{
    while (times) {
        int status = ioctl(g->vcpu, KVM_RUN, 0);
        if (status < 0 && errno == EINTR) continue;
        CHECK(status == 0);
        if (g->run->exit_reason != KVM_EXIT_HLT) FAIL("the guest left KVM with exit reason %u instead of a halt", g->run->exit_reason);
        times--;
    }
}

static uint32_t counter(const unsigned char *memory)
{
    uint32_t value;
    memcpy(&value, memory + COUNTER, sizeof value);
    return value;
}

static unsigned long counted;

static void guest_counts_on(const char *stores, uint32_t mode, uint32_t tracker)
{
    char name[64];
    snprintf(name, sizeof name, "guest%u-%u", mode, tracker);
    name_directory(directory, stores, name);
    vmstore *store = open_store(directory, 0);
    mapped ram = map(store, "ram", GUEST_SIZE, mode, tracker);
    memcpy(ram.memory + 0x1000, code, sizeof code);
    guest g;
    if (!start_guest(&g, ram.memory)) {
        OK(store_close(store));
        return;
    }
    /* Commit n has the counter at 10 n. A tracker that does not see the guest's writes would lose counts. */
    enum { COMMITS = 12 };
    for (uint32_t n = 1; n <= COMMITS; n++) {
        count_on(&g, 10);
        CHECK(counter(ram.memory) == 10 * n);
        CHECK(commit(store) == n);
    }
    rng r = {seed()};
    for (unsigned i = 0; i < 60; i++) {
        uint32_t n = 1 + (uint32_t)below(&r, COMMITS), more = (uint32_t)below(&r, 20);
        OK(store_restore(store, n, NULL));
        restores++;
        CHECK(counter(ram.memory) == 10 * n);
        /* The guest sees the restored page through the slot, and the program sees the guest's writes. */
        count_on(&g, more);
        if (counter(ram.memory) != 10 * n + more)
            FAIL("the guest counted to %u, from %u in %u steps", counter(ram.memory), 10 * n, more);
        counted += more;
        if (i % 6 == 0 && more) { /* what the guest counted after a restore is in the next commit */
            uint64_t number = commit(store);
            OK(store_restore(store, 1, NULL));
            OK(store_restore(store, number, NULL));
            CHECK(counter(ram.memory) == 10 * n + more);
        }
    }
    CHECK(munmap(g.run, g.run_size) == 0);
    close(g.vcpu), close(g.machine), close(g.kvm);
    OK(store_close(store));
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("promise6_address");
    uint32_t modes[] = {VMSTORE_MAP_PRIVATE, VMSTORE_MAP_SHARED};
    for (int i = 0; i < 2; i++) {
        address_stays(arguments[1], modes[i], 0);
        address_stays(arguments[1], modes[i], 1);
        guest_counts_on(arguments[1], modes[i], VMSTORE_TRACKER_AUTO);
        guest_counts_on(arguments[1], modes[i], VMSTORE_TRACKER_COMPARE);
    }
    printf("promise 6: %u restores, addresses and mappings stayed; a KVM guest counted %lu steps after "
           "restores\n",
           restores, counted);
    return 0;
}
