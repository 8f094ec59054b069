//! Mapping modules, growing and unmapping them.

use std::ffi::{c_char, c_int, c_void};

use super::call::guard;
use super::convert::{self, In, Out};
use super::handle::{self, Object, vmstore, vmstore_module};
use crate::{Error, MapMode, MapOptions, Result, Tracker};

/// Mapping mode, the default: private memory. If the head has an image of the module, the image
/// file is mapped copy-on-write: starting costs almost nothing, and clones share the page cache.
/// docs/integration.md says which mode and which tracker suit which VMM.
pub const VMSTORE_MAP_PRIVATE: u32 = 0;
/// Mapping mode: the backing file `<module>` itself, mapped shared, with its blocks reserved.
/// Other processes can map the same memory (vhost-user). Best on tmpfs. Do not use it on btrfs
/// when the disk may fill up: btrfs does not honour the reservation, and a write to memory is
/// then a SIGBUS.
pub const VMSTORE_MAP_SHARED: u32 = 1;
/// Mapping mode: a memfd, mapped shared. The library makes the memfd, sealed against shrinking,
/// unless VMSTORE_MAP_FD gives one. For vhost-user and VFIO with a store on a disk, and for huge
/// pages. store_module_fd gives the descriptor to pass on. Run the guest in the mapping at
/// store_module_address: the kernel tracker does not see writes through any other mapping.
pub const VMSTORE_MAP_MEMFD: u32 = 2;
/// Mapping mode: memory that you have mapped already, at `address`, of any kind, readable and
/// writable. The library copies into this memory and out of it. It never maps, unmaps, advises or
/// protects anything there, except in store_discard, which you call. The memory stays yours:
/// unmap the module, or close the store, before you unmap the memory.
pub const VMSTORE_MAP_ADOPT: u32 = 4;
/// Mapping flag: read and verify the whole module now. Without this flag, the library may map the
/// image and leave the reading to page faults, and does not check the pages that come straight
/// from the image against their checksums (see `unverified_bytes` in vmstore_module_info).
pub const VMSTORE_MAP_EAGER: u32 = 1 << 8;
/// Mapping flag: `address` lies in a range that you have reserved: private anonymous memory with
/// PROT_NONE. The module is mapped over a part of the range, and unmapping makes that part a
/// reservation again. Any other kind of range is VMSTORE_E_EXISTS, and nothing is replaced.
pub const VMSTORE_MAP_RESERVED: u32 = 1 << 9;
/// Mapping flag, with VMSTORE_MAP_MEMFD: the memory is your `fd`, from `fd_offset`.
pub const VMSTORE_MAP_FD: u32 = 1 << 10;
/// Mapping flag, with VMSTORE_MAP_MEMFD: huge pages of 2 MiB. Size and address must be multiples
/// of 2 MiB. The huge pages are reserved now; if too few are free: VMSTORE_E_UNSUPPORTED. A write
/// makes the kernel tracker report the whole huge page, but a commit writes only the small pages
/// whose bytes changed.
pub const VMSTORE_MAP_HUGE_2M: u32 = 1 << 11;
/// Mapping flag: the same with huge pages of 1 GiB.
pub const VMSTORE_MAP_HUGE_1G: u32 = 1 << 12;
/// Mapping flag: there are writers that the tracker cannot see and that you will not report.
/// Every capture then compares with the head all pages that were not reported, and so reads the
/// whole module during the pause. With VMSTORE_TRACKER_KERNEL or _CALLER the reported pages need
/// no comparison in the pause. VMSTORE_TRACKER_COMPARE implies this flag.
pub const VMSTORE_MAP_FOREIGN_WRITERS: u32 = 1 << 13;

/// Tracker, the default: KERNEL if its self-test passes, else COMPARE. vmstore_module_info says
/// which tracker was chosen, and why. If another userfaultfd has a part of adopted memory, AUTO
/// and KERNEL are VMSTORE_E_UNSUPPORTED: reading that memory may wait for the handler of the
/// other userfaultfd, so you have to choose CALLER or COMPARE yourself.
pub const VMSTORE_TRACKER_AUTO: u32 = 0;
/// Tracker: userfaultfd in asynchronous write-protect mode, and the PAGEMAP_SCAN ioctl (Linux
/// 6.7). The first write to a page after a commit costs about a microsecond. A capture costs a
/// scan and the written pages.
///
/// It sees what goes through the module's own mapping: writes of this process, vCPUs under
/// KVM_RUN, read(2) and other copies by the kernel, and memory dropped with madvise.
///
/// It does not see the following writes. Report them with store_mark_dirty; docs/tracking.md has
/// the table.
///   - writes through another mapping of the same memory, or through its descriptor (vhost-user);
///   - holes punched into that descriptor;
///   - DMA into pages pinned before the last commit (VFIO, io_uring fixed buffers);
///   - MADV_DONTNEED or MADV_FREE on memory that came from an image file, or on your own private
///     mapping of a file.
pub const VMSTORE_TRACKER_KERNEL: u32 = 1;
/// Tracker: none. You report every write with store_mark_dirty or store_import_dirty_bitmap. A
/// commit misses what you do not report. A new module starts with nothing dirty: report also a
/// kernel, a firmware or tables that you load into it. (Adopted memory and your own descriptor
/// are the exception: the first commit takes all bytes that they had when they were mapped.)
pub const VMSTORE_TRACKER_CALLER: u32 = 2;
/// Tracker: every capture compares all of the module's memory with the head. Sees every writer,
/// and costs the reading of the whole module during the pause.
pub const VMSTORE_TRACKER_COMPARE: u32 = 3;

