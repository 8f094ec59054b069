//! Module commits while they are written: which pages they take, and where these pages are written.

use std::io::IoSlice;

use crate::format::index::{Content, Index};
use crate::layer::{Draft, Finished, LayerFiles, PageTable, Piece, Reading};
use crate::page_set::Run;
use crate::store::tests::counted::Counted;
use crate::store::tests::recorded::Fuse;
use crate::store::tests::written::{byte, written};
use crate::sys::fs::{Access, Files, Place};

const PAGES: u64 = 8;
const ALL: &[u64] = &[0, 1, 2, 3, 4, 5, 6, 7];

fn temporary() -> Place {
    Place::hidden("new-drafts")
}

/// A draft of the second commit of module "a".
fn draft(layers: &LayerFiles, parent: Option<&Index>) -> Draft {
    let size = PAGES * layers.page_size;
    match parent {
        None => Draft::image(layers, temporary(), "a", size, 2),
        Some(parent) => Draft::delta(layers, temporary(), size, 2, parent),
    }
}

/// Gives the draft runs of pages, each page full of one byte.
fn feed(draft: &mut Draft, layers: &LayerFiles, table: &PageTable, runs: &[(u64, &[u8])]) {
    let size = layers.page_size as usize;
    let captured: Vec<(Run, Vec<u8>)> = runs
        .iter()
        .map(|(start, bytes)| {
            let count = bytes.len() as u64;
            let full = bytes.iter().flat_map(|byte| vec![*byte; size]).collect();
            let run = Run {
                start: *start,
                count,
            };
            (run, full)
        })
        .collect();
    let mut reading = Reading::new(layers);
    let captured = captured.iter().map(|(run, bytes)| (*run, &bytes[..]));
    draft.feed(&mut reading, layers, table, captured).unwrap();
}

/// Gives the draft its name and reads its pages back: page and byte.
fn read_back(files: &dyn Files, layers: &LayerFiles, made: &Finished) -> Vec<(u64, u8)> {
    assert_eq!(made.temporary, temporary());
    files
        .rename(&temporary(), &Place::root("a_Commit2"))
        .unwrap();
    let index = std::sync::Arc::new(layers.load("a", 2).unwrap());
    let mut seen = Vec::new();
    let all = Piece::all_of(&index);
    Reading::new(layers)
        .pieces(all, |run, bytes| {
            for (page, bytes) in (run.start..).zip(bytes.chunks(layers.page_size as usize)) {
                assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                seen.push((page, bytes[0]));
            }
            Ok(())
        })
        .unwrap();
    seen
}

#[test]
fn a_delta_has_the_changed_pages_in_one_write() {
    let (files, layers) = written(PAGES, &[ALL]);
    let parent = layers.index("a", 1).unwrap();
    let table = PageTable::of_chain(PAGES, std::slice::from_ref(&parent)).unwrap();
    let mut draft = draft(&layers, Some(&parent));
    assert!(draft.is_empty());
    layers.checksums(&parent).unwrap();
    let writes = Counted::of(&files, "write");
    let was = |page| byte(1, page);
    let runs: [(u64, &[u8]); 2] = [(0, &[was(0), 90, 0, 91]), (5, &[92, was(6)])];
    feed(&mut draft, &layers, &table, &runs);
    assert_eq!(writes.take(), 1);
    assert!(!draft.is_empty());
    let counts = draft.counts;
    assert_eq!((counts.data, counts.zero, counts.unchanged), (3, 1, 2));
    let made = draft.finish(&layers).unwrap();
    assert_eq!(made.bytes, made.file.len().unwrap());
    let zero = |run: &&crate::format::index::IndexRun| run.content == Content::Zero;
    let zeros: Vec<_> = made.index.runs.iter().filter(zero).collect();
    assert!(zeros.len() == 1 && (zeros[0].start, zeros[0].count) == (2, 1));
    let seen = read_back(&*files, &layers, &made);
    assert_eq!(seen, [(1, 90), (3, 91), (5, 92)]);
}

