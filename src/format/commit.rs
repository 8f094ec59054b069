//! The events in the records: a commit was made, the head moved, a commit was deleted.

use super::LAST;
use super::bytes::{Reader, Writer};
use super::checksum::Digest;
use super::name;
use crate::error::try_vec;
use std::sync::Arc;

/// The longest label in bytes.
pub(crate) const MAX_LABEL: usize = 255;
/// The most user data in bytes.
pub(crate) const MAX_USER_DATA: usize = 16 << 20;

/// One module in a commit's map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModuleEntry {
    pub(crate) id: String,
    /// The number in the name of the module commit file that holds the module's bytes.
    pub(crate) module_commit: u64,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
}

/// A session commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) number: u64,
    pub(crate) unique_id: [u8; 16],
    /// The parent commit; 0: none.
    pub(crate) parent: u64,
    /// Nanoseconds since 1970.
    pub(crate) time: u64,
    pub(crate) label: String,
    /// User data may be large. It is shared, and only copied once, when the library receives it.
    pub(crate) user_data: Arc<Vec<u8>>,
    /// Sorted by module id. Each id appears once.
    pub(crate) modules: Vec<ModuleEntry>,
}

impl Commit {
    pub(crate) fn module(&self, id: &str) -> Option<&ModuleEntry> {
        self.modules
            .binary_search_by(|entry| entry.id.as_str().cmp(id))
            .ok()
            .map(|i| &self.modules[i])
    }
}

/// One event of a store's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A commit was made and became the head.
    Committed(Arc<Commit>),
    /// A restore made this commit the head.
    HeadMoved(u64),
    /// A commit was deleted.
    Deleted(u64),
    /// A commit that is gone completely. The event only records that its number was used.
    Forgotten {
        number: u64,
        /// The parent of that commit; 0: none.
        parent: u64,
    },
}

const COMMITTED: u16 = 1;
const HEAD_MOVED: u16 = 2;
const DELETED: u16 = 3;
const FORGOTTEN: u16 = 4;

impl Event {
    /// The record type.
    pub(crate) fn kind(&self) -> u16 {
        match self {
            Self::Committed(_) => COMMITTED,
            Self::HeadMoved(_) => HEAD_MOVED,
            Self::Deleted(_) => DELETED,
            Self::Forgotten { .. } => FORGOTTEN,
        }
    }

    /// The number of the commit that the event names.
    pub(crate) fn commit(&self) -> u64 {
        match self {
            Self::HeadMoved(number) | Self::Deleted(number) | Self::Forgotten { number, .. } => {
                *number
            }
            Self::Committed(commit) => commit.number,
        }
    }

    /// The length of the record's payload, or a few bytes more.
    pub(crate) fn length(&self) -> usize {
        match self {
            Self::HeadMoved(_) | Self::Deleted(_) => 8,
            Self::Forgotten { .. } => 16,
            Self::Committed(commit) => {
                let modules = commit.modules.iter().map(|module| module.id.len() + 40);
                64 + commit.label.len() + commit.user_data.len() + modules.sum::<usize>()
            }
        }
    }

    /// Appends the record's payload.
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        let mut w = Writer(bytes);
        match self {
            Self::HeadMoved(number) | Self::Deleted(number) => drop(w.u64(*number)),
            Self::Forgotten { number, parent } => drop(w.u64(*number).u64(*parent)),
            Self::Committed(commit) => {
                w.u64(commit.number)
                    .bytes(&commit.unique_id)
                    .u64(commit.parent)
                    .u64(commit.time);
                w.text(&commit.label);
                w.u32(commit.user_data.len() as u32)
                    .bytes(&commit.user_data);
                w.u32(commit.modules.len() as u32);
                for module in &commit.modules {
                    w.text(&module.id)
                        .u64(module.module_commit)
                        .u64(module.size);
                    w.bytes(&module.digest.to_bytes());
                }
            }
        }
    }

    /// Decodes a payload whose checksum matches. `Err` says what is wrong with the payload.
    pub(crate) fn decode(kind: u16, payload: &[u8]) -> Result<Self, String> {
        let mut r = Reader(payload);
        let event = match kind {
            COMMITTED => Self::Committed(Arc::new(decode_commit(&mut r)?)),
            HEAD_MOVED => Self::HeadMoved(r.u64().ok_or(SHORT)?),
            DELETED => Self::Deleted(r.u64().ok_or(SHORT)?),
            FORGOTTEN => {
                let (number, parent) = (|| Some((r.u64()?, r.u64()?)))().ok_or(SHORT)?;
                if number == 0 || number > LAST || parent >= number {
                    return Err(impossible_parent(number, parent));
                }
                Self::Forgotten { number, parent }
            }
            other => return Err(format!("unknown record type {other}")),
        };
        if r.is_empty() {
            Ok(event)
        } else {
            Err("its payload has bytes after its last field".into())
        }
    }

    /// Whether this library knows a record type.
    pub(crate) fn knows(kind: u16) -> bool {
        matches!(kind, COMMITTED | HEAD_MOVED | DELETED | FORGOTTEN)
    }
}

const SHORT: &str = "its payload is too short";

fn impossible_parent(number: u64, parent: u64) -> String {
    format!("commit number {number} with parent {parent} is not possible")
}

