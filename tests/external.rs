//! Programs nobody here wrote, on real mounts over real servers: the groups of `external/suite.sh`,
//! and a virtual machine whose root file system is a page blob.
//!
//! One test runs at a time, whatever the runner asks for: each keeps the machine busy by itself.

#![cfg(feature = "emulator")]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blobdir::emulator::page_blob::Rule;
use tempfile::TempDir;

use support::azurite::Azurite;
use support::service::Service;
use support::{
    BLOBDIR, Emulator, Mount, account, cannot_mount, moods, not_root, output_within, root, skip,
};

const CONTAINER: &str = "external";
/// The slowest group takes about a minute on a quiet machine of two processors.
const GROUP_LIMIT: Duration = Duration::from_secs(900);
/// One step of the virtual machine; it bounds itself more tightly.
const VM_LIMIT: Duration = Duration::from_secs(300);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // A test that failed has left nothing behind that the next one would see.
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn source() -> String {
    format!("az://{}/{CONTAINER}", account::NAME)
}

/// Runs a script of this folder; panics with what it said unless it succeeds.
fn run(script: &str, limit: Duration, arguments: &[&str]) {
    run_with(script, limit, arguments, &[]);
}

/// The same with more variables.
fn run_with(script: &str, limit: Duration, arguments: &[&str], environment: &[(&str, &str)]) {
    let mut command = Command::new(root().join("tests/external").join(script));
    command.args(arguments).envs(environment.iter().copied());
    let output = output_within(limit, command);
    assert!(output.success, "{script} {} failed:\n{}", arguments.join(" "), output.text);
    println!("{}", output.text);
}

