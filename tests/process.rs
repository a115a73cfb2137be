//! The life of the processes: readiness, signals, unmounting in every way, crashes, the demo. Over
//! real mounts of the built-in server; needs root and `/dev/fuse`.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use tempfile::TempDir;

const VARIABLE: &str = "AZURE_STORAGE_CONNECTION_STRING";
const SOURCE: &str = "az://devstoreaccount1/disks";
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn blobdir(args: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin("blobdir"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("AZURE_") || text.starts_with("BLOBDIR_") {
            command.env_remove(name);
        }
    }
    command.args(args);
    if args.first() == Some(&"mount") {
        // Not the one of this host's own mounts.
        command.arg(concat!("-ostate_dir=", env!("CARGO_TARGET_TMPDIR"), "/state"));
    }
    command
}

/// A server of its own, ended with the test.
struct Service {
    process: Child,
    connection: String,
    _data: TempDir,
}

impl Service {
    fn start(options: &[&str]) -> Service {
        let data = TempDir::new().unwrap();
        let mut process = blobdir(&["emulator", "page-blob", "--listen", "127.0.0.1:0"])
            .args(["--container", "disks", "--data"])
            .arg(data.path())
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let connection = lines
            .map(Result::unwrap)
            .find_map(|line| {
                let value = line.strip_prefix(&format!("export {VARIABLE}='"))?;
                Some(value.strip_suffix('\'')?.to_owned())
            })
            .expect("the emulator says how to use it");
        Service { process, connection, _data: data }
    }

    fn blobdir(&self, args: &[&str]) -> Command {
        let mut command = blobdir(args);
        command.env(VARIABLE, &self.connection);
        command
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A mount point, freed with the test whatever has become of its daemon.
struct Point(TempDir);

impl Point {
    fn new() -> Point {
        Point(TempDir::new().unwrap())
    }
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn text(&self) -> &str {
        self.path().to_str().unwrap()
    }
    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
    fn is_mounted(&self) -> bool {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.contains(&format!(" {} ", self.text()))
    }
    /// The processes that have been told of it.
    fn processes(&self) -> Vec<u32> {
        let ids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let id = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let line = fs::read(format!("/proc/{id}/cmdline")).ok()?;
            let args: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            let ours = args.contains(&b"mount".as_slice());
            (ours && args.contains(&self.text().as_bytes())).then_some(id)
        });
        ids.collect()
    }
    fn daemon(&self) -> u32 {
        match self.processes()[..] {
            [daemon] => daemon,
            ref others => panic!("one daemon expected, {others:?} found"),
        }
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        for process in self.processes() {
            signal(process, "KILL");
        }
        while self.is_mounted() {
            let done = Command::new("umount").arg("-l").arg(self.path()).status();
            assert!(done.unwrap().success());
        }
    }
}

fn signal(process: u32, name: &str) {
    let done = Command::new("kill")
        .args([format!("-{name}"), process.to_string()])
        .stderr(Stdio::null())
        .status();
    done.expect("kill is there");
}

#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[track_caller]
fn assert_silent_success(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr, "");
    assert_eq!(output.stdout, b"");
    assert_eq!(output.status.code(), Some(0));
}

#[track_caller]
fn mount(service: &Service, point: &Point) {
    // Waits for the end of both pipes too, which a daemon that kept them would prevent.
    let output = service.blobdir(&["mount", SOURCE, point.text()]).output();
    assert_silent_success(&output.unwrap());
    assert!(point.is_mounted());
}

#[track_caller]
fn unmount(point: &Point) {
    assert_silent_success(&blobdir(&["unmount", point.text()]).output().unwrap());
    assert!(!point.is_mounted());
    assert_eq!(point.processes(), [], "the daemon has ended before the command");
}

