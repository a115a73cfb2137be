//! What a user sees when the service fails: real mounts over the emulator, whose faults are ordered and
//! which can be taken away.
//!
//! Nothing may hang: every call here is made in a thread of its own and must be back within a
//! generous limit, and a test that fails ends its daemon, which frees whoever waits for it.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/rest.rs"]
mod rest;
mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::IntoRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use blobdir::emulator::page_blob::{Action, Config, Operation, Rule, Throttle, WELL_KNOWN_ACCOUNT};
use blobdir::store::{Access, ErrorKind, Opened, RemotePath, Replace, read_all};
use bytes::Bytes;
use tempfile::TempDir;

use support::service::{CONTAINER, Service};
use support::{BLOBDIR, Emulator, Mount, account, cannot_mount, output_within, skip, wait_until};

/// Longer than any call may take with [`IMPATIENT`]: its deadline is the timeout and some seconds of
/// grace, and a close does several such things one after the other.
const LIMIT: Duration = Duration::from_secs(40);
/// So that tests of deadlines end soon.
const IMPATIENT: &str = "timeout=2s";
const MIB: usize = 1 << 20;

/// Makes a call that must come back.
#[track_caller]
fn within<T: Send + 'static>(what: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, results) = mpsc::channel();
    thread::spawn(move || sender.send(call()));
    let mut result = None;
    wait_until(LIMIT, || {
        result = results.try_recv().ok();
        result.is_some()
    });
    result.unwrap_or_else(|| panic!("{what} is not back after {LIMIT:?}"))
}

/// The errno of a call that must fail, and come back.
#[track_caller]
fn errno<T: Send + std::fmt::Debug + 'static>(
    what: &str,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> i32 {
    let error = within(what, call).expect_err(what);
    error.raw_os_error().unwrap_or_else(|| panic!("{what}: {error}"))
}

/// The errnos of a service that cannot be reached, or does not answer.
const GONE: [i32; 2] = [libc::EIO, libc::ETIMEDOUT];

#[track_caller]
fn assert_gone<T: Send + std::fmt::Debug + 'static>(
    what: &str,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) {
    let errno = errno(what, call);
    assert!(GONE.contains(&errno), "{what}: {}", io::Error::from_raw_os_error(errno));
}

fn fsync(file: &File) -> impl FnOnce() -> io::Result<()> + Send + 'static {
    let file = file.try_clone().expect("one more descriptor");
    move || file.sync_all()
}

/// close(2), whose error `File` would swallow.
fn close(file: File) -> io::Result<()> {
    let descriptor = file.into_raw_fd();
    // SAFETY: the descriptor was just given up by its only owner.
    match unsafe { libc::close(descriptor) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

fn open_rw(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Writes a file and has it confirmed.
fn put(path: &Path, bytes: &[u8]) {
    create(path).unwrap();
    put_into(path, bytes);
}

/// The same with a file that is there.
fn put_into(path: &Path, bytes: &[u8]) {
    let mut file = open_rw(path).unwrap();
    file.write_all(bytes).unwrap();
    close(file).unwrap();
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| ((at ^ (at >> 9)).wrapping_mul(31).wrapping_add(seed) % 251) as u8).collect()
}

/// What another client of the service reads.
fn elsewhere(service: &Service, name: &str) -> Option<Vec<u8>> {
    let path = RemotePath::new(name).unwrap();
    let store = service.store();
    service.block_on(async {
        loop {
            let blob = match store.open(&path, Access::Read).await {
                Ok(Opened::Read(blob)) => blob,
                Ok(Opened::Update(_)) => panic!("opened for reading"),
                Err(error) if error.kind() == ErrorKind::NotFound => return None,
                Err(error) => panic!("{error}"),
            };
            match read_all(&*blob, 0..blob.len()).await {
                Ok(bytes) => return Some(bytes.to_vec()),
                // It was written between the two.
                Err(error) if error.kind() == ErrorKind::Stale => {}
                Err(error) => panic!("{error}"),
            }
        }
    })
}

/// Another client replaces a blob.
fn replace(service: &Service, name: &str, bytes: &[u8]) {
    let path = RemotePath::new(name).unwrap();
    let store = service.store();
    service.block_on(async {
        let blob = store.create(&path, Replace::Allowed).await.unwrap();
        blob.set_len(bytes.len() as u64, false).await.unwrap();
        for (index, chunk) in bytes.chunks(4 * MIB).enumerate() {
            let mut chunk = chunk.to_vec();
            chunk.resize(chunk.len().next_multiple_of(512), 0);
            let at = (index * 4 * MIB) as u64;
            blob.write_at(at, vec![Bytes::from(chunk)]).await.unwrap();
        }
    });
}

fn rule(fault: Action) -> Rule {
    Rule { operation: None, ..Rule::new(Operation::GetBlob, fault) }
}

fn status(status: u16, apply: bool) -> Action {
    Action::Status { status, code: None, apply, retry_after: None }
}

fn lines<'a>(log: &'a str, parts: &[&str]) -> Vec<&'a str> {
    log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).collect()
}

