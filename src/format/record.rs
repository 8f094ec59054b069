//! The record log: the format of both `commits` and the journal. Records follow the header. Each
//! record has its length, type, sequence number and checksums, and names the checksum of the record
//! before it.

use super::bytes::{Reader, Writer};
use super::commit::Event;
use super::header::{LOG_HEADER, LogHeader};
use super::inline::{self, InlineFiles};
use super::{LAST, StoreId, checksum};
use crate::{Error, Result};

/// The length of a record before its payload.
pub(crate) const HEAD: usize = 56;
const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"VREC");
/// A library that does not know the type of the record may skip the record.
const OPTIONAL: u16 = 1;
/// The next record was appended by the same write.
const MORE: u16 = 2;
/// The longest payload. User data has at most 16 MiB; the rest is for the map of modules.
pub(crate) const MAX_PAYLOAD: u64 = 64 << 20;

/// A record whose checksums match.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) sequence: u64,
    /// The offset of the record in the file.
    pub(crate) offset: u64,
    pub(crate) event: Event,
}

/// A record with inline files. It makes the records before it durable.
#[derive(Debug, Clone)]
pub(crate) struct InlineRecord {
    pub(crate) offset: u64,
    pub(crate) inline: InlineFiles,
}

/// What binds a record to its place in the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordPlace {
    /// The checksum of the record before it; for the first record the log's generation.
    pub(crate) prev_checksum: u64,
    /// The file offset at which the write begins that brings the record.
    pub(crate) write_start: u64,
    pub(crate) sequence: u64,
}

/// Appends a record to `bytes`. `more` says that another record of the same write follows. Returns
/// the checksum that the next record has to name.
pub(crate) fn encode(
    bytes: &mut Vec<u8>,
    store: &StoreId,
    place: RecordPlace,
    more: bool,
    event: &Event,
) -> u64 {
    let flags = if more { MORE } else { 0 };
    seal(bytes, store, place, (event.kind(), flags), |bytes| {
        event.encode(bytes);
    })
}

/// The same for a record with inline files. Its sequence number is that of the record before it.
pub(crate) fn encode_inline(
    bytes: &mut Vec<u8>,
    store: &StoreId,
    place: RecordPlace,
    inline: &InlineFiles,
) -> u64 {
    seal(bytes, store, place, (inline::KIND, 0), |bytes| {
        inline.encode(bytes);
    })
}

fn seal(
    bytes: &mut Vec<u8>,
    store: &StoreId,
    place: RecordPlace,
    (kind, flags): (u16, u16),
    payload: impl FnOnce(&mut Vec<u8>),
) -> u64 {
    let start = bytes.len();
    bytes.resize(start + HEAD, 0);
    payload(bytes);
    let payload = &bytes[start + HEAD..];
    let (length, payload_sum) = (payload.len(), checksum::metadata(store, payload));
    let mut head = Vec::with_capacity(HEAD);
    let mut w = Writer(&mut head);
    w.u32(RECORD_MAGIC)
        .u16(kind)
        .u16(flags)
        .u64(length as u64)
        .u64(place.sequence)
        .u64(place.write_start);
    w.u64(place.prev_checksum).u64(payload_sum);
    let sum = checksum::metadata(store, &head);
    Writer(&mut head).u64(sum);
    bytes[start..start + HEAD].copy_from_slice(&head);
    let padded = bytes.len().next_multiple_of(8);
    bytes.resize(padded, 0);
    sum
}

/// How the valid part of a log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tail {
    /// At the end of the file.
    Clean,
    /// With a record that the end of the file cuts off. A writer that was killed leaves such a
    /// tail.
    Cut,
    /// With bytes that are not a valid record. A disk that lost power may leave such bytes after
    /// the last synced byte.
    Bad(String),
}

/// The records of a log.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The records from the beginning up to the first record that does not verify.
    pub(crate) records: Vec<Record>,
    /// The records with inline files among them. They say up to which record the log is durable.
    pub(crate) inline: Vec<InlineRecord>,
    /// The offset after the last of these records, and the `prev_checksum` of the next record.
    pub(crate) end: u64,
    pub(crate) prev_checksum: u64,
    /// The offset at which the first write ends.
    pub(crate) first: u64,
    pub(crate) tail: Tail,
    /// Valid records after the damaged place, for salvage.
    pub(crate) after_damage: Vec<Record>,
    /// One of the records in `after_damage` was written after the bad place had been synced. A
    /// power cut cannot explain the bad place then, so it is damage.
    pub(crate) damaged: bool,
}

