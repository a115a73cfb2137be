//! Snapshots on real mounts, as users and their tools meet them.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used)] // a test that meets an error is to fail

#[path = "support/rest.rs"]
mod rest;
mod support;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use blobdir::emulator::page_blob::{Action, Config, Operation, Rule, WELL_KNOWN_ACCOUNT};
use blobdir::store::{Change, ErrorKind, RemotePath, Replace};
use tempfile::TempDir;

use support::service::{CONTAINER, Service};
use support::{BLOBDIR, Mount, Output, cannot_mount, not_root, output_within, skip};

/// No command here takes more than a second on a quiet machine.
const LIMIT: Duration = Duration::from_secs(60);
/// A time at which nothing was taken.
const NEVER: &str = "2020-01-01T00:00:00.0000000Z";

fn start(options: &[&str]) -> Option<(Mount, Service)> {
    if let Some(reason) = cannot_mount() {
        skip(reason);
        return None;
    }
    let service = Service::start();
    Some((service.mount(options), service))
}

/// `blobdir snapshot` with these arguments.
fn snapshot(arguments: &[&Path]) -> Output {
    let mut command = Command::new(BLOBDIR);
    command.arg("snapshot").args(arguments);
    output_within(LIMIT, command)
}

/// Takes a snapshot; gives its path.
#[track_caller]
fn take(path: &Path) -> PathBuf {
    let output = snapshot(&[path]);
    assert!(output.success, "{}", output.text);
    PathBuf::from(output.text.strip_suffix('\n').expect("one line"))
}

/// What is printed of the changes between two.
#[track_caller]
fn diff(from: &Path, to: &Path) -> String {
    let output = snapshot(&["--diff".as_ref(), from, to]);
    assert!(output.success, "{}", output.text);
    output.text
}

#[track_caller]
fn refusal(arguments: &[&Path]) -> String {
    let output = snapshot(arguments);
    assert_eq!(output.code, Some(1), "{}", output.text);
    let line = output.text.strip_prefix("blobdir: ").and_then(|text| text.strip_suffix('\n'));
    let line = line.unwrap_or_else(|| panic!("not one line of ours: {:?}", output.text));
    assert!(!line.contains('\n'), "{line:?}");
    line.to_owned()
}

#[track_caller]
fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(name).collect();
    names.sort();
    names
}

/// The requests of each operation that `work` takes.
fn cost<T>(service: &Service, work: impl FnOnce() -> T) -> (T, BTreeMap<&'static str, u64>) {
    let count =
        || -> Vec<u64> { Operation::ALL.iter().map(|op| service.server().requests(*op)).collect() };
    let before = count();
    let result = work();
    let cost = Operation::ALL.iter().zip(count().into_iter().zip(before));
    let cost = cost.filter(|(_, (now, before))| now > before);
    (result, cost.map(|(op, (now, before))| (op.name(), now - before)).collect())
}

#[test]
fn a_snapshot_holds_everything_written_and_is_a_file_like_others() {
    let Some((mount, _service)) = start(&["attr_timeout=0"]) else { return };
    let vm = mount.path().join("vm");
    fs::create_dir(&vm).unwrap();
    let live = vm.join("root.vhd");
    let file = File::create(&live).unwrap();
    file.write_all_at(&[1; 10_000], 0).unwrap();
    file.sync_all().unwrap();
    // Neither of this has left the host, and its length is not that of whole sectors.
    file.write_all_at(&[2; 3000], 9000).unwrap();
    let before = SystemTime::now();
    let taken = take(&live);
    file.write_all_at(&[3; 512], 0).unwrap();
    drop(file);

    let time = taken.ancestors().nth(2).unwrap();
    let snapshots = mount.path().join(".snapshots");
    assert_eq!(taken, time.join("vm/root.vhd"));
    assert_eq!(time.parent(), Some(&*snapshots));
    let mut expected = vec![1; 9000];
    expected.extend([2; 3000]);
    assert!(fs::read(&taken).unwrap() == expected);
    assert_eq!(fs::read(&live).unwrap()[..512], [3; 512]);
    let found = fs::metadata(&taken).unwrap();
    assert_eq!(found.len(), 12_000);
    assert!(found.permissions().readonly());

    // Found by looking, but not by those who look at everything.
    assert_eq!(names(mount.path()), ["vm"]);
    assert_eq!(names(&snapshots), [time.file_name().unwrap().to_str().unwrap()]);
    assert_eq!(names(time), ["vm"]);
    assert_eq!(names(&time.join("vm")), ["root.vhd"]);
    let taken_at = fs::metadata(time).unwrap().modified().unwrap();
    assert!(taken_at >= before - Duration::from_secs(1) && taken_at <= SystemTime::now());

    // Restored by cp.
    copy(&taken, &vm.join("restored"));
    assert!(fs::read(vm.join("restored")).unwrap() == expected);
    mount.unmount();
}

