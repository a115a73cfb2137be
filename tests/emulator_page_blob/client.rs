//! A server for one test, and a plain HTTP client that signs for itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blobdir::emulator::page_blob::{Config, Server, Tls, WELL_KNOWN_KEY, start};
use hmac::{Hmac, KeyInit, Mac};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sha2::Sha256;
use tokio::runtime::Runtime;

pub(crate) use crate::http::Answer;
use crate::http::receive;
use crate::tls::Identity;

pub(crate) const ACCOUNT: &str = "devstoreaccount1";
pub(crate) const VERSION: &str = "2021-12-02";

/// A server that lives as long as its test.
pub(crate) struct Emulator {
    pub(crate) server: Server,
    pub(crate) runtime: Runtime,
    /// What it takes to trust it, if it serves HTTPS.
    trust: Option<Arc<ClientConfig>>,
}

/// A connection, with or without TLS.
trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

impl Answer {
    /// Status and error code, the two that most tests are about.
    pub(crate) fn error(&self) -> (u16, &str) {
        (self.status, self.header("x-ms-error-code"))
    }

    pub(crate) fn etag(&self) -> String {
        self.header("etag").to_owned()
    }

    /// The contents of every element of this name, in order.
    pub(crate) fn elements(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let parts = self.text().split(&open).skip(1);
        parts.map(|part| part.split(&close).next().unwrap().to_owned()).collect()
    }
}

impl Emulator {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let server = runtime.block_on(start(config)).unwrap();
        Self { server, runtime, trust: None }
    }

    /// One that serves HTTPS.
    pub(crate) fn with_tls() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let identity = Identity::new(scratch.path());
        let tls = Tls { certificate: identity.certificate, key: identity.key };
        let mut emulator = Self::with(Config { tls: Some(tls), ..Config::default() });
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&identity.authority).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        emulator.trust = Some(Arc::new(config));
        emulator
    }

    fn connect(&self) -> std::io::Result<Box<dyn Connection>> {
        let stream = TcpStream::connect(self.addr())?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let Some(trust) = &self.trust else { return Ok(Box::new(stream)) };
        let name = ServerName::IpAddress(self.addr().ip().into());
        let connection = ClientConnection::new(Arc::clone(trust), name).unwrap();
        Ok(Box::new(StreamOwned::new(connection, stream)))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    pub(crate) fn shutdown(&self) {
        self.runtime.block_on(self.server.shutdown());
    }

    /// A container `con` that is there.
    pub(crate) fn with_container() -> Self {
        let emulator = Self::new();
        emulator.container("con");
        emulator
    }

    pub(crate) fn container(&self, name: &str) {
        self.put(&format!("/{name}?restype=container"), &[], b"").expect(201);
    }

    /// A page blob at `/con/b` of this size.
    pub(crate) fn with_blob(size: u64) -> Self {
        let emulator = Self::with_container();
        emulator.create("/con/b", size);
        emulator
    }

    pub(crate) fn create(&self, path: &str, size: u64) -> Answer {
        let size = size.to_string();
        let headers = [("x-ms-blob-type", "PageBlob"), ("x-ms-blob-content-length", &*size)];
        self.put(path, &headers, b"").expect(201)
    }

    pub(crate) fn put(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.send("PUT", path, headers, body)
    }

    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", path, headers, b"")
    }

    pub(crate) fn head(&self, path: &str) -> Answer {
        self.send("HEAD", path, &[], b"")
    }

    pub(crate) fn delete(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("DELETE", path, headers, b"")
    }

    /// Put Page at `start`.
    pub(crate) fn write(
        &self,
        path: &str,
        start: u64,
        body: &[u8],
        more: &[(&str, &str)],
    ) -> Answer {
        let range = format!("bytes={start}-{}", start + body.len() as u64 - 1);
        let mut headers = vec![("x-ms-page-write", "update"), ("x-ms-range", &*range)];
        headers.extend(more);
        self.put(&with_query(path, "comp=page"), &headers, body)
    }

    /// Clear Pages from `start` to `end`.
    pub(crate) fn clear(&self, path: &str, start: u64, end: u64, more: &[(&str, &str)]) -> Answer {
        let range = format!("bytes={start}-{}", end - 1);
        let mut headers = vec![("x-ms-page-write", "clear"), ("x-ms-range", &*range)];
        headers.extend(more);
        self.put(&with_query(path, "comp=page"), &headers, b"")
    }

    pub(crate) fn read(&self, path: &str, start: u64, end: u64) -> Vec<u8> {
        let range = format!("bytes={start}-{}", end - 1);
        self.get(path, &[("x-ms-range", &range)]).expect(206).body
    }

    pub(crate) fn snapshot(&self, path: &str) -> String {
        let answer = self.put(&with_query(path, "comp=snapshot"), &[], b"").expect(201);
        answer.header("x-ms-snapshot").to_owned()
    }

    pub(crate) fn lease(&self, path: &str, action: &str, more: &[(&str, &str)]) -> Answer {
        let mut headers = vec![("x-ms-lease-action", action)];
        headers.extend(more);
        self.put(&with_query(path, "comp=lease"), &headers, b"")
    }

    /// Ranges of a page list, with `!` before those that were cleared.
    pub(crate) fn ranges(&self, path: &str) -> Vec<String> {
        let answer = self.get(path, &[]).expect(200);
        ranges_of(&answer)
    }

    /// A request signed with the account's key, on a connection of its own.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.try_send(method, path, headers, body).expect("an answer")
    }

    pub(crate) fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let date = httpdate::fmt_http_date(SystemTime::now());
        let mut all = vec![("x-ms-version", VERSION), ("x-ms-date", &*date)];
        all.retain(|(name, _)| !headers.iter().any(|(given, _)| given == name));
        all.extend(headers);
        let authorization = sign(method, path, &all, body.len());
        all.push(("authorization", &authorization));
        self.raw(method, path, &all, body)
    }

    /// A request that is sent as it is.
    pub(crate) fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut stream = self.connect()?;
        let mut head = format!("{method} /{ACCOUNT}{path} HTTP/1.1\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("host: {}\r\nconnection: close\r\n", self.addr());
        if method == "PUT" && !headers.iter().any(|header| header.0 == "content-length") {
            head += &format!("content-length: {}\r\n", body.len());
        }
        stream.write_all((head + "\r\n").as_bytes())?;
        stream.write_all(body)?;
        receive(stream, method)
    }

    /// A request to one of the server's own paths.
    pub(crate) fn control(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = self.connect().unwrap();
        let len = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n"
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        receive(stream, method).unwrap().text().to_owned()
    }
}

