//! The life of the process that serves a mount: start, readiness, signals, the end.
//!
//! | state | becomes | when |
//! |---|---|---|
//! | starting | running | the tree is usable |
//! | starting | ended, exit 1 | a signal: nothing is mounted yet, so nothing can be lost |
//! | running | ending | a signal, `blobdir unmount`, or the tree was unmounted from outside |
//! | ending | warned | a signal that did not itself begin the end: says what would be lost |
//! | warned | ended, exit 1 | a signal after [`READING_TIME`]: drops it and says so |
//! | ending, warned | ended | all was written (exit 0) or could not be (exit 1) |

use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::MountConfig;
use crate::control::{self, Changes, Served, mounts};
use crate::daemon::{self, Readiness, Signal, Signals};
use crate::logging;
use crate::mount::{self, IfBusy, Mounted, UnmountError};

/// How long the end may take without `blobdir unmount --timeout`: more than the service needs for a
/// full dirty budget at the slowest documented rate, less than systemd's patience for a stop job
/// twice over.
const END_TIMEOUT: Duration = Duration::from_secs(120);
/// Signals this soon after the warning do not drop anything: a key held down, or a supervisor that
/// signals a group and its members, has not read it.
const READING_TIME: Duration = Duration::from_secs(1);
/// How long the kernel may take to detach a tree when the process ends by force.
const DETACH_TIME: Duration = Duration::from_secs(2);

/// Mounts and serves until the end; gives the exit code. `readiness` is that of a daemon.
pub(super) fn serve(config: MountConfig, readiness: Option<Readiness>) -> u8 {
    let signals = Signals::block();
    daemon::become_io_flusher();
    let mount_point = config.mount_point.clone();
    let process = Arc::new(Process {
        mount_point: mount_point.clone(),
        in_background: readiness.is_some(),
        life: Mutex::new(Life::Starting(readiness)),
    });
    if let Err(error) = watch(signals, Arc::clone(&process)) {
        return process.give_up(&format!("cannot start a thread: {error}"));
    }
    let mounted = match mount::start(config) {
        Ok(mounted) => Arc::new(mounted),
        Err(error) => return process.give_up(&error.to_string()),
    };
    let control = open_control(&mount_point, &mounted);
    process.announce(&mounted);

    mounted.wait();
    process.begin_end();
    let outcome = mounted.unmount(IfBusy::Detach, END_TIMEOUT);
    if let Some(control) = control {
        control.finish();
    }
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            process.say(&line_of(&error, &mount_point));
            1
        }
    }
}

/// The process as its main thread and its signal thread see it.
struct Process {
    mount_point: PathBuf,
    in_background: bool,
    life: Mutex<Life>,
}

enum Life {
    /// With the way to tell the launching command, in a daemon.
    Starting(Option<Readiness>),
    Running(Arc<Mounted>),
    /// Since the warning, if there was one.
    Ending(Arc<Mounted>, Option<Instant>),
    /// Somebody has told how the start failed.
    Over,
}

impl Process {
    /// The start failed: the launching command, or stderr, gets the one line.
    fn give_up(&self, line: &str) -> u8 {
        let life = std::mem::replace(&mut *self.life.lock(), Life::Over);
        match life {
            Life::Starting(Some(readiness)) => readiness.failed(1, line),
            Life::Starting(None) => self.say(line),
            // The signal thread was faster, and ends the process.
            Life::Running(_) | Life::Ending(..) | Life::Over => {}
        }
        1
    }

    /// The tree is usable.
    fn announce(&self, mounted: &Arc<Mounted>) {
        let mut life = self.life.lock();
        let before = std::mem::replace(&mut *life, Life::Running(Arc::clone(mounted)));
        logging::started(self.in_background);
        match before {
            Life::Starting(Some(readiness)) => {
                if let Err(error) = readiness.ready() {
                    // Whoever asked for the mount does not know of it, so it must not stay.
                    log::error!(target: "mount", "the launching command is gone: {error}");
                    mounted.stop_handle().stop();
                }
            }
            Life::Over => *life = Life::Over,
            Life::Starting(None) | Life::Running(_) | Life::Ending(..) => {}
        }
    }

