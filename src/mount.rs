//! The composition root: the one place where store, data path, vfs and FUSE session meet.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::runtime::Runtime;

use crate::config::MountConfig;
use crate::control::{Changes, mounts};
use crate::fuse::{self, Session};
use crate::io::{Config as IoConfig, Shared};
use crate::store::Cursor;
use crate::vfs::{self, Config as VfsConfig, Keep, Vfs};

/// What a call may take beyond the deadline of its requests, before it is answered whatever they do.
const GRACE: Duration = Duration::from_secs(5);
/// How long giving back the right to write may hold the process up at its end: a few retries.
const RELEASE: Duration = Duration::from_secs(5);
/// Where recovery files are, below the state directory.
pub const KEPT: &str = "kept";
/// How long tasks that still run may hold the process up at its end.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// A mounted tree. All methods may be called from several threads at once.
pub struct Mounted {
    mount_point: PathBuf,
    vfs: Arc<Vfs>,
    /// `None` once dropped.
    runtime: Option<Runtime>,
    life: StopHandle,
    /// Held while it is being unmounted: one at a time.
    ending: Mutex<()>,
}

/// Asks a [`Mounted`] to end, from any thread.
#[derive(Clone, Debug, Default)]
pub struct StopHandle(Arc<(Mutex<Life>, Condvar)>);

