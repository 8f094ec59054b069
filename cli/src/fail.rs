//! How a command ends: its exit code, and for a failure the message and the advice.

use std::io;
use std::process::ExitCode;

/// The exit codes. `vmstore --help` documents them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Done; nothing is wrong, nothing differs.
    Good = 0,
    /// Damage, an unknown format version, or a difference was found.
    Found = 1,
    /// The command line is wrong. clap itself also exits with this number.
    Usage = 2,
    /// The command failed.
    Failed = 3,
    /// The store or the commit is in use.
    InUse = 4,
}

impl Code {
    pub(crate) fn found_if(found: bool) -> Self {
        if found { Self::Found } else { Self::Good }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// How a command ended.
pub(crate) type Outcome = Result<Code, Failure>;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// What the user can do.
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

    /// Whether the reader of our output closed the pipe.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        self.kind == Some(io::ErrorKind::BrokenPipe)
    }

    /// A failure of the operating system. `what` names the file.
    pub(crate) fn at(what: &str, error: &io::Error) -> Self {
        Self {
            kind: Some(error.kind()),
            ..Self::new(Code::Failed, format!("{what}: {error}"))
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
            E::Corrupt { .. } => failure.hint("`vmstore verify` lists the commits that are still good"),
            E::Version { .. } => failure.hint(format!(
                "this is vmstore {}; a newer version wrote the store: use that version",
                env!("CARGO_PKG_VERSION")
            )),
            E::Io { errno, .. } if errno == ENOSPC => failure.hint(
                "`vmstore rm` and `vmstore compact` free space; `vmstore du` shows which commits take it",
            ),
            E::Poisoned { .. } => failure.hint("all persisted commits are safe: run the command again"),
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
