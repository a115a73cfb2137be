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

use tempfile::TempDir;

use support::azurite::Azurite;
use support::{Emulator, Mount, account, cannot_mount, not_root, output_within, root, skip};

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
    let mut command = Command::new(root().join("tests/external").join(script));
    command.args(arguments);
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

/// A kernel boots from an image in the tree, and what the guest wrote is in the blob: after the tree
/// was unmounted, the server restarted and the tree mounted again.
#[test]
fn a_virtual_machine_boots_from_a_page_blob() {
    let _alone = alone();
    if let Some(reason) = cannot_mount().or_else(not_root) {
        return skip(reason);
    }
    for tool in ["target/tools/kernel/package", "/usr/bin/qemu-system-x86_64"] {
        if !root().join(tool).exists() {
            return skip(&format!("there is no {tool}; run tests/support/setup.sh"));
        }
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
