//! `blobdir mount`: everything that can be found wrong is found before the fork, so that its message
//! and exit code are those of an ordinary command.

use std::path::{Path, PathBuf};

use super::{Failure, credentials, mount_point, serve};
use crate::config::{MountConfig, MountRequest};
use crate::daemon::{self, Report, Side};
use crate::logging;

/// What was typed.
pub(super) struct Mount {
    pub(super) source: String,
    pub(super) mount_point: PathBuf,
    pub(super) options: Vec<String>,
    pub(super) foreground: bool,
    pub(super) log_file: Option<PathBuf>,
}

/// Mounts, and returns when the tree is usable; in the foreground, when it is not any more.
pub(super) fn mount(typed: &Mount) -> Result<u8, Failure> {
    let caller = daemon::caller();
    let mut config = MountConfig::new(MountRequest {
        source: &credentials::rejoin(&typed.source),
        mount_point: typed.mount_point.clone(),
        options: &typed.options,
        env: &|name| std::env::var(name).ok(),
        caller,
    })
    .map_err(Failure::usage)?;
    config.mount_point =
        mount_point::prepare(&typed.mount_point, super::complain).map_err(Failure::other)?;
    mount_point::check_fuse(caller.0, config.allow_other).map_err(Failure::other)?;
    start_logging(typed.log_file.as_deref())?;
    if typed.foreground {
        return Ok(serve::serve(config, None));
    }
    match daemon::fork() {
        Err(error) => Err(Failure::other(format!("cannot start the daemon: {error}"))),
        Ok(Side::Daemon(readiness)) => Ok(serve::serve(config, Some(readiness))),
        Ok(Side::Launcher(launcher)) => match launcher.wait() {
            Report::Ready => Ok(0),
            Report::Failed(code, line) => Err(Failure { code, line }),
            Report::Died(how) => {
                Err(Failure::other(format!("the daemon ended before the tree was usable ({how})")))
            }
        },
    }
}

fn start_logging(file: Option<&Path>) -> Result<(), Failure> {
    logging::init(file).map_err(|error| {
        let shown = file.unwrap_or(Path::new("the log")).display();
        Failure::other(format!("{shown} cannot be opened for the log: {error}"))
    })
}