#[test]
fn a_snapshot_is_as_sparse_as_the_file_was_and_restored_inside_the_service() {
    let Some((mount, service)) = start(&["attr_timeout=0"]) else { return };
    let live = mount.path().join("disk");
    let file = File::create(&live).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(&[1; 1 << 20], 16 << 20).unwrap();
    let taken = take(&live);
    file.write_all_at(&[2; 2 << 20], 40 << 20).unwrap();
    drop(file);
    let old = File::open(&taken).unwrap();
    assert_eq!(seek(&old, 0, libc::SEEK_DATA), 16 << 20);
    assert_eq!(seek(&old, 16 << 20, libc::SEEK_HOLE), 17 << 20);
    assert_eq!(seek(&old, 17 << 20, libc::SEEK_HOLE), 17 << 20);
    assert_eq!(old.metadata().unwrap().blocks() * 512, 1 << 20);
    let restored = mount.path().join("restored");
    // By default GNU cp reads the extents of a sparse file itself.
    let (from, to) = (taken.to_str().unwrap(), restored.to_str().unwrap());
    let (_, requests) = cost(&service, || run("cp", &["--sparse=never", from, to]));
    assert_eq!(requests.get("GetBlob"), None, "bytes came here: {requests:?}");
    assert!(requests.contains_key("PutPageFromUrl"), "{requests:?}");
    let new = fs::read(&restored).unwrap();
    assert_eq!(new.len(), 64 << 20);
    assert!(new[16 << 20..17 << 20].iter().all(|byte| *byte == 1));
    assert_eq!(new.iter().filter(|byte| **byte != 0).count(), 1 << 20);
    assert_eq!(fs::metadata(&restored).unwrap().blocks() * 512, 1 << 20);
    drop(old);
    mount.unmount();
}

fn seek(file: &File, at: i64, whence: libc::c_int) -> i64 {
    // SAFETY: no pointers; the file is open.
    unsafe { libc::lseek(file.as_raw_fd(), at, whence) }
}

#[test]
fn what_was_written_through_a_mapping_is_in_the_snapshot() {
    let Some((mount, _service)) = start(&[]) else { return };
    let live = mount.path().join("f");
    fs::write(&live, [1; 8192]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&live).unwrap();
    // SAFETY: a shared mapping, used within its length and until it is unmapped.
    let taken = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let null = std::ptr::null_mut();
        let map = libc::mmap(null, 8192, protection, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(map, libc::MAP_FAILED);
        // A descriptor would be closed by the command's process, and that flushes.
        drop(file);
        map.cast::<u8>().add(5000).write_bytes(7, 100);
        let taken = take(&live);
        libc::munmap(map, 8192);
        taken
    };
    let mut expected = [1; 8192];
    expected[5000..5100].fill(7);
    assert!(fs::read(taken).unwrap() == expected);
    mount.unmount();
}

