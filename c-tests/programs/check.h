/* What all test programs share. A program exits with 0 when every check held, and prints one line that says what it
 * tried. The first check that fails prints where and why, and the program exits with 1. */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmstore.h"

static inline const char *last_error(void)
{
    static char text[1024];
    store_last_error(text, sizeof text);
    return text;
}

#define FAIL(...)                                                                                  \
    do {                                                                                           \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                            \
        fprintf(stderr, __VA_ARGS__);                                                              \
        fputc('\n', stderr);                                                                       \
        exit(1);                                                                                   \
    } while (0)

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) FAIL("%s does not hold", #condition);                                    \
    } while (0)

/* The call must succeed. */
#define OK(call)                                                                                   \
    do {                                                                                           \
        int status_ = (call);                                                                      \
        if (status_ != VMSTORE_OK)                                                                 \
            FAIL("%s: %s: %s", #call, store_strerror(status_), last_error());                      \
    } while (0)

/* The call must fail with this status, and the text of the failure must contain these words. */
#define FAILS(call, status, words)                                                                 \
    do {                                                                                           \
        int status_ = (call);                                                                      \
        if (status_ != (status))                                                                   \
            FAIL("%s: expected %s, got %s (%s)", #call, store_strerror(status),                      \
                 store_strerror(status_), status_ ? last_error() : "-");                           \
        if (!strstr(last_error(), (words)))                                                        \
            FAIL("%s: the text \"%s\" does not say \"%s\"", #call, last_error(), (words));         \
    } while (0)

/* Whether to do fewer rounds. The harness asks for fewer where another run of the same object does all of them. */
static inline int brief(void)
{
    return getenv("VMSTORE_BRIEF") != NULL;
}

/* Whether the program runs under valgrind or the like, where everything takes many times as long. */
static inline int slow(void)
{
    return getenv("VMSTORE_SLOW") != NULL;
}

/* A fresh directory for stores: argv[1], which the harness makes and removes. */
static inline const char *path_in(const char *directory, const char *name)
{
    static char paths[8][4096];
    static unsigned next;
    char *path = paths[next++ % 8];
    char made[sizeof paths[0]]; /* `directory` may itself be one of `paths` */
    int length = snprintf(made, sizeof made, "%s/%s", directory, name);
    CHECK(length > 0 && (size_t)length < sizeof made);
    memcpy(path, made, (size_t)length + 1);
    return path;
}

#endif