/// A service and a mount of it; nothing where that cannot be.
fn start(options: &[&str]) -> Option<(Mount, Service)> {
    if let Some(reason) = cannot_mount() {
        skip(reason);
        return None;
    }
    let service = Service::start();
    Some((service.mount(options), service))
}

/// What must end in time while the service is not there. Gives the path of a file that was not made.
fn everything_ends(root: &Path) -> PathBuf {
    let at = |name: &str| root.join(name);
    let name = at("none");
    assert_gone("stat", move || fs::metadata(name));
    let name = at("big");
    assert_gone("open", move || File::open(name));
    let name = at("new");
    assert_gone("create", move || create(&name));
    let name = at("newdir");
    assert_gone("mkdir", move || fs::create_dir(name));
    let name = at("dir");
    assert_gone("readdir", move || {
        fs::read_dir(name)?.collect::<io::Result<Vec<_>>>().map(|entries| entries.len())
    });
    let name = at("dir");
    assert_gone("rmdir", move || fs::remove_dir(name));
    let name = at("big");
    assert_gone("unlink", move || fs::remove_file(name));
    let (from, to) = (at("big"), at("renamed"));
    assert_gone("rename", move || fs::rename(from, to));
    let name = at("big");
    assert_gone("truncate", move || open_rw(&name)?.set_len(5));
    at("new")
}

#[test]
fn a_service_that_goes_away_fails_every_call_in_time_and_the_mount_survives() {
    let Some((mount, mut service)) = start(&[IMPATIENT, "attr_timeout=0"]) else { return };
    let root = mount.path();
    let big = pattern(12 * MIB, 3);
    replace(&service, "big", &big);
    fs::create_dir(root.join("dir")).unwrap();
    let reader = File::open(root.join("big")).unwrap();
    let mut piece = vec![0; 4096];
    reader.read_exact_at(&mut piece, 0).unwrap();

    let mut want = pattern(100_000, 1);
    let file = create(&root.join("a")).unwrap();
    file.write_all_at(&want, 0).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(b"acknowledged, not sent", 50_000).unwrap();
    want[50_000..50_022].copy_from_slice(b"acknowledged, not sent");

    service.go_away();
    assert_gone("fsync", fsync(&file));
    let new = everything_ends(root);
    let handle = reader.try_clone().unwrap();
    assert_gone("read", move || handle.read_at(&mut [0; 4096], 9 << 20));
    // What is in memory is still served, and taken.
    reader.read_exact_at(&mut piece, 0).unwrap();
    assert!(piece == big[..4096]);
    file.write_all_at(b"so is this", 70_000).unwrap();
    want[70_000..70_010].copy_from_slice(b"so is this");
    assert_gone("fsync again", fsync(&file));

    service.come_back();
    within("fsync", fsync(&file)).unwrap();
    assert!(elsewhere(&service, "a").unwrap() == want);
    reader.read_exact_at(&mut piece, 9 << 20).unwrap();
    assert!(piece == big[9 * MIB..][..4096]);
    assert!(!new.exists(), "a file that could not be made was not made later");
    put(&new, b"now it can");
    assert_eq!(fs::read_dir(root).unwrap().count(), 4);
    drop((file, reader));
    mount.unmount();
    assert_eq!(elsewhere(&service, "new").unwrap(), b"now it can");
}