/// The offset at which a write began, and the `prev_checksum` of its first record.
struct UnfinishedWrite {
    at: u64,
    prev_checksum: u64,
}

/// Reads all records of a log.
pub(crate) fn scan(bytes: &[u8], header: &LogHeader, store: &StoreId, file: &str) -> Result<Scan> {
    let mut scan = Scan {
        records: Vec::new(),
        inline: Vec::new(),
        end: LOG_HEADER as u64,
        prev_checksum: header.generation,
        first: LOG_HEADER as u64,
        tail: Tail::Clean,
        after_damage: Vec::new(),
        damaged: false,
    };
    let mut at = LOG_HEADER;
    // The write of the last record, if more records of that write must follow.
    let mut unfinished: Option<UnfinishedWrite> = None;
    while at < bytes.len() {
        let parsed = match parse(bytes, at, store) {
            Ok(parsed) => parsed,
            Err(tail) => {
                scan.tail = tail;
                break;
            }
        };
        let last = scan.records.last().map(|r: &Record| r.sequence);
        let unnumbered = parsed.kind == inline::KIND || parsed.flags & OPTIONAL != 0;
        let numbered = u64::from(!unnumbered);
        if at == LOG_HEADER && header.previous != 0 && parsed.prev_checksum == header.previous {
            // The log has a new generation, and its owner was killed before it had cut off the old
            // records.
            scan.tail = Tail::Cut;
            break;
        }
        if parsed.prev_checksum != scan.prev_checksum
            || last.is_some_and(|n| n + numbered != parsed.sequence)
        {
            scan.tail = Tail::Bad("a record does not follow the record before it".into());
            break;
        }
        if parsed.flags & MORE == 0 {
            unfinished = None;
        } else if unfinished.is_none() {
            unfinished = Some(UnfinishedWrite {
                at: at as u64,
                prev_checksum: scan.prev_checksum,
            });
        }
        scan.prev_checksum = parsed.sum;
        let offset = at as u64;
        at = parsed.next;
        scan.end = at as u64;
        if scan.first == LOG_HEADER as u64 && unfinished.is_none() {
            scan.first = scan.end;
        }
        if parsed.kind == inline::KIND {
            let inline = parsed.inline(file)?;
            scan.inline.push(InlineRecord { offset, inline });
        } else if let Some(event) = parsed.event(file)? {
            scan.records.push(Record {
                sequence: parsed.sequence,
                offset,
                event,
            });
        }
    }
    if matches!(scan.tail, Tail::Bad(_)) {
        scan_after_damage(bytes, at, store, &mut scan);
    }
    if let Some(unfinished) = unfinished {
        // A write counts as a whole or not at all, because it may delete a commit that it has made.
        (scan.end, scan.prev_checksum) = (unfinished.at, unfinished.prev_checksum);
        let keep = scan.records.partition_point(|r| r.offset < unfinished.at);
        let cut = scan.records.split_off(keep);
        scan.inline.retain(|inline| inline.offset < unfinished.at);
        scan.after_damage.splice(0..0, cut);
        if scan.tail == Tail::Clean {
            scan.tail = Tail::Cut;
        }
    }
    Ok(scan)
}

/// Looks for records after a damaged place. Records begin at multiples of 8.
fn scan_after_damage(bytes: &[u8], bad: usize, store: &StoreId, scan: &mut Scan) {
    // How many bytes of payloads that do not verify may still be read. Real records do not overlap.
    // Forged records can begin anywhere, and each of them can reach to the end of the file.
    let mut left = 4 * bytes.len();
    let mut at = bad;
    while at + HEAD <= bytes.len() {
        if left == 0 || bytes[at..at + 4] != RECORD_MAGIC.to_le_bytes() {
            at += 8;
            continue;
        }
        if let Ok(parsed) = parse(bytes, at, store) {
            scan.damaged |= parsed.write_start > bad as u64;
            if let Ok(Some(event)) = parsed.event("") {
                scan.after_damage.push(Record {
                    sequence: parsed.sequence,
                    offset: at as u64,
                    event,
                });
            }
            at = parsed.next;
        } else {
            left = left.saturating_sub(payload_at(bytes, at, store));
            at += 8;
        }
    }
}

