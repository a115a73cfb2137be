//! The names of what blobs were before: `.snapshots/TIME/PATH` for their snapshots, and `.versions/TIME/PATH`
//! for the versions that an account keeps of what is replaced or deleted.
//!
//! A time is the service's own name of it, verbatim. Snapshots and versions are told apart by nothing but
//! what names them in requests and lists; whoever takes one for the other is told that it is not there.
//!
//! This module must not know requests.

use std::str::FromStr as _;
use std::time::SystemTime;

use super::store::is_directory;
use super::wire::Properties;
use crate::store::{Error, ErrorKind, RemotePath, Result, Stat};

/// The two kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Line {
    /// Taken on request, of any blob.
    Snapshots,
    /// Kept by the service, which names the blob itself too.
    Versions,
}

impl Line {
    /// Both of them.
    pub(super) const ALL: [Line; 2] = [Line::Snapshots, Line::Versions];

    /// The name of the directory.
    pub(super) fn dir(self) -> &'static str {
        match self {
            Line::Snapshots => ".snapshots",
            Line::Versions => ".versions",
        }
    }

    /// What names one in a query.
    pub(super) fn parameter(self) -> &'static str {
        match self {
            Line::Snapshots => "snapshot",
            Line::Versions => "versionid",
        }
    }

    /// What includes them in a list.
    pub(super) fn included(self) -> &'static str {
        match self {
            Line::Snapshots => "snapshots",
            Line::Versions => "versions",
        }
    }

    /// Why one cannot be written, in words.
    pub(super) fn word(self) -> &'static str {
        match self {
            Line::Snapshots => "snapshot",
            Line::Versions => "version",
        }
    }

    /// The time of one in a list; `None` for what is no such thing.
    pub(super) fn time_of(self, found: &Properties) -> Option<&str> {
        match self {
            Line::Snapshots => found.snapshot.as_deref(),
            Line::Versions => found.version.as_deref(),
        }
    }
}

/// What a path in one of the directories stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Spot {
    pub(super) line: Line,
    /// The time, and the path below it, which is empty for the time's own directory. `None` for the directory
    /// of times.
    pub(super) place: Option<(String, String)>,
}

impl Spot {
    /// What `path`, relative to the mounted directory of a container, stands for. `None` if it is not in
    /// here; `Some(None)` if nothing of this name can be.
    pub(super) fn of(path: &str) -> Option<Option<Spot>> {
        let (first, rest) = match path.split_once('/') {
            Some((first, rest)) => (first, Some(rest)),
            None => (path, None),
        };
        let line = Line::ALL.into_iter().find(|line| line.dir() == first)?;
        let Some(rest) = rest else {
            return Some(Some(Spot { line, place: None }));
        };
        let (time, below) = rest.split_once('/').unwrap_or((rest, ""));
        let place = Some((time.to_owned(), below.to_owned()));
        Some(taken_at(time).map(|_| Spot { line, place }))
    }

    /// Time and path of what is no directory of ours.
    pub(super) fn parts(&self, op: &'static str, path: &RemotePath) -> Result<(&str, &str)> {
        match &self.place {
            Some((time, below)) if !below.is_empty() => Ok((time, below)),
            _ => Err(is_directory(op, path)),
        }
    }

    /// That nothing in here is changed but by deleting it.
    pub(super) fn read_only(&self, op: &'static str, path: &RemotePath) -> Error {
        let why = match self.line {
            Line::Snapshots => {
                "snapshots are read-only; they are made by 'blobdir snapshot' and deleted by rm"
            }
            Line::Versions => "versions are read-only; the service makes them, and rm deletes them",
        };
        Error::new(ErrorKind::ReadOnly, op, path, why)
    }
}

/// When what has this name was taken; `None` for what is no such name. The one form that the service gives is
/// the one that is taken, so that nothing has two names.
pub(super) fn taken_at(time: &str) -> Option<SystemTime> {
    const FORM: &[u8] = b"0000-00-00T00:00:00.0000000Z";
    let fits = |(found, wanted): (u8, &u8)| match wanted {
        b'0' => found.is_ascii_digit(),
        other => found == *other,
    };
    if time.len() != FORM.len() || !time.bytes().zip(FORM).all(fits) {
        return None;
    }
    jiff::Timestamp::from_str(time).ok().map(SystemTime::from)
}

/// A directory of a time.
pub(super) fn directory_of(time: &str) -> Stat {
    Stat { modified: taken_at(time), ..Stat::directory() }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{Line, Spot, taken_at};

    #[test]
    fn paths_are_told_apart() {
        const TIME: &str = "2026-11-20T06:54:00.0000000Z";
        for line in Line::ALL {
            let dir = line.dir();
            let at = |below: &str| {
                let place = Some((TIME.to_owned(), below.to_owned()));
                Some(Some(Spot { line, place }))
            };
            assert_eq!(Spot::of(dir), Some(Some(Spot { line, place: None })));
            assert_eq!(Spot::of(&format!("{dir}/{TIME}")), at(""));
            assert_eq!(Spot::of(&format!("{dir}/{TIME}/vm/root.vhd")), at("vm/root.vhd"));
            assert_eq!(Spot::of(&format!("{dir}/soon/a")), Some(None));
        }
        for other in ["", "a", "a/.snapshots", ".snapshotsx", ".snapshot", ".versions.old/a"] {
            assert_eq!(Spot::of(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_time_has_one_form() {
        let time = taken_at("2020-10-01T22:57:35.7356785Z");
        assert_eq!(time, Some(UNIX_EPOCH + Duration::new(1_601_593_055, 735_678_500)));
        for bad in [
            "",
            "2020-10-01T22:57:35Z",
            "2020-10-01T22:57:35.735678Z",
            "2020-10-01T22:57:35.7356785z",
            "2020-10-01T22:57:35.7356785+",
            "2020-13-01T22:57:35.7356785Z",
            "2020-02-30T22:57:35.7356785Z",
            "2020-10-01 22:57:35.7356785Z",
            "2020-10-01T22:57:35.735678éZ",
        ] {
            assert_eq!(taken_at(bad), None, "{bad:?}");
        }
    }
}
