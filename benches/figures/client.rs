//! The baseline: the mount's own HTTP client, with its signing, checks and settings, and nothing above
//! it. What it reads is dropped, what it writes is one buffer again and again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use blobdir::backend::page_blob::SCHEME;
use blobdir::backend::{Backend, SourceRequest};
use blobdir::store::{
    Access, Blob, BlobMut, Opened, RemotePath, Replace, Result, Sink, Store, read_all,
};
use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::data;

/// How long one request may take, retries included.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A client with its own runtime and its own connections, none of which is open yet.
#[derive(Debug)]
pub(crate) struct Client {
    runtime: Runtime,
    store: Arc<dyn Store>,
    connections: usize,
}

struct Count(u64);

impl Sink for Count {
    fn put(&mut self, piece: &[u8]) {
        self.0 += piece.len() as u64;
    }

    fn confirm(&mut self) {}

    fn retract(&mut self) {
        panic!("nothing is damaged on loopback");
    }
}

impl Client {
    /// A client of `source` that has at most so many requests under way.
    pub(crate) fn new(source: &str, endpoint: &str, connections: usize) -> Client {
        // As many threads as the daemon's.
        let runtime = Runtime::new().expect("a runtime");
        let options = BTreeMap::from([
            ("endpoint".to_owned(), Some(endpoint.to_owned())),
            ("connections".to_owned(), Some(connections.to_string())),
            // The baseline holds nothing and renews nothing.
            ("lease".to_owned(), Some("none".to_owned())),
        ]);
        let state = std::env::temp_dir();
        let request = SourceRequest {
            source,
            options: &options,
            env: &|_| None,
            timeout: TIMEOUT,
            state_dir: Some(&state),
        };
        let backend: Box<dyn Backend> = (SCHEME.parse)(&request).expect("a valid source");
        let store = runtime.block_on(backend.connect()).expect("the emulator answers");
        Client { runtime, store, connections }
    }

    fn open(&self, name: &str) -> Arc<dyn Blob> {
        let path = RemotePath::new(name).expect("a valid name");
        match self.runtime.block_on(self.store.open(&path, Access::Read)) {
            Ok(Opened::Read(blob)) => blob,
            other => panic!("{name} cannot be read: {other:?}"),
        }
    }

    /// An empty blob with room for `len` bytes.
    fn create(&self, name: &str, len: u64) -> Arc<dyn BlobMut> {
        let path = RemotePath::new(name).expect("a valid name");
        let create = async {
            let blob = self.store.create(&path, Replace::Allowed).await?;
            blob.set_len(len, true).await?;
            Ok::<_, blobdir::store::Error>(blob)
        };
        self.runtime.block_on(create).expect("a new blob")
    }

    /// Reads `ranges`, each connection the next one as soon as it is free. The time that took.
    pub(crate) fn read(&self, name: &str, ranges: Vec<Range<u64>>) -> Duration {
        let blob = self.open(name);
        self.run(ranges, move |range| {
            let blob = Arc::clone(&blob);
            async move {
                let mut count = Count(0);
                blob.read(range.clone(), &mut count).await?;
                assert_eq!(count.0, range.end - range.start);
                Ok(())
            }
        })
    }

    /// Writes `ranges` of a new blob, whose room is made before. The time the writes took.
    pub(crate) fn write(&self, name: &str, len: u64, ranges: Vec<Range<u64>>) -> Duration {
        let noise = Bytes::from(data::noise(4));
        self.update(name, len, ranges, move |range| {
            vec![noise.slice(..(range.end - range.start) as usize)]
        })
    }

    /// Copies `ranges` of blob `from` to a new one, whose room is made before. The time the copies took.
    pub(crate) fn copy(&self, from: &str, to: &str, len: u64, ranges: Vec<Range<u64>>) -> Duration {
        let source = self.runtime.block_on(self.open(from).copy_source()).expect("a source");
        let source = source.expect("a blob that can be copied");
        let blob = self.create(to, len);
        let took = self.run(ranges, |range| {
            let (blob, source) = (Arc::clone(&blob), source.clone());
            async move { blob.copy_from(range.start, &source, range).await }
        });
        self.runtime.block_on(blob.close()).expect("a blob that is closed");
        took
    }

    /// Makes a blob of `len` bytes for the others to read.
    pub(crate) fn fill(&self, name: &str, len: u64) {
        let noise = Bytes::from(data::noise(4));
        let ranges = ranges(len, 4 * data::MIB);
        self.update(name, len, ranges, move |range| {
            data::marked(&noise.slice(..(range.end - range.start) as usize), range.start)
        });
    }

    fn update(
        &self,
        name: &str,
        len: u64,
        ranges: Vec<Range<u64>>,
        body: impl Fn(&Range<u64>) -> Vec<Bytes>,
    ) -> Duration {
        let blob = self.create(name, len);
        let took = self.run(ranges, |range| {
            let blob = Arc::clone(&blob);
            let body = body(&range);
            async move { blob.write_at(range.start, body).await }
        });
        self.runtime.block_on(blob.close()).expect("a blob that is closed");
        took
    }

    /// Panics unless every 16th MiB of a blob is marked as it should be.
    pub(crate) fn check(&self, name: &str, len: u64) {
        let blob = self.open(name);
        assert_eq!(blob.len(), len, "the length of {name}");
        for at in (0..len).step_by(16 << 20) {
            let bytes = self.runtime.block_on(read_all(&*blob, at..at + data::PAGE));
            data::check(&bytes.expect("a blob that can be read"), at);
        }
    }

    /// Removes a blob.
    pub(crate) fn remove(&self, name: &str) {
        let path = RemotePath::new(name).expect("a valid name");
        let removed = self.runtime.block_on(self.store.remove(&path, None));
        removed.expect("a blob that can be removed");
    }

    /// Runs one call for each range, as many at once as there are connections.
    fn run<F>(&self, ranges: Vec<Range<u64>>, call: impl Fn(Range<u64>) -> F) -> Duration
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        // Calls are prepared before the clock starts: they hold no more than a name and a range.
        let calls: Vec<_> = ranges.into_iter().map(|range| Some(call(range))).collect();
        let calls: Arc<[parking_lot::Mutex<Option<F>>]> =
            calls.into_iter().map(parking_lot::Mutex::new).collect();
        let next = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..self.connections {
                let (calls, next) = (Arc::clone(&calls), Arc::clone(&next));
                tasks.spawn(async move {
                    while let Some(slot) = calls.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let call = slot.lock().take().expect("each is taken once");
                        call.await.expect("the emulator serves every request");
                    }
                });
            }
            while let Some(ended) = tasks.join_next().await {
                ended.expect("no call panics");
            }
        });
        start.elapsed()
    }
}

/// `0..len` in pieces of `size` bytes.
pub(crate) fn ranges(len: u64, size: u64) -> Vec<Range<u64>> {
    (0..len.div_ceil(size)).map(|index| index * size..len.min((index + 1) * size)).collect()
}
