//! The operator's tool: looks at a store, ends what is stuck in it, checks it and copies it.
//!
//! Arguments and printing only: what it does, it does through the public API.

mod args;
mod bench;
mod change;
mod copy;
mod failure;
mod histogram;
mod look;
mod output;
mod progress;
mod time;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Args, Command};
use crate::failure::{Failure, Outcome};
use crate::output::{Format, Printer};

fn main() -> ExitCode {
    let args = Args::parse();
    let format = if args.json { Format::Json } else { Format::Human };
    let mut printer = Printer::new(format);
    let done = run(args.command, &mut printer).and_then(|()| printer.finish());
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(text) = failure.text() {
                eprintln!("oncelog: {text}");
            }
            ExitCode::from(failure.code())
        }
    }
}

fn run(command: Command, printer: &mut Printer) -> Outcome {
    match command {
        Command::Stat { dir } => look::stat(&dir, printer),
        Command::Get { dir, scope, raw } => {
            let shown = if raw { look::Shown::Response } else { look::Shown::Fields };
            look::get(&dir, &scope, shown, printer)
        }
        Command::List { dir, filter } => look::list(&dir, &filter, printer),
        Command::Unresolved { dir } => look::unresolved(&dir, printer),
        Command::Verify { dir } => look::verify(&dir, printer),
        Command::CheckClock { dir, ttl } => look::check_clock(&dir, ttl, printer),
        Command::Resolve { orphan, response } => change::resolve(&orphan, &response, printer),
        Command::Release { orphan } => change::release(&orphan, printer),
        Command::Forget { dir, scope, consent } => change::forget(&dir, &scope, &consent, printer),
        Command::ForgetOrganization { dir, organization, consent } => {
            change::forget_organization(&dir, &organization, &consent, printer)
        }
        Command::Backup { dir, to } => copy::backup(&dir, &to, printer),
        Command::Restore { backup, dir, link } => {
            let segments = if link { copy::Segments::Linked } else { copy::Segments::Copied };
            copy::restore(&backup, &dir, segments, printer)
        }
        Command::Bench(work) => bench::bench(&work, printer),
        Command::Completions { shell } => {
            let mut bytes = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "oncelog", &mut bytes);
            printer.raw(&bytes)
        }
        Command::Man { command } => man(command.as_deref(), printer),
    }
}

/// The page of the tool, or of one of its commands, in the language of man(1).
fn man(name: Option<&str>, printer: &mut Printer) -> Outcome {
    let mut command = Args::command();
    command.build();
    let page = match name {
        None => command,
        Some(name) => {
            let found = command.find_subcommand(name).filter(|found| !found.is_hide_set());
            let found =
                found.ok_or_else(|| Failure::Usage(format!("there is no command {name}")))?;
            found.clone().after_help(args::EXIT_CODES)
        }
    };
    let mut bytes = Vec::new();
    clap_mangen::Man::new(page).render(&mut bytes).map_err(Failure::Output)?;
    printer.raw(&bytes)
}
