/* Promise 4: no wrong bytes. One byte of a commit file is flipped: in the data of each page, in the index, in the
 * footer. Then every commit is read in every way that promises to check it. Each way must give the exact bytes, or
 * VMSTORE_E_CORRUPT with the name of the file and unchanged memory. Commits that do not need the file are not
 * affected. */
#define _GNU_SOURCE
#include "model.h"

#define RAM_PAGES 24
#define DEV_PAGES 4
enum { COMMITS = 4, RAM = 0, DEV = 1 };

static const char *const names[2] = {"ram", "dev"};
static const size_t sizes[2] = {RAM_PAGES * PAGE, DEV_PAGES * PAGE};

/* The model: the bytes at each commit, and which commit's file holds each page's bytes (0: a zero page). */
static unsigned char *at[COMMITS + 1][2];
static int holder[COMMITS + 1][2][RAM_PAGES];
static const int parent[COMMITS + 1] = {0, 0, 1, 2, 1};
static int zero_page[2][RAM_PAGES]; /* holes of the images in commit 1 */

static char directory[4096];
static unsigned flips, exact, refused, harmless;

static void write_page(mapped *m, int module, uint64_t commit, size_t page, int zero)
{
    if (zero) memset(m[module].memory + page * PAGE, 0, PAGE);
    else fill(m[module].memory + page * PAGE, PAGE, commit * 100 + page);
    holder[commit][module][page] = zero ? 0 : (int)commit;
}

static void make_store(const char *stores)
{
    name_directory(directory, stores, "original");
    vmstore *store = open_store(directory, 0);
    mapped m[2];
    for (int i = 0; i < 2; i++) m[i] = map(store, names[i], sizes[i], 0, 0);
    for (uint64_t n = 1; n <= COMMITS; n++) {
        if ((int)head(store) != parent[n]) OK(store_restore(store, (uint64_t)parent[n], NULL));
        memcpy(holder[n], holder[parent[n]], sizeof holder[n]);
        for (size_t page = 0; page < RAM_PAGES; page++) {
            int hole = n == 1 && (page == 11 || page == 23);
            if (n == 1) zero_page[RAM][page] = hole;
            if (n == 1 || page % (n + 3) == 1) write_page(m, RAM, n, page, hole);
        }
        if (n == 3) write_page(m, RAM, n, 2, 1);
        for (size_t page = 0; page < DEV_PAGES; page++)
            if (n == 1 || page == n - 1) write_page(m, DEV, n, page, 0);
        CHECK(commit(store) == n && info(store, n).parent == (uint64_t)parent[n]);
        for (int i = 0; i < 2; i++) {
            CHECK((at[n][i] = malloc(sizes[i])));
            memcpy(at[n][i], m[i].memory, sizes[i]);
        }
        if (n == 2) OK(store_persist(store, NULL)); /* two commits are in `commits`, two in the journal */
    }
    OK(store_verify(store, NULL));
    OK(store_close(store));
}

/* The present damage: `page` is the page whose data was hit, or -1 for index and footer. */
static struct {
    char file[32];
    int module, commit, page;
} damage;

/* A commit needs the files of its own ancestors, and no others. */
static int may_need(int commit)
{
    for (; commit; commit = parent[commit])
        if (commit == damage.commit) return 1;
    return 0;
}

static int must_refuse(int commit, int module)
{
    return module == damage.module && damage.page >= 0 &&
           holder[commit][module][damage.page] == damage.commit;
}

static void refusal(int status, int commit, const char *what)
{
    if (status != VMSTORE_E_CORRUPT || !strstr(last_error(), damage.file))
        FAIL("%s of commit %d with damage in %s (page %d): %s: %s", what, commit, damage.file,
             damage.page, store_strerror(status), last_error());
    if (!may_need(commit))
        FAIL("%s of commit %d was refused, although it does not need %s", what, commit, damage.file);
    refused++;
}

