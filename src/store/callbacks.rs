//! Calls from the library to the caller: which callbacks this thread is inside of, and the receiver
//! of the messages of a recovery.

use std::cell::Cell;

use super::options::LogLevel;

/// The most nested callbacks that are remembered. Callbacks nest only when several stores are
/// involved, therefore a few places are enough. When a thread is nested deeper, every call is
/// refused.
const DEPTH: usize = 16;

thread_local! {
    // The type has no destructor, because the variable may be used while the thread ends.
    static STORES: Cell<([u64; DEPTH], usize)> = const { Cell::new(([0; DEPTH], 0)) };
}

/// While the value lives, this thread is inside a callback.
pub(crate) struct Inside(());

pub(in crate::store) fn enter(serial: u64) -> Inside {
    let (mut stores, depth) = STORES.get();
    if let Some(place) = stores.get_mut(depth) {
        *place = serial;
    }
    STORES.set((stores, depth + 1));
    Inside(())
}

impl Drop for Inside {
    fn drop(&mut self) {
        let (stores, depth) = STORES.get();
        STORES.set((stores, depth - 1));
    }
}

pub(in crate::store) fn is_inside(serial: u64) -> bool {
    let (stores, depth) = STORES.get();
    depth > DEPTH || stores[..depth].contains(&serial)
}

/// Receives the messages of a recovery. At that time there is no store yet whose log function could
/// be called.
pub(in crate::store) type Note<'a> = &'a mut dyn FnMut(LogLevel, String);
