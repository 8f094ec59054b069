/*
 * vmstore.h - a versioned store for guest memory: git for guest RAM.
 *
 * Generated from src/ffi with cbindgen. Do not edit. Licence: MIT or Apache-2.0.
 *
 * Chapters:  1 What it is   2 A whole program   3 Promises   4 Life of a store
 *            5 Rules for all calls   6 Commit and restore in a VMM
 * Reference: @SECTIONS@
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
