/*
 * vmstore.h - a versioned store for guest memory: git for guest RAM.
 *
 * Generated from src/ffi by cbindgen. Do not edit. Licence: MIT or Apache-2.0.
 *
 * 1. WHAT IT IS
 *
 * A virtual machine monitor maps named modules (RAM banks, device-state areas) out of a store, which
 * is a directory on disk, and runs its guest in them.
 *
 *   store_commit    takes an atomic snapshot of all modules together; it costs what was written
 *                   since the last one, not what the memory holds;
 *   store_persist   makes every commit so far survive the loss of power;
 *   store_restore   puts all modules back to any commit, in place under a paused guest, or in a
 *                   fresh process.
 *
 * Commits form a tree. The head is the commit that memory was last brought to, by a commit or a
 * restore; the next commit becomes its child. store_delete_commit takes any commit but the head out, store_compact
 * keeps what rules say and makes the store small, store_clone and store_export carry it elsewhere.
 *
 * The first commit of a module is written as an image, a file that is the module's plain memory;
 * later ones as deltas, files of the pages that changed. A fresh process maps the image copy-on-write and
 * copies the newer pages over it.
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
 *  1 A killed process loses nothing committed. Once store_commit returned VMSTORE_OK, SIGKILL at any
 *    instruction leaves that commit restorable in the next store_open.
 *  2 A power cut loses nothing persisted. Once store_persist returned VMSTORE_OK, all commits made
 *    before it survive. Later ones survive whole or not at all, oldest first: history never has a
 *    hole.
 *  3 All or nothing. A commit holds every module at one moment. A failed call leaves the store, the
 *    memory and the knowledge of dirty pages as if it had not been made.
 *  4 No wrong bytes. What store_restore puts into memory was checked against a checksum. The one
 *    exception is named: pages that a lazy VMSTORE_MAP_PRIVATE mapping takes straight from an image
 *    file, and what the guest makes of them: a page that it changes is committed as it then is.
 *    VMSTORE_MAP_EAGER has none. Damage is VMSTORE_E_CORRUPT, not silence. What mmap does stays
 *    true: if somebody truncates an image that is or is just being mapped, or its disk fails, touching it is a SIGBUS.
 *  5 Dirty tracking is complete, or says what it cannot see: VMSTORE_TRACKER_KERNEL has the list,
 *    store_mark_dirty is the way in.
 *  6 Memory keeps its address. Restore copies bytes in; it never remaps.
 *  7 A polite guest in your process: no signal handlers, no output, no abort, and no threads unless a
 *    capture asks for helpers. SIGXFSZ is blocked in the calling thread around file writes. All
 *    descriptors are close-on-exec; of RLIMIT_NOFILE up to a quarter waits for a persist, and an
 *    eighth stays open to be read again, at most 1,024 each.
 *
 * 4. LIFE OF A STORE
 *
 *     store_open -> store_map_module ... -> the guest runs
 *         [pause] store_capture [resume] store_capture_commit     or  [pause] store_commit [resume]
 *         store_persist, now and then, from any thread
 *         [pause] store_restore [resume]
 *     stop the guest -> store_persist -> store_close
 *
 * Around a commit: pause the vCPUs; let devices finish their writes to memory; save vCPU and device
 * state, into a module or as user_data; capture last; resume.
 *
 * The directory with modules m1 and m2 after two commits and a persist:
 *
 *     m1  m1_Commit1  m1_Commit2  m1_last -> m1_Commit2
 *     m2  m2_Commit1  m2_Commit2  m2_last -> m2_Commit2  commits  .vmstore/
 *
 * m1 is the backing file: the image under the mapping (a second name of it) or, in shared mode, the
 * memory itself. m1_last names the head's module commit. The directory belongs to the library:
 * nothing else may write there while a store is open. Reading is welcome; moving or copying a
 * closed store is fine.
 *
 * 5. RULES FOR ALL CALLS
 *
 * Results    Functions that can fail return int: VMSTORE_OK, which is 0, or a VMSTORE_E_... below
 *            -4096, so that it is never mistaken for -errno. store_last_error has the text: what
 *            failed, and by which rule.
 * Outputs    Out parameters come last and are written on success only.
 * Options    May be NULL, which means all defaults. Option and info structs begin with
 *            `size_t struct_size`: zero the struct, set it to sizeof. A shorter struct (an older
 *            caller) is extended with zeros; a longer one (a newer caller) is accepted when what
 *            this library does not know is zero. Unknown flag bits are VMSTORE_E_INVALID.
 * Handles    vmstore, vmstore_module and vmstore_capture pointers are numbers in disguise, never
 *            dereferenced. A NULL, closed, stale or foreign one gives VMSTORE_E_HANDLE.
 * Ownership  What you pass in is copied. What you get by address (store_module_address) is unmapped
 *            by store_unmap_module or store_close, adopted memory excepted. There is nothing to free.
 * Units      Sizes, offsets and lengths are in bytes. A page is the host's, sysconf(_SC_PAGESIZE);
 *            a module is a whole number of them.
 * Threads    Any thread may call any function. Calls on one store wait for one another: also those
 *            that only look, like store_head and store_stats, wait for a commit that is being written. But
 *            the long ones (persist, verify, delete, compact, export, import) let commits and captures
 *            pass, as the text of each says. store_mark_dirty, store_import_dirty_bitmap and the module
 *            getters never wait; store_discard waits for a scan of its module only.
 * Callbacks  A call into a store from inside one of its callbacks, in the same thread, is
 *            VMSTORE_E_BUSY, but for those that never wait. Other threads may call meanwhile.
 * fork       In the child, the parent's handles give VMSTORE_E_FORKED and do nothing; the child may
 *            open stores of its own. What the child writes to a shared module is a write of another
 *            process: it has to be reported.
 * Signals    A call that a signal interrupts goes on (EINTR is retried).
 *
 * 6. PUTTING IT INTO YOUR VMM
 *
 * Which memory (the mode, a flag of vmstore_map_options)
 *
 *   You have none yet       VMSTORE_MAP_PRIVATE. Clones of one commit share its image's page cache, and
 *                           a start costs microseconds.
 *   Others must map it      VMSTORE_MAP_MEMFD (vhost-user, VFIO, huge pages), or VMSTORE_MAP_SHARED where
 *                           they open it by its path in the store.
 *   You have a memfd        VMSTORE_MAP_MEMFD | VMSTORE_MAP_FD. Run the guest in the mapping that this
 *                           gives: writes through a mapping of yours are hidden from the kernel tracker.
 *   You have it mapped      VMSTORE_MAP_ADOPT: the library copies in and out, and touches nothing else.
 *   You have reserved room  VMSTORE_MAP_RESERVED beside one of the first three.
 *
 * A module that the store knows comes up with the head's bytes, in each mode: what adopted memory or a
 * descriptor of yours held before is overwritten. A module that it does not know keeps them.
 *
 * Which tracker
 *
 *   All writers are in this process, or are vCPUs      VMSTORE_TRACKER_KERNEL (what AUTO takes)
 *   You log dirty pages already (KVM, vhost, VFIO)     VMSTORE_TRACKER_CALLER, and import the logs
 *   Other processes write, and have a log              _KERNEL, and import or mark what they wrote
 *   Other processes write, and nobody knows where      _KERNEL with VMSTORE_MAP_FOREIGN_WRITERS, or
 *                                                      _COMPARE; each capture reads all memory
 *   Another userfaultfd has the range                  _CALLER or _COMPARE
 *
 *   Firecracker       ADOPT each region of its guest memory; KERNEL, or CALLER with track_dirty_pages. Open
 *                     and map before the seccomp filters go in; docs/system-calls.md has the lists. Let the
 *                     balloon call store_discard instead of madvise.
 *   Cloud Hypervisor  ADOPT each memory zone (memfds and huge pages too); KERNEL, and the logs of vhost-user
 *                     and VFIO imported. Memory that is plugged in: a module more, or store_grow_module.
 *   QEMU              Inside: ADOPT each RAMBlock; CALLER with the dirty log that migration uses. From
 *                     outside: memory-backend-file,share=on on the backing file of a SHARED module, which
 *                     COMPARE tracks (examples/qemu-timetravel).
 *   crosvm            ADOPT its mapping of its memfd; its device processes write through mappings of their
 *                     own: mark what they wrote, or FOREIGN_WRITERS.
 *   libkrun           PRIVATE, or ADOPT; KERNEL: its devices are threads.
 *   WASM runtime      RESERVED at the start of each linear memory's reservation; memory.grow is
 *                     store_grow_module. A reset is store_restore, not madvise; but the size stays: after
 *                     growth, unmap, restore and map anew, so that what is beyond traps again. KERNEL, or
 *                     CALLER where the compiler emits write barriers.
 *   Fuzzer            PRIVATE; CALLER with KVM's dirty ring, each entry marked; restore the same commit
 *                     again and again: the cost is that of the dirty pages.
 *
 * The steps of a commit
 *
 *   1 store_precopy while the guest runs, if the pause matters: once, or until *pages_left is small.
 *   2 Pause every vCPU. Let device threads and other processes finish their writes to guest memory, and
 *     stop taking new requests.
 *   3 Save vCPU and device state, into a module or as the commit's user_data. Devices come first, since
 *     saving one may still write to guest memory (virtio rings, completions); memory is captured last.
 *   4 Mark, or import, what the tracker does not see: writes of other processes, of devices through
 *     DMA, of back ends through the descriptor; then store_capture.
 *   5 Resume. store_capture_commit on any thread; store_persist when it has to survive a power cut.
 *
 * What must be marked with VMSTORE_TRACKER_KERNEL is listed there; docs/tracking.md has the table of modes,
 * trackers and writers. store_audit finds what was forgotten: run it in your tests, where it must say 0.
 *
 * What a restore does
 *
 *   It copies bytes to where they are mapped: KVM slots, pins, locks, NUMA and madvise settings stay, in
 *   every mode. Other mappings of a shared module see the new bytes, since the pages behind the descriptor
 *   are the same. Pages pinned by VFIO or by io_uring stay the guest's pages, so that a later DMA lands
 *   in memory that the guest sees; one that is still under way lands on top of restored bytes, so let
 *   devices finish first. Device and vCPU state is yours to put back, after the call.
 */


