//! Space on the disk. On tmpfs and ext4, commits are deleted when no space is left. On XFS and btrfs, rewritten files
//! share blocks with the files that they were made of.

mod support;

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use support::mount::Mounted;
use support::{run, scratch, skipped};
use vmstore::{CommitOptions, CompactOptions, MapOptions, Store, VerifyOptions};

const PAGE: usize = 4096;

/// Only one test runs at a time. A child process that another test starts has the filler open for a moment, and the
/// space of the filler would stay taken after the filler is removed.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// A store with one module and the bytes of all its commits.
struct Filled {
    store: Store,
    module: vmstore::Module,
    model: Vec<Vec<u8>>,
}

impl Filled {
    /// Makes commits of a module. The first commit writes all pages; each other commit writes the pages for which
    /// `dirty` is true.
    fn make(at: &Path, pages: usize, commits: usize, dirty: impl Fn(usize, usize) -> bool) -> Self {
        let store = Store::open(at, vmstore::OpenOptions::default()).unwrap();
        let size = (pages * PAGE) as u64;
        let options = MapOptions::default();
        let module = store.map_module("ram", size, &options).unwrap();
        let memory = OpenOptions::new()
            .write(true)
            .open("/proc/self/mem")
            .unwrap();
        let mut now = vec![0; pages * PAGE];
        let mut model = vec![now.clone()];
        for number in 1..=commits {
            for (page, bytes) in now.chunks_exact_mut(PAGE).enumerate() {
                if number == 1 || dirty(number, page) {
                    bytes.fill(1 + (number * 7 + page) as u8 % 255);
                    bytes[..8].copy_from_slice(&((number * pages + page) as u64).to_le_bytes());
                }
            }
            memory.write_all_at(&now, module.address() as u64).unwrap();
            let made = store.commit(&CommitOptions::default()).unwrap();
            assert_eq!(made, number as u64);
            model.push(now.clone());
        }
        store.persist(None).unwrap();
        Self {
            store,
            module,
            model,
        }
    }

    /// Writes to the first page of the module.
    fn write(&self, byte: u8) {
        let memory = OpenOptions::new().write(true).open("/proc/self/mem");
        let place = self.module.address() as u64;
        memory.unwrap().write_all_at(&[byte], place).unwrap();
    }

    fn check(&self, what: &str) {
        for number in self.store.commits().unwrap() {
            self.store.restore(number, None).unwrap();
            let wanted = &self.model[number as usize];
            let mut memory = vec![0; wanted.len()];
            let own = File::open("/proc/self/mem").unwrap();
            own.read_exact_at(&mut memory, self.module.address() as u64)
                .unwrap();
            assert!(memory == *wanted, "{what}: commit {number} has other bytes");
        }
        self.store.verify(&VerifyOptions::default(), None).unwrap();
    }
}

/// The number of blocks of 512 bytes of all files in a directory.
fn blocks(at: &Path) -> u64 {
    let files = std::fs::read_dir(at).unwrap();
    let of = |file: std::io::Result<std::fs::DirEntry>| file.unwrap().metadata().unwrap().blocks();
    files.map(of).sum()
}

/// Fills the disk until `left` blocks are free.
fn fill(at: &Path, left: u64) {
    let path = at.join("filler");
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .unwrap();
    while file.write_all(&[1; PAGE]).is_ok() {}
    let length = file.metadata().unwrap().blocks() * 512;
    file.set_len(length.saturating_sub(left * PAGE as u64))
        .unwrap();
    file.sync_all().unwrap();
}

/// Deletes all commits except the head on a full disk. Returns how many files stayed until there was space.
fn delete_all(kind: &str, at: &Path, left: u64, order: usize) -> usize {
    const COMMITS: usize = 12;
    let what = format!("{kind}, {left} free blocks, order {order}");
    let store = at.join("store");
    // Each commit writes half of the pages, and the next commit writes most of them again. To merge a commit into its
    // child thus saves space.
    let filled = Filled::make(&store, 64, COMMITS, |number, page| (page + number) % 16 < 8);
    // Half of the commits are ancestors of the head. The other half are its descendants.
    filled.store.restore(COMMITS as u64 / 2, None).unwrap();
    let before = blocks(&store);
    fill(at, left);
    for step in 0..COMMITS {
        let commit = 1 + match order {
            0 => step,
            1 => COMMITS - 1 - step,
            _ => step * 7 % COMMITS,
        };
        if commit != COMMITS / 2 {
            let deleted = filled.store.delete_commit(commit as u64);
            deleted.unwrap_or_else(|error| panic!("{what}: commit {commit}: {error}"));
        }
    }
    filled.check(&what);
    filled
        .store
        .persist(None)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let stayed = std::fs::read_dir(&store).unwrap().filter(|file| {
        let name = file.as_ref().unwrap().file_name();
        name.to_string_lossy().contains("_Commit")
    });
    let stayed = stayed.count() - 1;
    // What is above the others needs none of them.
    assert!(
        blocks(&store) < before || order == 0,
        "{what}: nothing was given back"
    );
    std::fs::remove_file(at.join("filler")).unwrap();
    filled
        .store
        .compact(&CompactOptions::default(), None)
        .unwrap_or_else(|error| panic!("{what}: compact: {error}"));
    filled.check(&what);
    // One image of 64 pages is left, of one image and eleven deltas of 32 pages each.
    assert!(
        blocks(&store) * 5 < before * 2,
        "{what}: {} of {before} blocks",
        blocks(&store)
    );
    filled.store.close().unwrap();
    std::fs::remove_dir_all(&store).unwrap();
    stayed
}

