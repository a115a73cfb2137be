//! The command line: what was typed, and one module for each command that carries it out.
//!
//! Only this file uses `clap`. Exit codes: 0, 2 for what was typed wrong, 1 for everything else, and
//! then one line on stderr that names the thing and the remedy.

mod credentials;
mod mount_point;
mod serve;
mod start;
mod unmount;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config;

/// Mounts cloud blobs as ordinary files.
#[derive(Parser)]
#[command(name = "blobdir", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Mount a source at a directory; returns when the tree is usable
    Mount(MountArgs),
    /// Write everything to the service and unmount
    #[command(visible_alias = "umount")]
    Unmount(UnmountArgs),
}

#[derive(Args)]
struct MountArgs {
    /// What to mount; the kinds of source are listed below
    source: String,
    /// The directory to mount it at
    #[arg(value_name = "DIR")]
    mount_point: PathBuf,
    /// Mount options, separated by commas
    #[arg(short = 'o', value_name = "OPTION[=VALUE],...")]
    options: Vec<String>,
    /// Serve in this process instead of a daemon, until Ctrl-C
    #[arg(short, long)]
    foreground: bool,
    /// Append log lines to FILE
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
}

#[derive(Args)]
struct UnmountArgs {
    /// The mounted directory
    #[arg(value_name = "DIR")]
    mount_point: PathBuf,
    /// Give up after this time; the tree stays mounted
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = time)]
    timeout: Duration,
}

/// Runs the command in `args`, the first of which is the program's name. Gives the exit code.
///
/// Must be called before the process has a second thread.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args = match credentials::take_out_of(args.into_iter().collect()) {
        Ok(args) => args,
        Err(failure) => return failure.report(),
    };
    let done = match parse(args) {
        Ok(command) => execute(command),
        Err(error) if error.use_stderr() => Err(Failure::usage(one_line(&error))),
        Err(help) => {
            // A reader that closed the pipe has read enough.
            let _ = help.print();
            Ok(0)
        }
    };
    done.unwrap_or_else(|failure| failure.report())
}

fn parse(args: Vec<OsString>) -> Result<Command, clap::Error> {
    let matches = Cli::command()
        .mut_subcommand("mount", |mount| mount.after_help(config::options_help()))
        .try_get_matches_from(args)?;
    Ok(Cli::from_arg_matches(&matches)?.command)
}

fn execute(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Mount(args) => start::mount(&start::Mount {
            source: args.source,
            mount_point: args.mount_point,
            options: args.options,
            foreground: args.foreground,
            log_file: args.log_file,
        }),
        Command::Unmount(args) => unmount::unmount(&args.mount_point, args.timeout),
    }
}

/// What clap has to say, without the usage text that it appends.
fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing; 'blobdir --help' lists them".to_owned();
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    // Its paragraphs: what is wrong, perhaps a tip, then the usage.
    let said: Vec<String> = text
        .split("\n\n")
        .take_while(|part| !part.starts_with("Usage:") && !part.starts_with("For more"))
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    said.join("; ")
}

fn time(text: &str) -> Result<Duration, String> {
    config::parse_duration(text)
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "expected a time, such as 30, 0.5 or 200ms".to_owned())
}

/// Why a command failed: exit code and line.
struct Failure {
    code: u8,
    line: String,
}

impl Failure {
    /// What was typed makes no sense.
    fn usage(line: impl fmt::Display) -> Failure {
        Failure { code: 2, line: line.to_string() }
    }

    /// What was typed makes sense and cannot be done.
    fn other(line: impl fmt::Display) -> Failure {
        Failure { code: 1, line: line.to_string() }
    }

    fn report(self) -> u8 {
        complain(&self.line);
        self.code
    }
}

/// Writes one line to stderr.
fn complain(line: &str) {
    serve::write_stderr(&format!("blobdir: {}\n", line.replace(['\n', '\r'], " ")));
}

/// What every command says of a tree that cannot be unmounted because of its users.
fn busy_line(mount_point: &Path) -> String {
    let shown = mount_point.display();
    format!(
        "{shown} is in use, and stays mounted; fuser -vm {shown} or lsof +f -- {shown} tells by whom"
    )
}