static void delivered(const mapped *m, int module, int commit, const char *what)
{
    char text[160];
    snprintf(text, sizeof text, "%s of %s at commit %d with damage in %s (page %d)", what,
             names[module], commit, damage.file, damage.page);
    same(m->memory, at[commit][module], sizes[module], text);
    exact++;
}

/* Reads a commit as a fresh process does: moves the head to it, then maps each module. */
static void fresh(vmstore *store, int commit)
{
    int status = store_restore(store, (uint64_t)commit, NULL);
    if (status != VMSTORE_OK) {
        refusal(status, commit, "restore without modules");
        return;
    }
    for (int i = 0; i < 2; i++) {
        vmstore_map_options options = {.struct_size = sizeof options, .flags = VMSTORE_MAP_EAGER};
        mapped m = {NULL, NULL};
        status = store_map_module(store, names[i], 0, &options, &m.handle);
        if (status != VMSTORE_OK) {
            CHECK(m.handle == NULL && i == damage.module);
            refusal(status, commit, "eager map");
            continue;
        }
        if (must_refuse(commit, i))
            FAIL("commit %d was mapped despite damage in %s", commit, damage.file);
        m.memory = store_module_address(m.handle);
        delivered(&m, i, commit, "eager map");
        OK(store_unmap_module(m.handle));
    }
}

/* In place, from one commit to another. Both modules were mapped, intact, before the damage was made. */
static void in_place(vmstore *store, const mapped m[2], int from, int to)
{
    if ((int)head(store) != from) {
        int status = store_restore(store, (uint64_t)from, NULL);
        if (status != VMSTORE_OK) {
            refusal(status, from, "restore");
            return;
        }
    }
    for (int i = 0; i < 2; i++) delivered(&m[i], i, from, "restore");
    int status = store_restore(store, (uint64_t)to, NULL);
    int reached = status == VMSTORE_OK ? to : from;
    if (status != VMSTORE_OK) refusal(status, to, "restore");
    for (int i = 0; i < 2; i++) delivered(&m[i], i, reached, "restore");
    CHECK((int)head(store) == reached);
    if (status != VMSTORE_OK) return;
    /* The library had to read a page that differs from `from`, so it had to notice the damage. */
    for (int i = 0; i < 2; i++)
        if (must_refuse(to, i) && memcmp(at[from][i] + (size_t)damage.page * PAGE,
                                         at[to][i] + (size_t)damage.page * PAGE, PAGE))
            FAIL("commit %d was restored from commit %d despite damage in %s", to, from, damage.file);
}

static void verified(vmstore *store)
{
    for (int commit = 0; commit <= COMMITS; commit++) {
        vmstore_verify_options options = {.struct_size = sizeof options,
                                          .commit = (uint64_t)commit};
        int status = store_verify(store, &options);
        int hole = damage.commit == 1 && damage.page >= 0 && zero_page[damage.module][damage.page];
        if (status == VMSTORE_OK) {
            if (commit && !must_refuse(commit, damage.module)) continue;
            if (!hole) FAIL("verify of commit %d does not report damage in %s (page %d)", commit, damage.file,
                            damage.page);
            harmless++;
        } else {
            refusal(status, commit ? commit : damage.commit, "verify");
        }
    }
}

/* `held` has had both modules mapped since before the damage. Other openers open the damaged store. */
static void one_flip(vmstore *held, const mapped m[2], rng *r, off_t offset, int page, off_t size)
{
    char path[4200];
    unsigned char byte, bit = (unsigned char)(1u << below(r, 8));
    snprintf(path, sizeof path, "%s/%s", directory, damage.file);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0 && offset < size && pread(fd, &byte, 1, offset) == 1);
    byte ^= bit;
    CHECK(pwrite(fd, &byte, 1, offset) == 1);
    damage.page = page;
    flips++;

    for (int commit = 1; commit <= COMMITS; commit++) {
        int from = 1 + (int)below(r, COMMITS);
        if (from != commit) in_place(held, m, from, commit);
    }
    vmstore *other = open_store(directory, VMSTORE_OPEN_READ_ONLY);
    for (int commit = 1; commit <= COMMITS; commit++) fresh(other, commit);
    verified(other);
    OK(store_close(other));

    byte ^= bit;
    CHECK(pwrite(fd, &byte, 1, offset) == 1 && close(fd) == 0);
}

