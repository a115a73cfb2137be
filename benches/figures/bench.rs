//! What every row needs: the sizes of this run, a server with its blobs, and pairs of measurements.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use blobdir::config::parse_size;
use tempfile::TempDir;

use crate::client::{self, Client};
use crate::daemon::{Cpu, Daemon};
use crate::data::MIB;
use crate::server::{Counts, Profile, Server};

/// The blob that every row reads.
pub(crate) const BLOB: &str = "data";
/// A smaller one that is read again and again.
pub(crate) const WARM: &str = "warm";
/// The container that they are in, as a source to mount.
const SOURCE: &str = "az://devstoreaccount1/bench";
/// Where a file system in memory is.
const MEMORY: &str = "/dev/shm";
/// `cache_size` and `dirty_limit` when no option says otherwise, in bytes.
const DEFAULT_CACHE: u64 = 256 * MIB;
const DEFAULT_DIRTY: u64 = 128 * MIB;
/// What a daemon may take beyond those two, in bytes.
const BEYOND: u64 = 64 * MIB;

/// Somebody wants the run to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether the run is to end: servers and mounts are taken down in order, what was measured is shown.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Bytes of a sequential run.
    pub(crate) len: u64,
    /// Bytes of a sequential run at 60 MiB/s.
    pub(crate) throttled: u64,
    /// Bytes of the file that is read from memory again.
    pub(crate) warm: u64,
    /// Random reads at 10 ms each, of all threads together.
    pub(crate) distant_reads: usize,
    /// Random reads without latency, of each thread.
    pub(crate) plain_reads: usize,
    /// How often both sides of a row are measured.
    pub(crate) repeat: usize,
}

impl Scale {
    /// What the targets are for.
    pub(crate) const FULL: Scale = Scale {
        len: 1024 * MIB,
        throttled: 360 * MIB,
        warm: 128 * MIB,
        distant_reads: 3200,
        plain_reads: 6000,
        repeat: 5,
    };
    /// A look in passing: windows do not have the time to open.
    pub(crate) const QUICK: Scale = Scale {
        len: 256 * MIB,
        throttled: 120 * MIB,
        warm: 64 * MIB,
        distant_reads: 1600,
        plain_reads: 1500,
        repeat: 3,
    };
}

/// A run.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) scale: Scale,
    options: String,
    limit: u64,
    server: Option<(Profile, Server)>,
    scratch: TempDir,
    in_memory: bool,
}

/// One measurement of a mount.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// In the unit of the row.
    pub(crate) rate: f64,
    /// What the server was asked meanwhile.
    pub(crate) counts: Counts,
    /// The daemon's memory at its peak, in bytes.
    pub(crate) peak: u64,
    /// CPU of the daemon, and of the server.
    pub(crate) cpu: (Cpu, Cpu),
}

/// Both sides of a row, measured in turn.
#[derive(Clone, Debug)]
pub(crate) struct Compared {
    /// Median rate of the mount.
    pub(crate) measured: f64,
    /// Median rate of the client.
    pub(crate) baseline: f64,
    /// Median of the ratios of neighbouring measurements, which had the same noise around them.
    pub(crate) ratio: f64,
    /// Every measurement of the mount.
    pub(crate) samples: Vec<Sample>,
}

impl Bench {
    /// Makes the blobs that are read.
    pub(crate) fn new(scale: Scale, options: &str) -> Bench {
        watch_signals();
        // What the server keeps and what a mount is compared with should not wait for a disk.
        let in_memory = free_bytes(MEMORY).is_some_and(|free| free > 4 * scale.len);
        let scratch = if in_memory { TempDir::new_in(MEMORY) } else { TempDir::new() };
        let mut bench = Bench {
            scale,
            options: options.to_owned(),
            limit: limit(options),
            server: None,
            scratch: scratch.expect("a directory for the server's data"),
            in_memory,
        };
        bench.serve(Profile::Plain);
        let client = bench.client(8);
        client.fill(BLOB, scale.len);
        client.fill(WARM, scale.warm);
        bench
    }

    /// Sees to it that a server of this profile runs over the data.
    pub(crate) fn serve(&mut self, profile: Profile) {
        if self.server.as_ref().is_none_or(|(running, _)| *running != profile) {
            // Two servers must not be at work on the same data.
            self.server = None;
            self.server =
                Some((profile, Server::start(profile, &self.scratch.path().join("blobs"))));
        }
    }

    fn server(&self) -> &Server {
        &self.server.as_ref().expect("one was started").1
    }

    fn endpoint(&self) -> &str {
        self.server().endpoint()
    }

    /// A file beside the server's data, if that is in memory.
    pub(crate) fn file_in_memory(&self, name: &str) -> Option<PathBuf> {
        self.in_memory.then(|| self.scratch.path().join(name))
    }

    /// What a daemon may take in memory at most, in bytes.
    pub(crate) fn memory_limit(&self) -> u64 {
        self.limit
    }

    /// A new client with so many connections.
    pub(crate) fn client(&self, connections: usize) -> Client {
        Client::new(SOURCE, self.endpoint(), connections)
    }

    /// What the server has counted so far.
    fn counts(&self) -> Counts {
        self.server().counts()
    }

    /// Takes the rate of something done in a fresh mount. What `work` opened is closed by then.
    pub(crate) fn mounted(&self, work: impl FnOnce(&Daemon) -> f64) -> Sample {
        self.prepared(|_| (), |daemon, ()| work(daemon))
    }

