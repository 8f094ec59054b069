//! The commands that carry commits elsewhere: export, import, clone.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;

use anstream::{eprintln, println};
use vmstore::{OpenOptions, Store};

use crate::args;
use crate::change::named;
use crate::commits;
use crate::fail::{Code, Failure, Outcome};
use crate::place::Place;
use crate::progress::Bar;
use crate::units::count;

pub(crate) fn export(place: &Place, options: &args::Export) -> Outcome {
    let store = place.look()?.store;
    let from = match &options.from {
        None => 0,
        Some(name) => commits::find(&store, name)?,
    };
    let to = commits::find(&store, &options.commit)?;
    let sent = |fd| {
        let mut bar = Bar::new("export", place.quiet);
        let mut tell = |done, total| {
            bar.tell(done, total);
            true
        };
        let done = store.export_with(from, to, fd, Some(&mut tell));
        done.map_err(|error| place.explain(error))
    };
    if let Some(path) = &options.output {
        let at = |error: io::Error| Failure::at(&path.display().to_string(), &error);
        let file = File::create_new(path).map_err(at)?;
        let done = sent(file.as_raw_fd()).and_then(|()| file.sync_all().map_err(at));
        if done.is_err() {
            // An incomplete stream is of no use.
            let _ = std::fs::remove_file(path);
        }
        done?;
    } else {
        let out = io::stdout();
        if out.is_terminal() {
            return Err(Failure::new(Code::Usage, "a stream of commits is nothing for a terminal")
                .hint("give --output FILE, or a pipe: vmstore export head | ssh host vmstore -s guest.store import"));
        }
        sent(out.as_raw_fd())?;
    }
    if !place.quiet {
        eprintln!(
            "exported {}{}",
            named(&store, to)?,
            match from {
                0 => " with all that it was made on".to_owned(),
                from => format!(", as what changed since {}", named(&store, from)?),
            }
        );
    }
    Ok(Code::Good)
}

pub(crate) fn import(place: &Place, options: &args::Import) -> Outcome {
    if options.input.is_none() && io::stdin().is_terminal() {
        return Err(Failure::new(
            Code::Usage,
            "a stream of commits does not come from a terminal",
        )
        .hint("name a file, or give a pipe: vmstore -s other.store export head | vmstore import"));
    }
    let store = place.own_or_make("import")?;
    let before = store.commits()?.len();
    let file = match &options.input {
        None => None,
        Some(path) => {
            let file = File::open(path);
            Some(file.map_err(|error| Failure::at(&path.display().to_string(), &error))?)
        }
    };
    let fd = file
        .as_ref()
        .map_or_else(|| io::stdin().as_raw_fd(), File::as_raw_fd);
    let mut bar = Bar::new("import", place.quiet);
    let last = store.import_with(
        fd,
        Some(&mut |done, total| {
            bar.tell(done, total);
            true
        }),
    );
    drop(bar);
    let last = last.map_err(|error| match error {
        vmstore::Error::NotFound { .. } => Failure::from(error)
            .hint("the stream holds changes only: import first what it goes on from, or export without --from"),
        vmstore::Error::Corrupt { .. } => {
            let mut failure = Failure::from(error);
            failure.hints.clear();
            failure.hint("nothing was imported; export again, and look at what carried the stream")
        }
        error => place.explain(error),
    })?;
    let mut bar = Bar::new("persist", place.quiet);
    let persisted = store.persist(Some(&mut |done, total| {
        bar.tell(done, total);
        true
    }));
    drop(bar);
    persisted.map_err(|error| place.explain(error))?;
    let new = store.commits()?.len() - before;
    println!(
        "{} imported; the last is {}",
        count(new as u64, "new commit"),
        named(&store, last)?
    );
    if store.head()? != last {
        println!("the head stays where it was; `vmstore restore {last}` brings it there");
    }
    store.close()?;
    Ok(Code::Good)
}

pub(crate) fn clone(place: &Place, options: &args::Clone) -> Outcome {
    let store = place.look_strictly()?;
    let commit = match &options.commit {
        None => 0,
        Some(name) => commits::find(&store, name)?,
    };
    store
        .clone_to(commit, &options.directory)
        .map_err(|error| match error {
            vmstore::Error::Exists { .. } => {
                Failure::from(error).hint("name a directory that is not there yet, or is empty")
            }
            error => place.explain(error),
        })?;
    let read_only = OpenOptions {
        read_only: true,
        ..OpenOptions::default()
    };
    let made = Store::open(&options.directory, read_only)?;
    let there = made.commits()?.len();
    println!(
        "{}: {}, sharing its files where the file system can",
        options.directory.display(),
        count(there as u64, "commit")
    );
    let missing = if commit == 0 {
        store.commits()?.len() - there
    } else {
        0
    };
    if missing > 0 {
        let text = format!(
            "{} not persisted by their VMM yet are not in the clone",
            count(missing as u64, "commit")
        );
        place.warn(&text);
    }
    Ok(Code::Good)
}
