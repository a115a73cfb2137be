//! The mount's process as the kernel accounts for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::Mount;

/// A mount of the container, fresh: nothing of it is cached anywhere.
#[derive(Debug)]
pub(crate) struct Daemon {
    mount: Mount,
}

impl Daemon {
    /// Mounts `source` of the server at `endpoint`; `options` are those of `-o`.
    pub(crate) fn start(source: &str, endpoint: &str, options: &str) -> Daemon {
        let endpoint = format!("endpoint={endpoint}");
        let options: Vec<&str> =
            [endpoint.as_str(), options].into_iter().filter(|word| !word.is_empty()).collect();
        Daemon { mount: Mount::start(source, &options, &[]) }
    }

    /// A name in the tree.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mount.path().join(name)
    }

    /// The most memory that it has had, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let path = Path::new("/proc").join(self.mount.pid().to_string()).join("status");
        let status = fs::read_to_string(path).expect("the daemon runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.expect("VmHWM in kB") << 10
    }

    /// The CPU that it has used.
    pub(crate) fn cpu(&self) -> Cpu {
        Cpu::of(self.mount.pid())
    }

    /// Unmounts; panics unless everything is in the service and the process ended well.
    pub(crate) fn end(self) {
        self.mount.unmount();
    }
}

/// CPU time of a process, all threads.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Cpu {
    /// In user mode.
    pub(crate) user: Duration,
    /// In the kernel.
    pub(crate) system: Duration,
}

impl Cpu {
    /// What process `pid` has used so far.
    pub(crate) fn of(pid: u32) -> Cpu {
        /// Ticks of `/proc/*/stat` a second, on every architecture that Linux still has.
        const TICKS: u64 = 100;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
        // The name of the program, in parentheses, may hold blanks.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let mut ticks = fields.split_whitespace().skip(11).map(|field| {
            let ticks: u64 = field.parse().expect("a number of ticks");
            Duration::from_millis(ticks * 1000 / TICKS)
        });
        let mut next = || ticks.next().expect("user and system time");
        Cpu { user: next(), system: next() }
    }

    /// What was used since `before`.
    pub(crate) fn since(self, before: Cpu) -> Cpu {
        Cpu { user: self.user - before.user, system: self.system - before.system }
    }

    /// Both together.
    pub(crate) fn total(self) -> Duration {
        self.user + self.system
    }
}
