//! The cache and the write-back under schedules that a scheduler picks: writers, readers, flushes,
//! truncation, eviction, failures and renames in thousands of orders, most of which a machine hardly ever
//! shows.
//!
//! Each scenario is some tasks on one file over the memory store, which refuses overlapping updates in
//! flight by a panic. The tasks check what they see against a model (see [`Model`]); a task that waits for
//! what nobody will do is found as a deadlock, or, while the sweeper goes round, by the limit of steps.
//!
//! `SCHEDULES=N` tries N orders of each scenario instead of the usual number, `SEED=N` others. What shuttle
//! prints of a failed one can be given to `shuttle::replay`.

#![allow(clippy::unwrap_used, reason = "a test that meets an error is to fail")]

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blobdir_schedules::io::file::File;
use blobdir_schedules::io::page_cache::ContentId;
use blobdir_schedules::io::span::{BLOCK, Span};
use blobdir_schedules::io::{Config, Shared};
use blobdir_schedules::store::memory::MemoryStore;
use blobdir_schedules::store::{
    Access, Blob, BlobMut, ErrorKind, Opened, Outcome, RemotePath, Replace, Store, read_all,
};
use shuttle::rand::{Rng as _, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{MaxSteps, Runner};
use tokio::task::JoinHandle;

/// Where something happens: the first page of three blocks, of which the cache has room for two.
const AREAS: [u64; 3] = [0, BLOCK, 2 * BLOCK];
const AREA: u64 = 4096;
const CACHE: u64 = 9 << 10;
/// The names that the blob has one after the other, where it is renamed.
const NAMES: [&str; 3] = ["f", "g", "h"];
/// What nobody writes to.
const UNTOUCHED: u8 = 0xEE;
/// More than any order of these scenarios takes.
const MAX_STEPS: usize = 100_000;
/// Of how many preemptions the orders that matter are made, for the scheduler that looks for those.
const DEPTH: usize = 3;

/// Tries orders of a scenario: half of them at random, half with few preemptions in the worst places.
fn explore(orders: usize, scenario: impl AsyncFn() + Copy + Send + Sync + 'static) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let orders = number("SCHEDULES").map_or(orders, |number| number as usize) / 2;
    let seed = number("SEED").unwrap_or(1);
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = shuttle::Config::new();
        config.max_steps = MaxSteps::FailAfter(MAX_STEPS);
        config.stack_size = 256 << 10;
        Runner::new(scheduler, config).run(move || shuttle::future::block_on(scenario()));
    };
    run(Box::new(RandomScheduler::new_from_seed(seed, orders)));
    run(Box::new(PctScheduler::new_from_seed(seed, DEPTH, orders)));
}

/// The bytes that one writer owns in each area. Neighbours share sectors.
#[derive(Clone)]
struct Stripe {
    at: Range<u64>,
    /// The newest version that was begun.
    begun: u8,
    /// By area, the version of each byte that was completed.
    done: Vec<Vec<u8>>,
}

/// What may be in the file. A writer writes versions that grow, so that a byte holds the last completed
/// one, or one that was begun since. Never locked while a task may be switched.
#[derive(Clone)]
struct Model {
    stripes: Arc<Mutex<Vec<Stripe>>>,
    /// Where it ends.
    end: u64,
}

/// What a version looks like; some are zeros, which are cleared and not sent.
fn value(version: u8) -> u8 {
    match version {
        0 => UNTOUCHED,
        version if version.is_multiple_of(3) => 0,
        version => version,
    }
}

impl Model {
    fn new(stripes: &[Range<u64>], end: u64) -> Model {
        let stripe = |at: &Range<u64>| {
            let untouched = vec![0; (at.end - at.start) as usize];
            Stripe { at: at.clone(), begun: 0, done: vec![untouched; AREAS.len()] }
        };
        Model { stripes: Arc::new(Mutex::new(stripes.iter().map(stripe).collect())), end }
    }

    fn now(&self) -> Vec<Stripe> {
        self.stripes.lock().unwrap().clone()
    }

