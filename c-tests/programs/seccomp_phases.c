/* docs/system-calls.md, enforced: every step of a store's life is made in a process of its own, which may
 * from that step on only do what the document's table for it allows, or is killed. Then one line after
 * the other is left out, and must be missed in some step. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <ucontext.h>

#include "documented.h"
#include "misuse.h"
#include "needs.h"

/* ---- a store's life ---- */

typedef struct {
    const char *words;
    uint32_t mode, tracker;
} setting;

static const setting *now;
static char directory[4096];
static vmstore *store;
static vmstore_module *module;
static vmstore_capture *capture;
static unsigned char *memory;
static uint64_t commit;
static unsigned readonly;

enum { PAGES = 512, STRIDE = 2 };

static int has(const char *word)
{
    return has_word(now->words, word, strlen(word));
}

/* With RLIMIT_FSIZE in the way a step may fail as it likes, but for an error it does not know. */
static void outcome(int status, const char *what)
{
    if (status == VMSTORE_OK || (has("fails") && status == VMSTORE_E_IO)) return;
    FAIL("%s [%s]: %s: %s", what, now->words, store_strerror(status), last_error());
}

static void write_pages(void)
{
    static unsigned char byte;
    byte++;
    if (readonly) return;
    for (size_t page = STRIDE; page < PAGES; page += STRIDE) memory[page * page_size()] = byte;
    memory[0] = 1; /* as before: it is compared with the head */
    for (size_t page = 0; page < PAGES; page += has("caller") ? STRIDE : PAGES)
        OK(store_mark_dirty(module, page * page_size(), page_size()));
}

static void do_open(void)
{
    vmstore_open_options options = {.struct_size = sizeof options,
                                    .flags = readonly ? VMSTORE_OPEN_READ_ONLY : 0};
    outcome(store_open(directory, &options, &store), "store_open");
}

static void do_open_readonly(void)
{
    readonly = 1;
    do_open();
}

static void do_map(void)
{
    vmstore_map_options options = {
        .struct_size = sizeof options, .flags = readonly ? 0 : now->mode, .tracker = now->tracker};
    int status = store_map_module(store, "ram", PAGES * page_size(), &options, &module);
    outcome(status, "store_map_module");
    if (status == VMSTORE_OK) memory = store_module_address(module);
}

static void do_capture(void)
{
    outcome(store_capture(store, NULL, &capture), "store_capture");
}

static void do_capture_commit(void)
{
    outcome(store_capture_commit(capture, &commit), "store_capture_commit");
}

static void do_capture_cancel(void)
{
    outcome(store_capture_cancel(capture), "store_capture_cancel");
}

static void do_persist(void)
{
    outcome(store_persist(store, NULL), "store_persist");
}

static void do_restore(void)
{
    outcome(store_restore(store, 1, NULL), "store_restore");
}

static void do_verify(void)
{
    outcome(store_verify(store, NULL), "store_verify");
}

static int each_module(const vmstore_module_info *info, void *user_data)
{
    (void)info, (void)user_data;
    return 0;
}

static void do_list_modules(void)
{
    outcome(store_list_modules(store, 1, each_module, NULL), "store_list_modules");
}

static void do_unmap(void)
{
    outcome(store_unmap_module(module), "store_unmap_module");
}

static void do_close(void)
{
    outcome(store_close(store), "store_close");
}

static void do_probe(void)
{
    vmstore_capabilities capabilities = {.struct_size = sizeof capabilities};
    outcome(store_probe(directory, &capabilities), "store_probe");
}

/* What the document says needs no system call. */
static void do_the_rest(void)
{
    uint64_t number, numbers[16];
    size_t count;
    char text[64];
    int fd;
    vmstore_stats stats = {.struct_size = sizeof stats};
    vmstore_commit_info info = {.struct_size = sizeof info};
    OK(store_mark_dirty(module, 0, 3 * page_size()));
    OK(store_head(store, &number));
    OK(store_list_commits(store, numbers, 16, &count));
    OK(store_commit_info(store, 1, &info));
    OK(store_commit_user_data(store, 1, text, sizeof text, &count));
    OK(store_stats(store, &stats));
    CHECK(store_module_address(module) == memory && store_module_size(module) == PAGES * page_size());
    (void)store_module_fd(module, &fd, &number); /* private memory has none, which is an error without a call, too */
    store_last_error(text, sizeof text);
    CHECK(store_strerror(VMSTORE_OK) && store_version() && store_abi_version() == VMSTORE_ABI_VERSION);
}

typedef struct {
    const char *function, *words;
    void (*call)(void);
    int strict;                         /* without the allocator's calls */
    void (*before)(void);
} step;

