//! Importing: a stream is read to its end, checked, and spooled into temporary files. Only then do
//! its commits become part of the history, all with one write.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::error::try_filled;
use crate::format::checksum::{self, Digest};
use crate::format::commit::{Commit, ModuleEntry};
use crate::format::index::{Checksums, Content, Index, IndexRun, Shape};
use crate::format::name;
use crate::format::transfer::{Chain, FRAME, Frame, MAX_PAGES, NAME, STREAM_HEADER, StreamHeader};
use crate::layer::PageTable;
use crate::store::mapping::check_module_size;
use crate::store::options::Progress;
use crate::store::state::{MaintenanceGuard, Store};
use crate::sys::fs::{File, Place};
use crate::sys::pipe;
use crate::{Error, Result};

pub(super) fn bad(why: impl Into<String>) -> Error {
    Error::corrupt(NAME, why)
}

/// Whether a commit has this unique id. A commit has the same unique id in every store.
fn has_id(commit: &Commit, unique_id: &[u8; 16]) -> bool {
    commit.unique_id == *unique_id
}

/// Where the bytes of a module at a commit of the stream are.
#[derive(Clone, Copy)]
pub(super) enum Held {
    /// In a file that this store has.
    Here(u64),
    /// In a file that came with the stream. The number is its place in the list of spooled files.
    Spooled(usize),
}

/// A module commit that came with the stream. Its pages are in a temporary file. The file's index,
/// footer and name come later.
pub(super) struct Spooled {
    pub(super) index: Arc<Index>,
    pub(super) below: Option<Held>,
    pub(super) place: Place,
}

/// A commit of the stream.
pub(super) struct Incoming {
    pub(super) commit: Arc<Commit>,
    /// Its number in this store, if this store has it already.
    pub(super) here: Option<u64>,
    pub(super) modules: BTreeMap<String, (Held, u64, Digest)>,
}

/// The module that is being received.
struct Receiving {
    index: Index,
    checksums: Vec<u64>,
    wanted: Digest,
    below: Option<Held>,
    table: PageTable,
    file: Arc<dyn File>,
    place: Place,
    written: u64,
}

/// The state of an import.
pub(super) struct Import<'a, 'p> {
    pub(super) store: &'a Store,
    pub(super) maintenance: &'a MaintenanceGuard<'a>,
    fd: RawFd,
    chain: Chain,
    pub(super) commits: Vec<Incoming>,
    pub(super) spooled: Vec<Spooled>,
    /// The page tables, at the last commit so far, of the modules that came with the stream.
    tables: BTreeMap<String, PageTable>,
    receiving: Option<Receiving>,
    /// The parent of the first commit.
    pub(super) base: Option<Arc<Commit>>,
    /// The temporary files that were made so far.
    places: Vec<Place>,
    progress: Progress<'p>,
    /// The bytes of pages that were received so far.
    received: u64,
}

impl Store {
    /// Reads a stream of [`Store::export`] from a descriptor, and adds its commits to the history.
    /// Returns the number of the stream's last commit in this store; see `store_import`.
    ///
    /// The commits keep their unique ids, times, labels, user data and bytes, and get new numbers.
    /// A commit that the store has already, by its unique id, stays as it is. The stream is checked
    /// to its end first, and then all commits appear at once. They survive a power cut after the
    /// next [`Store::persist`]. Head and memory do not change. In a store without commits, which
    /// must not have mapped modules, the last imported commit becomes the head. Checksums find
    /// accidents, not forgers: import only streams that you trust.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: the stream is cut or changed, or a file of this store is damaged.
    /// [`Error::NotFound`]: the store does not have the commit on which the stream builds.
    /// [`Error::Unsupported`]: the stream has another page size. [`Error::Busy`]: a capture is
    /// outstanding at the last step. [`Error::Sync`]: a flush failed. [`Error::Version`],
    /// [`Error::Invalid`], [`Error::ReadOnly`], [`Error::Poisoned`], [`Error::Io`],
    /// [`Error::NoMemory`].
    pub fn import(&self, fd: RawFd) -> Result<u64> {
        self.import_with(fd, None)
    }

