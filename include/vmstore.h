/*
 * vmstore.h - a versioned store for guest memory: git for guest RAM.
 *
 * Generated from src/ffi with cbindgen. Do not edit. Licence: MIT or Apache-2.0.
 *
 * Chapters:  1 What it is   2 A whole program   3 Promises   4 Life of a store
 *            5 Rules for all calls   6 Commit and restore in a VMM
 * Reference: RESULTS AND PROGRESS; HANDLES; STORE; MODULE;
 *            TRACKING; COMMIT; PERSIST AND RESTORE; HISTORY;
 *            DELETE AND COMPACT; VERIFY; CLONE, EXPORT, IMPORT; ERROR TEXTS AND VERSIONS
 * See also:  docs/integration.md (which mode and tracker for which VMM), docs/tracking.md (what
 *            each tracker sees), docs/system-calls.md (for seccomp filters), docs/format.md (the
 *            files).
 *
 * 1. WHAT IT IS
 *
 * A store is a directory on disk. A virtual machine monitor (VMM) maps named modules out of the
 * store and runs its guest in them. A module is a piece of memory: a RAM bank, or an area of device
 * state.
 *
 *   store_commit    takes an atomic snapshot of all modules. The cost depends on what was written
 *                   since the last commit, not on the size of the memory.
 *   store_persist   makes every commit so far survive a power cut.
 *   store_restore   puts all modules back to any commit: in place under a paused guest, or in a
 *                   fresh process.
 *
 * Commits form a tree. The head is the commit to which memory was last brought, by a commit or a
 * restore. The next commit becomes a child of the head. store_delete_commit removes any commit
 * except the head. store_compact removes the commits that your rules do not keep, and makes the
 * store small. store_clone and store_export copy commits elsewhere.
 *
 * The first commit of a module writes an image: a file that is the module's plain memory. Later
 * commits write deltas: files of the pages that changed. A fresh process maps the image
 * copy-on-write and copies the newer pages over it.
 *
 *   commit N          A snapshot of all modules. Numbers begin at 1.
 *   module commit N   The file <module>_Commit<N>, which commit N wrote for one module. A commit in
 *                     which a module did not change writes no file for it, and refers to the older
 *                     module commit. So commit 7 may consist of module commit 7 of "ram" and module
 *                     commit 3 of "rom". Module commit 3 stays as long as a commit needs it, even
 *                     if commit 3 was deleted.
 *
 * 2. A WHOLE PROGRAM
 *
 *     #include <vmstore.h>
 *     #include <stdio.h>
 *     #include <string.h>
 *
 *     static int failed(const char *what)
 *     {
 *         char text[1024];
 *         store_last_error(text, sizeof text);
 *         fprintf(stderr, "%s: %s\n", what, text);
 *         return 1;
 *     }
 *
 *     int main(void)
 *     {
 *         vmstore *store;
 *         vmstore_module *ram;
 *         uint64_t first, second;
 *
 *         if (store_open("guest.store", NULL, &store)) return failed("open");
 *         if (store_map_module(store, "ram", 64 << 20, NULL, &ram)) return failed("map");
 *         char *memory = store_module_address(ram);
 *
 *         strcpy(memory, "hello");
 *         if (store_commit(store, NULL, &first)) return failed("commit");
 *         strcpy(memory, "world");
 *         if (store_commit(store, NULL, &second)) return failed("commit");
 *         if (store_persist(store, NULL)) return failed("persist");
 *         if (store_restore(store, first, NULL)) return failed("restore");
 *         puts(memory);
 *         return store_close(store) ? failed("close") : 0;
 *     }
 *
 * 3. PROMISES
 *
 *  1 A killed process loses nothing committed. Once store_commit has returned VMSTORE_OK, SIGKILL
 *    at any instruction leaves that commit restorable after the next store_open.
 *  2 A power cut loses nothing persisted. Once store_persist has returned VMSTORE_OK, all commits
 *    made before it survive. Later commits survive whole or not at all, oldest first: the history
 *    never has a gap.
 *  3 All or nothing. A commit holds every module at one moment. A failed call leaves the store, the
 *    memory and the knowledge of dirty pages as they were before the call. Exceptions stand in the
 *    text of the function.
 *  4 No wrong bytes. Everything that store_restore puts into memory was checked against a checksum.
 *    There is one exception: pages that a lazy VMSTORE_MAP_PRIVATE mapping takes straight from an
 *    image file. If the guest changes such a page, the changed page is committed as it is.
 *    VMSTORE_MAP_EAGER has no such pages. Damage is reported as VMSTORE_E_CORRUPT. The rules of
 *    mmap stay true: if somebody truncates an image that is mapped or is just being mapped, or its
 *    disk fails, touching the memory is a SIGBUS.
 *  5 Dirty tracking is complete, or says what it cannot see. VMSTORE_TRACKER_KERNEL has the list,
 *    and store_mark_dirty reports the rest.
 *  6 Memory keeps its address. Restore copies bytes in, and never remaps.
 *  7 The library is a quiet part of your process. It installs no signal handlers, prints nothing
 *    and never aborts. It makes no threads unless a capture asks for helpers. SIGXFSZ is blocked in
 *    the calling thread around file writes. All descriptors are close-on-exec. Of RLIMIT_NOFILE, up
 *    to a quarter is open for files that wait for a persist, and up to an eighth for files that may
 *    be read again; at most 1,024 each.
 *
 * 4. LIFE OF A STORE
 *
 *     store_open -> store_map_module ... -> the guest runs
 *         [pause] store_capture [resume] store_capture_commit     or  [pause] store_commit [resume]
 *         store_persist, now and then, from any thread
 *         [pause] store_restore [resume]
 *     stop the guest -> store_persist -> store_close
 *
 * The directory with modules m1 and m2 after two commits and a persist:
 *
 *     m1  m1_Commit1  m1_Commit2  m1_last -> m1_Commit2
 *     m2  m2_Commit1  m2_Commit2  m2_last -> m2_Commit2  commits  .vmstore/
 *
 * m1 is the backing file: a second name of the image under the mapping or, in shared mode, the
 * memory itself. m1_last names the head's module commit. The directory belongs to the library:
 * nothing else may write there while a store is open. Anyone may read it. You may move or copy a
 * closed store.
 *
 * In the words of databases: .vmstore/journal is a write-ahead log, into which every commit goes.
 * store_persist is a checkpoint: it moves the records into the file `commits` or, if little is new,
 * syncs the journal alone. An image is a base image, and a delta is a layer on it. store_compact is
 * garbage collection and flattening.
 *
 * 5. RULES FOR ALL CALLS
 *
 * Results    Functions that can fail return int: VMSTORE_OK, which is 0, or a VMSTORE_E_... number.
 *            These numbers are below -4096, and so never equal -errno. store_last_error has the
 *            text: what failed, and by which rule.
 * Errors     Each function lists the errors that are particular to it. Beside them, every function
 *            may give VMSTORE_E_INVALID (an argument breaks a rule), VMSTORE_E_HANDLE,
 *            VMSTORE_E_FORKED, VMSTORE_E_INTERNAL and, inside a callback of the same store,
 *            VMSTORE_E_BUSY. A function without a list gives no other errors. Two groups of errors
 *            have names in the lists:
 *              of reading   VMSTORE_E_CORRUPT, VMSTORE_E_STALE, VMSTORE_E_IO, VMSTORE_E_NO_MEMORY
 *              of writing   VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE,
 *                           VMSTORE_E_IO, VMSTORE_E_NO_MEMORY
 * Outputs    Out parameters come last and are written on success only.
 * Options    May be NULL, which means all defaults. Option and info structs begin with
 *            `size_t struct_size`. VMSTORE_INIT(type) gives a zeroed struct with struct_size set.
 *            A shorter struct (an older caller) is extended with zeros. A longer struct (a newer
 *            caller) is accepted if the part that this library does not know is zero. Unknown flag
 *            bits are VMSTORE_E_INVALID.
 * Handles    vmstore, vmstore_module and vmstore_capture pointers are numbers, and are never
 *            dereferenced. A NULL, closed, stale or foreign handle gives VMSTORE_E_HANDLE.
 * Ownership  The library copies what you pass in. store_unmap_module or store_close unmaps the
 *            memory behind store_module_address, except adopted memory. There is nothing to free.
 * Units      Sizes, offsets and lengths are in bytes. A page is the host's page,
 *            sysconf(_SC_PAGESIZE). A module is a whole number of pages.
 * Threads    Any thread may call any function. Calls on one store wait for one another. Calls that
 *            only look, like store_head and store_stats, also wait, for example for a commit that
 *            is being written. The long calls (persist, verify, delete, compact, export, import)
 *            let commits and captures pass, as the text of each says. store_mark_dirty,
 *            store_import_dirty_bitmap and the module getters never wait. store_discard waits only
 *            for a scan of its module.
 * Callbacks  A call into a store from inside one of its callbacks, in the same thread, is
 *            VMSTORE_E_BUSY, except for calls that never wait. Other threads may call meanwhile.
 * fork       In a forked child, the parent's handles give VMSTORE_E_FORKED and do nothing, and
 *            store_module_address gives NULL. The child may open stores of its own. A child that
 *            outlives its parent does not keep the parent's stores locked (up to 256 stores). The
 *            modules' memory stays mapped in the child at the addresses of the parent, readable and
 *            writable. (The library does not use MADV_DONTFORK.) The child may read it, and what it
 *            sees depends on the mode:
 *              private        A copy-on-write copy as of the fork. Later writes and restores of
 *                             one process do not reach the other.
 *              shared, memfd  The same memory. The child sees the parent's later writes, restores
 *                             and discards. A write of the child is a write of another process:
 *                             report it in the parent (see VMSTORE_TRACKER_KERNEL).
 *              adopted        As you mapped it: like private or like shared.
 * Signals    A call that a signal interrupts goes on (EINTR is retried).
 *
 * 6. COMMIT AND RESTORE IN A VMM
 *
 * Which mode and tracker for which VMM: docs/integration.md
 *
 * The steps of a commit
 *
 *   1 If a short pause matters, call store_precopy while the guest runs: once, or until *pages_left
 *     is small.
 *   2 Pause every vCPU. Let device threads and other processes finish their writes to guest memory,
 *     and take no new requests.
 *   3 Save vCPU and device state, into a module or as the commit's user_data. Do this before the
 *     capture, because saving a device may still write to guest memory (virtio rings, completions).
 *   4 Mark or import what the tracker does not see: writes of other processes, DMA of devices,
 *     writes of back ends through the descriptor. Then call store_capture.
 *   5 Resume the guest. Call store_capture_commit on any thread, and store_persist when the commit
 *     must survive a power cut.
 *
 * store_audit finds what you forgot to mark. Run it in your tests; the result must be 0.
 *
 * What a restore does to memory
 *
 *   It copies bytes to where the modules are mapped. KVM slots, pins, locks, NUMA and madvise
 *   settings stay, in every mode. Other mappings of a shared module see the new bytes, because the
 *   pages behind the descriptor are the same. Pages that VFIO or io_uring has pinned stay the
 *   guest's pages: a later DMA lands in memory that the guest sees. A DMA that is still under way
 *   overwrites restored bytes: let devices finish first. Put back device and vCPU state yourself,
 *   after the call.
 *
 * Starting a VMM from a commit
 *
 *   1 store_open. If the commit is not the head: store_restore.
 *   2 store_map_module for each module. The memory comes up with the commit's bytes.
 *   3 Set the VMM up. Most VMMs write a BIOS, tables or a kernel into guest memory now. These
 *     writes replace bytes of the commit.
 *   4 store_restore to the same commit once more, just before the vCPUs start. The commit is the
 *     head now, and this restore puts back the pages that are known to be written since. With
 *     VMSTORE_TRACKER_CALLER, first mark what step 3 wrote.
 *   5 Put back vCPU and device state, and start the vCPUs.
 */

