//! Callbacks of the caller as closures.

use std::ffi::c_void;

use crate::ffi::status::vmstore_progress_callback;

/// The caller's pointer, which the library never follows and only hands back.
pub(crate) struct UserData(pub(crate) *mut c_void);
// SAFETY: it is never dereferenced here; what the callback does with it on another thread is the
// caller's contract.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

pub(crate) fn progress(
    callback: vmstore_progress_callback,
    user_data: *mut c_void,
) -> Option<impl FnMut(u64, u64) -> bool> {
    let callback = callback?;
    // SAFETY: the callback is the caller's, made for exactly this.
    Some(move |done, total| unsafe { callback(done, total, user_data) } == 0)
}
