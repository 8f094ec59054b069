//! The steps of opening: find or make the store, take its lock, recover its history.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::identity::{make, make_identity, read_identity, refuse_foreign};
use super::recover::{Recovered, recover};
use crate::dirty::KernelTracker;
use crate::format::identity::Identity;
use crate::layer::LayerFiles;
use crate::store::options::{LogLevel, OpenOptions, Stats};
use crate::store::state::{Captures, Inner, State, Store, next_serial};
use crate::sys::fork::ForkMarker;
use crate::sys::fs::{Dir, Files};
use crate::sys::host;
use crate::sys::realfs::{self, FoundDirectory};
use crate::{Error, Result};

const DEFAULT_ARENA: u64 = 1 << 30;

fn no_store(path: &Path) -> Error {
    Error::NotFound {
        what: format!("store in {}", path.display()),
        hint: "".into(),
    }
}

impl Store {
    /// Opens the store in the directory `path`, and makes it if there is none; see `store_open`.
    ///
    /// The parent of `path` must exist. A new directory gets mode 0700. A directory that is not
    /// empty and not a store is left alone. Unless the store is opened read-only, the caller
    /// becomes its owner: this takes an exclusive lock, which the kernel releases when the process
    /// ends.
    ///
    /// The call recovers what a crash has left. After a killed process, all commits are there
    /// again. After a power cut, all persisted commits are there again. [`OpenOptions::log`]
    /// receives what the recovery did.
    ///
    /// # Errors
    /// [`Error::NotFound`]: there is no parent directory, or no store and
    /// [`OpenOptions::no_create`]. [`Error::Exists`]: a file or a directory with other files is in
    /// the place. [`Error::Locked`]: another owner has the store open. [`Error::ReadOnly`]: the
    /// file system is read-only, or a recovery must write first. [`Error::Corrupt`] and
    /// [`Error::Version`]: a file is damaged, or needs a newer library. [`Error::Unsupported`]: the
    /// host has another page size. [`Error::Invalid`], [`Error::Io`], [`Error::NoMemory`].
    pub fn open(path: &Path, options: OpenOptions) -> Result<Self> {
        // A salvaged store is not written to, because a file that looks like a leftover may be all
        // that remains of a commit.
        let read_only = options.read_only || options.salvage;
        let create = !read_only && !options.no_create;
        let files = match realfs::find(path)? {
            FoundDirectory::Store(files) => files,
            FoundDirectory::Nothing if create => make(None, path)?,
            FoundDirectory::Directory(root) if create => make(Some(root), path)?,
            FoundDirectory::Nothing | FoundDirectory::Directory(_) => return Err(no_store(path)),
        };
        if !read_only && !files.lock()? {
            return Err(Error::Locked {
                store: path.display().to_string(),
            });
        }
        Self::open_files(Arc::new(files), &path.display().to_string(), options)
    }

    /// Opens a store whose files were found. The caller has locked the files, unless the store is
    /// opened read-only.
    pub(in crate::store) fn open_files(
        files: Arc<dyn Files>,
        path: &str,
        options: OpenOptions,
    ) -> Result<Self> {
        let read_only = options.read_only || options.salvage;
        let page_size = host::page_size();
        let identity = find_or_make_identity(&*files, path, &options)?;
        let layers = LayerFiles::new(files.clone(), identity.store, page_size);
        let mut note = |level, message: String| {
            if let Some(log) = &options.log {
                log(level, &message);
            }
        };
        let recovered = recover(&layers, read_only, options.salvage, &mut note)?;
        if !read_only {
            // A cached open file of a reader would keep the disk blocks of a file that the owner
            // deletes.
            layers.set_most_open((host::descriptor_limit() / 8).min(1024) as usize);
        }
        let Recovered {
            history,
            unpersisted,
            durability,
        } = recovered;
        let kernel = KernelTracker::open();
        if let Err(error) = &kernel {
            note(
                LogLevel::Warning,
                format!("modules will be compared at every commit: {error}"),
            );
        }
        let arena_limit = match options.arena_limit {
            0 => DEFAULT_ARENA,
            // The limit is a whole number of pages, at least one.
            limit => limit.min(1 << 46).next_multiple_of(page_size),
        };
        let state = State {
            history,
            unpersisted,
            file_refs: None,
            modules: BTreeMap::new(),
            kernel,
            links_behind: false,
            captures: Captures::default(),
            stats: Stats::default(),
        };
        let store = Self(Arc::new(Inner {
            serial: next_serial(),
            path: path.to_owned(),
            files,
            layers,
            read_only,
            arena_limit,
            log: options.log,
            marker: ForkMarker::new()?,
            closed: AtomicBool::new(false),
            capturing: AtomicBool::new(false),
            poison: Mutex::new(None),
            maintenance_lock: Mutex::new(()),
            persist_lock: Mutex::new(durability),
            state: Mutex::new(state),
        }));
        if !read_only {
            let mut locked = store.lock_state();
            locked.warn_about_high_water();
            locked.update_links();
        }
        Ok(store)
    }
}

/// Reads the identity of the store, and refuses a store that this host cannot open. Makes an
/// identity if there is none and the options allow it.
fn find_or_make_identity(files: &dyn Files, path: &str, options: &OpenOptions) -> Result<Identity> {
    let create = !(options.read_only || options.salvage || options.no_create);
    let identity = match read_identity(files)? {
        Some(identity) => identity,
        None if !create => return Err(no_store(Path::new(path))),
        None => {
            refuse_foreign(&files.list(Dir::Root)?, path)?;
            make_identity(files)?
        }
    };
    let page_size = host::page_size();
    if u64::from(identity.page_size) != page_size {
        return Err(Error::Unsupported {
            what: path.to_owned(),
            why: format!(
                "it was made with pages of {} bytes, and this host has pages of {page_size}",
                identity.page_size
            ),
        });
    }
    Ok(identity)
}