#[test]
fn promise_3_deleting_needs_no_room() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if skipped("promise_3_deleting_needs_no_room") {
        return;
    }
    let directory = scratch();
    for kind in ["tmpfs", "ext4"] {
        let mounted = Mounted::new(kind, directory.path(), 16);
        let (mut tried, mut stayed) = (0, 0);
        for left in [0, 1, 2, 5, 20, 70, 200] {
            for order in 0..3 {
                stayed += delete_all(kind, &mounted.0, left, order);
                tried += 11;
            }
        }
        println!(
            "{kind}: {tried} commits deleted on a full disk; {stayed} files stayed until there was room"
        );
        assert!(stayed > 20);
    }
}

/// The calls on a full disk before the restores and deletions.
#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    /// Everything is persisted.
    Persist,
    /// Compaction rules delete more commits than the journal has room for.
    Retain,
}

/// Fills the disk, commits until the room in the journal is used and a commit is refused, and fills the disk again. Returns
/// the number of commits, whether the step `before` was refused, and whether a persist after all of this was refused.
fn without_room(at: &Path, data: usize, left: u64, before: Before) -> (u64, bool, bool) {
    const RESTORES: u64 = 60;
    let what = format!("{}, {data} bytes of user data, {before:?}", at.display());
    let refusal = |what: &str, error: &vmstore::Error| {
        assert_eq!(error.errno(), libc::ENOSPC, "{what}: {error}");
    };
    let store = at.join("store");
    let filled = Filled::make(&store, 4, 3, |_, page| page == 0);
    let options = CommitOptions {
        user_data: Some(std::sync::Arc::new(vec![7; data])),
        ..CommitOptions::default()
    };
    let with_data = filled.store.commit(&options).unwrap();
    fill(at, left);
    // These commits have no written pages, so each takes only a record in the journal.
    let named = CommitOptions {
        label: "named".into(),
        ..CommitOptions::default()
    };
    let mut commits = 0;
    loop {
        match filled.store.commit(&named) {
            Ok(_) => commits += 1,
            Err(error) => break refusal(&what, &error),
        }
        assert!(commits < 10_000, "{what}: commits are never refused");
    }
    let outcome = match before {
        Before::Nothing => Ok(()),
        Before::Persist => filled.store.persist(None),
        Before::Retain => {
            let keep = CompactOptions {
                keep_last: 1,
                ..CompactOptions::default()
            };
            filled.store.compact(&keep, None).map(drop)
        }
    };
    let refused = outcome.inspect_err(|error| refusal(&what, error)).is_err();
    // Take the space that was freed.
    fill(at, 0);
    let there = filled.store.commits().unwrap();
    for time in 0..RESTORES {
        let commit = there[time as usize * 7 % there.len()];
        let restored = filled.store.restore(commit, None);
        restored.unwrap_or_else(|error| panic!("{what}: restore {time}: {error}"));
    }
    let head = filled.store.head().unwrap();
    let other = there.iter().find(|commit| **commit != head).unwrap();
    let deleted = filled.store.delete_commit(*other);
    deleted.unwrap_or_else(|error| panic!("{what}: delete: {error}"));
    let last = filled.store.persist(None);
    let last = last.inspect_err(|error| refusal(&what, error)).is_err();
    std::fs::remove_file(at.join("filler")).unwrap();
    filled.write(98);
    filled.store.commit(&CommitOptions::default()).unwrap();
    filled.store.persist(None).unwrap();
    let there = filled.store.commits().unwrap();
    for number in there.iter().filter(|number| **number <= with_data) {
        filled.store.restore(*number, None).unwrap();
    }
    let verified = filled.store.verify(&VerifyOptions::default(), None);
    verified.unwrap_or_else(|error| panic!("{what}: {error}"));
    filled.store.close().unwrap();
    std::fs::remove_dir_all(&store).unwrap();
    (commits, refused, last)
}

