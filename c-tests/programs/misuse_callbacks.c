/* Calls from inside callbacks: a call into the same store is VMSTORE_E_BUSY and does no harm, a call into another
 * store works. A callback that asks to stop leaves everything unchanged. */
#include "misuse.h"

static const char *directory;
static vmstore *store, *other;
static vmstore_module *ram, *of_other;
static unsigned refused, inside;
static int stop;

/* All that the rules say about calls from a callback. The getters and store_mark_dirty never wait. */
static void calls_inside(void)
{
    uint64_t commit = 0;
    int fd = -77;
    void *address = store_module_address(ram);
    refused += store_calls_fail(store, VMSTORE_E_BUSY, "callback");
    FAILS(store_unmap_module(ram), VMSTORE_E_BUSY, "callback");
    FAILS(store_grow_module(ram, 16 * page_size()), VMSTORE_E_BUSY, "callback");
    FAILS(store_discard(ram, 0, page_size()), VMSTORE_E_BUSY, "callback");
    refused += 3;
    /* Marking never waits. The page that is marked did not change. */
    OK(store_mark_dirty(ram, 0, 1));
    OK(store_import_dirty_bitmap(ram, 0, &(uint64_t){1}, 1));
    CHECK(address != NULL && store_module_size(ram) == 8 * page_size());
    CHECK(store_module_fd(ram, &fd, &commit) != VMSTORE_OK && fd == -77);

    ++*(unsigned *)store_module_address(of_other);
    OK(store_commit(other, NULL, &commit));
    OK(store_persist(other, NULL));
    vmstore *third;
    OK(store_open(path_in(directory, "third"), NULL, &third));
    OK(store_close(third));
    inside++;
}

static int progress(uint64_t done, uint64_t total, void *user_data)
{
    CHECK(user_data == &stop && done <= total);
    calls_inside();
    return stop;
}

static int one_module(const vmstore_module_info *info, void *user_data)
{
    CHECK(user_data == &stop && info->module_id != NULL);
    calls_inside();
    return stop;
}

static uint64_t head_of(vmstore *which)
{
    uint64_t head = 0;
    OK(store_head(which, &head));
    return head;
}

static uint64_t unpersisted(void)
{
    vmstore_stats stats = {.struct_size = sizeof stats};
    OK(store_stats(store, &stats));
    return stats.unpersisted_commits;
}

static void fill(int value)
{
    memset(store_module_address(ram), value, 8 * page_size());
}

static int filled_with(int value)
{
    return all_bytes_are(store_module_address(ram), 8 * page_size(), value);
}

static void from_progress(void)
{
    vmstore_persist_options persist = {
        .struct_size = sizeof persist, .progress = progress, .user_data = &stop};
    vmstore_restore_options restore = {
        .struct_size = sizeof restore, .progress = progress, .user_data = &stop};
    vmstore_verify_options verify = {
        .struct_size = sizeof verify, .progress = progress, .user_data = &stop};
    unsigned before;

    trying("a persist whose callback asks to stop");
    stop = 1, before = inside;
    FAILS(store_persist(store, &persist), VMSTORE_E_CANCELLED, "persist");
    CHECK(inside > before && unpersisted() == 3);
    trying("calls from inside a persist");
    stop = 0, before = inside;
    OK(store_persist(store, &persist));
    CHECK(inside > before && unpersisted() == 0);

    trying("a restore whose callback asks to stop");
    fill(9);
    stop = 1, before = inside;
    FAILS(store_restore(store, 1, &restore), VMSTORE_E_CANCELLED, "restore");
    CHECK(inside > before && filled_with(9) && head_of(store) == 3);
    stop = -1;
    FAILS(store_restore(store, 3, &restore), VMSTORE_E_CANCELLED, "restore");
    CHECK(filled_with(9) && head_of(store) == 3);
    trying("a commit after a restore whose callback asked to stop");
    uint64_t commit = 0;
    OK(store_commit(store, NULL, &commit));
    CHECK(commit > 3);
    trying("calls from inside a restore");
    stop = 0, before = inside;
    OK(store_restore(store, 1, &restore));
    CHECK(inside > before && filled_with(1) && head_of(store) == 1);
    OK(store_restore(store, commit, &restore));
    CHECK(filled_with(9));

    trying("a precopy whose callback asks to stop, and calls from inside it");
    vmstore_precopy_options precopy = {
        .struct_size = sizeof precopy, .progress = progress, .user_data = &stop};
    uint64_t left = SENTINEL;
    fill(10);
    stop = 1, before = inside;
    FAILS(store_precopy(store, &precopy, &left), VMSTORE_E_CANCELLED, "precopy");
    CHECK(inside > before && left == SENTINEL && filled_with(10));
    stop = 0, before = inside;
    OK(store_precopy(store, &precopy, &left));
    CHECK(inside > before && left == 0);
    OK(store_restore(store, commit, NULL));
    CHECK(filled_with(9));

    trying("a verify whose callback asks to stop");
    stop = 1, before = inside;
    FAILS(store_verify(store, &verify), VMSTORE_E_CANCELLED, "verify");
    CHECK(inside > before);
    trying("calls from inside a verify");
    stop = 0, before = inside;
    OK(store_verify(store, &verify));
    CHECK(inside > before);
}

