//! How long a commit waits beside a deletion and a compaction: what these do to files while they hold the store's
//! lock. They copy, sync, read and remove files without the lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::Result;
use crate::store::tests::recorded::RecordedFiles;
use crate::store::tests::{map_options, rig};
use crate::store::{CommitOptions, CompactOptions, Store};

const PAGES: u64 = 16;
const COMMITS: u64 = 24;

/// The number of operations of each kind.
type WaitCounts = BTreeMap<&'static str, u64>;

fn total(counts: &WaitCounts, kinds: &[&str]) -> u64 {
    let of = |kind: &&str| counts.get(*kind).copied().unwrap_or(0);
    kinds.iter().map(of).sum()
}

/// A store of two modules, persisted up to the middle, and opened again: nothing about its files is cached.
fn make() -> (Arc<RecordedFiles>, Store) {
    let files = RecordedFiles::new(true);
    let open = || Store::open_files(files.clone(), "test", rig::open_options()).unwrap();
    let page = crate::sys::host::page_size();
    let store = open();
    let map = |store: &Store, id| store.map_module(id, PAGES * page, &map_options()).unwrap();
    let modules = [map(&store, "a"), map(&store, "b")];
    for number in 1..=COMMITS {
        for module in &modules {
            for at in [0, number % PAGES, (number * 7) % PAGES] {
                module
                    .mapped()
                    .memory
                    .write(at * page, &number.to_le_bytes());
                module.mark_dirty(at * page, 8).unwrap();
            }
        }
        assert_eq!(store.commit(&CommitOptions::default()).unwrap(), number);
        if number == COMMITS / 2 {
            store.persist(None).unwrap();
        }
    }
    store.close().unwrap();
    let store = open();
    // The head of one module is mapped. Nothing about the other module is cached.
    map(&store, "a");
    (files, store)
}

/// Counts what a call does to files with the store's lock and without it.
fn watched(
    files: &RecordedFiles,
    store: &Store,
    call: impl FnOnce() -> Result<()>,
) -> [WaitCounts; 2] {
    let counts: Arc<Mutex<[WaitCounts; 2]>> = Arc::default();
    let (inside, own) = (counts.clone(), store.clone());
    // No other call is in the store: if the lock is held, this call holds it.
    files.set_watch(Some(Box::new(move |what| {
        let locked = usize::from(own.0.state.is_locked());
        *inside.lock()[locked].entry(what).or_default() += 1;
    })));
    let result = call();
    files.set_watch(None);
    result.unwrap();
    let [without, with] = std::mem::take(&mut *counts.lock());
    [with, without]
}

/// Checks what was done with the lock held. `rewritten` is the number of files that got their names. Returns how
/// many backing files became names of other images; each of them takes an open, a link and a rename.
fn check(with: &WaitCounts, rewritten: u64, writes: u64) -> u64 {
    let links = total(with, &["link"]);
    let never = [
        "create",
        "read",
        "len",
        "sync",
        "list",
        "read_link",
        "symlink",
    ];
    assert_eq!(total(with, &never), 0, "{with:?}");
    assert_eq!(total(with, &["open"]), links, "{with:?}");
    assert_eq!(total(with, &["rename"]), rewritten + links, "{with:?}");
    // These are temporary names: no file is removed with them.
    assert_eq!(total(with, &["unlink"]), 2 * links, "{with:?}");
    assert_eq!(total(with, &["write"]), writes, "{with:?}");
    links
}

#[test]
fn a_commit_waits_for_a_rename_beside_a_deletion() {
    let (files, store) = make();
    let (mut merges, mut links) = (0, 0);
    for victim in [20, 3, 4, 11, 21, 1] {
        let [with, without] = watched(&files, &store, || store.delete_commit(victim));
        let rewritten = total(&without, &["create"]);
        merges += rewritten;
        // The record of the deletion.
        links += check(&with, rewritten, 1);
    }
    assert!(merges >= 8 && links == 2, "{merges} merges, {links} links");
    println!(
        "6 deletions, {merges} merges: a commit waits for one rename each, one record, {links} links"
    );
}

#[test]
fn a_commit_waits_for_a_rename_beside_a_compaction() {
    let (files, store) = make();
    for (keep_every, image_percent) in [(3, 0), (6, 1)] {
        let options = CompactOptions {
            keep_every,
            image_percent,
            ..CompactOptions::default()
        };
        let [with, without] = watched(&files, &store, || store.compact(&options, None));
        // All files that were made are rewritten files, except `commits` and its successor.
        let rewritten = total(&without, &["create"]) - total(&without, &["rename"]);
        // The records of the deletions, and the journal's header.
        let links = check(&with, rewritten, 4);
        assert!(rewritten >= 6, "{without:?}");
        // The journal is cut when all is persisted.
        assert!(total(&with, &["set_len"]) <= 1, "{with:?}");
        println!(
            "a compaction, {rewritten} rewritten files: a commit waits for one rename each, 4 writes to the journal, \
             {links} links"
        );
    }
}

/// A retention rule that deletes many commits releases the lock again and again.
#[test]
fn a_commit_waits_for_a_hundred_deletions_beside_a_retention() {
    let files = RecordedFiles::new(true);
    let store = Store::open_files(files.clone(), "test", rig::open_options()).unwrap();
    let page = crate::sys::host::page_size();
    let module = store.map_module("a", page, &map_options()).unwrap();
    for number in 1..=600_u64 {
        module.mapped().memory.write(0, &number.to_le_bytes());
        module.mark_dirty(0, 8).unwrap();
        store.commit(&CommitOptions::default()).unwrap();
    }
    let options = CompactOptions {
        keep_last: 10,
        no_images: true,
        ..CompactOptions::default()
    };
    // Callbacks are called without the lock.
    let mut left = vec![600];
    let mut look = |_, _| {
        left.push(store.0.state.try_lock().unwrap().history.len());
        true
    };
    store.compact(&options, Some(&mut look)).unwrap();
    let most = left.windows(2).map(|pair| pair[0] - pair[1]).max().unwrap();
    assert_eq!(store.commits().unwrap().len(), 10);
    assert!((1..=128).contains(&most), "{most} deletions at once");
    println!("590 deletions of a retention, {most} of them at once");
}
