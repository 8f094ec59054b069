//! Structs that begin with their size: options are read, infos are filled, of any caller's age.

use crate::{Error, Result};

/// A `struct_size` beyond this is taken for an uninitialised one.
const MAX_STRUCT: usize = 4096;

/// A struct that begins with `size_t struct_size` and for which all-zero bytes are a value.
///
/// # Safety
/// The type is `repr(C)`, begins with that field, and has no bit pattern that is not a value.
pub(crate) unsafe trait In: Copy {
    /// Reads the caller's struct: NULL gives zeros, a shorter one is extended with zeros, a
    /// longer one is accepted when what this library does not know is zero.
    ///
    /// # Safety `pointer` is NULL or points to at least `struct_size` readable bytes that begin
    /// with that size.
    unsafe fn read(name: &'static str, pointer: *const Self) -> Result<Self> {
        // SAFETY: all-zero is a value of the type, by the trait's contract.
        let mut value: Self = unsafe { std::mem::zeroed() };
        if pointer.is_null() {
            return Ok(value);
        }
        // SAFETY: the caller of this function vouches for the pointer.
        let size = unsafe { struct_size(name, pointer) }?;
        // SAFETY: both sides have at least this many bytes; the copy is bytewise and every
        // pattern is a value.
        unsafe {
            std::ptr::copy_nonoverlapping(
                pointer.cast::<u8>(),
                (&raw mut value).cast::<u8>(),
                size.min(size_of::<Self>()),
            );
        }
        Ok(value)
    }
}

/// Reads and checks a caller's `struct_size`, and that a longer struct's unknown tail is zero.
unsafe fn struct_size<T>(name: &'static str, pointer: *const T) -> Result<usize> {
    if !pointer.is_aligned() {
        return Err(Error::invalid(
            name,
            "the struct must be aligned for its type",
        ));
    }
    // SAFETY: the caller vouches for a struct that begins with its size, and it is aligned.
    let size = unsafe { pointer.cast::<usize>().read() };
    if !(size_of::<usize>()..=MAX_STRUCT).contains(&size) {
        return Err(Error::invalid(
            format!("{name}.struct_size {size}"),
            format!(
                "it must be sizeof({name}), which is {} here",
                size_of::<T>()
            ),
        ));
    }
    for offset in size_of::<T>()..size {
        // SAFETY: below `struct_size`, so readable by the caller's contract.
        if unsafe { pointer.cast::<u8>().add(offset).read() } != 0 {
            return Err(Error::invalid(
                format!("{name}.struct_size {size}"),
                format!(
                    "the library knows {} bytes, and those after it are not zero",
                    size_of::<T>()
                ),
            ));
        }
    }
    Ok(size)
}

/// Fills a caller's info struct, as much of it as its `struct_size` covers; the size itself is
/// left as it was.
///
/// # Safety `pointer` is NULL or points to at least `struct_size` writable bytes that begin
/// with that size.
pub(crate) unsafe fn fill<T>(
    name: &'static str,
    pointer: *mut T,
    value: impl FnOnce() -> Result<T>,
) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::invalid(name, "it must not be NULL"));
    }
    // SAFETY: not NULL; the caller vouches for the rest.
    let size = unsafe { struct_size(name, pointer) }?;
    let value = value()?;
    let first = size_of::<usize>();
    // SAFETY: both sides have `size.min(size_of::<T>())` bytes; the size field is skipped on
    // both.
    unsafe {
        std::ptr::copy_nonoverlapping(
            (&raw const value).cast::<u8>().add(first),
            pointer.cast::<u8>().add(first),
            size.min(size_of::<T>()) - first,
        );
    }
    Ok(())
}
