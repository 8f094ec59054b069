/* 64 processes map the same commit while the store goes on committing. Every byte they read is the commit's byte,
 * the processes share the pages, opening and mapping are quick, and the mappings stay valid after the commit and
 * its files are deleted. Reports proportional against resident memory, and times. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "model.h"

enum { CLONES = 64, STRIPES = 8, DELTAS = 4, WRITES = 16 };

static size_t pages, clone_count;
static char directory[4096];
/* Shared with the clones. The clones are forked before there is a store that they could inherit. */
static unsigned char *version; /* of each page, at the cloned commit; 0: the page is zero */
static uint64_t *cloned;

/* What a clone reports. */
typedef struct {
    double open_ms, map_ms, again_ms; /* again_ms: both of them a second time in this process */
    uint64_t checked;
} answer;

typedef struct {
    pid_t process;
    int socket;
    answer opened, read;
} clone_of;
static clone_of clones[CLONES];

static void content(unsigned char *bytes, size_t page, unsigned v)
{
    if (v) fill(bytes, PAGE, page * 256 + v);
    else memset(bytes, 0, PAGE);
}

/* ---- a clone ---- */

/* Every page of some stripes, compared whole. */
static uint64_t check(const unsigned char *memory, size_t first_stripe)
{
    static unsigned char want[PAGE];
    uint64_t checked = 0;
    for (size_t page = first_stripe % STRIPES; page < pages; page += STRIPES, checked++) {
        content(want, page, version[page]);
        if (memcmp(memory + page * PAGE, want, PAGE) != 0)
            FAIL("page %zu is not as in commit %" PRIu64 ", in process %d", page, *cloned, (int)getpid());
    }
    /* The other pages are touched: then all of the clone is resident. */
    for (size_t page = 0; page < pages; page++)
        if ((memory[page * PAGE] | memory[page * PAGE + PAGE - 1]) && !version[page]) FAIL("page %zu is not zero", page);
    return checked;
}

static double since(double *begun)
{
    double now = seconds(), time = (now - *begun) * 1e3;
    *begun = now;
    return time;
}

static vmstore_module *map_clone(vmstore *store)
{
    vmstore_module *module;
    OK(store_restore(store, *cloned, NULL));
    OK(store_map_module(store, "ram", pages * PAGE, NULL, &module));
    return module;
}

static _Noreturn void be_a_clone(size_t number, int socket)
{
    vmstore_open_options options = {.struct_size = sizeof options, .flags = VMSTORE_OPEN_READ_ONLY};
    vmstore *store = NULL;
    vmstore_module *module = NULL;
    char command;
    while (read(socket, &command, 1) == 1) {
        answer a = {0};
        double begun = seconds();
        switch (command) {
        case 'o':
            OK(store_open(directory, &options, &store));
            a.open_ms = since(&begun);
            module = map_clone(store);
            a.map_ms = since(&begun);
            OK(store_close(store));
            since(&begun);
            OK(store_open(directory, &options, &store));
            module = map_clone(store);
            a.again_ms = since(&begun);
            break;
        case '1': a.checked = check(store_module_address(module), number); break;
        case '2': a.checked = check(store_module_address(module), number + STRIPES / 2); break;
        default: /* what this process writes here, no other process sees */
            memset(store_module_address(module), (int)number, 64 * PAGE);
        }
        if (write(socket, &a, sizeof a) != sizeof a) _exit(1);
    }
    OK(store_close(store));
    _exit(0);
}

static void start(size_t number)
{
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    CHECK((clones[number].process = fork()) >= 0);
    if (clones[number].process == 0) {
        for (size_t i = 0; i < number; i++) close(clones[i].socket);
        close(ends[0]);
        be_a_clone(number, ends[1]);
    }
    close(ends[1]);
    clones[number].socket = ends[0];
}

static void command_all(char command)
{
    for (size_t i = 0; i < clone_count; i++) CHECK(write(clones[i].socket, &command, 1) == 1);
}

static answer ask(size_t number)
{
    answer a;
    ssize_t got = recv(clones[number].socket, &a, sizeof a, MSG_WAITALL);
    if (got != sizeof a) FAIL("clone %zu ended before its answer", number);
    return a;
}

/* ---- the store ---- */

static void write_some(rng *r, unsigned char *memory, unsigned char *versions, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t page = below(r, pages);
        if (!versions[page]) continue; /* a zero page stays zero */
        versions[page] = (unsigned char)(versions[page] % 255 + 1);
        content(memory + page * PAGE, page, versions[page]);
    }
}

/* All clones have their command to read: the store goes on committing until they have read. */
static unsigned commit_meanwhile(rng *r, vmstore *store, unsigned char *memory, unsigned char *versions)
{
    unsigned commits = 0;
    for (size_t i = 0; i < clone_count; i++) {
        char peeked;
        while (recv(clones[i].socket, &peeked, 1, MSG_PEEK | MSG_DONTWAIT) != 1) {
            if (errno != EAGAIN) FAIL("clone %zu ended before its answer", i);
            write_some(r, memory, versions, 200);
            commit(store);
            if (++commits % 8 == 0) OK(store_persist(store, NULL));
            usleep(2000);
        }
        clones[i].read = ask(i);
    }
    return commits;
}

