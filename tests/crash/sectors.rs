//! Files that are written at random, with fsyncs in between and at the same time.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread::{self, Scope};
use std::time::Duration;

use crate::ledger::Ledger;
use crate::support::Mount;
use crate::support::random::Random;

/// The files.
pub(crate) const NAMES: [&str; 3] = ["one", "two", "three"];
/// Where writes begin, at most, unless they append.
const SPREAD: u64 = 3 << 20;
/// A file this long is cut rather than made longer.
const LONGEST: usize = 6 << 20;
/// The longest write.
const LONGEST_WRITE: u64 = 64 << 10;

/// What they hold, and the handles they are written through.
pub(crate) struct Files {
    ledgers: Vec<Mutex<Ledger>>,
    open: Vec<File>,
}

impl Files {
    /// None of them is there.
    pub(crate) fn new() -> Files {
        Files {
            ledgers: NAMES.iter().map(|_| Mutex::new(Ledger::new(Vec::new()))).collect(),
            open: Vec::new(),
        }
    }

    /// Opens them for writing, which must succeed at once, and looks whether they hold what they may.
    pub(crate) fn open_and_judge(&mut self, mount: &Mount, round: u64) {
        for (name, ledger) in NAMES.iter().zip(&mut self.ledgers) {
            let path = mount.path().join(name);
            let file = OpenOptions::new().read(true).write(true).create(round == 0).open(&path);
            let file = file.unwrap_or_else(|error| panic!("round {round}, {name}: {error}"));
            let mut found = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut found, 0).unwrap();
            let ledger = ledger.get_mut().unwrap();
            if let Err(wrong) = ledger.judge(&found) {
                panic!("round {round}, {name}: {wrong}");
            }
            *ledger = Ledger::new(found);
            self.open.push(file);
        }
    }

    /// Closes what nobody serves any more, or can be closed.
    pub(crate) fn close(&mut self) {
        self.open.clear();
    }

    /// Changes and fsyncs all of them until the daemon is gone.
    pub(crate) fn work<'scope, 'env: 'scope>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        random: &mut Random,
        killed: &'env AtomicBool,
    ) {
        for ((name, ledger), file) in NAMES.iter().zip(&self.ledgers).zip(&self.open) {
            let (mut changes, mut pauses) = (random.split(), random.split());
            let until_killed =
                |what: &'static str, mut step: Box<dyn FnMut() -> io::Result<()> + Send + 'env>| {
                    scope.spawn(move || {
                        while let Ok(()) = step().inspect_err(|error| {
                            assert!(killed.load(Ordering::SeqCst), "{name}: {what}: {error}");
                        }) {}
                    });
                };
            until_killed("change", Box::new(move || change(file, ledger, &mut changes)));
            until_killed(
                "fsync",
                Box::new(move || {
                    thread::sleep(Duration::from_millis(pauses.below(20)));
                    sync(file, ledger)
                }),
            );
        }
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap()
}

fn sync(file: &File, ledger: &Mutex<Ledger>) -> io::Result<()> {
    let covered = lock(ledger).covered();
    file.sync_data()?;
    lock(ledger).acknowledged(&covered);
    Ok(())
}

/// One change of the file, or an fsync that nothing runs beside.
fn change(file: &File, ledger: &Mutex<Ledger>, random: &mut Random) -> io::Result<()> {
    let len = lock(ledger).len();
    match random.below(100) {
        0..8 => sync(file, ledger),
        8..13 => {
            let to = random.below(len.min(LONGEST) as u64 + 4000);
            lock(ledger).truncate(to as usize);
            file.set_len(to)?;
            lock(ledger).truncated();
            Ok(())
        }
        13..20 if len > 0 => {
            let at = random.below(len as u64) as usize;
            let count = (1 + random.below(LONGEST_WRITE) as usize).min(len - at);
            lock(ledger).write(at, &vec![0; count]);
            punch(file, at, count)?;
            lock(ledger).made();
            Ok(())
        }
        kind => {
            let at = match kind {
                20..35 if len < LONGEST => len as u64,
                _ => random.below(SPREAD),
            };
            let count = 1 + random.below(LONGEST_WRITE);
            let bytes = match kind {
                90.. => vec![0; count as usize],
                _ => random.bytes(count as usize),
            };
            // Whole sectors in every other case.
            let (at, bytes) = match kind % 2 {
                0 => (at, &bytes[..]),
                _ => (at - at % 512, &bytes[..bytes.len() - bytes.len() % 512]),
            };
            if bytes.is_empty() {
                return Ok(());
            }
            lock(ledger).write(at as usize, bytes);
            file.write_all_at(bytes, at)?;
            lock(ledger).made();
            Ok(())
        }
    }
}

/// Makes a range zero.
fn punch(file: &File, at: usize, count: usize) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the descriptor is open, and no memory is passed.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, at as i64, count as i64) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
