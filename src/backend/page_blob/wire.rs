//! What the Blob service sends: XML documents and headers as plain values.
//!
//! Parsers take any bytes and never panic. This module must not know requests.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::length::{Extent, KEY, Mark};
use super::xml::{Node, walk};

/// What kind of blob one is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BlobType {
    /// Updated in place.
    Page,
    /// Read-only here.
    Block,
    /// Read-only here.
    Append,
    /// Of a kind that no document describes; read-only here.
    Other,
}

impl BlobType {
    fn parse(text: &str) -> BlobType {
        match text {
            "PageBlob" => BlobType::Page,
            "BlockBlob" => BlobType::Block,
            "AppendBlob" => BlobType::Append,
            _ => BlobType::Other,
        }
    }

    /// Why it cannot be written, in words; `None` if it can.
    pub(super) fn read_only(self) -> Option<&'static str> {
        match self {
            BlobType::Page => None,
            BlobType::Block => Some("block blob"),
            BlobType::Append => Some("append blob"),
            BlobType::Other => Some("blob of an unknown type"),
        }
    }
}

/// What is known of one blob.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Properties {
    /// What kind it is.
    pub(super) blob_type: BlobType,
    /// Size in bytes as the service counts.
    pub(super) size: u64,
    /// ETag, quoted as in headers.
    pub(super) etag: Arc<str>,
    /// The sequence number, where it is told: in headers, of page blobs.
    pub(super) sequence: Option<u64>,
    /// Last change, by the second.
    pub(super) modified: Option<SystemTime>,
    /// The time of the snapshot that this is, where a listing tells; `None` for the blob itself.
    pub(super) snapshot: Option<Box<str>>,
    /// The name of the version that this is, likewise.
    pub(super) version: Option<Box<str>>,
    /// Metadata, names in lower case.
    pub(super) metadata: Vec<(String, String)>,
    /// Everything else that is worth showing, by the name it is shown under.
    pub(super) attributes: Vec<(Cow<'static, str>, String)>,
}

impl Default for Properties {
    fn default() -> Properties {
        Properties {
            blob_type: BlobType::Other,
            size: 0,
            etag: Arc::from(""),
            sequence: None,
            modified: None,
            snapshot: None,
            version: None,
            metadata: Vec::new(),
            attributes: Vec::new(),
        }
    }
}

impl Properties {
    /// The value of a metadata key, given in lower case.
    pub(super) fn meta(&self, name: &str) -> Option<&str> {
        let found = self.metadata.iter().find(|(key, _)| key == name)?;
        Some(&found.1)
    }

    /// An attribute by the name it is shown under.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(key, _)| key == name)?;
        Some(&found.1)
    }

    /// Size and mark. Only page blobs have marks.
    pub(super) fn extent(&self) -> Extent {
        let mark = match self.blob_type {
            BlobType::Page => Mark::parse(self.meta(KEY)),
            _ => Mark::Absent,
        };
        Extent { size: self.size, mark }
    }

    /// Whether it stands for a directory, as this and other tools mark them.
    pub(super) fn is_directory_marker(&self) -> bool {
        self.size == 0
            && self.meta(DIRECTORY_KEY).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

/// The metadata key by which Microsoft's tools mark a blob that stands for a directory.
pub(super) const DIRECTORY_KEY: &str = "hdi_isfolder";

/// Header or XML element, and the attribute that it is shown as.
const SHOWN: &[(&str, &str, &str)] = &[
    ("x-ms-blob-type", "BlobType", "blob_type"),
    ("content-length", "Content-Length", "size"),
    ("etag", "Etag", "etag"),
    ("last-modified", "Last-Modified", "last_modified"),
    ("x-ms-creation-time", "Creation-Time", "creation_time"),
    ("content-type", "Content-Type", "content_type"),
    ("content-encoding", "Content-Encoding", "content_encoding"),
    ("content-md5", "Content-MD5", "content_md5"),
    ("cache-control", "Cache-Control", "cache_control"),
    ("x-ms-blob-sequence-number", "x-ms-blob-sequence-number", "sequence_number"),
    ("x-ms-lease-state", "LeaseState", "lease_state"),
    ("x-ms-lease-status", "LeaseStatus", "lease_status"),
    ("x-ms-lease-duration", "LeaseDuration", "lease_duration"),
    ("x-ms-access-tier", "AccessTier", "access_tier"),
    ("x-ms-archive-status", "ArchiveStatus", "archive_status"),
    ("x-ms-server-encrypted", "ServerEncrypted", "server_encrypted"),
    ("x-ms-encryption-scope", "EncryptionScope", "encryption_scope"),
    ("x-ms-encryption-key-sha256", "CustomerProvidedKeySha256", "encryption_key_sha256"),
    ("x-ms-copy-status", "CopyStatus", "copy_status"),
];

/// One entry of a listing.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Item {
    /// A blob by its full name.
    Blob(String, Box<Properties>),
    /// A common prefix of names, with its delimiter.
    Prefix(String),
}

