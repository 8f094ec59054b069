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
    assert_eq!(back.find(2), PageLookup::Absent);
    assert_eq!(back.find(4), PageLookup::Data { slot: 1 });
    assert_eq!(back.find(5), PageLookup::Zero);
    assert_eq!(back.find(6), PageLookup::Data { slot: 2 });
    assert_eq!(back.find(50), PageLookup::Data { slot: 3 });
    assert_eq!(back.find(99), PageLookup::Absent);
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
fn an_image_knows_its_former_base() {
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
    type IndexEdit = fn(&mut Index);
    let changes: [IndexEdit; 8] = [
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
    let mut index = image();
    index.push(70, 1, Content::Zero);
    let bytes = index.encode(&STORE);
    assert!(
        decode(&bytes, 100 * 4096).is_err(),
        "zero pages that an image need not name"
    );
}

#[test]
fn a_footer_counts_the_pages_of_its_runs() {
    let bytes = delta().encode(&STORE);
    let footer = bytes.len() - FOOTER;
    assert_eq!((delta().zero_pages(), image().zero_pages()), (1, 0));
    for zero_pages in 0..4u64 {
        let mut bytes = bytes.clone();
        bytes[footer + 88..][..8].copy_from_slice(&zero_pages.to_le_bytes());
        let sum = checksum::metadata(&STORE, &bytes[footer..bytes.len() - 8]);
        let end = bytes.len() - 8;
        bytes[end..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(decode(&bytes, 4 * 4096).is_ok(), zero_pages == 1);
    }
}

#[test]
fn checksums_are_where_the_footer_says() {
    for (index, before) in [(delta(), 4 * 4096), (image(), 100 * 4096)] {
        let bytes = index.encode(&STORE);
        let (at, length) = index.checksums_at();
        let at = (at - before) as usize;
        let sums: Vec<u8> = [1u64, 2, 3, 4]
            .iter()
            .flat_map(|sum| sum.to_le_bytes())
            .collect();
        assert_eq!(bytes[at..][..length as usize], sums);
        assert!(index.learn_checksums(&sums[8..], &STORE, "f").is_err());
    }
}

/// The fields of a footer that bound one another.
#[derive(Clone, Copy)]
struct Fields {
    version: u32,
    flags: u32,
    commit: u64,
    parent: u64,
    image: bool,
    page_size: u64,
    size: u64,
    data: u64,
    zero: u64,
    runs: u64,
    former: u64,
    former_runs: u64,
    /// One more than it says; 0: it does not say.
    changed: u64,
    /// What is added to where the index is, its length, and the file's.
    off: [u64; 3],
}

impl Fields {
    fn delta() -> Self {
        Self {
            version: VERSION,
            flags: 0,
            commit: 9,
            parent: 4,
            image: false,
            page_size: 512,
            size: 100 * 512,
            data: 4,
            zero: 1,
            runs: 4,
            former: 0,
            former_runs: 0,
            changed: 0,
            off: [0; 3],
        }
    }

    fn image() -> Self {
        Self {
            parent: 0,
            image: true,
            former: 4,
            former_runs: 2,
            ..Self::delta()
        }
    }

    /// As a footer whose checksum holds.
    fn decode(self) -> Result<Footer> {
        let offset = if self.image {
            self.size
        } else {
            self.data.wrapping_mul(self.page_size)
        };
        let index = (self.runs * RUN as u64)
            .wrapping_add(self.former_runs * FORMER_RUN as u64)
            .wrapping_add(self.data.wrapping_mul(8));
        let mut bytes = Vec::new();
        let mut w = Writer(&mut bytes);
        w.bytes(&MAGIC).u32(self.version).u32(self.flags);
        w.bytes(&STORE).u64(self.commit).u64(self.parent);
        w.u32(if self.image { 2 } else { 1 });
        w.u32(self.page_size as u32).u64(self.size).bytes(&[7; 16]);
        w.u64(self.data).u64(self.zero).u64(self.runs);
        w.u64(offset + self.off[0]).u64(index + self.off[1]);
        w.u64(1).u64(2).text("ram").pad_to(FORMER);
        w.u64(self.former).u64(self.former_runs).u64(self.changed);
        let sum = checksum::metadata(&STORE, &bytes);
        Writer(&mut bytes).u64(sum);
        let length = offset.wrapping_add(index + FOOTER as u64 + self.off[2]);
        Footer::decode(&bytes, length, &STORE, "f")
    }
}

#[test]
fn every_bound_of_a_footer_is_where_the_format_says() {
    type FieldsEdit = fn(&mut Fields);
    let of_deltas: [(FieldsEdit, bool); 24] = [
        (|_| {}, true),
        (|f| f.page_size = 256, false),
        (|f| f.page_size = 600, false),
        (|f| f.size += 256, false),
        (|f| (f.size, f.data, f.zero, f.runs) = (0, 0, 0, 0), false),
        (|f| (f.size, f.data, f.zero, f.runs) = (512, 1, 0, 1), true),
        (|f| (f.data, f.zero) = (99, 1), true),
        (|f| (f.data, f.zero) = (100, 1), false),
        (|f| f.runs = 5, true),
        (|f| f.runs = 6, false),
        (|f| f.changed = 101, true),
        (|f| f.changed = 102, false),
        (|f| f.parent = 8, true),
        (|f| f.parent = 9, false),
        (|f| f.parent = 0, false),
        (|f| (f.commit, f.parent) = (0, 0), false),
        (|f| f.former = 4, false),
        (|f| f.former_runs = 1, false),
        (|f| f.off[0] = 512, false),
        (|f| f.off[1] = 8, false),
        (|f| f.off[2] = 1, false),
        (|f| f.off = [0, 8, 8], false),
        (|f| f.off = [8, 0, 8], false),
        (|f| f.data = u64::MAX / 16, false),
    ];
    let of_images: [(FieldsEdit, bool); 9] = [
        (|_| {}, true),
        (|f| f.parent = 1, false),
        (|f| f.former = 8, true),
        (|f| f.former = 9, false),
        (|f| f.former_runs = 100, true),
        (|f| f.former_runs = 101, false),
        (|f| f.former = 0, false),
        (|f| (f.former, f.former_runs) = (0, 0), true),
        (|f| (f.commit, f.former, f.former_runs) = (0, 0, 0), false),
    ];
    for (kind, base, changes) in [
        ("delta", Fields::delta(), &of_deltas[..]),
        ("image", Fields::image(), &of_images[..]),
    ] {
        for (number, (change, good)) in changes.iter().enumerate() {
            let mut fields = base;
            change(&mut fields);
            let decoded = fields.decode();
            assert_eq!(
                decoded.is_ok(),
                *good,
                "{kind}, change {number}: {decoded:?}"
            );
        }
    }
    let others: [FieldsEdit; 2] = [|f| f.version ^= 2, |f| f.flags = 1];
    for change in others {
        let mut fields = Fields::delta();
        change(&mut fields);
        assert!(matches!(fields.decode(), Err(Error::Version { .. })));
    }
}
