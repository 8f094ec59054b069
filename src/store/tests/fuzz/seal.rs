//! Corrects checksums after a fuzzer changed the bytes that they cover. The input then passes them, as the input of
//! an attacker would.

use crate::format::header::LOG_HEADER;
use crate::format::index::{FOOTER, FORMER, FORMER_RUN, RUN};
use crate::format::inline;
use crate::format::record::{HEAD, MAX_PAYLOAD};
use crate::format::{StoreId, checksum, transfer};

pub(crate) fn number(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    word.map_or(0, u64::from_le_bytes)
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Sets the last 8 of the first `length` bytes to the checksum of the bytes before them.
fn end_with_sum(bytes: &mut [u8], length: usize, sum: impl Fn(&[u8]) -> u64) {
    if let Some(part) = bytes.get_mut(..length) {
        let (body, _) = part.split_at(length - 8);
        let sum = sum(body);
        put(part, length - 8, sum);
    }
}

pub(crate) fn identity(bytes: &mut [u8]) {
    end_with_sum(bytes, crate::format::identity::LENGTH, checksum::plain);
}

pub(crate) fn high_water(bytes: &mut [u8], store: &StoreId) {
    end_with_sum(bytes, crate::format::high_water::LENGTH, |bytes| {
        checksum::metadata(store, bytes)
    });
}

/// Corrects the header and the records of a log. `follow`: also makes each record the successor of the record
/// before.
pub(crate) fn stream(bytes: &mut [u8], store: &StoreId, follow: bool) {
    let seeded = |bytes: &[u8]| checksum::metadata(store, bytes);
    end_with_sum(bytes, LOG_HEADER, seeded);
    let mut link = number(bytes, 32);
    let mut sequence = None;
    let mut at = LOG_HEADER;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| rest.len() >= HEAD) {
        if follow {
            put(rest, 32, link);
            let numbered = u64::from(rest[4..6] != inline::KIND.to_le_bytes());
            let next = sequence.map_or(number(rest, 16), |last: u64| last.wrapping_add(numbered));
            put(rest, 16, next);
            sequence = Some(next);
        }
        let length = number(rest, 8);
        let whole = length <= MAX_PAYLOAD.min((rest.len() - HEAD) as u64);
        if whole {
            let sum = seeded(&rest[HEAD..HEAD + length as usize]);
            put(rest, 40, sum);
        }
        end_with_sum(rest, HEAD, seeded);
        link = number(rest, HEAD - 8);
        if !whole {
            break;
        }
        at = (at + HEAD + length as usize).next_multiple_of(8);
    }
}

/// Corrects a footer alone.
pub(crate) fn footer(bytes: &mut [u8], store: &StoreId) {
    end_with_sum(bytes, FOOTER, |bytes| checksum::metadata(store, bytes));
}

/// Corrects the end of a module commit file, from its index on. `page` returns the bytes of a data page, by page
/// and slot, if the checksums of pages are to be corrected too.
pub(crate) fn ending(
    bytes: &mut [u8],
    store: &StoreId,
    page: impl Fn(u64, u64) -> Option<Vec<u8>>,
) {
    let Some(at) = bytes.len().checked_sub(FOOTER) else {
        return;
    };
    let seeded = |bytes: &[u8]| checksum::metadata(store, bytes);
    let (index, footer) = bytes.split_at_mut(at);
    let bounded = |count: u64, each: usize| {
        let bytes = count.saturating_mul(each as u64);
        usize::try_from(bytes).ok().filter(|bytes| *bytes <= at)
    };
    let own = bounded(number(footer, 96), RUN);
    let former = bounded(number(footer, FORMER + 8), FORMER_RUN);
    let length = own.zip(former).map(|(own, former)| own + former);
    let parts = length.and_then(|length| index.split_at_mut_checked(length));
    if let Some((runs, sums)) = parts {
        let own = runs[..own.unwrap_or(0)].chunks_exact(RUN);
        let mut slot = 0;
        for run in own.filter(|run| number(run, 16) == 2) {
            let (start, count) = (number(run, 0), number(run, 8));
            for number in start..start.saturating_add(count) {
                let Some(sum) = sums.get_mut(slot * 8..slot * 8 + 8) else {
                    break;
                };
                if let Some(page) = page(number, slot as u64) {
                    put(sum, 0, checksum::page(&page));
                }
                slot += 1;
            }
        }
        put(footer, 120, seeded(runs));
        if let Some(length) = bounded(number(footer, 80), 8).filter(|l| *l <= sums.len()) {
            put(footer, 128, seeded(&sums[..length]));
        }
    }
    self::footer(footer, store);
}

/// Corrects the header and the frames of an export.
pub(crate) fn export(bytes: &mut [u8]) {
    const FRAME: usize = transfer::FRAME;
    end_with_sum(bytes, transfer::STREAM_HEADER, checksum::plain);
    let Some(stream) = bytes.get(16..32).and_then(|id| id.try_into().ok()) else {
        return;
    };
    let seeded = |bytes: &[u8]| checksum::metadata(&stream, bytes);
    let (mut at, mut count, mut link) = (transfer::STREAM_HEADER, 0, 0);
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| rest.len() >= FRAME) {
        put(rest, 16, count);
        put(rest, 24, link);
        let length = number(rest, 8).min(MAX_PAYLOAD) as usize;
        if let Some(payload) = rest.get(FRAME..FRAME + length) {
            let sum = seeded(payload);
            put(rest, 32, sum);
        }
        end_with_sum(rest, FRAME, seeded);
        (at, count, link) = (at + FRAME + length, count + 1, number(rest, FRAME - 8));
    }
}
