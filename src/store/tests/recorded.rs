//! Files in memory that remember every operation, and can be rebuilt as a crash would have left
//! them.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::fd::RawFd;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Random;
use crate::sys::fs::{Access, Dir, Entry, File, Files, Kind, Place};
use crate::{Error, Result};

/// What the disk tears writes into.
const SECTOR: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Node {
    File(usize),
    Link(String),
}

/// One operation, as it was asked for.
#[derive(Debug, Clone)]
pub(in crate::store) enum Operation {
    /// A directory entry came, went or changed: old name freed, new name set.
    Name {
        free: Option<Place>,
        set: Option<(Place, Node)>,
    },
    Write {
        inode: usize,
        offset: u64,
        bytes: Vec<u8>,
    },
    SetLen {
        inode: usize,
        length: u64,
    },
    Sync {
        inode: usize,
    },
    SyncDir(Dir),
    /// A sync that was taken out, so that positions stay.
    Nothing,
}

/// Which operations fail.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::store) struct Fuse {
    /// Operations so far.
    pub(in crate::store) count: u64,
    /// The first that fails; 0: none.
    pub(in crate::store) at: u64,
    /// How many fail from there.
    pub(in crate::store) times: u64,
}

#[derive(Default)]
struct State {
    fuse: Fuse,
    inodes: Vec<Vec<u8>>,
    names: BTreeMap<Place, Node>,
    log: Vec<Operation>,
}

/// A store directory in memory.
pub(in crate::store) struct RecordedFiles {
    state: Arc<Mutex<State>>,
    /// 0: this host does not tell.
    boot: u8,
}

/// How much of what was not synced a crash leaves.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) enum Crash {
    /// Everything: only the process died.
    Kill,
    /// Of every hundred unsynced sectors and names this many, by chance.
    PowerCut(u64),
}

impl RecordedFiles {
    /// An empty directory on a host that tells its boot id, or does not.
    pub(in crate::store) fn new(tells_boot: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Arc::default(),
            boot: u8::from(tells_boot),
        })
    }

    /// Lights or puts out the fuse, and returns it as it was.
    pub(in crate::store) fn set_fuse(&self, fuse: Fuse) -> Fuse {
        std::mem::replace(&mut self.state.lock().fuse, fuse)
    }

    pub(in crate::store) fn recorded(&self) -> usize {
        self.state.lock().log.len()
    }

    pub(in crate::store) fn log(&self) -> Vec<Operation> {
        self.state.lock().log.clone()
    }

    /// The directory as a crash after the first `count` operations left it. What was there before
    /// the recording began is durable.
    pub(in crate::store) fn crashed(
        &self,
        base: &Self,
        count: usize,
        crash: Crash,
        random: &mut Random,
    ) -> Arc<Self> {
        let log = &self.state.lock().log;
        let log = &log[..count];
        let before = base.state.lock();
        let (mut inodes, mut names) = (before.inodes.clone(), before.names.clone());
        let mut survives = || match crash {
            Crash::Kill => true,
            Crash::PowerCut(percent) => random.below(100) < percent,
        };
        for (at, operation) in log.iter().enumerate() {
            let later = &log[at..];
            match operation {
                Operation::Write {
                    inode,
                    offset,
                    bytes,
                } => {
                    let synced = is_synced(later, *inode);
                    let content = content(&mut inodes, *inode);
                    for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                        if synced || survives() {
                            put(content, *offset as usize + number * SECTOR, sector);
                        }
                    }
                }
                Operation::SetLen { inode, length } => {
                    if is_synced(later, *inode) || survives() {
                        content(&mut inodes, *inode).resize(*length as usize, 0);
                    }
                }
                Operation::Name { free, set } => {
                    let dir = set
                        .as_ref()
                        .map_or_else(|| free.as_ref().unwrap().dir, |s| s.0.dir);
                    if later
                        .iter()
                        .any(|o| matches!(o, Operation::SyncDir(d) if *d == dir))
                        || survives()
                    {
                        if let Some(place) = free {
                            names.remove(place);
                        }
                        names.extend(set.clone());
                    }
                }
                Operation::Nothing | Operation::Sync { .. } | Operation::SyncDir(_) => {}
            }
        }
        let boots = self.boot != 0 && !matches!(crash, Crash::Kill);
        let boot = self.boot + u8::from(boots);
        let state = State {
            inodes,
            names,
            log: Vec::new(),
            fuse: Fuse::default(),
        };
        Arc::new(Self {
            state: Arc::new(Mutex::new(state)),
            boot,
        })
    }

    /// The directory as it was when its owner was killed after the first `count` operations, with the
    /// recording so far: what it had not synced is still not durable.
    pub(in crate::store) fn killed(
        &self,
        base: &Self,
        count: usize,
        random: &mut Random,
    ) -> Arc<Self> {
        let left = self.crashed(base, count, Crash::Kill, random);
        left.state.lock().log = self.state.lock().log[..count].to_vec();
        left
    }

    /// Takes every sync out of the recording.
    pub(in crate::store) fn forget_syncs(&self) {
        let keep = |o: &Operation| !matches!(o, Operation::Sync { .. } | Operation::SyncDir(_));
        for operation in &mut self.state.lock().log {
            if !keep(operation) {
                *operation = Operation::Nothing;
            }
        }
    }

    /// The same directory, with a recording of its own.
    pub(in crate::store) fn copy(&self) -> Arc<Self> {
        let state = self.state.lock();
        let copy = State {
            inodes: state.inodes.clone(),
            names: state.names.clone(),
            log: Vec::new(),
            fuse: Fuse::default(),
        };
        Arc::new(Self {
            state: Arc::new(Mutex::new(copy)),
            boot: self.boot,
        })
    }
}

