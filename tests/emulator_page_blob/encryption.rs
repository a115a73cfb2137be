//! Keys that customers send along, over TLS, and encryption scopes.

use crate::client::{Emulator, FOREVER, sas};

const KEY: [(&str, &str); 3] = [
    ("x-ms-encryption-key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ("x-ms-encryption-key-sha256", "Zmh6rfhivXdsj8GLjp+OIAiXFIVu4jOzkCpZHQ1fKSU="),
    ("x-ms-encryption-algorithm", "AES256"),
];
/// 32 bytes of 1.
const OTHER: [(&str, &str); 3] = [
    ("x-ms-encryption-key", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="),
    ("x-ms-encryption-key-sha256", "cs1uhCLEB/ttCYaQ8RMLfe1+wvf14dML2dUh8BU2N5M="),
    ("x-ms-encryption-algorithm", "AES256"),
];
/// Headers.
type Pairs<'a> = &'a [(&'a str, &'a str)];

const NO_KEY: (u16, &str) = (409, "BlobUsesCustomerSpecifiedEncryption");
const WRONG_KEY: (u16, &str) = (409, "BlobCustomerSpecifiedEncryptionMismatch");

fn create(
    e: &Emulator,
    path: &str,
    more: &[(&'static str, &'static str)],
) -> crate::client::Answer {
    let mut headers = vec![("x-ms-blob-type", "PageBlob"), ("x-ms-blob-content-length", "1024")];
    headers.extend(more);
    e.put(path, &headers, b"")
}

fn emulator() -> Emulator {
    let e = Emulator::with_tls();
    e.container("con");
    create(&e, "/con/b", &KEY).expect(201);
    e.write("/con/b", 0, &[1; 512], &KEY).expect(201);
    e
}

#[test]
fn a_customer_key_is_needed_again_for_all_that_it_encrypts() {
    let e = emulator();
    let plan: [(&str, &str, Pairs<'_>, u16); 7] = [
        ("GET", "/con/b", &[], 200),
        ("HEAD", "/con/b", &[], 200),
        ("GET", "/con/b?comp=metadata", &[], 200),
        ("PUT", "/con/b?comp=metadata", &[("x-ms-meta-a", "1")], 200),
        ("PUT", "/con/b?comp=snapshot", &[], 201),
        (
            "PUT",
            "/con/b?comp=page",
            &[("x-ms-page-write", "clear"), ("x-ms-range", "bytes=512-1023")],
            201,
        ),
        ("PUT", "/con/b?comp=properties", &[("x-ms-blob-content-length", "1024")], 200),
    ];
    for (method, path, more, status) in plan {
        let ask = |key: &[(&str, &str)]| e.send(method, path, &[more, key].concat(), b"");
        let right = ask(&KEY).expect(status);
        // Of a resize the documents do not say that it needs the key, but it takes it.
        if !path.ends_with("properties") {
            assert_eq!(ask(&[]).error(), NO_KEY, "{method} {path}");
            assert!(
                method == "GET" && path.ends_with("metadata") || right.header(KEY[1].0) == KEY[1].1
            );
        }
        assert_eq!(ask(&OTHER).error(), WRONG_KEY, "{method} {path}");
    }
    assert_eq!(e.write("/con/b", 0, &[2; 512], &[]).error(), NO_KEY);
    assert_eq!(e.write("/con/b", 0, &[2; 512], &OTHER).error(), WRONG_KEY);
    let found = e.get("/con/b", &KEY).expect(200);
    assert_eq!((&found.body[..512], found.header(KEY[1].0)), (&[1; 512][..], KEY[1].1));
    // A read may leave the algorithm out, a write may not.
    e.get("/con/b", &KEY[..2]).expect(200);
    assert_eq!(e.write("/con/b", 0, &[2; 512], &KEY[..2]).error(), (400, "MissingRequiredHeader"));
}

#[test]
fn what_is_not_content_needs_no_key() {
    let e = emulator();
    assert_eq!(e.ranges("/con/b?comp=pagelist"), ["0-511"]);
    let lease = e.lease("/con/b", "acquire", &[("x-ms-lease-duration", "15")]).expect(201);
    let id = lease.header("x-ms-lease-id").to_owned();
    let raise = [
        ("x-ms-sequence-number-action", "max"),
        ("x-ms-blob-sequence-number", "3"),
        ("x-ms-lease-id", &*id),
    ];
    e.put("/con/b?comp=properties", &raise, b"").expect(200);
    let listed = e.get("/con?restype=container&comp=list", &[]).expect(200);
    assert_eq!(listed.elements("CustomerProvidedKeySha256"), [KEY[1].1]);
    e.delete("/con/b", &[("x-ms-lease-id", &id)]).expect(202);
}

#[test]
fn a_key_is_no_use_for_other_blobs_nor_for_copies() {
    let e = emulator();
    create(&e, "/con/plain", &[]).expect(201);
    let refused = (409, "BlobDoesNotUseCustomerSpecifiedEncryption");
    assert_eq!(e.get("/con/plain", &KEY).error(), refused);
    assert_eq!(e.write("/con/plain", 0, &[1; 512], &KEY).error(), refused);
    let source = |name: &str| {
        let resource = format!("con/{name}");
        let url = e.server.account_url("devstoreaccount1");
        assert!(url.starts_with("https://"), "{url}");
        format!("{url}/{resource}?{}", sas(&resource, "b", "r", FOREVER, ""))
    };
    let copy = |from: &str, more: &[(&str, &str)]| {
        let source = source(from);
        let headers = [
            ("x-ms-page-write", "update"),
            ("x-ms-copy-source", &*source),
            ("x-ms-range", "bytes=512-1023"),
            ("x-ms-source-range", "bytes=0-511"),
        ];
        e.put("/con/b?comp=page", &[&headers, more].concat(), b"")
    };
    // The key of the target is no key for the source.
    assert_eq!(copy("b", &KEY).error(), (409, "CannotVerifyCopySource"));
    assert_eq!(copy("plain", &[]).error(), NO_KEY);
    copy("plain", &KEY).expect(201);
    let whole = |more: &[(&str, &str)]| {
        let source = source("b");
        e.put("/con/c", &[&[("x-ms-copy-source", &*source)], more].concat(), b"")
    };
    assert_eq!(whole(&[]).error(), (409, "CannotVerifyCopySource"));
    assert_eq!(whole(&KEY).error(), (400, "UnsupportedHeader"));
}

#[test]
fn a_key_is_taken_over_tls_alone() {
    let e = Emulator::with_blob(1024);
    let answer = e.write("/con/b", 0, &[1; 512], &KEY);
    assert_eq!(answer.error(), (400, "InvalidHeaderValue"));
    assert!(!String::from_utf8_lossy(&answer.body).contains(KEY[0].1), "the key is never echoed");
}

#[test]
fn a_scope_is_kept_and_told() {
    let e = Emulator::with_container();
    const SCOPE: (&str, &str) = ("x-ms-encryption-scope", "finance");
    let created = create(&e, "/con/b", &[SCOPE]).expect(201);
    assert_eq!(created.header(SCOPE.0), SCOPE.1);
    assert_eq!(e.write("/con/b", 0, &[1; 512], &[SCOPE]).expect(201).header(SCOPE.0), SCOPE.1);
    assert_eq!(e.head("/con/b").expect(200).header(SCOPE.0), SCOPE.1);
    let listed = e.get("/con?restype=container&comp=list", &[]).expect(200);
    assert_eq!(listed.elements("EncryptionScope"), [SCOPE.1]);
    let both = [&KEY[..], &[SCOPE]].concat();
    assert_eq!(create(&e, "/con/c", &both).error().0, 400);
}
