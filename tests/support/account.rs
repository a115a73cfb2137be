//! The well-known account of the local servers, and as much of the protocol as preparing one takes.
//!
//! Written apart from the client under test, which must not be what prepares its own tests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The account that every emulator of the service knows.
pub(crate) const NAME: &str = "devstoreaccount1";
/// Its key, which is public.
pub(crate) const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// How long a server on this machine may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// A version that all of them accept.
const VERSION: &str = "2025-11-05";

/// The connection string of the account at an endpoint such as `http://127.0.0.1:10000/devstoreaccount1`.
pub(crate) fn connection_string(endpoint: &str) -> String {
    format!(
        "DefaultEndpointsProtocol=http;AccountName={NAME};AccountKey={KEY};BlobEndpoint={endpoint};"
    )
}

/// The blob endpoint that a connection string names, if it is one.
pub(crate) fn blob_endpoint(connection_string: &str) -> Option<&str> {
    connection_string
        .split(';')
        .find_map(|part| part.strip_prefix("BlobEndpoint="))
        .map(|endpoint| endpoint.trim_end_matches('/'))
}

/// Makes a container.
pub(crate) fn create_container(endpoint: &str, container: &str) {
    let authority = endpoint
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next())
        .expect("an http endpoint");
    let date = httpdate::fmt_http_date(SystemTime::now());
    // Eleven empty lines: the standard headers, none of which is sent with a value.
    let to_sign = format!(
        "PUT{}x-ms-date:{date}\nx-ms-version:{VERSION}\n/{NAME}/{NAME}/{container}\nrestype:container",
        "\n".repeat(12)
    );
    let key = BASE64.decode(KEY).expect("the key is base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length of key will do");
    mac.update(to_sign.as_bytes());
    let signature = BASE64.encode(mac.finalize().into_bytes());
    let request = format!(
        "PUT /{NAME}/{container}?restype=container HTTP/1.1\r\nHost: {authority}\r\n\
         x-ms-date: {date}\r\nx-ms-version: {VERSION}\r\nContent-Length: 0\r\n\
         Authorization: SharedKey {NAME}:{signature}\r\nConnection: close\r\n\r\n"
    );
    let answer = exchange(authority, &request)
        .unwrap_or_else(|error| panic!("no answer from {authority}: {error}"));
    assert!(answer.starts_with("HTTP/1.1 201 "), "container {container} was not made: {answer}");
}

/// Posts to one of the built-in server's own paths (`_clock?advance=60s`).
pub(crate) fn control(endpoint: &str, request: &str) {
    let authority = endpoint
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next())
        .expect("an http endpoint");
    let request = format!(
        "POST /{request} HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let answer = exchange(authority, &request)
        .unwrap_or_else(|error| panic!("no answer from {authority}: {error}"));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{request}: {answer}");
}

fn exchange(authority: &str, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(authority)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
