//! The page-blob backend against a server that misbehaves on order: what is retried, what is not, what
//! a request costs, and what users are told.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used)] // a test that meets an error is to fail

#[path = "support/rest.rs"]
mod rest;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blobdir::backend::{SourceRequest, scheme_of};
use blobdir::emulator::page_blob::{
    Action, Config, Operation, Rule, Server, WELL_KNOWN_ACCOUNT, WELL_KNOWN_KEY, start,
};
use blobdir::store::{
    Access, Blob, BlobMut, Error, ErrorKind, Kind, Opened, Outcome, RemotePath, Replace, Result,
    Retry, Store, all_extents, contract, read_all,
};
use bytes::Bytes;

use support::account;

const CONTAINER: &str = "disks";

/// A server with one container, and a mount of it.
struct Bench {
    server: Server,
    endpoint: String,
    store: Arc<dyn Store>,
}

impl Bench {
    async fn start() -> Bench {
        Bench::start_with(&[]).await
    }

    async fn start_with(options: &[(&str, &str)]) -> Bench {
        let server = start(Config::default()).await.unwrap();
        let endpoint = server.account_url(WELL_KNOWN_ACCOUNT);
        let to = endpoint.clone();
        // It blocks, and the server runs on this runtime.
        tokio::task::spawn_blocking(move || account::create_container(&to, CONTAINER))
            .await
            .unwrap();
        let store = connect(&format!("{endpoint}/{CONTAINER}"), options, &[]).await;
        Bench { server, endpoint, store: store.unwrap() }
    }

    fn inject(&self, operation: Operation, fault: Action, times: u64) {
        self.server.clear_faults();
        self.server.inject(Rule::new(operation, fault).times(times)).unwrap();
    }

    /// The requests of each operation that `work` takes.
    async fn cost<T>(&self, work: impl Future<Output = T>) -> (T, BTreeMap<&'static str, u64>) {
        let count = || Operation::ALL.iter().map(|op| self.server.requests(*op));
        let before: Vec<u64> = count().collect();
        let result = work.await;
        let cost = Operation::ALL
            .iter()
            .zip(count().zip(before))
            .filter(|(_, (now, before))| now > before)
            .map(|(op, (now, before))| (op.name(), now - before))
            .collect();
        (result, cost)
    }

    async fn blob(&self, name: &str, bytes: &[u8]) -> Arc<dyn BlobMut> {
        let blob = self.store.create(&path(name), Replace::Refused).await.unwrap();
        blob.set_len(bytes.len() as u64, false).await.unwrap();
        let mut padded = bytes.to_vec();
        padded.resize(blob.capacity() as usize, 0);
        for (n, piece) in padded.chunks(4 << 20).enumerate() {
            let piece = Bytes::copy_from_slice(piece);
            blob.write_at((n as u64) << 22, vec![piece]).await.unwrap();
        }
        blob
    }

    async fn reader(&self, name: &str) -> Arc<dyn Blob> {
        match self.store.open(&path(name), Access::Read).await.unwrap() {
            Opened::Read(blob) => blob,
            Opened::Update(_) => panic!("opened for reading"),
        }
    }

    async fn put(&self, name: &str, query: &str, headers: &[(&str, &str)], body: &[u8]) -> u16 {
        let path = format!("/{CONTAINER}/{name}");
        rest::put(&self.endpoint, &path, query, headers, body).await
    }
}

async fn connect(
    source: &str,
    options: &[(&str, &str)],
    env: &[(&str, &str)],
) -> Result<Arc<dyn Store>> {
    let options = options
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())))
        .collect();
    let env: BTreeMap<_, _> = env.iter().copied().collect();
    let scheme = scheme_of(source).unwrap();
    let backend = (scheme.parse)(&SourceRequest {
        source,
        options: &options,
        env: &|name| env.get(name).map(|value| (*value).to_owned()),
        timeout: Duration::from_secs(20),
        state_dir: Some(support::state_dir()),
    })
    .unwrap();
    backend.connect().await
}

fn path(text: &str) -> RemotePath {
    RemotePath::new(text).unwrap()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 512 * 31 + at) as u8).collect()
}

fn page() -> Vec<Bytes> {
    vec![Bytes::from(vec![0xAB; 512])]
}

