//! The store: everything that needs more than one of journal, pages and modules.

#![forbid(unsafe_code)]

mod capture;
mod clone;
mod commit;
mod compact;
mod compare;
mod diff;
mod export;
mod fill;
mod findings;
mod grow;
mod helpers;
mod history;
mod images;
mod import;
mod inspect;
mod install;
mod keep;
mod lineage;
mod links;
mod map;
mod open;
mod options;
mod persist;
mod precopy;
mod prune;
mod read;
mod recover;
mod reentry;
mod restore;
mod staging;
mod stale;
mod verify;

#[cfg(any(test, fuzzing))]
pub(crate) mod tests;

pub use capture::Capture;
pub use diff::Range;
pub use findings::{Finding, Listener};
pub use inspect::probe;
pub use map::Module;
pub use options::{
    Capabilities, CommitInfo, CommitOptions, CompactOptions, Log, LogLevel, MapOptions, ModuleInfo,
    OpenOptions, PrecopyOptions, Progress, Stats, VerifyOptions,
};
pub use read::FileInfo;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::journal::{Numbered, Stream};
use crate::module::{Kernel, MappedModule};
use crate::pages::{PageFiles, PageTable};
use crate::sys::arena::Arena;
use crate::sys::fork::ForkMarker;
use crate::sys::fs::{File, Files};
use crate::{Error, Result};
use capture::{Captured, Spare};
use history::History;
use keep::Carrying;
use lineage::{Gone, Lineage};
use precopy::Precopied;
use reentry::Inside;

/// An open store. Clones are the same store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    /// Tells stores of this process apart.
    serial: u64,
    path: String,
    files: Arc<dyn Files>,
    pages: PageFiles,
    read_only: bool,
    arena_limit: u64,
    log: Option<Log>,
    marker: ForkMarker,
    closed: AtomicBool,
    /// There is a capture, waiting or being written.
    capturing: AtomicBool,
    /// Why the store takes no more work; the first reason stays.
    poison: Mutex<Option<String>>,
    /// Held by whoever needs the set of files to stay as it is, or changes it other than by a commit:
    /// delete, compact, verify and the like. Always taken before `gate`.
    upkeep: Mutex<()>,
    /// Held by a persist from beginning to end. Always taken before `state`.
    gate: Mutex<Gate>,
    state: Mutex<State>,
}

/// The state, while a call has it. A panic on the way leaves the store poisoned: what it was doing
/// is half done.
struct Entered<'a> {
    state: MutexGuard<'a, State>,
    store: &'a Store,
}

impl std::ops::Deref for Entered<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl std::ops::DerefMut for Entered<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        drop(PoisonOnPanic(self.store));
    }
}

/// Poisons a store when it goes because of a panic.
struct PoisonOnPanic<'a>(&'a Store);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let what = "a call ended in a panic".to_owned();
            self.0.poison(&Error::Internal { what });
        }
    }
}

/// What is durable.
struct Gate {
    commits: Option<Stream>,
    /// The last record that was appended to `commits`.
    last: u64,
    /// The last record that what was appended to the journal makes durable, whether or not its sync succeeded.
    promised: u64,
    /// The last record that is durable, in `commits` or in the journal.
    kept: u64,
    /// What the journal carries.
    carrying: Carrying,
    /// The names of the journal and the identity are durable.
    hidden_named: bool,
}

impl Gate {
    /// Records up to this one may be durable, whether or not the persist that was to make them so succeeded.
    fn told(&self) -> u64 {
        self.last.max(self.promised)
    }
}

struct State {
    history: History,
    /// `None` in a read-only store.
    journal: Option<Stream>,
    next_sequence: u64,
    /// What is in the journal and not in `commits`. Some of it may be durable there.
    pending: Vec<Numbered>,
    /// Files that no persist has synced, oldest first.
    unsynced: Vec<Unsynced>,
    /// Files that nothing needs any more once the deletions of their commits are durable.
    condemned: Vec<Condemned>,
    /// Which files are needed; made when it is first asked for.
    lineage: Option<Lineage>,
    modules: BTreeMap<String, Bound>,
    kernel: Kernel,
    arena: Option<Arena>,
    /// Pages in the arena that were copied while the guest ran.
    precopied: Option<Precopied>,
    capture: Option<Captured>,
    /// Lists of earlier captures.
    spare: Spare,
    /// Links could not be brought to the head; to be tried again.
    links_behind: bool,
    stats: Stats,
}

/// A file that persist has to sync.
#[derive(Clone)]
struct Unsynced {
    module: String,
    commit: u64,
    /// The record that made it.
    sequence: u64,
    bytes: u64,
    state: SyncState,
}

#[derive(Clone)]
enum SyncState {
    /// Open since its first write, so that the sync learns of every error.
    Open(Arc<dyn File>),
    /// Synced ahead of its time, to give its descriptor back.
    Synced,
    /// Written by an owner that died: errors may have been told to nobody, so it is read back
    /// after the sync.
    Inherited,
    /// A sync of it may have failed, after which the kernel takes its pages for clean and would not
    /// write them again: it is written again, as a new file.
    Suspect,
}

/// A file that goes when a record is durable.
struct Condemned {
    file: Gone,
    /// The record of the deletion.
    sequence: u64,
}

/// A mapped module and what the store knows about it.
struct Bound {
    module: Arc<MappedModule>,
    /// Where its pages are at the head.
    table: PageTable,
    /// Its module commit at the head; `None`: the head does not know it, and the table is zeros.
    module_commit: Option<u64>,
}

