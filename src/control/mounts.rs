//! The kernel's table of mounts, and unmounting by the kernel alone, which is all that can be done
//! for a mount whose daemon is gone.

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The type that the kernel shows for our mounts.
pub const FS_TYPE: &str = "fuse.blobdir";

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// `major:minor`; names the mount among all of this kernel as long as it lasts.
    pub device: String,
    /// What of the file system is mounted there: `/`, or a part of it by a bind mount.
    root: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// File system type, with subtype.
    pub fs_type: String,
    /// What is mounted there, as its file system tells.
    pub source: String,
    /// Options of the file system.
    options: String,
}

impl Mount {
    /// Whether it is one of ours.
    pub fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// The user whose daemon serves it.
    pub fn user(&self) -> Option<u32> {
        self.options
            .split(',')
            .find_map(|option| option.strip_prefix("user_id="))
            .and_then(|number| number.parse().ok())
    }
}

/// The uppermost mount at `path`, which must be absolute and without symbolic links.
///
/// Errors: `/proc` cannot be read.
pub fn at(path: &Path) -> io::Result<Option<Mount>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(find(&table, path))
}

/// The mount that a path is in, and the path from the root of its file system. `path` must be absolute,
/// without symbolic links, and there.
///
/// Errors: `/proc` or the path cannot be read.
pub fn holding(path: &Path) -> io::Result<Option<(Mount, PathBuf)>> {
    let device = fs::symlink_metadata(path)?.dev();
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(find_holding(&table, &device, path))
}

/// Where the whole file system of a mount is mounted; the mount itself, but for bind mounts.
///
/// Errors: `/proc` cannot be read.
pub fn whole(mount: &Mount) -> io::Result<Option<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let is_whole = |other: &Mount| other.device == mount.device && other.root == Path::new("/");
    let mut points = all(&table).filter(is_whole).map(|other| other.mount_point);
    Ok(points.find(|point| *point == mount.mount_point).or_else(|| points.next()))
}

/// Whether anything is mounted at `path` or below it.
///
/// Errors: `/proc` cannot be read.
pub fn any_below(path: &Path) -> io::Result<bool> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(all(&table).any(|mount| mount.mount_point.starts_with(path)))
}

/// The absolute path of `dir` without asking the file system that is mounted there, which may not
/// answer. Falls back to the text itself where even its parent cannot be resolved.
pub fn locate(dir: &Path) -> PathBuf {
    let beside = |dir: &Path| {
        let name = dir.file_name()?;
        let parent = match dir.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return None,
        };
        Some(parent.canonicalize().ok()?.join(name))
    };
    let found = beside(dir).filter(|path| matches!(at(path), Ok(Some(_))));
    found
        .or_else(|| dir.canonicalize().ok())
        .or_else(|| beside(dir))
        .unwrap_or_else(|| dir.to_path_buf())
}

/// Whether this is what the kernel says of a tree whose daemon is gone or was cut off.
pub fn is_dead(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted)
}

/// Unmounts by the kernel alone; `lazily` even while the tree is in use, whose users then get errors.
///
/// Errors: `ResourceBusy` if it is in use.
pub fn unmount(path: &Path, lazily: bool) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazily { libc::MNT_DETACH } else { 0 };
    // SAFETY: `name` is a C string that outlives the call.
    if unsafe { libc::umount2(name.as_ptr(), flags) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::PermissionDenied => unmount_by_helper(path, lazily),
        _ => Err(error),
    }
}

/// Users unmount what is theirs through fuse3's helper, which is setuid root.
fn unmount_by_helper(path: &Path, lazily: bool) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u").args(lazily.then_some("-z"));
    let output = command.arg("--").arg(path).stdin(Stdio::null()).output().map_err(|error| {
        io::Error::new(error.kind(), "fusermount3 cannot be run; install the package fuse3")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    Err(if said.ends_with("Device or resource busy") {
        io::ErrorKind::ResourceBusy.into()
    } else {
        io::Error::other(said.replace('\n', " "))
    })
}

fn find(table: &[u8], path: &Path) -> Option<Mount> {
    // A later mount covers an earlier one.
    all(table).filter(|mount| mount.mount_point == path).last()
}

fn find_holding(table: &[u8], device: &str, path: &Path) -> Option<(Mount, PathBuf)> {
    let holds = |mount: &Mount| mount.device == device && path.starts_with(&mount.mount_point);
    let mount = all(table).filter(holds).max_by_key(|mount| mount.mount_point.as_os_str().len())?;
    let below = path.strip_prefix(&mount.mount_point).ok()?;
    let inside = mount.root.join(below);
    let inside = inside.strip_prefix("/").unwrap_or(&inside).to_path_buf();
    Some((mount, inside))
}

fn all(table: &[u8]) -> impl Iterator<Item = Mount> {
    table.split(|byte| *byte == b'\n').filter_map(parse)
}

/// One line, as proc_pid_mountinfo(5) describes it: six fields, optional fields, `-`, three fields.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: Option<&[u8]>| Some(String::from_utf8_lossy(&unescape(field?)).into());
    let device = text(fields.nth(2))?;
    let root = OsString::from_vec(unescape(fields.next()?)).into();
    let mount_point = OsString::from_vec(unescape(fields.next()?)).into();
    fields.find(|field| *field == b"-")?;
    Some(Mount {
        device,
        root,
        mount_point,
        fs_type: text(fields.next())?,
        source: text(fields.next())?,
        options: text(fields.next())?,
    })
}

