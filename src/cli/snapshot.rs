//! `blobdir snapshot`: takes a snapshot of a file of a mounted tree, and tells what has changed since one.
//!
//! The daemon of the mount does it, which has the credential and knows what is not yet written.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::Failure;
use crate::control::Client;
use crate::control::mounts::{self, Mount};
use crate::daemon;

/// Takes a snapshot of the file at `path` and prints where it is.
pub(super) fn take(path: &Path) -> Result<u8, Failure> {
    let place = Place::of(path)?;
    place.settle()?;
    let taken = place.client()?.snapshot(&place.inside).map_err(Failure::other)?;
    super::print(&format!("{}\n", place.whole.join(taken).display()));
    Ok(0)
}

/// Prints what has changed from the snapshot at `from` to `to`, a later one or the file itself.
pub(super) fn compare(from: &Path, to: &Path, json: bool) -> Result<u8, Failure> {
    let (from, to) = (Place::of(from)?, Place::of(to)?);
    if from.mount.device != to.mount.device {
        return Err(Failure::other(format!(
            "{} and {} are in two mounts; a file is compared with its own snapshots",
            from.typed.display(),
            to.typed.display()
        )));
    }
    to.settle()?;
    let mut out = Listing { out: BufWriter::new(io::stdout()), json, first: true, held: None };
    let mut cursor: Option<String> = None;
    let mut outcome = out.begin();
    while outcome.is_ok() {
        let page = to.client()?.changes(&from.inside, &to.inside, cursor.as_deref());
        let page = page.map_err(Failure::other)?;
        outcome = page.ranges.into_iter().try_for_each(|(range, cleared)| {
            out.add(Change { start: range.start, end: range.end, cleared })
        });
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    match outcome.and_then(|()| out.end()) {
        // A reader that closed the pipe has read enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::other(format!("the result cannot be written: {error}")))
        }
        _ => Ok(0),
    }
}

/// A path in a mounted tree.
struct Place {
    /// As it was typed.
    typed: PathBuf,
    /// Absolute and without symbolic links.
    path: PathBuf,
    mount: Mount,
    /// Where the root of the tree is.
    whole: PathBuf,
    /// The path from there.
    inside: String,
}

impl Place {
    fn of(typed: &Path) -> Result<Place, Failure> {
        let shown = typed.display();
        let broken = |error: io::Error| Failure::other(format!("{shown}: {error}"));
        let path = typed.canonicalize().map_err(broken)?;
        let (mount, inside) = match mounts::holding(&path).map_err(broken)? {
            Some((mount, inside)) if mount.is_ours() => (mount, inside),
            _ => return Err(Failure::other(format!("{shown} is in no mount of blobdir"))),
        };
        if path.is_dir() {
            let why = "is a directory; snapshots are of single files";
            return Err(Failure::other(format!("{shown} {why}")));
        }
        let whole = mounts::whole(&mount).map_err(broken)?.ok_or_else(|| {
            Failure::other(format!(
                "{shown} is in a bind mount of a part of {}, where its snapshots are not seen",
                mount.source
            ))
        })?;
        // The kernel has looked it up, so it is a name of the service, and those have neither.
        let inside = inside.to_str().filter(|inside| !inside.contains(['\n', '\t']));
        let inside = inside.ok_or_else(|| broken(ErrorKind::NotFound.into()))?.to_owned();
        Ok(Place { typed: typed.to_owned(), path, mount, whole, inside })
    }

    /// Hands to the daemon what only the kernel knows of: pages written through a mapping.
    fn settle(&self) -> Result<(), Failure> {
        File::open(&self.path).and_then(|file| file.sync_all()).map_err(|error| {
            Failure::other(format!("{} cannot be flushed: {error}", self.typed.display()))
        })
    }

    fn client(&self) -> Result<Client, Failure> {
        let (user, _) = daemon::caller();
        let point = self.mount.mount_point.display();
        Client::connect(&self.mount, user).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => Failure::other(format!(
                "{point} was mounted by another user, who may take snapshots, or root"
            )),
            _ => Failure::other(format!("the daemon of {point} cannot be asked: {error}")),
        })
    }
}

struct Change {
    start: u64,
    end: u64,
    cleared: bool,
}

/// Changes as they are printed: those that follow each other as one.
struct Listing<W> {
    out: W,
    json: bool,
    first: bool,
    held: Option<Change>,
}

impl<W: Write> Listing<W> {
    fn begin(&mut self) -> io::Result<()> {
        if self.json { self.out.write_all(b"[") } else { Ok(()) }
    }

    fn add(&mut self, change: Change) -> io::Result<()> {
        match &mut self.held {
            Some(held) if held.end == change.start && held.cleared == change.cleared => {
                held.end = change.end;
                Ok(())
            }
            held => match held.replace(change) {
                Some(before) => self.put(&before),
                None => Ok(()),
            },
        }
    }

    fn put(&mut self, Change { start, end, cleared }: &Change) -> io::Result<()> {
        let word = if *cleared { "cleared" } else { "written" };
        if !self.json {
            return writeln!(self.out, "{word} {start} {end}");
        }
        let comma = if std::mem::take(&mut self.first) { "" } else { "," };
        write!(self.out, "{comma}\n{{\"change\":\"{word}\",\"start\":{start},\"end\":{end}}}")
    }

    fn end(&mut self) -> io::Result<()> {
        if let Some(last) = self.held.take() {
            self.put(&last)?;
        }
        if self.json {
            self.out.write_all(b"\n]\n")?;
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Listing};

    fn printed(json: bool, changes: &[(u64, u64, bool)]) -> String {
        let mut listing = Listing { out: Vec::new(), json, first: true, held: None };
        listing.begin().unwrap();
        for &(start, end, cleared) in changes {
            listing.add(Change { start, end, cleared }).unwrap();
        }
        listing.end().unwrap();
        String::from_utf8(listing.out).unwrap()
    }

    #[test]
    fn changes_that_follow_each_other_are_printed_as_one() {
        let changes = [(0, 512, false), (512, 1024, false), (1024, 1536, true), (4096, 4608, true)];
        assert_eq!(
            printed(false, &changes),
            "written 0 1024\ncleared 1024 1536\ncleared 4096 4608\n"
        );
        assert_eq!(
            printed(true, &changes[1..3]),
            "[\n{\"change\":\"written\",\"start\":512,\"end\":1024},\n\
             {\"change\":\"cleared\",\"start\":1024,\"end\":1536}\n]\n"
        );
        assert_eq!(printed(false, &[]), "");
        assert_eq!(printed(true, &[]), "[\n]\n");
    }
}
