/* The tables of docs/system-calls.md, as rules of a seccomp filter. Needs _GNU_SOURCE. */
#ifndef DOCUMENTED_H
#define DOCUMENTED_H

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "sandbox.h"

/* Newer than the headers of some C libraries. */
#ifndef PAGEMAP_SCAN
#define PAGEMAP_SCAN 0xc0606610u
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

/* One line of the document: the heading above it, the call, and the words of its condition. */
typedef struct {
    const char *section, *call, *when;
    sandbox_call what;
} rule;

static const rule rules[] = {
#define RULE(section, call, when, number, argument, value)                                         \
    {section, call, when, {number, argument, (uint32_t)(value)}},
#include "system_calls.h" /* written by build.rs */
};
enum { RULES = sizeof rules / sizeof *rules };

#define ALLOCATOR "The allocator"
#define LOCK "The lock"

static const char *const words_of_this_build =
#ifdef __GLIBC__
    "glibc"
#else
    "musl"
#endif
#ifdef VMSTORE_DEBUG_ASSERTIONS
    " debug"
#endif
    ;

/* Whether `word` of that length is one of the words. */
static inline int has_word(const char *words, const char *word, size_t length)
{
    for (; *words; words += strcspn(words, " "), words += *words == ' ')
        if (strcspn(words, " ") == length && !strncmp(words, word, length)) return 1;
    return 0;
}

/* Whether all words of a line are among `words`. */
static inline int rule_holds(const rule *r, const char *words)
{
    for (const char *at = r->when; *at;) {
        size_t length = strcspn(at, " ");
        if (!has_word(words, at, length) && !has_word(words_of_this_build, at, length)) return 0;
        at += length + (at[length] == ' ');
    }
    return 1;
}

/* Allows what a section's table allows under these words, except the call `without`, which may be NULL. */
static inline void allow_documented(sandbox *s, const char *section, const char *words, const char *without)
{
    for (int i = 0; i < RULES; i++)
        if (!strcmp(rules[i].section, section) && rule_holds(&rules[i], words) &&
            !(without && !strcmp(rules[i].call, without)))
            sandbox_rule(s, rules[i].what, SECCOMP_RET_ALLOW);
}

#endif