    /// As [`Store::import`], with a progress function; see `store_import_with`.
    ///
    /// # Errors
    /// As [`Store::import`]. [`Error::Cancelled`]: nothing was imported, and a part of the stream
    /// was read.
    pub fn import_with(&self, fd: RawFd, progress: Progress<'_>) -> Result<u64> {
        let maintenance = self.lock_maintenance()?;
        drop(self.enter_to_write()?);
        pipe::check(fd)?;
        let mut bytes = [0; STREAM_HEADER];
        receive(fd, &mut bytes)?;
        let header = StreamHeader::decode(&bytes)?;
        if u64::from(header.page_size) != self.0.layers.page_size {
            return Err(Error::Unsupported {
                what: NAME.into(),
                why: format!(
                    "it has pages of {} bytes, and this store has pages of {}",
                    header.page_size, self.0.layers.page_size
                ),
            });
        }
        let base = match header.base {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => None,
            id => Some(self.commit_of(&id)?.ok_or_else(|| Error::NotFound {
                what: "commit in this store on which the stream builds".into(),
                hint: "; import the commits up to it first".into(),
            })?),
        };
        let mut import = Import {
            store: self,
            maintenance: &maintenance,
            fd,
            chain: Chain::new(header.stream),
            commits: Vec::new(),
            spooled: Vec::new(),
            tables: BTreeMap::new(),
            receiving: None,
            base,
            places: Vec::new(),
            progress,
            received: 0,
        };
        let done = import
            .receive_all(header.commits, header.bytes)
            .and_then(|()| import.make_commits());
        for place in &import.places {
            // An installed file has its final name by now. The next open removes a file that cannot
            // be removed here.
            let _ = self.0.files.unlink(place);
        }
        // Only copies are lost, but the store is poisoned: the caller has to know that the disk
        // fails to write.
        done.inspect_err(|error| {
            if matches!(error, Error::Sync { .. }) {
                self.poison(error);
            }
        })
    }

    /// The commit of this store that has this unique id.
    fn commit_of(&self, unique_id: &[u8; 16]) -> Result<Option<Arc<Commit>>> {
        let state = self.enter()?;
        let found = state
            .history
            .commits()
            .find(|commit| has_id(commit, unique_id));
        Ok(found.cloned())
    }
}

fn receive(fd: RawFd, buffer: &mut [u8]) -> Result<()> {
    if pipe::read(fd, buffer)? != buffer.len() {
        return Err(bad("it ends too early"));
    }
    Ok(())
}

impl Import<'_, '_> {
    fn receive_all(&mut self, commits: u64, bytes: u64) -> Result<()> {
        let mut payload = Vec::new();
        loop {
            let total = bytes.max(self.received);
            self.store
                .report_progress(&mut self.progress, self.received, total)?;
            let mut head = [0; FRAME];
            receive(self.fd, &mut head)?;
            let head = self.chain.head(&head)?;
            if payload.len() < head.length {
                payload = try_filled(head.length, 0u8, "a frame of a stream")?;
            }
            let payload = &mut payload[..head.length];
            receive(self.fd, payload)?;
            match self.chain.frame(&head, payload)? {
                Frame::Commit(commit) => self.begin_commit(commit)?,
                Frame::Module { id, size, digest } => self.begin_module(id, size, digest)?,
                Frame::Zeros { start, count } => {
                    self.zeros(start, count)?;
                    self.received += count * self.store.page_size();
                }
                Frame::Pages { start, bytes } => {
                    self.pages(start, bytes)?;
                    self.received += bytes.len() as u64;
                }
                Frame::End { frames } => {
                    self.end_commit()?;
                    if frames + 1 != self.chain.frames() || self.commits.len() as u64 != commits {
                        return Err(bad(
                            "its numbers of commits and frames are not what it says",
                        ));
                    }
                    return Ok(());
                }
            }
        }
    }