#[derive(Clone, Copy, Debug, Default)]
struct Life {
    stop_wanted: bool,
    /// The kernel has ended the session.
    session_ended: bool,
}

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
pub fn start(config: MountConfig) -> Result<Mounted, StartError> {
    let refuse = |what: &str, error: io::Error| StartError(format!("{what}: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("io")
        .enable_all()
        .build()
        .map_err(|error| refuse("cannot start threads", error))?;
    let vfs = runtime.block_on(tree(&config))?;
    let session = Session::mount(
        Arc::clone(&vfs),
        runtime.handle().clone(),
        &fuse::Config {
            mount_point: config.mount_point.clone(),
            label: config.backend.label(),
            read_only: config.read_only,
            allow_other: config.allow_other,
            deadline: config.timeout + GRACE,
        },
    );
    let at = config.mount_point.display();
    let session = session.map_err(|error| refuse(&format!("cannot mount on {at}"), error))?;
    let life = StopHandle::default();
    let ended = life.clone();
    let watch = move || {
        if let Err(error) = session.wait() {
            log::error!(target: "fuse", "the session ended: {error}");
        }
        ended.change(|life| life.session_ended = true);
    };
    let watcher = thread::Builder::new().name("session".to_owned()).spawn(watch);
    watcher.map_err(|error| refuse("cannot start a thread", error))?;
    Ok(Mounted {
        mount_point: config.mount_point,
        vfs,
        runtime: Some(runtime),
        life,
        ending: Mutex::new(()),
    })
}

/// Store, data path and tree, from the bottom up.
async fn tree(config: &MountConfig) -> Result<Arc<Vfs>, StartError> {
    let store = config.backend.connect().await;
    let store = store.map_err(|error| StartError(error.to_string()))?;
    let io = IoConfig {
        cache_size: config.cache_size,
        dirty_limit: config.dirty_limit,
        connections: config.backend.connections(),
        timeout: config.timeout,
    };
    let io = Shared::new(&io, store.capabilities());
    let vfs = VfsConfig {
        read_only: config.read_only,
        uid: config.uid,
        gid: config.gid,
        umask: config.umask,
        attr_timeout: config.attr_timeout,
        keep: (!config.read_only)
            .then(|| Keep { dir: config.state_dir.join(KEPT), source: config.backend.label() }),
    };
    Ok(Arc::new(Vfs::new(store, io, vfs)))
}

impl Mounted {
    /// Blocks until the tree was unmounted from outside or a [`StopHandle`] was used.
    pub fn wait(&self) {
        self.life.wait_until(None, |life| life.stop_wanted || life.session_ended);
    }

    /// Lets [`wait`](Mounted::wait) return.
    pub fn stop_handle(&self) -> StopHandle {
        self.life.clone()
    }

    /// Brings every byte into the service and unmounts, unless the tree is unmounted already; then
    /// it only writes what is left. A second call waits for the first and returns what is true then.
    pub fn unmount(&self, busy: IfBusy, timeout: Duration) -> Result<(), UnmountError> {
        let _one_at_a_time = self.ending.lock();
        let deadline = Instant::now() + timeout;
        let flushed = self.flush_until(deadline);
        if busy == IfBusy::Refuse {
            // Nobody has to go: what could not be written is not given up.
            flushed.clone()?;
        }
        if !self.life.get().session_ended {
            let ended_by = match mounts::unmount(&self.mount_point, false) {
                Ok(()) => deadline,
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => match busy {
                    IfBusy::Refuse => return Err(UnmountError::Busy),
                    IfBusy::Detach => {
                        self.detach()?;
                        // Users who stay would hold the session for as long as they like.
                        Instant::now() + SHUTDOWN
                    }
                },
                Err(error) => return Err(self.failed(&error.to_string())),
            };
            self.life.wait_until(Some(ended_by), |life| life.session_ended);
        }
        // Closing the last handles may have left something to write.
        let flushed = self.flush_until(deadline.max(Instant::now() + SHUTDOWN));
        let flushed = flushed.map_err(|error| self.keep(error));
        self.close();
        flushed
    }

    /// The process ends with something unwritten: it goes to the state directory.
    fn keep(&self, error: UnmountError) -> UnmountError {
        let UnmountError::Failed(line) = error else { return error };
        let (kept, complete) = self.vfs.keep_unflushed(&line);
        UnmountError::Failed(match kept.first() {
            Some(first) if complete => {
                format!("{line}; kept for 'blobdir recover', such as {}", first.display())
            }
            Some(_) => format!("{line}; not all of it could be kept for 'blobdir recover'"),
            None => line,
        })
    }

    /// Lets others write what is still open here; who cannot be told in time waits for the leases to end.
    fn close(&self) {
        if let Some(runtime) = &self.runtime {
            let _timers = runtime.enter();
            let close = tokio::time::timeout(RELEASE, self.vfs.close());
            if runtime.block_on(close).is_err() {
                log::warn!(target: "mount", "leases were not given back in time; they end by themselves");
            }
        }
    }

    fn detach(&self) -> Result<(), UnmountError> {
        log::warn!(target: "fuse", "{} is in use; its users get errors from now on", self.mount_point.display());
        mounts::unmount(&self.mount_point, true).map_err(|error| self.failed(&error.to_string()))
    }

    fn flush_until(&self, deadline: Instant) -> Result<(), UnmountError> {
        let Some(runtime) = &self.runtime else {
            return Ok(());
        };
        let _timers = runtime.enter();
        let flush = tokio::time::timeout_at(deadline.into(), self.vfs.flush_all());
        match runtime.block_on(flush) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.not_written(&error.to_string())),
            Err(_) => Err(self.not_written("the time for it is over")),
        }
    }

    fn not_written(&self, why: &str) -> UnmountError {
        let summary = self.dirty_summary();
        let lost = if summary.is_empty() { "a change of length".to_owned() } else { summary };
        self.failed(&format!("not written to the service: {lost}: {why}"))
    }

    fn failed(&self, why: &str) -> UnmountError {
        UnmountError::Failed(format!("{}: {why}", self.mount_point.display()))
    }

    /// Takes a snapshot of a file, everything written to it included; gives its path. Both paths begin at
    /// the root of the tree.
    ///
    /// Errors: one line for the user.
    pub fn snapshot(&self, path: &str) -> Result<String, String> {
        self.run(self.vfs.snapshot(path))
    }

    /// One page of what has changed from a snapshot of a file to `to`, a later one or the file itself.
    ///
    /// Errors: one line for the user.
    pub fn changes(&self, from: &str, to: &str, cursor: Option<&str>) -> Result<Changes, String> {
        let cursor = cursor.map(|cursor| Cursor(cursor.into()));
        let page = self.run(self.vfs.changes(from, to, cursor))?;
        Ok(Changes {
            ranges: page.changes.into_iter().map(|one| (one.range, one.cleared)).collect(),
            next: page.next.map(|cursor| cursor.0.to_string()),
        })
    }

    /// Waits for a call on the tree.
    fn run<T>(&self, call: impl Future<Output = vfs::Result<T>>) -> Result<T, String> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(call).map_err(|error| error.to_string()),
            None => Err("the tree is unmounted".to_owned()),
        }
    }

    /// Bytes that are not yet in the service. Never blocks.
    pub fn dirty_bytes(&self) -> u64 {
        self.vfs.unconfirmed()
    }

    /// What would be lost if the process ended now, for the user (`12 MiB in 2 files: vm/a, vm/b`);
    /// empty if nothing. Never blocks.
    pub fn dirty_summary(&self) -> String {
        /// Names in the summary, at most.
        const NAMED: usize = 5;
        let unflushed = self.vfs.unflushed();
        if unflushed.is_empty() {
            return String::new();
        }
        let bytes: u64 = unflushed.iter().map(|(_, bytes)| bytes).sum();
        let mut names: Vec<&str> =
            unflushed.iter().take(NAMED).map(|(name, _)| name.as_str()).collect();
        if unflushed.len() > NAMED {
            names.push("…");
        }
        let files = if unflushed.len() == 1 { "file" } else { "files" };
        format!("{} in {} {files}: {}", amount(bytes), unflushed.len(), names.join(", "))
    }
}

/// Bytes for a reader: whole MiB or KiB.
fn amount(bytes: u64) -> String {
    match bytes {
        1_048_576.. => format!("{} MiB", bytes.div_ceil(1 << 20)),
        _ => format!("{} KiB", bytes.div_ceil(1 << 10)),
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(SHUTDOWN);
        }
    }
}

impl fmt::Debug for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mounted").field("mount_point", &self.mount_point).finish_non_exhaustive()
    }
}

impl StopHandle {
    /// Lets [`Mounted::wait`] return; later calls do nothing.
    pub fn stop(&self) {
        self.change(|life| life.stop_wanted = true);
    }

    fn get(&self) -> Life {
        *self.0.0.lock()
    }

    fn change(&self, change: impl FnOnce(&mut Life)) {
        change(&mut self.0.0.lock());
        self.0.1.notify_all();
    }

    fn wait_until(&self, deadline: Option<Instant>, done: impl Fn(&Life) -> bool) {
        let mut life = self.0.0.lock();
        match deadline {
            Some(deadline) => {
                self.0.1.wait_while_until(&mut life, |life| !done(life), deadline);
            }
            None => self.0.1.wait_while(&mut life, |life| !done(life)),
        }
    }
}
