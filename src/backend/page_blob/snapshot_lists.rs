//! Reading the directories of snapshots and versions.
//!
//! Which times there are nobody tells but a list of all blobs with their snapshots, in which a delimiter is
//! refused: so a directory in here is read by going through the list of everything below it, one page at a
//! time. Times come in the order of blobs there, so they are put in order [`MOST_TIMES`] at a time, each by
//! going through the list once.

use std::collections::BTreeSet;
use std::sync::Arc;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::listing::{Fold, Found, unshowable};
use super::lookup::brief;
use super::older::{Line, Spot, directory_of, taken_at};
use super::store::PageBlobStore;
use super::wire::{BlobPage, Item, Properties};
use crate::store::{Cursor, Error, ErrorKind, Kind, ListEntry, ListPage, Result, Stat};

/// How many times are held while they are put in order: some 4 MiB.
const MOST_TIMES: usize = 16_384;

impl PageBlobStore {
    /// One page of a directory.
    pub(super) async fn list_snapshots(
        &self,
        container: &str,
        spot: &Spot,
        cursor: Option<Cursor>,
    ) -> Result<ListPage> {
        match &spot.place {
            None => self.list_times(spot.line, container, cursor).await,
            Some((time, below)) => {
                self.list_taken(spot.line, container, (time, below), cursor).await
            }
        }
    }

    /// The next times after the one in the cursor. Goes through the whole list.
    async fn list_times(
        &self,
        line: Line,
        container: &str,
        cursor: Option<Cursor>,
    ) -> Result<ListPage> {
        let mut times = Times::after(cursor, MOST_TIMES);
        let mut marker: Option<String> = None;
        loop {
            let page = self.page_below(line, container, "", marker.as_deref()).await?;
            for (name, time, _) in self.taken(line, page.items) {
                if taken_at(&time).is_some() {
                    times.add(time);
                } else if self.notes.first("times") {
                    log::warn!(
                        target: "http",
                        "{container}: {} whose times have another form are not shown, such as {time:?} of \
                         {name:?}",
                        line.included()
                    );
                }
            }
            marker = page.next;
            if marker.is_none() {
                break;
            }
        }
        let (times, next) = times.finish();
        let entry = |time: Box<str>| ListEntry { stat: directory_of(&time), name: time.into() };
        Ok(ListPage { entries: times.into_iter().map(entry).collect(), next })
    }

    /// A page of what was taken at `time` in the directory `below`: whatever one page of the list holds.
    async fn list_taken(
        &self,
        line: Line,
        container: &str,
        (time, below): (&str, &str),
        cursor: Option<Cursor>,
    ) -> Result<ListPage> {
        let dir = if below.is_empty() { String::new() } else { format!("{below}/") };
        let mut position = match &cursor {
            None => Position::default(),
            Some(cursor) => Position::resume(cursor).ok_or_else(|| {
                Error::new(ErrorKind::Other, "List Blobs", &dir, "this cursor is not ours")
            })?,
        };
        let page = self.page_below(line, container, &dir, position.marker.as_deref()).await?;
        let mut entries = Vec::new();
        let skip = self.root.prefix.len() + dir.len();
        for (name, _, found) in self.taken(line, page.items).filter(|(_, at, _)| **at == *time) {
            let rest = &name[skip..];
            let (first, is_below) = match rest.split_once('/') {
                Some((first, _)) => (first, true),
                None => (rest, false),
            };
            if unshowable(first).is_some() || is_below && first == position.last_dir {
                continue;
            }
            let found = if is_below {
                first.clone_into(&mut position.last_dir);
                Found::Directory(first)
            } else if found.is_directory_marker() {
                Found::Blob(first, Stat::directory())
            } else {
                Found::Blob(first, brief(&found))
            };
            position.fold.take(found, &mut entries, |_| {});
        }
        let next = match page.next {
            Some(next) => Some(position.suspend(&next)),
            None => {
                position.fold.finish(&mut entries);
                None
            }
        };
        for ListEntry { stat, .. } in &mut entries {
            match stat.kind {
                Kind::File | Kind::Symlink => stat.read_only = Some(line.word()),
                Kind::Directory => stat.modified = taken_at(time),
            }
        }
        Ok(ListPage { entries, next })
    }