    /// The same with one more option, which counts more than those of the run.
    pub(crate) fn mounted_with(&self, option: &str, work: impl FnOnce(&Daemon) -> f64) -> Sample {
        let options = [self.options.as_str(), option].join(",");
        self.sample(&options, |_| (), |daemon, ()| work(daemon))
    }

    /// The same with something done before, of which only the daemon's memory counts.
    pub(crate) fn prepared<T>(
        &self,
        prepare: impl FnOnce(&Daemon) -> T,
        work: impl FnOnce(&Daemon, T) -> f64,
    ) -> Sample {
        self.sample(&self.options, prepare, work)
    }

    fn sample<T>(
        &self,
        options: &str,
        prepare: impl FnOnce(&Daemon) -> T,
        work: impl FnOnce(&Daemon, T) -> f64,
    ) -> Sample {
        let daemon = Daemon::start(SOURCE, self.endpoint(), options);
        let prepared = prepare(&daemon);
        let (before, daemon_before, server_before) =
            (self.counts(), daemon.cpu(), self.server().cpu());
        let rate = work(&daemon, prepared);
        let cpu = (daemon.cpu().since(daemon_before), self.server().cpu().since(server_before));
        let sample =
            Sample { rate, counts: self.counts().since(&before), peak: daemon.peak_memory(), cpu };
        daemon.end();
        sample
    }

    /// Measures both sides in turn. `baseline` gives a rate.
    pub(crate) fn compare(
        &self,
        baseline: impl Fn() -> f64,
        mounted: impl Fn() -> Sample,
    ) -> Compared {
        let mut pairs = Vec::new();
        for round in 0..self.scale.repeat {
            // Each is as often the first of its pair as the second.
            let pair = if round % 2 == 0 {
                let baseline = baseline();
                (baseline, mounted())
            } else {
                let sample = mounted();
                (baseline(), sample)
            };
            eprintln!(
                "  {:>10.1} against {:>10.1} ({:.2}), daemon {:.2} + {:.2} s, server {:.2} + {:.2} s; {}",
                pair.1.rate,
                pair.0,
                pair.1.rate / pair.0,
                pair.1.cpu.0.user.as_secs_f64(),
                pair.1.cpu.0.system.as_secs_f64(),
                pair.1.cpu.1.user.as_secs_f64(),
                pair.1.cpu.1.system.as_secs_f64(),
                pair.1.counts.show(),
            );
            pairs.push(pair);
            if interrupted() {
                break;
            }
        }
        Compared {
            measured: median(pairs.iter().map(|(_, sample)| sample.rate)),
            baseline: median(pairs.iter().map(|(baseline, _)| *baseline)),
            ratio: median(pairs.iter().map(|(baseline, sample)| sample.rate / baseline)),
            samples: pairs.into_iter().map(|(_, sample)| sample).collect(),
        }
    }

    /// Compares a mount with one that has another option. Gives the other one's measurements besides.
    pub(crate) fn compare_options(
        &self,
        option: &str,
        other: &str,
        work: impl Fn(&Daemon) -> f64,
        after: impl Fn(),
    ) -> (Compared, Vec<Sample>) {
        let others = RefCell::new(Vec::new());
        let measure = |option: &str| {
            let sample = self.mounted_with(option, &work);
            after();
            sample
        };
        let baseline = || {
            let sample = measure(other);
            let rate = sample.rate;
            others.borrow_mut().push(sample);
            rate
        };
        let compared = self.compare(baseline, || measure(option));
        (compared, others.into_inner())
    }

    /// Ends the server and removes its data.
    pub(crate) fn finish(mut self) {
        self.server = None;
        if let Err(error) = self.scratch.close() {
            eprintln!("the data of the run is left behind: {error}");
        }
    }
}

/// `0..len` in ranges of 4 MiB, the size that clients of the service use.
pub(crate) fn ranges(len: u64) -> Vec<std::ops::Range<u64>> {
    client::ranges(len, 4 * MIB)
}

/// MiB a second.
pub(crate) fn mib_rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / MIB as f64 / time.as_secs_f64()
}

/// The one in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The memory that a daemon with these options may take.
fn limit(options: &str) -> u64 {
    let of = |name: &str, default: u64| {
        let value = options.split(',').rev().find_map(|word| {
            let (found, value) = word.split_once('=')?;
            (found == name).then(|| parse_size(value)).flatten()
        });
        value.unwrap_or(default)
    };
    of("cache_size", DEFAULT_CACHE) + of("dirty_limit", DEFAULT_DIRTY) + BEYOND
}

/// Free bytes of the file system that holds `path`, if it is there.
fn free_bytes(path: impl AsRef<Path>) -> Option<u64> {
    let output =
        Command::new("df").args(["--output=avail", "-B1"]).arg(path.as_ref()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.lines().nth(1)?.trim().parse().ok()
}

/// Notes SIGINT and SIGTERM instead of ending at once, which would leave mounts and servers behind.
fn watch_signals() {
    use tokio::signal::unix::{SignalKind, signal};

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime for signals");
    thread::spawn(move || {
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt()).expect("a handler");
            let mut terminate = signal(SignalKind::terminate()).expect("a handler");
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            eprintln!("ending after this measurement");
            INTERRUPTED.store(true, Ordering::Relaxed);
        });
    });
}
