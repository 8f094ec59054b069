/* Clones of a whole history and of one commit, on one file system and across two. Source and clone then commit,
 * delete, compact and persist, and neither changes the other. A model of both holds the expected bytes. */
#define _GNU_SOURCE
#include <sys/stat.h>

#include "model.h"

enum { COMMITS = 12, PAGES = 32 };

typedef struct {
    vmstore *store;
    mapped ram;
    unsigned char now[PAGES * PAGE];
    unsigned char *at[200];
    uint64_t last;
} side;

static unsigned long compared, clones;

static void change(side *s, rng *r)
{
    for (int i = 0; i < 4; i++) {
        size_t page = below(r, PAGES);
        fill(s->now + page * PAGE, PAGE, next(r));
        memcpy(s->ram.memory + page * PAGE, s->now + page * PAGE, PAGE);
    }
    s->last = commit(s->store);
    CHECK(s->last < 200 && !s->at[s->last]);
    CHECK((s->at[s->last] = malloc(sizeof s->now)));
    memcpy(s->at[s->last], s->now, sizeof s->now);
}

static void check(side *s)
{
    size_t expected = 0;
    uint64_t back = head(s->store);
    for (uint64_t n = 1; n < 200; n++) {
        if (!s->at[n]) continue;
        OK(store_restore(s->store, n, NULL));
        same(s->ram.memory, s->at[n], sizeof s->now, "one of two stores");
        compared++, expected++;
    }
    CHECK(commit_count(s->store) == expected);
    OK(store_restore(s->store, back, NULL));
    OK(store_verify(s->store, NULL));
}

static void delete_some(side *s, rng *r)
{
    for (uint64_t n = 1; n < 200; n++) {
        if (!s->at[n] || n == head(s->store) || below(r, 3)) continue;
        OK(store_delete_commit(s->store, n));
        free(s->at[n]);
        s->at[n] = NULL;
    }
}

static void go_on(side *a, side *b, rng *r)
{
    side *sides[] = {a, b};
    for (int round = 0; round < 12; round++) {
        side *s = sides[below(r, 2)];
        switch (below(r, 5)) {
        case 0: delete_some(s, r); break;
        case 1: {
            vmstore_compact_options options = {.struct_size = sizeof options, .image_percent = round % 2};
            OK(store_compact(s->store, &options));
            break;
        }
        case 2: OK(store_persist(s->store, NULL)); break;
        default: change(s, r);
        }
        check(a);
        check(b);
    }
}

static void open_side(side *s, const char *directory, size_t size)
{
    s->store = open_store(directory, 0);
    s->ram = map(s->store, "ram", size, 0, VMSTORE_TRACKER_AUTO);
}

static void clone_and_go_on(side *source, rng *r, uint64_t only, const char *directory)
{
    static side clone;
    vmstore_commit_info i = info(source->store, only ? only : source->last), j;
    memset(&clone, 0, sizeof clone);
    OK(store_clone(source->store, only, directory));
    FAILS(store_clone(source->store, only, directory), VMSTORE_E_EXISTS, "already");
    FAILS(store_clone(source->store, only, directory), VMSTORE_E_EXISTS, "into ");
    /* A store inside another store's directory could get the name of a file of that store. */
    char within[4200];
    snprintf(within, sizeof within, "%s/within", directory);
    FAILS(store_clone(source->store, only, within), VMSTORE_E_INVALID, "directory of another");
    CHECK(access(within, F_OK) != 0 && mkdir(within, 0700) == 0);
    FAILS(store_clone(source->store, only, within), VMSTORE_E_INVALID, within);
    CHECK(rmdir(within) == 0);
    open_side(&clone, directory, 0);
    for (uint64_t n = 1; n < 200; n++) {
        if (!source->at[n] || (only && n != only)) continue;
        CHECK((clone.at[n] = malloc(sizeof clone.now)));
        memcpy(clone.at[n], source->at[n], sizeof clone.now);
    }
    CHECK(head(clone.store) == (only ? only : head(source->store)));
    memcpy(clone.now, clone.at[head(clone.store)], sizeof clone.now);
    same(clone.ram.memory, clone.now, sizeof clone.now, "a clone");
    j = info(clone.store, i.commit);
    CHECK(!memcmp(i.unique_id, j.unique_id, 16) && !strcmp(i.label, j.label) && i.time == j.time && j.persisted);
    memcpy(source->now, source->at[head(source->store)], sizeof source->now);
    go_on(source, &clone, r);
    OK(store_close(clone.store));
    for (uint64_t n = 1; n < 200; n++) free(clone.at[n]);
    clones++;
}

/* The inode of a commit's file. */
static ino_t file_of(const char *directory)
{
    char name[4400];
    struct stat file;
    snprintf(name, sizeof name, "%s/ram_Commit1", directory);
    CHECK(stat(name, &file) == 0);
    return file.st_ino;
}

/* How long a clone takes. A clone shares its files with the source, so a store that is a thousand times as large
 * takes no longer. */
static double timed(const char *directory, const char *to, size_t size)
{
    vmstore *store = open_store(directory, 0);
    mapped ram = map(store, "ram", size, 0, VMSTORE_TRACKER_AUTO);
    for (size_t page = 0; page < size; page += PAGE) ram.memory[page] = 1;
    commit(store);
    OK(store_persist(store, NULL));
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        char name[4200];
        snprintf(name, sizeof name, "%s-%d", to, i);
        double begun = seconds();
        OK(store_clone(store, 0, name));
        if (seconds() - begun < best) best = seconds() - begun;
        CHECK(file_of(name) == file_of(directory));
    }
    OK(store_close(store));
    return best;
}

int main(int count, char **arguments)
{
    static side source;
    CHECK(count >= 2);
    require_small_pages("clone");
    rng r = {seed()};
    open_side(&source, path_in(arguments[1], "source"), PAGES * PAGE);
    for (int n = 0; n < COMMITS; n++) change(&source, &r);
    clone_and_go_on(&source, &r, 0, path_in(arguments[1], "whole"));
    clone_and_go_on(&source, &r, head(source.store), path_in(arguments[1], "one"));
    /* To another file system, if there is one. */
    char elsewhere[] = "/dev/shm/vmstore-clone-XXXXXX";
    int other = mkdtemp(elsewhere) != NULL;
    if (other) {
        clone_and_go_on(&source, &r, 0, elsewhere);
        char *remove[] = {"rm", "-rf", elsewhere, NULL};
        extern char **environ;
        pid_t child;
        int status;
        CHECK(posix_spawnp(&child, "rm", NULL, NULL, remove, environ) == 0);
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    FAILS(store_clone(source.store, 199, path_in(arguments[1], "none")), VMSTORE_E_NOT_FOUND, "199");
    FAILS(store_clone(source.store, 0, NULL), VMSTORE_E_INVALID, "directory");
    FAILS(store_clone(source.store, 0, arguments[1]), VMSTORE_E_EXISTS, "not empty");
    OK(store_close(source.store));
    double small = timed(path_in(arguments[1], "small"), path_in(arguments[1], "small-clone"), 16 * PAGE);
    double large = timed(path_in(arguments[1], "large"), path_in(arguments[1], "large-clone"),
                         slow() ? 1600 * PAGE : 16000 * PAGE);
    printf("clone: seed %" PRIu64 ": %lu clones, %s two file systems, %lu commits of both sides compared; %.1f ms for "
           "64 KiB, %.1f ms for a thousand times as much\n",
           seed(), clones, other ? "also across" : "but not across", compared, small * 1e3, large * 1e3);
    return 0;
}
