//! The store that a command is about: finding it, opening it beside its owner or alone, and saying what to do
//! where that cannot be.

use std::path::{Path, PathBuf};

use anstream::eprintln;
use vmstore::{Error, LogLevel, OpenOptions, Store};

use crate::fail::{Code, Failure};
use crate::owner::{self, Owner};
use crate::screen::{WARNING, hint};

/// The directory of a store, and how much is said beside the output.
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    pub(crate) quiet: bool,
}

/// A store opened for looking.
pub(crate) struct Looked {
    pub(crate) store: Store,
    /// The history is damaged, and this is what is intact of it.
    pub(crate) damage: Option<Error>,
}

impl Place {
    pub(crate) fn new(directory: PathBuf, quiet: bool) -> Self {
        Self { directory, quiet }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// Opens for looking: no lock is taken and nothing is written, so that it works beside a VMM that has the
    /// store open. Of a damaged history what is intact is shown, with a warning.
    pub(crate) fn look(&self) -> Result<Looked, Failure> {
        let read_only = OpenOptions {
            read_only: true,
            ..self.options()
        };
        match Store::open(&self.directory, read_only) {
            Ok(store) => Ok(Looked {
                store,
                damage: None,
            }),
            Err(damage @ Error::Corrupt { .. }) => {
                // What it would log is the damage that is told here.
                let salvage = OpenOptions {
                    salvage: true,
                    ..OpenOptions::default()
                };
                let Ok(store) = Store::open(&self.directory, salvage) else {
                    return Err(self.explain(damage));
                };
                self.warn(&format!("{damage}"));
                eprintln!(
                    "{}",
                    hint(
                        "what follows is the part of the history that is intact; the store can be read, not written"
                    )
                );
                Ok(Looked {
                    store,
                    damage: Some(damage),
                })
            }
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Opens for a command that refuses damaged histories.
    pub(crate) fn look_strictly(&self) -> Result<Store, Failure> {
        let read_only = OpenOptions {
            read_only: true,
            ..self.options()
        };
        Store::open(&self.directory, read_only).map_err(|error| self.explain(error))
    }

    /// Opens for a change, alone. `what` is the command.
    pub(crate) fn own(&self, what: &str) -> Result<Store, Failure> {
        self.open_alone(what, true)
    }

    /// As [`Place::own`], but makes the store where there is none.
    pub(crate) fn own_or_make(&self, what: &str) -> Result<Store, Failure> {
        self.open_alone(what, false)
    }

    fn open_alone(&self, what: &str, no_create: bool) -> Result<Store, Failure> {
        let options = OpenOptions {
            no_create,
            ..self.options()
        };
        Store::open(&self.directory, options).map_err(|error| match error {
            Error::Locked { .. } => self.locked(what),
            error => self.explain(error),
        })
    }

    pub(crate) fn owner(&self) -> Option<Owner> {
        owner::of(&self.directory)
    }

    pub(crate) fn warn(&self, text: &str) {
        warn(self.quiet, text);
    }

    /// What a failure means for this store, with what to do next.
    pub(crate) fn explain(&self, error: Error) -> Failure {
        let missing =
            matches!(error, Error::NotFound { ref what, .. } if what.starts_with("store in "));
        if missing {
            return Failure::new(
                Code::Failed,
                format!("there is no store in {}", self.directory.display()),
            )
            .hint("name the store's directory with --store DIR or VMSTORE_STORE, or run the command in it")
            .hint("`vmstore demo` makes one to look at");
        }
        let damaged = matches!(error, Error::Corrupt { .. });
        let failure = Failure::from(error);
        match self.owner() {
            // Its owner may have compacted it under our eyes.
            Some(owner) if damaged => failure.hint(format!(
                "{owner} has the store open, and may just have removed the file: run the command again"
            )),
            _ => failure,
        }
    }

    fn locked(&self, what: &str) -> Failure {
        let owner = self
            .owner()
            .map_or_else(|| "another process".to_owned(), |owner| owner.to_string());
        let message = format!("{}: {owner} has the store open", self.directory.display());
        Failure::new(Code::InUse, message)
            .hint(format!(
                "`vmstore {what}` changes the store and needs it alone: end that process, or have it make the call itself"
            ))
            .hint("log, show, diff, verify, du, dump, export, clone and doctor work beside it")
    }

    fn options(&self) -> OpenOptions {
        let quiet = self.quiet;
        OpenOptions {
            log: Some(Box::new(move |level, message| {
                // No module is mapped by the command, and which tracker it would get is for doctor to say.
                if level == LogLevel::Warning && !message.starts_with("modules will be compared") {
                    warn(quiet, message);
                }
            })),
            ..OpenOptions::default()
        }
    }
}

fn warn(quiet: bool, text: &str) {
    if !quiet {
        eprintln!("{WARNING}warning:{WARNING:#} {text}");
    }
}