impl Store {
    /// Enters the store for one call: nobody else is in it until the guard goes.
    fn enter(&self) -> Result<Entered<'_>> {
        self.check_reentry()?;
        let state = self.lock_state();
        if self.is_closed() {
            return Err(Error::Handle {
                argument: "store",
                why: "it was closed earlier",
            });
        }
        Ok(state)
    }

    /// Enters for a call that changes the store.
    fn enter_to_write(&self) -> Result<Entered<'_>> {
        let state = self.enter()?;
        if self.0.read_only {
            return Err(Error::ReadOnly {
                what: "the store was opened read-only".into(),
                why: "this call would change it",
            });
        }
        self.check_poison()?;
        Ok(state)
    }

    fn lock_state(&self) -> Entered<'_> {
        Entered {
            state: self.0.state.lock(),
            store: self,
        }
    }

    /// Refuses calls of a forked child and calls from inside a callback.
    pub(crate) fn check_reentry(&self) -> Result<()> {
        if self.0.marker.forked() {
            return Err(Error::Forked);
        }
        if reentry::is_inside(self.0.serial) {
            return Err(Error::Busy {
                why: "the call was made from inside a callback of the same store",
            });
        }
        Ok(())
    }

    /// Refuses a call while a capture is outstanding, also while it is being written: at once, because
    /// the guest may be paused for the call.
    fn no_capture(&self) -> Result<()> {
        if self.0.capturing.load(Ordering::Acquire) {
            return Err(Error::Busy {
                why: "a capture is outstanding; it has to be committed or cancelled first",
            });
        }
        Ok(())
    }

    fn check_poison(&self) -> Result<()> {
        match &*self.0.poison.lock() {
            Some(why) => Err(Error::Poisoned { why: why.clone() }),
            None => Ok(()),
        }
    }

    fn poison(&self, why: &Error) {
        let mut poison = self.0.poison.lock();
        if poison.is_none() {
            *poison = Some(why.to_string());
        }
    }

    /// Marks this thread as being inside a callback of this store.
    pub(crate) fn entering_callback(&self) -> Inside {
        reentry::enter(self.0.serial)
    }

    fn log(&self, level: LogLevel, message: impl FnOnce() -> String) {
        if let Some(log) = &self.0.log {
            let _inside = self.entering_callback();
            log(level, &message());
        }
    }

    /// Says which write the journal did without.
    fn tell_of_high_water(&self, state: &mut State) {
        if let Some(error) = state.journal.as_mut().and_then(Stream::take_passed_over) {
            self.log(LogLevel::Warning, || {
                format!("the end of the journal would not be missed, were it lost: {error}")
            });
        }
    }

    /// Calls a progress callback; a cancelled one is an error of the call `what`.
    fn tell(&self, progress: &mut Progress<'_>, done: u64, total: u64) -> Result<()> {
        if let Some(progress) = progress {
            let _inside = self.entering_callback();
            if !progress(done, total) {
                return Err(Error::Cancelled);
            }
        }
        Ok(())
    }

    /// Whether it was closed. Takes no lock.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    fn page_size(&self) -> u64 {
        self.0.pages.page_size
    }

    /// The directory as the caller named it.
    pub(crate) fn path(&self) -> &str {
        &self.0.path
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Closes the store; see `store_close`.
    ///
    /// # Errors
    /// From inside a callback, and in a forked child.
    pub fn close(&self) -> Result<()> {
        self.check_reentry()?;
        let _upkeep = self.0.upkeep.lock();
        let mut gate = self.0.gate.lock();
        let mut state = self.enter()?;
        if let Some(captured) = state.capture.take() {
            captured.discard(&self.0.pages, &mut state.spare);
            self.0.capturing.store(false, Ordering::Release);
        }
        if state.links_behind {
            self.update_links(&mut state);
        }
        self.0.closed.store(true, Ordering::Release);
        state.precopied = None;
        for bound in std::mem::take(&mut state.modules).into_values() {
            bound.module.retire();
        }
        state.arena = None;
        state.unsynced.clear();
        state.journal = None;
        gate.commits = None;
        self.0.pages.set_most_open(0);
        self.0.files.unlock();
        Ok(())
    }
}

impl State {
    /// What the store knows about a mapped module.
    fn bound(&mut self, module: &Arc<MappedModule>) -> Result<&mut Bound> {
        match self.modules.get_mut(&module.id) {
            Some(bound) if Arc::ptr_eq(&bound.module, module) => Ok(bound),
            _ => Err(Error::Handle {
                argument: "module",
                why: "it was unmapped earlier",
            }),
        }
    }

    /// Appends an event to the journal: the moment from which it survives the process. Nothing
    /// has happened when it fails.
    fn record(&mut self, event: crate::format::commit::Event) -> Result<u64> {
        let sequence = self.next_sequence;
        let numbered = Numbered { sequence, event };
        let journal = self.journal.as_mut().ok_or_else(|| Error::Internal {
            what: "a journal record in a read-only store".into(),
        })?;
        let before = journal.end();
        journal.append(std::slice::from_ref(&numbered))?;
        self.stats.bytes_written += journal.end() - before;
        self.next_sequence += 1;
        if let Err(why) = self.history.apply(&numbered.event, false) {
            return Err(Error::Internal { what: why });
        }
        self.pending.push(numbered);
        Ok(sequence)
    }
}

fn next_serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
