//! The command line and its help.

use std::path::PathBuf;

use anstream::ColorChoice;
use clap::{Args, Parser, Subcommand, ValueEnum};

const AFTER: &str = "\
How to name a commit
  12          its number
  boot        its label (if several commits have this label: the newest)
  3f9ac1      the beginning of its unique id, four digits or more
  head        the commit that the memory was last brought to; short: @
  head~2      two commits before the head; ^ is short for ~1

Beside a running VMM
  log, show, diff, verify, du, dump, export, clone and doctor take no lock and
  write nothing in the store. They work while a VMM has the store open, and see
  the history as it was when they started. Commits that the VMM deletes or
  compacts in the meantime may look damaged: run the command again.
  restore, rm, compact and import change the store. They fail while another
  process has the store open for writing.

Exit codes
  0  done; nothing is wrong, nothing differs
  1  damage, an unknown format version, or (diff) a difference was found
  2  the command line is wrong
  3  the command failed
  4  the store or the commit is in use

Try `vmstore demo` first: it makes a store, and shows what the other commands do.";

/// Snapshots of a virtual machine's memory: list, compare, verify, restore and delete them
#[derive(Parser)]
#[command(name = "vmstore", version, after_help = AFTER, max_term_width = 100)]
#[command(arg_required_else_help = true, infer_subcommands = true)]
pub(crate) struct Arguments {
    /// The directory of the store
    #[arg(
        short,
        long,
        global = true,
        value_name = "DIR",
        env = "VMSTORE_STORE",
        default_value = "."
    )]
    pub(crate) store: PathBuf,

    /// When to use colours; auto: on a terminal, unless NO_COLOR is set
    #[arg(
        long = "color",
        global = true,
        value_name = "WHEN",
        default_value = "auto"
    )]
    pub(crate) colour: Colour,

    /// Print no progress and no warnings
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Colour {
    Auto,
    Always,
    Never,
}

impl Colour {
    /// Makes the choice for stdout and stderr of the whole process.
    pub(crate) fn write_global(self) {
        match self {
            Self::Auto => ColorChoice::Auto,
            Self::Always => ColorChoice::AlwaysAnsi,
            Self::Never => ColorChoice::Never,
        }
        .write_global();
    }
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a store, then commit, restore and branch in it; explains each step
    Demo(Demo),
    /// Draw the tree of commits: branches, head, labels, bytes written, age
    #[command(alias = "tree")]
    Log(Log),
    /// Describe one commit: its modules, its files, and a heat map of its changes
    Show(Show),
    /// Show what differs between two commits; exits with 1 if anything differs
    Diff(Diff),
    /// Check every byte against its checksum, and list the good commits; exits with 1 on damage
    #[command(alias = "fsck")]
    Verify(Verify),
    /// Make a commit the head; a VMM that opens the store starts from this commit
    Restore(Restore),
    /// Delete commits; all other commits stay unchanged
    #[command(alias = "delete")]
    Rm(Rm),
    /// Delete commits by retention rules, shorten chains of deltas, and free disk space
    #[command(alias = "gc")]
    Compact(Compact),
    /// Show how much disk space each commit takes, alone and shared with others
    Du(Du),
    /// Write a commit as a stream, with its whole history or as changes since another commit
    Export(Export),
    /// Read a stream of commits into this store: all of them, or none if this fails
    Import(Import),
    /// Make an independent second store; the stores share files if the file system can
    Clone(Clone),
    /// Write the memory of a module at a commit to a file or a pipe
    Dump(Dump),
    /// Show what the kernel and the file system offer, what the library would choose, and what is wrong
    Doctor(Doctor),
    /// Print completions for a shell: vmstore completions bash > /etc/bash_completion.d/vmstore
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the man page: vmstore man > /usr/local/share/man/man1/vmstore.1
    Man,
}

#[derive(Args)]
pub(crate) struct Demo {
    /// Make the store in DIR and keep it [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Log {
    /// Print a JSON array of commits instead
    #[arg(long)]
    pub(crate) json: bool,
    /// Show only the newest COUNT commits
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) limit: Option<usize>,
}

