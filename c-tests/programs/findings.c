/* Findings: in each file of a small branching store, one page or the footer is damaged, one after another.
 * store_verify must report exactly this damage, and exactly those commits as lost that cannot be restored any more. */
#define _GNU_SOURCE
#include "model.h"

enum { COMMITS = 6, PAGES = 6 };

static struct {
    unsigned damages, good, lost, limit, calls;
    int is_lost[COMMITS + 1];
    uint64_t commit, page;
    char file[64], module[64];
} heard;
static unsigned long tried, good, lost;

static int hear(const vmstore_finding *finding, void *user_data)
{
    CHECK(user_data == &heard && finding->struct_size == sizeof *finding);
    if (finding->kind == VMSTORE_FINDING_DAMAGE) {
        CHECK(heard.good + heard.lost == 0 && finding->message[0]);
        heard.damages++;
        heard.commit = finding->commit, heard.page = finding->page;
        snprintf(heard.file, sizeof heard.file, "%s", finding->file);
        snprintf(heard.module, sizeof heard.module, "%s", finding->module_id);
    } else {
        CHECK(finding->commit >= 1 && finding->commit <= COMMITS && finding->page == VMSTORE_NO_PAGE);
        CHECK(finding->kind == VMSTORE_FINDING_GOOD || finding->kind == VMSTORE_FINDING_LOST);
        heard.is_lost[finding->commit] = finding->kind == VMSTORE_FINDING_LOST;
        *(heard.is_lost[finding->commit] ? &heard.lost : &heard.good) += 1;
    }
    return ++heard.calls == heard.limit;
}

static int verify(vmstore *store, uint32_t flags)
{
    vmstore_verify_options options = {
        .struct_size = sizeof options, .flags = flags, .finding = hear, .user_data = &heard};
    memset(&heard, 0, sizeof heard);
    return store_verify(store, &options);
}

/* In a fresh opener: every commit that was reported as good can be mapped whole, and no other commit. */
static void judge(const char *directory)
{
    vmstore_open_options options = {.struct_size = sizeof options, .flags = VMSTORE_OPEN_READ_ONLY};
    for (uint64_t n = 1; n <= COMMITS; n++) {
        vmstore *store;
        vmstore_module *module;
        vmstore_map_options eager = {.struct_size = sizeof eager, .flags = VMSTORE_MAP_EAGER};
        OK(store_open(directory, &options, &store));
        int status = store_restore(store, n, NULL);
        for (int m = 0; m < 2 && status == VMSTORE_OK; m++)
            status = store_map_module(store, m ? "ram" : "dev", 0, &eager, &module);
        if ((status != VMSTORE_OK) != heard.is_lost[n])
            FAIL("commit %" PRIu64 " was reported as %s, and mapping it gave: %s", n, heard.is_lost[n] ? "lost" : "good",
                 store_strerror(status));
        OK(store_close(store));
        *(heard.is_lost[n] ? &lost : &good) += 1;
    }
}

static void damage(const char *directory, const char *module, uint64_t commit, long offset, uint64_t page)
{
    char name[64];
    unsigned char byte;
    snprintf(name, sizeof name, "%s_Commit%" PRIu64, module, commit);
    const char *path = path_in(directory, name);
    FILE *file = fopen(path, "r+b");
    if (!file) return;
    CHECK(!fseek(file, offset, offset < 0 ? SEEK_END : SEEK_SET));
    if (fread(&byte, 1, 1, file) != 1) {
        fclose(file);
        return;
    }
    byte ^= 0x10;
    CHECK(!fseek(file, -1, SEEK_CUR) && fwrite(&byte, 1, 1, file) == 1 && !fflush(file));
    vmstore *store = open_store(directory, VMSTORE_OPEN_READ_ONLY);
    CHECK(verify(store, 0) == VMSTORE_E_CORRUPT);
    CHECK(strstr(last_error(), name));
    CHECK(heard.damages == 1 && !strcmp(heard.file, name) && !strcmp(heard.module, module));
    CHECK(heard.commit == commit && heard.page == page && heard.good + heard.lost == COMMITS);
    judge(directory);
    /* Without a callback the first damage ends the call. With VMSTORE_VERIFY_METADATA the pages are not read. */
    FAILS(store_verify(store, NULL), VMSTORE_E_CORRUPT, name);
    CHECK((verify(store, VMSTORE_VERIFY_METADATA) == VMSTORE_OK) == (page != VMSTORE_NO_PAGE));
    OK(store_close(store));
    byte ^= 0x10;
    CHECK(!fseek(file, -1, SEEK_CUR) && fwrite(&byte, 1, 1, file) == 1 && !fclose(file));
    tried++;
}

int main(int count, char **arguments)
{
    CHECK(count >= 2);
    require_small_pages("findings");
    char directory[4096];
    name_directory(directory, arguments[1], "store");
    vmstore *store = open_store(directory, 0);
    mapped ram = map(store, "ram", PAGES * PAGE, 0, VMSTORE_TRACKER_AUTO);
    mapped dev = map(store, "dev", PAGE, 0, VMSTORE_TRACKER_AUTO);
    /* Page 0 is new in every commit: damage to it often affects one commit only. */
    uint64_t held[COMMITS + 1][PAGES] = {{0}}, first[] = {0, 0, 0, 1, 2, 3, 4};
    for (uint64_t n = 1; n <= COMMITS; n++) {
        if (n == 5) OK(store_restore(store, 2, NULL));
        fill(ram.memory, PAGE, n), held[n][0] = 1;
        if (n > 1) fill(ram.memory + first[n] * PAGE, PAGE, n), held[n][first[n]] = 1;
        if (n == 1) fill(ram.memory, PAGES * PAGE, 99);
        if (n == 1 || n == 4) fill(dev.memory, PAGE, n);
        CHECK(commit(store) == n);
    }
    CHECK(verify(store, 0) == VMSTORE_OK && heard.good == COMMITS && !heard.damages && !heard.lost);
    OK(store_persist(store, NULL));
    vmstore_verify_options stopped = {.struct_size = sizeof stopped, .finding = hear, .user_data = &heard};
    memset(&heard, 0, sizeof heard);
    heard.limit = 2;
    FAILS(store_verify(store, &stopped), VMSTORE_E_CANCELLED, "cancel");
    OK(store_close(store));
    for (uint64_t n = 1; n <= COMMITS; n++) {
        long slot = 0;
        for (uint64_t page = 0; page < PAGES; page++) {
            if (n > 1 && !held[n][page]) continue;
            damage(directory, "ram", n, slot++ * (long)PAGE + 77, page);
        }
        damage(directory, "ram", n, -100, VMSTORE_NO_PAGE);
        damage(directory, "ram", n, -520, VMSTORE_NO_PAGE);
        damage(directory, "dev", n, 5, 0);
        damage(directory, "dev", n, -8, VMSTORE_NO_PAGE);
    }
    CHECK(tried > 25 && good > 20 && lost > 20);
    printf("findings: %lu damages, each reported exactly; %lu commits rightly reported as lost, %lu as good\n", tried,
           lost, good);
    return 0;
}
