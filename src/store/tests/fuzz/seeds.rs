//! The first inputs of the fuzzers, made from what the library writes: `VMSTORE_WRITE_SEEDS=1 cargo test --lib
//! fuzz::seeds`.

use std::fs;
use std::os::fd::AsRawFd;

use super::places::{Scratch, bases, bytes_at, id_of};
use super::replay::corpus;
use super::{TARGETS, decoders, directory, stream};
use crate::format::checksum::Digest;
use crate::format::commit::Event;
use crate::format::header::{LogHeader, LogKind, Mark};
use crate::format::index::{Checksums, Content, Former, Index, Shape};
use crate::format::name;
use crate::format::record;
use crate::page_set::Run;
use crate::sys::fs::{Dir, Place};
use crate::{OpenOptions, Store};

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// The files of the bases, each for the decoder that reads it.
fn for_decoders() -> Seeds {
    let mut seeds = Seeds::new();
    let mut add = |head: [u8; 2], bytes: &[u8]| seeds.push(("decoders", [&head, bytes].concat()));
    for base in bases() {
        let id = id_of(&base.disk);
        for place in base.disk.names.keys() {
            let bytes = bytes_at(&base.disk, place);
            match (place.dir, place.name.as_str()) {
                (Dir::Hidden, name::IDENTITY) => add([0, 0], bytes),
                (Dir::Root, name::COMMITS) => add([1, 0], bytes),
                (Dir::Hidden, name::JOURNAL) => add([2, 0], bytes),
                (Dir::Hidden, name::HIGH_WATER) => add([9, 0], bytes),
                (Dir::Root, other) if name::parse_module_commit(other).is_some() => {
                    let at = super::seal::number(&bytes[bytes.len() - 512..], 104) as usize;
                    let before = (at as u64).to_le_bytes();
                    add([4, 0], &[&before, &bytes[at..]].concat());
                }
                _ => {}
            }
        }
        // Each event in a record of its own.
        for kind in [LogKind::Commits, LogKind::Journal] {
            let place = match kind {
                LogKind::Commits => Place::root(name::COMMITS),
                LogKind::Journal => Place::hidden(name::JOURNAL),
            };
            let bytes = bytes_at(&base.disk, &place);
            let Ok(header) = LogHeader::decode(bytes, kind, &id, "seed") else {
                continue;
            };
            let scan = record::scan(bytes, &header, &id, "seed").unwrap();
            for record in scan.inline {
                let mut payload = Vec::new();
                record.inline.encode(&mut payload);
                add([8, 0], &payload);
            }
            for record in scan.records {
                let mut payload = vec![record.event.kind() as u8];
                record.event.encode(&mut payload);
                add([3, 0], &payload);
                payload[0] = 1;
                add([6, 0], &payload);
            }
        }
    }
    add([4, 0], &large_index());
    add([4, 0], &former_delta());
    add([1, decoders::UNLINKED], &two_writes());
    for text in [
        "ram",
        "a_Commit7",
        "a.b-c_d",
        "commits",
        "x_last",
        "_Commit",
    ] {
        add([7, 0], &[&9u64.to_le_bytes(), text.as_bytes()].concat());
    }
    for (kind, payload) in [(2, 26), (3, 16), (4, 30), (9, 8)] {
        add([6, 0], &[&[kind][..], &vec![1; payload]].concat());
    }
    seeds
}

/// An index with runs of all kinds.
fn large_index() -> Vec<u8> {
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
        checksums: Checksums::known((1..9).collect()),
    };
    for (start, count, content) in [(3, 2, Content::Data), (5, 1, Content::Zero)] {
        index.push(start, count, content);
        index.push(start + 20, count + 2, Content::Data);
    }
    index.runs.sort_by_key(|run| run.start);
    [
        &(8u64 * 4096).to_le_bytes()[..],
        &index.encode(&decoders::STORE),
    ]
    .concat()
}

/// An image that records how it differs from the delta that it was before.
fn former_delta() -> Vec<u8> {
    let mut index = Index {
        module: "ram".into(),
        commit: 9,
        parent: 0,
        shape: Shape::Image,
        page_size: 4096,
        size: 100 * 4096,
        digest: Digest(77),
        changed: Some(2),
        former: Some(Former {
            commit: 4,
            runs: [(3, 2), (60, 40)]
                .map(|(start, count)| Run { start, count })
                .into(),
        }),
        runs: Vec::new(),
        checksums: Checksums::known((1..5).collect()),
    };
    index.push(3, 3, Content::Data);
    index.push(50, 1, Content::Data);
    [
        &index.size.to_le_bytes()[..],
        &index.encode(&decoders::STORE),
    ]
    .concat()
}

