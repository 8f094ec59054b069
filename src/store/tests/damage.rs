//! Promise 4: a small store with damage: every bit of its metadata and one bit of each byte of data flipped; every
//! file cut at every length; every sector zeroed, exchanged with every other, and replaced by an earlier content;
//! every file missing, and exchanged with every other. Each damage is reported with the name of the file, or it is
//! harmless. No byte is wrong, nothing panics, and no acknowledged commit is missing without a report, whether or
//! not it was persisted.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::crashed::{Crash, Crashes};
use super::fuzz::places::{bytes_at, id_of};
use super::parts::in_parts;
use super::recorded::{Disk, Fuse, Node, RecordedFiles};
use super::steps::{Player, Step};
use super::{Moment, Rig, check_reopened, map_options, open, rig, setting};
use crate::format::header::{LogHeader, LogKind};
use crate::format::index::FOOTER;
use crate::format::name;
use crate::sys::fs::{Dir, Place};
use crate::sys::host::repeatable;
use crate::{Error, Store, VerifyOptions};

const SECTOR: usize = 512;

#[derive(Default)]
struct DamageCounts {
    tried: u64,
    refused: u64,
    /// The store opened, and a commit could not be restored.
    later: u64,
    harmless: u64,
}

/// A store with two modules, images and deltas, zero pages, a moved head, and commits that are not persisted.
fn store() -> Rig {
    let mut player = Player::new(RecordedFiles::new(true));
    for step in [
        Step::Map,
        Step::Commit,
        Step::Map,
        Step::Commit,
        Step::Persist,
        Step::Commit,
        Step::Persist,
        Step::Restore,
        Step::Commit,
        Step::Commit,
    ] {
        player.step(step);
    }
    player.rig
}

/// All contents that a file of each name has had, after every operation since the store was made.
pub(crate) fn held(rig: &Rig) -> BTreeMap<Place, Vec<Arc<Vec<u8>>>> {
    let log = rig.files.log();
    let mut held: BTreeMap<Place, Vec<Arc<Vec<u8>>>> = BTreeMap::new();
    for count in 0..=log.len() {
        let crashes = Crashes::of_log(&log[..count], &rig.files, &Disk::default(), Crash::Kill);
        let disk = crashes.left(|_| true);
        for (place, node) in &disk.names {
            if let Node::File(inode) = node {
                let contents = held.entry(place.clone()).or_default();
                if !contents.contains(&disk.inodes[*inode]) {
                    contents.push(disk.inodes[*inode].clone());
                }
            }
        }
    }
    held
}

fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::Version { .. })
}

struct Damaged<'a> {
    rig: &'a Rig,
    disk: &'a Disk,
    counts: DamageCounts,
    part: u64,
    parts: u64,
    /// One in this many damages is tried.
    every: u64,
    number: u64,
}

