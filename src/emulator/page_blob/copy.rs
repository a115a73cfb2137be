//! Sources of copies: Copy Blob and Put Page From URL.
//!
//! A source is another blob of this server, named by a URL and authorised for itself: by a SAS in the
//! URL, by a token, or by being public. Knows nothing of connections: there is no request to the
//! source, it is read in place.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method};

use super::access::{self, Guards};
use super::auth::{Authority, Identity, Presented};
use super::buffer::Buffer;
use super::conditions::Conditions;
use super::error::{self, Failure, invalid_header};
use super::hash;
use super::operation::Operation;
use super::pages;
use super::record::{CopyInfo, Kind};
use super::reply::Reply;
use super::request::{Call, Query, Target, check_blob_name};
use super::storage::{Container, Entry, Storage};

const SOURCE: &str = "x-ms-copy-source";

/// Longest source URL: 2 KiB.
const LONGEST_URL: usize = 2048;

/// A blob that is copied from.
#[derive(Debug)]
struct Source {
    url: String,
    target: Target,
    snapshot: Option<String>,
    /// Set where the blob is there.
    entry: Arc<Entry>,
    _container: Arc<Container>,
}

/// Finds the source that a request names, if the request may read it.
fn find(
    storage: &Storage,
    authority: &Authority,
    port: u16,
    call: &Call,
    same_account_is_enough: bool,
) -> Result<Source, Failure> {
    let url = call.required(SOURCE)?;
    let bad = || invalid_header(SOURCE, strip_query(url));
    if url.len() > LONGEST_URL {
        return Err(bad());
    }
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let (host, path) = rest.and_then(|rest| rest.split_once('/')).ok_or_else(bad)?;
    let (path, raw_query) = path.split_once('?').unwrap_or((path, ""));
    // Any name of this host will do, as long as the port is the server's own.
    let own_host = call.headers.get("host").is_some_and(|own| own.as_bytes() == host.as_bytes());
    if !own_host && !host.ends_with(&format!(":{port}")) {
        return Err(unverified(&error::RESOURCE_NOT_FOUND.into()));
    }
    let query = Query::parse(raw_query);
    let raw_path = format!("/{path}");
    let target = Target::parse(&raw_path, &query)?;
    if target.blob.is_none() {
        return Err(bad());
    }
    // The service asks in the caller's version, and so is told plainly when it may not read.
    let mut headers = HeaderMap::new();
    headers.insert("x-ms-version", HeaderValue::from_static(call.version));
    if let Some(value) = call.headers.get("x-ms-copy-source-authorization") {
        let bearer = value.as_bytes().get(..7).is_some_and(|s| s.eq_ignore_ascii_case(b"bearer "));
        if !bearer {
            return Err(invalid_header("x-ms-copy-source-authorization", ""));
        }
        headers.insert("authorization", value.clone());
    }
    let trusted = same_account_is_enough
        && target.account == call.target.account
        && matches!(call.identity, Identity::SharedKey | Identity::Bearer);
    if !(trusted && !headers.contains_key("authorization") && query.get("sig").is_none()) {
        let asked = Presented {
            op: Operation::GetBlob,
            method: &Method::GET,
            raw_path: &raw_path,
            target: &target,
            query: &query,
            headers: &headers,
            secure: url.starts_with("https:"),
        };
        let public = || {
            let name = target.container.as_deref()?;
            let container = access::find_container(storage, &target.account, name)?;
            container.info.read().public
        };
        authority
            .authorize(asked, &storage.clock, public)
            .map_err(|failure| unverified(&failure))?;
    }
    let name = target.container.as_deref().unwrap_or_default();
    let container = access::find_container(storage, &target.account, name)
        .ok_or_else(|| unverified(&error::CONTAINER_NOT_FOUND.into()))?;
    let entry = container
        .entry(target.blob.as_deref().unwrap_or_default())
        .ok_or_else(|| unverified(&error::BLOB_NOT_FOUND.into()))?;
    Ok(Source {
        url: strip_query(url).to_owned(),
        snapshot: query.filled("snapshot").map(str::to_owned),
        target,
        entry,
        _container: container,
    })
}

