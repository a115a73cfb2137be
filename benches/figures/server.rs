//! The emulator in a process of its own, and what it has counted.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::daemon::Cpu;
use crate::support::Emulator;

/// The container of the blobs.
pub(crate) const CONTAINER: &str = "bench";
/// How long the server may take to tell its counters.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What the service is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Profile {
    /// As fast as this machine can.
    Plain,
    /// 10 ms a request and 60 MiB/s a connection: a region away.
    Distant,
    /// 500 requests and 60 MiB a second for a blob: what a standard page blob serves.
    Throttled,
}

impl Profile {
    /// Options of the emulator.
    fn options(self) -> &'static [&'static str] {
        match self {
            Profile::Plain => &[],
            Profile::Distant => &["--latency", "10ms", "--connection-rate", "60MiB"],
            Profile::Throttled => &["--throttle", "500req,60MiB"],
        }
    }
}

/// A server that runs; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Server(Emulator);

impl Server {
    /// Starts one over the data in `data`, which earlier ones may have left there.
    pub(crate) fn start(profile: Profile, data: &Path) -> Server {
        let options = [&["--container", CONTAINER], profile.options()].concat();
        Server(Emulator::start_with(data, &options))
    }

    /// The URL of the account.
    pub(crate) fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    /// What it has counted so far.
    pub(crate) fn counts(&self) -> Counts {
        let authority = self.endpoint().trim_start_matches("http://");
        let authority = authority.split('/').next().expect("an authority");
        let mut answer = String::new();
        let mut ask = || -> std::io::Result<()> {
            let mut stream = TcpStream::connect(authority)?;
            stream.set_read_timeout(Some(ANSWER_LIMIT))?;
            let head =
                format!("GET /_stats HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            stream.read_to_string(&mut answer).map(drop)
        };
        ask().expect("the emulator tells its counters");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let counts = serde_json::from_str(body);
        counts.unwrap_or_else(|error| panic!("counters that make no sense ({error}): {answer}"))
    }

    /// The CPU that it has used.
    pub(crate) fn cpu(&self) -> Cpu {
        Cpu::of(self.0.pid())
    }
}

/// Counters of a server.
#[derive(Clone, Debug, serde::Deserialize)]
pub(crate) struct Counts {
    requests: BTreeMap<String, u64>,
    /// Bytes received, heads of requests included.
    pub(crate) bytes_in: u64,
    /// Bytes sent, heads of answers included.
    pub(crate) bytes_out: u64,
    /// Requests that were refused for their number or size.
    pub(crate) throttled: u64,
}

impl Counts {
    /// Requests of one operation.
    pub(crate) fn of(&self, operation: &str) -> u64 {
        self.requests.get(operation).copied().unwrap_or(0)
    }

    /// All requests.
    pub(crate) fn total(&self) -> u64 {
        self.requests.values().sum()
    }

    /// What was counted since `before`.
    pub(crate) fn since(&self, before: &Counts) -> Counts {
        let change = |(name, count): (&String, &u64)| (name.clone(), count - before.of(name));
        Counts {
            requests: self.requests.iter().map(change).filter(|(_, count)| *count > 0).collect(),
            bytes_in: self.bytes_in - before.bytes_in,
            bytes_out: self.bytes_out - before.bytes_out,
            throttled: self.throttled - before.throttled,
        }
    }

    /// The operations with their numbers, for a reader.
    pub(crate) fn show(&self) -> String {
        let each = self.requests.iter().map(|(name, count)| format!("{count} {name}"));
        each.collect::<Vec<_>>().join(", ")
    }
}
