//! Files made by an attacker who knows the checksums: large claims in them cost no more memory or time than the
//! file's real content.

use std::io::Write;
use std::process::{Command, Stdio};

use super::fuzz::directory;
use super::fuzz::places::{Scratch, Thing, bases, id_of, of_this_boot};
use super::fuzz::seal;
use super::recorded::RecordedFiles;
use super::{Rig, map_options};
use crate::format::checksum::{Digest, Pieces};
use crate::format::commit::Event;
use crate::format::header::LOG_HEADER;
use crate::format::index::{Checksums, Content, FOOTER, FORMER, Index, RUN, Shape};
use crate::format::name;
use crate::format::record::HEAD;
use crate::journal::SequencedEvent;
use crate::layer::place;
use crate::sys::fs::Place;
use crate::sys::host::page_size;
use crate::{Error, OpenOptions, Store};

/// The number of runs that the footer claims.
const RUNS: u64 = 32 << 20;

/// Makes a store whose only module commit is a delta that claims this many runs. The runs are a hole in the file.
fn claim_many_runs(zeros: u64) -> String {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), OpenOptions::default()).unwrap();
    let module = store
        .map_module("ram", page_size(), &map_options())
        .unwrap();
    module.unmap().unwrap();
    let id = store.0.layers.store;
    let mut index = Index {
        module: "ram".into(),
        commit: 2,
        parent: 1,
        shape: Shape::Delta,
        page_size: page_size(),
        size: 2 * RUNS * page_size(),
        digest: Digest::default(),
        changed: None,
        former: None,
        runs: Vec::new(),
        checksums: Checksums::known(Vec::new()),
    };
    index.push(0, RUNS, Content::Zero);
    let encoded = index.encode(&id);
    let mut footer = encoded[encoded.len() - FOOTER..].to_vec();
    let length = RUNS * RUN as u64;
    let mut sum = Pieces::new(&id);
    let piece = vec![0; 1 << 20];
    let mut left = zeros;
    while left > 0 {
        let count = left.min(piece.len() as u64);
        sum.add(&piece[..count as usize]);
        left -= count;
    }
    for (at, value) in [(96, RUNS), (112, length), (120, sum.sum())] {
        footer[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    seal::footer(&mut footer, &id);
    let path = directory.path().join(place("ram", 2).name);
    let mut file = std::fs::File::create(path).unwrap();
    file.set_len(length).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
    file.write_all(&footer).unwrap();
    match store.0.layers.load("ram", 2) {
        Err(Error::Corrupt { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

/// The most memory that this process has used so far, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() >> 10
}

#[test]
fn an_index_that_is_a_hole_is_not_loaded() {
    const CHILD: &str = "VMSTORE_TEST_CLAIM";
    if std::env::var_os(CHILD).is_some() {
        // With and without the right checksum.
        let why = [claim_many_runs(RUNS * RUN as u64), claim_many_runs(1)];
        println!("peak: {} {why:?}", peak());
        return;
    }
    // A separate process: no other test uses its memory.
    let test = "store::tests::forged::an_index_that_is_a_hole_is_not_loaded";
    let child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let text = String::from_utf8(child.stdout).unwrap();
    assert!(child.status.success(), "{text}");
    let peak = text
        .split("peak: ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let peak: u64 = peak.expect("the child prints its peak").parse().unwrap();
    println!("an index of 768 MiB of nothing: refused with {peak} MiB of memory in all");
    assert!(peak < 100, "{peak} MiB");
}

/// A description and a change of one file's bytes.
type Forgery = (&'static str, fn(&mut Vec<u8>));

fn set(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// A field of a footer.
fn footer(bytes: &mut [u8], at: usize, value: u64) {
    let footer = bytes.len() - FOOTER;
    set(bytes, footer + at, value);
}

/// A field of a run.
fn run(bytes: &mut [u8], number: usize, at: usize, value: u64) {
    let index = seal::number(bytes, bytes.len() - FOOTER + 104) as usize;
    set(bytes, index + number * RUN + at, value);
}

/// The offset of the first record's payload.
const PAYLOAD: usize = LOG_HEADER + HEAD;

const OF_A_FOOTER: [Forgery; 22] = [
    ("an image whose former base is itself", |b| {
        let own = seal::number(b, b.len() - FOOTER + 32);
        footer(b, FORMER, own);
    }),
    ("the greatest number of former runs", |b| {
        footer(b, FORMER, 1);
        footer(b, FORMER + 8, u64::MAX);
    }),
    ("the greatest number of data pages", |b| {
        footer(b, 80, u64::MAX);
    }),
    ("more data pages than the module has", |b| footer(b, 80, 3)),
    ("the greatest number of zero pages", |b| {
        footer(b, 88, u64::MAX);
    }),
    ("the greatest number of runs", |b| footer(b, 96, u64::MAX)),
    ("runs whose bytes overflow", |b| footer(b, 96, 1 << 60)),
    ("more runs than pages", |b| footer(b, 96, 9)),
    ("an index beyond the file", |b| footer(b, 104, 1 << 40)),
    ("an index that overlaps the pages", |b| footer(b, 104, 0)),
    ("an index longer than the file", |b| footer(b, 112, 1 << 40)),
    ("a module of size 0", |b| footer(b, 56, 0)),
    ("a size that is not a multiple of a page", |b| {
        footer(b, 56, 4097);
    }),
    ("the greatest size", |b| {
        footer(b, 56, u64::MAX - 4095);
    }),
    ("itself as its parent", |b| {
        let own = seal::number(b, b.len() - FOOTER + 32);
        footer(b, 40, own);
    }),
    ("a parent that is younger", |b| footer(b, 40, 1 << 40)),
    ("another commit's number", |b| footer(b, 32, 77)),
    ("pages of size 0", |b| {
        let at = b.len() - FOOTER + 52;
        b[at..at + 4].fill(0);
    }),
    ("an unknown shape", |b| footer(b, 48, 4096 << 32 | 7)),
    ("a name outside of the directory", |b| {
        let at = b.len() - FOOTER + 136;
        b[at..at + 6].copy_from_slice(b"\x04\0../a");
    }),
    ("a name with a NUL", |b| {
        let at = b.len() - FOOTER + 136;
        b[at..at + 4].copy_from_slice(b"\x02\0a\0");
    }),
    ("a name longer than the footer", |b| {
        let at = b.len() - FOOTER + 136;
        b[at..at + 2].copy_from_slice(&u16::MAX.to_le_bytes());
    }),
];

const OF_RUNS: [Forgery; 5] = [
    ("a run beyond the module", |b| run(b, 0, 0, 1 << 40)),
    ("a run that overflows", |b| run(b, 0, 8, u64::MAX)),
    ("a run of 0 pages", |b| run(b, 0, 8, 0)),
    ("a run of unknown content", |b| run(b, 0, 16, 7)),
    ("a run that begins at a page that cannot exist", |b| {
        run(b, 0, 0, u64::MAX);
    }),
];

const OF_A_RECORD: [Forgery; 15] = [
    ("commit 0", |b| set(b, PAYLOAD, 0)),
    ("the greatest number", |b| set(b, PAYLOAD, u64::MAX)),
    ("itself as its parent", |b| set(b, PAYLOAD + 24, 1)),
    ("a parent that is younger", |b| {
        set(b, PAYLOAD + 24, 1 << 40);
    }),
    ("a parent that never existed", |b| {
        set(b, PAYLOAD + 24, u64::MAX);
    }),
    ("a label longer than the record", |b| {
        b[PAYLOAD + 40..PAYLOAD + 42].fill(0xff);
    }),
    ("user data longer than the record", |b| {
        b[PAYLOAD + 42..PAYLOAD + 46].fill(0xff);
    }),
    ("the greatest number of modules", |b| {
        b[PAYLOAD + 46..PAYLOAD + 50].fill(0xff);
    }),
    ("a module id longer than the record", |b| {
        b[PAYLOAD + 50..PAYLOAD + 52].fill(0xff);
    }),
    ("a module called /", |b| b[PAYLOAD + 52] = b'/'),
    ("a module called .", |b| b[PAYLOAD + 52] = b'.'),
    ("a module commit of the future", |b| {
        set(b, PAYLOAD + 53, 1 << 40);
    }),
    ("a module of size 0", |b| set(b, PAYLOAD + 61, 0)),
    ("a payload longer than any can be", |b| {
        set(b, LOG_HEADER + 8, u64::MAX);
    }),
    ("a payload longer than the file", |b| {
        set(b, LOG_HEADER + 8, 1 << 20);
    }),
];

const OF_THE_IDENTITY: [Forgery; 4] = [
    ("another version", |b| b[8] = 9),
    ("an unknown flag", |b| b[12] = 1),
    ("pages of size 0", |b| b[32..36].fill(0)),
    ("pages of another host", |b| {
        b[32..36].copy_from_slice(&(1u32 << 30).to_le_bytes());
    }),
];

/// Opens a store and reads all of it. Returns the first error.
fn first_error(root: &std::path::Path) -> Option<Error> {
    let store = match Store::open(root, OpenOptions::default()) {
        Ok(store) => store,
        Err(error) => return Some(error),
    };
    let all = (|| {
        for id in ["a", "b"] {
            store.map_module(id, 0, &map_options())?;
        }
        for commit in store.commits()? {
            store.restore(commit, None)?;
        }
        store.verify(&crate::VerifyOptions::default(), None)
    })();
    store.close().unwrap();
    all.err()
}

#[test]
fn every_forged_number_and_name_is_refused_by_the_name_of_its_file() {
    let base = &bases()[2];
    let store = id_of(&base.disk);
    let mut tried = 0;
    let mut refuses = |place: Place, forgeries: &[Forgery]| {
        for (what, change) in forgeries {
            let mut things = directory::things_of(base);
            let journal = things.get_mut(&Place::hidden(name::JOURNAL));
            if let Some(Thing::File { bytes, .. }) = journal {
                of_this_boot(bytes, &store);
            }
            let Some(Thing::File { bytes, .. }) = things.get_mut(&place) else {
                panic!("{place} is not there");
            };
            let was = bytes.clone();
            change(bytes);
            let same = *bytes == was;
            directory::reseal(&mut things, directory::UNLINKED);
            let scratch = Scratch::new();
            let root = scratch.make("store", things.iter());
            let error = first_error(&root);
            if same {
                assert!(error.is_none(), "{place}, unchanged: {error:?}");
                continue;
            }
            let text = error.as_ref().map_or(String::new(), ToString::to_string);
            let kind = matches!(
                error,
                Some(Error::Corrupt { .. } | Error::Version { .. } | Error::Unsupported { .. })
            );
            let named = text.contains(&place.name) || text.contains("/store");
            assert!(kind && named, "{place} with {what}: {error:?}");
            tried += 1;
        }
    };
    let file = |module: &str, commit| place(module, commit);
    for (module, commit) in [("a", 1), ("a", 2), ("a", 3)] {
        refuses(file(module, commit), &OF_A_FOOTER);
        refuses(file(module, commit), &OF_RUNS);
    }
    refuses(Place::root(name::COMMITS), &OF_A_RECORD);
    refuses(Place::hidden(name::IDENTITY), &OF_THE_IDENTITY);
    println!("{tried} forged numbers and names: each refused by the name of its file");
    assert!(tried > 80);
}

/// Records with valid checksums, one of which cannot follow the others.
#[test]
fn a_record_that_contradicts_history_is_refused_except_by_a_salvage() {
    let mut count = 0;
    for event in [Event::HeadMoved(77), Event::Deleted(77), Event::Deleted(2)] {
        for durable in [false, true] {
            let mut rig = Rig::small(RecordedFiles::new(true));
            rig.map("a");
            for _ in 0..2 {
                rig.write();
                rig.commit();
            }
            rig.persist_in_files();
            {
                let mut persist = rig.store.lock_persist();
                let mut locked = rig.store.lock_state();
                let sequence = locked.unpersisted.next_sequence;
                let event = event.clone();
                let log = if durable {
                    persist.commits.as_mut()
                } else {
                    locked.unpersisted.journal.as_mut()
                };
                let log = log.unwrap();
                log.append(&[SequencedEvent { sequence, event }]).unwrap();
            }
            for (read_only, salvage) in [(false, false), (true, false), (true, true)] {
                let files = rig.files.copy();
                let options = OpenOptions {
                    read_only,
                    salvage,
                    ..super::rig::open_options()
                };
                let opened = Store::open_files(files, "test", options);
                match opened {
                    Ok(store) => {
                        assert!(salvage, "{event:?}, durable {durable}");
                        let commits = store.commits().unwrap();
                        assert!(commits.starts_with(&[1]), "{event:?}: {commits:?}");
                    }
                    Err(error) => {
                        let text = error.to_string();
                        let good = matches!(error, Error::Corrupt { .. }) && !salvage;
                        assert!(good, "{event:?}, durable {durable}: {text}");
                    }
                }
                count += 1;
            }
        }
    }
    println!("{count} opens of stores whose last record contradicts the others");
}
