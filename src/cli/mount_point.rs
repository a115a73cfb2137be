//! What must be true before a tree is mounted at a directory, each with its own message.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::control::mounts::{self, Mount};

/// How many dead mounts of ours, one upon the other, are removed.
const MOST_STALE: usize = 8;

/// Checks `dir` and gives its absolute path. Removes mounts of ours there whose daemon is gone, and
/// says so through `note`.
///
/// Errors: one line with the remedy.
pub(super) fn prepare(dir: &Path, mut note: impl FnMut(&str)) -> Result<PathBuf, String> {
    let shown = dir.display();
    for _ in 0..MOST_STALE {
        match fs::metadata(dir) {
            Ok(found) if found.is_dir() => return refuse_mounted(dir),
            Ok(_) => return Err(format!("{shown} is not a directory")),
            Err(error) => match error.kind() {
                ErrorKind::NotFound => {
                    return Err(format!("{shown} does not exist; create it with mkdir -p {shown}"));
                }
                kind if mounts::is_dead(kind) => remove_stale(dir, &mut note)?,
                _ => return Err(format!("{shown} cannot be used: {error}")),
            },
        }
    }
    Err(format!("{shown} holds mounts whose daemons are gone; remove them with umount -l {shown}"))
}

fn refuse_mounted(dir: &Path) -> Result<PathBuf, String> {
    let cannot = |error: io::Error| format!("{} cannot be used: {error}", dir.display());
    let path = dir.canonicalize().map_err(cannot)?;
    match mounts::at(&path).map_err(cannot)? {
        None => Ok(path),
        Some(Mount { source, fs_type, .. }) => {
            let program = if fs_type == mounts::FS_TYPE { "blobdir unmount" } else { "umount" };
            let shown = dir.display();
            Err(format!(
                "{shown} is already a mount point, of {source} ({fs_type}); choose another \
                 directory, or unmount it first: {program} {shown}"
            ))
        }
    }
}

fn remove_stale(dir: &Path, note: &mut impl FnMut(&str)) -> Result<(), String> {
    let shown = dir.display();
    let path = mounts::locate(dir);
    match mounts::at(&path) {
        Ok(Some(mount)) if mount.is_ours() => {
            mounts::unmount(&path, true).map_err(|error| {
                format!("{shown} is a mount whose daemon is gone, and cannot be unmounted: {error}")
            })?;
            note(&format!(
                "{shown} was still mounted from {} by a daemon that is gone; unmounted it",
                mount.source
            ));
            Ok(())
        }
        _ => Err(format!(
            "{shown} is a mount whose daemon is gone; remove it with fusermount3 -u {shown}, or as \
             root umount -l {shown}"
        )),
    }
}

/// Whether this user can mount FUSE file systems here at all, with `allow_other` if that is wanted.
///
/// Errors: one line with the remedy.
pub(super) fn check_fuse(user: u32, allow_other: bool) -> Result<(), String> {
    check_device(Path::new("/dev/fuse"))?;
    if user == 0 {
        return Ok(());
    }
    if !on_path("fusermount3") {
        return Err("fusermount3 is missing, by which users mount; install the package fuse3, or \
                    mount as root"
            .to_owned());
    }
    if allow_other && !permits_allow_other(Path::new("/etc/fuse.conf")) {
        return Err(
            "option allow_other is not open to users here; add the line user_allow_other to \
             /etc/fuse.conf, or mount as root"
                .to_owned(),
        );
    }
    Ok(())
}

fn check_device(device: &Path) -> Result<(), String> {
    let shown = device.display();
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(format!(
            "{shown} may not be opened by this user; mount as root, or have its mode set to 0666"
        )),
        Err(error) => Err(format!(
            "{shown} cannot be opened ({}); load it with modprobe fuse, or start the container with \
             --device /dev/fuse --cap-add SYS_ADMIN",
            error.kind()
        )),
    }
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

fn permits_allow_other(file: &Path) -> bool {
    fs::read_to_string(file)
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_directory_is_fine_whatever_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        let path = prepare(dir.path(), |_| unreachable!()).unwrap();
        assert_eq!(path, dir.path().canonicalize().unwrap());
    }

    #[test]
    fn each_obstacle_has_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        for (path, part) in [
            (dir.path().join("gone").as_path(), "create it with mkdir -p"),
            (&file, "is not a directory"),
            (&file.join("below"), "cannot be used"),
            (Path::new("/proc"), "already a mount point, of proc (proc)"),
        ] {
            let line = prepare(path, |_| unreachable!()).unwrap_err();
            assert!(line.contains(part), "{line}");
            assert!(line.contains(path.to_str().unwrap()), "{line}");
            assert!(!line.contains('\n'));
        }
    }

    #[test]
    fn the_device_and_the_configuration_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let line = check_device(&dir.path().join("fuse")).unwrap_err();
        assert!(line.contains("modprobe fuse"), "{line}");
        let file = dir.path().join("fuse.conf");
        assert!(!permits_allow_other(&file));
        fs::write(&file, "#user_allow_other\n").unwrap();
        assert!(!permits_allow_other(&file));
        fs::write(&file, "mount_max = 10\n user_allow_other\n").unwrap();
        assert!(permits_allow_other(&file));
    }
}
