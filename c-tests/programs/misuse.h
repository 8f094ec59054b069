/* Shared by the programs that misuse the interface: sentinels for out parameters, memory that ends at an
 * inaccessible page, and every call on a handle that has to fail in one stated way. */
#ifndef MISUSE_H
#define MISUSE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for MAP_ANONYMOUS, environ and other things that C11 alone hides */
#endif
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "check.h"

/* Out parameters hold these values before a call that fails, and must still hold them afterwards. */
#define SENTINEL UINT64_C(0xA5A5A5A5A5A5A5A5)
#define SENTINEL_POINTER(type) ((type *)(uintptr_t)SENTINEL)
#define GUARD 0x5A

/* What the program tries now. When a check ends the program, this is printed after the place of the check. */
static char trying_text[512];

static inline void print_trying(void)
{
    if (trying_text[0]) fprintf(stderr, "  while trying: %s\n", trying_text);
}

__attribute__((format(printf, 1, 2))) static inline void trying(const char *format, ...)
{
    static int registered;
    if (!registered) registered = atexit(print_trying) == 0;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(trying_text, sizeof trying_text, format, arguments);
    va_end(arguments);
}

/* The one line that a program prints when it has passed. */
__attribute__((format(printf, 1, 2))) static inline int finished(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    trying_text[0] = 0;
    return 0;
}

/* The call must fail with this status, and its text must have both words. */
#define FAILS_WITH(call, status, word, other_word)                                                 \
    do {                                                                                           \
        FAILS(call, status, word);                                                                 \
        if (!strstr(last_error(), (other_word)))                                                   \
            FAIL("%s: the text \"%s\" does not say \"%s\"", #call, last_error(), (other_word));    \
    } while (0)

static inline size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* xorshift64*: the same numbers in every run. */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

/* Whether to try everything, and not only what CI has time for: VMSTORE_LONG is 20 or more. */
static inline int is_long(void)
{
    const char *text = getenv("VMSTORE_LONG");
    return text && atoi(text) >= 20;
}

/* The step through a list of cases: 1, or a longer step where fewer rounds are enough. */
static inline size_t stride(size_t longer)
{
    return brief() || slow() ? longer : 1;
}

/* Two pages, of which only the first is accessible. Returns the address of the second. */
static inline unsigned char *end_of_memory(void)
{
    size_t page = page_size();
    unsigned char *pages =
        mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    CHECK(mprotect(pages + page, page, PROT_NONE) == 0);
    return pages + page;
}

static inline int all_bytes_are(const void *memory, size_t length, int byte)
{
    const unsigned char *bytes = memory;
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != byte) return 0;
    return 1;
}

static inline int exists(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0;
}

/* A text of `length` times the same character, in one of two buffers in turn. */
static inline char *repeated(char character, size_t length)
{
    static char texts[2][8192];
    static unsigned next;
    char *text = texts[next++ % 2];
    CHECK(length < sizeof texts[0]);
    memset(text, character, length);
    text[length] = 0;
    return text;
}

static inline int must_not_be_called(const vmstore_module_info *info, void *user_data)
{
    (void)info;
    (void)user_data;
    FAIL("a call that fails called its callback");
}

/* Calls every function that takes a store, with otherwise valid arguments: each must fail with this status and
 * leave its outputs unchanged. Returns the number of calls. */
static inline unsigned store_calls_fail(vmstore *store, int status, const char *words)
{
    union {
        vmstore_stats stats;
        vmstore_commit_info info;
        unsigned char bytes[sizeof(vmstore_commit_info) + sizeof(vmstore_stats)];
    } out;
    uint64_t number = SENTINEL, numbers[2] = {SENTINEL, SENTINEL};
    size_t length = (size_t)SENTINEL;
    char buffer[16];
    vmstore_module *module = SENTINEL_POINTER(vmstore_module);
    vmstore_capture *capture = SENTINEL_POINTER(vmstore_capture);
    const size_t first = sizeof(size_t);

    memset(&out, 0, sizeof out);
    out.stats.struct_size = sizeof out.stats;
    FAILS(store_stats(store, &out.stats), status, words);
    CHECK(all_bytes_are(out.bytes + first, sizeof out.stats - first, 0));
    out.info.struct_size = sizeof out.info;
    FAILS(store_commit_info(store, 1, &out.info), status, words);
    CHECK(all_bytes_are(out.bytes + first, sizeof out.info - first, 0));

    FAILS(store_map_module(store, "misused", page_size(), NULL, &module), status, words);
    CHECK(module == SENTINEL_POINTER(vmstore_module));
    FAILS(store_commit(store, NULL, &number), status, words);
    FAILS(store_head(store, &number), status, words);
    CHECK(number == SENTINEL);
    FAILS(store_capture(store, NULL, &capture), status, words);
    CHECK(capture == SENTINEL_POINTER(vmstore_capture));
    FAILS(store_precopy(store, NULL, &number), status, words);
    FAILS(store_audit(store, &number), status, words);
    CHECK(number == SENTINEL);
    FAILS(store_persist(store, NULL), status, words);
    FAILS(store_restore(store, 1, NULL), status, words);
    FAILS(store_verify(store, NULL), status, words);
    FAILS(store_list_commits(store, numbers, 2, &length), status, words);
    CHECK(numbers[0] == SENTINEL && numbers[1] == SENTINEL && length == (size_t)SENTINEL);
    memset(buffer, GUARD, sizeof buffer);
    FAILS(store_commit_user_data(store, 1, buffer, sizeof buffer, &length), status, words);
    CHECK(all_bytes_are(buffer, sizeof buffer, GUARD) && length == (size_t)SENTINEL);
    FAILS(store_list_modules(store, 0, must_not_be_called, NULL), status, words);
    FAILS(store_close(store), status, words);
    return 15;
}

/* The same for every function that takes a module. */
static inline unsigned module_calls_fail(vmstore_module *module, int status, const char *words)
{
    int fd = -77;
    uint64_t offset = SENTINEL;
    CHECK(store_module_address(module) == NULL);
    CHECK(store_module_size(module) == 0);
    FAILS(store_module_fd(module, &fd, &offset), status, words);
    CHECK(fd == -77 && offset == SENTINEL);
    FAILS(store_mark_dirty(module, 0, 1), status, words);
    FAILS(store_mark_dirty(module, 0, 0), status, words);
    FAILS(store_import_dirty_bitmap(module, 0, &offset, 1), status, words);
    FAILS(store_discard(module, 0, page_size()), status, words);
    FAILS(store_grow_module(module, 2 * page_size()), status, words);
    FAILS(store_unmap_module(module), status, words);
    return 9;
}

/* The same for every function that takes a capture. */
static inline unsigned capture_calls_fail(vmstore_capture *capture, int status, const char *words)
{
    uint64_t number = SENTINEL;
    FAILS(store_capture_commit(capture, &number), status, words);
    CHECK(number == SENTINEL);
    FAILS(store_capture_cancel(capture), status, words);
    return 2;
}

#endif