static const step steps[] = {
    {"store_open", "new first", do_open, 0, NULL},
    {"store_map_module", "new", do_map, 0, NULL},
    {"store_capture", "", do_capture, 0, write_pages},
    {"store_capture_commit", "image", do_capture_commit, 0, NULL},
    {"store_persist", "new", do_persist, 0, NULL},
    {"store_capture", "", do_capture, 1, write_pages},
    {"store_capture_commit", "", do_capture_commit, 0, NULL},
    {"store_capture", "", do_capture, 1, write_pages},
    {"store_capture_cancel", "", do_capture_cancel, 0, NULL},
    {"store_persist", "again", do_persist, 0, NULL},
    {"store_persist", "nothing", do_persist, 1, NULL},
    {"store_restore", "", do_restore, 0, NULL},
    {"", "", do_the_rest, 1, NULL},
    {"store_list_modules", "", do_list_modules, 0, NULL},
    {"store_verify", "", do_verify, 0, NULL},
    {"store_unmap_module", "", do_unmap, 0, NULL},
    {"store_map_module", "again image", do_map, 0, NULL},
    {"store_close", "", do_close, 0, NULL},
    {"store_open", "again", do_open, 0, NULL},
    {"store_close", "empty", do_close, 0, NULL},
    {"store_open", "readonly", do_open_readonly, 0, NULL},
    {"store_map_module", "again image readonly", do_map, 0, NULL},
    {"store_restore", "readonly", do_restore, 0, NULL},
    {"store_close", "readonly", do_close, 0, NULL},
    {"store_probe", "", do_probe, 0, NULL},
};
enum { STEPS = sizeof steps / sizeof *steps };

static setting settings[] = {
    {"private kernel", VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_KERNEL},
    {"shared kernel", VMSTORE_MAP_SHARED, VMSTORE_TRACKER_KERNEL},
    {"private compare", VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_COMPARE},
    {"shared compare", VMSTORE_MAP_SHARED, VMSTORE_TRACKER_COMPARE},
    {"private kernel eager", VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_KERNEL},
    {"private caller", VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_CALLER},
    {"private compare fails", VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_COMPARE},
    {"shared compare fails", VMSTORE_MAP_SHARED, VMSTORE_TRACKER_COMPARE},
    {"private kernel thread", VMSTORE_MAP_PRIVATE, VMSTORE_TRACKER_KERNEL},
    {"shared compare thread", VMSTORE_MAP_SHARED, VMSTORE_TRACKER_COMPARE},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

/* ---- filters ---- */

/* The allocator's calls are not for strict steps; but comparing reads files, and that allocates. */
static int may_allocate(const setting *s, const step *p)
{
    return !p->strict || (p->call == do_capture && (has_word(s->words, "compare", 7) || has_word(s->words, "eager", 5)));
}

static void all_words(char words[128], const setting *s, const step *p)
{
    snprintf(words, 128, "%s %s", s->words, p->words);
}

static int concerns(const rule *r, const setting *s, const step *p)
{
    char words[128];
    all_words(words, s, p);
    return rule_holds(r, words) &&
           (!strcmp(r->section, p->function) || (may_allocate(s, p) && !strcmp(r->section, ALLOCATOR)));
}

/* Says which call was not allowed: in the second run of a process that was killed in the first. */
static void tell(int number, siginfo_t *info, void *context)
{
    char text[256];
    const ucontext_t *c = context;
    int length = snprintf(text, sizeof text, "system call %d", info->si_syscall);
#ifdef __x86_64__
    const long long *g = (const long long *)c->uc_mcontext.gregs;
    length += snprintf(text + length, sizeof text - (size_t)length, "(%#llx, %#llx, %#llx, %#llx)",
                       (unsigned long long)g[8], (unsigned long long)g[9], (unsigned long long)g[12],
                       (unsigned long long)g[2]);
#endif
    (void)number, (void)c;
    text[length++] = '\n';
    _exit(write(2, text, (size_t)length) < 0);
}

/* Allows what the document does for a step, but for one call, and this program's own exit. */
static void enter(const step *p, const char *without, unsigned otherwise)
{
    static sandbox s;
    sandbox_begin(&s, otherwise);
    char words[128];
    all_words(words, now, p);
    allow_documented(&s, p->function, words, without);
    if (may_allocate(now, p)) allow_documented(&s, ALLOCATOR, words, without);
    sandbox_allow(&s, SYS_exit_group);
    if (otherwise == SECCOMP_RET_TRAP) sandbox_allow(&s, SYS_write);
    sandbox_enter(&s);
}

static struct {
    int step;
    const char *without;
    unsigned otherwise;
} filtered = {.otherwise = SECCOMP_RET_KILL_PROCESS};

static void *filtered_step(void *unused)
{
    const step *p = &steps[filtered.step];
    (void)unused;
    void *volatile warm = malloc(1 << 10); /* so that this thread has an arena */
    free(warm);
    enter(p, filtered.without, filtered.otherwise);
    p->call();
    _exit(0);
}

/* Vectors get mappings of their own, as those of larger modules do: there is no room in the heap. */
static void eager_allocator(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 2048);
    mallopt(M_TOP_PAD, 0);
    void *end = sbrk(0), *volatile kept;
    do kept = malloc(512);
    while (kept && sbrk(0) == end);
#endif
}

