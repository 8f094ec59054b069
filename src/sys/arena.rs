//! The library's own memory for pages on their way: captured ones, and those to be put back.

use crate::{Error, Result};

/// Memory of the library's own for captured pages: reserved once, touched as it is needed, kept.
pub(crate) struct Arena {
    map: memmap2::MmapMut,
    touched: usize,
}

impl Arena {
    /// Reserves up to `limit` bytes, less where the host refuses that much.
    pub(crate) fn new(limit: u64) -> Result<Self> {
        let mut length = limit as usize;
        loop {
            match memmap2::MmapOptions::new()
                .len(length)
                .no_reserve_swap()
                .map_anon()
            {
                Ok(map) => {
                    // Fewer, larger faults when it is first used; refused where the kernel has no
                    // huge pages.
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

    /// The bytes it may hold.
    pub(crate) fn capacity(&self) -> usize {
        self.map.len()
    }

    /// The bytes that were ever used, which is what it costs.
    pub(crate) fn touched(&self) -> usize {
        self.touched
    }

    /// Room from `start`, of `length` bytes.
    pub(crate) fn room(&mut self, start: usize, length: usize) -> &mut [u8] {
        self.touched = self.touched.max(start + length);
        &mut self.map[start..start + length]
    }

    /// What was put there.
    pub(crate) fn bytes(&self, start: usize, length: usize) -> &[u8] {
        &self.map[start..start + length]
    }

    /// Touches the first `length` bytes now, so that the first capture need not.
    pub(crate) fn warm(&mut self, length: usize) {
        let length = length.min(self.map.len());
        if self.touched < length {
            // A kernel before 5.14 does not know it; the pages are then touched when they are used.
            let _ = self
                .map
                .advise_range(memmap2::Advice::PopulateWrite, 0, length);
            self.touched = length;
        }
    }
}
