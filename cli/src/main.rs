//! The command `vmstore`: what people do with a store of guest memory. Everything is done through the library's
//! interface, which C has, too.

mod args;
mod change;
mod commits;
mod demo;
mod diff;
mod doctor;
mod du;
mod dump;
mod fail;
mod heat;
mod hex;
mod history;
mod log;
mod owner;
mod place;
mod progress;
mod screen;
mod show;
mod table;
mod transfer;
mod tree;
mod units;
mod verify;
mod write_up;

use std::io::Write;
use std::process::ExitCode;

use anstream::eprintln;
use clap::Parser;

use args::{Arguments, Command};
use fail::{Failure, Outcome};
use place::Place;
use screen::{ERROR, Screen, hint};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    arguments.colour.write_global();
    let done = run(arguments);
    // What was printed may still be on its way.
    let flushed = std::io::stdout().flush();
    match (done, flushed) {
        (Ok(code), Ok(())) => code.into(),
        (Err(failure), _) => tell(&failure),
        (Ok(_), Err(error)) => tell(&Failure::from(error)),
    }
}

fn run(arguments: Arguments) -> Outcome {
    let screen = Screen::of_this_process();
    let place = Place::new(arguments.store, arguments.quiet);
    match arguments.command {
        Command::Demo(options) => demo::demo(&screen, &options),
        Command::Log(options) => log::log(&place, &screen, &options),
        Command::Show(options) => show::show(&place, &screen, &options),
        Command::Diff(options) => diff::diff(&place, &screen, &options),
        Command::Verify(options) => verify::verify(&place, &screen, &options),
        Command::Du(options) => du::du(&place, &screen, &options),
        Command::Dump(options) => dump::dump(&place, &options),
        Command::Restore(options) => change::restore(&place, &options),
        Command::Rm(options) => change::rm(&place, &options),
        Command::Compact(options) => change::compact(&place, &options),
        Command::Export(options) => transfer::export(&place, &options),
        Command::Import(options) => transfer::import(&place, &options),
        Command::Clone(options) => transfer::clone(&place, &options),
        Command::Doctor(options) => doctor::doctor(&place, &screen, &options),
        Command::Completions { shell } => write_up::completions(shell),
        Command::Man => write_up::man(),
    }
}

/// Says on stderr what went wrong. A reader of our output that has gone away is no failure.
fn tell(failure: &Failure) -> ExitCode {
    if failure.is_closed_pipe() {
        return ExitCode::SUCCESS;
    }
    eprintln!("{ERROR}error:{ERROR:#} {}", failure.message);
    for line in &failure.hints {
        eprintln!("{}", hint(line));
    }
    failure.code.into()
}
