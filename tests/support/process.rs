//! Child processes that end with the test, and commands with a limit.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a process may take to end by SIGTERM before it is killed.
const TERM_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at a condition that nothing announces.
const POLL: Duration = Duration::from_millis(10);

/// Waits for a condition; whether it came true in time.
pub(crate) fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    /// What one look and one pause count at most: a machine that was stopped in between did not wait.
    const LONGEST_STEP: Duration = Duration::from_secs(1);
    let mut waited = Duration::ZERO;
    loop {
        let before = Instant::now();
        if condition() {
            return true;
        }
        if waited >= limit {
            return false;
        }
        thread::sleep(POLL);
        waited += before.elapsed().min(LONGEST_STEP);
    }
}

/// A process that is ended when this is dropped. What it writes is kept for the message of a test
/// that fails.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    _directory: TempDir,
}

impl Process {
    /// Starts it.
    pub(crate) fn start(command: Command) -> Process {
        Process::start_with(command, |log| log.into())
    }

    /// Starts it with its stdout in a pipe.
    pub(crate) fn start_piped(command: Command) -> (Process, ChildStdout) {
        let mut process = Process::start_with(command, |_| Stdio::piped());
        let stdout = process.child.stdout.take().expect("a piped stdout");
        (process, stdout)
    }

    fn start_with(mut command: Command, stdout: impl FnOnce(File) -> Stdio) -> Process {
        let directory = TempDir::new().expect("a directory for a log");
        let log = directory.path().join("log");
        let file = File::create(&log).expect("a log file");
        // One open file for both, so that the lines are in the order they were written.
        let second = file.try_clone().expect("a second handle of the log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout(second))
            .stderr(file)
            // A Ctrl-C at the terminal is for the test, which then ends this in order.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Process { child, log, _directory: directory }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Whether it has ended; does not wait.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether it has ended with exit code 0.
    pub(crate) fn ended_well(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(status)) if status.success())
    }

    /// How it ended, in words.
    pub(crate) fn how_it_ended(&mut self) -> String {
        match self.child.try_wait() {
            Ok(Some(status)) => status.to_string(),
            Ok(None) => "it runs".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// Its exit code, if it has ended by itself.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.child.try_wait().ok().flatten().and_then(|status| status.code())
    }

    /// Asks it to end.
    pub(crate) fn terminate(&mut self) {
        if !self.has_ended() {
            self.signal(libc::SIGTERM);
        }
    }

    /// Sends a signal to it; it must not have been waited for.
    pub(crate) fn signal(&self, signal: i32) {
        let pid = self.child.id().cast_signed();
        // SAFETY: kill takes no pointers; the child has not been waited for, so the id is still its.
        let result = unsafe { libc::kill(pid, signal) };
        if result != 0 {
            eprintln!("cannot signal process {pid}: {}", io::Error::last_os_error());
        }
    }

    /// Asks it to end and waits; kills it after a limit.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.terminate();
        if !wait_until(TERM_LIMIT, || self.has_ended()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// How a command ended and everything it said.
#[derive(Debug)]
pub(crate) struct Output {
    /// Exit code 0, in time.
    pub(crate) success: bool,
    /// The exit code, if it ended by itself and in time.
    pub(crate) code: Option<i32>,
    /// Stdout and stderr in the order they were written.
    pub(crate) text: String,
}

/// Runs a command to its end, or to the end of its time.
pub(crate) fn output_within(limit: Duration, command: Command) -> Output {
    let mut process = Process::start(command);
    let in_time = wait_until(limit, || process.has_ended());
    let success = process.ended_well();
    let code = process.exit_code();
    process.end();
    let mut text = process.log();
    if !in_time {
        text.push_str(&format!("\nnot done within {limit:?}"));
    }
    Output { success, code, text }
}
