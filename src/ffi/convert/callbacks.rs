//! Callbacks of the caller as closures.

use std::ffi::{CString, c_int, c_void};

use super::super::status::vmstore_progress_callback;
use super::super::store::{VMSTORE_LOG_INFO, VMSTORE_LOG_WARNING, vmstore_log_callback};
use super::super::verify::{
    VMSTORE_FINDING_DAMAGE, VMSTORE_FINDING_GOOD, VMSTORE_FINDING_LOST, VMSTORE_NO_PAGE,
    vmstore_finding, vmstore_finding_callback,
};
use crate::{Finding, Log, LogLevel};

/// The caller's pointer, which the library never follows and only hands back.
struct UserData(*mut c_void);
// SAFETY: it is never dereferenced here; what the callback does with it on another thread is the
// caller's contract.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

fn level_of(level: LogLevel) -> c_int {
    match level {
        LogLevel::Warning => VMSTORE_LOG_WARNING,
        LogLevel::Info => VMSTORE_LOG_INFO,
    }
}

pub(crate) fn log(callback: vmstore_log_callback, user_data: *mut c_void) -> Option<Log> {
    let callback = callback?;
    let user_data = UserData(user_data);
    Some(Box::new(move |level: LogLevel, message: &str| {
        let user_data = &user_data;
        let text = CString::new(message.replace('\0', "?")).unwrap_or_default();
        // SAFETY: the callback is the caller's, made for exactly this; the text lives until it
        // returns.
        unsafe { callback(level_of(level), text.as_ptr(), user_data.0) };
    }))
}

pub(crate) fn progress(
    callback: vmstore_progress_callback,
    user_data: *mut c_void,
) -> Option<impl FnMut(u64, u64) -> bool> {
    let callback = callback?;
    // SAFETY: the callback is the caller's, made for exactly this.
    Some(move |done, total| unsafe { callback(done, total, user_data) } == 0)
}

pub(crate) fn finding(
    callback: vmstore_finding_callback,
    user_data: *mut c_void,
) -> Option<impl FnMut(&Finding<'_>) -> bool> {
    let callback = callback?;
    Some(move |finding: &Finding<'_>| {
        let (kind, commit, page, texts) = match finding {
            Finding::Damage {
                file,
                module,
                commit,
                page,
                error,
            } => {
                let texts = [*file, *module, &error.to_string()].map(CString::new);
                let page = page.unwrap_or(VMSTORE_NO_PAGE);
                (VMSTORE_FINDING_DAMAGE, *commit, page, texts)
            }
            Finding::Good(commit) | Finding::Lost(commit) => {
                let kind = match finding {
                    Finding::Good(_) => VMSTORE_FINDING_GOOD,
                    _ => VMSTORE_FINDING_LOST,
                };
                (kind, *commit, VMSTORE_NO_PAGE, [""; 3].map(CString::new))
            }
        };
        let [file, module, message] = texts.map(std::result::Result::unwrap_or_default);
        let finding = vmstore_finding {
            struct_size: size_of::<vmstore_finding>(),
            kind,
            reserved: 0,
            commit,
            page,
            file: file.as_ptr(),
            module_id: module.as_ptr(),
            message: message.as_ptr(),
        };
        // SAFETY: the callback is the caller's, made for exactly this; the struct and its strings
        // live until it returns.
        unsafe { callback(&raw const finding, user_data) == 0 }
    })
}
