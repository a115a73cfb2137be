//! The client side of registries against the built-in one: every way in, redirects, tokens that end, answers
//! that lie.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ops::Range;
use std::time::Duration;

use blobdir::client::Config as ClientConfig;
use blobdir::client::oci::access::Credential;
use blobdir::client::oci::manifest::Manifest;
use blobdir::client::oci::name::Repository;
use blobdir::client::oci::registry::Registry;
use blobdir::emulator::registry::{Access, Config, Operation, Redirect, Server, User, start};
use blobdir::store::{Digest, ErrorKind, Result, Sink};
use url::Url;

struct Bench {
    server: Server,
    repository: Repository,
}

/// Bytes as they were confirmed.
#[derive(Default)]
struct Bytes {
    all: Vec<u8>,
    sure: usize,
}

impl Sink for Bytes {
    fn put(&mut self, piece: &[u8]) {
        self.all.extend_from_slice(piece);
    }
    fn confirm(&mut self) {
        self.sure = self.all.len();
    }
    fn retract(&mut self) {
        self.all.truncate(self.sure);
    }
}

fn noise(len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

impl Bench {
    async fn start(config: Config) -> Bench {
        let server = start(config).await.unwrap();
        Bench { server, repository: Repository::parse("team/app").unwrap() }
    }

    fn client(&self, credential: Credential) -> Registry {
        let url = Url::parse(&self.server.url()).unwrap();
        let config = ClientConfig { timeout: Duration::from_secs(20), connections: 4 };
        Registry::new(url, credential, config).unwrap()
    }

    fn blob(&self, bytes: &[u8]) -> Digest {
        self.server.push_blob("team/app", bytes).unwrap().parse().unwrap()
    }

    async fn read(
        &self,
        client: &Registry,
        digest: &Digest,
        len: u64,
        range: Range<u64>,
    ) -> Result<Vec<u8>> {
        let mut sink = Bytes::default();
        client.read(&self.repository, digest, len, range, &mut sink).await?;
        Ok(sink.all)
    }
}

fn me() -> Credential {
    Credential::of_user("me", "secret")
}

fn users() -> Vec<User> {
    vec![User::new("me", "secret"), User::new("other", "x").with_grants(&["repository:other:pull"])]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_manifests_and_blobs_are_read() {
    let bench = Bench::start(Config { page_size: 2, ..Config::default() }).await;
    let layers = [noise(100_000), noise(10)];
    let wanted: Digest = bench
        .server
        .push_image("team/app", "v1", &[&layers[0], &layers[1]])
        .unwrap()
        .parse()
        .unwrap();
    for tag in ["v2", "v3"] {
        bench.server.push_image("team/app", tag, &[&layers[0]]).unwrap();
    }
    let client = bench.client(Credential::Anonymous);
    client.ping().await.unwrap();
    let all = client.repositories(None, 100).await.unwrap();
    assert_eq!(all.names, ["team/app"]);

    let mut tags = Vec::new();
    let mut page = None;
    loop {
        let found = client.tags(&bench.repository, page, 2).await.unwrap();
        tags.extend(found.names);
        page = found.next;
        if page.is_none() {
            break;
        }
    }
    assert_eq!(tags, ["v1", "v2", "v3"]);

    let given = client.manifest(&bench.repository, "v1", None).await.unwrap().unwrap();
    assert_eq!(given.digest, wanted);
    let manifest = Manifest::parse(&given.media_type, &given.bytes).unwrap();
    assert_eq!(manifest.layers.len(), 2);
    let known = client.manifest(&bench.repository, "v1", Some(&wanted)).await.unwrap();
    assert!(known.is_none(), "it is what it was");
    let by_digest = client.manifest(&bench.repository, wanted.as_str(), None).await.unwrap();
    assert_eq!(by_digest.unwrap().bytes, given.bytes);

    let layer = &manifest.layers[0];
    let read = bench.read(&client, &layer.digest, layer.size, 7..70_000).await.unwrap();
    assert!(read == layers[0][7..70_000]);
    assert_eq!(client.blob_len(&bench.repository, &layer.digest).await.unwrap(), 100_000);
    let missing = client.manifest(&bench.repository, "nope", None).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let other = Digest::of(blobdir::store::Algorithm::Sha256, b"other");
    let missing = client.blob_len(&bench.repository, &other).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let wrong = bench.read(&client, &layer.digest, 5, 0..5).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Corrupt, "of another length than was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_in() {
    for access in [Access::Basic, Access::Token] {
        let bench = Bench::start(Config { access, users: users(), ..Config::default() }).await;
        let bytes = noise(5000);
        let digest = bench.blob(&bytes);
        let client = bench.client(me());
        client.ping().await.unwrap();
        assert_eq!(client.repositories(None, 10).await.unwrap().names, ["team/app"]);
        assert!(bench.read(&client, &digest, 5000, 0..5000).await.unwrap() == bytes);
        let before = bench.server.total_requests();
        assert!(bench.read(&client, &digest, 5000, 5..50).await.unwrap() == bytes[5..50]);
        assert_eq!(bench.server.total_requests(), before + 1, "once it is known how");

        for (user, password) in [("me", "wrong"), ("nobody", "x"), ("other", "x")] {
            let client = bench.client(Credential::of_user(user, password));
            let before = bench.server.total_requests();
            let error = bench.read(&client, &digest, 5000, 0..10).await.unwrap_err();
            let refused = [ErrorKind::PermissionDenied, ErrorKind::Unauthenticated];
            assert!(refused.contains(&error.kind()), "{access:?} {user}: {error}");
            let asked = bench.server.total_requests() - before;
            assert!(asked <= 8, "{access:?} {user}: {asked} requests are a loop");
            assert!(!error.to_string().contains(password) || password == "x", "{error}");
        }
        let nobody = bench.client(Credential::Anonymous);
        let error = bench.read(&nobody, &digest, 5000, 0..10).await.unwrap_err();
        let refused = [ErrorKind::PermissionDenied, ErrorKind::Unauthenticated];
        assert!(refused.contains(&error.kind()), "{access:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anonymous_pull_and_tokens_that_end() {
    let config = Config {
        access: Access::Token,
        users: users(),
        anonymous: vec!["repository:team/*:pull".to_owned()],
        ..Config::default()
    };
    let bench = Bench::start(config).await;
    let bytes = noise(5000);
    let digest = bench.blob(&bytes);
    for credential in [Credential::Anonymous, me()] {
        let client = bench.client(credential);
        assert!(bench.read(&client, &digest, 5000, 0..9).await.unwrap() == bytes[..9]);
        bench.server.advance_clock(Duration::from_secs(3 * 3600));
        assert!(bench.read(&client, &digest, 5000, 9..99).await.unwrap() == bytes[9..99]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_that_are_elsewhere() {
    let redirect = Some(Redirect { lifetime: Duration::from_secs(600), refuse_head: true });
    let config = Config { access: Access::Token, users: users(), redirect, ..Config::default() };
    let bench = Bench::start(config).await;
    let bytes = noise(300_000);
    let digest = bench.blob(&bytes);
    let client = bench.client(me());
    assert!(bench.read(&client, &digest, 300_000, 0..200_000).await.unwrap() == bytes[..200_000]);
    let asked = || bench.server.requests(Operation::GetBlob);
    let before = asked();
    assert!(
        bench.read(&client, &digest, 300_000, 200_000..300_000).await.unwrap() == bytes[200_000..]
    );
    assert_eq!(asked(), before, "the target of the redirect is kept");
    bench.server.advance_clock(Duration::from_secs(3600));
    assert!(bench.read(&client, &digest, 300_000, 1..9).await.unwrap() == bytes[1..9]);
    assert!(asked() > before, "an address that has ended is asked for again");
    assert_eq!(client.blob_len(&bench.repository, &digest).await.unwrap(), 300_000);
}