    /// A page of the list of what is below `dir`, which is empty or ends with a slash.
    pub(super) async fn page_below(
        &self,
        line: Line,
        container: &str,
        dir: &str,
        marker: Option<&str>,
    ) -> Result<BlobPage> {
        let only = self.root.only.as_deref().unwrap_or_default();
        let prefix = format!("{}{dir}{only}", self.root.prefix);
        self.rest.list_older(line, container, &prefix, marker, None).await
    }

    /// Those of `line` among `items`: the blob's name, the time, and what is known.
    pub(super) fn taken(
        &self,
        line: Line,
        items: Vec<Item>,
    ) -> impl Iterator<Item = (String, Box<str>, Properties)> {
        items.into_iter().filter_map(move |item| {
            let Item::Blob(name, found) = item else {
                return None;
            };
            let inner = name.strip_prefix(&*self.root.prefix)?;
            let shown = self.root.only.as_deref().is_none_or(|only| only == inner);
            let time = line.time_of(&found).filter(|_| shown)?.into();
            Some((name, time, *found))
        })
    }
}

/// The first so many times after one, put in order.
#[derive(Debug)]
struct Times {
    after: Option<Arc<str>>,
    most: usize,
    kept: BTreeSet<Box<str>>,
    more: bool,
}

impl Times {
    fn after(cursor: Option<Cursor>, most: usize) -> Times {
        let after = cursor.map(|cursor| cursor.0);
        Times { after, most, kept: BTreeSet::new(), more: false }
    }

    fn add(&mut self, time: Box<str>) {
        if self.after.as_ref().is_some_and(|after| *time <= **after) {
            return;
        }
        self.kept.insert(time);
        if self.kept.len() > self.most {
            self.kept.pop_last();
            self.more = true;
        }
    }

    fn finish(self) -> (BTreeSet<Box<str>>, Option<Cursor>) {
        let last = self.kept.last().filter(|_| self.more);
        let next = last.map(|last| Cursor(Arc::from(&**last)));
        (self.kept, next)
    }
}

/// Where reading a directory of a time goes on.
#[derive(Debug, Default)]
struct Position {
    marker: Option<String>,
    /// The directory that was met last; what is below it comes in a row.
    last_dir: String,
    fold: Fold,
}

impl Position {
    fn suspend(self, marker: &str) -> Cursor {
        let last_dir = utf8_percent_encode(&self.last_dir, NON_ALPHANUMERIC);
        Cursor(format!("{last_dir}/{}", self.fold.suspend(marker).0).into())
    }

    fn resume(cursor: &Cursor) -> Option<Position> {
        let (last_dir, rest) = cursor.0.split_once('/')?;
        let last_dir = percent_decode_str(last_dir).decode_utf8().ok()?.into_owned();
        let (marker, fold) = Fold::resume(&Cursor(rest.into()))?;
        Some(Position { marker: Some(marker), last_dir, fold })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{Position, Times};
    use crate::store::Cursor;

    proptest! {
        #[test]
        fn every_time_comes_once_and_in_order(
            met in prop::collection::vec("[a-f]{1,2}", 0..40), most in 1..9usize
        ) {
            let mut told: Vec<Box<str>> = Vec::new();
            let mut cursor = None;
            loop {
                let mut times = Times::after(cursor, most);
                for time in &met {
                    times.add(time.as_str().into());
                    prop_assert!(times.kept.len() <= most);
                }
                let (page, next) = times.finish();
                told.extend(page);
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            let expected: BTreeSet<&str> = met.iter().map(|time| &**time).collect();
            prop_assert_eq!(told.iter().map(|time| &**time).collect::<Vec<_>>(), Vec::from_iter(expected));
        }

        #[test]
        fn cursors_from_elsewhere_do_no_harm(text in ".*") {
            let _ = Position::resume(&Cursor(text.into()));
        }
    }
}