#[test]
fn nothing_among_snapshots_is_changed_but_by_removing_it() {
    let Some((mount, _service)) = start(&["attr_timeout=0"]) else { return };
    let live = mount.path().join("f");
    fs::write(&live, [1; 512]).unwrap();
    let (first, second, third) = (take(&live), take(&live), take(&live));
    let dir = first.parent().unwrap();
    let snapshots = mount.path().join(".snapshots");
    assert_eq!(names(&snapshots).len(), 3);

    assert_eq!(errno(OpenOptions::new().write(true).open(&first)), libc::EROFS);
    assert_eq!(errno(OpenOptions::new().write(true).truncate(true).open(&first)), libc::EROFS);
    assert_eq!(errno(File::create(dir.join("new"))), libc::EROFS);
    assert_eq!(errno(fs::create_dir(dir.join("new"))), libc::EROFS);
    assert_eq!(errno(fs::rename(&first, mount.path().join("g"))), libc::EROFS);
    fs::write(mount.path().join("h"), "x").unwrap();
    assert_eq!(errno(fs::rename(mount.path().join("h"), dir.join("h"))), libc::EROFS);
    assert_eq!(errno(fs::remove_dir(&snapshots)), libc::EROFS);

    // The live file is neither removed nor renamed while it has any, and nothing is lost by trying.
    assert_eq!(errno(fs::remove_file(&live)), libc::EBUSY);
    let log = mount.log();
    let told = log.lines().filter(|line| line.contains("it has snapshots")).count();
    assert_eq!(told, 1, "{log}");
    assert_eq!(errno(fs::rename(&live, mount.path().join("g"))), libc::EBUSY);
    assert_eq!(names(mount.path()), ["f", "h"]);
    // It is still written, and replaced by another one.
    fs::rename(mount.path().join("h"), &live).unwrap();
    assert_eq!(fs::read(&live).unwrap(), b"x");
    assert_eq!(fs::read(&first).unwrap(), [1; 512]);

    fs::remove_file(&first).unwrap();
    assert_eq!(errno(fs::read(&first)), libc::ENOENT);
    assert_eq!(errno(fs::remove_file(&first)), libc::ENOENT);
    fs::remove_dir(second.parent().unwrap()).unwrap();
    assert_eq!(errno(fs::read(&second)), libc::ENOENT);
    assert_eq!(fs::read(&third).unwrap(), [1; 512]);
    fs::remove_dir_all(third.parent().unwrap()).unwrap();
    assert_eq!(names(&snapshots), [""; 0]);
    fs::remove_file(&live).unwrap();
    mount.unmount();
}

#[test]
fn a_directory_among_snapshots_is_removed_when_it_is_empty() {
    let Some((mount, _service)) = start(&["attr_timeout=0"]) else { return };
    fs::create_dir(mount.path().join("d")).unwrap();
    let live = mount.path().join("d/f");
    fs::write(&live, [1; 512]).unwrap();
    let taken = take(&live);
    assert_eq!(errno(fs::remove_dir(taken.parent().unwrap())), libc::ENOTEMPTY);
    assert_eq!(fs::read(&taken).unwrap(), [1; 512]);
    // What `rm -r` does.
    fs::remove_dir_all(taken.ancestors().nth(2).unwrap()).unwrap();
    assert_eq!(errno(fs::read(&taken)), libc::ENOENT);
    assert_eq!(fs::read(&live).unwrap(), [1; 512]);
    // A time is a directory whether anything was taken then or not; what is no time is not there.
    let snapshots = mount.path().join(".snapshots");
    assert_eq!(names(&snapshots.join(NEVER)), [""; 0]);
    assert_eq!(errno(fs::metadata(snapshots.join("yesterday"))), libc::ENOENT);
    mount.unmount();
}

#[test]
fn the_directory_is_listed_on_request_and_hides_blobs_of_its_name() {
    let Some((mount, service)) = start(&["show_snapshots", "attr_timeout=0"]) else { return };
    let theirs = format!("/{CONTAINER}/.snapshots/{NEVER}/f");
    let headers = [("x-ms-blob-type", "BlockBlob")];
    let status = service.block_on(rest::put(&service.endpoint(), &theirs, "", &headers, b"theirs"));
    assert_eq!(status, 201);
    fs::write(mount.path().join("f"), [1; 512]).unwrap();
    let taken = take(&mount.path().join("f"));
    assert_eq!(names(mount.path()), [".snapshots", ".versions", "f"]);
    let snapshots = mount.path().join(".snapshots");
    assert_eq!(names(&snapshots).len(), 1, "{:?}", names(&snapshots));
    assert_eq!(names(&snapshots.join(NEVER)), [""; 0]);
    assert_eq!(errno(fs::read(snapshots.join(NEVER).join("f"))), libc::ENOENT);
    assert!(mount.log().contains("the directory of snapshots has this name"), "{}", mount.log());
    assert_eq!(fs::read(taken).unwrap(), [1; 512]);
    mount.unmount();
}

