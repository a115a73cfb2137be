//! The composition root: the one place where store, data path, vfs and FUSE session meet.

use std::fmt;
use std::time::Duration;

use crate::config::MountConfig;

/// A mounted tree. All methods may be called from several threads at once.
#[derive(Debug)]
pub struct Mounted(());

/// Asks a [`Mounted`] to end, from any thread.
#[derive(Clone, Debug)]
pub struct StopHandle(());

/// What [`Mounted::unmount`] does with a tree that is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IfBusy {
    /// It stays mounted and usable: [`UnmountError::Busy`].
    Refuse,
    /// It is detached; those who use it get errors from then on.
    Detach,
}

/// Why a tree could not be mounted: one line that names the thing and the remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why [`Mounted::unmount`] failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UnmountError {
    /// The tree is in use. All was written, and it is still mounted.
    Busy,
    /// Not every byte is in the service, or the kernel refused: one line for the user.
    Failed(String),
}

/// Mounts the tree; returns when it is usable. Starts threads, so signals must be blocked and the
/// process forked before.
///
/// Errors: the source cannot be used or the tree cannot be mounted; nothing is mounted then.
pub fn start(_config: MountConfig) -> Result<Mounted, StartError> {
    Err(StartError("mounting is not built".to_owned()))
}

impl Mounted {
    /// Blocks until the tree was unmounted from outside or a [`StopHandle`] was used.
    pub fn wait(&self) {}

    /// Lets [`wait`](Mounted::wait) return.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(())
    }

    /// Brings every byte into the service and unmounts, unless the tree is unmounted already; then
    /// it only writes what is left. A second call waits for the first and returns what is true then.
    pub fn unmount(&self, _busy: IfBusy, _timeout: Duration) -> Result<(), UnmountError> {
        Ok(())
    }

    /// Bytes that are not yet in the service. Never blocks.
    pub fn dirty_bytes(&self) -> u64 {
        0
    }

    /// What would be lost if the process ended now, for the user (`12 MiB in 2 files: vm/a, vm/b`);
    /// empty if nothing. Never blocks.
    pub fn dirty_summary(&self) -> String {
        String::new()
    }
}

impl StopHandle {
    /// Lets [`Mounted::wait`] return; later calls do nothing.
    pub fn stop(&self) {}
}
