//! A copy of a whole blob that the service makes.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::ptr;
use std::time::{Duration, Instant};

use crate::bench::{BLOB, Bench, mib_rate, ranges};
use crate::data::MIB;
use crate::report::{Direction, Report};

/// Connections of the plain client.
const CONNECTIONS: usize = 8;
/// Bytes that may cross the daemon's sockets, heads of requests included.
const MOST_MOVED: u64 = MIB;
/// The file that the mount makes, and the blob that the client does.
const OF_MOUNT: &str = "copied";
const OF_CLIENT: &str = "baseline";

pub(crate) fn whole(bench: &Bench) -> Report {
    let len = bench.scale.len;
    let compared = bench.compare(
        || {
            let client = bench.client(CONNECTIONS);
            let took = client.copy(BLOB, OF_CLIENT, len, ranges(len));
            client.remove(OF_CLIENT);
            mib_rate(len, took)
        },
        || {
            let sample = bench.mounted(|daemon| {
                mib_rate(len, copy(&daemon.path(BLOB), &daemon.path(OF_MOUNT), len))
            });
            let client = bench.client(1);
            client.check(OF_MOUNT, len);
            client.remove(OF_MOUNT);
            sample
        },
    );
    let moved = |sample: &crate::bench::Sample| sample.counts.bytes_in + sample.counts.bytes_out;
    let moved = compared.samples.iter().map(moved).max().unwrap_or(0);
    Report::new(&compared.samples, Direction::Write, len, bench.memory_limit())
        .rates(&compared, "MiB/s")
        .ratio_at_least(compared.ratio, 0.8)
        .target(moved <= MOST_MOVED, "bytes", format!("{} of 1024 KiB moved", moved >> 10))
}

/// Copies a file as `cp` does, and syncs it; the time from the first call on.
fn copy(from: &Path, to: &Path, len: u64) -> Duration {
    let from = File::open(from).expect("a blob that opens");
    let to = File::create(to).expect("a file that can be made");
    let start = Instant::now();
    let mut rest = len as usize;
    while rest > 0 {
        let (source, target) = (from.as_raw_fd(), to.as_raw_fd());
        // SAFETY: both descriptors are open; null pointers stand for their own offsets.
        let copied = unsafe {
            libc::copy_file_range(source, ptr::null_mut(), target, ptr::null_mut(), rest, 0)
        };
        rest -= usize::try_from(copied).ok().filter(|copied| *copied > 0).expect("bytes to copy");
    }
    to.sync_all().expect("a file that can be synced");
    start.elapsed()
}