#[test]
fn every_kind_of_mount_has_them() {
    let Some((mount, service)) = start(&[]) else { return };
    fs::create_dir_all(mount.path().join("vm/one")).unwrap();
    for name in ["f", "vm/one/disk", "vm/two"] {
        fs::write(mount.path().join(name), name).unwrap();
    }
    let source = |part: &str| format!("az://{WELL_KNOWN_ACCOUNT}{part}");
    let mount_of =
        |part: &str, options: &[&str]| Mount::start(&source(part), options, &service.environment());
    let (account, below) = (mount_of("", &[]), mount_of(&format!("/{CONTAINER}/vm"), &[]));
    let single = mount_of(&format!("/{CONTAINER}/vm/two"), &["show_snapshots"]);

    // Taken anywhere, they are seen everywhere, under the path that the blob has there.
    let of_account = take(&account.path().join(CONTAINER).join("f"));
    let of_prefix = take(&below.path().join("one/disk"));
    let of_single = take(&single.path().join("two"));
    let time = |taken: &Path| {
        let mut parts = taken.components().skip_while(|part| part.as_os_str() != ".snapshots");
        PathBuf::from(parts.nth(1).unwrap().as_os_str())
    };
    let times = [&of_account, &of_prefix, &of_single].map(|taken| time(taken));
    let text = |time: &PathBuf| time.to_str().unwrap().to_owned();
    assert_eq!(
        of_account,
        account.path().join(CONTAINER).join(".snapshots").join(&times[0]).join("f")
    );
    assert_eq!(of_prefix, below.path().join(".snapshots").join(&times[1]).join("one/disk"));
    assert_eq!(of_single, single.path().join(".snapshots").join(&times[2]).join("two"));
    for (tops, listed, blobs) in [
        (account.path().join(CONTAINER), &times[..], ["f", "vm/one/disk", "vm/two"]),
        (mount.path().to_owned(), &times[..], ["f", "vm/one/disk", "vm/two"]),
        (below.path().to_owned(), &times[1..], ["", "one/disk", "two"]),
        (single.path().to_owned(), &times[2..], ["", "", "two"]),
    ] {
        let top = tops.join(".snapshots");
        assert_eq!(names(&top), listed.iter().map(text).collect::<Vec<_>>(), "{top:?}");
        for (time, blob) in times.iter().zip(blobs).filter(|(_, blob)| !blob.is_empty()) {
            let content = fs::read_to_string(top.join(time).join(blob)).unwrap();
            assert!(content.ends_with(blob), "{content:?} of {blob}");
        }
    }
    assert_eq!(names(single.path()), [".snapshots", ".versions", "two"]);
    assert_eq!(
        errno(fs::metadata(single.path().join(".snapshots").join(&times[1]).join("one"))),
        libc::ENOENT
    );
    // A name directly below an account is a container, of snapshots too.
    assert_eq!(errno(fs::metadata(account.path().join(".snapshots"))), libc::ENOENT);
    for mount in [account, below, single, mount] {
        mount.unmount();
    }
}

#[test]
fn a_block_blob_has_snapshots_too() {
    let Some((mount, service)) = start(&[]) else { return };
    let headers = [("x-ms-blob-type", "BlockBlob")];
    let blob = format!("/{CONTAINER}/cat.jpg");
    let put = |bytes: &'static [u8]| {
        service.block_on(rest::put(&service.endpoint(), &blob, "", &headers, bytes))
    };
    assert_eq!(put(b"meow"), 201);
    let live = mount.path().join("cat.jpg");
    let taken = take(&live);
    assert_eq!(put(b"purr"), 201);
    assert_eq!(fs::read(&taken).unwrap(), b"meow");
    let why = refusal(&["--diff".as_ref(), &taken, &live]);
    assert!(why.ends_with("it is no page blob, and only those are compared"), "{why}");
    fs::remove_file(&taken).unwrap();
    fs::remove_file(&live).unwrap();
    mount.unmount();
}