    /// Checks bytes of an area, seen between `before` and now.
    fn check(&self, before: &[Stripe], area: usize, bytes: &[u8], what: &str) {
        // Beyond, the tail is checked by who changes it.
        let tail = usize::try_from(self.end - AREAS[area]).unwrap();
        let bytes = &bytes[..bytes.len().min(tail)];
        let mut owned = vec![false; bytes.len()];
        for (index, (before, now)) in before.iter().zip(self.now()).enumerate() {
            for (offset, oldest) in before.done[area].iter().enumerate() {
                let at = before.at.start as usize + offset;
                let Some(&byte) = bytes.get(at) else { break };
                let newest = now.begun.max(*oldest);
                let fits = (*oldest..=newest).any(|version| value(version) == byte);
                assert!(
                    fits,
                    "{what}: byte {at} of area {area}, writer {index}: {byte} is none of versions {oldest} to {newest}"
                );
                owned[at] = true;
            }
        }
        let others = bytes.iter().zip(&owned).filter(|(_, owned)| !**owned);
        assert!(others.map(|(byte, _)| *byte).all(|byte| byte == UNTOUCHED), "{what}: area {area}");
    }
}

/// A store with one blob, opened for writing.
struct Bench {
    store: MemoryStore,
    shared: Arc<Shared>,
    file: Arc<File>,
    model: Model,
    /// Calls may fail.
    fails: bool,
}

fn path(name: &str) -> RemotePath {
    RemotePath::new(name).unwrap()
}

async fn open(store: &MemoryStore, name: &str) -> Arc<dyn BlobMut> {
    match store.open(&path(name), Access::Update).await.unwrap() {
        Opened::Update(writer) => writer,
        Opened::Read(_) => unreachable!("opened for updates"),
    }
}

/// An opened file. Half of the cache is for what is fetched ahead.
fn data_path(
    store: &MemoryStore,
    writer: Arc<dyn BlobMut>,
    cache_size: u64,
    dirty_limit: u64,
) -> (Arc<Shared>, Arc<File>) {
    let config = Config { cache_size, dirty_limit, connections: 2, timeout: Duration::MAX };
    let shared = Shared::new(&config, store.capabilities());
    let blob = Arc::clone(&writer) as Arc<dyn Blob>;
    let file = File::new(Arc::clone(&shared), ContentId::fresh(), blob, Some(writer));
    (shared, file)
}

impl Bench {
    /// A blob with three areas and nothing in between.
    async fn new(dirty_limit: u64, stripes: &[Range<u64>]) -> Bench {
        let store = MemoryStore::new();
        let writer = store.create(&path("f"), Replace::Refused).await.unwrap();
        writer.set_len(AREAS[2] + AREA, false).await.unwrap();
        for area in AREAS {
            writer.write_at(area, vec![vec![UNTOUCHED; AREA as usize].into()]).await.unwrap();
        }
        // Each wait is a point where others may go on; how long it is means nothing here.
        store.set_latency(Duration::from_nanos(1));
        let (shared, file) = data_path(&store, writer, 2 * CACHE, dirty_limit);
        let model = Model::new(stripes, AREAS[2] + AREA);
        Bench { store, shared, file, model, fails: false }
    }

    /// Writes to a stripe, and reads what it has written.
    fn writer(&self, index: usize, writes: usize) -> JoinHandle<()> {
        let (file, model, fails) = (Arc::clone(&self.file), self.model.clone(), self.fails);
        tokio::spawn(async move {
            for _ in 0..writes {
                let (area, part, version) = {
                    let mut stripes = model.stripes.lock().unwrap();
                    let stripe = &mut stripes[index];
                    stripe.begun += 1;
                    let len = stripe.at.end - stripe.at.start;
                    let start = thread_rng().gen_range(0..len);
                    let part = start..thread_rng().gen_range(start + 1..=len);
                    (thread_rng().gen_range(0..AREAS.len()), part, stripe.begun)
                };
                let stripe = model.now()[index].at.clone();
                let at = AREAS[area] + stripe.start;
                let bytes = vec![value(version); (part.end - part.start) as usize];
                let written = file.write(at + part.start, &bytes).await;
                assert!(written.is_ok() || fails, "{written:?}");
                if written.is_ok() {
                    let mut stripes = model.stripes.lock().unwrap();
                    let done = &mut stripes[index].done[area];
                    done[part.start as usize..part.end as usize].fill(version);
                }
                // Nobody else writes here: what is read is what was written, sent or not.
                let own = Span::between(at, AREAS[area] + stripe.end);
                let read = match file.read(own).await {
                    Err(_) if fails => continue,
                    read => read.unwrap(),
                };
                let done = model.now()[index].done[area].clone();
                let wanted: Vec<u8> = done.into_iter().map(value).collect();
                assert_eq!(read, wanted, "writer {index} reads back version {version}");
            }
        })
    }

