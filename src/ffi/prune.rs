//! Deleting commits.

use std::ffi::c_int;

use super::guard;
use super::types::vmstore;

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
/// without an entry in the history until store_compact. On a full disk nothing is rewritten, and
/// deleting still works. Damaged commits can be deleted.
///
/// Memory, the head and captures are not touched. What a process has mapped stays mapped. A store
/// that is open read-only elsewhere keeps its view of the history, and where that needs a file that
/// is gone, its calls fail: open it again.
///
/// The guest need not be paused. Waits for store_persist and store_verify of other threads.
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