#[test]
fn versions_that_the_account_keeps_are_files_too() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let service = Service::start_with(Config { versioning: true, ..Config::default() });
    let mount = service.mount(&["show_snapshots", "attr_timeout=0"]);
    let put = |name: &str, bytes: &'static [u8]| {
        let headers = [("x-ms-blob-type", "BlockBlob")];
        let path = format!("/{CONTAINER}/{name}");
        let endpoint = service.endpoint();
        let call = rest::put(&endpoint, &path, "", &headers, bytes);
        assert_eq!(service.block_on(call), 201);
    };
    for bytes in [&b"one"[..], b"two!", b"three"] {
        put("photos/cat.jpg", bytes);
    }
    put("other", b"x");
    let versions = mount.path().join(".versions");
    assert_eq!(names(mount.path()), [".snapshots", ".versions", "other", "photos"]);
    let times = names(&versions);
    let older: Vec<_> =
        times.iter().map(|time| versions.join(time).join("photos/cat.jpg")).collect();
    assert_eq!(older.len(), 2, "the blobs themselves are not among them: {times:?}");
    assert_eq!(names(&versions.join(&times[0])), ["photos"]);
    assert_eq!(names(older[0].parent().unwrap()), ["cat.jpg"]);
    assert_eq!(fs::read(&older[0]).unwrap(), b"one");
    assert_eq!(fs::read(&older[1]).unwrap(), b"two!");
    assert_eq!(fs::metadata(&older[1]).unwrap().len(), 4);
    assert_eq!(errno(OpenOptions::new().write(true).open(&older[0])), libc::EROFS);
    assert_eq!(errno(File::create(older[0].with_extension("new"))), libc::EROFS);
    // Snapshots and versions do not stand for each other.
    let taken = take(&mount.path().join("other"));
    let time = taken.parent().unwrap().file_name().unwrap();
    assert_eq!(errno(fs::metadata(versions.join(time).join("other"))), libc::ENOENT);
    let as_snapshot = mount.path().join(".snapshots").join(&times[0]).join("photos/cat.jpg");
    assert_eq!(errno(fs::metadata(as_snapshot)), libc::ENOENT);
    assert_eq!(names(&mount.path().join(".snapshots")), [time.to_str().unwrap()]);
    let why = refusal(&["--diff".as_ref(), &taken, &older[0]]);
    assert!(why.contains("the service compares snapshots alone"), "{why}");

    // What is deleted becomes one, and comes back by cp.
    let live = mount.path().join("photos/cat.jpg");
    fs::remove_file(&live).unwrap();
    assert_eq!(names(&versions).len(), 3);
    let last = versions.join(names(&versions).last().unwrap()).join("photos/cat.jpg");
    assert_eq!(fs::read(&last).unwrap(), b"three");
    fs::create_dir(mount.path().join("photos")).unwrap();
    copy(&last, &live);
    assert_eq!(fs::read(&live).unwrap(), b"three");
    // Each is deleted alone.
    fs::remove_file(&older[0]).unwrap();
    assert_eq!(errno(fs::read(&older[0])), libc::ENOENT);
    fs::remove_dir(versions.join(&times[1])).unwrap();
    assert_eq!(errno(fs::read(&older[1])), libc::ENOENT);
    assert_eq!(fs::read(&last).unwrap(), b"three");
    assert_eq!(fs::read(&live).unwrap(), b"three");
    mount.unmount();
}

