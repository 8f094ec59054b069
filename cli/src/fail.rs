//! How a command ends: its exit code, and for failures what is wrong, by which rule, and what to do next.

use std::io;
use std::process::ExitCode;

/// The exit codes. `vmstore --help` documents them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Done; nothing is wrong, nothing differs.
    Good = 0,
    /// Damage, or a difference, was found.
    Found = 1,
    /// The command line makes no sense. clap ends with this number by itself.
    Usage = 2,
    /// It could not be done.
    Failed = 3,
    /// The store, or the commit, is in use.
    InUse = 4,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// How a command ended.
pub(crate) type Outcome = Result<Code, Failure>;

/// A command that was not done.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// What to do next.
    pub(crate) hints: Vec<String>,
    kind: Option<io::ErrorKind>,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hints: Vec::new(),
            kind: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The reader of a pipe has gone away: it had enough.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        self.kind == Some(io::ErrorKind::BrokenPipe)
    }

    /// A failure of the operating system, at a place.
    pub(crate) fn at(place: &str, error: &io::Error) -> Self {
        Self {
            kind: Some(error.kind()),
            ..Self::new(Code::Failed, format!("{place}: {error}"))
        }
    }
}

impl From<vmstore::Error> for Failure {
    fn from(error: vmstore::Error) -> Self {
        use vmstore::Error as E;
        let failure = Self::new(
            match error {
                E::Corrupt { .. } | E::Version { .. } => Code::Found,
                E::Locked { .. } | E::Busy { .. } => Code::InUse,
                E::Invalid { .. } => Code::Usage,
                _ => Code::Failed,
            },
            error.to_string(),
        );
        match error {
            E::Corrupt { .. } => failure.hint("`vmstore verify` tells which commits are still good"),
            E::Version { .. } => failure.hint(format!(
                "this is vmstore {}; the store was written by a newer one",
                env!("CARGO_PKG_VERSION")
            )),
            E::Io { errno, .. } if errno == ENOSPC => failure.hint(
                "`vmstore rm` and `vmstore compact` give room back; `vmstore du` says which commits hold it",
            ),
            E::Poisoned { .. } => failure.hint("what was persisted is safe; run the command again"),
            _ => failure,
        }
    }
}

const ENOSPC: i32 = 28;

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::at("output", &error)
    }
}
