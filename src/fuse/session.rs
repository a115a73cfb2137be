//! Mounting: one FUSE session over one tree, served by threads of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, MountOption, SessionACL};
use tokio::runtime::Handle;

use super::callbacks::Callbacks;
use crate::vfs::Vfs;

/// FUSE threads. Two: one answers while the other copies; more do not help on any machine measured.
const THREADS: usize = 2;
/// What the kernel reads ahead on this mount, in KiB: one request of the largest size.
const READ_AHEAD_KIB: u32 = 1024;

/// How a tree is mounted.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where.
    pub mount_point: PathBuf,
    /// What `mount` and `df` show as the source.
    pub label: String,
    /// The kernel refuses every change.
    pub read_only: bool,
    /// Other users than the one who mounts may enter.
    pub allow_other: bool,
    /// A call that the data path has not ended is answered by then.
    pub deadline: Duration,
}

/// A mounted tree.
#[derive(Debug)]
pub struct Session {
    background: BackgroundSession,
}

impl Session {
    /// Mounts `vfs`. Its slow calls run on `runtime`.
    pub fn mount(vfs: Arc<Vfs>, runtime: Handle, config: &Config) -> io::Result<Session> {
        let mut options = vec![
            MountOption::FSName(config.label.clone()),
            MountOption::Subtype("blobdir".to_owned()),
            MountOption::DefaultPermissions,
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoAtime,
        ];
        if config.read_only {
            options.push(MountOption::RO);
        }
        let mut fuse = fuser::Config::default();
        fuse.mount_options = options;
        fuse.acl = if config.allow_other { SessionACL::All } else { SessionACL::Owner };
        fuse.n_threads = Some(THREADS);
        fuse.clone_fd = true;
        let callbacks = Callbacks::new(vfs, runtime, config.deadline);
        let session = fuser::Session::new(callbacks, &config.mount_point, &fuse)?;
        let background = session.spawn()?;
        if let Err(error) = tune(&config.mount_point) {
            // Only root may; everything works without, sequential reads up to a third slower.
            log::info!(target: "fuse", "kernel readahead left as it is: {error}");
        }
        Ok(Session { background })
    }

    /// Waits until the kernel ends the session.
    pub fn wait(self) -> io::Result<()> {
        self.background.join()
    }
}

/// Sets the kernel's readahead for the mount, and lifts the brake on its dirty pages: a FUSE mount
/// begins with 1 % of the dirty memory, strictly, which halves the speed of cached writes.
fn tune(mount_point: &Path) -> io::Result<()> {
    let device = device_of(mount_point)?;
    let bdi = PathBuf::from("/sys/class/bdi").join(device);
    fs::write(bdi.join("read_ahead_kb"), READ_AHEAD_KIB.to_string())?;
    fs::write(bdi.join("strict_limit"), "0")?;
    fs::write(bdi.join("max_ratio"), "100")
}

/// The device number of a mount as `major:minor`, read without touching the tree.
fn device_of(mount_point: &Path) -> io::Result<String> {
    let wanted = mount_point.canonicalize()?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let found = table.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let (device, _, at) = (fields.next()?, fields.next()?, fields.next()?);
        (unescape(at) == wanted.as_os_str().as_encoded_bytes()).then(|| device.to_owned())
    });
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "not in the table of mounts"))
}

/// A path of the mount table: blanks and the like stand as octal numbers.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut path = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            path.push(byte);
            continue;
        }
        let digits = bytes.by_ref().take(3);
        path.push(digits.fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit & 7)));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn mount_table_paths_are_unescaped() {
        assert_eq!(unescape(r"/mnt/a\040b\134c"), b"/mnt/a b\\c");
    }
}