    fn begin_end(&self) {
        let mut life = self.life.lock();
        if let Life::Running(mounted) = &*life {
            *life = Life::Ending(Arc::clone(mounted), None);
        }
    }

    fn stop_signal(&self, now: Instant) {
        let mut life = self.life.lock();
        match &mut *life {
            Life::Starting(_) => {
                drop(life);
                self.give_up("interrupted before the tree was mounted");
                self.end_by_force();
            }
            Life::Running(mounted) => {
                mounted.stop_handle().stop();
                *life = Life::Ending(Arc::clone(mounted), None);
            }
            Life::Ending(mounted, warned @ None) => {
                *warned = Some(now);
                self.say(&format!(
                    "still writing; {}; signal once more to drop it",
                    at_stake(mounted)
                ));
            }
            Life::Ending(mounted, Some(warned)) => {
                if now.duration_since(*warned) >= READING_TIME {
                    self.say(&format!("ended by signal; {}", at_stake(mounted)));
                    self.end_by_force();
                }
            }
            Life::Over => {}
        }
    }

    /// Ends the process at once, leaving no mount that nobody serves.
    fn end_by_force(&self) -> ! {
        let (sender, detached) = mpsc::channel();
        let mount_point = self.mount_point.clone();
        // A thread of its own, because the kernel may wait for us.
        thread::spawn(move || {
            if matches!(mounts::at(&mount_point), Ok(Some(mount)) if mount.is_ours()) {
                let _ = mounts::unmount(&mount_point, true);
            }
            let _ = sender.send(());
        });
        let _ = detached.recv_timeout(DETACH_TIME);
        process::exit(1)
    }

    /// A line for whoever runs this: the terminal, or a daemon's log.
    fn say(&self, line: &str) {
        if self.in_background {
            log::error!(target: "mount", "{line}");
        } else {
            super::complain(line);
        }
    }
}

fn at_stake(mounted: &Mounted) -> String {
    let summary = mounted.dirty_summary();
    if summary.is_empty() {
        "every byte is in the service".to_owned()
    } else {
        format!("not yet in the service: {summary}")
    }
}

/// Starts the thread that waits for signals.
fn watch(signals: Signals, process: Arc<Process>) -> io::Result<()> {
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        loop {
            match signals.wait() {
                Signal::Terminate | Signal::Interrupt => process.stop_signal(Instant::now()),
                // A terminal that closes does not end a mount that others may use.
                Signal::HangUp => log::info!(target: "mount", "SIGHUP ignored"),
            }
        }
    })?;
    Ok(())
}

fn open_control(mount_point: &Path, mounted: &Arc<Mounted>) -> Option<control::Server> {
    let (user, _) = daemon::caller();
    let served = Arc::new(ServedMount {
        mount_point: mount_point.to_path_buf(),
        mounted: Arc::clone(mounted),
    });
    let opened = mounts::at(mount_point).and_then(|mount| match mount {
        Some(mount) => control::Server::start(&mount, user, served),
        None => Err(io::Error::other("the mount is not in /proc/self/mountinfo")),
    });
    opened
        .inspect_err(|error| {
            log::warn!(target: "mount", "no control socket, so unmounting will not show progress: {error}");
        })
        .ok()
}

struct ServedMount {
    mount_point: PathBuf,
    mounted: Arc<Mounted>,
}

impl Served for ServedMount {
    fn dirty_bytes(&self) -> u64 {
        self.mounted.dirty_bytes()
    }

    fn unmount(&self, timeout: Duration) -> Result<(), String> {
        self.mounted
            .unmount(IfBusy::Refuse, timeout)
            .map_err(|error| line_of(&error, &self.mount_point))
    }

    fn snapshot(&self, path: &str) -> Result<String, String> {
        self.mounted.snapshot(path)
    }

    fn changes(&self, from: &str, to: &str, cursor: Option<&str>) -> Result<Changes, String> {
        self.mounted.changes(from, to, cursor)
    }
}

fn line_of(error: &UnmountError, mount_point: &Path) -> String {
    match error {
        UnmountError::Busy => super::busy_line(mount_point),
        UnmountError::Failed(line) => line.clone(),
    }
}
