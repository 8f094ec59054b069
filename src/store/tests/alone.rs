//! Promise 4: damage that only one check can find, because all other checks accept it.

use std::sync::Arc;

use super::crashed::{Crash, Crashes};
use super::fuzz::directory::{FORGED_PAGES, reseal_file};
use super::fuzz::places::{bytes_at, id_of};
use super::fuzz::seal;
use super::recorded::{Disk, Fuse, Node, RecordedFiles, Short};
use super::rig::open_options;
use super::steps::{Player, Step};
use super::{CommitOptions, Moment, Rig, Store, map_options, open};
use crate::format::header::{LOG_HEADER, LogHeader, LogKind, Mark};
use crate::format::index::{FOOTER, FORMER, FORMER_RUN, RUN};
use crate::format::name;
use crate::format::record::{self, Record};
use crate::journal::{commits_place, journal_place};
use crate::sys::fs::Place;
use crate::sys::host::repeatable;
use crate::{Error, Result, VerifyOptions};

/// The boot id of the host that made the store, and the id that the host has after it lost power.
pub(crate) const SAME_BOOT: u8 = 1;
pub(crate) const BOOTED: u8 = 2;

pub(crate) fn open_on(disk: &Disk, boot: u8) -> Result<Store> {
    let files = RecordedFiles::holding(disk.clone(), boot);
    Store::open_files(files, "test", open_options())
}

/// The directory with one file's bytes changed.
pub(crate) fn with(disk: &Disk, place: &Place, change: impl FnOnce(&mut Vec<u8>)) -> Disk {
    let mut disk = disk.clone();
    let Some(Node::File(inode)) = disk.names.get(place) else {
        panic!("{place} is not there");
    };
    change(Arc::make_mut(&mut disk.inodes[*inode]));
    disk
}

/// Checks that the store is refused as damaged, with the name of this file.
pub(crate) fn refused<T>(outcome: Result<T>, place: &Place, what: &dyn Fn() -> String) {
    match outcome {
        Err(Error::Corrupt { file, .. }) if file == place.to_string() => {}
        Err(error) => panic!("{}: {error}", what()),
        Ok(_) => panic!("{}: the damage was accepted", what()),
    }
}

fn bits(bytes: &[u8]) -> std::ops::Range<usize> {
    0..bytes.len() * 8
}

fn flip(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8] ^= 1 << (bit % 8);
}

/// The records of a log.
fn records(disk: &Disk, kind: LogKind, place: &Place) -> Vec<Record> {
    let (bytes, store) = (bytes_at(disk, place), id_of(disk));
    let header = LogHeader::decode(bytes, kind, &store, "").unwrap();
    record::scan(bytes, &header, &store, "").unwrap().records
}

/// Makes three commits in files, which were appended to `commits` one by one, then a restore and two more commits,
/// which are in the journal.
fn store() -> Rig {
    repeatable::begin(1);
    let mut rig = Rig::small(RecordedFiles::new(true));
    rig.map("a");
    for _ in 0..3 {
        rig.write();
        rig.commit();
        rig.persist_in_files();
    }
    rig.restore(1);
    for _ in 0..2 {
        rig.write();
        rig.commit();
    }
    rig
}

#[test]
fn every_flipped_bit_of_the_list_of_commits_is_seen_when_the_store_is_opened() {
    let disk = store().files.disk();
    assert!(open_on(&disk, SAME_BOOT).is_ok());
    let mut tried = 0;
    for place in [
        Place::hidden(name::IDENTITY),
        journal_place(),
        commits_place(),
    ] {
        for bit in bits(bytes_at(&disk, &place)) {
            let damaged = with(&disk, &place, |bytes| flip(bytes, bit));
            let what = || format!("{place}: bit {bit}");
            refused(open_on(&damaged, SAME_BOOT), &place, &what);
            tried += 1;
        }
    }
    println!(
        "{tried} bits of the identity, the journal and commits: each reported with its file's name"
    );
    assert!(tried > 8000);
}

