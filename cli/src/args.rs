//! The command line: what can be asked for, and the help that teaches it.

use std::path::PathBuf;

use anstream::ColorChoice;
use clap::{Args, Parser, Subcommand, ValueEnum};

const AFTER: &str = "\
Commits are named by
  12          their number
  boot        their label (the newest commit that has it)
  3f9ac1      the beginning of their unique id, four digits or more
  head        what the memory was last brought to; @ is short for it
  head~2      two commits before it; ^ is short for ~1

Beside a running VMM
  log, show, diff, verify, du, dump, export, clone and doctor take no lock and
  write nothing in the store: they work while a VMM has it open, and see the
  history as it is when they start. What the VMM deletes or compacts meanwhile
  may look missing; run the command again then.
  restore, rm, compact and import change the store and need it to themselves.

Exit codes
  0  done; nothing is wrong, nothing differs
  1  damage was found, or a difference (diff)
  2  the command line makes no sense
  3  it could not be done
  4  the store, or the commit, is in use

Try `vmstore demo` first: it makes a store, and shows what the other commands are for.";

/// Snapshots of a virtual machine's memory: look at them, compare, verify, restore and prune them
#[derive(Parser)]
#[command(name = "vmstore", version, after_help = AFTER, max_term_width = 100)]
#[command(arg_required_else_help = true, infer_subcommands = true)]
pub(crate) struct Arguments {
    /// The store's directory
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

    /// No progress, no warnings
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// When to use colours.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Colour {
    Auto,
    Always,
    Never,
}

impl Colour {
    /// From here on, stdout and stderr of anstream do it so.
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
    /// Make a store, branch it, restore it, and say what happened: the first minute
    Demo(Demo),
    /// Draw the tree of commits: branches, head, labels, what each wrote, age
    #[command(alias = "tree")]
    Log(Log),
    /// Describe one commit: its modules, its files, and a heat map of what it changed
    Show(Show),
    /// Say what differs between two commits; exits 1 if something does
    Diff(Diff),
    /// Check every byte against its checksum, and say which commits are good; exits 1 on damage
    #[command(alias = "fsck")]
    Verify(Verify),
    /// Make a commit the head: the VMM comes up at it, and its next commit is a child of it
    Restore(Restore),
    /// Delete commits; no other commit changes
    #[command(alias = "delete")]
    Rm(Rm),
    /// Delete commits by rules of retention, and give disk space back
    #[command(alias = "gc")]
    Compact(Compact),
    /// Say which commits hold how many bytes of the disk, shared and on their own
    Du(Du),
    /// Write commits as a stream to a pipe or a file, whole or as what changed since another
    Export(Export),
    /// Read a stream of commits into this store, all or nothing
    Import(Import),
    /// Make an independent second store, which shares the files of this one
    Clone(Clone),
    /// Write a module's memory, as it is at a commit, to a file or a pipe
    Dump(Dump),
    /// Say what kernel and file system offer, what the library would choose, and what is wrong
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
    /// Make the store here, and keep it, instead of in a temporary directory
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Log {
    /// Print an array of objects instead
    #[arg(long)]
    pub(crate) json: bool,
    /// The newest COUNT commits only
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) limit: Option<usize>,
}

#[derive(Args)]
pub(crate) struct Show {
    /// The commit
    #[arg(default_value = "head")]
    pub(crate) commit: String,
    /// Rows of a heat map, at most
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    pub(crate) rows: u64,
}

#[derive(Args)]
pub(crate) struct Diff {
    /// The commit to go from; 0: empty memory
    pub(crate) from: String,
    /// The commit to go to
    #[arg(default_value = "head")]
    pub(crate) to: String,
    /// Of this module alone
    #[arg(short, long, value_name = "ID")]
    pub(crate) module: Option<String>,
    /// List all ranges, however many
    #[arg(long)]
    pub(crate) ranges: bool,
    /// Show the bytes that differ, old and new
    #[arg(long)]
    pub(crate) hex: bool,
    /// Lines of bytes at most
    #[arg(long, value_name = "COUNT", default_value_t = 64, requires = "hex")]
    pub(crate) lines: u64,
    /// Rows of a heat map, at most
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    pub(crate) rows: u64,
    /// Print an object with all ranges instead
    #[arg(long, conflicts_with_all = ["hex", "ranges"])]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Verify {
    /// This commit alone
    pub(crate) commit: Option<String>,
    /// History and indexes only; pages are not read
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
    /// Say what would be deleted, and delete nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

#[derive(Args)]
#[command(after_help = "\
Commits that any rule keeps stay; the head always does. Without a rule all commits stay, and only files
are rewritten: chains of small files become shorter, and what no commit needs goes.

  vmstore compact --keep-last 50 --keep-labelled     the newest 50, and those with a name
  vmstore compact --keep-younger 36h --keep-every 100")]
pub(crate) struct Compact {
    /// Keep the newest COUNT commits
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) keep_last: u64,
    /// Keep commits whose number is a multiple of COUNT
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) keep_every: u64,
    /// Keep commits younger than this: 90s, 15m, 36h, 7d, 4w
    #[arg(long, value_name = "AGE", value_parser = crate::units::duration)]
    pub(crate) keep_younger: Option<u64>,
    /// Keep commits that have a label
    #[arg(long)]
    pub(crate) keep_labelled: bool,
    /// Make an image when deltas hold more than this share of a module's pages [default: 200]
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) image_percent: u32,
    /// Make no images
    #[arg(long, conflicts_with = "image_percent")]
    pub(crate) no_images: bool,
}

#[derive(Args)]
pub(crate) struct Du {
    /// Print an object instead
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[command(after_help = "\
  vmstore export head | ssh host vmstore -s guest.store import
  vmstore export --from monday friday -o week.vmstream     what changed, for a store that has monday")]
pub(crate) struct Export {
    /// The last commit of the stream
    #[arg(default_value = "head")]
    pub(crate) commit: String,
    /// Only what changed since this commit, which the importing store has already
    #[arg(long, value_name = "COMMIT")]
    pub(crate) from: Option<String>,
    /// The file to make. Without it: stdout
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Import {
    /// The file to read. Without it: stdin
    pub(crate) input: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Clone {
    /// The directory of the new store; it must be new or empty
    pub(crate) directory: PathBuf,
    /// This commit alone, without its history
    #[arg(long, value_name = "COMMIT")]
    pub(crate) commit: Option<String>,
}

#[derive(Args)]
pub(crate) struct Dump {
    /// The commit
    pub(crate) commit: String,
    /// The module; may be left out where there is only one
    pub(crate) module: Option<String>,
    /// The file to make; pages of zeros become holes. Without it: stdout
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Doctor {
    /// Read every page, too
    #[arg(long)]
    pub(crate) deep: bool,
}