/// A mount in the foreground, usable.
fn foreground(service: &Service, point: &Point) -> Child {
    let process = service
        .blobdir(&["mount", "--foreground", SOURCE, point.text()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("mounted", || point.is_mounted());
    fs::metadata(point.path()).unwrap();
    process
}

/// What a foreground process says until it ends, and its exit code.
fn end_of(mut process: Child) -> (String, Option<i32>) {
    let mut said = String::new();
    let stderr = process.stderr.as_mut().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    (said, process.wait().unwrap().code())
}

#[test]
fn a_daemon_serves_until_it_is_unmounted_and_everything_is_kept() {
    let (service, point) = (Service::start(&[]), Point::new());
    mount(&service, &point);
    fs::write(point.file("notes.txt"), "odd length").unwrap();
    unmount(&point);
    mount(&service, &point);
    assert_eq!(fs::read_to_string(point.file("notes.txt")).unwrap(), "odd length");
    let daemon = point.daemon();
    for descriptor in 0..=2 {
        let target = fs::read_link(format!("/proc/{daemon}/fd/{descriptor}")).unwrap();
        assert_eq!(target, Path::new("/dev/null"));
    }
    unmount(&point);
}

#[test]
fn signals_write_everything_and_unmount() {
    let service = Service::start(&[]);
    for name in ["TERM", "INT"] {
        let point = Point::new();
        let process = foreground(&service, &point);
        fs::write(point.file(name), vec![7; 3 << 20]).unwrap();
        signal(process.id(), "HUP");
        signal(process.id(), name);
        assert_eq!(end_of(process), (String::new(), Some(0)));
        assert!(!point.is_mounted());
        mount(&service, &point);
        assert_eq!(fs::read(point.file(name)).unwrap(), vec![7; 3 << 20]);
        unmount(&point);
    }
}

#[test]
fn a_daemon_ends_when_the_tree_is_unmounted_by_others() {
    let (service, point) = (Service::start(&[]), Point::new());
    mount(&service, &point);
    fs::write(point.file("a"), vec![1; 5000]).unwrap();
    let done = Command::new("umount").arg(point.path()).status().unwrap();
    assert!(done.success());
    wait_until("the daemon ends", || point.processes().is_empty());
    mount(&service, &point);
    assert_eq!(fs::read(point.file("a")).unwrap(), vec![1; 5000]);
    unmount(&point);
}

#[test]
fn a_tree_in_use_is_not_unmounted() {
    let (service, point) = (Service::start(&[]), Point::new());
    mount(&service, &point);
    let file = fs::File::create(point.file("open")).unwrap();
    let output = blobdir(&["unmount", point.text()]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is in use, and stays mounted"), "{said}");
    assert_eq!(said.lines().count(), 1);
    assert_eq!(output.status.code(), Some(1));
    fs::write(point.file("more"), "still usable").unwrap();
    drop(file);
    unmount(&point);
}

#[test]
fn a_signal_detaches_a_tree_in_use() {
    let (service, point) = (Service::start(&[]), Point::new());
    let process = foreground(&service, &point);
    let file = fs::File::create(point.file("open")).unwrap();
    signal(process.id(), "TERM");
    assert_eq!(end_of(process).1, Some(0));
    assert!(!point.is_mounted());
    file.sync_all().expect_err("nobody serves it any more");
}

/// Of a connection, bytes a second: a request of 4 MiB takes half a minute, less than the deadline.
const SLOW: &str = "128KiB";

/// A process that has written 16 MiB, which take the service half a minute at [`SLOW`], and waits for
/// that in close(2). Another process, because close would also wait in each child of this one.
struct Noise(Child);

impl Noise {
    fn write(path: &Path) -> Noise {
        // In a file that grows, the service would have to follow.
        fs::File::create(path).unwrap().set_len(16 << 20).unwrap();
        let writer = Command::new("dd")
            .args(["if=/dev/urandom", "bs=1M", "count=16", "conv=notrunc", "status=none"])
            .arg(format!("of={}", path.display()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let io = format!("/proc/{}/io", writer.id());
        wait_until("16 MiB are written", || {
            let counters = fs::read_to_string(&io).unwrap_or_default();
            let written =
                counters.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok());
            written >= Some(16u64 << 20)
        });
        Noise(writer)
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_second_signal_says_what_is_at_stake_and_a_later_one_drops_it() {
    let service = Service::start(&["--connection-rate", SLOW]);
    let point = Point::new();
    let mut process = foreground(&service, &point);
    let _noise = Noise::write(&point.file("big"));
    signal(process.id(), "TERM");
    thread::sleep(Duration::from_millis(300));
    signal(process.id(), "INT");
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let warned = lines.next().unwrap().unwrap();
    assert!(warned.starts_with("blobdir: still writing; not yet in the service: "), "{warned}");
    assert!(warned.contains("big"), "{warned}");
    // A burst of signals has read nothing.
    signal(process.id(), "INT");
    thread::sleep(Duration::from_millis(1200));
    assert!(process.try_wait().unwrap().is_none(), "it goes on waiting");
    signal(process.id(), "INT");
    let dropped = lines.next().unwrap().unwrap();
    assert!(dropped.starts_with("blobdir: ended by signal; not yet in the service: "), "{dropped}");
    assert_eq!(process.wait().unwrap().code(), Some(1));
    assert!(!point.is_mounted());
}

#[test]
fn unmounting_gives_up_after_its_timeout_and_says_so() {
    let service = Service::start(&["--connection-rate", SLOW]);
    let point = Point::new();
    mount(&service, &point);
    let _noise = Noise::write(&point.file("big"));
    let start = Instant::now();
    let output = blobdir(&["unmount", "--timeout", "1s", point.text()]).output().unwrap();
    assert!(start.elapsed() < Duration::from_secs(15));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(output.status.code(), Some(1));
    assert!(point.is_mounted());
    // Ends the daemon, and with it the close that would otherwise be waited for.
    drop(point);
}

#[test]
fn a_crash_is_cleaned_up_by_the_next_command() {
    let (service, point) = (Service::start(&[]), Point::new());
    mount(&service, &point);
    signal(point.daemon(), "KILL");
    wait_until("the tree is dead", || fs::metadata(point.path()).is_err());
    let output = service.blobdir(&["mount", SOURCE, point.text()]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("by a daemon that is gone; unmounted it"), "{said}");
    assert_eq!((said.lines().count(), output.status.code()), (1, Some(0)));
    signal(point.daemon(), "KILL");
    wait_until("the tree is dead", || fs::metadata(point.path()).is_err());
    let output = blobdir(&["unmount", point.text()]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("was gone; what it had not written before is lost"), "{said}");
    assert_eq!(output.status.code(), Some(0));
    assert!(!point.is_mounted());
}

#[test]
fn a_directory_is_mounted_once() {
    let (service, point) = (Service::start(&[]), Point::new());
    mount(&service, &point);
    let output = service.blobdir(&["mount", SOURCE, point.text()]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is already a mount point, of az://"), "{said}");
    assert!(said.contains("blobdir unmount"), "{said}");
    assert_eq!(output.status.code(), Some(1));
    unmount(&point);
}

/// A server that takes connections and never answers.
fn silent_server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = format!("http://{}/acct/disks", listener.local_addr().unwrap());
    (listener, source)
}

#[test]
fn a_signature_is_in_no_command_line() {
    let ((listener, source), point) = (silent_server(), Point::new());
    let typed = format!("{source}?sv=2026-01-01&sig=c2VjcmV0");
    let mut launcher = blobdir(&["mount", &typed, point.text(), "-o", "timeout=20s"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The daemon connects, so by now it is the one that would have been listed by ps.
    let _connection = listener.accept().unwrap();
    wait_until("launcher and daemon", || point.processes().len() == 2);
    for process in point.processes() {
        let line = fs::read(format!("/proc/{process}/cmdline")).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert!(!line.contains("c2VjcmV0") && !line.contains("sig="), "{line:?}");
        assert!(line.contains(&source), "{line:?}");
    }
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    wait_until("the daemon ends", || point.processes().is_empty());
}

#[test]
fn an_interrupted_start_leaves_nothing() {
    let ((listener, source), point) = (silent_server(), Point::new());
    let args = ["mount", &source, point.text(), "-o", "timeout=60s,anonymous"];

    let process = blobdir(&args).arg("--foreground").stderr(Stdio::piped()).spawn().unwrap();
    let _connection = listener.accept().unwrap();
    signal(process.id(), "INT");
    let expected = "blobdir: interrupted before the tree was mounted\n".to_owned();
    assert_eq!(end_of(process), (expected, Some(1)));

    let mut launcher = blobdir(&args).spawn().unwrap();
    let _connection = listener.accept().unwrap();
    signal(launcher.id(), "INT");
    launcher.wait().unwrap();
    wait_until("the daemon ends", || point.processes().is_empty());
    assert!(!point.is_mounted());
}

#[test]
fn the_demo_runs_a_command_and_exits_with_its_code() {
    let script = "echo hello > disks/a && cat disks/a && pwd && test -n \"$BLOBDIR_DEMO_DIR\" && \
                  test -n \"$AZURE_STORAGE_CONNECTION_STRING\" && exit 7";
    let output = blobdir(&["demo", "--", "sh", "-c", script]).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(7));
    let dir = stdout.strip_prefix("hello\n").unwrap().trim_end();
    assert!(!Path::new(dir).exists(), "a temporary directory is removed");
}

#[test]
fn the_demo_keeps_blobs_in_a_directory_that_was_named() {
    let dir = TempDir::new().unwrap();
    let demo = |script: &str| {
        let dir = dir.path().to_str().unwrap();
        let output = blobdir(&["demo", dir, "--", "sh", "-c", script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    };
    assert_eq!(demo("printf kept > disks/a"), (String::new(), Some(0)));
    assert_eq!(demo("cat disks/a"), ("kept".to_owned(), Some(0)));
}

#[test]
fn the_demo_ends_with_a_signal() {
    let mut demo = blobdir(&["demo"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let tree = PathBuf::from(first.rsplit(' ').next().unwrap());
    fs::write(tree.join("file"), "x").unwrap();
    signal(demo.id(), "INT");
    assert_eq!(demo.wait().unwrap().code(), Some(0));
    assert!(!tree.parent().unwrap().exists());
}
