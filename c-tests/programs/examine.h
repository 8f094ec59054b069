/* Examines a damaged store. The store opens, or store_open names what is damaged. Each listed commit restores to
 * the model's bytes, or the call names what is damaged. store_verify reports whatever makes a restore fail. */
#ifndef EXAMINE_H
#define EXAMINE_H

#include "damage.h"

/* What the damage may lead to, besides being found. */
enum {
    COMMITS_DAMAGED = 1, /* `commits` or the journal: salvage must work */
    MAY_FORGET = 2,      /* commits may be missing, as after going back in time */
    ANY_ERROR = 4,       /* not only E_CORRUPT and E_VERSION: more than bytes was changed */
    NOT_MAPPABLE = 8,    /* no commit is damaged, but the module cannot be mapped */
};

struct examination {
    const char *path;
    const struct model *model;
    const char *names[4]; /* every failure names one of these files */
    unsigned allowed;
    unsigned persisted;     /* how many commits a salvaged store must have, whatever happened to the journal */
    unsigned salvage_every; /* one in this many refused stores with a damaged `commits` or journal is salvaged */
};

/* The file that was damaged in the present copy, if nothing else in the copy can have changed. */
static char copied_file[4300];

static inline void names_a_file(const struct examination *e, const char *what, int status)
{
    char text[1024];
    store_last_error(text, sizeof text);
    for (size_t i = 0; i < 4 && e->names[i]; i++)
        if (strstr(text, e->names[i])) return;
    FAIL("%s gave %s, and \"%s\" does not name %s", what, store_strerror(status), text, e->names[0]);
}

static inline int is_damage(const struct examination *e, int status)
{
    if (e->allowed & NOT_MAPPABLE && (status == VMSTORE_E_IO || status == VMSTORE_E_EXISTS)) return 1;
    /* A file without read permission stops a user who is not root. */
    if (status == VMSTORE_E_IO && store_last_errno() == EACCES) return 1;
    return status == VMSTORE_E_CORRUPT || status == VMSTORE_E_NOT_FOUND || status == VMSTORE_E_VERSION;
}

static inline void compare_module(const struct examination *e, uint64_t commit, int which, const void *memory)
{
    const unsigned char *expected = e->model->bytes[commit];
    for (int before = 0; before < which; before++) expected += module_pages[before] * page_size();
    if (memcmp(memory, expected, module_pages[which] * page_size()) != 0)
        FAIL("WRONG BYTES in %s at commit %" PRIu64, module_ids[which], commit);
}

/* All modules are mapped at the head: restores in place. After a failure the memory must be unchanged. */
static inline int restore_in_place(const struct examination *e, vmstore *store, const uint64_t *commits,
                                   size_t count, vmstore_module *const *modules)
{
    int damaged = 0;
    uint64_t is = 0;
    OK(store_head(store, &is));
    for (size_t i = 0; i <= count; i++) {
        if (i > 0) {
            int status = store_restore(store, commits[i - 1], NULL);
            if (status == VMSTORE_OK) {
                is = commits[i - 1];
            } else {
                if (!is_damage(e, status)) FAIL("restore: %d (%s)", status, last_error());
                names_a_file(e, "store_restore", status);
                damaged = 1;
            }
        }
        for (int which = 0; which < MODULES; which++)
            compare_module(e, is, which, store_module_address(modules[which]));
    }
    return damaged;
}

/* Not all modules can be mapped at the head: maps each one afresh at each commit. */
static inline int map_afresh(const struct examination *e, vmstore *store, const uint64_t *commits, size_t count)
{
    int damaged = 0;
    for (size_t i = 0; i < count; i++) {
        int status = store_restore(store, commits[i], NULL);
        if (status != VMSTORE_OK) {
            if (!is_damage(e, status)) FAIL("restore: %d (%s)", status, last_error());
            names_a_file(e, "store_restore", status);
            damaged = 1;
            continue;
        }
        for (int which = 0; which < MODULES; which++) {
            vmstore_module *module = map_for_damage(store, which, &status);
            if (status == VMSTORE_OK) {
                compare_module(e, commits[i], which, store_module_address(module));
                OK(store_unmap_module(module));
            } else if (which == 2 && status == VMSTORE_E_READ_ONLY) {
                CHECK(commits[i] < 3); /* this commit does not have the module yet */
            } else {
                if (!is_damage(e, status)) FAIL("map: %d (%s)", status, last_error());
                names_a_file(e, "store_map_module", status);
                damaged = 1;
            }
        }
    }
    return damaged;
}