    fn reader(&self, reads: usize) -> JoinHandle<()> {
        let (file, model, fails) = (Arc::clone(&self.file), self.model.clone(), self.fails);
        tokio::spawn(async move {
            for _ in 0..reads {
                let area = thread_rng().gen_range(0..AREAS.len());
                let before = model.now();
                match file.read(Span::at(AREAS[area], AREA)).await {
                    Err(_) if fails => {}
                    read => model.check(&before, area, &read.unwrap(), "read"),
                }
            }
        })
    }

    /// Flushes, and checks that the store has what had been written before.
    fn flusher(&self, flushes: usize) -> JoinHandle<()> {
        let (file, model, fails) = (Arc::clone(&self.file), self.model.clone(), self.fails);
        let store = self.store.clone();
        tokio::spawn(async move {
            for _ in 0..flushes {
                let before = model.now();
                let last = thread_rng().gen_bool(0.5);
                match file.flush(last).await {
                    Err(_) if fails => {}
                    flushed => {
                        flushed.unwrap();
                        check_store(&store, &model, &before).await;
                    }
                }
            }
        })
    }

    /// When all others have ended: the store has exactly the last version of everything, and nothing is left
    /// over.
    async fn end(self, tasks: Vec<JoinHandle<()>>) {
        for task in tasks {
            task.await.unwrap();
        }
        for stripe in self.model.stripes.lock().unwrap().iter_mut() {
            // Nothing is under way, and what has failed was not written at all.
            stripe.begun = 0;
        }
        self.file.flush(true).await.unwrap();
        check_store(&self.store, &self.model, &self.model.now()).await;
        assert!(self.file.is_settled());
        assert_eq!((self.shared.unconfirmed(), self.file.unconfirmed()), (0, 0));
        assert!(self.shared.unsettled().is_empty());
    }
}

/// Checks the blob, which may be on its way to another name.
async fn check_store(store: &MemoryStore, model: &Model, before: &[Stripe]) {
    for name in NAMES {
        // Not pinned to a version, which others go on changing.
        let Ok(Opened::Update(blob)) = store.open(&path(name), Access::Update).await else {
            continue;
        };
        for (area, at) in AREAS.into_iter().enumerate() {
            match read_all(&*blob, at..(at + AREA).min(model.end)).await {
                Ok(bytes) => model.check(before, area, &bytes, "store"),
                Err(error) => assert!(error.kind() != ErrorKind::InvalidRange, "{error}"),
            }
        }
    }
}

const THREE: [Range<u64>; 3] = [100..1350, 1400..2650, 2700..3950];
/// Room for all that a scenario writes, and for hardly two writes.
const ROOM: u64 = 1 << 20;
const TIGHT: u64 = 3000;

#[test]
fn writers_readers_and_flushes() {
    explore(4000, async || {
        let bench = Bench::new(ROOM, &THREE).await;
        let mut tasks: Vec<_> = (0..3).map(|index| bench.writer(index, 3)).collect();
        tasks.extend([bench.reader(3), bench.flusher(2), bench.flusher(1)]);
        bench.end(tasks).await;
    });
}

