//! The store that a command works on: how it is opened, and what a failure to open it means.

use std::path::{Path, PathBuf};

use anstream::eprintln;
use vmstore::{Error, LogLevel, OpenOptions, Store};

use crate::fail::{Code, Failure};
use crate::owner::{self, Owner};
use crate::screen::{WARNING, hint};

/// The directory of a store.
pub(crate) struct StoreDir {
    path: PathBuf,
    /// Whether warnings and progress stay away from stderr.
    pub(crate) quiet: bool,
}

/// A store opened for reading, whole or in part.
pub(crate) struct Opened {
    pub(crate) store: Store,
    /// Why the history is not whole. `store` then holds the intact part.
    pub(crate) damage: Option<Error>,
}

impl Opened {
    /// The exit code of a command that found nothing else to report.
    pub(crate) fn code(&self) -> Code {
        Code::found_if(self.damage.is_some())
    }
}

/// The options of a store that is read beside its VMM: no lock is taken and nothing is written.
pub(crate) fn read_only() -> OpenOptions {
    OpenOptions {
        read_only: true,
        ..OpenOptions::default()
    }
}

impl StoreDir {
    pub(crate) fn new(path: PathBuf, quiet: bool) -> Self {
        Self { path, quiet }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the store read-only. If its history is damaged, opens the intact part with a warning.
    pub(crate) fn open_or_salvage(&self) -> Result<Opened, Failure> {
        match self.open(read_only()) {
            Ok(store) => Ok(Opened {
                store,
                damage: None,
            }),
            Err(damage @ Error::Corrupt { .. }) => self.salvage(damage),
            Err(error) => Err(self.explain(error)),
        }
    }

    fn salvage(&self, damage: Error) -> Result<Opened, Failure> {
        // Without a log callback: the library would only log the damage that is printed here.
        let salvage = OpenOptions {
            salvage: true,
            ..OpenOptions::default()
        };
        let Ok(store) = Store::open(&self.path, salvage) else {
            return Err(self.explain(damage));
        };
        self.warn(&damage.to_string());
        let text = "the intact part of the history follows; the store can be read but not written";
        eprintln!("{}", hint(text));
        Ok(Opened {
            store,
            damage: Some(damage),
        })
    }

    /// Opens the store read-only, for a command that refuses a damaged history.
    pub(crate) fn open_read_only(&self) -> Result<Store, Failure> {
        self.open(read_only()).map_err(|error| self.explain(error))
    }

    /// Opens the store for `command`, which changes it. Fails while the store has another owner.
    pub(crate) fn open_for_writing(&self, command: &str) -> Result<Store, Failure> {
        self.open_exclusive(command, true)
    }

    /// As [`StoreDir::open_for_writing`], but creates the store if there is none.
    pub(crate) fn open_or_create(&self, command: &str) -> Result<Store, Failure> {
        self.open_exclusive(command, false)
    }

    fn open_exclusive(&self, command: &str, no_create: bool) -> Result<Store, Failure> {
        let options = OpenOptions {
            no_create,
            ..OpenOptions::default()
        };
        self.open(options).map_err(|error| match error {
            Error::Locked { .. } => self.locked(command),
            error => self.explain(error),
        })
    }

    /// Opens the store, and prints the library's warnings.
    fn open(&self, mut options: OpenOptions) -> vmstore::Result<Store> {
        let quiet = self.quiet;
        options.log = Some(Box::new(move |level, message| {
            // The command maps no module, so it does not matter which tracker a module would get. `vmstore doctor`
            // reports the tracker.
            if level == LogLevel::Warning && !message.starts_with("modules will be compared") {
                warn(quiet, message);
            }
        }));
        Store::open(&self.path, options)
    }

    pub(crate) fn owner(&self) -> Option<Owner> {
        owner::of(&self.path)
    }

    pub(crate) fn warn(&self, text: &str) {
        warn(self.quiet, text);
    }

    /// A failure of the library, with advice for this store.
    pub(crate) fn explain(&self, error: Error) -> Failure {
        let missing =
            matches!(error, Error::NotFound { ref what, .. } if what.starts_with("store in "));
        if missing {
            let message = format!("there is no store in {}", self.path.display());
            return Failure::new(Code::Failed, message)
                .hint("give the store's directory with --store DIR or VMSTORE_STORE, or run the command in that directory")
                .hint("`vmstore demo --keep DIR` makes a store to try the commands on");
        }
        let damaged = matches!(error, Error::Corrupt { .. });
        let failure = Failure::from(error);
        match self.owner() {
            // The owner may have compacted the store while the command was reading it.
            Some(owner) if damaged => failure.hint(format!(
                "{owner} has the store open and may just have removed the file: run the command again"
            )),
            _ => failure,
        }
    }

    fn locked(&self, command: &str) -> Failure {
        let owner = self
            .owner()
            .map_or_else(|| "another process".to_owned(), |owner| owner.to_string());
        let message = format!("{}: {owner} has the store open", self.path.display());
        Failure::new(Code::InUse, message)
            .hint(format!(
                "`vmstore {command}` changes the store, and only one process at a time can do this: end the other process, or make the change in it"
            ))
            .hint("log, show, diff, verify, du, dump, export, clone and doctor work while the store is in use")
    }
}

fn warn(quiet: bool, text: &str) {
    if !quiet {
        eprintln!("{WARNING}warning:{WARNING:#} {text}");
    }
}
