//! The command line of isle.
//!
//! One module per group of commands under `commands`; `args` says what can be typed, `output` how things look, `failure` what an
//! error becomes. Everything goes through the public API of crate `isle`.
//!
//! # Promises
//! * Exit codes: 0 done, 1 failed, 2 the request makes no sense, 3 a person must decide, 4 a guard holds it back.
//! * What a command found goes to stdout, everything else to stderr. With `--json` both are JSON.
//! * A reader that goes away (`isle query … | head`) ends the command quietly.

mod args;
mod bar;
mod commands;
mod config;
mod confirm;
mod db;
mod demo;
mod failure;
mod output;
mod script;
mod spinner;
mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};

use crate::args::Args;
use crate::output::Out;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let json = words.iter().any(|word| word == "--json");
    if let Err(error) = config::load(&words) {
        return failure::report(&error.into(), "", json);
    }
    let parsed = Args::command().try_get_matches_from(&words);
    let parsed = parsed.and_then(|matches| Ok((operation(&matches), Args::from_arg_matches(&matches)?)));
    let (operation, args) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return failure::usage(&error, json),
    };
    log_to_stderr();
    let mut out = Out::new(args.json, args.quiet);
    let result = commands::run(&args, &mut out).and_then(|code| {
        out.flush()?;
        Ok(code)
    });
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) if failure::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // What was found before the failure is still worth reading.
            let _ = out.flush();
            failure::report(&error, &operation, args.json)
        }
    }
}

/// What was asked for, as `backup create`.
fn operation(matches: &ArgMatches) -> String {
    let mut names = Vec::new();
    let mut below = matches.subcommand();
    while let Some((name, matches)) = below {
        names.push(name);
        below = matches.subcommand();
    }
    names.join(" ")
}

/// `ISLE_LOG=isle=debug` shows what happens inside.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ISLE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if let Err(error) = subscriber.try_init() {
        tracing::debug!(%error, "another subscriber is there");
    }
}
