//! A server for one test, and a plain HTTP client.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blobdir::emulator::registry::{Access, Config, Server, User, start};
use sha2::{Digest, Sha256, Sha512};
use tokio::runtime::Runtime;

use crate::http::{Answer, receive};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A server that lives as long as its test.
pub(crate) struct Registry {
    pub(crate) server: Server,
    pub(crate) runtime: Runtime,
}

impl Registry {
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
        Self { server, runtime }
    }

    /// One that asks for tokens, with a user `u` and the password `p`.
    pub(crate) fn with_tokens() -> Self {
        Self::with(token_config())
    }

    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", path, headers, b"")
    }

    pub(crate) fn head(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("HEAD", path, headers, b"")
    }

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
        send_to(self.server.addr(), method, path, headers, body)
    }

    /// The bytes of a manifest.
    pub(crate) fn manifest(&self, repository: &str, reference: &str) -> Answer {
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.get(&path, &[("accept", &format!("{OCI_MANIFEST}, {OCI_INDEX}"))])
    }

    /// A blob that is uploaded in one piece; its digest.
    pub(crate) fn upload(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let begun = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"");
        let location = begun.expect(202).header("location").to_owned();
        let path = format!("{location}&digest={digest}");
        self.send("PUT", &path, &[], bytes).expect(201);
        digest
    }

    /// An access token that the service gives to user `u` for a scope.
    pub(crate) fn token(&self, scope: &str) -> String {
        let path = format!("/oauth2/token?service=registry&scope={scope}");
        let answer = self.get(&path, &[("authorization", &basic("u", "p"))]).expect(200);
        json(&answer)["access_token"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn token_config() -> Config {
    let users = vec![User::new("u", "p")];
    Config { access: Access::Token, users, ..Config::default() }
}

/// A request to any port, as it is.
pub(crate) fn send_to(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("content-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    receive(stream, method)
}

pub(crate) fn json(answer: &Answer) -> serde_json::Value {
    serde_json::from_slice(&answer.body).unwrap()
}

/// The code of the first error in the body.
pub(crate) fn code(answer: &Answer) -> String {
    json(answer)["errors"][0]["code"].as_str().unwrap().to_owned()
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

pub(crate) fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex(&Sha512::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes in which no two places of a few thousand look alike.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}
