//! Promise 2 for commits that come from another store: after a power cut an import is whole or absent, and after a
//! persist it is whole.

use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;

use crate::Error;
use crate::format::transfer::{Chain, FRAME, Frame, STREAM_HEADER, StreamHeader};
use crate::store::tests::crashed::{Crash, Crashes};
use crate::store::tests::exported::{exported, source};
use crate::store::tests::recorded::RecordedFiles;
use crate::store::tests::{Random, Rig, check_reopened, open, seed, setting};

#[test]
fn promise_2_an_import_is_whole_or_absent_and_durable_once_persisted() {
    let most = setting("VMSTORE_CRASHES", 8) * 4;
    let mut states = 0;
    for (number, has_boot_id) in [true, false].into_iter().enumerate() {
        let from = source();
        let mut random = Random(seed() * 31 + number as u64 + 1);
        let empty = RecordedFiles::new(has_boot_id);
        let mut rig = Rig::small(empty.copy());
        rig.map("a");
        rig.write();
        rig.commit();
        if has_boot_id {
            rig.persist();
        }
        let begun = rig.files.recorded();
        let file = exported(&from);
        rig.import(file.as_raw_fd(), &from.oracle);
        rig.persist();
        rig.write();
        rig.commit();
        let log = rig.files.log();
        for count in begun + 1..=log.len() {
            for crash in [Crash::Kill, Crash::PowerCut] {
                let crashes = Crashes::of_log(&log[..count], &rig.files, &empty.disk(), crash);
                let mut left = Vec::new();
                crashes.choices(most, &mut random, |survives| {
                    left.push(crashes.files(survives));
                });
                for files in left {
                    let what = || format!("import: {crash:?} after {count} operations");
                    let store = open(&files, &what);
                    check_reopened(&store, &rig.oracle, rig.allowed(count, crash), &what);
                    states += 1;
                }
            }
        }
    }
    println!(
        "seed {}: {states} crash states of imports: whole, or not there",
        seed()
    );
    assert!(states > 500);
}

/// The stream with a byte of its page frame number `at` changed, and every checksum corrected.
fn forged(stream: &[u8], at: usize) -> Option<Vec<u8>> {
    let (header, mut rest) = stream.split_at(STREAM_HEADER);
    let id = StreamHeader::decode(header.try_into().unwrap())
        .unwrap()
        .stream;
    let (mut old, mut new) = (Chain::new(id), Chain::new(id));
    let mut bytes = header.to_vec();
    let mut pages = 0;
    while !rest.is_empty() {
        let (head, behind) = rest.split_at(FRAME);
        let head = old.head(head.try_into().unwrap()).unwrap();
        let (payload, behind) = behind.split_at(head.length);
        let frame = old.frame(&head, payload).unwrap();
        if let Frame::Pages { start, bytes: was } = frame {
            let mut other = was.to_vec();
            other[0] ^= u8::from(pages == at);
            pages += 1;
            let frame = Frame::Pages {
                start,
                bytes: &other,
            };
            bytes.extend(new.encode(&frame));
        } else {
            bytes.extend(new.encode(&frame));
        }
        rest = behind;
    }
    (at < pages).then_some(bytes)
}

#[test]
fn promise_4_a_stream_whose_pages_are_not_those_of_its_commit_is_refused() {
    let mut stream = Vec::new();
    exported(&source()).read_to_end(&mut stream).unwrap();
    let import = |bytes: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let store = Rig::small(RecordedFiles::new(true)).store;
        let imported = store.import(file.as_raw_fd());
        (imported, store.commits().unwrap().len())
    };
    assert!(matches!(import(&stream), (Ok(_), 4)));
    let mut refused = 0;
    for at in 0.. {
        let Some(bytes) = forged(&stream, at) else {
            break;
        };
        let (imported, commits) = import(&bytes);
        assert!(matches!(imported, Err(Error::Corrupt { .. })), "{at}");
        assert_eq!(commits, 0);
        refused += 1;
    }
    assert!(refused > 3, "{refused} frames of pages");
    println!("{refused} streams with checksums that hold and a page of another commit: refused");
}