/* The same with a writer that opens the damaged store. It is slower, so it is done less often. */
static void one_writer(off_t offset)
{
    char path[4200];
    unsigned char byte;
    snprintf(path, sizeof path, "%s/%s", directory, damage.file);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0 && pread(fd, &byte, 1, offset) == 1);
    byte ^= 1;
    CHECK(pwrite(fd, &byte, 1, offset) == 1);
    vmstore *store = open_store(directory, 0);
    for (int commit = 1; commit <= COMMITS; commit++) fresh(store, commit);
    verified(store);
    OK(store_close(store));
    byte ^= 1;
    CHECK(pwrite(fd, &byte, 1, offset) == 1 && close(fd) == 0);
    flips++;
}

static void every_file(rng *r, unsigned tail_flips)
{
    for (int commit = 1; commit <= COMMITS; commit++) {
        for (int i = 0; i < 2; i++) {
            struct stat s;
            int data_pages[RAM_PAGES], count = 0;
            size_t pages = sizes[i] / PAGE;
            damage.module = i, damage.commit = commit;
            snprintf(damage.file, sizeof damage.file, "%s_Commit%d", names[i], commit);
            CHECK(lstat(path_in(directory, damage.file), &s) == 0 && S_ISREG(s.st_mode));

            /* An image has each page at its place. A delta has its pages packed, in page order. */
            int image = s.st_size > (off_t)sizes[i];
            for (size_t page = 0; page < pages; page++)
                if (image || holder[commit][i][page] == commit) data_pages[count++] = (int)page;
            CHECK(s.st_size > (off_t)((size_t)count * PAGE));
            off_t tail = (off_t)((size_t)count * PAGE);

            vmstore *held = open_store(directory, 0);
            mapped m[2];
            for (int k = 0; k < 2; k++) m[k] = map(held, names[k], 0, VMSTORE_MAP_EAGER, 0);
            for (int page = 0; page < count; page++) {
                off_t offset = (off_t)((size_t)page * PAGE + below(r, PAGE));
                one_flip(held, m, r, offset, data_pages[page], s.st_size);
            }
            for (unsigned k = 0; k < tail_flips; k++) {
                off_t length = s.st_size - tail, offset;
                if (length <= (off_t)tail_flips) offset = tail + (off_t)k % length;
                else if (k % 2) offset = s.st_size - 1 - (off_t)below(r, 128) % length;
                else offset = tail + (off_t)below(r, (uint64_t)length);
                one_flip(held, m, r, offset, -1, s.st_size);
            }
            OK(store_close(held));
            damage.page = data_pages[0];
            one_writer(7);
            damage.page = -1;
            one_writer(tail);
            one_writer(s.st_size - 1);
        }
    }
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("promise4_bytes");
    make_store(arguments[1]);
    char copy[4096];
    name_directory(copy, arguments[1], "copy");
    copy_directory(directory, copy);
    memcpy(directory, copy, sizeof copy);

    rng r = {seed()};
    every_file(&r, brief() ? 4 : 24);

    /* All damage is repaired: the store is intact again. */
    memset(&damage, 0, sizeof damage);
    vmstore *store = open_store(directory, 0);
    OK(store_verify(store, NULL));
    for (int commit = 1; commit <= COMMITS; commit++) fresh(store, commit);
    OK(store_close(store));
    for (int n = 1; n <= COMMITS; n++) free(at[n][0]), free(at[n][1]);
    printf("promise 4: seed %" PRIu64 ": %u flipped bytes: %u times the exact bytes, %u times refused "
           "with the file's name, %u flips in holes\n",
           seed(), flips, exact, refused, harmless);
    return 0;
}