#ifndef VMSTORE_H
#define VMSTORE_H

#include <stddef.h>
#include <stdint.h>

/**
 * The version of the binary interface that this header describes. It changes whenever a program
 * compiled with an older header could not run with a newer library; until 1.0 also with every
 * minor version.
 */
#define VMSTORE_ABI_VERSION 0

/**
 * Success.
 */
#define VMSTORE_OK 0

/**
 * An argument breaks a rule; the text of `store_last_error` names the argument and the rule.
 */
#define VMSTORE_E_INVALID -5001

/**
 * A handle is NULL, stale, closed, of another kind, or never was one.
 */
#define VMSTORE_E_HANDLE -5002

/**
 * There is no such store, commit or file.
 */
#define VMSTORE_E_NOT_FOUND -5003

/**
 * Something else is already there: a file in the store's place, a mapped module, an occupied
 * address.
 */
#define VMSTORE_E_EXISTS -5004

/**
 * Another owner, in this process or another, has the store open for writing.
 */
#define VMSTORE_E_LOCKED -5005

/**
 * Not now: a capture is outstanding, or the call was made from inside a callback of the same
 * store.
 */
#define VMSTORE_E_BUSY -5006

/**
 * A module has another size than the one asked for.
 */
#define VMSTORE_E_SIZE -5007

/**
 * The store was opened read-only, or its file system is.
 */
#define VMSTORE_E_READ_ONLY -5008

/**
 * A file of the store is damaged, or its end is gone; the text names it. What is intact can be had with
 * `VMSTORE_OPEN_SALVAGE`.
 */
#define VMSTORE_E_CORRUPT -5009

/**
 * A file of the store has a version, or needs a feature, that this library does not know.
 */
#define VMSTORE_E_VERSION -5010

/**
 * A system call failed; `store_last_errno` has the reason.
 */
#define VMSTORE_E_IO -5011

/**
 * The file system or the quota is full. Where reserved blocks are honoured (ext4, XFS, tmpfs) commits
 * leave room in the journal for 64 calls of `store_restore` and `store_delete_commit`, which go on
 * working then. What is deleted gives its space back when that is persisted, which needs room for
 * the records of all that was not persisted before.
 */
#define VMSTORE_E_NO_SPACE -5012

/**
 * Memory could not be had.
 */
#define VMSTORE_E_NO_MEMORY -5013

/**
 * This kernel, file system or mapping mode cannot do it; the text says which and why.
 */
#define VMSTORE_E_UNSUPPORTED -5014

/**
 * A sync failed or an internal error was caught earlier. Close the store and open it again.
 */
#define VMSTORE_E_POISONED -5015

/**
 * The calling process is a fork of the one that made the handle.
 */
#define VMSTORE_E_FORKED -5016

/**
 * A progress callback asked to stop; everything is as before the call.
 */
#define VMSTORE_E_CANCELLED -5017

/**
 * A defect of this library, caught before it could do harm.
 */
#define VMSTORE_E_INTERNAL -5018

/**
 * A store that was opened read-only needs a file that its writer has deleted or rewritten since. Close
 * it and open it again.
 */
#define VMSTORE_E_STALE -5019

/**
 * Log level: something is wrong and was worked around or must be looked at.
 */
#define VMSTORE_LOG_WARNING 1

/**
 * Log level: what recovery or a fallback did; normal after a crash, and after a close without a
 * `store_persist` before it.
 */
#define VMSTORE_LOG_INFO 2

/**
 * Open flag, the default: make the directory and the store if they are not there.
 */
#define VMSTORE_OPEN_CREATE 0

/**
 * Open flag: take no lock, change nothing on disk. Works beside a writer, and sees the history
 * as it was when it was opened. Commit and persist fail with `VMSTORE_E_READ_ONLY`; map
 * (in all modes but shared) and restore work and stay private to this process. What is mapped stays, whatever
 * the writer does; where a call needs a file that the writer has deleted or rewritten since, it fails
 * with `VMSTORE_E_STALE`: open the store again. (`store_verify` calls such a file damaged: open the store
 * again, and verify again.) So many processes map clones of one commit, and share its image's page cache.
 * Where there is no store: `VMSTORE_E_NOT_FOUND`. After a power cut a store may have to be opened for
 * writing once before: `VMSTORE_E_READ_ONLY`. A journal that lost its end looks to a reader like one that a writer is
 * at; who opens it for writing is told of the damage.
 */
#define VMSTORE_OPEN_READ_ONLY 1

/**
 * Open flag: fail with `VMSTORE_E_NOT_FOUND` where there is no store yet.
 */
#define VMSTORE_OPEN_NO_CREATE 2

/**
 * Open flag: read-only, and where `commits` or the journal is damaged, open with the commits
 * that are intact instead of failing with `VMSTORE_E_CORRUPT`. Takes no lock and removes
 * nothing.
 */
#define VMSTORE_OPEN_SALVAGE 4

/**
 * Mapping mode, the default: private memory. Where the head has an image of the module, the
 * image file is mapped copy-on-write, so that starting costs nothing and clones share the page
 * cache.
 */
#define VMSTORE_MAP_PRIVATE 0

/**
 * Mapping mode: the backing file `<module>` itself, mapped shared, with its blocks reserved,
 * so that other processes can map the same memory (vhost-user). Best on tmpfs. Not on btrfs
 * when the disk may fill up: btrfs does not honour the reservation, and a store into a full
 * disk is a SIGBUS.
 */
#define VMSTORE_MAP_SHARED 1

/**
 * Mapping mode: a memfd, mapped shared. One is made here, sealed against shrinking, unless
 * `VMSTORE_MAP_FD` brings the caller's. For vhost-user and VFIO with a store on a disk, and for huge
 * pages. `store_module_fd` gives the descriptor to pass on. The guest runs in the mapping at
 * `store_module_address`; writes through any other one are hidden from the kernel tracker.
 */
#define VMSTORE_MAP_MEMFD 2

/**
 * Mapping mode: memory that the caller has mapped already, at `address`, of any kind, readable and
 * writable. The library copies into it and out of it, and never maps, unmaps, advises or protects
 * anything there (`store_discard` apart, which is asked for). It stays the caller's: unmap the module,
 * or close the store, before it goes.
 */
#define VMSTORE_MAP_ADOPT 4

/**
 * Mapping flag: read and verify the whole module now, instead of mapping its image and leaving
 * the reading to page faults. Without it, pages that come straight from an image are not
 * checked against their checksums by the library (see `unverified_bytes` in
 * vmstore_module_info).
 */
#define VMSTORE_MAP_EAGER 256

/**
 * Mapping flag: `address` lies in a range that the caller has reserved: private anonymous memory
 * with PROT_NONE. The module is mapped over that part of it, and unmapping makes it a reservation
 * again. A range that is anything else is `VMSTORE_E_EXISTS`, and nothing is replaced.
 */
#define VMSTORE_MAP_RESERVED 512

/**
 * Mapping flag, with `VMSTORE_MAP_MEMFD`: the memory is the caller's `fd`, from `fd_offset`.
 */
#define VMSTORE_MAP_FD 1024

/**
 * Mapping flag, with `VMSTORE_MAP_MEMFD`: huge pages of 2 MiB. Size and address are then
 * multiples of that, the pages are reserved now, and a write makes the kernel tracker report the
 * whole huge page; a commit still writes only those small pages whose bytes changed. Where the host
 * has not enough of them free: `VMSTORE_E_UNSUPPORTED`.
 */
#define VMSTORE_MAP_HUGE_2M 2048

/**
 * Mapping flag: the same with huge pages of 1 GiB.
 */
#define VMSTORE_MAP_HUGE_1G 4096

/**
 * Mapping flag: there are writers that the tracker cannot see, and they are not going to be marked.
 * Every capture then compares the pages that were not reported with the head, which reads the whole
 * module in the pause. With `VMSTORE_TRACKER_KERNEL` or `_CALLER` the reported pages are not
 * compared first; `VMSTORE_TRACKER_COMPARE` implies it.
 */
#define VMSTORE_MAP_FOREIGN_WRITERS 8192