#ifndef VMSTORE_H
#define VMSTORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A struct of the given type that is all zero, with struct_size set to sizeof(type). Initialises a
 * variable, and can be assigned to one:
 *     vmstore_map_options options = VMSTORE_INIT(vmstore_map_options);
 * It is no constant expression in ISO C: assign it to a static variable at run time. C++ needs
 * C++11. A C89 compiler other than gcc and clang can only initialise with it, not assign it. */
#if defined(__cplusplus)
#define VMSTORE_INIT(type) \
    ([] { \
        type vmstore_init_ = type(); \
        vmstore_init_.struct_size = sizeof(type); \
        return vmstore_init_; \
    }())
#elif defined(__GNUC__)
#define VMSTORE_INIT(type) (__extension__(type){.struct_size = sizeof(type)})
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 199901L
#define VMSTORE_INIT(type) ((type){.struct_size = sizeof(type)})
#else
#define VMSTORE_INIT(type) { sizeof(type) }
#endif

/* ======== RESULTS AND PROGRESS ================================================================ */

/* Success. */
#define VMSTORE_OK 0

/* An argument breaks a rule. The text of store_last_error names the argument and the rule. */
#define VMSTORE_E_INVALID -5001

/* A handle is NULL, closed, stale, of another kind, or not a handle of this library. */
#define VMSTORE_E_HANDLE -5002

/* There is no such store, commit, module or file. */
#define VMSTORE_E_NOT_FOUND -5003

/* Something else is there already: a file at the store's path, a mapped module, an occupied
 * address. */
#define VMSTORE_E_EXISTS -5004

/* Another owner, in this process or in another one, has the store open for writing. */
#define VMSTORE_E_LOCKED -5005

/* Not now: a capture is outstanding, or the call came from inside a callback of the same store. */
#define VMSTORE_E_BUSY -5006

/* The module has another size than the given one. */
#define VMSTORE_E_SIZE -5007

/* The store was opened read-only, or its file system is read-only. */
#define VMSTORE_E_READ_ONLY -5008

/* A file of the store is damaged, or its end is missing. The text names the file. Open the store
 * with VMSTORE_OPEN_SALVAGE to read what is intact. */
#define VMSTORE_E_CORRUPT -5009

/* A file of the store has a version, or needs a feature, that this library does not know. */
#define VMSTORE_E_VERSION -5010

/* A system call failed. store_last_errno has the reason. */
#define VMSTORE_E_IO -5011

/* The file system or the quota is full. Where the file system honours reserved blocks (ext4,
 * XFS, tmpfs), commits leave room in the journal for 64 calls of store_restore and
 * store_delete_commit. Those calls go on working on a full disk. The space of deleted commits
 * becomes free with the persist of the deletion. That persist needs room for the records of
 * everything that was not persisted before. */
#define VMSTORE_E_NO_SPACE -5012

/* The system did not give the memory that the call needs. */
#define VMSTORE_E_NO_MEMORY -5013

/* This kernel, file system or mapping mode cannot do it. The text says which one, and why. */
#define VMSTORE_E_UNSUPPORTED -5014

/* A sync failed, or an internal error was caught, in an earlier call. Close the store and open
 * it again. */
#define VMSTORE_E_POISONED -5015

/* This process is a forked child, and the handle belongs to its parent. */
#define VMSTORE_E_FORKED -5016

/* A callback asked the call to stop. */
#define VMSTORE_E_CANCELLED -5017

/* The library caught a defect of its own before the defect could do harm. */
#define VMSTORE_E_INTERNAL -5018

/* A store that was opened read-only needs a file that the writer has deleted or rewritten since.
 * Close the store and open it again. */
#define VMSTORE_E_STALE -5019

/* Receives the progress of a long call, in bytes: `done` of `total`. A non-zero return cancels
 * the call. The call then fails with VMSTORE_E_CANCELLED and leaves everything as it was before,
 * unless the text of the function says what stays done. The callback must not unwind or longjmp. */
typedef int (*vmstore_progress_callback)(uint64_t done, uint64_t total, void *user_data);

/* The meaning of a status in a few words. Static text: do not free it. Never NULL; an unknown
 * number gives "unknown status". */
const char *store_strerror(int status);

/* ======== HANDLES ============================================================================= */

/* A store: one directory, opened. Opaque. store_open makes the handle, store_close ends it. */
typedef struct vmstore vmstore;

/* A capture: a commit that is not written yet. Opaque. store_capture makes the handle.
 * store_capture_commit, store_capture_cancel, or closing the store, ends it. */
typedef struct vmstore_capture vmstore_capture;

/* A mapped module of a store. Opaque. store_map_module makes the handle. store_unmap_module, or
 * closing the store, ends it. */
typedef struct vmstore_module vmstore_module;

/* ======== STORE: open, close, counters, this host ============================================= */

/* Log level: something is wrong. The library worked around it, or you must look at it. */
#define VMSTORE_LOG_WARNING 1

/* Log level: what recovery or a fallback did. Normal after a crash, and after a store_close
 * without a store_persist before it. */
#define VMSTORE_LOG_INFO 2

/* Open flag, the default: make the directory and the store if they do not exist. */
#define VMSTORE_OPEN_CREATE 0

/* Open flag: take no lock and change nothing on disk. Works while another process writes to the
 * store, and shows the history as it was at the moment of opening.
 *
 * Commit and persist fail with VMSTORE_E_READ_ONLY. Map (in every mode except shared) and
 * restore work, and their effect stays private to this process. Many processes can map clones of
 * one commit in this way and share the page cache of its image.
 *
 * Mapped memory stays valid, whatever the writer does. A call that needs a file which the writer
 * has deleted or rewritten since fails with VMSTORE_E_STALE: open the store again. (store_verify
 * reports such a file as damaged: open the store again, and verify again.)
 *
 * Without a store in the directory: VMSTORE_E_NOT_FOUND. After a power cut a store may need one
 * opening for writing first: VMSTORE_E_READ_ONLY says so. If the journal has lost its end, a
 * read-only store cannot tell this damage from a writer that is at work, and does not report it.
 * An opening for writing reports it. */
#define VMSTORE_OPEN_READ_ONLY (1 << 0)

/* Open flag: fail with VMSTORE_E_NOT_FOUND if there is no store yet. */
#define VMSTORE_OPEN_NO_CREATE (1 << 1)

/* Open flag: read-only; and if `commits` or the journal is damaged, open with the commits that
 * are intact instead of failing with VMSTORE_E_CORRUPT. Takes no lock and removes nothing. */
