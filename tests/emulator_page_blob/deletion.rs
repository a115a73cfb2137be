//! Deleted blobs: gone, or with soft delete out of sight.

use blobdir::emulator::page_blob::Config;

use crate::client::Emulator;

fn soft() -> Emulator {
    let e = Emulator::with(Config { soft_delete: true, ..Config::default() });
    e.container("con");
    e.create("/con/b", 1024);
    e.write("/con/b", 0, &[7; 512], &[]).expect(201);
    e
}

fn listed(e: &Emulator, query: &str) -> Vec<String> {
    let answer = e.get(&format!("/con?restype=container&comp=list{query}"), &[]).expect(200);
    answer.elements("Name")
}

#[test]
fn a_blob_that_was_deleted_softly_is_seen_by_those_who_ask_for_it_alone() {
    let e = soft();
    let deleted = e.delete("/con/b", &[]).expect(202);
    assert_eq!(deleted.header("x-ms-delete-type-permanent"), "false");
    assert_eq!(e.head("/con/b").error(), (404, "BlobNotFound"));
    assert_eq!(e.get("/con/b", &[]).error(), (404, "BlobNotFound"));
    assert_eq!(e.write("/con/b", 0, &[1; 512], &[]).error(), (404, "BlobNotFound"));
    assert_eq!(listed(&e, ""), [""; 0]);
    assert_eq!(listed(&e, "&include=metadata"), [""; 0]);
    let all = e.get("/con?restype=container&comp=list&include=deleted", &[]).expect(200);
    assert_eq!(
        (all.elements("Name"), all.elements("Deleted")),
        (vec!["b".into()], vec!["true".into()])
    );
    assert_eq!(e.delete("/con/b", &[]).error(), (404, "BlobNotFound"));
    e.put("/con/b?comp=undelete", &[], b"").expect(200);
    assert_eq!(e.read("/con/b", 0, 512), [7; 512]);
    assert_eq!(e.ranges("/con/b?comp=pagelist"), ["0-511"]);
    // What is there stays there.
    e.put("/con/b?comp=undelete", &[], b"").expect(200);
    assert_eq!(e.put("/con/none?comp=undelete", &[], b"").error(), (404, "BlobNotFound"));
}

#[test]
fn snapshots_come_back_with_their_blob() {
    let e = soft();
    let time = e.snapshot("/con/b");
    e.write("/con/b", 0, &[8; 512], &[]).expect(201);
    assert_eq!(e.delete("/con/b", &[]).error(), (409, "SnapshotsPresent"));
    e.delete("/con/b", &[("x-ms-delete-snapshots", "include")]).expect(202);
    assert_eq!(e.get(&format!("/con/b?snapshot={time}"), &[]).error(), (404, "BlobNotFound"));
    assert_eq!(listed(&e, "&include=snapshots"), [""; 0]);
    assert_eq!(listed(&e, "&include=snapshots%2Cdeleted"), ["b", "b"]);
    e.put("/con/b?comp=undelete", &[], b"").expect(200);
    assert_eq!(e.read("/con/b", 0, 512), [8; 512]);
    assert_eq!(e.read(&format!("/con/b?snapshot={time}"), 0, 512), [7; 512]);
}

#[test]
fn a_new_blob_takes_the_place_of_a_deleted_one() {
    let e = soft();
    e.delete("/con/b", &[]).expect(202);
    let absent = [
        ("x-ms-blob-type", "PageBlob"),
        ("x-ms-blob-content-length", "512"),
        ("if-none-match", "*"),
    ];
    e.put("/con/b", &absent, b"").expect(201);
    assert_eq!(e.get("/con/b", &[]).expect(200).body, [0; 512]);
    assert_eq!(listed(&e, "&include=deleted"), ["b"]);
}

#[test]
fn deleted_blobs_survive_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let config =
        || Config { soft_delete: true, data: Some(data.path().to_owned()), ..Config::default() };
    let e = Emulator::with(config());
    e.container("con");
    e.create("/con/b", 512);
    e.write("/con/b", 0, &[7; 512], &[]).expect(201);
    e.delete("/con/b", &[]).expect(202);
    e.shutdown();
    let e = Emulator::with(config());
    assert_eq!(e.head("/con/b").status, 404);
    e.put("/con/b?comp=undelete", &[], b"").expect(200);
    assert_eq!(e.read("/con/b", 0, 512), [7; 512]);
}

#[test]
fn without_soft_delete_gone_is_gone() {
    let e = Emulator::with_blob(512);
    let deleted = e.delete("/con/b", &[]).expect(202);
    assert_eq!(deleted.header("x-ms-delete-type-permanent"), "true");
    assert_eq!(listed(&e, "&include=deleted"), [""; 0]);
    assert_eq!(e.put("/con/b?comp=undelete", &[], b"").error(), (404, "BlobNotFound"));
}
