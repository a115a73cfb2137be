//! Holes and copies on a real mount: what `lseek`, `fallocate`, `stat` and `copy_file_range` give, and what
//! that costs at the service.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use blobdir::emulator::page_blob::Operation;
use support::output_within;
use support::service::{CONTAINER, Service};
use support::{Mount, cannot_mount, not_root, skip};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn start(options: &[&str]) -> Option<(Mount, Service)> {
    if let Some(reason) = cannot_mount() {
        skip(reason);
        return None;
    }
    let service = Service::start();
    Some((service.mount(options), service))
}

fn checked(result: i64) -> io::Result<u64> {
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn seek(file: &File, at: u64, whence: i32) -> io::Result<u64> {
    // SAFETY: no pointers are passed, and the descriptor is open.
    checked(unsafe { libc::lseek(file.as_raw_fd(), at as i64, whence) })
}

fn fallocate(file: &File, mode: i32, at: u64, len: u64) -> io::Result<u64> {
    // SAFETY: as above.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), mode, at as i64, len as i64) };
    checked(done.into())
}

fn copy(from: (&File, u64), to: (&File, u64), len: u64) -> io::Result<u64> {
    let (mut read, mut written) = (from.1 as i64, to.1 as i64);
    let (source, target) = (from.0.as_raw_fd(), to.0.as_raw_fd());
    // SAFETY: both offsets outlive the call, and both descriptors are open.
    let copied = unsafe {
        libc::copy_file_range(source, &raw mut read, target, &raw mut written, len as usize, 0)
    };
    checked(copied as i64)
}

/// The extents that hold data, as `filefrag` would find them.
fn extents(file: &File) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        match seek(file, at, libc::SEEK_DATA) {
            Ok(data) => {
                at = seek(file, data, libc::SEEK_HOLE).unwrap();
                found.push((data, at));
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
                return found;
            }
        }
    }
}

fn create(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = output_within(Duration::from_secs(120), command);
    assert!(output.success, "{program} {arguments:?}: {}", output.text);
    output.text
}

fn noise(len: u64) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u8 | 1
    };
    (0..len).map(|_| next()).collect()
}

/// An image of 1 GiB whose first and last MiB hold data.
fn image(path: &Path) -> File {
    let file = create(path);
    file.set_len(GIB).unwrap();
    file.write_all_at(&noise(MIB), 0).unwrap();
    file.write_all_at(&noise(MIB), GIB - MIB).unwrap();
    file.sync_all().unwrap();
    file
}

#[test]
fn holes_are_found_after_a_remount_and_while_they_change() {
    let Some((mount, service)) = start(&[]) else { return };
    let wanted = [(0, MIB), (GIB - MIB, GIB)];
    let file = image(&mount.path().join("a"));
    assert_eq!(extents(&file), wanted);
    drop(file);
    mount.unmount();

    let mount = service.mount(&[]);
    let path = mount.path().join("a");
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    assert_eq!(extents(&file), wanted);
    assert_eq!(seek(&file, 5, libc::SEEK_HOLE).unwrap(), MIB);
    assert_eq!(file.metadata().unwrap().blocks(), 2 * MIB / 512);
    // What is written and not yet sent counts too.
    file.write_all_at(&[1; 512], GIB / 2).unwrap();
    assert_eq!(extents(&file), [(0, MIB), (GIB / 2, GIB / 2 + 512), (GIB - MIB, GIB)]);
    let before = service.server().requests(Operation::PutPage);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, punch, 4096, GIB).unwrap();
    assert_eq!(file.metadata().unwrap().len(), GIB);
    fallocate(&file, libc::FALLOC_FL_ZERO_RANGE, 0, 2048).unwrap();
    assert_eq!(extents(&file), [(2048, 4096)]);
    file.sync_all().unwrap();
    assert_eq!(extents(&file), [(2048, 4096)]);
    assert_eq!(service.server().requests(Operation::PutPage), before, "zeros are never sent");
    assert_eq!(file.metadata().unwrap().blocks(), 4);
    // Allocation is room for a longer file, not storage.
    fallocate(&file, 0, GIB, GIB).unwrap();
    fallocate(&file, libc::FALLOC_FL_KEEP_SIZE, 2 * GIB, GIB).unwrap();
    assert_eq!((file.metadata().unwrap().len(), file.metadata().unwrap().blocks()), (2 * GIB, 4));
    let collapse = fallocate(&file, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096).unwrap_err();
    assert_eq!(collapse.raw_os_error(), Some(libc::EOPNOTSUPP));
    drop(file);
    mount.unmount();
}