/**
 * Tracker, the default: `KERNEL` where it passed its self-test, else `COMPARE`. Which one it
 * was, and why, is in vmstore_module_info. Adopted memory a part of which another userfaultfd has is
 * `VMSTORE_E_UNSUPPORTED`: reading it may wait for that one's handler, so the caller has to choose
 * `CALLER` or `COMPARE`.
 */
#define VMSTORE_TRACKER_AUTO 0

/**
 * Tracker: userfaultfd in asynchronous write-protect mode and the PAGEMAP_SCAN ioctl (Linux
 * 6.7). The first write to a page after a commit costs about a microsecond; a capture costs a
 * scan and the written pages. It sees what goes through the module's own mapping: stores of
 * this process, vCPUs under KVM_RUN, read(2) and other copies by the kernel, memory dropped
 * with madvise. It does not see: writes through another mapping of the same memory or through
 * its descriptor (vhost-user), holes punched into that, DMA into pages pinned before the last commit
 * (VFIO, io_uring fixed buffers), and MADV_DONTNEED or MADV_FREE on memory that came from an image
 * file or is a private mapping of a file of the caller's. Mark those; docs/tracking.md has the whole
 * table.
 */
#define VMSTORE_TRACKER_KERNEL 1

/**
 * Tracker: none. The caller reports every write with `store_mark_dirty`; what is not reported is
 * lost.
 */
#define VMSTORE_TRACKER_CALLER 2

/**
 * Tracker: every capture compares all of the module's memory with its last commit. Sees every
 * writer, costs the reading of the whole module in the pause.
 */
#define VMSTORE_TRACKER_COMPARE 3

/**
 * Finding: a file is damaged, or one of its pages.
 */
#define VMSTORE_FINDING_DAMAGE 1

/**
 * Finding: everything that a commit needs is intact.
 */
#define VMSTORE_FINDING_GOOD 2

/**
 * Finding: a commit needs something that is damaged.
 */
#define VMSTORE_FINDING_LOST 3

/**
 * The page of a finding that is about a file as a whole, or about a commit.
 */
#define VMSTORE_NO_PAGE 18446744073709551615ull

/**
 * Verify flag: check `commits`, the journal, footers and indexes, but do not read the pages.
 */
#define VMSTORE_VERIFY_METADATA 1

/**
 * Compact flag, a rule of retention: keep commits that have a label.
 */
#define VMSTORE_COMPACT_KEEP_LABELLED 1

/**
 * Compact flag: make no images, but where a chain of deltas has lost its own.
 */
#define VMSTORE_COMPACT_NO_IMAGES 2

/**
 * A store: one directory, opened. Opaque; made by `store_open`, ended by `store_close`.
 */
typedef struct vmstore vmstore;

/**
 * A captured, not yet written commit. Opaque; made by `store_capture`, ended by
 * `store_capture_commit`, `store_capture_cancel`, or by closing its store.
 */
typedef struct vmstore_capture vmstore_capture;

/**
 * A mapped module of a store. Opaque; made by `store_map_module`, ended by `store_unmap_module`
 * or by closing its store.
 */
typedef struct vmstore_module vmstore_module;

/**
 * Receives what the library did on its own: recovery, repairs, fallbacks. `level` is one of
 * `VMSTORE_LOG_...`; `message` is one line without a newline, valid during the call only. Calls
 * into the same store from inside the callback fail with `VMSTORE_E_BUSY`. It must not unwind or
 * longjmp.
 */
typedef void (*vmstore_log_callback)(int level, const char *message, void *user_data);

/**
 * Options of `store_open`. Zero-initialise, set `struct_size`, set what you need.
 */
typedef struct {
    /**
     * `sizeof(vmstore_open_options)`.
     */
    size_t struct_size;
    /**
     * `VMSTORE_OPEN_...` flags, or-ed.
     */
    uint32_t flags;
    /**
     * Must be 0.
     */
    uint32_t reserved;
    /**
     * Told what recovery and fallbacks did; may be NULL.
     */
    vmstore_log_callback log;
    /**
     * Passed to `log`.
     */
    void *user_data;
    /**
     * The most memory, in bytes, that a capture may use for copied pages; 0 takes the default, 1
     * GiB. A capture of more than that still works: what does not fit is written to the store's
     * files during the capture, which makes the pause longer. The memory is kept for the next
     * capture.
     */
    uint64_t arena_limit;
} vmstore_open_options;

/**
 * What `store_stats` tells. Counters run from `store_open`. Set `struct_size` before the call.
 */
typedef struct {
    /**
     * `sizeof(vmstore_stats)`.
     */
    size_t struct_size;
    /**
     * Commits in the history.
     */
    uint64_t commits;
    /**
     * Commits that a power cut would lose: those since the last persist.
     */
    uint64_t unpersisted_commits;
    /**
     * Modules mapped now.
     */
    uint64_t mapped_modules;
    /**
     * Bytes of modules mapped now.
     */
    uint64_t mapped_bytes;
    /**
     * The page size of the store in bytes.
     */
    uint64_t page_size;
    /**
     * Memory held for captures, in bytes.
     */
    uint64_t arena_bytes;
    /**
     * Captures taken, by `store_capture` and `store_commit`.
     */
    uint64_t captures;
    /**
     * The last capture: pages that the tracker or the caller reported.
     */
    uint64_t last_dirty_pages;
    /**
     * The last capture: of those, pages that `store_precopy` had copied before. Those that were written
     * since were copied again.
     */
    uint64_t last_precopied_pages;
    /**
     * The last capture: pages copied while the guest was paused for it: those that were not precopied or
     * were written since; all of them where `arena_limit` has no room for both.
     */
    uint64_t last_copied_pages;
    /**
     * The last capture: nanoseconds in the tracker's scan.
     */
    uint64_t last_scan_ns;
    /**
     * The last capture: nanoseconds in all, which is what the guest had to be paused for.
     */
    uint64_t last_capture_ns;
    /**
     * The last commit: nanoseconds after the capture: checksums, writing, renaming.
     */
    uint64_t last_write_ns;
    /**
     * The last commit: pages written with their bytes.
     */
    uint64_t last_written_pages;
    /**
     * The last commit: pages recorded as zero, without bytes.
     */
    uint64_t last_zero_pages;
    /**
     * The last commit: pages that were reported but have the bytes they had, and were left out.
     */
    uint64_t last_unchanged_pages;
    /**
     * The last restore: pages put back.
     */
    uint64_t last_restored_pages;
    /**
     * The last restore: nanoseconds in all.
     */
    uint64_t last_restore_ns;
    /**
     * Bytes written to module commit files, the journal and `commits`.
     */
    uint64_t bytes_written;
    /**
     * fsync and fdatasync calls.
     */
    uint64_t syncs;
    /**
     * Captures that outgrew the arena and wrote during the pause.
     */
    uint64_t arena_spills;
    /**
     * Modules mapped now whose captures compare memory with the head.
     */
    uint64_t compared_modules;
    /**
     * Modules mapped now for which `VMSTORE_TRACKER_AUTO` could not take the kernel tracker.
     */
    uint64_t fallbacks;
    /**
     * 1 after a failed sync or a caught internal error: see `VMSTORE_E_POISONED`.
     */
    uint32_t poisoned;
    /**
     * 1 when the store is open read-only.
     */
    uint32_t read_only;
} vmstore_stats;

/**
 * What `store_probe` tells of this kernel and of a directory's file system. Set `struct_size`
 * before the call.
 */
typedef struct {
    /**
     * `sizeof(vmstore_capabilities)`.
     */
    size_t struct_size;
    /**
     * 1 when the kernel tracker works here: it was tried, not guessed from a version.
     */
    uint32_t kernel_tracker;
    /**
     * The tracker that `VMSTORE_TRACKER_AUTO` chooses.
     */
    uint32_t auto_tracker;
    /**
     * Why, in words; NUL-terminated.
     */
    char tracker_reason[160];
    /**
     * The host's page size in bytes.
     */
    uint64_t page_size;
    /**
     * The file system's name or, where unknown, its magic number; "" when no directory was
     * given.
     */
    char file_system[32];
    /**
     * Bytes free for this user on it.
     */
    uint64_t free_bytes;
    /**
     * 1 when reserved blocks are honoured there, so that `VMSTORE_MAP_SHARED` cannot meet a full
     * disk.
     */
    uint32_t shared_is_safe;
    /**
     * 1 when there is a store in the directory.
     */
    uint32_t is_store;
    /**
     * 1 when memfds can be made and sealed, for `VMSTORE_MAP_MEMFD`.
     */
    uint32_t memfd;
    /**
     * 1 when the host has huge pages of 2 MiB, be they free or not.
     */
    uint32_t has_huge_2m;
    /**
     * How many huge pages of 2 MiB are free.
     */
    uint64_t free_huge_2m;
    /**
     * How many huge pages of 1 GiB are free.
     */
    uint64_t free_huge_1g;
} vmstore_capabilities;

/**
 * Options of `store_map_module`.
 */
