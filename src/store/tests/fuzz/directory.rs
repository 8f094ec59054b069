//! Whole store directories: a store that the library made is changed as the input says, and then opened in every
//! way, listed, verified, mapped, restored, written to, exported and compacted.

use std::collections::{BTreeMap, BTreeSet};

use super::examine::{Passes, examine};
use super::places::{Base, Scratch, Thing, bases, bytes_at, id_of, of_this_boot};
use super::seal;
use crate::format::bytes::Reader;
use crate::format::name;
use crate::sys::fs::{Dir, Place};
use crate::sys::host::repeatable;

/// Checksums are corrected: the directory was made by an attacker. Without this flag it was damaged by accident,
/// and no byte may be wrong.
pub(crate) const FORGED: u8 = 1;
/// Checksums of pages are corrected too.
pub(crate) const FORGED_PAGES: u8 = 2;
/// The host has not rebooted since.
pub(crate) const SAME_BOOT: u8 = 4;
/// Records keep their `prev_checksum` and their sequence numbers.
pub(crate) const UNLINKED: u8 = 8;
/// The offsets in a footer follow from its counts.
pub(crate) const PLACED: u8 = 16;

/// The longest hole in a module commit, and in a log, which the library searches to its end.
const HOLE: u64 = 1 << 30;
const STREAM_HOLE: u64 = 1 << 20;
/// How much of the end of a file is sealed.
const ENDING: u64 = 1 << 20;

pub(crate) type Things = BTreeMap<Place, Thing>;

/// An input while it is read: the directory, and the input's next bytes.
struct Edits<'a> {
    r: Reader<'a>,
    base: &'a Base,
    things: Things,
    forged: bool,
}

/// The first byte chooses the base. The second byte says how the rest, a list of changes, is applied.
pub(crate) fn run(input: &[u8]) {
    let [base, flags, edits @ ..] = input else {
        return;
    };
    let bases = bases();
    let base = &bases[usize::from(*base) % bases.len()];
    // New ids from here on differ from those of the bases.
    repeatable::begin(1 << 32);
    let forged = flags & FORGED != 0;
    let mut edits = Edits {
        r: Reader(edits),
        base,
        things: things_of(base),
        forged,
    };
    if flags & SAME_BOOT != 0 {
        let place = Place::hidden(name::JOURNAL);
        if let Some(Thing::File { bytes, .. }) = edits.things.get_mut(&place) {
            of_this_boot(bytes, &id_of(&base.disk));
        }
    }
    while edits.next().is_some() {}
    let mut things = edits.things;
    shorten_holes(&mut things);
    if forged {
        reseal(&mut things, *flags);
    }
    let scratch = Scratch::new();
    let root = scratch.make("store", things.iter());
    let passes = Passes {
        scratch: &scratch,
        root: &root,
        truth: if forged { None } else { Some(base) },
    };
    examine(&passes);
}

pub(crate) fn things_of(base: &Base) -> Things {
    let mut things = Things::new();
    for place in base.disk.names.keys() {
        let bytes = bytes_at(&base.disk, place).to_vec();
        let thing = match base.disk.names.get(place) {
            Some(super::super::recorded::Node::Link(target)) => Thing::Link(target.clone()),
            _ => Thing::File {
                bytes,
                hole: (0, 0),
            },
        };
        things.insert(place.clone(), thing);
    }
    things
}

/// A module commit with its long hole may get the name of a log, as its name or as a second one. Shortens these
/// holes.
fn shorten_holes(things: &mut Things) {
    let is_file = |place: &Place| name::parse_module_commit(&place.name).is_some();
    let mut streams = BTreeSet::new();
    for (place, thing) in things.iter() {
        match thing {
            _ if is_file(place) => {}
            Thing::Second(of) => drop(streams.insert(of.clone())),
            _ => drop(streams.insert(place.clone())),
        }
    }
    for place in streams {
        if let Some(Thing::File { hole, .. }) = things.get_mut(&place) {
            hole.1 = hole.1.min(STREAM_HOLE);
        }
    }
}

