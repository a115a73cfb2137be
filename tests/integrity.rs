//! Integrity on the way: what is damaged between mount and service is noticed, repaired where that
//! can be, and never served or stored.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use blobdir::backend::{SourceRequest, scheme_of};
use blobdir::emulator::page_blob::{
    Action, Config, Operation, Rule, Server, WELL_KNOWN_ACCOUNT, start,
};
use blobdir::store::{
    Access, Blob, BlobMut, ErrorKind, Opened, Outcome, RemotePath, Replace, Retry, Store, read_all,
};
use bytes::Bytes;

use support::service::{CONTAINER, Service};
use support::{cannot_mount, skip};

const MIB: usize = 1 << 20;

/// A server with one container, and clients of it.
struct Bench {
    server: Server,
}

impl Bench {
    async fn start() -> Bench {
        let containers = vec![CONTAINER.to_owned()];
        let server = start(Config { containers, ..Config::default() }).await.unwrap();
        Bench { server }
    }

    async fn store(&self, verify: &str) -> Arc<dyn Store> {
        let source = format!("{}/{CONTAINER}", self.server.account_url(WELL_KNOWN_ACCOUNT));
        let options = [("verify", verify), ("lease", "none")];
        let options = options.map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
        let backend = (scheme_of(&source).unwrap().parse)(&SourceRequest {
            source: &source,
            options: &BTreeMap::from(options),
            env: &|_| None,
            timeout: Duration::from_secs(20),
            state_dir: Some(support::state_dir()),
        });
        backend.unwrap().connect().await.unwrap()
    }

    fn inject(&self, operation: Operation, fault: Action, times: u64) {
        self.server.clear_faults();
        self.server.inject(Rule::new(operation, fault).times(times)).unwrap();
    }

    /// Runs `work`, and counts the requests of an operation that it takes.
    async fn cost<T>(&self, operation: Operation, work: impl Future<Output = T>) -> (T, u64) {
        let before = self.server.requests(operation);
        let result = work.await;
        (result, self.server.requests(operation) - before)
    }
}

fn path(name: &str) -> RemotePath {
    RemotePath::new(name).unwrap()
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| ((at / 512 * 31 + at) * (seed + 1)) as u8).collect()
}

async fn create(store: &Arc<dyn Store>, name: &str, bytes: &[u8]) -> Arc<dyn BlobMut> {
    let blob = store.create(&path(name), Replace::Allowed).await.unwrap();
    blob.set_len(bytes.len() as u64, false).await.unwrap();
    for (index, piece) in bytes.chunks(4 * MIB).enumerate() {
        let pieces = piece.chunks(MIB).map(Bytes::copy_from_slice).collect();
        blob.write_at((index * 4 * MIB) as u64, pieces).await.unwrap();
    }
    blob
}