/// A URL without what may be a secret.
fn strip_query(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

/// What a failure at the source looks like at the target: its status, under another code.
pub(super) fn unverified(source: &Failure) -> Failure {
    let mut failure = Failure::from(error::CANNOT_VERIFY_COPY_SOURCE);
    failure.status = source.status;
    failure.message = source.message.clone();
    failure
        .with("CopySourceStatusCode", source.status.as_u16().to_string())
        .with("CopySourceErrorCode", source.code.clone())
        .with("CopySourceErrorMessage", source.message.clone())
        .header("x-ms-copy-source-status-code", source.status.as_u16().to_string())
        .header("x-ms-copy-source-error-code", source.code.clone())
}

/// Put Page From URL.
pub(super) fn page_from_url(
    storage: &Storage,
    authority: &Authority,
    port: u16,
    call: &Call,
) -> Result<Reply, Failure> {
    let (target, first) = pages::ranges_from_url(call)?;
    let source_conditions = Conditions::of_source(&call.headers)?;
    let md5 = call.header("x-ms-source-content-md5")?;
    let crc64 = call.header("x-ms-source-content-crc64")?;
    if md5.is_some() && crc64.is_some() {
        return Err(error::INVALID_INPUT.into());
    }
    // The target is judged before the source is fetched, and again when the page is written.
    Guards::of(call)?;
    access::change(storage, call, |_, version| match version.props.kind {
        Kind::Page => Ok(()),
        _ => Err(error::INVALID_BLOB_TYPE.into()),
    })?;
    let source = find(storage, authority, port, call, false)?;
    let len = target.1 - target.0;
    let bytes = read_source(storage, &source, &source_conditions, first, len)?;
    if let Some(expected) = md5
        && hash::md5(bytes.as_ref()) != expected
    {
        return Err(error::MD5_MISMATCH.into());
    }
    if let Some(expected) = crc64
        && hash::crc64(bytes.as_ref()) != expected
    {
        return Err(error::CRC64_MISMATCH.into());
    }
    pages::update_from(storage, call, target, bytes.as_ref())
}

fn read_source(
    storage: &Storage,
    source: &Source,
    conditions: &Conditions,
    first: u64,
    len: u64,
) -> Result<Buffer, Failure> {
    let state = source.entry.state.read();
    let version =
        access::pick(&state, source.snapshot.as_deref()).map_err(|failure| unverified(&failure))?;
    if version.props.key_sha256.is_some() {
        return Err(unverified(&error::BLOB_USES_CUSTOMER_KEY.into()));
    }
    conditions
        .check_write(Some(version.props.current()))
        .map_err(|_| Failure::from(error::SOURCE_CONDITION_NOT_MET))?;
    if first + len > version.props.size {
        return Err(unverified(&error::INVALID_RANGE.into()));
    }
    let mut bytes = storage.pool.take(len as usize);
    version.data.read(bytes.as_mut(), first)?;
    Ok(bytes)
}

/// Copy Blob: whole, at once, within this server.
pub(super) fn blob(
    storage: &Storage,
    authority: &Authority,
    port: u16,
    call: &Call,
) -> Result<Reply, Failure> {
    check_blob_name(call.blob())?;
    if call.headers.contains_key("x-ms-encryption-key") {
        return Err(error::UNSUPPORTED_HEADER.with("HeaderName", "x-ms-encryption-key"));
    }
    let guards = Guards::of(call)?;
    let source_conditions = Conditions::of_source(&call.headers)?;
    let metadata = call.metadata()?;
    let container = access::container(storage, call)?;
    let source = find(storage, authority, port, call, true)?;
    let now = storage.clock.now_ms();
    let copy_id = super::guid::new_guid();

    // A copy of a snapshot onto its own blob is the usual way to restore it: one entry, one lock.
    // Otherwise the source is frozen into a file of the target's first, so that two locks are never
    // held together.
    let frozen = {
        let state = source.entry.state.read();
        let version = access::pick(&state, source.snapshot.as_deref())
            .map_err(|failure| unverified(&failure))?;
        source_conditions
            .check_write(Some(version.props.current()))
            .map_err(|_| Failure::from(error::SOURCE_CONDITION_NOT_MET))?;
        if version.props.key_sha256.is_some() {
            return Err(unverified(&error::BLOB_USES_CUSTOMER_KEY.into()));
        }
        let mut props = version.props.clone();
        call.blob().clone_into(&mut props.name);
        props.snapshot = None;
        let mut frozen = storage.new_version(&container, props);
        let copied = match version.props.kind {
            Kind::Page => frozen.copy_pages(version),
            Kind::Block | Kind::Append => frozen.copy_content(version),
        };
        if let Err(error) = copied {
            frozen.remove_files();
            return Err(error.into());
        }
        frozen
    };
    let mut props = frozen.props.clone();
    props.lease = super::lease::Lease::default();
    props.created_ms = now;
    props.generation = 0;
    props.copy =
        Some(CopyInfo { id: copy_id.clone(), source: source.url.clone(), completed_ms: now });
    if !metadata.is_empty() {
        props.metadata = metadata;
    }
    log::debug!(target: "emulator", "copy from {:?}", source.target.blob);
    let done = container.with_entry(call.blob(), |state| {
        if let Some(live) = &state.live
            && live.props.kind != props.kind
        {
            return Err(error::INVALID_BLOB_TYPE.into());
        }
        super::blob::replace(storage, &container, state, call, &guards, props, |fresh| {
            fresh.take_content(&frozen)
        })
    });
    match done {
        Ok(props) => Ok(Reply::new(202)
            .stamps(&props.etag, props.modified_ms)
            .header("x-ms-copy-id", copy_id)
            .header("x-ms-copy-status", "success")),
        Err(failure) => {
            frozen.remove_files();
            Err(failure)
        }
    }
}

/// Abort Copy Blob. Copies are complete when they are answered.
pub(super) fn abort(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    access::change(storage, call, |_, _| Err(error::NO_PENDING_COPY.into()))
}
