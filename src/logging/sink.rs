//! Where a line of the log is written to. A line that cannot be written is lost: there is nobody
//! left to tell.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::time::SystemTime;

use log::Level;

/// The system log's socket, of syslogd or journald.
const SYSTEM_LOG: &str = "/dev/log";
/// Facility `daemon` of RFC 3164, shifted to its place above the severity.
const FACILITY_DAEMON: u8 = 3 << 3;

/// Where lines go.
#[derive(Debug)]
pub(super) enum Sink {
    /// Kept until the start is known to have succeeded.
    Held(Vec<(Level, String)>),
    /// The terminal, or whatever stands in its place.
    Stderr,
    /// A file, appended to.
    File(File),
    /// syslogd or journald.
    System(UnixDatagram),
    /// Nowhere.
    Nowhere,
}

impl Sink {
    /// The system log, or nowhere if there is none.
    pub(super) fn system_log() -> Sink {
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            socket.connect(SYSTEM_LOG)?;
            // A stuck syslogd must not hold up file operations.
            socket.set_nonblocking(true)?;
            std::io::Result::Ok(socket)
        };
        connect().map_or(Sink::Nowhere, Sink::System)
    }

    /// Whether time and level are added to a line where it goes.
    pub(super) fn stamps_lines(&self) -> bool {
        matches!(self, Sink::System(_))
    }

    /// Writes one line, given without its end.
    pub(super) fn write(&mut self, level: Level, line: &str) {
        /// Lines that are kept at most; a start that has more to say will say the same again.
        const HELD: usize = 200;
        match self {
            Sink::Held(lines) if lines.len() < HELD => lines.push((level, line.to_owned())),
            Sink::Held(_) | Sink::Nowhere => {}
            // One call a line, so that lines of other processes do not come between.
            Sink::Stderr => drop(std::io::stderr().write_all(format!("{line}\n").as_bytes())),
            Sink::File(file) => drop(file.write_all(format!("{line}\n").as_bytes())),
            Sink::System(socket) => {
                let priority = FACILITY_DAEMON | severity(level);
                let id = std::process::id();
                let message = format!("<{priority}>blobdir[{id}]: {line}");
                if socket.send(message.as_bytes()).is_err() {
                    // The daemon behind the socket may have been restarted; the next line tells.
                    let _ = socket.connect(SYSTEM_LOG);
                }
            }
        }
    }
}

/// The severity of RFC 3164.
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// `2026-11-20T06:54:00.123Z`.
pub(super) fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

/// Year, month and day of a day counted from 1970-01-01, by eras of 400 years that begin with March,
/// so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    /// Days in 400 years, and from 0000-03-01 to 1970-01-01.
    const ERA: u64 = 146_097;
    const EPOCH: u64 = 719_468;
    let (era, day_of_era) = ((days + EPOCH) / ERA, (days + EPOCH) % ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamps() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (1_795_157_640, "2026-11-20T06:54:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(timestamp(time), expected);
        }
    }
}
