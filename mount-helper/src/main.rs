//! `mount.blobdir`: what mount(8), fstab and systemd run for `mount -t blobdir`. It translates their
//! arguments, runs `blobdir mount`, and translates its exit code back.
//!
//! Cargo takes no dot in the name of a program, so it is built as `mount-blobdir`, and installed as
//! `/sbin/mount.blobdir`.
//!
//! It depends on the standard library and libc alone, and knows no option of blobdir: what is not
//! mount(8)'s own is passed on, and refused there if need be.

mod args;

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, io};

use args::Request;

/// Exit codes of mount(8).
mod code {
    /// Wrong invocation or permissions.
    pub(crate) const USAGE: u8 = 1;
    /// The system does not let us.
    pub(crate) const SYSTEM: u8 = 2;
    /// The mount failed.
    pub(crate) const FAILURE: u8 = 32;
}

/// Where packages put programs; mount(8) may have cleared `PATH`.
const USUAL_DIRS: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/bin"];

fn main() -> ExitCode {
    ExitCode::from(run().unwrap_or_else(|(code, line)| {
        // The message goes where mount(8) lets its own go.
        eprintln!("mount.blobdir: {line}");
        code
    }))
}

fn run() -> Result<u8, (u8, String)> {
    let request = args::parse(env::args_os().skip(1)).map_err(|line| (code::USAGE, line))?;
    let mut command = Command::new(find_blobdir().ok_or_else(|| {
        let line = "blobdir is neither beside this program nor in PATH; install it".to_owned();
        (code::SYSTEM, line)
    })?);
    command.args(request.arguments());
    if request.verbose {
        println!("mount.blobdir: {command:?}");
    }
    if request.fake {
        return Ok(0);
    }
    if let Some(namespace) = &request.namespace {
        enter(namespace).map_err(|error| {
            let line = format!("namespace {}: {error}", namespace.display());
            (code::SYSTEM, line)
        })?;
    }
    let status =
        command.status().map_err(|error| (code::SYSTEM, format!("cannot run blobdir: {error}")))?;
    Ok(match status.code() {
        Some(0) => 0,
        // Its code for what was typed wrong.
        Some(2) => code::USAGE,
        _ => code::FAILURE,
    })
}

/// `blobdir` beside this program, in `PATH`, or where packages put it.
fn find_blobdir() -> Option<PathBuf> {
    let beside = env::current_exe().ok()?.parent().map(Path::to_path_buf);
    let path = env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(env::split_paths(&path))
        .chain(USUAL_DIRS.map(PathBuf::from))
        .map(|dir| dir.join("blobdir"))
        .find(|program| program.is_file())
}

/// Enters the mount namespace in file `namespace`, so that the mount appears there.
fn enter(namespace: &Path) -> io::Result<()> {
    let file = File::open(namespace)?;
    // SAFETY: the descriptor is open for the call; this process has one thread.
    match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Request {
    /// What `blobdir` is run with.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec!["mount".into()];
        if !self.options.is_empty() {
            arguments.extend(["-o".into(), self.options.clone()]);
        }
        // A source or directory may begin with a dash.
        arguments.extend(["--".into(), self.source.clone(), self.dir.clone()]);
        arguments
    }
}
