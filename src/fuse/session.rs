//! Mounting: one FUSE session over one tree, served by threads of its own.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
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
        let acl = fuse.acl;
        let session = match mount_with_type(config)? {
            Some(device) => fuser::Session::from_fd(callbacks, device, acl, fuse)
                .inspect_err(|_| detach(&config.mount_point))?,
            None => fuser::Session::new(callbacks, &config.mount_point, &fuse)?,
        };
        let background = session.spawn().inspect_err(|_| detach(&config.mount_point))?;
        if let Err(error) = tune(&config.mount_point) {
            // Only root may; everything works without, sequential reads up to a third slower.
            log::info!(target: "fuse", "kernel readahead left as it is: {error}");
        }
        Ok(Session { background })
    }

    /// Waits until the kernel ends the session, which it does when the tree was unmounted and nobody
    /// is in it any more.
    pub fn wait(self) -> io::Result<()> {
        self.background.join()
    }
}

/// Mounts as root, so that the kernel shows the type `fuse.blobdir`: `fuser` mounts plain `fuse`, by
/// which nobody could tell our mounts from others. `None` if this process may not mount; then `fuser`
/// asks fusermount3, which knows subtypes.
fn mount_with_type(config: &Config) -> io::Result<Option<OwnedFd>> {
    // SAFETY: neither call has arguments or memory effects, and neither fails.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    if user != 0 {
        return Ok(None);
    }
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    let mode = fs::metadata(&config.mount_point)?.mode();
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id={user},group_id={group},default_permissions",
        device.as_raw_fd()
    );
    if config.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = libc::MS_NODEV | libc::MS_NOSUID | libc::MS_NOATIME;
    if config.read_only {
        flags |= libc::MS_RDONLY;
    }
    let source = CString::new(config.label.as_str())?;
    let target = CString::new(config.mount_point.as_os_str().as_bytes())?;
    let data = CString::new(data)?;
    // SAFETY: all are C strings that outlive the call.
    let failed = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            c"fuse.blobdir".as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    };
    if failed == 0 {
        return Ok(Some(device.into()));
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::PermissionDenied => Ok(None),
        _ => Err(error),
    }
}

/// Takes away a mount that nobody will serve.
fn detach(mount_point: &Path) {
    if let Ok(name) = CString::new(mount_point.as_os_str().as_bytes()) {
        // SAFETY: `name` is a C string that outlives the call.
        unsafe { libc::umount2(name.as_ptr(), libc::MNT_DETACH) };
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