#[test]
fn what_a_close_could_not_send_arrives_when_the_service_is_back() {
    let Some((mount, mut service)) = start(&[IMPATIENT]) else { return };
    let mut file = create(&mount.path().join("a")).unwrap();
    file.write_all(&pattern(10_000, 1)).unwrap();
    service.go_away();
    assert_gone("close", move || close(file));
    let said = || !lines(&mount.log(), &["a: kept in memory and tried again"]).is_empty();
    assert!(wait_until(LIMIT, said), "{}", mount.log());
    service.come_back();
    // Nobody asks for it any more.
    let arrived = || elsewhere(&service, "a") == Some(pattern(10_000, 1));
    assert!(wait_until(LIMIT, arrived), "{}", mount.log());
    mount.unmount();
}

/// A service that takes connections and requests, and never answers.
#[test]
fn a_service_that_hangs_fails_every_call_in_time_and_the_mount_survives() {
    let Some((mount, service)) = start(&[IMPATIENT, "attr_timeout=0"]) else { return };
    let root = mount.path();
    let big = pattern(12 * MIB, 3);
    replace(&service, "big", &big);
    fs::create_dir(root.join("dir")).unwrap();
    let reader = File::open(root.join("big")).unwrap();
    service.server().inject(rule(Action::Stall { apply: false })).unwrap();
    let new = everything_ends(root);
    let handle = reader.try_clone().unwrap();
    assert_gone("read", move || handle.read_at(&mut [0; 4096], 9 << 20));
    service.server().clear_faults();
    let mut piece = vec![0; 4096];
    reader.read_exact_at(&mut piece, 9 << 20).unwrap();
    assert!(piece == big[9 * MIB..][..4096]);
    put(&new, b"now it can");
    drop(reader);
    mount.unmount();
}

/// The same from the outside: a process that does not run is a machine that does not answer.
#[test]
fn a_suspended_server_fails_calls_in_time() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let data = TempDir::new().unwrap();
    let mut emulator = Emulator::start(data.path());
    account::create_container(&emulator.endpoint, CONTAINER);
    let source = format!("az://{WELL_KNOWN_ACCOUNT}/{CONTAINER}");
    let mount = Mount::start(&source, &[IMPATIENT, "attr_timeout=0"], &emulator.environment);
    put(&mount.path().join("a"), b"before");
    emulator.suspend();
    // Not `a`: until its close is through, the mount knows that by itself.
    let name = mount.path().join("never seen");
    assert_gone("stat", move || fs::metadata(name));
    let name = mount.path().join("b");
    assert_gone("create", move || create(&name));
    emulator.resume();
    assert_eq!(fs::read(mount.path().join("a")).unwrap(), b"before");
    mount.unmount();
}

#[test]
fn a_storm_of_503_is_not_seen() {
    let Some((mount, service)) = start(&[]) else { return };
    let data = pattern(3 * MIB + 77, 1);
    service.server().inject(rule(status(503, false)).with_probability(0.3)).unwrap();
    put(&mount.path().join("a"), &data);
    fs::rename(mount.path().join("a"), mount.path().join("b")).unwrap();
    assert!(fs::read(mount.path().join("b")).unwrap() == data);
    service.server().clear_faults();
    assert!(elsewhere(&service, "b").unwrap() == data);
    mount.unmount();
}

/// Nothing late can come down upon newer bytes once the epoch is raised, so it is sent again.
#[test]
fn an_update_that_may_have_been_applied_is_sent_again_in_a_new_epoch() {
    for options in [&[][..], &["lease=none"]] {
        let Some((mount, service)) = start(options) else { return };
        let faults = [
            Action::Reset { apply: false },
            Action::Reset { apply: true },
            status(500, false),
            status(500, true),
        ];
        for (index, fault) in faults.into_iter().enumerate() {
            let name = format!("f{index}");
            let file = changed(&mount, &service, &name, fault);
            within("fsync", fsync(&file)).unwrap();
            within("close", move || close(file)).unwrap();
            assert!(elsewhere(&service, &name).unwrap() == changed_content(), "{name}");
        }
        mount.unmount();
    }
}

#[test]
fn an_update_that_is_never_answered_fails_fsync_in_time_and_the_next_one_makes_it_good() {
    let Some((mount, service)) = start(&[IMPATIENT]) else { return };
    let file = changed(&mount, &service, "a", Action::Stall { apply: true });
    assert_eq!(errno("fsync", fsync(&file)), libc::ETIMEDOUT);
    within("fsync", fsync(&file)).unwrap();
    within("close", move || close(file)).unwrap();
    assert!(elsewhere(&service, "a").unwrap() == changed_content());
    mount.unmount();
}