    fn begin_commit(&mut self, commit: Arc<Commit>) -> Result<()> {
        self.end_commit()?;
        let known = self.store.commit_of(&commit.unique_id)?;
        let twice = self.commits.iter();
        if twice
            .into_iter()
            .any(|other| has_id(&other.commit, &commit.unique_id))
        {
            return Err(bad("it has a commit twice"));
        }
        if let Some(known) = &known {
            let same = |a: &ModuleEntry, b: &ModuleEntry| {
                (a.id == b.id) && a.size == b.size && a.digest == b.digest
            };
            let modules = commit.modules.iter().zip(&known.modules);
            if commit.modules.len() != known.modules.len()
                || !modules.into_iter().all(|(a, b)| same(a, b))
            {
                return Err(bad("this store has one of its commits with other bytes"));
            }
            // The files below the next commits are in this store.
            self.tables.clear();
        }
        let modules = known.iter().flat_map(|known| &known.modules).map(|entry| {
            let held = Held::Here(entry.module_commit);
            (entry.id.clone(), (held, entry.size, entry.digest))
        });
        self.commits.push(Incoming {
            commit,
            here: known.as_ref().map(|known| known.number),
            modules: modules.collect(),
        });
        Ok(())
    }

    /// A module at the parent of the last commit.
    fn below(&self, id: &str) -> Option<(Held, u64, Digest)> {
        match self.commits.len().checked_sub(2) {
            Some(at) => self.commits[at].modules.get(id).copied(),
            None => self
                .base
                .as_ref()
                .and_then(|base| base.module(id))
                .map(|entry| (Held::Here(entry.module_commit), entry.size, entry.digest)),
        }
    }

    fn last(&mut self) -> Result<&mut Incoming> {
        self.commits
            .last_mut()
            .ok_or_else(|| bad("it has pages before its first commit"))
    }

    fn begin_module(&mut self, id: &str, size: u64, digest: Digest) -> Result<()> {
        self.end_module()?;
        let last = self.last()?;
        let skipped = last.here.is_some();
        let entry = last
            .commit
            .module(id)
            .filter(|e| e.size == size && e.digest == digest);
        if entry.is_none() || (!skipped && last.modules.contains_key(id)) {
            return Err(bad(format!("module \"{id}\" is not what its commit says")));
        }
        if skipped {
            return Ok(());
        }
        let layers = &self.store.0.layers;
        let below = self.below(id);
        check_module_size(id, size)?;
        let whole = size > 0 && size % layers.page_size == 0;
        if !whole || below.is_some_and(|(_, before, _)| before > size) {
            return Err(bad(format!("module \"{id}\" has a bad size, {size} bytes")));
        }
        let count = size / layers.page_size;
        let mut table = match (self.tables.remove(id), below) {
            (Some(table), _) => table,
            (None, Some((Held::Here(commit), before, _))) => {
                PageTable::of_chain(count, &layers.chain(id, commit, before)?)?
            }
            (None, _) => PageTable::new(count)?,
        };
        table.grow(count)?;
        let temporary = Place::hidden(format!("{}import-{}", name::TEMPORARY, self.places.len()));
        layers.files.unlink(&temporary)?;
        let file = layers.files.create(&temporary)?;
        self.places.push(temporary.clone());
        let shape = if below.is_some() {
            Shape::Delta
        } else {
            Shape::Image
        };
        if shape == Shape::Image {
            file.set_len(size)?;
        }
        self.receiving = Some(Receiving {
            index: Index {
                module: id.to_owned(),
                commit: 0,
                parent: 0,
                shape,
                page_size: layers.page_size,
                size,
                digest: below.map_or(Digest::default(), |(_, _, digest)| digest),
                changed: None,
                former: None,
                runs: Vec::new(),
                checksums: Checksums::default(),
            },
            checksums: Vec::new(),
            wanted: digest,
            below: below.map(|(held, _, _)| held),
            table,
            file,
            place: temporary,
            written: 0,
        });
        Ok(())
    }

