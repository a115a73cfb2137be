//! Put Page From URL.

use crate::client::{Emulator, FOREVER, sas};

struct Copy<'a> {
    e: &'a Emulator,
    source: String,
}

impl Copy<'_> {
    fn run(
        &self,
        target: &str,
        range: &str,
        source_range: &str,
        more: &[(&str, &str)],
    ) -> (u16, String) {
        let mut headers = vec![
            ("x-ms-page-write", "update"),
            ("x-ms-copy-source", &*self.source),
            ("x-ms-range", range),
            ("x-ms-source-range", source_range),
        ];
        headers.retain(|(name, _)| !more.iter().any(|(given, _)| given == name));
        headers.extend(more);
        let answer = self.e.put(&format!("{target}?comp=page"), &headers, b"");
        (answer.status, answer.header("x-ms-error-code").to_owned())
    }
}

fn emulator() -> Emulator {
    let e = Emulator::with_blob(1 << 20);
    let bytes: Vec<u8> = (0..8192).map(|n| (n / 32) as u8).collect();
    e.write("/con/b", 0, &bytes, &[]).expect(201);
    e.create("/con/t", 1 << 20);
    e
}

fn copy<'a>(e: &'a Emulator, path: &str, query: &str) -> Copy<'a> {
    let url = e.server.account_url("devstoreaccount1");
    Copy { e, source: format!("{url}{path}?{query}") }
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

fn ok() -> (u16, String) {
    refused(201, "")
}

#[test]
fn pages_are_copied_within_the_server() {
    let e = emulator();
    let copy = copy(&e, "/con/b", &sas("con/b", "b", "r", FOREVER, ""));
    let (range, source) = ("bytes=4096-8191", "bytes=1000-5095");
    assert_eq!(copy.run("/con/t", range, source, &[]), ok());
    assert_eq!(e.read("/con/t", 4096, 8192), e.read("/con/b", 1000, 5096));
    assert_eq!(e.ranges("/con/t?comp=pagelist"), ["4096-8191"]);
    // A hole is copied as pages of zeros.
    assert_eq!(copy.run("/con/t", "bytes=0-511", "bytes=65536-66047", &[]), ok());
    assert_eq!(e.ranges("/con/t?comp=pagelist"), ["0-511", "4096-8191"]);
    // Within one blob.
    assert_eq!(copy.run("/con/b", "bytes=512-1535", "bytes=0-1023", &[]), ok());

    let conditions = [("x-ms-if-sequence-number-lt", "0")];
    let fenced = refused(412, "SequenceNumberConditionNotMet");
    assert_eq!(copy.run("/con/t", range, source, &conditions), fenced);
    let etag = e.head("/con/b").etag();
    assert_eq!(copy.run("/con/t", range, source, &[("x-ms-source-if-match", &etag)]), ok());
    e.write("/con/b", 0, &[0; 512], &[]).expect(201);
    let unmet = refused(412, "SourceConditionNotMet");
    assert_eq!(copy.run("/con/t", range, source, &[("x-ms-source-if-match", &etag)]), unmet);
}