#define VMSTORE_OPEN_SALVAGE (1 << 2)

/* Receives what the library did on its own: recovery, repairs, fallbacks. `level` is one of
 * VMSTORE_LOG_... `message` is one line without a newline, valid during the call only. The
 * callback must not unwind or longjmp. */
typedef void (*vmstore_log_callback)(int level, const char *message, void *user_data);

/* Options of store_open. */
typedef struct {
    /* `sizeof(vmstore_open_options)`. */
    size_t struct_size;
    /* VMSTORE_OPEN_... flags, or-ed. */
    uint32_t flags;
    /* Must be 0. */
    uint32_t reserved;
    /* Receives what recovery and fallbacks did, now and until the store is closed. May be NULL. */
    vmstore_log_callback log;
    /* Passed to `log`. */
    void *user_data;
    /* The most memory, in bytes, that a capture may use for copied pages. 0 means 1 GiB. A
     * larger capture still works: it writes the pages that do not fit to the store's files
     * during the capture, which makes the pause longer. The memory is kept for the next capture. */
    uint64_t arena_limit;
} vmstore_open_options;

/* The result of store_stats. Counters run from store_open. */
typedef struct {
    /* `sizeof(vmstore_stats)`. */
    size_t struct_size;
    /* Commits in the history. */
    uint64_t commits;
    /* Commits that a power cut would lose: those since the last persist. */
    uint64_t unpersisted_commits;
    /* Modules that are mapped now. */
    uint64_t mapped_modules;
    /* Bytes of the modules that are mapped now. */
    uint64_t mapped_bytes;
    /* The page size of the store in bytes. */
    uint64_t page_size;
    /* Memory held for captures, in bytes. */
    uint64_t arena_bytes;
    /* Captures taken, by store_capture and store_commit. */
    uint64_t captures;
    /* The last capture: pages that the tracker or the caller reported. */
    uint64_t last_dirty_pages;
    /* The last capture: those of the reported pages that store_precopy had copied before. Pages
     * that were written after their precopy were copied again. */
    uint64_t last_precopied_pages;
    /* The last capture: pages copied during the pause. These are the pages that were not
     * precopied, or were written after that; or all pages, when `arena_limit` has no room for
     * both copies. */
    uint64_t last_copied_pages;
    /* The last capture: nanoseconds in the tracker's scan. */
    uint64_t last_scan_ns;
    /* The last capture: nanoseconds in all. The guest had to be paused for this time. */
    uint64_t last_capture_ns;
    /* The last commit: nanoseconds after the capture, for checksums, writing and renaming. */
    uint64_t last_write_ns;
    /* The last commit: pages written with their bytes. */
    uint64_t last_written_pages;
    /* The last commit: pages recorded as zero, without bytes. */
    uint64_t last_zero_pages;
    /* The last commit: pages that were reported but had not changed, and were left out. */
    uint64_t last_unchanged_pages;
    /* The last restore: pages put back. */
    uint64_t last_restored_pages;
    /* The last restore: nanoseconds in all. */
    uint64_t last_restore_ns;
    /* Bytes written to module commit files, the journal and `commits`. */
    uint64_t bytes_written;
    /* Calls of fsync and fdatasync. */
    uint64_t syncs;
    /* Captures that outgrew the arena and wrote to files during the pause. */
    uint64_t arena_spills;
    /* Modules that are mapped now and whose captures compare memory with the head. */
    uint64_t compared_modules;
    /* Modules that are mapped now and for which VMSTORE_TRACKER_AUTO could not take the kernel
     * tracker. */
    uint64_t fallbacks;
    /* 1 after a failed sync or a caught internal error: see VMSTORE_E_POISONED. */
    uint32_t poisoned;
    /* 1 when the store is open read-only. */
    uint32_t read_only;
} vmstore_stats;

/* The result of store_probe: what this kernel, and the file system of a directory, can do. */
typedef struct {
    /* `sizeof(vmstore_capabilities)`. */
    size_t struct_size;
    /* 1 when the kernel tracker works here. The library tries the tracker, and does not guess
     * from a version. */
    uint32_t kernel_tracker;
    /* The tracker that VMSTORE_TRACKER_AUTO chooses. */
    uint32_t auto_tracker;
    /* The reason for this choice, in words, NUL-terminated. */
    char tracker_reason[160];
    /* The host's page size in bytes. */
    uint64_t page_size;
    /* The name of the file system, or its magic number if the name is unknown; "" when no
     * directory was given. */
    char file_system[32];
    /* Bytes that are free for this user on the file system. */
    uint64_t free_bytes;
    /* 1 when the file system honours reserved blocks. A write to a VMSTORE_MAP_SHARED module
     * then cannot meet a full disk. */
    uint32_t shared_is_safe;
    /* 1 when there is a store in the directory. */
    uint32_t is_store;
    /* 1 when memfds can be made and sealed, for VMSTORE_MAP_MEMFD. */
    uint32_t memfd;
    /* 1 when the host has huge pages of 2 MiB, free or in use. */
    uint32_t has_huge_2m;
    /* How many huge pages of 2 MiB are free. */
    uint64_t free_huge_2m;
    /* How many huge pages of 1 GiB are free. */
    uint64_t free_huge_1g;
} vmstore_capabilities;

/* Opens the store in `directory`, and makes the store first if there is none.
 *
 * The parent of the directory must exist. A new directory gets mode 0700. A directory that is
 * not empty and is not a store stays unchanged (VMSTORE_E_EXISTS). The opener gets an exclusive
 * lock. The kernel releases the lock when the process ends, however the process ends.
 *
 * Opening recovers what a crash left behind. After a killed process, every commit that
 * store_commit returned is there again. After a power cut, every persisted commit is there
 * again. The head is what it was. Leftovers of unfinished calls are removed. `options->log`
 * receives what was done.
 *
 * `options` may be NULL. End `*store` with store_close.
 *
 * Errors: VMSTORE_E_INVALID (also: the new store would lie in the directory of another store),
 * VMSTORE_E_EXISTS (a file or a foreign directory is at the path), VMSTORE_E_NOT_FOUND (no
 * parent directory; no store, with VMSTORE_OPEN_NO_CREATE), VMSTORE_E_LOCKED,
 * VMSTORE_E_READ_ONLY (the file system is read-only), VMSTORE_E_CORRUPT, VMSTORE_E_VERSION,
 * VMSTORE_E_UNSUPPORTED (made on a host with another page size), VMSTORE_E_IO,
 * VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY. */
int store_open(const char *directory, const vmstore_open_options *options, vmstore **store);

/* Closes a store: cancels an outstanding capture, unmaps the modules, releases the lock.
 *
 * Stop the guest first, because the addresses of the modules are unmapped. Writes since the last
 * commit are lost. store_close does not persist: commits that were not persisted stay restorable
 * until a power cut. The handles of the store, its modules and its capture are stale afterwards.
 * Waits for calls of other threads on this store. */
int store_close(vmstore *store);

/* Fills `stats` with counters and with the figures of the last capture, commit and restore.
 * Initialise `*stats` with VMSTORE_INIT first. */
int store_stats(const vmstore *store, vmstore_stats *stats);

/* Fills `capabilities` with what this kernel, and the file system of `directory`, can do, and
 * with the choices that the library would make. Changes nothing. Initialise `*capabilities` with
 * VMSTORE_INIT first.
 *
 * `directory` may be NULL; the file system is then left out. The directory need not hold a
 * store.
 *
 * Errors: VMSTORE_E_NOT_FOUND (no such directory), VMSTORE_E_EXISTS (not a directory),
 * VMSTORE_E_IO. */
int store_probe(const char *directory, vmstore_capabilities *capabilities);

/* ======== MODULE: map, grow, unmap ============================================================ */

/* Mapping mode, the default: private memory. If the head has an image of the module, the image
 * file is mapped copy-on-write: starting costs almost nothing, and clones share the page cache.
 * docs/integration.md says which mode and which tracker suit which VMM. */
#define VMSTORE_MAP_PRIVATE 0

/* Mapping mode: the backing file `<module>` itself, mapped shared, with its blocks reserved.
 * Other processes can map the same memory (vhost-user). Best on tmpfs. Do not use it on btrfs
 * when the disk may fill up: btrfs does not honour the reservation, and a write to memory is
 * then a SIGBUS. */
#define VMSTORE_MAP_SHARED 1

/* Mapping mode: a memfd, mapped shared. The library makes the memfd, sealed against shrinking,
 * unless VMSTORE_MAP_FD gives one. For vhost-user and VFIO with a store on a disk, and for huge
 * pages. store_module_fd gives the descriptor to pass on. Run the guest in the mapping at
 * store_module_address: the kernel tracker does not see writes through any other mapping. */
#define VMSTORE_MAP_MEMFD 2

/* Mapping mode: memory that you have mapped already, at `address`, of any kind, readable and
 * writable. The library copies into this memory and out of it. It never maps, unmaps, advises or
 * protects anything there, except in store_discard, which you call. The memory stays yours:
 * unmap the module, or close the store, before you unmap the memory. */
#define VMSTORE_MAP_ADOPT 4