static void from_a_listing(void)
{
    vmstore_module *more;
    OK(store_map_module(store, "more", page_size(), NULL, &more));
    trying("calls from inside a listing of modules");
    stop = 0, inside = 0;
    OK(store_list_modules(store, 0, one_module, &stop));
    CHECK(inside == 2);
    trying("a listing whose callback asks to stop");
    stop = 1, inside = 0;
    OK(store_list_modules(store, 0, one_module, &stop));
    CHECK(inside == 1);
    stop = 0, inside = 0;
    OK(store_list_modules(store, 1, one_module, &stop));
    CHECK(inside == 1);
    OK(store_unmap_module(more));
}

/* With a capture outstanding: calls on the capture are refused from inside a callback, and the capture stays
 * usable. */

static vmstore_capture *outstanding;

static int end_the_capture(uint64_t done, uint64_t total, void *user_data)
{
    (void)user_data;
    CHECK(done <= total);
    refused += capture_calls_fail(outstanding, VMSTORE_E_BUSY, "callback");
    inside++;
    return 0;
}

static void with_a_capture(void)
{
    vmstore_persist_options persist = {.struct_size = sizeof persist, .progress = end_the_capture};
    uint64_t commit = 0, head = head_of(store);
    vmstore_module *module = SENTINEL_POINTER(vmstore_module);
    vmstore_capture *second = SENTINEL_POINTER(vmstore_capture);
    uint64_t number = SENTINEL;
    fill(5);
    OK(store_commit(store, NULL, &commit));
    fill(6);
    OK(store_capture(store, NULL, &outstanding));
    fill(7);
    trying("calls that a capture forbids");
    FAILS(store_commit(store, NULL, &number), VMSTORE_E_BUSY, "capture");
    FAILS(store_capture(store, NULL, &second), VMSTORE_E_BUSY, "capture");
    FAILS(store_restore(store, 1, NULL), VMSTORE_E_BUSY, "capture");
    FAILS(store_map_module(store, "more", page_size(), NULL, &module), VMSTORE_E_BUSY, "capture");
    FAILS(store_unmap_module(ram), VMSTORE_E_BUSY, "capture");
    CHECK(number == SENTINEL && second == SENTINEL_POINTER(vmstore_capture));
    CHECK(module == SENTINEL_POINTER(vmstore_module) && filled_with(7));
    refused += 5;
    trying("ending a capture from inside a persist");
    inside = 0;
    OK(store_persist(store, &persist));
    CHECK(inside > 0);
    OK(store_capture_commit(outstanding, &commit));
    CHECK(commit > head && head_of(store) == commit);
    CHECK(filled_with(7));
    OK(store_restore(store, commit, NULL));
    CHECK(filled_with(6));
}

/* While the store opens, a log callback has no handle yet. It can open the same directory, and that call must not
 * wait for the first open. Later log calls have the handle. */
static vmstore *logged;
static unsigned logs;

static void log_line(int level, const char *message, void *user_data)
{
    vmstore *again = SENTINEL_POINTER(vmstore);
    CHECK(level == VMSTORE_LOG_WARNING || level == VMSTORE_LOG_INFO);
    CHECK(message[0] && !strchr(message, '\n') && user_data == &logs);
    if (logged) {
        refused += store_calls_fail(logged, VMSTORE_E_BUSY, "callback");
    } else {
        int status = store_open(path_in(directory, "logged"), NULL, &again);
        CHECK(status == VMSTORE_E_BUSY || status == VMSTORE_E_LOCKED);
        CHECK(again == SENTINEL_POINTER(vmstore));
        refused++;
    }
    logs++;
}

static void from_the_log(void)
{
    vmstore_open_options options = {
        .struct_size = sizeof options, .log = log_line, .user_data = &logs};
    vmstore_module *module;
    uint64_t commit = 0;
    vmstore *opened;
    trying("calls from inside the log");
    OK(store_open(path_in(directory, "logged"), NULL, &opened));
    OK(store_map_module(opened, "ram", page_size(), NULL, &module));
    OK(store_commit(opened, NULL, &commit));
    OK(store_close(opened));
    /* What a crash in the middle of a commit leaves: a module commit that no commit names, and a link to it. */
    FILE *left = fopen(path_in(directory, "logged/ram_Commit2"), "w");
    CHECK(left && fputs("left over", left) >= 0 && fclose(left) == 0);
    CHECK(unlink(path_in(directory, "logged/ram_last")) == 0);
    CHECK(symlink("ram_Commit2", path_in(directory, "logged/ram_last")) == 0);
    OK(store_open(path_in(directory, "logged"), &options, &logged));
    CHECK(logs > 0); /* the header says that options->log gets a line about it */
    CHECK(!exists(path_in(directory, "logged/ram_Commit2")));
    OK(store_map_module(logged, "ram", 0, NULL, &module));
    *(char *)store_module_address(module) = 1;
    OK(store_commit(logged, NULL, &commit));
    OK(store_close(logged));
}

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    directory = argv[1];
    OK(store_open(path_in(directory, "store"), NULL, &store));
    OK(store_open(path_in(directory, "other"), NULL, &other));
    OK(store_map_module(store, "ram", 8 * page_size(), NULL, &ram));
    OK(store_map_module(other, "ram", page_size(), NULL, &of_other));
    for (int i = 1; i <= 3; i++) {
        uint64_t commit = 0;
        fill(i);
        OK(store_commit(store, NULL, &commit));
        CHECK(commit == (uint64_t)i);
    }
    from_progress();
    from_a_listing();
    with_a_capture();
    from_the_log();
    OK(store_close(store));
    OK(store_close(other));
    return finished("%u calls from inside callbacks were refused", refused);
}
