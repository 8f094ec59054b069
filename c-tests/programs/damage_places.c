/* Files that are missing, that are not regular files any more, that belong to another store, or that have another
 * file's contents. What a symlink points to outside of the store is never changed. */
#include "examine.h"

#include <sys/sysmacros.h>

static struct model model, other_model;
static const char *master, *other, *outside;

static const char *below(const char *directory, const char *file)
{
    static char paths[4][4400];
    static unsigned next;
    char *path = paths[next++ % 4];
    CHECK(snprintf(path, sizeof paths[0], "%s/%s", directory, file) < (int)sizeof paths[0]);
    return path;
}

static const char *base_name(const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

static void put_file_from(const char *from, const char *to)
{
    size_t length;
    unsigned char *bytes = read_file(from, &length);
    write_file(to, bytes, length);
    free(bytes);
}

enum way { GONE, DIRECTORY, FULL_DIRECTORY, FIFO, SOCKET, DEVICE, SYMLINK_OUTSIDE, SYMLINK_NOWHERE, SYMLINK_LOOP,
           SYMLINK_TO_NULL, HARD_LINK_OUTSIDE, UNREADABLE, OF_ANOTHER_STORE, WAYS };
static const char *const way_names[WAYS] = {
    "removed", "a directory", "a directory that is not empty", "a FIFO", "a socket", "a device",
    "a symlink to its bytes outside", "a symlink to nowhere", "a symlink to itself", "a symlink to /dev/null",
    "a hard link to a file outside", "not to be read", "another store's"};

static const unsigned char somebody_elses[] = "a file of somebody else's, with more bytes than a footer has: "
                                              "................................................................";

/* What is put at the file's path. */
static void put_in_place(const char *path, const char *file, enum way way)
{
    if (way == UNREADABLE) {
        put_file_from(below(master, file), path); /* a new inode: the old one is also the master's */
        CHECK(chmod(path, 0) == 0);
        return;
    }
    if (way == OF_ANOTHER_STORE) {
        put_file_from(below(other, file), path);
        return;
    }
    CHECK(unlink(path) == 0);
    if (way == DIRECTORY || way == FULL_DIRECTORY) CHECK(mkdir(path, 0700) == 0);
    if (way == FULL_DIRECTORY) write_file(below(path, "inside"), "x", 1);
    if (way == FIFO) CHECK(mkfifo(path, 0600) == 0);
    if (way == SOCKET) CHECK(mknod(path, S_IFSOCK | 0600, 0) == 0);
    /* /dev/zero would give zeros without end. Where device nodes may not be made, this is one more FIFO. */
    if (way == DEVICE && mknod(path, S_IFCHR | 0600, makedev(1, 5)) != 0) {
        printf("left out: a device at the path of %s (%s); a FIFO is there instead\n", file, strerror(errno));
        CHECK(mkfifo(path, 0600) == 0);
    }
    if (way == HARD_LINK_OUTSIDE) {
        if (exists(outside)) CHECK(unlink(outside) == 0);
        write_file(outside, somebody_elses, sizeof somebody_elses);
        CHECK(link(outside, path) == 0);
    }
    if (way == SYMLINK_NOWHERE) CHECK(symlink("nowhere/at/all", path) == 0);
    if (way == SYMLINK_LOOP) CHECK(symlink(base_name(file), path) == 0);
    if (way == SYMLINK_TO_NULL) CHECK(symlink("/dev/null", path) == 0);
    if (way == SYMLINK_OUTSIDE) {
        put_file_from(below(master, file), outside);
        CHECK(symlink(outside, path) == 0);
    }
}

static void outside_is_unchanged(const char *file)
{
    size_t length, was;
    unsigned char *now = read_file(outside, &length), *before = read_file(below(master, file), &was);
    if (length != was || memcmp(now, before, was) != 0)
        FAIL("the file outside that a symlink points to was changed");
    free(now);
    free(before);
    struct stat status;
    CHECK(stat(outside, &status) == 0 && status.st_nlink == 1);
}

static void every_place(const char *file, unsigned allowed)
{
    struct examination e = {.model = &model,
                            .names = {base_name(file), "commits", "identity", "journal"},
                            .persisted = PERSISTED,
                            .salvage_every = 1,
                            .allowed = allowed | ANY_ERROR};
    if (!allowed) memset(e.names + 1, 0, 3 * sizeof *e.names);
    for (enum way way = GONE; way < WAYS; way++) {
        e.path = fresh_copy(master);
        trying("%s replaced: %s", file, way_names[way]);
        put_in_place(below(e.path, file), file, way);
        examine(&e);
        if (way == SYMLINK_OUTSIDE) outside_is_unchanged(file);
        if (way == HARD_LINK_OUTSIDE) {
            size_t length;
            unsigned char *now = read_file(outside, &length);
            if (length != sizeof somebody_elses || memcmp(now, somebody_elses, length) != 0)
                FAIL("the file outside that has a hard link here was changed");
            free(now);
            CHECK(unlink(outside) == 0);
        }
    }
}

static void swap_two(const char *one, const char *two)
{
    struct examination e = {.model = &model,
                            .names = {base_name(one), base_name(two), "commits", "identity"},
                            .persisted = PERSISTED,
                            .allowed = ANY_ERROR,
                            .path = fresh_copy(master)};
    trying("%s and %s exchanged", one, two);
    put_file_from(below(master, two), below(e.path, one));
    put_file_from(below(master, one), below(e.path, two));
    examine(&e);
}

/* Several files of another store at once: the result is neither that store nor this one. */
static void mixed_stores(void)
{
    static const char *const sets[][4] = {
        {"commits", ".vmstore/journal"},
        {"commits", ".vmstore/journal", ".vmstore/identity"},
        {".vmstore/journal", ".vmstore/identity"},
        {"ram_Commit1", "ram_Commit2", "ram_Commit3"},
        {"ram_Commit1", "dev_Commit1", "commits", ".vmstore/journal"},
    };
    for (size_t set = 0; set < sizeof sets / sizeof *sets; set++) {
        struct examination e = {.model = &model, .persisted = 0, .allowed = ANY_ERROR | MAY_FORGET,
                                .names = {"commits", "journal", "_Commit", "identity"},
                                .path = fresh_copy(master)};
        trying("set %zu of files from another store", set);
        for (int i = 0; i < 4 && sets[set][i]; i++)
            put_file_from(below(other, sets[set][i]), below(e.path, sets[set][i]));
        unsigned harmless = outcome.harmless;
        examine(&e);
        CHECK(outcome.harmless == harmless);
    }
}

/* The links and backing files hold no information of their own. A store without them, or with nonsense at their
 * paths, has all its commits, or gives an error that names them. */
static void links_and_backing_files(void)
{
    static const char *const names[] = {"ram_last", "dev_last", "late_last", "ram", "dev", "late"};
    static const char *const targets[] = {"ram_Commit1", "dev_Commit1", "../../outside", "", "/etc/passwd",
                                          "ram_last", "commits", ".vmstore/journal"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i += stride(3)) {
        struct examination e = {
            .model = &model, .names = {names[i]}, .persisted = PERSISTED, .allowed = ANY_ERROR};
        if (i < 3) {
            for (size_t target = 0; target < sizeof targets / sizeof *targets; target++) {
                if (!targets[target][0]) continue;
                e.path = fresh_copy(master);
                trying("%s points to %s", names[i], targets[target]);
                CHECK(unlink(below(e.path, names[i])) == 0);
                CHECK(symlink(targets[target], below(e.path, names[i])) == 0);
                unsigned harmless = outcome.harmless;
                examine(&e);
                CHECK(outcome.harmless == harmless + 1);
            }
        }
        for (enum way way = GONE; way < UNREADABLE; way++) {
            if (way == SYMLINK_OUTSIDE && i < 3) continue;
            e.path = fresh_copy(master);
            e.allowed = ANY_ERROR | (way == DIRECTORY || way == FULL_DIRECTORY ? NOT_MAPPABLE : 0);
            trying("%s replaced: %s", names[i], way_names[way]);
            const char *path = below(e.path, names[i]);
            if (exists(path)) CHECK(unlink(path) == 0);
            write_file(path, "", 0);
            if (way == SYMLINK_OUTSIDE) {
                CHECK(unlink(path) == 0);
                write_file(outside, "mine", 4);
                CHECK(symlink(outside, path) == 0);
            } else {
                put_in_place(path, names[i], way);
            }
            examine(&e);
            if (way == SYMLINK_OUTSIDE) {
                size_t length;
                unsigned char *bytes = read_file(outside, &length);
                CHECK(length == 4 && memcmp(bytes, "mine", 4) == 0);
                free(bytes);
            }
        }
    }
}

/* In shared mode the backing file is written: never through a symlink to another file. */
static void shared_mode_does_not_follow(void)
{
    vmstore *store;
    vmstore_module *module = NULL;
    vmstore_map_options options = {.struct_size = sizeof options, .flags = VMSTORE_MAP_SHARED};
    const char *copy = fresh_copy(master), *path = below(copy, "ram");
    size_t length;
    trying("a backing file that is a symlink, mapped shared");
    if (exists(path)) CHECK(unlink(path) == 0);
    write_file(outside, "mine", 4);
    CHECK(symlink(outside, path) == 0);
    OK(store_open(copy, NULL, &store));
    int status = store_map_module(store, "ram", 0, &options, &module);
    if (status == VMSTORE_OK) {
        CHECK(memcmp(store_module_address(module), model.bytes[5], module_pages[0] * page_size()) == 0);
        memset(store_module_address(module), 1, page_size());
    } else {
        CHECK(status < -4096 && strstr(last_error(), "ram"));
    }
    OK(store_close(store));
    unsigned char *bytes = read_file(outside, &length);
    CHECK(length == 4 && memcmp(bytes, "mine", 4) == 0);
    free(bytes);
    outcome.tried++;
    outcome.harmless++;
}

/* Files that this library did not make are not taken for commits, and do not stop a store from opening. */
static void strangers(void)
{
    static const char *const names[] = {"notes.txt", "ram_Commit7", "ram_Commit999999999999999999999",
                                        "ram_Commit02", "ghost_Commit1", "ghost", ".vmstore/notes", ".hidden",
                                        "ram_Commit2.bak", "_Commit1", "ghost_last"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct examination e = {
            .model = &model, .names = {base_name(names[i])}, .persisted = PERSISTED, .path = fresh_copy(master)};
        trying("a file of another program called %s", names[i]);
        write_file(below(e.path, names[i]), "stranger", 8);
        unsigned harmless = outcome.harmless;
        examine(&e);
        CHECK(outcome.harmless == harmless + 1);
    }
}

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    watch_signals();
    master = path_in(argv[1], "master");
    other = path_in(argv[1], "other");
    outside = path_in(argv[1], "outside");
    build_store(master, 4, 0, &model);
    build_store(other, 5, 0, &other_model);

    static const char *const files[] = {"ram_Commit1", "ram_Commit2", "ram_Commit4", "ram_Commit5",
                                        "dev_Commit1", "dev_Commit3", "late_Commit3", "late_Commit6"};
    const size_t count = sizeof files / sizeof *files;
    for (size_t i = 0; i < count; i += stride(5)) every_place(files[i], 0);
    every_place("commits", COMMITS_DAMAGED);
    every_place(".vmstore/journal", COMMITS_DAMAGED);
    every_place(".vmstore/identity", MAY_FORGET);
    every_place(".vmstore/high-water", 0);
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < i; j += stride(7)) swap_two(files[i], files[j]);
    swap_two("commits", ".vmstore/journal");
    swap_two("commits", "ram_Commit1");
    swap_two(".vmstore/identity", ".vmstore/journal");
    swap_two(".vmstore/high-water", ".vmstore/journal");
    mixed_stores();
    links_and_backing_files();
    shared_mode_does_not_follow();
    strangers();

    master_is_intact((struct examination){.path = master, .model = &model, .persisted = PERSISTED});
    free_model(&model);
    free_model(&other_model);
    return finished_damage();
}
