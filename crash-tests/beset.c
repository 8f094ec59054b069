/* A store whose directory another process keeps changing.
 *
 *   beset make DIRECTORY           makes a store of STEPS commits. The label of each says what the commit holds.
 *   beset endure DIRECTORY ROUNDS  opens the store, maps, reads, restores, verifies, commits, persists, exports and
 *                                  compacts, until the store was opened ROUNDS times. Any call may fail. A call that
 *                                  succeeds must give the right bytes.
 *   beset lazy DIRECTORY ROUNDS    maps images lazily, in a child for each round, and touches them. A child may die of
 *                                  SIGBUS at an address in a module, and of no other signal.
 *
 * A call that takes longer than a minute ends the program with SIGALRM. Prints counts. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define RAM_PAGES 48 /* enough for an image to be mapped */
#include "contents.h"

enum { STEPS = 6, COMMITS = 64, TOUCHED = 77, REFUSED = 79, MINUTE = 60 };

static const char *directory;
static int null;
static vmstore *store;
static vmstore_module *modules[MODULES];
static unsigned char *memories[MODULES], *reserved[MODULES];
static unsigned long opened, mapped, restored, read_back, verified, committed, refused;

/* Whether a call succeeded. It may fail only for reasons in the directory. */
static int went(const char *call, int status)
{
    alarm(MINUTE);
    if (!status) return 1;
    refused++;
    if (status == VMSTORE_E_INTERNAL || status == VMSTORE_E_INVALID || status == VMSTORE_E_HANDLE ||
        status == VMSTORE_E_LOCKED || status == VMSTORE_E_FORKED || status == VMSTORE_E_CANCELLED)
        FAIL("%s: %d: %s", call, status, why());
    if (!why()[0]) FAIL("%s: status %d without a message", call, status);
    return 0;
}

/* The number of the contents of a commit; 0: not known. */
static uint64_t holds(uint64_t commit)
{
    vmstore_commit_info info = {.struct_size = sizeof info};
    if (!commit || !went("commit_info", store_commit_info(store, commit, &info))) return 0;
    return strtoull(info.label, NULL, 10);
}

static void check_memory(uint64_t n, const char *when)
{
    unsigned char wanted[PAGE];
    for (int m = 0; m < MODULES; m++)
        for (int p = 0; memories[m] && p < pages[m]; p++) {
            page_at(wanted, n, m, p);
            if (memcmp(memories[m] + p * PAGE, wanted, PAGE))
                FAIL("%s: WRONG BYTES: page %d of %s is not as commit %llu left it", when, p, ids[m], (unsigned long long)n);
        }
}

static void commit(uint64_t n)
{
    char label[32];
    snprintf(label, sizeof label, "%llu", (unsigned long long)n);
    vmstore_commit_options options = {.struct_size = sizeof options, .label = label};
    for (int m = 0; m < MODULES; m++)
        for (int p = 0; p < pages[m]; p++) page_at(memories[m] + p * PAGE, n, m, p);
    uint64_t number;
    if (went("commit", store_commit(store, &options, &number))) committed++;
}

static int map(uint32_t flags, uint64_t size)
{
    int all = 1;
    memset(memories, 0, sizeof memories);
    for (int m = 0; m < MODULES; m++) {
        vmstore_map_options options = {.struct_size = sizeof options, .flags = flags};
        if (reserved[m]) {
            options.address = reserved[m];
            options.flags |= VMSTORE_MAP_RESERVED;
        }
        uint64_t bytes = size ? (uint64_t)pages[m] * PAGE : 0;
        int status = store_map_module(store, ids[m], bytes, &options, &modules[m]);
        /* A module that the head does not have has no size. */
        if (status == VMSTORE_E_INVALID || !went("map", status)) {
            all = 0;
            continue;
        }
        mapped++;
        memories[m] = store_module_address(modules[m]);
        if (store_module_size(modules[m]) != (uint64_t)pages[m] * PAGE) FAIL("%s has the wrong size", ids[m]);
    }
    return all;
}

static void make(void)
{
    if (store_open(directory, NULL, &store) || !map(0, 1)) FAIL("%s", why());
    for (uint64_t n = 1; n <= STEPS; n++) {
        commit(n);
        if (n == STEPS / 2 && store_persist(store, NULL)) FAIL("%s", why());
    }
    if (committed != STEPS || store_close(store)) FAIL("%s", why());
}

static void read_commit(uint64_t number, uint64_t n)
{
    unsigned char wanted[PAGE], got[PAGE];
    for (int m = 0; m < MODULES; m++) {
        int p = (int)(number % (uint64_t)pages[m]);
        if (!went("read", store_read(store, number, ids[m], (uint64_t)p * PAGE, got, PAGE))) continue;
        page_at(wanted, n, m, p);
        if (memcmp(got, wanted, PAGE)) FAIL("WRONG BYTES: read page %d of %s", p, ids[m]);
        read_back++;
    }
}

