//! Handles: numbers in the form of pointers, looked up in a table and never dereferenced.
//!
//! Bits: 0..4 kind, 4..24 slot, 24..56 generation, 56..64 epoch of the process. A slot's generation
//! changes whenever the slot is emptied: a closed handle never means a later object. The epoch
//! changes in a forked child: the child recognises its parent's handles.

use std::sync::atomic::{AtomicPtr, Ordering};

use parking_lot::RwLock;

use crate::sys::fork::ForkMarker;
use crate::{Capture, Error, Module, Result, Store};

/// A store: one directory, opened. Opaque. store_open makes the handle, store_close ends it.
pub struct vmstore {
    _opaque: u8,
}

/// A mapped module of a store. Opaque. store_map_module makes the handle. store_unmap_module, or
/// closing the store, ends it.
pub struct vmstore_module {
    _opaque: u8,
}

/// A capture: a commit that is not written yet. Opaque. store_capture makes the handle.
/// store_capture_commit, store_capture_cancel, or closing the store, ends it.
pub struct vmstore_capture {
    _opaque: u8,
}

const KIND_BITS: u32 = 4;
const SLOT_BITS: u32 = 20;
const GENERATION_BITS: u32 = 32;

/// What a handle can stand for.
#[derive(Clone)]
pub(super) enum Object {
    Store(Store),
    Module(Module),
    Capture(Capture),
}

impl Object {
    fn kind(&self) -> usize {
        match self {
            Self::Store(_) => 1,
            Self::Module(_) => 2,
            Self::Capture(_) => 3,
        }
    }

    fn belongs_to(&self, store: &Store) -> bool {
        match self {
            Self::Store(_) => false,
            Self::Module(module) => module.store().same(store),
            Self::Capture(capture) => capture.store().same(store),
        }
    }
}

struct Slot {
    generation: u32,
    object: Option<Object>,
}

/// The handles of one process. A forked child makes a table of its own, and never touches the table
/// of its parent: a thread that does not exist in the child may have held the lock of that table.
struct Table {
    marker: ForkMarker,
    epoch: u8,
    slots: RwLock<Vec<Slot>>,
    /// The parent's table. It is never used or freed in the child, because its lock may be held.
    _previous: Option<&'static Table>,
}

static TABLE: AtomicPtr<Table> = AtomicPtr::new(std::ptr::null_mut());

fn current() -> Option<&'static Table> {
    // SAFETY: a table, once published, is never freed.
    unsafe { TABLE.load(Ordering::Acquire).as_ref() }
}

/// The table of this process, made now if this is the first handle, or the first since a fork.
fn own() -> Result<&'static Table> {
    loop {
        let seen = TABLE.load(Ordering::Acquire);
        // SAFETY: a table, once published, is never freed.
        let table = unsafe { seen.as_ref() };
        if let Some(table) = table {
            if !table.marker.forked() {
                return Ok(table);
            }
        }
        let fresh = Box::into_raw(Box::new(Table {
            marker: ForkMarker::new()?,
            epoch: table.map_or(1, |t| t.epoch.wrapping_add(1).max(1)),
            slots: RwLock::new(Vec::new()),
            _previous: table,
        }));
        if TABLE
            .compare_exchange(seen, fresh, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            // SAFETY: it was not published, so this is its only owner.
            drop(unsafe { Box::from_raw(fresh) });
        }
    }
}

/// Puts an object of an open store into the table. The handle is never NULL. Fails if the store
/// was closed meanwhile, whose handles were removed then.
pub(super) fn insert(object: Object, owner: &Store) -> Result<*mut u8> {
    let table = own()?;
    let kind = object.kind();
    let mut slots = table.slots.write();
    if owner.is_closed() {
        return Err(bad("store", "it was closed earlier"));
    }
    let slot = match slots
        .iter()
        .position(|s| s.object.is_none() && s.generation != u32::MAX)
    {
        Some(slot) => slot,
        None if slots.len() == 1 << SLOT_BITS => {
            return Err(Error::NoMemory {
                what: "a handle: too many are open".into(),
            });
        }
        None => {
            slots.try_reserve(1).map_err(|_| Error::NoMemory {
                what: "the table of handles".into(),
            })?;
            slots.push(Slot {
                generation: 0,
                object: None,
            });
            slots.len() - 1
        }
    };
    let entry = &mut slots[slot];
    entry.generation += 1;
    entry.object = Some(object);
    let bits = kind
        | slot << KIND_BITS
        | (entry.generation as usize) << (KIND_BITS + SLOT_BITS)
        | usize::from(table.epoch) << (KIND_BITS + SLOT_BITS + GENERATION_BITS);
    Ok(std::ptr::without_provenance_mut(bits))
}