#[test]
fn what_was_changed_is_told() {
    let Some((mount, _service)) = start(&[]) else { return };
    let live = mount.path().join("disk");
    let file = File::create(&live).unwrap();
    file.write_all_at(&[1; 1 << 20], 0).unwrap();
    file.set_len((4 << 20) - 100).unwrap();
    let first = take(&live);
    assert_eq!(diff(&first, &live), "");
    file.write_all_at(&[2; 700], 1000).unwrap();
    file.write_all_at(&[3; 300], (4 << 20) - 400).unwrap();
    // SAFETY: no pointers; the file is open.
    let punched = unsafe {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        libc::fallocate(file.as_raw_fd(), mode, 256 << 10, 64 << 10)
    };
    assert_eq!(punched, 0);
    // Dirty bytes are part of it, rounded to sectors and cut at the end of the file.
    let expected = "written 512 2048\ncleared 262144 327680\nwritten 4193792 4194204\n";
    assert_eq!(diff(&first, &live), expected);
    let second = take(&live);
    file.write_all_at(&[4; 512], 0).unwrap();
    assert_eq!(diff(&first, &second), expected);
    assert_eq!(diff(&second, &live), "written 0 512\n");
    let json = snapshot(&["--diff".as_ref(), &first, &second, "--json".as_ref()]);
    let ranges: serde_json::Value = serde_json::from_str(&json.text).unwrap();
    let range = |change: &str, start: u64, end: u64| serde_json::json!({ "change": change, "start": start, "end": end });
    assert_eq!(
        ranges,
        serde_json::json!([
            range("written", 512, 2048),
            range("cleared", 262_144, 327_680),
            range("written", 4_193_792, 4_194_204)
        ])
    );
    drop(file);
    mount.unmount();
}

#[test]
fn what_cannot_be_taken_or_compared_is_one_line() {
    let Some((mount, service)) = start(&[]) else { return };
    let read_only = service.mount(&["ro"]);
    let outside = TempDir::new().unwrap();
    let here = |name: &str| mount.path().join(name);
    fs::create_dir(here("d")).unwrap();
    for name in ["f", "g"] {
        fs::write(here(name), [1; 512]).unwrap();
    }
    fs::write(outside.path().join("f"), "x").unwrap();
    let (old, new) = (take(&here("f")), take(&here("f")));
    let of_g = take(&here("g"));
    let elsewhere = read_only.path().join(old.strip_prefix(mount.path()).unwrap());
    let flag = Path::new("--diff");
    for (arguments, expected) in [
        (&[&*outside.path().join("f")][..], "is in no mount of blobdir"),
        (&[&*here("none")], "No such file or directory"),
        (&[&*here("d")], "is a directory; snapshots are of single files"),
        (&[mount.path()], "is a directory; snapshots are of single files"),
        (
            &[&*old],
            "snapshots are read-only; they are made by 'blobdir snapshot' and deleted by rm",
        ),
        (&[&*read_only.path().join("f")], "the tree is mounted read-only"),
        (&[flag, &here("f"), &here("f")], "it is no snapshot, and the older one must be one"),
        (&[flag, &here("f"), &old], "it is no snapshot, and the older one must be one"),
        (&[flag, &new, &old], "the first is newer than the second; give the older one first"),
        (&[flag, &old, &of_g], "it is another blob; a blob is compared with its snapshots"),
        (&[flag, &old, &here("d")], "is a directory; snapshots are of single files"),
        (
            &[flag, &elsewhere, &here("f")],
            "are in two mounts; a file is compared with its own snapshots",
        ),
    ] {
        let why = refusal(arguments);
        assert!(why.contains(expected), "{arguments:?}: {why}");
    }
    // A blob that was made anew has nothing in common with its old snapshots.
    let store = service.store();
    let path = RemotePath::new("g").unwrap();
    let anew = service.block_on(store.create(&path, Replace::Allowed)).unwrap();
    service.block_on(anew.set_len(512, false)).unwrap();
    let why = refusal(&[flag, &of_g, &here("g")]);
    assert!(why.contains("the blob was replaced as a whole since that snapshot"), "{why}");
    assert_eq!(fs::read(of_g).unwrap(), [1; 512]);
    read_only.unmount();
    mount.unmount();
}

