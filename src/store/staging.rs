//! Pages on their way into memory: read and checked, all of them, before the first is put there.

use crate::Result;
use crate::page::Run;
use crate::pages::{Piece, Reading};
use crate::sys::arena::Arena;

/// Verified bytes that wait to be copied into memory.
pub(super) struct Staging {
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
    pub(super) fn new(arena: Arena) -> Self {
        Self {
            arena,
            staged: Vec::new(),
            used: 0,
        }
    }

    /// Reads pages of a module, which is known by its number. `told` hears of the bytes read before and
    /// between reads, and can end it.
    pub(super) fn read(
        &mut self,
        reading: &mut Reading<'_>,
        module: usize,
        pieces: Vec<Piece>,
        mut told: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let page = reading.page_size();
        reading.pieces_to(pieces, |runs, bytes, read| {
            told(self.used as u64)?;
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
    pub(super) fn put(&self, page: u64, mut each: impl FnMut(usize, Run, &[u8])) {
        for staged in &self.staged {
            let length = (staged.run.count * page) as usize;
            each(
                staged.module,
                staged.run,
                self.arena.bytes(staged.at, length),
            );
        }
    }

    pub(super) fn into_arena(self) -> Arena {
        self.arena
    }
}
