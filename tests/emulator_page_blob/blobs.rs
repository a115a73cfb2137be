//! Whole blobs: properties, metadata, snapshots, deletion, and the other two kinds.

use crate::client::Emulator;

#[test]
fn properties_say_what_a_blob_is() {
    let e = Emulator::with_container();
    e.put(
        "/con/d%20e/%C3%BC",
        &[
            ("x-ms-blob-type", "PageBlob"),
            ("x-ms-blob-content-length", "1024"),
            ("x-ms-blob-content-type", "application/x-disk"),
            ("x-ms-meta-one", "1"),
        ],
        b"",
    )
    .expect(201);
    let head = e.head("/con/d%20e/%C3%BC").expect(200);
    assert_eq!(head.body, b"");
    for (name, value) in [
        ("content-length", "1024"),
        ("content-type", "application/x-disk"),
        ("accept-ranges", "bytes"),
        ("x-ms-blob-type", "PageBlob"),
        ("x-ms-blob-sequence-number", "0"),
        ("x-ms-lease-state", "available"),
        ("x-ms-lease-status", "unlocked"),
        ("x-ms-server-encrypted", "true"),
        ("x-ms-meta-one", "1"),
        ("x-ms-version", "2021-12-02"),
    ] {
        assert_eq!(head.header(name), value, "{name}");
    }
    for name in ["etag", "last-modified", "x-ms-creation-time", "x-ms-request-id", "date"] {
        assert!(head.has(name), "{name}");
    }
    let missing = e.head("/con/none");
    assert_eq!((missing.error(), missing.body.len()), ((404, "BlobNotFound"), 0));
    assert_eq!(e.head("/none/b").error(), (404, "ContainerNotFound"));
}

#[test]
fn metadata_is_replaced_as_a_whole() {
    let e = Emulator::with_blob(512);
    e.put("/con/b?comp=metadata", &[("x-ms-meta-a", "1"), ("x-ms-meta-b", "2")], b"").expect(200);
    e.put("/con/b?comp=metadata", &[("x-ms-meta-b", "3")], b"").expect(200);
    let metadata = e.get("/con/b?comp=metadata", &[]).expect(200);
    assert_eq!((metadata.has("x-ms-meta-a"), metadata.header("x-ms-meta-b")), (false, "3"));
    let bad = e.put("/con/b?comp=metadata", &[("x-ms-meta-a-b", "1")], b"");
    assert_eq!(bad.error(), (400, "InvalidMetadata"));
    let large = "x".repeat(8192);
    let large = e.put("/con/b?comp=metadata", &[("x-ms-meta-a", &large)], b"");
    assert_eq!(large.error(), (400, "MetadataTooLarge"));
}

#[test]
fn snapshots_stay_as_they_were() {
    let e = Emulator::with_blob(4096);
    e.write("/con/b", 0, &[1; 512], &[]).expect(201);
    let etag = e.head("/con/b").etag();
    let time = e.snapshot("/con/b");
    assert_eq!(time.len(), "2020-10-01T22:57:35.7356785Z".len());
    e.write("/con/b", 0, &[2; 4096], &[]).expect(201);
    e.put("/con/b?comp=properties", &[("x-ms-blob-content-length", "512")], b"").expect(200);
    let snapshot = format!("/con/b?snapshot={time}");
    assert_eq!(e.head(&snapshot).etag(), etag);
    assert_eq!(e.get(&snapshot, &[]).expect(200).body, [vec![1; 512], vec![0; 3584]].concat());
    assert_eq!(e.ranges(&format!("{snapshot}&comp=pagelist")), ["0-511"]);
    assert_eq!(e.write(&snapshot, 0, &[3; 512], &[]).status, 400);
    assert_eq!(e.delete("/con/b", &[]).error(), (409, "SnapshotsPresent"));
    e.delete("/con/b", &[("x-ms-delete-snapshots", "only")]).expect(202);
    assert_eq!(e.get(&snapshot, &[]).error(), (404, "BlobNotFound"));
    let time = e.snapshot("/con/b");
    e.delete(&format!("/con/b?snapshot={time}"), &[]).expect(202);
    e.snapshot("/con/b");
    e.delete("/con/b", &[("x-ms-delete-snapshots", "include")]).expect(202);
    assert_eq!(e.delete("/con/b", &[]).error(), (404, "BlobNotFound"));
    assert_eq!(e.put("/con/b?comp=snapshot", &[], b"").error(), (404, "BlobNotFound"));
}

