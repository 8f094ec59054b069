/* A store's life, step by step, in every setting. Every function of the library is called, and each step can run
 * alone: a program can then observe or forbid what the step does. Needs _GNU_SOURCE. */
#ifndef LIFE_H
#define LIFE_H

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "misuse.h"

typedef struct {
    const char *words; /* in the terms of docs/system-calls.md */
    uint32_t flags, tracker;
} setting;

static const setting *now;
static char directory[4096];
static vmstore *store;
static vmstore_module *module;
static vmstore_capture *capture;
static unsigned char *memory;
static uint64_t commit;
static unsigned readonly;
static unsigned char *callers_memory; /* adopted memory, or a reservation */
static int callers_fd;

/* After the first WRITTEN pages the module stays empty: a hole. */
enum { WRITTEN = 512, PAGES = WRITTEN + 512, GROWN = PAGES + 64, STRIDE = 2, RUN = 256 };

static int has(const char *word)
{
    size_t length = strlen(word);
    for (const char *words = now->words; *words; words += strcspn(words, " "), words += *words == ' ')
        if (strcspn(words, " ") == length && !strncmp(words, word, length)) return 1;
    return 0;
}

/* What the caller has to prepare before the store is opened. */
static void begin_life(const setting *s, const char *in)
{
    now = s;
    snprintf(directory, sizeof directory, "%s", in);
    if (has("adopt") || has("reserved")) {
        int access = has("adopt") ? PROT_READ | PROT_WRITE : PROT_NONE;
        callers_memory = mmap(NULL, GROWN * page_size(), access, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(callers_memory != MAP_FAILED);
    }
    if (has("thrifty")) { /* at most two files stay open to be read again */
        struct rlimit few = {20, 20};
        CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    }
    if (has("fd")) {
        callers_fd = memfd_create("the caller's", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        CHECK(callers_fd >= 0 && ftruncate(callers_fd, (off_t)(GROWN * page_size())) == 0);
    }
}

/* With RLIMIT_FSIZE as an obstacle a step may fail, but only with VMSTORE_E_IO. */
static void outcome(int status, const char *what)
{
    if (status == VMSTORE_OK || (has("fails") && status == VMSTORE_E_IO)) return;
    FAIL("%s [%s]: %s: %s", what, now->words, store_strerror(status), last_error());
}

static void write_pages(void)
{
    static unsigned char byte;
    byte++;
    if (readonly) return;
    for (size_t page = STRIDE; page < WRITTEN; page += STRIDE) memory[page * page_size()] = byte;
    for (size_t page = RUN; page < RUN + 32; page++) {
        memory[page * page_size()] = byte; /* together, as large runs are */
        if (has("caller")) OK(store_mark_dirty(module, page * page_size(), page_size()));
    }
    memory[0] = 1; /* the same byte as before: it is compared with the head */
    for (size_t page = 0; page < WRITTEN; page += has("caller") ? STRIDE : WRITTEN)
        OK(store_mark_dirty(module, page * page_size(), page_size()));
}

static void write_few(void)
{
    memory[3 * page_size()]++;
    OK(store_mark_dirty(module, 3 * page_size(), page_size()));
}

static void do_open(void)
{
    vmstore_open_options options = {.struct_size = sizeof options,
                                    .flags = readonly ? VMSTORE_OPEN_READ_ONLY : 0};
    outcome(store_open(directory, &options, &store), "store_open");
}

static void do_open_readonly(void)
{
    readonly = 1;
    do_open();
}

static void do_map(void)
{
    vmstore_map_options options = {.struct_size = sizeof options,
                                   .flags = readonly ? 0 : now->flags,
                                   .tracker = now->tracker,
                                   .max_size = GROWN * page_size()};
    if (has("fd") && !readonly) options.fd = callers_fd;
    if ((has("adopt") || has("reserved")) && !readonly) options.address = callers_memory, options.max_size = 0;
    int status = store_map_module(store, "ram", readonly ? 0 : PAGES * page_size(), &options, &module);
    outcome(status, "store_map_module");
    if (status == VMSTORE_OK) memory = store_module_address(module);
}

static void do_grow(void)
{
    outcome(store_grow_module(module, GROWN * page_size()), "store_grow_module");
}

static void do_discard(void)
{
    outcome(store_discard(module, 8 * page_size(), 8 * page_size()), "store_discard");
}

static void do_precopy(void)
{
    uint64_t left;
    outcome(store_precopy(store, NULL, &left), "store_precopy");
}

static void do_audit(void)
{
    uint64_t missed;
    outcome(store_audit(store, &missed), "store_audit");
}

static void do_capture(void)
{
    outcome(store_capture(store, NULL, &capture), "store_capture");
}

static void do_capture_commit(void)
{
    outcome(store_capture_commit(capture, &commit), "store_capture_commit");
}

static void do_capture_cancel(void)
{
    outcome(store_capture_cancel(capture), "store_capture_cancel");
}

static void do_persist(void)
{
    outcome(store_persist(store, NULL), "store_persist");
}

static void do_restore(void)
{
    outcome(store_restore(store, 1, NULL), "store_restore");
}

static void do_verify(void)
{
    outcome(store_verify(store, NULL), "store_verify");
}

static int each_module(const vmstore_module_info *info, void *user_data)
{
    (void)info, (void)user_data;
    return 0;
}

static void do_list_modules(void)
{
    outcome(store_list_modules(store, 1, each_module, NULL), "store_list_modules");
}

static void do_read(void)
{
    char bytes[16]; /* no module may be mapped */
    outcome(store_read(store, 1, "ram", 0, bytes, sizeof bytes), "store_read");
}

static int each_range(const char *id, uint64_t offset, uint64_t length, void *user_data)
{
    (void)id, (void)offset, (void)length, (void)user_data;
    return 0;
}

static void do_diff(void)
{
    outcome(store_diff(store, 1, 3, NULL, each_range, NULL), "store_diff");
}

static int stream;

static void make_stream(void)
{
    int made = memfd_create("stream", MFD_CLOEXEC);
    CHECK(made >= 0);
    stream = fcntl(made, F_DUPFD_CLOEXEC, 10); /* above 2: the host may have closed descriptors 0, 1 and 2 */
    CHECK(stream >= 10 && close(made) == 0);
}

static void do_export(void)
{
    outcome(store_export(store, 0, 3, stream), "store_export");
}

static void do_clone(void)
{
    char to[4200];
    snprintf(to, sizeof to, "%s.clone", directory);
    outcome(store_clone(store, 0, to), "store_clone");
}

static void do_delete(void)
{
    outcome(store_delete_commit(store, 2), "store_delete_commit");
}

/* Makes a commit that another store can import. */
static void delete_the_last(void)
{
    OK(store_delete_commit(store, 3));
    CHECK(lseek(stream, 0, SEEK_SET) == 0);
}

static void do_import(void)
{
    uint64_t last;
    outcome(store_import(store, stream, &last), "store_import");
}

static void end_stream(void)
{
    close(stream);
}

static void do_compact(void)
{
    vmstore_compact_options options = {.struct_size = sizeof options, .keep_last = 1, .image_percent = 1};
    outcome(store_compact(store, &options), "store_compact");
}

static void do_unmap(void)
{
    outcome(store_unmap_module(module), "store_unmap_module");
}

static void do_close(void)
{
    outcome(store_close(store), "store_close");
}

static void do_probe(void)
{
    vmstore_capabilities capabilities = {.struct_size = sizeof capabilities};
    outcome(store_probe(directory, &capabilities), "store_probe");
}

/* The functions that need no system call, as the document says. */
static void do_the_rest(void)
{
    uint64_t number, numbers[16];
    size_t count;
    char text[64];
    int fd;
    const uint64_t bitmap[2] = {5, 1};
    vmstore_stats stats = {.struct_size = sizeof stats};
    vmstore_commit_info info = {.struct_size = sizeof info};
    OK(store_mark_dirty(module, 0, 3 * page_size()));
    OK(store_import_dirty_bitmap(module, 0, bitmap, 128));
    OK(store_head(store, &number));
    OK(store_list_commits(store, numbers, 16, &count));
    OK(store_commit_info(store, 1, &info));
    OK(store_commit_user_data(store, 1, text, sizeof text, &count));
    OK(store_stats(store, &stats));
    CHECK(store_module_address(module) == memory && store_module_size(module) == PAGES * page_size());
    /* Private memory has no descriptor: an error, also without a system call. */
    (void)store_module_fd(module, &fd, &number);
    store_last_error(text, sizeof text);
    FAILS(store_find_commit(store, "nobody's", &number), VMSTORE_E_NOT_FOUND, "nobody");
    CHECK(store_strerror(VMSTORE_OK) && store_version() && store_abi_version() == VMSTORE_ABI_VERSION);
}

typedef struct {
    const char *function, *words;
    void (*call)(void);
    int strict;                         /* the allocator's calls are not allowed */
    void (*before)(void);
} step;

static const step steps[] = {
    {"store_open", "new first", do_open, 0, NULL},
    {"store_map_module", "new", do_map, 0, NULL},
    {"store_capture", "", do_capture, 0, write_pages},
    {"store_capture_commit", "image", do_capture_commit, 0, NULL},
    {"store_persist", "new", do_persist, 0, NULL},
    {"store_capture", "", do_capture, 1, write_pages},
    {"store_capture_commit", "", do_capture_commit, 0, NULL},
    {"store_precopy", "", do_precopy, 0, write_pages},
    {"store_capture", "", do_capture, 0, NULL}, /* the capture makes new lists in place of those that it takes over */
    {"store_capture_cancel", "", do_capture_cancel, 0, NULL},
    {"store_capture", "", do_capture, 0, write_pages},
    {"store_capture_commit", "", do_capture_commit, 0, NULL},
    {"store_persist", "again", do_persist, 0, NULL}, /* several files */
    {"store_persist", "nothing", do_persist, 1, NULL},
    {"store_capture", "", do_capture, 1, write_few},
    {"store_capture_commit", "", do_capture_commit, 0, NULL},
    {"store_persist", "small", do_persist, 0, NULL},
    {"store_audit", "", do_audit, 0, NULL}, /* several files */
    {"store_restore", "", do_restore, 0, NULL},
    {"store_discard", "", do_discard, 0, NULL},
    {"store_audit", "", do_audit, 0, NULL},
    {"", "", do_the_rest, 1, NULL},
    {"store_list_modules", "", do_list_modules, 0, NULL},
    {"store_verify", "", do_verify, 0, NULL},
    {"store_read", "", do_read, 0, NULL},
    {"store_diff", "", do_diff, 0, NULL},
    {"store_export", "", do_export, 0, make_stream},
    {"store_clone", "", do_clone, 0, NULL},
    {"store_delete_commit", "", do_delete, 0, NULL},
    {"store_import", "", do_import, 0, delete_the_last},
    {"store_compact", "", do_compact, 0, end_stream},
    {"store_unmap_module", "", do_unmap, 0, NULL},
    {"store_map_module", "again image", do_map, 0, NULL},
    {"store_capture", "image", do_capture, 0, write_pages},
    {"store_capture_cancel", "", do_capture_cancel, 0, NULL},
    {"store_discard", "image", do_discard, 0, NULL},
    {"store_grow_module", "", do_grow, 0, NULL},
    {"store_close", "", do_close, 0, NULL},
    {"store_open", "again", do_open, 0, NULL},
    {"store_read", "", do_read, 0, NULL}, /* of a commit whose index was not read yet */
    {"store_map_module", "again image", do_map, 0, NULL},
    {"store_audit", "image", do_audit, 0, NULL},
    {"store_unmap_module", "", do_unmap, 0, NULL},
    {"store_close", "empty", do_close, 0, NULL},
    {"store_open", "readonly", do_open_readonly, 0, NULL},
    {"store_map_module", "again image readonly", do_map, 0, NULL},
    {"store_restore", "readonly", do_restore, 0, NULL},
    {"store_close", "readonly", do_close, 0, NULL},
    {"store_open", "readonly", do_open_readonly, 0, NULL},
    {"store_map_module", "again image readonly", do_map, 0, NULL},
    {"store_audit", "readonly", do_audit, 0, NULL},
    {"store_close", "readonly", do_close, 0, NULL},
    {"store_probe", "", do_probe, 0, NULL},
};
enum { STEPS = sizeof steps / sizeof *steps };

static setting settings[] = {
    {"private kernel", VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_KERNEL},
    {"shared kernel", VMSTORE_MAP_SHARED, VMSTORE_TRACKER_KERNEL},
    {"private compare", VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_COMPARE},
    {"shared compare", VMSTORE_MAP_SHARED, VMSTORE_TRACKER_COMPARE},
    {"memfd kernel", VMSTORE_MAP_MEMFD, VMSTORE_TRACKER_KERNEL},
    {"memfd fd compare", VMSTORE_MAP_MEMFD | VMSTORE_MAP_FD, VMSTORE_TRACKER_COMPARE},
    {"adopt kernel", VMSTORE_MAP_ADOPT, VMSTORE_TRACKER_KERNEL},
    {"private reserved kernel", VMSTORE_MAP_PRIVATE | VMSTORE_MAP_RESERVED, VMSTORE_TRACKER_KERNEL},
    {"private kernel eager", VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_KERNEL},
    {"private compare thrifty", VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_COMPARE},
    {"private kernel thrifty", VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_KERNEL},
    {"private caller", VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_CALLER},
    {"private compare fails", VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_COMPARE},
    {"shared compare fails", VMSTORE_MAP_SHARED, VMSTORE_TRACKER_COMPARE},
    {"memfd compare fails", VMSTORE_MAP_MEMFD, VMSTORE_TRACKER_COMPARE},
    {"private kernel thread", VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_KERNEL},
    {"shared compare thread", VMSTORE_MAP_SHARED, VMSTORE_TRACKER_COMPARE},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

#endif
