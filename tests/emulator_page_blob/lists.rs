//! List Blobs: order, grouping, paging, names.

use blobdir::emulator::page_blob::Config;

use crate::client::{Answer, Emulator};

const NAMES: [&str; 7] = ["a", "a-b", "a/b/c", "a/d", "a/e", "b c/ü", "z&<>\""];

fn fill(e: &Emulator) {
    for name in NAMES {
        let path = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
        e.create(&format!("/con/{path}"), 512);
    }
}

fn unescape(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

/// All pages of a list: names, groups as well.
fn all(e: &Emulator, query: &str) -> (Vec<String>, usize, usize) {
    let (mut names, mut pages, mut empty) = (Vec::new(), 0, 0);
    let mut marker = String::new();
    loop {
        let path = format!("/con?restype=container&comp=list{query}{marker}");
        let answer = e.get(&path, &[]).expect(200);
        let found = answer.elements("Name");
        pages += 1;
        empty += usize::from(found.is_empty());
        names.extend(found.iter().map(|name| unescape(name)));
        match answer.elements("NextMarker").as_slice() {
            [next] if !next.is_empty() => marker = format!("&marker={next}"),
            _ => return (names, pages, empty),
        }
    }
}

#[test]
fn names_come_in_order_and_in_groups() {
    let e = Emulator::with_container();
    fill(&e);
    assert_eq!(all(&e, "").0, NAMES);
    assert_eq!(all(&e, "&prefix=a%2F").0, ["a/b/c", "a/d", "a/e"]);
    assert_eq!(all(&e, "&delimiter=%2F").0, ["a", "a-b", "a/", "b c/", "z&<>\""]);
    assert_eq!(all(&e, "&delimiter=%2F&prefix=a%2F").0, ["a/b/", "a/d", "a/e"]);
    assert_eq!(all(&e, "&prefix=nothing").0, [""; 0]);
    for size in 1..8 {
        let (names, pages, _) = all(&e, &format!("&maxresults={size}"));
        assert_eq!(names, NAMES);
        assert_eq!(pages, NAMES.len().div_ceil(size));
        let grouped = all(&e, &format!("&delimiter=%2F&maxresults={size}")).0;
        assert_eq!(grouped, ["a", "a-b", "a/", "b c/", "z&<>\""]);
    }
    // Groups of groups are the prefix that they were made of.
    let answer = e.get("/con?restype=container&comp=list&delimiter=%2F", &[]);
    assert_eq!(answer.text().matches("<BlobPrefix>").count(), 2);
}

#[test]
fn short_and_empty_pages_lose_nothing() {
    let e = Emulator::with(Config { short_pages: true, ..Config::default() });
    e.container("con");
    fill(&e);
    let (names, pages, empty) = all(&e, "");
    assert_eq!(names, NAMES);
    assert!(pages > 3 && empty > 0, "{pages} pages, {empty} of them empty");
    assert_eq!(all(&e, "&delimiter=%2F&maxresults=2").0, ["a", "a-b", "a/", "b c/", "z&<>\""]);
    e.create("/con/b", 8 << 20);
    e.write("/con/b", 0, &vec![1; 4 << 20], &[]).expect(201);
    // Page ranges come in pieces that nobody merged.
    let ranges = e.ranges("/con/b?comp=pagelist");
    assert_eq!(ranges[..2], ["0-1048575", "1048576-2097151"]);
}

fn list(e: &Emulator, query: &str) -> Answer {
    e.get(&format!("/con?restype=container&comp=list&{query}"), &[])
}

#[test]
fn entries_say_what_is_asked_for() {
    let e = Emulator::with_blob(1024);
    e.put("/con/b?comp=metadata", &[("x-ms-meta-k", "v")], b"").expect(200);
    let time = e.snapshot("/con/b");
    let plain = list(&e, "").expect(200);
    assert!(plain.body.starts_with(b"\xEF\xBB\xBF<?xml"));
    assert_eq!(plain.header("transfer-encoding"), "chunked");
    let etag = e.head("/con/b").etag();
    assert_eq!(plain.elements("Etag"), [etag.trim_matches('"')]);
    assert_eq!(plain.elements("Content-Length"), ["1024"]);
    assert_eq!(plain.elements("BlobType"), ["PageBlob"]);
    assert_eq!(plain.elements("x-ms-blob-sequence-number"), ["0"]);
    assert_eq!(plain.elements("LeaseState"), ["available"]);
    assert!(!plain.text().contains("<Metadata>"));
    let full = list(&e, "include=metadata%2Csnapshots").expect(200);
    assert_eq!(full.elements("Snapshot"), [time.as_str()]);
    assert_eq!(full.elements("Metadata"), ["<k>v</k>"; 2]);
    assert_eq!(full.elements("Name"), ["b", "b"]);
    let pages = all(&e, "&include=snapshots&maxresults=1");
    assert_eq!((pages.0.len(), pages.1), (2, 2));
}

#[test]
fn list_requests_are_checked() {
    let e = Emulator::with_container();
    let folded = "include=snapshots&delimiter=%2F";
    for bad in
        ["maxresults=0", "maxresults=-1", "maxresults=x", "marker=what", "include=all", folded]
    {
        assert_eq!(list(&e, bad).status, 400, "{bad}");
    }
    assert_eq!(e.get("/none?restype=container&comp=list", &[]).error(), (404, "ContainerNotFound"));
}
