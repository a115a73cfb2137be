//! The emulator in a process of its own: this program again, called with [`SERVE`].

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use blobdir::emulator::page_blob::{Config, Throttle, WELL_KNOWN_ACCOUNT, serve_blocking};

use crate::daemon::Cpu;
use crate::data::MIB;
use crate::support::Process;

/// The argument that makes this program the server.
pub(crate) const SERVE: &str = "--serve";
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
    const ALL: [Profile; 3] = [Profile::Plain, Profile::Distant, Profile::Throttled];

    fn name(self) -> &'static str {
        match self {
            Profile::Plain => "plain",
            Profile::Distant => "distant",
            Profile::Throttled => "throttled",
        }
    }

    fn config(self) -> Config {
        let config = Config::default();
        match self {
            Profile::Plain => config,
            Profile::Distant => Config {
                latency: Duration::from_millis(10),
                connection_rate: Some(60 * MIB),
                ..config
            },
            Profile::Throttled => Config { throttle: Some(Throttle::STANDARD), ..config },
        }
    }
}

/// Serves until it is told to end. Arguments: the name of a profile, and the directory of the data.
pub(crate) fn serve(mut args: impl Iterator<Item = String>) {
    let name = args.next().expect("the name of a profile");
    let data = args.next().map(PathBuf::from);
    let profile = Profile::ALL.into_iter().find(|profile| profile.name() == name);
    let config = Config { data, ..profile.expect("a profile").config() };
    serve_blocking(config, |addr| {
        println!("http://{addr}/{WELL_KNOWN_ACCOUNT}");
    })
    .expect("the emulator serves");
}

/// A server that runs; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    /// The URL of the account.
    pub(crate) endpoint: String,
}

impl Server {
    /// Starts one over the data in `data`, which earlier ones may have left there.
    pub(crate) fn start(profile: Profile, data: &Path) -> Server {
        let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
        command.arg(SERVE).arg(profile.name()).arg(data);
        let (process, stdout) = Process::start_piped(command);
        let mut endpoint = String::new();
        let read = BufReader::new(stdout).read_line(&mut endpoint);
        assert!(matches!(read, Ok(1..)), "the emulator did not start: {}", process.log());
        Server { process, endpoint: endpoint.trim().to_owned() }
    }

    /// What it has counted so far.
    pub(crate) fn counts(&self) -> Counts {
        let authority = self.endpoint.trim_start_matches("http://");
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
        Cpu::of(self.process.id())
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
