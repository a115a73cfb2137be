//! Bytes of blobs and manifests on their way out: ranges, conditions, media types.
//!
//! Knows what is kept and what is asked for, not who asks.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header};
use serde_json::json;

use super::super::body::{Break, Content, read_or_zeros};
use super::super::buffer::Pool;
use super::super::reply::Reply;
use super::digest::Digest;
use super::error::{self, Failure};
use super::manifest;
use super::range::{Wanted, wanted};
use super::storage::Storage;

/// Separates the parts of an answer that has several.
const BOUNDARY: &str = "7c2a3b1f5d9e4806a1b2";

/// A header, where it is there and can be read.
pub(super) fn value(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A part of a file.
pub(super) fn part(file: File, offset: u64, len: u64, pool: &Arc<Pool>) -> Content {
    Content::File { file: Arc::new(file), offset, len, pool: Arc::clone(pool) }
}

/// A blob, or the part of it that is asked for, as docker-registry 2.8.2 answers.
pub(super) fn blob(
    storage: &Storage,
    repository: &str,
    digest: &Digest,
    headers: &HeaderMap,
    pool: &Arc<Pool>,
) -> Result<Reply, Failure> {
    let Some((file, size)) = storage.blob(repository, digest)? else {
        return Err(error::BLOB_UNKNOWN.about(json!(digest.to_string())));
    };
    let etag = format!("\"{digest}\"");
    let stamped = |status| {
        Reply::new(status)
            .header("accept-ranges", "bytes")
            .header("etag", &etag)
            .header("docker-content-digest", digest.to_string())
            .header("cache-control", "max-age=31536000")
    };
    if names(value(headers, header::IF_NONE_MATCH), &etag) {
        return Ok(stamped(304));
    }
    let condition = value(headers, header::IF_RANGE);
    let range = match condition.is_empty() || condition == etag {
        true => value(headers, header::RANGE),
        false => "",
    };
    let stamped = |status| stamped(status).header("content-type", "application/octet-stream");
    let of_part = |start: u64, len: u64| {
        // An empty part ends before it begins; the text says so, nonsense as it is.
        format!("bytes {start}-{}/{size}", i128::from(start) + i128::from(len) - 1)
    };
    let (mut reply, content) = match wanted(range, size) {
        Wanted::Whole => (stamped(200), part(file, 0, size, pool)),
        Wanted::Part(start, len) => {
            let reply = stamped(206).header("content-range", of_part(start, len));
            (reply, part(file, start, len, pool))
        }
        Wanted::Parts(parts) => {
            let body = multipart(&file, &parts, of_part)?;
            let kind = format!("multipart/byteranges; boundary={BOUNDARY}");
            let reply = stamped(206).header("content-type", kind);
            (reply, Content::Bytes(Bytes::from(body)))
        }
        Wanted::Refused(tells_size) => {
            let (text, told) = match tells_size {
                true => ("invalid range: failed to overlap\n", Some(format!("bytes */{size}"))),
                false => ("invalid range\n", None),
            };
            // Measured: the length is that of the blob, and the connection ends where that lie shows.
            let reply = stamped(416)
                .header("content-type", "text/plain; charset=utf-8")
                .header("content-length", size.to_string())
                .optional("content-range", told);
            (reply, Content::Chunked(Bytes::from_static(text.as_bytes())))
        }
    };
    if reply.status == StatusCode::RANGE_NOT_SATISFIABLE {
        // Measured, too: what does not fit into the length is not sent at all.
        let sent = if content.len() <= size { content.len() } else { 0 };
        reply.breaks = (size > 0).then_some((sent, Break::Cut));
    }
    reply.content = content;
    Ok(reply)
}

fn multipart(
    file: &File,
    parts: &[(u64, u64)],
    of_part: impl Fn(u64, u64) -> String,
) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    for (start, len) in parts {
        let head = format!(
            "\r\n--{BOUNDARY}\r\nContent-Range: {}\r\nContent-Type: application/octet-stream\r\n\r\n",
            of_part(*start, *len)
        );
        body.extend_from_slice(head.as_bytes());
        let at = body.len();
        body.resize(at + usize::try_from(*len).unwrap_or(0), 0);
        read_or_zeros(file, &mut body[at..], *start)?;
    }
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    Ok(body)
}

/// A manifest by tag or digest. A range is not heeded.
pub(super) fn manifest(
    storage: &Storage,
    repository: &str,
    reference: &str,
    headers: &HeaderMap,
) -> Result<Reply, Failure> {
    let found = storage.with(repository, |repository| {
        let (digest, manifest) = repository.manifest(reference)?;
        Some((digest, manifest.media_type.clone()))
    });
    let (digest, media_type) = found.flatten().ok_or_else(|| unknown_manifest(reference))?;
    let accepted: Vec<String> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|kind| kind.split(';').next().unwrap_or_default().trim().to_owned())
        .collect();
    if let Some((status, message)) = manifest::refused(&media_type, &accepted) {
        return Err(match status {
            404 => error::MANIFEST_UNKNOWN.saying(message),
            _ => error::MANIFEST_INVALID.saying(message),
        });
    }
    let etag = format!("\"{digest}\"");
    let stamped = |status| {
        Reply::new(status).header("etag", &etag).header("docker-content-digest", digest.to_string())
    };
    if names(value(headers, header::IF_NONE_MATCH), &etag) {
        return Ok(stamped(304));
    }
    let mut reply = stamped(200).header("content-type", media_type);
    reply.content = Content::Bytes(Bytes::from(storage.read(&digest)?));
    Ok(reply)
}

/// The refusal of a manifest that is not there.
pub(super) fn unknown_manifest(reference: &str) -> Failure {
    match reference.contains(':') {
        true => error::MANIFEST_UNKNOWN.about(json!(format!("unknown manifest {reference}"))),
        false => error::MANIFEST_UNKNOWN.about(json!({ "Tag": reference })),
    }
}

/// Whether a list of entity tags names this one.
fn names(list: &str, etag: &str) -> bool {
    list.split(',').any(|item| matches!(item.trim(), "*") || item.trim() == etag)
}
