/* Shared by the programs that damage a store: a small store whose commits are all known, cheap copies of the store,
 * and the list of its files. */
#ifndef DAMAGE_H
#define DAMAGE_H

#include "misuse.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>

enum { MODULES = 3, COMMITS = 6, PERSISTED = 4, ALL_PAGES = 8 + 4 + 4 };
static const char *const module_ids[MODULES] = {"ram", "dev", "late"};
static const size_t module_pages[MODULES] = {8, 4, 4};

/* A module commit with few and known data pages: what follows the pages is the index and footer. */
#define DELTA "ram_Commit2"
enum { DELTA_DATA_PAGES = 2 };

/* Every module's bytes at every commit, one after another; commit 0 is all zeros. */
struct model {
    unsigned char *bytes[COMMITS + 1];
};

/* What the damage led to. The counts are printed: a test that never saw one of these outcomes may have tried
 * nothing. */
static struct {
    unsigned tried, harmless, refused, forgotten, corrupt_later, salvaged, salvaged_commits;
} outcome;

static inline void tell_and_die(int number)
{
    /* SA_RESETHAND: the second signal ends the program as if there were no handler. */
    if (write(2, "signal while trying: ", 21) < 0 || write(2, trying_text, strlen(trying_text)) < 0 ||
        write(2, "\n", 1) < 0)
        _exit(1);
    raise(number);
}

static inline void watch_signals(void)
{
    const int numbers[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGALRM};
    struct sigaction action = {.sa_handler = tell_and_die, .sa_flags = SA_RESETHAND | SA_NODEFER};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        CHECK(sigaction(numbers[i], &action, NULL) == 0);
}

static inline size_t model_size(void)
{
    return ALL_PAGES * page_size();
}

static inline vmstore_module *map_for_damage(vmstore *store, int which, int *status)
{
    /* The memory is never written. EAGER because lazy pages are the stated exception to "no wrong bytes". */
    vmstore_map_options options = {
        .struct_size = sizeof options, .flags = VMSTORE_MAP_EAGER, .tracker = VMSTORE_TRACKER_CALLER};
    vmstore_module *module = NULL;
    *status = store_map_module(store, module_ids[which], module_pages[which] * page_size(), &options, &module);
    return module;
}

/* Six commits. The first writes every module whole, `late` begins with the third, the fourth branches off the
 * second, and in every second commit a page becomes zero. Four or all six of them are persisted. The head is moved
 * to the fifth. */
static inline void build_store(const char *path, uint64_t seed, int persist_all, struct model *model)
{
    vmstore *store;
    unsigned char *memories[MODULES] = {0};
    uint64_t state = seed, commit = 0;
    trying("building %s", path);
    OK(store_open(path, NULL, &store));
    model->bytes[0] = calloc(1, model_size());
    CHECK(model->bytes[0]);
    for (int number = 1; number <= COMMITS; number++) {
        for (int which = 0; which < MODULES; which++)
            if (number == (which == 2 ? 3 : 1)) {
                vmstore_module *module;
                OK(store_map_module(store, module_ids[which], module_pages[which] * page_size(), NULL, &module));
                memories[which] = store_module_address(module);
            }
        if (number == 4) OK(store_restore(store, 2, NULL));
        for (int which = 0; which < MODULES; which++) {
            size_t pages = number == 1 ? module_pages[which] - 1 : (size_t)(which == 0 ? 2 : 1);
            if (!memories[which] || (which == 1 && number % 3 == 2)) continue;
            for (size_t page = 0; page < pages; page++) {
                /* Neither the first page, which is filled below, nor the last, which stays zero. */
                size_t place = number == 1 ? page : 1 + ((size_t)number * 3 + page) % (module_pages[which] - 2);
                for (size_t i = 0; i < page_size(); i += sizeof state) {
                    uint64_t random = next_random(&state);
                    memcpy(memories[which] + place * page_size() + i, &random, sizeof random);
                }
            }
        }
        if (number % 2 == 0) memset(memories[0], 0, page_size());
        else memset(memories[0], number, page_size());
        OK(store_commit(store, NULL, &commit));
        CHECK(commit == (uint64_t)number);
        unsigned char *to = model->bytes[number] = calloc(1, model_size());
        CHECK(to);
        for (int which = 0; which < MODULES; to += module_pages[which++] * page_size())
            if (memories[which]) memcpy(to, memories[which], module_pages[which] * page_size());
        if (number == (persist_all ? COMMITS : PERSISTED)) OK(store_persist(store, NULL));
    }
    OK(store_restore(store, 5, NULL));
    if (persist_all) OK(store_persist(store, NULL));
    OK(store_close(store));
}