/* Mapping flag: read and verify the whole module now. Without this flag, the library may map the
 * image and leave the reading to page faults, and does not check the pages that come straight
 * from the image against their checksums (see `unverified_bytes` in vmstore_module_info). */
#define VMSTORE_MAP_EAGER (1 << 8)

/* Mapping flag: `address` lies in a range that you have reserved: private anonymous memory with
 * PROT_NONE. The module is mapped over a part of the range, and unmapping makes that part a
 * reservation again. Any other kind of range is VMSTORE_E_EXISTS, and nothing is replaced. */
#define VMSTORE_MAP_RESERVED (1 << 9)

/* Mapping flag, with VMSTORE_MAP_MEMFD: the memory is your `fd`, from `fd_offset`. */
#define VMSTORE_MAP_FD (1 << 10)

/* Mapping flag, with VMSTORE_MAP_MEMFD: huge pages of 2 MiB. Size and address must be multiples
 * of 2 MiB. The huge pages are reserved now; if too few are free: VMSTORE_E_UNSUPPORTED. A write
 * makes the kernel tracker report the whole huge page, but a commit writes only the small pages
 * whose bytes changed. */
#define VMSTORE_MAP_HUGE_2M (1 << 11)

/* Mapping flag: the same with huge pages of 1 GiB. */
#define VMSTORE_MAP_HUGE_1G (1 << 12)

/* Mapping flag: there are writers that the tracker cannot see and that you will not report.
 * Every capture then compares with the head all pages that were not reported, and so reads the
 * whole module during the pause. With VMSTORE_TRACKER_KERNEL or _CALLER the reported pages need
 * no comparison in the pause. VMSTORE_TRACKER_COMPARE implies this flag. */
#define VMSTORE_MAP_FOREIGN_WRITERS (1 << 13)

/* Tracker, the default: KERNEL if its self-test passes, else COMPARE. vmstore_module_info says
 * which tracker was chosen, and why. If another userfaultfd has a part of adopted memory, AUTO
 * and KERNEL are VMSTORE_E_UNSUPPORTED: reading that memory may wait for the handler of the
 * other userfaultfd, so you have to choose CALLER or COMPARE yourself. */
#define VMSTORE_TRACKER_AUTO 0

/* Tracker: userfaultfd in asynchronous write-protect mode, and the PAGEMAP_SCAN ioctl (Linux
 * 6.7). The first write to a page after a commit costs about a microsecond. A capture costs a
 * scan and the written pages.
 *
 * It sees what goes through the module's own mapping: writes of this process, vCPUs under
 * KVM_RUN, read(2) and other copies by the kernel, and memory dropped with madvise.
 *
 * It does not see the following writes. Report them with store_mark_dirty; docs/tracking.md has
 * the table.
 *   - writes through another mapping of the same memory, or through its descriptor (vhost-user);
 *   - holes punched into that descriptor;
 *   - DMA into pages pinned before the last commit (VFIO, io_uring fixed buffers);
 *   - MADV_DONTNEED or MADV_FREE on memory that came from an image file, or on your own private
 *     mapping of a file. */
#define VMSTORE_TRACKER_KERNEL 1

/* Tracker: none. You report every write with store_mark_dirty or store_import_dirty_bitmap. A
 * commit misses what you do not report. A new module starts with nothing dirty: report also a
 * kernel, a firmware or tables that you load into it. (Adopted memory and your own descriptor
 * are the exception: the first commit takes all bytes that they had when they were mapped.) */
#define VMSTORE_TRACKER_CALLER 2

/* Tracker: every capture compares all of the module's memory with the head. Sees every writer,
 * and costs the reading of the whole module during the pause. */
#define VMSTORE_TRACKER_COMPARE 3

/* Options of store_map_module. */
typedef struct {
    /* `sizeof(vmstore_map_options)`. */
    size_t struct_size;
    /* One mode, and any mapping flags, or-ed. */
    uint32_t flags;
    /* One of VMSTORE_TRACKER_... */
    uint32_t tracker;
    /* The exact address wanted, page-aligned, in a range where nothing is mapped. An occupied
     * range is VMSTORE_E_EXISTS. NULL: anywhere. With VMSTORE_MAP_RESERVED: a place in your
     * reservation. With VMSTORE_MAP_ADOPT: the memory to adopt. */
    void *address;
    /* With VMSTORE_MAP_FD: a memfd, or another regular file on tmpfs, hugetlbfs or a disk, open
     * for reading and writing, at least `fd_offset` + `size` bytes long. The library keeps a
     * duplicate of the descriptor, and does not close yours. Seal the file against shrinking
     * (F_SEAL_SHRINK): if it is truncated while it is mapped, touching the memory is a SIGBUS.
     * Ignored without the flag. */
    int fd;
    /* Must be 0. */
    uint32_t reserved;
    /* Where the module begins in `fd`, in bytes, a multiple of the file's page size. */
    uint64_t fd_offset;
    /* Address space to set aside now for store_grow_module, in bytes from the beginning of the
     * module, at least its size. Set it if the module will ever grow: without it, free room
     * behind the module is chance. It is no upper limit: a module can grow further if nothing is
     * mapped behind it. 0: none. Must be 0 with VMSTORE_MAP_RESERVED and VMSTORE_MAP_ADOPT,
     * where you provide the room. */
    uint64_t max_size;
} vmstore_map_options;

/* Maps a module of the store into this process.
 *
 * If the head knows the module, the memory comes up with the head's bytes, in every mode: what
 * adopted memory or your own descriptor held before is overwritten. Otherwise the module is new.
 * It reads as zeros; adopted memory and your own descriptor keep their bytes. `size` is in
 * bytes, a multiple of the page size. 0 takes the recorded size of a module that the head knows.
 *
 * The memory is readable and writable, and stays at its address until it is unmapped. You may
 * register it with KVM, lock it, bind it to NUMA nodes and give madvise hints for it. Do not
 * mprotect, mremap or munmap it, and map nothing over it: the library copies to and from it, and
 * would fault in your process, or commit without the lost bytes.
 *
 * Memory with a hole, like the PCI hole below 4 GiB, is one module for each KVM memory slot. A
 * commit holds all of them at the same moment.
 *
 * A module id is 1 to 200 bytes of A-Z a-z 0-9 . _ - and does not begin with a dot, is not
 * "commits", and does not end in "_last" or in "_Commit" and digits. `options` may be NULL.
 *
 * Errors: of reading; of writing; VMSTORE_E_INVALID (id, size, alignment or flags; adopted
 * memory is not all mapped, readable and writable; the descriptor is not as `fd` says),
 * VMSTORE_E_EXISTS (the module is mapped already; the address is occupied; the memory belongs to
 * another module), VMSTORE_E_SIZE (the head knows another size; your descriptor is too short),
 * VMSTORE_E_READ_ONLY (a new or a shared module of a read-only store), VMSTORE_E_UNSUPPORTED
 * (the given tracker does not work here), VMSTORE_E_BUSY (a capture is outstanding),
 * VMSTORE_E_NO_MEMORY (also: more than this host could track). */
int store_map_module(vmstore *store,
                     const char *module_id,
                     uint64_t size,
                     const vmstore_map_options *options,
                     vmstore_module **module);

/* Makes a mapped module larger, at its address: memory is plugged in. The guest may run
 * meanwhile.
 *
 * The new part reads as zeros; in adopted memory and in your own descriptor the new part keeps
 * its bytes. `new_size` is in bytes, a multiple of the page size. The present size changes
 * nothing; a smaller size is VMSTORE_E_SIZE. The next commit has the new size, even if nothing
 * else changed. Restoring an older commit, in which the module is smaller, keeps the size and
 * zeroes the rest. A fresh process maps the module with its size at the head.
 *
 * The room is found behind the module: in what `max_size` set aside, in your reservation
 * (VMSTORE_MAP_RESERVED), or where by chance nothing is mapped. Make adopted memory, or your own
 * descriptor, longer before the call. On failure the module is as it was.
 *
 * Errors: of writing; VMSTORE_E_INVALID (alignment; adopted memory is not mapped there),
 * VMSTORE_E_SIZE (smaller; your descriptor is too short), VMSTORE_E_EXISTS (something is mapped
 * behind the module), VMSTORE_E_BUSY (a capture is outstanding), VMSTORE_E_UNSUPPORTED. */
int store_grow_module(vmstore_module *module, uint64_t new_size);

/* Unmaps a module. Its writes since the last commit are lost, and its address range becomes
 * free. The module stays in the history, and later commits carry it over unchanged.
 *
 * Errors: VMSTORE_E_BUSY (a capture is outstanding). */
int store_unmap_module(vmstore_module *module);

/* The first byte of a module's memory, page-aligned. NULL for a bad handle, and in a forked
 * child. Never waits. */
void *store_module_address(const vmstore_module *module);

/* The size of a module in bytes. 0 for a bad handle, and in a forked child. Never waits. */
uint64_t store_module_size(const vmstore_module *module);

