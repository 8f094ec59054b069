//! Values from C: strings, bitmaps, flags.

use std::ffi::{CStr, c_char};

use crate::{Error, Result};

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