struct Decoded {
    kind: usize,
    slot: usize,
    generation: u32,
    epoch: u8,
}

fn decode<T>(handle: *const T) -> Decoded {
    let bits = handle.addr();
    Decoded {
        kind: bits & ((1 << KIND_BITS) - 1),
        slot: bits >> KIND_BITS & ((1 << SLOT_BITS) - 1),
        generation: (bits >> (KIND_BITS + SLOT_BITS)) as u32,
        epoch: (bits >> (KIND_BITS + SLOT_BITS + GENERATION_BITS)) as u8,
    }
}

fn bad(argument: &'static str, why: &'static str) -> Error {
    Error::Handle { argument, why }
}

fn find<T>(argument: &'static str, kind: usize, handle: *const T) -> Result<Object> {
    if handle.is_null() {
        return Err(bad(argument, "it is NULL"));
    }
    let Decoded {
        kind: given,
        slot,
        generation,
        epoch,
    } = decode(handle);
    if !(1..=3).contains(&given) {
        return Err(bad(argument, "it is not a handle of this library"));
    }
    let Some(table) = current() else {
        return Err(bad(argument, "it is not a handle of this library"));
    };
    if table.marker.forked() || (epoch != table.epoch && epoch != 0 && epoch < table.epoch) {
        return Err(Error::Forked);
    }
    if epoch != table.epoch {
        return Err(bad(argument, "it is not a handle of this library"));
    }
    if given != kind {
        return Err(bad(argument, "it is a handle of another kind"));
    }
    let slots = table.slots.read();
    match slots.get(slot) {
        Some(Slot {
            generation: now,
            object: Some(object),
        }) if *now == generation => Ok(object.clone()),
        Some(entry) if generation != 0 && generation <= entry.generation => {
            Err(bad(argument, "it was closed earlier"))
        }
        _ => Err(bad(argument, "it is not a handle of this library")),
    }
}

pub(super) fn store(handle: *const vmstore) -> Result<Store> {
    match find("store", 1, handle)? {
        Object::Store(store) => Ok(store),
        _ => Err(bad("store", "it is a handle of another kind")),
    }
}

pub(super) fn module(handle: *const vmstore_module) -> Result<Module> {
    match find("module", 2, handle)? {
        Object::Module(module) => Ok(module),
        _ => Err(bad("module", "it is a handle of another kind")),
    }
}

pub(super) fn capture(handle: *const vmstore_capture) -> Result<Capture> {
    match find("capture", 3, handle)? {
        Object::Capture(capture) => Ok(capture),
        _ => Err(bad("capture", "it is a handle of another kind")),
    }
}

/// Empties the slot of a handle that was found before. The object is dropped outside the table's
/// lock.
pub(super) fn remove<T>(handle: *const T) {
    let Decoded {
        slot, generation, ..
    } = decode(handle);
    let Some(table) = current() else { return };
    let removed = match table.slots.write().get_mut(slot) {
        Some(entry) if entry.generation == generation => entry.object.take(),
        _ => None,
    };
    drop(removed);
}

/// Empties the slots of a closed store, its modules and its capture.
pub(super) fn remove_store(handle: *const vmstore, store: &Store) {
    remove(handle);
    let Some(table) = current() else { return };
    let removed: Vec<Object> = table
        .slots
        .write()
        .iter_mut()
        .filter(|slot| {
            slot.object
                .as_ref()
                .is_some_and(|object| object.belongs_to(store))
        })
        .filter_map(|slot| slot.object.take())
        .collect();
    drop(removed);
}