/* The descriptor behind a module that is mapped with VMSTORE_MAP_SHARED or VMSTORE_MAP_MEMFD,
 * and the offset of the module's first byte in it, to pass to a vhost-user process. The
 * descriptor belongs to the library and stays the same until the module is unmapped, also when
 * the module grows. Duplicate or send it; do not close it. The kernel tracker does not see what
 * others write through it.
 *
 * Errors: VMSTORE_E_UNSUPPORTED (private and adopted modules have no descriptor). */
int store_module_fd(const vmstore_module *module, int *fd, uint64_t *offset);

/* The name of a mapping mode: "private", "shared", "memfd" or "adopt". Mapping flags in `mode`
 * are ignored. Static text: do not free it. Never NULL; an unknown number gives "unknown". */
const char *store_mode_name(uint32_t mode);

/* The name of a tracker: "auto", "kernel", "caller" or "compare". Static text: do not free it.
 * Never NULL; an unknown number gives "unknown". */
const char *store_tracker_name(uint32_t tracker);

/* ======== TRACKING: mark, import, discard, audit ============================================== */

/* Reports writes to `length` bytes from `offset` of a module, with any tracker. The range is
 * rounded outward to whole pages. `length` 0 within the module does nothing. Reporting a page
 * that did not change costs time only.
 *
 * Write first, then mark; do both before the capture that has to contain the write. Any thread
 * may call this at any time, also during a commit or persist of the store: it never waits and
 * makes no system call.
 *
 * Errors: VMSTORE_E_INVALID (the range ends beyond the module). */
int store_mark_dirty(vmstore_module *module, uint64_t offset, uint64_t length);

/* Reports the pages whose bits are set in a bitmap, with any tracker. KVM_GET_DIRTY_LOG, vhost
 * logs and VFIO logs give such bitmaps. For entries of KVM's dirty ring use store_mark_dirty.
 *
 * `offset`, in bytes, page-aligned, is the place of the bitmap's first page in the module. Page
 * `i` is bit `i % 64` of word `i / 64`, in the host's byte order. Bits from `page_count` on are
 * ignored. The pages of the log must have the host's page size. The log must be taken after the
 * writes: get the log, then import it, then capture. Never waits, and makes no system call.
 *
 * Errors: VMSTORE_E_INVALID (NULL, alignment, the range ends beyond the module). */
int store_import_dirty_bitmap(vmstore_module *module,
                              uint64_t offset,
                              const uint64_t *bitmap,
                              uint64_t page_count);

/* Gives memory of the guest back to the host, as a balloon or free page reporting does. The
 * range reads as zeros from now on, takes no memory until it is written again, and is dirty.
 * `offset` and `length` are in bytes, page-aligned. The guest may run, but must not use the
 * range. Waits for no other call except a scan of the same module. Works also in a read-only
 * store and beside a capture.
 *
 * In shared modes the range becomes a hole of the file, which all mappings of the file see.
 * Blocks of a backing file stay reserved where the file system can do that (ext4, XFS): the
 * guest can have the memory back on a full disk. On tmpfs the memory may not be available again
 * later. In private mode, anonymous memory replaces pages that came from an image: their madvise
 * and NUMA settings are lost, and beyond 1,024 such parts the range is zeroed in place instead.
 * Locked memory, and private file mappings in adopted memory, are zeroed in place. Do not
 * discard pages that a device has pinned (VFIO, io_uring).
 *
 * Errors: VMSTORE_E_INVALID (alignment, the range ends beyond the module), VMSTORE_E_NO_MEMORY,
 * VMSTORE_E_IO. */
int store_discard(vmstore_module *module, uint64_t offset, uint64_t length);

/* Finds what tracking missed. Compares all memory of all mapped modules with the head, and
 * writes into `*missed_pages` the number of pages that differ and that neither a tracker nor the
 * caller reported. These pages are dirty from now on: the next commit is exact. The log names
 * them.
 *
 * Use it in the tests of a VMM, where the result must be 0, and when you suspect a missed write.
 * Pause every writer first. Modules that are compared (see `compared` in vmstore_module_info)
 * are left out, because their next capture finds everything. A page of the head that cannot be
 * read ends the call with VMSTORE_E_CORRUPT, and the text names the page. The call reads all
 * memory: about a second for 2 GiB. It changes nothing else in the state of tracking.
 *
 * Errors: of reading; VMSTORE_E_BUSY (a capture is outstanding), VMSTORE_E_POISONED. */
int store_audit(vmstore *store, uint64_t *missed_pages);

/* ======== COMMIT: commit, capture, precopy ==================================================== */

/* Options of store_commit and store_capture. */
typedef struct {
    /* `sizeof(vmstore_commit_options)`. */
    size_t struct_size;
    /* A name for people: UTF-8, at most 255 bytes, no control characters. NULL or "": none.
     * Copied. */
    const char *label;
    /* Bytes of your own, kept with the commit, at most 16 MiB. NULL: none. Copied. */
    const void *user_data;
    /* The length of `user_data` in bytes. 0 when `user_data` is NULL. */
    size_t user_data_length;
    /* Threads that may help to copy in a capture of 4,096 pages or more, at most 15. 0, the
     * default: none. The threads are made within the call and end within it, with all signals
     * blocked. If the host refuses to make them, the capture goes on without them. They need
     * processors of their own, and room for all the pages in the arena. */
    uint32_t helpers;
    /* Must be 0. */
    uint32_t reserved;
} vmstore_commit_options;

/* Options of store_precopy. */
typedef struct {
    /* `sizeof(vmstore_precopy_options)`. */
    size_t struct_size;
    /* Stop when a round leaves at most this many pages to copy. 0 takes the default, 1024. */
    uint64_t target_pages;
    /* The most rounds. 0 takes the default, 16. The call also stops when a round leaves as many
     * pages as the round before, or more. */
    uint32_t max_rounds;
    /* Must be 0. */
    uint32_t reserved;
    /* Called before each round and at the end with bytes copied and bytes known to be written.
     * May be NULL. After a cancellation the pages that were copied stay copied. */
    vmstore_progress_callback progress;
    /* Passed to `progress`. */
    void *user_data;
} vmstore_precopy_options;

/* Makes a commit: an atomic snapshot of all modules.
 *
 * Pause every writer of the modules for the whole call, or use store_capture for a shorter
 * pause. The commit holds every mapped module as it is now, and every other module of the head
 * unchanged. Its parent is the head, and the commit becomes the head. The cost depends on what
 * was written since the last commit. After VMSTORE_OK the commit survives the death of the
 * process. It survives a power cut after the next store_persist.
 *
 * Commit numbers ascend. A number is used again only if a power cut took its commit, which was
 * not persisted then. Use the numbers to order commits, not their times.
 *
 * No commit is made, and `*commit` is the head, if nothing changed since the head, no module is
 * new, and `options` give neither label nor user data. Compare with store_head before the call
 * to detect this. Writing bytes that were there before is no change. The first commit of a store
 * is always made.
 *
 * On failure there is no new commit, and the next commit takes everything that this one would
 * have taken. `options` may be NULL; `commit` may not.
 *
 * Errors: of writing; VMSTORE_E_INVALID (also: something was mapped over a module),
 * VMSTORE_E_BUSY (a capture is outstanding), VMSTORE_E_CORRUPT (a module commit of the head is
 * damaged). */
int store_commit(vmstore *store, const vmstore_commit_options *options, uint64_t *commit);

/* The first half of a commit, and the only half that needs a paused guest. Finds the written
 * pages and copies them into memory of the library. When this returns, let the guest run, and
 * call store_capture_commit from any thread.
 *
 * There is one capture at a time. It is outstanding until store_capture_commit or
 * store_capture_cancel has returned. Meanwhile capture, commit, precopy, restore, audit, map,
 * grow and unmap fail at once with VMSTORE_E_BUSY, and so does the last step of an import. All
 * other calls work. store_persist and store_verify of other threads delay a capture only for
 * short moments, not while they wait for the disk.
 *
 * On failure nothing is lost: the pages are still known to be dirty. The first captures of many
 * pages are slower than later ones, because the library touches its memory for the first time.
 * `options` may be NULL; its label and user data are copied.
 *
 * Errors: as store_commit. */
int store_capture(vmstore *store, const vmstore_commit_options *options, vmstore_capture **capture);

/* The second half of a commit: computes the checksums, writes what was captured, and makes the
 * commit. It gives the same promises as store_commit, and also makes no commit if nothing
 * changed. The guest may run meanwhile; what it writes belongs to the next commit.
 *
 * The call ends the capture, whether it succeeds or fails. Only VMSTORE_E_INVALID,
 * VMSTORE_E_HANDLE, VMSTORE_E_FORKED and a call from inside a callback leave the capture as it
 * was. After a failure the captured pages are dirty again, beside the pages written since.
 *
 * Errors: as store_commit. */
int store_capture_commit(vmstore_capture *capture, uint64_t *commit);

/* Gives a capture up. Its pages are dirty again, and the next commit takes them. */
int store_capture_cancel(vmstore_capture *capture);

