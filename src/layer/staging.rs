//! Pages on their way into memory: read and checked, all of them, before the first is put there.

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
    /// The arena has room for all that will be read.
    pub(crate) fn new(arena: Arena) -> Self {
        Self {
            arena,
            staged: Vec::new(),
            used: 0,
        }
    }

    /// Reads pages of a module, which is known by its number. `report` is called before each read with the bytes read so far, and can end
    /// the call.
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
            // Straight to where they wait: until they are put into memory this is their only copy.
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

    /// Hands out all that was read: the module's number, the pages, their bytes.
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
