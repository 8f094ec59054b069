//! Places for results: out parameters, and room for several values.

use std::ffi::c_char;

use crate::{Error, Result};

/// An out parameter, checked before the work and written after it.
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// `pointer` is NULL or valid for writing a `T` until [`Out::write`].
    pub(crate) unsafe fn new(name: &'static str, pointer: *mut T) -> Result<Self> {
        if pointer.is_null() {
            return Err(Error::invalid(name, "it must not be NULL"));
        }
        Ok(Self(pointer))
    }

    pub(crate) fn write(self, value: T) {
        // SAFETY: `new`'s caller vouches for it; unaligned places are the caller's right in
        // packed structs.
        unsafe { self.0.write_unaligned(value) }
    }
}

/// The caller's room for several values.
pub(crate) struct Room<T>(*mut T, usize);

/// # Safety
/// `pointer` is NULL or valid for writing `capacity` values until [`Room::write`].
pub(crate) unsafe fn room<T: Copy>(
    name: &'static str,
    pointer: *mut T,
    capacity: usize,
) -> Result<Room<T>> {
    if pointer.is_null() && capacity != 0 {
        return Err(Error::invalid(
            name,
            "it must not be NULL when its capacity is not 0",
        ));
    }
    Ok(Room(pointer, capacity))
}

impl<T: Copy> Room<T> {
    /// Writes as many of `values` as fit.
    pub(crate) fn write(self, values: &[T]) {
        for (index, value) in values.iter().take(self.1).enumerate() {
            // SAFETY: index < capacity, for which `room`'s caller vouches.
            unsafe { self.0.add(index).write_unaligned(*value) };
        }
    }
}

impl Room<u8> {
    /// Fills it with zeros.
    pub(crate) fn zero(&self) {
        if self.1 != 0 {
            // SAFETY: not NULL, as `room` checked, and its caller vouches for the bytes.
            unsafe { self.0.write_bytes(0, self.1) };
        }
    }

    /// Writes bytes from `at` on, as many as fit.
    pub(crate) fn put(&self, at: usize, bytes: &[u8]) {
        let length = bytes.len().min(self.1.saturating_sub(at));
        if length != 0 {
            // SAFETY: at + length <= capacity, for which `room`'s caller vouches; the bytes are the
            // library's own buffer.
            unsafe {
                self.0
                    .add(at)
                    .copy_from_nonoverlapping(bytes.as_ptr(), length);
            };
        }
    }
}

/// Copies text into a fixed field, cut at a character boundary, always NUL-terminated.
pub(crate) fn fixed<const N: usize>(text: &str) -> [c_char; N] {
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
