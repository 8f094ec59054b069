//! A versioned store for guest memory: git for guest RAM.
//!
//! A store is a directory. A virtual machine monitor (VMM) maps named *modules* (RAM banks,
//! device-state areas) out of the store and runs its guest in them. Three calls do the work:
//!
//! - [`Store::commit`] takes an atomic snapshot of all modules together. Its cost is that of the
//!   pages written since the last commit.
//! - [`Store::persist`] makes every commit so far survive a power cut.
//! - [`Store::restore`] puts all modules back to any commit, in place under a paused guest, or in a
//!   new process.
//!
//! Commits form a tree. The *head* is the commit that memory was last brought to, by a commit or a
//! restore. The next commit becomes its child.
//!
//! ```
//! use vmstore::{CommitOptions, MapOptions, OpenOptions, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let path = directory.path().join("guest.store");
//! let store = Store::open(&path, OpenOptions::default())?;
//! let ram = store.map_module("ram", 1 << 20, &MapOptions::default())?;
//! let memory = ram.address() as *mut u8; // give this to KVM_SET_USER_MEMORY_REGION
//!
//! // SAFETY: the module has 1 MiB of readable and writable memory at this address until `ram` is
//! // dropped. No Rust reference points to the memory, and no other thread uses it.
//! unsafe { memory.write_volatile(1) };
//! let first = store.commit(&CommitOptions::default())?;
//! // SAFETY: as above.
//! unsafe { memory.write_volatile(2) };
//! let second = store.commit(&CommitOptions::default())?;
//! store.persist(None)?;
//!
//! store.restore(first, None)?;
//! // SAFETY: as above.
//! assert_eq!(unsafe { memory.read_volatile() }, 1);
//! assert_eq!(store.head()?, first);
//! store.close()?;
//!
//! // Another process: the head is the first commit, and the second is there too.
//! let store = Store::open(&path, OpenOptions::default())?;
//! let mut byte = [0];
//! store.read(second, "ram", 0, &mut byte)?;
//! assert_eq!(byte, [2]);
//! assert!(store.commit_info(second)?.persisted);
//! # Ok(())
//! # }
//! ```
//!
//! # Promises
//!
//! 1. A killed process loses nothing committed.
//! 2. A power cut loses nothing persisted. Later commits survive whole or not at all, oldest first.
//! 3. A commit holds every module at one moment. A failed call leaves the store, the memory and the
//!    knowledge of dirty pages as they were.
//! 4. A restore checks every page against a checksum before it writes the page to memory. Damage is
//!    an error.
//! 5. Dirty tracking is complete, or `docs/tracking.md` names the writes that a tracker does not
//!    see.
//! 6. Memory keeps its address. A restore copies bytes in, and KVM memory slots stay.
//! 7. The library installs no signal handlers, prints nothing and does not abort. It starts no
//!    threads, unless a capture asks for helpers.
//!
//! # Limits
//!
//! - Pausing the guest is the work of the VMM, and so is saving and restoring the state of vCPUs and
//!   devices. Put that state into a module, or into [`CommitOptions::user_data`].
//! - The kernel tracker does not see writes through another mapping or through the descriptor, DMA
//!   into pages that were pinned before the last commit, and `MADV_DONTNEED` on memory that came
//!   from an image file. Report these writes with [`Module::mark_dirty`].
//! - Private memory, the default, takes untouched pages straight from an image file, unchecked.
//!   [`MapOptions::eager`] reads and checks everything first.
//! - The directory belongs to the library. Nobody else may write there. If somebody truncates an
//!   image that is mapped, touching the memory is a SIGBUS.
//! - Checksums find accidents, not forgers.
//! - Linux on 64-bit machines only. A store moves only between hosts with the same page size.
//!
//! # Steps in a VMM
//!
//! 1. [`Store::open`], and [`Store::map_module`] for each memory slot, before seccomp filters go in.
//!    `docs/integration.md` has the tables for the choice of [`MapOptions::mode`] and
//!    [`MapOptions::tracker`], with a part for each known VMM. [`probe`] says what the host can do.
//! 2. In a process that continues from a commit: [`Store::restore`] of the head once more, after the
//!    VMM has written its BIOS, tables or kernel to the memory, and before the vCPUs start.
//! 3. The guest runs.
//! 4. For a commit: pause the vCPUs, let devices finish, save their state, report the writes that the
//!    tracker does not see, [`Store::capture`], resume, and [`Capture::commit`] in another thread.
//!    [`Store::commit`] does both halves in one call. [`Store::precopy`] before the pause makes the
//!    pause shorter.
//! 5. [`Store::persist`] when the commits must survive a power cut, from any thread.
//! 6. For a restore: pause the vCPUs, [`Store::restore`], put back the state of devices and vCPUs,
//!    resume.
//! 7. At the end: stop the guest, persist, [`Store::close`]. Closing does not persist.
//!
//! In the tests of a VMM, call [`Store::audit`] before commits: it finds writes that nobody reported,
//! and the result must be 0. [`Store::delete_commit`] and [`Store::compact`] give disk space back;
//! [`Store::clone_to`], [`Store::export`] and [`Store::import`] take commits elsewhere.
//!
//! ## A capture in two steps
//!
//! The guest is paused only during [`Store::capture`], and a precopy leaves little to copy in the
//! pause.
//!
//! ```
//! use vmstore::{CommitOptions, MapOptions, MapMode, OpenOptions, PrecopyOptions, Store, Tracker};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let store = Store::open(&directory.path().join("guest.store"), OpenOptions::default())?;
//! let mut memory = memmap2::MmapMut::map_anon(1 << 20)?;
//! let options = MapOptions {
//!     mode: MapMode::Adopt,
//!     tracker: Some(Tracker::Caller), // this program reports its writes
//!     address: memory.as_mut_ptr() as usize,
//!     ..MapOptions::default()
//! };
//! let ram = store.map_module("ram", 1 << 20, &options)?;
//! store.commit(&CommitOptions::default())?;
//!
//! // The guest runs and writes. Write first, then report.
//! memory[..8192].fill(7);
//! ram.mark_dirty(0, 8192)?;
//! let left = store.precopy(&PrecopyOptions::default(), None)?;
//! assert_eq!(left, 0); // nothing was written meanwhile
//! memory[8192] = 8;
//! ram.mark_dirty(8192, 1)?;
//!
//! // Pause the guest here, and save its devices and vCPUs.
//! let options = CommitOptions {
//!     label: "before the update".to_owned(),
//!     user_data: Some(b"state of vCPUs and devices".to_vec().into()),
//!     ..CommitOptions::default()
//! };
//! let capture = store.capture(&options)?;
//! // Resume the guest here. What it writes from now on belongs to the next commit.
//! memory[0] = 9;
//! ram.mark_dirty(0, 1)?;
//!
//! let commit = std::thread::spawn(move || capture.commit()).join().unwrap()?;
//! assert_eq!(store.find_commit("before the update")?, commit);
//! let mut byte = [0];
//! store.read(commit, "ram", 0, &mut byte)?;
//! assert_eq!(byte, [7]);
//! # fn usable_by_all_threads<T: Send + Sync>() {}
//! # usable_by_all_threads::<(Store, vmstore::Module, vmstore::Capture, OpenOptions)>();
//! # let stats = store.stats()?;
//! # assert_eq!((stats.last_precopied_pages, stats.last_copied_pages), (8192 / stats.page_size, 1));
//! # ram.unmap()?;
//! # Ok(())
//! # }
//! ```
//!
//! ## Memory that the VMM has already
//!
//! [`MapMode::Adopt`] takes memory that the VMM has mapped. The library copies from it and to it, and
//! never maps anything there.
//!
//! ```
//! use vmstore::{CommitOptions, MapMode, MapOptions, OpenOptions, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let store = Store::open(&directory.path().join("guest.store"), OpenOptions::default())?;
//! // The VMM's own memory, page-aligned. It must stay mapped until the module is unmapped.
//! let mut memory = memmap2::MmapMut::map_anon(1 << 20)?;
//! memory[..5].copy_from_slice(b"hello");
//! let options = MapOptions {
//!     mode: MapMode::Adopt,
//!     address: memory.as_mut_ptr() as usize,
//!     ..MapOptions::default()
//! };
//! let ram = store.map_module("ram", memory.len() as u64, &options)?;
//!
//! // A new module keeps its bytes, and the first commit has all of them.
//! let first = store.commit(&CommitOptions::default())?;
//! memory[..5].copy_from_slice(b"world");
//! store.commit(&CommitOptions::default())?;
//! store.restore(first, None)?;
//! assert_eq!(&memory[..5], b"hello");
//!
//! ram.unmap()?; // before `memory` is dropped
//! # Ok(())
//! # }
//! ```
//!
//! The example needs no `unsafe`: it uses the bytes only through `memory`, and no slice of them is
//! alive while a call of the library changes them. A VMM whose guest writes to the memory meanwhile
//! uses raw pointers, as with every module: see [`Module::address`].
//!
//! # Threads
//!
//! All types are `Send` and `Sync`, and any thread may call any method. Calls on one store wait for
//! each other: [`Store::head`] and [`Store::stats`] also wait, for example until a commit is
//! written. The long calls (persist, verify, delete, compact, export, import) let commits and captures
//! pass. These calls never wait: [`Module::mark_dirty`], [`Module::import_dirty_bitmap`],
//! [`Module::address`], [`Module::size`] and [`Module::fd`].
//!
//! A call into a store from inside one of its callbacks, in the same thread, gives [`Error::Busy`],
//! except the calls that never wait. In a forked child, the handles of the parent give
//! [`Error::Forked`]. The child may open stores of its own.
//!
//! # Errors
//!
//! All methods return [`Error`]. Its text names what failed, on which file, module or argument, and
//! by which rule. After an error everything is as it was before the call, unless the text of the
//! method says what stays.
//!
//! | error | what to do |
//! |---|---|
//! | [`Error::Invalid`], [`Error::Handle`], [`Error::Size`] | correct the call |
//! | [`Error::Busy`], [`Error::Locked`] | wait for the other capture, call or owner, and try again |
//! | [`Error::Io`] with [`errno`](Error::errno) `ENOSPC` or `EDQUOT` | the disk is full: delete commits, persist, and try again |
//! | [`Error::Sync`], [`Error::Poisoned`] | close the store and open it again: persisted commits are safe |
//! | [`Error::Corrupt`] | [`Store::verify_all`] finds what is intact; [`OpenOptions::salvage`] opens it |
//! | [`Error::Stale`] | open the read-only store again |
//!
//! # More
//!
//! Every method here is the C function that its text names. `include/vmstore.h` is the complete
//! manual of these functions, for Rust users too. `docs/integration.md` helps to put the library into
//! a VMM. For people who change the library, `docs/architecture.md` has the rooms of the source and
//! how they stack.

#![deny(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("vmstore needs Linux on a 64-bit machine");

mod dirty;
mod error;
mod ffi;
mod format;
mod journal;
mod layer;
mod module;
mod page_set;
mod store;
mod sys;

/// Runs one fuzz target. Only the build of `fuzz/` has this function.
#[cfg(fuzzing)]
pub fn fuzz(target: &str, input: &[u8]) {
    let found = store::tests::fuzz::TARGETS
        .iter()
        .find(|known| known.name == target);
    (found.expect("a target").run)(input);
}

pub use dirty::Tracker;
pub use error::{Error, Result};
pub use module::MapMode;
pub use store::{
    Capabilities, Capture, CommitInfo, CommitOptions, CompactOptions, FileInfo, Finding, Listener,
    Log, LogLevel, MapOptions, Module, ModuleInfo, OpenOptions, PrecopyOptions, Progress, Range,
    Stats, Store, VerifyOptions, probe,
};