impl Item {
    /// The full name.
    pub(super) fn name(&self) -> &str {
        match self {
            Item::Blob(name, _) | Item::Prefix(name) => name,
        }
    }
}

/// One page of a listing of blobs.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct BlobPage {
    /// Blobs and prefixes in the order of their names.
    pub(super) items: Vec<Item>,
    /// Where to go on.
    pub(super) next: Option<String>,
}

/// Reads a page of List Blobs. Attributes are kept if `attributes`.
///
/// Errors: what is wrong with the document, in words.
pub(super) fn parse_blobs(body: &[u8], attributes: bool) -> Result<BlobPage, String> {
    let mut page = BlobPage::default();
    let mut name: Option<String> = None;
    let mut found = Properties::default();
    let mut seen_type = false;
    let mut is_current = false;
    let mut fault = None;
    walk(body, |path, node| {
        let tail = path.get(1..).unwrap_or_default();
        let mut parts = [""; 4];
        if tail.is_empty() || tail.len() > parts.len() {
            return;
        }
        for (part, name) in parts.iter_mut().zip(tail) {
            *part = name;
        }
        let (text, encoded) = match node {
            Node::Open => {
                if parts[..2] == ["Blobs", "Blob"] && tail.len() == 2 {
                    (name, found, seen_type) = (None, Properties::default(), false);
                    is_current = false;
                } else if parts[..2] == ["Blobs", "BlobPrefix"] && tail.len() == 2 {
                    name = None;
                }
                return;
            }
            Node::Close { text, encoded } => (text, encoded),
        };
        match parts {
            ["NextMarker", "", "", ""] => {
                page.next = Some(text.to_owned()).filter(|t| !t.is_empty())
            }
            ["Blobs", "Blob" | "BlobPrefix", "Name", ""] => match decode(text, encoded) {
                Some(text) => name = Some(text),
                None => fault = Some("a name in it is not UTF-8"),
            },
            ["Blobs", "BlobPrefix", "", ""] => match name.take() {
                Some(name) => page.items.push(Item::Prefix(name)),
                None => fault = Some("a prefix in it has no name"),
            },
            ["Blobs", "Blob", "Snapshot", ""] if !text.is_empty() => {
                found.snapshot = Some(text.into());
            }
            ["Blobs", "Blob", "VersionId", ""] if !text.is_empty() => {
                found.version = Some(text.into());
            }
            ["Blobs", "Blob", "IsCurrentVersion", ""] => is_current = text == "true",
            ["Blobs", "Blob", "Properties", key] if !key.is_empty() => {
                seen_type |= key == "BlobType";
                if !property(&mut found, key, text, attributes) {
                    fault = Some("a size in it is no number");
                }
            }
            ["Blobs", "Blob", "Metadata", key] if !key.is_empty() => {
                found.metadata.push((key.to_ascii_lowercase(), text.to_owned()));
            }
            ["Blobs", "Blob", "", ""] => match name.take() {
                Some(name) if seen_type => {
                    let mut found = std::mem::take(&mut found);
                    found.version.take_if(|_| is_current);
                    page.items.push(Item::Blob(name, Box::new(found)));
                }
                Some(_) => fault = Some("a blob in it has no type"),
                None => fault = Some("a blob in it has no name"),
            },
            _ => {}
        }
    })?;
    if let Some(fault) = fault {
        return Err(fault.to_owned());
    }
    // Some servers give all blobs of a page and then all prefixes.
    if !page.items.is_sorted_by(|a, b| a.name() <= b.name()) {
        page.items.sort_by(|a, b| a.name().cmp(b.name()));
    }
    Ok(page)
}

/// Takes one property of a blob; whether it made sense.
fn property(found: &mut Properties, key: &str, text: &str, attributes: bool) -> bool {
    match key {
        "BlobType" => found.blob_type = BlobType::parse(text),
        "Content-Length" => match text.parse() {
            Ok(size) => found.size = size,
            Err(_) => return false,
        },
        // Unquoted here, quoted in headers.
        "Etag" if text.starts_with('"') => found.etag = Arc::from(text),
        "Etag" => found.etag = Arc::from(format!("\"{text}\"")),
        "Last-Modified" => found.modified = httpdate::parse_http_date(text).ok(),
        _ => {}
    }
    if attributes
        && !text.is_empty()
        && let Some((_, _, shown)) = SHOWN.iter().find(|row| row.1 == key)
    {
        let value = if key == "Etag" { found.etag.to_string() } else { text.to_owned() };
        found.attributes.push((Cow::Borrowed(shown), value));
    }
    true
}

