//! The commands that copy commits to another store: export, import, clone.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;

use anstream::{eprintln, println};
use vmstore::{Error, Store};

use crate::args;
use crate::commits::{self, describe};
use crate::fail::{Code, Failure, Outcome};
use crate::progress::with_bar;
use crate::store_dir::{StoreDir, read_only};
use crate::units::count;

pub(crate) fn export(dir: &StoreDir, options: &args::Export) -> Outcome {
    let store = dir.open_or_salvage()?.store;
    let from = match &options.from {
        None => 0,
        Some(name) => commits::find(&store, name)?,
    };
    let to = commits::find(&store, &options.commit)?;
    let send = |fd| {
        with_bar("export", dir.quiet, |progress| {
            store.export_with(from, to, fd, progress)
        })
        .map_err(|error| dir.explain(error))
    };
    if let Some(path) = &options.output {
        let at = |error: io::Error| Failure::at(&path.display().to_string(), &error);
        let file = File::create_new(path).map_err(at)?;
        let done = send(file.as_raw_fd()).and_then(|()| file.sync_all().map_err(at));
        if done.is_err() {
            // An incomplete stream cannot be imported.
            let _ = std::fs::remove_file(path);
        }
        done?;
    } else {
        let out = io::stdout();
        if out.is_terminal() {
            return Err(Failure::new(Code::Usage, "a stream of commits cannot be shown on a terminal")
                .hint("give --output FILE, or use a pipe: vmstore export head | ssh host vmstore -s guest.store import"));
        }
        send(out.as_raw_fd())?;
    }
    if !dir.quiet {
        eprintln!(
            "exported {}{}",
            describe(&store, to)?,
            match from {
                0 => " with its whole history".to_owned(),
                from => format!(" as changes since {}", describe(&store, from)?),
            }
        );
    }
    Ok(Code::Good)
}

pub(crate) fn import(dir: &StoreDir, options: &args::Import) -> Outcome {
    if options.input.is_none() && io::stdin().is_terminal() {
        return Err(Failure::new(
            Code::Usage,
            "a stream of commits cannot be read from a terminal",
        )
        .hint("give a file, or use a pipe: vmstore -s other.store export head | vmstore import"));
    }
    let store = dir.open_or_create("import")?;
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
    let imported = with_bar("import", dir.quiet, |progress| {
        store.import_with(fd, progress)
    });
    let last = imported.map_err(|error| match error {
        Error::NotFound { .. } => Failure::from(error)
            .hint("the stream holds only changes: first import the commit that they build on, or export without --from"),
        Error::Corrupt { .. } => {
            // The usual advice is about a damaged store, but here the stream is damaged.
            let mut failure = Failure::from(error);
            failure.hints.clear();
            failure.hint("nothing was imported: export the commits again, and check the file or connection that carried the stream")
        }
        error => dir.explain(error),
    })?;
    with_bar("persist", dir.quiet, |progress| store.persist(progress))
        .map_err(|error| dir.explain(error))?;
    let new = store.commits()?.len() - before;
    println!(
        "{} imported; the last commit of the stream is {}",
        count(new as u64, "new commit"),
        describe(&store, last)?
    );
    if store.head()? != last {
        println!("the head has not moved; `vmstore restore {last}` makes this commit the head");
    }
    store.close()?;
    Ok(Code::Good)
}

pub(crate) fn clone(dir: &StoreDir, options: &args::Clone) -> Outcome {
    let store = dir.open_read_only()?;
    let commit = match &options.commit {
        None => 0,
        Some(name) => commits::find(&store, name)?,
    };
    store
        .clone_to(commit, &options.directory)
        .map_err(|error| match error {
            Error::Exists { .. } => {
                Failure::from(error).hint("give a directory that does not exist yet or is empty")
            }
            error => dir.explain(error),
        })?;
    let there = Store::open(&options.directory, read_only())?
        .commits()?
        .len();
    println!(
        "{}: a store with {}; it shares files with this store if the file system can",
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
            "the clone lacks {} that the VMM has not persisted yet",
            count(missing as u64, "commit")
        );
        dir.warn(&text);
    }
    Ok(Code::Good)
}