typedef struct {
    /**
     * `sizeof(vmstore_map_options)`.
     */
    size_t struct_size;
    /**
     * One mode and any mapping flags, or-ed.
     */
    uint32_t flags;
    /**
     * One of `VMSTORE_TRACKER_...`.
     */
    uint32_t tracker;
    /**
     * The exact address wanted, page-aligned, in a range where nothing is mapped; NULL:
     * anywhere. An occupied range is `VMSTORE_E_EXISTS`. With `VMSTORE_MAP_RESERVED` a place in the
     * caller's reservation, with `VMSTORE_MAP_ADOPT` the memory to adopt.
     */
    void *address;
    /**
     * With `VMSTORE_MAP_FD` a memfd, or another regular file on tmpfs, hugetlbfs or a disk, open for
     * reading and writing, at least `fd_offset` + `size` bytes long. The library keeps a copy of
     * the descriptor, and does not close this one. Seal it against shrinking (F_SEAL_SHRINK): if
     * it is truncated while it is mapped, touching it is a SIGBUS. Without the flag it is not looked at.
     */
    int fd;
    /**
     * Must be 0.
     */
    uint32_t reserved;
    /**
     * Where the module begins in `fd`, in bytes, a multiple of its page size.
     */
    uint64_t fd_offset;
    /**
     * Address space to set aside now for growing (see `store_grow_module`), in bytes from the module's
     * beginning; at least its size. Set it if the module will ever grow: without it, whether
     * there is room is chance. No limit: beyond it, growing depends on what is mapped behind. 0: none, and
     * so it must be with `VMSTORE_MAP_RESERVED` and `VMSTORE_MAP_ADOPT`, where the room is the caller's.
     */
    uint64_t max_size;
} vmstore_map_options;

/**
 * Receives the progress of long work, in bytes. A non-zero return cancels the work: the call
 * then fails with `VMSTORE_E_CANCELLED` and leaves everything as it was, unless the text of the
 * function says what it keeps. Calls into the same store from inside the callback fail with
 * `VMSTORE_E_BUSY`. It must not unwind or longjmp.
 */
typedef int (*vmstore_progress_callback)(uint64_t done, uint64_t total, void *user_data);

/**
 * Options of `store_precopy`.
 */
typedef struct {
    /**
     * `sizeof(vmstore_precopy_options)`.
     */
    size_t struct_size;
    /**
     * Stop when a round leaves at most so many pages to copy; 0 takes the default, 1024.
     */
    uint64_t target_pages;
    /**
     * The most rounds; 0 takes the default, 16. It stops earlier when a round leaves no fewer pages
     * than the one before.
     */
    uint32_t max_rounds;
    /**
     * Must be 0.
     */
    uint32_t reserved;
    /**
     * Called before each round and at the end with bytes copied and bytes known to be written; may be
     * NULL. What was copied when it cancels is kept.
     */
    vmstore_progress_callback progress;
    /**
     * Passed to `progress`.
     */
    void *user_data;
} vmstore_precopy_options;

/**
 * Options of `store_commit` and `store_capture`.
 */
typedef struct {
    /**
     * `sizeof(vmstore_commit_options)`.
     */
    size_t struct_size;
    /**
     * A name for people: UTF-8, at most 255 bytes, no control characters. NULL or "": none.
     * Copied.
     */
    const char *label;
    /**
     * Bytes of the caller's, kept with the commit, at most 16 MiB. NULL: none. Copied.
     */
    const void *user_data;
    /**
     * The length of `user_data` in bytes; 0 when it is NULL.
     */
    size_t user_data_length;
    /**
     * Threads that may help to copy in a capture of 4,096 pages or more, at most 15; 0, the default: none. They
     * are made and gone within the call, with all signals blocked; where the host refuses to make them, the capture goes
     * on without. They need processors of their own, and room for all the pages in the arena.
     */
    uint32_t helpers;
    /**
     * Must be 0.
     */
    uint32_t reserved;
} vmstore_commit_options;

/**
 * Options of `store_persist`.
 */
typedef struct {
    /**
     * `sizeof(vmstore_persist_options)`.
     */
    size_t struct_size;
    /**
     * Called before and between files with bytes made durable and bytes to make durable; may
     * be NULL.
     */
    vmstore_progress_callback progress;
    /**
     * Passed to `progress`.
     */
    void *user_data;
} vmstore_persist_options;

/**
 * Options of `store_restore`.
 */
typedef struct {
    /**
     * `sizeof(vmstore_restore_options)`.
     */
    size_t struct_size;
    /**
     * Called while pages are read and verified, before memory is touched; may be NULL.
     */
    vmstore_progress_callback progress;
    /**
     * Passed to `progress`.
     */
    void *user_data;
} vmstore_restore_options;

/**
 * What `store_commit_info` tells of one commit. Set `struct_size` before the call.
 */
typedef struct {
    /**
     * `sizeof(vmstore_commit_info)`.
     */
    size_t struct_size;
    /**
     * Its number, from 1.
     */
    uint64_t commit;
    /**
     * The commit it was made on or, if that was deleted, the nearest before it that is there; 0:
     * none.
     */
    uint64_t parent;
    /**
     * When it was made: nanoseconds since 1970-01-01 UTC by the host's wall clock.
     */
    uint64_t time;
    /**
     * A random number of its own, which no other commit of any store has.
     */
    uint8_t unique_id[16];
    /**
     * Its label, NUL-terminated; empty: none.
     */
    char label[256];
    /**
     * The length of its user data in bytes.
     */
    uint64_t user_data_length;
    /**
     * How many modules it holds.
     */
    uint32_t modules;
    /**
     * 1 when it survives a power cut (see `store_persist`), else 0.
     */
    uint32_t persisted;
} vmstore_commit_info;

/**
 * What `store_list_modules` tells of one module.
 */
typedef struct {
    /**
     * `sizeof(vmstore_module_info)` of the library.
     */
    size_t struct_size;
    /**
     * Its id.
     */
    const char *module_id;
    /**
     * Its size in bytes.
     */
    uint64_t size;
    /**
     * The number of the module commit that holds its bytes, in the file `<module>_Commit<N>`; 0
     * for a module that is mapped but in no commit yet.
     */
    uint64_t module_commit;
    /**
     * A digest of its bytes: equal bytes have equal digests, in any commit (docs/format.md).
     */
    uint8_t digest[16];
    /**
     * Where it is mapped; NULL: it is not.
     */
    void *address;
    /**
     * Its mapping mode when mapped, one of `VMSTORE_MAP_PRIVATE`, `_SHARED`, `_MEMFD` and `_ADOPT`, without
     * the flags.
     */
    uint32_t mode;
    /**
     * The tracker in use when mapped, one of `VMSTORE_TRACKER_...`, never `AUTO`.
     */
    uint32_t tracker;
    /**
     * Why it is this tracker; "" when not mapped.
     */
    const char *tracker_reason;
    /**
     * Bytes of the mapping that come straight from an image file and were not verified when
     * mapped.
     */
    uint64_t unverified_bytes;
    /**
     * How its bytes got into memory, in words: mapped from which image, copied and why, adopted; ""
     * when not mapped.
     */
    const char *mode_reason;
    /**
     * Its size where it is mapped, which is larger than `size` when it grew since the head; 0 when
     * not mapped.
     */
    uint64_t mapped_size;
    /**
     * 1 when `VMSTORE_TRACKER_AUTO` could not take the kernel tracker: `tracker_reason` says why.
     */
    uint32_t fell_back;
    /**
     * 1 when every capture compares pages that were not reported: the tracker is
     * `VMSTORE_TRACKER_COMPARE`, or `VMSTORE_MAP_FOREIGN_WRITERS` was given.
     */
    uint32_t compared;
} vmstore_module_info;

/**
 * Receives one module of `store_list_modules`. The struct and its strings are valid during the
 * call only. A non-zero return ends the listing early; `store_list_modules` then returns
 * `VMSTORE_OK`.
 */
typedef int (*vmstore_module_callback)(const vmstore_module_info *info, void *user_data);

/**
 * What `store_verify` finds. The struct and its strings are valid during the call only.
 */
typedef struct {
    /**
     * `sizeof(vmstore_finding)` of the library.
     */
    size_t struct_size;
    /**
     * One of `VMSTORE_FINDING_...`.
     */
    uint32_t kind;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * The commit that is good or lost; with damage, the one that wrote the file, 0 for `commits` and
     * the journal.
     */
    uint64_t commit;
    /**
     * The damaged page of the module, or `VMSTORE_NO_PAGE`.
     */
    uint64_t page;
    /**
     * The damaged file, relative to the store; "" with commits.
     */
    const char *file;
    /**
     * The module that the file belongs to; "" for `commits`, the journal, and with commits.
     */
    const char *module_id;
    /**
     * What is wrong, in words; "" with commits.
     */
    const char *message;
} vmstore_finding;

/**
 * Receives the findings of `store_verify`: all damage as it is found, then for each commit, ascending,
 * whether it is good or lost. A non-zero return ends the call with `VMSTORE_E_CANCELLED`. Calls into
 * the same store from inside the callback fail with `VMSTORE_E_BUSY`.
 */
typedef int (*vmstore_finding_callback)(const vmstore_finding *finding, void *user_data);

/**
 * Options of `store_verify`.
 */
