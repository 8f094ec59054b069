//! Opening: find or make the store, take its lock, recover it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::options::{OpenOptions, Stats};
use super::recover::{self, Recovered};
use super::{Inner, LogLevel, State, Store};
use crate::dirty::KernelTracker;
use crate::format::header::{Mark, StreamKind};
use crate::format::identity::{self, Identity};
use crate::format::name;
use crate::journal::{Stream, journal_place};
use crate::pages::PageFiles;
use crate::sys::fork::ForkMarker;
use crate::sys::fs::{Access, Dir, Entry, Files, Kind, Place, read_exact};
use crate::sys::host;
use crate::sys::realfs::{self, Found, RealFiles};
use crate::{Error, Result};
use std::io::IoSlice;

const DEFAULT_ARENA: u64 = 1 << 30;

pub(super) fn identity_place() -> Place {
    Place::hidden(name::IDENTITY)
}

fn no_store(path: &Path) -> Error {
    Error::NotFound {
        what: format!("store in {}", path.display()),
        hint: "".into(),
    }
}

impl Store {
    /// Opens the store in `path`; see `store_open`.
    ///
    /// # Errors
    /// As `store_open`.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Self> {
        // A salvaged store is not written to: what looks like a leftover may be all there is of a
        // commit.
        let read_only = options.read_only || options.salvage;
        let create = !read_only && !options.no_create;
        let files = match realfs::find(path)? {
            Found::Store(files) => files,
            Found::Nothing if create => make(None, path)?,
            Found::Directory(root) if create => make(Some(root), path)?,
            Found::Nothing | Found::Directory(_) => return Err(no_store(path)),
        };
        if !read_only && !files.lock()? {
            return Err(Error::Locked {
                store: path.display().to_string(),
            });
        }
        Self::open_files(Arc::new(files), &path.display().to_string(), options)
    }

    /// Opens a store whose files were found, and locked unless it is opened read-only.
    pub(super) fn open_files(
        files: Arc<dyn Files>,
        path: &str,
        options: OpenOptions,
    ) -> Result<Self> {
        let read_only = options.read_only || options.salvage;
        let identity = match read_identity(&*files)? {
            Some(identity) => identity,
            None if read_only || options.no_create => return Err(no_store(Path::new(path))),
            None => {
                refuse_foreign(&files.list(Dir::Root)?, path)?;
                make_identity(&*files)?
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
        let pages = PageFiles::new(files.clone(), identity.store, page_size);
        let mut note = |level, message: String| {
            if let Some(log) = &options.log {
                log(level, &message);
            }
        };
        let Recovered {
            history,
            pending,
            unsynced,
            condemned,
            next_sequence,
            gate,
            journal,
        } = recover::recover(&pages, read_only, options.salvage, &mut note)?;
        if !read_only {
            // A reader would hold on to the disk blocks of what the owner deletes.
            pages.set_most_open((host::descriptor_limit() / 8).min(1024) as usize);
        }
        let kernel = KernelTracker::open();
        if let Err(error) = &kernel {
            note(
                LogLevel::Warning,
                format!("modules will be compared at every commit: {error}"),
            );
        }
        let arena_limit = match options.arena_limit {
            0 => DEFAULT_ARENA,
            // At least a page, whole pages.
            limit => limit.min(1 << 46).next_multiple_of(page_size),
        };
        let store = Self(Arc::new(Inner {
            serial: super::next_serial(),
            path: path.to_owned(),
            files,
            pages,
            read_only,
            arena_limit,
            log: options.log,
            marker: ForkMarker::new()?,
            closed: AtomicBool::new(false),
            capturing: AtomicBool::new(false),
            poison: Mutex::new(None),
            upkeep: Mutex::new(()),
            gate: Mutex::new(gate),
            state: Mutex::new(State {
                history,
                journal,
                next_sequence,
                pending,
                unsynced,
                condemned,
                lineage: None,
                modules: std::collections::BTreeMap::new(),
                kernel,
                arena: None,
                precopied: None,
                capture: None,
                spare: super::capture::Spare::default(),
                links_behind: false,
                stats: Stats::default(),
            }),
        }));
        if !read_only {
            let mut state = store.0.state.lock();
            store.tell_of_high_water(&mut state);
            store.update_links(&mut state);
        }
        Ok(store)
    }
}

pub(super) fn read_identity(files: &dyn Files) -> Result<Option<Identity>> {
    let place = identity_place();
    let Some(file) = files.open(&place, Access::Read)? else {
        let orphans = files.list(Dir::Root)?.into_iter().any(|entry| {
            entry.kind == Kind::File
                && (entry.name == name::COMMITS || name::parse_module_commit(&entry.name).is_some())
        });
        if orphans {
            return Err(Error::corrupt(place.to_string(), "it is missing"));
        }
        return Ok(None);
    };
    let length = file.len()?;
    if length != identity::LENGTH as u64 {
        return Err(Error::corrupt(
            place.to_string(),
            format!("it has {length} bytes"),
        ));
    }
    let mut bytes = [0; identity::LENGTH];
    read_exact(&*file, &mut bytes, 0, &place)?;
    Identity::decode(&bytes, &place.to_string()).map(Some)
}

/// Makes the store's journal and identity, durable.
fn make_identity(files: &dyn Files) -> Result<Identity> {
    let identity = Identity {
        store: host::random_id()?,
        page_size: host::page_size() as u32,
        made: host::wall_clock(),
    };
    write_identity(files, &identity, Mark::default())?;
    Ok(identity)
}

/// Makes journal and identity of a store whose `commits` is as long as `durable` says. The identity is last:
/// until it is there, there is no store and making it begins anew.
pub(super) fn write_identity(files: &dyn Files, identity: &Identity, durable: Mark) -> Result<()> {
    files.unlink(&journal_place())?;
    let kind = StreamKind::Journal;
    Stream::create(files, kind, identity.store, (durable, false, 0), &[])?;
    let temporary = Place::hidden(format!("{}identity", name::TEMPORARY));
    files.unlink(&temporary)?;
    let file = files.create(&temporary)?;
    file.write_at(&[IoSlice::new(&identity.encode())], 0)?;
    file.sync()?;
    files.rename(&temporary, &identity_place())?;
    files.sync_dir(Dir::Hidden)?;
    files.sync_dir(Dir::Root)
}

/// Makes a store in a directory, which is there or is made.
pub(super) fn make(root: Option<OwnedFd>, path: &Path) -> Result<RealFiles> {
    let above = match (&root, path.parent()) {
        (None, Some(parent)) if parent.as_os_str().is_empty() => Path::new(".").to_owned(),
        (None, Some(parent)) => parent.to_owned(),
        _ => path.join(".."),
    };
    let in_a_store = match realfs::find(&above) {
        Ok(Found::Store(files)) => !matches!(read_identity(&files), Ok(None)),
        _ => false,
    };
    if in_a_store {
        // Its name could be that of a file of the store it lies in.
        return Err(Error::invalid(
            format!("directory {}", path.display()),
            "a store must not be made in the directory of another",
        ));
    }
    let root = root.map_or_else(|| realfs::make_root(path), Ok)?;
    refuse_foreign(&realfs::list(&root)?, &path.display().to_string())?;
    realfs::make_hidden(root)
}

/// A store is made in a directory that is empty, or has only what tools leave in empty directories.
pub(super) fn refuse_foreign(entries: &[Entry], path: &str) -> Result<()> {
    let ours = |entry: &&Entry| entry.name.starts_with('.') || entry.name == "lost+found";
    match entries.iter().find(|entry| !ours(entry)) {
        None => Ok(()),
        Some(entry) => Err(Error::Exists {
            what: path.to_owned(),
            why: format!("it is not a store and not empty: it has \"{}\"", entry.name).into(),
        }),
    }
}
