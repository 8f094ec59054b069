//! Opening and closing a store, what it is doing, and what this host can do.

use std::ffi::{c_char, c_int};
use std::os::unix::ffi::OsStrExt;

use super::convert::{self, In, Out};
use super::guard;
use super::handle::{self, Object};
use super::types::{
    VMSTORE_OPEN_CREATE, VMSTORE_OPEN_NO_CREATE, VMSTORE_OPEN_READ_ONLY, VMSTORE_OPEN_SALVAGE,
};
use super::types::{vmstore, vmstore_capabilities, vmstore_open_options, vmstore_stats};
use crate::{OpenOptions, Store};

/// Opens the store in `directory`, and makes it first if there is none.
///
/// The directory's parent must exist. A new directory gets mode 0700. A directory that is not
/// empty and not a store is left alone (VMSTORE_E_EXISTS). The opener gets an exclusive lock,
/// which the kernel releases when the process ends, however it ends. What a crash left behind is
/// recovered: every commit that store_commit returned for is there again after a killed process,
/// every persisted one after a power cut; the head is what it was; leftovers of unfinished calls
/// are removed. `options->log` is told of it.
///
/// `options` may be NULL. `*store` is written on success only; end it with store_close.
///
/// Errors: VMSTORE_E_INVALID (also: a store would be made in the directory of another),
/// VMSTORE_E_EXISTS (a file or a foreign directory is in its place),
/// VMSTORE_E_NOT_FOUND (no such parent; no store and VMSTORE_OPEN_NO_CREATE), VMSTORE_E_LOCKED,
/// VMSTORE_E_READ_ONLY (the file system is), VMSTORE_E_CORRUPT, VMSTORE_E_VERSION,
/// VMSTORE_E_UNSUPPORTED (made on a host with another page size), VMSTORE_E_IO,
/// VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_open(
    directory: *const c_char,
    options: *const vmstore_open_options,
    store: *mut *mut vmstore,
) -> c_int {
    guard("store_open", |at| {
        // SAFETY: the caller passes NULL or a NUL-terminated string.
        let directory = unsafe { convert::text("directory", directory) }?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        let options = unsafe { In::read("vmstore_open_options", options) }?;
        // SAFETY: the caller passes NULL or a place for a pointer.
        let store = unsafe { Out::new("store", store) }?;
        let known = VMSTORE_OPEN_CREATE
            | VMSTORE_OPEN_READ_ONLY
            | VMSTORE_OPEN_NO_CREATE
            | VMSTORE_OPEN_SALVAGE;
        convert::flags("vmstore_open_options.flags", options.flags, known)?;
        convert::zero("vmstore_open_options.reserved", options.reserved)?;
        at.opening = Some(directory.to_string_lossy().into_owned());
        let opened = Store::open(
            std::path::Path::new(std::ffi::OsStr::from_bytes(directory.to_bytes())),
            OpenOptions {
                read_only: options.flags & VMSTORE_OPEN_READ_ONLY != 0,
                no_create: options.flags & VMSTORE_OPEN_NO_CREATE != 0,
                salvage: options.flags & VMSTORE_OPEN_SALVAGE != 0,
                log: convert::log(options.log, options.user_data),
                arena_limit: options.arena_limit,
            },
        )?;
        store.write(handle::insert(Object::Store(opened.clone()), &opened)?.cast());
        Ok(())
    })
}

/// Closes a store: cancels an outstanding capture, unmaps its modules, releases the lock.
///
/// Writes since the last commit are dropped. Commits that were not persisted stay restorable,
/// until a power cut. The handles of the store, its modules and its capture are stale afterwards,
/// and the addresses of its modules are unmapped: stop the guest first. Waits for calls of other
/// threads on this store.
///
/// Errors: VMSTORE_E_HANDLE, VMSTORE_E_BUSY (from inside a callback), VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub extern "C" fn store_close(store: *mut vmstore) -> c_int {
    guard("store_close", |at| {
        let opened = at.store(store)?;
        opened.close()?;
        handle::remove_store(store, &opened);
        Ok(())
    })
}

/// Fills `stats` with counters and the figures of the last capture, commit and restore.
///
/// Set `stats->struct_size` first and zero the rest.
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_BUSY, VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_stats(store: *const vmstore, stats: *mut vmstore_stats) -> c_int {
    guard("store_stats", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        unsafe {
            convert::fill("vmstore_stats", stats, || {
                Ok(vmstore_stats::from(store.stats()?))
            })
        }
    })
}

/// Tells what this kernel, and the file system of `directory`, can do, and what the library would
/// choose.
///
/// `directory` may be NULL: then the file system is left out. It need not hold a store. Changes
/// nothing. Set `capabilities->struct_size` first and zero the rest.
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_NOT_FOUND (no such directory), VMSTORE_E_EXISTS (it is
/// not a directory), VMSTORE_E_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_probe(
    directory: *const c_char,
    capabilities: *mut vmstore_capabilities,
) -> c_int {
    guard("store_probe", |_| {
        let directory = if directory.is_null() {
            None
        } else {
            // SAFETY: not NULL, so a NUL-terminated string by the caller's contract.
            let text = unsafe { convert::text("directory", directory) }?;
            Some(std::path::Path::new(std::ffi::OsStr::from_bytes(
                text.to_bytes(),
            )))
        };
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        unsafe {
            convert::fill("vmstore_capabilities", capabilities, || {
                Ok(vmstore_capabilities::from(crate::probe(directory)?))
            })
        }
    })
}

/// The version of the library, "major.minor.patch". Static text.
#[unsafe(no_mangle)]
pub extern "C" fn store_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The version of the binary interface, VMSTORE_ABI_VERSION of the header that the library was
/// built with. A program that loads the library at run time compares it with the
/// VMSTORE_ABI_VERSION it was compiled with: equal numbers fit together, others do not.
#[unsafe(no_mangle)]
pub extern "C" fn store_abi_version() -> u32 {
    super::status::VMSTORE_ABI_VERSION
}