/* Lives up to a step, and makes that one under its filter. */
static void live(void)
{
    if (has("eager")) eager_allocator();
    for (int i = 0; i < filtered.step; i++) {
        if (steps[i].before) steps[i].before();
        steps[i].call();
        /* The capture before this one was cancelled only to be made again: nothing is missing. */
    }
    const step *p = &steps[filtered.step];
    if (p->before) p->before();
    if (has("fails")) {
        struct rlimit limit = {1, RLIM_INFINITY};
        CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    }
    if (has("thread")) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, filtered_step, NULL) == 0);
        pthread_join(thread, NULL);
    }
    filtered_step(NULL);
}

static unsigned processes;
static int brief;

/* Waits for a process that calls the library under a filter. Says whether the filter killed it. */
static int was_killed(pid_t child, const char *what)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) return 1;
    if (!WIFEXITED(status) || WEXITSTATUS(status)) FAIL("%s: the process ended with %#x", what, status);
    return 0;
}

static pid_t fork_quietly(void)
{
    processes++;
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
    }
    return child;
}

/* Makes a step under its filter, `without` one call if that is not NULL. Says whether it was killed. */
static int killed(const char *stores, const setting *s, int number, const char *without)
{
    char what[256];
    snprintf(what, sizeof what, "%s [%s; %s] without %s", steps[number].function, s->words,
             steps[number].words, without ? without : "nothing");
    pid_t child = fork_quietly();
    if (child == 0) {
        snprintf(directory, sizeof directory, "%s/%u", stores, processes);
        now = s;
        filtered.step = number, filtered.without = without;
        live();
    }
    return was_killed(child, what);
}

/* The same once more, to say which call the filter does not have. A pipe takes the text, because a file
 * may be past its limit. */
static void explain(const char *stores, const setting *s, int number)
{
    int ends[2];
    char text[256];
    CHECK(pipe(ends) == 0);
    pid_t child = fork_quietly();
    if (child == 0) {
        struct sigaction action = {.sa_sigaction = tell, .sa_flags = SA_SIGINFO};
        sigaction(SIGSYS, &action, NULL);
        dup2(ends[1], 2);
        snprintf(directory, sizeof directory, "%s/%u", stores, processes);
        now = s;
        filtered.step = number, filtered.otherwise = SECCOMP_RET_TRAP;
        live();
    }
    close(ends[1]);
    ssize_t length = read(ends[0], text, sizeof text - 1);
    text[length < 0 ? 0 : length] = 0;
    close(ends[0]);
    waitpid(child, NULL, 0);
    fprintf(stderr, "%s [%s; %s] was killed for %s", steps[number].function, s->words,
            steps[number].words, text);
}

/* No line too few: every step in every setting is let live. */
static unsigned nothing_is_missing(const char *on_disk, const char *fast)
{
    unsigned made = 0, wrong = 0;
    for (int s = 0; s < SETTINGS; s++)
        for (int i = 0; i < STEPS; i++, made++) {
            const char *stores = s < 2 && !brief ? on_disk : fast;
            if (!killed(stores, &settings[s], i, NULL)) continue;
            explain(stores, &settings[s], i);
            wrong++;
        }
    if (wrong) FAIL("%u steps make calls that docs/system-calls.md has not", wrong);
    return made;
}

/* No line too many: without it, some step for which it is there is killed. */
static unsigned nothing_is_idle(const char *stores)
{
    unsigned tried = 0, wrong = 0;
    for (int r = 0; r < RULES; r++) {
        int relevant = 0, missed = 0;
        for (int i = 0; i < STEPS && !missed; i++)
            for (int s = 0; s < SETTINGS && !missed; s++) {
                if (!concerns(&rules[r], &settings[s], &steps[i])) continue;
                relevant = 1;
                missed = killed(stores, &settings[s], i, rules[r].call);
            }
        tried += relevant;
        if (relevant && !missed) {
            fprintf(stderr, "%s: nothing misses %s [%s]\n", rules[r].section, rules[r].call, rules[r].when);
            wrong++;
        }
    }
    if (wrong) FAIL("%u lines of docs/system-calls.md are there for no reason", wrong);
    return tried;
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    if (!have("a seccomp filter", sandbox_why_not())) return 0;
    CHECK(store_abi_version() == VMSTORE_ABI_VERSION); /* dlopen, if it is to be opened, is not a call of the library's */
    const char *fast = directory_in_memory();
    if (!fast) fast = arguments[1];
    brief = getenv("VMSTORE_BRIEF") != NULL;
    unsigned made = nothing_is_missing(arguments[1], fast);
    unsigned tried = brief ? 0 : nothing_is_idle(fast);
    printf("%u steps lived with what docs/system-calls.md allows; %u lines were left out%s; %u processes\n",
           made, tried, brief ? " (brief)" : " in turn, and missed", processes);
    return 0;
}
