//! What system calls give on a real mount, where the kernel has a part in it.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/rest.rs"]
mod rest;
mod support;

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use blobdir::emulator::page_blob::Config;

use support::service::{CONTAINER, Service};
use support::{Mount, cannot_mount, skip};

fn start(options: &[&str]) -> Option<(Mount, Service)> {
    if let Some(reason) = cannot_mount() {
        skip(reason);
        return None;
    }
    let service = Service::start();
    Some((service.mount(options), service))
}

#[track_caller]
fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn getxattr(path: &Path, name: &CStr) -> io::Result<String> {
    let path = c_path(path);
    let mut value = [0u8; 1024];
    // SAFETY: both strings end with NUL, and the buffer is as long as is said.
    let len = unsafe {
        libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    match usize::try_from(len) {
        Ok(len) => Ok(String::from_utf8(value[..len].to_vec()).unwrap()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[test]
fn attributes_are_those_of_the_mount_and_the_service() {
    let Some((mount, _service)) = start(&["uid=12", "gid=34", "umask=027"]) else { return };
    let path = mount.path().join("a");
    let before = SystemTime::now() - Duration::from_secs(5);
    fs::write(&path, [7; 1000]).unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (12, 34, 0o640));
    assert_eq!((found.len(), found.nlink()), (1000, 1));
    assert_eq!(found.blocks(), 2, "what takes storage, in sectors");
    assert!(found.modified().unwrap() > before);
    assert_eq!(fs::metadata(mount.path()).unwrap().mode() & 0o7777, 0o750);

    let mode = fs::set_permissions(&path, fs::Permissions::from_mode(0o600));
    assert_eq!(errno(mode), libc::EOPNOTSUPP);
    assert_eq!(errno(std::os::unix::fs::chown(&path, Some(0), None)), libc::EOPNOTSUPP);
    // The same again is no change.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    // Times are taken without effect, so that `cp -p` and `touch` do not fail.
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    drop(file);
    assert!(fs::metadata(&path).unwrap().modified().unwrap() > before);
    mount.unmount();
}

#[test]
fn remote_properties_are_extended_attributes() {
    let Some((mount, _service)) = start(&[]) else { return };
    let path = mount.path().join("a");
    fs::write(&path, [7; 1000]).unwrap();
    assert_eq!(getxattr(&path, c"user.blobdir.blob_type").unwrap(), "PageBlob");
    assert_eq!(getxattr(&path, c"user.blobdir.size").unwrap(), "1024");
    assert!(getxattr(&path, c"user.blobdir.etag").unwrap().starts_with('"'));
    assert_eq!(errno(getxattr(&path, c"user.other")), libc::ENODATA);
    let name = c_path(&path);
    // SAFETY: all strings end with NUL and outlive the call; the value is as long as is said.
    let set = check(unsafe {
        libc::setxattr(name.as_ptr(), c"user.blobdir.etag".as_ptr(), c"x".as_ptr().cast(), 1, 0)
    });
    assert_eq!(errno(set), libc::EOPNOTSUPP);
    mount.unmount();
}

#[test]
fn a_file_system_without_a_quota_has_room() {
    let Some((mount, _service)) = start(&[]) else { return };
    let path = c_path(mount.path());
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with NUL; the structure is written before it is read.
    let found = unsafe {
        check(libc::statvfs(path.as_ptr(), found.as_mut_ptr())).unwrap();
        found.assume_init()
    };
    assert!(found.f_bavail * found.f_frsize > 1 << 50);
    assert_eq!(found.f_namemax, 255);
    let long = mount.path().join("x".repeat(256));
    assert_eq!(errno(File::create(long)), libc::ENAMETOOLONG);
    mount.unmount();
}

#[test]
fn mv_moves_a_directory_by_copying() {
    let Some((mount, _service)) = start(&[]) else { return };
    let at = |name: &str| mount.path().join(name);
    fs::create_dir_all(at("dir/sub")).unwrap();
    fs::write(at("dir/sub/file"), b"content").unwrap();
    assert_eq!(errno(fs::rename(at("dir"), at("new"))), libc::EXDEV);
    let moved = Command::new("mv").arg(at("dir")).arg(at("new")).status().unwrap();
    assert!(moved.success());
    assert_eq!(fs::read(at("new/sub/file")).unwrap(), b"content");
    assert!(!at("dir").exists());
    let (here, exchange) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    fs::write(at("other"), b"").unwrap();
    let (from, to) = (c_path(&at("other")), c_path(&at("new/sub/file")));
    // SAFETY: both paths end with NUL and outlive the call.
    let exchanged =
        check(unsafe { libc::renameat2(here, from.as_ptr(), here, to.as_ptr(), exchange) });
    assert_eq!(errno(exchanged), libc::EINVAL);
    mount.unmount();
}

/// A flat namespace: directories are there when something is below them.
#[test]
fn blobs_of_other_programs_make_directories() {
    let Some((mount, service)) = start(&["attr_timeout=0"]) else { return };
    let endpoint = service.endpoint();
    for name in ["a/b/file", "shadow", "shadow/file"] {
        let headers = [("x-ms-blob-type", "BlockBlob")];
        let path = format!("/{CONTAINER}/{name}");
        let made = service.block_on(rest::put(&endpoint, &path, "", &headers, b"meow"));
        assert_eq!(made, 201, "{name}");
    }
    let at = |name: &str| mount.path().join(name);
    assert!(fs::metadata(at("a")).unwrap().is_dir() && fs::metadata(at("a/b")).unwrap().is_dir());
    assert_eq!(fs::read(at("a/b/file")).unwrap(), b"meow");
    assert!(fs::metadata(at("shadow")).unwrap().is_dir(), "the directory is shown");
    assert_eq!(fs::read(at("shadow/file")).unwrap(), b"meow");
    for _ in 0..2 {
        let mut names: Vec<_> =
            fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a", "shadow"]);
    }
    let log = mount.log();
    let said = log.lines().filter(|line| line.contains("shadow: the blob is not shown")).count();
    assert_eq!(said, 1, "{log}");
    assert_eq!(errno(fs::remove_dir(at("a"))), libc::ENOTEMPTY);
    fs::remove_file(at("a/b/file")).unwrap();
    assert!(!at("a").exists(), "nothing is below it any more");
    mount.unmount();
}

#[test]
fn holes_read_as_zeros_and_take_no_storage() {
    let Some((mount, service)) = start(&[]) else { return };
    let path = mount.path().join("a");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(20 << 30).unwrap();
    file.write_all_at(b"far out", 10 << 30).unwrap();
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), 1);
    let before = service.server().total_requests();
    let mut piece = [1; 4096];
    file.read_exact_at(&mut piece, 5 << 30).unwrap();
    assert_eq!(piece, [0; 4096]);
    assert_eq!(service.server().total_requests(), before, "a hole costs no request");
    drop(file);
    mount.unmount();
}

/// Renaming a file, and opening it for writing, make a new version of its blob. Those who read it know
/// nothing of that.
#[test]
fn reads_go_on_while_the_file_is_renamed_and_opened_for_writing() {
    const LEN: usize = 24 << 20;
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let latency = Duration::from_millis(15);
    let service = Service::start_with(Config { latency, ..Config::default() });
    let mount = service.mount(&["cache_size=16MiB"]);
    let root = mount.path().to_owned();
    let data: Vec<u8> = (0..LEN).map(|at| (at / 4096 % 251) as u8).collect();
    fs::write(root.join("a0"), &data).unwrap();
    let stop = AtomicBool::new(false);
    // Past the kernel's cache.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(root.join("a0"));
    let file = file.unwrap();
    thread::scope(|scope| {
        let readers = (0..2).map(|reader| {
            let (file, data, stop) = (&file, &data, &stop);
            scope.spawn(move || {
                let mut piece = vec![0; 64 << 10];
                let mut at = reader * LEN / 2;
                while !stop.load(Ordering::Relaxed) {
                    file.read_exact_at(&mut piece, at as u64).unwrap();
                    assert!(piece == data[at..at + piece.len()], "at {at}");
                    // One in a row, one here and there.
                    let step = if reader == 0 { piece.len() } else { 5 * piece.len() + 4096 };
                    at = (at + step) % (LEN - piece.len());
                }
            })
        });
        let readers: Vec<_> = readers.collect();
        for round in 0..8 {
            let (from, to) = (format!("a{round}"), format!("a{}", round + 1));
            if round % 2 == 0 {
                let writer = OpenOptions::new().write(true).open(root.join(&from)).unwrap();
                writer.write_all_at(&data[..512], 0).unwrap();
                fs::rename(root.join(&from), root.join(&to)).unwrap();
                writer.write_all_at(&data[4096..8192], 4096).unwrap();
            } else {
                fs::rename(root.join(&from), root.join(&to)).unwrap();
            }
            assert!(readers.iter().all(|reader| !reader.is_finished()), "round {round}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(file);
    mount.unmount();
}