/// Runs groups of the suite on a mount, then unmounts it.
fn suite(mount: Mount, groups: &[&str]) {
    let mut arguments = vec![utf8(mount.path())];
    arguments.extend(groups);
    run("suite.sh", GROUP_LIMIT, &arguments);
    mount.unmount();
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// One group over the built-in server.
fn group(name: &str) {
    let _alone = alone();
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let data = TempDir::new().expect("a data directory");
    let emulator = Emulator::start(data.path());
    account::create_container(&emulator.endpoint, CONTAINER);
    suite(Mount::start(&source(), &[], &emulator.environment), &[name]);
}

#[test]
fn dd() {
    group("dd");
}

#[test]
fn copy() {
    group("copy");
}

#[test]
fn names() {
    group("names");
}

#[test]
fn size() {
    group("size");
}

#[test]
fn loop_device() {
    group("loop");
}

#[test]
fn qemu_img() {
    group("qemu_img");
}

#[test]
fn qemu_io() {
    group("qemu_io");
}

#[test]
fn fsx() {
    group("fsx");
}

#[test]
fn fio() {
    group("fio");
}

/// The same while one answer in ten fails, in every way there is: nobody sees more of it than its pauses.
/// Not all is cached, so that what is read comes from the service too. Each environment is a run.
fn group_over_a_moody_service(
    name: &str,
    cache_size: &str,
    environments: &[&[(&str, &str)]],
    rules: Vec<Rule>,
) {
    let _alone = alone();
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let service = Service::start();
    let mount = service.mount(&[&format!("cache_size={cache_size}")]);
    for rule in rules {
        service.server().inject(rule).expect("a rule that makes sense");
    }
    for environment in environments {
        run_with("suite.sh", GROUP_LIMIT, &[utf8(mount.path()), name], environment);
    }
    mount.unmount();
    for state in service.server().faults() {
        println!("{:5} of {:6}: {:?}", state.injected, state.matched, state.rule.fault);
        // Nine out of ten thousand times as often as not at all.
        let rare = state.matched as f64 * state.rule.probability < 10.0;
        assert!(state.injected > 0 || rare, "never played: {:?}", state.rule);
    }
}

/// Also in a file that does not fit the cache, and with a silence or two.
#[test]
fn fsx_over_a_moody_service() {
    let small = [("SUITE_FSX_SEEDS", "11 12"), ("SUITE_FSX_OPS", "2000")];
    let large = [("SUITE_FSX_SEEDS", "21 22"), ("SUITE_FSX_OPS", "400"), ("SUITE_FSX_SCALE", "16")];
    let rules = moods::silence(300).into_iter().chain(moods::every_kind(0.1));
    group_over_a_moody_service("fsx", "4MiB", &[&small, &large], rules.collect());
}

#[test]
fn fio_over_a_moody_service() {
    let smaller = [("SUITE_FIO_PERCENT", "30")];
    group_over_a_moody_service("fio", "4MiB", &[&smaller], moods::every_kind(0.1));
}

/// The same over a server that others wrote, for what it can do.
#[test]
fn copies_over_azurite() {
    let _alone = alone();
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let Some(azurite) = Azurite::start() else {
        return;
    };
    account::create_container(&azurite.endpoint, CONTAINER);
    suite(Mount::start(&source(), &[], &azurite.environment()), &["copy", "size"]);
}

/// Why no machine can be booted here, if so.
fn cannot_boot() -> Option<String> {
    if let Some(reason) = cannot_mount().or_else(not_root) {
        return Some(reason.to_owned());
    }
    let tools = ["target/tools/kernel/package", "/usr/bin/qemu-system-x86_64"];
    let missing = tools.iter().find(|tool| !root().join(tool).exists())?;
    Some(format!("there is no {missing}; run tests/support/setup.sh"))
}

/// A kernel boots from an image in the tree, and what the guest wrote is in the blob: after the tree
/// was unmounted, the server restarted and the tree mounted again.
#[test]
fn a_virtual_machine_boots_from_a_page_blob() {
    let _alone = alone();
    if let Some(reason) = cannot_boot() {
        return skip(&reason);
    }
    let data = TempDir::new().expect("a data directory");
    let emulator = Emulator::start(data.path());
    account::create_container(&emulator.endpoint, CONTAINER);

    let mount = Mount::start(&source(), &[], &emulator.environment);
    let tree = utf8(mount.path());
    run("vm.sh", VM_LIMIT, &["image", tree]);
    run("vm.sh", VM_LIMIT, &["boot", tree, "first"]);
    mount.unmount();
    emulator.stop();

    let emulator = Emulator::start(data.path());
    let mount = Mount::start(&source(), &[], &emulator.environment);
    let tree = utf8(mount.path());
    run("vm.sh", VM_LIMIT, &["verify", tree, "first"]);
    // Once more with O_DIRECT, as hypervisors are run where it matters.
    run("vm.sh", VM_LIMIT, &["boot", tree, "second", "none"]);
    run("vm.sh", VM_LIMIT, &["verify", tree, "second"]);
    mount.unmount();
}

/// What a machine has on its disk survives in snapshots that are taken while it runs, as after a loss of
/// power: the journal alone makes each of them a clean file system.
#[test]
fn a_snapshot_under_a_running_machine_is_a_consistent_disk() {
    let _alone = alone();
    if let Some(reason) = cannot_boot() {
        return skip(&reason);
    }
    let data = TempDir::new().expect("a data directory");
    let emulator = Emulator::start(data.path());
    account::create_container(&emulator.endpoint, CONTAINER);
    let mount = Mount::start(&source(), &[], &emulator.environment);
    let tree = utf8(mount.path());
    run("vm.sh", VM_LIMIT, &["image", tree]);
    let image = mount.path().join("vm.img");
    let taken: Vec<String> = std::thread::scope(|scope| {
        let machine = scope.spawn(|| run("vm.sh", VM_LIMIT, &["boot", tree, "first"]));
        let mut taken = Vec::new();
        // One after the other: of the seconds that a boot takes, the file system is mounted for a fraction.
        while !machine.is_finished() {
            taken.push(command(BLOBDIR, &["snapshot", utf8(&image)]));
        }
        machine.join().expect("the machine boots");
        taken
    });
    let restored = mount.path().join("restored.img");
    let (mut running, mut different) = (0, 0);
    for (at, snapshot) in taken.iter().enumerate() {
        let before = &taken[at.saturating_sub(1)];
        if at > 0 && command(BLOBDIR, &["snapshot", "--diff", before, snapshot]).is_empty() {
            continue;
        }
        different += 1;
        command("cp", &["--sparse=never", snapshot, utf8(&restored)]);
        let features = command("dumpe2fs", &["-h", utf8(&restored)]);
        running += usize::from(features.contains("needs_recovery"));
        command("e2fsck", &["-p", "-E", "journal_only", utf8(&restored)]);
        command("e2fsck", &["-f", "-n", utf8(&restored)]);
    }
    println!(
        "{} snapshots, {different} different, {running} of a mounted file system",
        taken.len()
    );
    assert!(running > 0, "none of {} was taken while the machine ran", taken.len());
    run("vm.sh", VM_LIMIT, &["verify", tree, "first"]);
    mount.unmount();
}

/// Runs a command that must succeed; gives what it said.
fn command(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = output_within(VM_LIMIT, command);
    assert!(output.success, "{program} {} failed:\n{}", arguments.join(" "), output.text);
    output.text.trim().to_owned()
}