    /// Takes the module that the pages belong to. `None`: this store has the commit already, and
    /// the pages are not needed. Refuses pages that do not ascend or are outside of the module.
    fn take(&mut self, start: u64, count: u64) -> Result<Option<&mut Receiving>> {
        if self.last()?.here.is_some() {
            return Ok(None);
        }
        let layers = &self.store.0.layers;
        let receiving = self
            .receiving
            .as_mut()
            .ok_or_else(|| bad("it has pages that belong to no module"))?;
        let next = receiving.index.runs.last().map_or(0, IndexRun::end);
        let end = start.checked_add(count);
        let size = receiving.index.size / receiving.index.page_size;
        if count == 0 || start < next || end.is_none_or(|end| end > size) {
            return Err(bad(format!(
                "it has {count} page(s) from page {start}; the module has {size} pages, and page {next} is the first that may follow"
            )));
        }
        for page in start..start + count {
            if let Some(old) = receiving.table.checksum(layers, page)? {
                receiving.index.digest.remove(page, old);
            }
        }
        Ok(Some(receiving))
    }

    fn zeros(&mut self, start: u64, count: u64) -> Result<()> {
        if let Some(receiving) = self.take(start, count)? {
            if receiving.index.shape == Shape::Image {
                return Err(bad("it has zeros in a module that begins as zeros"));
            }
            receiving.index.push(start, count, Content::Zero);
        }
        Ok(())
    }

    fn pages(&mut self, start: u64, bytes: &[u8]) -> Result<()> {
        let size = self.store.0.layers.page_size as usize;
        let count = (bytes.len() / size) as u64;
        if bytes.len() % size != 0 || count > MAX_PAGES {
            return Err(bad("it has a frame that is not whole pages, or too many"));
        }
        let Some(receiving) = self.take(start, count)? else {
            return Ok(());
        };
        for (page, bytes) in (start..).zip(bytes.chunks_exact(size)) {
            if bytes.iter().all(|byte| *byte == 0) {
                return Err(bad(format!("page {page} is marked as data but is zero")));
            }
            let sum = checksum::page(bytes);
            receiving.checksums.push(sum);
            receiving.index.digest.add(page, sum);
        }
        receiving.index.push(start, count, Content::Data);
        let offset = match receiving.index.shape {
            Shape::Image => start * size as u64,
            Shape::Delta => receiving.written,
        };
        receiving.written += bytes.len() as u64;
        receiving.file.write_at(&[IoSlice::new(bytes)], offset)
    }

    fn end_module(&mut self) -> Result<()> {
        let Some(receiving) = self.receiving.take() else {
            return Ok(());
        };
        let Receiving {
            mut index,
            checksums,
            wanted,
            below,
            mut table,
            file,
            place,
            ..
        } = receiving;
        if index.digest != wanted {
            return Err(bad(format!(
                "the pages of module \"{}\" do not match its digest",
                index.module
            )));
        }
        // The file is synced here, while the descriptor that wrote it is still open. Later calls
        // open the file anew.
        file.sync()?;
        index.checksums = Checksums::known(checksums);
        let index = Arc::new(index);
        table.apply(&index)?;
        self.tables.insert(index.module.clone(), table);
        let held = Held::Spooled(self.spooled.len());
        let (id, size, digest) = (index.module.clone(), index.size, index.digest);
        self.spooled.push(Spooled {
            index,
            below,
            place,
        });
        self.last()?.modules.insert(id, (held, size, digest));
        Ok(())
    }

    /// Ends a commit of the stream. Its modules that are not in the stream are as at its parent.
    fn end_commit(&mut self) -> Result<()> {
        self.end_module()?;
        let Some(last) = self.commits.last() else {
            return Ok(());
        };
        if last.here.is_some() {
            return Ok(());
        }
        for entry in &last.commit.clone().modules {
            if self.last()?.modules.contains_key(&entry.id) {
                continue;
            }
            let below = self.below(&entry.id);
            match below.filter(|(_, size, digest)| *size == entry.size && *digest == entry.digest) {
                Some(below) => {
                    self.last()?.modules.insert(entry.id.clone(), below);
                }
                None => return Err(bad(format!("module \"{}\" is missing", entry.id))),
            }
        }
        Ok(())
    }
}
