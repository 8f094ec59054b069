/* Programs that need something from the host (/dev/kvm, io_uring) print what they could not try. With
 * VMSTORE_REQUIRE_ALL set, as in CI, they fail instead. Needs _GNU_SOURCE. */
#ifndef NEEDS_H
#define NEEDS_H

#include <ftw.h>
#include <sys/vfs.h>

#include "check.h"

static inline int everything_is_required(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return 0; /* as under valgrind: only the plain run must have everything */
#else
    const char *value = getenv("VMSTORE_REQUIRE_ALL");
    return value && strcmp(value, "0") != 0 && !slow();
#endif
}

/* Whether the host has the thing. `why_not` says why it is missing; NULL: it is there. */
static inline int have(const char *what, const char *why_not)
{
    if (!why_not) return 1;
    if (everything_is_required()) FAIL("%s: %s, and VMSTORE_REQUIRE_ALL is set", what, why_not);
    printf("%s was not tried: %s\n", what, why_not);
    return 0;
}

static inline int on_tmpfs(const char *path)
{
    struct statfs kind;
    return statfs(path, &kind) == 0 && kind.f_type == 0x01021994;
}

static inline int remove_one(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    (void)status, (void)kind, (void)where;
    return remove(path);
}

static struct {
    char path[64];
    pid_t owner;
} in_memory;

static inline void remove_in_memory(void)
{
    if (getpid() == in_memory.owner) nftw(in_memory.path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A directory on tmpfs that is removed at the end, or NULL where there is no tmpfs. */
static inline const char *directory_in_memory(void)
{
    if (in_memory.owner) return in_memory.path;
    strcpy(in_memory.path, "/dev/shm/vmstore-test-XXXXXX");
    if (!on_tmpfs("/dev/shm") || !mkdtemp(in_memory.path)) return NULL;
    in_memory.owner = getpid();
    atexit(remove_in_memory);
    return in_memory.path;
}

#endif
