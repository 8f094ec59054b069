//! How much a persist writes into the journal, with one sync, and when it syncs the files themselves.

use crate::store::tests::recorded::{Operation, RecordedFiles};
use crate::store::tests::{map_options, rig};
use crate::store::{CommitOptions, Module, Store};
use crate::sys::host::page_size;
use std::sync::Arc;

/// The pages of a module: too many for an inline image, and enough for a delta of the largest inline size.
const PAGES: u64 = 100;

struct SmallCommits {
    files: Arc<RecordedFiles>,
    store: Store,
    module: Module,
    fill: u8,
}

impl SmallCommits {
    /// A store whose image is persisted.
    fn new() -> Self {
        let files = RecordedFiles::new(true);
        let store = Store::open_files(files.clone(), "test", rig::open_options()).unwrap();
        let size = PAGES * page_size();
        let module = store.map_module("a", size, &map_options()).unwrap();
        let fill = 0;
        let mut small = Self {
            files,
            store,
            module,
            fill,
        };
        small.commit(1);
        // The commit has one page, but its file is as long as the module.
        assert!(!small.persist(), "an image of {PAGES} pages");
        small
    }

    /// Makes a commit of this many pages. Returns the length of its file.
    fn commit(&mut self, pages: u64) -> u64 {
        self.fill = self.fill % 250 + 1;
        let bytes = vec![self.fill; (pages * page_size()) as usize];
        self.module.mapped().memory.write(0, &bytes);
        self.module.mark_dirty(0, bytes.len() as u64).unwrap();
        // More than fits into the arena: the file is copied in parts.
        let commit = self.store.commit(&CommitOptions::default()).unwrap();
        let files = self.store.files(commit).unwrap();
        let made = files.iter().find(|file| file.module_commit == commit);
        made.unwrap().length
    }

    /// Persists. Returns whether this took one sync of the journal.
    fn persist(&mut self) -> bool {
        let (log, before) = (self.files.log().len(), self.store.stats().unwrap());
        self.store.persist(None).unwrap();
        // The first persist also syncs the directory of the journal's name.
        let syncs = |operation: &&Operation| matches!(operation, Operation::Sync { .. });
        let syncs = self.files.log()[log..].iter().filter(syncs).count();
        let after = self.store.stats().unwrap();
        assert!(syncs > 1 || after.syncs - before.syncs == 1);
        syncs == 1
    }

    fn reopen(&mut self) {
        self.store.close().unwrap();
        self.store = Store::open_files(self.files.clone(), "test", rig::open_options()).unwrap();
        self.module = self.store.map_module("a", 0, &map_options()).unwrap();
    }
}

#[test]
fn one_file_is_inline_up_to_the_bound() {
    let mut small = SmallCommits::new();
    for pages in [1, 20, 62, 63, 64, 65, 80] {
        let length = small.commit(pages);
        assert_eq!(
            small.persist(),
            length <= 256 << 10,
            "{pages} pages, {length} bytes"
        );
    }
}

#[test]
fn several_files_are_inline_up_to_the_bound_of_their_sum() {
    let mut small = SmallCommits::new();
    for (pages, count) in [(10, 6), (10, 7), (31, 2), (32, 2)] {
        let lengths: u64 = (0..count).map(|_| small.commit(pages)).sum();
        assert_eq!(
            small.persist(),
            lengths <= 256 << 10,
            "{count} times {pages} pages"
        );
    }
}

#[test]
fn the_journal_has_no_more_inline_bytes_than_it_may() {
    for reopens in [false, true] {
        let mut small = SmallCommits::new();
        let mut carried = 0;
        for number in 1.. {
            let before = small.store.stats().unwrap().bytes_written;
            let length = small.commit(60);
            let made = small.store.stats().unwrap().bytes_written;
            if !small.persist() {
                assert!(
                    carried + length > 4 << 20,
                    "{number} files of {length} bytes"
                );
                break;
            }
            let kept = small.store.stats().unwrap().bytes_written - made;
            assert!(
                (length..length + 4096).contains(&kept),
                "{kept} bytes written for {length}"
            );
            assert!(made - before >= length);
            carried += length;
            assert!(carried <= 4 << 20);
            if reopens && number == 9 {
                small.reopen();
            }
        }
        // Then the journal starts again, empty.
        small.commit(60);
        assert!(small.persist());
    }
}

#[test]
fn the_journal_has_no_more_inline_files_than_it_may() {
    let mut small = SmallCommits::new();
    for number in 1..=256 {
        small.commit(1);
        assert!(small.persist(), "file {number}");
    }
    small.commit(1);
    assert!(!small.persist());
}