/// Commits until the disk is full and the room in the journal is used. Restores and deletions must still work.
#[test]
fn promise_3_commits_leave_room_to_restore_and_delete() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if skipped("promise_3_commits_leave_room_to_restore_and_delete") {
        return;
    }
    let directory = scratch();
    for kind in ["tmpfs", "ext4"] {
        let mounted = Mounted::new(kind, directory.path(), 16);
        for before in [Before::Nothing, Before::Persist, Before::Retain] {
            let (mut stores, mut commits, mut refused, mut last) = (0, 0, 0, 0);
            // The journal reserves blocks of 64 KiB.
            for data in (0..72 << 10).step_by(5000) {
                let (made, first, second) = without_room(&mounted.0, data, stores % 20, before);
                commits += made;
                stores += 1;
                refused += u64::from(first);
                last += u64::from(second);
            }
            println!(
                "{kind}, {before:?}: {stores} journals without room after {commits} commits took {} restores and \
                 {stores} deletions; refused were {refused} of what came before, {last} persists behind",
                60 * stores
            );
            match before {
                Before::Nothing => {}
                Before::Persist => assert_eq!(refused, 0),
                Before::Retain => assert!(refused > 0),
            }
        }
    }
}

/// If `commits` has no room, a page that fits into the space reserved for the journal is persisted there.
#[test]
fn promise_3_a_small_persist_takes_the_last_room() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if skipped("promise_3_a_small_persist_takes_the_last_room") {
        return;
    }
    let directory = scratch();
    for kind in ["tmpfs", "ext4"] {
        let mounted = Mounted::new(kind, directory.path(), 16);
        let mut stores = 0;
        // Both files have 64 KiB.
        for data in (40_000..59_000).step_by(1000) {
            let store = mounted.0.join("store");
            let filled = Filled::make(&store, 4, 3, |_, page| page == 0);
            let with = |data: usize| CommitOptions {
                user_data: Some(std::sync::Arc::new(vec![7; data])),
                ..CommitOptions::default()
            };
            filled.store.commit(&with(20_000)).unwrap();
            filled.store.delete_commit(1).unwrap();
            filled.store.persist(None).unwrap();
            filled.write(99);
            let last = filled.store.commit(&with(data)).unwrap();
            fill(&mounted.0, 0);
            let persisted = filled.store.persist(None);
            persisted.unwrap_or_else(|error| panic!("{kind}, {data}: {error}"));
            assert!(filled.store.commit_info(last).unwrap().persisted);
            std::fs::remove_file(mounted.0.join("filler")).unwrap();
            filled
                .store
                .verify(&VerifyOptions::default(), None)
                .unwrap();
            filled.store.close().unwrap();
            std::fs::remove_dir_all(&store).unwrap();
            stores += 1;
        }
        println!("{kind}: {stores} commits of a page persisted on a full disk");
    }
}

fn free(at: &Path) -> u64 {
    let mut command = Command::new("df");
    let text = run(command.args(["-B1", "--sync", "--output=avail"]).arg(at));
    let number = text
        .lines()
        .nth(1)
        .and_then(|line| line.trim().parse().ok());
    number.unwrap_or_else(|| panic!("df says {text}"))
}

#[test]
fn images_share_blocks_where_the_file_system_can() {
    const PAGES: usize = 2048;
    const COMMITS: usize = 8;
    let _alone = ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if skipped("images_share_blocks_where_the_file_system_can") {
        return;
    }
    let directory = scratch();
    for (kind, shares) in [("ext4", false), ("xfs", true), ("btrfs", true)] {
        let mounted = Mounted::new(kind, directory.path(), 320);
        let part = |number: usize, page: usize| page / (PAGES / COMMITS) == number - 1;
        let filled = Filled::make(&mounted.0.join("store"), PAGES, COMMITS, part);
        let before = free(&mounted.0);
        // A compaction makes every commit an image.
        let options = CompactOptions {
            image_percent: 1,
            ..CompactOptions::default()
        };
        filled.store.compact(&options, None).unwrap();
        filled.check(kind);
        let took = before.saturating_sub(free(&mounted.0));
        let images = ((COMMITS - 1) * PAGES * PAGE) as u64;
        println!(
            "{kind}: {} images of 8 MiB, made from deltas of 1 MiB, took {} KiB more",
            COMMITS - 1,
            took >> 10
        );
        if shares {
            assert!(took < images / 8, "{kind}: {took} of {images} bytes");
        } else {
            assert!(took > images / 2, "{kind}: {took} of {images} bytes");
        }
        // The files that the images share blocks with are removed, and the images stay.
        for commit in 1..COMMITS {
            filled.store.delete_commit(commit as u64).unwrap();
        }
        filled.store.compact(&options, None).unwrap();
        filled.check(kind);
        filled.store.close().unwrap();
    }
}
