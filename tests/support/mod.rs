//! What the tests that run real processes share: servers, mounts, bounded commands, and when to skip.
//!
//! Whatever is started here ends with the value that stands for it, by its process id: a test that
//! panics leaves no server, no mount and no directory behind. Nothing waits without a limit.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub(crate) mod account;
pub(crate) mod azurite;
#[cfg(feature = "emulator")]
pub(crate) mod moods;
mod process;
pub(crate) mod random;
#[cfg(feature = "emulator")]
pub(crate) mod service;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

pub(crate) use process::{Output, Process, output_within, wait_until};

/// The command under test.
pub(crate) const BLOBDIR: &str = env!("CARGO_BIN_EXE_blobdir");
/// How long a server may take to answer and a mount to be usable; both take well under a second.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long an unmount may take: everything dirty is written first.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(60);

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A state directory that all mounts of all tests share, as those of one host do.
pub(crate) fn state_dir() -> &'static Path {
    Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/state"))
}

/// Says why a test cannot run here. A skipped test passes, except where `CI=true`: there everything
/// must have been set up.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "cannot run here: {reason}");
    eprintln!("skipped: {reason}");
}

/// Why file systems cannot be mounted here, if so.
pub(crate) fn cannot_mount() -> Option<&'static str> {
    // Mounting needs no more than that the device opens; without root, fusermount3 does the rest.
    match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => None,
        Err(_) => Some("/dev/fuse cannot be opened"),
    }
}

/// Why something only root may do cannot be done, if so.
pub(crate) fn not_root() -> Option<&'static str> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    (!is_root).then_some("loop devices need root")
}

/// Whether there is such a command.
pub(crate) fn is_installed(command: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(command).is_file())
}

/// `blobdir emulator page-blob` on a free port, with its data in a directory.
#[derive(Debug)]
pub(crate) struct Emulator {
    process: Process,
    /// What it said to export: the environment of whoever wants to use it.
    pub(crate) environment: Vec<(String, String)>,
    /// The base URL, with the account.
    pub(crate) endpoint: String,
}

impl Emulator {
    /// Starts it and waits until it has said where it is.
    pub(crate) fn start(data: &Path) -> Emulator {
        Emulator::start_with(data, &[])
    }

