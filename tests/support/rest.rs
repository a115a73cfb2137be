//! The few requests to a Blob service that tests need and the file system never makes, signed with the
//! emulators' public key.

#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used)] // a test that meets an error is to fail

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The public key of the emulators' account.
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// PUTs something; gives the status. `path` and `query` stand as they are sent; parameters are sorted.
pub(crate) async fn put(
    endpoint: &str,
    path: &str,
    query: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> u16 {
    let (host, base) = endpoint
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .expect("http://HOST:PORT/ACCOUNT");
    let date = httpdate::fmt_http_date(SystemTime::now());
    let mut ours = vec![("x-ms-date", &*date), ("x-ms-version", "2021-12-02")];
    ours.extend_from_slice(headers);
    ours.sort_unstable();
    let length = match body.len() {
        0 => String::new(),
        length => length.to_string(),
    };
    let mut text = format!("PUT\n\n\n{length}\n\n\n\n\n\n\n\n\n");
    for (name, value) in &ours {
        text.push_str(&format!("{name}:{value}\n"));
    }
    text.push_str(&format!("/{base}/{base}{path}"));
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        text.push_str(&format!("\n{}", pair.replacen('=', ":", 1)));
    }
    let key = STANDARD.decode(KEY).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(text.as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());

    let mut head = format!(
        "PUT /{base}{path}?{query} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Content-Length: {}\r\nAuthorization: SharedKey {base}:{signature}\r\n",
        body.len()
    );
    for (name, value) in &ours {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let line = String::from_utf8_lossy(&answer);
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
    status.unwrap_or_else(|| panic!("no status in {line:?}"))
}

/// A shared access signature for a container (`/disks`) or a blob of it (`/disks/a b`), as a query.
pub(crate) fn signature(path: &str, permissions: &str) -> String {
    const ACCOUNT: &str = "devstoreaccount1";
    const EXPIRY: &str = "2099-01-01T00:00:00Z";
    const VERSION: &str = "2021-12-02";
    let resource = if path[1..].contains('/') { "b" } else { "c" };
    let object = format!("/blob/{ACCOUNT}{path}");
    // Permissions, start, expiry, object, identifier, address, protocol, version, resource; then the
    // snapshot, the encryption scope and five headers.
    let fields = [permissions, "", EXPIRY, &object, "", "", "", VERSION, resource];
    let text = format!("{}{}", fields.join("\n"), "\n".repeat(7));
    let key = STANDARD.decode(KEY).expect("the key is base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length of key will do");
    mac.update(text.as_bytes());
    let mac = STANDARD.encode(mac.finalize().into_bytes());
    let mac = percent_encoding::utf8_percent_encode(&mac, percent_encoding::NON_ALPHANUMERIC);
    format!("sp={permissions}&se={EXPIRY}&sv={VERSION}&sr={resource}&sig={mac}")
}