/* Compares every byte that can be read. Returns whether something that is listed could not be read. */
static inline int examine_commits(const struct examination *e, vmstore *store, const uint64_t *commits, size_t count)
{
    vmstore_module *modules[MODULES];
    int mapped = 0, status = VMSTORE_OK, damaged = 0;
    uint64_t head = 0;
    OK(store_head(store, &head));
    if (head > COMMITS) FAIL("the head is commit %" PRIu64 ", which was never made", head);
    while (mapped < MODULES) {
        modules[mapped] = map_for_damage(store, mapped, &status);
        if (status != VMSTORE_OK) break;
        mapped++;
    }
    if (mapped == MODULES) return restore_in_place(e, store, commits, count, modules);
    if (status != VMSTORE_E_READ_ONLY) {
        if (!is_damage(e, status)) FAIL("map: %d (%s)", status, last_error());
        names_a_file(e, "store_map_module", status);
        damaged = 1;
    }
    while (mapped > 0) OK(store_unmap_module(modules[--mapped]));
    return map_afresh(e, store, commits, count) || damaged;
}

static inline size_t listed_commits(const struct examination *e, vmstore *store, uint64_t *commits, int salvage)
{
    size_t count = 0;
    OK(store_list_commits(store, commits, COMMITS, &count));
    if (count > COMMITS) FAIL("%zu commits are listed, %d were made", count, COMMITS);
    for (size_t i = 0; i < count; i++) {
        vmstore_commit_info info = {.struct_size = sizeof info};
        if (commits[i] == 0 || commits[i] > COMMITS || (i && commits[i] <= commits[i - 1]))
            FAIL("commit %" PRIu64 " is listed: it was never made, or is out of order", commits[i]);
        OK(store_commit_info(store, commits[i], &info));
        CHECK(info.commit == commits[i]);
        if (salvage) continue;
        if (commits[i] != i + 1) FAIL("history has a hole before commit %" PRIu64, commits[i]);
        CHECK(info.parent == (commits[i] == 4 ? 2 : commits[i] - 1));
    }
    /* All commits must be there, persisted or not: this host has not rebooted. */
    if (!salvage && !(e->allowed & MAY_FORGET) && count < COMMITS)
        FAIL("%d commits were acknowledged, but only %zu are listed, and no call failed", COMMITS, count);
    return count;
}

/* After VMSTORE_E_CORRUPT: salvage gives what is intact, and changes no file. */
static inline void examine_salvage(const struct examination *e)
{
    vmstore_open_options options = {.struct_size = sizeof options,
                                    .flags = VMSTORE_OPEN_SALVAGE | VMSTORE_OPEN_NO_CREATE};
    vmstore *store;
    uint64_t commits[COMMITS], commit = SENTINEL, before = list_tree(e->path);
    OK(store_open(e->path, &options, &store));
    size_t count = listed_commits(e, store, commits, 1);
    FAILS(store_commit(store, NULL, &commit), VMSTORE_E_READ_ONLY, "read");
    if (examine_commits(e, store, commits, count)) FAIL("a salvaged commit could not be read: %s", last_error());
    /* Damage to the journal does not affect `commits`. */
    if (strcmp(e->names[0], "journal") == 0)
        for (size_t i = 0; i < e->persisted; i++) CHECK(i < count && commits[i] == i + 1);
    OK(store_close(store));
    if (before != list_tree(e->path)) FAIL("a salvaging opener changed the files");
    outcome.salvaged++;
    outcome.salvaged_commits += (unsigned)count;
}

