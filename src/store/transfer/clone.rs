//! Cloning: makes a second store that shares the files of the first. Neither store ever writes into
//! a shared file.

use std::io::IoSlice;
use std::path::Path;

use crate::error::try_filled;
use crate::format::header::{LogKind, Mark};
use crate::format::identity::Identity;
use crate::format::name;
use crate::journal::{LogStart, RecordLog, SequencedEvent};
use crate::layer::place;
use crate::store::open::{identity_place, make, read_identity, refuse_foreign, write_identity};
use crate::store::state::{FileRefs, History, Store};
use crate::sys::fs::{Dir, File, Files, Place, read_exact};
use crate::sys::host;
use crate::sys::realfs::{self, FoundDirectory};
use crate::{Error, Result};

/// The most bytes of one read when a file has to be copied.
const COPY: u64 = 1 << 20;

impl Store {
    /// Makes a second, independent store in `directory`, which must be new or empty, and not inside
    /// a store; see `store_clone`.
    ///
    /// `commit` 0 takes the whole history with its head. Else the clone has that one commit, as its
    /// head, with the same number and unique id. On one file system the files get second names
    /// (hard links), and the clone costs a few microseconds for each file. Elsewhere they are
    /// copied. The clone is durable when this returns. A store that is not read-only is persisted
    /// first. Uncommitted writes are not cloned. After an error there is no store in `directory`.
    ///
    /// # Errors
    /// [`Error::NotFound`]: there is no such commit, or no directory above `directory`.
    /// [`Error::Exists`]: something is in `directory`. [`Error::Invalid`], [`Error::Locked`],
    /// [`Error::Stale`], [`Error::Corrupt`], [`Error::Poisoned`], [`Error::Io`], [`Error::Sync`],
    /// [`Error::NoMemory`].
    pub fn clone_to(&self, commit: u64, directory: &Path) -> Result<()> {
        let _files_stay = self.lock_maintenance()?;
        let part = self.part_to_clone(commit)?;
        let path = directory.display().to_string();
        let files = match realfs::find(directory)? {
            // A clone that did not finish has no identity.
            FoundDirectory::Store(files) if read_identity(&files)?.is_none() => {
                refuse_foreign(&files.list(Dir::Root)?, &path)?;
                files
            }
            FoundDirectory::Store(_) => {
                return Err(Error::Exists {
                    what: path,
                    why: "there is a store already".into(),
                });
            }
            FoundDirectory::Nothing => make(None, directory)?,
            FoundDirectory::Directory(root) => make(Some(root), directory)?,
        };
        if !files.lock()? {
            return Err(Error::Locked { store: path });
        }
        self.or_stale(self.clone_into(&files, &part))
    }

    /// The history for the clone. All of it is durable in this store.
    pub(in crate::store) fn part_to_clone(&self, commit: u64) -> Result<History> {
        drop(self.enter()?);
        if !self.0.read_only {
            // After a checkpoint, every file was synced through the descriptor that wrote it.
            self.checkpoint(None)?;
        }
        let state = self.enter()?;
        if commit != 0 && !state.history.get(commit)?.persisted && !self.0.read_only {
            return Err(Error::Internal {
                what: "a commit is not persisted after a checkpoint".into(),
            });
        }
        Ok(state.history.part((commit != 0).then_some(commit)))
    }

    /// Makes the clone in a directory that has no identity.
    pub(in crate::store) fn clone_into(&self, files: &dyn Files, part: &History) -> Result<()> {
        let mut made = Vec::new();
        let cloned = self.fill_clone(files, part, &mut made);
        if cloned.is_err() {
            // The identity is removed first: without it the directory is no store. The other files
            // are removed because they would be in the way of the next attempt.
            for place in std::iter::once(identity_place()).chain(made) {
                let _ = files.unlink(&place);
            }
        }
        cloned
    }

    /// Makes the files first, then the records that refer to them, then the identity.
    fn fill_clone(&self, files: &dyn Files, part: &History, made: &mut Vec<Place>) -> Result<()> {
        let layers = &self.0.layers;
        for (module, refs) in &FileRefs::of(layers, part)?.modules {
            for (commit, _) in refs.files() {
                let file = layers.open(module, commit)?;
                let name = place(module, commit);
                made.push(name.clone());
                if !files.adopt(&*file, &name)? {
                    copy(&*file, &*files.create(&name)?, &name)?;
                } else if self.0.read_only {
                    // A read-only store may have files that were never synced.
                    file.sync()?;
                }
            }
        }
        // The names of the files become durable with the name of `commits`. All this is durable
        // before there is an identity.
        let mut mark = Mark::default();
        let events: Vec<SequencedEvent> = (1..)
            .zip(part.to_minimal_log())
            .map(|(sequence, event)| SequencedEvent { sequence, event })
            .collect();
        if !events.is_empty() {
            let kind = LogKind::Commits;
            // The name may exist even if making the log fails.
            made.push(Place::root(name::COMMITS));
            let commits =
                RecordLog::create(files, kind, layers.store, LogStart::default(), &events)?;
            mark = commits.mark();
        }
        let identity = Identity {
            store: layers.store,
            page_size: layers.page_size as u32,
            made: host::wall_clock(),
        };
        write_identity(files, &identity, mark)
    }
}

/// Copies a file that cannot get a second name. Zeros become holes.
fn copy(from: &dyn File, to: &dyn File, name: &Place) -> Result<()> {
    let length = from.len()?;
    to.set_len(length)?;
    let mut buffer = try_filled(COPY as usize, 0u8, "a buffer for a copy")?;
    let mut at = 0;
    while at < length {
        let part = &mut buffer[..COPY.min(length - at) as usize];
        read_exact(from, part, at, name)?;
        if part.iter().any(|byte| *byte != 0) {
            to.write_at(&[IoSlice::new(part)], at)?;
        }
        at += part.len() as u64;
    }
    to.sync()
}
