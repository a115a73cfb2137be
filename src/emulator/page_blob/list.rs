//! List Blobs.
//!
//! Knows the document, its order and its paging. Markers are opaque, may lead to empty pages, and
//! survive the deletion of the blob that they were made at.

use std::ops::Bound;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::access;
use super::clock::http_date;
use super::deletion::RETENTION_DAYS;
use super::error::{self, Failure};
use super::record::{Kind, Properties};
use super::reply::Reply;
use super::request::Call;
use super::storage::{Entry, Storage};
use super::xml::Document;

/// Entries in one answer at most.
const MOST_BLOBS: usize = 5000;

/// First version that encodes names that XML cannot carry.
const ENCODES_NAMES: &str = "2021-02-12";

/// Where a page of a list begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Marker {
    /// Pages so far, as far as it matters for how short the next one is.
    page: usize,
    /// First name, or with `snapshot` the name in whose middle the last page ended.
    name: String,
    snapshot: Option<String>,
}

impl Marker {
    fn encode(&self) -> String {
        let mut text = format!("{}\0{}", self.page, self.name);
        if let Some(snapshot) = &self.snapshot {
            text.push('\0');
            text.push_str(snapshot);
        }
        let text = URL_SAFE_NO_PAD.encode(text);
        format!("2!{}!{text}", text.len())
    }

    fn parse(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix("2!")?.split_once('!')?.1;
        let decoded = String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()?;
        let mut parts = decoded.splitn(3, '\0');
        Some(Self {
            page: parts.next()?.parse().ok()?,
            name: parts.next()?.to_owned(),
            snapshot: parts.next().map(str::to_owned),
        })
    }
}

/// What a list includes beside live blobs.
#[derive(Debug, Clone, Copy, Default)]
struct Include {
    metadata: bool,
    snapshots: bool,
    uncommitted: bool,
    copy: bool,
    deleted: bool,
}

impl Include {
    fn parse(call: &Call) -> Result<Self, Failure> {
        let mut include = Self::default();
        let Some(text) = call.query.filled("include") else {
            return Ok(include);
        };
        for part in text.split(',') {
            match part.trim() {
                "metadata" => include.metadata = true,
                "snapshots" => include.snapshots = true,
                "uncommittedblobs" => include.uncommitted = true,
                "copy" => include.copy = true,
                "deleted" => include.deleted = true,
                // Nothing here is ever versioned, tagged or held.
                "versions"
                | "tags"
                | "immutabilitypolicy"
                | "legalhold"
                | "deletedwithversions" => {}
                _ => return Err(error::invalid_query("include", text)),
            }
        }
        Ok(include)
    }
}

/// List Blobs. With `short`, in pages that are smaller than asked for, and sometimes empty.
pub(super) fn blobs(storage: &Storage, call: &Call, short: bool) -> Result<Reply, Failure> {
    let asked = call.max_results(MOST_BLOBS)?;
    let prefix = call.query.get("prefix").unwrap_or("");
    let delimiter = call.query.filled("delimiter");
    let include = Include::parse(call)?;
    if let (true, Some(delimiter)) = (include.snapshots, delimiter) {
        return Err(error::invalid_query("delimiter", delimiter));
    }
    let marker = match call.query.filled("marker") {
        None => Marker::default(),
        Some(text) => Marker::parse(text).ok_or_else(|| error::invalid_query("marker", text))?,
    };
    let most = match (short, marker.page % 3) {
        (false, _) => asked,
        (true, 1) => 0,
        (true, _) => (asked / 2).clamp(1, 3),
    };
    let now = storage.clock.now_ms();
    let container = access::container(storage, call)?;
    let host = call.header("host")?.unwrap_or("127.0.0.1");
    let endpoint = format!("{}://{host}/{}/", call.scheme(), call.target.account);

    let mut document = Document::new();
    document.begin_with(
        "EnumerationResults",
        &[("ServiceEndpoint", &endpoint), ("ContainerName", call.container())],
    );
    for name in ["prefix", "marker", "maxresults", "delimiter"] {
        let element = match name {
            "prefix" => "Prefix",
            "marker" => "Marker",
            "maxresults" => "MaxResults",
            _ => "Delimiter",
        };
        document.optional(element, call.query.filled(name));
    }
    document.begin("Blobs");

    let mut walk = Walk {
        document,
        include,
        encodes: call.version >= ENCODES_NAMES,
        now,
        left: most,
        full: None,
        page: marker.page + 1,
    };
    let mut from = if *prefix > *marker.name {
        Bound::Included(prefix.to_owned())
    } else {
        Bound::Included(marker.name.clone())
    };
    let mut after = marker.snapshot;
    // Entries are looked at without the map's lock: one that is written to would hold up the rest.
    'pages: loop {
        let batch = batch(&container, &from, prefix);
        let Some(last) = batch.last() else { break };
        from = Bound::Excluded(last.name.clone());
        for entry in batch {
            let rest = &entry.name[prefix.len()..];
            let cut = delimiter.and_then(|d| rest.find(d).map(|at| prefix.len() + at + d.len()));
            if let Some(cut) = cut {
                let group = &entry.name[..cut];
                if !shown(&entry, include) {
                    continue;
                }
                if !walk.group(group) {
                    break 'pages;
                }
                from = Bound::Included(after_prefix(group));
                continue 'pages;
            }
            if !walk.entry(&entry, after.take().as_deref()) {
                break 'pages;
            }
        }
    }
    let mut document = walk.document;
    let next = walk.full.map(|marker| marker.encode());
    document.end().element("NextMarker", next.as_deref().unwrap_or(""));
    Ok(Reply::new(200).xml(document.finish()))
}

