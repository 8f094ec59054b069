//! The library's own memory for captured pages and for pages that will be restored.

use crate::{Error, Result};

/// Memory for pages. It is reserved once, uses physical memory only as far as it was touched, and
/// keeps that memory.
pub(crate) struct Arena {
    map: memmap2::MmapMut,
    touched: usize,
}

impl Arena {
    /// Reserves up to `limit` bytes. Reserves less if the host refuses that much.
    pub(crate) fn new(limit: u64) -> Result<Self> {
        let mut length = limit as usize;
        loop {
            match memmap2::MmapOptions::new()
                .len(length)
                .no_reserve_swap()
                .map_anon()
            {
                Ok(map) => {
                    // Huge pages make the first use cost fewer page faults. A kernel without them
                    // refuses the advice, which does no harm.
                    let _ = map.advise(memmap2::Advice::HugePage);
                    return Ok(Self { map, touched: 0 });
                }
                Err(_) if length > 1 << 20 => length /= 2,
                Err(error) => {
                    return Err(Error::io(format!("mmap(arena of {length} bytes)"), &error));
                }
            }
        }
    }

    /// Reserves `length` bytes, or fails.
    pub(crate) fn of_exactly(length: u64) -> Result<Self> {
        let arena = Self::new(length)?;
        if (arena.capacity() as u64) < length {
            return Err(Error::NoMemory {
                what: format!("{length} bytes for pages").into(),
            });
        }
        Ok(arena)
    }

    /// How many bytes the arena can hold.
    pub(crate) fn capacity(&self) -> usize {
        self.map.len()
    }

    /// How many bytes were ever used. The arena costs this much physical memory.
    pub(crate) fn touched(&self) -> usize {
        self.touched
    }

    /// The `length` bytes from `start`, for writing.
    pub(crate) fn room(&mut self, start: usize, length: usize) -> &mut [u8] {
        self.touched = self.touched.max(start + length);
        &mut self.map[start..start + length]
    }

    /// The `length` bytes from `start`, for reading.
    pub(crate) fn bytes(&self, start: usize, length: usize) -> &[u8] {
        &self.map[start..start + length]
    }

    /// Touches the first `length` bytes now, which saves the first capture the page faults.
    pub(crate) fn warm(&mut self, length: usize) {
        let length = length.min(self.map.len());
        if self.touched < length {
            // A kernel before 5.14 does not know this advice. The first use then touches the pages.
            let _ = self
                .map
                .advise_range(memmap2::Advice::PopulateWrite, 0, length);
            self.touched = length;
        }
    }
}
