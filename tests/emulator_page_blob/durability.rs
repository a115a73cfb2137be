//! What is left after a restart, after a kill, and what a second server may do meanwhile.

use blobdir::emulator::page_blob::{Config, start};

use crate::client::Emulator;

fn on(dir: &std::path::Path) -> Emulator {
    Emulator::with(Config { data: Some(dir.to_owned()), ..Config::default() })
}

const A: (&str, &str) = ("x-ms-lease-id", "00000000-0000-0000-0000-00000000000a");

/// Returns the snapshot's time, and an ETag that stood for older content.
fn fill(e: &Emulator) -> (String, String) {
    e.container("con");
    e.create("/con/b", 1 << 20);
    e.write("/con/b", 512, &[1; 1024], &[]).expect(201);
    let time = e.snapshot("/con/b");
    let raise = [("x-ms-sequence-number-action", "max"), ("x-ms-blob-sequence-number", "9")];
    e.put("/con/b?comp=properties", &raise, b"").expect(200);
    e.put("/con/b?comp=metadata", &[("x-ms-meta-k", "v")], b"").expect(200);
    let acquire = [("x-ms-proposed-lease-id", A.1), ("x-ms-lease-duration", "-1")];
    e.lease("/con/b", "acquire", &acquire).expect(201);
    let old = e.head("/con/b").etag();
    e.write("/con/b", 8192, &[2; 512], &[A]).expect(201);
    e.clear("/con/b", 512, 1024, &[A]).expect(201);
    e.create("/con/gone", 512);
    e.delete("/con/gone", &[]).expect(202);
    (time, old)
}

fn check(e: &Emulator, time: &str) {
    let head = e.head("/con/b").expect(200);
    assert_eq!(head.header("x-ms-blob-sequence-number"), "9");
    assert_eq!(head.header("x-ms-meta-k"), "v");
    assert_eq!(head.header("x-ms-lease-state"), "leased");
    assert_eq!(e.write("/con/b", 0, &[1; 512], &[]).error(), (412, "LeaseIdMissing"));
    assert_eq!(e.ranges("/con/b?comp=pagelist"), ["1024-1535", "8192-8703"]);
    assert_eq!(e.read("/con/b", 512, 1536), [vec![0; 512], vec![1; 512]].concat());
    assert_eq!(e.read("/con/b", 8192, 8704), [2; 512]);
    assert_eq!(e.ranges(&format!("/con/b?comp=pagelist&snapshot={time}")), ["512-1535"]);
    assert_eq!(
        e.ranges(&format!("/con/b?comp=pagelist&prevsnapshot={time}")),
        ["!512-1023", "8192-8703"]
    );
    assert_eq!(e.head("/con/gone").error(), (404, "BlobNotFound"));
}

#[test]
fn a_restart_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let first = on(dir.path());
    let (time, _) = fill(&first);
    let before = first.head("/con/b");
    first.shutdown();
    drop(first);
    let second = on(dir.path());
    let after = second.head("/con/b");
    assert_eq!(after.etag(), before.etag());
    assert_eq!(after.header("last-modified"), before.header("last-modified"));
    check(&second, &time);
}

/// A copy of the directory while the server runs is what a kill leaves behind.
#[test]
fn a_kill_loses_nothing_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let running = on(dir.path());
    let (time, old) = fill(&running);
    let etag = running.head("/con/b").etag();
    let left = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-a", "--sparse=always"])
        .arg(dir.path().join("."))
        .arg(left.path())
        .status()
        .unwrap();
    assert!(copied.success());
    let container = left.path().join("devstoreaccount1/con");
    std::fs::write(container.join("staged-1"), b"half a body").unwrap();
    std::fs::write(container.join("0123.json.new"), b"{\"half").unwrap();
    let survivor = on(left.path());
    // The last ETag may be lost, but no older one may come back for newer content.
    assert_ne!(survivor.head("/con/b").etag(), old);
    check(&survivor, &time);
    assert!(!container.join("staged-1").exists());
    let fresh = survivor.write("/con/b", 0, &[3; 512], &[A]).expect(201).etag();
    assert_ne!(fresh, etag);
}

#[test]
fn one_directory_serves_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let first = on(dir.path());
    let config = Config { data: Some(dir.path().to_owned()), ..Config::default() };
    let error = first.runtime.block_on(start(config)).unwrap_err();
    assert!(error.to_string().contains("another emulator"), "{error}");
    first.shutdown();
    on(dir.path());
}

#[test]
fn a_temporary_directory_goes_away() {
    let entries = || {
        let dir = std::fs::read_dir(std::env::temp_dir()).unwrap();
        let names = dir.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("blobdir-page-blob-")).collect::<Vec<_>>()
    };
    let e = Emulator::with_blob(512);
    let during = entries();
    e.shutdown();
    drop(e);
    let after = entries();
    assert!(during.iter().any(|name| !after.contains(name)));
}
