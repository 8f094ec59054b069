/* Programs that need something of the host (/dev/kvm, io_uring) say aloud what they could not try; with
 * VMSTORE_REQUIRE_ALL set, as in CI, they fail instead. */
#ifndef NEEDS_H
#define NEEDS_H

#include "check.h"

static inline int everything_is_required(void)
{
    const char *value = getenv("VMSTORE_REQUIRE_ALL");
    return value && strcmp(value, "0") != 0 && !getenv("VMSTORE_SLOW");
}

/* Whether what `why_not` is about is there; `why_not` is NULL when it is. */
static inline int have(const char *what, const char *why_not)
{
    if (!why_not) return 1;
    if (everything_is_required()) FAIL("%s: %s, and VMSTORE_REQUIRE_ALL is set", what, why_not);
    printf("%s was not tried: %s\n", what, why_not);
    return 0;
}

#endif