impl Edits<'_> {
    fn byte(&mut self) -> Option<u8> {
        Some(self.r.take(1)?[0])
    }

    /// A name that is in the directory, or could be.
    fn place(&mut self) -> Option<Place> {
        let others = [
            Place::hidden(name::IDENTITY),
            Place::hidden(name::JOURNAL),
            Place::root(name::COMMITS),
            Place::root("a"),
            Place::root("a_last"),
            Place::root(name::module_commit("a", 1)),
            Place::root(name::module_commit("b", 3)),
            Place::root(name::module_commit("c", 9)),
            Place::hidden("new-1"),
            Place::root("stranger"),
        ];
        let number = self.byte()?;
        let high_water = Place::hidden(name::HIGH_WATER);
        if number == u8::MAX {
            // Chosen by a number of its own: the saved inputs of the fuzzer then keep their meaning.
            return Some(high_water);
        }
        let number = usize::from(number);
        let own: Vec<&Place> = self.things.keys().filter(|p| **p != high_water).collect();
        let all = own.len() + others.len();
        let number = number % all;
        Some(own.get(number).map_or_else(
            || others[number - own.len()].clone(),
            |place| (*place).clone(),
        ))
    }

    /// An offset in a file: from its beginning or, if negative, from its end.
    fn at(&mut self, length: usize) -> Option<usize> {
        let at = self.r.u16()? as i16;
        Some(if at < 0 {
            length.saturating_sub(usize::from(at.unsigned_abs()))
        } else {
            (at as usize).min(length)
        })
    }

    /// Makes one change. Returns `None` at the end of the input.
    fn next(&mut self) -> Option<()> {
        let kind = self.byte()?;
        let place = self.place()?;
        match kind % 12 {
            0 | 1 => self.overwrite(&place)?,
            2 => {
                let shift = u32::from(self.byte()?) % 8;
                let length = self.length(&place);
                let at = self.at(length)?;
                if let Some(byte) = self.file(&place).and_then(|bytes| bytes.get_mut(at)) {
                    *byte ^= 1 << shift;
                }
            }
            3 => {
                let length = self.length(&place);
                let at = self.at(length)?;
                if let Some(bytes) = self.file(&place) {
                    bytes.truncate(at);
                }
            }
            4 => self.copy(&place)?,
            5 => drop(self.things.remove(&place)),
            6 => {
                let other = self.place()?;
                if let Some(thing) = self.things.remove(&place) {
                    self.things.insert(other, thing);
                }
            }
            7 => {
                let other = self.place()?;
                let two = (self.things.remove(&place), self.things.remove(&other));
                self.things.extend(two.0.map(|thing| (other, thing)));
                self.things.extend(two.1.map(|thing| (place, thing)));
            }
            8 => {
                let length = self.length(&place);
                let at = self.at(length)?;
                let hole = u64::from(self.r.u16()?) << (self.byte()? % 32);
                if let Some(Thing::File { hole: own, .. }) = self.things.get_mut(&place) {
                    *own = (at, hole.min(HOLE));
                }
            }
            9 => {
                let thing = match self.byte()? % 5 {
                    0 => Thing::Socket,
                    1 => Thing::Directory,
                    2 => Thing::Second(self.place()?),
                    3 => Thing::Link(self.place()?.to_string()),
                    _ => Thing::Link("../outside".into()),
                };
                self.things.insert(place, thing);
            }
            10 => {
                let count = usize::from(self.byte()?);
                let length = self.length(&place);
                let at = self.at(length)?;
                if let Some(bytes) = self.file(&place) {
                    let end = (at + count).min(bytes.len());
                    bytes[at..end].fill(0);
                }
            }
            _ => {
                // A field of eight bytes becomes slightly larger or smaller.
                let by = i64::from(self.byte()? as i8) as u64;
                let length = self.length(&place);
                let at = self.at(length)?;
                let forged = self.forged;
                if let Some(bytes) = self.file(&place).filter(|_| forged) {
                    if let Some(word) = bytes.get_mut(at..at + 8) {
                        let value = seal::number(word, 0).wrapping_add(by);
                        word.copy_from_slice(&value.to_le_bytes());
                    }
                }
            }
        }
        Some(())
    }

    fn length(&mut self, place: &Place) -> usize {
        self.file(place).map_or(0, |bytes| bytes.len())
    }

    fn file(&mut self, place: &Place) -> Option<&mut Vec<u8>> {
        match self.things.get_mut(place) {
            Some(Thing::File { bytes, .. }) => Some(bytes),
            _ => None,
        }
    }

    /// Bytes of the input. Accidental damage never makes bytes with a meaning.
    fn overwrite(&mut self, place: &Place) -> Option<()> {
        let count = usize::from(self.byte()? % 33);
        let length = self.length(place);
        let at = self.at(length)?;
        let new = self.r.take(count)?;
        if !self.forged {
            return Some(());
        }
        self.things.entry(place.clone()).or_insert(Thing::File {
            bytes: Vec::new(),
            hole: (0, 0),
        });
        if let Some(bytes) = self.file(place) {
            bytes.resize(bytes.len().max(at + count), 0);
            bytes[at..at + count].copy_from_slice(new);
        }
        Some(())
    }

    /// Bytes of another file, or of an earlier state.
    fn copy(&mut self, to: &Place) -> Option<()> {
        let (when, from) = (usize::from(self.byte()?), self.place()?);
        let length = self.length(to);
        let at = self.at(length)?;
        let source = self.base.earlier.get(when).unwrap_or(&self.base.disk);
        let source = bytes_at(source, &from);
        let (start, count) = (self.at(source.len())?, usize::from(self.r.u16()?));
        let end = (start + count).min(source.len());
        let copied = &source[start..end];
        if let Some(bytes) = self.file(to) {
            bytes.resize(bytes.len().max(at + copied.len()), 0);
            bytes[at..at + copied.len()].copy_from_slice(copied);
        }
        Some(())
    }
}

