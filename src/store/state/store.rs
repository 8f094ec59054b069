//! An open store: what all its calls share, and the checks at the beginning of a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::durability::Durability;
use super::parts::State;
use crate::layer::LayerFiles;
use crate::store::callbacks::{self, Inside};
use crate::store::options::{Log, LogLevel, Progress};
use crate::sys::fork::ForkMarker;
use crate::sys::fs::Files;
use crate::{Error, Result};

/// An open store. A clone is another handle of the same store.
///
/// [`Store::open`] makes the value, and [`Store::close`] ends the store for all handles. Any thread
/// may call any method; [threads](crate#threads) says which calls wait. When the last handle of a
/// store, of its modules and of its captures is dropped, the lock of the store is released too.
///
/// All methods give these errors, which their texts do not repeat: [`Error::Handle`] after the
/// close, [`Error::Busy`] from inside a callback of the same store, and [`Error::Forked`] in a
/// forked child.
#[derive(Clone)]
pub struct Store(pub(in crate::store) Arc<Inner>);

/// What the clones of a [`Store`] share.
pub(in crate::store) struct Inner {
    /// No other store or capture of this process has this number.
    pub(in crate::store) serial: u64,
    pub(in crate::store) path: String,
    pub(in crate::store) files: Arc<dyn Files>,
    pub(in crate::store) layers: LayerFiles,
    pub(in crate::store) read_only: bool,
    pub(in crate::store) arena_limit: u64,
    pub(in crate::store) log: Option<Log>,
    pub(in crate::store) marker: ForkMarker,
    pub(in crate::store) closed: AtomicBool,
    /// A capture is outstanding: it waits, or it is being written.
    pub(in crate::store) capturing: AtomicBool,
    /// Why the store takes no more work. The first reason stays.
    pub(in crate::store) poison: Mutex<Option<String>>,
    /// Protected by [`MaintenanceGuard`](super::MaintenanceGuard).
    pub(in crate::store) maintenance_lock: Mutex<()>,
    /// Protected by [`PersistGuard`](super::PersistGuard).
    pub(in crate::store) persist_lock: Mutex<Durability>,
    /// Protected by [`Locked`](super::Locked).
    pub(in crate::store) state: Mutex<State>,
}

impl Store {
    /// Refuses calls of a forked child, and calls from inside a callback.
    pub(crate) fn check_reentry(&self) -> Result<()> {
        if self.0.marker.forked() {
            return Err(Error::Forked);
        }
        if callbacks::is_inside(self.0.serial) {
            return Err(Error::Busy {
                why: "the call was made from inside a callback of the same store",
            });
        }
        Ok(())
    }

    /// Refuses a call while a capture is outstanding, also while the capture is being written. The
    /// call does not wait, because the guest may be paused for it.
    pub(in crate::store) fn check_no_capture(&self) -> Result<()> {
        if self.0.capturing.load(Ordering::Acquire) {
            return Err(Error::Busy {
                why: "a capture is outstanding; it has to be committed or cancelled first",
            });
        }
        Ok(())
    }

    /// Refuses every call on a poisoned store.
    pub(in crate::store) fn check_poison(&self) -> Result<()> {
        match &*self.0.poison.lock() {
            Some(why) => Err(Error::Poisoned { why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Poisons the store. A poisoned store refuses all work until it is opened again.
    pub(in crate::store) fn poison(&self, why: &Error) {
        let mut poison = self.0.poison.lock();
        if poison.is_none() {
            *poison = Some(why.to_string());
        }
    }

    /// Returns a guard. If a panic drops the guard, the store is poisoned.
    pub(in crate::store) fn poison_on_panic(&self) -> PoisonOnPanic<'_> {
        PoisonOnPanic(self)
    }

    /// Marks this thread as being inside a callback of this store, as long as the value lives.
    pub(crate) fn entering_callback(&self) -> Inside {
        callbacks::enter(self.0.serial)
    }

    /// Calls the caller's log function, if there is one.
    pub(in crate::store) fn log(&self, level: LogLevel, message: impl FnOnce() -> String) {
        if let Some(log) = &self.0.log {
            let _inside = self.entering_callback();
            log(level, &message());
        }
    }

    /// Calls a progress callback. The callback may cancel the call.
    pub(in crate::store) fn report_progress(
        &self,
        progress: &mut Progress<'_>,
        done: u64,
        total: u64,
    ) -> Result<()> {
        if let Some(progress) = progress {
            let _inside = self.entering_callback();
            if !progress(done, total) {
                return Err(Error::Cancelled);
            }
        }
        Ok(())
    }

    /// Whether the store was closed. This takes no lock.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Bytes of a page.
    pub(in crate::store) fn page_size(&self) -> u64 {
        self.0.layers.page_size
    }

    /// The directory as the caller named it.
    pub(crate) fn path(&self) -> &str {
        &self.0.path
    }

    /// Whether both are the same open store.
    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Poisons a store when a panic drops this value, because the call with the panic is half done.
pub(in crate::store) struct PoisonOnPanic<'a>(&'a Store);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let what = "a call ended in a panic".to_owned();
            self.0.poison(&Error::Internal { what });
        }
    }
}

/// A number that no other store or capture of this process has.
pub(in crate::store) fn next_serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
