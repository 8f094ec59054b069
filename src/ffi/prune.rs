//! Deleting commits, and compacting what is left.

use std::ffi::c_int;

use super::convert::{self, In};
use super::guard;
use super::types::{
    VMSTORE_COMPACT_KEEP_LABELLED, VMSTORE_COMPACT_NO_IMAGES, vmstore, vmstore_compact_options,
};
use crate::CompactOptions;

/// Deletes a commit. No other commit changes: what was made on it stays, and its parent, as
/// vmstore_commit_info tells it, is from now on the deleted commit's own.
///
/// Survives the death of the process like a commit, and a power cut after the next store_persist.
/// A commit that had not been persisted gives its disk blocks back at once, one that had gives them
/// back in that persist: until then a power cut may bring it back, whole.
///
/// Blocks that other commits need stay. Where one commit was made on the deleted one, its files are
/// rewritten to hold what it needs, when that writes at most twice the pages that the deleted commit
/// had changed, and is worth it; else, and where there are several, the deleted commit's file stays
/// without an entry in the history until a later deletion or store_compact can do without it. On a full
/// disk nothing is rewritten, and deleting still works: what nothing else needs is freed. Damaged commits
/// can be deleted.
///
/// When it fails, nothing is deleted. Only where the disk took a part of the record of it, and a power cut
/// comes before the next store_persist or store_compact that succeeds, it may be found done, whole: the
/// bytes that the disk did not take are zeros, and can be those that were missing.
///
/// Memory, the head and captures are not touched. What a process has mapped stays mapped. A store
/// that is open read-only elsewhere keeps its view of the history, and where that needs a file that
/// is gone, its calls fail with VMSTORE_E_STALE: open it again.
///
/// The guest need not be paused. Waits for store_persist and store_verify of other threads. Commits,
/// captures and restores of other threads go on meanwhile, and wait for no more than the renaming of a
/// file.
///
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (no such commit),
/// VMSTORE_E_BUSY (the commit is the head, or the call came from inside a callback),
/// VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE (not even the record of it fits),
/// VMSTORE_E_NO_MEMORY, VMSTORE_E_IO, VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub extern "C" fn store_delete_commit(store: *mut vmstore, commit: u64) -> c_int {
    guard("store_delete_commit", |at| {
        at.store(store)?.delete_commit(commit)
    })
}

/// Makes the store small and quick again: deletes the commits that no rule of `options` keeps, persists,
/// rewrites the files of chains that deletions left long, makes an image where deltas have outgrown it,
/// removes what nothing needs, and writes `commits` anew where much of it is about commits that
/// are gone. What stays restores as before.
///
/// A module commit becomes an image when the deltas from the last image up to it hold more than
/// `image_percent` of the module's pages. At 200 the images take at most half of the room that the
/// deltas take, and a fresh process copies at most twice the pages that it could have mapped.
/// A commit never makes an image, but for the first of a module, and neither does a persist, which would
/// then take as long as copying a module: call this when there is time for it. Where the file system can
/// share blocks between files (XFS, btrfs), an image shares them with what it was made of.
///
/// Commits, captures and restores of other threads go on meanwhile, and wait for no more than the
/// renaming of a file; deletions, and other calls that need the files to stay, wait for all of it.
/// Each file is replaced as a whole, so that the process can be killed at any moment. If a progress
/// callback cancels the first call, nothing has happened; later, what was done stays done and the
/// next store_compact does the rest: no commit that was to stay has changed, either way.
///
/// Needs room for the largest rewritten file. Memory of mapped modules is not touched; an image under a
/// mapping keeps its blocks until it is unmapped. For readers as with store_delete_commit.
///
/// `options` may be NULL. Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_BUSY,
/// VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY, VMSTORE_E_IO,
/// VMSTORE_E_CORRUPT (a file that was to be rewritten is damaged), VMSTORE_E_CANCELLED,
/// VMSTORE_E_FORKED.
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
