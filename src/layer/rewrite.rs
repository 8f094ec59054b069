//! Rewriting a module commit: the same commit and the same bytes, on another parent or as an image.

use std::io::IoSlice;
use std::sync::Arc;

use super::chain::{Change, diff_from_base, runs_of, split, union_of_all};
use super::files::LayerFiles;
use super::read::{Piece, Reading};
use super::write::Finished;
use crate::error::try_vec;
use crate::format::index::{Checksums, Content, Former, Index, PageLookup, Shape};
use crate::page_set::{Run, pages_in};
use crate::sys::fs::{File, Place};
use crate::{Error, Result};

/// How many pages a chain of module commits holds, each page counted once.
pub(crate) fn pages_of(chain: &[Arc<Index>]) -> u64 {
    let runs = chain.iter().map(|index| runs_of(index)).collect();
    pages_in(&union_of_all(runs))
}

/// Writes the first module commit of `chain` anew, so that it needs none of the others: its parent
/// becomes that of the last one, and if the last one is an image, it becomes an image. `chain` is
/// newest first, each the parent of the one before it. An image remembers how it differs from `former`,
/// which is the parent of one of them, or from what the last one remembers. `tell` hears of every byte
/// that is copied, and may end it. Every page is checked on its way.
pub(crate) fn rewrite_layer(
    layers: &LayerFiles,
    chain: &[Arc<Index>],
    former: u64,
    temporary: &Place,
    tell: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Finished> {
    let (mut index, pieces) = plan(layers, chain)?;
    if index.shape == Shape::Image {
        index.former = remembered(chain, former);
    }
    layers.files.unlink(temporary)?;
    let file = layers.files.create(temporary)?;
    match copy(layers, &index, pieces, &*file, tell) {
        Ok(bytes) => Ok(Finished {
            index: Arc::new(index),
            file,
            temporary: temporary.clone(),
            bytes,
        }),
        Err(error) => {
            // What stays is removed by the next open.
            let _ = layers.files.unlink(temporary);
            Err(error)
        }
    }
}

/// The new index, and where its pages are now.
fn plan(layers: &LayerFiles, chain: &[Arc<Index>]) -> Result<(Index, Vec<Piece>)> {
    let (Some(first), Some(last)) = (chain.first(), chain.last()) else {
        return Err(Error::Internal {
            what: "an empty chain to rewrite".into(),
        });
    };
    let mut left = match last.shape {
        Shape::Image => vec![Run {
            start: 0,
            count: first.size / first.page_size,
        }],
        Shape::Delta => union_of_all(chain.iter().map(|index| runs_of(index)).collect()),
    };
    let mut changes: Vec<Change> = Vec::new();
    for index in chain {
        left = split(index, &left, &mut changes);
    }
    if !left.is_empty() {
        return Err(Error::Internal {
            what: "a chain to rewrite holds fewer pages than its parts".into(),
        });
    }
    changes.sort_unstable_by_key(|change| change.run.start);
    let data = |change: &&Change| change.source.is_some();
    let count: u64 = changes.iter().filter(data).map(|c| c.run.count).sum();
    let mut index = Index {
        module: first.module.clone(),
        commit: first.commit,
        parent: last.parent,
        shape: last.shape,
        page_size: first.page_size,
        size: first.size,
        digest: first.digest,
        changed: Some(first.changed_pages()),
        former: None,
        runs: Vec::new(),
        checksums: Checksums::default(),
    };
    let mut checksums = try_vec(count as usize, "an index")?;
    let mut pieces = Vec::new();
    for Change { run, source } in changes {
        let Some(source) = source else {
            if index.shape == Shape::Delta {
                index.push(run.start, run.count, Content::Zero);
            }
            continue;
        };
        let PageLookup::Data { slot } = source.find(run.start) else {
            return Err(moved(run));
        };
        let sums = layers
            .checksums(&source)?
            .get(slot as usize..(slot + run.count) as usize);
        index.push(run.start, run.count, Content::Data);
        checksums.extend_from_slice(sums.ok_or_else(|| moved(run))?);
        pieces.push(Piece { run, source });
    }
    index.checksums = Checksums::known(checksums);
    Ok((index, pieces))
}

/// How the first of a chain differs from one of those below it.
fn remembered(chain: &[Arc<Index>], former: u64) -> Option<Former> {
    let mut lists = Vec::new();
    for (at, index) in chain.iter().enumerate() {
        let (runs, below) = diff_from_base(index)?;
        lists.push(runs);
        if below == former || at + 1 == chain.len() {
            let runs = union_of_all(lists);
            return Some(Former {
                commit: below,
                runs,
            });
        }
    }
    None
}

fn moved(run: Run) -> Error {
    Error::Internal {
        what: format!("page {} is not where it was", run.start),
    }
}

/// From so many bytes together on, their blocks are shared with the old file where the file system can: an
/// extent of a file costs about as much as copying these. In tests a few pages are many.
const SHARED: u64 = if cfg!(test) { 8_192 } else { 64 << 10 };

/// Takes the pages to their new places, then writes index and footer. Returns the bytes written.
fn copy(
    layers: &LayerFiles,
    index: &Index,
    pieces: Vec<Piece>,
    file: &dyn File,
    tell: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<u64> {
    if index.shape == Shape::Image {
        file.set_len(index.size)?;
    }
    let mut written = 0;
    let pieces = share(layers, index, pieces, file, tell)?;
    Reading::new(layers).pieces(pieces, |run, bytes| {
        let PageLookup::Data { slot } = index.find(run.start) else {
            return Err(moved(run));
        };
        file.write_at(&[IoSlice::new(bytes)], index.offset(run.start, slot))?;
        written += bytes.len() as u64;
        tell(bytes.len() as u64)
    })?;
    let end = index.encode(&layers.store);
    file.write_at(&[IoSlice::new(&end)], index.index_offset())?;
    Ok(written + end.len() as u64)
}

/// Shares the blocks of large pieces, which are checked as those that are copied. Returns what is to be copied:
/// all of them, but for one look, where the file system cannot share.
fn share(
    layers: &LayerFiles,
    index: &Index,
    pieces: Vec<Piece>,
    file: &dyn File,
    tell: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Vec<Piece>> {
    let mut left = Vec::new();
    let mut can = true;
    let mut source: Option<(u64, Arc<dyn File>)> = None;
    for piece in pieces {
        let Piece { run, source: from } = &piece;
        let length = run.count * layers.page_size;
        if !can || length < SHARED {
            left.push(piece);
            continue;
        }
        let (PageLookup::Data { slot: old }, PageLookup::Data { slot: new }) =
            (from.find(run.start), index.find(run.start))
        else {
            return Err(moved(*run));
        };
        let open = match &source {
            Some((commit, open)) if *commit == from.commit => open.clone(),
            _ => {
                let open = layers.open(&from.module, from.commit)?;
                source = Some((from.commit, open.clone()));
                open
            }
        };
        let (here, there) = (from.offset(run.start, old), index.offset(run.start, new));
        can = file.share(&*open, here, length, there);
        if !can {
            left.push(piece);
            continue;
        }
        Reading::new(layers).pieces(vec![piece], |_, bytes| tell(bytes.len() as u64))?;
    }
    Ok(left)
}
