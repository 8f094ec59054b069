//! The stream of an export: a header, then frames, each with its number, its checksum, and a link to the
//! one before it. All checksums are seeded with an id of the stream's own, so that a frame of another
//! stream, or in another place, never verifies.

use super::bytes::{Reader, Writer};
use super::checksum::{self, Digest};
use super::commit::{Commit, Event};
use super::{StoreId, VERSION, name};
use crate::{Error, Result};
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"VMSXPRT\n";
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"VMSF");
pub(crate) const STREAM_HEADER: usize = 96;
pub(crate) const FRAME: usize = 48;
/// Pages of one frame.
pub(crate) const MAX_PAGES: u64 = 1 << 20;
/// The longest payload: a commit with the most user data and many modules, or pages.
const MAX_PAYLOAD: u64 = 64 << 20;
/// What errors call it.
pub(crate) const NAME: &str = "the stream";

/// The first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamHeader {
    pub(crate) stream: StoreId,
    pub(crate) page_size: u32,
    /// The unique id of the commit that the first one was made on; zeros: none, or nothing of it is needed.
    pub(crate) base: [u8; 16],
    pub(crate) commits: u64,
    /// At most so many bytes of pages follow, zero pages among them: for progress, and trusted for nothing
    /// else. 0: not told.
    pub(crate) bytes: u64,
}

impl StreamHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(STREAM_HEADER);
        let mut w = Writer(&mut bytes);
        w.bytes(&MAGIC).u32(VERSION).u32(0).bytes(&self.stream);
        w.u32(self.page_size).u32(0).bytes(&self.base);
        w.u64(self.commits)
            .u64(self.bytes)
            .pad_to(STREAM_HEADER - 8);
        let sum = checksum::plain(&bytes);
        Writer(&mut bytes).u64(sum);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; STREAM_HEADER]) -> Result<Self> {
        let bad = |why: &str| Error::corrupt(NAME, why);
        let (body, sum) = bytes.split_at(STREAM_HEADER - 8);
        if body[..8] != MAGIC {
            return Err(bad("it does not begin with the magic of an export"));
        }
        if sum != checksum::plain(body).to_le_bytes() {
            return Err(bad("the checksum of its header does not match"));
        }
        let mut r = Reader(&body[8..]);
        let fields = (|| {
            let versions = (r.u32()?, r.u32()?);
            let (stream, page_size, _) = (r.array()?, r.u32()?, r.u32()?);
            let (base, commits, bytes) = (r.array()?, r.u64()?, r.u64()?);
            Some((versions, stream, page_size, base, commits, bytes))
        })();
        let Some((versions, stream, page_size, base, commits, bytes)) = fields else {
            return Err(bad("its header is too short"));
        };
        if versions != (VERSION, 0) {
            return Err(Error::Version {
                file: NAME.into(),
                why: format!(
                    "format version {}, flags {:#x}; this library knows version {VERSION}",
                    versions.0, versions.1
                ),
            });
        }
        Ok(Self {
            stream,
            page_size,
            base,
            commits,
            bytes,
        })
    }
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// A commit, made on the one before it in the stream, or on the base.
    Commit(Arc<Commit>),
    /// A module of that commit that is not as it was; its pages follow.
    Module {
        id: &'a str,
        size: u64,
        digest: Digest,
    },
    /// Pages that are zero now.
    Zeros { start: u64, count: u64 },
    /// Pages and their bytes.
    Pages { start: u64, bytes: &'a [u8] },
    /// The end, after so many frames.
    End { frames: u64 },
}

const COMMIT: u32 = 1;
const MODULE: u32 = 2;
const ZEROS: u32 = 3;
const PAGES: u32 = 4;
const END: u32 = 9;

/// The link from one frame to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain {
    stream: StoreId,
    number: u64,
    link: u64,
}

/// A frame's head that verified.
pub(crate) struct Head {
    kind: u32,
    pub(crate) length: usize,
    sum: u64,
}

impl Chain {
    pub(crate) fn new(stream: StoreId) -> Self {
        Self {
            stream,
            number: 0,
            link: 0,
        }
    }

    pub(crate) fn frames(&self) -> u64 {
        self.number
    }