typedef struct {
    /**
     * `sizeof(vmstore_verify_options)`.
     */
    size_t struct_size;
    /**
     * `VMSTORE_VERIFY_...` flags, or-ed.
     */
    uint32_t flags;
    /**
     * Must be 0.
     */
    uint32_t reserved;
    /**
     * The commit to verify; 0: every commit of the store.
     */
    uint64_t commit;
    /**
     * Called between files with bytes verified and bytes to verify; may be NULL.
     */
    vmstore_progress_callback progress;
    /**
     * Passed to `progress` and `finding`.
     */
    void *user_data;
    /**
     * Told of everything that is found, and then the verification goes on to its end; NULL: the first
     * damage ends it.
     */
    vmstore_finding_callback finding;
} vmstore_verify_options;

/**
 * Receives one range of bytes of `store_diff`. The id is valid during the call only. A non-zero return ends
 * the listing early; `store_diff` then returns `VMSTORE_OK`.
 */
typedef int (*vmstore_range_callback)(const char *module_id,
                                      uint64_t offset,
                                      uint64_t length,
                                      void *user_data);

/**
 * What `store_list_files` tells of one file that a commit needs.
 */
typedef struct {
    /**
     * `sizeof(vmstore_file_info)` of the library.
     */
    size_t struct_size;
    /**
     * The module.
     */
    const char *module_id;
    /**
     * The number in the file's name, `<module>_Commit<N>`.
     */
    uint64_t module_commit;
    /**
     * The module commit below it; 0: none, it is an image, and holds the whole module.
     */
    uint64_t parent;
    /**
     * The module's size there, in bytes.
     */
    uint64_t module_size;
    /**
     * The file's length in bytes. Zero pages of an image are holes.
     */
    uint64_t length;
    /**
     * Pages whose bytes are in it.
     */
    uint64_t data_pages;
    /**
     * Pages that it says became zero; an image says nothing of pages that are zero.
     */
    uint64_t zero_pages;
} vmstore_file_info;

/**
 * Receives one file of `store_list_files`. The struct and its string are valid during the call only. A
 * non-zero return ends the listing early; `store_list_files` then returns `VMSTORE_OK`.
 */
typedef int (*vmstore_file_callback)(const vmstore_file_info *info, void *user_data);

/**
 * Options of `store_compact`. The `keep_...` fields and flag are rules of retention: a commit that at
 * least one of them keeps stays, and so does the head; the others are deleted. With no rule, none is.
 */
typedef struct {
    /**
     * `sizeof(vmstore_compact_options)`.
     */
    size_t struct_size;
    /**
     * `VMSTORE_COMPACT_...` flags, or-ed.
     */
    uint32_t flags;
    /**
     * Between two images of a module, deltas hold at most this many times its pages, in percent; 0 takes
     * the default, 200. More saves disk, less makes fresh starts faster.
     */
    uint32_t image_percent;
    /**
     * Keep this many of the newest commits; 0: no such rule.
     */
    uint64_t keep_last;
    /**
     * Keep commits whose number is a multiple of this; 0: no such rule.
     */
    uint64_t keep_every;
    /**
     * Keep commits that are younger than this by the wall clock; 0: no such rule.
     */
    uint64_t keep_seconds;
    /**
     * Called with bytes copied and bytes to copy at most, (0, 0) before anything is done; may be
     * NULL.
     */
    vmstore_progress_callback progress;
    /**
     * Passed to `progress`.
     */
    void *user_data;
} vmstore_compact_options;

/**
 * Options of `store_export_with` and `store_import_with`.
 */
typedef struct {
    /**
     * `sizeof(vmstore_transfer_options)`.
     */
    size_t struct_size;
    /**
     * Called between pieces of the stream with bytes of pages done and bytes of pages to do, at most; may
     * be NULL.
     */
    vmstore_progress_callback progress;
    /**
     * Passed to `progress`.
     */
    void *user_data;
} vmstore_transfer_options;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What a status means, in a few words. The text is static: do not free it. Never NULL; an
 * unknown number gives "unknown status".
 */
const char *store_strerror(int status);

/**
 * Opens the store in `directory`, and makes it first if there is none.
 *
 * The directory's parent must exist. A new directory gets mode 0700. A directory that is not
 * empty and not a store is left alone (VMSTORE_E_EXISTS). The opener gets an exclusive lock,
 * which the kernel releases when the process ends, however it ends. What a crash left behind is
 * recovered: every commit that store_commit returned for is there again after a killed process,
 * every persisted one after a power cut; the head is what it was; leftovers of unfinished calls
 * are removed. `options->log` is told of it.
 *
 * `options` may be NULL. `*store` is written on success only; end it with store_close.
 *
 * Errors: VMSTORE_E_INVALID (also: a store would be made in the directory of another),
 * VMSTORE_E_EXISTS (a file or a foreign directory is in its place),
 * VMSTORE_E_NOT_FOUND (no such parent; no store and VMSTORE_OPEN_NO_CREATE), VMSTORE_E_LOCKED,
 * VMSTORE_E_READ_ONLY (the file system is), VMSTORE_E_CORRUPT, VMSTORE_E_VERSION,
 * VMSTORE_E_UNSUPPORTED (made on a host with another page size), VMSTORE_E_IO,
 * VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY.
 */
int store_open(const char *directory, const vmstore_open_options *options, vmstore **store);

/**
 * Closes a store: cancels an outstanding capture, unmaps its modules, releases the lock.
 *
 * Writes since the last commit are dropped. Commits that were not persisted stay restorable,
 * until a power cut. The handles of the store, its modules and its capture are stale afterwards,
 * and the addresses of its modules are unmapped: stop the guest first. Waits for calls of other
 * threads on this store.
 *
 * Errors: VMSTORE_E_HANDLE, VMSTORE_E_BUSY (from inside a callback), VMSTORE_E_FORKED.
 */
int store_close(vmstore *store);

/**
 * Fills `stats` with counters and the figures of the last capture, commit and restore.
 *
 * Set `stats->struct_size` first and zero the rest.
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_BUSY, VMSTORE_E_FORKED.
 */
int store_stats(const vmstore *store, vmstore_stats *stats);

/**
 * Tells what this kernel, and the file system of `directory`, can do, and what the library would
 * choose.
 *
 * `directory` may be NULL: then the file system is left out. It need not hold a store. Changes
 * nothing. Set `capabilities->struct_size` first and zero the rest.
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_NOT_FOUND (no such directory), VMSTORE_E_EXISTS (it is
 * not a directory), VMSTORE_E_IO.
 */
int store_probe(const char *directory, vmstore_capabilities *capabilities);

/**
 * The version of the library, "major.minor.patch". Static text.
 */
const char *store_version(void);

/**
 * The version of the binary interface, VMSTORE_ABI_VERSION of the header that the library was
 * built with. A program that loads the library at run time compares it with the
 * VMSTORE_ABI_VERSION it was compiled with: equal numbers fit together, others do not.
 */
uint32_t store_abi_version(void);

/**
 * Maps a module of the store into this process.
 *
 * A module that the head knows comes up with the head's bytes; any other is new and reads as
 * zeros, but for adopted memory and a descriptor of the caller's, which keep their bytes. `size` is
 * in bytes, a multiple of the page size; 0 takes the recorded size of a module that the head knows.
 * The memory is readable and writable, and stays at its address until it is unmapped. Register it
 * with KVM, lock it, bind it to NUMA nodes, advise about it. Do not mprotect, mremap or munmap it, or
 * map anything over it: the library copies to and from it, and would meet the fault in your process,
 * or commit without the bytes that are gone.
 *
 * A module id is 1 to 200 bytes of A-Z a-z 0-9 . _ - and does not begin with a dot, is not
 * "commits", and does not end in "_last" or in "_Commit" and digits.
 *
 * `options` may be NULL. `*module` is written on success only.
 *
 * Errors: VMSTORE_E_INVALID (id, size, alignment, flags; adopted memory that is not all mapped, readable
 * and writable; a descriptor that is not as `fd` says), VMSTORE_E_HANDLE, VMSTORE_E_EXISTS (it is mapped
 * already; the address is occupied; memory of another module is to be adopted), VMSTORE_E_SIZE (the head
 * knows it with another size; the caller's descriptor ends before it), VMSTORE_E_READ_ONLY (a new or a
 * shared module of a read-only store), VMSTORE_E_CORRUPT, VMSTORE_E_STALE (read-only, and the writer
 * has gone on), VMSTORE_E_UNSUPPORTED (the tracker asked for does not work here), VMSTORE_E_BUSY (a
 * capture is outstanding), VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY (also: more
 * than this host could track), VMSTORE_E_IO, VMSTORE_E_FORKED.
 */
int store_map_module(vmstore *store,
                     const char *module_id,
                     uint64_t size,
                     const vmstore_map_options *options,
                     vmstore_module **module);

