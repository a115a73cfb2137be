//! Where blobs are sent to be fetched: a second port that serves whoever has a signed address.
//!
//! It is no registry but a store behind one: the address is all the credential there is, `Authorization` is
//! refused, errors are XML, and nothing that it answers names a digest. Knows addresses and bytes.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::Mac;
use http::header::{AUTHORIZATION, RANGE};
use http::request::Parts;
use http::{HeaderName, Method};

use super::super::body::Content;
use super::super::buffer::Pool;
use super::super::clock::{Clock, parse_iso, snapshot_time};
use super::super::guid::new_guid;
use super::super::jwt::mac;
use super::super::query::Query;
use super::super::reply::Reply;
use super::Redirect;
use super::auth::Origin;
use super::content;
use super::digest::Digest;
use super::operation::{Operation, Route};
use super::storage::Storage;

/// Ticks of the clock in a millisecond.
const TICKS_PER_MS: u64 = 10_000;

/// The answer that sends a caller to the second port.
pub(super) fn away(
    (repository, digest): (&str, &Digest),
    origin: &Origin,
    (port, redirect): (u16, &Redirect),
    key: &[u8],
    clock: &Clock,
) -> Reply {
    let lifetime = u64::try_from(redirect.lifetime.as_millis()).unwrap_or(u64::MAX / TICKS_PER_MS);
    let until = snapshot_time(clock.tick().saturating_add(lifetime.saturating_mul(TICKS_PER_MS)));
    let until = format!("{}Z", &until[..19]);
    let host = match origin.host.rsplit_once(':') {
        Some((host, digits)) if digits.bytes().all(|c| c.is_ascii_digit()) => host,
        _ => &origin.host,
    };
    let Digest { algorithm, hex } = digest;
    let path = format!("/docker/registry/v2/blobs/{}/{}/{hex}/data", algorithm.name(), &hex[..2]);
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("se", &until)
        .append_pair("sig", &sign(key, repository, digest, &until))
        .append_pair("sp", "r")
        .append_pair("sr", "b")
        .append_pair("sv", "2018-03-28")
        .append_pair("repository", repository)
        .finish();
    let location = format!("{}://{host}:{port}{path}?{query}", origin.scheme);
    let page =
        format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", location.replace('&', "&amp;"));
    let mut reply = Reply::new(307)
        .header("location", location)
        .header("docker-content-digest", digest.to_string())
        .header("content-type", "text/html; charset=utf-8");
    reply.content = Content::Bytes(Bytes::from(page));
    reply
}

fn sign(key: &[u8], repository: &str, digest: &Digest, until: &str) -> String {
    let text = format!("{repository}\n{digest}\n{until}");
    STANDARD.encode(mac(key, &text).finalize().into_bytes())
}

/// What a request to the second port is about, if it is about anything.
pub(super) fn route(parts: &Parts) -> Option<Route> {
    let rest = parts.uri.path().strip_prefix("/docker/registry/v2/blobs/")?;
    let mut rest = rest.strip_suffix("/data")?.split('/');
    let (algorithm, _, hex) = (rest.next()?, rest.next()?, rest.next()?);
    let digest = Digest::parse(&format!("{algorithm}:{hex}"))?;
    let op = match parts.method {
        Method::GET => Operation::GetBlobData,
        Method::HEAD => Operation::HeadBlobData,
        _ => return None,
    };
    let query = Query::parse(parts.uri.query().unwrap_or(""));
    let repository = query.get("repository").unwrap_or_default().to_owned();
    Some(Route { op, repository, item: digest.to_string() })
}

/// Answers a request to the second port.
pub(super) fn serve(
    route: &Route,
    parts: &Parts,
    redirect: &Redirect,
    key: &[u8],
    (storage, clock, pool): (&Storage, &Clock, &Arc<Pool>),
) -> Reply {
    let query = Query::parse(parts.uri.query().unwrap_or(""));
    let until = query.get("se").unwrap_or_default();
    let Some(digest) = Digest::parse(&route.item) else { return not_found() };
    if parts.headers.contains_key(AUTHORIZATION) {
        let message = "Authentication information is not given in the correct format. Check the value \
                       of Authorization header.";
        return refusal(400, "InvalidAuthenticationInfo", message);
    }
    let signed = query.get("sig") == Some(&sign(key, &route.repository, &digest, until));
    if !signed || parse_iso(until).is_none_or(|until| until <= clock.now_ms()) {
        let message = "Server failed to authenticate the request. Make sure the value of Authorization \
                       header is formed correctly including the signature.";
        return refusal(403, "AuthenticationFailed", message);
    }
    if route.op == Operation::HeadBlobData && redirect.refuse_head {
        let message =
            "This request is not authorized to perform this operation using this permission.";
        return refusal(403, "AuthorizationPermissionMismatch", message);
    }
    let (file, size) = match storage.blob(&route.repository, &digest) {
        Ok(Some(found)) => found,
        Ok(None) => return not_found(),
        Err(error) => {
            log::error!(target: "emulator", "storage failed: {error}");
            return refusal(500, "InternalError", "The server encountered an internal error.");
        }
    };
    let own = content::value(&parts.headers, HeaderName::from_static("x-ms-range"));
    let range = if own.is_empty() { content::value(&parts.headers, RANGE) } else { own };
    let (status, start, len) = match bounds(range) {
        None => (200, 0, size),
        Some((start, _)) if start >= size => {
            let message = "The range specified is invalid for the current size of the resource.";
            return refusal(416, "InvalidRange", message)
                .header("content-range", format!("bytes */{size}"));
        }
        Some((start, last)) => (206, start, last.min(size - 1) - start + 1),
    };
    let mut reply = Reply::new(status)
        .header("accept-ranges", "bytes")
        .header("content-type", "application/octet-stream")
        .header("etag", format!("\"0x8D{}\"", digest.hex[..13].to_uppercase()))
        .header("x-ms-blob-type", "BlockBlob")
        .header("x-ms-request-id", new_guid())
        .header("x-ms-version", "2018-03-28");
    if status == 206 {
        let last = start + len - 1;
        reply.set("content-range", format!("bytes {start}-{last}/{size}"));
    }
    reply.content = content::part(file, start, len, pool);
    reply
}

/// First and last byte of the two forms that such a store knows; all others are not heeded.
fn bounds(range: &str) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    let last = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
    (first <= last).then_some((first, last))
}

/// The answer to an address that leads nowhere.
pub(super) fn not_found() -> Reply {
    refusal(404, "BlobNotFound", "The specified blob does not exist.")
}

fn refusal(status: u16, code: &str, message: &str) -> Reply {
    let mut reply = Reply::new(status)
        .header("content-type", "application/xml")
        .header("x-ms-error-code", code)
        .header("x-ms-request-id", new_guid());
    reply.content = Content::Bytes(Bytes::from(format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )));
    reply
}
