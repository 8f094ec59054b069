//! Values from C: strings, bitmaps, flags, and the options that need more than a copy.

use std::ffi::{CStr, c_char};
use std::sync::Arc;

use super::super::commit::vmstore_commit_options;
use super::super::module::{
    VMSTORE_MAP_ADOPT, VMSTORE_MAP_EAGER, VMSTORE_MAP_FD, VMSTORE_MAP_FOREIGN_WRITERS,
    VMSTORE_MAP_HUGE_1G, VMSTORE_MAP_HUGE_2M, VMSTORE_MAP_MEMFD, VMSTORE_MAP_PRIVATE,
    VMSTORE_MAP_RESERVED, VMSTORE_MAP_SHARED, VMSTORE_TRACKER_AUTO, VMSTORE_TRACKER_CALLER,
    VMSTORE_TRACKER_COMPARE, VMSTORE_TRACKER_KERNEL, vmstore_map_options,
};
use crate::{CommitOptions, Error, MapMode, MapOptions, Result, Tracker};

/// The bits of `vmstore_map_options.flags` that hold the mode.
pub(crate) const MODES: u32 = 0xff;

/// The words of a bitmap, in order.
///
/// # Safety
/// `pointer` is NULL or has `count` readable words until the result is dropped.
pub(crate) unsafe fn words(
    name: &'static str,
    pointer: *const u64,
    count: u64,
) -> Result<impl Iterator<Item = u64>> {
    if pointer.is_null() && count != 0 {
        return Err(Error::invalid(name, "it must not be NULL"));
    }
    // SAFETY: index < count, for which this function's caller vouches; any alignment will do.
    Ok((0..count).map(move |index| unsafe { pointer.add(index as usize).read_unaligned() }))
}

/// A string argument.
///
/// # Safety
/// `pointer` is NULL or a NUL-terminated string that outlives the result.
pub(crate) unsafe fn text<'a>(name: &'static str, pointer: *const c_char) -> Result<&'a CStr> {
    if pointer.is_null() {
        return Err(Error::invalid(name, "it must not be NULL"));
    }
    // SAFETY: not NULL, so NUL-terminated by the caller's contract.
    Ok(unsafe { CStr::from_ptr(pointer) })
}

pub(crate) fn flags(name: &'static str, given: u32, known: u32) -> Result<()> {
    let unknown = given & !known;
    if unknown != 0 {
        return Err(Error::invalid(
            name,
            format!("unknown flag bits {unknown:#x}"),
        ));
    }
    Ok(())
}

pub(crate) fn zero(name: &'static str, given: u32) -> Result<()> {
    if given != 0 {
        return Err(Error::invalid(name, "it must be 0"));
    }
    Ok(())
}

/// # Safety
/// `label` is NULL or NUL-terminated; `user_data` has `user_data_length` readable bytes.
pub(crate) unsafe fn commit_options(options: &vmstore_commit_options) -> Result<CommitOptions> {
    let label = if options.label.is_null() {
        String::new()
    } else {
        // SAFETY: not NULL, so NUL-terminated by this function's contract.
        let label = unsafe { text("vmstore_commit_options.label", options.label) }?;
        label
            .to_str()
            .map_err(|_| Error::invalid("vmstore_commit_options.label", "it must be UTF-8"))?
            .to_owned()
    };
    zero("vmstore_commit_options.reserved", options.reserved)?;
    let length = options.user_data_length;
    if options.user_data.is_null() && length != 0 {
        return Err(Error::invalid(
            "vmstore_commit_options.user_data",
            "it must not be NULL when user_data_length is not 0",
        ));
    }
    CommitOptions::check_user_data_length(length)?;
    let mut user_data = Vec::new();
    user_data
        .try_reserve_exact(length)
        .map_err(|_| Error::NoMemory {
            what: "a copy of user_data".into(),
        })?;
    if length != 0 {
        // SAFETY: `user_data` is not NULL and has `length` readable bytes, by this function's
        // contract.
        user_data.extend_from_slice(unsafe {
            std::slice::from_raw_parts(options.user_data.cast::<u8>(), length)
        });
    }
    Ok(CommitOptions {
        label,
        user_data: (length != 0).then(|| Arc::new(user_data)),
        helpers: options.helpers,
    })
}

/// Checks flags and numbers; the core checks what goes with what.
pub(crate) fn map_options(options: &vmstore_map_options) -> Result<MapOptions> {
    const KNOWN: u32 = VMSTORE_MAP_EAGER
        | VMSTORE_MAP_RESERVED
        | VMSTORE_MAP_FD
        | VMSTORE_MAP_HUGE_2M
        | VMSTORE_MAP_HUGE_1G
        | VMSTORE_MAP_FOREIGN_WRITERS;
    let name = "vmstore_map_options.flags";
    flags(name, options.flags & !MODES, KNOWN)?;
    zero("vmstore_map_options.reserved", options.reserved)?;
    let has = |flag| options.flags & flag != 0;
    let mode = match options.flags & MODES {
        VMSTORE_MAP_PRIVATE => MapMode::Private,
        VMSTORE_MAP_SHARED => MapMode::Shared,
        VMSTORE_MAP_MEMFD => MapMode::Memfd,
        VMSTORE_MAP_ADOPT => MapMode::Adopt,
        other => {
            return Err(Error::invalid(
                format!("{name}: mode {other}"),
                "it must be one of VMSTORE_MAP_PRIVATE, _SHARED, _MEMFD, _ADOPT",
            ));
        }
    };
    let tracker = match options.tracker {
        VMSTORE_TRACKER_AUTO => None,
        VMSTORE_TRACKER_KERNEL => Some(Tracker::Kernel),
        VMSTORE_TRACKER_CALLER => Some(Tracker::Caller),
        VMSTORE_TRACKER_COMPARE => Some(Tracker::Compare),
        other => {
            return Err(Error::invalid(
                format!("vmstore_map_options.tracker {other}"),
                "it must be one of VMSTORE_TRACKER_AUTO, _KERNEL, _CALLER, _COMPARE",
            ));
        }
    };
    let huge = match (has(VMSTORE_MAP_HUGE_2M), has(VMSTORE_MAP_HUGE_1G)) {
        (false, false) => 0,
        (true, false) => 2 << 20,
        (false, true) => 1 << 30,
        (true, true) => {
            let rule = "VMSTORE_MAP_HUGE_2M and VMSTORE_MAP_HUGE_1G exclude one another";
            return Err(Error::invalid(name, rule));
        }
    };
    Ok(MapOptions {
        mode,
        eager: has(VMSTORE_MAP_EAGER),
        tracker,
        foreign_writers: has(VMSTORE_MAP_FOREIGN_WRITERS),
        address: options.address as usize,
        reserved: has(VMSTORE_MAP_RESERVED),
        fd: has(VMSTORE_MAP_FD).then_some((options.fd, options.fd_offset)),
        huge,
        max_size: options.max_size,
    })
}