    /// The bytes of a frame: its head, and its payload but for the bytes of pages, which follow it.
    pub(crate) fn encode(&mut self, frame: &Frame<'_>) -> Vec<u8> {
        let mut payload = Vec::new();
        let mut w = Writer(&mut payload);
        let kind = match frame {
            Frame::Commit(commit) => {
                Event::Committed(commit.clone()).encode(&mut payload);
                COMMIT
            }
            Frame::Module { id, size, digest } => {
                w.text(id).u64(*size).bytes(&digest.to_bytes());
                MODULE
            }
            Frame::Zeros { start, count } => {
                w.u64(*start).u64(*count);
                ZEROS
            }
            Frame::Pages { start, bytes } => {
                w.u64(*start).bytes(bytes);
                PAGES
            }
            Frame::End { frames } => {
                w.u64(*frames);
                END
            }
        };
        let mut bytes = Vec::with_capacity(FRAME + payload.len());
        let mut w = Writer(&mut bytes);
        w.u32(FRAME_MAGIC)
            .u32(kind)
            .u64(payload.len() as u64)
            .u64(self.number)
            .u64(self.link)
            .u64(checksum::metadata(&self.stream, &payload));
        let sum = checksum::metadata(&self.stream, &bytes);
        Writer(&mut bytes).u64(sum).bytes(&payload);
        (self.number, self.link) = (self.number + 1, sum);
        bytes
    }

    /// Checks a head, which must be the next one.
    pub(crate) fn head(&mut self, bytes: &[u8; FRAME]) -> Result<Head> {
        let bad = |why: &str| Error::corrupt(NAME, format!("frame {}: {why}", self.number));
        let (body, sum) = bytes.split_at(FRAME - 8);
        let expected = checksum::metadata(&self.stream, body);
        if sum != expected.to_le_bytes() {
            return Err(bad("the checksum of its head does not match"));
        }
        let mut r = Reader(body);
        let fields = (|| Some((r.u32()?, r.u32()?, r.u64()?, r.u64()?, r.u64()?, r.u64()?)))();
        let Some((magic, kind, length, number, link, sum)) = fields else {
            return Err(bad("it is too short"));
        };
        if magic != FRAME_MAGIC || length > MAX_PAYLOAD {
            return Err(bad("it is nonsense"));
        }
        if number != self.number || link != self.link {
            return Err(bad("it does not follow the one before it"));
        }
        (self.number, self.link) = (number + 1, expected);
        Ok(Head {
            kind,
            length: length as usize,
            sum,
        })
    }

