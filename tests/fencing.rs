//! The sole writer of a page blob against a server that loses answers, applies requests late and forgets
//! leases: nothing that was acknowledged is ever undone, and who is not the writer any more changes nothing.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used)] // a test that meets an error is to fail

#[path = "support/rest.rs"]
mod rest;
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blobdir::backend::{Backend, SourceRequest, scheme_of};
use blobdir::emulator::page_blob::{
    Action, Config, LateAnswer, Operation, Rule, Server, WELL_KNOWN_ACCOUNT, start,
};
use blobdir::store::{
    Access, BlobMut, Error, ErrorKind, Opened, Outcome, RemotePath, Replace, Result, Retry, Store,
    read_all,
};
use bytes::Bytes;
use futures_util::future::join_all;
use tempfile::TempDir;

use support::account;

const CONTAINER: &str = "disks";
/// A lease of somebody else.
const THEIRS: &str = "11111111-2222-3333-4444-555555555555";
/// One sector.
const SECTOR: u64 = 512;

/// A server, and hosts that mount it.
struct Bench {
    server: Server,
    endpoint: String,
}

impl Bench {
    async fn start() -> Bench {
        let server = start(Config::default()).await.unwrap();
        let endpoint = server.account_url(WELL_KNOWN_ACCOUNT);
        let to = endpoint.clone();
        // It blocks, and the server runs on this runtime.
        tokio::task::spawn_blocking(move || account::create_container(&to, CONTAINER))
            .await
            .unwrap();
        Bench { server, endpoint }
    }

    async fn host(&self, state: &Path, options: &[(&str, &str)]) -> Arc<dyn Store> {
        self.backend(state, options).connect().await.unwrap()
    }

    fn backend(&self, state: &Path, options: &[(&str, &str)]) -> Box<dyn Backend> {
        backend(&format!("{}/{CONTAINER}", self.endpoint), state, options, 20)
    }

    fn inject(&self, operation: Operation, fault: Action, times: u64) {
        self.server.inject(Rule::new(operation, fault).times(times)).unwrap();
    }

    fn count(&self, operation: Operation) -> u64 {
        self.server.requests(operation)
    }

    async fn lease(&self, name: &str, action: &str, id: &str) -> u16 {
        let which = if action == "acquire" { "x-ms-proposed-lease-id" } else { "x-ms-lease-id" };
        let mut headers = vec![("x-ms-lease-action", action), (which, id)];
        if action == "acquire" {
            headers.push(("x-ms-lease-duration", "60"));
        }
        self.put(name, "comp=lease", &headers, b"").await
    }

    async fn put(&self, name: &str, query: &str, headers: &[(&str, &str)], body: &[u8]) -> u16 {
        let path = format!("/{CONTAINER}/{name}");
        rest::put(&self.endpoint, &path, query, headers, body).await
    }
}

fn backend(source: &str, state: &Path, options: &[(&str, &str)], timeout: u64) -> Box<dyn Backend> {
    let options = options
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())))
        .collect();
    (scheme_of(source).unwrap().parse)(&SourceRequest {
        source,
        options: &options,
        env: &|_| None,
        timeout: Duration::from_secs(timeout),
        state_dir: Some(state),
    })
    .unwrap()
}

fn path(text: &str) -> RemotePath {
    RemotePath::new(text).unwrap()
}

fn sectors(value: u8, count: u64) -> Vec<Bytes> {
    vec![Bytes::from(vec![value; (count * SECTOR) as usize])]
}

fn late() -> Action {
    Action::ApplyLate { ms: None, answer: LateAnswer::TimedOut }
}

fn status(status: u16, apply: bool) -> Action {
    Action::Status { status, code: None, apply, retry_after: None }
}

/// A blob of so many sectors of zeros.
async fn create(store: &Arc<dyn Store>, name: &str, count: u64) -> Arc<dyn BlobMut> {
    let blob = store.create(&path(name), Replace::Refused).await.unwrap();
    blob.set_len(count * SECTOR, false).await.unwrap();
    blob
}

async fn update(store: &Arc<dyn Store>, name: &str) -> Result<Arc<dyn BlobMut>> {
    match store.open(&path(name), Access::Update).await? {
        Opened::Update(blob) => Ok(blob),
        Opened::Read(_) => panic!("opened for updates"),
    }
}

