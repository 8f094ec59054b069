/* Flips one bit in each byte of `commits`, in each byte of every hidden file, in each byte of the index and footer
 * of a delta, in each third byte of an image's, and in each page of every module commit. There must be no wrong
 * byte, no signal, and no damage that goes unreported. */
#include "examine.h"

static struct model model, persisted_model;

static void flip(const char *master, struct examination *e, const char *file, unsigned char *bytes, size_t length,
                 size_t at)
{
    CHECK(at < length);
    trying("%s with bit %zu of byte %zu of %zu flipped", file, at % 8, at, length);
    bytes[at] ^= (unsigned char)(1 << at % 8);
    copy_with(e, master, file, bytes, length);
    bytes[at] ^= (unsigned char)(1 << at % 8);
    examine(e);
}

static unsigned char *bytes_of(const char *master, const char *file, size_t *length)
{
    char path[4200];
    CHECK(snprintf(path, sizeof path, "%s/%s", master, file) < (int)sizeof path);
    return read_file(path, length);
}

static size_t size_of(const char *master, const char *file)
{
    char path[4200];
    struct stat status;
    CHECK(snprintf(path, sizeof path, "%s/%s", master, file) < (int)sizeof path);
    if (stat(path, &status) != 0) FAIL("%s: %s", path, strerror(errno));
    return (size_t)status.st_size;
}

static void flip_from(const char *master, struct examination *e, const char *file, size_t start, size_t step)
{
    size_t size;
    unsigned char *bytes = bytes_of(master, file, &size);
    CHECK(start < size);
    /* A larger count would mean that data pages are taken for the index. The test would then take minutes. */
    if (size - start > 6000) FAIL("%s has %zu bytes after its data", file, size - start);
    for (size_t at = start; at < size; at += step * stride(61)) flip(master, e, file, bytes, size, at);
    free(bytes);
}

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    watch_signals();
    const char *master = path_in(argv[1], "master");
    build_store(master, 1, 0, &model);
    const char *persisted = path_in(argv[1], "persisted");
    build_store(persisted, 2, 1, &persisted_model);

    struct examination commits = {
        .model = &model, .names = {"commits"}, .allowed = COMMITS_DAMAGED, .persisted = PERSISTED,
        .salvage_every = 5};
    flip_from(master, &commits, "commits", 0, 1);
    CHECK(outcome.salvaged > 0);
    /* With an empty journal only `commits` itself can show that its end is damaged. */
    commits.model = &persisted_model;
    commits.persisted = COMMITS;
    commits.salvage_every = 50;
    flip_from(persisted, &commits, "commits", 0, 3);

    char names[16][64];
    char hidden[4200];
    CHECK(snprintf(hidden, sizeof hidden, "%s/.vmstore", master) < (int)sizeof hidden);
    size_t count = files_of(hidden, names, 16);
    int journal = 0, identity = 0, high_water = 0;
    for (size_t i = 0; i < count; i++) {
        char file[80];
        snprintf(file, sizeof file, ".vmstore/%s", names[i]);
        struct examination e = {.model = &model, .names = {names[i]}, .persisted = PERSISTED};
        if (strcmp(names[i], "journal") == 0) {
            journal = 1;
            e.allowed = COMMITS_DAMAGED;
            e.salvage_every = 3;
        }
        identity |= strcmp(names[i], "identity") == 0;
        high_water |= strcmp(names[i], "high-water") == 0;
        if (size_of(master, file)) flip_from(master, &e, file, 0, 1);
    }
    CHECK(journal && identity && high_water);
    CHECK(outcome.forgotten == 0);

    struct examination delta = {.model = &model, .names = {DELTA}, .persisted = PERSISTED};
    CHECK(size_of(master, DELTA) < module_pages[0] * page_size()); /* the file is a delta */
    flip_from(master, &delta, DELTA, DELTA_DATA_PAGES * page_size(), 1);
    struct examination image = {.model = &model, .names = {"dev_Commit1"}, .persisted = PERSISTED};
    CHECK(size_of(master, "dev_Commit1") > module_pages[1] * page_size()); /* the file is an image */
    flip_from(master, &image, "dev_Commit1", module_pages[1] * page_size(), 3);

    /* A bit in each page of the data of every module commit: found when the page is needed, and by store_verify. */
    char files[64][64];
    count = files_of(master, files, 64);
    unsigned pages = 0, before = outcome.corrupt_later;
    for (size_t i = 0; i < count; i++) {
        if (!strstr(files[i], "_Commit")) continue;
        struct examination e = {.model = &model, .names = {files[i]}, .persisted = PERSISTED};
        size_t size;
        unsigned char *bytes = bytes_of(master, files[i], &size);
        for (size_t page = 0; (page + 1) * page_size() <= size; page += stride(5)) {
            flip(master, &e, files[i], bytes, size, page * page_size() + (page * 997 + i) % page_size());
            pages++;
        }
        free(bytes);
    }
    CHECK(pages > 5 && outcome.corrupt_later > before);

    master_is_intact((struct examination){.path = master, .model = &model, .persisted = PERSISTED});
    free_model(&model);
    free_model(&persisted_model);
    return finished_damage();
}