#[test]
fn writers_that_wait_for_room() {
    explore(4000, async || {
        let bench = Bench::new(TIGHT, &THREE).await;
        let mut tasks: Vec<_> = (0..3).map(|index| bench.writer(index, 3)).collect();
        tasks.push(bench.reader(2));
        bench.end(tasks).await;
    });
}

/// Where the tail begins that is cut and grows: in the middle of a sector, and of the last area.
const TAIL: u64 = AREAS[2] + 2000;

impl Bench {
    async fn below_tail(dirty_limit: u64) -> Bench {
        let mut bench = Bench::new(dirty_limit, &[100..1350, 1400..1990]).await;
        bench.model.end = TAIL;
        bench
    }

    /// Cuts and grows the file beyond [`TAIL`], where nobody else writes. What is there is then known to the
    /// byte.
    fn truncater(&self, steps: usize) -> JoinHandle<()> {
        let file = Arc::clone(&self.file);
        let store = self.store.clone();
        tokio::spawn(async move {
            let mut tail = vec![UNTOUCHED; (AREAS[2] + AREA - TAIL) as usize];
            for step in 1..=steps {
                let at = thread_rng().gen_range(0..AREA as usize);
                if thread_rng().gen_bool(0.5) {
                    file.set_len(TAIL + at as u64).await.unwrap();
                    tail.resize(at, 0);
                    // The service knows the length then, and nobody else changes it.
                    let there = open(&store, "f").await.len();
                    assert_eq!(there, TAIL + at as u64, "after a truncation");
                } else {
                    let end = at + thread_rng().gen_range(1..700);
                    file.write(TAIL + at as u64, &vec![step as u8; end - at]).await.unwrap();
                    tail.resize(tail.len().max(end), 0);
                    tail[at..end].fill(step as u8);
                }
                assert_eq!(file.len(), TAIL + tail.len() as u64);
                let beyond = Span::at(TAIL, 2 * AREA);
                assert_eq!(file.read(beyond).await.unwrap(), tail, "step {step}");
                if thread_rng().gen_bool(0.3) {
                    file.flush(false).await.unwrap();
                    check_tail(&store, &tail).await;
                }
            }
            file.flush(true).await.unwrap();
            check_tail(&store, &tail).await;
        })
    }
}

async fn check_tail(store: &MemoryStore, tail: &[u8]) {
    let blob = open(store, "f").await;
    assert_eq!(blob.len(), TAIL + tail.len() as u64);
    let there = read_all(&*blob, TAIL..blob.len()).await.unwrap();
    assert_eq!(there, tail, "the tail in the store");
}

#[test]
fn truncation_among_writers_and_flushes() {
    explore(4000, async || {
        let bench = Bench::below_tail(ROOM).await;
        let mut tasks: Vec<_> = (0..2).map(|index| bench.writer(index, 2)).collect();
        tasks.extend([bench.truncater(4), bench.reader(2), bench.flusher(2)]);
        bench.end(tasks).await;
    });
}

#[test]
fn truncation_with_little_room() {
    explore(2000, async || {
        let bench = Bench::below_tail(TIGHT).await;
        let tasks = vec![bench.writer(0, 2), bench.truncater(4), bench.reader(2)];
        bench.end(tasks).await;
    });
}

impl Bench {
    /// The service refuses everything for a while, now and then.
    fn outages(&self, count: usize) -> JoinHandle<()> {
        let store = self.store.clone();
        tokio::spawn(async move {
            for _ in 0..count {
                pause().await;
                store.set_failure(Some((ErrorKind::Unavailable, Outcome::NotApplied)));
                pause().await;
                store.set_failure(None);
            }
        })
    }

    /// Moves the blob while others go on, as the tree does.
    fn renamer(&self) -> JoinHandle<()> {
        let (file, store) = (Arc::clone(&self.file), self.store.clone());
        tokio::spawn(async move {
            for (from, to) in [("f", "g"), ("g", "h")] {
                pause().await;
                file.flush(false).await.unwrap();
                let frozen = file.freeze().await;
                store.rename(&path(from), &path(to), Replace::Refused).await.unwrap();
                pause().await;
                frozen.thaw_renamed(open(&store, to).await);
            }
        })
    }
}

