//! Content that comes without a request, and content that stays.

use blobdir::emulator::registry::Config;

use crate::client::{OCI_MANIFEST, Registry, json, noise, sha256};

#[test]
fn content_survives_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let config = || Config { data: Some(dir.path().to_owned()), ..Config::default() };
    let first = Registry::with(config());
    let digest = first.server.push_image("lib/zeta", "v1", &[b"1"]).unwrap();
    first.server.push_image("lib/zeta/deep", "v1", &[b"2"]).unwrap();
    let blob = first.upload("lib/zeta", &noise(1000));
    let before = first.get("/acr/v1/lib/zeta/_tags/v1", &[]).body;
    first.runtime.block_on(first.server.shutdown());
    drop(first);
    let second = Registry::with(config());
    let names = json(&second.get("/v2/_catalog", &[]))["repositories"].clone();
    assert_eq!(names, serde_json::json!(["lib/zeta", "lib/zeta/deep"]));
    let manifest = second.manifest("lib/zeta", "v1").expect(200);
    assert_eq!(sha256(&manifest.body), digest);
    assert!(second.get(&format!("/v2/lib/zeta/blobs/{blob}"), &[]).expect(200).body == noise(1000));
    let (before, after) = (before, second.get("/acr/v1/lib/zeta/_tags/v1", &[]).body);
    let tag = |body: &[u8]| {
        let value: serde_json::Value = serde_json::from_slice(body).unwrap();
        value["tag"].clone()
    };
    assert_eq!(tag(&before), tag(&after));
}

#[test]
fn names_that_are_none_do_not_become_paths() {
    let registry = Registry::new();
    let server = &registry.server;
    for name in ["../a", "a/../b", "", "A", "a//b", "/a"] {
        assert!(server.push_blob(name, b"").is_err(), "{name}");
        assert!(server.push_layout(name, std::path::Path::new("/")).is_err(), "{name}");
    }
    for tag in ["../v1", "a/b", ".", ""] {
        assert!(server.push_manifest("a", Some(tag), OCI_MANIFEST, b"{}").is_err(), "{tag}");
    }
    registry.get("/v2/a%2F..%2Fb/tags/list", &[]).expect(404);
    registry.get("/v2/a/manifests/..%2Fv1", &[]).expect(404);
    registry.send("DELETE", "/acr/v1/a/_tags/..%2F_repository", &[], b"").expect(404);
}

#[test]
fn a_large_file_is_served_whole_and_in_parts() {
    let registry = Registry::new();
    let bytes = noise(3 << 20);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let digest = registry.server.push_file("a", file.path()).unwrap();
    assert_eq!(digest, sha256(&bytes));
    let path = format!("/v2/a/blobs/{digest}");
    assert!(registry.get(&path, &[]).expect(200).body == bytes);
    let part = registry.get(&path, &[("range", "bytes=1000000-2999999")]).expect(206);
    assert!(part.body == bytes[1_000_000..3_000_000]);
    assert!(file.path().exists());
}
