//! The command `vmstore`, for the people who run virtual machines. It uses the library's public Rust API alone,
//! and the C interface offers the same calls.

mod args;
mod change;
mod commits;
mod demo;
mod diff;
mod doctor;
mod du;
mod dump;
mod fail;
mod generated;
mod heat;
mod hex;
mod history;
mod log;
mod owner;
mod progress;
mod screen;
mod show;
mod store_dir;
mod table;
mod transfer;
mod tree;
mod units;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use anstream::eprintln;
use clap::Parser;

use args::{Arguments, Command};
use fail::{Failure, Outcome};
use screen::{ERROR, Screen, hint};
use store_dir::StoreDir;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    arguments.colour.write_global();
    let outcome = run(arguments);
    // A failure to write the output may show only now.
    let flushed = std::io::stdout().flush();
    match (outcome, flushed) {
        (Ok(code), Ok(())) => code.into(),
        (Err(failure), _) => report(&failure),
        (Ok(_), Err(error)) => report(&Failure::from(error)),
    }
}

fn run(arguments: Arguments) -> Outcome {
    let screen = Screen::of_this_process();
    let dir = StoreDir::new(arguments.store, arguments.quiet);
    match arguments.command {
        Command::Demo(options) => demo::demo(&screen, &options),
        Command::Log(options) => log::log(&dir, &screen, &options),
        Command::Show(options) => show::show(&dir, &screen, &options),
        Command::Diff(options) => diff::diff(&dir, &screen, &options),
        Command::Verify(options) => verify::verify(&dir, &screen, &options),
        Command::Du(options) => du::du(&dir, &screen, &options),
        Command::Dump(options) => dump::dump(&dir, &options),
        Command::Restore(options) => change::restore(&dir, &options),
        Command::Rm(options) => change::rm(&dir, &options),
        Command::Compact(options) => change::compact(&dir, &options),
        Command::Export(options) => transfer::export(&dir, &options),
        Command::Import(options) => transfer::import(&dir, &options),
        Command::Clone(options) => transfer::clone(&dir, &options),
        Command::Doctor(options) => doctor::doctor(&dir, &options),
        Command::Completions { shell } => generated::completions(shell),
        Command::Man => generated::man(),
    }
}

/// Prints a failure on stderr. It is no failure that the reader of our output closed the pipe.
fn report(failure: &Failure) -> ExitCode {
    if failure.is_closed_pipe() {
        return ExitCode::SUCCESS;
    }
    eprintln!("{ERROR}error:{ERROR:#} {}", failure.message);
    for line in &failure.hints {
        eprintln!("{}", hint(line));
    }
    failure.code.into()
}
