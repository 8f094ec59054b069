/* One full cycle of a store, with calls that may fail at any place, and the check of what it left.
 *
 *   cycle run DIRECTORY          commits 1 to STEPS, persists, restores, deletes commit 2, closes and reopens, and
 *                                compacts, which drops commit 1. Prints "made N" when commit N is made, "kept N" when
 *                                commit N and all before it are persisted, "going N" before the Nth deletion, and
 *                                "gone N" after it.
 *   cycle check DIRECTORY L M G H
 *                                checks that the store holds commits 1 to k with L <= k <= M, without the first G' of
 *                                the deleted commits, with G <= G' <= H. Each has its bytes, its label and its user data.
 *                                The head is the newest, or where the restores may have left it. The store takes a new commit.
 *   cycle clone DIRECTORY TO     clones the store as a reader.
 *   cycle full DIRECTORY S N     as run, but fills the file system at step S up to N free blocks of 4096 bytes. Checks
 *                                that what must work there works. Then the space is given back.
 *
 * A failing call is repeated a few times, and a poisoned store is reopened. The contents, the label and the user data of
 * commit n follow from n alone. CYCLE_SHARED=1 maps in shared mode. CYCLE_ANSWERS=1 waits for a byte on stdin after each
 * line. Exit: 0; 1 if a check failed; 3 if calls kept failing. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "contents.h"

enum { STEPS = 6, TRIES = 4, GIVEN_UP = 3 };

/* The deleted commits in their order, and the number of the last commit at that time. */
enum { DELETED = 2 };
static const uint64_t deleted[DELETED] = {2, 1}, deleted_at[DELETED] = {4, 6};

static vmstore *store;
static vmstore_module *modules[MODULES];
static unsigned char *memories[MODULES];
static const char *directory;
static uint64_t now; /* the commit whose bytes are in memory */
static char filler[4096];
static int full_at, is_full;
static unsigned long blocks_left, refused;

static void check_memory(uint64_t n, const char *when)
{
    unsigned char wanted[PAGE];
    for (int m = 0; m < MODULES; m++)
        for (int p = 0; memories[m] && p < pages[m]; p++) {
            page_at(wanted, n, m, p);
            if (memcmp(memories[m] + p * PAGE, wanted, PAGE))
                FAIL("%s: page %d of %s is not that of commit %llu", when, p, ids[m], (unsigned long long)n);
        }
}

static void write_step(uint64_t n)
{
    for (int m = 0; m < MODULES; m++)
        for (int p = 0; p < pages[m]; p++) page_at(memories[m] + p * PAGE, n, m, p);
}

static void say(const char *what, uint64_t n)
{
    char line[64], answer;
    int length = snprintf(line, sizeof line, "%s %llu\n", what, (unsigned long long)n);
    if (write(1, line, (size_t)length) != length) exit(GIVEN_UP);
    if (getenv("CYCLE_ANSWERS") && read(0, &answer, 1) != 1) exit(GIVEN_UP);
}

/* Reports that a call of the library returned an error. */
static void report_failure(void)
{
    static uint64_t failed;
    say("failed", ++failed);
}

static void give_space_back(void)
{
    if (is_full && unlink(filler) != 0) FAIL("%s: %s", filler, strerror(errno));
    is_full = 0;
}

/* On a full disk a call may fail only because there is no space. Commits can still be listed and restored. */
static void refused_for_space(int status)
{
    uint64_t head, commits[STEPS];
    size_t count;
    refused++;
    if (status != VMSTORE_E_NO_SPACE) FAIL("on a full disk: %s", why());
    if (store) {
        if (store_list_commits(store, commits, STEPS, &count) || store_head(store, &head)) FAIL("list: %s", why());
        for (size_t i = 0; i < count; i++) {
            if (store_restore(store, commits[i], NULL)) FAIL("restore on a full disk: %s", why());
            check_memory(commits[i], "restored on a full disk");
        }
        if (head && store_restore(store, head, NULL)) FAIL("restore on a full disk: %s", why());
    }
    give_space_back();
}

static int open_once(void)
{
    vmstore_map_options options = {.struct_size = sizeof options,
                                   .flags = getenv("CYCLE_SHARED") ? VMSTORE_MAP_SHARED : VMSTORE_MAP_PRIVATE};
    int status;
    if (!store && (status = store_open(directory, NULL, &store))) return store = NULL, status;
    if ((status = store_head(store, &now))) return status;
    for (int m = 0; m < MODULES; m++) {
        if (memories[m]) continue;
        status = store_map_module(store, ids[m], (uint64_t)pages[m] * PAGE, &options, &modules[m]);
        if (status) return status;
        memories[m] = store_module_address(modules[m]);
    }
    check_memory(now, "mapped");
    return 0;
}

