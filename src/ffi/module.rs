//! Mapping modules, growing and unmapping them.

use std::ffi::{c_char, c_int, c_void};

use super::convert::{self, In, Out};
use super::guard;
use super::handle::{self, Object};
use super::types::{
    VMSTORE_MAP_ADOPT, VMSTORE_MAP_EAGER, VMSTORE_MAP_FD, VMSTORE_MAP_FOREIGN_WRITERS,
    VMSTORE_MAP_HUGE_1G, VMSTORE_MAP_HUGE_2M, VMSTORE_MAP_MEMFD, VMSTORE_MAP_PRIVATE,
    VMSTORE_MAP_RESERVED, VMSTORE_MAP_SHARED, VMSTORE_TRACKER_AUTO, VMSTORE_TRACKER_CALLER,
    VMSTORE_TRACKER_COMPARE, VMSTORE_TRACKER_KERNEL, vmstore, vmstore_map_options, vmstore_module,
};
use crate::{Error, MapMode, MapOptions, Result, Tracker};

/// Maps a module of the store into this process.
///
/// A module that the head knows comes up with the head's bytes; any other is new and reads as
/// zeros, but for adopted memory and a descriptor of the caller's, which keep their bytes. `size` is
/// in bytes, a multiple of the page size; 0 takes the recorded size of a module that the head knows.
/// The memory is readable and writable, and stays at its address until it is unmapped. Register it
/// with KVM, lock it, bind it to NUMA nodes, advise about it. Do not mprotect, mremap or munmap it, or
/// map anything over it: the library copies to and from it, and would meet the fault in your process,
/// or commit without the bytes that are gone.
///
/// A module id is 1 to 200 bytes of A-Z a-z 0-9 . _ - and does not begin with a dot, is not
/// "commits", and does not end in "_last" or in "_Commit" and digits.
///
/// `options` may be NULL. `*module` is written on success only.
///
/// Errors: VMSTORE_E_INVALID (id, size, alignment, flags; adopted memory that is not all mapped, readable
/// and writable; a descriptor that is not as `fd` says), VMSTORE_E_HANDLE, VMSTORE_E_EXISTS (it is mapped
/// already; the address is occupied; memory of another module is to be adopted), VMSTORE_E_SIZE (the head
/// knows it with another size; the caller's descriptor ends before it), VMSTORE_E_READ_ONLY (a new or a
/// shared module of a read-only store), VMSTORE_E_CORRUPT, VMSTORE_E_STALE (read-only, and the writer
/// has gone on), VMSTORE_E_UNSUPPORTED (the tracker asked for does not work here), VMSTORE_E_BUSY (a
/// capture is outstanding), VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY (also: more
/// than this host could track), VMSTORE_E_IO, VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_map_module(
    store: *mut vmstore,
    module_id: *const c_char,
    size: u64,
    options: *const vmstore_map_options,
    module: *mut *mut vmstore_module,
) -> c_int {
    guard("store_map_module", |at| {
        let owner = at.store(store)?;
        // SAFETY: the caller passes NULL or a NUL-terminated string.
        let id = unsafe { convert::text("module_id", module_id) }?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        let options = unsafe { In::read("vmstore_map_options", options) }?;
        // SAFETY: the caller passes NULL or a place for a pointer.
        let module = unsafe { Out::new("module", module) }?;
        let options = map_options(&options)?;
        let mapped = owner.map_module(&id.to_string_lossy(), size, &options)?;
        let handle = handle::insert(Object::Module(mapped.clone()), &owner);
        module.write(handle.inspect_err(|_| drop(mapped.unmap()))?.cast());
        Ok(())
    })
}

