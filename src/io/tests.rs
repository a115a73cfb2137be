//! The data path against the memory store, compared with a plain array of bytes.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;

use super::file::File;
use super::page_cache::ContentId;
use super::span::{BLOCK, Span};
use super::{Config, Shared};
use crate::store::memory::MemoryStore;
use crate::store::{
    Access, BlobMut, ErrorKind, Opened, RemotePath, Replace, Store, all_extents, read_all,
};

const MIB: u64 = 1 << 20;

fn config() -> Config {
    Config {
        cache_size: 64 * MIB,
        dirty_limit: 16 * MIB,
        connections: 4,
        timeout: Duration::from_secs(20),
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn path() -> RemotePath {
    RemotePath::new("file").unwrap()
}

async fn open(store: &MemoryStore, access: Access) -> (Arc<Shared>, Arc<File>) {
    let shared = Shared::new(&config(), store.capabilities());
    let file = match store.open(&path(), access).await.unwrap() {
        Opened::Read(blob) => File::new(Arc::clone(&shared), ContentId::fresh(), blob, None),
        Opened::Update(writer) => {
            let blob = Arc::clone(&writer) as Arc<dyn crate::store::Blob>;
            File::new(Arc::clone(&shared), ContentId::fresh(), blob, Some(writer))
        }
    };
    (shared, file)
}

async fn create(store: &MemoryStore) -> (Arc<Shared>, Arc<File>, Arc<dyn BlobMut>) {
    let shared = Shared::new(&config(), store.capabilities());
    let writer = store.create(&path(), Replace::Allowed).await.unwrap();
    let file = File::created(Arc::clone(&shared), Arc::clone(&writer));
    (shared, file, writer)
}

/// What somebody else would read; `None` if it changes just now.
async fn look(store: &MemoryStore) -> Option<Vec<u8>> {
    let Opened::Read(blob) = store.open(&path(), Access::Read).await.unwrap() else { panic!() };
    read_all(&*blob, 0..blob.len()).await.ok().map(|bytes| bytes.to_vec())
}

async fn remote(store: &MemoryStore) -> Vec<u8> {
    look(store).await.expect("nobody changes it")
}

/// After a flush the service has it all.
fn assert_same(remote: &[u8], model: &[u8]) {
    let differ = remote.iter().zip(model).position(|(remote, model)| remote != model);
    assert_eq!((differ, remote.len()), (None, model.len()), "first difference, and length");
}

fn pattern(len: u64, seed: u64) -> Vec<u8> {
    (0..len).map(|at| ((at ^ (at >> 9)).wrapping_mul(31).wrapping_add(seed) % 251) as u8).collect()
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, u64, u8),
    Read(u64, u64),
    Truncate(u64),
    /// Goes on with the next operations before the service has cut the blob.
    TruncateBehind(u64),
    /// Fetches while other operations go on.
    ReadBehind(u64, u64),
    /// From another blob, or from elsewhere in this one, as far as the two ranges do not overlap.
    Copy {
        own: bool,
        from: u64,
        at: u64,
        len: u64,
    },
    Zero(u64, u64, bool),
    Seek(u64, bool),
    Flush(bool),
    FlushBehind,
    Reopen,
}

/// Mostly around sector borders near the beginning, sometimes around block borders.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0u64..3000, 1 => (BLOCK - 700)..(BLOCK + 700), 1 => 0..(5 * MIB)]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1u64..2000, 1 => (0u64..5).prop_map(|n| 512 * n + 512), 1 => 1..(2 * MIB)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (offset(), length(), prop_oneof![Just(0u8), any::<u8>()])
            .prop_map(|(at, len, seed)| Op::Write(at, len, seed)),
        5 => (offset(), length()).prop_map(|(at, len)| Op::Read(at, len)),
        2 => offset().prop_map(Op::Truncate),
        2 => offset().prop_map(Op::TruncateBehind),
        2 => (offset(), length()).prop_map(|(at, len)| Op::ReadBehind(at, len)),
        2 => (any::<bool>(), offset(), offset(), length(), any::<bool>()).prop_map(
            |(own, from, at, len, aligned)| {
                let align = |at: u64| if aligned { at - at % 512 } else { at };
                Op::Copy { own, from: align(from), at: align(at), len }
            }
        ),
        1 => (offset(), length(), any::<bool>()).prop_map(|(at, len, grow)| Op::Zero(at, len, grow)),
        2 => (offset(), any::<bool>()).prop_map(|(at, hole)| Op::Seek(at, hole)),
        1 => any::<bool>().prop_map(Op::Flush),
        2 => Just(Op::FlushBehind),
        1 => Just(Op::Reopen),
    ]
}