impl Damaged<'_> {
    /// Whether this process tries the next damage.
    fn ours(&mut self) -> bool {
        self.number += 1;
        self.number % (self.parts * self.every) == self.part
    }

    /// Tries one damage: other bytes in one file, or in two.
    fn try_with(&mut self, changes: &[(usize, Vec<u8>)], what: &dyn Fn() -> String) {
        let mut disk = self.disk.clone();
        for (inode, bytes) in changes {
            disk.inodes[*inode] = Arc::new(bytes.clone());
        }
        self.try_disk(disk, what);
    }

    /// Tries one damage: another directory.
    fn try_disk(&mut self, disk: Disk, what: &dyn Fn() -> String) {
        if disk == *self.disk {
            return;
        }
        self.counts.tried += 1;
        let files = RecordedFiles::holding(disk, self.rig.files.boot);
        let store = match Store::open_files(files, "test", rig::open_options()) {
            Ok(store) => store,
            Err(error) => {
                assert!(is_damage(&error), "{}: {error}", what());
                self.counts.refused += 1;
                return;
            }
        };
        let oracle = &self.rig.oracle;
        let found = Moment::of(&store);
        // Also commits that are not persisted: they were acknowledged, and the host has not rebooted.
        let all = oracle.moments.last() == Some(&found);
        assert!(all, "{}: silently lost: {found:?}", what());
        let mut damaged = false;
        let mut modules = Vec::new();
        let verified = store.verify(&VerifyOptions::default(), None);
        for number in &found.commits {
            let bytes = &oracle.bytes[number];
            if let Err(error) = store.restore(*number, None) {
                assert!(is_damage(&error), "{}: {error}", what());
                damaged = true;
                continue;
            }
            for id in bytes.keys() {
                if !modules.iter().any(|(own, _)| own == id) {
                    match store.map_module(id, 0, &map_options()) {
                        Ok(module) => modules.push((id.clone(), module)),
                        Err(error) => {
                            assert!(is_damage(&error), "{}: {error}", what());
                            damaged = true;
                        }
                    }
                }
            }
            for (id, module) in &modules {
                let memory = &module.mapped().memory;
                let zeros = vec![0; memory.length() as usize];
                let right = memory.equals(0, bytes.get(id).unwrap_or(&zeros));
                assert!(right, "{}: WRONG BYTES in {id} at commit {number}", what());
            }
        }
        if damaged {
            assert!(
                verified.is_err(),
                "{}: verify does not report the damage",
                what()
            );
            self.counts.later += 1;
        } else {
            self.counts.harmless += 1;
        }
    }
}

/// The files of a store, their names, and the offsets at which their metadata begins.
fn files(disk: &Disk) -> Vec<(Place, usize, usize)> {
    let mut files = Vec::new();
    for (place, node) in &disk.names {
        let Node::File(inode) = node else { continue };
        let bytes = &disk.inodes[*inode];
        let metadata = match name::parse_module_commit(&place.name) {
            Some(_) => {
                let footer = &bytes[bytes.len() - FOOTER..];
                u64::from_le_bytes(footer[104..112].try_into().unwrap()) as usize
            }
            None if place.dir == Dir::Hidden || place.name == name::COMMITS => 0,
            // A backing file: a second name of an image, or an empty file.
            None => continue,
        };
        files.push((place.clone(), *inode, metadata));
    }
    files
}

/// `VMSTORE_DAMAGES`: one in this many damages is tried; 1 when it is not set.
fn every() -> u64 {
    setting("VMSTORE_DAMAGES", 1).max(1)
}

/// Removes every file, and exchanges it with every other.
fn damage_names(damaged: &mut Damaged, files: &[(Place, usize, usize)]) {
    let disk = damaged.disk;
    for (number, (place, ..)) in files.iter().enumerate() {
        if damaged.ours() {
            let mut left = disk.clone();
            left.names.remove(place);
            damaged.try_disk(left, &|| format!("{place} is missing"));
        }
        for (other, ..) in &files[..number] {
            if damaged.ours() {
                let mut exchanged = disk.clone();
                let [a, b] = [place, other].map(|place| disk.names[place].clone());
                exchanged
                    .names
                    .extend([(place.clone(), b), (other.clone(), a)]);
                damaged.try_disk(exchanged, &|| format!("{place} and {other} exchanged"));
            }
        }
    }
}

/// Flips one bit of each byte before the offset `metadata`, and every bit from there on.
fn damage_bits(damaged: &mut Damaged, place: &Place, inode: usize, metadata: usize) {
    let bytes = &damaged.disk.inodes[inode];
    for at in 0..bytes.len() {
        let bits = if at < metadata {
            at % 8..at % 8 + 1
        } else {
            0..8
        };
        for bit in bits {
            if damaged.ours() {
                let mut bytes = bytes.to_vec();
                bytes[at] ^= 1 << bit;
                let what = || format!("{place}: bit {bit} of byte {at}");
                damaged.try_with(&[(inode, bytes)], &what);
            }
        }
    }
}