fn is_synced(later: &[Operation], inode: usize) -> bool {
    later
        .iter()
        .any(|o| matches!(o, Operation::Sync { inode: synced } if *synced == inode))
}

fn content(inodes: &mut Vec<Vec<u8>>, inode: usize) -> &mut Vec<u8> {
    if inodes.len() <= inode {
        inodes.resize(inode + 1, Vec::new());
    }
    &mut inodes[inode]
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
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

impl State {
    /// Counts an operation, and fails it if its turn has come.
    fn burn(&mut self, what: &str) -> Result<()> {
        self.fuse.count += 1;
        let Fuse { count, at, times } = self.fuse;
        if at != 0 && (at..at + times).contains(&count) {
            return Err(Error::Io {
                operation: format!("recorded {what}, operation {count}"),
                errno: libc::ENOSPC,
            });
        }
        Ok(())
    }

    fn change(&mut self, free: Option<Place>, set: Option<(Place, Node)>) {
        if let Some(place) = &free {
            self.names.remove(place);
        }
        self.names.extend(set.clone());
        self.log.push(Operation::Name { free, set });
    }

    fn set_new(&mut self, place: &Place, node: Node) -> Result<()> {
        if self.names.contains_key(place) {
            return Err(no_entry(place, libc::EEXIST));
        }
        self.change(None, Some((place.clone(), node)));
        Ok(())
    }
}

impl Files for RecordedFiles {
    fn create(&self, place: &Place) -> Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.burn("create")?;
        let inode = state.inodes.len();
        state.set_new(place, Node::File(inode))?;
        state.inodes.push(Vec::new());
        Ok(Arc::new(RecordedFile {
            state: self.state.clone(),
            inode,
        }))
    }

    fn open(&self, place: &Place, _: Access) -> Result<Option<Arc<dyn File>>> {
        let mut state = self.state.lock();
        state.burn("open")?;
        match state.names.get(place) {
            None => Ok(None),
            Some(Node::Link(_)) => Err(Error::corrupt(
                place.to_string(),
                "it is not a regular file",
            )),
            Some(Node::File(inode)) => Ok(Some(Arc::new(RecordedFile {
                state: self.state.clone(),
                inode: *inode,
            }))),
        }
    }

    fn rename(&self, from: &Place, to: &Place) -> Result<()> {
        let mut state = self.state.lock();
        state.burn("rename")?;
        let node = state
            .names
            .get(from)
            .cloned()
            .ok_or_else(|| no_entry(from, libc::ENOENT))?;
        if state.names.get(to) != Some(&node) {
            state.change(Some(from.clone()), Some((to.clone(), node)));
        }
        Ok(())
    }

    fn link(&self, from: &Place, to: &Place) -> Result<()> {
        let mut state = self.state.lock();
        state.burn("link")?;
        let node = state
            .names
            .get(from)
            .cloned()
            .ok_or_else(|| no_entry(from, libc::ENOENT))?;
        state.set_new(to, node)
    }

    fn symlink(&self, target: &str, place: &Place) -> Result<()> {
        let mut state = self.state.lock();
        state.burn("symlink")?;
        state.set_new(place, Node::Link(target.to_owned()))
    }

    fn read_link(&self, place: &Place) -> Result<Option<String>> {
        Ok(match self.state.lock().names.get(place) {
            Some(Node::Link(target)) => Some(target.clone()),
            _ => None,
        })
    }

    fn unlink(&self, place: &Place) -> Result<()> {
        let mut state = self.state.lock();
        state.burn("unlink")?;
        if state.names.contains_key(place) {
            state.change(Some(place.clone()), None);
        }
        Ok(())
    }

    fn list(&self, dir: Dir) -> Result<Vec<Entry>> {
        let mut state = self.state.lock();
        state.burn("list")?;
        let own = state.names.iter().filter(|(place, _)| place.dir == dir);
        Ok(own
            .map(|(place, node)| Entry {
                name: place.name.clone(),
                kind: if matches!(node, Node::File(_)) {
                    Kind::File
                } else {
                    Kind::Link
                },
            })
            .collect())
    }

    fn sync_dir(&self, dir: Dir) -> Result<()> {
        let mut state = self.state.lock();
        state.burn("sync").map_err(|error| as_sync(&error))?;
        state.log.push(Operation::SyncDir(dir));
        Ok(())
    }

    fn boot_id(&self) -> [u8; 16] {
        [self.boot; 16]
    }

    fn unlock(&self) {}
}

