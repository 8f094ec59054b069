//! The commands that change a store: restore, rm, compact.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anstream::println;
use vmstore::{CompactOptions, Error, Store};

use crate::args;
use crate::commits;
use crate::fail::{Code, Failure, Outcome};
use crate::place::Place;
use crate::progress::Bar;
use crate::screen::{LABEL, NUMBER, paint, printable};
use crate::units::{bytes, count};

/// "commit 12 (label)".
pub(crate) fn named(store: &Store, commit: u64) -> Result<String, Failure> {
    let label = store.commit_info(commit)?.label;
    let number = paint(NUMBER, &commit.to_string());
    // In a sentence, the beginning of a label will do.
    let label = match label.char_indices().nth(24) {
        Some((at, _)) => format!("{}...", &label[..at]),
        None => label,
    };
    Ok(match label.as_str() {
        "" => format!("commit {number}"),
        label => format!("commit {number} ({})", paint(LABEL, &printable(label))),
    })
}

pub(crate) fn restore(place: &Place, options: &args::Restore) -> Outcome {
    let store = place.own("restore")?;
    let commit = commits::find(&store, &options.commit)?;
    let before = store.head()?;
    if before == commit {
        println!("the head is {} already", named(&store, commit)?);
        return Ok(Code::Good);
    }
    store
        .restore(commit, None)
        .map_err(|error| place.explain(error))?;
    store.persist(None).map_err(|error| place.explain(error))?;
    println!(
        "the head is {} now; it was {}",
        named(&store, commit)?,
        named(&store, before)?
    );
    println!("a VMM that opens the store comes up at it, and its next commit is a child of it");
    store.close()?;
    Ok(Code::Good)
}

pub(crate) fn rm(place: &Place, options: &args::Rm) -> Outcome {
    let store = if options.dry_run {
        place.look_strictly()?
    } else {
        place.own("rm")?
    };
    let mut wanted = Vec::new();
    for name in &options.commits {
        let commit = commits::find(&store, name)?;
        if !wanted.contains(&commit) {
            wanted.push(commit);
        }
    }
    // All are looked at before the first goes.
    let head = store.head()?;
    if wanted.contains(&head) {
        let message = format!(
            "{} is the head, which cannot be deleted; nothing was deleted",
            named(&store, head)?
        );
        let failure = Failure::new(Code::InUse, message);
        return Err(match store.commit_info(head)?.parent {
            0 => failure.hint("restore another commit first"),
            parent => failure.hint(format!(
                "restore another commit first: vmstore restore {parent}"
            )),
        });
    }
    let before = on_disk(place.path());
    for commit in &wanted {
        let name = named(&store, *commit)?;
        if options.dry_run {
            println!("would delete {name}");
            continue;
        }
        store
            .delete_commit(*commit)
            .map_err(|error| place.explain(error))?;
        println!("deleted {name}");
    }
    if !options.dry_run {
        // Files that durable records want go when the deletion is durable.
        store.persist(None).map_err(|error| place.explain(error))?;
        store.close()?;
        freed(place, before);
    }
    Ok(Code::Good)
}

pub(crate) fn compact(place: &Place, options: &args::Compact) -> Outcome {
    let store = place.own("compact")?;
    let before = (store.commits()?.len() as u64, on_disk(place.path()));
    let mut bar = Bar::new("compact", place.quiet);
    let rules = CompactOptions {
        keep_last: options.keep_last,
        keep_every: options.keep_every,
        keep_younger_ns: options.keep_younger.unwrap_or(0),
        keep_labelled: options.keep_labelled,
        image_percent: options.image_percent,
        no_images: options.no_images,
    };
    let mut progress = |done, total| {
        bar.tell(done, total);
        true
    };
    let done = store.compact(&rules, Some(&mut progress));
    drop(bar);
    done.map_err(|error| match error {
        Error::Corrupt { .. } => place
            .explain(error)
            .hint("what is damaged is not compacted; nothing is lost by that"),
        error => place.explain(error),
    })?;
    let left = store.commits()?.len() as u64;
    println!(
        "{} deleted, {} kept",
        count(before.0 - left, "commit"),
        left
    );
    store.close()?;
    freed(place, before.1);
    Ok(Code::Good)
}

fn freed(place: &Place, before: u64) {
    let after = on_disk(place.path());
    let change = if after <= before {
        format!("{} freed", bytes(before - after))
    } else {
        format!("{} more", bytes(after - before))
    };
    println!("{change}; the store takes {} now", bytes(after));
}

/// The disk blocks of all files of a store, each file once.
pub(crate) fn on_disk(directory: &Path) -> u64 {
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
