//! Versions: what a blob was before it was replaced or deleted, where the account keeps that.

use blobdir::emulator::page_blob::Config;

use crate::client::Emulator;

const BLOCK: (&str, &str) = ("x-ms-blob-type", "BlockBlob");

fn keeping() -> Emulator {
    let e = Emulator::with(Config { versioning: true, ..Config::default() });
    e.container("con");
    e
}

/// Puts a block blob; gives the name of its version.
fn put(e: &Emulator, body: &[u8]) -> String {
    e.put("/con/b", &[BLOCK], body).expect(201);
    e.head("/con/b").header("x-ms-version-id").to_owned()
}

fn listed(e: &Emulator, query: &str) -> (Vec<String>, Vec<String>) {
    let answer = e.get(&format!("/con?restype=container&comp=list{query}"), &[]).expect(200);
    (answer.elements("VersionId"), answer.elements("IsCurrentVersion"))
}

#[test]
fn what_is_replaced_or_deleted_stays_as_a_version() {
    let e = keeping();
    let first = put(&e, b"one");
    let second = put(&e, b"two");
    assert!(first < second, "{first} {second}");
    let of = |id: &str| format!("/con/b?versionid={id}");
    assert_eq!(e.get(&of(&first), &[]).expect(200).body, b"one");
    assert_eq!(e.get(&of(&second), &[]).expect(200).body, b"two");
    assert_eq!(e.head(&of(&first)).header("x-ms-version-id"), first);
    assert_eq!(e.head(&of(&second)).header("x-ms-is-current-version"), "true");
    assert_eq!(listed(&e, ""), (vec![], vec![]));
    let both = vec![first.clone(), second.clone()];
    assert_eq!(listed(&e, "&include=versions"), (both.clone(), vec!["true".to_owned()]));

    e.delete("/con/b", &[]).expect(202);
    assert_eq!(e.get("/con/b", &[]).error(), (404, "BlobNotFound"));
    assert_eq!(e.get(&of(&second), &[]).expect(200).body, b"two");
    assert_eq!(listed(&e, "&include=versions"), (both, vec![]));
    assert_eq!(e.put(&format!("{}&comp=metadata", of(&first)), &[], b"").status, 400);
    e.delete(&of(&first), &[]).expect(202);
    assert_eq!(e.get(&of(&first), &[]).error(), (404, "BlobNotFound"));
    assert_eq!(e.delete(&of(&first), &[]).error(), (404, "BlobNotFound"));
    assert_eq!(listed(&e, "&include=versions").0, std::slice::from_ref(&second));
    // It is made anew under its name, and the old version is not lost by that.
    let third = put(&e, b"three");
    assert_eq!(e.delete(&of(&third), &[]).error(), (404, "BlobNotFound"));
    assert_eq!(e.get("/con/b", &[]).expect(200).body, b"three");
    assert_eq!(e.get(&of(&second), &[]).expect(200).body, b"two");
}

#[test]
fn versions_outlive_the_server() {
    let data = tempfile::tempdir().unwrap();
    let config =
        Config { versioning: true, data: Some(data.path().to_owned()), ..Config::default() };
    let e = Emulator::with(config.clone());
    e.container("con");
    let (first, second) = (put(&e, b"one"), put(&e, b"two"));
    e.delete("/con/b", &[]).expect(202);
    e.runtime.block_on(e.server.shutdown());
    drop(e);
    let e = Emulator::with(config);
    for (id, body) in [(&first, b"one"), (&second, b"two")] {
        assert_eq!(e.get(&format!("/con/b?versionid={id}"), &[]).expect(200).body, body);
    }
    assert_eq!(listed(&e, "&include=versions").0, [first, second]);
}

#[test]
fn an_account_that_keeps_none_has_none() {
    let e = Emulator::with_container();
    e.put("/con/b", &[BLOCK], b"one").expect(201);
    e.put("/con/b", &[BLOCK], b"two").expect(201);
    assert!(!e.head("/con/b").has("x-ms-version-id"));
    assert_eq!(listed(&e, "&include=versions"), (vec![], vec![]));
    let never = "2020-01-01T00:00:00.0000000Z";
    assert_eq!(e.get(&format!("/con/b?versionid={never}"), &[]).error(), (404, "BlobNotFound"));
}