/// Options of store_map_module.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_map_options {
    /// `sizeof(vmstore_map_options)`.
    pub struct_size: usize,
    /// One mode, and any mapping flags, or-ed.
    pub flags: u32,
    /// One of VMSTORE_TRACKER_...
    pub tracker: u32,
    /// The exact address wanted, page-aligned, in a range where nothing is mapped. An occupied
    /// range is VMSTORE_E_EXISTS. NULL: anywhere. With VMSTORE_MAP_RESERVED: a place in your
    /// reservation. With VMSTORE_MAP_ADOPT: the memory to adopt.
    pub address: *mut c_void,
    /// With VMSTORE_MAP_FD: a memfd, or another regular file on tmpfs, hugetlbfs or a disk, open
    /// for reading and writing, at least `fd_offset` + `size` bytes long. The library keeps a
    /// duplicate of the descriptor, and does not close yours. Seal the file against shrinking
    /// (F_SEAL_SHRINK): if it is truncated while it is mapped, touching the memory is a SIGBUS.
    /// Ignored without the flag.
    pub fd: c_int,
    /// Must be 0.
    pub reserved: u32,
    /// Where the module begins in `fd`, in bytes, a multiple of the file's page size.
    pub fd_offset: u64,
    /// Address space to set aside now for store_grow_module, in bytes from the beginning of the
    /// module, at least its size. Set it if the module will ever grow: without it, free room
    /// behind the module is chance. It is no upper limit: a module can grow further if nothing is
    /// mapped behind it. 0: none. Must be 0 with VMSTORE_MAP_RESERVED and VMSTORE_MAP_ADOPT,
    /// where you provide the room.
    pub max_size: u64,
}

// SAFETY: repr(C), struct_size first; integers, raw pointers and nullable function pointers.
unsafe impl In for vmstore_map_options {}

/// Maps a module of the store into this process.
///
/// If the head knows the module, the memory comes up with the head's bytes, in every mode: what
/// adopted memory or your own descriptor held before is overwritten. Otherwise the module is new.
/// It reads as zeros; adopted memory and your own descriptor keep their bytes. `size` is in
/// bytes, a multiple of the page size. 0 takes the recorded size of a module that the head knows.
///
/// The memory is readable and writable, and stays at its address until it is unmapped. You may
/// register it with KVM, lock it, bind it to NUMA nodes and give madvise hints for it. Do not
/// mprotect, mremap or munmap it, and map nothing over it: the library copies to and from it, and
/// would fault in your process, or commit without the lost bytes.
///
/// Memory with a hole, like the PCI hole below 4 GiB, is one module for each KVM memory slot. A
/// commit holds all of them at the same moment.
///
/// A module id is 1 to 200 bytes of A-Z a-z 0-9 . _ - and does not begin with a dot, is not
/// "commits", and does not end in "_last" or in "_Commit" and digits. `options` may be NULL.
///
/// Errors: of reading; of writing; VMSTORE_E_INVALID (id, size, alignment or flags; adopted
/// memory is not all mapped, readable and writable; the descriptor is not as `fd` says),
/// VMSTORE_E_EXISTS (the module is mapped already; the address is occupied; the memory belongs to
/// another module), VMSTORE_E_SIZE (the head knows another size; your descriptor is too short),
/// VMSTORE_E_READ_ONLY (a new or a shared module of a read-only store), VMSTORE_E_UNSUPPORTED
/// (the given tracker does not work here), VMSTORE_E_BUSY (a capture is outstanding),
/// VMSTORE_E_NO_MEMORY (also: more than this host could track).
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
        let options = core_options(&options)?;
        let mapped = owner.map_module(&id.to_string_lossy(), size, &options)?;
        let handle = handle::insert(Object::Module(mapped.clone()), &owner);
        module.write(handle.inspect_err(|_| drop(mapped.unmap()))?.cast());
        Ok(())
    })
}