/// Entries that are looked at under one lock of the map.
const BATCH: usize = 512;

fn batch(
    container: &super::storage::Container,
    from: &Bound<String>,
    prefix: &str,
) -> Vec<Arc<Entry>> {
    let blobs = container.blobs.read();
    blobs
        .range((from.clone(), Bound::Unbounded))
        .take_while(|item| item.0.starts_with(prefix))
        .take(BATCH)
        .map(|item| Arc::clone(item.1))
        .collect()
}

/// The first text that is behind everything that begins with `prefix`.
fn after_prefix(prefix: &str) -> String {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        let next = (last as u32 + 1..=char::MAX as u32).find_map(char::from_u32);
        if let Some(next) = next {
            characters.push(next);
            break;
        }
    }
    characters.into_iter().collect()
}

fn shown(entry: &Entry, include: Include) -> bool {
    let state = entry.state.read();
    state.live.is_some()
        || (include.snapshots && !state.snapshots.is_empty())
        || (include.uncommitted && !state.uncommitted.is_empty())
        || (include.deleted && state.deleted.is_some())
        || (include.deleted && include.snapshots && !state.deleted_snapshots.is_empty())
}

/// A list that is being written.
#[derive(Debug)]
struct Walk {
    document: Document,
    include: Include,
    encodes: bool,
    now: i64,
    left: usize,
    /// Set when there is no room: where the next page begins.
    full: Option<Marker>,
    page: usize,
}

impl Walk {
    /// Makes room for one more, or says where to go on.
    fn room(&mut self, name: &str, snapshot: Option<&str>) -> bool {
        if self.left == 0 {
            self.full = Some(Marker {
                page: self.page,
                name: name.to_owned(),
                snapshot: snapshot.map(str::to_owned),
            });
            return false;
        }
        self.left -= 1;
        true
    }

    fn group(&mut self, group: &str) -> bool {
        if !self.room(group, None) {
            return false;
        }
        self.document.begin("BlobPrefix");
        self.name(group);
        self.document.end();
        true
    }