/// A log whose second write has three records.
fn two_writes() -> Vec<u8> {
    let header = LogHeader {
        generation: 42,
        previous: 41,
        durable: Mark::default(),
        boot_id: [0; 16],
        syncing: false,
        durable_upto: 0,
    };
    let mut bytes = header.encode(LogKind::Commits, &decoders::STORE);
    let mut prev_checksum = header.generation;
    let mut write_start = bytes.len() as u64;
    for (sequence, more) in [(1, false), (2, true), (3, true), (4, false)] {
        if sequence == 2 {
            write_start = bytes.len() as u64;
        }
        let event = Event::Deleted(sequence);
        let store = &decoders::STORE;
        let place = record::RecordPlace {
            prev_checksum,
            write_start,
            sequence,
        };
        prev_checksum = record::encode(&mut bytes, store, place, more, &event);
    }
    bytes
}

/// Each base unchanged, on this boot and after a reboot, and every kind of change.
fn for_directories() -> Seeds {
    let mut seeds = Seeds::new();
    let mut add = |bytes: &[u8]| seeds.push(("directory", bytes.to_vec()));
    let (forged, same) = (directory::FORGED, directory::SAME_BOOT);
    for base in 0..4 {
        for flags in [0, same, forged, forged | same | directory::FORGED_PAGES] {
            add(&[base, flags]);
        }
    }
    for base in 1..4 {
        for place in 0..12 {
            add(&[base, same, 2, place, 3, 40, 0]);
            add(&[base, 0, 3, place, 0xf0, 0xff]);
            add(&[base, same, 4, place, 1, place, 0, 0, 0, 0, 0, 2]);
            add(&[base, same, 5, place, 7, place, place + 1]);
            add(&[base, same, 9, place, place, 3]);
            let field = [11, place, 1, 0x98, 0xfe];
            add(&[&[base, forged | same | directory::PLACED], &field[..]].concat());
            let write = [1, place, 2, 0x10, 0, 9, 9];
            add(&[&[base, forged | same | directory::FORGED_PAGES], &write[..]].concat());
            add(&[
                base,
                forged | directory::PLACED,
                8,
                place,
                0xf0,
                0xfd,
                3,
                0,
                12,
            ]);
        }
    }
    seeds
}

/// What the bases export.
fn for_streams() -> Seeds {
    let mut seeds = Seeds::new();
    for (number, base) in bases().iter().enumerate().skip(1) {
        let scratch = Scratch::new();
        let root = scratch.make_from(&base.disk);
        let store = Store::open(&root, OpenOptions::default()).unwrap();
        let commits = store.commits().unwrap();
        for (from, to) in [
            (0, commits[0]),
            (0, store.head().unwrap()),
            (commits[0], *commits.last().unwrap()),
        ] {
            let spool = scratch.0.join("spool");
            let file = fs::File::create(&spool).unwrap();
            if store.export(from, to, file.as_raw_fd()).is_ok() {
                let bytes = fs::read(&spool).unwrap();
                for (into, flags) in [(0, 0), (number as u8, 0), (1, stream::RAW)] {
                    seeds.push(("stream", [&[into, flags], &bytes[..]].concat()));
                }
            }
        }
        store.close().unwrap();
    }
    seeds
}

/// Calls in several orders, with faults and crashes between.
fn for_sequences() -> Seeds {
    let mut seeds = Seeds::new();
    let begin = [0, 0, 11, 0, 2, 0, 0, 0, 11, 0, 2, 0, 3, 0];
    let rests: [&[u8]; 8] = [
        &[11, 0, 2, 0, 14, 1, 50, 3, 15],
        &[4, 0, 11, 0, 2, 0, 3, 0, 5, 0, 15],
        &[6, 65, 1, 9, 2, 0, 7, 0, 8, 0, 15],
        &[9, 0, 1, 8, 9, 1, 10, 0, 2, 0, 15],
        &[11, 0, 12, 3, 0, 0, 2, 0, 2, 0, 15],
        &[11, 0, 2, 0, 12, 2, 1, 1, 3, 0, 14, 1, 0, 1, 15],
        &[5, 0, 12, 4, 6, 2, 6, 65, 3, 0, 14, 9, 30, 7],
        &[12, 9, 2, 0, 8, 0, 14, 2, 50, 5, 2, 0],
    ];
    for host in [0, 1] {
        for rest in rests {
            seeds.push(("sequence", [&[host][..], &begin, rest].concat()));
        }
    }
    seeds
}

#[test]
fn the_first_inputs_hold() {
    let seeds = [
        for_decoders(),
        for_directories(),
        for_streams(),
        for_sequences(),
    ]
    .concat();
    for (name, bytes) in &seeds {
        let target = TARGETS.iter().find(|target| target.name == *name).unwrap();
        (target.run)(bytes);
        if std::env::var_os("VMSTORE_WRITE_SEEDS").is_some() {
            let sum = crate::format::checksum::page(bytes);
            fs::create_dir_all(corpus(name)).unwrap();
            fs::write(corpus(name).join(format!("{sum:016x}")), bytes).unwrap();
        }
    }
    println!("{} inputs to begin with", seeds.len());
}
