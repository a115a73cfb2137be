//! Cold reads: each measurement has a mount of its own.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::bench::{BLOB, Bench, Compared, mib_rate, ranges};
use crate::data::{self, MIB, PAGE};
use crate::report::{Direction, Report};

/// Connections of the plain client where the row says nothing else.
const CONNECTIONS: usize = 8;
/// Connections of a mount without options, and of the client that it is compared with.
const DEFAULT_CONNECTIONS: usize = 24;
/// What a single small read may fetch, in bytes.
const SINGLE: u64 = 256 << 10;
/// What counts as the beginning of a long read, in bytes.
const FIRST: u64 = 128 * MIB;
/// What is left of the rate when everything is checked on its way.
pub(crate) const CHECKED: f64 = 0.95;
/// MiB a second to reach where 60 are served.
const THROTTLED: f64 = 55.0;

pub(crate) fn buffered(bench: &Bench) -> Report {
    sequential(bench, CONNECTIONS, false, 0.6)
}

pub(crate) fn direct(bench: &Bench) -> Report {
    sequential(bench, CONNECTIONS, true, 0.75)
}

pub(crate) fn distant(bench: &Bench) -> Report {
    sequential(bench, DEFAULT_CONNECTIONS, false, 0.95)
}

/// A sequential read of everything.
fn sequential(bench: &Bench, connections: usize, direct: bool, least: f64) -> Report {
    let len = bench.scale.len;
    let compared = compare_sequential(bench, len, connections, direct);
    Report::new(&compared.samples, Direction::Read, len, bench.memory_limit())
        .rates(&compared, "MiB/s")
        .ratio_at_least(compared.ratio, least)
}

/// Reads `len` bytes through a mount; the client always reads everything, for its full rate.
fn compare_sequential(bench: &Bench, len: u64, connections: usize, direct: bool) -> Compared {
    bench.compare(
        || {
            let took = bench.client(connections).read(BLOB, ranges(bench.scale.len));
            mib_rate(bench.scale.len, took)
        },
        || bench.mounted(|daemon| mib_rate(len, read_through(&daemon.path(BLOB), len, direct))),
    )
}

/// What checksums cost.
pub(crate) fn verified(bench: &Bench) -> Report {
    let len = bench.scale.len;
    let (compared, others) = bench.compare_options(
        "verify=crc64",
        "verify=off",
        |daemon| mib_rate(len, read_through(&daemon.path(BLOB), len, false)),
        || (),
    );
    Report::new(&compared.samples, Direction::Read, len, bench.memory_limit())
        .rates(&compared, "MiB/s")
        .against(&others)
        .ratio_at_least(compared.ratio, CHECKED)
}

pub(crate) fn distant_first(bench: &Bench) -> Report {
    let len = FIRST.min(bench.scale.len);
    let compared = compare_sequential(bench, len, DEFAULT_CONNECTIONS, false);
    Report::new(&compared.samples, Direction::Read, len, bench.memory_limit())
        .rates(&compared, "MiB/s")
        .ratio_at_least(compared.ratio, 0.5)
}

pub(crate) fn throttled(bench: &Bench) -> Report {
    let len = bench.scale.throttled.min(bench.scale.len);
    // To the end of the blob: what was fetched ahead and is not read would count against the rate.
    let start = bench.scale.len - len;
    let sample = bench.mounted(|daemon| {
        let mut file = File::open(daemon.path(BLOB)).expect("a blob that opens");
        file.seek(SeekFrom::Start(start)).expect("a file that seeks");
        mib_rate(len, read_from(&mut file, start, len))
    });
    let refused = sample.counts.throttled;
    Report::new(std::slice::from_ref(&sample), Direction::Read, len, bench.memory_limit())
        .shown(format!("{:.1} MiB/s", sample.rate), format!("{refused} refused"))
        .target(sample.rate >= THROTTLED, "rate", format!("≥ {THROTTLED} MiB/s"))
}

