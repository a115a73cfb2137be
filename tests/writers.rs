//! Two mounts of one container, as two hosts have them: who may write, and who may not any more.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used)] // a test that meets an error is to fail

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use support::{BLOBDIR, Emulator, Mount, account, cannot_mount, output_within, skip, wait_until};

const CONTAINER: &str = "shared";
/// Each wait of these tests; all of them are over within a second.
const LIMIT: Duration = Duration::from_secs(30);

/// A server, and the state directories of two hosts.
struct Hosts {
    server: Emulator,
    state: [TempDir; 2],
    _data: TempDir,
}

impl Hosts {
    fn start() -> Hosts {
        let data = TempDir::new().unwrap();
        let server = Emulator::start(data.path());
        account::create_container(&server.endpoint, CONTAINER);
        Hosts { server, state: [TempDir::new().unwrap(), TempDir::new().unwrap()], _data: data }
    }

    fn source() -> String {
        format!("az://{}/{CONTAINER}", account::NAME)
    }

    fn mount(&self, host: usize) -> Mount {
        let state = format!("state_dir={}", self.state[host].path().display());
        let options = [&*state, "attr_timeout=0"];
        Mount::start(&Hosts::source(), &options, &self.server.environment)
    }
}

fn open(mount: &Mount, name: &str) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open(mount.path().join(name))
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn write(at: &Path, bytes: &[u8]) {
    let mut file = File::create(at).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn the_second_writer_is_refused_until_the_first_has_closed() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let hosts = Hosts::start();
    let (first, second, same_host) = (hosts.mount(0), hosts.mount(1), hosts.mount(0));
    write(&first.path().join("f"), &[1; 8192]);
    let held = open(&first, "f").unwrap();
    for other in [&second, &same_host] {
        assert_eq!(errno(open(other, "f")), Some(libc::EBUSY));
        assert_eq!(fs::read(other.path().join("f")).unwrap(), [1; 8192], "reading works");
    }
    assert!(second.log().contains("leased"), "{}", second.log());
    drop(held);
    // The kernel ends a handle after close has returned.
    let mut taken = None;
    assert!(wait_until(LIMIT, || {
        taken = open(&second, "f").ok();
        taken.is_some()
    }));
    taken.unwrap().write_all_at(&[2; 512], 0).unwrap();
    assert!(wait_until(LIMIT, || fs::read(first.path().join("f")).unwrap()[0] == 2));
    for mount in [first, second, same_host] {
        mount.unmount();
    }
}

/// A file that was just made is leased a little later. Until then the second opener may become its writer,
/// and one of the two is always told.
#[test]
fn of_two_who_write_a_new_file_one_is_told() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let hosts = Hosts::start();
    let (first, second) = (hosts.mount(0), hosts.mount(1));
    let mut told = [0; 2];
    for round in 0..6 {
        let name = format!("f{round}");
        let mine = File::create(first.path().join(&name)).unwrap();
        mine.write_all_at(&[1; 512], 0).unwrap();
        if round % 3 == 2 {
            mine.sync_all().unwrap();
        }
        let expected = match open(&second, &name) {
            Ok(theirs) => {
                theirs.write_all_at(&[2; 512], 0).unwrap();
                theirs.sync_all().unwrap();
                // What was written before may have been sent already, when another process that was
                // started meanwhile closed its copy of the descriptor; nothing is from now on.
                let refused = mine.write_all_at(&[1; 512], 0).and_then(|()| mine.sync_all());
                assert_eq!(errno(refused), Some(libc::EIO));
                told[0] += 1;
                2
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
                mine.sync_all().unwrap();
                told[1] += 1;
                1
            }
        };
        drop(mine);
        assert_eq!(fs::read(second.path().join(&name)).unwrap(), [expected; 512]);
    }
    assert!(told[1] >= 2, "what was synced is leased: {told:?}");
    // What the first could not write is kept.
    let kept = || fs::read_dir(hosts.state[0].path().join("kept")).map_or(0, |dir| dir.count());
    assert!(wait_until(LIMIT, || kept() == told[0]), "{told:?}: {}", first.log());
    second.unmount();
}

#[test]
fn who_slept_until_the_lease_had_ended_changes_nothing() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let hosts = Hosts::start();
    let (first, second) = (hosts.mount(0), hosts.mount(1));
    write(&first.path().join("f"), &[1; 8192]);
    let held = open(&first, "f").unwrap();
    held.write_all_at(&[2; 4096], 0).unwrap();
    first.suspend(true);
    hosts.server.control("_clock?advance=61s");
    let theirs = open(&second, "f").unwrap();
    theirs.write_all_at(&[3; 512], 0).unwrap();
    theirs.sync_all().unwrap();
    first.suspend(false);
    assert_eq!(errno(held.sync_all()), Some(libc::EIO));
    assert_eq!(errno(held.write_at(&[4; 512], 0).and_then(|_| held.sync_all())), Some(libc::EIO));
    theirs.write_all_at(&[5; 512], 512).unwrap();
    theirs.sync_all().unwrap();
    drop(theirs);
    drop(held);
    second.unmount();
    // What the first could not write is not lost, though.
    let kept =
        || fs::read_dir(hosts.state[0].path().join("kept")).is_ok_and(|dir| dir.count() == 1);
    assert!(wait_until(LIMIT, kept), "{}", first.log());
    let third = hosts.mount(1);
    let mut expected = [1; 8192];
    expected[..512].fill(3);
    expected[512..1024].fill(5);
    assert_eq!(fs::read(third.path().join("f")).unwrap(), expected);
    third.unmount();
    assert!(
        first.log().contains("another writer") || first.log().contains("lease"),
        "{}",
        first.log()
    );
}

#[test]
fn a_lease_is_broken_on_request_alone() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let hosts = Hosts::start();
    let (first, second) = (hosts.mount(0), hosts.mount(1));
    write(&first.path().join("f"), &[1; 512]);
    let held = open(&first, "f").unwrap();
    let recover = |path: &str| {
        let mut command = Command::new(BLOBDIR);
        command.args(["recover", "--break-lease", &Hosts::source(), path]);
        command.envs(hosts.server.environment.iter().map(|(name, value)| (name, value)));
        output_within(LIMIT, command)
    };
    assert_eq!(errno(open(&second, "f")), Some(libc::EBUSY));
    let output = recover("f");
    assert!(output.success && output.text.contains("state leased, duration fixed"), "{output:?}");
    let output = recover("f");
    assert!(!output.success && output.text.contains("no lease to break"), "{output:?}");
    let theirs = open(&second, "f").unwrap();
    theirs.write_all_at(&[2; 512], 0).unwrap();
    theirs.sync_all().unwrap();
    held.write_all_at(&[3; 512], 0).unwrap();
    assert_eq!(errno(held.sync_all()), Some(libc::EIO));
    drop((held, theirs));
    assert_eq!(fs::read(second.path().join("f")).unwrap(), [2; 512]);
    second.unmount();
}
