//! Odd names, odd sources and large blobs on real mounts: names that are hard to write, names that no file
//! can have, one blob by a signed URL, a prefix as the root, deleted blobs, and 8 TiB used from all sides.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/rest.rs"]
mod rest;
mod support;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use blobdir::backend::{SourceRequest, scheme_of};
use blobdir::emulator::page_blob::{Config, Operation};
use blobdir::store::RemotePath;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use support::service::{CONTAINER, Service};
use support::{Mount, cannot_mount, skip};

fn start(config: Config) -> Option<Service> {
    if let Some(reason) = cannot_mount() {
        skip(reason);
        return None;
    }
    Some(Service::start_with(config))
}

/// Makes a blob of any name the service takes, as another program would; `path` is encoded already.
fn put(service: &Service, path: &str, kind: &str, body: &[u8]) {
    let path = format!("/{CONTAINER}/{path}");
    let size = ("x-ms-blob-content-length", "512");
    let headers = [("x-ms-blob-type", kind), size];
    let headers = if kind == "PageBlob" { &headers[..] } else { &headers[..1] };
    let status = service.block_on(rest::put(&service.endpoint(), &path, "", headers, body));
    assert_eq!(status, 201, "{path}");
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.expect_err("it should fail").raw_os_error().unwrap()
}

#[test]
fn names_that_no_file_can_have_are_passed_over_told_and_counted() {
    let Some(service) = start(Config::default()) else { return };
    let long = "l".repeat(256);
    for path in [
        "dir//deep",
        "dir//deeper",
        "/top",
        "dir/../up",
        "dir/./here",
        &format!("dir/{long}"),
        &format!("{long}/inside"),
        "dir/shown",
        "marked/",
        "filled/",
        "both",
        "both/below",
    ] {
        put(&service, path, "BlockBlob", if path == "marked/" { b"" } else { b"x" });
    }
    let mount = service.mount(&[]);
    // Twice: what was met again is not counted again.
    for _ in 0..2 {
        assert_eq!(names(mount.path()), ["both", "dir", "filled", "marked"]);
        assert_eq!(names(&mount.path().join("dir")), ["shown"]);
        assert_eq!(names(&mount.path().join("filled")), [""; 0]);
        assert_eq!(names(&mount.path().join("marked")), [""; 0]);
        assert_eq!(names(&mount.path().join("both")), ["below"]);
    }
    let log = mount.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("are not shown")).collect();
    for why in ["empty path", ". or ..", "more than 255 bytes", "a slash at the end"] {
        let lines = told.iter().filter(|line| line.contains(why)).count();
        assert_eq!(lines, 1, "{why}: {told:?}");
    }
    assert_eq!(told.len(), 4, "{told:?}");
    // They hold up nothing beside them, and are not removed by mistake.
    assert_eq!(fs::read(mount.path().join("dir/shown")).unwrap(), b"x");
    fs::write(mount.path().join("dir/new"), b"y").unwrap();
    assert_eq!(errno(fs::remove_dir(mount.path().join("filled"))), libc::ENOTEMPTY);
    fs::remove_dir(mount.path().join("marked")).unwrap();
    mount.unmount();

    let source = format!("{}/{CONTAINER}", service.endpoint());
    let backend = (scheme_of(&source).unwrap().parse)(&SourceRequest {
        source: &source,
        options: &BTreeMap::new(),
        env: &|_| None,
        timeout: Duration::from_secs(30),
        state_dir: None,
    });
    let backend = backend.unwrap();
    let store = service.block_on(backend.connect()).unwrap();
    assert_eq!(store.hidden(), []);
    for directory in ["", "dir", "filled", "both", "dir"] {
        let path = RemotePath::new(directory).unwrap();
        let page = service.block_on(store.list(&path, None)).unwrap();
        assert!(page.next.is_none());
    }
    // What is below a name that cannot be shown counts as one: nobody looks there.
    assert_eq!(
        store.hidden(),
        [
            (". or .. in their path", 2),
            ("a directory of the same name", 1),
            ("a slash at the end of their name and something in them", 1),
            ("empty path components", 2),
            ("path components of more than 255 bytes", 2),
        ]
    );
}

