//! `vmstore dump`: a module's memory as it is at a commit, raw.

use std::fs::File;
use std::io::{IsTerminal, Seek, SeekFrom, Write};
use std::path::Path;

use vmstore::Store;

use crate::args;
use crate::commits;
use crate::fail::{Code, Failure, Outcome};
use crate::place::Place;
use crate::progress::Bar;

/// Bytes of one read.
const PART: u64 = 4 << 20;

pub(crate) fn dump(place: &Place, options: &args::Dump) -> Outcome {
    let store = place.look()?.store;
    let commit = commits::find(&store, &options.commit)?;
    let (module, size) = module(&store, commit, options.module.as_deref())?;
    let mut bar = Bar::new("dump", place.quiet);
    let page = store.stats()?.page_size as usize;
    match &options.output {
        Some(path) => {
            let at = |error: std::io::Error| Failure::at(&path.display().to_string(), &error);
            let mut file = create(path)?;
            let done = each_part(place, &store, commit, &module, size, &mut bar, |part| {
                sparse(&mut file, part, page).map_err(at)
            });
            let done = done.and_then(|()| {
                file.set_len(size)
                    .and_then(|()| file.sync_all())
                    .map_err(at)
            });
            if done.is_err() {
                // Half a dump looks like a whole one.
                let _ = std::fs::remove_file(path);
            }
            done?;
        }
        None if std::io::stdout().is_terminal() => {
            return Err(
                Failure::new(Code::Usage, "raw memory is nothing for a terminal")
                    .hint("give --output FILE, or a pipe: vmstore dump head ram | xxd | less"),
            );
        }
        None => {
            let mut out = std::io::stdout().lock();
            each_part(place, &store, commit, &module, size, &mut bar, |part| {
                out.write_all(part).map_err(Failure::from)
            })?;
            out.flush()?;
        }
    }
    Ok(Code::Good)
}

fn create(path: &Path) -> Result<File, Failure> {
    File::create_new(path).map_err(|error| {
        let failure = Failure::at(&path.display().to_string(), &error);
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                failure.hint("name a file that is not there yet; nothing was written")
            }
            _ => failure,
        }
    })
}

/// The module that is meant, and its size.
fn module(store: &Store, commit: u64, wanted: Option<&str>) -> Result<(String, u64), Failure> {
    let modules = store.modules(commit)?;
    let ids: Vec<&str> = modules.iter().map(|module| module.id.as_str()).collect();
    let has = format!("commit {commit} has {}", ids.join(", "));
    let found = match (wanted, &modules[..]) {
        (None, [only]) => Some(only),
        (None, _) => return Err(Failure::new(Code::Usage, format!("which module? {has}"))),
        (Some(id), all) => all.iter().find(|module| module.id == id),
    };
    let found = found.ok_or_else(|| {
        let message = format!(
            "there is no module \"{}\" in it: {has}",
            crate::screen::printable(wanted.unwrap_or_default())
        );
        Failure::new(Code::Failed, message)
    })?;
    Ok((found.id.clone(), found.size))
}

fn each_part(
    place: &Place,
    store: &Store,
    commit: u64,
    module: &str,
    size: u64,
    bar: &mut Bar,
    mut put: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut buffer = vec![0; PART.min(size) as usize];
    let mut at = 0;
    while at < size {
        let part = &mut buffer[..PART.min(size - at) as usize];
        store
            .read(commit, module, at, part)
            .map_err(|error| place.explain(error))?;
        put(part)?;
        at += part.len() as u64;
        bar.tell(at, size);
    }
    Ok(())
}

/// Writes the pages that are not zero where they belong, and leaves holes for the others.
fn sparse(file: &mut File, part: &[u8], page: usize) -> std::io::Result<()> {
    let mut rest = part;
    while !rest.is_empty() {
        let zero = |bytes: &&[u8]| bytes.iter().all(|byte| *byte == 0);
        let zeros = rest
            .chunks(page)
            .take_while(zero)
            .map(<[u8]>::len)
            .sum::<usize>();
        file.seek(SeekFrom::Current(zeros as i64))?;
        rest = &rest[zeros..];
        let data = rest
            .chunks(page)
            .take_while(|bytes| !zero(bytes))
            .map(<[u8]>::len)
            .sum::<usize>();
        file.write_all(&rest[..data])?;
        rest = &rest[data..];
    }
    Ok(())
}
