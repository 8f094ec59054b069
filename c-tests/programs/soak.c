/* Soak: random commits, persists, restores, deletions, compactions with retention, reads, unmaps and reopens, with
 * a model that holds the full bytes of every commit. Again and again the store is brought to the same state, and
 * descriptors, mappings, resident memory and disk blocks are counted. After a warm-up these numbers must not grow.
 * An allocator may need longer to settle, and its numbers always vary slightly (musl's has a mapping for each group
 * of blocks). Therefore a number that grew is watched once more for the same time: it must then have stopped. A
 * leak does not stop. VMSTORE_SOAK is the number of seconds. */
#define _GNU_SOURCE
#include "model.h"

enum { MODULES = 3, MOST = 48, KEPT = 12, STEPS = 120, SAMPLES = 1 << 16 };

static const char *const names[MODULES] = {"disk", "ram", "vhost"};
static const uint32_t modes[MODULES] = {VMSTORE_MAP_SHARED, VMSTORE_MAP_PRIVATE, VMSTORE_MAP_MEMFD};
static const size_t pages_of[MODULES] = {24, 48, 24};
static const size_t first_of[MODULES] = {0, 24, 72};
enum { ALL = 96 * 4096 };

static vmstore *store;
static mapped modules[MODULES];
static unsigned char now[ALL];
static struct {
    uint64_t number; /* 0: free */
    unsigned char bytes[ALL];
} model[MOST];
static uint64_t at_head;
static rng r;
static const char *directory;

static unsigned long commits, persists, restores, deletions, compactions, reads, unmappings, reopenings;

/* ---- what is counted ---- */

enum { DESCRIPTORS, MAPPINGS, RESIDENT, BLOCKS, KINDS };

static const char *const kinds[KINDS] = {"descriptors", "mappings", "KiB resident", "KiB of disk"};
static double samples[SAMPLES][KINDS];
static size_t sampled;

static double entries(const char *path)
{
    double count = 0;
    DIR *stream = opendir(path);
    CHECK(stream != NULL);
    while (readdir(stream)) count++;
    closedir(stream);
    return count - 3; /* `.`, `..`, and the descriptor of the directory stream itself */
}

static double lines(const char *path)
{
    double count = 0;
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    for (int c; (c = getc(file)) != EOF;) count += c == '\n';
    fclose(file);
    return count;
}

static double resident(void)
{
    unsigned long size, pages;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%lu %lu", &size, &pages) == 2);
    fclose(file);
    return (double)pages * (double)PAGE / 1024;
}

/* Counts each file once: a file with n names counts as an n-th part at each name. Symbolic links are skipped. */
static double blocks_in(const char *path)
{
    double sum = 0;
    DIR *stream = opendir(path);
    CHECK(stream != NULL);
    for (struct dirent *entry; (entry = readdir(stream));) {
        struct stat file;
        if (fstatat(dirfd(stream), entry->d_name, &file, AT_SYMLINK_NOFOLLOW) || !S_ISREG(file.st_mode)) continue;
        sum += (double)file.st_blocks / 2 / (double)file.st_nlink;
    }
    closedir(stream);
    return sum;
}

/* ---- the store and its model ---- */

static void map_one(int m, int known)
{
    modules[m] = map(store, names[m], known ? 0 : pages_of[m] * PAGE, modes[m], VMSTORE_TRACKER_AUTO);
}

static void compare(const char *what)
{
    for (int m = 0; m < MODULES; m++) same(modules[m].memory, now + first_of[m] * PAGE, pages_of[m] * PAGE, what);
}

static int find(uint64_t number)
{
    for (int i = 0; i < MOST; i++)
        if (model[i].number == number) return i;
    return -1;
}

/* A random existing commit; 0 is possible only before the first commit. */
static int any(void)
{
    for (;;) {
        int i = (int)below(&r, MOST);
        if (model[i].number) return i;
    }
}

