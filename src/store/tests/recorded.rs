//! Files in memory that record every operation, and fail the operations that a fuse chooses.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::fd::RawFd;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::format::name;
use crate::sys::fs::{Access, Dir, DirEntry, EntryKind, File, Files, Place};
use crate::{Error, Result};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Node {
    File(usize),
    Link(String),
}

/// One operation, as it was requested.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    /// A directory entry was added, removed or changed: the old name is freed, the new name is set.
    Name {
        free: Option<Place>,
        set: Option<(Place, Node)>,
    },
    Write {
        inode: usize,
        offset: u64,
        bytes: Arc<[u8]>,
    },
    SetLen {
        inode: usize,
        length: u64,
    },
    Sync {
        inode: usize,
    },
    SyncDir(Dir),
    /// A sync failed. The kernel treats the unwritten pages as clean: no later sync of this file makes them
    /// durable, and the cache may drop them.
    FailedSync {
        inode: usize,
    },
}

/// What a failing write leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Short {
    Nothing,
    Half,
    AllButOneByte,
}

/// Which operations fail, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fuse {
    /// The number of operations so far.
    pub(crate) count: u64,
    /// The number of the first operation that fails; 0: none.
    pub(crate) at: u64,
    /// How many operations fail from there on.
    pub(crate) times: u64,
    pub(crate) errno: i32,
    pub(crate) short: Short,
    /// Only operations of the same kind as the first fail.
    pub(crate) alike: bool,
    /// The kind of the first operation that failed or has to fail.
    pub(crate) kind: Option<&'static str>,
    /// The number of operations that failed.
    pub(crate) burnt: u64,
    /// One of them was a sync.
    pub(crate) sync_failed: bool,
    /// One of them was a write that was partly done.
    pub(crate) wrote_part: bool,
    /// The number of writes so far. `lose` is the number of the write that the host accepts and later cannot write
    /// back; 0: none.
    pub(crate) writes: u64,
    pub(crate) lose: u64,
}

impl Fuse {
    /// From now on the host can write nothing back.
    pub(crate) fn every_sync() -> Self {
        Self {
            errno: libc::EIO,
            ..Self::every("sync", 1)
        }
    }

    /// All operations of a kind fail, from number `at` on, which counts operations of all kinds.
    pub(crate) fn every(kind: &'static str, at: u64) -> Self {
        Self {
            at,
            times: u64::MAX,
            alike: true,
            kind: Some(kind),
            ..Self::default()
        }
    }
}

impl Default for Fuse {
    fn default() -> Self {
        Self {
            count: 0,
            at: 0,
            times: 0,
            errno: libc::ENOSPC,
            short: Short::Half,
            alike: false,
            kind: None,
            burnt: 0,
            sync_failed: false,
            wrote_part: false,
            writes: 0,
            lose: 0,
        }
    }
}

/// The content of a directory: files by number, and names. Copies share the bytes that do not change.
#[derive(Default, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    pub(crate) inodes: Vec<Arc<Vec<u8>>>,
    pub(crate) names: BTreeMap<Place, Node>,
}