typedef struct {
    double rss, pss;
} sizes;

/* In MiB, summed over the clones. Memory that n processes share counts in each of them as its n-th part. */
static int memory_of_clones(sizes *all)
{
    memset(all, 0, sizeof *all);
    for (size_t i = 0; i < clone_count; i++) {
        char path[64], line[256];
        double kib;
        snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)clones[i].process);
        FILE *file = fopen(path, "re");
        if (!file) return 0;
        while (fgets(line, sizeof line, file)) {
            if (sscanf(line, "Rss: %lf", &kib) == 1) all->rss += kib / 1024;
            if (sscanf(line, "Pss: %lf", &kib) == 1) all->pss += kib / 1024;
        }
        fclose(file);
    }
    return 1;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(size_t offset)
{
    double values[CLONES];
    for (size_t i = 0; i < clone_count; i++) memcpy(&values[i], (char *)&clones[i].opened + offset, sizeof *values);
    qsort(values, clone_count, sizeof *values, by_size);
    return values[clone_count / 2];
}

static void remove_files(void)
{
    char path[4400];
    DIR *stream = opendir(directory);
    CHECK(stream);
    for (struct dirent *entry; (entry = readdir(stream));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        CHECK(unlink(path) == 0);
    }
    closedir(stream);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("clones");
    size_t size = slow() ? 4u << 20 : brief() ? 64u << 20 : 1u << 30;
    pages = size / PAGE, clone_count = slow() ? 4 : CLONES;
    rng r = {seed()};
    name_directory(directory, arguments[1], "store");
    version = mmap(NULL, pages + PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned char *versions = calloc(1, pages);
    CHECK(version != MAP_FAILED && versions);
    cloned = (uint64_t *)(void *)(version + pages);
    for (size_t i = 0; i < clone_count; i++) start(i);

    vmstore *store = open_store(directory, 0);
    mapped m = map(store, "ram", size, 0, VMSTORE_TRACKER_AUTO);
    for (size_t page = 0; page < pages; page++)
        if (page % (pages / 8) >= pages / 64) content(m.memory + page * PAGE, page, versions[page] = 1);
    commit(store);
    for (int i = 0; i < DELTAS; i++) {
        write_some(&r, m.memory, versions, WRITES);
        *cloned = commit(store);
    }
    memcpy(version, versions, pages);
    write_some(&r, m.memory, versions, 100);
    commit(store); /* the head is then a different commit from the cloned one */

    for (size_t i = 0; i < clone_count; i++) {
        CHECK(write(clones[i].socket, "o", 1) == 1);
        clones[i].opened = ask(i);
    }
    command_all('1');
    unsigned commits = commit_meanwhile(&r, store, m.memory, versions);
    uint64_t checked = 0;
    for (size_t i = 0; i < clone_count; i++) checked += clones[i].read.checked;
    sizes all;
    int known = memory_of_clones(&all);
    if (known && clone_count == CLONES && all.pss * 8 > all.rss)
        FAIL("%zu clones share too few pages: %.0f MiB proportional of %.0f MiB resident", clone_count, all.pss, all.rss);

    /* The commit that the clones have mapped is deleted, with all others except the head. */
    static uint64_t numbers[4096];
    size_t how_many = 0;
    OK(store_list_commits(store, numbers, 4096, &how_many));
    CHECK(how_many <= 4096);
    for (size_t i = 0; i < how_many; i++)
        if (numbers[i] != head(store)) OK(store_delete_commit(store, numbers[i]));
    OK(store_compact(store, NULL));
    OK(store_persist(store, NULL));
    CHECK(commit_count(store) == 1);
    command_all('1');
    for (size_t i = 0; i < clone_count; i++) checked += ask(i).checked;
    FAILS(store_restore(store, *cloned, NULL), VMSTORE_E_NOT_FOUND, "commit");
    OK(store_close(store));
    remove_files();
    command_all('2');
    for (size_t i = 0; i < clone_count; i++) checked += ask(i).checked;
    command_all('w');
    for (size_t i = 0; i < clone_count; i++) ask(i);
    for (size_t i = 0; i < clone_count; i++) {
        int status;
        close(clones[i].socket);
        CHECK(waitpid(clones[i].process, &status, 0) == clones[i].process);
        if (status != 0) FAIL("clone %zu ended with status %#x", i, status);
    }
    printf("clones: %zu processes with the same %zu MiB, %" PRIu64 " pages exact, %u commits meanwhile, %zu deleted; %.0f MiB proportional "
           "of %.0f MiB resident; open %.3f ms, restore and map %.3f ms, both again in the same process %.3f ms "
           "(medians; an image and %d newer pages); all exact again after that, and after the files were removed\n",
           clone_count, size >> 20, checked, commits, how_many - 1, all.pss, all.rss, median(offsetof(answer, open_ms)),
           median(offsetof(answer, map_ms)), median(offsetof(answer, again_ms)), DELTAS * WRITES);
    CHECK(munmap(version, pages + PAGE) == 0);
    free(versions);
    return 0;
}
