//! Streams that are whole, cut, damaged, or somebody's own.

use super::*;
use crate::format::header::{LogKind, Mark};

const STORE: StoreId = *b"a store's own id";

fn place(prev_checksum: u64, write_start: u64, sequence: u64) -> RecordPlace {
    RecordPlace {
        prev_checksum,
        write_start,
        sequence,
    }
}

fn header() -> LogHeader {
    LogHeader {
        generation: 42,
        previous: 41,
        durable: Mark::default(),
        boot_id: *b"the id of a boot",
        syncing: false,
        durable_upto: 0,
    }
}

/// A log of `batches`, each a list of commits' numbers.
fn stream(batches: &[&[u64]]) -> Vec<u8> {
    let mut bytes = header().encode(LogKind::Commits, &STORE);
    let (mut prev_checksum, mut sequence) = (42, 1);
    for write_start in batches {
        let start = bytes.len() as u64;
        for number in *write_start {
            prev_checksum = encode(
                &mut bytes,
                &STORE,
                place(prev_checksum, start, sequence),
                false,
                &Event::HeadMoved(*number),
            );
            sequence += 1;
        }
    }
    bytes
}

fn read(bytes: &[u8]) -> Scan {
    let header = LogHeader::decode(bytes, LogKind::Commits, &STORE, "commits").unwrap();
    scan(bytes, &header, &STORE, "commits").unwrap()
}

/// A log of one record whose head's checksum holds, whatever it says.
fn forged(magic: u32, length: u64, sequence: u64) -> Scan {
    let payload = 5u64.to_le_bytes();
    let mut head = Vec::new();
    let mut w = Writer(&mut head);
    w.u32(magic).u16(Event::HeadMoved(5).kind()).u16(0);
    w.u64(length).u64(sequence).u64(LOG_HEADER as u64).u64(42);
    w.u64(checksum::metadata(&STORE, &payload));
    let sum = checksum::metadata(&STORE, &head);
    Writer(&mut head).u64(sum).bytes(&payload);
    let mut bytes = header().encode(LogKind::Commits, &STORE);
    bytes.extend_from_slice(&head);
    read(&bytes)
}

#[test]
fn every_bound_of_a_head_is_where_the_format_says() {
    for (magic, sequence, good) in [
        (RECORD_MAGIC, 1, true),
        (RECORD_MAGIC, LAST, true),
        (RECORD_MAGIC, LAST + 1, false),
        (RECORD_MAGIC ^ 1, 1, false),
    ] {
        let scan = forged(magic, 8, sequence);
        assert_eq!(scan.records.len(), usize::from(good));
        assert_eq!(matches!(scan.tail, Tail::Bad(_)), !good);
    }
    // So much may still come, and more never will.
    assert_eq!(forged(RECORD_MAGIC, MAX_PAYLOAD, 1).tail, Tail::Cut);
    let more = forged(RECORD_MAGIC, MAX_PAYLOAD + 1, 1).tail;
    assert!(matches!(more, Tail::Bad(_)));
}

#[test]
fn records_come_back_in_order() {
    let scan = read(&stream(&[&[5, 6], &[7]]));
    let events: Vec<_> = scan.records.iter().map(|r| r.event.clone()).collect();
    assert_eq!(
        events,
        [
            Event::HeadMoved(5),
            Event::HeadMoved(6),
            Event::HeadMoved(7)
        ]
    );
    assert_eq!(scan.tail, Tail::Clean);
}

#[test]
fn every_cut_leaves_a_prefix() {
    let bytes = stream(&[&[5, 6], &[7]]);
    for cut in LOG_HEADER..bytes.len() {
        let scan = read(&bytes[..cut]);
        assert!(scan.end <= cut as u64);
        assert_eq!(
            scan.tail == Tail::Clean,
            scan.end == cut as u64,
            "cut at {cut}"
        );
        assert!(
            !matches!(scan.tail, Tail::Bad(_)),
            "a cut is not damage, at {cut}"
        );
    }
}

