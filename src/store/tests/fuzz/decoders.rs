//! Every decoder of the format, and what must hold for whatever it accepts.

use super::seal;
use crate::format::bytes::Reader;
use crate::format::commit::Event;
use crate::format::header::{LOG_HEADER, LogHeader, LogKind};
use crate::format::identity::Identity;
use crate::format::index::{Content, FOOTER, Footer, PageLookup};
use crate::format::inline::InlineFiles;
use crate::format::record::{self, RecordPlace, Tail};
use crate::format::transfer::{self, Chain, FRAME, Frame};
use crate::format::{StoreId, high_water, name};

/// The id of the store to which all inputs belong.
pub(crate) const STORE: StoreId = *b"a fuzzed store's";
/// Checksums stay as they are in the input. Otherwise they are corrected.
pub(crate) const RAW: u8 = 1;
/// Records keep their `prev_checksum` and their sequence numbers.
pub(crate) const UNLINKED: u8 = 2;
/// The length of a module commit file is in the input. Otherwise it follows from the footer.
pub(crate) const LENGTH: u8 = 4;

/// The first byte chooses the decoder. The second byte chooses how the decoder's bytes are prepared.
pub(crate) fn run(input: &[u8]) {
    let [which, flags, bytes @ ..] = input else {
        return;
    };
    let mut bytes = bytes.to_vec();
    match which % 10 {
        0 => identity(&mut bytes, *flags),
        1 => stream(&mut bytes, *flags, LogKind::Commits),
        2 => stream(&mut bytes, *flags, LogKind::Journal),
        3 => event(&bytes),
        4 => ending(&mut bytes, *flags),
        5 => export(&mut bytes, *flags),
        6 => frame(&bytes),
        8 => kept(&bytes),
        9 => high_water(&mut bytes, *flags),
        _ => names(&bytes),
    }
}

fn identity(bytes: &mut [u8], flags: u8) {
    if flags & RAW == 0 {
        seal::identity(bytes);
    }
    if let Ok(identity) = Identity::decode(bytes, "identity") {
        let again = Identity::decode(&identity.encode(), "identity").unwrap();
        assert_eq!(again, identity);
    }
}

fn high_water(bytes: &mut [u8], flags: u8) {
    if flags & RAW == 0 {
        seal::high_water(bytes, &STORE);
    }
    if let Some(mark) = high_water::decode(bytes, &STORE) {
        let again = high_water::encode(&STORE, mark);
        assert_eq!(high_water::decode(&again, &STORE), Some(mark));
    }
}

fn stream(bytes: &mut [u8], flags: u8, kind: LogKind) {
    if flags & RAW == 0 {
        seal::stream(bytes, &STORE, flags & UNLINKED == 0);
    }
    let Ok(header) = LogHeader::decode(bytes, kind, &STORE, "stream") else {
        return;
    };
    let again = LogHeader::decode(&header.encode(kind, &STORE), kind, &STORE, "stream").unwrap();
    assert_eq!(again, header);
    let Ok(scan) = record::scan(bytes, &header, &STORE, "stream") else {
        return;
    };
    assert!(scan.end >= LOG_HEADER as u64 && scan.end <= bytes.len() as u64);
    assert!(scan.tail != Tail::Clean || scan.end == bytes.len() as u64);
    let mut last: Option<(u64, u64)> = None;
    for record in &scan.records {
        assert!(record.offset >= LOG_HEADER as u64 && record.offset < scan.end);
        assert!(last.is_none_or(|(at, n)| at < record.offset && n < record.sequence));
        last = Some((record.offset, record.sequence));
        check_event(&record.event);
    }
    scan.after_damage.iter().for_each(|r| check_event(&r.event));
    // The records that count are a log by themselves, and another record can be appended to them.
    let mut whole = bytes[..scan.end as usize].to_vec();
    let next = last.map_or(1, |(_, number)| number + 1);
    let moved = Event::HeadMoved(1);
    let place = RecordPlace {
        prev_checksum: scan.prev_checksum,
        write_start: scan.end,
        sequence: next,
    };
    record::encode(&mut whole, &STORE, place, false, &moved);
    let again = record::scan(&whole, &header, &STORE, "stream").unwrap();
    // The exception is a first record that continues the previous generation: a new record never does this.
    let stale = scan.end == LOG_HEADER as u64 && header.previous == scan.prev_checksum;
    assert!(
        stale || again.records.len() == scan.records.len() + 1,
        "{again:?}"
    );
}

fn check_event(event: &Event) {
    let mut bytes = Vec::new();
    event.encode(&mut bytes);
    assert!(bytes.len() <= event.length() + 8);
    let again = Event::decode(event.kind(), &bytes);
    assert_eq!(again.as_ref(), Ok(event));
    if let Event::Committed(commit) = event {
        for module in &commit.modules {
            assert!(commit.module(&module.id) == Some(module) && module.size > 0);
            assert!(name::check_module_id(&module.id).is_ok());
        }
    }
}

fn event(bytes: &[u8]) {
    let Some((kind, payload)) = bytes.split_first() else {
        return;
    };
    if let Ok(event) = Event::decode(u16::from(*kind), payload) {
        check_event(&event);
        let mut again = Vec::new();
        event.encode(&mut again);
        assert_eq!(again, payload, "the same event was encoded in another form");
    }
}