fn decode_commit(r: &mut Reader<'_>) -> Result<Commit, String> {
    let number = r.u64().ok_or(SHORT)?;
    let unique_id = r.array().ok_or(SHORT)?;
    let parent = r.u64().ok_or(SHORT)?;
    let time = r.u64().ok_or(SHORT)?;
    let label = r.text().ok_or(SHORT)?;
    let length = r.u32().ok_or(SHORT)? as usize;
    // `take` fails beyond the end of the payload, so the allocation is never larger than the file.
    let bytes = r.take(length).ok_or(SHORT)?;
    let mut user_data = try_vec(length, "user data").map_err(|error| error.to_string())?;
    user_data.extend_from_slice(bytes);
    let count = r.u32().ok_or(SHORT)?;
    if number == 0 || number > LAST || parent >= number {
        return Err(impossible_parent(number, parent));
    }
    if label.len() > MAX_LABEL || length > MAX_USER_DATA {
        return Err(format!(
            "a label of {} bytes or user data of {length} bytes is too long",
            label.len()
        ));
    }
    let mut modules: Vec<ModuleEntry> = Vec::new();
    for _ in 0..count {
        let id = r.text().ok_or(SHORT)?;
        name::check_module_id(id).map_err(|error| error.to_string())?;
        let module_commit = r.u64().ok_or(SHORT)?;
        let size = r.u64().ok_or(SHORT)?;
        let digest = Digest::from_bytes(r.array().ok_or(SHORT)?);
        if module_commit == 0 || module_commit > number || size == 0 {
            return Err(format!(
                "module \"{id}\" with module commit {module_commit} and size {size} is not possible in commit {number}"
            ));
        }
        if modules.last().is_some_and(|last| last.id.as_str() >= id) {
            return Err(format!("module \"{id}\" is out of order"));
        }
        modules.push(ModuleEntry {
            id: id.into(),
            module_commit,
            size,
            digest,
        });
    }
    Ok(Commit {
        number,
        unique_id,
        parent,
        time,
        label: label.into(),
        user_data: Arc::new(user_data),
        modules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Commit {
        let module = |id: &str, module_commit| ModuleEntry {
            id: id.into(),
            module_commit,
            size: 8192,
            digest: Digest(99),
        };
        Commit {
            number: 7,
            unique_id: *b"one commit's id!",
            parent: 4,
            time: 123,
            label: "before update".into(),
            user_data: Arc::new(vec![1, 2, 3]),
            modules: vec![module("dev", 7), module("ram", 2)],
        }
    }

    #[test]
    fn events_survive() {
        for event in [
            Event::Committed(Arc::new(example())),
            Event::HeadMoved(3),
            Event::Deleted(9),
            Event::Forgotten {
                number: 9,
                parent: 3,
            },
        ] {
            let mut bytes = Vec::new();
            event.encode(&mut bytes);
            assert_eq!(Event::decode(event.kind(), &bytes), Ok(event.clone()));
            for cut in 0..bytes.len() {
                assert!(
                    Event::decode(event.kind(), &bytes[..cut]).is_err(),
                    "cut at {cut}"
                );
            }
            bytes.push(0);
            assert!(Event::decode(event.kind(), &bytes).is_err());
            // `length` is what an append reserves. It may be a little larger than the payload.
            let written = bytes.len() - 1;
            assert!((written..written + 64).contains(&event.length()));
        }
    }

    /// Whether the decoder accepts the example after this change.
    fn is_accepted(change: impl FnOnce(&mut Commit)) -> bool {
        let mut commit = example();
        change(&mut commit);
        let mut bytes = Vec::new();
        Event::Committed(Arc::new(commit)).encode(&mut bytes);
        Event::decode(COMMITTED, &bytes).is_ok()
    }

    #[test]
    fn every_limit_is_exact() {
        assert!(is_accepted(|c| c.number = LAST));
        assert!(!is_accepted(|c| c.number = LAST + 1));
        assert!(is_accepted(|c| c.parent = 6) && !is_accepted(|c| c.parent = 7));
        assert!(is_accepted(|c| c.label = "l".repeat(MAX_LABEL)));
        assert!(!is_accepted(|c| c.label = "l".repeat(MAX_LABEL + 1)));
        assert!(is_accepted(
            |c| c.user_data = Arc::new(vec![0; MAX_USER_DATA])
        ));
        let more = MAX_USER_DATA + 1;
        assert!(!is_accepted(|c| c.user_data = Arc::new(vec![0; more])));
        assert!(is_accepted(|c| c.modules[1].module_commit = 7));
        assert!(!is_accepted(|c| c.modules[1].module_commit = 8));
        assert!(!is_accepted(|c| c.modules[1].module_commit = 0));
        assert!(is_accepted(|c| c.modules[1].size = 1) && !is_accepted(|c| c.modules[1].size = 0));
        assert!(!is_accepted(|c| c.modules[1].id = "dev".into()));
        let forgotten = |number: u64, parent: u64| {
            let mut bytes = Vec::new();
            Event::Forgotten { number, parent }.encode(&mut bytes);
            Event::decode(FORGOTTEN, &bytes).is_ok()
        };
        assert!(forgotten(1, 0) && forgotten(LAST, LAST - 1));
        assert!(!forgotten(0, 0) && !forgotten(LAST + 1, 1) && !forgotten(4, 4));
    }

    #[test]
    fn nonsense_is_refused() {
        type CommitEdit = fn(&mut Commit);
        let changes: [CommitEdit; 6] = [
            |c| c.number = 0,
            |c| c.parent = 7,
            |c| c.modules[0].module_commit = 8,
            |c| c.modules[0].size = 0,
            |c| c.modules.swap(0, 1),
            |c| c.modules[0].id = "a/b".into(),
        ];
        for (index, change) in changes.iter().enumerate() {
            let mut commit = example();
            change(&mut commit);
            let mut bytes = Vec::new();
            Event::Committed(Arc::new(commit)).encode(&mut bytes);
            assert!(Event::decode(COMMITTED, &bytes).is_err(), "change {index}");
        }
    }
}