#[test]
fn every_flipped_bit_is_seen_and_is_no_torn_tail() {
    let bytes = stream(&[&[5, 6], &[7]]);
    let whole = read(&bytes);
    let last = whole.records[2].offset as usize;
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        if bit / 8 < LOG_HEADER {
            assert!(LogHeader::decode(&bad, LogKind::Commits, &STORE, "commits").is_err());
            continue;
        }
        let scan = read(&bad);
        let position = (bit / 8 - LOG_HEADER) / (HEAD + 8);
        assert_eq!(scan.records.len(), position, "bit {bit}");
        // The second write_start was written after the first was synced, so a bad first write_start is
        // damage.
        assert_eq!(scan.damaged, bit / 8 < last, "bit {bit}");
    }
}

#[test]
fn a_write_counts_whole_or_not_at_all() {
    let mut bytes = stream(&[&[5]]);
    let first = read(&bytes);
    let start = bytes.len();
    let mut prev_checksum = first.prev_checksum;
    for (number, sequence) in [(6, 2), (7, 3), (8, 4)] {
        let event = Event::HeadMoved(number);
        let write_start = start as u64;
        prev_checksum = encode(
            &mut bytes,
            &STORE,
            place(prev_checksum, write_start, sequence),
            number != 8,
            &event,
        );
    }
    assert_eq!(read(&bytes).records.len(), 4);
    for cut in start + 1..bytes.len() {
        let scan = read(&bytes[..cut]);
        assert_eq!(
            (scan.records.len(), scan.end),
            (1, first.end),
            "cut at {cut}"
        );
        assert_eq!(
            (scan.tail, scan.prev_checksum),
            (Tail::Cut, first.prev_checksum),
            "cut at {cut}"
        );
    }
    for at in start..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert_eq!(read(&bad).records.len(), 1, "byte {at}");
    }
}

#[test]
fn a_record_of_an_unknown_type_is_skipped_where_it_may_be() {
    for (flags, skipped) in [(OPTIONAL, true), (0, false)] {
        let mut bytes = stream(&[&[5]]);
        let first = read(&bytes);
        let at = place(
            first.prev_checksum,
            bytes.len() as u64,
            if skipped { 1 } else { 2 },
        );
        let prev_checksum = seal(&mut bytes, &STORE, at, (999, flags), |_| {});
        let write_start = bytes.len() as u64;
        encode(
            &mut bytes,
            &STORE,
            place(prev_checksum, write_start, 2),
            false,
            &Event::HeadMoved(6),
        );
        let header = LogHeader::decode(&bytes, LogKind::Commits, &STORE, "commits").unwrap();
        match scan(&bytes, &header, &STORE, "commits") {
            Ok(scan) => {
                let numbers: Vec<u64> = scan.records.iter().map(|r| r.sequence).collect();
                assert!(skipped && numbers == [1, 2] && scan.tail == Tail::Clean);
            }
            Err(error) => assert!(!skipped && matches!(error, Error::Version { .. })),
        }
    }
}

#[test]
fn heads_everywhere_do_not_cost_their_square() {
    let mut bytes = [stream(&[]), vec![1; 8]].concat();
    while bytes.len() < 2 << 20 {
        let rest = (2 << 20) - bytes.len() as u64;
        let mut head = Vec::new();
        let mut w = Writer(&mut head);
        w.u32(RECORD_MAGIC).u32(2).u64(rest).u64(5).u64(0);
        w.u64(1).u64(1);
        let sum = checksum::metadata(&STORE, &head);
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&sum.to_le_bytes());
    }
    bytes.resize((2 << 20) + HEAD, 0);
    let begun = std::time::Instant::now();
    let all = (0..1000).fold(0, |sum, _| sum ^ checksum::metadata(&STORE, &bytes));
    let thousand = begun.elapsed();
    let begun = std::time::Instant::now();
    let scan = read(&bytes);
    let took = begun.elapsed();
    assert!(matches!(scan.tail, Tail::Bad(_)) && scan.after_damage.is_empty());
    assert!(took < thousand, "{took:?}, {thousand:?} ({all})");
}

#[test]
fn a_stale_record_is_not_taken_for_the_next() {
    let (a, b) = (stream(&[&[1], &[2]]), stream(&[&[3], &[4]]));
    let second = read(&a).records[1].offset as usize;
    let mut mixed = a.clone();
    mixed[second..].copy_from_slice(&b[second..]);
    let scan = read(&mixed);
    assert_eq!(scan.records.len(), 1);
    assert!(matches!(scan.tail, Tail::Bad(_)));
}

