/*
 * timetravel.c - an unmodified QEMU whose guest, a Linux, goes back in time.
 *
 * The guest's RAM is the module `ram`, a shared mapping. QEMU maps the backing file of `ram` too. The state
 * of QEMU's devices goes into the module `devices`. For a commit, this process stops QEMU and commits both
 * modules. To go back, it kills QEMU, calls store_restore, and starts another QEMU on the restored modules.
 * How it uses the library: modules_map, commit, travel. How to run it, and what it proves: README.md.
 * qemu.c starts QEMU and talks to it.
 */
#define _GNU_SOURCE
#include "qemu.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vmstore.h>

#define RAM_BYTES      (192ull << 20)
#define DEVICES_BYTES  (4ull << 20)
#define BOOT_SECONDS   100
#define LINE_SECONDS   30
#define LIFE_SECONDS   240          /* each wait has its own, shorter limit: this limit catches defects */
#define FOLLOWING      5            /* lines of the console that are compared after a commit and its restores */
#define COMMITS        3

/* The `devices` module: the part of a commit that is not RAM. */
struct devices {
    uint64_t state_bytes;
    char line[LINE], rest[LINE];    /* the console's last whole line, and the beginning of the next */
    unsigned char state[];          /* QEMU's migration stream */
};

/* The lines that followed each commit when it was made. Both child processes share this memory with the parent. */
struct witness {
    char lines[COMMITS + 1][FOLLOWING][LINE];
    unsigned commits, restores, qemus, proved;
};

static const char *directory;       /* of the store */
static struct guest guest = { .memory_bytes = RAM_BYTES };
static struct witness *witness;
static vmstore *store;
static struct devices *devices;
static char last_line[LINE];        /* of the console */

static void title(const char *text) { printf(isatty(1) ? "\n\033[1m%s\033[0m\n" : "\n%s\n", text); }

static void must(int status, const char *what)
{
    char text[1024];
    store_last_error(text, sizeof text);
    if (status != VMSTORE_OK)
        fail("%s: %s: %s", what, store_strerror(status), text);
}

/* ---- The guest, as its console shows it -------------------------------------------------------- */

/* Takes a line of the console. Its count must be one higher than that of the last line. */
static void heard_line(const char *line)
{
    unsigned long before = 0, count;
    char heard[32], files[33];
    if (sscanf(line, "count %lu, heard %31[a-z], files %32[0-9a-f]", &count, heard, files) != 3 || strlen(files) != 32)
        fail("this is not a line of the guest: \"%s\"", line);
    if (*last_line)
        sscanf(last_line, "count %lu", &before);
    if (count != before + 1)
        fail("the guest was at \"%s\" and went on with \"%s\"", last_line, line);
    strcpy(last_line, line);
}

static void next_line(void) { heard_line(console_line(LINE_SECONDS)); }

/* After a restore the guest must say exactly the same as it said when the commit was made. */
static void follow(uint64_t commit, bool first_time)
{
    say("was at", "%s", last_line);
    for (int i = 0; i < FOLLOWING; i++) {
        char *expected = witness->lines[commit][i];
        next_line();
        if (first_time)
            strcpy(expected, last_line);
        else if (strcmp(expected, last_line) != 0)
            fail("after commit %lu the guest said \"%s\" the first time, and now \"%s\"", commit, expected, last_line);
        if (i == 0)
            say("goes on", "%s", last_line);
    }
    if (first_time)
        return;
    witness->proved++;
    say("PROVED", "this line and the next %d are what followed commit %lu when it was made", FOLLOWING - 1, commit);
}

/* Types a word, and waits until the guest has it in its files. */
static void tell(const char *word)
{
    char heard[48];
    snprintf(heard, sizeof heard, "heard %s,", word);
    console_type(word);
    for (int lines = 0; !strstr(last_line, heard); lines++) {
        if (lines == 50)
            fail("the guest does not hear \"%s\"", word);
        next_line();
    }
    say("told", "%s", last_line);
}

/* ---- The store --------------------------------------------------------------------------------- */
static int on_module(const vmstore_module_info *info, void *unused)
{
    static const char *const names[] = { "?", "kernel", "caller", "compare" };
    (void)unused;
    say("module", "%s: %lu MiB, %s; tracker %s: %s", info->module_id, info->size >> 20,
        info->mode == VMSTORE_MAP_SHARED ? "shared" : "private", names[info->tracker & 3], info->tracker_reason);
    return 0;
}

/* QEMU writes to `ram` through its own mapping. The kernel tracker of our mapping does not see these writes, so
 * `ram` is compared. This process writes `devices`: any tracker works. Both modules come up at the head. */
static void modules_map(void)
{
    vmstore_map_options shared = { .struct_size = sizeof shared, .flags = VMSTORE_MAP_SHARED,
                                   .tracker = VMSTORE_TRACKER_COMPARE };
    vmstore_module *ram, *other;
    must(store_map_module(store, "ram", RAM_BYTES, &shared, &ram), "map ram");
    must(store_map_module(store, "devices", DEVICES_BYTES, NULL, &other), "map devices");
    devices = store_module_address(other);
    must(store_list_modules(store, 0, on_module, NULL), "store_list_modules");
}