static void shut(void)
{
    memset(memories, 0, sizeof memories);
    if (store && store_close(store)) FAIL("close: %s", why());
    store = NULL;
}

static void open_again(void)
{
    int status = 0;
    for (int i = 0; i < TRIES; i++) {
        if (!(status = open_once())) return;
        report_failure();
        if (status == VMSTORE_E_CORRUPT) FAIL("open: %s", why());
        if (is_full) refused_for_space(status);
    }
    exit(GIVEN_UP);
}

static int commit_step(uint64_t *number)
{
    char label[32];
    uint64_t data[2] = {*number, ~*number};
    snprintf(label, sizeof label, "step %llu", (unsigned long long)*number);
    vmstore_commit_options options = {
        .struct_size = sizeof options, .label = label, .user_data = data, .user_data_length = sizeof data};
    return store_commit(store, &options, number);
}

/* Drops the oldest commits, and rewrites files. */
static int compact_step(void)
{
    vmstore_compact_options options = {.struct_size = sizeof options, .image_percent = 1, .keep_last = STEPS - DELETED};
    return store_compact(store, &options);
}

enum call { COMMIT, PERSIST, RESTORE, DELETE, COMPACT };

/* Makes a call until it succeeds. A failed call must not change memory. */
static void make(enum call call, uint64_t n)
{
    unsigned char before[MODULES][8 * PAGE];
    for (int i = 0; i < TRIES; i++) {
        uint64_t number = n;
        if (call == COMMIT) write_step(n);
        for (int m = 0; m < MODULES; m++) memcpy(before[m], memories[m], (size_t)pages[m] * PAGE);
        int status = call == COMMIT    ? commit_step(&number)
                     : call == PERSIST ? store_persist(store, NULL)
                     : call == RESTORE ? store_restore(store, n, NULL)
                     : call == DELETE  ? store_delete_commit(store, n)
                                       : compact_step();
        if (!status) {
            if (number != n) FAIL("the new commit has number %llu instead of %llu", (unsigned long long)number, (unsigned long long)n);
            if (call == COMMIT || call == RESTORE) now = n;
            check_memory(now, "after the call");
            return;
        }
        report_failure();
        if (status == VMSTORE_E_CORRUPT || status == VMSTORE_E_INTERNAL) FAIL("call %d: %s", call, why());
        for (int m = 0; m < MODULES; m++)
            if (memcmp(before[m], memories[m], (size_t)pages[m] * PAGE)) FAIL("a failed call changed memory");
        if (is_full && (call == RESTORE || call == DELETE)) FAIL("call %d on a full disk: %s", call, why());
        if (is_full) refused_for_space(status);
        if (status == VMSTORE_E_POISONED || i + 1 == TRIES) {
            uint64_t was = now;
            shut();
            open_again();
            /* The failed commit may exist nevertheless. */
            if (call == COMMIT && now == n) return;
            if (now != was) FAIL("the head was %llu", (unsigned long long)was);
        }
    }
    exit(GIVEN_UP);
}

static void fill_up(void)
{
    struct statvfs info;
    if (statvfs(directory, &info) != 0) FAIL("statvfs: %s", strerror(errno));
    unsigned long long room = (unsigned long long)info.f_bavail * info.f_frsize;
    int fd = open(filler, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0) FAIL("%s: %s", filler, strerror(errno));
    is_full = 1;
    if (room > blocks_left * 4096ull && posix_fallocate(fd, 0, (off_t)(room - blocks_left * 4096ull)) != 0) {
        /* File systems hold back blocks for themselves: fill all blocks that are left. */
        char block[4096] = {1};
        while (write(fd, block, sizeof block) == (ssize_t)sizeof block) {}
    }
    close(fd);
    if (statvfs(directory, &info) != 0) FAIL("statvfs: %s", strerror(errno));
    if (info.f_bavail * info.f_frsize > blocks_left * 4096ull)
        FAIL("%llu bytes are free, but %lu blocks should be", (unsigned long long)(info.f_bavail * info.f_frsize), blocks_left);
}

static void run(void)
{
    if (full_at == 0 && filler[0]) fill_up();
    open_again();
    for (uint64_t n = now + 1; n <= STEPS; n++) {
        if (filler[0] && (int)n == full_at) fill_up();
        make(COMMIT, n);
        say("made", n);
        if (n % 2 == 0) {
            make(PERSIST, 0);
            say("kept", n);
        }
        if (n == 3) {
            make(RESTORE, 1);
            make(RESTORE, 3);
        }
        if (n == 4) {
            say("going", 1);
            make(DELETE, deleted[0]);
            say("gone", 1);
        }
        if (n == 5) {
            shut();
            open_again();
        }
    }
    say("going", 2);
    make(COMPACT, 0);
    say("gone", 2);
    say("kept", STEPS);
    shut();
    give_space_back();
}

