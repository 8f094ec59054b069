//! The caches of indexes and open files between calls: they are bounded, and they are used.

use std::sync::Arc;

use crate::format::checksum::Digest;
use crate::format::index::{Checksums, Content, Index, Shape};
use crate::layer::{LayerFiles, Piece, Reading};
use crate::store::tests::counted::Counted;
use crate::store::tests::recorded::RecordedFiles;
use crate::store::tests::written::written;

/// Commits of one page each of module "a".
fn chain(commits: usize) -> (Arc<RecordedFiles>, LayerFiles) {
    written(1, &vec![&[0][..]; commits])
}

#[test]
fn a_bounded_number_of_files_stays_open() {
    const COMMITS: u64 = 6;
    let (files, layers) = chain(COMMITS as usize);
    let read = |commit| {
        let index = layers.index("a", commit).unwrap();
        layers.checksums(&index).unwrap();
        let mut runs = 0;
        let mut reading = Reading::new(&layers);
        let all = Piece::all_of(&index);
        reading.pieces(all, |_, _| {
            runs += 1;
            Ok(())
        })?;
        assert!(runs > 0);
        crate::Result::Ok(())
    };
    (1..=COMMITS).try_for_each(read).unwrap();
    assert_eq!(files.open_files(), 0, "no file is kept open by default");
    let opens = Counted::of(&files, "open");
    layers.set_most_open(3);
    for commit in [1, 2, 3, 1, 2, 3] {
        read(commit).unwrap();
    }
    assert_eq!((opens.take(), files.open_files()), (3, 3));
    (1..=COMMITS).try_for_each(read).unwrap();
    assert_eq!((opens.take(), files.open_files()), (3, 3));
    layers.forget("a", COMMITS);
    assert_eq!(files.open_files(), 2);
    layers.set_most_open(0);
    assert_eq!(files.open_files(), 0);
    (1..=COMMITS).try_for_each(read).unwrap();
    // And once for the index that was dropped from the cache.
    assert_eq!((opens.take(), files.open_files()), (COMMITS + 1, 0));
}

#[test]
fn an_index_is_read_once_and_a_small_one_with_its_checksums() {
    let (files, layers) = chain(2);
    let reads = Counted::of(&files, "read");
    let delta = layers.index("a", 2).unwrap();
    assert_eq!(reads.take(), 2, "its footer, and all the rest");
    layers.checksums(&delta).unwrap();
    layers.index("a", 2).unwrap();
    assert_eq!(layers.parent("a", 2).unwrap(), 1);
    assert_eq!(reads.take(), 0);
    layers.forget("a", 2);
    layers.index("a", 2).unwrap();
    assert_eq!(reads.take(), 2);
}

#[test]
fn a_large_index_comes_in_pieces_and_a_long_list_is_read_twice() {
    // Thirty runs, or two checksums, are one piece in this test.
    let apart: Vec<u64> = (0..62).step_by(2).collect();
    let (files, layers) = written(
        62,
        &[&(0..62).collect::<Vec<_>>(), &apart, &[1, 5, 9], &[1, 2]],
    );
    let reads = Counted::of(&files, "read");
    for (commit, pieces, whole, list) in [(2, 2, false, 17), (3, 1, false, 3), (4, 1, true, 0)] {
        let index = layers.index("a", commit).unwrap();
        assert_eq!(reads.take(), 1 + pieces, "its footer and its runs");
        assert_eq!(index.checksums.get().is_some(), whole);
        let sums = layers.checksums(&index).unwrap();
        assert_eq!(sums.len() as u64, index.data_pages());
        assert_eq!(reads.take(), list, "the checksums of commit {commit}");
        let starts: Vec<u64> = index.runs.iter().map(|run| run.start).collect();
        let wanted = [&apart[..], &[1, 5, 9], &[1]][commit as usize - 2];
        assert_eq!(starts, wanted);
    }
}

/// An index with this many runs and data pages, which is not on the disk.
fn index(commit: u64, runs: u64, data_pages: u64) -> Arc<Index> {
    let mut index = Index {
        module: "a".into(),
        commit,
        parent: 0,
        shape: Shape::Image,
        page_size: 4096,
        size: 1 << 60,
        digest: Digest::default(),
        changed: None,
        former: None,
        runs: Vec::new(),
        checksums: Checksums::default(),
    };
    index.push(0, data_pages - runs + 1, Content::Data);
    for run in 1..runs {
        index.push(data_pages + 2 * run, 1, Content::Data);
    }
    assert_eq!(
        (index.data_pages(), index.runs.len() as u64),
        (data_pages, runs)
    );
    Arc::new(index)
}

#[test]
fn unused_indexes_go_when_they_take_too_much_memory() {
    const LIMIT: u64 = 64 << 20;
    let (_, layers) = chain(1);
    let there = |commit| layers.index("a", commit).is_ok();
    // Eight bytes for each checksum, 32 for each run, 256 for the rest.
    for runs in [1, 3] {
        let most = (LIMIT - 256 - 32 * runs) / 8;
        for (data_pages, stays) in [(most, true), (most + 1, false)] {
            layers.remember(index(11, runs, data_pages));
            layers.remember(index(12, 1, 1));
            assert_eq!(there(11), stays, "{data_pages} pages in {runs} runs");
            // An index in use stays in the cache, and counts.
            let held = index(13, runs, most + 1);
            layers.remember(held.clone());
            layers.remember(index(14, 1, 1));
            layers.remember(index(15, 1, 1));
            assert!(
                !there(11) && !there(12) && !there(14),
                "dropped because memory is limited"
            );
            assert!(there(13) && there(15));
            drop(held);
            layers.remember(index(16, 1, 1));
            assert!(!there(13) && !there(15) && there(16));
            // A dropped index no longer counts.
            layers.remember(index(17, 1, most + 1));
            layers.forget("a", 17);
            layers.remember(index(18, 1, 1));
            assert!(there(16) && there(18) && !there(17));
            for commit in 11..=18 {
                layers.forget("a", commit);
            }
        }
    }
}
