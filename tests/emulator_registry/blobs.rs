//! Blobs: the measured matrix of ranges, conditions, and what is refused.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::client::{Registry, code, noise, sha256};

/// The size of the blob that was measured.
const SIZE: usize = 200_293;

fn with_blob() -> (Registry, Vec<u8>, String) {
    let registry = Registry::new();
    let bytes = noise(SIZE);
    let digest = registry.server.push_blob("team/app", &bytes).unwrap();
    (registry, bytes, format!("/v2/team/app/blobs/{digest}"))
}

#[test]
fn ranges_are_served_as_measured() {
    let (registry, bytes, path) = with_blob();
    for (range, start, end) in [
        ("bytes=0-9", 0, 10),
        ("bytes=200283-", 200_283, SIZE),
        ("bytes=-10", 200_283, SIZE),
        ("bytes=0-0", 0, 1),
        ("bytes=200290-999999", 200_290, SIZE),
        ("bytes=0-200292", 0, SIZE),
        ("bytes=-999999999", 0, SIZE),
        ("bytes=0-9, 999999-", 0, 10),
    ] {
        let answer = registry.get(&path, &[("range", range)]).expect(206);
        assert_eq!(answer.header("content-range"), format!("bytes {start}-{}/{SIZE}", end - 1));
        assert!(answer.body == bytes[start..end], "{range}");
    }
    let empty = registry.get(&path, &[("range", "bytes=-0")]).expect(206);
    assert_eq!(empty.header("content-range"), "bytes 200293-200292/200293");
    assert!(empty.body.is_empty());
    let query = format!("{path}?_overload=getChunk&api-version=2021-07-01");
    assert_eq!(registry.get(&query, &[("range", "bytes=7-8")]).expect(206).body, &bytes[7..9]);
}

#[test]
fn a_whole_blob_says_what_it_is() {
    let (registry, bytes, path) = with_blob();
    let digest = sha256(&bytes);
    for method in ["GET", "HEAD"] {
        let answer = registry.send(method, &path, &[("accept-encoding", "gzip")], b"").expect(200);
        for (name, expected) in [
            ("accept-ranges", "bytes"),
            ("etag", &*format!("\"{digest}\"")),
            ("docker-content-digest", &digest),
            ("content-length", "200293"),
            ("content-type", "application/octet-stream"),
            ("content-encoding", ""),
        ] {
            assert_eq!(answer.header(name), expected, "{method} {name}");
        }
        assert_eq!(answer.body.len(), if method == "GET" { SIZE } else { 0 });
    }
    assert!(registry.get(&path, &[]).body == bytes);
}

#[test]
fn several_parts_come_as_one_document() {
    let (registry, bytes, path) = with_blob();
    let answer = registry.get(&path, &[("range", "bytes=0-9,20-29")]).expect(206);
    assert!(answer.header("content-type").starts_with("multipart/byteranges; boundary="));
    assert!(!answer.has("content-range"));
    let body = &answer.body;
    for (start, head) in [(0, "bytes 0-9/200293"), (20, "bytes 20-29/200293")] {
        let part = &bytes[start..start + 10];
        assert!(body.windows(10).any(|window| window == part), "{head}");
        assert!(body.windows(head.len()).any(|window| window == head.as_bytes()), "{head}");
    }
}

/// Reads all that comes, for answers whose length is not what it says.
fn raw(registry: &Registry, path: &str, range: &str) -> String {
    let mut stream = TcpStream::connect(registry.server.addr()).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nrange: {range}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // It ends, although nobody asked for that.
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap().to_lowercase()
}

