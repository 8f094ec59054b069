//! Importing: a stream is read to its end, checked, and spooled; only then its commits become part of the
//! history, all with one record.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::export::is;
use super::options::Progress;
use super::{Store, SyncState, Unsynced};
use crate::error::try_filled;
use crate::format::checksum::{self, Digest};
use crate::format::commit::{Commit, Event, ModuleEntry};
use crate::format::index::{Checksums, Content, Index, IndexRun, Shape};
use crate::format::name;
use crate::format::transfer::{Chain, FRAME, Frame, HEADER, Header, MAX_PAGES, NAME};
use crate::pages::{PageTable, place};
use crate::sys::fs::{Access, Dir, File, Place};
use crate::sys::pipe;
use crate::{Error, Result};

fn bad(why: impl Into<String>) -> Error {
    Error::corrupt(NAME, why)
}

/// Where a module's bytes are at a commit of the stream.
#[derive(Clone, Copy)]
enum Held {
    /// In a file that this store has.
    Here(u64),
    /// In one that came with the stream.
    Spooled(usize),
}

/// A module commit that came with the stream: its pages are in a file that waits for its end and name.
struct Spooled {
    index: Arc<Index>,
    below: Option<Held>,
    place: Place,
}

/// A commit of the stream.
struct Incoming {
    commit: Arc<Commit>,
    /// Its number here, if it is here already.
    here: Option<u64>,
    modules: BTreeMap<String, (Held, u64, Digest)>,
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

/// A stream on its way in.
struct Import<'a, 'p> {
    store: &'a Store,
    fd: RawFd,
    chain: Chain,
    commits: Vec<Incoming>,
    spooled: Vec<Spooled>,
    /// The pages of each module at the last commit of the stream, of those that came with it.
    tables: BTreeMap<String, PageTable>,
    receiving: Option<Receiving>,
    /// What the first commit was made on.
    base: Option<Arc<Commit>>,
    /// All files made so far.
    places: Vec<Place>,
    progress: Progress<'p>,
    /// Bytes of pages so far.
    received: u64,
}

impl Store {
    /// Reads commits from a descriptor; see `store_import`. Returns the number here of the last.
    ///
    /// # Errors
    /// As `store_import`.
    pub fn import(&self, fd: RawFd) -> Result<u64> {
        self.import_with(fd, None)
    }