#[derive(Args)]
pub(crate) struct Show {
    /// The commit
    #[arg(default_value = "head")]
    pub(crate) commit: String,
    /// The most rows of each heat map
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    pub(crate) rows: u64,
}

#[derive(Args)]
pub(crate) struct Diff {
    /// The commit to compare from; 0 stands for empty memory
    pub(crate) from: String,
    /// The commit to compare with
    #[arg(default_value = "head")]
    pub(crate) to: String,
    /// Compare only this module
    #[arg(short, long, value_name = "ID")]
    pub(crate) module: Option<String>,
    /// List all ranges that differ, however many
    #[arg(long)]
    pub(crate) ranges: bool,
    /// Show the old and the new bytes
    #[arg(long)]
    pub(crate) hex: bool,
    /// The most lines of bytes to show
    #[arg(long, value_name = "COUNT", default_value_t = 64, requires = "hex")]
    pub(crate) lines: u64,
    /// The most rows of each heat map
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    pub(crate) rows: u64,
    /// Print a JSON object with all ranges instead
    #[arg(long, conflicts_with_all = ["hex", "ranges"])]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Verify {
    /// Check only this commit
    pub(crate) commit: Option<String>,
    /// Check only the history and the indexes, and read no pages
    #[arg(long)]
    pub(crate) metadata: bool,
}

#[derive(Args)]
pub(crate) struct Restore {
    /// The commit
    pub(crate) commit: String,
}

#[derive(Args)]
pub(crate) struct Rm {
    /// The commits
    #[arg(required = true)]
    pub(crate) commits: Vec<String>,
    /// Print what would be deleted, and delete nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

#[derive(Args)]
#[command(after_help = "\
A commit stays if any rule keeps it. The head always stays. Without a rule all commits stay, and
compact only rewrites files: it shortens chains of deltas and removes files that no commit needs.

  vmstore compact --keep-last 50 --keep-labelled     keeps the newest 50, and those with a label
  vmstore compact --keep-younger 36h --keep-every 100")]
pub(crate) struct Compact {
    /// Keep the newest COUNT commits
    #[arg(long, value_name = "COUNT")]
    pub(crate) keep_last: Option<u64>,
    /// Keep commits whose number is a multiple of COUNT
    #[arg(long, value_name = "COUNT")]
    pub(crate) keep_every: Option<u64>,
    /// Keep commits younger than this: 90s, 15m, 36h, 7d, 4w
    #[arg(long, value_name = "AGE", value_parser = crate::units::duration)]
    pub(crate) keep_younger: Option<u64>,
    /// Keep commits that have a label
    #[arg(long)]
    pub(crate) keep_labelled: bool,
    /// Make an image when the deltas hold more pages than this share of the module's pages [default: 200]
    #[arg(long, value_name = "PERCENT")]
    pub(crate) image_percent: Option<u32>,
    /// Make no images
    #[arg(long, conflicts_with = "image_percent")]
    pub(crate) no_images: bool,
}

#[derive(Args)]
pub(crate) struct Du {
    /// Print a JSON object instead
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[command(after_help = "\
Examples
  vmstore export head | ssh host vmstore -s guest.store import
  vmstore export --from monday friday -o week.vmstream     for a store that has the commit monday")]
pub(crate) struct Export {
    /// The last commit of the stream
    #[arg(default_value = "head")]
    pub(crate) commit: String,
    /// Write only the changes since this commit, which the importing store must have already
    #[arg(long, value_name = "COMMIT")]
    pub(crate) from: Option<String>,
    /// The file to make; it must not exist yet [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Import {
    /// The file to read [default: stdin]
    pub(crate) input: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Clone {
    /// The directory of the new store; it must be new or empty
    pub(crate) directory: PathBuf,
    /// Clone only this commit, without its history
    #[arg(long, value_name = "COMMIT")]
    pub(crate) commit: Option<String>,
}

#[derive(Args)]
pub(crate) struct Dump {
    /// The commit
    pub(crate) commit: String,
    /// The module [default: the only module of the commit]
    pub(crate) module: Option<String>,
    /// The file to make; it must not exist yet; pages of zeros become holes [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Doctor {
    /// Also read every page
    #[arg(long)]
    pub(crate) deep: bool,
}
