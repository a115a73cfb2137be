//! Where log lines go, which ones, and how often.
//!
//! Lines come through the `log` crate with a target for each layer (`fuse`, `vfs`, `io`, `http`, …);
//! `BLOBDIR_LOG` (`debug`, `http=debug,io=trace`) chooses, WARN and worse without it. The layers
//! keep secrets out of what they log; nothing here can know what is one.
//!
//! This module imports nothing from the crate.

mod limit;
mod sink;

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::{Instant, SystemTime};

use log::{LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;

use limit::Limiter;
use sink::{Sink, timestamp};

/// Chooses targets and levels, in the words of the `env_logger` crate.
pub const FILTER_VARIABLE: &str = "BLOBDIR_LOG";

static LOGGER: std::sync::OnceLock<Logger> = std::sync::OnceLock::new();

struct Logger {
    filter: env_logger::Logger,
    /// Absent if the user chose levels: then every line is wanted.
    limiter: Option<Mutex<Limiter>>,
    sink: Mutex<Sink>,
}

/// Starts logging to `file` or, without one, to stderr. Panics are logged too. Starts no thread.
///
/// On stderr, lines are held back until [`started`] if the user did not choose levels: a start
/// that fails is told by one line, which is not the log's.
///
/// Errors: the file cannot be opened for appending.
pub fn init(file: Option<&Path>) -> io::Result<()> {
    let chosen = std::env::var(FILTER_VARIABLE).ok();
    let mut filter = env_logger::Builder::new();
    match &chosen {
        Some(text) => filter.parse_filters(text),
        None => filter.filter_level(LevelFilter::Warn),
    };
    let filter = filter.build();
    let sink = match file {
        Some(path) => Sink::File(OpenOptions::new().create(true).append(true).open(path)?),
        None if chosen.is_some() => Sink::Stderr,
        None => Sink::Held(Vec::new()),
    };
    log::set_max_level(filter.filter());
    let logger = LOGGER.get_or_init(|| Logger {
        filter,
        limiter: chosen.is_none().then(Mutex::default),
        sink: Mutex::new(sink),
    });
    // A second call keeps the first logger, which only tests could notice.
    let _ = log::set_logger(logger);
    log_panics();
    Ok(())
}

/// The start succeeded: lines that were held back are written. In a daemon without a log file,
/// which has no stderr from now on, lines go to the system log, or nowhere if there is none.
pub fn started(in_background: bool) {
    let Some(logger) = LOGGER.get() else { return };
    let mut sink = logger.sink.lock();
    let held = match &mut *sink {
        Sink::Held(lines) => std::mem::take(lines),
        Sink::File(_) => return,
        _ => Vec::new(),
    };
    *sink = if in_background { Sink::system_log() } else { Sink::Stderr };
    for (level, line) in held {
        sink.write(level, &line);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.filter.matches(record) {
            return;
        }
        let mut left_out = 0;
        if let Some(limiter) = &self.limiter {
            match limiter.lock().admit(site(record), Instant::now()) {
                Some(earlier) => left_out = earlier,
                None => return,
            }
        }
        let mut text = format!("{}: {}", record.target(), record.args());
        if left_out > 0 {
            text.push_str(&format!(" (and {left_out} like it before, left out)"));
        }
        // One record is one line, whatever a service put into its answer.
        let text = text.replace(['\n', '\r'], " ");
        let mut sink = self.sink.lock();
        let line = if sink.stamps_lines() {
            text
        } else {
            format!("{} {:5} {text}", timestamp(SystemTime::now()), record.level())
        };
        sink.write(record.level(), &line);
    }

    fn flush(&self) {}
}

/// The place in the source that a record comes from; lines of one place are like each other.
fn site(record: &Record<'_>) -> (&'static str, u32) {
    (record.file_static().unwrap_or_default(), record.line().unwrap_or_default())
}

/// A daemon has no stderr, so its panics would be lost.
fn log_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        log::error!(target: "panic", "{panic}");
        before(panic);
    }));
}