#[test]
fn a_known_time_and_path_is_one_request() {
    let service = Service::start();
    let store = service.store();
    let path = |text: &str| RemotePath::new(text).unwrap();
    service.block_on(async {
        for n in 0..20 {
            let blob = store.create(&path(&format!("vm/disk{n}")), Replace::Refused).await.unwrap();
            blob.set_len(512, false).await.unwrap();
        }
    });
    let taken = service.block_on(store.snapshot(&path("vm/disk7"))).unwrap();
    let (stat, requests) = cost(&service, || service.block_on(store.stat(&taken)));
    assert_eq!(stat.unwrap().len, 512);
    assert_eq!(requests, BTreeMap::from([("GetBlobProperties", 1)]));
    // The directories above cost nothing, and what is below a time no more than whether there is anything.
    let time = taken.parent().parent();
    for (dir, expected) in [(time.parent(), 0), (time, 0), (taken.parent(), 2)] {
        let (stat, requests) = cost(&service, || service.block_on(store.stat(&dir)));
        assert_eq!(stat.unwrap().len, 0);
        assert_eq!(requests.values().sum::<u64>(), expected, "{dir}: {requests:?}");
    }
}

#[test]
fn an_answer_that_is_lost_costs_one_snapshot_more() {
    let service = Service::start();
    let store = service.store();
    let path = RemotePath::new("f").unwrap();
    let times = RemotePath::new(".snapshots").unwrap();
    let blob = service.block_on(store.create(&path, Replace::Refused)).unwrap();
    service.block_on(blob.close()).unwrap();
    let lost = |operation| {
        let rule = Rule::new(operation, Action::Reset { apply: true }).times(1);
        service.server().inject(rule).unwrap();
    };
    lost(Operation::SnapshotBlob);
    let taken = service.block_on(store.snapshot(&path)).unwrap();
    service.block_on(store.stat(&taken)).unwrap();
    let listed = service.block_on(store.list(&times, None)).unwrap().entries;
    assert_eq!(listed.len(), 2);
    // A deletion whose answer is lost has happened once.
    lost(Operation::DeleteBlob);
    service.block_on(store.remove(&taken, None)).unwrap();
    lost(Operation::DeleteBlob);
    let other = listed.iter().map(|entry| times.join(&entry.name).unwrap());
    let other = other.into_iter().find(|time| *time != taken.parent()).unwrap();
    service.block_on(store.remove_dir(&other)).unwrap();
    assert!(service.block_on(store.list(&times, None)).unwrap().entries.is_empty());
    let gone = service.block_on(store.remove(&taken, None)).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    service.block_on(store.remove(&path, None)).unwrap();
}

#[test]
fn a_comparison_that_takes_too_long_is_made_in_parts() {
    let service = Service::start();
    let store = service.store();
    let path = RemotePath::new("f").unwrap();
    let blob = service.block_on(store.create(&path, Replace::Refused)).unwrap();
    service.block_on(blob.set_len(64 << 20, false)).unwrap();
    let taken = service.block_on(store.snapshot(&path)).unwrap();
    for n in 0..16 {
        service.block_on(blob.write_at(n << 22, vec![vec![1; 512].into()])).unwrap();
    }
    let code = Some("OperationTimedOut".to_owned());
    let slow = Action::Status { status: 500, code, apply: false, retry_after: None };
    // Two attempts for each of two windows.
    service.server().inject(Rule::new(Operation::GetPageRanges, slow).times(4)).unwrap();
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = service.block_on(store.changes(&taken, &path, cursor)).unwrap();
        found.extend(page.changes);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let written = |n: u64| Change { range: n << 22..(n << 22) + 512, cleared: false };
    assert_eq!(found, (0..16).map(written).collect::<Vec<_>>());
}

#[test]
fn the_kernels_pages_of_a_snapshot_are_kept() {
    let Some((mount, service)) = start(&["attr_timeout=0"]) else { return };
    let live = mount.path().join("f");
    fs::write(&live, [1; 64 << 10]).unwrap();
    let taken = take(&live);
    assert!(fs::read(&taken).unwrap() == [1; 64 << 10]);
    fs::write(&live, [2; 64 << 10]).unwrap();
    let ((), requests) = cost(&service, || {
        let file = File::open(&taken).unwrap();
        assert_eq!(resident(&file, 64 << 10), 16, "opening dropped the pages");
    });
    assert_eq!(requests.get("GetBlob"), None);
    mount.unmount();
}

