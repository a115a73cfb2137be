//! The process around a mount: the fork into the background, the pipe that tells the launching
//! command how it went, signals as plain values on a thread of their own, and what the kernel should
//! know about a process that serves a file system.
//!
//! It knows nothing of what the daemon does. Forking comes before everything else: a forked process
//! has only the thread that forked, so a runtime or logger thread started earlier would be missing.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

/// Which of the two processes [`fork`] has returned in.
#[derive(Debug)]
pub enum Side {
    /// The command that was started; it waits for the daemon and exits.
    Launcher(Launcher),
    /// The daemon, in a session of its own, stdin closed. Its stdout and stderr are still those of
    /// the command.
    Daemon(Readiness),
}

/// What became of the daemon's start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// It serves.
    Ready,
    /// It gave up: the exit code and the line for the user.
    Failed(u8, String),
    /// It ended without a word.
    Died(String),
}

/// Forks. Must be called while the process has one thread.
///
/// Until the daemon says that it is ready, it is sent SIGTERM when the launching command dies: a
/// start that was interrupted leaves no mount behind.
///
/// Errors: more than one thread, or no resources.
pub fn fork() -> io::Result<Side> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("threads were started before the fork"));
    }
    let (reader, writer) = io::pipe()?;
    let launcher_id = std::process::id();
    // SAFETY: this process has one thread, so the child finds every lock and the allocator in order.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(reader);
            die_with_parent(true, launcher_id);
            // SAFETY: setsid has no memory effects. It cannot fail: a new process leads no group.
            unsafe { libc::setsid() };
            std::env::set_current_dir("/")?;
            close_inherited()?;
            point_at_null(&[libc::STDIN_FILENO])?;
            let pipe = File::from(OwnedFd::from(writer));
            Ok(Side::Daemon(Readiness { pipe }))
        }
        daemon => {
            drop(writer);
            let pipe = File::from(OwnedFd::from(reader));
            Ok(Side::Launcher(Launcher { daemon, pipe }))
        }
    }
}

/// The launching command's end of the pipe.
#[derive(Debug)]
pub struct Launcher {
    daemon: libc::pid_t,
    pipe: File,
}

impl Launcher {
    /// Waits until the daemon serves or has given up.
    pub fn wait(mut self) -> Report {
        let mut said = Vec::new();
        // An error in the middle of reading leaves what was read, which then tells.
        let _ = self.pipe.read_to_end(&mut said);
        match said.split_first() {
            Some((b'R', _)) => Report::Ready,
            Some((b'F', [code, line @ ..])) => {
                Report::Failed(*code, String::from_utf8_lossy(line).into_owned())
            }
            _ => Report::Died(self.reap()),
        }
    }

    /// How a daemon ended that closed the pipe without a word.
    fn reap(&self) -> String {
        let mut status = 0;
        // SAFETY: `status` outlives the call, and the child is ours and was not waited for yet.
        let waited = unsafe { libc::waitpid(self.daemon, &raw mut status, 0) };
        if waited == self.daemon {
            ExitStatus::from_raw(status).to_string()
        } else {
            "unknown status".to_owned()
        }
    }
}

/// The daemon's end of the pipe. Dropped without a word, the command reports that the daemon died.
#[derive(Debug)]
pub struct Readiness {
    pipe: File,
}

impl Readiness {
    /// Lets the command return success, and leaves its terminal and pipes: nothing that waits for
    /// the end of the command's output waits for the daemon.
    ///
    /// Errors: the command is gone, so nobody learned that the daemon serves.
    pub fn ready(mut self) -> io::Result<()> {
        die_with_parent(false, 0);
        point_at_null(&[libc::STDOUT_FILENO, libc::STDERR_FILENO])?;
        self.pipe.write_all(b"R")
    }

    /// Lets the command print `line` and exit with `code`.
    pub fn failed(mut self, code: u8, line: &str) {
        // A command that is gone cannot print.
        let _ = self.pipe.write_all(&[&[b'F', code], line.as_bytes()].concat());
    }
}

/// Has the kernel send SIGTERM to this process when the thread that started it ends, or not any more.
fn die_with_parent(wanted: bool, parent: u32) {
    let signal = if wanted { libc::SIGTERM } else { 0 };
    // SAFETY: prctl with this operation reads its integer arguments only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) };
    // The parent may have died before the call, which then has no effect.
    if wanted && std::os::unix::process::parent_id() != parent {
        // SAFETY: raising a signal in this process.
        unsafe { libc::raise(libc::SIGTERM) };
    }
}