#[test]
fn every_flipped_bit_of_a_journal_without_a_high_water_mark_is_seen() {
    let mut disk = store().files.disk();
    disk.names.remove(&Place::hidden(name::HIGH_WATER));
    assert!(open_on(&disk, SAME_BOOT).is_ok());
    let place = journal_place();
    for bit in bits(bytes_at(&disk, &place)) {
        let damaged = with(&disk, &place, |bytes| flip(bytes, bit));
        let what = || format!("bit {bit} of the journal");
        refused(open_on(&damaged, SAME_BOOT), &place, &what);
    }
}

#[test]
fn a_journal_without_all_that_was_durable_in_it_is_refused_after_a_reboot() {
    let mut rig = store();
    rig.persist_in_files();
    rig.write();
    rig.commit();
    rig.persist();
    let (disk, place) = (rig.files.disk(), journal_place());
    let found = Moment::of(&open_on(&disk, BOOTED).unwrap());
    assert_eq!(found, *rig.oracle.now());
    let kept = records(&disk, LogKind::Journal, &place);
    let last = kept.last().unwrap().offset as usize;
    for length in LOG_HEADER..=last {
        let cut = with(&disk, &place, |bytes| bytes.truncate(length));
        let what = || format!("the journal is cut to {length} bytes");
        refused(open_on(&cut, BOOTED), &place, &what);
    }
}

#[test]
fn bytes_after_a_log_are_damage_if_the_host_did_not_lose_power() {
    let rig = store();
    let disk = rig.files.disk();
    for place in [journal_place(), commits_place()] {
        for junk in [vec![0; 512], vec![0xa5; 64]] {
            let longer = with(&disk, &place, |bytes| bytes.extend(&junk));
            let what = || format!("{place} with {} bytes more", junk.len());
            refused(open_on(&longer, SAME_BOOT), &place, &what);
            let found = Moment::of(&open_on(&longer, BOOTED).unwrap());
            assert_eq!(found, *rig.oracle.now(), "{}", what());
        }
    }
}

#[test]
fn a_missing_or_cut_commits_is_seen_beside_an_empty_journal() {
    let mut rig = store();
    rig.persist_in_files();
    let disk = rig.files.disk();
    assert_eq!(bytes_at(&disk, &journal_place()).len(), LOG_HEADER);
    let place = commits_place();
    for boot in [SAME_BOOT, BOOTED] {
        let mut gone = disk.clone();
        gone.names.remove(&place);
        let what = || format!("commits is missing, boot {boot}");
        refused(open_on(&gone, boot), &place, &what);
        for length in 0..bytes_at(&disk, &place).len() {
            let cut = with(&disk, &place, |bytes| bytes.truncate(length));
            let what = || format!("commits is cut to {length} bytes, boot {boot}");
            refused(open_on(&cut, boot), &place, &what);
        }
    }
}

/// Cuts the power: all that no sync made durable is lost. Then flips bits in the part of `commits` that was there
/// before the last write. The journal has no mark of this part any more.
fn damaged_after_a_power_cut(rig: &Rig, begun: &Disk) -> u64 {
    let count = rig.files.recorded();
    let crashes = Crashes::new(&rig.files, begun, count, Crash::PowerCut);
    let disk = crashes.left(|_| false);
    let found = Moment::of(&open_on(&disk, BOOTED).unwrap());
    assert_eq!(found, rig.oracle.moments[rig.oracle.persisted]);
    let place = commits_place();
    let journal = LogHeader::decode(
        bytes_at(&disk, &journal_place()),
        LogKind::Journal,
        &id_of(&disk),
        "",
    );
    assert_eq!(
        journal.unwrap().durable.length,
        0,
        "the journal has a mark of commits"
    );
    let all = records(&disk, LogKind::Commits, &place);
    // If `commits` grew by several writes, the power cut may tear the records of the last one. A file that was
    // written in one go was durable before it got its name.
    let single = rig.oracle.now().commits.len() == 1;
    let (first, end) = if single {
        let length = bytes_at(&disk, &place).len();
        (length, length)
    } else {
        (all[1].offset as usize, all[all.len() - 1].offset as usize)
    };
    for bit in 0..end * 8 {
        let damaged = with(&disk, &place, |bytes| flip(bytes, bit));
        let what = || format!("commits, bit {bit} of {end} bytes, after a power cut");
        refused(open_on(&damaged, BOOTED), &place, &what);
    }
    for length in 0..first {
        let damaged = with(&disk, &place, |bytes| bytes.truncate(length));
        let what = || format!("commits, cut to {length} bytes, after a power cut");
        refused(open_on(&damaged, BOOTED), &place, &what);
    }
    end as u64 * 8
}

