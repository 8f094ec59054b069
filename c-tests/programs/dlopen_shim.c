/* Stands between the library and a program that is not linked with it. Opens the library that the environment
 * variable VMSTORE_LIBRARY names at the first call, as a plug-in host or another language would, and forwards every
 * function of the header to it. The header is included, so the compiler checks each line against its declaration. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmstore.h"

static void die(const char *what)
{
    fprintf(stderr, "dlopen shim: %s: %s\n", what, dlerror());
    exit(1);
}

/* Two threads that come here at the same time both open the library and get the same handle: harmless. */
static void *find(const char *name)
{
    static _Atomic(void *) opened;
    void *library = opened;
    if (!library) {
        const char *path = getenv("VMSTORE_LIBRARY");
        if (!path) die("VMSTORE_LIBRARY is not set");
        library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!library) die(path);

        uint32_t (*abi_version)(void);
        void *symbol = dlsym(library, "store_abi_version");
        if (!symbol) die("store_abi_version");
        memcpy(&abi_version, &symbol, sizeof symbol);
        if (abi_version() != VMSTORE_ABI_VERSION) {
            fprintf(stderr, "dlopen shim: %s has ABI %u, the header %u\n", path,
                    (unsigned)abi_version(), (unsigned)VMSTORE_ABI_VERSION);
            exit(1);
        }
        opened = library;
    }
    void *symbol = dlsym(library, name);
    if (!symbol) die(name);
    return symbol;
}

/* C has no cast from an object pointer to a function pointer. POSIX allows copying the bytes. */
#define FORWARD(result, name, parameters, arguments)                                               \
    result name parameters                                                                         \
    {                                                                                              \
        static _Atomic(void *) known;                                                              \
        result(*function) parameters;                                                              \
        void *symbol = known;                                                                      \
        if (!symbol) known = symbol = find(#name);                                                 \
        memcpy(&function, &symbol, sizeof symbol);                                                 \
        return function arguments;                                                                 \
    }

typedef const char *text;
typedef void *address;

FORWARD(text, store_strerror, (int a), (a))
FORWARD(text, store_version, (void), ())
FORWARD(uint32_t, store_abi_version, (void), ())
FORWARD(size_t, store_last_error, (char *a, size_t b), (a, b))
FORWARD(int, store_last_errno, (void), ())
FORWARD(text, store_mode_name, (uint32_t a), (a))
FORWARD(text, store_tracker_name, (uint32_t a), (a))

FORWARD(int, store_open, (const char *a, const vmstore_open_options *b, vmstore **c), (a, b, c))
FORWARD(int, store_close, (vmstore *a), (a))
FORWARD(int, store_stats, (const vmstore *a, vmstore_stats *b), (a, b))
FORWARD(int, store_probe, (const char *a, vmstore_capabilities *b), (a, b))

FORWARD(int, store_map_module,
        (vmstore *a, const char *b, uint64_t c, const vmstore_map_options *d, vmstore_module **e),
        (a, b, c, d, e))
FORWARD(int, store_unmap_module, (vmstore_module *a), (a))
FORWARD(address, store_module_address, (const vmstore_module *a), (a))
FORWARD(uint64_t, store_module_size, (const vmstore_module *a), (a))
FORWARD(int, store_module_fd, (const vmstore_module *a, int *b, uint64_t *c), (a, b, c))
FORWARD(int, store_grow_module, (vmstore_module *a, uint64_t b), (a, b))

FORWARD(int, store_mark_dirty, (vmstore_module *a, uint64_t b, uint64_t c), (a, b, c))
FORWARD(int, store_import_dirty_bitmap,
        (vmstore_module *a, uint64_t b, const uint64_t *c, uint64_t d), (a, b, c, d))
FORWARD(int, store_discard, (vmstore_module *a, uint64_t b, uint64_t c), (a, b, c))
FORWARD(int, store_audit, (vmstore *a, uint64_t *b), (a, b))
FORWARD(int, store_precopy, (vmstore *a, const vmstore_precopy_options *b, uint64_t *c), (a, b, c))

FORWARD(int, store_commit, (vmstore *a, const vmstore_commit_options *b, uint64_t *c), (a, b, c))
FORWARD(int, store_capture, (vmstore *a, const vmstore_commit_options *b, vmstore_capture **c),
        (a, b, c))
FORWARD(int, store_capture_commit, (vmstore_capture *a, uint64_t *b), (a, b))
FORWARD(int, store_capture_cancel, (vmstore_capture *a), (a))
FORWARD(int, store_persist, (vmstore *a, const vmstore_persist_options *b), (a, b))
FORWARD(int, store_restore, (vmstore *a, uint64_t b, const vmstore_restore_options *c), (a, b, c))

FORWARD(int, store_head, (const vmstore *a, uint64_t *b), (a, b))
FORWARD(int, store_list_commits, (const vmstore *a, uint64_t *b, size_t c, size_t *d), (a, b, c, d))
FORWARD(int, store_commit_info, (const vmstore *a, uint64_t b, vmstore_commit_info *c), (a, b, c))
FORWARD(int, store_commit_user_data,
        (const vmstore *a, uint64_t b, void *c, size_t d, size_t *e), (a, b, c, d, e))
FORWARD(int, store_list_modules,
        (const vmstore *a, uint64_t b, vmstore_module_callback c, void *d), (a, b, c, d))
FORWARD(int, store_verify, (const vmstore *a, const vmstore_verify_options *b), (a, b))

FORWARD(int, store_delete_commit, (vmstore *a, uint64_t b), (a, b))
FORWARD(int, store_compact, (vmstore *a, const vmstore_compact_options *b), (a, b))
FORWARD(int, store_diff,
        (const vmstore *a, uint64_t b, uint64_t c, const char *d, vmstore_range_callback e, void *f),
        (a, b, c, d, e, f))
FORWARD(int, store_read,
        (const vmstore *a, uint64_t b, const char *c, uint64_t d, void *e, size_t f), (a, b, c, d, e, f))
FORWARD(int, store_list_files,
        (const vmstore *a, uint64_t b, vmstore_file_callback c, void *d), (a, b, c, d))
FORWARD(int, store_find_commit, (const vmstore *a, const char *b, uint64_t *c), (a, b, c))
FORWARD(int, store_clone, (const vmstore *a, uint64_t b, const char *c), (a, b, c))
FORWARD(int, store_export, (const vmstore *a, uint64_t b, uint64_t c, int d), (a, b, c, d))
FORWARD(int, store_import, (vmstore *a, int b, uint64_t *c), (a, b, c))
FORWARD(int, store_export_with, (const vmstore *a, uint64_t b, uint64_t c, int d, const vmstore_transfer_options *e),
        (a, b, c, d, e))
FORWARD(int, store_import_with, (vmstore *a, int b, const vmstore_transfer_options *c, uint64_t *d), (a, b, c, d))