    /// The same with more options.
    pub(crate) fn start_with(data: &Path, options: &[&str]) -> Emulator {
        let mut command = Command::new(BLOBDIR);
        command.args(["emulator", "page-blob", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        command.args(options);
        let (process, stdout) = Process::start_piped(command);
        let (sender, lines) = mpsc::channel();
        // Reads to the end, so that the server never blocks on a full pipe.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut environment = Vec::new();
        loop {
            let Ok(line) = lines.recv_timeout(START_LIMIT) else {
                panic!("the emulator did not say what to export: {}", process.log());
            };
            let Some((name, value)) = line
                .trim()
                .strip_prefix("export ")
                .and_then(|assignment| assignment.split_once('='))
            else {
                continue;
            };
            let value = value.trim_matches(['"', '\'']).to_owned();
            environment.push((name.to_owned(), value.clone()));
            if let Some(endpoint) = account::blob_endpoint(&value) {
                return Emulator { process, environment, endpoint: endpoint.to_owned() };
            }
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Stops it in its tracks, as a machine that is suspended: connections stay and nothing answers.
    pub(crate) fn suspend(&mut self) {
        self.process.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub(crate) fn resume(&mut self) {
        self.process.signal(libc::SIGCONT);
    }

    /// Sends it one of its own requests (`_clock?advance=60s`).
    pub(crate) fn control(&self, request: &str) {
        account::control(&self.endpoint, request);
    }

    /// Ends it as Ctrl-C would and waits; what it kept is in the data directory.
    pub(crate) fn stop(self) {
        self.process.stop();
    }
}

/// `blobdir mount --foreground` at a directory of its own.
#[derive(Debug)]
pub(crate) struct Mount {
    process: Option<Process>,
    /// As the kernel names it, without symbolic links.
    path: PathBuf,
    _directory: TempDir,
}

impl Mount {
    /// Mounts `source` and waits until the tree is there.
    pub(crate) fn start(source: &str, options: &[&str], environment: &[(String, String)]) -> Mount {
        let directory = TempDir::new().expect("a directory to mount at");
        let path = fs::canonicalize(directory.path()).expect("the directory just made");
        let mut command = Command::new(BLOBDIR);
        command.arg("mount").arg(source).arg(&path);
        command.arg("--foreground");
        if !options.is_empty() {
            command.arg("-o").arg(options.join(","));
        }
        if !options.iter().any(|option| option.starts_with("state_dir=")) {
            command.arg("-o").arg(format!("state_dir={}", state_dir().display()));
        }
        // Nothing of the developer's own accounts and settings may get into a test.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let ours = ["AZURE_", "BLOBDIR_", "IDENTITY_", "IMDS_", "MSI_"];
            if ours.iter().any(|start| text.starts_with(start)) {
                command.env_remove(&name);
            }
        }
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut mount =
            Mount { process: Some(Process::start(command)), path, _directory: directory };
        let process = mount.process.as_mut().expect("just started");
        let ready = wait_until(START_LIMIT, || process.has_ended() || is_mounted(&mount.path));
        assert!(
            ready && !process.has_ended(),
            "{source} was not mounted ({}): {}",
            process.how_it_ended(),
            process.log()
        );
        mount
    }

    /// Kills the daemon where it stands. Its tree stays, dead, until this is dropped.
    pub(crate) fn kill(&mut self) {
        let process = self.process.take().expect("present until it is killed");
        process.signal(libc::SIGKILL);
        drop(process);
    }

    /// The daemon's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("present until unmount or drop").id()
    }

    /// Stops the daemon where it stands, or lets it go on.
    pub(crate) fn suspend(&self, stopped: bool) {
        let process = self.process.as_ref().expect("present until unmount or drop");
        process.signal(if stopped { libc::SIGSTOP } else { libc::SIGCONT });
    }

    /// What the daemon has logged.
    pub(crate) fn log(&self) -> String {
        self.process.as_ref().expect("present until unmount or drop").log()
    }

    /// The mounted tree.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The daemon's process.
    pub(crate) fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("present until unmount or drop")
    }

    /// Runs `blobdir unmount` with these options besides; whether it succeeded, and what it said.
    pub(crate) fn try_unmount(&self, options: &[&str]) -> Output {
        let mut command = Command::new(BLOBDIR);
        command.arg("unmount").arg(self.path()).args(options);
        output_within(UNMOUNT_LIMIT, command)
    }

    /// Whether the kernel still has it.
    pub(crate) fn is_there(&self) -> bool {
        is_mounted(&self.path)
    }

    /// Unmounts with `blobdir unmount`; panics unless everything was written and the daemon ended well.
    pub(crate) fn unmount(mut self) {
        let mut output = self.try_unmount(&[]);
        // A process that another test starts holds copies of all our files until it has become itself.
        wait_until(START_LIMIT, || {
            let busy = output.text.contains("is in use");
            if busy {
                output = self.try_unmount(&[]);
            }
            !busy
        });
        let mut process = self.process.take().expect("present until unmount or drop");
        let ended = wait_until(UNMOUNT_LIMIT, || process.has_ended());
        let log = process.log();
        assert!(output.success, "unmount failed: {}\n{log}", output.text);
        assert!(ended, "the daemon outlived its mount\n{log}");
        assert!(process.ended_well(), "the daemon ended badly\n{log}");
        assert!(!is_mounted(self.path()), "still mounted\n{log}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mut process = self.process.take();
        if let Some(process) = &mut process {
            if thread::panicking() {
                eprintln!("the daemon's log:\n{}", process.log());
            }
            // A stopped process does not end.
            process.signal(libc::SIGCONT);
            process.terminate();
            wait_until(UNMOUNT_LIMIT, || process.has_ended());
        }
        // Before it is killed: a killed daemon's tree would stay, and fail every later look at it.
        if is_mounted(self.path()) {
            let mut command = Command::new("umount");
            command.arg("--lazy").arg(self.path());
            output_within(UNMOUNT_LIMIT, command);
        }
    }
}

/// Whether something is mounted at `directory`. Read from the kernel's list, which never blocks as a
/// look at the directory of a hung daemon would.
fn is_mounted(directory: &Path) -> bool {
    let list = fs::read_to_string("/proc/self/mountinfo").expect("the list of mounts");
    list.lines().any(|line| line.split(' ').nth(4).map(PathBuf::from).as_deref() == Some(directory))
}