/// A file that exists, open and changed, whose next update meets `fault`.
fn changed(mount: &Mount, service: &Service, name: &str, fault: Action) -> File {
    let path = mount.path().join(name);
    put(&path, &pattern(4096, 1));
    let file = open_rw(&path).unwrap();
    let blob = format!("{CONTAINER}/{name}");
    service.server().inject(Rule::new(Operation::PutPage, fault).on(blob).times(1)).unwrap();
    file.write_all_at(&pattern(1024, 2), 512).unwrap();
    file
}

/// What it holds then.
fn changed_content() -> Vec<u8> {
    let mut content = pattern(4096, 1);
    content[512..1536].copy_from_slice(&pattern(1024, 2));
    content
}

#[test]
fn answers_that_are_wrong_never_become_wrong_bytes() {
    let Some((mount, service)) = start(&[IMPATIENT]) else { return };
    let data = pattern(3 * MIB, 1);
    for (index, fault) in [
        Action::Truncate { bytes: 100_000 },
        Action::ShortBody { bytes: 1 },
        Action::LongBody { bytes: 512 },
        Action::WrongContentRange { shift: 512 },
        Action::StallBody { bytes: 100_000 },
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("f{index}");
        replace(&service, &name, &data);
        let path = mount.path().join(&name);
        let on = format!("{CONTAINER}/{name}");
        let rule = Rule::new(Operation::GetBlob, fault.clone()).on(on);
        // Once: it is not to be seen.
        service.server().inject(rule.clone().times(1)).unwrap();
        let whole = path.clone();
        assert!(within("read", move || fs::read(whole)).unwrap() == data, "{fault:?} once");
        // For ever: perhaps an error, but never a wrong byte.
        replace(&service, &name, &data);
        service.server().inject(rule).unwrap();
        let file = File::open(&path).unwrap();
        for at in [0, MIB, 5 * MIB / 2] {
            let handle = file.try_clone().unwrap();
            let got = within("read", move || {
                let mut piece = vec![0; 300_000];
                let count = handle.read_at(&mut piece, at as u64)?;
                piece.truncate(count);
                io::Result::Ok(piece)
            });
            match got {
                Ok(got) => assert!(got == data[at..at + got.len()], "{fault:?} gave wrong bytes"),
                Err(error) => assert!(GONE.contains(&error.raw_os_error().unwrap()), "{error}"),
            }
        }
        service.server().clear_faults();
        let whole = path.clone();
        assert!(within("read", move || fs::read(whole)).unwrap() == data, "{fault:?} is over");
    }
    mount.unmount();
}

#[test]
fn a_reader_of_a_blob_that_is_replaced_or_removed_gets_estale() {
    let Some((mount, service)) = start(&["attr_timeout=0"]) else { return };
    for removed in [false, true] {
        let name = if removed { "removed" } else { "replaced" };
        let path = mount.path().join(name);
        let (old, new) = (pattern(12 * MIB, 1), pattern(12 * MIB, 2));
        replace(&service, name, &old);
        let reader = File::open(&path).unwrap();
        let mut piece = vec![0; 4096];
        reader.read_exact_at(&mut piece, 0).unwrap();
        assert!(piece == old[..4096]);
        if removed {
            let store = service.store();
            let name = RemotePath::new(name).unwrap();
            service.block_on(store.remove(&name, None)).unwrap();
        } else {
            replace(&service, name, &new);
        }
        let handle = reader.try_clone().unwrap();
        let read = move || handle.read_at(&mut [0; 4096], 9 << 20);
        assert_eq!(errno("read", read), libc::ESTALE, "{name}");
        reader.read_exact_at(&mut piece, 0).unwrap();
        assert!(piece == old[..4096], "what was read before stays true");
        if removed {
            assert_eq!(errno("open", move || File::open(path)), libc::ENOENT);
        } else {
            assert!(fs::read(path).unwrap() == new, "who opens it anew reads the new one");
        }
    }
    mount.unmount();
}