/// Lets others go on for some steps.
async fn pause() {
    for _ in 0..thread_rng().gen_range(0..30) {
        tokio::task::yield_now().await;
    }
}

#[test]
fn outages_lose_nothing() {
    explore(4000, async || {
        let mut bench = Bench::new(ROOM, &THREE).await;
        bench.fails = true;
        let mut tasks: Vec<_> = (0..2).map(|index| bench.writer(index, 3)).collect();
        tasks.extend([bench.reader(2), bench.flusher(2), bench.flusher(1), bench.outages(2)]);
        bench.end(tasks).await;
    });
}

#[test]
fn renames_hold_updates_back() {
    explore(2000, async || {
        let bench = Bench::new(ROOM, &THREE).await;
        let mut tasks: Vec<_> = (0..2).map(|index| bench.writer(index, 3)).collect();
        tasks.extend([bench.reader(2), bench.flusher(3), bench.renamer()]);
        bench.end(tasks).await;
    });
}

/// A stream is fetched ahead, in segments that arrive when they like, while what it will read is written.
#[test]
fn a_stream_never_sees_older_bytes() {
    const PAGE: u64 = 4096;
    const PIECE: u64 = 128 << 10;
    const PAGES: u64 = 384;
    explore(200, async || {
        let store = MemoryStore::new();
        // Never zeros, which are holes and fetched by nobody.
        store.put("f", &vec![1; (PAGES * PAGE) as usize]);
        store.set_latency(Duration::from_nanos(1));
        let (shared, file) = data_path(&store, open(&store, "f").await, ROOM << 3, ROOM << 3);
        // Of each page, the version that was completed, and the one that was begun.
        let versions = Arc::new(Mutex::new(vec![(1u8, 1u8); PAGES as usize]));
        let mut tasks = Vec::new();
        for parity in 0..2 {
            let (file, versions) = (Arc::clone(&file), Arc::clone(&versions));
            tasks.push(tokio::spawn(async move {
                for version in 2..7 {
                    // Each writer has pages of its own.
                    let page = thread_rng().gen_range(0..PAGES / 2) * 2 + parity;
                    versions.lock().unwrap()[page as usize].1 = version;
                    file.write(page * PAGE, &[version; PAGE as usize]).await.unwrap();
                    versions.lock().unwrap()[page as usize].0 = version;
                }
            }));
        }
        let (flushed, read, seen) = (Arc::clone(&file), Arc::clone(&file), Arc::clone(&versions));
        tasks.push(tokio::spawn(async move { flushed.flush(false).await.unwrap() }));
        tasks.push(tokio::spawn(async move {
            let reader = read.reader();
            for at in (0..PAGES * PAGE).step_by(PIECE as usize) {
                let before = seen.lock().unwrap().clone();
                let span = Span::at(at, PIECE);
                let bytes = match read.read_at(&reader, span) {
                    Some(bytes) => bytes,
                    None => read.read_missing(&reader, span).await.unwrap(),
                };
                let now = seen.lock().unwrap().clone();
                for (page, bytes) in (at / PAGE..).zip(bytes.chunks(PAGE as usize)) {
                    let allowed = before[page as usize].0..=now[page as usize].1;
                    let fits =
                        allowed.contains(&bytes[0]) && bytes.iter().all(|byte| *byte == bytes[0]);
                    assert!(fits, "page {page} is {} and not of {allowed:?}", bytes[0]);
                }
            }
            read.end_reader(&reader);
        }));
        for task in tasks {
            task.await.unwrap();
        }
        file.flush(true).await.unwrap();
        let blob = open(&store, "f").await;
        let there = read_all(&*blob, 0..PAGES * PAGE).await.unwrap();
        let last = versions
            .lock()
            .unwrap()
            .iter()
            .flat_map(|page| [page.0; PAGE as usize])
            .collect::<Vec<_>>();
        assert!(there == last, "the store has what was written last");
        assert_eq!(shared.unconfirmed(), 0);
    });
}
