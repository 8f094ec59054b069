//! Calls out of the library: which callbacks this thread is inside of, and what recovery reports.

use std::cell::Cell;

use super::options::LogLevel;

/// Callbacks nest only through several stores, so a few places are enough; beyond them every call
/// is refused.
const DEPTH: usize = 16;

thread_local! {
    // Without a destructor: it may be used while the thread ends.
    static STORES: Cell<([u64; DEPTH], usize)> = const { Cell::new(([0; DEPTH], 0)) };
}

/// While it lives, this thread is inside a callback.
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

/// Receives what recovery has to say, before there is a store whose log function could be called.
pub(in crate::store) type Note<'a> = &'a mut dyn FnMut(LogLevel, String);