static int state_file(void)
{
    int file = memfd_create("device state", MFD_CLOEXEC);
    if (file < 0)
        fail("no memory file for the device state: %s", strerror(errno));
    return file;
}

/* Copies the device state of the stopped QEMU, and the console's last lines, into `devices`. */
static void devices_save(void)
{
    const char *line;
    struct stat about;
    uint64_t room = DEVICES_BYTES - sizeof *devices;
    int file = state_file();
    qemu_save(file);
    if (fstat(file, &about) || (uint64_t)about.st_size > room)
        fail("a device state of %ld bytes; there is room for %lu", about.st_size, room);
    if (pread(file, devices->state, (size_t)about.st_size, 0) != about.st_size)
        fail("the device state cannot be read: %s", strerror(errno));
    close(file);
    devices->state_bytes = (uint64_t)about.st_size;
    while ((line = console_line_there()))
        heard_line(line);
    strcpy(devices->line, last_line);
    strcpy(devices->rest, console_rest());
}

static void devices_load(void)
{
    int file = state_file();
    if (pwrite(file, devices->state, devices->state_bytes, 0) != (ssize_t)devices->state_bytes)
        fail("the device state cannot be written: %s", strerror(errno));
    qemu_load(file);
    close(file);
    console_begin(devices->rest);
    strcpy(last_line, devices->line);
}

static void show_file(const char *module, uint64_t commit)
{
    char path[4352];
    struct stat about;
    snprintf(path, sizeof path, "%s/%s_Commit%lu", directory, module, commit);
    if (stat(path, &about))
        fail("commit %lu found no changed page in %s: there is no %s", commit, module, path);
    say("file", "%s_Commit%lu: %ld KiB on disk", module, commit, about.st_blocks / 2);
}

/* Stops the guest for the device state and the capture. The guest runs while the commit is written. */
static void commit(uint64_t expected, const char *label)
{
    vmstore_commit_options options = { .struct_size = sizeof options, .label = label };
    vmstore_stats stats = { .struct_size = sizeof stats };
    vmstore_capture *capture;
    uint64_t number, begin = milliseconds();
    qemu_stop();
    devices_save();
    uint64_t saved = milliseconds() - begin;
    must(store_capture(store, &options, &capture), "store_capture");
    qemu_continue();
    uint64_t paused = milliseconds() - begin;
    must(store_capture_commit(capture, &number), "store_capture_commit");
    must(store_stats(store, &stats), "store_stats");
    if (number != expected)
        fail("this should be commit %lu and is %lu: is there an older store in this directory?", expected, number);
    witness->commits++;
    say("commit", "%lu \"%s\": paused %lu ms, of them device state (%lu KiB) %lu, capture %lu; then written in %lu ms",
        number, label, paused, devices->state_bytes >> 10, saved, stats.last_capture_ns / 1000000,
        stats.last_write_ns / 1000000);
    say("pages", "%lu reported: %lu written, %lu zero, %lu unchanged", stats.last_dirty_pages,
        stats.last_written_pages, stats.last_zero_pages, stats.last_unchanged_pages);
    show_file("ram", number);
    show_file("devices", number);
    follow(number, true);
}

static void start(bool incoming)
{
    qemu_start(&guest, incoming);
    witness->qemus++;
}

/* How many pages of the modules differ from the head. The capture is only counted, and then cancelled. */
static uint64_t pages_changed(void)
{
    vmstore_stats stats = { .struct_size = sizeof stats };
    vmstore_capture *capture;
    must(store_capture(store, NULL, &capture), "store_capture");
    must(store_stats(store, &stats), "store_stats");
    must(store_capture_cancel(capture), "store_capture_cancel");
    return stats.last_dirty_pages;
}

/* Starts a QEMU on the modules, which now have the bytes of commit `number`. */
static void resume(uint64_t number)
{
    uint64_t begin = milliseconds();
    start(true);
    devices_load();
    uint64_t ready = milliseconds() - begin, changed = pages_changed();
    if (changed)
        fail("QEMU changed %lu pages of the guest's RAM before the guest ran", changed);
    qemu_continue();
    say("QEMU", "a new one was ready after %lu ms, and had changed no page", ready);
    witness->restores++;
    follow(number, false);
}

/* Kills QEMU while its guest runs, and restores a commit in place. */
static void travel(uint64_t number)
{
    vmstore_stats stats = { .struct_size = sizeof stats };
    qemu_kill();
    say("killed", "QEMU, with SIGKILL, after %s", last_line);
    must(store_restore(store, number, NULL), "store_restore");
    must(store_stats(store, &stats), "store_stats");
    say("restore", "%lu: %lu pages in %lu ms", number, stats.last_restored_pages, stats.last_restore_ns / 1000000);
    resume(number);
}

static void on_log(int level, const char *message, void *unused)
{
    (void)unused;
    say(level == VMSTORE_LOG_WARNING ? "WARNING" : "log", "%s", message);
}

