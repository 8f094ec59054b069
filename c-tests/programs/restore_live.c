/* Restores in place while others use the memory: a live KVM slot, io_uring buffers that have its pages pinned, and
 * a second process that has it mapped. Each of them writes and reads in its own way. After every restore all of
 * them must read the restored bytes, although no slot is registered again, nothing is pinned again and nothing is
 * mapped again. Writes that the tracker cannot see are marked, and are in the next commit. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/socket.h>

#include "model.h"
#include "needs.h"
#include "uring.h"
#include "vcpu.h"

enum { PAGES = 256, COMMITS = 6 };
#define SIZE (PAGES * PAGE)

static unsigned restores, commits_made;
static unsigned long written[4], looked[4];
enum { PROCESS, GUEST, DEVICE, PEER };

/* ---- the peer: another process with its own mapping, made from the descriptor ---- */

typedef struct {
    pid_t pid;
    int socket;
} peer;

/* What the parent asks for: map the memory, show a page, fill a page. */
typedef struct {
    int what; /* 'm', 's', 'f' */
    int fd;
    uint64_t offset, content;
} request;

static void move(int socket, void *bytes, size_t length, int out)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = out ? write(socket, (char *)bytes + done, length - done)
                        : read(socket, (char *)bytes + done, length - done);
        if (n == 0 && !out && done == 0) _exit(0); /* the parent has finished */
        CHECK(n > 0);
        done += (size_t)n;
    }
}

static void serve(int socket, pid_t parent)
{
    unsigned char *memory = NULL;
    char path[64], answer = 1;
    for (;;) {
        request r;
        move(socket, &r, sizeof r, 0);
        if (r.what == 'm') {
            snprintf(path, sizeof path, "/proc/%ld/fd/%d", (long)parent, r.fd);
            int fd = open(path, O_RDWR | O_CLOEXEC);
            if (fd < 0) FAIL("the peer cannot open %s: %s", path, strerror(errno));
            memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)r.offset);
            CHECK(memory != MAP_FAILED);
            close(fd);
            move(socket, &answer, 1, 1);
        } else if (r.what == 'f') {
            fill(memory + r.offset, PAGE, r.content);
            move(socket, &answer, 1, 1);
        } else {
            move(socket, memory, SIZE, 1);
        }
    }
}

/* Forked before there is a store: the peer inherits only the socket. */
static peer start_peer(void)
{
    int pair[2];
    pid_t parent = getpid();
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    fflush(NULL);
    peer p = {.pid = fork(), .socket = pair[0]};
    CHECK(p.pid >= 0);
    if (p.pid == 0) {
        close(pair[0]);
        serve(pair[1], parent);
    }
    close(pair[1]);
    return p;
}

static void ask(const peer *p, request r, void *answer, size_t length)
{
    move(p->socket, &r, sizeof r, 1);
    move(p->socket, answer, length, 0);
}

