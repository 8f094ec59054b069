//! Indexes and footers that survive, and those that are refused.

use super::*;

const STORE: StoreId = *b"a store's own id";

fn delta() -> Index {
    let mut index = Index {
        module: "ram".into(),
        commit: 9,
        parent: 4,
        shape: Shape::Delta,
        page_size: 4096,
        size: 100 * 4096,
        digest: Digest(77),
        changed: Some(2),
        former: None,
        runs: Vec::new(),
        checksums: Checksums::known(vec![1, 2, 3, 4]),
    };
    index.push(3, 2, Content::Data);
    index.push(5, 1, Content::Zero);
    index.push(6, 1, Content::Data);
    index.push(50, 1, Content::Data);
    index
}

fn decode(bytes: &[u8], before: u64) -> Result<Index> {
    let split = bytes.len() - FOOTER;
    let footer = Footer::decode(&bytes[split..], before + bytes.len() as u64, &STORE, "f")?;
    let (runs, sums) = bytes[..split]
        .split_at_checked(footer.runs_length() as usize)
        .unwrap_or((&[], &[]));
    let mut pieces = footer.runs(&STORE);
    // Some end in the midst of a run.
    for piece in runs.chunks(RUN) {
        pieces.add(piece, "f")?;
    }
    let mut index = pieces.finish("f")?;
    index.learn_checksums(sums, &STORE, "f")?;
    // As it was before it was written.
    index.checksums.sum = 0;
    Ok(index)
}

#[test]
fn an_index_survives_and_finds_its_pages() {
    let index = delta();
    let bytes = index.encode(&STORE);
    let back = decode(&bytes, 4 * 4096).unwrap();
    assert_eq!(back, index);
    assert_eq!(back.find(2), Found::Absent);
    assert_eq!(back.find(4), Found::Data { slot: 1 });
    assert_eq!(back.find(5), Found::Zero);
    assert_eq!(back.find(6), Found::Data { slot: 2 });
    assert_eq!(back.find(50), Found::Data { slot: 3 });
    assert_eq!(back.find(99), Found::Absent);
    assert_eq!(back.offset(50, 3), 3 * 4096);
}

/// An image that was a delta.
fn image() -> Index {
    let mut index = Index {
        parent: 0,
        shape: Shape::Image,
        runs: Vec::new(),
        former: Some(Former {
            commit: 4,
            runs: [(3, 2), (60, 40)]
                .map(|(start, count)| Run { start, count })
                .into(),
        }),
        ..delta()
    };
    index.push(3, 3, Content::Data);
    index.push(50, 1, Content::Data);
    index
}

#[test]
fn an_image_remembers_what_it_was() {
    assert_eq!(
        decode(&image().encode(&STORE), 100 * 4096).unwrap(),
        image()
    );
}

#[test]
fn every_flipped_bit_is_seen() {
    for (index, before) in [(delta(), 4 * 4096), (image(), 100 * 4096)] {
        let bytes = index.encode(&STORE);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad, before).is_err(), "bit {bit}");
        }
        let cut = decode(&bytes, before - 4096);
        assert!(cut.is_err(), "a file of another length");
        let footer = &bytes[bytes.len() - FOOTER..];
        let length = before + bytes.len() as u64;
        assert!(Footer::decode(footer, length, &STORE, "f").is_ok());
        assert!(Footer::decode(footer, length, b"another store's!", "f").is_err());
    }
}

#[test]
fn contradictions_are_refused_even_with_good_checksums() {
    type Change = fn(&mut Index);
    let changes: [Change; 8] = [
        |i| i.parent = 9,
        |i| i.parent = 0,
        |i| i.commit = 0,
        |i| i.page_size = 1000,
        |i| i.size = 4096,
        |i| i.runs[1].start = 4,
        |i| i.module = "a/b".into(),
        |i| i.checksums = Checksums::known(vec![1, 2, 3]),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut index = delta();
        change(&mut index);
        let bytes = index.encode(&STORE);
        assert!(decode(&bytes, 4 * 4096).is_err(), "change {number}");
    }
    let changes: [fn(&mut Former); 6] = [
        |f| f.commit = 0,
        |f| f.commit = 9,
        |f| f.runs[0].count = 0,
        |f| f.runs[1].start = 4,
        |f| f.runs[1].count = 41,
        |f| f.runs[1].count = u64::MAX,
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut index = image();
        change(index.former.as_mut().unwrap());
        let bytes = index.encode(&STORE);
        assert!(
            decode(&bytes, 100 * 4096).is_err(),
            "former, change {number}"
        );
    }
    let mut index = delta();
    index.former = image().former;
    let bytes = index.encode(&STORE);
    assert!(decode(&bytes, 4 * 4096).is_err(), "a delta that was one");
}
