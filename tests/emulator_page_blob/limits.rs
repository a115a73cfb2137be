//! Latency, rates, throttles, and the habits of the wire.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use blobdir::emulator::page_blob::{Config, Operation, Throttle};

use crate::client::Emulator;

fn with(config: Config) -> Emulator {
    let e = Emulator::with(config);
    e.container("con");
    e.create("/con/b", 4 << 20);
    e
}

#[test]
fn latency_is_added_to_every_request() {
    let e = with(Config { latency: Duration::from_millis(50), ..Config::default() });
    let begun = Instant::now();
    e.head("/con/b").expect(200);
    assert!(begun.elapsed() >= Duration::from_millis(50));
}

#[test]
fn a_connection_is_as_fast_as_it_is_allowed_to_be() {
    let e = with(Config { connection_rate: Some(8 << 20), ..Config::default() });
    let begun = Instant::now();
    e.write("/con/b", 0, &vec![1; 2 << 20], &[]).expect(201);
    let upload = begun.elapsed();
    e.read("/con/b", 0, 2 << 20);
    let download = begun.elapsed() - upload;
    for (name, took) in [("upload", upload), ("download", download)] {
        // A quarter of a second at the allowed rate, less what a burst may be ahead of it.
        assert!(took > Duration::from_millis(150), "{name} {took:?}");
    }
}

#[test]
fn a_blob_that_is_asked_too_much_is_busy() {
    let throttle = Throttle { requests: 50.0, bytes: 1e9 };
    let e = with(Config { throttle: Some(throttle), ..Config::default() });
    let statuses: Vec<u16> = (0..60).map(|_| e.get("/con/b?comp=metadata", &[]).status).collect();
    let refused = statuses.iter().filter(|status| **status == 503).count() as u64;
    assert!(refused > 10, "{statuses:?}");
    assert_eq!(e.server.throttled(), refused);
    // Another blob is not held up.
    e.create("/con/other", 512);
    std::thread::sleep(Duration::from_millis(100));
    e.head("/con/b").expect(200);
}

#[test]
fn what_is_asked_is_counted() {
    let e = with(Config::default());
    e.write("/con/b", 0, &[1; 4096], &[]).expect(201);
    e.read("/con/b", 0, 4096);
    e.read("/con/b", 0, 4096);
    assert_eq!(e.server.requests(Operation::PutPage), 1);
    assert_eq!(e.server.requests(Operation::GetBlob), 2);
    assert_eq!(e.server.total_requests(), 5);
    assert!(e.server.bytes_in() > 4096 && e.server.bytes_out() > 8192);
    let stats = e.control("GET", "/_stats", "");
    assert!(stats.contains("\"GetBlob\":2"), "{stats}");
}

#[test]
fn answers_echo_what_they_should() {
    let e = Emulator::with_blob(512);
    let id = "some visible characters";
    let answer = e.send("HEAD", "/con/b", &[("x-ms-client-request-id", id)], b"");
    assert_eq!(answer.header("x-ms-client-request-id"), id);
    let long = "x".repeat(1025);
    let answer = e.send("HEAD", "/con/b", &[("x-ms-client-request-id", &long)], b"");
    assert!(!answer.has("x-ms-client-request-id"));
    for version in ["2019-02-02", "2026-10-06"] {
        let answer = e.send("HEAD", "/con/b", &[("x-ms-version", version)], b"");
        assert_eq!(answer.header("x-ms-version"), version);
    }
    let unknown = e.send("GET", "/con/b", &[("x-ms-version", "2099-01-01")], b"");
    assert_eq!(unknown.error(), (400, "InvalidHeaderValue"));
    assert!(unknown.body.starts_with(b"\xEF\xBB\xBF<?xml"));
    assert_eq!(unknown.elements("HeaderName"), ["x-ms-version"]);
    let missing = e.get("/con/none", &[]);
    assert_eq!(missing.elements("Code"), ["BlobNotFound"]);
    let message = &missing.elements("Message")[0];
    assert!(message.contains(missing.header("x-ms-request-id")), "{message}");
}

#[test]
fn puts_need_a_length() {
    let e = Emulator::with_container();
    let mut stream = TcpStream::connect(e.addr()).unwrap();
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let own = [("x-ms-version", "2021-12-02"), ("x-ms-date", &*date)];
    let authorization = crate::client::sign("PUT", "/con?restype=container&comp=metadata", &own, 0);
    write!(
        stream,
        "PUT /devstoreaccount1/con?restype=container&comp=metadata HTTP/1.1\r\nhost: x\r\n\
         x-ms-version: 2021-12-02\r\nx-ms-date: {date}\r\nauthorization: {authorization}\r\n\
         connection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 411 "), "{answer}");
    assert!(answer.contains("MissingContentLengthHeader"));
}

#[test]
fn a_body_that_breaks_off_changes_nothing() {
    let e = Emulator::with_blob(8192);
    e.write("/con/b", 0, &[1; 8192], &[]).expect(201);
    let etag = e.head("/con/b").etag();
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let own = [
        ("x-ms-version", "2021-12-02"),
        ("x-ms-date", &*date),
        ("x-ms-page-write", "update"),
        ("x-ms-range", "bytes=0-8191"),
    ];
    let authorization = crate::client::sign("PUT", "/con/b?comp=page", &own, 8192);
    let mut stream = TcpStream::connect(e.addr()).unwrap();
    let mut head = String::from("PUT /devstoreaccount1/con/b?comp=page HTTP/1.1\r\nhost: x\r\n");
    for (name, value) in own {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("authorization: {authorization}\r\ncontent-length: 8192\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[2; 4096]).unwrap();
    drop(stream);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!((e.read("/con/b", 0, 8192), e.head("/con/b").etag()), (vec![1; 8192], etag));
}

#[test]
fn one_connection_serves_many_requests() {
    let e = Emulator::with_container();
    let public = [("x-ms-blob-public-access", "blob")];
    e.put("/pub?restype=container", &public, b"").expect(201);
    e.create("/pub/b", 512);
    let before = e.server.connections();
    let mut stream = TcpStream::connect(e.addr()).unwrap();
    for _ in 0..100 {
        stream.write_all(b"HEAD /devstoreaccount1/pub/b HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut buffer = [0; 4096];
        let mut have = 0;
        while !buffer[..have].ends_with(b"\r\n\r\n") {
            have += stream.read(&mut buffer[have..]).unwrap();
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200 OK"));
    }
    assert_eq!(e.server.connections(), before + 1);
}