#[test]
fn a_writer_of_a_blob_that_is_removed_is_told() {
    // With a lease nobody else could remove it.
    let options = [IMPATIENT, "attr_timeout=0", "lease=none"];
    let Some((mount, service)) = start(&options) else { return };
    let path = mount.path().join("a");
    let mut file = create(&path).unwrap();
    file.write_all(&pattern(5000, 1)).unwrap();
    file.sync_all().unwrap();
    let name = RemotePath::new("a").unwrap();
    let store = service.store();
    service.block_on(store.remove(&name, None)).unwrap();
    file.write_all(b"to nowhere").unwrap();
    assert_eq!(errno("fsync", fsync(&file)), libc::ESTALE);
    assert_eq!(errno("close", move || close(file)), libc::ESTALE);
    // It is given up, and the name is free.
    // The last of the close comes behind its answer.
    assert!(wait_until(LIMIT, || create(&path).is_ok()), "{}", mount.log());
    put_into(&path, b"anew");
    assert_eq!(elsewhere(&service, "a").unwrap(), b"anew");
    mount.unmount();
}

#[test]
fn blobs_that_are_not_page_blobs_are_read_only() {
    let Some((mount, service)) = start(&[]) else { return };
    for (name, kind) in [("block", "BlockBlob"), ("append", "AppendBlob")] {
        let headers = [("x-ms-blob-type", kind)];
        let body = if kind == "BlockBlob" { &b"meow"[..] } else { b"" };
        let path = format!("/{CONTAINER}/{name}");
        let endpoint = service.endpoint();
        let made = service.block_on(rest::put(&endpoint, &path, "", &headers, body));
        assert_eq!(made, 201);
        let path = mount.path().join(name);
        assert!(fs::metadata(&path).unwrap().permissions().readonly());
        assert_eq!(fs::read(&path).unwrap(), body);
        let other = path.clone();
        assert_eq!(errno("open", move || open_rw(&other)), libc::EROFS, "{name}");
        let said = format!("{name} blob");
        assert_eq!(lines(&mount.log(), &[name, &said]).len(), 1, "{}", mount.log());
        // Names are not content.
        let other = mount.path().join("other");
        fs::rename(&path, &other).unwrap();
        assert_eq!(fs::read(&other).unwrap(), body);
        fs::remove_file(&other).unwrap();
        assert_eq!(elsewhere(&service, "other"), None);
        assert_eq!(elsewhere(&service, name), None);
    }
    mount.unmount();
}

#[test]
fn a_mount_that_is_read_only_refuses_every_change() {
    let Some((mount, service)) = start(&["ro"]) else { return };
    replace(&service, "a", b"content");
    let path = mount.path().join("a");
    assert_eq!(fs::read(&path).unwrap(), b"content");
    let at = |name: &str| mount.path().join(name);
    let (a, b) = (at("a"), at("b"));
    assert_eq!(errno("open", move || open_rw(&a)), libc::EROFS);
    assert_eq!(errno("create", move || create(&b)), libc::EROFS);
    let (a, b) = (at("a"), at("b"));
    assert_eq!(errno("rename", move || fs::rename(a, b)), libc::EROFS);
    let (a, d) = (at("a"), at("d"));
    assert_eq!(errno("unlink", move || fs::remove_file(a)), libc::EROFS);
    assert_eq!(errno("mkdir", move || fs::create_dir(d)), libc::EROFS);
    mount.unmount();
    assert_eq!(elsewhere(&service, "a").unwrap(), b"content");
}

/// Mounts the container, or something in it, with a signature that allows this much.
fn mount_with(service: &Service, path: &str, permissions: &str) -> Mount {
    let source = format!("az://{WELL_KNOWN_ACCOUNT}/{CONTAINER}{path}");
    let token = rest::signature(&format!("/{CONTAINER}"), permissions);
    let environment = [("AZURE_STORAGE_SAS_TOKEN".to_owned(), token)];
    let endpoint = format!("endpoint={}", service.endpoint());
    Mount::start(&source, &[&endpoint, IMPATIENT], &environment)
}

#[test]
fn what_a_signature_does_not_allow_is_eacces() {
    let Some((mount, service)) = start(&[]) else { return };
    mount.unmount();
    replace(&service, "a", &pattern(5000, 1));

    let mount = mount_with(&service, "", "rl");
    let path = mount.path().join("a");
    assert!(fs::read(&path).unwrap() == pattern(5000, 1));
    let b = mount.path().join("b");
    assert_eq!(errno("create", move || create(&b)), libc::EACCES);
    let d = mount.path().join("d");
    assert_eq!(errno("mkdir", move || fs::create_dir(d)), libc::EACCES);
    let a = path.clone();
    assert_eq!(errno("unlink", move || fs::remove_file(a)), libc::EACCES);
    let (a, b) = (path.clone(), mount.path().join("b"));
    assert_eq!(errno("rename", move || fs::rename(a, b)), libc::EACCES);
    let a = path.clone();
    assert_eq!(errno("open", move || open_rw(&a)), libc::EACCES);
    assert_eq!(elsewhere(&service, "a").unwrap(), pattern(5000, 1));
    let log = mount.log();
    assert!(!log.contains("sig="), "no signature in the log: {log}");
    mount.unmount();

    // One blob can be mounted by who may read it and nothing else.
    let mount = mount_with(&service, "/a", "r");
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 1);
    assert!(fs::read(mount.path().join("a")).unwrap() == pattern(5000, 1));
    mount.unmount();
}

