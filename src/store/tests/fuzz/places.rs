//! Stores that inputs start from, and directories on a real file system that are made from them.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::recorded::{Disk, Node, RecordedFiles};
use super::super::steps::{Player, Step};
use super::super::{Bytes, Oracle};
use crate::format::header::{LOG_HEADER, LogHeader, LogKind};
use crate::sys::fs::{Dir, Place};
use crate::sys::host::repeatable;

/// A store that the library made.
pub(crate) struct Base {
    pub(crate) disk: Disk,
    /// Earlier states of the store.
    pub(crate) earlier: Vec<Disk>,
    pub(crate) oracle: Oracle,
}

impl Base {
    /// The bytes of a module at a commit.
    pub(crate) fn bytes(&self, commit: u64, module: &str) -> Option<&Vec<u8>> {
        let bytes: &Bytes = self.oracle.bytes.get(&commit)?;
        bytes.get(module)
    }
}

const MADE_BY: [&[Step]; 4] = [
    &[],
    &[Step::Map, Step::Commit, Step::Commit],
    &[
        Step::Map,
        Step::Commit,
        Step::Map,
        Step::Commit,
        Step::Persist,
        Step::Commit,
        Step::Persist,
        Step::Restore,
        Step::Commit,
        Step::Commit,
    ],
    &[
        Step::Map,
        Step::Commit,
        Step::Commit,
        Step::Commit,
        Step::Persist,
        Step::Delete,
        Step::Compact,
        Step::Commit,
        Step::Restore,
    ],
];

/// All bases. They are made once.
pub(crate) fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        repeatable::begin(1);
        let make = |steps: &&[Step]| {
            let mut player = Player::new(RecordedFiles::new(true));
            let mut earlier = Vec::new();
            for step in *steps {
                earlier.push(player.rig.files.disk());
                player.step(*step);
            }
            Base {
                disk: player.rig.files.disk(),
                earlier,
                oracle: player.rig.oracle.clone(),
            }
        };
        MADE_BY.iter().map(make).collect()
    })
}

/// The id of a base's store.
pub(crate) fn id_of(disk: &Disk) -> crate::format::StoreId {
    let id = bytes_at(disk, &Place::hidden("identity")).get(16..32);
    id.and_then(|id| id.try_into().ok()).expect("an identity")
}

/// A file's bytes in a base. `None` if there is no such file.
pub(crate) fn bytes_at<'a>(disk: &'a Disk, place: &Place) -> &'a [u8] {
    match disk.names.get(place) {
        Some(Node::File(inode)) => &disk.inodes[*inode],
        _ => &[],
    }
}

/// A journal's header as this host writes it: the host has then not rebooted since.
pub(crate) fn of_this_boot(journal: &mut [u8], store: &crate::format::StoreId) {
    let place = Place::hidden("journal").to_string();
    if let Ok(mut header) = LogHeader::decode(journal, LogKind::Journal, store, &place) {
        header.boot_id = boot_id();
        let bytes = header.encode(LogKind::Journal, store);
        journal[..LOG_HEADER].copy_from_slice(&bytes);
    }
}

fn boot_id() -> [u8; 16] {
    static ID: OnceLock<[u8; 16]> = OnceLock::new();
    *ID.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        std::array::from_fn(|at| {
            let pair = digits.get(at * 2..at * 2 + 2);
            pair.map_or(0, |pair| u8::from_str_radix(pair, 16).unwrap_or(0))
        })
    })
}

/// What a name in the directory stands for.
#[derive(Clone)]
pub(crate) enum Thing {
    /// A file: its bytes, and a hole before one of them.
    File {
        bytes: Vec<u8>,
        hole: (usize, u64),
    },
    Link(String),
    /// Another name of the file of this name.
    Second(Place),
    Socket,
    Directory,
}

/// A directory in memory, where its size does not matter. It is removed when this is dropped.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let own = parent.join(format!("vmstore-fuzz-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&own);
        fs::create_dir_all(&own).unwrap();
        Self(own)
    }

    /// Makes a store directory with the content of a disk.
    pub(crate) fn make_from(&self, disk: &Disk) -> PathBuf {
        let file = |place| {
            let (bytes, hole) = (bytes_at(disk, place).to_vec(), (0, 0));
            (place, Thing::File { bytes, hole })
        };
        let things: Vec<_> = disk.names.keys().map(file).collect();
        self.make("store", things.iter().map(|(place, thing)| (*place, thing)))
    }

    /// Makes a store directory with this name and content.
    pub(crate) fn make<'a>(
        &self,
        name: &str,
        things: impl Iterator<Item = (&'a Place, &'a Thing)>,
    ) -> PathBuf {
        let root = self.0.join(name);
        fs::create_dir_all(root.join(".vmstore")).unwrap();
        let mut seconds = Vec::new();
        for (place, thing) in things {
            let path = path_of(&root, place);
            match thing {
                Thing::File { bytes, hole } => {
                    let file = fs::File::create(&path).unwrap();
                    let (before, behind) = bytes.split_at(hole.0.min(bytes.len()));
                    file.write_all_at(before, 0).unwrap();
                    let at = before.len() as u64 + hole.1;
                    file.write_all_at(behind, at).unwrap();
                    file.set_len(at + behind.len() as u64).unwrap();
                }
                Thing::Link(target) => symlink(target, &path).unwrap(),
                Thing::Second(other) => seconds.push((path_of(&root, other), path)),
                Thing::Socket => drop(UnixListener::bind(&path)),
                Thing::Directory => fs::create_dir(&path).unwrap(),
            }
        }
        for (from, to) in seconds {
            let _ = fs::hard_link(from, to);
        }
        root
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn path_of(root: &Path, place: &Place) -> PathBuf {
    match place.dir {
        Dir::Root => root.join(&place.name),
        Dir::Hidden => root.join(".vmstore").join(&place.name),
    }
}