/// Checks flags and numbers; the core checks what goes with what.
fn map_options(options: &vmstore_map_options) -> Result<MapOptions> {
    const MODES: u32 = 0xff;
    const KNOWN: u32 = VMSTORE_MAP_EAGER
        | VMSTORE_MAP_RESERVED
        | VMSTORE_MAP_FD
        | VMSTORE_MAP_HUGE_2M
        | VMSTORE_MAP_HUGE_1G
        | VMSTORE_MAP_FOREIGN_WRITERS;
    let name = "vmstore_map_options.flags";
    convert::flags(name, options.flags & !MODES, KNOWN)?;
    convert::zero("vmstore_map_options.reserved", options.reserved)?;
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

/// Makes a mapped module larger, at its address: memory that is plugged in. The guest may run.
///
/// The new part reads as zeros; in adopted memory, and in a descriptor of the caller's, it has the bytes
/// it has. `new_size` is in bytes, a multiple of the page size; the present size does nothing, a smaller
/// one is VMSTORE_E_SIZE. The next commit has the new size, also if nothing else changed. Restoring an
/// older commit, in which the module is smaller, makes the part beyond zeros and leaves the size; a
/// fresh process maps the module as large as it is at the head.
///
/// Room for it is found behind the module: in what `max_size` set aside, in the caller's reservation
/// (VMSTORE_MAP_RESERVED), or where by chance nothing is mapped. Adopted memory, and a descriptor of the
/// caller's, are made longer by the caller first. On failure the module is as it was.
///
/// Errors: VMSTORE_E_HANDLE, VMSTORE_E_INVALID (alignment; adopted memory is not mapped there),
/// VMSTORE_E_SIZE (smaller; beyond the caller's descriptor), VMSTORE_E_EXISTS (something is mapped behind
/// the module), VMSTORE_E_BUSY (a capture is outstanding), VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED,
/// VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY, VMSTORE_E_UNSUPPORTED, VMSTORE_E_IO, VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub extern "C" fn store_grow_module(module: *mut vmstore_module, new_size: u64) -> c_int {
    guard("store_grow_module", |at| at.module(module)?.grow(new_size))
}

/// Unmaps a module. Its writes since the last commit are dropped; its address range becomes free.
/// The module stays in the history, and later commits carry it over unchanged.
///
/// Errors: VMSTORE_E_HANDLE, VMSTORE_E_BUSY (a capture is outstanding), VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub extern "C" fn store_unmap_module(module: *mut vmstore_module) -> c_int {
    guard("store_unmap_module", |at| {
        let mapped = at.module(module)?;
        mapped.unmap()?;
        handle::remove(module);
        Ok(())
    })
}

/// The first byte of a module's memory, page-aligned. NULL for a bad handle, in a forked child
/// too. Never fails otherwise; never waits.
#[unsafe(no_mangle)]
pub extern "C" fn store_module_address(module: *const vmstore_module) -> *mut c_void {
    handle::module(module).map_or(std::ptr::null_mut(), |m| m.address() as *mut c_void)
}

/// The size of a module in bytes. 0 for a bad handle, in a forked child too. Never waits.
#[unsafe(no_mangle)]
pub extern "C" fn store_module_size(module: *const vmstore_module) -> u64 {
    handle::module(module).map_or(0, |m| m.size())
}

/// The descriptor behind a module that is mapped with VMSTORE_MAP_SHARED or VMSTORE_MAP_MEMFD, and
/// the offset of the module's first byte in it, for passing to a vhost-user process. The descriptor
/// belongs to the library and stays the same until the module is unmapped, also when it grows:
/// duplicate or send it, do not close it. What others write through it, the kernel tracker does not
/// see.
///
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_UNSUPPORTED (private and adopted
/// modules have none), VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_module_fd(
    module: *const vmstore_module,
    fd: *mut c_int,
    offset: *mut u64,
) -> c_int {
    guard("store_module_fd", |at| {
        let module = at.module(module)?;
        // SAFETY: the caller passes NULL or a place for an int.
        let fd = unsafe { Out::new("fd", fd) }?;
        // SAFETY: the caller passes NULL or a place for a 64-bit number.
        let offset = unsafe { Out::new("offset", offset) }?;
        let (number, from) = module.fd()?;
        fd.write(number);
        offset.write(from);
        Ok(())
    })
}
