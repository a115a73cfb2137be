//! The content of one blob or snapshot: its bytes, and which pages of them are there.
//!
//! Keeps file, page map and page log together. Knows nothing of names, locks or sidecars, which are
//! the storage's.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::data_file::{DataFile, OpenFiles};
use super::ranges::{Change, PageMap};
use super::record::{Kind, Properties};

/// Log entries that a page log may hold beyond what its map needs before it is written anew.
const LOG_SLACK: u64 = 1 << 16;

/// One blob's content with its properties: the blob itself, or one snapshot.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) props: Properties,
    pub(super) data: Arc<DataFile>,
    pub(super) pages: PageMap,
    log: Arc<DataFile>,
    log_len: u64,
    /// The sidecar is behind in ETag and time.
    pub(super) stale: bool,
}

impl Version {
    /// A version without content yet, or before its log is read.
    pub(super) fn new(dir: &Path, props: Properties, open_files: &Arc<OpenFiles>) -> Self {
        let file = |extension: &str| {
            DataFile::new(dir.join(format!("{}.{extension}", props.data)), open_files)
        };
        Self {
            data: file("data"),
            log: file("pages"),
            pages: PageMap::default(),
            log_len: 0,
            stale: false,
            props,
        }
    }

    /// Where the page log is.
    pub(super) fn log_path(&self) -> &Path {
        self.log.path()
    }

    /// Makes the page map what the log says.
    pub(super) fn replay_log(&mut self) -> io::Result<()> {
        let log = match std::fs::read(self.log.path()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        // A torn entry at the end belongs to a write that was never answered.
        let (entries, _) = log.as_chunks::<{ Change::ENCODED }>();
        for change in entries.iter().filter_map(Change::decode) {
            self.pages.apply(change);
        }
        self.log_len = (entries.len() * Change::ENCODED) as u64;
        Ok(())
    }

    /// Records pages as written.
    pub(super) fn mark_written(&mut self, start: u64, end: u64) -> io::Result<()> {
        let change = self.pages.write(start, end, self.props.generation);
        self.append(change.as_slice())
    }

    /// Clears pages, in the file and in the map.
    pub(super) fn clear(&mut self, start: u64, end: u64) -> io::Result<()> {
        self.data.punch(start, end)?;
        let changes = self.pages.clear(start, end, self.props.generation);
        self.append(&changes)
    }

    /// Takes a new size, once the sidecar has it.
    pub(super) fn cut(&mut self, size: u64) -> io::Result<()> {
        self.data.shrink(size)?;
        self.forget_beyond(size)
    }

    /// Forgets pages beyond a size.
    pub(super) fn forget_beyond(&mut self, size: u64) -> io::Result<()> {
        let changes = self.pages.clear(size, u64::MAX, self.props.generation);
        self.append(&changes)
    }

    /// Takes over content and page map of another version.
    pub(super) fn copy_content(&mut self, source: &Self) -> io::Result<()> {
        let size = source.props.size;
        if source.props.kind == Kind::Page {
            self.data.copy_from(&source.data, source.pages.data(0, size))?;
            self.pages = source.pages.clone();
            self.rewrite_log()
        } else {
            self.data.copy_from(&source.data, std::iter::once((0, size)))
        }
    }

    /// As [`Version::copy_content`], for a blob of its own: what is known of changes stays behind.
    pub(super) fn copy_pages(&mut self, source: &Self) -> io::Result<()> {
        let size = source.props.size;
        self.data.copy_from(&source.data, source.pages.data(0, size))?;
        for (start, end) in source.pages.data(0, size) {
            self.pages.write(start, end, 0);
        }
        self.rewrite_log()
    }

    /// Takes the files of another version, which is not used any more.
    pub(super) fn take_content(&mut self, other: &Self) -> io::Result<()> {
        other.data.rename_to(&self.data)?;
        self.pages = other.pages.clone();
        other.log.remove();
        self.rewrite_log()
    }

    /// Removes the files of a version that nothing leads to any more.
    pub(super) fn remove_files(&self) {
        self.data.remove();
        self.log.remove();
    }

    fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let entry = Change::ENCODED as u64;
        if self.log_len > entry * (4 * self.pages.len() as u64 + LOG_SLACK) {
            return self.rewrite_log();
        }
        let bytes: Vec<u8> = changes.iter().flat_map(|change| change.encode()).collect();
        self.log.write(&bytes, self.log_len)?;
        self.log_len += bytes.len() as u64;
        Ok(())
    }

    fn rewrite_log(&mut self) -> io::Result<()> {
        let bytes: Vec<u8> = self.pages.changes().flat_map(Change::encode).collect();
        self.log.replace(&bytes)?;
        self.log_len = bytes.len() as u64;
        Ok(())
    }
}
