//! Export streams of another store for imports: one commit, and one that was made on it.

use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};

use super::recorded::RecordedFiles;
use super::{About, Bytes, CommitOptions, Moment, Rig, Store, map_options, rig};
use crate::Result;
use crate::sys::host;

/// A stream, the bytes of its last commit, and the info of this commit.
pub(crate) struct Sent {
    stream: Vec<u8>,
    pub(crate) bytes: Bytes,
    about: About,
}

fn make() -> [Sent; 2] {
    let store = Store::open_files(RecordedFiles::new(true), "source", rig::open_options()).unwrap();
    let page = host::page_size();
    let mut bytes = Bytes::new();
    let modules = ["a", "b"].map(|id| {
        bytes.insert(id.to_owned(), vec![0; 2 * page as usize]);
        store.map_module(id, 2 * page, &map_options()).unwrap()
    });
    [1, 2].map(|number: u8| {
        for (module, at) in modules.iter().zip([0, page]) {
            let page = vec![200 + number; page as usize];
            module.mapped().memory.write(at, &page);
            module.mark_dirty(at, page.len() as u64).unwrap();
            let known = bytes.get_mut(&module.mapped().id).unwrap();
            known[at as usize..][..page.len()].copy_from_slice(&page);
        }
        let options = CommitOptions {
            label: format!("sent {number}"),
            user_data: Some(Arc::new(vec![number; 40])),
            ..CommitOptions::default()
        };
        let commit = store.commit(&options).unwrap();
        let about = About::of(&store, commit);
        // Less than a socket can buffer.
        let (mut from, to) = UnixStream::pair().unwrap();
        store.export(commit - 1, commit, to.as_raw_fd()).unwrap();
        drop(to);
        let mut stream = Vec::new();
        from.read_to_end(&mut stream).unwrap();
        let bytes = bytes.clone();
        Sent {
            stream,
            bytes,
            about,
        }
    })
}

/// The streams, made once for all tests of the process, with ids that no other store has.
pub(crate) fn sent() -> &'static [Sent; 2] {
    static SENT: OnceLock<[Sent; 2]> = OnceLock::new();
    SENT.get_or_init(|| {
        let made = std::thread::spawn(|| {
            host::repeatable::begin(1 << 40);
            make()
        });
        made.join().unwrap()
    })
}

fn import(store: &Store, sent: &Sent) -> Result<u64> {
    let (from, mut to) = UnixStream::pair().unwrap();
    to.write_all(&sent.stream).unwrap();
    drop(to);
    store.import(from.as_raw_fd())
}

/// A call that a poisoned store must refuse.
pub(crate) fn import_first(store: &Store) -> Result<u64> {
    import(store, &sent()[0])
}

impl Rig {
    /// Whether an import is possible. Where there is no head, the import becomes the head, and then no module may
    /// be mapped.
    pub(crate) fn can_import(&self) -> bool {
        self.oracle.now().head != 0 || !["a", "b"].iter().any(|id| self.has(id))
    }

    /// Imports the first stream; the second stream if the first is there; otherwise the second again, which changes
    /// nothing.
    pub(crate) fn import_next(&mut self) {
        let [first, second] = sent();
        let there = |rig: &Self| {
            let mut commits = rig.oracle.now().commits.iter();
            let same = |commit: &&u64| *rig.oracle.bytes[*commit] == first.bytes;
            commits.any(|commit| same(&commit))
        };
        let sent = if there(self) { second } else { first };
        if let Some(number) = self.again("import", |rig| import(&rig.store, sent)) {
            self.imported(number, sent);
        }
        self.mark();
    }

    fn imported(&mut self, number: u64, sent: &Sent) {
        if self.oracle.now().commits.contains(&number) {
            assert_eq!(*self.oracle.bytes[&number], sent.bytes);
            return;
        }
        self.learn(number, &sent.about, Arc::new(sent.bytes.clone()));
        let mut moment: Moment = self.oracle.now().clone();
        moment.commits.push(number);
        if moment.head == 0 {
            moment.head = number;
        }
        self.oracle.moments.push(moment);
    }
}