/// The first byte of each sector.
async fn content(store: &Arc<dyn Store>, name: &str) -> Vec<u8> {
    let Opened::Read(blob) = store.open(&path(name), Access::Read).await.unwrap() else {
        panic!("opened for reading");
    };
    let all = read_all(&*blob, 0..blob.len()).await.unwrap();
    all.chunks(SECTOR as usize).map(|sector| sector[0]).collect()
}

fn assert_fenced(error: &Error) {
    let shown = (error.kind(), error.retry(), error.outcome());
    assert_eq!(shown, (ErrorKind::Fenced, Retry::Permanent, Outcome::NotApplied), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_original_undoes_nothing() {
    let bench = Bench::start().await;
    let state = TempDir::new().unwrap();
    let leases = [&[][..], &[("lease", "none")], &[("lease", "infinite")]];
    // With a lease from the beginning, and in the flush of a blob that is closed before it has one.
    let cases = leases.iter().flat_map(|options| [(options, false), (options, true)]);
    for (n, (options, closing)) in cases.enumerate() {
        let store = bench.host(state.path(), options).await;
        let name = format!("f{n}");
        let blob = store.create(&path(&name), Replace::Refused).await.unwrap();
        if closing {
            blob.set_closing(true);
        }
        blob.set_len(8 * SECTOR, false).await.unwrap();
        bench.inject(Operation::PutPage, late(), 1);
        blob.write_at(0, sectors(b'X', 1)).await.unwrap();
        blob.write_at(0, sectors(b'Y', 1)).await.unwrap();
        // Clears, and writes that overlap them.
        bench.inject(Operation::ClearPages, late(), 1);
        blob.clear(SECTOR..3 * SECTOR).await.unwrap();
        blob.write_at(SECTOR, sectors(b'Z', 2)).await.unwrap();
        bench.inject(Operation::PutPage, late(), 1);
        blob.write_at(3 * SECTOR, sectors(b'X', 2)).await.unwrap();
        blob.clear(4 * SECTOR..5 * SECTOR).await.unwrap();
        let expected = *b"YZZX\0\0\0\0";
        assert_eq!(content(&store, &name).await, expected);
        assert_eq!(bench.server.release_held().await, 3);
        assert_eq!(content(&store, &name).await, expected, "{options:?} {closing}");
        blob.close().await.unwrap();
    }
}

/// The same by hand, without conditions: it is the fence that helps, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_fence_a_late_original_undoes_newer_bytes() {
    let bench = Bench::start().await;
    let state = TempDir::new().unwrap();
    let store = bench.host(state.path(), &[("lease", "none")]).await;
    create(&store, "f", 1).await;
    let write = [("x-ms-page-write", "update"), ("x-ms-range", "bytes=0-511")];
    bench.inject(Operation::PutPage, late(), 1);
    assert_eq!(bench.put("f", "comp=page", &write, &[b'X'; 512]).await, 500);
    assert_eq!(bench.put("f", "comp=page", &write, &[b'X'; 512]).await, 201);
    assert_eq!(bench.put("f", "comp=page", &write, &[b'Y'; 512]).await, 201);
    assert_eq!(content(&store, "f").await, b"Y");
    bench.server.release_held().await;
    assert_eq!(content(&store, "f").await, b"X", "the damage");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_in_flight_and_a_raise_that_is_delayed_and_doubled() {
    let bench = Bench::start().await;
    let state = TempDir::new().unwrap();
    let store = bench.host(state.path(), &[]).await;
    let blob = create(&store, "f", 64).await;
    for round in 1..=4u8 {
        bench.server.clear_faults();
        bench.server.inject(Rule::new(Operation::PutPage, late()).after(5).times(3)).unwrap();
        bench
            .server
            .inject(Rule::new(Operation::PutPage, Action::Delay { ms: 100 }).after(1).times(2))
            .unwrap();
        match round {
            1 => bench.inject(Operation::SetBlobProperties, late(), 2),
            2 => bench.inject(Operation::SetBlobProperties, status(500, true), 2),
            3 => bench.inject(Operation::SetBlobProperties, Action::Delay { ms: 200 }, 1),
            _ => bench.inject(Operation::SetBlobProperties, Action::Reset { apply: false }, 2),
        }
        let writes = (0..32).map(|n| blob.write_at(2 * n * SECTOR, sectors(round, 2)));
        for wrote in join_all(writes).await {
            wrote.unwrap();
        }
        assert_eq!(content(&store, "f").await, [round; 64], "round {round}");
        bench.server.release_held().await;
        assert_eq!(content(&store, "f").await, [round; 64], "round {round}, when all has arrived");
        // A late raise gives the blob another version, which is not somebody else's.
        blob.set_len((64 - u64::from(round)) * SECTOR, false).await.unwrap();
        blob.set_len(64 * SECTOR, false).await.unwrap();
    }
    blob.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_in_ten_fails() {
    const BLOCK: u64 = 8 * SECTOR;
    let bench = Bench::start().await;
    let state = TempDir::new().unwrap();
    let store = bench.host(state.path(), &[]).await;
    let blob = create(&store, "f", 32 * 8).await;
    let faults = [
        status(408, false),
        status(429, false),
        status(500, true),
        status(500, false),
        status(502, true),
        status(503, false),
        status(504, false),
        Action::Reset { apply: true },
        Action::Reset { apply: false },
        Action::Delay { ms: 30 },
        Action::ApplyLate { ms: Some(150), answer: LateAnswer::Reset },
        Action::ApplyLate { ms: None, answer: LateAnswer::TimedOut },
    ];
    for fault in &faults {
        let share = 0.1 / faults.len() as f64;
        let rule = Rule {
            operation: None,
            blob: Some(format!("{CONTAINER}/f")),
            skip: 0,
            count: None,
            probability: share,
            fault: fault.clone(),
        };
        bench.server.inject(rule).unwrap();
    }
    let mut expected = [0u8; 32];
    for round in 0..20u8 {
        let blob = &blob;
        let updates = (0..16u64).map(|n| {
            let at = (u64::from(round) * 7 + n) % 32;
            let clears = (u64::from(round) + n).is_multiple_of(5);
            expected[at as usize] = if clears { 0 } else { round + 1 };
            async move {
                if clears {
                    blob.clear(at * BLOCK..(at + 1) * BLOCK).await
                } else {
                    blob.write_at(at * BLOCK, sectors(round + 1, 8)).await
                }
            }
        });
        let updates: Vec<_> = updates.collect();
        for done in join_all(updates).await {
            done.unwrap();
        }
        if round % 4 == 3 {
            blob.set_len((32 * 8 + u64::from(round)) * SECTOR, true).await.unwrap();
        }
    }
    blob.set_len(32 * BLOCK, false).await.unwrap();
    let played: u64 = bench.server.faults().iter().map(|rule| rule.injected).sum();
    assert!(played > 20, "{played}");
    bench.server.clear_faults();
    tokio::time::sleep(Duration::from_millis(200)).await;
    bench.server.release_held().await;
    let got = content(&store, "f").await;
    assert!(got.chunks(8).all(|block| block.iter().all(|byte| *byte == block[0])));
    assert_eq!(got.iter().step_by(8).copied().collect::<Vec<_>>(), expected);
    blob.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_passes_leaves_a_file_that_recovers() {
    let bench = Bench::start().await;
    let state = TempDir::new().unwrap();
    let source = format!("{}/{CONTAINER}", bench.endpoint);
    let store = backend(&source, state.path(), &[], 2).connect().await.unwrap();
    let blob = create(&store, "f", 2).await;
    bench.inject(Operation::PutPage, late(), 1);
    bench.inject(Operation::SetBlobProperties, status(500, false), 1000);
    let error = blob.write_at(0, sectors(b'X', 1)).await.unwrap_err();
    assert_eq!((error.retry(), error.outcome()), (Retry::Exhausted, Outcome::NotApplied));
    // The length waits for the same thing, and the service comes back.
    let error = blob.set_len(512, false).await.unwrap_err();
    assert_eq!((error.retry(), error.outcome()), (Retry::Exhausted, Outcome::NotApplied));
    bench.server.clear_faults();
    blob.write_at(0, sectors(b'Y', 2)).await.unwrap();
    bench.server.release_held().await;
    assert_eq!(content(&store, "f").await, b"YY");

    // So does one that was given up by its caller and then removed with its name.
    bench.inject(Operation::PutPage, late(), 1);
    bench.inject(Operation::SetBlobProperties, status(500, false), 1000);
    blob.write_at(0, sectors(b'X', 1)).await.unwrap_err();
    bench.server.clear_faults();
    store.remove(&path("f"), None).await.unwrap();
    drop(blob);
    let blob = create(&store, "f", 2).await;
    bench.server.release_held().await;
    assert_eq!(content(&store, "f").await, [0, 0], "nothing of the old blob gets into the new one");
    blob.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_costs() {
    let bench = Bench::start().await;
    let state = TempDir::new().unwrap();
    let store = bench.host(state.path(), &[]).await;
    let before = bench.server.total_requests();
    let blob = create(&store, "small", 8).await;
    blob.write_at(0, sectors(1, 8)).await.unwrap();
    blob.close().await.unwrap();
    assert_eq!(bench.server.total_requests() - before, 5);
    blob.close().await.unwrap();
    assert_eq!(bench.server.total_requests() - before, 5, "closing twice is closing once");

    let before = bench.server.total_requests();
    let blob = update(&store, "small").await.unwrap();
    assert_eq!(bench.server.total_requests() - before, 3, "look, lease, raise");

    let before = bench.server.total_requests();
    bench
        .server
        .inject(Rule::new(Operation::PutPage, status(500, true)).after(500).times(1))
        .unwrap();
    for n in 0..1000 {
        blob.write_at(n % 8 * SECTOR, sectors(n as u8, 1)).await.unwrap();
    }
    assert_eq!(bench.server.total_requests() - before, 1002, "one raise, one resend");
    blob.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_writer_at_a_time() {
    let bench = Bench::start().await;
    let (state, other_state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = bench.host(state.path(), &[]).await;
    let blob = create(&store, "f", 1).await;
    blob.write_at(0, sectors(b'A', 1)).await.unwrap();

    let other_host = bench.host(other_state.path(), &[]).await;
    let error = update(&other_host, "f").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let text = error.to_string();
    for word in ["leased", "fixed", "--break-lease"] {
        assert!(text.contains(word), "{text}");
    }
    let same_host = bench.host(state.path(), &[]).await;
    let error = update(&same_host, "f").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("this host"), "{error}");
    for store in [&other_host, &same_host] {
        assert_eq!(content(store, "f").await, b"A", "reading works");
        let error = store.remove(&path("f"), None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        let error = store.create(&path("f"), Replace::Allowed).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
    }

    // Given back at the last close, of the store too.
    blob.close().await.unwrap();
    let blob = update(&other_host, "f").await.unwrap();
    blob.write_at(0, sectors(b'B', 1)).await.unwrap();
    assert_eq!(update(&same_host, "f").await.unwrap_err().kind(), ErrorKind::Busy);
    other_host.close().await;
    let blob = update(&same_host, "f").await.unwrap();
    blob.write_at(0, sectors(b'C', 1)).await.unwrap();
    blob.close().await.unwrap();
    assert_eq!(content(&store, "f").await, b"C");
}

/// The youth of a blob is short: what was too slow for it is tried again with another one.
const TRIES: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_blob_that_is_closed_at_once_is_never_leased() {
    let bench = Bench::start().await;
    let state = TempDir::new().unwrap();
    let store = bench.host(state.path(), &[]).await;
    let mut requests = Vec::new();
    for n in 0..TRIES {
        let before = bench.server.total_requests();
        let blob = store.create(&path(&format!("f{n}")), Replace::Refused).await.unwrap();
        blob.set_closing(true);
        blob.set_len(8 * SECTOR, true).await.unwrap();
        blob.write_at(0, sectors(1, 8)).await.unwrap();
        blob.set_closing(false);
        blob.close().await.unwrap();
        requests.push(bench.server.total_requests() - before);
        assert_eq!(content(&store, &format!("f{n}")).await, [1; 8]);
        assert_fenced(&blob.write_at(0, sectors(2, 1)).await.unwrap_err());
    }
    assert!(requests.contains(&3), "{requests:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_blob_is_leased_for_more_than_a_close_and_when_it_stays_open() {
    let bench = Bench::start().await;
    let (state, other_state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let other_host = bench.host(other_state.path(), &[]).await;
    let busy = async |name: &str| update(&other_host, name).await.unwrap_err().kind();
    for duration in ["60", "infinite"] {
        let store = bench.host(state.path(), &[("lease", duration)]).await;
        let name = |kind: &str| format!("{kind}-{duration}");
        let create = async |kind: &str| {
            let before = bench.count(Operation::LeaseBlob);
            let name = path(&name(kind));
            (before, store.create(&name, Replace::Refused).await.unwrap())
        };
        let (before, synced) = create("synced").await;
        synced.set_len(SECTOR, true).await.unwrap();
        assert_eq!(bench.count(Operation::LeaseBlob), before + 1);
        assert_eq!(busy(&name("synced")).await, ErrorKind::Busy);
        synced.close().await.unwrap();
        // A duplicate of its descriptor was closed, and it goes on being written.
        let (_, duplicated) = create("duplicated").await;
        duplicated.set_closing(true);
        duplicated.set_len(2 * SECTOR, true).await.unwrap();
        duplicated.write_at(0, sectors(b'A', 2)).await.unwrap();
        duplicated.set_closing(false);
        duplicated.write_at(SECTOR, sectors(b'B', 1)).await.unwrap();
        assert_eq!(busy(&name("duplicated")).await, ErrorKind::Busy);
        assert_eq!(content(&store, &name("duplicated")).await, b"AB");
        duplicated.close().await.unwrap();
        let (before, open) = create("open").await;
        let leased = async {
            while bench.count(Operation::LeaseBlob) == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), leased).await.unwrap();
        assert_eq!(busy(&name("open")).await, ErrorKind::Busy);
        open.set_len(SECTOR, true).await.unwrap();
        open.write_at(0, sectors(b'C', 1)).await.unwrap();
        assert_eq!(content(&store, &name("open")).await, b"C");
        open.close().await.unwrap();
        // Given back, each of them.
        for kind in ["synced", "duplicated", "open"] {
            update(&other_host, &name(kind)).await.unwrap().close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_blob_that_somebody_else_opens_first_is_theirs() {
    let bench = Bench::start().await;
    let (state, other_state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = bench.host(state.path(), &[]).await;
    let same_host = bench.host(state.path(), &[]).await;
    let other_host = bench.host(other_state.path(), &[]).await;
    // How far it has come, whether it is being closed, and whether they are still there.
    let cases = [0, 1, 2].into_iter().flat_map(|came| [(came, false), (came, true)]);
    for (n, (came, still_held)) in cases.enumerate() {
        let mut tries = 0;
        let (name, blob, theirs) = loop {
            let name = format!("f{n}-{tries}");
            let blob = store.create(&path(&name), Replace::Refused).await.unwrap();
            blob.set_closing(came > 0);
            if came == 2 {
                blob.set_len(2 * SECTOR, true).await.unwrap();
            }
            assert_eq!(update(&same_host, &name).await.unwrap_err().kind(), ErrorKind::Busy);
            match update(&other_host, &name).await {
                Ok(theirs) => break (name, blob, theirs),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Busy),
            }
            tries += 1;
            assert!(tries < TRIES, "it was always leased by then");
        };
        theirs.set_len(2 * SECTOR, false).await.unwrap();
        theirs.write_at(0, sectors(b'B', 2)).await.unwrap();
        if !still_held {
            theirs.close().await.unwrap();
        }
        if came == 2 {
            assert_fenced(&blob.write_at(0, sectors(b'A', 1)).await.unwrap_err());
        }
        assert_fenced(&blob.set_len(SECTOR, true).await.unwrap_err());
        blob.close().await.unwrap();
        if still_held {
            theirs.write_at(0, sectors(b'C', 1)).await.unwrap();
            theirs.close().await.unwrap();
        }
        let expected: &[u8] = if still_held { b"CB" } else { b"BB" };
        assert_eq!(content(&store, &name).await, expected, "{came} {still_held}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_takes_its_lease_again_after_a_crash() {
    let bench = Bench::start().await;
    let (state, other_state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for duration in ["60", "infinite"] {
        let options = [("lease", duration)];
        let crashed = bench.host(state.path(), &options).await;
        let blob = create(&crashed, duration, 1).await;
        bench.inject(Operation::PutPage, late(), 1);
        let writing = {
            let blob = Arc::clone(&blob);
            tokio::spawn(async move { blob.write_at(0, sectors(b'X', 1)).await })
        };
        writing.await.unwrap().unwrap();
        drop((blob, crashed));
        let other_host = bench.host(other_state.path(), &options).await;
        assert_eq!(update(&other_host, duration).await.unwrap_err().kind(), ErrorKind::Busy);
        let again = bench.host(state.path(), &options).await;
        let blob = update(&again, duration).await.unwrap();
        blob.write_at(0, sectors(b'Y', 1)).await.unwrap();
        bench.server.release_held().await;
        assert_eq!(content(&again, duration).await, b"Y", "of before the crash nothing arrives");
        blob.close().await.unwrap();
        // A name that was left leased can be removed and moved at once.
        for (n, name) in ["a", "b"].iter().enumerate() {
            let crashed = bench.host(state.path(), &options).await;
            drop(create(&crashed, name, 1).await);
            drop(crashed);
            if n == 0 {
                again.remove(&path(name), None).await.unwrap();
            } else {
                again.rename(&path(name), &path("moved"), Replace::Allowed).await.unwrap();
                again.remove(&path("moved"), None).await.unwrap();
            }
        }
    }
}

/// The lease has the same id whenever this host takes it, and a blob that is made anew begins a new
/// sequence: it must begin above whatever the old one was written in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_before_a_crash_gets_into_a_new_blob_of_the_same_name() {
    let bench = Bench::start().await;
    let state = TempDir::new().unwrap();
    for options in [&[][..], &[("lease", "none")]] {
        for renamed in [false, true] {
            let crashed = bench.host(state.path(), options).await;
            let blob = create(&crashed, "f", 1).await;
            bench.inject(Operation::PutPage, late(), 1);
            bench.inject(Operation::SetBlobProperties, Action::Stall { apply: false }, 1);
            // Dropped while the raise is not answered.
            let writing = async move { blob.write_at(0, sectors(b'X', 1)).await };
            tokio::time::timeout(Duration::from_millis(300), writing).await.unwrap_err();
            bench.server.clear_faults();
            drop(crashed);

            let again = bench.host(state.path(), options).await;
            let blob = if renamed {
                let other = create(&again, "other", 1).await;
                other.close().await.unwrap();
                again.rename(&path("other"), &path("f"), Replace::Allowed).await.unwrap();
                update(&again, "f").await.unwrap()
            } else {
                again.remove(&path("f"), None).await.unwrap();
                create(&again, "f", 1).await
            };
            blob.write_at(0, sectors(b'Y', 1)).await.unwrap();
            assert_eq!(bench.server.release_held().await, 1);
            assert_eq!(content(&again, "f").await, b"Y", "{options:?}, renamed: {renamed}");
            blob.close().await.unwrap();
            again.remove(&path("f"), None).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_whose_lease_went_to_another_changes_nothing() {
    let bench = Bench::start().await;
    let (state, other_state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = bench.host(state.path(), &[]).await;
    let other_host = bench.host(other_state.path(), &[]).await;
    for (n, still_held) in [(0, true), (1, false)] {
        let name = format!("f{n}");
        let blob = create(&store, &name, 2).await;
        blob.write_at(0, sectors(b'A', 2)).await.unwrap();
        bench.server.advance_clock(Duration::from_secs(61));
        let theirs = update(&other_host, &name).await.unwrap();
        theirs.write_at(0, sectors(b'B', 1)).await.unwrap();
        if !still_held {
            theirs.close().await.unwrap();
        }
        assert_fenced(&blob.write_at(0, sectors(b'C', 1)).await.unwrap_err());
        assert_fenced(&blob.clear(0..SECTOR).await.unwrap_err());
        assert_fenced(&blob.set_len(SECTOR, false).await.unwrap_err());
        blob.close().await.unwrap();
        assert_eq!(content(&store, &name).await, b"BA");
        // It has not taken the lease back.
        if still_held {
            theirs.write_at(SECTOR, sectors(b'D', 1)).await.unwrap();
            theirs.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_ran_out_unnoticed_is_taken_again() {
    let bench = Bench::start().await;
    let state = TempDir::new().unwrap();
    let store = bench.host(state.path(), &[]).await;
    let blob = create(&store, "f", 2).await;
    blob.write_at(0, sectors(b'A', 1)).await.unwrap();
    bench.server.advance_clock(Duration::from_secs(61));
    blob.write_at(0, sectors(b'B', 1)).await.unwrap();
    bench.server.advance_clock(Duration::from_secs(61));
    blob.set_len(SECTOR, false).await.unwrap();
    // Somebody took it and gave it back, and wrote nothing.
    bench.server.advance_clock(Duration::from_secs(61));
    assert_eq!(bench.lease("f", "acquire", THEIRS).await, 201);
    assert_eq!(bench.lease("f", "release", THEIRS).await, 200);
    blob.write_at(0, sectors(b'C', 1)).await.unwrap();
    assert_eq!(content(&store, "f").await, b"C");
    blob.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn breaking_a_lease_says_what_it_was() {
    let bench = Bench::start().await;
    let (state, other_state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = bench.host(state.path(), &[("lease", "infinite")]).await;
    let blob = create(&store, "dir/f", 1).await;
    let other = bench.backend(other_state.path(), &[]);
    let said = other.break_lease("dir/f").await.unwrap();
    assert!(said.contains("leased") && said.contains("infinite"), "{said}");
    let error = other.break_lease("dir/f").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let other_host = other.connect().await.unwrap();
    let theirs = update(&other_host, "dir/f").await.unwrap();
    theirs.write_at(0, sectors(b'B', 1)).await.unwrap();
    assert_fenced(&blob.write_at(0, sectors(b'A', 1)).await.unwrap_err());
    theirs.close().await.unwrap();
    assert_eq!(content(&store, "dir/f").await, b"B");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_leases_the_epoch_alone_tells_of_another_writer() {
    let bench = Bench::start().await;
    let state = TempDir::new().unwrap();
    let options = [("lease", "none")];
    let first = bench.host(state.path(), &options).await;
    let second = bench.host(state.path(), &options).await;
    let blob = create(&first, "f", 1).await;
    let theirs = update(&second, "f").await.unwrap();
    theirs.write_at(0, sectors(b'B', 1)).await.unwrap();
    assert_fenced(&blob.write_at(0, sectors(b'A', 1)).await.unwrap_err());
    assert_eq!(content(&first, "f").await, b"B");
    assert_eq!(bench.count(Operation::LeaseBlob), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_renewed_by_themselves() {
    let bench = Bench::start().await;
    let state = TempDir::new().unwrap();
    let store = bench.host(state.path(), &[("lease", "15")]).await;
    let blobs = [create(&store, "a", 1).await, create(&store, "b", 1).await];
    let before = bench.count(Operation::LeaseBlob);
    tokio::time::sleep(Duration::from_millis(5600)).await;
    assert!(bench.count(Operation::LeaseBlob) >= before + 2, "each was renewed after a third");
    for blob in &blobs {
        blob.close().await.unwrap();
    }
    let before = bench.server.total_requests();
    tokio::time::sleep(Duration::from_millis(5600)).await;
    assert_eq!(bench.server.total_requests(), before, "nothing is leased, and nothing is asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_directory_that_cannot_be_used_refuses_the_mount() {
    let bench = Bench::start().await;
    let state = TempDir::new().unwrap();
    let file = state.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = bench.backend(&file, &[]).connect().await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("state_dir=") && text.contains("-o ro") && !text.contains('\n'),
        "{text}"
    );
    let options = BTreeMap::new();
    let source = format!("{}/{CONTAINER}", bench.endpoint);
    let reading = (scheme_of(&source).unwrap().parse)(&SourceRequest {
        source: &source,
        options: &options,
        env: &|_| None,
        timeout: Duration::from_secs(20),
        state_dir: None,
    });
    let store = reading.unwrap().connect().await.unwrap();
    let error = store.create(&path("f"), Replace::Refused).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    assert_eq!(store.stat(&path("f")).await.unwrap_err().kind(), ErrorKind::NotFound);
}
