//! Reading pages: how many reads it takes, and what an error names.

use std::io::IoSlice;

use crate::Error;
use crate::layer::{LayerFiles, Piece, Reading};
use crate::page_set::Run;
use crate::store::tests::counted::Counted;
use crate::store::tests::written::{byte, written};
use crate::sys::fs::{Access, Files as _, Place};

fn piece(layers: &LayerFiles, commit: u64, start: u64, count: u64) -> Piece {
    Piece {
        run: Run { start, count },
        source: layers.index("a", commit).unwrap(),
    }
}

/// The start and count of each run that was returned, after its bytes were checked.
fn read(layers: &LayerFiles, pieces: &[(u64, u64, u64)]) -> crate::Result<Vec<(u64, u64)>> {
    let mut seen = Vec::new();
    let commit_of = |page| {
        let held = |(_, start, count): &&(u64, u64, u64)| (*start..start + count).contains(&page);
        pieces.iter().find(held).unwrap().0
    };
    let all = pieces
        .iter()
        .map(|(c, start, count)| piece(layers, *c, *start, *count));
    Reading::new(layers).pieces(all.collect(), |run, bytes| {
        let size = layers.page_size as usize;
        assert_eq!(bytes.len(), run.count as usize * size);
        for (page, bytes) in (run.start..).zip(bytes.chunks(size)) {
            let wanted = byte(commit_of(page), page);
            assert!(bytes.iter().all(|byte| *byte == wanted), "page {page}");
        }
        seen.push((run.start, run.count));
        Ok(())
    })?;
    Ok(seen)
}

#[test]
fn neighbouring_pages_are_read_together() {
    let (files, layers) = written(8, &[&[0, 1, 2, 3, 4, 5, 6, 7], &[1, 3]]);
    for commit in [1, 2] {
        layers
            .checksums(&layers.index("a", commit).unwrap())
            .unwrap();
    }
    let reads = Counted::of(&files, "read");
    // In this test one read returns at most four pages.
    for (pieces, wanted, count) in [
        (
            &[(1, 0, 1), (1, 1, 1), (1, 2, 1), (1, 3, 1)][..],
            &[(0, 1), (1, 1), (2, 1), (3, 1)][..],
            1,
        ),
        (&[(1, 0, 5)], &[(0, 4), (4, 1)], 2),
        (&[(1, 0, 3), (1, 3, 2)], &[(0, 3), (3, 2)], 2),
        (&[(1, 0, 1), (1, 2, 1)], &[(0, 1), (2, 1)], 2),
        (&[(1, 1, 2)], &[(1, 2)], 1),
        (&[(2, 1, 1), (2, 3, 1)], &[(1, 1), (3, 1)], 1),
        (
            &[(2, 3, 1), (1, 4, 2), (2, 1, 1)],
            &[(4, 2), (1, 1), (3, 1)],
            2,
        ),
    ] {
        assert_eq!(read(&layers, pieces).unwrap(), wanted);
        assert_eq!(reads.take(), count, "{pieces:?}");
    }
}

#[test]
fn a_damaged_page_is_named_with_its_file() {
    let (files, layers) = written(8, &[&[0, 1, 2, 3, 4, 5, 6, 7], &[1, 3]]);
    let size = layers.page_size;
    for (commit, page, at) in [(1, 2, 2 * size + 7), (2, 3, size + 9)] {
        let place = Place::root(format!("a_Commit{commit}"));
        let file = files.open(&place, Access::Write).unwrap().unwrap();
        file.write_at(&[IoSlice::new(&[0])], at).unwrap();
        let pieces = [[(1, 1, 3)].as_slice(), &[(2, 1, 1), (2, 3, 1)]];
        let damaged = read(&layers, pieces[commit as usize - 1]).unwrap_err();
        let message = damaged.to_string();
        assert!(
            matches!(&damaged, Error::Corrupt { .. })
                && message.contains(&format!("page {page} "))
                && message.contains(&place.name),
            "{message}"
        );
    }
    assert_eq!(read(&layers, &[(1, 3, 2)]).unwrap(), [(3, 2)]);
}

#[test]
fn pages_are_compared_with_those_on_the_disk() {
    let (files, layers) = written(4, &[&[0, 1, 2, 3], &[1, 3]]);
    let full = |byte| vec![byte; layers.page_size as usize];
    let delta = layers.index("a", 2).unwrap();
    let mut reading = Reading::new(&layers);
    assert!(!reading.page_is(&delta, 3, &full(byte(2, 1))));
    assert!(reading.page_is(&delta, 3, &full(byte(2, 3))));
    assert!(reading.page_is(&delta, 1, &full(byte(2, 1))));
    assert!(
        !reading.page_is(&delta, 2, &full(byte(1, 2))),
        "it has none"
    );
    // The file is cut, and memory has the same bytes.
    let file = files
        .open(&Place::root("a_Commit2"), Access::Write)
        .unwrap();
    file.unwrap().set_len(layers.page_size - 1).unwrap();
    assert!(!reading.page_is(&delta, 1, &full(byte(2, 1))));
}

#[test]
fn one_reading_has_a_bounded_number_of_files_open() {
    const COMMITS: u64 = 40;
    let (files, layers) = written(1, &vec![&[0][..]; COMMITS as usize]);
    let of = |commits: std::ops::RangeInclusive<u64>| {
        let all: Vec<Piece> = commits.map(|commit| piece(&layers, commit, 0, 1)).collect();
        for piece in &all {
            layers.checksums(&piece.source).unwrap();
        }
        all
    };
    let opens = Counted::of(&files, "open");
    let mut reading = Reading::new(&layers);
    let ten = of(1..=10);
    opens.take();
    for _ in 0..2 {
        reading.pieces(ten.clone(), |_, _| Ok(())).unwrap();
    }
    assert_eq!((opens.take(), files.open_files()), (10, 10));
    let all = of(1..=COMMITS);
    let mut most = 0;
    reading
        .pieces(all, |_, _| {
            most = most.max(files.open_files());
            Ok(())
        })
        .unwrap();
    assert_eq!(most, 32);
    drop(reading);
    assert_eq!(files.open_files(), 0);
}