pub(crate) fn ranges_of(answer: &Answer) -> Vec<String> {
    let text = answer.text().replace("<ClearRange><Start>", "<ClearRange><Start>!");
    let starts = text.split("<Start>").skip(1);
    let parts = starts.map(|part| {
        let (start, rest) = part.split_once("</Start><End>").unwrap();
        format!("{start}-{}", rest.split_once("</End>").unwrap().0)
    });
    parts.collect()
}

pub(crate) fn with_query(path: &str, parameter: &str) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}{parameter}")
}

/// `Authorization` by the account's key.
pub(crate) fn sign(method: &str, path: &str, headers: &[(&str, &str)], len: usize) -> String {
    let get = |name: &str| headers.iter().find(|h| h.0 == name).map_or("", |h| h.1);
    let len = if len == 0 { String::new() } else { len.to_string() };
    let mut text = format!("{method}\n{}\n{}\n", get("content-encoding"), get("content-language"));
    text += &format!("{len}\n{}\n{}\n\n", get("content-md5"), get("content-type"));
    text += &format!("{}\n{}\n", get("if-modified-since"), get("if-match"));
    text += &format!("{}\n{}\n", get("if-none-match"), get("if-unmodified-since"));
    text += &format!("{}\n", get("range"));
    let mut own: Vec<_> = headers.iter().filter(|h| h.0.starts_with("x-ms-")).collect();
    own.sort();
    for (name, value) in own {
        text += &format!("{name}:{value}\n");
    }
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    text += &format!("/{ACCOUNT}/{ACCOUNT}{path}");
    let mut pairs: Vec<_> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    pairs.sort_unstable();
    for pair in pairs {
        let (name, value) = pair.split_once('=').unwrap();
        let value = percent_encoding::percent_decode_str(value).decode_utf8().unwrap();
        text += &format!("\n{name}:{value}");
    }
    format!("SharedKey {ACCOUNT}:{}", mac(&text))
}

/// Base64 of the HMAC with the account's key.
pub(crate) fn mac(text: &str) -> String {
    let key = STANDARD.decode(WELL_KNOWN_KEY).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(text.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// The query of a service SAS. `resource` is `container[/blob]`.
pub(crate) fn sas(
    resource: &str,
    sr: &str,
    permissions: &str,
    expiry: &str,
    snapshot: &str,
) -> String {
    let canonical = format!("/blob/{ACCOUNT}/{resource}");
    let fields = [
        permissions,
        "",
        expiry,
        &canonical,
        "",
        "",
        "",
        VERSION,
        sr,
        snapshot,
        "",
        "",
        "",
        "",
        "",
        "",
    ];
    let signature = mac(&fields.join("\n"));
    let signature =
        percent_encoding::utf8_percent_encode(&signature, percent_encoding::NON_ALPHANUMERIC);
    format!("sv={VERSION}&sr={sr}&sp={permissions}&se={expiry}&sig={signature}")
}

pub(crate) const FOREVER: &str = "2099-01-01T00:00:00Z";