/// Cuts the file to every length.
fn damage_lengths(damaged: &mut Damaged, place: &Place, inode: usize) {
    let bytes = &damaged.disk.inodes[inode];
    for length in 0..bytes.len() {
        if damaged.ours() {
            let bytes = bytes[..length].to_vec();
            let what = || format!("{place}: cut to {length} bytes");
            damaged.try_with(&[(inode, bytes)], &what);
        }
    }
}

/// Zeroes every sector, and replaces it by its content in each earlier state of the file of this name: a disk that
/// lost a write returns that state.
fn damage_sectors(damaged: &mut Damaged, place: &Place, inode: usize, earlier: &[Arc<Vec<u8>>]) {
    let bytes = &damaged.disk.inodes[inode];
    for at in (0..bytes.len()).step_by(SECTOR) {
        let end = bytes.len().min(at + SECTOR);
        if damaged.ours() {
            let mut bytes = bytes.to_vec();
            bytes[at..end].fill(0);
            damaged.try_with(&[(inode, bytes)], &|| format!("{place}: zeros at {at}"));
        }
        for (number, content) in earlier.iter().enumerate() {
            let Some(old) = content.get(at..) else {
                continue;
            };
            // With the file's present length, and with its length at that time.
            for cut in [false, true] {
                if (!cut || old.len() < end - at) && damaged.ours() {
                    let length = old.len().min(end - at);
                    let mut bytes = bytes.to_vec();
                    bytes[at..at + length].copy_from_slice(&old[..length]);
                    bytes.truncate(if cut { at + length } else { bytes.len() });
                    let what = || format!("{place}: at {at} as in its state {number}");
                    damaged.try_with(&[(inode, bytes)], &what);
                }
            }
        }
    }
}

/// Exchanges every two sectors of all files.
fn exchange_sectors(damaged: &mut Damaged, files: &[(Place, usize, usize)]) {
    let disk = damaged.disk;
    let sectors: Vec<(usize, usize)> = files
        .iter()
        .flat_map(|(_, inode, _)| {
            let whole = disk.inodes[*inode].len() / SECTOR;
            (0..whole).map(move |number| (*inode, number * SECTOR))
        })
        .collect();
    for (number, one) in sectors.iter().enumerate() {
        for two in &sectors[..number] {
            if damaged.ours() {
                let [a, b] =
                    [one, two].map(|(inode, at)| disk.inodes[*inode][*at..*at + SECTOR].to_vec());
                let mut changes = vec![(one.0, disk.inodes[one.0].to_vec())];
                if two.0 != one.0 {
                    changes.push((two.0, disk.inodes[two.0].to_vec()));
                }
                changes[0].1[one.1..one.1 + SECTOR].copy_from_slice(&b);
                changes.last_mut().unwrap().1[two.1..two.1 + SECTOR].copy_from_slice(&a);
                damaged.try_with(&changes, &|| format!("{one:?} and {two:?} exchanged"));
            }
        }
    }
}

fn damage_all(part: usize, parts: usize) -> DamageCounts {
    repeatable::begin(1);
    let rig = store();
    let disk = rig.files.disk();
    let held = held(&rig);
    let files = files(&disk);
    let mut damaged = Damaged {
        rig: &rig,
        disk: &disk,
        counts: DamageCounts::default(),
        part: part as u64,
        parts: parts as u64,
        every: every(),
        number: 0,
    };
    for (place, inode, metadata) in &files {
        damage_bits(&mut damaged, place, *inode, *metadata);
        damage_lengths(&mut damaged, place, *inode);
        damage_sectors(&mut damaged, place, *inode, &held[place]);
    }
    damage_names(&mut damaged, &files);
    exchange_sectors(&mut damaged, &files);
    damaged.counts
}

#[test]
fn promise_4_every_bit_every_length_every_sector() {
    let test = "store::tests::damage::promise_4_every_bit_every_length_every_sector";
    let search = |part, parts| {
        let c = damage_all(part, parts);
        [c.tried, c.refused, c.later, c.harmless]
    };
    let Some([tried, refused, later, harmless]) = in_parts(test, search) else {
        return;
    };
    println!(
        "{tried} damages: {refused} refused when opened, {later} when a commit was restored or mapped, {harmless} \
         harmless; no wrong byte, nothing acknowledged silently lost, persisted or not, and verify knew of all that a restore stumbled \
         over"
    );
    let every = every();
    assert!(tried > 100_000 / every && refused > 10_000 / every && later > 10_000 / every);
}

