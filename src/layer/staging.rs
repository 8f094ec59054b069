//! Pages that a restore will copy into memory. All of them are read and checked before the first is
//! copied.

use super::read::{Piece, Reading};
use crate::Result;
use crate::page_set::Run;
use crate::sys::arena::Arena;

/// Verified bytes that wait to be copied into memory.
pub(crate) struct Staging {
    arena: Arena,
    staged: Vec<Staged>,
    used: usize,
}

struct Staged {
    module: usize,
    run: Run,
    at: usize,
}

impl Staging {
    /// The arena must be large enough for all pages that will be read.
    pub(crate) fn new(arena: Arena) -> Self {
        Self {
            arena,
            staged: Vec::new(),
            used: 0,
        }
    }

    /// Reads pages of a module, which has the number `module`. Before each read `report` is called
    /// with the number of bytes that were read so far. Its error ends the call.
    pub(crate) fn read(
        &mut self,
        reading: &mut Reading<'_>,
        module: usize,
        pieces: Vec<Piece>,
        mut report: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let page = reading.page_size();
        reading.pieces_to(pieces, |runs, bytes, read| {
            report(self.used as u64)?;
            // The pages are read directly into the arena, without another copy.
            read(self.arena.room(self.used, bytes))?;
            for run in runs {
                self.staged.push(Staged {
                    module,
                    run,
                    at: self.used,
                });
                self.used += (run.count * page) as usize;
            }
            Ok(())
        })
    }

    /// Calls `each` with everything that was read: the number of the module, the pages and their
    /// bytes.
    pub(crate) fn put(&self, page: u64, mut each: impl FnMut(usize, Run, &[u8])) {
        for staged in &self.staged {
            let length = (staged.run.count * page) as usize;
            each(
                staged.module,
                staged.run,
                self.arena.bytes(staged.at, length),
            );
        }
    }

    pub(crate) fn into_arena(self) -> Arena {
        self.arena
    }
}
