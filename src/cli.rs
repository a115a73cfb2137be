//! The command line: what was typed, and one module for each command that carries it out.
//!
//! Only this file uses `clap`. Exit codes: 0, 2 for what was typed wrong, 1 for everything else, and
//! then one line on stderr that names the thing and the remedy.

mod credentials;
#[cfg(feature = "emulator")]
mod demo;
#[cfg(feature = "emulator")]
mod emulator;
mod mount_point;
mod recover;
#[cfg(feature = "emulator")]
mod scratch;
mod serve;
mod snapshot;
mod start;
mod unmount;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
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
    /// Take a snapshot of a file, or tell what has changed since one
    Snapshot(SnapshotArgs),
    /// Put right what a writer has left behind
    Recover(RecoverArgs),
    /// Try it without an account: a built-in server and its mount
    #[cfg(feature = "emulator")]
    Demo(DemoArgs),
    /// Run a built-in server, in the foreground
    #[cfg(feature = "emulator")]
    Emulator(EmulatorArgs),
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

#[derive(Args)]
struct SnapshotArgs {
    /// The file, in a mounted tree; the path of the snapshot is printed
    #[arg(required_unless_present = "diff")]
    path: Option<PathBuf>,
    /// Print which bytes were written or cleared from the snapshot A to B, a later one or the file
    /// itself: a line for each range, with its first byte and the byte after its last
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with = "path")]
    diff: Option<Vec<PathBuf>>,
    /// Print them as JSON
    #[arg(long, requires = "diff")]
    json: bool,
}

#[derive(Args)]
struct RecoverArgs {
    /// Break the lease that a writer holds on the blob PATH of SOURCE; what it has not written is lost
    /// to it
    #[arg(long, num_args = 2, value_names = ["SOURCE", "PATH"], conflicts_with = "file")]
    break_lease: Option<Vec<String>>,
    /// A recovery file to compare with its blob and to apply; without it they are listed
    file: Option<PathBuf>,
    /// Apply it without asking
    #[arg(long, requires = "file")]
    yes: bool,
    /// Mount options that say how to reach it, separated by commas
    #[arg(short = 'o', value_name = "OPTION[=VALUE],...")]
    options: Vec<String>,
}

#[cfg(feature = "emulator")]
#[derive(Args)]
struct DemoArgs {
    /// Where to keep blobs and mount them; a temporary directory if left out
    dir: Option<PathBuf>,
    /// Run COMMAND there, then unmount and exit with its code
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[cfg(feature = "emulator")]
#[derive(Args)]
struct EmulatorArgs {
    #[command(subcommand)]
    service: EmulatedService,
}

#[cfg(feature = "emulator")]
#[derive(Subcommand)]
enum EmulatedService {
    /// Azure page blobs, as the account devstoreaccount1
    PageBlob(PageBlobArgs),
}

#[cfg(feature = "emulator")]
#[derive(Args)]
struct PageBlobArgs {
    /// Where to listen; port 0 takes any that is free
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:10000")]
    listen: std::net::SocketAddr,
    /// Where to keep the blobs; a temporary directory if left out
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Create this container unless it is there (may be given several times)
    #[arg(long = "container", value_name = "NAME")]
    containers: Vec<String>,
    /// Answer every request this much later
    #[arg(long, value_name = "TIME", value_parser = latency)]
    latency: Option<Duration>,
    /// Bytes a second of each connection
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    connection_rate: Option<u64>,
    /// Requests and bytes a second of each blob, as 500req,60MiB
    #[arg(long, value_name = "LIMITS", value_parser = throttle)]
    throttle: Option<config::Throttle>,
    /// Rules that make requests go wrong, as JSON
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// Serve HTTPS with this certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// The private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Keep deleted blobs out of sight, to be undeleted
    #[arg(long)]
    soft_delete: bool,
    /// Also be the Entra ID that gives tokens for it, to an application and to this machine
    #[arg(long)]
    identity: bool,
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
        Command::Snapshot(SnapshotArgs { diff: Some(two), json, .. }) => {
            snapshot::compare(&two[0], &two[1], json)
        }
        Command::Snapshot(SnapshotArgs { path, .. }) => {
            snapshot::take(&path.expect("required without --diff"))
        }
        Command::Recover(RecoverArgs { break_lease: Some(blob), options, .. }) => {
            recover::break_lease(&blob[0], &blob[1], options)
        }
        Command::Recover(RecoverArgs { file: Some(file), yes, options, .. }) => {
            recover::apply(&file, yes, options)
        }
        Command::Recover(RecoverArgs { options, .. }) => recover::list(options),
        #[cfg(feature = "emulator")]
        Command::Demo(args) => demo::demo(args.dir, &args.command),
        #[cfg(feature = "emulator")]
        Command::Emulator(EmulatorArgs { service: EmulatedService::PageBlob(args) }) => {
            emulator::page_blob(emulator::Settings {
                listen: args.listen,
                data: args.data,
                containers: args.containers,
                latency: args.latency.unwrap_or_default(),
                connection_rate: args.connection_rate,
                throttle: args.throttle,
                faults: args.faults,
                tls: args.tls_certificate.zip(args.tls_key),
                soft_delete: args.soft_delete,
                identity: args.identity,
            })
        }
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

#[cfg(feature = "emulator")]
fn latency(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).ok_or_else(|| "expected a time, such as 10ms".to_owned())
}

#[cfg(feature = "emulator")]
fn rate(text: &str) -> Result<u64, String> {
    config::parse_size(text)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "expected bytes a second, such as 60MiB".to_owned())
}

#[cfg(feature = "emulator")]
fn throttle(text: &str) -> Result<config::Throttle, String> {
    config::parse_throttle(text)
        .ok_or_else(|| "expected limits a second, such as 500req,60MiB, 500req or 60MiB".to_owned())
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

/// Writes one line to stderr. A stderr that is gone does not end the process, as it would with the
/// macros of the standard library.
fn complain(line: &str) {
    let line = format!("blobdir: {}\n", line.replace(['\n', '\r'], " "));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Writes text to stdout.
fn print(text: &str) {
    let mut stdout = io::stdout();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}

/// What every command says of a tree that cannot be unmounted because of its users.
fn busy_line(mount_point: &Path) -> String {
    let shown = mount_point.display();
    format!(
        "{shown} is in use, and stays mounted; fuser -vm {shown} or lsof +f -- {shown} tells by whom"
    )
}
