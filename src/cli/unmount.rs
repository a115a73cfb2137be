//! `blobdir unmount`: asks the daemon to write everything and unmount, with a progress bar; without
//! a daemon, the kernel alone.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use crate::control::Client;
use crate::control::mounts::{self, Mount};
use crate::daemon;

/// Unmounts the tree at `dir`.
pub(super) fn unmount(dir: &Path, timeout: Duration) -> Result<u8, Failure> {
    let mount = ours_at(dir)?;
    let (user, _) = daemon::caller();
    match Client::connect(&mount, user) {
        Ok(client) => ask(client, timeout)?,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(Failure::other(format!(
                "{} was mounted by another user, who may unmount it, or root",
                dir.display()
            )));
        }
        Err(_) => by_kernel(dir, &mount)?,
    }
    Ok(0)
}

/// The mount at `dir`, if it is one of ours.
fn ours_at(dir: &Path) -> Result<Mount, Failure> {
    let shown = dir.display();
    let found = mounts::at(&mounts::locate(dir))
        .map_err(|error| Failure::other(format!("/proc/self/mountinfo: {error}")))?;
    match found {
        Some(mount) if mount.is_ours() => Ok(mount),
        Some(mount) => Err(Failure::other(format!(
            "{shown} is a mount of type {}, not of blobdir; use umount {shown}",
            mount.fs_type
        ))),
        None if matches!(dir.try_exists(), Ok(false)) => {
            Err(Failure::other(format!("{shown} does not exist")))
        }
        None => Err(Failure::other(format!("{shown} is not a mount point"))),
    }
}

fn ask(client: Client, timeout: Duration) -> Result<(), Failure> {
    let bar = ProgressBar::no_length().with_style(
        ProgressStyle::with_template(
            "writing {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        )
        .expect("the template is well-formed"),
    );
    // Writers may add to what there is, so the whole is the most that was ever seen.
    let (mut whole, mut before) = (0, 0);
    let outcome = client.unmount(timeout, |dirty| {
        whole += dirty.saturating_sub(before);
        before = dirty;
        bar.set_length(whole);
        bar.set_position(whole - dirty);
    });
    bar.finish_and_clear();
    outcome.map_err(Failure::other)
}

/// Unmounts a tree whose daemon does not listen: it is gone, or has no control socket and will
/// write what is left after this.
fn by_kernel(dir: &Path, mount: &Mount) -> Result<(), Failure> {
    let shown = dir.display();
    let gone =
        std::fs::metadata(&mount.mount_point).is_err_and(|error| mounts::is_dead(error.kind()));
    match mounts::unmount(&mount.mount_point, gone) {
        Ok(()) if gone => {
            super::complain(&format!(
                "the daemon of {shown} was gone; what it had not written before is lost"
            ));
            Ok(())
        }
        Ok(()) => {
            super::complain(&format!(
                "the daemon of {shown} could not be asked; it writes what is left now, and its log \
                 tells how that went"
            ));
            Ok(())
        }
        Err(error) => Err(refused(dir, &error)),
    }
}

fn refused(dir: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::ResourceBusy => Failure::other(super::busy_line(dir)),
        _ => Failure::other(format!("{} cannot be unmounted: {error}", dir.display())),
    }
}