/* Does most of the copying of the next capture while the guest runs, as live migration does.
 * Copies what was written since the last commit, then what was written meanwhile, and so on,
 * until little is left. The next capture copies only what was written since the last round.
 *
 * `*pages_left` is the number of pages that a capture would have to copy now. Call store_precopy
 * as often as you like. Pause the guest and capture when the number is small enough. The copies
 * stay in memory of the library (at most three quarters of `arena_limit`) until the next capture
 * takes them. A restore, an unmap or an audit drops the copies, and no write is lost. Modules
 * that are compared (see `compared` in vmstore_module_info) are left out. Calls of other threads
 * on this store wait, except those that never wait, like store_mark_dirty.
 *
 * With VMSTORE_TRACKER_CALLER: write first, then mark. If the mark comes before the write, a
 * round may use up the mark and copy the old bytes.
 *
 * `options` may be NULL.
 *
 * Errors: VMSTORE_E_BUSY (a capture is outstanding), VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED,
 * VMSTORE_E_CANCELLED. */
int store_precopy(vmstore *store, const vmstore_precopy_options *options, uint64_t *pages_left);

/* ======== PERSIST AND RESTORE ================================================================= */

/* Options of store_persist. */
typedef struct {
    /* `sizeof(vmstore_persist_options)`. */
    size_t struct_size;
    /* Called before and between files with bytes made durable and bytes to make durable. May be
     * NULL. */
    vmstore_progress_callback progress;
    /* Passed to `progress`. */
    void *user_data;
} vmstore_persist_options;

/* Options of store_restore. */
typedef struct {
    /* `sizeof(vmstore_restore_options)`. */
    size_t struct_size;
    /* Called while pages are read and verified, before memory is touched. May be NULL. */
    vmstore_progress_callback progress;
    /* Passed to `progress`. */
    void *user_data;
} vmstore_restore_options;

/* Makes every commit so far survive the loss of power.
 *
 * After VMSTORE_OK, all commits that had returned before the call are durable. Of the commits
 * made after that, a power cut keeps the oldest few, whole and without a gap, or none. The guest
 * need not be paused, and other threads may capture and commit meanwhile. store_close does not
 * persist.
 *
 * Costs one flush if at most 256 KiB of pages are new (these pages are written twice then), else
 * a few flushes. Costs nothing if nothing is new.
 *
 * If a flush fails, the store is poisoned (VMSTORE_E_POISONED): the kernel may have dropped data
 * that it could not write, and a second flush would report a false success. What was persisted
 * before is safe. Opening the store again recovers what can be recovered. A cancelled persist
 * may be repeated.
 *
 * `options` may be NULL.
 *
 * Errors: of writing; VMSTORE_E_CORRUPT (a file that a killed owner left is damaged),
 * VMSTORE_E_CANCELLED. */
int store_persist(vmstore *store, const vmstore_persist_options *options);

/* Brings every mapped module to the bytes that it had at `commit`, in place, and makes that
 * commit the head.
 *
 * Pause every writer first. Addresses, KVM slots, registrations and the pages behind shared
 * descriptors stay, because the call copies bytes in. The cost depends on the pages that differ
 * between the head and `commit`, or were written since. Each of these pages is checked against
 * its checksum before the first byte of memory changes. Other pages are not read.
 *
 * Known writes since the last commit are undone. A write that the tracker cannot see, and that
 * you did not mark, stays in memory. A module that `commit` does not know becomes zeros. A
 * module that is not mapped now comes up at `commit` when it is mapped: a fresh process may
 * restore first and map then, or map first. Commits after `commit` stay in the history and can
 * be restored; the next commit becomes a child of `commit`. Restoring the head itself undoes all
 * known writes since. Like a commit, the new head survives the death of the process.
 *
 * If your VMM writes its BIOS, tables or kernel into memory after mapping, restore once more
 * just before the vCPUs start (chapter 6).
 *
 * On failure memory, head and the knowledge of dirty pages are as before the call. `options` may
 * be NULL.
 *
 * Errors: of reading; VMSTORE_E_NOT_FOUND (no such commit), VMSTORE_E_SIZE (a mapped module is
 * larger at `commit`: grow it, then restore), VMSTORE_E_BUSY (a capture is outstanding),
 * VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE, VMSTORE_E_CANCELLED. */
int store_restore(vmstore *store, uint64_t commit, const vmstore_restore_options *options);

/* ======== HISTORY: look, list, compare, read ================================================== */

/* The result of store_commit_info: what is known of one commit. */
typedef struct {
    /* `sizeof(vmstore_commit_info)`. */
    size_t struct_size;
    /* The number of the commit, from 1. */
    uint64_t commit;
    /* The commit on which this one was made. If that commit was deleted: its nearest ancestor
     * that is still there. 0: none. */
    uint64_t parent;
    /* When the commit was made: nanoseconds since 1970-01-01 UTC by the host's wall clock. */
    uint64_t time;
    /* A random number that no other commit of any store has. */
    uint8_t unique_id[16];
    /* The label, NUL-terminated; empty: none. */
    char label[256];
    /* The length of the user data in bytes. */
    uint64_t user_data_length;
    /* How many modules the commit holds. */
    uint32_t modules;
    /* 1 when the commit survives a power cut (see store_persist), else 0. */
    uint32_t persisted;
} vmstore_commit_info;

/* One module, as store_list_modules describes it. */
typedef struct {
    /* `sizeof(vmstore_module_info)` of the library. */
    size_t struct_size;
    /* The id of the module. */
    const char *module_id;
    /* The size in bytes. */
    uint64_t size;
    /* The number of the module commit that holds the bytes: N in `<module>_Commit<N>`. It is
     * lower than the commit's own number if the module did not change in the commit. 0: the
     * module is mapped but is in no commit yet. */
    uint64_t module_commit;
    /* A digest of the bytes: equal bytes have equal digests, in any commit (docs/format.md). */
    uint8_t digest[16];
    /* Where the module is mapped; NULL: it is not mapped. */
    void *address;
    /* The mapping mode of a mapped module: VMSTORE_MAP_PRIVATE, _SHARED, _MEMFD or _ADOPT,
     * without the flags. store_mode_name gives the name. */
    uint32_t mode;
    /* The tracker of a mapped module: one of VMSTORE_TRACKER_..., never AUTO. store_tracker_name
     * gives the name. */
    uint32_t tracker;
    /* Why the module has this tracker; "" when it is not mapped. */
    const char *tracker_reason;
    /* Bytes of the mapping that come straight from an image file and were not verified when
     * mapped. */
    uint64_t unverified_bytes;
    /* How the bytes got into memory, in words: mapped from which image, copied and why, or
     * adopted; "" when the module is not mapped. */
    const char *mode_reason;
    /* The size of the mapping. It is larger than `size` if the module grew since the head. 0
     * when the module is not mapped. */
    uint64_t mapped_size;
    /* 1 when VMSTORE_TRACKER_AUTO could not take the kernel tracker; `tracker_reason` says why. */
    uint32_t fell_back;
    /* 1 when every capture compares the pages that were not reported: the tracker is
     * VMSTORE_TRACKER_COMPARE, or VMSTORE_MAP_FOREIGN_WRITERS was given. */
    uint32_t compared;
} vmstore_module_info;

/* Receives one module of store_list_modules. The struct and its strings are valid during the
 * call only. A non-zero return ends the listing early; store_list_modules then returns
 * VMSTORE_OK. */
typedef int (*vmstore_module_callback)(const vmstore_module_info *info, void *user_data);

/* One file that a commit needs, as store_list_files describes it. */
typedef struct {
    /* `sizeof(vmstore_file_info)` of the library. */
    size_t struct_size;
    /* The id of the module. */
    const char *module_id;
    /* The number of the module commit: N in the file's name, `<module>_Commit<N>`. */
    uint64_t module_commit;
    /* The module commit below this one. 0: none; the file is an image and holds the whole
     * module. */
    uint64_t parent;
    /* The module's size at this module commit, in bytes. */
    uint64_t module_size;
    /* The file's length in bytes. Zero pages of an image are holes. */
    uint64_t length;
    /* Pages whose bytes are in the file. */
    uint64_t data_pages;
    /* Pages that became zero, by the file's record. An image records no zero pages. */
    uint64_t zero_pages;
} vmstore_file_info;

/* Receives one file of store_list_files. The struct and its string are valid during the call
 * only. A non-zero return ends the listing early; store_list_files then returns VMSTORE_OK. */
typedef int (*vmstore_file_callback)(const vmstore_file_info *info, void *user_data);

/* Receives one range of bytes of store_diff. The id is valid during the call only. A non-zero
 * return ends the listing early; store_diff then returns VMSTORE_OK. */
typedef int (*vmstore_range_callback)(const char *module_id,
                                      uint64_t offset,
                                      uint64_t length,
                                      void *user_data);

/* The head: the commit to which memory was last brought, by a commit or a restore. 0: there is
 * no commit yet. */
int store_head(const vmstore *store, uint64_t *commit);

/* Writes the numbers of the store's commits, ascending, into `commits`, as many as fit into
 * `capacity`, and the number of all commits into `*count`. `commits` may be NULL when `capacity`
 * is 0. */
int store_list_commits(const vmstore *store, uint64_t *commits, size_t capacity, size_t *count);

/* Fills `info` with what is known of one commit. Initialise `*info` with VMSTORE_INIT first.
 *
 * Errors: VMSTORE_E_NOT_FOUND (no such commit). */
int store_commit_info(const vmstore *store, uint64_t commit, vmstore_commit_info *info);

