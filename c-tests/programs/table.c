/* The store's directory, step by step: after each call `ls` shows exactly the files that the design promises, the
 * `_last` links point to the right files, and the memory has the right bytes. */
#define _GNU_SOURCE
#include "model.h"

#define SIZE1 (16 * PAGE)
#define SIZE2 (5 * PAGE)

static unsigned steps;
static char directory[4096];

static void expect(const char *step, const char *want)
{
    const char *got = listing(directory);
    if (strcmp(got, want)) FAIL("after %s ls shows\n  %s\ninstead of\n  %s", step, got, want);
    steps++;
}

static void private_to_owner(const char *name, mode_t mode)
{
    struct stat s;
    CHECK(lstat(name ? path_in(directory, name) : directory, &s) == 0);
    if ((s.st_mode & 07777) != mode) FAIL("%s has mode %o instead of %o", name, s.st_mode & 07777, mode);
}

static void walk(const char *stores, uint32_t mode)
{
    name_directory(directory, stores, mode == VMSTORE_MAP_SHARED ? "shared" : "private");
    unsigned char *zero = calloc(1, SIZE1), *file = calloc(1, SIZE1);
    unsigned char *one[2] = {malloc(SIZE1), malloc(SIZE2)}, *two[2] = {malloc(SIZE1), malloc(SIZE2)};
    CHECK(zero && file && one[0] && one[1] && two[0] && two[1]);

    vmstore *store = open_store(directory, 0);
    expect("open", ".vmstore ");
    CHECK(head(store) == 0);

    mapped m1 = map(store, "ModId1", SIZE1, mode, 0);
    expect("mapping one module", ".vmstore ModId1 ");
    mapped m2 = map(store, "ModId2", SIZE2, mode, 0);
    expect("mapping both", ".vmstore ModId1 ModId2 ");
    same(m1.memory, zero, SIZE1, "a new module");
    same(m2.memory, zero, SIZE2, "a new module");

    private_to_owner(NULL, 0700);
    private_to_owner("ModId1", 0600);
    private_to_owner(".vmstore", 0700);
    struct stat s;
    CHECK(stat(path_in(directory, "ModId1"), &s) == 0 && s.st_size == (off_t)SIZE1);
    if (mode == VMSTORE_MAP_PRIVATE && s.st_blocks)
        FAIL("a new backing file has %ld blocks instead of none", (long)s.st_blocks);
    if (mode == VMSTORE_MAP_SHARED && s.st_blocks * 512 < (off_t)SIZE1)
        FAIL("a shared backing file has only %ld blocks reserved", (long)s.st_blocks);

    fill(m1.memory + 2 * PAGE, 3 * PAGE, 11);
    fill(m2.memory, PAGE, 12);
    memcpy(one[0], m1.memory, SIZE1), memcpy(one[1], m2.memory, SIZE2);
    CHECK(commit(store) == 1);
    expect("the first commit", ".vmstore ModId1 ModId1_Commit1 ModId1_last->ModId1_Commit1 "
                               "ModId2 ModId2_Commit1 ModId2_last->ModId2_Commit1 ");
    private_to_owner("ModId1_Commit1", 0600);

    fill(m1.memory + 4 * PAGE, 2 * PAGE, 21);
    fill(m2.memory + 4 * PAGE, 100, 22);
    memcpy(two[0], m1.memory, SIZE1), memcpy(two[1], m2.memory, SIZE2);
    CHECK(commit(store) == 2);
    expect("the second commit",
           ".vmstore ModId1 ModId1_Commit1 ModId1_Commit2 ModId1_last->ModId1_Commit2 "
           "ModId2 ModId2_Commit1 ModId2_Commit2 ModId2_last->ModId2_Commit2 ");

    OK(store_persist(store, NULL));
    expect("persist",
           ".vmstore ModId1 ModId1_Commit1 ModId1_Commit2 ModId1_last->ModId1_Commit2 "
           "ModId2 ModId2_Commit1 ModId2_Commit2 ModId2_last->ModId2_Commit2 commits ");
    private_to_owner("commits", 0600);

    /* The restore drops uncommitted writes, also on a page that is the same in both commits. */
    fill(m1.memory + 9 * PAGE, PAGE, 99);
    const char *at_one =
        ".vmstore ModId1 ModId1_Commit1 ModId1_Commit2 ModId1_last->ModId1_Commit1 "
        "ModId2 ModId2_Commit1 ModId2_Commit2 ModId2_last->ModId2_Commit1 commits ";
    OK(store_restore(store, 1, NULL));
    expect("restoring commit 1", at_one);
    CHECK(head(store) == 1);
    same(m1.memory, one[0], SIZE1, "ModId1 at commit 1");
    same(m2.memory, one[1], SIZE2, "ModId2 at commit 1");

    const char *at_two =
        ".vmstore ModId1 ModId1_Commit1 ModId1_Commit2 ModId1_last->ModId1_Commit2 "
        "ModId2 ModId2_Commit1 ModId2_Commit2 ModId2_last->ModId2_Commit2 commits ";
    OK(store_restore(store, 2, NULL));
    expect("restoring commit 2 again", at_two);
    CHECK(head(store) == 2);
    same(m1.memory, two[0], SIZE1, "ModId1 at commit 2");
    same(m2.memory, two[1], SIZE2, "ModId2 at commit 2");

    if (mode == VMSTORE_MAP_SHARED) {
        int fd = open(path_in(directory, "ModId1"), O_RDONLY | O_CLOEXEC);
        CHECK(fd >= 0 && pread(fd, file, SIZE1, 0) == (ssize_t)SIZE1 && close(fd) == 0);
        same(file, two[0], SIZE1, "the backing file's first bytes");
    }

    /* A module that did not change gets no file, and its link stays; numbers are not reused. */
    OK(store_restore(store, 1, NULL));
    m2.memory[7] ^= 1;
    CHECK(commit(store) == 3);
    expect("a commit that one module took no part in, on top of commit 1",
           ".vmstore ModId1 ModId1_Commit1 ModId1_Commit2 ModId1_last->ModId1_Commit1 "
           "ModId2 ModId2_Commit1 ModId2_Commit2 ModId2_Commit3 ModId2_last->ModId2_Commit3 commits ");
    CHECK(info(store, 3).parent == 1 && info(store, 2).parent == 1 && info(store, 1).parent == 0);
    CHECK(info(store, 1).persisted && info(store, 2).persisted && !info(store, 3).persisted);

    OK(store_restore(store, 2, NULL));
    OK(store_close(store));
    const char *at_end =
        ".vmstore ModId1 ModId1_Commit1 ModId1_Commit2 ModId1_last->ModId1_Commit2 ModId2 "
        "ModId2_Commit1 ModId2_Commit2 ModId2_Commit3 ModId2_last->ModId2_Commit2 commits ";
    expect("closing", at_end);

    store = open_store(directory, VMSTORE_OPEN_NO_CREATE);
    CHECK(head(store) == 2);
    expect("opening again", at_end);
    m1 = map(store, "ModId1", 0, mode, 0);
    m2 = map(store, "ModId2", 0, mode | VMSTORE_MAP_EAGER, 0);
    expect("mapping again", at_end);
    same(m1.memory, two[0], SIZE1, "ModId1 at commit 2, mapped again");
    same(m2.memory, two[1], SIZE2, "ModId2 at commit 2, mapped again");
    OK(store_restore(store, 1, NULL));
    same(m1.memory, one[0], SIZE1, "ModId1 at commit 1, after opening again");
    same(m2.memory, one[1], SIZE2, "ModId2 at commit 1, after opening again");
    OK(store_restore(store, 3, NULL));
    one[1][7] ^= 1;
    same(m1.memory, one[0], SIZE1, "ModId1 at commit 3");
    same(m2.memory, one[1], SIZE2, "ModId2 at commit 3");
    OK(store_verify(store, NULL));
    OK(store_close(store));

    for (int i = 0; i < 2; i++) free(one[i]), free(two[i]);
    free(zero), free(file);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("table");
    walk(arguments[1], VMSTORE_MAP_PRIVATE);
    walk(arguments[1], VMSTORE_MAP_SHARED);
    printf("table: ls compared exactly after %u steps, private and shared\n", steps);
    return 0;
}