static inline void free_model(struct model *model)
{
    for (int number = 0; number <= COMMITS; number++) free(model->bytes[number]);
}

/* The bytes of a whole file. The caller frees them. */
static inline unsigned char *read_file(const char *path, size_t *length)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0) FAIL("%s: %s", path, strerror(errno));
    *length = (size_t)status.st_size;
    unsigned char *bytes = malloc(*length + 1);
    CHECK(bytes && read(fd, bytes, *length) == (ssize_t)*length && close(fd) == 0);
    return bytes;
}

/* Writes a file with these bytes. If the old file has other names, a new file is made, and the other names keep the
 * old bytes. */
static inline void write_file(const char *path, const void *bytes, size_t length)
{
    struct stat status;
    if (lstat(path, &status) == 0 && (!S_ISREG(status.st_mode) || status.st_nlink > 1) && unlink(path) != 0)
        FAIL("%s: %s", path, strerror(errno));
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || pwrite(fd, bytes, length, 0) != (ssize_t)length || ftruncate(fd, (off_t)length) != 0 ||
        close(fd) != 0)
        FAIL("%s: %s", path, strerror(errno));
}

static inline int remove_one(const char *path, const struct stat *status, int type, struct FTW *place)
{
    (void)status;
    (void)type;
    (void)place;
    return remove(path);
}

static inline void remove_tree(const char *path)
{
    if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
        FAIL("%s: %s", path, strerror(errno));
}

/* Copies a store. Module commits never change, so a hard link serves as the copy. */
static inline void copy_store(const char *from, const char *to)
{
    DIR *directory = opendir(from);
    if (!directory || mkdir(to, 0700) != 0) FAIL("%s: %s", to, strerror(errno));
    for (struct dirent *entry; (entry = readdir(directory));) {
        char source[4096], target[4096], link_text[256];
        struct stat status;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        CHECK(snprintf(source, sizeof source, "%s/%s", from, entry->d_name) < (int)sizeof source);
        CHECK(snprintf(target, sizeof target, "%s/%s", to, entry->d_name) < (int)sizeof target);
        CHECK(lstat(source, &status) == 0);
        if (S_ISDIR(status.st_mode)) {
            copy_store(source, target);
        } else if (S_ISLNK(status.st_mode)) {
            ssize_t length = readlink(source, link_text, sizeof link_text - 1);
            CHECK(length > 0);
            link_text[length] = 0;
            CHECK(symlink(link_text, target) == 0);
        } else if (strstr(entry->d_name, "_Commit")) {
            CHECK(link(source, target) == 0);
        } else {
            size_t length;
            unsigned char *bytes = read_file(source, &length);
            write_file(target, bytes, length);
            free(bytes);
        }
    }
    CHECK(closedir(directory) == 0);
}

/* A number that changes when a name or a size in the tree changes. */
static uint64_t listing;

static inline int add_to_listing(const char *path, const struct stat *status, int type, struct FTW *place)
{
    uint64_t sum = UINT64_C(14695981039346656037);
    (void)place;
    for (; *path; path++) sum = (sum ^ (unsigned char)*path) * UINT64_C(1099511628211);
    if (type == FTW_F) sum = (sum ^ (uint64_t)status->st_size) * UINT64_C(1099511628211);
    listing += sum; /* a sum does not depend on the order of the walk */
    return 0;
}

static inline uint64_t list_tree(const char *path)
{
    listing = 0;
    CHECK(nftw(path, add_to_listing, 16, FTW_PHYS) == 0);
    return listing;
}

/* The regular files of a directory, by name. Returns how many. */
static inline size_t files_of(const char *path, char names[][64], size_t room)
{
    size_t count = 0;
    DIR *directory = opendir(path);
    CHECK(directory);
    for (struct dirent *entry; (entry = readdir(directory));) {
        char file[4096];
        struct stat status;
        CHECK(snprintf(file, sizeof file, "%s/%s", path, entry->d_name) < (int)sizeof file);
        if (lstat(file, &status) != 0 || !S_ISREG(status.st_mode)) continue;
        CHECK(count < room && strlen(entry->d_name) < 64);
        strcpy(names[count++], entry->d_name);
    }
    CHECK(closedir(directory) == 0);
    return count;
}

#endif