/* Opens and examines the damaged store, counts the outcome, and ends the program if the outcome is not allowed. */
static inline void examine(const struct examination *e)
{
    vmstore_open_options options = {.struct_size = sizeof options, .flags = VMSTORE_OPEN_NO_CREATE};
    vmstore *store = SENTINEL_POINTER(vmstore);
    uint64_t commits[COMMITS], before = list_tree(e->path);
    outcome.tried++;
    alarm(60);
    int status = store_open(e->path, &options, &store);
    if (status != VMSTORE_OK) {
        if (status >= -4096) FAIL("store_open gave %d, which is no status of an error", status);
        if (!(e->allowed & ANY_ERROR) && status != VMSTORE_E_CORRUPT && status != VMSTORE_E_VERSION)
            FAIL("store_open: %s (%s)", store_strerror(status), last_error());
        CHECK(store == SENTINEL_POINTER(vmstore));
        names_a_file(e, "store_open", status);
        if (before != list_tree(e->path)) FAIL("an opener that failed changed the files");
        outcome.refused++;
        /* Salvage takes the longest. A part of the damages is enough to find an error in it. */
        static unsigned salvageable;
        if (status == VMSTORE_E_CORRUPT && e->allowed & COMMITS_DAMAGED && salvageable++ % e->salvage_every == 0)
            examine_salvage(e);
        alarm(0);
        return;
    }
    copied_file[0] = 0;
    int verified = store_verify(store, NULL);
    if (verified != VMSTORE_OK) {
        int forbidden = verified == VMSTORE_E_IO && store_last_errno() == EACCES;
        if (verified != VMSTORE_E_CORRUPT && !forbidden) FAIL("store_verify: %d (%s)", verified, last_error());
        names_a_file(e, "store_verify", verified);
    }
    size_t count = listed_commits(e, store, commits, 0);
    int damaged = examine_commits(e, store, commits, count);
    if (damaged && verified == VMSTORE_OK && !(e->allowed & NOT_MAPPABLE))
        FAIL("store_verify found no damage, but a call failed: %s", last_error());
    OK(store_close(store));
    alarm(0);
    if (damaged || verified != VMSTORE_OK) outcome.corrupt_later++;
    else if (count < COMMITS) outcome.forgotten++;
    else outcome.harmless++;
}

/* Makes a fresh copy of `master`. Its path is the same each time. */
static inline const char *fresh_copy(const char *master)
{
    static char path[4096];
    CHECK(snprintf(path, sizeof path, "%s-copy", master) < (int)sizeof path);
    remove_tree(path);
    copy_store(master, path);
    copied_file[0] = 0;
    return path;
}

/* Makes a copy in which only `file` is changed and has these bytes. If the library only refused the last copy, it
 * did not change the copy: the copy is then used again for damage to the same file. */
static inline void copy_with(struct examination *e, const char *master, const char *file, const void *bytes,
                             size_t length)
{
    static char path[4300], key[4300];
    CHECK(snprintf(key, sizeof key, "%s %s", master, file) < (int)sizeof key);
    if (strcmp(copied_file, key) != 0) e->path = fresh_copy(master);
    strcpy(copied_file, key);
    CHECK(snprintf(path, sizeof path, "%s/%s", e->path, file) < (int)sizeof path);
    write_file(path, bytes, length);
}

/* The original store is unchanged, although the copies share its files by hard links. */
static inline void master_is_intact(struct examination master)
{
    unsigned harmless = outcome.harmless;
    master.names[0] = "none";
    trying("the original of the copies");
    examine(&master);
    CHECK(outcome.harmless == harmless + 1);
}

static inline int finished_damage(void)
{
    return finished("%u damages: %u refused by store_open (%u salvaged, with %u commits), %u found later, "
                    "%u went back in time, %u harmless",
                    outcome.tried, outcome.refused, outcome.salvaged, outcome.salvaged_commits,
                    outcome.corrupt_later, outcome.forgotten, outcome.harmless);
}

#endif