/// A name in every form that a shell or a URL makes hard.
#[test]
fn one_blob_by_a_signed_url_is_one_file() {
    let Some(service) = start(Config::default()) else { return };
    let name = "a b%41#c?d&e=f/ü+ \"(1)\".vhd";
    let (directory, file) = name.split_once('/').unwrap();
    let encoded = utf8_percent_encode(name, NON_ALPHANUMERIC).to_string();
    put(&service, &encoded, "PageBlob", b"");
    put(&service, &format!("{encoded}.other"), "PageBlob", b"");
    let signed = |permissions| {
        let query = rest::signature(&format!("/{CONTAINER}/{name}"), permissions);
        format!("{}/{CONTAINER}/{encoded}?{query}", service.endpoint())
    };

    let mount = Mount::start(&signed("rw"), &[], &[]);
    assert_eq!(names(mount.path()), [file]);
    let path = mount.path().join(file);
    assert_eq!(fs::metadata(&path).unwrap().len(), 512);
    fs::write(&path, b"written through a signature").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"written through a signature");
    assert_eq!(errno(File::open(mount.path().join(format!("{file}.other")))), libc::ENOENT);
    assert_ne!(errno(File::create(mount.path().join("new"))), 0);
    // The signature is nowhere to be seen.
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let process = Path::new("/proc").join(mount.pid().to_string());
    let line = String::from_utf8_lossy(&fs::read(process.join("cmdline")).unwrap()).into_owned();
    assert!(mounts.contains(mount.path().to_str().unwrap()));
    assert!(!mounts.contains("sig=") && !line.contains("sig="), "{line}");
    mount.unmount();

    let mount = Mount::start(&signed("r"), &[], &[]);
    let path = mount.path().join(file);
    assert_eq!(fs::read(&path).unwrap(), b"written through a signature");
    assert_eq!(errno(OpenOptions::new().write(true).open(&path)), libc::EACCES);
    mount.unmount();

    // In the whole container it is where it should be.
    let mount = service.mount(&[]);
    assert_eq!(fs::read(mount.path().join(directory).join(file)).unwrap().len(), 27);
    mount.unmount();
}

#[test]
fn a_prefix_is_a_root_that_nothing_leaves() {
    let Some(service) = start(Config::default()) else { return };
    for path in ["team%20a/disks/one", "team%20a/disks.old", "team%20b/disks/two"] {
        put(&service, path, "PageBlob", b"");
    }
    let source = format!("az://devstoreaccount1/{CONTAINER}/team a/disks");
    let mount = Mount::start(&source, &[], &service.environment());
    assert_eq!(names(mount.path()), ["one"]);
    fs::create_dir(mount.path().join("sub")).unwrap();
    fs::write(mount.path().join("sub/new"), b"new").unwrap();
    fs::rename(mount.path().join("sub/new"), mount.path().join("renamed")).unwrap();
    fs::remove_file(mount.path().join("one")).unwrap();
    assert_eq!(names(mount.path()), ["renamed", "sub"]);
    assert_eq!(errno(File::open(mount.path().join("disks.old"))), libc::ENOENT);
    mount.unmount();
    let whole = service.mount(&[]);
    assert_eq!(names(whole.path()), ["team a", "team b"]);
    assert_eq!(names(&whole.path().join("team a")), ["disks", "disks.old"]);
    assert_eq!(names(&whole.path().join("team a/disks")), ["renamed", "sub"]);
    assert_eq!(names(&whole.path().join("team b/disks")), ["two"]);
    whole.unmount();

    // One that is yet to be filled.
    let source = format!("az://devstoreaccount1/{CONTAINER}/to/come/");
    let mount = Mount::start(&source, &[], &service.environment());
    assert_eq!(names(mount.path()), [""; 0]);
    fs::write(mount.path().join("first"), b"1").unwrap();
    mount.unmount();
    let whole = service.mount(&[]);
    assert_eq!(fs::read(whole.path().join("to/come/first")).unwrap(), b"1");
    whole.unmount();
}