#[test]
fn a_lease_of_somebody_else_is_ebusy() {
    let Some((mount, service)) = start(&[IMPATIENT]) else { return };
    let path = mount.path().join("a");
    put(&path, &pattern(5000, 1));
    let (endpoint, at) = (service.endpoint(), format!("/{CONTAINER}/a"));
    let lease = |headers: &[(&str, &str)]| {
        service.block_on(rest::put(&endpoint, &at, "comp=lease", headers, b""))
    };
    let taken = [("x-ms-lease-action", "acquire"), ("x-ms-lease-duration", "-1")];
    // Ours is given back behind the last close.
    assert!(wait_until(LIMIT, || lease(&taken) == 201));
    let other = path.clone();
    assert_eq!(errno("open", move || open_rw(&other)), libc::EBUSY);
    assert!(fs::read(&path).unwrap() == pattern(5000, 1), "readers are not disturbed");
    let other = path.clone();
    assert_eq!(errno("unlink", move || fs::remove_file(other)), libc::EBUSY);
    let broken = [("x-ms-lease-action", "break"), ("x-ms-lease-break-period", "0")];
    assert_eq!(lease(&broken), 202);
    let file = open_rw(&path).unwrap();
    file.write_all_at(b"waits", 0).unwrap();
    within("close", move || close(file)).unwrap();
    assert_eq!(elsewhere(&service, "a").unwrap()[..5], *b"waits");
    mount.unmount();
}

#[test]
fn an_unmount_without_the_service_says_what_is_not_written() {
    let state_dir = TempDir::new().unwrap();
    let state = format!("state_dir={}", state_dir.path().display());
    let Some((mut mount, mut service)) = start(&[IMPATIENT, &state]) else { return };
    let mut file = create(&mount.path().join("a")).unwrap();
    file.write_all(&pattern(10_000, 1)).unwrap();
    service.go_away();
    assert_gone("close", move || close(file));

    let output = mount.try_unmount(&["--timeout", "8s"]);
    assert_eq!(output.code, Some(1), "{}", output.text);
    let said = lines(&output.text, &["not written to the service", "in 1 file: a"]);
    assert_eq!(said.len(), 1, "{}", output.text);
    assert!(mount.is_there(), "it stays, so that nothing is lost yet");
    assert!(!mount.process().has_ended());

    // Who insists gets an end, within a bounded time.
    mount.process().terminate();
    assert!(wait_until(LIMIT, || mount.process().has_ended()), "{}", mount.log());
    assert_eq!(mount.process().exit_code(), Some(1));
    assert!(!mount.is_there());
    let log = mount.log();
    assert!(!lines(&log, &["not written to the service", "in 1 file: a"]).is_empty(), "{log}");

    // And what was not written is there, for when the service is.
    service.come_back();
    let recover = |arguments: &[&str]| {
        let mut command = Command::new(BLOBDIR);
        command.arg("recover").args(arguments).args(["-o", &state]);
        command.envs(service.environment());
        output_within(LIMIT, command)
    };
    let listed = recover(&[]);
    assert!(listed.success && listed.text.contains(" a: 10240 bytes not written"), "{listed:?}");
    let kept = listed.text.lines().next().expect("a name").to_owned();
    let shown = recover(&[&kept]);
    assert!(!shown.success && shown.text.contains("0 to 10000"), "{shown:?}");
    assert_eq!(elsewhere(&service, "a"), Some(Vec::new()), "nothing without a yes");
    let applied = recover(&[&kept, "--yes"]);
    assert!(applied.success && applied.text.contains("a: written"), "{applied:?}");
    assert!(elsewhere(&service, "a").unwrap() == pattern(10_000, 1));
    assert!(recover(&[]).text.contains("nothing is kept"));
}

