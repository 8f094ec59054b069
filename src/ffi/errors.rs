//! This thread's last failure, as text and errno, and the versions of library and interface.

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int};
use std::fmt::Write;

use crate::Error;

/// The version of the binary interface that this header describes. It changes whenever a program
/// that was compiled with an older header could not run with a newer library. Until library
/// version 1.0 it also changes with every minor version.
pub const VMSTORE_ABI_VERSION: u32 = 0;

const CAPACITY: usize = 1024;

/// Fixed storage: no allocation on the way of an error, and no destructor to run at thread exit.
struct Text {
    bytes: [u8; CAPACITY],
    length: usize,
}

thread_local! {
    static TEXT: RefCell<Text> = const { RefCell::new(Text { bytes: [0; CAPACITY], length: 0 }) };
    static ERRNO: Cell<c_int> = const { Cell::new(0) };
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let mut end = text.len().min(CAPACITY - 1 - self.length);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let clean = text.as_bytes()[..end]
            .iter()
            .map(|b| if *b == 0 { b'?' } else { *b });
        for (to, from) in self.bytes[self.length..].iter_mut().zip(clean) {
            *to = from;
        }
        self.length += end;
        Ok(())
    }
}

pub(super) fn set(function: &'static str, store: Option<&str>, error: &Error) {
    TEXT.with_borrow_mut(|text| {
        text.length = 0;
        let _ = match store {
            Some(store) => write!(text, "{function}: {}: {error}", end_of(store)),
            None => write!(text, "{function}: {error}"),
        };
    });
    ERRNO.set(error.errno());
}

/// The end of a path: a long one must not crowd out what went wrong.
fn end_of(path: &str) -> &str {
    let mut start = path.len().saturating_sub(256);
    while !path.is_char_boundary(start) {
        start += 1;
    }
    &path[start..]
}

/// The text of this thread's last failure. It names the function and the store, says what failed,
/// on which file, module or argument, and gives the reason or the rule. A successful call does
/// not change it. The text is empty when nothing has failed, and has at most 1023 bytes.
///
/// Works like snprintf. Writes at most `capacity` bytes including the terminating NUL, and
/// returns the length of the whole text without the NUL. A result of `capacity` or more means
/// that the text was cut. `buffer` may be NULL when `capacity` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_last_error(buffer: *mut c_char, capacity: usize) -> usize {
    TEXT.with_borrow(|text| {
        if !buffer.is_null() && capacity != 0 {
            let length = text.length.min(capacity - 1);
            // SAFETY: the caller has room for `capacity` bytes, and length + 1 <= capacity.
            unsafe {
                std::ptr::copy_nonoverlapping(text.bytes.as_ptr(), buffer.cast::<u8>(), length);
                buffer.add(length).write(0);
            }
        }
        text.length
    })
}

/// The errno of the system call behind this thread's last failure. 0 when no system call failed.
#[unsafe(no_mangle)]
pub extern "C" fn store_last_errno() -> c_int {
    ERRNO.get()
}

/// The version of the library, "major.minor.patch". Static text.
#[unsafe(no_mangle)]
pub extern "C" fn store_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The VMSTORE_ABI_VERSION of the header that the library was built with. A program that loads
/// the library at run time compares the result with the VMSTORE_ABI_VERSION that the program was
/// compiled with. Equal numbers fit together; different numbers do not.
#[unsafe(no_mangle)]
pub extern "C" fn store_abi_version() -> u32 {
    VMSTORE_ABI_VERSION
}