/// Is called before each operation.
pub(crate) type Watch = Box<dyn FnMut(&'static str) + Send>;

#[derive(Default)]
struct RecordedState {
    fuse: Fuse,
    watch: Option<Watch>,
    disk: Disk,
    log: Vec<Operation>,
    opened: u64,
    /// The descriptors that were open when the host lost something, and have not reported the loss yet.
    untold: Vec<u64>,
}

impl RecordedState {
    fn file(&mut self, state: &Arc<Mutex<RecordedState>>, inode: usize) -> Arc<dyn File> {
        self.opened += 1;
        Arc::new(RecordedFile {
            state: state.clone(),
            inode,
            number: self.opened,
        })
    }
}

/// A store directory in memory.
pub(crate) struct RecordedFiles {
    state: Arc<Mutex<RecordedState>>,
    /// 0: this host has no boot id.
    pub(crate) boot: u8,
}

impl RecordedFiles {
    /// An empty directory on a host with or without a boot id.
    pub(crate) fn new(has_boot_id: bool) -> Arc<Self> {
        Self::holding(Disk::default(), u8::from(has_boot_id))
    }

    /// A directory with this content, all of it durable.
    pub(crate) fn holding(disk: Disk, boot: u8) -> Arc<Self> {
        let state = RecordedState {
            disk,
            ..RecordedState::default()
        };
        Arc::new(Self {
            state: Arc::new(Mutex::new(state)),
            boot,
        })
    }

    /// What a killed process leaves, with its recording: nothing of that has become durable.
    pub(crate) fn killed(disk: Disk, boot: u8, log: Vec<Operation>) -> Arc<Self> {
        let files = Self::holding(disk, boot);
        files.state.lock().log = log;
        files
    }

    /// Sets the fuse, and returns the old one.
    pub(crate) fn set_fuse(&self, fuse: Fuse) -> Fuse {
        std::mem::replace(&mut self.state.lock().fuse, fuse)
    }

    /// From now on allocations fail with this error.
    #[cfg(test)]
    pub(crate) fn fail_allocations(&self, errno: i32) {
        self.set_fuse(Fuse {
            at: 1,
            times: u64::MAX,
            errno,
            alike: true,
            kind: Some("allocate"),
            ..Fuse::default()
        });
    }

    pub(crate) fn fuse(&self) -> Fuse {
        self.state.lock().fuse
    }

    pub(crate) fn set_watch(&self, watch: Option<Watch>) {
        self.state.lock().watch = watch;
    }

    pub(crate) fn recorded(&self) -> usize {
        self.state.lock().log.len()
    }

    pub(crate) fn log(&self) -> Vec<Operation> {
        self.state.lock().log.clone()
    }

    /// How many files are open. Each holds a reference to the directory.
    pub(crate) fn open_files(&self) -> usize {
        Arc::strong_count(&self.state) - 1
    }

    /// How many files were made in all.
    pub(crate) fn inodes(&self) -> usize {
        self.state.lock().disk.inodes.len()
    }

    pub(crate) fn disk(&self) -> Disk {
        self.state.lock().disk.clone()
    }

    /// The same directory, with a recording of its own.
    pub(crate) fn copy(&self) -> Arc<Self> {
        Self::holding(self.disk(), self.boot)
    }
}

/// A file's bytes, for a change.
pub(crate) fn content(disk: &mut Disk, inode: usize) -> &mut Vec<u8> {
    if disk.inodes.len() <= inode {
        disk.inodes.resize(inode + 1, Arc::default());
    }
    Arc::make_mut(&mut disk.inodes[inode])
}

pub(crate) fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn no_entry(place: &Place, errno: i32) -> Error {
    Error::Io {
        operation: format!("recorded({place})"),
        errno,
    }
}

fn as_sync(error: &Error) -> Error {
    Error::Sync {
        operation: error.to_string(),
        errno: error.errno(),
    }
}

impl RecordedState {
    /// Counts an operation, and fails it when the fuse says so.
    fn burn(&mut self, what: &'static str) -> Result<()> {
        if let Some(watch) = &mut self.watch {
            watch(what);
        }
        let fuse = &mut self.fuse;
        fuse.count += 1;
        let burns = fuse.at != 0 && fuse.count >= fuse.at && fuse.count - fuse.at < fuse.times;
        if burns && (*fuse.kind.get_or_insert(what) == what || !fuse.alike) {
            fuse.burnt += 1;
            return Err(Error::Io {
                operation: format!("recorded {what}, operation {}", fuse.count),
                errno: fuse.errno,
            });
        }
        Ok(())
    }

    fn burn_sync(&mut self) -> Result<()> {
        self.burn("sync").map_err(|error| {
            self.fuse.sync_failed = true;
            as_sync(&error)
        })
    }

    fn change(&mut self, free: Option<Place>, set: Option<(Place, Node)>) {
        if let Some(place) = &free {
            self.disk.names.remove(place);
        }
        self.disk.names.extend(set.clone());
        self.log.push(Operation::Name { free, set });
    }

    fn set_new(&mut self, place: &Place, node: Node) -> Result<()> {
        if self.disk.names.contains_key(place) {
            return Err(no_entry(place, libc::EEXIST));
        }
        self.change(None, Some((place.clone(), node)));
        Ok(())
    }

    fn node(&self, place: &Place) -> Result<Node> {
        let node = self.disk.names.get(place).cloned();
        node.ok_or_else(|| no_entry(place, libc::ENOENT))
    }

    /// Operations on the high-water mark are a kind of their own: the journal works without the mark.
    fn kind(&self, inode: usize, what: &'static str) -> &'static str {
        let mark = self.disk.names.get(&Place::hidden(name::HIGH_WATER));
        if mark == Some(&Node::File(inode)) {
            "mark"
        } else {
            what
        }
    }

    fn write(&mut self, inode: usize, offset: u64, bytes: Arc<[u8]>) {
        put(content(&mut self.disk, inode), offset as usize, &bytes);
        self.log.push(Operation::Write {
            inode,
            offset,
            bytes,
        });
    }
}

impl Files for RecordedFiles {
    fn create(&self, place: &Place) -> Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.burn("create")?;
        let inode = state.disk.inodes.len();
        state.set_new(place, Node::File(inode))?;
        state.disk.inodes.push(Arc::default());
        Ok(state.file(&self.state, inode))
    }

    fn open(&self, place: &Place, _: Access) -> Result<Option<Arc<dyn File>>> {
        let mut state = self.state.lock();
        state.burn("open")?;
        match state.disk.names.get(place) {
            None => Ok(None),
            Some(Node::Link(_)) => Err(Error::corrupt(
                place.to_string(),
                "it is not a regular file",
            )),
            Some(Node::File(inode)) => {
                let inode = *inode;
                Ok(Some(state.file(&self.state, inode)))
            }
        }
    }

    fn rename(&self, from: &Place, to: &Place) -> Result<()> {
        let mut state = self.state.lock();
        state.burn("rename")?;
        let node = state.node(from)?;
        // Renaming one name of a file to another name of the same file does nothing.
        if state.disk.names.get(to) != Some(&node) {
            state.change(Some(from.clone()), Some((to.clone(), node)));
        }
        Ok(())
    }

    fn link(&self, from: &Place, to: &Place) -> Result<()> {
        let mut state = self.state.lock();
        state.burn("link")?;
        let node = state.node(from)?;
        state.set_new(to, node)
    }

    /// Every directory in memory counts as a file system of its own.
    fn adopt(&self, _: &dyn File, _: &Place) -> Result<bool> {
        self.state.lock().burn("adopt")?;
        Ok(false)
    }

    fn symlink(&self, target: &str, place: &Place) -> Result<()> {
        let mut state = self.state.lock();
        state.burn("symlink")?;
        state.set_new(place, Node::Link(target.to_owned()))
    }

    fn read_link(&self, place: &Place) -> Result<Option<String>> {
        let mut state = self.state.lock();
        state.burn("read_link")?;
        Ok(match state.disk.names.get(place) {
            Some(Node::Link(target)) => Some(target.clone()),
            _ => None,
        })
    }

    fn unlink(&self, place: &Place) -> Result<()> {
        let mut state = self.state.lock();
        state.burn("unlink")?;
        if state.disk.names.contains_key(place) {
            state.change(Some(place.clone()), None);
        }
        Ok(())
    }

    fn list(&self, dir: Dir) -> Result<Vec<DirEntry>> {
        let mut state = self.state.lock();
        state.burn("list")?;
        let own = state
            .disk
            .names
            .iter()
            .filter(|(place, _)| place.dir == dir);
        Ok(own
            .map(|(place, node)| DirEntry {
                name: place.name.clone(),
                kind: if matches!(node, Node::File(_)) {
                    EntryKind::File
                } else {
                    EntryKind::Link
                },
            })
            .collect())
    }

    fn sync_dir(&self, dir: Dir) -> Result<()> {
        let mut state = self.state.lock();
        state.burn_sync()?;
        state.log.push(Operation::SyncDir(dir));
        Ok(())
    }

    fn boot_id(&self) -> [u8; 16] {
        [self.boot; 16]
    }

    fn unlock(&self) {}
}

struct RecordedFile {
    state: Arc<Mutex<RecordedState>>,
    inode: usize,
    /// The number of this descriptor among all that were opened.
    number: u64,
}

impl File for RecordedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut state = self.state.lock();
        let kind = state.kind(self.inode, "read");
        state.burn(kind)?;
        let rest = state.disk.inodes[self.inode]
            .get(offset as usize..)
            .unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> Result<()> {
        let bytes: Vec<u8> = slices
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        let mut state = self.state.lock();
        let kind = state.kind(self.inode, "write");
        if let Err(error) = state.burn(kind) {
            let kept = match state.fuse.short {
                // A header is less than a sector, and is never torn.
                _ if offset == 0 && bytes.len() < 512 => 0,
                Short::Nothing => 0,
                Short::Half => bytes.len() / 2,
                Short::AllButOneByte => bytes.len() - 1,
            };
            if kept > 0 {
                state.fuse.wrote_part = true;
                state.write(self.inode, offset, bytes[..kept].into());
            }
            return Err(error);
        }
        state.write(self.inode, offset, bytes.into());
        state.fuse.writes += 1;
        if state.fuse.writes == state.fuse.lose {
            // The same as after a failed sync, but no sync was called. The descriptors that have the file open will
            // report the loss.
            let inode = self.inode;
            state.log.push(Operation::FailedSync { inode });
            state.untold.push(self.number);
        }
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        let mut state = self.state.lock();
        state.burn("len")?;
        Ok(state.disk.inodes[self.inode].len() as u64)
    }

    fn set_len(&self, length: u64) -> Result<()> {
        let mut state = self.state.lock();
        state.burn("set_len")?;
        content(&mut state.disk, self.inode).resize(length as usize, 0);
        state.log.push(Operation::SetLen {
            inode: self.inode,
            length,
        });
        Ok(())
    }

    fn allocate(&self, offset: u64, length: u64, keep_size: bool) -> Result<()> {
        let current = {
            let mut state = self.state.lock();
            state.burn("allocate")?;
            state.disk.inodes[self.inode].len() as u64
        };
        if !keep_size && offset + length > current {
            return self.set_len(offset + length);
        }
        Ok(())
    }

    fn share(&self, _: &dyn File, _: u64, _: u64, _: u64) -> bool {
        false
    }

    /// Any unsynced write may reach the disk at any time.
    fn begin_sync(&self) {}

    fn sync(&self) -> Result<()> {
        let mut state = self.state.lock();
        let inode = self.inode;
        if let Some(at) = state.untold.iter().position(|of| *of == self.number) {
            state.untold.remove(at);
            state.fuse.sync_failed = true;
            return Err(Error::Sync {
                operation: "recorded sync".into(),
                errno: libc::EIO,
            });
        }
        if let Err(error) = state.burn_sync() {
            state.log.push(Operation::FailedSync { inode });
            return Err(error);
        }
        state.log.push(Operation::Sync { inode });
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}