/// A blob to copy from: data, holes between, and a length in the middle of a sector.
async fn other(store: &MemoryStore, shared: &Arc<Shared>) -> (Arc<File>, Vec<u8>) {
    let mut bytes = pattern(5 * MIB + 777, 11);
    bytes[1024..8192].fill(0);
    bytes[(2 * MIB) as usize..(4 * MIB) as usize].fill(0);
    store.put("other", &bytes);
    (reader_of(store, shared, "other").await, bytes)
}

async fn reader_of(store: &MemoryStore, shared: &Arc<Shared>, name: &str) -> Arc<File> {
    let path = RemotePath::new(name).unwrap();
    let Opened::Read(blob) = store.open(&path, Access::Read).await.unwrap() else { panic!() };
    File::new(Arc::clone(shared), ContentId::fresh(), blob, None)
}

/// Copies as the kernel does: again after a part, and by reading and writing if it must.
async fn copy(file: &Arc<File>, at: u64, source: &Arc<File>, from: u64, len: u64) {
    let mut done = 0;
    while done < len {
        done += match file.copy_from(at + done, source, from + done, len - done).await {
            Ok(copied) => copied,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                let bytes = source.read(Span::at(from + done, len - done)).await.unwrap();
                file.write(at + done, &bytes).await.unwrap();
                bytes.len() as u64
            }
        };
    }
}