    /// As [`Store::import`], with progress; see `store_import_with`.
    ///
    /// # Errors
    /// As `store_import_with`.
    pub fn import_with(&self, fd: RawFd, progress: Progress<'_>) -> Result<u64> {
        self.check_reentry()?;
        let _upkeep = self.0.upkeep.lock();
        drop(self.enter_to_write()?);
        pipe::check(fd)?;
        let mut bytes = [0; HEADER];
        receive(fd, &mut bytes)?;
        let header = Header::decode(&bytes)?;
        if u64::from(header.page_size) != self.0.pages.page_size {
            return Err(Error::Unsupported {
                what: NAME.into(),
                why: format!(
                    "it has pages of {} bytes, and this store has pages of {}",
                    header.page_size, self.0.pages.page_size
                ),
            });
        }
        let base = match header.base {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => None,
            id => Some(self.commit_of(&id)?.ok_or_else(|| Error::NotFound {
                what: "commit that the stream goes on from".into(),
                hint: "; import what comes before it first".into(),
            })?),
        };
        let mut import = Import {
            store: self,
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
            .and_then(|()| import.install());
        for place in &import.places {
            // What was installed has another name by now; what stays is removed by the next open.
            let _ = self.0.files.unlink(place);
        }
        // Only copies are lost; but a disk that fails to write is to be heard of.
        done.inspect_err(|error| {
            if matches!(error, Error::Sync { .. }) {
                self.poison(error);
            }
        })
    }

    /// The commit of this store with a unique id.
    fn commit_of(&self, unique_id: &[u8; 16]) -> Result<Option<Arc<Commit>>> {
        let state = self.enter()?;
        let found = state.history.commits().find(|commit| is(commit, unique_id));
        Ok(found.cloned())
    }
}

fn receive(fd: RawFd, buffer: &mut [u8]) -> Result<()> {
    if pipe::read(fd, buffer)? != buffer.len() {
        return Err(bad("it is cut off"));
    }
    Ok(())
}

impl Import<'_, '_> {
    fn receive_all(&mut self, commits: u64, bytes: u64) -> Result<()> {
        let mut payload = Vec::new();
        loop {
            let total = bytes.max(self.received);
            self.store.tell(&mut self.progress, self.received, total)?;
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
                        return Err(bad("it does not have what it says it has"));
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
            .any(|other| is(&other.commit, &commit.unique_id))
        {
            return Err(bad("it has one commit twice"));
        }
        if let Some(known) = &known {
            let same = |a: &ModuleEntry, b: &ModuleEntry| {
                (a.id == b.id) && a.size == b.size && a.digest == b.digest
            };
            let modules = commit.modules.iter().zip(&known.modules);
            if commit.modules.len() != known.modules.len()
                || !modules.into_iter().all(|(a, b)| same(a, b))
            {
                return Err(bad("a commit of it is here with other bytes"));
            }
            // From here on, what is below is in this store.
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

    /// A module at the commit that the last one was made on.
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
            return Err(bad(format!("module \"{id}\" is not as its commit says")));
        }
        if skipped {
            return Ok(());
        }
        let pages = &self.store.0.pages;
        let below = self.below(id);
        super::map::check_most(id, size)?;
        let whole = size > 0 && size % pages.page_size == 0;
        if !whole || below.is_some_and(|(_, before, _)| before > size) {
            return Err(bad(format!("module \"{id}\" has {size} bytes")));
        }
        let count = size / pages.page_size;
        let mut table = match (self.tables.remove(id), below) {
            (Some(table), _) => table,
            (None, Some((Held::Here(commit), before, _))) => {
                PageTable::of_chain(count, &pages.chain(id, commit, before)?)?
            }
            (None, _) => PageTable::new(count)?,
        };
        table.grow(count)?;
        let temporary = Place::hidden(format!("{}import-{}", name::TEMPORARY, self.places.len()));
        pages.files.unlink(&temporary)?;
        let file = pages.files.create(&temporary)?;
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
                page_size: pages.page_size,
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

    /// The module that pages are for; `None`: it is of a commit that is here. Pages ascend and are inside.
    fn take(&mut self, start: u64, count: u64) -> Result<Option<&mut Receiving>> {
        if self.last()?.here.is_some() {
            return Ok(None);
        }
        let pages = &self.store.0.pages;
        let receiving = self
            .receiving
            .as_mut()
            .ok_or_else(|| bad("it has pages of no module"))?;
        let next = receiving.index.runs.last().map_or(0, IndexRun::end);
        let end = start.checked_add(count);
        let size = receiving.index.size / receiving.index.page_size;
        if count == 0 || start < next || end.is_none_or(|end| end > size) {
            return Err(bad(format!(
                "it has pages {start} to {end:?} behind page {next}"
            )));
        }
        for page in start..start + count {
            if let Some(old) = receiving.table.checksum(pages, page)? {
                receiving.index.digest.remove(page, old);
            }
        }
        Ok(Some(receiving))
    }

    fn zeros(&mut self, start: u64, count: u64) -> Result<()> {
        if let Some(receiving) = self.take(start, count)? {
            if receiving.index.shape == Shape::Image {
                return Err(bad("it has zeros where a module begins with them"));
            }
            receiving.index.push(start, count, Content::Zero);
        }
        Ok(())
    }

    fn pages(&mut self, start: u64, bytes: &[u8]) -> Result<()> {
        let size = self.store.0.pages.page_size as usize;
        let count = (bytes.len() / size) as u64;
        if bytes.len() % size != 0 || count > MAX_PAGES {
            return Err(bad("it has a part of a page"));
        }
        let Some(receiving) = self.take(start, count)? else {
            return Ok(());
        };
        for (page, bytes) in (start..).zip(bytes.chunks_exact(size)) {
            if bytes.iter().all(|byte| *byte == 0) {
                return Err(bad(format!("page {page} is told as data and is zero")));
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
                "the pages of module \"{}\" do not make up its digest",
                index.module
            )));
        }
        // Here, where the descriptor that wrote it is still open: later it is another one.
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

    /// Modules that were not told are as they were.
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

    /// Gives everything its number and name, and records it.
    fn install(&mut self) -> Result<u64> {
        let store = self.store;
        let last = self
            .commits
            .last()
            .ok_or_else(|| bad("it has no commits"))?;
        if let Some(here) = last.here {
            return Ok(here);
        }
        store.no_capture()?;
        for spooled in &self.spooled {
            // What is synced here is not waited for below, with commits waiting.
            if let Some(file) = store.0.files.open(&spooled.place, Access::Write)? {
                file.sync()?;
            }
        }
        // A persist under way would not know of the files.
        let _gate = store.0.gate.lock();
        let mut state = store.enter_to_write()?;
        store.no_capture()?;
        let head = state.history.head();
        if head == 0 && !state.modules.is_empty() {
            return Err(Error::Busy {
                why: "modules are mapped, and there is no commit yet that they are at",
            });
        }
        let old = state.history.head_commit().cloned();
        let mut next = state.history.next_number();
        let mut parent = self.base.as_ref().map_or(0, |base| base.number);
        let mut numbers = vec![0; self.spooled.len()];
        let mut events = Vec::new();
        for incoming in &self.commits {
            if let Some(here) = incoming.here {
                parent = here;
                continue;
            }
            let mut commit = Commit::clone(&incoming.commit);
            (commit.number, commit.parent) = (next, parent);
            for entry in &mut commit.modules {
                entry.module_commit = match incoming.modules.get(&entry.id) {
                    Some((Held::Here(number), ..)) => *number,
                    Some((Held::Spooled(at), ..)) => {
                        if numbers[*at] == 0 {
                            numbers[*at] = next;
                        }
                        numbers[*at]
                    }
                    None => return Err(bad(format!("module \"{}\" is missing", entry.id))),
                };
            }
            events.push(Event::Committed(Arc::new(commit)));
            (parent, next) = (next, next + 1);
        }
        let made: Vec<Arc<Commit>> = events
            .iter()
            .filter_map(|event| match event {
                Event::Committed(commit) => Some(commit.clone()),
                _ => None,
            })
            .collect();
        if head != 0 {
            events.push(Event::HeadMoved(head));
        }
        let mut renamed = Vec::new();
        let recorded = self.name_files(&numbers, &mut renamed).and_then(|indexes| {
            store.0.files.sync_dir(Dir::Root)?;
            Ok((indexes, state.record_all(events)?))
        });
        let (indexes, sequence) = match recorded {
            Ok(recorded) => recorded,
            Err(error) => {
                for place in &renamed {
                    let _ = store.0.files.unlink(place);
                }
                return Err(error);
            }
        };
        for (index, bytes) in indexes {
            state.stats.bytes_written += bytes;
            state.unsynced.push(Unsynced {
                module: index.module.clone(),
                commit: index.commit,
                sequence,
                bytes,
                state: SyncState::Synced,
            });
            store.0.pages.remember(index);
        }
        if let Some(mut lineage) = state.lineage.take() {
            let added = made
                .iter()
                .try_for_each(|commit| lineage.add(&store.0.pages, commit));
            state.lineage = added.is_ok().then_some(lineage);
        }
        store.move_links(&mut state, old.as_deref());
        Ok(parent)
    }

    /// Writes the ends of all files, makes them durable and gives them their names. Returns their indexes and
    /// lengths.
    fn name_files(
        &self,
        numbers: &[u64],
        renamed: &mut Vec<Place>,
    ) -> Result<Vec<(Arc<Index>, u64)>> {
        let pages = &self.store.0.pages;
        let mut indexes = Vec::new();
        for (at, spooled) in self.spooled.iter().enumerate() {
            let mut index = Index::clone(&spooled.index);
            index.commit = numbers[at];
            index.parent = match spooled.below {
                None => 0,
                Some(Held::Here(number)) => number,
                Some(Held::Spooled(below)) => numbers[below],
            };
            let file = pages.files.open(&spooled.place, Access::Write)?;
            let file =
                file.ok_or_else(|| Error::corrupt(spooled.place.to_string(), "it is missing"))?;
            let end = index.encode(&pages.store);
            file.write_at(&[IoSlice::new(&end)], index.index_offset())?;
            file.sync()?;
            let name = place(&index.module, index.commit);
            pages.files.rename(&spooled.place, &name)?;
            renamed.push(name);
            let bytes = index.index_offset() + end.len() as u64;
            indexes.push((Arc::new(index), bytes));
        }
        Ok(indexes)
    }
}