/// Makes a mapped module larger, at its address: memory is plugged in. The guest may run
/// meanwhile.
///
/// The new part reads as zeros; in adopted memory and in your own descriptor the new part keeps
/// its bytes. `new_size` is in bytes, a multiple of the page size. The present size changes
/// nothing; a smaller size is VMSTORE_E_SIZE. The next commit has the new size, even if nothing
/// else changed. Restoring an older commit, in which the module is smaller, keeps the size and
/// zeroes the rest. A fresh process maps the module with its size at the head.
///
/// The room is found behind the module: in what `max_size` set aside, in your reservation
/// (VMSTORE_MAP_RESERVED), or where by chance nothing is mapped. Make adopted memory, or your own
/// descriptor, longer before the call. On failure the module is as it was.
///
/// Errors: of writing; VMSTORE_E_INVALID (alignment; adopted memory is not mapped there),
/// VMSTORE_E_SIZE (smaller; your descriptor is too short), VMSTORE_E_EXISTS (something is mapped
/// behind the module), VMSTORE_E_BUSY (a capture is outstanding), VMSTORE_E_UNSUPPORTED.
#[unsafe(no_mangle)]
pub extern "C" fn store_grow_module(module: *mut vmstore_module, new_size: u64) -> c_int {
    guard("store_grow_module", |at| at.module(module)?.grow(new_size))
}

/// Unmaps a module. Its writes since the last commit are lost, and its address range becomes
/// free. The module stays in the history, and later commits carry it over unchanged.
///
/// Errors: VMSTORE_E_BUSY (a capture is outstanding).
#[unsafe(no_mangle)]
pub extern "C" fn store_unmap_module(module: *mut vmstore_module) -> c_int {
    guard("store_unmap_module", |at| {
        let mapped = at.module(module)?;
        mapped.unmap()?;
        handle::remove(module);
        Ok(())
    })
}

/// The first byte of a module's memory, page-aligned. NULL for a bad handle, and in a forked
/// child. Never waits.
#[unsafe(no_mangle)]
pub extern "C" fn store_module_address(module: *const vmstore_module) -> *mut c_void {
    handle::module(module).map_or(std::ptr::null_mut(), |m| m.address() as *mut c_void)
}

/// The size of a module in bytes. 0 for a bad handle, and in a forked child. Never waits.
#[unsafe(no_mangle)]
pub extern "C" fn store_module_size(module: *const vmstore_module) -> u64 {
    handle::module(module).map_or(0, |m| m.size())
}

/// The descriptor behind a module that is mapped with VMSTORE_MAP_SHARED or VMSTORE_MAP_MEMFD,
/// and the offset of the module's first byte in it, to pass to a vhost-user process. The
/// descriptor belongs to the library and stays the same until the module is unmapped, also when
/// the module grows. Duplicate or send it; do not close it. The kernel tracker does not see what
/// others write through it.
///
/// Errors: VMSTORE_E_UNSUPPORTED (private and adopted modules have no descriptor).
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

/// The name of a mapping mode: "private", "shared", "memfd" or "adopt". Mapping flags in `mode`
/// are ignored. Static text: do not free it. Never NULL; an unknown number gives "unknown".
#[unsafe(no_mangle)]
pub extern "C" fn store_mode_name(mode: u32) -> *const c_char {
    let name = match mode & MODES {
        VMSTORE_MAP_PRIVATE => c"private",
        VMSTORE_MAP_SHARED => c"shared",
        VMSTORE_MAP_MEMFD => c"memfd",
        VMSTORE_MAP_ADOPT => c"adopt",
        _ => c"unknown",
    };
    name.as_ptr()
}

/// The name of a tracker: "auto", "kernel", "caller" or "compare". Static text: do not free it.
/// Never NULL; an unknown number gives "unknown".
#[unsafe(no_mangle)]
pub extern "C" fn store_tracker_name(tracker: u32) -> *const c_char {
    let name = match tracker {
        VMSTORE_TRACKER_AUTO => c"auto",
        VMSTORE_TRACKER_KERNEL => c"kernel",
        VMSTORE_TRACKER_CALLER => c"caller",
        VMSTORE_TRACKER_COMPARE => c"compare",
        _ => c"unknown",
    };
    name.as_ptr()
}

/// The bits of `vmstore_map_options.flags` that hold the mode.
const MODES: u32 = 0xff;

/// Checks flags and numbers; the core checks what goes with what.
fn core_options(options: &vmstore_map_options) -> Result<MapOptions> {
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
