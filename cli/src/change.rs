//! The commands that change a store: restore, rm, compact.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anstream::println;
use vmstore::{CompactOptions, Error};

use crate::args;
use crate::commits::{self, describe};
use crate::fail::{Code, Failure, Outcome};
use crate::progress::with_bar;
use crate::store_dir::StoreDir;
use crate::units::{bytes, count};

pub(crate) fn restore(dir: &StoreDir, options: &args::Restore) -> Outcome {
    let store = dir.open_for_writing("restore")?;
    let commit = commits::find(&store, &options.commit)?;
    let before = store.head()?;
    if before == commit {
        println!("{} is already the head", describe(&store, commit)?);
        return Ok(Code::Good);
    }
    store
        .restore(commit, None)
        .map_err(|error| dir.explain(error))?;
    store.persist(None).map_err(|error| dir.explain(error))?;
    println!(
        "the head is now {}; it was {}",
        describe(&store, commit)?,
        describe(&store, before)?
    );
    println!(
        "a VMM that opens the store starts from this commit and makes the next commit as its child"
    );
    store.close()?;
    Ok(Code::Good)
}

pub(crate) fn rm(dir: &StoreDir, options: &args::Rm) -> Outcome {
    let store = if options.dry_run {
        dir.open_read_only()?
    } else {
        dir.open_for_writing("rm")?
    };
    let mut wanted = Vec::new();
    for name in &options.commits {
        let commit = commits::find(&store, name)?;
        if !wanted.contains(&commit) {
            wanted.push(commit);
        }
    }
    // The head is refused before any commit is deleted.
    let head = store.head()?;
    if wanted.contains(&head) {
        let message = format!(
            "{} is the head, which cannot be deleted; nothing was deleted",
            describe(&store, head)?
        );
        let failure = Failure::new(Code::InUse, message);
        return Err(match store.commit_info(head)?.parent {
            0 => failure.hint("restore another commit first"),
            parent => failure.hint(format!(
                "restore another commit first: vmstore restore {parent}"
            )),
        });
    }
    let before = disk_usage(dir.path());
    for commit in &wanted {
        let name = describe(&store, *commit)?;
        if options.dry_run {
            println!("would delete {name}");
            continue;
        }
        store
            .delete_commit(*commit)
            .map_err(|error| dir.explain(error))?;
        println!("deleted {name}");
    }
    if !options.dry_run {
        // The library removes the files of persisted commits only once their deletion is durable.
        store.persist(None).map_err(|error| dir.explain(error))?;
        store.close()?;
        freed(dir, before);
    }
    Ok(Code::Good)
}

pub(crate) fn compact(dir: &StoreDir, options: &args::Compact) -> Outcome {
    let store = dir.open_for_writing("compact")?;
    let (commits, before) = (store.commits()?.len() as u64, disk_usage(dir.path()));
    let rules = CompactOptions {
        keep_last: options.keep_last.unwrap_or(0),
        keep_every: options.keep_every.unwrap_or(0),
        keep_younger_ns: options.keep_younger.unwrap_or(0),
        keep_labelled: options.keep_labelled,
        image_percent: options.image_percent.unwrap_or(0),
        no_images: options.no_images,
    };
    let result = with_bar("compact", dir.quiet, |progress| {
        store.compact(&rules, progress)
    });
    result.map_err(|error| match error {
        Error::Corrupt { .. } => dir
            .explain(error)
            .hint("compact leaves damaged files as they are; commits that the rules delete may be deleted already"),
        error => dir.explain(error),
    })?;
    let left = store.commits()?.len() as u64;
    println!("{} deleted, {} kept", count(commits - left, "commit"), left);
    store.close()?;
    freed(dir, before);
    Ok(Code::Good)
}

/// Prints how the disk space of the store changed.
fn freed(dir: &StoreDir, before: u64) {
    let after = disk_usage(dir.path());
    let change = if after <= before {
        format!("{} freed", bytes(before - after))
    } else {
        format!("{} more used", bytes(after - before))
    };
    println!("{change}; the store now takes {}", bytes(after));
}

/// The disk space of a store in bytes. A file with several names counts once.
pub(crate) fn disk_usage(directory: &Path) -> u64 {
    let mut seen = std::collections::BTreeSet::new();
    let directories = [directory.to_owned(), directory.join(".vmstore")];
    let entries = directories
        .iter()
        .filter_map(|path| std::fs::read_dir(path).ok())
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| std::fs::symlink_metadata(entry.path()).ok())
        .filter(|found| found.is_file() && seen.insert(found.ino()))
        .map(|found| found.blocks() * 512)
        .sum()
}