static void end_peer(const peer *p)
{
    int status;
    close(p->socket);
    CHECK(waitpid(p->pid, &status, 0) == p->pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- one module and all that use it ---- */

typedef struct {
    const char *name, *stores;
    uint32_t flags, tracker;
    int again; /* the store is opened a second time first: private memory is then mapped from an image */
} setting;

static struct {
    vmstore *store;
    mapped ram;
    void *own; /* adopted memory */
    int own_fd;
    peer peer;
    vcpu guest;
    uring device;
    int has[4];           /* which of the four writers there are */
    int file;             /* the device reads from this file and writes to it */
    uint64_t first;       /* the number of commits before at[0] */
    unsigned char *now, *seen, *at[COMMITS]; /* what memory holds now, and what it held at each commit */
} t;

static int is_mode(const setting *s, uint32_t mode)
{
    return (s->flags & 255) == mode;
}

/* Maps the module as the setting says. What the caller owns stays after the store is closed. */
static void map_module(const setting *s)
{
    vmstore_map_options options = {
        .struct_size = sizeof options, .flags = s->flags, .tracker = s->tracker};
    if (is_mode(s, VMSTORE_MAP_ADOPT)) options.address = t.own;
    if (s->flags & VMSTORE_MAP_FD) options.fd = t.own_fd, options.fd_offset = 3 * PAGE;
    OK(store_map_module(t.store, "ram", SIZE, &options, &t.ram.handle));
    t.ram.memory = store_module_address(t.ram.handle);
    CHECK(t.ram.memory && (!is_mode(s, VMSTORE_MAP_ADOPT) || t.ram.memory == t.own));
}

static void attach(const setting *s)
{
    char directory[4096], name[128], path[4200];
    t.has[PROCESS] = 1;
    t.has[PEER] = is_mode(s, VMSTORE_MAP_SHARED) || is_mode(s, VMSTORE_MAP_MEMFD);
    if (t.has[PEER]) t.peer = start_peer();
    t.own = NULL, t.own_fd = -1;
    if (s->flags & VMSTORE_MAP_FD) {
        t.own_fd = memfd_create("the caller's", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        CHECK(t.own_fd >= 0 && ftruncate(t.own_fd, (off_t)(SIZE + 5 * PAGE)) == 0);
        CHECK(fcntl(t.own_fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    }
    if (is_mode(s, VMSTORE_MAP_ADOPT)) {
        t.own = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(t.own != MAP_FAILED);
    }
    snprintf(name, sizeof name, "live-%s", s->name);
    name_directory(directory, s->stores, name);
    t.store = open_store(directory, 0);
    map_module(s);
    memset(t.now, 0, SIZE);
    t.first = 0;
    if (s->again) {
        fill(t.ram.memory, SIZE / 2, 77);
        memcpy(t.now, t.ram.memory, SIZE);
        if (s->tracker == VMSTORE_TRACKER_CALLER) OK(store_mark_dirty(t.ram.handle, 0, SIZE));
        t.first = commit(t.store);
        OK(store_close(t.store));
        t.store = open_store(directory, 0);
        map_module(s);
    }
    if (t.has[PEER]) {
        request r = {.what = 'm'};
        char answer;
        OK(store_module_fd(t.ram.handle, &r.fd, &r.offset));
        ask(&t.peer, r, &answer, 1);
    }
    t.has[GUEST] = have("a live KVM slot", vcpu_open(&t.guest));
    if (t.has[GUEST]) vcpu_slot(&t.guest, 0, 0, t.ram.memory, SIZE, 0);

    snprintf(path, sizeof path, "%s/device-%s", s->stores, s->name);
    t.file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(t.file >= 0);
    t.has[DEVICE] = have("memory pinned by io_uring", uring_open(&t.device));
    if (t.has[DEVICE]) {
        const char *why = uring_pin(&t.device, t.ram.memory, SIZE);
        /* The kernel does not allow long-term pins of shared pages of a file on a disk: no device in this setting. */
        if (why && is_mode(s, VMSTORE_MAP_SHARED) && !on_tmpfs(directory)) {
            uring_close(&t.device);
            t.has[DEVICE] = 0;
        } else if (why) {
            FAIL("%s: IORING_REGISTER_BUFFERS: %s", s->name, why);
        }
    }
}

static void detach(void)
{
    if (t.has[PEER]) end_peer(&t.peer);
    if (t.has[GUEST]) vcpu_close(&t.guest);
    if (t.has[DEVICE]) uring_close(&t.device);
    close(t.file);
    OK(store_verify(t.store, NULL));
    OK(store_close(t.store));
    if (t.own) CHECK(munmap(t.own, SIZE) == 0); /* the memory still belongs to the caller */
    if (t.own_fd >= 0) close(t.own_fd);
    for (int i = 0; i < COMMITS; i++) {
        free(t.at[i]);
        t.at[i] = NULL;
    }
}

/* One of the four writes somewhere. What the tracker in use cannot see is marked. */
static void write_somewhere(const setting *s, rng *r)
{
    int who;
    do who = (int)below(r, 4);
    while (!t.has[who]);
    uint64_t page = below(r, PAGES), content = next(r), at = page * PAGE;
    char answer;
    if (who == PROCESS) {
        fill(t.ram.memory + at, PAGE, content);
        fill(t.now + at, PAGE, content);
    } else if (who == PEER) {
        ask(&t.peer, (request){.what = 'f', .offset = at, .content = content}, &answer, 1);
        fill(t.now + at, PAGE, content);
    } else if (who == DEVICE) {
        unsigned char sector[PAGE];
        fill(sector, PAGE, content);
        CHECK(pwrite(t.file, sector, PAGE, (off_t)SIZE) == (ssize_t)PAGE);
        uring_read_fixed(&t.device, t.file, SIZE, t.ram.memory + at, PAGE);
        memcpy(t.now + at, sector, PAGE);
    } else {
        uint32_t step = 8 * (1 + (uint32_t)below(r, 8)), from = (uint32_t)below(r, 64);
        uint32_t count = 1 + (uint32_t)below(r, 60);
        vcpu_fill(&t.guest, (uint32_t)at + from, step, count, (unsigned char)content);
        for (uint32_t i = 0; i < count; i++) t.now[at + from + i * step] = (unsigned char)content;
    }
    int compared = s->tracker == VMSTORE_TRACKER_COMPARE || (s->flags & VMSTORE_MAP_FOREIGN_WRITERS);
    int blind = !compared && (who == DEVICE || who == PEER);
    if (blind || s->tracker == VMSTORE_TRACKER_CALLER) OK(store_mark_dirty(t.ram.handle, at, PAGE));
    written[who]++;
}

/* All four must read the same, right bytes. */
static void everyone_sees(const char *when, rng *r)
{
    char what[128];
    snprintf(what, sizeof what, "the process, %s", when);
    same(t.ram.memory, t.now, SIZE, what);
    looked[PROCESS]++;
    if (t.has[PEER]) {
        ask(&t.peer, (request){.what = 's'}, t.seen, SIZE);
        snprintf(what, sizeof what, "the peer, %s", when);
        same(t.seen, t.now, SIZE, what);
        looked[PEER]++;
    }
    if (t.has[DEVICE]) {
        uring_write_fixed(&t.device, t.file, 0, t.ram.memory, SIZE);
        CHECK(pread(t.file, t.seen, SIZE, 0) == (ssize_t)SIZE);
        snprintf(what, sizeof what, "the device, %s", when);
        same(t.seen, t.now, SIZE, what);
        looked[DEVICE]++;
    }
    if (t.has[GUEST]) {
        for (uint32_t page = 0; page < PAGES; page++) {
            uint32_t at = page * (uint32_t)PAGE + (uint32_t)below(r, PAGE);
            unsigned char byte = vcpu_load(&t.guest, at);
            if (byte != t.now[at])
                FAIL("the guest, %s: 0x%02x instead of 0x%02x at 0x%x", when, byte, t.now[at], at);
        }
        looked[GUEST]++;
    }
}

static void commit_now(int i)
{
    CHECK(commit(t.store) == t.first + 1 + (uint64_t)i);
    commits_made++;
    t.at[i] = malloc(SIZE);
    CHECK(t.at[i]);
    memcpy(t.at[i], t.now, SIZE);
}

static void try_setting(const setting *s)
{
    rng r = {seed()};
    attach(s);
    for (int i = 0; i < COMMITS; i++) {
        for (unsigned n = 0; n < 40; n++) write_somewhere(s, &r);
        everyone_sees("before a commit", &r);
        commit_now(i);
    }
    unsigned rounds = slow() ? 3 : brief() ? 8 : 30;
    for (unsigned round = 0; round < rounds; round++) {
        /* Some writes stay uncommitted: the restore must take them back too. */
        for (unsigned n = 0; n < round % 3 * 10; n++) write_somewhere(s, &r);
        int i = (int)below(&r, COMMITS);
        OK(store_restore(t.store, t.first + 1 + (uint64_t)i, NULL));
        restores++;
        memcpy(t.now, t.at[i], SIZE);
        everyone_sees("after a restore", &r);
        if (round % 2 == 0) continue;
        /* Writes after a restore reach all four, and the next commit: a later restore brings them back. */
        for (unsigned n = 0; n < 20; n++) write_somewhere(s, &r);
        everyone_sees("after a restore and writes", &r);
        uint64_t number = commit(t.store);
        commits_made++;
        unsigned char *wanted = malloc(SIZE);
        CHECK(wanted);
        memcpy(wanted, t.now, SIZE);
        OK(store_restore(t.store, t.first + 1, NULL));
        memcpy(t.now, t.at[0], SIZE);
        everyone_sees("after a restore of the first", &r);
        OK(store_restore(t.store, number, NULL));
        memcpy(t.now, wanted, SIZE);
        everyone_sees("after a restore of what was written since a restore", &r);
        restores += 2;
        free(wanted);
    }
    detach();
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("restore_live");
    signal(SIGPIPE, SIG_IGN);
    t.now = malloc(SIZE), t.seen = malloc(SIZE);
    CHECK(t.now && t.seen);
    const char *disk = arguments[1];
    const setting settings[] = {
        {"private", disk, VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_AUTO, 0},
        {"image", disk, VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_AUTO, 1},
        {"image-compared", disk, VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_COMPARE, 1},
        {"image-marked", disk, VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_CALLER, 1},
        {"shared", disk, VMSTORE_MAP_SHARED, VMSTORE_TRACKER_AUTO, 1},
        {"shared-compared", disk, VMSTORE_MAP_SHARED, VMSTORE_TRACKER_COMPARE, 0},
        {"memfd", disk, VMSTORE_MAP_MEMFD, VMSTORE_TRACKER_AUTO, 1},
        {"memfd-compared", disk, VMSTORE_MAP_MEMFD, VMSTORE_TRACKER_COMPARE, 1},
        {"memfd-given", disk, VMSTORE_MAP_MEMFD | VMSTORE_MAP_FD, VMSTORE_TRACKER_AUTO, 1},
        {"memfd-foreign", disk, VMSTORE_MAP_MEMFD | VMSTORE_MAP_FOREIGN_WRITERS, VMSTORE_TRACKER_AUTO, 0},
        {"adopted", disk, VMSTORE_MAP_ADOPT, VMSTORE_TRACKER_AUTO, 1},
        {"adopted-marked", disk, VMSTORE_MAP_ADOPT, VMSTORE_TRACKER_CALLER, 0},
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) try_setting(&settings[i]);
    const char *tmpfs = directory_in_memory();
    if (have("pinned shared memory", tmpfs ? NULL : "there is no tmpfs at /dev/shm")) {
        const setting shared[] = {
            {"tmpfs", tmpfs, VMSTORE_MAP_SHARED, VMSTORE_TRACKER_AUTO, 1},
            {"tmpfs-compared", tmpfs, VMSTORE_MAP_SHARED, VMSTORE_TRACKER_COMPARE, 0},
            {"tmpfs-marked", tmpfs, VMSTORE_MAP_SHARED, VMSTORE_TRACKER_CALLER, 0},
        };
        for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) try_setting(&shared[i]);
    }
    printf("restored in place %u times, %u commits; writes by process %lu, guest %lu, device %lu, peer %lu; all "
           "bytes read right by each: %lu, %lu, %lu, %lu times\n",
           restores, commits_made, written[PROCESS], written[GUEST], written[DEVICE], written[PEER],
           looked[PROCESS], looked[GUEST], looked[DEVICE], looked[PEER]);
    return 0;
}
