//! From pages of names to the entries of a directory: each name once, directories before blobs.
//!
//! A blob `a` and blobs under `a/` can exist together; the directory is shown. In the order of the
//! service other names stand between the two (`a`, `a-b`, `a.b`, `a/…`), even pages of them, so a
//! blob is held back until its `a/` has come or cannot come any more. Those held back are always
//! prefixes of one another (`a`, `a-`, `a--`), so a name's length bounds them, and they travel in the
//! cursor.
//!
//! This module must not know requests.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::wire::BlobType;
use crate::store::{Cursor, Kind, ListEntry, Stat, Version};

/// The longest name of a directory entry that file systems take, in bytes.
const LONGEST_NAME: usize = 255;

/// A name inside one directory, as it comes from a listing.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A blob of this name, or a blob that marks a directory of this name.
    Blob(&'a str, Stat),
    /// Blobs below this name.
    Directory(&'a str),
}

/// Turns names, in the service's order, into entries.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Fold {
    held: Vec<(String, Stat)>,
}

impl Fold {
    /// Takes the next name; entries that are decided go to `out`. `shadowed` is told of blobs that a
    /// directory hides.
    pub(super) fn take(
        &mut self,
        found: Found<'_>,
        out: &mut Vec<ListEntry>,
        mut shadowed: impl FnMut(&str),
    ) {
        let (name, slash) = match &found {
            Found::Blob(name, _) => (*name, false),
            Found::Directory(name) => (*name, true),
        };
        let mut is_new = true;
        while let Some((held, _)) = self.held.last() {
            let next = name
                .strip_prefix(held.as_str())
                .map(|rest| rest.bytes().next().or(slash.then_some(b'/')));
            // What the held name is followed by tells whether its directory can still come.
            match next {
                Some(Some(byte)) if byte < b'/' => break,
                Some(Some(b'/')) => {
                    let (held, stat) = self.held.pop().expect("there is a last one");
                    if stat.kind == Kind::File {
                        shadowed(&held);
                    }
                }
                // The same name again, which a server that goes on at a marker may give.
                Some(None) => {
                    is_new = false;
                    break;
                }
                _ => self.release(out),
            }
        }
        match found {
            Found::Blob(name, stat) if is_new => self.held.push((name.to_owned(), stat)),
            Found::Blob(..) => {}
            Found::Directory(name) => {
                out.push(ListEntry { name: name.to_owned(), stat: Stat::directory() })
            }
        }
    }

    /// There are no more names.
    pub(super) fn finish(&mut self, out: &mut Vec<ListEntry>) {
        while !self.held.is_empty() {
            self.release(out);
        }
    }

    /// The directory of the last held name cannot come any more.
    fn release(&mut self, out: &mut Vec<ListEntry>) {
        if let Some((name, stat)) = self.held.pop() {
            out.push(ListEntry { name, stat });
        }
    }

    /// A cursor that goes on at `marker` with what is held back.
    pub(super) fn suspend(self, marker: &str) -> Cursor {
        let mut text = encode(marker);
        for (name, stat) in self.held {
            let modified = stat
                .modified
                .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
                .map_or(-1, |since| since.as_secs() as i64);
            let kind = match (stat.kind, stat.read_only) {
                (Kind::Directory, _) => 'd',
                (Kind::File, None) => 'f',
                (Kind::File, why) if why == BlobType::Block.read_only() => 'b',
                (Kind::File, why) if why == BlobType::Append.read_only() => 'a',
                (Kind::File, Some(_)) | (Kind::Symlink, _) => 'o',
            };
            let version = stat.version.as_ref().map_or("", |version| &version.0);
            let _ = write!(
                text,
                " {} {kind} {} {modified} {}",
                encode(&name),
                stat.len,
                encode(version)
            );
        }
        Cursor(text.into())
    }

    /// What [`suspend`](Fold::suspend) put into a cursor; `None` if it did not.
    pub(super) fn resume(cursor: &Cursor) -> Option<(String, Fold)> {
        let mut words = cursor.0.split(' ');
        let marker = decode(words.next()?)?;
        let mut fold = Fold::default();
        while let Some(name) = words.next() {
            let kind = words.next()?;
            let len = words.next()?.parse().ok()?;
            let modified: i64 = words.next()?.parse().ok()?;
            let version = decode(words.next()?)?;
            let read_only = match kind {
                "d" | "f" => None,
                "b" => BlobType::Block.read_only(),
                "a" => BlobType::Append.read_only(),
                "o" => BlobType::Other.read_only(),
                _ => return None,
            };
            let stat = Stat {
                kind: if kind == "d" { Kind::Directory } else { Kind::File },
                len,
                allocated: read_only.map(|_| len),
                modified: u64::try_from(modified)
                    .ok()
                    .and_then(|secs| UNIX_EPOCH.checked_add(Duration::from_secs(secs))),
                version: Some(version)
                    .filter(|version| !version.is_empty())
                    .map(|version| Version(Arc::from(version))),
                read_only,
                attributes: Vec::new(),
            };
            fold.held.push((decode(name)?, stat));
        }
        Some((marker, fold))
    }
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn decode(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    Some(text.into_owned())
}

/// How many things are noted once before no more are noted at all.
const MOST_NOTES: usize = 1000;

/// Says things once each, in bounded memory.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<HashSet<String>>);

impl Notes {
    /// Whether `what` has not been said before.
    pub(super) fn first(&self, what: &str) -> bool {
        let mut said = self.0.lock();
        said.len() < MOST_NOTES && !said.contains(what) && said.insert(what.to_owned())
    }
}

/// How many names of one kind are remembered so that each is counted once, 8 bytes each. More are not counted.
const MOST_HIDDEN: usize = 100_000;

/// Blobs that were met and cannot be shown, by why.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    names: Mutex<BTreeMap<&'static str, HashSet<u64>>>,
    hasher: RandomState,
}