/// How many pages of the first `len` bytes the kernel has.
fn resident(file: &File, len: usize) -> usize {
    let mut pages = vec![0u8; len.div_ceil(4096)];
    // SAFETY: the mapping is of an open file and not looked at; the vector has a byte for each page.
    unsafe {
        let null = std::ptr::null_mut();
        let map = libc::mmap(null, len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(map, libc::MAP_FAILED);
        assert_eq!(libc::mincore(map, len, pages.as_mut_ptr()), 0);
        libc::munmap(map, len);
    }
    pages.iter().filter(|page| **page & 1 == 1).count()
}

/// Runs a program that must succeed.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = output_within(LIMIT, command);
    assert!(output.success, "{program} {arguments:?}: {}", output.text);
    output.text.trim().to_owned()
}

/// As users do it; the standard library would give the copy the mode of a snapshot.
#[track_caller]
fn copy(from: &Path, to: &Path) {
    run("cp", &[from.to_str().unwrap(), to.to_str().unwrap()]);
}

/// A loop device with a mounted file system; both end with it.
struct Loop {
    device: String,
    point: TempDir,
}

impl Loop {
    fn over(image: &Path) -> Loop {
        let device = run("losetup", &["--find", "--show", image.to_str().unwrap()]);
        let mounted = Loop { device, point: TempDir::new().unwrap() };
        run("mount", &["-t", "ext4", &mounted.device, mounted.at().to_str().unwrap()]);
        mounted
    }

    fn at(&self) -> &Path {
        self.point.path()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for (program, arguments) in [
            ("umount", &["--quiet", self.at().to_str().unwrap()][..]),
            ("losetup", &["--detach", &self.device]),
        ] {
            let mut command = Command::new(program);
            command.args(arguments);
            let output = output_within(LIMIT, command);
            if !output.success {
                eprintln!("{program}: {}", output.text);
            }
        }
    }
}

#[test]
fn a_file_system_is_restored_from_a_snapshot_taken_while_it_was_mounted() {
    let Some((mount, _service)) = start(&[]) else { return };
    if let Some(reason) = not_root() {
        return skip(reason);
    }
    let image = mount.path().join("disk.img");
    File::create(&image).unwrap().set_len(48 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
    let disk = Loop::over(&image);
    for n in 0..20u8 {
        let mut file = File::create(disk.at().join(format!("file{n}"))).unwrap();
        file.write_all(&vec![n; 100_000]).unwrap();
    }
    // As backups do it: nothing changes while the snapshot is taken.
    run("fsfreeze", &["--freeze", disk.at().to_str().unwrap()]);
    let taken = snapshot(&[&image]);
    run("fsfreeze", &["--unfreeze", disk.at().to_str().unwrap()]);
    assert!(taken.success, "{}", taken.text);
    let frozen = PathBuf::from(taken.text.trim());
    // And as a host that loses power: written, not frozen, and something on its way.
    File::create(disk.at().join("last")).unwrap().write_all(b"last").unwrap();
    run("sync", &["--file-system", disk.at().to_str().unwrap()]);
    fs::write(disk.at().join("later"), vec![9; 200_000]).unwrap();
    let crashed = take(&image);
    for n in 0..20 {
        fs::remove_file(disk.at().join(format!("file{n}"))).unwrap();
    }
    drop(disk);

    let restored = mount.path().join("restored.img");
    copy(&frozen, &restored);
    run("e2fsck", &["-f", "-n", restored.to_str().unwrap()]);
    {
        let disk = Loop::over(&restored);
        for n in 0..20u8 {
            let content = fs::read(disk.at().join(format!("file{n}"))).unwrap();
            assert!(content == vec![n; 100_000]);
        }
        assert!(!disk.at().join("last").exists());
    }
    // Straight from the snapshot too, which is as good as a read-only disk.
    run("e2fsck", &["-f", "-n", frozen.to_str().unwrap()]);

    copy(&crashed, &restored);
    {
        // Mounting replays the journal.
        let disk = Loop::over(&restored);
        assert_eq!(fs::read(disk.at().join("last")).unwrap(), b"last");
        assert!(fs::read(disk.at().join("file7")).unwrap() == vec![7; 100_000]);
    }
    run("e2fsck", &["-f", "-n", restored.to_str().unwrap()]);
    mount.unmount();
}