fn ending(bytes: &mut [u8], flags: u8) {
    let Some((before, bytes)) = bytes.split_first_chunk_mut::<8>() else {
        return;
    };
    let Some(at) = bytes.len().checked_sub(FOOTER) else {
        return;
    };
    if flags & RAW == 0 {
        seal::ending(bytes, &STORE, |_, _| None);
    }
    let before = match flags & LENGTH {
        0 => seal::number(&bytes[at..], 104),
        _ => u64::from_le_bytes(*before),
    };
    let Some(length) = before.checked_add(bytes.len() as u64) else {
        return;
    };
    let Ok(footer) = Footer::decode(&bytes[at..], length, &STORE, "file") else {
        return;
    };
    // In pieces, as the reader of a file asks for them.
    assert!(footer.index_offset + footer.index_length + FOOTER as u64 == length);
    let Some(runs) = bytes[..at].get(..footer.runs_length() as usize) else {
        return;
    };
    let mut decoded = footer.runs(&STORE);
    for piece in runs.chunks(2 * crate::format::index::RUN) {
        if decoded.add(piece, "file").is_err() {
            return;
        }
    }
    let Ok(index) = decoded.finish("file") else {
        return;
    };
    let (sums_at, sums_length) = index.checksums_at();
    assert_eq!(sums_at + sums_length + FOOTER as u64, length);
    let mut next = 0;
    for run in &index.runs {
        assert!(run.start >= next && run.end() <= index.size / index.page_size);
        next = run.end();
        for page in [run.start, run.end() - 1] {
            match index.find(page) {
                PageLookup::Data { slot } => {
                    let at = index.offset(page, slot);
                    assert!(slot < index.data_pages());
                    assert!(at + index.page_size <= index.index_offset());
                }
                PageLookup::Zero => assert_eq!(run.content, Content::Zero),
                PageLookup::Absent => panic!("page {page} is in a run and absent"),
            }
        }
    }
    let sums = &bytes[runs.len()..at];
    if index.learn_checksums(sums, &STORE, "file").is_ok() {
        let again = index.encode(&STORE);
        let footer = Footer::decode(&again[again.len() - FOOTER..], length, &STORE, "file");
        assert!(footer.is_ok() && again[..at] == bytes[..at]);
    }
}

fn export(bytes: &mut [u8], flags: u8) {
    if flags & RAW == 0 {
        seal::export(bytes);
    }
    let Some((header, mut rest)) = bytes.split_first_chunk() else {
        return;
    };
    let Ok(header) = transfer::StreamHeader::decode(header) else {
        return;
    };
    let mut chain = Chain::new(header.stream);
    let mut writer = Chain::new(header.stream);
    while let Some((head, behind)) = rest.split_first_chunk::<FRAME>() {
        let Ok(decoded) = chain.head(head) else {
            return;
        };
        let Some((payload, behind)) = behind.split_at_checked(decoded.length) else {
            return;
        };
        let Ok(frame) = chain.frame(&decoded, payload) else {
            return;
        };
        check_frame(&frame);
        // Each frame has only one form.
        assert_eq!(writer.encode(&frame), [head, payload].concat());
        rest = behind;
    }
}

fn check_frame(frame: &Frame<'_>) {
    match frame {
        Frame::Commit(commit) => check_event(&Event::Committed(commit.clone())),
        Frame::Module { id, .. } => assert!(name::check_module_id(id).is_ok()),
        _ => {}
    }
}

fn kept(bytes: &[u8]) {
    if let Ok(Ok(kept)) = InlineFiles::decode(bytes) {
        let mut again = Vec::new();
        kept.encode(&mut again);
        assert!(again == bytes && kept.length() == bytes.len());
        for file in &kept.files {
            assert!(name::check_module_id(&file.module).is_ok() && file.commit > 0);
        }
    }
}

/// One frame with a valid head: only the payload is tried.
fn frame(bytes: &[u8]) {
    let Some((kind, payload)) = bytes.split_first() else {
        return;
    };
    let mut framed = vec![0; transfer::STREAM_HEADER + FRAME];
    framed[16..32].copy_from_slice(&STORE);
    let head = &mut framed[transfer::STREAM_HEADER..];
    head[..4].copy_from_slice(b"VMSF");
    head[4] = *kind;
    head[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    framed.extend_from_slice(payload);
    seal::export(&mut framed);
    let mut chain = Chain::new(STORE);
    let head = framed[transfer::STREAM_HEADER..]
        .first_chunk::<FRAME>()
        .unwrap();
    let head = chain.head(head).expect("its head is right");
    if let Ok(frame) = chain.frame(&head, payload) {
        check_frame(&frame);
    }
}

fn names(bytes: &[u8]) {
    let mut r = Reader(bytes);
    let number = r.u64().unwrap_or(7);
    let Ok(text) = std::str::from_utf8(r.0) else {
        return;
    };
    if let Some((module, _)) = name::parse_module_commit(text) {
        assert!(
            name::check_module_id(text).is_err(),
            "{module}: a file's name"
        );
    }
    if name::check_module_id(text).is_ok() {
        assert!(!text.contains(['/', '\0']) && !text.starts_with('.'));
        let file = name::module_commit(text, number);
        assert_eq!(name::parse_module_commit(&file), Some((text, number)));
        assert!(name::check_module_id(&file).is_err());
        assert!(name::check_module_id(&name::last(text)).is_err());
    }
}