#[test]
fn promise_4_commits_that_a_compaction_wrote_anew_is_refused_at_every_shorter_length() {
    repeatable::begin(1);
    let mut player = Player::new(RecordedFiles::new(true));
    player.step(Step::Map);
    for _ in 0..8 {
        player.step(Step::Commit);
        player.step(Step::PersistInFiles);
    }
    let place = Place::root(name::COMMITS);
    let before = player.rig.files.disk().names[&place].clone();
    player.rig.compact(2, 1);
    let (rig, disk) = (&player.rig, player.rig.files.disk());
    let Node::File(inode) = disk.names[&place] else {
        panic!("commits is a file");
    };
    assert_ne!(Node::File(inode), before, "commits was rewritten");
    let store = id_of(&disk);
    let header = |place: &Place, kind| {
        let bytes = bytes_at(&disk, place);
        LogHeader::decode(bytes, kind, &store, &place.name).unwrap()
    };
    let journal = header(&Place::hidden(name::JOURNAL), LogKind::Journal);
    let known = journal.durable.of(&header(&place, LogKind::Commits));
    let length = disk.inodes[inode].len() as u64;
    assert_eq!(known, Some(length), "the journal has a mark of commits");
    let mut damaged = Damaged {
        rig,
        disk: &disk,
        counts: DamageCounts::default(),
        part: 0,
        parts: 1,
        every: 1,
        number: 0,
    };
    let bytes = &disk.inodes[inode];
    for length in 0..bytes.len() {
        let what = || format!("rewritten commits, cut to {length} bytes");
        damaged.try_with(&[(inode, bytes[..length].to_vec())], &what);
    }
    let DamageCounts { tried, refused, .. } = damaged.counts;
    assert!(tried > 200 && refused == tried);
    println!("{tried} lengths of a rewritten commits, {refused} refused");
    // The file that was replaced contains deleted commits. Its newest records delete them there too.
    damaged.counts = DamageCounts::default();
    for (number, older) in held(rig)[&place].iter().enumerate() {
        let what = || format!("rewritten commits, as in its state {number}");
        damaged.try_with(&[(inode, older.to_vec())], &what);
    }
    let DamageCounts { tried, refused, .. } = damaged.counts;
    println!("{tried} older contents of the file, {refused} refused");
    assert!(tried > 8 && refused == tried);
}

#[test]
fn commits_that_the_journal_could_not_note_is_no_damage() {
    let (mut failed, mut states) = (0, 0);
    for at in 1..60 {
        repeatable::begin(1);
        let empty = RecordedFiles::new(true);
        let mut player = Player::new(empty.copy());
        player.step(Step::Map);
        for _ in 0..12 {
            player.step(Step::Commit);
        }
        player.step(Step::PersistInFiles);
        let rig = &mut player.rig;
        rig.patience = 0;
        rig.files.set_fuse(Fuse::every("write", at));
        rig.compact(6, 1);
        rig.files.set_fuse(Fuse::default());
        if rig.failure.take().is_none() {
            continue;
        }
        failed += 1;
        let begun = rig.files.recorded();
        rig.compact(2, 1);
        assert!(rig.failure.is_none(), "{at}: {:?}", rig.failure);
        for count in begun..=rig.files.recorded() {
            let what = || format!("writes fail from {at} on; killed after {count} operations");
            let crashes = Crashes::new(&rig.files, &empty.disk(), count, Crash::Kill);
            let store = open(&crashes.files(|_| true), &what);
            check_reopened(&store, &rig.oracle, rig.allowed(count, Crash::Kill), &what);
            states += 1;
        }
    }
    println!("{failed} compactions failed, {states} kills in the next one: all opened");
    assert!(failed > 10 && states > 500, "{failed}, {states}");
}
