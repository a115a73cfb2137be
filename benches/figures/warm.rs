//! Reading again what is in memory: the kernel has the pages, and nobody need be asked for them.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use crate::bench::{Bench, Compared, WARM, median, mib_rate};
use crate::data::{self, MIB};
use crate::read::{read_all, read_through};
use crate::report::{Direction, Report};

/// How often a file is read again in one measurement; the median counts.
const TIMES: usize = 15;

pub(crate) fn same_descriptor(bench: &Bench) -> Report {
    let (len, compared) = compare(bench, |path, len| {
        let mut file = File::open(path).expect("a file that opens");
        read_all(&mut file, len);
        Box::new(move || {
            file.rewind().expect("a file that can be read again");
            mib_rate(len, read_all(&mut file, len))
        })
    });
    let requests = compared.samples.iter().map(|sample| sample.counts.total()).max().unwrap_or(0);
    report(bench, len, &compared).target(requests == 0, "requests", "no request".to_owned())
}

pub(crate) fn reopened(bench: &Bench) -> Report {
    let (len, compared) = compare(bench, |path, len| {
        read_through(path, len, false);
        let path = path.to_owned();
        Box::new(move || mib_rate(len, read_through(&path, len, false)))
    });
    let gets = compared.samples.iter().map(|sample| sample.counts.of("GetBlob")).max().unwrap_or(0);
    report(bench, len, &compared).target(gets == 0, "requests", "no Get Blob".to_owned())
}

fn report(bench: &Bench, len: u64, compared: &Compared) -> Report {
    let useful = len * TIMES as u64;
    Report::new(&compared.samples, Direction::Read, useful, bench.memory_limit())
        .rates(compared, "MiB/s")
        .ratio_at_least(compared.ratio, 0.9)
}

/// `prepare` reads a file once and gives what reads it again and tells the rate.
fn compare(
    bench: &Bench,
    prepare: impl Fn(&Path, u64) -> Box<dyn FnMut() -> f64>,
) -> (u64, Compared) {
    let len = bench.scale.warm;
    let in_memory = bench.file_in_memory("warm").unwrap_or_else(|| {
        eprintln!("  no file system in memory has room: compared with a cached file on disk");
        std::env::temp_dir().join(format!("figures-{}", std::process::id()))
    });
    let file = Removed::make(in_memory, len);
    let compared = bench.compare(
        || {
            let mut again = prepare(&file.0, len);
            median((0..TIMES).map(|_| again()))
        },
        || {
            bench.prepared(
                |daemon| prepare(&daemon.path(WARM), len),
                |_, mut again| median((0..TIMES).map(|_| again())),
            )
        },
    );
    drop(file);
    (len, compared)
}

/// A file that is removed in the end.
struct Removed(PathBuf);

impl Removed {
    fn make(path: PathBuf, len: u64) -> Removed {
        let mut file = File::create(&path).expect("a file to compare with");
        let removed = Removed(path);
        let mut mib = data::noise(1);
        for at in (0..len).step_by(MIB as usize) {
            data::mark(&mut mib, at);
            file.write_all(&mib).expect("room for a file to compare with");
        }
        removed
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