static void round_of(unsigned round)
{
    uint64_t commits[COMMITS], head = 0;
    size_t count = 0;
    int writes = round % 4 < 2, all;
    vmstore_open_options options = {.struct_size = sizeof options, .arena_limit = 1 << 20};
    options.flags = writes            ? VMSTORE_OPEN_NO_CREATE
                    : round % 4 == 2 ? VMSTORE_OPEN_READ_ONLY
                                     : VMSTORE_OPEN_SALVAGE;
    if (!went("open", store_open(directory, &options, &store))) return;
    opened++;
    if (!went("head", store_head(store, &head))) FAIL("%s", why());
    all = map(VMSTORE_MAP_EAGER, 0);
    uint64_t now = holds(head);
    if (now) check_memory(now, "mapped");
    if (went("verify", store_verify(store, NULL))) verified++;
    if (!went("list", store_list_commits(store, commits, COMMITS, &count))) FAIL("%s", why());
    if (count > COMMITS) count = COMMITS;
    for (size_t i = 0; i < count; i++) {
        uint64_t n = holds(commits[i]);
        if (!n) continue;
        read_commit(commits[i], n);
        if (!went("restore", store_restore(store, commits[i], NULL))) {
            if (now) check_memory(now, "a restore that failed");
            continue;
        }
        restored++;
        now = n;
        check_memory(now, "restored");
    }
    if (count) went("export", store_export(store, 0, commits[count - 1], null));
    if (writes) {
        if (all && now) {
            commit(now + 1);
            if (round % 3 == 0) commit(now + 2);
        }
        went("persist", store_persist(store, NULL));
        vmstore_compact_options compact = {.struct_size = sizeof compact, .keep_last = 3};
        if (round % 5 == 0) went("compact", store_compact(store, &compact));
    }
    if (!went("close", store_close(store))) FAIL("close: %s", why());
}

static void died(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    uintptr_t at = (uintptr_t)info->si_addr;
    for (int m = 0; m < MODULES; m++) {
        uintptr_t from = (uintptr_t)reserved[m];
        if (from && at >= from && at < from + (uintptr_t)pages[m] * PAGE) _exit(TOUCHED);
    }
    _exit(TOUCHED + 1);
}

/* Returns whether there was a mapping to touch. */
static int touch(unsigned round)
{
    struct sigaction action = {.sa_sigaction = died, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    /* The address is reserved before: mapping the module touches it, and may already end in SIGBUS. */
    for (int m = 0; m < MODULES; m++) {
        void *at = mmap(NULL, (size_t)pages[m] * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) FAIL("no address space");
        reserved[m] = at;
    }
    vmstore_open_options options = {.struct_size = sizeof options,
                                    .flags = round % 2 ? VMSTORE_OPEN_READ_ONLY : VMSTORE_OPEN_NO_CREATE};
    if (!went("open", store_open(directory, &options, &store))) return 0;
    map(0, 0);
    if (!memories[0]) return 0;
    unsigned sum = 0;
    for (int times = 0; times < 200; times++) {
        for (int m = 0; m < MODULES; m++)
            for (int p = 0; memories[m] && p < pages[m]; p++) sum += memories[m][p * PAGE + times];
        usleep(20);
        if (memories[0] && times % 20 == 0) memories[0][times] = (unsigned char)sum;
        if (times % 50 == 0) {
            uint64_t number;
            went("verify", store_verify(store, NULL));
            if (round % 2 == 0) went("commit", store_commit(store, NULL, &number));
        }
    }
    went("close", store_close(store));
    return 1;
}

int main(int argc, char **argv)
{
    if (argc < 3) return 2;
    directory = argv[2];
    unsigned rounds = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 0;
    null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    alarm(MINUTE);
    if (!strcmp(argv[1], "make")) {
        make();
    } else if (!strcmp(argv[1], "endure")) {
        access("the rounds begin", F_OK); /* for a trace of system calls */
        for (unsigned round = 0; opened < rounds; round++) round_of(round);
        printf("opened %lu times: mapped %lu, verified %lu, read %lu, restored %lu, committed %lu, refused %lu\n",
               opened, mapped, verified, read_back, restored, committed, refused);
    } else if (!strcmp(argv[1], "lazy")) {
        unsigned whole = 0, touched = 0;
        for (unsigned round = 0; whole + touched < rounds; round++) {
            pid_t child = fork();
            if (child == 0) {
                alarm(MINUTE);
                _exit(touch(round) ? 0 : REFUSED);
            }
            int status;
            if (child < 0 || waitpid(child, &status, 0) != child) FAIL("fork failed");
            if (WIFEXITED(status) && WEXITSTATUS(status) == 0) whole++;
            else if (WIFEXITED(status) && WEXITSTATUS(status) == TOUCHED) touched++;
            else if (!WIFEXITED(status) || WEXITSTATUS(status) != REFUSED) FAIL("round %u: a child ended with %#x", round, status);
            alarm(MINUTE);
        }
        printf("%u mapped lazily: %u ended well, %u with SIGBUS in a mapped image\n", rounds, whole, touched);
    } else {
        return 2;
    }
    return 0;
}