struct RecordedFile {
    state: Arc<Mutex<State>>,
    inode: usize,
}

impl File for RecordedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut state = self.state.lock();
        state.burn("read")?;
        let rest = state.inodes[self.inode]
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
        if let Err(error) = state.burn("write") {
            // As a short write leaves it; but a header is less than a sector, and is never torn.
            if offset > 0 {
                let half = bytes[..bytes.len() / 2].to_vec();
                put(&mut state.inodes[self.inode], offset as usize, &half);
                let inode = self.inode;
                state.log.push(Operation::Write {
                    inode,
                    offset,
                    bytes: half,
                });
            }
            return Err(error);
        }
        put(&mut state.inodes[self.inode], offset as usize, &bytes);
        state.log.push(Operation::Write {
            inode: self.inode,
            offset,
            bytes,
        });
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        Ok(self.state.lock().inodes[self.inode].len() as u64)
    }

    fn set_len(&self, length: u64) -> Result<()> {
        let mut state = self.state.lock();
        state.burn("set_len")?;
        state.inodes[self.inode].resize(length as usize, 0);
        state.log.push(Operation::SetLen {
            inode: self.inode,
            length,
        });
        Ok(())
    }

    fn allocate(&self, offset: u64, length: u64, keep_size: bool) -> Result<()> {
        let current = self.len()?;
        if !keep_size && offset + length > current {
            return self.set_len(offset + length);
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.burn("sync").map_err(|error| as_sync(&error))?;
        state.log.push(Operation::Sync { inode: self.inode });
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}