/// Events and what is inline, each linked to the one before it or with a prev_checksum of its own; all in the write that
/// began at `write_start`.
fn add(bytes: &mut Vec<u8>, prev_checksum: u64, sequence: u64, more: bool) -> u64 {
    let write_start = bytes.len() as u64;
    let event = Event::HeadMoved(sequence);
    encode(
        bytes,
        &STORE,
        place(prev_checksum, write_start, sequence),
        more,
        &event,
    )
}

#[test]
fn the_first_write_ends_where_it_ends() {
    let mut bytes = header().encode(LogKind::Commits, &STORE);
    let prev_checksum = add(&mut bytes, 42, 1, true);
    let prev_checksum = add(&mut bytes, prev_checksum, 2, false);
    let first = bytes.len() as u64;
    let prev_checksum = add(&mut bytes, prev_checksum, 3, false);
    add(&mut bytes, prev_checksum, 4, false);
    let scan = read(&bytes);
    assert_eq!((scan.records.len(), scan.first), (4, first));
}

#[test]
fn only_at_the_beginning_a_record_of_the_previous_generation_is_a_torn_tail() {
    let mut bytes = header().encode(LogKind::Commits, &STORE);
    add(&mut bytes, header().previous, 1, false);
    assert_eq!(read(&bytes).tail, Tail::Cut);
    let mut bytes = header().encode(LogKind::Commits, &STORE);
    add(&mut bytes, 42, 1, false);
    add(&mut bytes, header().previous, 2, false);
    let scan = read(&bytes);
    assert!(scan.records.len() == 1 && matches!(scan.tail, Tail::Bad(_)));
    // Without one, no prev_checksum is of it.
    let first = LogHeader {
        previous: 0,
        ..header()
    };
    let mut bytes = first.encode(LogKind::Commits, &STORE);
    add(&mut bytes, 0, 1, false);
    assert!(matches!(read(&bytes).tail, Tail::Bad(_)));
}

#[test]
fn inline_files_before_an_unfinished_write_stay() {
    let mut bytes = header().encode(LogKind::Commits, &STORE);
    let prev_checksum = add(&mut bytes, 42, 1, false);
    let inline = InlineFiles {
        upto: 1,
        files: Vec::new(),
    };
    let write_start = bytes.len() as u64;
    let prev_checksum = encode_inline(
        &mut bytes,
        &STORE,
        place(prev_checksum, write_start, 1),
        &inline,
    );
    let end = bytes.len() as u64;
    let prev_checksum = add(&mut bytes, prev_checksum, 2, true);
    let write_start = bytes.len() as u64;
    encode_inline(
        &mut bytes,
        &STORE,
        place(prev_checksum, write_start, 2),
        &inline,
    );
    // It is of one write with the record before it.
    let at = end as usize;
    let scan = read(&bytes[..at]);
    assert_eq!((scan.records.len(), scan.inline.len()), (1, 1));
    let cut = bytes.len() - 1;
    let scan = read(&bytes[..cut]);
    assert_eq!(
        (scan.records.len(), scan.inline.len(), scan.end),
        (1, 1, end)
    );
}

#[test]
fn a_bad_place_is_damage_if_a_later_write_follows_and_not_if_the_same_does() {
    for (same, damaged) in [(true, false), (false, true)] {
        let mut bytes = header().encode(LogKind::Commits, &STORE);
        let bad = bytes.len();
        let prev_checksum = add(&mut bytes, 42, 1, false);
        let write_start = if same { bad } else { bytes.len() } as u64;
        let event = Event::HeadMoved(2);
        encode(
            &mut bytes,
            &STORE,
            place(prev_checksum, write_start, 2),
            false,
            &event,
        );
        bytes[bad] ^= 1;
        let scan = read(&bytes);
        assert_eq!((scan.damaged, scan.after_damage.len()), (damaged, 1));
    }
}

#[test]
fn heads_that_do_not_verify_do_not_hide_the_records_after_them() {
    let mut bytes = header().encode(LogKind::Commits, &STORE);
    for _ in 0..20 {
        let mut head = Vec::new();
        Writer(&mut head).u32(RECORD_MAGIC).u32(2).u64(600);
        head.resize(HEAD, 0);
        bytes.extend_from_slice(&head);
    }
    add(&mut bytes, 42, 1, false);
    bytes.resize(bytes.len() + 600, 0);
    assert_eq!(read(&bytes).after_damage.len(), 1);
}