#[test]
fn a_range_that_cannot_be_is_refused_with_a_length_that_lies() {
    let (registry, _, path) = with_blob();
    for range in ["bytes=200293-", "bytes=999999-9999999"] {
        let answer = raw(&registry, &path, range);
        assert!(answer.starts_with("http/1.1 416 "), "{answer}");
        assert!(answer.contains("\r\ncontent-range: bytes */200293\r\n"), "{answer}");
        assert!(answer.contains("\r\ncontent-length: 200293\r\n"), "{answer}");
        assert!(answer.ends_with("failed to overlap\n"), "{answer}");
    }
    for range in ["bytes=5-2", "bytes=abc", "chunks=0-5", "bytes=0-9223372036854775808"] {
        let answer = raw(&registry, &path, range);
        assert!(answer.starts_with("http/1.1 416 "), "{answer}");
        assert!(!answer.contains("content-range"), "{answer}");
    }
}

#[test]
fn an_empty_blob_has_no_range() {
    let registry = Registry::new();
    let digest = registry.server.push_blob("a", b"").unwrap();
    let path = format!("/v2/a/blobs/{digest}");
    let whole = registry.get(&path, &[]).expect(200);
    assert_eq!((whole.header("content-length"), whole.body.len()), ("0", 0));
    registry.head(&path, &[]).expect(200);
    let refused = registry.get(&path, &[("range", "bytes=0-0")]).expect(416);
    assert_eq!(refused.header("content-range"), "bytes */0");
}

#[test]
fn conditions_and_heads_are_heeded() {
    let (registry, bytes, path) = with_blob();
    let etag = format!("\"{}\"", sha256(&bytes));
    let same = registry.get(&path, &[("if-none-match", &etag)]).expect(304);
    assert_eq!(same.header("etag"), etag);
    registry.get(&path, &[("if-none-match", "\"other\"")]).expect(200);
    let range = ("range", "bytes=0-9");
    registry.get(&path, &[range, ("if-range", &etag)]).expect(206);
    let whole = registry.get(&path, &[range, ("if-range", "\"other\"")]).expect(200);
    assert_eq!(whole.body.len(), SIZE);
    let head = registry.head(&path, &[range]).expect(206);
    assert_eq!(head.header("content-length"), "10");
}

#[test]
fn what_is_not_there_is_told_as_measured() {
    let (registry, bytes, path) = with_blob();
    let other = sha256(b"other");
    for path in
        [format!("/v2/team/app/blobs/{other}"), format!("/v2/nobody/blobs/{}", sha256(&bytes))]
    {
        let answer = registry.get(&path, &[]).expect(404);
        assert_eq!(code(&answer), "BLOB_UNKNOWN");
        let head = registry.head(&path, &[]).expect(404);
        assert!(head.header("content-length") != "0" && head.body.is_empty());
    }
    assert_eq!(code(&registry.get("/v2/a/blobs/sha256:zz", &[]).expect(400)), "DIGEST_INVALID");
    let upper = registry.get(&format!("/v2/UPPER/blobs/{other}"), &[]).expect(404);
    assert_eq!(upper.header("content-type"), "text/plain; charset=utf-8");
    let posted = registry.send("POST", &path, &[], b"").expect(405);
    assert_eq!(posted.header("allow"), "DELETE, GET, HEAD");
    let manifest = registry.server.push_image("team/app", "v1", &[b"layer"]).unwrap();
    registry.get(&format!("/v2/team/app/blobs/{manifest}"), &[]).expect(404);
    let encoded = path.replace("team/app", "team%2Fapp").replace("sha256:", "sha256%3A");
    registry.get(&encoded, &[]).expect(200);
}

#[test]
fn a_deleted_blob_is_gone_from_its_repository_alone() {
    let (registry, bytes, path) = with_blob();
    let digest = registry.server.push_blob("second", &bytes).unwrap();
    registry.send("DELETE", &path, &[], b"").expect(202);
    registry.get(&path, &[]).expect(404);
    registry.get(&format!("/v2/second/blobs/{digest}"), &[]).expect(200);
}

#[test]
fn the_way_in_is_there() {
    let registry = Registry::new();
    let answer = registry.get("/v2/", &[]).expect(200);
    assert_eq!(answer.text().trim(), "{}");
    assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
    assert_eq!(registry.get("/v2", &[]).expect(301).header("location"), "/v2/");
}
