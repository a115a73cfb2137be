//! What is kept of a blob and of a container beside the bytes: plain data, stored as JSON sidecars.
//!
//! A sidecar is replaced by a rename, so that after a kill there is the old one or the new one. Knows
//! the file formats, not the operations.

use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::conditions::Current;
use super::lease::Lease;

/// The three kinds of blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Page,
    Block,
    Append,
}

impl Kind {
    /// As `x-ms-blob-type` spells it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Page => "PageBlob",
            Self::Block => "BlockBlob",
            Self::Append => "AppendBlob",
        }
    }
}

/// The content headers that are kept with a blob.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ContentHeaders {
    pub(super) content_type: Option<String>,
    pub(super) encoding: Option<String>,
    pub(super) language: Option<String>,
    pub(super) md5: Option<String>,
    pub(super) cache_control: Option<String>,
    pub(super) disposition: Option<String>,
}

/// A committed block of a block blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Block {
    pub(super) id: String,
    pub(super) size: u64,
}

/// Where a blob was copied from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopyInfo {
    pub(super) id: String,
    pub(super) source: String,
    pub(super) completed_ms: i64,
}

/// Everything about one blob or snapshot but its bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Properties {
    pub(super) name: String,
    pub(super) snapshot: Option<String>,
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) sequence: u64,
    /// Without quotes.
    pub(super) etag: String,
    pub(super) modified_ms: i64,
    pub(super) created_ms: i64,
    pub(super) content: ContentHeaders,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) lease: Lease,
    /// How many snapshots were taken of this content.
    pub(super) generation: u32,
    /// Differs after Put Blob and Copy Blob: page differences do not reach across.
    pub(super) incarnation: u64,
    pub(super) key_sha256: Option<String>,
    pub(super) scope: Option<String>,
    pub(super) tier: Option<String>,
    pub(super) copy: Option<CopyInfo>,
    pub(super) blocks: Vec<Block>,
    pub(super) append_blocks: u32,
    /// The name of this version, where versions are kept.
    #[serde(default)]
    pub(super) version: Option<String>,
    /// It is not the blob any more, but one of its versions.
    #[serde(default)]
    pub(super) previous: bool,
    /// Set once it was deleted softly.
    #[serde(default)]
    pub(super) deleted_ms: Option<i64>,
    /// Name of the data file without its extension.
    pub(super) data: String,
}

impl Properties {
    /// What tells it from others of its name; the blob itself has none.
    pub(super) fn older(&self) -> Option<&str> {
        let version = self.version.as_deref().filter(|_| self.previous);
        self.snapshot.as_deref().or(version)
    }

    pub(super) fn current(&self) -> Current<'_> {
        Current { etag: &self.etag, modified_ms: self.modified_ms }
    }
}

/// Who may read a container without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Public {
    /// Blobs whose name is known.
    Blob,
    /// Also the list of them.
    Container,
}

impl Public {
    /// As `x-ms-blob-public-access` spells it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Container => "container",
        }
    }
}

/// Everything about a container but its blobs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ContainerInfo {
    pub(super) name: String,
    pub(super) etag: String,
    pub(super) modified_ms: i64,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) public: Option<Public>,
    pub(super) lease: Lease,
    /// Set while it goes away; never stored.
    #[serde(skip)]
    pub(super) deleted: bool,
}

/// Replaces a sidecar.
pub(super) fn save<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(record).map_err(io::Error::other)?;
    let fresh = path.with_extension("json.new");
    std::fs::write(&fresh, bytes)?;
    std::fs::rename(&fresh, path)
}

/// Reads a sidecar.
pub(super) fn load<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let bytes = std::fs::read(path)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}