/// Undoes the percent-encoding of names that XML cannot carry.
fn decode(text: &str, encoded: bool) -> Option<String> {
    if !encoded {
        return Some(text.to_owned());
    }
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// One page of a listing of containers: names, and where to go on.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct ContainerPage {
    /// Names and last changes.
    pub(super) containers: Vec<(String, Option<SystemTime>)>,
    /// Where to go on.
    pub(super) next: Option<String>,
}

/// Reads a page of List Containers.
///
/// Errors: what is wrong with the document, in words.
pub(super) fn parse_containers(body: &[u8]) -> Result<ContainerPage, String> {
    let mut page = ContainerPage::default();
    let mut name = String::new();
    let mut modified = None;
    walk(body, |path, node| {
        let Node::Close { text, .. } = node else {
            return;
        };
        let tail = path.iter().skip(1).map(|name| &**name);
        if tail.clone().eq(["NextMarker"]) {
            page.next = Some(text.to_owned()).filter(|text| !text.is_empty());
        } else if tail.clone().eq(["Containers", "Container", "Name"]) {
            text.clone_into(&mut name);
        } else if tail.clone().eq(["Containers", "Container", "Properties", "Last-Modified"]) {
            modified = httpdate::parse_http_date(text).ok();
        } else if tail.eq(["Containers", "Container"]) && !name.is_empty() {
            page.containers.push((std::mem::take(&mut name), modified.take()));
        }
    })?;
    Ok(page)
}

/// One page of Get Page Ranges.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct RangePage {
    /// Ranges with data, as they came.
    pub(super) ranges: Vec<Range<u64>>,
    /// Ranges that were cleared since the snapshot that was compared with, as they came.
    pub(super) cleared: Vec<Range<u64>>,
    /// Where to go on.
    pub(super) next: Option<String>,
}

/// Reads a page of Get Page Ranges.
///
/// Errors: what is wrong with the document, in words.
pub(super) fn parse_ranges(body: &[u8]) -> Result<RangePage, String> {
    let mut page = RangePage::default();
    let (mut start, mut end) = (None, None);
    let mut sound = true;
    walk(body, |path, node| {
        let Node::Close { text, .. } = node else {
            return;
        };
        let (kind, part) = match path {
            [_, kind, part] => (&**kind, &**part),
            [_, kind] => (&**kind, ""),
            _ => return,
        };
        let found = match kind {
            "NextMarker" => {
                page.next = Some(text.to_owned()).filter(|text| !text.is_empty());
                return;
            }
            "PageRange" => &mut page.ranges,
            "ClearRange" => &mut page.cleared,
            _ => return,
        };
        match part {
            "Start" => start = text.trim().parse::<u64>().ok(),
            "End" => end = text.trim().parse::<u64>().ok(),
            "" => match (start.take(), end.take().and_then(|end| end.checked_add(1))) {
                (Some(start), Some(end)) if start < end => found.push(start..end),
                _ => sound = false,
            },
            _ => {}
        }
    })?;
    if sound { Ok(page) } else { Err("a range in it makes no sense".to_owned()) }
}

/// Code and message of an error document; `None` if it is none.
pub(super) fn parse_error(body: &[u8]) -> Option<(String, String)> {
    let (mut code, mut message) = (None, String::new());
    walk(body, |path, node| {
        let Node::Close { text, .. } = node else {
            return;
        };
        let tail = path.iter().map(|name| &**name);
        if tail.clone().eq(["Error", "Code"]) {
            code = Some(text.to_owned()).filter(|text| !text.is_empty());
        } else if tail.eq(["Error", "Message"]) {
            text.clone_into(&mut message);
        }
    })
    .ok()?;
    Some((code?, message))
}

/// Metadata headers begin with this.
pub(super) const META: &str = "x-ms-meta-";

/// Reads the headers of Get Blob Properties.
///
/// Errors: what is missing, in words.
pub(super) fn parse_head(headers: &HeaderMap) -> Result<Properties, String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let size = text("content-length")
        .and_then(|text| text.parse().ok())
        .ok_or("it has no Content-Length")?;
    let mut found = Properties {
        blob_type: BlobType::parse(text("x-ms-blob-type").ok_or("it has no x-ms-blob-type")?),
        size,
        etag: Arc::from(text("etag").ok_or("it has no ETag")?),
        sequence: text("x-ms-blob-sequence-number").and_then(|text| text.parse().ok()),
        modified: text("last-modified").and_then(|text| httpdate::parse_http_date(text).ok()),
        ..Properties::default()
    };
    for (header, _, shown) in SHOWN {
        if let Some(value) = text(header) {
            found.attributes.push((Cow::Borrowed(shown), value.to_owned()));
        }
    }
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix(META) {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            found.metadata.push((name.to_owned(), value));
        }
    }
    Ok(found)
}

/// The metadata headers of an answer, to be sent again as they are.
pub(super) fn metadata_headers(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with(META))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
