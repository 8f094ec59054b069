//! Two disks that are files of a FUSE file system: one records its block writes and flushes, the other shows what
//! a power cut would have left of them, and forgets what is written to it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, FileAttr, FileType, Filesystem, MountOption, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
};

/// The unit in which the disks keep their bytes.
const BLOCK: usize = 4096;

type Blocks = BTreeMap<u64, Arc<Vec<u8>>>;

/// An operation on the recording disk.
#[derive(Clone)]
pub(crate) enum Event {
    Write { offset: u64, data: Arc<Vec<u8>> },
    Flush,
}

#[derive(Default)]
struct State {
    size: u64,
    /// The contents when the recording began.
    base: Blocks,
    log: Vec<Event>,
    /// The contents of the recording disk and of the other disk.
    disks: [Blocks; 2],
}

/// The disks. A clone is a handle to the same disks.
#[derive(Clone, Default)]
pub(crate) struct Disks(Arc<Mutex<State>>);

const ROOT: u64 = 1;
const NAMES: [&str; 2] = ["disk", "left"];

fn put(blocks: &mut Blocks, mut offset: u64, mut data: &[u8]) {
    while !data.is_empty() {
        let (number, within) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
        let length = data.len().min(BLOCK - within);
        let block = blocks
            .entry(number)
            .or_insert_with(|| Arc::new(vec![0; BLOCK]));
        Arc::make_mut(block)[within..within + length].copy_from_slice(&data[..length]);
        (offset, data) = (offset + length as u64, &data[length..]);
    }
}

fn get(blocks: &Blocks, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut done = 0;
    while done < length {
        let at = offset + done as u64;
        let (number, within) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
        let part = (length - done).min(BLOCK - within);
        if let Some(block) = blocks.get(&number) {
            bytes[done..done + part].copy_from_slice(&block[within..within + part]);
        }
        done += part;
    }
    bytes
}

impl Disks {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a file system's image on both disks. Nothing is recorded yet.
    pub(crate) fn load(&self, image: &Path) {
        let bytes = std::fs::read(image).unwrap();
        let mut base = Blocks::new();
        for (number, block) in bytes.chunks(BLOCK).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                put(&mut base, (number * BLOCK) as u64, block);
            }
        }
        *self.state() = State {
            size: bytes.len() as u64,
            disks: [base.clone(), base.clone()],
            base,
            log: Vec::new(),
        };
    }

    /// The number of recorded operations.
    pub(crate) fn recorded(&self) -> usize {
        self.state().log.len()
    }

    /// Replaces every flush of the recording by a write of no bytes.
    pub(crate) fn forget_flushes(&self) {
        for event in &mut self.state().log {
            if matches!(event, Event::Flush) {
                let data = Arc::default();
                *event = Event::Write { offset: 0, data };
            }
        }
    }

    /// Puts on the other disk what a power cut after the first `count` events leaves: everything that was flushed, and of
    /// the later writes those pieces of `unit` bytes for which `survives` returns true. The block at `whole` is one piece.
    /// Returns the choices.
    pub(crate) fn cut(
        &self,
        count: usize,
        unit: usize,
        whole: Option<u64>,
        mut survives: impl FnMut() -> bool,
    ) -> Vec<bool> {
        let state = &mut *self.state();
        let log = &state.log[..count];
        let flushed = log.iter().rposition(|event| matches!(event, Event::Flush));
        let mut blocks = state.base.clone();
        let mut choices = Vec::new();
        for (number, event) in log.iter().enumerate() {
            let Event::Write { offset, data } = event else {
                continue;
            };
            if Some(number) <= flushed {
                put(&mut blocks, *offset, data);
                continue;
            }
            let (mut at, mut rest) = (*offset, &data[..]);
            while !rest.is_empty() {
                let unit = if whole == Some(at) { BLOCK } else { unit };
                let (part, behind) = rest.split_at(rest.len().min(unit));
                choices.push(survives());
                if choices.last() == Some(&true) {
                    put(&mut blocks, at, part);
                }
                (at, rest) = (at + part.len() as u64, behind);
            }
        }
        state.disks[1] = blocks;
        choices
    }

    /// Mounts the directory that has both disks; they are its files `disk` and `left`.
    pub(crate) fn mount(&self, directory: &Path) -> BackgroundSession {
        let options = [MountOption::FSName("vmstore-test-disks".into())];
        fuser::spawn_mount2(self.clone(), directory, &options)
            .expect("FUSE is needed: root, /dev/fuse and the Debian package fuse3; VMSTORE_SKIP_ROOT=1 leaves it out")
    }

    fn attributes(&self, inode: u64) -> FileAttr {
        let size = if inode == ROOT { 0 } else { self.state().size };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if inode == ROOT {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// Which disk an inode is.
fn disk(inode: u64) -> Option<usize> {
    (ROOT + 1..)
        .zip(0..NAMES.len())
        .find_map(|(own, disk)| (own == inode).then_some(disk))
}

impl Filesystem for Disks {
    fn lookup(&mut self, _: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEntry) {
        match NAMES.iter().position(|own| parent == ROOT && *own == name) {
            Some(disk) => reply.entry(&Duration::ZERO, &self.attributes(ROOT + 1 + disk as u64), 0),
            None => reply.error(libc::ENOENT),
        }
    }

    fn getattr(&mut self, _: &Request<'_>, inode: u64, _: Option<u64>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &self.attributes(inode));
    }

    fn open(&mut self, _: &Request<'_>, _: u64, _: i32, reply: ReplyOpen) {
        // Without flags the kernel drops its cached pages of the file.
        reply.opened(0, 0);
    }

    fn read(
        &mut self,
        _: &Request<'_>,
        inode: u64,
        _: u64,
        offset: i64,
        size: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyData,
    ) {
        let state = self.state();
        let offset = u64::try_from(offset).unwrap_or(u64::MAX);
        let length = u64::from(size).min(state.size.saturating_sub(offset));
        match disk(inode) {
            Some(disk) => reply.data(&get(&state.disks[disk], offset, length as usize)),
            None => reply.error(libc::EISDIR),
        }
    }

    fn write(
        &mut self,
        _: &Request<'_>,
        inode: u64,
        _: u64,
        offset: i64,
        data: &[u8],
        _: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyWrite,
    ) {
        let state = &mut *self.state();
        let (Some(disk), Ok(offset)) = (disk(inode), u64::try_from(offset)) else {
            return reply.error(libc::EINVAL);
        };
        put(&mut state.disks[disk], offset, data);
        if disk == 0 {
            let data = Arc::new(data.to_vec());
            state.log.push(Event::Write { offset, data });
        }
        reply.written(data.len() as u32);
    }

    fn fsync(&mut self, _: &Request<'_>, inode: u64, _: u64, _: bool, reply: ReplyEmpty) {
        if disk(inode) == Some(0) {
            self.state().log.push(Event::Flush);
        }
        reply.ok();
    }

    fn flush(&mut self, _: &Request<'_>, _: u64, _: u64, _: u64, reply: ReplyEmpty) {
        reply.ok();
    }
}