/// Undoes `\040` and its like, which stand for blanks, line ends and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let byte = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
23 28 0:21 / /proc rw,nosuid,nodev shared:5 - proc proc rw
61 28 0:45 / /mnt/a\\040b rw,nosuid,nodev,relatime shared:7 master:1 - fuse.blobdir az://acct/disks rw,user_id=1000,group_id=0
62 28 0:46 / /mnt/c rw - tmpfs tmpfs rw
63 28 0:47 / /mnt/c ro - fuse.sshfs host:/ ro,user_id=0
64 28 0:48 / /mnt/back\\134slash rw - ext4 /dev/sda1 rw
";

    #[test]
    fn the_table_is_read() {
        let ours = find(TABLE, Path::new("/mnt/a b")).unwrap();
        assert!(ours.is_ours());
        assert_eq!(ours.device, "0:45");
        assert_eq!(ours.source, "az://acct/disks");
        assert_eq!(ours.user(), Some(1000));
        let upper = find(TABLE, Path::new("/mnt/c")).unwrap();
        assert_eq!(upper.fs_type, "fuse.sshfs");
        assert!(!upper.is_ours());
        assert!(all(TABLE).any(|mount| mount.mount_point.starts_with("/mnt")));
        assert!(find(TABLE, Path::new("/mnt/back\\slash")).is_some());
        assert_eq!(find(TABLE, Path::new("/mnt")), None);
    }

    #[test]
    fn a_path_is_in_the_mount_of_its_device() {
        const TABLE: &[u8] = b"\
61 28 0:45 / /mnt rw - fuse.blobdir az://acct/disks rw,user_id=0
62 61 0:46 / /mnt/a rw - tmpfs tmpfs rw
63 28 0:45 /vm/one /srv/one rw - fuse.blobdir az://acct/disks rw,user_id=0
64 61 0:45 /vm /mnt/a/vm rw - fuse.blobdir az://acct/disks rw,user_id=0
";
        let found = |device, path| {
            let (mount, inside) = find_holding(TABLE, device, Path::new(path))?;
            Some((mount.mount_point, inside))
        };
        let expect = |point, inside| Some((PathBuf::from(point), PathBuf::from(inside)));
        assert_eq!(found("0:45", "/mnt/b/c"), expect("/mnt", "b/c"));
        assert_eq!(found("0:45", "/mnt"), expect("/mnt", ""));
        assert_eq!(found("0:45", "/srv/one/root.vhd"), expect("/srv/one", "vm/one/root.vhd"));
        assert_eq!(found("0:45", "/mnt/a/vm/two"), expect("/mnt/a/vm", "vm/two"));
        assert_eq!(found("0:46", "/mnt/a/b"), expect("/mnt/a", "b"));
        assert_eq!(found("0:45", "/srv/two"), None);
    }

    #[test]
    fn the_table_of_this_machine_has_proc() {
        assert_eq!(at(Path::new("/proc")).unwrap().unwrap().fs_type, "proc");
        assert_eq!(at(Path::new("/proc/self")).unwrap(), None);
    }

    #[test]
    fn locating_needs_no_answer_of_the_directory_itself() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(locate(&real.join("link")), real);
        assert_eq!(locate(&real.join("gone")), real.join("gone"));
        assert_eq!(locate(Path::new("/proc")), Path::new("/proc"));
        assert_eq!(locate(Path::new("/proc/.")), Path::new("/proc"));
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_read_or_refused(line: Vec<u8>) {
            let _ = parse(&line);
            let _ = unescape(&line);
        }
    }
}