async fn reader(store: &Arc<dyn Store>, name: &str) -> Arc<dyn Blob> {
    match store.open(&path(name), Access::Read).await.unwrap() {
        Opened::Read(blob) => blob,
        Opened::Update(_) => panic!("opened for reading"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_to_an_answer_is_noticed_and_repaired() {
    let bench = Bench::start().await;
    let content = pattern(3 * MIB, 0);
    for verify in ["crc64", "md5"] {
        let store = bench.store(verify).await;
        create(&store, "f", &content).await;
        let reader = reader(&store, "f").await;
        bench.inject(Operation::GetBlob, Action::Corrupt, 2);
        let read = read_all(&*reader, 0..content.len() as u64);
        let (got, cost) = bench.cost(Operation::GetBlob, read).await;
        assert!(got.unwrap() == content, "{verify}: a wrong byte was taken");
        assert_eq!(cost, 3, "{verify}");
        bench.inject(Operation::GetBlob, Action::Corrupt, 100);
        let (got, cost) =
            bench.cost(Operation::GetBlob, read_all(&*reader, 0..content.len() as u64)).await;
        let error = got.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Corrupt, Retry::Permanent));
        assert_eq!(cost, 5, "{verify}: it is not asked for ever");

        // A writer reads in another way.
        let Opened::Update(writer) = store.open(&path("f"), Access::Update).await.unwrap() else {
            panic!("opened for writing");
        };
        bench.inject(Operation::GetBlob, Action::Corrupt, 1);
        assert!(read_all(&*writer, 512..4096).await.unwrap() == content[512..4096]);
        bench.server.clear_faults();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_to_an_update_is_noticed_and_repaired() {
    let bench = Bench::start().await;
    for verify in ["crc64", "md5"] {
        let store = bench.store(verify).await;
        let blob = create(&store, "f", &pattern(8192, 0)).await;
        let page = || vec![Bytes::from(vec![7; 512]), Bytes::from(vec![8; 1024])];
        bench.inject(Operation::PutPage, Action::CorruptRequest, 2);
        let (wrote, cost) = bench.cost(Operation::PutPage, blob.write_at(512, page())).await;
        wrote.unwrap();
        assert_eq!(cost, 3, "{verify}");
        let wanted = [&pattern(512, 0)[..], &[7; 512], &[8; 1024]].concat();
        assert!(read_all(&*blob, 0..2048).await.unwrap() == wanted, "{verify}");

        bench.inject(Operation::PutPage, Action::CorruptRequest, 100);
        let (wrote, cost) = bench.cost(Operation::PutPage, blob.write_at(0, page())).await;
        let error = wrote.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Corrupt, Outcome::NotApplied));
        assert_eq!(cost, 5, "{verify}: it is not sent for ever");
        bench.server.clear_faults();
        assert!(read_all(&*blob, 0..2048).await.unwrap() == wanted, "{verify}: it was stored");
    }
}

/// What the tests above would be worth without checksums.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_checksums_damage_goes_unnoticed() {
    let bench = Bench::start().await;
    let store = bench.store("off").await;
    let content = pattern(8192, 0);
    let blob = create(&store, "f", &content).await;
    let wrong = |got: &[u8]| got.iter().zip(&content).filter(|(got, sent)| got != sent).count();
    bench.inject(Operation::GetBlob, Action::Corrupt, 1);
    assert_eq!(wrong(&read_all(&*blob, 0..8192).await.unwrap()), 1);
    bench.inject(Operation::PutPage, Action::CorruptRequest, 1);
    blob.write_at(0, vec![Bytes::copy_from_slice(&content)]).await.unwrap();
    assert_eq!(wrong(&read_all(&*blob, 0..8192).await.unwrap()), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_reads_are_checked_part_by_part() {
    let bench = Bench::start().await;
    let content = pattern(10 * MIB, 0);
    for (verify, gets) in [("crc64", 3), ("md5", 3), ("off", 1)] {
        let store = bench.store(verify).await;
        assert_eq!(store.capabilities().max_read == 4 << 20, verify != "off");
        create(&store, "f", &content).await;
        let reader = reader(&store, "f").await;
        let read = read_all(&*reader, 0..content.len() as u64);
        let (got, cost) = bench.cost(Operation::GetBlob, read).await;
        assert!(got.unwrap() == content);
        assert_eq!(cost, gets, "{verify}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_always_breaks_off_brings_a_read_to_its_end() {
    let bench = Bench::start().await;
    let store = bench.store("crc64").await;
    let content = pattern(2 * MIB, 0);
    create(&store, "f", &content).await;
    let reader = reader(&store, "f").await;
    // What cannot be checked is asked for again, but less of it.
    bench.inject(Operation::GetBlob, Action::Truncate { bytes: 300_000 }, 1_000);
    let read = read_all(&*reader, 0..content.len() as u64);
    let (got, cost) = bench.cost(Operation::GetBlob, read).await;
    assert!(got.unwrap() == content);
    assert!(cost > 8, "{cost} requests: the answers did not break off");
}

/// As some emulators, which answer 500 to the header itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_knows_no_checksums_is_used_without() {
    let bench = Bench::start().await;
    let store = bench.store("crc64").await;
    let content = pattern(8192, 0);
    let blob = create(&store, "f", &content).await;
    let unknown = Action::Status {
        status: 500,
        code: Some("FeatureNotSupported".to_owned()),
        apply: false,
        retry_after: None,
    };
    bench.inject(Operation::GetBlob, unknown.clone(), 1);
    assert!(read_all(&*blob, 0..8192).await.unwrap() == content);
    bench.inject(Operation::PutPage, unknown, 1);
    blob.write_at(512, vec![Bytes::from(vec![9; 512])]).await.unwrap();
    assert!(read_all(&*blob, 512..1024).await.unwrap() == vec![9; 512]);
    // It is asked once in each direction.
    bench.inject(Operation::GetBlob, Action::Corrupt, 1);
    assert!(read_all(&*blob, 512..1024).await.unwrap() != vec![9; 512]);
    bench.inject(Operation::PutPage, Action::CorruptRequest, 1);
    blob.write_at(512, vec![Bytes::from(vec![9; 512])]).await.unwrap();
    assert!(read_all(&*blob, 512..1024).await.unwrap() != vec![9; 512]);
}

#[test]
fn a_mount_repairs_what_can_be_repaired_and_reports_the_rest() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let service = Service::start();
    let mount = service.mount(&["timeout=10s"]);
    let content = pattern(12 * MIB, 1);
    let file = mount.path().join("f");
    let inject = |operation, fault: &Action, times| {
        let rule = Rule::new(operation, fault.clone());
        service.server().inject(rule.times(times)).unwrap();
    };
    let stored = || {
        let store = service.store();
        let blob = service.block_on(reader(&store, "f"));
        service.block_on(read_all(&*blob, 0..blob.len())).unwrap()
    };

    // Now and then: nobody sees it.
    inject(Operation::PutPage, &Action::CorruptRequest, 2);
    fs::write(&file, &content).unwrap();
    File::open(&file).unwrap().sync_all().unwrap();
    assert!(stored() == content, "damage was stored");
    mount.unmount();
    let mount = service.mount(&["timeout=10s"]);
    let file = mount.path().join("f");
    let clean =
        service.server().faults().iter().all(|state| state.injected == state.rule.count.unwrap());
    assert!(clean, "the faults were played");
    service.server().clear_faults();
    inject(Operation::GetBlob, &Action::Corrupt, 2);
    assert!(fs::read(&file).unwrap() == content, "damage was served");
    assert!(!mount.log().contains("ERROR"), "{}", mount.log());
    mount.unmount();

    // Always: an error, and never a wrong byte.
    let mount = service.mount(&["timeout=10s"]);
    let file = mount.path().join("f");
    inject(Operation::GetBlob, &Action::Corrupt, 1_000);
    let reading = File::open(&file).unwrap();
    for at in [0, 5 * MIB as u64 + 512] {
        let error = reading.read_at(&mut [0; 4096], at).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    assert!(mount.log().contains("ERROR"), "{}", mount.log());
    assert!(mount.log().contains("damaged on the way"), "{}", mount.log());
    service.server().clear_faults();
    let mut head = vec![0; 4096];
    reading.read_exact_at(&mut head, 0).unwrap();
    assert!(head == content[..4096], "the error was the service's, and is over");

    inject(Operation::PutPage, &Action::CorruptRequest, 1_000);
    let mut writing = File::options().write(true).open(&file).unwrap();
    writing.write_all(&[0xEE; 4096]).unwrap();
    assert_eq!(writing.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(stored() == content, "damage was stored");
    service.server().clear_faults();
    writing.sync_all().unwrap();
    assert!(stored()[..4096] == [0xEE; 4096] && stored()[4096..] == content[4096..]);
    drop((reading, writing));
    mount.unmount();
}