static void scribble(void)
{
    for (uint64_t left = 1 + below(&r, 6); left; left--) {
        int m = (int)below(&r, MODULES);
        size_t page = below(&r, pages_of[m]);
        unsigned char *to = now + (first_of[m] + page) * PAGE;
        if (below(&r, 6) == 0) {
            memset(to, 0, PAGE);
            OK(store_discard(modules[m].handle, page * PAGE, PAGE));
        } else {
            fill(to, PAGE, next(&r));
            memcpy(modules[m].memory + page * PAGE, to, PAGE);
        }
    }
}

static void commit_it(void)
{
    scribble();
    uint64_t number = commit(store);
    int i = find(number);
    if (i < 0) {
        CHECK((i = find(0)) >= 0);
        model[i].number = number;
        memcpy(model[i].bytes, now, ALL);
        commits++;
    }
    same(model[i].bytes, now, ALL, "a commit that was the head");
    at_head = number;
}

static void restore_it(int i)
{
    OK(store_restore(store, model[i].number, NULL));
    memcpy(now, model[i].bytes, ALL);
    at_head = model[i].number;
    compare("after a restore");
    restores++;
}

/* Keeps this many of the newest commits, and the head. Used now and then. */
static void compact_it(size_t keep)
{
    vmstore_compact_options options = {
        .struct_size = sizeof options, .keep_last = keep, .image_percent = below(&r, 2) ? 100 : 0};
    uint64_t numbers[MOST + 1];
    size_t count = 0;
    OK(store_list_commits(store, numbers, MOST + 1, &count));
    CHECK(count <= MOST);
    OK(store_compact(store, &options));
    for (size_t i = 0; i + keep < count; i++)
        if (numbers[i] != at_head) model[find(numbers[i])].number = 0;
    size_t left = 0;
    for (int i = 0; i < MOST; i++) left += model[i].number != 0;
    CHECK(commit_count(store) == left);
    compactions++;
}

static void reopen(void)
{
    OK(store_close(store));
    store = open_store(directory, 0);
    for (int m = 0; m < MODULES; m++) map_one(m, 1);
    CHECK(head(store) == at_head);
    memcpy(now, model[find(at_head)].bytes, ALL);
    compare("after reopening");
    reopenings++;
}

static void read_it(void)
{
    static unsigned char buffer[48 * PAGE];
    int i = any(), m = (int)below(&r, MODULES);
    uint64_t offset = below(&r, pages_of[m] * PAGE), length = 1 + below(&r, pages_of[m] * PAGE - offset);
    OK(store_read(store, model[i].number, names[m], offset, buffer, length));
    same(buffer, model[i].bytes + first_of[m] * PAGE + offset, length, "what was read");
    reads++;
}

static void step(void)
{
    int i;
    switch (below(&r, 16)) {
    case 0:
    case 1:
        OK(store_persist(store, NULL));
        persists++;
        break;
    case 2:
    case 3: restore_it(any()); break;
    case 4:
        i = any();
        if (model[i].number == at_head) break;
        OK(store_delete_commit(store, model[i].number));
        model[i].number = 0;
        deletions++;
        break;
    case 5:
        if (below(&r, 4) == 0) reopen();
        break;
    case 6: {
        int m = (int)below(&r, MODULES);
        commit_it();
        OK(store_unmap_module(modules[m].handle));
        map_one(m, 1);
        compare("after an unmapping");
        unmappings++;
        break;
    }
    case 7:
    case 8: read_it(); break;
    default: commit_it();
    }
    size_t count = 0;
    for (i = 0; i < MOST; i++) count += model[i].number != 0;
    if (count + 4 > MOST) compact_it(KEPT);
}

/* The same state every time: one commit, all of it persisted, freshly opened. */
static void sample(void)
{
    commit_it();
    compact_it(1);
    OK(store_verify(store, NULL));
    reopen();
    CHECK(sampled < SAMPLES);
    double *s = samples[sampled++];
    s[DESCRIPTORS] = entries("/proc/self/fd"), s[MAPPINGS] = lines("/proc/self/maps"), s[RESIDENT] = resident();
    s[BLOCKS] = blocks_in(directory) + blocks_in(path_in(directory, ".vmstore"));
}

