/* Enforces docs/system-calls.md. Every step of a store's life is made in a process of its own. During this step the
 * process may make only the calls that the document's table for the step allows: any other call kills it. Then each
 * line of the tables is left out in turn, and some step must be killed without it. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <ucontext.h>

#include "documented.h"
#include "life.h"
#include "needs.h"

/* ---- filters ---- */

/* Strict steps may not use the allocator's calls. But a comparison reads files, and reading files allocates. */
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

/* Prints the call that was not allowed. Used in a second run of a step whose first run was killed. */
static void print_call(int number, siginfo_t *info, void *context)
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

/* Allows what the document allows for a step, except one call, and also this program's own exit. */
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
    void *volatile warm = malloc(1 << 10); /* after this the thread has an arena */
    free(warm);
    enter(p, filtered.without, filtered.otherwise);
    p->call();
    _exit(0);
}

/* Fills the heap: vectors then get mappings of their own, as those of larger modules do. */
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

/* Lives up to a step, and makes this step under its filter. */
static void live(void)
{
    if (has("eager")) eager_allocator();
    for (int i = 0; i < filtered.step; i++) {
        if (steps[i].before) steps[i].before();
        steps[i].call();
        /* The capture of the step before was cancelled only to be made again here. Nothing is lost. */
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

/* Waits for a process that calls the library under a filter. Returns whether the filter killed it. */
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

/* Makes a step under its filter, without one call if `without` is not NULL. Returns whether the process was killed. */
static int killed(const char *stores, const setting *s, int number, const char *without)
{
    char what[256];
    snprintf(what, sizeof what, "%s [%s; %s] without %s", steps[number].function, s->words,
             steps[number].words, without ? without : "nothing");
    pid_t child = fork_quietly();
    if (child == 0) {
        char fresh[4096];
        snprintf(fresh, sizeof fresh, "%s/%u", stores, processes);
        begin_life(s, fresh);
        filtered.step = number, filtered.without = without;
        live();
    }
    return was_killed(child, what);
}

/* Runs the step again to print the call that the filter does not allow. The text goes through a pipe, because a
 * file may be past its size limit. */
static void explain(const char *stores, const setting *s, int number)
{
    int ends[2];
    char text[256];
    CHECK(pipe(ends) == 0);
    pid_t child = fork_quietly();
    if (child == 0) {
        struct sigaction action = {.sa_sigaction = print_call, .sa_flags = SA_SIGINFO};
        sigaction(SIGSYS, &action, NULL);
        dup2(ends[1], 2);
        char fresh[4096];
        snprintf(fresh, sizeof fresh, "%s/%u", stores, processes);
        begin_life(s, fresh);
        filtered.step = number, filtered.otherwise = SECCOMP_RET_TRAP;
        live();
    }
    close(ends[1]);
    ssize_t length = read(ends[0], text, sizeof text - 1);
    text[length < 0 ? 0 : length] = 0;
    close(ends[0]);
    waitpid(child, NULL, 0);
    fprintf(stderr, "%s [%s; %s] was killed for making %s", steps[number].function, s->words,
            steps[number].words, text);
}

/* No line is missing: every step in every setting must survive. A brief run tries a fifth of them. */
static unsigned nothing_is_missing(const char *on_disk, const char *fast)
{
    unsigned made = 0, wrong = 0;
    for (int s = 0; s < SETTINGS; s++)
        for (int i = 0; i < STEPS; i++) {
            if (brief() && (s + i) % 5) continue;
            made++;
            const char *stores = s < 2 && !brief() ? on_disk : fast;
            if (!killed(stores, &settings[s], i, NULL)) continue;
            explain(stores, &settings[s], i);
            wrong++;
        }
    if (wrong) FAIL("%u steps make calls that docs/system-calls.md does not list", wrong);
    return made;
}

/* No line is superfluous: without each line, a step that needs it must be killed. */
static unsigned nothing_is_idle(const char *stores)
{
    unsigned tried = 0, wrong = 0;
    for (int r = 0; r < RULES; r++) {
        int relevant = 0, missed = 0;
#ifndef __GLIBC__
        if (!strcmp(rules[r].section, ALLOCATOR)) continue; /* musl makes some of these calls only for larger modules */
#endif
        for (int i = 0; i < STEPS && !missed; i++)
            for (int s = 0; s < SETTINGS && !missed; s++) {
                if (!concerns(&rules[r], &settings[s], &steps[i])) continue;
                relevant = 1;
                missed = killed(stores, &settings[s], i, rules[r].call);
            }
        tried += relevant;
        if (relevant && !missed) {
            fprintf(stderr, "%s: no step needs %s [%s]\n", rules[r].section, rules[r].call, rules[r].when);
            wrong++;
        }
    }
    if (wrong) FAIL("%u lines of docs/system-calls.md are needed by no step", wrong);
    return tried;
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    if (!have("a seccomp filter", sandbox_why_not())) return 0;
    /* Makes the dlopen shim open the library now: that is no call of the library. */
    CHECK(store_abi_version() == VMSTORE_ABI_VERSION);
    const char *fast = directory_in_memory();
    if (!fast) fast = arguments[1];
    unsigned made = nothing_is_missing(arguments[1], fast);
    unsigned tried = brief() ? 0 : nothing_is_idle(fast);
    printf("%u steps survived with what docs/system-calls.md allows; %u lines were left out%s; %u processes\n",
           made, tried, brief() ? " (brief)" : " in turn, and each was needed", processes);
    return 0;
}