async fn check(ops: Vec<Op>, initial: u64) {
    let store = MemoryStore::new();
    let mut model = pattern(initial, 7);
    store.put("file", &model);
    store.set_latency(Duration::from_micros(300));
    let (mut shared, mut file) = open(&store, Access::Update).await;
    let (other, other_bytes) = other(&store, &shared).await;
    let mut behind = Vec::new();
    for op in ops {
        match op {
            Op::Copy { own, from, at, len } => {
                let source = if own { &file } else { &other };
                let len = len.min(source.len().saturating_sub(from));
                if own && from < at + len && at < from + len {
                    continue;
                }
                copy(&file, at, source, from, len).await;
                let bytes = if own { model.clone() } else { other_bytes.clone() };
                let end = (at + len) as usize;
                if len > 0 && model.len() < end {
                    model.resize(end, 0);
                }
                if len > 0 {
                    model[at as usize..end]
                        .copy_from_slice(&bytes[from as usize..(from + len) as usize]);
                }
            }
            Op::Zero(at, len, grow) => {
                file.zero(Span::at(at, len), grow).await.unwrap();
                let end = (at + len) as usize;
                if grow && model.len() < end {
                    model.resize(end, 0);
                }
                let end = end.min(model.len());
                model[end.min(at as usize)..end].fill(0);
            }
            Op::Seek(at, hole) if at < model.len() as u64 => {
                let found = file.seek(at, hole).await.unwrap();
                let rest = &model[at as usize..];
                match found {
                    None => assert!(!hole && rest.iter().all(|byte| *byte == 0)),
                    Some(found) if hole => {
                        assert!(found == model.len() as u64 || model[found as usize] == 0);
                    }
                    Some(found) => {
                        assert!(rest[..(found - at) as usize].iter().all(|byte| *byte == 0));
                    }
                }
            }
            Op::Seek(..) => {}
            Op::Write(at, len, seed) => {
                let data =
                    if seed == 0 { vec![0; len as usize] } else { pattern(len, seed.into()) };
                file.write(at, &data).await.unwrap();
                let end = (at + len) as usize;
                if model.len() < end {
                    model.resize(end, 0);
                }
                model[at as usize..end].copy_from_slice(&data);
            }
            Op::Read(at, len) => {
                let got = file.read(Span::at(at, len)).await.unwrap();
                let from = (at as usize).min(model.len());
                let want = &model[from..((at + len) as usize).min(model.len()).max(from)];
                assert!(got == want, "read of {len} at {at} of {}", model.len());
            }
            Op::Truncate(len) => {
                file.set_len(len).await.unwrap();
                model.resize(len as usize, 0);
            }
            Op::TruncateBehind(len) => {
                let cutting = {
                    let file = Arc::clone(&file);
                    async move { file.set_len(len).await.unwrap() }
                };
                let mut cutting = Box::pin(cutting);
                // Its first step takes effect here, unless others who change the length are busy.
                let ended = std::future::poll_fn(|context| {
                    Poll::Ready(cutting.as_mut().poll(context).is_ready())
                });
                let ended = ended.await;
                if file.len() != len {
                    cutting.await;
                } else if !ended {
                    behind.push(tokio::spawn(cutting));
                }
                model.resize(len as usize, 0);
            }
            Op::ReadBehind(at, len) => {
                let file = Arc::clone(&file);
                behind.push(tokio::spawn(async move {
                    file.read(Span::at(at, len)).await.unwrap();
                }));
            }
            Op::Flush(last) => {
                file.flush(last).await.unwrap();
                assert_same(&remote(&store).await, &model);
            }
            Op::FlushBehind => {
                let file = Arc::clone(&file);
                behind.push(tokio::spawn(async move { file.flush(false).await.unwrap() }));
            }
            Op::Reopen => {
                for task in behind.drain(..) {
                    task.await.unwrap();
                }
                file.flush(true).await.unwrap();
                assert_eq!(shared.unconfirmed(), 0, "nothing is charged for nothing");
                (shared, file) = open(&store, Access::Update).await;
            }
        }
        assert_eq!(file.len(), model.len() as u64);
    }
    for task in behind {
        task.await.unwrap();
    }
    file.flush(true).await.unwrap();
    assert_same(&remote(&store).await, &model);
    assert_eq!(shared.unconfirmed(), 0);
    assert!(shared.unsettled().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_an_array(ops in prop::collection::vec(op(), 1..40), initial in offset()) {
        run(check(ops, initial));
    }
}

#[test]
fn a_flush_waits_for_what_was_written_again_while_in_flight() {
    use Op::{Flush, FlushBehind, Truncate, Write};
    let ops = [
        Write(1020, 1656, 20),
        Truncate(1853),
        FlushBehind,
        Truncate(1_048_988),
        FlushBehind,
        Write(1000, 284, 0),
        Flush(true),
    ];
    run(check(ops.to_vec(), 2940));
}

#[test]
fn a_clear_whose_end_was_cut_off_leaves_whole_sectors() {
    use Op::{FlushBehind, Truncate, Write};
    let ops = [
        Write(745, 1_504_830, 0),
        Write(426, 1916, 0),
        Write(1_049_012, 2048, 233),
        FlushBehind,
        Truncate(2613),
        Truncate(3_834_158),
        Write(2367, 134_568, 0),
    ];
    run(check(ops.to_vec(), 2449));
}

#[test]
fn pages_are_fetched_as_far_as_the_service_has_any() {
    run(check(vec![Op::Write(512, 1025, 0), Op::Write(1, 1, 0)], 512));
}

/// Whatever the service shows of a file on its way to a longer one: a crash shows it to everybody.
#[test]
fn what_was_cut_off_is_not_shown_while_the_file_grows() {
    let grow: [(u64, &[u8]); 3] = [(2000, b""), (650, b"one sector"), (400, &[3; 900])];
    for (to, bytes) in grow {
        run(async {
            let store = MemoryStore::new();
            store.put("file", &[1; 1000]);
            let (_, file) = open(&store, Access::Update).await;
            file.set_len(600).await.unwrap();
            store.set_latency(Duration::from_millis(5));
            let growing = tokio::spawn(async move {
                if bytes.is_empty() {
                    file.set_len(to).await.unwrap();
                } else {
                    file.write(to, bytes).await.unwrap();
                    file.flush(false).await.unwrap();
                }
                file
            });
            loop {
                let ended = growing.is_finished();
                let Some(shown) = look(&store).await else { continue };
                let cut_off = shown.iter().skip(600).position(|byte| *byte == 1);
                assert_eq!(cut_off, None, "{to}: of {} bytes", shown.len());
                if ended {
                    break;
                }
            }
            growing.await.unwrap();
        });
    }
}

#[test]
fn streaming_writes_become_full_puts() {
    run(async {
        let store = MemoryStore::new();
        let (_, file, writer) = create(&store).await;
        let data = pattern(64 * MIB, 1);
        for (index, chunk) in data.chunks(4096).enumerate() {
            file.write(index as u64 * 4096, chunk).await.unwrap();
        }
        file.flush(true).await.unwrap();
        assert_eq!(store.requests(), 16);
        assert_eq!(writer.capacity(), 64 * MIB);
        assert!(remote(&store).await == data);
    });
}

#[test]
fn zeros_over_nothing_are_never_sent() {
    run(async {
        let store = MemoryStore::new();
        let (_, file, _) = create(&store).await;
        for block in 0..20 {
            file.write(block * MIB, &vec![0; MIB as usize]).await.unwrap();
        }
        file.flush(true).await.unwrap();
        assert_eq!(store.requests(), 0);
        assert_eq!(remote(&store).await, vec![0; 20 * MIB as usize]);
    });
}

#[test]
fn room_that_is_given_back_too_early_is_made_again() {
    run(async {
        let store = MemoryStore::new();
        store.set_latency(Duration::from_millis(1));
        let (_, file, _) = create(&store).await;
        let data = pattern(48 * MIB, 3);
        let mut closes = Vec::new();
        for (index, chunk) in data.chunks(MIB as usize / 2).enumerate() {
            file.write(index as u64 * MIB / 2, chunk).await.unwrap();
            // As when a process that was started meanwhile closes its copy of the descriptor.
            if index % 17 == 9 {
                let file = Arc::clone(&file);
                closes.push(tokio::spawn(async move { file.flush(true).await }));
            }
        }
        for close in closes {
            close.await.unwrap().unwrap();
        }
        file.flush(true).await.unwrap();
        assert!(remote(&store).await == data);
    });
}

#[test]
fn a_copy_onto_what_is_dirty_comes_after_it() {
    run(async {
        let store = MemoryStore::new();
        store.set_latency(Duration::from_millis(1));
        let (shared, file, _) = create(&store).await;
        let bytes = pattern(32 * MIB, 11);
        store.put("other", &bytes);
        let source = reader_of(&store, &shared, "other").await;
        // More pieces than there are connections meet something that must be sent before.
        for at in (0..32 * MIB).step_by(2 << 20) {
            file.write(at, &pattern(512, 5)).await.unwrap();
        }
        let copied = copy(&file, 0, &source, 0, source.len());
        tokio::time::timeout(Duration::from_secs(20), copied)
            .await
            .expect("nobody waits in a circle");
        file.flush(true).await.unwrap();
        assert!(remote(&store).await == bytes);
    });
}

#[test]
fn a_close_during_a_copy_cuts_nothing_off() {
    run(async {
        let store = MemoryStore::new();
        let (shared, file, _) = create(&store).await;
        let bytes = pattern(64 * MIB, 11);
        store.put("other", &bytes);
        let source = reader_of(&store, &shared, "other").await;
        store.set_latency(Duration::from_millis(2));
        let copying = {
            let file = Arc::clone(&file);
            tokio::spawn(async move { copy(&file, 0, &source, 0, source.len()).await })
        };
        while !copying.is_finished() {
            // As when a process that was started meanwhile closes its copy of the descriptor.
            file.flush(true).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        copying.await.unwrap();
        file.flush(true).await.unwrap();
        assert!(remote(&store).await == bytes);
    });
}

#[test]
fn a_copy_whose_source_fails_ends_what_it_began() {
    run(async {
        let store = MemoryStore::new();
        let (shared, file, _) = create(&store).await;
        let mut bytes = pattern(MIB, 11);
        for at in (0..bytes.len()).step_by(64 << 10) {
            bytes[at..at + (32 << 10)].fill(0);
        }
        store.put("other", &bytes);
        let source = reader_of(&store, &shared, "other").await;
        // A few extents are known; nothing more can be asked for once the blob is another one.
        assert_eq!(source.seek(0, false).await.unwrap(), Some(32 << 10));
        store.put("other", &bytes);
        let refused = file.copy_from(0, &source, 0, MIB).await;
        assert!(refused.is_err() || refused.is_ok_and(|copied| copied < MIB));
        let frozen = tokio::time::timeout(Duration::from_secs(20), file.freeze()).await;
        drop(frozen.expect("nothing is left in flight"));
    });
}

#[test]
fn a_copy_moves_no_bytes_and_keeps_holes() {
    run(async {
        let store = MemoryStore::new();
        let (shared, file, writer) = create(&store).await;
        let (source, bytes) = other(&store, &shared).await;
        file.write(3 * MIB, &pattern(4096, 9)).await.unwrap();
        file.write(0, &pattern(100, 9)).await.unwrap();
        copy(&file, 0, &source, 0, source.len()).await;
        assert_eq!(file.len(), source.len());
        // Seeks see the copy before it is flushed, which learns nothing by asking.
        assert_eq!(file.seek(0, true).await.unwrap(), Some(1024));
        assert_eq!(file.seek(MIB, true).await.unwrap(), Some(2 * MIB));
        assert_eq!(file.seek(2 * MIB, false).await.unwrap(), Some(4 * MIB));
        file.flush(true).await.unwrap();
        assert!(remote(&store).await == bytes);
        assert!(shared.cache.weight() < 2048, "only the last, partial sector was ever here");
        let data = all_extents(&*writer, 0..writer.len()).await.unwrap();
        assert_eq!(data, [0..1024, 8192..2 * MIB, 4 * MIB..5 * MIB + 777]);
        assert_eq!(file.allocated(), Some(3 * MIB - 7168 + 1024));
    });
}

#[test]
fn a_fragmented_blob_is_looked_at_piece_by_piece() {
    run(async {
        let store = MemoryStore::new();
        let mut bytes = vec![0; 2 * MIB as usize];
        for at in (0..bytes.len()).step_by(64 << 10) {
            bytes[at] = 1;
        }
        store.put("file", &bytes);
        let (_, file) = open(&store, Access::Read).await;
        assert_eq!(file.allocated(), None);
        for at in (0..2 * MIB).step_by(64 << 10) {
            assert_eq!(file.seek(at, true).await.unwrap(), Some(at + 512));
            assert_eq!(file.seek(at, false).await.unwrap(), Some(at));
        }
        assert_eq!(file.seek(2 * MIB - 5, false).await.unwrap(), None);
        file.count_allocated().await.unwrap();
        assert_eq!(file.allocated(), Some(32 * 512));
    });
}

#[test]
fn reading_holes_costs_nothing_once_they_are_known() {
    run(async {
        let store = MemoryStore::new();
        let mut bytes = vec![0; 64 * MIB as usize];
        bytes[..4096].fill(1);
        store.put("file", &bytes);
        let (_, file) = open(&store, Access::Read).await;
        let reader = file.reader();
        let read = async |at: u64| {
            let span = Span::at(at, 4096);
            match file.read_at(&reader, span) {
                Some(_) => {}
                None => drop(file.read_missing(&reader, span).await.unwrap()),
            }
        };
        for at in [0, 20, 40] {
            read(at * MIB).await;
        }
        // What was learnt in the background is there as soon as somebody asks.
        assert_eq!(file.seek(MIB, false).await.unwrap(), None);
        let before = store.requests();
        for at in 1..64 {
            read(at * MIB + 8192).await;
        }
        assert_eq!(store.requests(), before);
    });
}

#[test]
fn a_sequential_reader_fetches_every_byte_once() {
    run(async {
        let store = MemoryStore::new();
        let data = pattern(40 * MIB, 3);
        store.put("file", &data);
        store.set_latency(Duration::from_millis(2));
        let (_, file) = open(&store, Access::Read).await;
        let reader = file.reader();
        for (index, chunk) in data.chunks(128 << 10).enumerate() {
            let span = Span::at(index as u64 * (128 << 10), chunk.len() as u64);
            let got = match file.read_at(&reader, span) {
                Some(got) => got,
                None => file.read_missing(&reader, span).await.unwrap(),
            };
            assert!(got == chunk);
        }
        // Three reads as asked, then GETs of 1 MiB and more.
        assert!(store.requests() <= 44, "{} requests", store.requests());
    });
}

#[test]
fn many_readers_of_one_byte_fetch_it_once() {
    run(async {
        let store = MemoryStore::new();
        store.put("file", &pattern(MIB, 3));
        store.set_latency(Duration::from_millis(20));
        let (_, file) = open(&store, Access::Read).await;
        let readers = (0..50).map(|_| {
            let file = Arc::clone(&file);
            tokio::spawn(async move { file.read(Span::at(5000, 100)).await.unwrap() })
        });
        for reader in readers.collect::<Vec<_>>() {
            assert_eq!(reader.await.unwrap(), pattern(MIB, 3)[5000..5100]);
        }
        assert_eq!(store.requests(), 1);
    });
}

#[test]
fn a_small_read_fetches_its_pages_alone() {
    run(async {
        let store = MemoryStore::new();
        store.put("file", &pattern(8 * MIB, 3));
        let (shared, file) = open(&store, Access::Read).await;
        file.read(Span::at(MIB + 5000, 100)).await.unwrap();
        assert!(shared.cache.weight() < 5000, "{}", shared.cache.weight());
    });
}
