//! The rows, in the order in which they are measured: by server, so that few are started.

use crate::bench::Bench;
use crate::report::Report;
use crate::server::Profile;
use crate::{copy, read, warm, write};

/// One row.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What is compared with what.
    pub(crate) what: &'static str,
    pub(crate) profile: Profile,
    pub(crate) run: fn(&Bench) -> Report,
}

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "read",
        what: "sequential cold read by 1 MiB, against 8 parallel ranges of 4 MiB",
        profile: Profile::Plain,
        run: read::buffered,
    },
    Row {
        name: "read-direct",
        what: "the same with O_DIRECT",
        profile: Profile::Plain,
        run: read::direct,
    },
    Row {
        name: "read-verified",
        what: "sequential cold read by 1 MiB with checksums, against a mount with verify=off",
        profile: Profile::Plain,
        run: read::verified,
    },
    Row {
        name: "read-4k-at-0",
        what: "what a single 4 KiB read at offset 0 fetches",
        profile: Profile::Plain,
        run: read::single,
    },
    Row {
        name: "random-1",
        what: "random cold 4 KiB reads, 1 thread, against 1 connection",
        profile: Profile::Plain,
        run: read::random_alone,
    },
    Row {
        name: "random-16",
        what: "random cold 4 KiB reads, 16 threads, against 16 connections",
        profile: Profile::Plain,
        run: read::random_together,
    },
    Row {
        name: "warm",
        what: "reading a file again through the same descriptor, against a file on tmpfs",
        profile: Profile::Plain,
        run: warm::same_descriptor,
    },
    Row {
        name: "warm-reopened",
        what: "the same, opened anew each time; only the version is asked for",
        profile: Profile::Plain,
        run: warm::reopened,
    },
    Row {
        name: "write",
        what: "sequential write by 1 MiB and fsync, against 8 connections of 4 MiB Put Page",
        profile: Profile::Plain,
        run: write::large,
    },
    Row {
        name: "write-verified",
        what: "sequential write by 1 MiB with checksums, against a mount with verify=off",
        profile: Profile::Plain,
        run: write::verified,
    },
    Row {
        name: "write-4k",
        what: "the same by 4 KiB writes",
        profile: Profile::Plain,
        run: write::small,
    },
    Row {
        name: "copy",
        what: "copy_file_range of a whole file, against 8 connections of 4 MiB Put Page From URL",
        profile: Profile::Plain,
        run: copy::whole,
    },
    Row {
        name: "distant-read",
        what: "sequential cold read at 10 ms a request and 60 MiB/s a connection, 24 of each",
        profile: Profile::Distant,
        run: read::distant,
    },
    Row {
        name: "distant-first",
        what: "the first 128 MiB of it, against the full rate of the client",
        profile: Profile::Distant,
        run: read::distant_first,
    },
    Row {
        name: "distant-random-16",
        what: "random cold 4 KiB reads at 10 ms a request, 16 threads against 16 connections",
        profile: Profile::Distant,
        run: read::distant_random,
    },
    Row {
        name: "throttled-read",
        what: "sequential cold read of a blob that serves 500 requests and 60 MiB a second",
        profile: Profile::Throttled,
        run: read::throttled,
    },
    Row {
        name: "throttled-write",
        what: "sequential write by 1 MiB and fsync of such a blob",
        profile: Profile::Throttled,
        run: write::throttled,
    },
];
