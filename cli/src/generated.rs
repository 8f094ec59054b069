//! Shell completions and the man page, generated from the definition of the command line.

use std::io::Write;

use clap::CommandFactory;

use crate::args::Arguments;
use crate::fail::{Code, Outcome};

pub(crate) fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "vmstore", &mut text);
    std::io::stdout().write_all(&text)?;
    Ok(Code::Good)
}

/// Prints one page for all commands: there is one file to install.
pub(crate) fn man() -> Outcome {
    let mut command = Arguments::command();
    command.build();
    let mut text = Vec::new();
    let page = clap_mangen::Man::new(command.clone());
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    writeln!(text, ".SH COMMANDS")?;
    for sub in command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(text, ".SS vmstore {}\n{about}", sub.get_name())?;
        clap_mangen::Man::new(sub.clone()).render_options_section(&mut text)?;
    }
    page.render_extra_section(&mut text)?;
    std::io::stdout().write_all(&text)?;
    Ok(Code::Good)
}
