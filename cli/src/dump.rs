//! `vmstore dump`: the raw memory of a module at a commit.

use std::fs::File;
use std::io::{IsTerminal, Seek, SeekFrom, Write};
use std::path::Path;

use vmstore::Store;

use crate::args;
use crate::commits;
use crate::fail::{Code, Failure, Outcome};
use crate::progress::Bar;
use crate::store_dir::StoreDir;

/// Bytes of one read.
const PART: u64 = 4 << 20;

pub(crate) fn dump(dir: &StoreDir, options: &args::Dump) -> Outcome {
    let store = &dir.open_or_salvage()?.store;
    let commit = commits::find(store, &options.commit)?;
    let (module, size) = module(store, commit, options.module.as_deref())?;
    let source = Source {
        dir,
        store,
        commit,
        module,
        size,
    };
    match &options.output {
        Some(path) => source.to_file(path)?,
        None if std::io::stdout().is_terminal() => {
            return Err(
                Failure::new(Code::Usage, "raw memory cannot be shown on a terminal")
                    .hint("give --output FILE, or use a pipe: vmstore dump head ram | xxd | less"),
            );
        }
        None => source.to_stdout()?,
    }
    Ok(Code::Good)
}

/// The module, and its size. Without `wanted`, the commit must have exactly one module.
fn module(store: &Store, commit: u64, wanted: Option<&str>) -> Result<(String, u64), Failure> {
    let modules = store.modules(commit)?;
    let ids: Vec<&str> = modules.iter().map(|module| module.id.as_str()).collect();
    let has = match &ids[..] {
        [] => format!("commit {commit} has no modules"),
        ids => format!("the modules of commit {commit} are {}", ids.join(", ")),
    };
    let found = match (wanted, &modules[..]) {
        (None, [only]) => Some(only),
        (None, _) => {
            let message = format!("a module must be given: {has}");
            return Err(Failure::new(Code::Usage, message));
        }
        (Some(id), all) => all.iter().find(|module| module.id == id),
    };
    let found = found.ok_or_else(|| {
        let message = format!(
            "there is no module \"{}\" in commit {commit}: {has}",
            crate::screen::printable(wanted.unwrap_or_default())
        );
        Failure::new(Code::Failed, message)
    })?;
    Ok((found.id.clone(), found.size))
}

/// The memory to write.
struct Source<'a> {
    dir: &'a StoreDir,
    store: &'a Store,
    commit: u64,
    module: String,
    size: u64,
}

impl Source<'_> {
    fn to_file(&self, path: &Path) -> Result<(), Failure> {
        let at = |error: std::io::Error| Failure::at(&path.display().to_string(), &error);
        let page = self.store.stats()?.page_size as usize;
        let mut file = create(path)?;
        let done = self
            .each_part(|part| write_sparse(&mut file, part, page).map_err(at))
            .and_then(|()| file.set_len(self.size).map_err(at))
            .and_then(|()| file.sync_all().map_err(at));
        if done.is_err() {
            // An incomplete dump looks like a complete one.
            let _ = std::fs::remove_file(path);
        }
        done
    }

    fn to_stdout(&self) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        self.each_part(|part| out.write_all(part).map_err(Failure::from))?;
        out.flush()?;
        Ok(())
    }

    /// Passes the memory to `put`, in parts from front to back.
    fn each_part(&self, mut put: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut bar = Bar::new("dump", self.dir.quiet);
        let mut buffer = vec![0; PART.min(self.size) as usize];
        let mut at = 0;
        while at < self.size {
            let part = &mut buffer[..PART.min(self.size - at) as usize];
            self.store
                .read(self.commit, &self.module, at, part)
                .map_err(|error| self.dir.explain(error))?;
            put(part)?;
            at += part.len() as u64;
            bar.update(at, self.size);
        }
        Ok(())
    }
}

fn create(path: &Path) -> Result<File, Failure> {
    File::create_new(path).map_err(|error| {
        let failure = Failure::at(&path.display().to_string(), &error);
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                failure.hint("nothing was written: give a file that does not exist yet")
            }
            _ => failure,
        }
    })
}

/// Writes a part of the memory at the file's position, and leaves a hole for each page of zeros.
fn write_sparse(file: &mut File, part: &[u8], page: usize) -> std::io::Result<()> {
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
