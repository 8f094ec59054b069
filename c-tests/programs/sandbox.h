/* seccomp filters from lists of system calls, for this thread and the threads that it starts. Needs _GNU_SOURCE. */
#ifndef SANDBOX_H
#define SANDBOX_H

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "check.h"

#if defined(__x86_64__)
#define SANDBOX_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define SANDBOX_ARCH AUDIT_ARCH_AARCH64
#else
#error "which AUDIT_ARCH_ is this?"
#endif

/* A system call or, where `argument` is not negative, that call with this value of that argument. */
typedef struct {
    int number, argument;
    uint32_t value;
} sandbox_call;

typedef struct {
    struct sock_filter code[1024];
    unsigned short length;
    unsigned otherwise; /* what is done with all other calls */
} sandbox;

static inline void sandbox_add(sandbox *s, unsigned short code, uint32_t k, unsigned char yes, unsigned char no)
{
    CHECK(s->length < sizeof s->code / sizeof *s->code);
    s->code[s->length++] = (struct sock_filter){code, yes, no, k};
}

#define SANDBOX_LOAD(s, field)                                                                     \
    sandbox_add(s, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field), 0, 0)
#define SANDBOX_RETURN(s, action) sandbox_add(s, BPF_RET | BPF_K, action, 0, 0)

/* Begins a filter. It does `otherwise` with the calls that have no rule. */
static inline void sandbox_begin(sandbox *s, unsigned otherwise)
{
    s->length = 0;
    s->otherwise = otherwise;
    SANDBOX_LOAD(s, arch);
    sandbox_add(s, BPF_JMP | BPF_JEQ | BPF_K, SANDBOX_ARCH, 1, 0);
    SANDBOX_RETURN(s, SECCOMP_RET_KILL_PROCESS);
    SANDBOX_LOAD(s, nr);
}

/* Adds a rule: does `action` with one call. */
static inline void sandbox_rule(sandbox *s, sandbox_call call, unsigned action)
{
    if (call.argument < 0) {
        sandbox_add(s, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call.number, 0, 1);
        SANDBOX_RETURN(s, action);
        return;
    }
    /* The lower half of the argument. The kernel ignores the upper half in these calls. */
    sandbox_add(s, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call.number, 0, 4);
    sandbox_add(s, BPF_LD | BPF_W | BPF_ABS,
                (uint32_t)offsetof(struct seccomp_data, args) + 8 * (uint32_t)call.argument, 0, 0);
    sandbox_add(s, BPF_JMP | BPF_JEQ | BPF_K, call.value, 0, 1);
    SANDBOX_RETURN(s, action);
    SANDBOX_LOAD(s, nr);
}

static inline void sandbox_allow(sandbox *s, int number)
{
    sandbox_rule(s, (sandbox_call){number, -1, 0}, SECCOMP_RET_ALLOW);
}

/* Installs the filter, which can never be removed. */
static inline void sandbox_enter(sandbox *s)
{
    SANDBOX_RETURN(s, s->otherwise);
    struct sock_fprog program = {.len = s->length, .filter = s->code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0))
        FAIL("the seccomp filter is refused: %s", strerror(errno));
}

/* Returns NULL, or why filters do not work as they should here. */
static inline const char *sandbox_why_not(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return "a sanitizer makes system calls of its own";
#else
    if (slow()) return "the wrapper makes system calls of its own";
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) < 0) return "this kernel has no seccomp";
    return NULL;
#endif
}

#endif