/* The growth of a kind between two samples, by least squares, from sample `from` on. */
static double slope(size_t from, int kind)
{
    double n = (double)(sampled - from), x = 0, y = 0, xx = 0, xy = 0;
    for (size_t i = from; i < sampled; i++) {
        double at = (double)(i - from);
        x += at, y += samples[i][kind], xx += at * at, xy += at * samples[i][kind];
    }
    return (n * xy - x * y) / (n * xx - x * x);
}

static int memory_is_ours(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return 0;
#else
    return !slow();
#endif
}

static double grown(size_t from, int kind)
{
    return slope(from, kind) * (double)(sampled - 1 - from);
}

/* The kind whose slope from sample `from` on is more than allowed; -1 if there is none. */
static int grows(size_t from)
{
    static const double most[KINDS] = {MODULES, 2, 1024, 64};
    for (int kind = 0; kind < KINDS; kind++) {
        /* A sanitizer keeps freed memory, in mappings of its own. */
        if ((kind == RESIDENT || kind == MAPPINGS) && !memory_is_ours()) continue;
        if (grown(from, kind) > most[kind]) return kind;
    }
    return -1;
}

/* For each module two files may be kept open for reading: an image and a newer file. It may also be one, or none. */
static void check_descriptors(size_t from)
{
    for (size_t i = from; i < sampled; i++) {
        double change = samples[i][DESCRIPTORS] - samples[from][DESCRIPTORS];
        if (change > 2 * MODULES || change < -2 * MODULES)
            FAIL("the number of descriptors went from %.0f to %.0f in sample %zu of %zu", samples[from][DESCRIPTORS],
                 samples[i][DESCRIPTORS], i, sampled);
    }
}

/* Runs for this many seconds, and until there are enough samples for a slope on any host. */
static void go_on(double length)
{
    double begun = seconds();
    size_t least = sampled + 12;
    while (seconds() - begun < length || sampled < least) {
        for (int i = 0; i < STEPS; i++) step();
        sample();
    }
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    require_small_pages("soak");
    const char *text = getenv("VMSTORE_SOAK");
    double length = text ? strtod(text, NULL) : brief() || slow() ? 3 : 15, begun = seconds();
    static char path[4096];
    name_directory(path, arguments[1], "store");
    directory = path;
    r.state = seed();
    memset(model, 1, sizeof model); /* the model's pages are resident from the beginning, and so are the samples' */
    memset(model, 0, sizeof model);
    memset(samples, 1, sizeof samples);
    store = open_store(directory, 0);
    for (int m = 0; m < MODULES; m++) map_one(m, 0);
    commit_it();
    go_on(length);
    size_t from = sampled / 4;
    if (grows(from) >= 0) {
        from = sampled;
        go_on(length);
    }
    int kind = grows(from);
    if (kind >= 0)
        FAIL("%s grew by %.1f in %zu samples: from %.0f to %.0f", kinds[kind], grown(from, kind), sampled - from,
             samples[from][kind], samples[sampled - 1][kind]);
    check_descriptors(from);
    OK(store_close(store));
    printf("soak of %.0f s, seed %" PRIu64 ": %lu commits, %lu persists, %lu restores, %lu deletions, %lu compactions, ",
           seconds() - begun, seed(), commits, persists, restores, deletions, compactions);
    printf("%lu reads, %lu unmaps, %lu reopens; %zu samples:", reads, unmappings, reopenings, sampled - from);
    for (kind = 0; kind < KINDS; kind++)
        printf(" %.0f to %.0f %s (%+.3f a sample)%s", samples[from][kind], samples[sampled - 1][kind], kinds[kind],
               slope(from, kind), kind + 1 < KINDS ? "," : "\n");
    return 0;
}
