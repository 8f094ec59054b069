//! Deleting commits, and compacting what is left.

use std::ffi::{c_int, c_void};

use super::call::guard;
use super::convert::{self, In};
use super::handle::vmstore;
use super::status::vmstore_progress_callback;
use crate::CompactOptions;

/// Compact flag, a retention rule: keep commits that have a label.
pub const VMSTORE_COMPACT_KEEP_LABELLED: u32 = 1 << 0;
/// Compact flag: make no images, except where a chain of deltas has lost its image.
pub const VMSTORE_COMPACT_NO_IMAGES: u32 = 1 << 1;

/// Options of store_compact. The `keep_...` fields and the KEEP flag are retention rules. A
/// commit stays if at least one rule keeps it; the head always stays; all other commits are
/// deleted. Without any rule no commit is deleted.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_compact_options {
    /// `sizeof(vmstore_compact_options)`.
    pub struct_size: usize,
    /// VMSTORE_COMPACT_... flags, or-ed.
    pub flags: u32,
    /// The most pages that the deltas between two images of a module may hold, in percent of the
    /// module's pages. 0 takes the default, 200. More saves disk space; less makes fresh starts
    /// faster.
    pub image_percent: u32,
    /// Keep this many of the newest commits; 0: no such rule.
    pub keep_last: u64,
    /// Keep commits whose number is a multiple of this; 0: no such rule.
    pub keep_every: u64,
    /// Keep commits that are younger than this many seconds by the wall clock; 0: no such rule.
    pub keep_seconds: u64,
    /// Called with bytes copied and an upper bound of the bytes to copy; (0, 0) before anything
    /// is done. May be NULL.
    pub progress: vmstore_progress_callback,
    /// Passed to `progress`.
    pub user_data: *mut c_void,
}

// SAFETY: repr(C), struct_size first; integers, raw pointers and nullable function pointers.
unsafe impl In for vmstore_compact_options {}

/// Deletes a commit. No other commit changes. The commits that were made on it stay, and the
/// deleted commit's parent becomes their parent in vmstore_commit_info. Damaged commits can be
/// deleted.
///
/// The deletion survives the death of the process like a commit, and a power cut after the next
/// store_persist. The disk blocks of a commit that was not persisted become free at once. The
/// blocks of a persisted commit become free in the next persist; until then a power cut may bring
/// the commit back, whole.
///
/// Blocks that other commits need stay. If exactly one commit was made on the deleted one, the
/// library rewrites the files of that commit to hold what it needs, provided that this writes at
/// most twice the pages that the deleted commit had changed, and frees enough. Otherwise the
/// deleted commit's file stays, without an entry in the history, until a later deletion or
/// store_compact can do without it. On a full disk nothing is rewritten, and deleting still
/// works: it frees what no other commit needs.
///
/// On failure nothing is deleted, with one exception. If the disk took only a part of the
/// deletion's record, and a power cut comes before the next successful store_persist or
/// store_compact, the store may show the whole deletion as done afterwards. (The missing bytes
/// read as zeros, and zeros can be the right bytes.)
///
/// Memory, the head and captures are not touched. Mapped memory stays mapped. A store that is
/// open read-only elsewhere keeps its view of the history. A call of such a reader that needs a
/// removed file fails with VMSTORE_E_STALE: open the store again.
///
/// The guest need not be paused. Waits for store_persist and store_verify of other threads.
/// Commits, captures and restores of other threads go on meanwhile, and wait at most for the
/// renaming of a file.
///
/// Errors: of writing; VMSTORE_E_NOT_FOUND (no such commit), VMSTORE_E_BUSY (the commit is the
/// head), VMSTORE_E_NO_SPACE (even the deletion's record does not fit).
#[unsafe(no_mangle)]
pub extern "C" fn store_delete_commit(store: *mut vmstore, commit: u64) -> c_int {
    guard("store_delete_commit", |at| {
        at.store(store)?.delete_commit(commit)
    })
}

/// Makes the store smaller, and fresh starts faster. In this order:
///   1 deletes the commits that no rule of `options` keeps, and persists;
///   2 rewrites chains of files that deletions left long, and makes an image where deltas outgrew
///     it;
///   3 removes files that nothing needs;
///   4 writes the file `commits` anew if much of it is about deleted commits.
/// What stays restores as before.
///
/// A module commit becomes an image when the deltas from the last image up to it hold more than
/// `image_percent` of the module's pages. At 200 the images take at most half of the room that
/// the deltas take, and a fresh process copies at most twice the pages that it could have mapped.
/// A commit makes only the first image of a module, and a persist makes none, because an image
/// takes as long as copying the module: call store_compact when there is time. If the file system
/// can share blocks between files (XFS, btrfs), an image shares blocks with the files that it was
/// made of.
///
/// Commits, captures and restores of other threads go on meanwhile, and wait at most for the
/// renaming of a file. Deletions, and other calls that need the files to stay, wait for the whole
/// call. Each file is replaced as a whole: the process can be killed at any moment. Needs room
/// for the largest rewritten file. Memory of mapped modules is not touched; an image under a
/// mapping keeps its blocks until it is unmapped. Readers are affected as by store_delete_commit.
///
/// On failure or cancellation: if the first call of `progress` cancels, nothing has happened.
/// After that, every step that was done stays done. Deletions are recorded first, oldest commits
/// first, up to 128 with one write. A recorded deletion stays, whatever fails after it; a failed
/// write of records deletes none of its commits (with the exception that store_delete_commit
/// describes). If the persist in step 1 has not succeeded, a power cut may bring deleted commits
/// that were persisted back, whole. No commit that a rule keeps has changed. The next
/// store_compact does the rest.
///
/// `options` may be NULL.
///
/// Errors: of writing; VMSTORE_E_CORRUPT (a file to be rewritten is damaged),
/// VMSTORE_E_CANCELLED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_compact(
    store: *mut vmstore,
    options: *const vmstore_compact_options,
) -> c_int {
    guard("store_compact", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        let options = unsafe { In::read("vmstore_compact_options", options) }?;
        convert::flags(
            "vmstore_compact_options.flags",
            options.flags,
            VMSTORE_COMPACT_KEEP_LABELLED | VMSTORE_COMPACT_NO_IMAGES,
        )?;
        let mut progress = convert::progress(options.progress, options.user_data);
        store.compact(
            &CompactOptions {
                keep_last: options.keep_last,
                keep_every: options.keep_every,
                keep_younger_ns: options.keep_seconds.saturating_mul(1_000_000_000),
                keep_labelled: options.flags & VMSTORE_COMPACT_KEEP_LABELLED != 0,
                image_percent: options.image_percent,
                no_images: options.flags & VMSTORE_COMPACT_NO_IMAGES != 0,
            },
            progress.as_mut().map(|p| p as _),
        )
    })
}