/// Corrects all checksums.
pub(crate) fn reseal(things: &mut Things, flags: u8) {
    let identity = Place::hidden(name::IDENTITY);
    if let Some(Thing::File { bytes, .. }) = things.get_mut(&identity) {
        seal::identity(bytes);
    }
    let Some(Thing::File { bytes, .. }) = things.get(&identity) else {
        return;
    };
    let Some(store) = bytes.get(16..32).and_then(|id| id.try_into().ok()) else {
        return;
    };
    for (place, thing) in things {
        let Thing::File { bytes, hole } = thing else {
            continue;
        };
        match (place.dir, place.name.as_str()) {
            (Dir::Hidden, name::JOURNAL) | (Dir::Root, name::COMMITS) => {
                seal::stream(bytes, &store, flags & UNLINKED == 0);
            }
            (Dir::Hidden, name::HIGH_WATER) => seal::high_water(bytes, &store),
            (Dir::Root, other) if name::parse_module_commit(other).is_some() => {
                reseal_file(bytes, *hole, &store, flags);
            }
            _ => {}
        }
    }
}

/// Corrects the end of a module commit with this hole, and the checksums of its pages if the flags say so.
pub(crate) fn reseal_file(
    bytes: &mut [u8],
    hole: (usize, u64),
    store: &crate::format::StoreId,
    flags: u8,
) {
    let Some(footer) = bytes.len().checked_sub(crate::format::index::FOOTER) else {
        return;
    };
    let field = |bytes: &[u8], at: usize| seal::number(bytes, footer + at);
    if flags & PLACED != 0 {
        let shape = field(bytes, 48) as u32;
        let pages = field(bytes, 80);
        let offset = if shape == 2 {
            field(bytes, 56)
        } else {
            pages.wrapping_mul(crate::sys::host::page_size())
        };
        let length = field(bytes, 96)
            .wrapping_mul(crate::format::index::RUN as u64)
            .wrapping_add(pages.wrapping_mul(8));
        bytes[footer + 104..footer + 112].copy_from_slice(&offset.to_le_bytes());
        bytes[footer + 112..footer + 120].copy_from_slice(&length.to_le_bytes());
    }
    let length = bytes.len() as u64 + hole.1;
    let index = field(bytes, 104).min(length);
    if length - index > ENDING {
        return;
    }
    // The file as it will be, without most of its hole.
    let whole = |at: u64| -> u8 {
        let hole_at = hole.0.min(bytes.len()) as u64;
        if at < hole_at {
            bytes[at as usize]
        } else if at < hole_at + hole.1 {
            0
        } else {
            bytes[(at - hole.1) as usize]
        }
    };
    let mut ending: Vec<u8> = (index..length).map(whole).collect();
    let page_size = field(bytes, 52) as u32;
    let image = field(bytes, 48) as u32 == 2;
    let page = |number: u64, slot: u64| {
        let at = if image { number } else { slot }.checked_mul(u64::from(page_size))?;
        let end = at.checked_add(u64::from(page_size))?;
        let here = flags & FORGED_PAGES != 0 && page_size <= 65536 && end <= length;
        here.then(|| (at..end).map(whole).collect())
    };
    seal::ending(&mut ending, store, page);
    let hole_at = hole.0.min(bytes.len()) as u64;
    for (at, byte) in (index..length).zip(ending) {
        if at < hole_at {
            bytes[at as usize] = byte;
        } else if at >= hole_at + hole.1 {
            bytes[(at - hole.1) as usize] = byte;
        }
    }
}
