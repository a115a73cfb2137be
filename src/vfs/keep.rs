//! Keeping what could not be sent: a recovery file for each file whose dirty sectors would be lost.

use std::path::PathBuf;
use std::sync::Arc;

use super::Vfs;
use crate::io::file::File;
use crate::io::recovery::{Origin, Recovery};
use crate::store::RemotePath;

/// Where recovery files go, and what they say of where they come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keep {
    /// The directory; made when it is needed.
    pub dir: PathBuf,
    /// The source as it is mounted, without secrets.
    pub source: String,
}

impl Vfs {
    /// Keeps what is not in the service of every file, at the end of a mount. The files written, in the
    /// order of their names, and whether that was all there was.
    pub fn keep_unflushed(&self, reason: &str) -> (Vec<PathBuf>, bool) {
        let mut kept = Vec::new();
        let mut complete = true;
        for (path, file) in self.inodes.unflushed_files() {
            match self.keep(&path, &file, reason) {
                Some(name) => kept.push(name),
                None => complete = false,
            }
        }
        (kept, complete)
    }

    /// Keeps what of one file is not in the service. `None` if that is nothing, or cannot be kept, which
    /// is logged.
    pub(super) fn keep(
        &self,
        path: &RemotePath,
        file: &Arc<File>,
        reason: &str,
    ) -> Option<PathBuf> {
        let keep = self.config.keep.as_ref()?;
        let extents = file.unsent();
        if extents.is_empty() {
            return None;
        }
        let origin = Origin {
            source: keep.source.clone(),
            path: path.to_string(),
            version: file.blob().version().0.to_string(),
            reason: reason.to_owned(),
            len: file.len(),
        };
        let recovery = Recovery { origin, extents };
        match recovery.save(&keep.dir) {
            Ok(name) => {
                let bytes = recovery.bytes();
                log::error!(
                    target: "vfs",
                    "{path}: {bytes} bytes are kept in {}; see blobdir recover",
                    name.display()
                );
                Some(name)
            }
            Err(error) => {
                log::error!(target: "vfs", "{path}: cannot be kept in {}: {error}", keep.dir.display());
                None
            }
        }
    }
}