/* Copies the user data of a commit into `buffer`, as much as fits into `capacity`, and writes
 * the whole length to `*length`. `buffer` may be NULL when `capacity` is 0.
 *
 * Errors: VMSTORE_E_NOT_FOUND (no such commit). */
int store_commit_user_data(const vmstore *store,
                           uint64_t commit,
                           void *buffer,
                           size_t capacity,
                           size_t *length);

/* Finds the newest commit with this label.
 *
 * Errors: VMSTORE_E_INVALID (also: an empty label), VMSTORE_E_NOT_FOUND (no commit has it). */
int store_find_commit(const vmstore *store, const char *label, uint64_t *commit);

/* Calls `callback` for each module of a commit, in the order of their ids. `commit` 0 lists the
 * modules of the head, and the modules that are mapped but in no commit yet, with where and how
 * they are mapped. The callback is called without any lock held.
 *
 * Errors: VMSTORE_E_NOT_FOUND (no such commit). */
int store_list_modules(const vmstore *store,
                       uint64_t commit,
                       vmstore_module_callback callback,
                       void *user_data);

/* Calls `callback` for each file that a commit needs: for each module the module commit to which
 * the commit refers, and then the module commits below it, down to an image. `commit` 0: the
 * files of all commits, each file once, ascending within its module, without damaged files.
 * stat(2) on `<module>_Commit<N>` gives the disk space of a file. The callback is called without
 * any lock held.
 *
 * Errors: of reading; VMSTORE_E_NOT_FOUND (no such commit). */
int store_list_files(const vmstore *store,
                     uint64_t commit,
                     vmstore_file_callback callback,
                     void *user_data);

/* Calls `callback` for each range of bytes that differs between two commits, module by module in
 * the order of their ids, ascending within a module. The commits may be on different branches. 0
 * stands for a store without modules: `from` 0 lists everything in `to` that is not zero.
 *
 * Ranges are whole pages, and a page is listed if and only if its bytes differ. A module that a
 * commit does not know, and the part beyond the module's size at a commit, count as zeros.
 * `module_id` NULL: all modules of both commits. The call reads the indexes on the path between
 * the commits. It reads pages only where checksums are equal. The callback is called without any
 * lock held.
 *
 * Errors: of reading; VMSTORE_E_NOT_FOUND (no such commit; neither commit knows the module). */
int store_diff(const vmstore *store,
               uint64_t from,
               uint64_t to,
               const char *module_id,
               vmstore_range_callback callback,
               void *user_data);

/* Reads `length` bytes of a module from `offset`, as they are at a commit, into `buffer`.
 * Nothing is mapped, and mapped memory is neither read nor changed. Works in a read-only store.
 * Every page is checked against its checksum. Offset and length need not be whole pages, and
 * must lie within the module. On failure the contents of the buffer are undefined. If an
 * argument is refused, the buffer is not touched.
 *
 * Errors: of reading; VMSTORE_E_NOT_FOUND (no such commit; the commit does not know the module). */
int store_read(const vmstore *store,
               uint64_t commit,
               const char *module_id,
               uint64_t offset,
               void *buffer,
               size_t length);

/* ======== DELETE AND COMPACT ================================================================== */

/* Compact flag, a retention rule: keep commits that have a label. */
#define VMSTORE_COMPACT_KEEP_LABELLED (1 << 0)

/* Compact flag: make no images, except where a chain of deltas has lost its image. */
#define VMSTORE_COMPACT_NO_IMAGES (1 << 1)

/* Options of store_compact. The `keep_...` fields and the KEEP flag are retention rules. A
 * commit stays if at least one rule keeps it; the head always stays; all other commits are
 * deleted. Without any rule no commit is deleted. */
typedef struct {
    /* `sizeof(vmstore_compact_options)`. */
    size_t struct_size;
    /* VMSTORE_COMPACT_... flags, or-ed. */
    uint32_t flags;
    /* The most pages that the deltas between two images of a module may hold, in percent of the
     * module's pages. 0 takes the default, 200. More saves disk space; less makes fresh starts
     * faster. */
    uint32_t image_percent;
    /* Keep this many of the newest commits; 0: no such rule. */
    uint64_t keep_last;
    /* Keep commits whose number is a multiple of this; 0: no such rule. */
    uint64_t keep_every;
    /* Keep commits that are younger than this many seconds by the wall clock; 0: no such rule. */
    uint64_t keep_seconds;
    /* Called with bytes copied and an upper bound of the bytes to copy; (0, 0) before anything
     * is done. May be NULL. */
    vmstore_progress_callback progress;
    /* Passed to `progress`. */
    void *user_data;
} vmstore_compact_options;

/* Deletes a commit. No other commit changes. The commits that were made on it stay, and the
 * deleted commit's parent becomes their parent in vmstore_commit_info. Damaged commits can be
 * deleted.
 *
 * The deletion survives the death of the process like a commit, and a power cut after the next
 * store_persist. The disk blocks of a commit that was not persisted become free at once. The
 * blocks of a persisted commit become free in the next persist; until then a power cut may bring
 * the commit back, whole.
 *
 * Blocks that other commits need stay. If exactly one commit was made on the deleted one, the
 * library rewrites the files of that commit to hold what it needs, provided that this writes at
 * most twice the pages that the deleted commit had changed, and frees enough. Otherwise the
 * deleted commit's file stays, without an entry in the history, until a later deletion or
 * store_compact can do without it. On a full disk nothing is rewritten, and deleting still
 * works: it frees what no other commit needs.
 *
 * On failure nothing is deleted, with one exception. If the disk took only a part of the
 * deletion's record, and a power cut comes before the next successful store_persist or
 * store_compact, the store may show the whole deletion as done afterwards. (The missing bytes
 * read as zeros, and zeros can be the right bytes.)
 *
 * Memory, the head and captures are not touched. Mapped memory stays mapped. A store that is
 * open read-only elsewhere keeps its view of the history. A call of such a reader that needs a
 * removed file fails with VMSTORE_E_STALE: open the store again.
 *
 * The guest need not be paused. Waits for store_persist and store_verify of other threads.
 * Commits, captures and restores of other threads go on meanwhile, and wait at most for the
 * renaming of a file.
 *
 * Errors: of writing; VMSTORE_E_NOT_FOUND (no such commit), VMSTORE_E_BUSY (the commit is the
 * head), VMSTORE_E_NO_SPACE (even the deletion's record does not fit). */
int store_delete_commit(vmstore *store, uint64_t commit);

/* Makes the store smaller, and fresh starts faster. In this order:
 *   1 deletes the commits that no rule of `options` keeps, and persists;
 *   2 rewrites chains of files that deletions left long, and makes an image where deltas outgrew
 *     it;
 *   3 removes files that nothing needs;
 *   4 writes the file `commits` anew if much of it is about deleted commits.
 * What stays restores as before.
 *
 * A module commit becomes an image when the deltas from the last image up to it hold more than
 * `image_percent` of the module's pages. At 200 the images take at most half of the room that
 * the deltas take, and a fresh process copies at most twice the pages that it could have mapped.
 * A commit makes only the first image of a module, and a persist makes none, because an image
 * takes as long as copying the module: call store_compact when there is time. If the file system
 * can share blocks between files (XFS, btrfs), an image shares blocks with the files that it was
 * made of.
 *
 * Commits, captures and restores of other threads go on meanwhile, and wait at most for the
 * renaming of a file. Deletions, and other calls that need the files to stay, wait for the whole
 * call. Each file is replaced as a whole: the process can be killed at any moment. Needs room
 * for the largest rewritten file. Memory of mapped modules is not touched; an image under a
 * mapping keeps its blocks until it is unmapped. Readers are affected as by store_delete_commit.
 *
 * On failure or cancellation: if the first call of `progress` cancels, nothing has happened.
 * After that, every step that was done stays done. Deletions are recorded first, oldest commits
 * first, up to 128 with one write. A recorded deletion stays, whatever fails after it; a failed
 * write of records deletes none of its commits (with the exception that store_delete_commit
 * describes). If the persist in step 1 has not succeeded, a power cut may bring deleted commits
 * that were persisted back, whole. No commit that a rule keeps has changed. The next
 * store_compact does the rest.
 *
 * `options` may be NULL.
 *
 * Errors: of writing; VMSTORE_E_CORRUPT (a file to be rewritten is damaged),
 * VMSTORE_E_CANCELLED. */
int store_compact(vmstore *store, const vmstore_compact_options *options);

/* ======== VERIFY ============================================================================== */

/* Verify flag: check `commits`, the journal, footers and indexes, but do not read the pages. */
#define VMSTORE_VERIFY_METADATA (1 << 0)

/* Finding: a file, or one of its pages, is damaged. */
#define VMSTORE_FINDING_DAMAGE 1

/* Finding: everything that a commit needs is intact. */
#define VMSTORE_FINDING_GOOD 2

/* Finding: a commit needs something that is damaged. */
#define VMSTORE_FINDING_LOST 3

/* The page of a finding that is about a whole file, or about a commit. */
#define VMSTORE_NO_PAGE UINT64_MAX