pub(crate) fn single(bench: &Bench) -> Report {
    let sample = bench.mounted(|daemon| {
        let file = File::open(daemon.path(BLOB)).expect("a blob that opens");
        let mut page = vec![0; PAGE as usize];
        file.read_exact_at(&mut page, 0).expect("a blob that can be read");
        data::check(&page, 0);
        // Whatever the mount thinks that it should fetch besides is under way by then.
        thread::sleep(Duration::from_millis(300));
        0.0
    });
    let fetched = sample.counts.bytes_out;
    Report::new(&[sample], Direction::Read, PAGE, bench.memory_limit())
        .shown(format!("{} KiB", fetched.div_ceil(1 << 10)), String::new())
        .target(fetched <= SINGLE, "bytes", format!("≤ {} KiB", SINGLE >> 10))
}

pub(crate) fn random_alone(bench: &Bench) -> Report {
    random(bench, 1, bench.scale.plain_reads, 0.8)
}

pub(crate) fn random_together(bench: &Bench) -> Report {
    random(bench, 16, 4 * bench.scale.plain_reads, 0.6)
}

pub(crate) fn distant_random(bench: &Bench) -> Report {
    random(bench, 16, bench.scale.distant_reads, 0.92).network_at_most(1.2)
}

fn random(bench: &Bench, threads: usize, reads: usize, least: f64) -> Report {
    let offsets = data::random_pages(bench.scale.len, reads, 7);
    let rate = |took: Duration| offsets.len() as f64 / took.as_secs_f64();
    let compared = bench.compare(
        || {
            let ranges = offsets.iter().map(|at| *at..*at + PAGE).collect();
            rate(bench.client(threads).read(BLOB, ranges))
        },
        || bench.mounted(|daemon| rate(read_pages(&daemon.path(BLOB), &offsets, threads))),
    );
    let useful = offsets.len() as u64 * PAGE;
    Report::new(&compared.samples, Direction::Read, useful, bench.memory_limit())
        .rates(&compared, "reads/s")
        .ratio_at_least(compared.ratio, least)
}

/// Reads the first `len` bytes of a file by 1 MiB, as dd does; the time from the first read on.
pub(crate) fn read_through(path: &Path, len: u64, direct: bool) -> Duration {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    read_all(&mut file.expect("a blob that opens"), len)
}

/// Reads `len` bytes of a file that was just opened; the time it took.
pub(crate) fn read_all(file: &mut File, len: u64) -> Duration {
    read_from(file, 0, len)
}

/// Reads the next `len` bytes of a file that stands at `offset`; the time it took.
fn read_from(file: &mut File, offset: u64, len: u64) -> Duration {
    // Direct reads want memory that begins with a page.
    let mut memory = vec![0u8; (MIB + PAGE) as usize];
    let skip = memory.as_ptr().align_offset(PAGE as usize);
    let buffer = &mut memory[skip..skip + MIB as usize];
    let start = Instant::now();
    let mut at = 0;
    while at < len {
        let want = (len - at).min(MIB) as usize;
        file.read_exact(&mut buffer[..want]).expect("a file that can be read");
        data::check(&buffer[..want], offset + at);
        at += want as u64;
    }
    start.elapsed()
}

/// Reads pages by so many threads, each with a descriptor of its own; the time from the first on.
fn read_pages(path: &Path, offsets: &[u64], threads: usize) -> Duration {
    let barrier = Barrier::new(threads + 1);
    thread::scope(|scope| {
        for share in offsets.chunks(offsets.len().div_ceil(threads)) {
            let barrier = &barrier;
            let file = File::open(path).expect("a blob that opens");
            scope.spawn(move || {
                let mut page = vec![0; PAGE as usize];
                barrier.wait();
                for at in share {
                    file.read_exact_at(&mut page, *at).expect("a blob that can be read");
                    data::check(&page, *at);
                }
                barrier.wait();
            });
        }
        barrier.wait();
        let start = Instant::now();
        barrier.wait();
        start.elapsed()
    })
}