#[test]
fn blobs_that_were_deleted_softly_are_not_there() {
    let Some(service) = start(Config { soft_delete: true, ..Config::default() }) else { return };
    let mount = service.mount(&["attr_timeout=0"]);
    let at = |name: &str| mount.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("dir/file"), b"first").unwrap();
    fs::remove_file(at("dir/file")).unwrap();
    assert_eq!(names(&at("dir")), [""; 0]);
    assert_eq!(errno(fs::metadata(at("dir/file"))), libc::ENOENT);
    assert_eq!(errno(OpenOptions::new().write(true).open(at("dir/file"))), libc::ENOENT);
    let undelete = |name: &str| {
        let path = format!("/{CONTAINER}/{name}");
        service.block_on(rest::put(&service.endpoint(), &path, "comp=undelete", &[], b""))
    };
    // Somebody else can bring it back; meanwhile its directory can go.
    assert_eq!(undelete("dir/file"), 200);
    assert_eq!(fs::read(at("dir/file")).unwrap(), b"first");
    fs::remove_file(at("dir/file")).unwrap();
    fs::remove_dir(at("dir")).unwrap();
    assert_eq!(names(mount.path()), [""; 0]);
    // A new file of the name has nothing of the old one.
    fs::create_dir(at("dir")).unwrap();
    let file = File::create_new(at("dir/file")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
    drop(file);
    fs::rename(at("dir/file"), at("moved")).unwrap();
    assert_eq!(
        (names(&at("dir")), names(mount.path())),
        (vec![], vec!["dir".into(), "moved".into()])
    );
    mount.unmount();
}

/// Many programs at once, at both ends and in the middle, each after a distant service.
#[test]
fn eight_tebibytes_are_used_from_all_sides_at_once() {
    const LEN: u64 = 8 << 40;
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 20;
    let config = Config { latency: Duration::from_millis(5), ..Config::default() };
    let Some(service) = start(config) else { return };
    // What the kernel believes for a second may be older than what another thread did meanwhile.
    let mount = service.mount(&["attr_timeout=0"]);
    let path = mount.path().join("huge");
    File::create(&path).unwrap().set_len(LEN).unwrap();
    let before = service.server().total_requests();
    let share = LEN / THREADS;
    let place = |thread: u64, round: u64| thread * share + round * (share / ROUNDS) / 4096 * 4096;
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let path = &path;
            scope.spawn(move || {
                let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
                for round in 0..ROUNDS {
                    let at = place(thread, round);
                    let mut page = [1; 4096];
                    file.read_exact_at(&mut page, at).unwrap();
                    assert_eq!(page, [0; 4096], "nobody has written at {at}");
                    file.write_all_at(&[thread as u8 + 1; 4096], at).unwrap();
                    // The last page of the share, which is that of the blob at last.
                    let end = (thread + 1) * share - 4096;
                    file.write_all_at(&[round as u8; 4096], end).unwrap();
                    if round % 5 == 4 {
                        file.sync_data().unwrap();
                        punch(&file, place(thread, round - 1), 4096);
                    }
                    assert_eq!(file.metadata().unwrap().len(), LEN);
                    file.read_exact_at(&mut page, end).unwrap();
                    assert_eq!(page, [round as u8; 4096]);
                }
                file.sync_all().unwrap();
            });
        }
    });
    let requests = service.server().total_requests() - before;
    // A page read, written, punched or synced is a request; what is asked of nothing costs nothing.
    assert!(requests < 6 * THREADS * ROUNDS, "{requests} requests");
    let pages = THREADS * (ROUNDS - ROUNDS / 5 + 1);
    assert_eq!(fs::metadata(&path).unwrap().blocks(), pages * 8);
    mount.unmount();

    let mount = service.mount(&[]);
    let file = File::open(mount.path().join("huge")).unwrap();
    let reads = service.server().requests(Operation::GetBlob);
    for thread in 0..THREADS {
        let mut page = [0; 4096];
        for round in [0, 3, ROUNDS - 1] {
            file.read_exact_at(&mut page, place(thread, round)).unwrap();
            let expected = if round == 3 { 0 } else { thread as u8 + 1 };
            assert_eq!(page, [expected; 4096], "{thread} {round}");
        }
        file.read_exact_at(&mut page, (thread + 1) * share - 4096).unwrap();
        assert_eq!(page, [ROUNDS as u8 - 1; 4096]);
    }
    assert!(service.server().requests(Operation::GetBlob) - reads <= 4 * THREADS);
    drop(file);
    mount.unmount();
}

fn punch(file: &File, at: u64, len: u64) {
    use std::os::fd::AsRawFd as _;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no pointers are passed, and the descriptor is open.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), mode, at as i64, len as i64) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}