#[test]
fn a_snapshot_is_restored_by_a_copy() {
    let e = Emulator::with_blob(4096);
    e.write("/con/b", 512, &[1; 512], &[]).expect(201);
    let time = e.snapshot("/con/b");
    e.write("/con/b", 0, &[2; 4096], &[]).expect(201);
    let source = format!("{}/con/b?snapshot={time}", e.server.account_url("devstoreaccount1"));
    let copy = e.put("/con/b", &[("x-ms-copy-source", &source)], b"").expect(202);
    assert_eq!(copy.header("x-ms-copy-status"), "success");
    assert_eq!(e.ranges("/con/b?comp=pagelist"), ["512-1023"]);
    assert_eq!(e.read("/con/b", 0, 1024), [vec![0; 512], vec![1; 512]].concat());
    assert_eq!(e.head("/con/b").header("x-ms-copy-id"), copy.header("x-ms-copy-id"));
    // The snapshot is still there, and only it can be deleted with the blob.
    e.get(&format!("/con/b?snapshot={time}"), &[]).expect(200);
}

#[test]
fn block_and_append_blobs_can_be_made() {
    let e = Emulator::with_container();
    let body = vec![b'x'; 300_000];
    e.put("/con/block", &[("x-ms-blob-type", "BlockBlob"), ("content-type", "text/plain")], &body)
        .expect(201);
    let get = e.get("/con/block", &[]).expect(200);
    assert_eq!((get.header("content-type"), get.body == body), ("text/plain", true));
    assert!(get.has("content-md5") && !get.has("x-ms-blob-sequence-number"));
    assert_eq!(e.write("/con/block", 0, &[1; 512], &[]).error(), (409, "InvalidBlobType"));
    assert_eq!(e.get("/con/block?comp=pagelist", &[]).error(), (409, "InvalidBlobType"));

    e.put("/con/listed?comp=block&blockid=QQ%3D%3D", &[], b"first ").expect(201);
    e.put("/con/listed?comp=block&blockid=Qg%3D%3D", &[], b"second").expect(201);
    assert_eq!(e.get("/con/listed", &[]).status, 404);
    let list = |ids: &[&str]| {
        let ids: String = ids.iter().map(|id| format!("<Latest>{id}</Latest>")).collect();
        let body = format!("<?xml version=\"1.0\"?><BlockList>{ids}</BlockList>");
        e.put("/con/listed?comp=blocklist", &[], body.as_bytes())
    };
    list(&["QQ==", "Qg==", "QQ=="]).expect(201);
    assert_eq!(e.get("/con/listed", &[]).expect(200).body, b"first secondfirst ");
    list(&["Qg=="]).expect(201);
    assert_eq!(e.get("/con/listed", &[]).expect(200).body, b"second");
    assert_eq!(list(&["Qw=="]).error(), (400, "InvalidBlockList"));

    e.put("/con/log", &[("x-ms-blob-type", "AppendBlob")], b"").expect(201);
    e.put("/con/log?comp=appendblock", &[], b"one").expect(201);
    let at = ("x-ms-blob-condition-appendpos", "3");
    e.put("/con/log?comp=appendblock", &[at], b"two").expect(201);
    let late = e.put("/con/log?comp=appendblock", &[at], b"two");
    assert_eq!(late.error(), (412, "AppendPositionConditionNotMet"));
    assert_eq!(e.get("/con/log", &[]).expect(200).body, b"onetwo");
}

#[test]
fn containers_come_and_go() {
    let e = Emulator::new();
    e.put("/c-1?restype=container", &[("x-ms-meta-a", "1")], b"").expect(201);
    let again = e.put("/c-1?restype=container", &[], b"");
    assert_eq!(again.error(), (409, "ContainerAlreadyExists"));
    let odd = e.put("/Odd?restype=container", &[], b"");
    assert_eq!(odd.error(), (400, "InvalidResourceName"));
    let properties = e.get("/c-1?restype=container", &[]).expect(200);
    assert_eq!(properties.header("x-ms-meta-a"), "1");
    e.container("c-2");
    let list = e.get("?comp=list&prefix=c-", &[]).expect(200);
    assert_eq!(list.elements("Name"), ["c-1", "c-2"]);
    let page = e.get("?comp=list&maxresults=1", &[]).expect(200);
    assert_eq!(page.elements("NextMarker"), ["c-2"]);
    e.create("/c-1/b", 512);
    e.delete("/c-1?restype=container", &[]).expect(202);
    assert_eq!(e.head("/c-1/b").error(), (404, "ContainerNotFound"));
    e.container("c-1");
    assert_eq!(e.head("/c-1/b").error(), (404, "BlobNotFound"));
}