#[test]
fn sigterm_writes_everything_and_unmounts() {
    let Some((mut mount, service)) = start(&[]) else { return };
    let mut open = create(&mount.path().join("open")).unwrap();
    open.write_all(&pattern(10_000, 1)).unwrap();
    mount.process().terminate();
    let written = || elsewhere(&service, "open") == Some(pattern(10_000, 1));
    assert!(wait_until(LIMIT, written), "{}", mount.log());
    assert!(wait_until(LIMIT, || !mount.is_there()), "{}", mount.log());
    drop(open);
    assert!(wait_until(LIMIT, || mount.process().has_ended()), "{}", mount.log());
    assert_eq!(mount.process().exit_code(), Some(0), "{}", mount.log());
}

/// The process's resident memory, in bytes.
fn resident(process: u32) -> usize {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}

#[test]
fn a_writer_waits_for_a_slow_service_and_memory_stays_bounded() {
    const TOTAL: usize = 96 * MIB;
    const DIRTY: usize = 8 * MIB;
    const CACHE: usize = 16 * MIB;
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let throttle = Some(Throttle { requests: 500.0, bytes: 24e6 });
    let service = Service::start_with(Config { throttle, ..Config::default() });
    let mount = service.mount(&["dirty_limit=8MiB", "cache_size=16MiB"]);
    let process = mount.pid();
    let mut file = create(&mount.path().join("a")).unwrap();
    let piece = pattern(MIB, 1);
    let mut peak = 0;
    for count in 1..=TOTAL / MIB {
        file.write_all(&piece).unwrap();
        peak = peak.max(resident(process));
        // Whatever was taken and is not in the daemon's budget has been sent.
        let sent = service.server().bytes_in() as usize;
        assert!(count * MIB <= sent + DIRTY + 2 * MIB, "{count} MiB taken, {sent} bytes sent");
    }
    within("close", move || close(file)).unwrap();
    peak = peak.max(resident(process));
    assert!(service.server().throttled() > 0, "it was not slow");
    assert!(peak <= CACHE + DIRTY + 64 * MIB, "{} MiB", peak / MIB);
    let theirs = elsewhere(&service, "a").unwrap();
    assert!(theirs.len() == TOTAL && theirs.chunks(MIB).all(|chunk| chunk == piece));
    mount.unmount();
}

#[test]
fn a_writer_without_room_is_told_and_may_go_on_later() {
    let Some((mount, mut service)) = start(&[IMPATIENT, "dirty_limit=4MiB"]) else { return };
    let file = create(&mount.path().join("a")).unwrap();
    service.go_away();
    let writer = file.try_clone().unwrap();
    let piece = pattern(MIB, 1);
    let (taken, errno) = within("writing", move || {
        for count in 0..64 {
            if let Err(error) = writer.write_all_at(&piece, (count * MIB) as u64) {
                return (count, error.raw_os_error());
            }
        }
        (64, None)
    });
    assert_eq!(errno, Some(libc::ETIMEDOUT), "after {taken} MiB");
    assert!((1..=6).contains(&taken), "{taken} MiB were taken with room for 4");
    service.come_back();
    within("fsync", fsync(&file)).unwrap();
    file.write_all_at(b"goes on", (taken * MIB) as u64).unwrap();
    within("close", move || close(file)).unwrap();
    let theirs = elsewhere(&service, "a").unwrap();
    assert_eq!(theirs.len(), taken * MIB + 7);
    assert!(theirs[..taken * MIB].chunks(MIB).all(|chunk| chunk == pattern(MIB, 1)));
    mount.unmount();
}

/// A mount command must not wait for a service that does not answer.
#[test]
fn mounting_a_service_that_hangs_fails_in_time() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let service = Service::start();
    service.server().inject(rule(Action::Stall { apply: false })).unwrap();
    let dir = TempDir::new().unwrap();
    let mut command = std::process::Command::new(support::BLOBDIR);
    let source = format!("az://{WELL_KNOWN_ACCOUNT}/{CONTAINER}");
    command.arg("mount").arg(source).arg(dir.path()).args(["-o", IMPATIENT]);
    command.envs(service.environment());
    let output = output_within(LIMIT, command);
    assert_eq!(output.code, Some(1), "{}", output.text);
    assert_eq!(output.text.lines().count(), 1, "{}", output.text);
    assert!(output.text.contains("no answer"), "{}", output.text);
}
