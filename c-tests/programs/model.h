/* Shared by the programs that compare memory with a model: seeded randomness, page contents, exact comparison,
 * directory listings, and the library's options filled in. Needs _GNU_SOURCE. */
#ifndef MODEL_H
#define MODEL_H

#include <dirent.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "check.h"

#define PAGE ((size_t)4096)

/* All sizes in these programs are in pages of 4096 bytes. On a host with larger pages the program prints that it is
 * skipped. */
static inline void require_small_pages(const char *program)
{
    if (sysconf(_SC_PAGESIZE) == (long)PAGE) return;
    printf("%s: skipped: this host has pages of %ld bytes\n", program, sysconf(_SC_PAGESIZE));
    exit(0);
}

/* ---- randomness: splitmix64, so that a seed alone decides everything ---- */

typedef struct {
    uint64_t state;
} rng;

static inline uint64_t next(rng *r)
{
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t below(rng *r, uint64_t limit)
{
    return next(r) % limit;
}

static inline uint64_t seed(void)
{
    const char *text = getenv("VMSTORE_SEED");
    return text ? strtoull(text, NULL, 0) : 20240229;
}

/* How many times as much as usual is to be tried: VMSTORE_LONG, or 1 when it is not set. */
static inline unsigned longer(void)
{
    const char *text = getenv("VMSTORE_LONG");
    return text && !brief() && !slow() ? (unsigned)strtoul(text, NULL, 0) : 1;
}

static inline double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* ---- contents ---- */

static inline void fill(void *memory, size_t length, uint64_t content)
{
    rng r = {content};
    for (size_t at = 0; at + 8 <= length; at += 8) {
        uint64_t word = next(&r);
        memcpy((char *)memory + at, &word, 8);
    }
}

static inline void same(const void *got, const void *want, size_t length, const char *what)
{
    if (memcmp(got, want, length) == 0) return;
    const unsigned char *g = got, *w = want;
    size_t at = 0, wrong_pages = 0;
    while (g[at] == w[at]) at++;
    for (size_t page = 0; page < length; page += PAGE) {
        size_t size = length - page < PAGE ? length - page : PAGE;
        wrong_pages += memcmp(g + page, w + page, size) != 0;
    }
    FAIL("%s: %zu wrong pages, first at page %zu byte %zu: 0x%02x instead of 0x%02x", what,
         wrong_pages, at / PAGE, at % PAGE, g[at], w[at]);
}

/* ---- the directory ---- */

static inline int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* As path_in, but the text stays valid until the caller frees it. */
static inline void name_directory(char path[4096], const char *stores, const char *name)
{
    int length = snprintf(path, 4096, "%s/%s", stores, name);
    CHECK(length > 0 && length < 4096);
}

/* All names except `.` and `..`, sorted, each followed by a blank; a link as `name->target`. */
static inline const char *listing(const char *directory)
{
    static char text[1 << 16];
    static char *names[4096];
    size_t count = 0, used = 0;
    DIR *stream = opendir(directory);
    if (!stream) FAIL("%s: %s", directory, strerror(errno));
    for (struct dirent *entry; (entry = readdir(stream));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        CHECK(count < sizeof names / sizeof *names);
        names[count++] = strdup(entry->d_name);
    }
    qsort(names, count, sizeof *names, by_name);
    text[0] = 0;
    for (size_t i = 0; i < count; i++) {
        char target[4096];
        ssize_t length = readlinkat(dirfd(stream), names[i], target, sizeof target - 1);
        target[length < 0 ? 0 : length] = 0;
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s%s ", names[i],
                                 length < 0 ? "" : "->", target);
        CHECK(used < sizeof text);
        free(names[i]);
    }
    closedir(stream);
    return text;
}

/* Copies a directory with its links, hard links, holes and modes. */
static inline void copy_directory(const char *from, const char *to)
{
    extern char **environ;
    char *arguments[] = {"cp", "-a", (char *)from, (char *)to, NULL};
    pid_t child;
    int status;
    CHECK(posix_spawnp(&child, "cp", NULL, NULL, arguments, environ) == 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* ---- the library ---- */

static inline vmstore *open_store(const char *directory, uint32_t flags)
{
    vmstore_open_options options = {.struct_size = sizeof options, .flags = flags};
    vmstore *store;
    OK(store_open(directory, &options, &store));
    return store;
}

typedef struct {
    vmstore_module *handle;
    unsigned char *memory;
} mapped;

static inline mapped map(vmstore *store, const char *id, size_t size, uint32_t flags,
                         uint32_t tracker)
{
    vmstore_map_options options = {
        .struct_size = sizeof options, .flags = flags, .tracker = tracker};
    mapped module;
    OK(store_map_module(store, id, size, &options, &module.handle));
    module.memory = store_module_address(module.handle);
    CHECK(module.memory != NULL && (uintptr_t)module.memory % PAGE == 0);
    CHECK(size == 0 || store_module_size(module.handle) == size);
    return module;
}

static inline uint64_t commit(vmstore *store)
{
    uint64_t number = 0;
    OK(store_commit(store, NULL, &number));
    CHECK(number > 0);
    return number;
}

static inline uint64_t head(vmstore *store)
{
    uint64_t number = 0;
    OK(store_head(store, &number));
    return number;
}

static inline vmstore_stats stats(vmstore *store)
{
    vmstore_stats s = {.struct_size = sizeof s};
    OK(store_stats(store, &s));
    return s;
}

static inline vmstore_commit_info info(vmstore *store, uint64_t number)
{
    vmstore_commit_info i = {.struct_size = sizeof i};
    OK(store_commit_info(store, number, &i));
    CHECK(i.commit == number);
    return i;
}

static inline size_t commit_count(vmstore *store)
{
    size_t count = 0;
    OK(store_list_commits(store, NULL, 0, &count));
    return count;
}

/* 1 when the kernel tracker passed the library's self-test on this host (and under this wrapper). */
static inline int kernel_tracker(void)
{
    vmstore_capabilities c = {.struct_size = sizeof c};
    OK(store_probe(NULL, &c));
    return c.kernel_tracker != 0;
}

#endif