/// The length of the payload of the record at `at`; 0 if its head does not verify or the payload is
/// not complete.
fn payload_at(bytes: &[u8], at: usize, store: &StoreId) -> usize {
    let (body, sum) = bytes[at..at + HEAD].split_at(HEAD - 8);
    let length = Reader(&body[8..]).u64().unwrap_or(0);
    let complete = length <= MAX_PAYLOAD.min((bytes.len() - at - HEAD) as u64);
    if complete && sum == checksum::metadata(store, body).to_le_bytes() {
        length as usize
    } else {
        0
    }
}

struct Parsed<'a> {
    kind: u16,
    flags: u16,
    sequence: u64,
    write_start: u64,
    prev_checksum: u64,
    sum: u64,
    payload: &'a [u8],
    next: usize,
}

impl Parsed<'_> {
    fn inline(&self, file: &str) -> Result<InlineFiles> {
        let inline = InlineFiles::decode(self.payload)?;
        let inline = inline.and_then(|inline| {
            let possible = inline.upto <= self.sequence;
            possible
                .then_some(inline)
                .ok_or("it names a record that follows it")
        });
        inline.map_err(|why| {
            let sequence = self.sequence;
            Error::corrupt(
                file,
                format!("the inline files up to record {sequence}: {why}"),
            )
        })
    }

    /// The event of the record. `None`: this library does not know the record's type and may skip
    /// the record.
    fn event(&self, file: &str) -> Result<Option<Event>> {
        if !Event::knows(self.kind) {
            if self.flags & OPTIONAL != 0 {
                return Ok(None);
            }
            return Err(Error::Version {
                file: file.into(),
                why: format!(
                    "record {} has the unknown type {}",
                    self.sequence, self.kind
                ),
            });
        }
        Event::decode(self.kind, self.payload)
            .map(Some)
            .map_err(|why| Error::corrupt(file, format!("record {}: {why}", self.sequence)))
    }
}

fn parse<'a>(bytes: &'a [u8], at: usize, store: &StoreId) -> std::result::Result<Parsed<'a>, Tail> {
    let bad = |why: &str| Tail::Bad(format!("{why} at byte {at}"));
    let rest = &bytes[at..];
    let Some((head, rest)) = rest.split_at_checked(HEAD) else {
        return Err(Tail::Cut);
    };
    let (body, sum) = head.split_at(HEAD - 8);
    let expected = checksum::metadata(store, body);
    if sum != expected.to_le_bytes() {
        return Err(bad("the checksum of a record's head does not match"));
    }
    let mut r = Reader(body);
    let fields = (|| {
        Some((
            r.u32()?,
            r.u16()?,
            r.u16()?,
            r.u64()?,
            r.u64()?,
            r.u64()?,
            r.u64()?,
            r.u64()?,
        ))
    })();
    let Some((magic, kind, flags, length, sequence, write_start, prev_checksum, payload_sum)) =
        fields
    else {
        return Err(bad("a record's head is too short"));
    };
    if magic != RECORD_MAGIC || sequence > LAST || length > MAX_PAYLOAD {
        return Err(bad("the head of a record has impossible values"));
    }
    let payload = usize::try_from(length)
        .ok()
        .and_then(|length| rest.get(..length));
    let Some(payload) = payload else {
        return Err(Tail::Cut);
    };
    if checksum::metadata(store, payload) != payload_sum {
        return Err(bad("the checksum of a record does not match"));
    }
    let next = (at + HEAD + payload.len()).next_multiple_of(8);
    if next > bytes.len() {
        return Err(Tail::Cut);
    }
    if bytes[at + HEAD + payload.len()..next]
        .iter()
        .any(|byte| *byte != 0)
    {
        return Err(bad("the padding after a record is not zero"));
    }
    Ok(Parsed {
        kind,
        flags,
        sequence,
        write_start,
        prev_checksum,
        sum: expected,
        payload,
        next,
    })
}

#[cfg(test)]
mod tests;