/**
 * Makes a mapped module larger, at its address: memory that is plugged in. The guest may run.
 *
 * The new part reads as zeros; in adopted memory, and in a descriptor of the caller's, it has the bytes
 * it has. `new_size` is in bytes, a multiple of the page size; the present size does nothing, a smaller
 * one is VMSTORE_E_SIZE. The next commit has the new size, also if nothing else changed. Restoring an
 * older commit, in which the module is smaller, makes the part beyond zeros and leaves the size; a
 * fresh process maps the module as large as it is at the head.
 *
 * Room for it is found behind the module: in what `max_size` set aside, in the caller's reservation
 * (VMSTORE_MAP_RESERVED), or where by chance nothing is mapped. Adopted memory, and a descriptor of the
 * caller's, are made longer by the caller first. On failure the module is as it was.
 *
 * Errors: VMSTORE_E_HANDLE, VMSTORE_E_INVALID (alignment; adopted memory is not mapped there),
 * VMSTORE_E_SIZE (smaller; beyond the caller's descriptor), VMSTORE_E_EXISTS (something is mapped behind
 * the module), VMSTORE_E_BUSY (a capture is outstanding), VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED,
 * VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY, VMSTORE_E_UNSUPPORTED, VMSTORE_E_IO, VMSTORE_E_FORKED.
 */
int store_grow_module(vmstore_module *module,
                      uint64_t new_size);

/**
 * Unmaps a module. Its writes since the last commit are dropped; its address range becomes free.
 * The module stays in the history, and later commits carry it over unchanged.
 *
 * Errors: VMSTORE_E_HANDLE, VMSTORE_E_BUSY (a capture is outstanding), VMSTORE_E_FORKED.
 */
int store_unmap_module(vmstore_module *module);

/**
 * The first byte of a module's memory, page-aligned. NULL for a bad handle, in a forked child
 * too. Never fails otherwise; never waits.
 */
void *store_module_address(const vmstore_module *module);

/**
 * The size of a module in bytes. 0 for a bad handle, in a forked child too. Never waits.
 */
uint64_t store_module_size(const vmstore_module *module);

/**
 * The descriptor behind a module that is mapped with VMSTORE_MAP_SHARED or VMSTORE_MAP_MEMFD, and
 * the offset of the module's first byte in it, for passing to a vhost-user process. The descriptor
 * belongs to the library and stays the same until the module is unmapped, also when it grows:
 * duplicate or send it, do not close it. What others write through it, the kernel tracker does not
 * see.
 *
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_UNSUPPORTED (private and adopted
 * modules have none), VMSTORE_E_FORKED.
 */
int store_module_fd(const vmstore_module *module, int *fd, uint64_t *offset);

/**
 * Reports writes to `length` bytes from `offset` of a module, whichever tracker it has.
 * Rounded outward to whole pages; `length` 0 within the module does nothing. Reporting a page that
 * did not change costs time only.
 *
 * Write first, then mark, both before the capture that is to have them. Any thread may call it
 * at any time, also while a commit or persist of the store runs: it does not wait for them and
 * makes no system call.
 *
 * Errors: VMSTORE_E_HANDLE, VMSTORE_E_INVALID (the range ends beyond the module),
 * VMSTORE_E_FORKED.
 */
int store_mark_dirty(vmstore_module *module, uint64_t offset, uint64_t length);

/**
 * Reports the pages whose bits are set in a bitmap: what KVM_GET_DIRTY_LOG, a vhost or a VFIO log gives,
 * whichever tracker the module has. Entries of KVM's dirty ring are reported with store_mark_dirty.
 *
 * `offset`, in bytes, page-aligned, is where the first page of the bitmap is in the module. Page
 * `i` is bit `i % 64` of word `i / 64`, in the host's byte order; bits from `page_count` on are
 * ignored. The log must have the host's pages, and must have been taken after the writes that it tells
 * of: get the log, then import it, then capture. Never waits, and makes no system call.
 *
 * Errors: VMSTORE_E_HANDLE, VMSTORE_E_INVALID (NULL, alignment, the range ends beyond the module),
 * VMSTORE_E_FORKED.
 */
int store_import_dirty_bitmap(vmstore_module *module,
                              uint64_t offset,
                              const uint64_t *bitmap,
                              uint64_t page_count);

/**
 * Gives memory of the guest's back to the host, as a balloon or free page reporting does: the range
 * reads as zeros from now on, takes no memory until it is written again, and is dirty. `offset` and
 * `length` are in bytes, page-aligned. The guest may run, but must not use the range. Waits for no other
 * call but a scan of the same module; works in a read-only store and beside a capture, too.
 *
 * In shared modes the range becomes a hole of the file, which all its mappings see; blocks of a
 * backing file stay reserved where the file system can (ext4, XFS), so that the guest can have the
 * memory back on a full disk; on tmpfs, memory that was given back may not be there again. In private
 * mode, pages that came from an image are replaced by anonymous memory: madvise and NUMA settings of
 * that range are gone, and beyond 1,024 parts it is zeroed in place instead. Memory that is locked,
 * and private file mappings in adopted memory, are zeroed in place. Pages that a device has pinned
 * (VFIO, io_uring) must not be discarded.
 *
 * Errors: VMSTORE_E_HANDLE, VMSTORE_E_INVALID (alignment, the range ends beyond the module),
 * VMSTORE_E_BUSY (from inside a callback), VMSTORE_E_NO_MEMORY, VMSTORE_E_IO, VMSTORE_E_FORKED.
 */
int store_discard(vmstore_module *module,
                  uint64_t offset,
                  uint64_t length);

/**
 * Finds out what tracking missed: compares all memory of all mapped modules with the head, and
 * writes into `*missed_pages` how many pages differ from it that neither a tracker nor the caller
 * reported. They are dirty from now on, so that the next commit is exact; the log names them.
 *
 * For tests of a VMM, and for doubt: 0 is what it should be. Modules that are compared (see `compared` in
 * vmstore_module_info) are left out: their next capture finds everything. A page of the head that cannot be
 * read ends it with VMSTORE_E_CORRUPT, which names it. The caller has paused every writer. Reads
 * everything, so it takes about a second for 2 GiB; the state of tracking stays as it is otherwise.
 *
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_BUSY (a capture is outstanding),
 * VMSTORE_E_POISONED, VMSTORE_E_STALE (read-only, and the writer has gone on), VMSTORE_E_CORRUPT,
 * VMSTORE_E_IO, VMSTORE_E_NO_MEMORY, VMSTORE_E_FORKED.
 */
int store_audit(vmstore *store,
                uint64_t *missed_pages);

/**
 * Does most of the next capture's copying while the guest runs, as live migration does: copies what
 * was written since the last commit, then what was written meanwhile, and so on, until little is
 * left. A capture that follows copies only what was written since the last round.
 *
 * `*pages_left` is how many pages that would be now. Call it as often as you like; pause the guest and
 * capture when the number is small enough. What was copied is kept in the library's memory (at most
 * three quarters of `arena_limit`) until the next capture takes it; a restore, an unmap or an audit
 * gives it up, and nothing is lost. Modules that are compared (see `compared` in vmstore_module_info)
 * are left out. Calls of other threads on this store wait, store_mark_dirty and its like excepted.
 *
 * With VMSTORE_TRACKER_CALLER: write first, then mark; a mark that comes before its write may be
 * used up by a round that copies the old bytes.
 *
 * `options` may be NULL. Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_BUSY (a capture is
 * outstanding), VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED, VMSTORE_E_CANCELLED, VMSTORE_E_FORKED.
 */
int store_precopy(vmstore *store,
                  const vmstore_precopy_options *options,
                  uint64_t *pages_left);

/**
 * Makes a commit: an atomic snapshot of all modules.
 *
 * The caller has paused every writer of the modules, for the whole call (or uses store_capture
 * to pause for less). The commit holds every mapped module as it is now, and every other
 * module of the head unchanged. Its parent is the head, and it becomes the head. Costs what
 * was written since the last commit. When this returns VMSTORE_OK, the commit survives the
 * death of the process; it survives a power cut after the next store_persist. Numbers ascend
 * and are never reused (but for those that a power cut takes with commits that were not
 * persisted), and order commits better than their times do.
 *
 * If nothing changed since the head, no module is new, and `options` give neither label nor
 * user data, no commit is made and `*commit` is the head; compare with store_head before the
 * call to know. Writing the bytes that were there before is no change. The first commit of a
 * store is always made.
 *
 * On failure there is no new commit, and the next commit takes everything that this one would
 * have. `options` may be NULL; `commit` may not.
 *
 * Errors: VMSTORE_E_INVALID (also: something was mapped over a module), VMSTORE_E_HANDLE,
 * VMSTORE_E_BUSY (a capture is outstanding), VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED,
 * VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY, VMSTORE_E_IO, VMSTORE_E_CORRUPT (a module commit of
 * the head is damaged), VMSTORE_E_FORKED.
 */
int store_commit(vmstore *store, const vmstore_commit_options *options, uint64_t *commit);

/**
 * The first half of a commit, the only one for which the guest must be paused: finds the
 * written pages and copies them into the library's memory. When this returns, let the guest
 * run, then call store_capture_commit, from any thread.
 *
 * There is one capture at a time. While it is outstanding, which is until store_capture_commit
 * or store_capture_cancel has returned, capture, commit, precopy, restore, audit, map, grow and
 * unmap fail with VMSTORE_E_BUSY at once, and an import at its last step; all other calls work.
 * store_persist and store_verify of other threads delay a capture only for the moments in which
 * they hold the store, not while they wait for the disk.
 *
 * On failure nothing is lost: the pages are still known to be dirty. The first captures of
 * many pages are slower than later ones, because the library's memory is touched for the first
 * time. `options` may be NULL; its label and user data are copied. `*capture` is written on
 * success only.
 *
 * Errors: as store_commit.
 */
