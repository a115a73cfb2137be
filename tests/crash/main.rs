//! The daemon is killed at random moments, and everything that was acknowledged is there afterwards.
//!
//! Each round mounts, judges what the round before has left, works, and ends with SIGKILL. The moments
//! and the work come from a seed, which is printed; `CRASH_SEED=N` repeats them, as far as the machine
//! does, and `CRASH_ROUNDS=N` asks for more rounds. The server is a process of its own, and also applies some requests
//! only when the daemon that sent them is gone.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod image;
mod ledger;
mod names;
#[path = "../support/rest.rs"]
mod rest;
mod sectors;
#[path = "../support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use support::random::Random;
use support::{Emulator, Mount, account, cannot_mount, not_root, skip};

const CONTAINER: &str = "crash";
/// Half of the rounds that are asked for: there are two tests.
const ROUNDS: u64 = 25;
/// How long the daemon may work before it is killed, at most, in milliseconds.
const LONGEST_LIFE: u64 = 400;

/// A server, and the host that crashes.
struct Host {
    server: Emulator,
    state: TempDir,
    random: Random,
    _data: TempDir,
}

impl Host {
    fn start(name: &str) -> Host {
        let asked = std::env::var("CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = asked.unwrap_or_else(Random::seed);
        println!("{name}: CRASH_SEED={seed}");
        let data = TempDir::new().unwrap();
        // In flight when the daemon ends, and some of it applied much later.
        let faults = data.path().join("faults.json");
        let late = |operation: &str| {
            format!(
                r#"{{"operation": "{operation}", "probability": 0.01, "fault": {{"apply-late": {{"ms": 600}}}}}}"#
            )
        };
        let rules = [late("PutPage"), late("ClearPages"), late("SetBlobProperties")].join(",");
        std::fs::write(&faults, format!(r#"{{"seed": {seed}, "rules": [{rules}]}}"#)).unwrap();
        let faults = faults.to_str().unwrap();
        let server = Emulator::start_with(data.path(), &["--latency", "1ms", "--faults", faults]);
        account::create_container(&server.endpoint, CONTAINER);
        Host { server, state: TempDir::new().unwrap(), random: Random::new(seed), _data: data }
    }

    fn mount(&self) -> Mount {
        let source = format!("az://{}/{CONTAINER}", account::NAME);
        let state = format!("state_dir={}", self.state.path().display());
        Mount::start(&source, &[&state], &self.server.environment)
    }

    /// Waits for a random time, and then ends the daemon where it stands. `killed` is set before.
    fn kill(&mut self, mount: &mut Mount, killed: &AtomicBool) {
        thread::sleep(Duration::from_millis(self.random.below(LONGEST_LIFE)));
        killed.store(true, Ordering::SeqCst);
        mount.kill();
    }

    /// Whether somebody else could write a blob now.
    fn is_leased(&self, name: &str) -> bool {
        let headers = [
            ("x-ms-lease-action", "acquire"),
            ("x-ms-lease-duration", "15"),
            ("x-ms-proposed-lease-id", "11111111-2222-3333-4444-555555555555"),
        ];
        let path = format!("/{CONTAINER}/{name}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        match runtime.block_on(rest::put(&self.server.endpoint, &path, "comp=lease", &headers, b""))
        {
            409 => true,
            201 => false,
            status => panic!("a lease is taken or refused, and not {status}"),
        }
    }
}

fn rounds() -> u64 {
    std::env::var("CRASH_ROUNDS").ok().and_then(|count| count.parse().ok()).unwrap_or(ROUNDS)
}

#[test]
fn every_sector_holds_what_the_last_fsync_covered_or_something_newer() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let mut host = Host::start("sectors");
    let mut files = sectors::Files::new();
    let mut names = names::Names::new();
    for round in 0..rounds() {
        let mut mount = host.mount();
        files.open_and_judge(&mount, round);
        names.judge(&mount, round);
        let killed = AtomicBool::new(false);
        thread::scope(|scope| {
            files.work(scope, &mut host.random, &killed);
            names.work(scope, &mount, &mut host.random, &killed);
            host.kill(&mut mount, &killed);
        });
        files.close();
        for name in sectors::NAMES {
            assert!(host.is_leased(name), "{name}: the lease outlives its holder");
        }
    }
    let mount = host.mount();
    files.open_and_judge(&mount, rounds());
    names.judge(&mount, rounds());
    files.close();
    mount.unmount();
}

#[test]
fn a_journalled_file_system_in_a_file_holds_what_was_fsynced() {
    if let Some(reason) = cannot_mount().or_else(not_root) {
        return skip(reason);
    }
    for tool in ["mkfs.ext4", "e2fsck", "losetup"] {
        if !support::is_installed(tool) {
            return skip(&format!("{tool} is not installed; run tests/support/setup.sh"));
        }
    }
    let mut host = Host::start("image");
    let mount = host.mount();
    image::make(&mount);
    mount.unmount();
    let mut files = image::Files::new();
    for round in 0..rounds() {
        let mut mount = host.mount();
        image::replay_and_check(&mount, round);
        let disk = image::Disk::attach(&mount, round);
        files.judge(&disk, round);
        let killed = AtomicBool::new(false);
        thread::scope(|scope| {
            files.work(scope, &disk, &mut host.random, &killed);
            host.kill(&mut mount, &killed);
        });
        drop(disk);
        drop(mount);
        assert!(host.is_leased(image::NAME), "the lease outlives its holder");
    }
    let mount = host.mount();
    image::replay_and_check(&mount, rounds());
    let disk = image::Disk::attach(&mount, rounds());
    files.judge(&disk, rounds());
    drop(disk);
    mount.unmount();
}
