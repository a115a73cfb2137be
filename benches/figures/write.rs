//! Sequential writes of a new file, up to what fsync confirms.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::bench::{Bench, mib_rate, ranges};
use crate::data::{self, MIB, PAGE};
use crate::read::CHECKED;
use crate::report::{Direction, Report};

/// Connections of the plain client.
const CONNECTIONS: usize = 8;
/// Put Pages that a GiB may take: 256 full ones and a few more.
const PUTS_A_GIB: u64 = 260;
/// MiB a second to reach where 60 are served.
const THROTTLED: f64 = 55.0;
/// The file that the mount writes, and the blob that the client does.
const OF_MOUNT: &str = "written";
const OF_CLIENT: &str = "baseline";

pub(crate) fn large(bench: &Bench) -> Report {
    sequential(bench, MIB, 0.7)
}

pub(crate) fn small(bench: &Bench) -> Report {
    sequential(bench, PAGE, 0.35)
}

fn sequential(bench: &Bench, unit: u64, least: f64) -> Report {
    let len = bench.scale.len;
    let compared = bench.compare(
        || {
            let client = bench.client(CONNECTIONS);
            let took = client.write(OF_CLIENT, len, ranges(len));
            client.remove(OF_CLIENT);
            mib_rate(len, took)
        },
        || {
            let sample = bench
                .mounted(|daemon| mib_rate(len, write_through(&daemon.path(OF_MOUNT), len, unit)));
            check_and_remove(bench, len);
            sample
        },
    );
    let puts = compared.samples.iter().map(|sample| sample.counts.of("PutPage")).max();
    let a_gib = (puts.unwrap_or(0) * 1024 * MIB).div_ceil(len);
    let report = Report::new(&compared.samples, Direction::Write, len, bench.memory_limit())
        .rates(&compared, "MiB/s")
        .ratio_at_least(compared.ratio, least);
    report.target(a_gib <= PUTS_A_GIB, "requests", format!("Put Page/GiB {a_gib} ≤ {PUTS_A_GIB}"))
}

/// What checksums cost.
pub(crate) fn verified(bench: &Bench) -> Report {
    let len = bench.scale.len;
    let (compared, others) = bench.compare_options(
        "verify=crc64",
        "verify=off",
        |daemon| mib_rate(len, write_through(&daemon.path(OF_MOUNT), len, MIB)),
        || check_and_remove(bench, len),
    );
    Report::new(&compared.samples, Direction::Write, len, bench.memory_limit())
        .rates(&compared, "MiB/s")
        .against(&others)
        .ratio_at_least(compared.ratio, CHECKED)
}

pub(crate) fn throttled(bench: &Bench) -> Report {
    let len = bench.scale.throttled;
    let sample =
        bench.mounted(|daemon| mib_rate(len, write_through(&daemon.path(OF_MOUNT), len, MIB)));
    check_and_remove(bench, len);
    let refused = sample.counts.throttled;
    Report::new(std::slice::from_ref(&sample), Direction::Write, len, bench.memory_limit())
        .shown(format!("{:.1} MiB/s", sample.rate), format!("{refused} refused"))
        .target(sample.rate >= THROTTLED, "rate", format!("≥ {THROTTLED} MiB/s"))
}

fn check_and_remove(bench: &Bench, len: u64) {
    let client = bench.client(1);
    client.check(OF_MOUNT, len);
    client.remove(OF_MOUNT);
}

/// Writes a new file of `len` bytes by `unit` and syncs it; the time from the first write on.
fn write_through(path: &Path, len: u64, unit: u64) -> Duration {
    let mut mib = data::noise(1);
    let mut file = File::create(path).expect("a file that can be made");
    let start = Instant::now();
    for at in (0..len).step_by(MIB as usize) {
        data::mark(&mut mib, at);
        for piece in mib.chunks(unit as usize) {
            file.write_all(piece).expect("a file that can be written");
        }
    }
    file.sync_all().expect("a file that can be synced");
    start.elapsed()
}
