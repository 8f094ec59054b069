//! Verifying one commit or the whole store.

use std::ffi::{CString, c_char, c_int, c_void};

use super::call::guard;
use super::convert::{self, In};
use super::handle::vmstore;
use super::status::vmstore_progress_callback;
use crate::{Finding, VerifyOptions};

/// Verify flag: check `commits`, the journal, footers and indexes, but do not read the pages.
pub const VMSTORE_VERIFY_METADATA: u32 = 1 << 0;

/// Finding: a file, or one of its pages, is damaged.
pub const VMSTORE_FINDING_DAMAGE: u32 = 1;
/// Finding: everything that a commit needs is intact.
pub const VMSTORE_FINDING_GOOD: u32 = 2;
/// Finding: a commit needs something that is damaged.
pub const VMSTORE_FINDING_LOST: u32 = 3;
/// The page of a finding that is about a whole file, or about a commit.
pub const VMSTORE_NO_PAGE: u64 = u64::MAX;

/// One finding of store_verify. The struct and its strings are valid during the call only.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_finding {
    /// `sizeof(vmstore_finding)` of the library.
    pub struct_size: usize,
    /// One of VMSTORE_FINDING_...
    pub kind: u32,
    /// 0.
    pub reserved: u32,
    /// GOOD and LOST: the commit. DAMAGE: the commit that wrote the file; 0 for `commits` and the
    /// journal.
    pub commit: u64,
    /// The damaged page of the module, or VMSTORE_NO_PAGE.
    pub page: u64,
    /// The damaged file, relative to the store; "" with GOOD and LOST.
    pub file: *const c_char,
    /// The module to which the file belongs; "" for `commits` and the journal, and with GOOD and
    /// LOST.
    pub module_id: *const c_char,
    /// What is wrong, in words; "" with GOOD and LOST.
    pub message: *const c_char,
}

/// Receives the findings of store_verify: first all damage as it is found, then for each commit,
/// ascending, whether it is good or lost. A non-zero return ends the call with
/// VMSTORE_E_CANCELLED.
pub type vmstore_finding_callback =
    Option<unsafe extern "C" fn(finding: *const vmstore_finding, user_data: *mut c_void) -> c_int>;

/// Options of store_verify.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_verify_options {
    /// `sizeof(vmstore_verify_options)`.
    pub struct_size: usize,
    /// VMSTORE_VERIFY_... flags, or-ed.
    pub flags: u32,
    /// Must be 0.
    pub reserved: u32,
    /// The commit to verify; 0: every commit of the store.
    pub commit: u64,
    /// Called between files with bytes verified and bytes to verify. May be NULL.
    pub progress: vmstore_progress_callback,
    /// Passed to `progress` and `finding`.
    pub user_data: *mut c_void,
    /// Receives everything that is found, and the verification goes on to its end. NULL: the
    /// first damage ends the verification.
    pub finding: vmstore_finding_callback,
}

// SAFETY: repr(C), struct_size first; integers, raw pointers and nullable function pointers.
unsafe impl In for vmstore_verify_options {}

/// Verifies one commit, or the whole store: `commits` and the journal, the footer and index of
/// every file, and, without VMSTORE_VERIFY_METADATA, every page against its checksum and every
/// module against its digest.
///
/// Reads files only; mapped memory is neither read nor changed. Without a `finding` callback the
/// first damage ends the call with VMSTORE_E_CORRUPT, and the text of store_last_error names
/// file, commit and page. With a `finding` callback the call goes on. It reports every damaged
/// file and page, also files that cannot be read, and for each commit whether it is good. If
/// there was damage, it then fails with the status of the first damage. In a store that is open
/// read-only, a file that the writer has deleted or rewritten since counts as damaged: open the
/// store again, and verify again.
///
/// `options` may be NULL.
///
/// Errors: VMSTORE_E_NOT_FOUND (no such commit), VMSTORE_E_CORRUPT, VMSTORE_E_IO,
/// VMSTORE_E_NO_MEMORY, VMSTORE_E_CANCELLED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_verify(
    store: *const vmstore,
    options: *const vmstore_verify_options,
) -> c_int {
    guard("store_verify", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        let options = unsafe { In::read("vmstore_verify_options", options) }?;
        convert::flags(
            "vmstore_verify_options.flags",
            options.flags,
            VMSTORE_VERIFY_METADATA,
        )?;
        convert::zero("vmstore_verify_options.reserved", options.reserved)?;
        let mut progress = convert::progress(options.progress, options.user_data);
        let mut finding = self::finding(options.finding, options.user_data);
        store.verify_all(
            &VerifyOptions {
                metadata_only: options.flags & VMSTORE_VERIFY_METADATA != 0,
                commit: options.commit,
            },
            finding.as_mut().map(|finding| finding as _),
            progress.as_mut().map(|p| p as _),
        )
    })
}

/// The caller's function for findings as a closure.
fn finding(
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
