//! This thread's last failure, as text and errno.

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int};
use std::fmt::Write;

use crate::Error;

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

/// The text of this thread's last failure: function and store, what failed, on which file, module or
/// argument, and why or by which rule. Success does not change it.
///
/// Like snprintf: writes at most `capacity` bytes including the terminating NUL, and returns the
/// length that the whole text has without it, so that a result of `capacity` or more means it was
/// cut. `buffer` may be NULL when `capacity` is 0. At most 1023 bytes; empty when nothing has
/// failed.
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

/// The errno of the system call behind this thread's last failure; 0 when there was none.
#[unsafe(no_mangle)]
pub extern "C" fn store_last_errno() -> c_int {
    ERRNO.get()
}