#[test]
fn a_loss_in_commits_before_its_last_write_is_seen_after_a_power_cut() {
    repeatable::begin(1);
    let empty = RecordedFiles::new(true);
    let mut rig = Rig::small(empty.copy());
    rig.map("a");
    for _ in 0..4 {
        rig.write();
        rig.commit();
        rig.persist_in_files();
    }
    let several = damaged_after_a_power_cut(&rig, &empty.disk());
    // `commits` is rewritten with one write, which is durable before the file gets its name.
    rig.compact(1, 1);
    let one = damaged_after_a_power_cut(&rig, &empty.disk());
    println!("{several} bits of commits that grew, and {one} of a rewritten one: each reported");
}

/// Opens a store as its owner and makes a few commits.
fn branch(of: &Disk, commits: u8, persist: bool, byte: u8) -> Disk {
    let files = RecordedFiles::holding(of.clone(), SAME_BOOT);
    let what = || "a branch".to_owned();
    let store = open(&files, &what);
    let module = store.map_module("a", 0, &map_options()).unwrap();
    for number in 0..commits {
        module.mapped().memory.write(0, &[byte + number; 100]);
        module.mark_dirty(0, 100).unwrap();
        store.commit(&CommitOptions::default()).unwrap();
        if persist {
            store.checkpoint(None).unwrap();
        }
    }
    files.disk()
}

/// Two stores with the same beginning that continued differently, with the same commit numbers.
fn branches(commits: u8, persist: bool) -> [Disk; 2] {
    repeatable::begin(1);
    let mut rig = Rig::small(RecordedFiles::new(true));
    rig.map("a");
    rig.write();
    rig.commit();
    rig.persist_in_files();
    let trunk = rig.files.disk();
    [50, 100].map(|byte| branch(&trunk, commits, persist, byte))
}

#[test]
fn a_record_of_the_same_number_and_another_history_does_not_follow() {
    for (kind, place, persist) in [
        (LogKind::Journal, journal_place(), false),
        (LogKind::Commits, commits_place(), true),
    ] {
        let [one, other] = branches(3, persist);
        let numbers = |disk| -> Vec<_> {
            let all = records(disk, kind, &place);
            all.iter().map(|r| (r.sequence, r.offset)).collect()
        };
        assert_eq!(numbers(&one), numbers(&other));
        let (_, at) = *numbers(&one).last().unwrap();
        let stale = &bytes_at(&other, &place)[at as usize..];
        let mixed = with(&one, &place, |bytes| {
            bytes.truncate(at as usize);
            bytes.extend(stale);
        });
        let what = || format!("{place} with a record of another history");
        refused(open_on(&mixed, SAME_BOOT), &place, &what);
    }
}

#[test]
fn a_file_of_the_same_commit_of_another_history_is_not_the_one() {
    let place = crate::layer::place("a", 2);
    for persist in [false, true] {
        let [one, other] = branches(1, persist);
        let mixed = with(&one, &place, |bytes| {
            bytes_at(&other, &place).clone_into(bytes);
        });
        let what = || format!("commit 2 of another history, persisted {persist}");
        let store = open_on(&mixed, SAME_BOOT).unwrap();
        refused(store.map_module("a", 0, &map_options()), &place, &what);
        refused(store.verify(&VerifyOptions::default(), None), &place, &what);
        store.restore(1, None).unwrap();
        let module = store.map_module("a", 0, &map_options()).unwrap();
        refused(store.restore(2, None), &place, &what);
        drop(module);
        if !persist {
            // Then the commit is not whole, and was not durable.
            let store = open_on(&mixed, BOOTED).unwrap();
            assert_eq!(store.commits().unwrap(), [1], "{}", what());
        }
    }
}