    /// Checks and decodes the payload of the last head.
    pub(crate) fn frame<'a>(&self, head: &Head, payload: &'a [u8]) -> Result<Frame<'a>> {
        let number = self.number - 1;
        let bad = |why: &str| Error::corrupt(NAME, format!("frame {number}: {why}"));
        if checksum::metadata(&self.stream, payload) != head.sum {
            return Err(bad("its checksum does not match"));
        }
        let mut r = Reader(payload);
        let frame = (|| {
            Some(match head.kind {
                MODULE => Frame::Module {
                    id: r.text()?,
                    size: r.u64()?,
                    digest: Digest::from_bytes(r.array()?),
                },
                ZEROS => Frame::Zeros {
                    start: r.u64()?,
                    count: r.u64()?,
                },
                PAGES => Frame::Pages {
                    start: r.u64()?,
                    bytes: r.take(payload.len() - 8)?,
                },
                END => Frame::End { frames: r.u64()? },
                _ => return None,
            })
        })();
        if head.kind == COMMIT {
            return match Event::decode(1, payload) {
                Ok(Event::Committed(commit)) => Ok(Frame::Commit(commit)),
                Ok(_) => Err(bad("it is no commit")),
                Err(why) => Err(bad(&why)),
            };
        }
        let frame = frame
            .filter(|_| r.is_empty())
            .ok_or_else(|| bad("it is nonsense"))?;
        if let Frame::Module { id, .. } = &frame {
            name::check_module_id(id).map_err(|error| bad(&error.to_string()))?;
        }
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame<'static>> {
        vec![
            Frame::Module {
                id: "ram",
                size: 8192,
                digest: Digest(7),
            },
            Frame::Zeros { start: 3, count: 2 },
            Frame::Pages {
                start: 5,
                bytes: b"some bytes of a page",
            },
            Frame::End { frames: 3 },
        ]
    }

    fn read(stream: StoreId, bytes: &[u8], expected: &[Frame<'_>]) -> Option<()> {
        let mut chain = Chain::new(stream);
        let mut rest = bytes;
        for frame in expected {
            let (head, behind) = rest.split_at_checked(FRAME)?;
            let head = chain.head(head.try_into().ok()?).ok()?;
            let (payload, behind) = behind.split_at_checked(head.length)?;
            (chain.frame(&head, payload).ok()? == *frame).then_some(())?;
            rest = behind;
        }
        rest.is_empty().then_some(())
    }

    #[test]
    fn every_bound_of_a_head_is_where_the_format_says() {
        let stream = [9; 16];
        // A head whose checksum holds, whatever it says.
        let taken = |magic: u32, length: u64, number: u64, link: u64| {
            let mut head = Vec::new();
            let mut w = Writer(&mut head);
            w.u32(magic).u32(END).u64(length);
            w.u64(number).u64(link).u64(0);
            let sum = checksum::metadata(&stream, &head);
            Writer(&mut head).u64(sum);
            Chain::new(stream).head(&head.try_into().unwrap()).is_ok()
        };
        let Chain { number, link, .. } = Chain::new(stream);
        assert!(taken(FRAME_MAGIC, 0, number, link));
        assert!(taken(FRAME_MAGIC, MAX_PAYLOAD, number, link));
        assert!(!taken(FRAME_MAGIC, MAX_PAYLOAD + 1, number, link));
        assert!(!taken(FRAME_MAGIC ^ 1, 0, number, link));
        assert!(!taken(FRAME_MAGIC, 0, number + 1, link));
        assert!(!taken(FRAME_MAGIC, 0, number, link + 1));
    }

    #[test]
    fn frames_survive_and_every_flip_cut_and_swap_is_seen() {
        let stream = *b"one stream's id!";
        let mut chain = Chain::new(stream);
        let parts: Vec<Vec<u8>> = frames().iter().map(|frame| chain.encode(frame)).collect();
        let bytes = parts.concat();
        assert!(read(stream, &bytes, &frames()).is_some());
        let mut other = stream;
        other[0] = 6;
        assert!(read(other, &bytes, &frames()).is_none());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(stream, &bad, &frames()).is_none(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(
                read(stream, &bytes[..cut], &frames()).is_none(),
                "cut {cut}"
            );
        }
        // An error names the frame, from 0.
        let mut chain = Chain::new(stream);
        for (number, part) in parts.iter().enumerate() {
            let (head, payload) = part.split_at(FRAME);
            let head = chain.head(head.try_into().unwrap()).unwrap();
            let refused = chain.frame(&head, &payload[1..]).unwrap_err().to_string();
            assert!(refused.contains(&format!("frame {number}:")), "{refused}");
        }
        let swapped = [&parts[0], &parts[2], &parts[1], &parts[3]];
        let swapped: Vec<u8> = swapped.into_iter().flatten().copied().collect();
        let order = [0, 2, 1, 3].map(|at| frames()[at].clone());
        assert!(read(stream, &swapped, &order).is_none());
    }

    #[test]
    fn a_payload_is_refused_for_its_checksum_and_not_only_for_what_it_says() {
        let stream = *b"one stream's id!";
        for frame in frames() {
            let bytes = Chain::new(stream).encode(&frame);
            let (head, payload) = bytes.split_at(FRAME);
            let mut chain = Chain::new(stream);
            let head = chain.head(head.try_into().unwrap()).unwrap();
            for bit in 0..payload.len() * 8 {
                let mut bad = payload.to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(chain.frame(&head, &bad).is_err(), "{frame:?}, bit {bit}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_the_header_is_seen() {
        let header = StreamHeader {
            stream: *b"one stream's id!",
            page_size: 4096,
            base: *b"one commit's id!",
            commits: 3,
            bytes: 8192,
        };
        let bytes: [u8; STREAM_HEADER] = header.encode().try_into().unwrap();
        assert_eq!(StreamHeader::decode(&bytes).unwrap(), header);
        for bit in 0..STREAM_HEADER * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(StreamHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }
}