#[test]
fn many_zero_pages_need_no_room_but_their_runs() {
    const MANY: u64 = 62;
    let all: Vec<u64> = (0..MANY).collect();
    let (files, layers) = written(MANY, &[&all]);
    let parent = layers.index("a", 1).unwrap();
    let table = PageTable::of_chain(MANY, std::slice::from_ref(&parent)).unwrap();
    let size = MANY * layers.page_size;
    let mut draft = Draft::delta(&layers, temporary(), size, 2, &parent);
    let runs: Vec<(u64, &[u8])> = (0..MANY).step_by(2).map(|at| (at, &[0][..])).collect();
    feed(&mut draft, &layers, &table, &runs);
    assert_eq!(draft.counts.zero, MANY / 2);
    let made = draft.finish(&layers).unwrap();
    assert_eq!(read_back(&*files, &layers, &made), []);
    assert_eq!(layers.load("a", 2).unwrap().zero_pages(), MANY / 2);
}

#[test]
fn an_image_has_each_page_in_its_place_and_neighbours_in_one_write() {
    let (files, layers) = written(PAGES, &[]);
    let mut draft = draft(&layers, None);
    assert!(!draft.is_empty(), "the image says that all pages are zero");
    let table = PageTable::new(PAGES).unwrap();
    let writes = Counted::of(&files, "write");
    let runs: [(u64, &[u8]); 4] = [(0, &[0, 90]), (2, &[91]), (4, &[92]), (6, &[93, 0])];
    feed(&mut draft, &layers, &table, &runs);
    assert_eq!(writes.take(), 3, "1 and 2, 4, 6");
    assert_eq!((draft.counts.data, draft.counts.unchanged), (4, 2));
    let made = draft.finish(&layers).unwrap();
    let seen = read_back(&*files, &layers, &made);
    assert_eq!(seen, [(1, 90), (2, 91), (4, 92), (6, 93)]);
}

#[test]
fn a_delta_without_pages_counts_if_the_module_has_grown() {
    let (files, layers) = written(PAGES, &[ALL]);
    let parent = layers.index("a", 1).unwrap();
    let size = PAGES * layers.page_size;
    for grown in [0, layers.page_size] {
        let draft = Draft::delta(&layers, temporary(), size + grown, 2, &parent);
        assert_eq!(draft.is_empty(), grown == 0);
    }
    assert!(layers.chain("a", 1, size + layers.page_size).is_ok());
    assert!(layers.chain("a", 1, size - layers.page_size).is_err());
    let there = || files.open(&temporary(), Access::Read).unwrap().is_some();
    let table = PageTable::of_chain(PAGES, std::slice::from_ref(&parent)).unwrap();
    for finish in [false, true] {
        let mut draft = draft(&layers, Some(&parent));
        feed(&mut draft, &layers, &table, &[(3, &[90])]);
        assert!(there());
        if finish {
            files.set_fuse(Fuse {
                at: 1,
                times: 1,
                ..Fuse::default()
            });
            assert!(draft.finish(&layers).is_err());
            files.set_fuse(Fuse::default());
        } else {
            draft.discard(&layers);
        }
        assert!(!there(), "the draft is discarded");
    }
}

#[test]
fn a_page_with_the_same_bytes_is_written_where_the_disk_has_others() {
    let (files, layers) = written(PAGES, &[ALL]);
    let parent = layers.index("a", 1).unwrap();
    let table = PageTable::of_chain(PAGES, std::slice::from_ref(&parent)).unwrap();
    let place = Place::root("a_Commit1");
    let file = files.open(&place, Access::Write).unwrap().unwrap();
    file.write_at(&[IoSlice::new(&[200])], 3 * layers.page_size + 5)
        .unwrap();
    let mut draft = draft(&layers, Some(&parent));
    let runs: [(u64, &[u8]); 1] = [(2, &[byte(1, 2), byte(1, 3), byte(1, 4)])];
    feed(&mut draft, &layers, &table, &runs);
    let made = draft.finish(&layers).unwrap();
    let seen = read_back(&*files, &layers, &made);
    assert_eq!(seen, [(3, byte(1, 3))]);
}
