//! Memory that the guest gave back: it reads as zeros from now on, and is the host's again.

use super::mapped::{MapMode, MappedModule};
use crate::dirty::{MemoryKind, Span};
use crate::page_set::Run;
use crate::sys::host;
use crate::sys::memfd;
use crate::sys::memory::Backing;
use crate::{Error, Result};

/// A module may have so many parts before discarded pages of an image are zeroed in place: each is a
/// mapping of its own, and a process has room for 65,530 of them.
const PARTS: usize = 1024;

impl MappedModule {
    /// Makes whole pages read as zeros, and gives their memory back to the host. They are dirty.
    pub(crate) fn discard(&self, offset: u64, length: u64) -> Result<()> {
        let Some(run) = self.whole_pages_of(offset, length)? else {
            return Ok(());
        };
        // No scan may run while parts are mapped anew.
        let mut spans = self.spans.write();
        if spans.is_empty() {
            return Err(Error::Handle {
                argument: "module",
                why: "it was unmapped earlier",
            });
        }
        let outcome = self.discard_parts(&mut spans, run);
        // Afterwards, so that a capture of another thread cannot take the note and the old bytes.
        self.dirty.add(run);
        outcome
    }

    fn discard_parts(&self, spans: &mut Vec<Span>, run: Run) -> Result<()> {
        let page = host::page_size();
        let mut next = run.start;
        while next < run.end() {
            spans.try_reserve(2).map_err(|_| Error::NoMemory {
                what: "a module's parts".into(),
            })?;
            let at = spans.partition_point(|span| span.pages.end() <= next);
            let Some(span) = spans.get(at).copied() else {
                return Err(Error::Internal {
                    what: "a page in no part of its module".into(),
                });
            };
            let part = Run {
                start: next,
                count: span.pages.end().min(run.end()) - next,
            };
            let (offset, length) = (part.start * page, part.count * page);
            let given = match (span.kind, self.descriptor.raw()) {
                (MemoryKind::Anonymous | MemoryKind::Hole, _) => {
                    self.memory.drop_pages(offset, length).is_ok()
                }
                (MemoryKind::Shared, Some((fd, from))) => {
                    // The disk's blocks stay reserved, so that the guest may have the memory back.
                    let keep = self.mode == MapMode::Shared;
                    memfd::give_back(fd, from + offset, length, keep).is_ok()
                }
                (MemoryKind::Shared, None) => self.memory.remove_pages(offset, length).is_ok(),
                (MemoryKind::Image, _) if spans.len() < PARTS => {
                    self.memory.map(offset, length, Backing::Anonymous)?;
                    let anonymous = Span {
                        pages: part,
                        kind: MemoryKind::Anonymous,
                    };
                    replace(spans, at, anonymous);
                    self.tracking.begin(&self.memory, anonymous)?;
                    true
                }
                (MemoryKind::Image | MemoryKind::PrivateFile, _) => false,
            };
            if !given {
                // Locked memory, a file system without holes, or bytes that would come back from a file.
                self.memory.zero(offset, length);
            }
            next = part.end();
        }
        Ok(())
    }
}

/// Puts a part into the place of a piece of the part at `at`. There is room for two more.
fn replace(spans: &mut Vec<Span>, at: usize, part: Span) {
    let old = spans[at];
    let before = Run {
        start: old.pages.start,
        count: part.pages.start - old.pages.start,
    };
    let behind = Run {
        start: part.pages.end(),
        count: old.pages.end() - part.pages.end(),
    };
    let pieces = [
        (before, old.kind),
        (part.pages, part.kind),
        (behind, old.kind),
    ];
    let pieces = pieces.into_iter().filter(|(pages, _)| pages.count > 0);
    spans.splice(at..=at, pieces.map(|(pages, kind)| Span { pages, kind }));
    // Neighbours of one kind become one part again.
    spans.dedup_by(|next, last| {
        let same = next.kind == last.kind;
        if same {
            last.pages.count += next.pages.count;
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, count: u64, kind: MemoryKind) -> Span {
        Span {
            pages: Run { start, count },
            kind,
        }
    }

    #[test]
    fn parts_are_cut_and_joined() {
        let list = |spans: &[Span]| -> Vec<(u64, u64, MemoryKind)> {
            let of = |span: &Span| (span.pages.start, span.pages.count, span.kind);
            spans.iter().map(of).collect()
        };
        let mut spans = vec![
            span(0, 10, MemoryKind::Anonymous),
            span(10, 20, MemoryKind::Image),
        ];
        replace(&mut spans, 1, span(15, 5, MemoryKind::Anonymous));
        let wanted = [
            (0, 10, MemoryKind::Anonymous),
            (10, 5, MemoryKind::Image),
            (15, 5, MemoryKind::Anonymous),
            (20, 10, MemoryKind::Image),
        ];
        assert_eq!(list(&spans), wanted);
        replace(&mut spans, 1, span(10, 5, MemoryKind::Anonymous));
        assert_eq!(
            list(&spans),
            [(0, 20, MemoryKind::Anonymous), (20, 10, MemoryKind::Image)]
        );
        replace(&mut spans, 1, span(20, 10, MemoryKind::Anonymous));
        assert_eq!(list(&spans), [(0, 30, MemoryKind::Anonymous)]);
    }
}