static void open_store(uint64_t expected_head)
{
    vmstore_open_options options = { .struct_size = sizeof options, .log = on_log };
    uint64_t head;
    must(store_open(directory, &options, &store), "store_open");
    must(store_head(store, &head), "store_head");
    if (head != expected_head)
        fail("the store is at commit %lu, not %lu: is there an older one in %s?", head, expected_head, directory);
}

static void history(void)
{
    static const uint64_t parents[COMMITS + 1] = { 0, 0, 1, 1 };
    for (uint64_t n = 1; n <= COMMITS; n++) {
        vmstore_commit_info info = { .struct_size = sizeof info };
        must(store_commit_info(store, n, &info), "store_commit_info");
        say("commit", "%lu on %lu%s \"%s\"", n, info.parent, info.persisted ? ", persisted:" : ":", info.label);
        if (info.parent != parents[n] || !info.persisted)
            fail("commit %lu should be persisted, and on %lu", n, parents[n]);
    }
    must(store_verify(store, NULL), "store_verify");
}

/* ---- Two child processes, one after the other, and their parent -------------------------------- */
static void first_life(void)
{
    title("1  A new store; QEMU boots a Linux in it");
    open_store(0);
    modules_map();
    uint64_t begin = milliseconds();
    start(false);
    heard_line(console_line(BOOT_SECONDS));
    say("booted", "in %lu ms: %s", milliseconds() - begin, last_line);
    for (int i = 0; i < FOLLOWING; i++)
        next_line();
    title("2  A commit; the guest continues, and hears a word");
    commit(1, "heard nothing");
    tell("apple");
    title("3  A second commit");
    commit(2, "heard of an apple");
    title("4  Back to commit 1, in another QEMU; the guest hears another word: commit 3, a branch");
    travel(1);
    tell("pear");
    commit(3, "heard of a pear");
    title("5  Restore commit 2, on the other branch");
    travel(2);
    title("6  Persist, while the guest runs; then this process is killed too");
    begin = milliseconds();
    must(store_persist(store, NULL), "store_persist");
    say("persist", "%lu ms", milliseconds() - begin);
    next_line();
    fflush(stdout);
    raise(SIGKILL);
}

static void second_life(void)
{
    title("7  A new process: the head is commit 2; commit 1 is restored before the modules are mapped");
    open_store(2);
    must(store_restore(store, 1, NULL), "store_restore");
    modules_map();
    resume(1);
    title("8  Restore commit 3, the branch");
    travel(3);
    title("9  The history; every file is verified");
    qemu_kill();
    history();
    must(store_close(store), "store_close");
}

static void too_long(int number)
{
    static const char text[] = "   FAILED    a process and its QEMU did not end in time: both are killed\n";
    (void)number;
    _exit(write(STDOUT_FILENO, text, sizeof text - 1) < 0 ? 2 : 1);
}

/* Runs a child process, and waits for all processes that it leaves behind: no QEMU outlives it. */
static void live(void (*life)(void), int expected_status)
{
    pid_t parent = getpid(), child, ended;
    int status, its_status = -1;
    fflush(stdout);
    if ((child = fork()) < 0)
        fail("no process: %s", strerror(errno));
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent)
            life();
        exit(0);
    }
    signal(SIGALRM, too_long);
    alarm(LIFE_SECONDS);
    while ((ended = wait(&status)) > 0)
        if (ended == child)
            its_status = status;
    alarm(0);
    if (its_status != expected_status)
        say("FAILED", "a process ended with wait status 0x%x; the store is kept: %s", its_status, directory), exit(1);
}

int main(int argc, char **argv)
{
    static char fresh[4096], memory[4352];
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 4 || argc > 5) {
        fprintf(stderr, "usage: %s QEMU KERNEL INITRAMFS [STORE]\n", argv[0]);
        return 2;
    }
    guest.qemu = argv[1], guest.kernel = argv[2], guest.initramfs = argv[3];
    snprintf(fresh, sizeof fresh, "%s/qemu-timetravel-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    directory = argc > 4 ? argv[4] : mkdtemp(fresh);
    witness = mmap(NULL, sizeof *witness, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!directory || witness == MAP_FAILED || prctl(PR_SET_CHILD_SUBREAPER, 1))
        fail("no temporary directory, or no memory: %s", strerror(errno));
    if (strchr(directory, ','))
        fail("the store's path has a comma, which ends a path for QEMU: %s", directory);
    snprintf(memory, sizeof memory, "%s/ram", directory);
    guest.memory = memory;
    printf("qemu-timetravel: a Linux in QEMU in vmstore %s, in %s\n", store_version(), directory);
    live(first_life, SIGKILL);
    live(second_life, 0);
    printf("\nPROVED: after %u of %u restores the guest continued as it did when the commit was made; %u commits, %u QEMUs.\n",
           witness->proved, witness->restores, witness->commits, witness->qemus);
    if (witness->proved != 4)
        return 1;
    return argc > 4 ? 0 : execlp("rm", "rm", "-rf", "--", directory, NULL);
}
