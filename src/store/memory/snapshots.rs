//! Snapshots of the store in memory: copies under names that begin with [`DIR`] and cannot be updated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Content, LIST_PAGE, MemoryStore, Node, SECTOR, fail};
use crate::store::{Change, ChangePage, Cursor, ErrorKind, RemotePath, Result, Stat};

/// The directory that they are in, which no listing shows.
pub(super) const DIR: &str = ".snapshots";

/// Whether a path is in there.
pub(super) fn holds(path: &RemotePath) -> bool {
    path.as_str().split('/').next() == Some(DIR)
}

/// Refuses what would change a snapshot.
pub(super) fn refuse(op: &'static str, path: &RemotePath) -> Result<()> {
    if holds(path) { fail(ErrorKind::ReadOnly, op, path) } else { Ok(()) }
}

/// What is known of a blob at, or directly below, `path`.
pub(super) fn stat(path: &RemotePath, content: &Content) -> Stat {
    Stat { read_only: holds(path).then_some("snapshot"), ..content.stat() }
}

/// Time and blob of a snapshot's path.
fn parts(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix(DIR)?.strip_prefix('/')?.split_once('/')
}

/// Whether a blob has snapshots.
pub(super) fn exist(names: &BTreeMap<String, Node>, path: &RemotePath) -> bool {
    names.keys().filter_map(|name| parts(name)).any(|(_, blob)| blob == path.as_str())
}

impl MemoryStore {
    pub(super) fn take_snapshot(&self, path: &RemotePath) -> Result<RemotePath> {
        refuse("snapshot", path)?;
        let content = match self.shared.node(path) {
            None => return fail(ErrorKind::NotFound, "snapshot", path),
            Some(Node::Directory) => return fail(ErrorKind::IsDirectory, "snapshot", path),
            Some(Node::File(content)) => content,
        };
        let copy = {
            let old = content.lock();
            Content { sectors: old.sectors.clone(), in_flight: Vec::new(), ..*old }
        };
        let time = self.shared.next_version();
        let taken = RemotePath::new(&format!("{DIR}/{time:012}/{path}")).expect("a path");
        let copy = Node::File(Arc::new(Mutex::new(copy)));
        self.shared.names.lock().insert(taken.as_str().to_owned(), copy);
        Ok(taken)
    }

    /// Removes all that was taken at a time; other directories must be empty, and are gone then.
    pub(super) fn remove_snapshots(&self, path: &RemotePath) -> Result<()> {
        let mut names = self.shared.names.lock();
        let prefix = format!("{path}/");
        let below: Vec<String> = names
            .range(prefix.clone()..)
            .map(|(name, _)| name.clone())
            .take_while(|name| name.starts_with(&prefix))
            .collect();
        match path.as_str().split('/').count() {
            1 => fail(ErrorKind::ReadOnly, "remove_dir", path),
            _ if below.is_empty() => fail(ErrorKind::NotFound, "remove_dir", path),
            2 => {
                for name in below {
                    if let Some(Node::File(content)) = names.remove(&name) {
                        content.lock().version = 0;
                    }
                }
                Ok(())
            }
            _ => fail(ErrorKind::NotEmpty, "remove_dir", path),
        }
    }

    pub(super) fn compare(
        &self,
        from: &RemotePath,
        to: &RemotePath,
        cursor: Option<Cursor>,
    ) -> Result<ChangePage> {
        let sectors = |path: &RemotePath| match self.shared.node(path) {
            Some(Node::File(content)) => {
                let content = content.lock();
                Ok((content.sectors.clone(), content.len, content.version))
            }
            Some(Node::Directory) => fail(ErrorKind::IsDirectory, "changes", path),
            None => fail(ErrorKind::NotFound, "changes", path),
        };
        let Some((time, blob)) = parts(from.as_str()) else {
            return fail(ErrorKind::Unsupported, "changes", from);
        };
        let (newer, other) = parts(to.as_str()).map_or((None, to.as_str()), |(t, b)| (Some(t), b));
        if blob != other {
            return fail(ErrorKind::Unsupported, "changes", to);
        }
        if newer.is_some_and(|newer| newer < time) {
            return fail(ErrorKind::InvalidRange, "changes", from);
        }
        let ((old, _, _), (new, len, version)) = (sectors(from)?, sectors(to)?);
        let done = match cursor.as_ref().and_then(|cursor| cursor.0.split_once(' ')) {
            Some((seen, _)) if seen != version.to_string() => {
                return fail(ErrorKind::Stale, "changes", to);
            }
            Some((_, done)) => done.parse().unwrap_or(0),
            None => 0,
        };
        let mut changes: Vec<Change> = Vec::new();
        let touched: BTreeSet<u64> = old.keys().chain(new.keys()).copied().collect();
        for at in touched.into_iter().take_while(|at| at * SECTOR < len) {
            if old.get(&at) == new.get(&at) {
                continue;
            }
            let range = at * SECTOR..((at + 1) * SECTOR).min(len);
            let cleared = !new.contains_key(&at);
            match changes.last_mut() {
                Some(last) if last.range.end == range.start && last.cleared == cleared => {
                    last.range.end = range.end;
                }
                _ => changes.push(Change { range, cleared }),
            }
        }
        let rest = changes.split_off(changes.len().min(done));
        let next = || Cursor(format!("{version} {}", done + LIST_PAGE).into());
        let next = (rest.len() > LIST_PAGE).then(next);
        let changes = rest.into_iter().take(LIST_PAGE).collect();
        Ok(ChangePage { changes, next })
    }
}