int store_capture(vmstore *store, const vmstore_commit_options *options, vmstore_capture **capture);

/**
 * The second half: checksums and writes what was captured, and makes the commit, with the
 * promises and the "nothing changed" rule of store_commit. The guest runs meanwhile; what it
 * writes belongs to the next commit.
 *
 * Ends the capture, whether it succeeds or fails; only VMSTORE_E_INVALID, VMSTORE_E_HANDLE,
 * VMSTORE_E_FORKED and a call from inside a callback leave it as it was. After a failure the
 * captured pages are dirty again, beside those written since.
 *
 * Errors: as store_commit.
 */
int store_capture_commit(vmstore_capture *capture, uint64_t *commit);

/**
 * Gives a capture up: its pages are dirty again, and the next commit takes them.
 *
 * Errors: VMSTORE_E_HANDLE, VMSTORE_E_BUSY (from inside a callback), VMSTORE_E_FORKED.
 */
int store_capture_cancel(vmstore_capture *capture);

/**
 * Makes every commit so far survive the loss of power.
 *
 * When this returns VMSTORE_OK, all commits that had returned before the call are durable. A
 * power cut at any other moment keeps, of the commits made since, the oldest few, whole and
 * without a hole, or none. Costs one flush where up to 256 KiB of pages are new (they are written twice then),
 * else a few; with nothing new it costs nothing. The guest
 * need not be paused, and other threads may capture and commit meanwhile. store_close does not
 * persist.
 *
 * If a flush fails, the store is poisoned (VMSTORE_E_POISONED): the kernel may have dropped
 * data it could not write, and a second try would lie. What was persisted before is safe;
 * reopening recovers what can be. A cancelled persist may be repeated.
 *
 * `options` may be NULL. Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_BUSY,
 * VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY,
 * VMSTORE_E_IO, VMSTORE_E_CORRUPT (a file that a killed owner left is damaged),
 * VMSTORE_E_CANCELLED, VMSTORE_E_FORKED.
 */
int store_persist(vmstore *store,
                  const vmstore_persist_options *options);

/**
 * Brings every mapped module to the bytes it had at `commit`, in place, and makes that commit
 * the head.
 *
 * The caller has paused every writer. Addresses, KVM slots, registrations and the pages behind
 * shared descriptors stay: bytes are copied in. Costs the pages that differ between the head
 * and `commit` or were written since. Every page put back was checked against its checksum
 * before the first byte of memory was changed; pages that need not be put back are not read.
 *
 * Writes since the last commit are dropped, as far as they are known: a write that the tracker
 * cannot see and that nobody marked stays in memory. A module that `commit` does not know
 * becomes zeros; one that is not mapped comes up at `commit` when it is mapped. So a fresh
 * process may restore first and map then, or map first. Commits after `commit` stay in the
 * history and can be restored; the next commit becomes its child. Restoring the head itself
 * undoes all known writes since. Survives the death of the process like a commit.
 *
 * On failure memory, head and the knowledge of dirty pages are as before the call.
 * `options` may be NULL.
 *
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (no such commit),
 * VMSTORE_E_SIZE (a mapped module is larger there: grow it, then restore), VMSTORE_E_STALE (read-only,
 * and the writer has gone on: open the store again), VMSTORE_E_CORRUPT, VMSTORE_E_BUSY
 * (a capture is outstanding), VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY,
 * VMSTORE_E_IO, VMSTORE_E_CANCELLED, VMSTORE_E_FORKED.
 */
int store_restore(vmstore *store,
                  uint64_t commit,
                  const vmstore_restore_options *options);

/**
 * The head: the commit that memory was last brought to, by a commit or a restore. 0: there is no
 * commit yet.
 *
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_BUSY, VMSTORE_E_FORKED.
 */
int store_head(const vmstore *store, uint64_t *commit);

/**
 * Writes the numbers of the store's commits, ascending, into `commits`, as many as fit into
 * `capacity`, and how many there are in all into `*count`. `commits` may be NULL when `capacity`
 * is 0.
 *
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_BUSY, VMSTORE_E_FORKED.
 */
int store_list_commits(const vmstore *store, uint64_t *commits, size_t capacity, size_t *count);

/**
 * Fills `info` with what is known of one commit. Set `info->struct_size` first and zero the
 * rest.
 *
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND, VMSTORE_E_BUSY,
 * VMSTORE_E_FORKED.
 */
int store_commit_info(const vmstore *store, uint64_t commit, vmstore_commit_info *info);

/**
 * Copies the user data of a commit into `buffer`, as much as fits into `capacity`, and writes
 * its whole length to `*length`. `buffer` may be NULL when `capacity` is 0.
 *
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND, VMSTORE_E_BUSY,
 * VMSTORE_E_FORKED.
 */
int store_commit_user_data(const vmstore *store,
                           uint64_t commit,
                           void *buffer,
                           size_t capacity,
                           size_t *length);

/**
 * Calls `callback` for each module of a commit, in order of their ids. `commit` 0 lists the
 * modules of the head and those that are mapped but in no commit yet, with where and how they
 * are mapped.
 *
 * The callback is made without any lock held, but calls into the same store from inside it fail
 * with VMSTORE_E_BUSY, like those from every callback.
 *
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND, VMSTORE_E_BUSY,
 * VMSTORE_E_FORKED.
 */
int store_list_modules(const vmstore *store,
                       uint64_t commit,
                       vmstore_module_callback callback,
                       void *user_data);

/**
 * Verifies one commit, or the whole store: `commits` and journal, every file's footer and index,
 * and, unless told not to, every page against its checksum and every module against its digest.
 *
 * Reads files only; mapped memory is neither read nor changed. The first damage found ends it
 * with VMSTORE_E_CORRUPT, and the text of store_last_error names file, commit and page. With a
 * `finding` callback it goes on, tells of every damaged file and page, also of files that cannot be
 * read, and of each commit whether it is good all the same; if there was damage, it then fails with
 * the status of the first. In a store that is open read-only, a file that the writer has deleted or
 * rewritten since counts as damaged: open it again, and verify again.
 *
 * `options` may be NULL. Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (no
 * such commit), VMSTORE_E_CORRUPT, VMSTORE_E_IO, VMSTORE_E_NO_MEMORY, VMSTORE_E_BUSY,
 * VMSTORE_E_CANCELLED, VMSTORE_E_FORKED.
 */
int store_verify(const vmstore *store, const vmstore_verify_options *options);

/**
 * Calls `callback` for each range of bytes that differs between two commits, module by module in the
 * order of their ids, ascending within one. The commits may be on different branches. 0
 * stands for a store without modules: with `from` 0, everything in `to` that is not zero is told.
 *
 * Ranges are whole pages, and a page is told if and only if its bytes differ. What a commit does not
 * know of a module, and what is beyond its size there, is zeros. `module_id` NULL: all modules of
 * either commit. Costs the indexes on the path between the commits; pages are read only where
 * checksums are equal. The callback is made without any lock held.
 *
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (no such commit, or neither knows
 * the module), VMSTORE_E_STALE (read-only, and the writer has gone on), VMSTORE_E_CORRUPT, VMSTORE_E_IO,
 * VMSTORE_E_NO_MEMORY, VMSTORE_E_BUSY, VMSTORE_E_FORKED.
 */
int store_diff(const vmstore *store,
               uint64_t from,
               uint64_t to,
               const char *module_id,
               vmstore_range_callback callback,
               void *user_data);

/**
 * Finds the newest commit that has this label.
 *
 * Errors: VMSTORE_E_INVALID (also: an empty label), VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (none
 * has), VMSTORE_E_BUSY, VMSTORE_E_FORKED.
 */
int store_find_commit(const vmstore *store, const char *label, uint64_t *commit);

/**
 * Reads `length` bytes of a module from `offset` on, as they are at a commit, into `buffer`. Nothing is
 * mapped, and what is mapped is neither read nor changed; a read-only store will do. Every page is
 * checked against its checksum. Offset and length need not be whole pages; they must lie within the
 * module. On failure the buffer's contents are undefined; where an argument is refused it is not
 * touched.
 *
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (no such commit, or it does not
 * know the module), VMSTORE_E_STALE (read-only, and the writer has gone on), VMSTORE_E_CORRUPT,
 * VMSTORE_E_IO, VMSTORE_E_NO_MEMORY, VMSTORE_E_BUSY, VMSTORE_E_FORKED.
 */
int store_read(const vmstore *store,
               uint64_t commit,
               const char *module_id,
               uint64_t offset,
               void *buffer,
               size_t length);

/**
 * Calls `callback` for each file that a commit needs: for each of its modules the module commit that
 * its map names, and then those below it, down to an image. Files that several commits need are told
 * for each of them. `commit` 0: the files of all commits, each once, ascending within its module; damaged
 * ones are left out. What a file takes on the disk is for stat(2) on `<module>_Commit<N>` to say.
 * The callback is made without any lock held.
 *
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (no such commit),
 * VMSTORE_E_STALE (read-only, and the writer has gone on), VMSTORE_E_CORRUPT, VMSTORE_E_IO,
 * VMSTORE_E_NO_MEMORY, VMSTORE_E_BUSY, VMSTORE_E_FORKED.
 */