impl Hidden {
    /// Notes a name. `true` for the first one of its kind.
    pub(super) fn note(&self, why: &'static str, name: &str) -> bool {
        let mut names = self.names.lock();
        let first = !names.contains_key(why);
        let names = names.entry(why).or_default();
        if names.len() < MOST_HIDDEN {
            names.insert(self.hasher.hash_one(name));
        }
        first
    }

    /// How many names there were of each kind.
    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        self.names.lock().iter().map(|(why, names)| (*why, names.len() as u64)).collect()
    }
}

/// Why a blob is not shown whose name ends with a slash and which is no marker.
pub(super) const SLASH_AT_END: &str = "a slash at the end of their name and something in them";

/// Why a blob is not shown that has blobs below it.
pub(super) const SHADOWED: &str = "a directory of the same name";

/// Why a name cannot be shown as a directory entry; `None` if it can.
pub(super) fn unshowable(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("empty path components")
    } else if name == "." || name == ".." {
        Some(". or .. in their path")
    } else if name.len() > LONGEST_NAME {
        Some("path components of more than 255 bytes")
    } else if name.contains('\0') || name.contains('/') {
        Some("characters that no file name can hold")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::{Fold, Found, Hidden, Notes, unshowable};
    use crate::store::{Kind, Stat, Version};

    fn file(len: u64) -> Stat {
        Stat {
            kind: Kind::File,
            len,
            allocated: Some(len),
            version: Some(Version("\"0x1 %\"".into())),
            read_only: Some("block blob"),
            modified: Some(std::time::UNIX_EPOCH + std::time::Duration::from_secs(77)),
            ..Stat::directory()
        }
    }

    /// What a service would list of these names in one directory, in its order.
    fn listed(names: &BTreeSet<String>) -> Vec<(String, bool)> {
        let mut all: Vec<(String, bool)> = Vec::new();
        for name in names {
            let item = match name.split_once('/') {
                Some((dir, _)) => (format!("{dir}/"), true),
                None => (name.clone(), false),
            };
            if all.last() != Some(&item) {
                all.push(item);
            }
        }
        all
    }

    proptest! {
        #[test]
        fn every_name_once_and_directories_win(
            names in prop::collection::btree_set("[a\\-.0]{1,3}(/x)?", 0..25),
            page in 1..5usize,
        ) {
            let mut out = Vec::new();
            let mut fold = Fold::default();
            let mut hidden = BTreeSet::new();
            for (count, (name, dir)) in listed(&names).into_iter().enumerate() {
                let found = if dir {
                    Found::Directory(name.trim_end_matches('/'))
                } else {
                    Found::Blob(&name, file(7))
                };
                fold.take(found, &mut out, |name| { hidden.insert(name.to_owned()); });
                if count % page == 0 {
                    let cursor = fold.suspend(&name);
                    let (marker, resumed) = Fold::resume(&cursor).unwrap();
                    prop_assert_eq!(marker, name);
                    fold = resumed;
                }
            }
            fold.finish(&mut out);
            let mut expected = BTreeMap::new();
            for name in &names {
                match name.split_once('/') {
                    Some((dir, _)) => { expected.insert(dir.to_owned(), Kind::Directory); }
                    None => { expected.entry(name.clone()).or_insert(Kind::File); }
                }
            }
            let got: Vec<_> = out.iter().map(|entry| (entry.name.clone(), entry.stat.kind)).collect();
            prop_assert_eq!(got.len(), expected.len());
            prop_assert_eq!(got.into_iter().collect::<BTreeMap<_, _>>(), expected);
            for entry in out.iter().filter(|entry| entry.stat.kind == Kind::File) {
                prop_assert_eq!(&entry.stat, &file(7));
            }
            for name in hidden {
                let below = format!("{name}/x");
                prop_assert!(names.contains(&name) && names.contains(&below));
            }
        }

        #[test]
        fn cursors_from_elsewhere_do_no_harm(text in ".*") {
            let _ = Fold::resume(&crate::store::Cursor(text.into()));
        }
    }

    #[test]
    fn names_that_cannot_be_shown() {
        for bad in ["", ".", "..", "a/b", "a\0", &"ü".repeat(128)] {
            assert!(unshowable(bad).is_some(), "{bad:?}");
        }
        assert!(unshowable(&"x".repeat(255)).is_none());
    }

    #[test]
    fn hidden_names_are_counted_once_each() {
        let hidden = Hidden::default();
        assert!(hidden.note("odd", "a") && !hidden.note("odd", "b") && !hidden.note("odd", "a"));
        assert!(hidden.note("long", "a"));
        assert_eq!(hidden.counts(), [("long", 1), ("odd", 2)]);
    }

    #[test]
    fn notes_are_said_once() {
        let notes = Notes::default();
        assert!(notes.first("a") && !notes.first("a"));
        assert!((0..5000).filter(|n| notes.first(&n.to_string())).count() < 1000);
    }
}
