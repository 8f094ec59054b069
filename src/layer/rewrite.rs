//! Rewrites a module commit with the same pages, on another parent or as an image.

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

/// How many pages a chain of module commits holds. A page in several of them counts once.
pub(crate) fn pages_of(chain: &[Arc<Index>]) -> u64 {
    let runs = chain.iter().map(|index| runs_of(index)).collect();
    pages_in(&union_of_all(runs))
}

/// Writes a new file for the first module commit of `chain`. The new file does not need the other
/// module commits of the chain. `chain` is newest first, and each module commit is the parent of
/// the module commit before it. The new file gets the parent of the last module commit. If the last
/// one is an image, the new file is an image too. An image remembers how it differs from its former
/// base: from module commit `former` if that is the parent of a member of the chain, else from the
/// former base of the last member. `report_progress` is called with the number of bytes of each
/// copy, and its error ends the rewrite. Every page is checked.
pub(crate) fn rewrite_layer(
    layers: &LayerFiles,
    chain: &[Arc<Index>],
    former: u64,
    temporary: &Place,
    report_progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Finished> {
    let (mut index, pieces) = plan(layers, chain)?;
    if index.shape == Shape::Image {
        index.former = former_of(chain, former);
    }
    layers.files.unlink(temporary)?;
    let file = layers.files.create(temporary)?;
    match copy(layers, &index, pieces, &*file, report_progress) {
        Ok(bytes) => Ok(Finished {
            index: Arc::new(index),
            file,
            temporary: temporary.clone(),
            bytes,
        }),
        Err(error) => {
            // If this fails, the next open of the store removes the file.
            let _ = layers.files.unlink(temporary);
            Err(error)
        }
    }
}

/// The new index, and the pieces that hold its pages now.
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
            return Err(page_missing(run));
        };
        let sums = layers
            .checksums(&source)?
            .get(slot as usize..(slot + run.count) as usize);
        index.push(run.start, run.count, Content::Data);
        checksums.extend_from_slice(sums.ok_or_else(|| page_missing(run))?);
        pieces.push(Piece { run, source });
    }
    index.checksums = Checksums::known(checksums);
    Ok((index, pieces))
}

/// The former base of the first module commit of a chain: `former`, or the base of the last module
/// commit.
fn former_of(chain: &[Arc<Index>], former: u64) -> Option<Former> {
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

fn page_missing(run: Run) -> Error {
    Error::Internal {
        what: format!("page {} is not in the file that should hold it", run.start),
    }
}

/// Pieces of at least this many bytes share their blocks with the old file, if the file system can
/// do that. Sharing one extent costs about as much as copying this many bytes. Tests use a small
/// number.
const MIN_SHARED: u64 = if cfg!(test) { 8_192 } else { 64 << 10 };

/// Copies the pages to their new places, and then writes index and footer. Returns how many bytes
/// were written.
fn copy(
    layers: &LayerFiles,
    index: &Index,
    pieces: Vec<Piece>,
    file: &dyn File,
    report_progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<u64> {
    if index.shape == Shape::Image {
        file.set_len(index.size)?;
    }
    let mut written = 0;
    let pieces = share_blocks(layers, index, pieces, file, report_progress)?;
    Reading::new(layers).pieces(pieces, |run, bytes| {
        let PageLookup::Data { slot } = index.find(run.start) else {
            return Err(page_missing(run));
        };
        file.write_at(&[IoSlice::new(bytes)], index.offset(run.start, slot))?;
        written += bytes.len() as u64;
        report_progress(bytes.len() as u64)
    })?;
    let end = index.encode(&layers.store);
    file.write_at(&[IoSlice::new(&end)], index.index_offset())?;
    Ok(written + end.len() as u64)
}

/// Shares the blocks of large pieces and checks their pages. Returns the pieces that have to be
/// copied. If the file system cannot share blocks, the first attempt fails, and all pieces have to
/// be copied.
fn share_blocks(
    layers: &LayerFiles,
    index: &Index,
    pieces: Vec<Piece>,
    file: &dyn File,
    report_progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Vec<Piece>> {
    let mut to_copy = Vec::new();
    let mut can_share = true;
    let mut source: Option<(u64, Arc<dyn File>)> = None;
    for piece in pieces {
        let Piece { run, source: from } = &piece;
        let length = run.count * layers.page_size;
        if !can_share || length < MIN_SHARED {
            to_copy.push(piece);
            continue;
        }
        let (PageLookup::Data { slot: old }, PageLookup::Data { slot: new }) =
            (from.find(run.start), index.find(run.start))
        else {
            return Err(page_missing(*run));
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
        can_share = file.share(&*open, here, length, there);
        if !can_share {
            to_copy.push(piece);
            continue;
        }
        Reading::new(layers).pieces(vec![piece], |_, bytes| report_progress(bytes.len() as u64))?;
    }
    Ok(to_copy)
}