/// Closes what the command was given besides the standard streams (a lock, a pipe of `make`), which
/// others would otherwise find in use for as long as the daemon lives. What came through exec lacks
/// the close-on-exec flag; what this program opened has it.
fn close_inherited() -> io::Result<()> {
    let names: Vec<_> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .collect();
    for descriptor in names {
        // SAFETY: asking for the flags of a number has no effect, open or not.
        let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
        if descriptor > libc::STDERR_FILENO && flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            // SAFETY: nothing in this program owns a descriptor without the flag.
            unsafe { libc::close(descriptor) };
        }
    }
    Ok(())
}

fn point_at_null(descriptors: &[i32]) -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for descriptor in descriptors {
        // SAFETY: both are open descriptors; the replaced one is a standard stream, which Rust's
        // library uses by number only.
        if unsafe { libc::dup2(null.as_raw_fd(), *descriptor) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Tells the kernel that this process writes back other processes' memory. Threads started later
/// inherit it.
///
/// A loop device over a file of the mount makes the daemon part of writing dirty pages: if one of its
/// allocations then waited for dirty pages to be written, it would wait for itself. With this flag
/// its allocations never start or await write-back. Only root may ask (CAP_SYS_RESOURCE), and only
/// root makes loop devices, so a refusal is no news.
pub fn become_io_flusher() {
    /// From `linux/prctl.h`, since Linux 5.6; the libc crate has it for Android alone.
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    // SAFETY: prctl with this operation reads its integer arguments only.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
}

/// A signal that somebody sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// SIGTERM: end in good order.
    Terminate,
    /// SIGINT, Ctrl-C: the same, from the terminal.
    Interrupt,
    /// SIGHUP: the terminal has gone.
    HangUp,
}

/// SIGTERM, SIGINT and SIGHUP, blocked everywhere so that one thread can wait for them. Handlers
/// would run in the middle of anything and could use next to nothing.
pub struct Signals {
    set: libc::sigset_t,
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signals")
    }
}

impl Signals {
    /// Blocks them in this thread and in all that it starts later: to be called before the first.
    pub fn block() -> Signals {
        let set = signal_set(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]);
        set_mask(libc::SIG_BLOCK, &set);
        Signals { set }
    }

    /// Waits for the next one. The same signal sent twice before it is waited for counts once.
    pub fn wait(&self) -> Signal {
        let mut number = 0;
        loop {
            // SAFETY: both pointers are valid for the call; the signals are blocked.
            let failed = unsafe { libc::sigwait(&raw const self.set, &raw mut number) };
            match (failed, number) {
                (0, libc::SIGHUP) => return Signal::HangUp,
                (0, libc::SIGINT) => return Signal::Interrupt,
                (0, _) => return Signal::Terminate,
                // Interrupted by a debugger, on some kernels.
                _ => {}
            }
        }
    }
}

/// Makes a command start as one typed at a shell: no signal blocked (processes inherit the mask).
pub fn unblock_signals_in(command: &mut Command) -> &mut Command {
    let none = signal_set(&[]);
    // SAFETY: between fork and exec only pthread_sigmask is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            set_mask(libc::SIG_SETMASK, &none);
            Ok(())
        })
    }
}

/// Has the kernel send SIGTERM to `command` when the thread that spawns it ends, however it ends.
pub fn stop_with_this_thread(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    // SAFETY: between fork and exec only prctl, getppid and raise are called, which are
    // async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            die_with_parent(true, parent);
            Ok(())
        })
    }
}

/// Sends SIGTERM to a child process that has not been waited for.
pub fn ask_to_stop(child: &std::process::Child) {
    let Ok(id) = libc::pid_t::try_from(child.id()) else {
        return;
    };
    // SAFETY: a child that has not been waited for keeps its number, so nobody else is hit.
    unsafe { libc::kill(id, libc::SIGTERM) };
}

fn signal_set(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set; sigaddset gets valid signal numbers.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

fn set_mask(how: libc::c_int, set: &libc::sigset_t) {
    // SAFETY: the set is initialised; no old mask is asked for. It fails for a wrong `how` alone.
    unsafe { libc::pthread_sigmask(how, set, std::ptr::null_mut()) };
}

/// User and group that this process acts as.
pub fn caller() -> (u32, u32) {
    // SAFETY: these calls have no arguments, no memory effects and never fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}