    /// Snapshots in order of time, then the blob itself.
    fn entry(&mut self, entry: &Entry, after: Option<&str>) -> bool {
        let state = entry.state.read();
        if self.include.snapshots {
            let deleted = state.deleted_snapshots.iter().filter(|_| self.include.deleted);
            let mut all: Vec<_> = state.snapshots.iter().chain(deleted).collect();
            all.sort_by_key(|(time, _)| *time);
            for (time, version) in all {
                if after.is_some_and(|after| time.as_str() < after) {
                    continue;
                }
                if !self.room(&entry.name, Some(time)) {
                    return false;
                }
                self.blob(&version.props);
            }
        }
        let last = self.include.snapshots.then_some("9");
        if let Some(live) = &state.live {
            if !self.room(&entry.name, last) {
                return false;
            }
            self.blob(&live.props);
        } else if let (true, Some(deleted)) = (self.include.deleted, &state.deleted) {
            if !self.room(&entry.name, last) {
                return false;
            }
            self.blob(&deleted.props);
        } else if self.include.uncommitted && !state.uncommitted.is_empty() {
            if !self.room(&entry.name, last) {
                return false;
            }
            self.document.begin("Blob");
            self.name(&entry.name);
            self.document.begin("Properties");
            self.document.element("Content-Length", "0").element("BlobType", "BlockBlob");
            self.document.end().end();
        }
        true
    }

    fn name(&mut self, name: &str) {
        if self.encodes {
            self.document.name(name);
        } else {
            self.document.element("Name", name);
        }
    }

    fn blob(&mut self, props: &Properties) {
        self.document.begin("Blob");
        self.name(&props.name);
        let document = &mut self.document;
        document
            .optional("Snapshot", props.snapshot.as_deref())
            .optional("Deleted", props.deleted_ms.map(|_| "true"))
            .begin("Properties");
        let content = &props.content;
        document
            .element("Creation-Time", &http_date(props.created_ms))
            .element("Last-Modified", &http_date(props.modified_ms))
            .element("Etag", &props.etag)
            .element("Content-Length", &props.size.to_string())
            .element(
                "Content-Type",
                content.content_type.as_deref().unwrap_or("application/octet-stream"),
            )
            .element("Content-Encoding", content.encoding.as_deref().unwrap_or(""))
            .element("Content-Language", content.language.as_deref().unwrap_or(""))
            .element("Content-MD5", content.md5.as_deref().unwrap_or(""))
            .element("Cache-Control", content.cache_control.as_deref().unwrap_or(""))
            .element("Content-Disposition", content.disposition.as_deref().unwrap_or(""));
        if props.kind == Kind::Page {
            document.element("x-ms-blob-sequence-number", &props.sequence.to_string());
        }
        document.element("BlobType", props.kind.as_str());
        if props.kind == Kind::Block {
            document.element("AccessTier", "Hot").element("AccessTierInferred", "true");
        }
        document.optional("AccessTier", props.tier.as_deref());
        if props.snapshot.is_none() {
            document
                .element("LeaseStatus", props.lease.status(self.now))
                .element("LeaseState", props.lease.state(self.now).as_str())
                .optional("LeaseDuration", props.lease.duration(self.now));
        }
        if let (true, Some(copy)) = (self.include.copy, &props.copy) {
            document
                .element("CopyId", &copy.id)
                .element("CopySource", &copy.source)
                .element("CopyStatus", "success")
                .element("CopyProgress", &format!("{0}/{0}", props.size))
                .element("CopyCompletionTime", &http_date(copy.completed_ms));
        }
        if let Some(at) = props.deleted_ms {
            document
                .element("DeletedTime", &http_date(at))
                .element("RemainingRetentionDays", RETENTION_DAYS);
        }
        document
            .element("ServerEncrypted", "true")
            .optional("CustomerProvidedKeySha256", props.key_sha256.as_deref())
            .optional("EncryptionScope", props.scope.as_deref())
            .end();
        if self.include.metadata {
            document.begin("Metadata");
            for (name, value) in &props.metadata {
                document.element(name, value);
            }
            document.end();
        }
        document.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_go_both_ways() {
        for marker in [
            Marker { page: 3, name: "a/ü b".into(), snapshot: None },
            Marker {
                page: 0,
                name: "x".into(),
                snapshot: Some("2020-10-01T22:57:35.7356785Z".into()),
            },
        ] {
            assert_eq!(Marker::parse(&marker.encode()), Some(marker));
        }
        assert_eq!(Marker::parse("nonsense"), None);
    }

    #[test]
    fn what_follows_a_prefix_is_behind_all_of_it() {
        assert_eq!(after_prefix("a/"), "a0");
        assert_eq!(after_prefix("a\u{10FFFF}"), "b");
        assert_eq!(after_prefix("\u{D7FF}"), "\u{E000}");
    }
}