int store_list_files(const vmstore *store,
                     uint64_t commit,
                     vmstore_file_callback callback,
                     void *user_data);

/**
 * Deletes a commit. No other commit changes: what was made on it stays, and its parent, as
 * vmstore_commit_info tells it, is from now on the deleted commit's own.
 *
 * Survives the death of the process like a commit, and a power cut after the next store_persist.
 * A commit that had not been persisted gives its disk blocks back at once, one that had gives them
 * back in that persist: until then a power cut may bring it back, whole.
 *
 * Blocks that other commits need stay. Where one commit was made on the deleted one, its files are
 * rewritten to hold what it needs, when that writes at most twice the pages that the deleted commit
 * had changed, and is worth it; else, and where there are several, the deleted commit's file stays
 * without an entry in the history until a later deletion or store_compact can do without it. On a full
 * disk nothing is rewritten, and deleting still works: what nothing else needs is freed. Damaged commits
 * can be deleted.
 *
 * When it fails, nothing is deleted. Only where the disk took a part of the record of it, and a power cut
 * comes before the next store_persist or store_compact that succeeds, it may be found done, whole: the
 * bytes that the disk did not take are zeros, and can be those that were missing.
 *
 * Memory, the head and captures are not touched. What a process has mapped stays mapped. A store
 * that is open read-only elsewhere keeps its view of the history, and where that needs a file that
 * is gone, its calls fail with VMSTORE_E_STALE: open it again.
 *
 * The guest need not be paused. Waits for store_persist and store_verify of other threads. Commits,
 * captures and restores of other threads go on meanwhile, and wait for no more than the renaming of a
 * file.
 *
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (no such commit),
 * VMSTORE_E_BUSY (the commit is the head, or the call came from inside a callback),
 * VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE (not even the record of it fits),
 * VMSTORE_E_NO_MEMORY, VMSTORE_E_IO, VMSTORE_E_FORKED.
 */
int store_delete_commit(vmstore *store,
                        uint64_t commit);

/**
 * Makes the store small and quick again: deletes the commits that no rule of `options` keeps, persists,
 * rewrites the files of chains that deletions left long, makes an image where deltas have outgrown it,
 * removes what nothing needs, and writes `commits` anew where much of it is about commits that
 * are gone. What stays restores as before.
 *
 * A module commit becomes an image when the deltas from the last image up to it hold more than
 * `image_percent` of the module's pages. At 200 the images take at most half of the room that the
 * deltas take, and a fresh process copies at most twice the pages that it could have mapped.
 * A commit never makes an image, but for the first of a module, and neither does a persist, which would
 * then take as long as copying a module: call this when there is time for it. Where the file system can
 * share blocks between files (XFS, btrfs), an image shares them with what it was made of.
 *
 * Commits, captures and restores of other threads go on meanwhile, and wait for no more than the
 * renaming of a file; deletions, and other calls that need the files to stay, wait for all of it.
 * Each file is replaced as a whole, so that the process can be killed at any moment. If a progress
 * callback cancels the first call, nothing has happened; later, what was done stays done and the
 * next store_compact does the rest: no commit that was to stay has changed, either way.
 *
 * Needs room for the largest rewritten file. Memory of mapped modules is not touched; an image under a
 * mapping keeps its blocks until it is unmapped. For readers as with store_delete_commit.
 *
 * `options` may be NULL. Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_BUSY,
 * VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY, VMSTORE_E_IO,
 * VMSTORE_E_CORRUPT (a file that was to be rewritten is damaged), VMSTORE_E_CANCELLED,
 * VMSTORE_E_FORKED.
 */
int store_compact(vmstore *store,
                  const vmstore_compact_options *options);

/**
 * Makes a second, independent store in `directory`, which must be new or empty, and not in the
 * directory of a store. `commit` 0 takes the whole history with its head; else the clone has that one
 * commit, as its head, with the number and unique id that it has here.
 *
 * On one file system the files of the commits become second names (hard links) of the same data, so
 * that a clone costs a few microseconds for each file, however large. Both stores can commit,
 * delete and compact from then on without seeing one another: neither ever writes into a file that
 * has its name. Elsewhere the files are copied. The clone is durable when this returns; a store that
 * is not open read-only is persisted first, and a read-only one gives what is persisted.
 *
 * Uncommitted writes are not cloned. The clone is not opened. The two have the same store id, so that
 * files can be shared; they are told apart by their directories alone. On failure there is no
 * store in `directory`.
 *
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (no such commit, or no directory
 * above `directory`), VMSTORE_E_EXISTS (something is in `directory`), VMSTORE_E_LOCKED,
 * VMSTORE_E_STALE (read-only, and the writer has gone on), VMSTORE_E_CORRUPT, VMSTORE_E_POISONED,
 * VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY, VMSTORE_E_IO, VMSTORE_E_BUSY, VMSTORE_E_FORKED.
 */
int store_clone(const vmstore *store,
                uint64_t commit,
                const char *directory);

/**
 * Writes commits to `fd`, a pipe, socket or file, as a stream for store_import: `to` and all it was made
 * on, back to `from`, which is not among them and must be one of those. `from` 0: all the way. The
 * importing store must have `from`.
 *
 * That is one line of the history. A tree is sent as several streams: one line from 0 to the end of a
 * branch, and then each other branch from the commit where it left what was sent already. What the
 * importing store has it leaves as it is, so that a stream may also overlap what was sent.
 *
 * Each commit costs its changed pages, wherever they are stored here. Every page is checked before it
 * is written, and the stream carries checksums, numbers and links, so that whatever is cut, changed
 * or put in another order is refused by the importer. Nothing in this store changes. Commits and
 * persists of other threads go on; deletions and compactions wait until the stream is written.
 * `fd` stays open. The call waits for the reader, also where `fd` is non-blocking; a pipe whose reading
 * end is closed is VMSTORE_E_IO with EPIPE, and no signal. On failure
 * an incomplete stream may have been written.
 *
 * Errors: VMSTORE_E_INVALID (also: `to` was not made on `from`, or `fd` is not open),
 * VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND, VMSTORE_E_STALE (read-only, and the writer has gone on),
 * VMSTORE_E_CORRUPT, VMSTORE_E_IO, VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY, VMSTORE_E_BUSY,
 * VMSTORE_E_FORKED.
 */
int store_export(const vmstore *store,
                 uint64_t from,
                 uint64_t to,
                 int fd);

/**
 * As store_export, with a progress callback. What it cancels is VMSTORE_E_CANCELLED, and an incomplete
 * stream may have been written, which the importer refuses.
 *
 * `options` may be NULL. Errors: as store_export; VMSTORE_E_CANCELLED.
 */
int store_export_with(const vmstore *store,
                      uint64_t from,
                      uint64_t to,
                      int fd,
                      const vmstore_transfer_options *options);

/**
 * Reads a stream of store_export from `fd` and makes its commits part of this history, with their
 * unique ids, times, labels, user data and bytes, under new numbers. Writes the number here of the
 * stream's last commit to `*commit`. A commit that is here already, by its unique id, stays as it is;
 * if that is true of all, nothing changes.
 *
 * All or nothing: the stream is read to its end and checked first, down to the digest of every
 * module, and then all its commits appear at once. They survive the death of the process then, and a
 * power cut after the next store_persist. Head and memory are not touched; in a store without
 * commits, which may have no mapped modules then, the last imported one becomes the head.
 * `fd` stays open, and nothing behind the stream is read. The call waits for the stream, also where
 * `fd` is non-blocking.
 *
 * Commits and captures of other threads go on until the last step, which is quick; while a capture
 * is outstanding then, the call fails with VMSTORE_E_BUSY and nothing was imported. Whether a stream
 * can be trusted is the caller's question: checksums find accidents, not forgers.
 *
 * Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_CORRUPT (the stream is cut, changed or out of
 * order, or a file of this store is), VMSTORE_E_VERSION, VMSTORE_E_NOT_FOUND (the commit that the
 * stream goes on from is not here), VMSTORE_E_UNSUPPORTED (another page size), VMSTORE_E_BUSY,
 * VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY, VMSTORE_E_IO,
 * VMSTORE_E_FORKED.
 */
int store_import(vmstore *store,
                 int fd,
                 uint64_t *commit);

/**
 * As store_import, with a progress callback. What it cancels is VMSTORE_E_CANCELLED, and nothing was
 * imported; a part of the stream has been read.
 *
 * `options` may be NULL. Errors: as store_import; VMSTORE_E_CANCELLED.
 */
int store_import_with(vmstore *store,
                      int fd,
                      const vmstore_transfer_options *options,
                      uint64_t *commit);

/**
 * The text of this thread's last failure: function and store, what failed, on which file, module or
 * argument, and why or by which rule. Success does not change it.
 *
 * Like snprintf: writes at most `capacity` bytes including the terminating NUL, and returns the
 * length that the whole text has without it, so that a result of `capacity` or more means it was
 * cut. `buffer` may be NULL when `capacity` is 0. At most 1023 bytes; empty when nothing has
 * failed.
 */
size_t store_last_error(char *buffer, size_t capacity);

/**
 * The errno of the system call behind this thread's last failure; 0 when there was none.
 */
int store_last_errno(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VMSTORE_H */