/* One finding of store_verify. The struct and its strings are valid during the call only. */
typedef struct {
    /* `sizeof(vmstore_finding)` of the library. */
    size_t struct_size;
    /* One of VMSTORE_FINDING_... */
    uint32_t kind;
    /* 0. */
    uint32_t reserved;
    /* GOOD and LOST: the commit. DAMAGE: the commit that wrote the file; 0 for `commits` and the
     * journal. */
    uint64_t commit;
    /* The damaged page of the module, or VMSTORE_NO_PAGE. */
    uint64_t page;
    /* The damaged file, relative to the store; "" with GOOD and LOST. */
    const char *file;
    /* The module to which the file belongs; "" for `commits` and the journal, and with GOOD and
     * LOST. */
    const char *module_id;
    /* What is wrong, in words; "" with GOOD and LOST. */
    const char *message;
} vmstore_finding;

/* Receives the findings of store_verify: first all damage as it is found, then for each commit,
 * ascending, whether it is good or lost. A non-zero return ends the call with
 * VMSTORE_E_CANCELLED. */
typedef int (*vmstore_finding_callback)(const vmstore_finding *finding, void *user_data);

/* Options of store_verify. */
typedef struct {
    /* `sizeof(vmstore_verify_options)`. */
    size_t struct_size;
    /* VMSTORE_VERIFY_... flags, or-ed. */
    uint32_t flags;
    /* Must be 0. */
    uint32_t reserved;
    /* The commit to verify; 0: every commit of the store. */
    uint64_t commit;
    /* Called between files with bytes verified and bytes to verify. May be NULL. */
    vmstore_progress_callback progress;
    /* Passed to `progress` and `finding`. */
    void *user_data;
    /* Receives everything that is found, and the verification goes on to its end. NULL: the
     * first damage ends the verification. */
    vmstore_finding_callback finding;
} vmstore_verify_options;

/* Verifies one commit, or the whole store: `commits` and the journal, the footer and index of
 * every file, and, without VMSTORE_VERIFY_METADATA, every page against its checksum and every
 * module against its digest.
 *
 * Reads files only; mapped memory is neither read nor changed. Without a `finding` callback the
 * first damage ends the call with VMSTORE_E_CORRUPT, and the text of store_last_error names
 * file, commit and page. With a `finding` callback the call goes on. It reports every damaged
 * file and page, also files that cannot be read, and for each commit whether it is good. If
 * there was damage, it then fails with the status of the first damage. In a store that is open
 * read-only, a file that the writer has deleted or rewritten since counts as damaged: open the
 * store again, and verify again.
 *
 * `options` may be NULL.
 *
 * Errors: VMSTORE_E_NOT_FOUND (no such commit), VMSTORE_E_CORRUPT, VMSTORE_E_IO,
 * VMSTORE_E_NO_MEMORY, VMSTORE_E_CANCELLED. */
int store_verify(const vmstore *store, const vmstore_verify_options *options);

/* ======== CLONE, EXPORT, IMPORT =============================================================== */

/* Options of store_export_with and store_import_with. */
typedef struct {
    /* `sizeof(vmstore_transfer_options)`. */
    size_t struct_size;
    /* Called between pieces of the stream with bytes of pages done and an upper bound of the
     * bytes of pages to do. May be NULL. */
    vmstore_progress_callback progress;
    /* Passed to `progress`. */
    void *user_data;
} vmstore_transfer_options;

/* Makes a second, independent store in `directory`. The directory must be new or empty, and must
 * not lie in the directory of a store. `commit` 0 clones the whole history with its head.
 * Otherwise the clone has that one commit, as its head, with the number and unique id that it
 * has here.
 *
 * On one file system the files of the clone are second names (hard links) of the same data: a
 * clone costs a few microseconds for each file, however large. On another file system the files
 * are copied. Afterwards both stores can commit, delete and compact, and neither affects the
 * other: no store ever writes into a module commit file that has got its name. The clone is
 * durable when the call returns. A store that is open for writing is persisted first. A
 * read-only store clones what is persisted.
 *
 * Uncommitted writes are not cloned. The clone is not opened. Both stores have the same store
 * id, which lets them share files; only their directories tell them apart. On failure there is
 * no store in `directory`.
 *
 * Errors: of reading; VMSTORE_E_NOT_FOUND (no such commit; no parent of `directory`),
 * VMSTORE_E_EXISTS (something is in `directory`), VMSTORE_E_LOCKED, VMSTORE_E_POISONED,
 * VMSTORE_E_NO_SPACE. */
int store_clone(const vmstore *store, uint64_t commit, const char *directory);

/* Writes commits to `fd`, a pipe, socket or file, as a stream for store_import: `to`, and the
 * commits on which it was made, back to `from`. `from` itself is not in the stream, must be an
 * ancestor of `to`, and must be in the importing store. `from` 0: all ancestors.
 *
 * A stream holds one line of the history. Send a tree as several streams: first one line from 0
 * to the end of a branch, then each other branch from the commit where it leaves what was sent
 * already. The importing store leaves commits that it has unchanged; streams may overlap.
 *
 * Each commit costs its changed pages, wherever they are stored. Every page is checked before it
 * is written. The stream carries checksums, numbers and links: the importer refuses a stream
 * that is cut, changed or reordered. Nothing in this store changes. Commits and persists of
 * other threads go on. Deletions and compactions wait until the stream is written. `fd` stays
 * open. The call waits for the reader, even if `fd` is non-blocking. A pipe whose reading end is
 * closed is VMSTORE_E_IO with EPIPE, without a signal. On failure an incomplete stream may have
 * been written.
 *
 * Errors: of reading; VMSTORE_E_INVALID (also: `from` is no ancestor of `to`; `fd` is not open),
 * VMSTORE_E_NOT_FOUND (no such commit), VMSTORE_E_NO_SPACE. */
int store_export(const vmstore *store, uint64_t from, uint64_t to, int fd);

/* Like store_export, with a progress callback. A cancellation may leave an incomplete stream,
 * which the importer refuses. `options` may be NULL.
 *
 * Errors: as store_export; VMSTORE_E_CANCELLED. */
int store_export_with(const vmstore *store,
                      uint64_t from,
                      uint64_t to,
                      int fd,
                      const vmstore_transfer_options *options);

/* Reads a stream of store_export from `fd` and adds its commits to this history, with their
 * unique ids, times, labels, user data and bytes, under new numbers. Writes the number that the
 * stream's last commit has here to `*commit`. A commit that is here already, by its unique id,
 * stays as it is. If all are here already, nothing changes.
 *
 * All or nothing: the stream is first read to its end and checked, down to the digest of every
 * module. Then all its commits appear at once. They survive the death of the process then, and a
 * power cut after the next store_persist. Head and memory are not touched, with one exception:
 * in a store without commits, the last imported commit becomes the head. Such a store must have
 * no mapped modules. `fd` stays open, and nothing behind the stream is read. The call waits for
 * the stream, even if `fd` is non-blocking.
 *
 * Commits and captures of other threads go on until the last step, which is quick. If a capture
 * is outstanding at that step, the call fails with VMSTORE_E_BUSY and nothing was imported.
 * Checksums find accidents, not forgeries: import only from a source that you trust.
 *
 * Errors: of writing; VMSTORE_E_CORRUPT (the stream is cut, changed or out of order; a file of
 * this store is damaged), VMSTORE_E_VERSION, VMSTORE_E_NOT_FOUND (the commit on which the stream
 * builds is not here), VMSTORE_E_UNSUPPORTED (another page size), VMSTORE_E_BUSY. */
int store_import(vmstore *store, int fd, uint64_t *commit);

/* Like store_import, with a progress callback. After a cancellation nothing is imported, and a
 * part of the stream has been read. `options` may be NULL.
 *
 * Errors: as store_import; VMSTORE_E_CANCELLED. */
int store_import_with(vmstore *store,
                      int fd,
                      const vmstore_transfer_options *options,
                      uint64_t *commit);

/* ======== ERROR TEXTS AND VERSIONS ============================================================ */

/* The version of the binary interface that this header describes. It changes whenever a program
 * that was compiled with an older header could not run with a newer library. Until library
 * version 1.0 it also changes with every minor version. */
#define VMSTORE_ABI_VERSION 0

/* The text of this thread's last failure. It names the function and the store, says what failed,
 * on which file, module or argument, and gives the reason or the rule. A successful call does
 * not change it. The text is empty when nothing has failed, and has at most 1023 bytes.
 *
 * Works like snprintf. Writes at most `capacity` bytes including the terminating NUL, and
 * returns the length of the whole text without the NUL. A result of `capacity` or more means
 * that the text was cut. `buffer` may be NULL when `capacity` is 0. */
size_t store_last_error(char *buffer, size_t capacity);

/* The errno of the system call behind this thread's last failure. 0 when no system call failed. */
int store_last_errno(void);

/* The version of the library, "major.minor.patch". Static text. */
const char *store_version(void);

/* The VMSTORE_ABI_VERSION of the header that the library was built with. A program that loads
 * the library at run time compares the result with the VMSTORE_ABI_VERSION that the program was
 * compiled with. Equal numbers fit together; different numbers do not. */
uint32_t store_abi_version(void);

#ifdef __cplusplus
}
#endif

#endif /* VMSTORE_H */