#[test]
fn a_listing_does_not_count_what_every_file_holds_but_du_does() {
    let Some((mount, service)) = start(&[]) else { return };
    for n in 0..30 {
        let file = create(&mount.path().join(format!("{n:02}")));
        file.set_len(16 * MIB).unwrap();
        file.write_all_at(&[1; 4096], MIB).unwrap();
    }
    mount.unmount();
    let mount = service.mount(&[]);
    let asked = || service.server().requests(Operation::GetPageRanges);
    let before = asked();
    let listed = run("ls", &["-ls", mount.path().to_str().unwrap()]);
    assert_eq!(listed.lines().count(), 31);
    assert_eq!(asked(), before, "a listing sends no request for each name");
    // Once for a version of a blob, by whoever asks for that one.
    let one = mount.path().join("07");
    std::thread::sleep(Duration::from_millis(1100));
    let used = || {
        let output = run("du", &["-B1", one.to_str().unwrap()]);
        output.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!((used().as_str(), asked()), ("4096", before + 1));
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!((used().as_str(), asked()), ("4096", before + 1));
    mount.unmount();
}

#[test]
fn a_copy_moves_no_bytes_through_the_host() {
    let Some((mount, service)) = start(&[]) else { return };
    let server = service.server();
    let moved = || server.bytes_in() + server.bytes_out();
    let copies = || server.requests(Operation::PutPageFromUrl);
    let name = |name: &str| mount.path().join(name).to_str().unwrap().to_owned();
    fs::write(name("full"), noise(20 * MIB + 100)).unwrap();
    drop(image(&mount.path().join("sparse")));

    let before = (moved(), copies());
    run("cp", &[&name("full"), &name("full2")]);
    assert_eq!(copies() - before.1, 5, "pieces of 4 MiB");
    assert!(moved() - before.0 < 256 << 10, "{} bytes", moved() - before.0);
    run("cmp", &[&name("full"), &name("full2")]);

    // By default GNU cp reads the extents of a sparse file itself.
    let before = (moved(), copies());
    run("cp", &["--sparse=never", &name("sparse"), &name("sparse2")]);
    assert_eq!(copies() - before.1, 2, "a piece for each extent");
    assert!(moved() - before.0 < 256 << 10, "{} bytes", moved() - before.0);
    let wanted = [(0, MIB), (GIB - MIB, GIB)];
    assert_eq!(extents(&File::open(name("sparse2")).unwrap()), wanted, "holes stay holes");
    run("cmp", &[&name("sparse"), &name("sparse2")]);

    let before = (moved(), copies());
    let (from, to) = (File::open(name("sparse")).unwrap(), create(Path::new(&name("sparse3"))));
    let mut done = 0;
    while done < GIB {
        done += copy((&from, done), (&to, done), GIB - done).unwrap();
    }
    to.sync_all().unwrap();
    assert_eq!(copies() - before.1, 2);
    assert!(moved() - before.0 < 256 << 10, "{} bytes", moved() - before.0);
    assert_eq!(extents(&to), wanted);
    drop((from, to));
    run("cmp", &[&name("sparse"), &name("sparse3")]);
    mount.unmount();
}

#[test]
fn ranges_are_copied_at_any_offset() {
    let Some((mount, service)) = start(&[]) else { return };
    let source = create(&mount.path().join("a"));
    let bytes = noise(3 * MIB + 77);
    // Not sent yet, and part of the copy all the same.
    source.write_all_at(&bytes, 0).unwrap();
    let target = create(&mount.path().join("b"));
    target.write_all_at(&noise(MIB), 0).unwrap();
    let mut model = noise(MIB);
    for (from, at, len) in
        [(0, 512, MIB), (1000, 3560, 2 * MIB), (5, 4096, 9000), (0, 5 * MIB, 4 * MIB)]
    {
        let mut done = 0;
        loop {
            let copied = copy((&source, from + done), (&target, at + done), len - done).unwrap();
            if copied == 0 {
                break;
            }
            done += copied;
        }
        assert_eq!(done, len.min(bytes.len() as u64 - from));
        let (from, at, end) = (from as usize, at as usize, (at + done) as usize);
        model.resize(model.len().max(end), 0);
        model[at..end].copy_from_slice(&bytes[from..from + done as usize]);
        assert!(fs::read(mount.path().join("b")).unwrap() == model);
    }
    assert!(service.server().requests(Operation::PutPageFromUrl) > 2);
    let overlapping = copy((&target, 0), (&target, 1000), 2000).unwrap_err();
    assert_eq!(overlapping.raw_os_error(), Some(libc::EINVAL));
    assert_eq!(copy((&target, 0), (&target, MIB), 4096).unwrap(), 4096);
    model.copy_within(0..4096, MIB as usize);
    drop((source, target));
    mount.unmount();
    let mount = service.mount(&[]);
    assert!(fs::read(mount.path().join("b")).unwrap() == model);
    mount.unmount();
}

#[test]
fn what_the_service_does_not_copy_is_read_and_written() {
    let Some((mount, service)) = start(&[]) else { return };
    let (a, b) = (mount.path().join("a"), mount.path().join("b"));
    fs::write(&a, noise(2 * MIB)).unwrap();
    let rule = br#"[{"operation":"PutPageFromUrl","fault":{"status":{"status":403,"code":"CannotVerifyCopySource","apply":false}}}]"#;
    let (_, rules) = blobdir::emulator::page_blob::parse_faults(rule).unwrap();
    for rule in rules {
        service.server().inject(rule).unwrap();
    }
    run("cp", &[a.to_str().unwrap(), b.to_str().unwrap()]);
    assert!(service.server().requests(Operation::PutPageFromUrl) > 0, "it was tried");
    assert!(fs::read(&b).unwrap() == noise(2 * MIB));
    assert_eq!(mount.log().matches("copied by reading and writing").count(), 1, "{}", mount.log());
    mount.unmount();
}

/// A discard in a file system on a loop device gives storage back to the service.
#[test]
fn trimming_a_file_system_clears_pages() {
    let Some((mount, service)) = start(&[]) else { return };
    if let Some(reason) = not_root() {
        return skip(reason);
    }
    let path = mount.path().join("disk");
    let file = create(&path);
    file.set_len(256 * MIB).unwrap();
    drop(file);
    let name = path.to_str().unwrap();
    run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", name]);
    let inner = tempfile::tempdir().unwrap();
    let at = inner.path().to_str().unwrap();
    run("mount", &["-o", "loop", name, at]);
    fs::write(inner.path().join("big"), noise(64 * MIB)).unwrap();
    run("sync", &["-f", at]);
    let allocated = || {
        let store = service.store();
        let path = blobdir::store::RemotePath::new("disk").unwrap();
        let stat = service.block_on(store.stat(&path)).unwrap();
        service.block_on(store.allocated(&path, &stat)).unwrap().unwrap()
    };
    let full = allocated();
    assert!(full > 60 * MIB, "{full} bytes of {CONTAINER}/disk");
    fs::remove_file(inner.path().join("big")).unwrap();
    run("sync", &["-f", at]);
    run("fstrim", &[at]);
    run("umount", &[at]);
    mount.unmount();
    let trimmed = allocated();
    assert!(trimmed < 16 * MIB, "{trimmed} bytes are left of {full}");
}

#[test]
fn a_blob_of_eight_tebibytes_is_responsive() {
    let Some((mount, service)) = start(&[]) else { return };
    let path = mount.path().join("huge");
    let file = create(&path);
    let len = 8 << 40;
    file.set_len(len).unwrap();
    file.write_all_at(&[7; 1000], len - 1000).unwrap();
    file.write_all_at(&[8; 512], 4 << 40).unwrap();
    file.sync_all().unwrap();
    assert_eq!(extents(&file), [(4 << 40, (4 << 40) + 512), (len - 1024, len)]);
    let too_far = file.write_all_at(&[1], len).unwrap_err();
    assert_eq!(too_far.raw_os_error(), Some(libc::EFBIG));
    drop(file);
    mount.unmount();
    let mount = service.mount(&[]);
    let path = mount.path().join("huge");
    let before = service.server().total_requests();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let found = file.metadata().unwrap();
    assert_eq!((found.len(), found.blocks()), (len, 3));
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, punch, 0, 5 << 40).unwrap();
    let mut piece = [1; 4096];
    file.read_exact_at(&mut piece, 4 << 40).unwrap();
    assert_eq!(piece, [0; 4096]);
    file.sync_all().unwrap();
    assert_eq!(extents(&file), [(len - 1024, len)]);
    let copied = mount.path().join("copied");
    run("cp", &[path.to_str().unwrap(), copied.to_str().unwrap()]);
    assert_eq!(extents(&File::open(&copied).unwrap()), [(len - 1024, len)]);
    let requests = service.server().total_requests() - before;
    assert!(requests < 60, "{requests} requests");
    drop(file);
    mount.unmount();
}