#[test]
fn ranges_bodies_and_hashes_are_checked() {
    let e = emulator();
    e.clear("/con/b", 0, 1 << 20, &[]).expect(201);
    let copy = copy(&e, "/con/b", &sas("con/b", "b", "r", FOREVER, ""));
    let (range, source) = ("bytes=0-511", "bytes=0-511");
    let run = |range, source, more: &[(&str, &str)]| copy.run("/con/t", range, source, more);
    assert_eq!(run("bytes=0-510", source, &[]), refused(416, "InvalidPageRange"));
    assert_eq!(run("bytes=0-1023", source, &[]).0, 400);
    assert_eq!(run(range, "bytes=0-", &[]).0, 400);
    assert_eq!(run("bytes=0-4194815", "bytes=0-4194815", &[]), refused(413, "RequestBodyTooLarge"));
    assert_eq!(run("bytes=1048576-1049087", source, &[]), refused(416, "InvalidPageRange"));
    assert_eq!(run(range, "bytes=1048576-1049087", &[]), refused(416, "CannotVerifyCopySource"));
    let (md5, crc64) = ("v2GerAzfP2jUluqTRBN+iw==", "6YKnaCgO5h0=");
    let (md5, crc64) = (("x-ms-source-content-md5", md5), ("x-ms-source-content-crc64", crc64));
    assert_eq!(run(range, source, &[md5]), ok());
    assert_eq!(run(range, source, &[crc64]), ok());
    assert_eq!(run(range, source, &[md5, crc64]).0, 400);
    e.write("/con/b", 0, &[1; 512], &[]).expect(201);
    assert_eq!(run(range, source, &[md5]), refused(400, "Md5Mismatch"));
    assert_eq!(run(range, source, &[crc64]), refused(400, "Crc64Mismatch"));
    let headers = [
        ("x-ms-page-write", "update"),
        ("x-ms-copy-source", &*copy.source),
        ("x-ms-range", range),
        ("x-ms-source-range", source),
    ];
    assert_eq!(e.put("/con/t?comp=page", &headers, b"body").status, 400);
    assert_eq!(
        e.put("/con/t?comp=page", &headers[..3], b"").error(),
        (400, "MissingRequiredHeader")
    );
}

#[test]
fn sources_are_authorized_by_themselves() {
    let e = emulator();
    let (range, source) = ("bytes=0-511", "bytes=0-511");
    let run = |path: &str, query: &str| copy(&e, path, query).run("/con/t", range, source, &[]);
    let closed = |status| refused(status, "CannotVerifyCopySource");
    // The key that signs the request does not open the source.
    assert_eq!(run("/con/b", ""), closed(401));
    assert_eq!(run("/con/b", &sas("con/b", "b", "w", FOREVER, "")), closed(403));
    assert_eq!(run("/con/b", &sas("con/b", "b", "r", "2001-01-01T00:00:00Z", "")), closed(403));
    assert_eq!(run("/con/b", &sas("con/t", "b", "r", FOREVER, "")), closed(403));
    assert_eq!(run("/con/none", &sas("con", "c", "r", FOREVER, "")), closed(404));
    assert_eq!(run("/con/b", &sas("con", "c", "r", FOREVER, "")), ok());
    let time = e.snapshot("/con/b");
    let snapshot = format!("snapshot={time}&{}", sas("con/b", "bs", "r", FOREVER, &time));
    assert_eq!(run("/con/b", &snapshot), ok());
    let public = ("x-ms-blob-public-access", "blob");
    e.put("/pub?restype=container", &[public], b"").expect(201);
    e.create("/pub/b", 512);
    assert_eq!(run("/pub/b", ""), ok());
    e.server.add_token("secret", None);
    let bearer = |token| {
        let header = ("x-ms-copy-source-authorization", token);
        copy(&e, "/con/b", "").run("/con/t", range, source, &[header])
    };
    assert_eq!(bearer("Bearer secret"), ok());
    assert_eq!(bearer("Bearer other"), closed(401));
    assert_eq!(bearer("SharedKey x:y").0, 400);
}

#[test]
fn the_target_must_be_a_page_blob_that_exists() {
    let e = emulator();
    let copy = copy(&e, "/con/b", &sas("con/b", "b", "r", FOREVER, ""));
    let run = |target: &str| copy.run(target, "bytes=0-511", "bytes=0-511", &[]);
    assert_eq!(run("/con/none"), refused(404, "BlobNotFound"));
    e.put("/con/block", &[("x-ms-blob-type", "BlockBlob")], b"x").expect(201);
    assert_eq!(run("/con/block"), refused(409, "InvalidBlobType"));
    let elsewhere = Copy { e: &e, source: "http://127.0.0.1:1/devstoreaccount1/con/b".into() };
    let found = elsewhere.run("/con/t", "bytes=0-511", "bytes=0-511", &[]);
    assert_eq!(found, refused(404, "CannotVerifyCopySource"));
}
