//! Info structs, from the types of the core.

use std::ffi::{CStr, c_char, c_void};

use super::super::history::{vmstore_commit_info, vmstore_file_info, vmstore_module_info};
use super::super::store::{vmstore_capabilities, vmstore_stats};
use crate::{Capabilities, CommitInfo, FileInfo, ModuleInfo, Stats};

/// Copies text into a fixed field, cut at a character boundary, always NUL-terminated.
fn fixed<const N: usize>(text: &str) -> [c_char; N] {
    let mut field = [0; N];
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (to, from) in field.iter_mut().zip(text.as_bytes()[..end].iter()) {
        *to = *from as c_char;
    }
    field
}

impl From<CommitInfo> for vmstore_commit_info {
    fn from(info: CommitInfo) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            commit: info.commit,
            parent: info.parent,
            time: info.time,
            unique_id: info.unique_id,
            label: fixed(&info.label),
            user_data_length: info.user_data.len() as u64,
            modules: info.modules,
            persisted: u32::from(info.persisted),
        }
    }
}

impl vmstore_module_info {
    pub(crate) fn describe(
        module: &ModuleInfo,
        id: &CStr,
        tracker_reason: &CStr,
        mode_reason: &CStr,
    ) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            module_id: id.as_ptr(),
            size: module.size,
            module_commit: module.module_commit,
            digest: module.digest,
            address: module.address as *mut c_void,
            mode: module.mode.map_or(0, |mode| mode as u32),
            tracker: module.tracker.map_or(0, |tracker| tracker as u32),
            tracker_reason: tracker_reason.as_ptr(),
            unverified_bytes: module.unverified_bytes,
            mode_reason: mode_reason.as_ptr(),
            mapped_size: module.mapped_size,
            fell_back: u32::from(module.fell_back),
            compared: u32::from(module.compares),
        }
    }
}

impl vmstore_file_info {
    pub(crate) fn describe(file: &FileInfo, id: &CStr) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            module_id: id.as_ptr(),
            module_commit: file.module_commit,
            parent: file.parent,
            module_size: file.module_size,
            length: file.length,
            data_pages: file.data_pages,
            zero_pages: file.zero_pages,
        }
    }
}

impl From<Stats> for vmstore_stats {
    fn from(s: Stats) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            commits: s.commits,
            unpersisted_commits: s.unpersisted_commits,
            mapped_modules: s.mapped_modules,
            mapped_bytes: s.mapped_bytes,
            page_size: s.page_size,
            arena_bytes: s.arena_bytes,
            captures: s.captures,
            last_dirty_pages: s.last_dirty_pages,
            last_precopied_pages: s.last_precopied_pages,
            last_copied_pages: s.last_copied_pages,
            last_scan_ns: s.last_scan_ns,
            last_capture_ns: s.last_capture_ns,
            last_write_ns: s.last_write_ns,
            last_written_pages: s.last_written_pages,
            last_zero_pages: s.last_zero_pages,
            last_unchanged_pages: s.last_unchanged_pages,
            last_restored_pages: s.last_restored_pages,
            last_restore_ns: s.last_restore_ns,
            bytes_written: s.bytes_written,
            syncs: s.syncs,
            arena_spills: s.arena_spills,
            compared_modules: s.compared_modules,
            fallbacks: s.fallbacks,
            poisoned: u32::from(s.poisoned),
            read_only: u32::from(s.read_only),
        }
    }
}

impl From<Capabilities> for vmstore_capabilities {
    fn from(c: Capabilities) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            kernel_tracker: u32::from(c.kernel_tracker),
            auto_tracker: c.auto_tracker as u32,
            tracker_reason: fixed(&c.tracker_reason),
            page_size: c.page_size,
            file_system: fixed(&c.file_system),
            free_bytes: c.free_bytes,
            shared_is_safe: u32::from(c.shared_is_safe),
            is_store: u32::from(c.is_store),
            memfd: u32::from(c.memfd),
            has_huge_2m: u32::from(c.huge_2m.is_some()),
            free_huge_2m: c.huge_2m.unwrap_or(0),
            free_huge_1g: c.huge_1g.unwrap_or(0),
        }
    }
}