/* Checks that the commits 1 to the newest are there, without those of some first deletions. Returns how many. */
static size_t check_numbers(const uint64_t *commits, size_t count, uint64_t newest)
{
    size_t gone = (size_t)newest - count;
    if (gone > DELETED || (gone && newest < deleted_at[gone - 1]))
        FAIL("a hole in the history: %zu commits, the newest is %llu", count, (unsigned long long)newest);
    uint64_t number = 0;
    for (size_t i = 0; i < count; i++) {
        int skip;
        do {
            number++;
            skip = 0;
            for (size_t d = 0; d < gone; d++) skip |= number == deleted[d];
        } while (skip);
        if (commits[i] != number) FAIL("a hole in the history: commit %llu at place %zu", (unsigned long long)commits[i], i + 1);
    }
    return gone;
}

/* Checks parent, label, user data and modules of a commit. */
static void check_about(uint64_t n, uint64_t parent)
{
    vmstore_commit_info info = {.struct_size = sizeof info};
    uint64_t data[2] = {0};
    size_t length;
    char label[32];
    snprintf(label, sizeof label, "step %llu", (unsigned long long)n);
    if (store_commit_info(store, n, &info)) FAIL("info: %s", why());
    if (store_commit_user_data(store, n, data, sizeof data, &length)) FAIL("user data: %s", why());
    if (strcmp(info.label, label) || length != sizeof data || data[0] != n || data[1] != ~n || info.parent != parent ||
        info.modules != MODULES)
        FAIL("commit %llu has label \"%s\", %zu bytes of user data, parent %llu", (unsigned long long)n, info.label, length,
             (unsigned long long)info.parent);
}

static void check(uint64_t least, uint64_t most, size_t least_gone, size_t most_gone)
{
    uint64_t commits[64];
    size_t count;
    if (store_open(directory, NULL, &store)) FAIL("open: %s", why());
    if (store_list_commits(store, commits, 64, &count)) FAIL("list: %s", why());
    uint64_t newest = count ? commits[count - 1] : 0;
    if (newest < least || newest > most)
        FAIL("commits up to %llu; at least %llu must be there, %llu were begun", (unsigned long long)newest, (unsigned long long)least,
             (unsigned long long)most);
    uint64_t head;
    if (store_head(store, &head)) FAIL("head: %s", why());
    if (head != newest && !(newest == 3 && head == 1))
        FAIL("the head is %llu, but the newest commit is %llu", (unsigned long long)head, (unsigned long long)newest);
    size_t gone = check_numbers(commits, count, newest);
    if (gone < least_gone || gone > most_gone)
        FAIL("%zu deletions are done; at least %zu must be there, %zu were begun", gone, least_gone, most_gone);
    /* The head is mapped, the other commits are restored. The newest comes last, because a new commit changes it. */
    if (count) {
        open_again();
        for (size_t i = 0; i < count; i++) {
            check_about(commits[i], i ? commits[i - 1] : 0);
            if (store_restore(store, commits[i], NULL)) FAIL("restore: %s", why());
            check_memory(commits[i], "restored");
        }
    }
    if (store_verify(store, NULL)) FAIL("verify: %s", why());
    if (!count) open_again();
    uint64_t number = newest + 1;
    write_step(number);
    if (commit_step(&number) || number != newest + 1) FAIL("the store does not take a new commit: %s", why());
    if (store_persist(store, NULL)) FAIL("persist: %s", why());
    shut();
    if (newest < STEPS) {
        open_again();
        if (now != newest + 1) FAIL("the new commit is not the head");
        shut();
    }
}

static void clone_read_only(const char *to)
{
    vmstore_open_options options = {.struct_size = sizeof options, .flags = VMSTORE_OPEN_READ_ONLY};
    if (store_open(directory, &options, &store)) FAIL("open: %s", why());
    if (store_clone(store, 0, to)) FAIL("clone: %s", why());
    shut();
}

int main(int argc, char **argv)
{
    getppid(); /* Shows calls.rs where the loader's calls end. */
    if (argc < 3) return 2;
    directory = argv[2];
    if (!strcmp(argv[1], "run")) {
        run();
    } else if (!strcmp(argv[1], "clone") && argc == 4) {
        clone_read_only(argv[3]);
    } else if (!strcmp(argv[1], "full") && argc == 5) {
        full_at = atoi(argv[3]);
        blocks_left = strtoul(argv[4], NULL, 10);
        snprintf(filler, sizeof filler, "%s.filler", directory);
        run();
        printf("refused %lu\n", refused);
    } else if (!strcmp(argv[1], "check") && argc == 7) {
        check(strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10), (size_t)atoi(argv[5]), (size_t)atoi(argv[6]));
    } else {
        return 2;
    }
    return 0;
}