#[test]
fn every_flipped_bit_of_the_page_checksums_is_seen_without_reading_pages() {
    let disk = store().files.disk();
    let options = VerifyOptions {
        metadata_only: true,
        ..VerifyOptions::default()
    };
    let mut tried = 0;
    for commit in [1, 2] {
        let place = crate::layer::place("a", commit);
        let bytes = bytes_at(&disk, &place);
        let footer = bytes.len() - FOOTER;
        let field = |at| seal::number(bytes, footer + at) as usize;
        let runs = field(96) * RUN + field(FORMER + 8) * FORMER_RUN;
        let list = field(104) + runs..footer;
        assert_eq!(list.len(), field(80) * 8);
        for bit in list.start * 8..list.end * 8 {
            let damaged = with(&disk, &place, |bytes| flip(bytes, bit));
            let store = open_on(&damaged, SAME_BOOT).unwrap();
            let what = || format!("{place}: bit {bit}");
            refused(store.verify(&options, None), &place, &what);
            tried += 1;
        }
    }
    println!("{tried} bits of page checksums: each reported by a verification of metadata");
    assert!(tried >= 64);
}

/// An attacker who knows the checksums changes a page. The digest of all pages in the commit's record stays.
#[test]
fn pages_that_do_not_make_up_the_digest_are_seen_by_a_verification() {
    let disk = store().files.disk();
    let id = id_of(&disk);
    for commit in [1, 2] {
        let place = crate::layer::place("a", commit);
        let forged = with(&disk, &place, |bytes| {
            flip(bytes, 0);
            reseal_file(bytes, (0, 0), &id, FORGED_PAGES);
        });
        let store = open_on(&forged, SAME_BOOT).unwrap();
        let what = || format!("{place}: another page, with the right checksum");
        refused(store.verify(&VerifyOptions::default(), None), &place, &what);
    }
}

/// An attacker who knows the checksums takes away the last write of `commits`, and changes the journal's header to
/// match. The next record of the journal could be read without the missing commit: it is a commit that was made on
/// an older one.
#[test]
fn a_journal_that_does_not_continue_commits_is_refused() {
    let disk = store().files.disk();
    let last = records(&disk, LogKind::Commits, &commits_place());
    let last = last.last().unwrap().offset as usize;
    let store = id_of(&disk);
    let shorter = with(&disk, &commits_place(), |bytes| bytes.truncate(last));
    let forged = with(&shorter, &journal_place(), |bytes| {
        let mut header = LogHeader::decode(bytes, LogKind::Journal, &store, "").unwrap();
        header.durable = Mark::default();
        let header = header.encode(LogKind::Journal, &store);
        bytes[..LOG_HEADER].copy_from_slice(&header);
    });
    let what = || "commits without its last record".to_owned();
    for boot in [SAME_BOOT, BOOTED] {
        refused(open_on(&forged, boot), &journal_place(), &what);
    }
}

/// Runs a step in which one operation fails once. Returns `None` if the step has no such operation, otherwise
/// whether the call failed.
fn journal_after_a_failure(step: Step, at: u64, short: Short) -> Option<bool> {
    repeatable::begin(1);
    let mut player = Player::new(RecordedFiles::new(true));
    for step in [Step::Map, Step::Commit, Step::Commit] {
        player.step(step);
    }
    let before = bytes_at(&player.rig.files.disk(), &journal_place()).to_vec();
    player.rig.patience = 0;
    player.rig.files.set_fuse(Fuse {
        at,
        times: 1,
        short,
        ..Fuse::default()
    });
    player.step(step);
    if player.rig.files.set_fuse(Fuse::default()).burnt == 0 {
        return None;
    }
    let failed = player.rig.failure.is_some();
    let disk = player.rig.files.disk();
    let same = bytes_at(&disk, &journal_place()) == before;
    assert!(
        !failed || same,
        "{step:?}: operation {at} fails with {short:?}"
    );
    Some(failed)
}

#[test]
fn the_torn_tail_of_a_failed_append_is_gone_when_the_call_returns() {
    let (mut faults, mut failed) = (0, 0);
    for step in [Step::Commit, Step::Restore, Step::Delete] {
        for short in [Short::Nothing, Short::Half, Short::AllButOneByte] {
            let tried = (1..).map_while(|at| journal_after_a_failure(step, at, short));
            for outcome in tried {
                faults += 1;
                failed += u64::from(outcome);
            }
        }
    }
    println!("{faults} operations failed, {failed} calls with them: the journal was as before");
    assert!(failed > 20, "{failed} of {faults}");
}