fn status(status: u16, apply: bool) -> Action {
    Action::Status { status, code: None, apply, retry_after: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_survive_whatever_passes() {
    // With checksums a part that broke off is no use.
    let bench = Bench::start_with(&[("verify", "off")]).await;
    let content = bytes(300_000);
    bench.blob("f", &content).await;
    let reader = bench.reader("f").await;
    for fault in [
        Action::Reset { apply: false },
        Action::Truncate { bytes: 0 },
        Action::Truncate { bytes: 70_001 },
        Action::ShortBody { bytes: 1 },
        Action::LongBody { bytes: 512 },
        Action::WrongContentRange { shift: 512 },
        status(408, false),
        status(429, false),
        status(500, false),
        status(502, false),
        status(503, false),
        status(504, false),
    ] {
        bench.inject(Operation::GetBlob, fault.clone(), 2);
        let (got, cost) = bench.cost(read_all(&*reader, 1000..300_000)).await;
        assert_eq!(got.unwrap(), &content[1000..], "{fault:?}");
        assert_eq!(cost["GetBlob"], 3, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_read_goes_on_where_it_stopped() {
    let bench = Bench::start_with(&[("verify", "off")]).await;
    let content = bytes(1 << 20);
    bench.blob("f", &content).await;
    let reader = bench.reader("f").await;
    bench.inject(Operation::GetBlob, Action::Truncate { bytes: 500_000 }, 1);
    let before = bench.server.bytes_out();
    let got = read_all(&*reader, 0..1 << 20).await.unwrap();
    assert_eq!(got, content);
    let sent = bench.server.bytes_out() - before;
    assert!(sent < (1 << 20) + 100_000, "{sent} bytes were sent for 1 MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_stay_wrong_are_corrupt() {
    let bench = Bench::start().await;
    bench.blob("f", &bytes(4096)).await;
    let reader = bench.reader("f").await;
    bench.inject(Operation::GetBlob, Action::WrongContentRange { shift: 512 }, 100);
    let (got, cost) = bench.cost(read_all(&*reader, 0..2048)).await;
    assert_eq!(got.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(cost["GetBlob"], 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_that_make_no_sense_are_asked_for_again() {
    let bench = Bench::start().await;
    let blob = bench.blob("f", &bytes(4096)).await;
    for fault in [Action::ShortBody { bytes: 1 }, Action::Truncate { bytes: 100 }] {
        bench.inject(Operation::ListBlobs, fault.clone(), 1);
        let (stat, cost) = bench.cost(bench.store.stat(&path("f"))).await;
        assert_eq!((stat.unwrap().len, cost["ListBlobs"]), (4096, 2), "{fault:?}");
        bench.inject(Operation::GetPageRanges, fault.clone(), 1);
        let (ranges, cost) = bench.cost(all_extents(&*blob, 0..4096)).await;
        assert_eq!(ranges.unwrap(), std::slice::from_ref(&(0..4096)), "{fault:?}");
        assert_eq!(cost["GetPageRanges"], 2, "{fault:?}");
    }
    bench.inject(Operation::ListBlobs, Action::ShortBody { bytes: 1 }, 100);
    let (stat, cost) = bench.cost(bench.store.stat(&path("f"))).await;
    assert_eq!((stat.unwrap_err().kind(), cost["ListBlobs"]), (ErrorKind::Corrupt, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_changes_in_the_middle_is_stale() {
    let bench = Bench::start().await;
    let writer = bench.blob("f", &bytes(1 << 20)).await;
    let reader = bench.reader("f").await;
    bench.inject(Operation::GetBlob, Action::Truncate { bytes: 500_000 }, 1);
    // The rest is asked for after the blob has changed.
    bench.server.inject(Rule::new(Operation::GetBlob, Action::Delay { ms: 300 })).unwrap();
    let read = tokio::spawn(async move { read_all(&*reader, 0..1 << 20).await });
    tokio::time::sleep(Duration::from_millis(150)).await;
    writer.write_at(0, page()).await.unwrap();
    assert_eq!(read.await.unwrap().unwrap_err().kind(), ErrorKind::Stale);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_updates_are_sent_again_behind_a_fence_unless_surely_not_applied() {
    let bench = Bench::start().await;
    let blob = bench.blob("f", &bytes(4096)).await;
    for definite in [408, 429, 503] {
        bench.inject(Operation::PutPage, status(definite, false), 2);
        let (wrote, cost) = bench.cost(blob.write_at(0, page())).await;
        wrote.unwrap();
        assert_eq!(cost["PutPage"], 3, "{definite}");
    }
    for fault in [
        status(500, true),
        status(500, false),
        status(502, false),
        status(504, true),
        Action::Reset { apply: false },
        Action::Reset { apply: true },
    ] {
        bench.inject(Operation::PutPage, fault.clone(), 1);
        let (wrote, cost) = bench.cost(blob.write_at(0, page())).await;
        wrote.unwrap();
        let raised = BTreeMap::from([("PutPage", 2), ("SetBlobProperties", 1)]);
        assert_eq!(cost, raised, "{fault:?}");
    }
    bench.inject(Operation::ClearPages, status(500, false), 1);
    let (cleared, cost) = bench.cost(blob.clear(0..512)).await;
    cleared.unwrap();
    assert_eq!(cost, BTreeMap::from([("ClearPages", 2), ("SetBlobProperties", 1)]));
    bench.inject(Operation::PutPage, status(403, false), 1);
    let error = blob.write_at(0, page()).await.unwrap_err();
    assert_eq!((error.outcome(), error.retry()), (Outcome::NotApplied, Retry::Permanent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_the_length_survive_lost_answers() {
    let bench = Bench::start().await;
    let blob = bench.blob("f", &bytes(4096)).await;
    let mut len = 4096;
    for operation in [Operation::SetBlobProperties, Operation::SetBlobMetadata] {
        for fault in [
            status(500, true),
            status(500, false),
            status(503, false),
            Action::Reset { apply: true },
            Action::Reset { apply: false },
        ] {
            len += 700;
            bench.inject(operation, fault.clone(), 1);
            blob.set_len(len, false).await.unwrap();
            assert_eq!(blob.len(), len);
            let stat = bench.store.stat(&path("f")).await.unwrap();
            assert_eq!(stat.len, len, "{operation:?} {fault:?}");
            assert!(blob.continues(&stat.version.unwrap()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_duplicate_of_a_resize_does_no_harm() {
    let bench = Bench::start().await;
    let blob = bench.blob("f", &bytes(8192)).await;
    let late =
        Action::ApplyLate { ms: None, answer: blobdir::emulator::page_blob::LateAnswer::Reset };
    bench.inject(Operation::SetBlobProperties, late, 1);
    blob.set_len(1024, false).await.unwrap();
    blob.set_len(8192, false).await.unwrap();
    blob.write_at(4096, page()).await.unwrap();
    bench.server.release_held().await;
    let got = read_all(&*bench.reader("f").await, 0..8192).await.unwrap();
    assert_eq!(got[4096..4608], page()[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_survive_lost_answers() {
    let bench = Bench::start().await;
    let store = &bench.store;
    for (n, fault) in [status(500, true), Action::Reset { apply: true }].into_iter().enumerate() {
        let (a, b) = (path(&format!("a{n}")), path(&format!("b{n}")));
        bench.inject(Operation::PutBlob, fault.clone(), 1);
        // Nobody can tell whose it is, so the name counts as taken.
        let error = store.create(&a, Replace::Refused).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        bench.inject(Operation::PutBlob, fault.clone(), 1);
        store.create(&a, Replace::Allowed).await.unwrap();

        bench.inject(Operation::CopyBlob, fault.clone(), 1);
        store.rename(&a, &b, Replace::Refused).await.unwrap();
        assert_eq!(store.stat(&b).await.unwrap().kind, Kind::File);
        assert_eq!(store.stat(&a).await.unwrap_err().kind(), ErrorKind::NotFound);

        let version = store.stat(&b).await.unwrap().version;
        bench.inject(Operation::DeleteBlob, fault.clone(), 1);
        store.remove(&b, version.as_ref()).await.unwrap();
        store.create(&a, Replace::Refused).await.unwrap();
        bench.inject(Operation::DeleteBlob, fault, 1);
        store.remove(&a, None).await.unwrap();
        assert_eq!(store.stat(&a).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_calls_cost() {
    let bench = Bench::start().await;
    let blob = bench.blob("dir/f", &bytes(4096)).await;
    let one = |name: &'static str| BTreeMap::from([(name, 1)]);
    for name in ["dir/f", "dir", "none"] {
        let (_, cost) = bench.cost(bench.store.stat(&path(name))).await;
        assert_eq!(cost, one("ListBlobs"), "stat {name}");
    }
    let (_, cost) = bench.cost(bench.store.open(&path("dir/f"), Access::Read)).await;
    assert_eq!(cost, one("GetBlobProperties"));
    let (_, cost) = bench.cost(blob.set_len(1 << 20, false)).await;
    assert_eq!(cost, one("SetBlobProperties"), "whole pages need no mark");
    let (_, cost) = bench.cost(blob.set_len(1 << 20, false)).await;
    assert_eq!(cost, BTreeMap::new(), "nothing changes");
    let (_, cost) = bench.cost(blob.reserve(2 << 20)).await;
    let first = BTreeMap::from([("SetBlobMetadata", 1), ("SetBlobProperties", 1)]);
    assert_eq!(cost, first, "the first reserve");
    let (_, cost) = bench.cost(blob.reserve(4 << 20)).await;
    assert_eq!(cost, one("SetBlobProperties"), "later ones");
    let (_, cost) = bench.cost(blob.set_len(3 << 20, true)).await;
    assert_eq!(cost, one("SetBlobMetadata"));

    let writes = (0..8).map(|n| blob.write_at(n * 512, page()));
    for wrote in futures_util::future::join_all(writes).await {
        wrote.unwrap();
    }
    let (_, cost) = bench.cost(blob.set_len(1 << 20, true)).await;
    let settled = BTreeMap::from([("GetBlobProperties", 1), ("SetBlobMetadata", 1)]);
    assert_eq!(cost, settled, "after a burst the version is asked for");
    blob.write_at(0, page()).await.unwrap();
    let (_, cost) = bench.cost(blob.set_len(2 << 20, true)).await;
    assert_eq!(cost, one("SetBlobMetadata"), "after a single update it is known");
    let (new, cost) = bench.cost(bench.store.create(&path("new"), Replace::Allowed)).await;
    assert_eq!(cost, one("PutBlob"));
    let (_, cost) = bench.cost(new.unwrap().reserve(1 << 20)).await;
    let leased = BTreeMap::from([("LeaseBlob", 1)]);
    assert_eq!(cost, first.into_iter().chain(leased).collect(), "the lease, once more is to come");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_programs_are_noticed_and_respected() {
    let bench = Bench::start_with(&[("lease", "none")]).await;
    let blob = bench.blob("f", &bytes(700)).await;
    let stat = bench.store.stat(&path("f")).await.unwrap();
    let shown: BTreeMap<_, _> = stat.attributes.into_iter().collect();
    assert_eq!(shown["metadata.blobdirlength"], "700");
    assert_eq!(shown["size"], "1024");
    let number: u64 = shown["sequence_number"].parse().unwrap();
    let recently = 1_600_000_000_000_000;
    assert!(
        number > recently,
        "{number}: a blob that we create starts at the time in microseconds"
    );
    assert_eq!(shown["lease_state"], "available");
    assert_eq!(shown["blob_type"], "PageBlob");

    // Somebody who does not know the mark makes it longer.
    let longer = [("x-ms-blob-content-length", "4096")];
    assert_eq!(bench.put("f", "comp=properties", &longer, b"").await, 200);
    assert_eq!(bench.store.stat(&path("f")).await.unwrap().len, 4096);
    let error = blob.set_len(512, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);

    // Other metadata stays.
    let theirs = [("x-ms-meta-owner", "them"), ("x-ms-meta-b_1", "x")];
    assert_eq!(bench.put("f", "comp=metadata", &theirs, b"").await, 200);
    let Opened::Update(blob) = bench.store.open(&path("f"), Access::Update).await.unwrap() else {
        panic!("opened for updates");
    };
    blob.set_len(1000, false).await.unwrap();
    let stat = bench.store.stat(&path("f")).await.unwrap();
    let shown: BTreeMap<_, _> = stat.attributes.into_iter().collect();
    assert_eq!(shown["metadata.owner"], "them");
    assert_eq!(shown["metadata.b_1"], "x");
    assert_eq!(stat.len, 1000);

    // A lease of somebody else.
    let lease = [("x-ms-lease-action", "acquire"), ("x-ms-lease-duration", "60")];
    assert_eq!(bench.put("f", "comp=lease", &lease, b"").await, 201);
    let error = blob.write_at(0, page()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Busy, Outcome::NotApplied));
    assert!(error.to_string().contains("lease"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_of_other_types_are_read_only() {
    let bench = Bench::start().await;
    let block = [("x-ms-blob-type", "BlockBlob")];
    assert_eq!(bench.put("cat.jpg", "", &block, b"meow").await, 201);
    let stat = bench.store.stat(&path("cat.jpg")).await.unwrap();
    assert_eq!((stat.len, stat.read_only), (4, Some("block blob")));
    let reader = bench.reader("cat.jpg").await;
    assert_eq!(read_all(&*reader, 1..4).await.unwrap(), &b"eow"[..]);
    assert_eq!(all_extents(&*reader, 0..4).await.unwrap().len(), 1);
    let error = bench.store.open(&path("cat.jpg"), Access::Update).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    assert!(error.to_string().contains("block blob"), "{error}");

    // A marker as other tools make it, without a slash.
    let marker = [("x-ms-blob-type", "BlockBlob"), ("x-ms-meta-hdi_isfolder", "true")];
    assert_eq!(bench.put("theirs", "", &marker, b"").await, 201);
    let stat = bench.store.stat(&path("theirs")).await.unwrap();
    assert_eq!(stat.kind, Kind::Directory);
    bench.store.remove_dir(&path("theirs")).await.unwrap();
    assert!(bench.store.stat(&path("theirs")).await.is_err());

    // Names that no directory can show are left out.
    for name in ["/lost", "a//b", "ok"] {
        assert_eq!(bench.put(name, "", &block, b"x").await, 201, "{name}");
    }
    let page = bench.store.list(&RemotePath::root(), None).await.unwrap();
    let names: Vec<_> = page.entries.iter().map(|entry| &*entry.name).collect();
    assert_eq!(names, ["a", "cat.jpg", "ok"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_of_every_size() {
    let bench = Bench::start().await;
    bench.blob("vm/root.vhd", &bytes(700)).await;
    bench.blob("vm/root.vhd.old", &bytes(512)).await;

    let account = connect(&format!("{}/", bench.endpoint), &[], &[]).await.unwrap();
    let page = account.list(&RemotePath::root(), None).await.unwrap();
    let names: Vec<_> = page.entries.iter().map(|entry| &*entry.name).collect();
    assert_eq!(names, [CONTAINER]);
    let inner = format!("{CONTAINER}/vm/root.vhd");
    assert_eq!(account.stat(&path(&inner)).await.unwrap().len, 700);
    assert_eq!(account.stat(&path(CONTAINER)).await.unwrap().kind, Kind::Directory);
    for name in ["nosuch", ".Trash-0", "nosuch/x"] {
        let error = account.stat(&path(name)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{name}");
    }
    for refused in [
        account.make_dir(&path("newone")).await.unwrap_err(),
        account.remove_dir(&path(CONTAINER)).await.unwrap_err(),
    ] {
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    }

    let below = format!("{}/{CONTAINER}/vm", bench.endpoint);
    let below = connect(&below, &[], &[]).await.unwrap();
    assert_eq!(below.stat(&path("root.vhd")).await.unwrap().len, 700);

    let one = format!("{}/{CONTAINER}/vm/root.vhd", bench.endpoint);
    let one = connect(&one, &[], &[]).await.unwrap();
    let page = one.list(&RemotePath::root(), None).await.unwrap();
    assert_eq!(page.entries.len(), 1);
    assert_eq!((&*page.entries[0].name, page.entries[0].stat.len), ("root.vhd", 700));
    assert_eq!(one.stat(&path("root.vhd")).await.unwrap().len, 700);
    let error = one.stat(&path("root.vhd.old")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(one.create(&path("other"), Replace::Refused).await.is_err());
}

/// The error of a mount that cannot be, and how long it took to tell.
async fn refusal(
    source: &str,
    options: &[(&str, &str)],
    env: &[(&str, &str)],
) -> (Error, Duration) {
    let started = Instant::now();
    let error = connect(source, options, env).await.expect_err("this cannot be mounted");
    (error, started.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_cannot_be_says_why_at_once() {
    let bench = Bench::start().await;
    let source = format!("az://{WELL_KNOWN_ACCOUNT}/{CONTAINER}");
    let endpoint = [("endpoint", &*bench.endpoint)];
    let key = [("AZURE_STORAGE_KEY", WELL_KNOWN_KEY)];
    assert!(connect(&source, &endpoint, &key).await.is_ok());

    let wrong = [("AZURE_STORAGE_KEY", "d3Jvbmc=")];
    let (error, _) = refusal(&source, &endpoint, &wrong).await;
    assert!(
        matches!(error.kind(), ErrorKind::Unauthenticated | ErrorKind::PermissionDenied),
        "{error:?}"
    );
    let text = error.to_string();
    for word in [WELL_KNOWN_ACCOUNT, "AZURE_STORAGE_KEY", "clock"] {
        assert!(text.contains(word), "{text}");
    }

    let missing = format!("az://{WELL_KNOWN_ACCOUNT}/nosuch");
    for source in [missing.clone(), format!("{missing}/dir")] {
        let (error, _) = refusal(&source, &endpoint, &key).await;
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("no such container"), "{error}");
    }

    // Nobody listens at port 1.
    let closed = [("endpoint", "http://127.0.0.1:1")];
    let (error, took) = refusal(&source, &closed, &key).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(text.contains("127.0.0.1:1") && text.contains("refused"), "{text}");
    assert!(took < Duration::from_secs(2), "{took:?}");

    let unknown = [("endpoint", "http://no-such-host.invalid:80/devstoreaccount1")];
    let (error, took) = refusal(&source, &unknown, &key).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
    assert!(took < Duration::from_secs(15), "{took:?}");

    let sas = format!("{}/{CONTAINER}?sv=2021-12-02&sr=c&sp=rl&sig=c2VjcmV0", bench.endpoint);
    let (error, _) = refusal(&sas, &[], &[]).await;
    let text = error.to_string();
    assert!(text.contains("shared access signature"), "{text}");
    assert!(!text.contains("c2VjcmV0"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_for_all_a_container_can() {
    let bench = Bench::start().await;
    let query = rest::signature(&format!("/{CONTAINER}"), "racwdl");
    let source = format!("{}/{CONTAINER}?{query}", bench.endpoint);
    let store = connect(&source, &[], &[]).await.unwrap();
    contract::run(store, &path("signed"), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_that_allow_little() {
    let bench = Bench::start().await;
    let content = bytes(700);
    bench.blob("vm/a b", &content).await;

    // One blob, which cannot be listed.
    let query = rest::signature(&format!("/{CONTAINER}/vm/a b"), "r");
    let source = format!("{}/{CONTAINER}/vm/a%20b?{query}", bench.endpoint);
    let store = connect(&source, &[], &[]).await.unwrap();
    let entries = store.list(&RemotePath::root(), None).await.unwrap().entries;
    assert_eq!(entries.len(), 1);
    assert_eq!((&*entries[0].name, entries[0].stat.len), ("a b", 700));
    contract::reads_as(&*store, &path("a b"), &content).await;
    let error = store.open(&path("a b"), Access::Update).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::PermissionDenied, Outcome::NotApplied));
    assert!(!error.to_string().contains("sig="), "{error}");

    // A container that can be read and not listed cannot be mounted whole.
    let query = rest::signature(&format!("/{CONTAINER}"), "r");
    let source = format!("{}/{CONTAINER}?{query}", bench.endpoint);
    let (error, _) = refusal(&source, &[], &[]).await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("list"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_list_that_takes_too_long_is_asked_for_in_parts() {
    let bench = Bench::start().await;
    let blob = bench.blob("f", b"").await;
    blob.set_len(64 << 20, false).await.unwrap();
    for n in 0..16 {
        blob.write_at(n << 22, page()).await.unwrap();
    }
    let slow = Action::Status {
        status: 500,
        code: Some("OperationTimedOut".to_owned()),
        apply: false,
        retry_after: None,
    };
    // Two attempts for each of two windows.
    bench.inject(Operation::GetPageRanges, slow, 4);
    let found = all_extents(&*blob, 0..64 << 20).await.unwrap();
    let expected: Vec<_> = (0..16u64).map(|n| n << 22..(n << 22) + 512).collect();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_falls_silent_is_left_for_another_connection() {
    let bench = Bench::start().await;
    let content = bytes(200_000);
    bench.blob("f", &content).await;
    let reader = bench.reader("f").await;
    bench.inject(Operation::GetBlob, Action::StallBody { bytes: 100_000 }, 1);
    let started = Instant::now();
    assert_eq!(read_all(&*reader, 0..200_000).await.unwrap(), content);
    assert!(started.elapsed() >= Duration::from_secs(5), "the fault was played");

    bench.inject(Operation::PutPage, Action::Stall { apply: true }, 1);
    let Opened::Update(blob) = bench.store.open(&path("f"), Access::Update).await.unwrap() else {
        panic!("opened for updates");
    };
    let error = blob.write_at(0, page()).await.unwrap_err();
    // Whatever becomes of it, nothing else is sent there before the epoch has been raised.
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::TimedOut, Outcome::NotApplied));
}
