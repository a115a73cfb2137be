//! Operations on whole blobs: create, read, describe, snapshot, delete, metadata.
//!
//! Knows what each means for one blob. Page writes, page lists, copies and leases are next door.

use std::sync::Arc;

use bytes::Bytes;

use super::access::{self, Guards};
use super::auth::Identity;
use super::buffer::LARGEST;
use super::clock::{http_date, snapshot_time};
use super::conditions::sequence;
use super::error::{self, Failure, invalid_header};
use super::hash;
use super::record::{ContentHeaders, Kind, Properties};
use super::reply::{Content, Reply};
use super::request::{Call, PAGE, Payload, Range, check_blob_name};
use super::storage::{Container, EntryState, Storage};
use super::version::Version;

/// Largest page blob: 8 TiB.
pub(super) const LARGEST_PAGE_BLOB: u64 = 8 << 40;

/// Put Blob: creates a blob, or replaces one with all it had but its snapshots.
pub(super) fn put(storage: &Storage, mut call: Call) -> Result<Reply, Failure> {
    let payload = std::mem::take(&mut call.payload);
    let guards = Guards::of(&call)?;
    check_blob_name(call.blob())?;
    let now = storage.clock.now_ms();
    let kind = call.required("x-ms-blob-type")?;
    let kind = match kind {
        "PageBlob" => Kind::Page,
        "BlockBlob" => Kind::Block,
        "AppendBlob" => Kind::Append,
        other => return Err(invalid_header("x-ms-blob-type", other)),
    };
    let mut props = fresh(&call, kind, now)?;
    props.key_sha256.clone_from(&guards.encryption.key_sha256);
    props.scope.clone_from(&guards.encryption.scope);
    match kind {
        Kind::Page => {
            props.size = page_blob_size(&call)?
                .ok_or_else(|| error::missing_header("x-ms-blob-content-length"))?;
            props.sequence = sequence(&call.headers, "x-ms-blob-sequence-number")?.unwrap_or(0);
            props.tier = call.header("x-ms-access-tier")?.map(str::to_owned);
        }
        Kind::Block => {
            if let Payload::Staged(staged) = &payload {
                props.size = staged.len();
            }
            props.content.md5 = props.content.md5.or_else(|| call.body_md5.clone());
        }
        Kind::Append => {}
    }
    let container = access::container(storage, &call)?;
    container.with_entry(call.blob(), |state| {
        let props =
            replace(storage, &container, state, &call, &guards, props, |fresh| match payload {
                Payload::Staged(staged) if kind == Kind::Block => staged.adopt(&fresh.data),
                _ => Ok(()),
            })?;
        let reply = guards.echo(Reply::new(201).written(&props));
        Ok(match kind {
            Kind::Block => reply
                .optional("content-md5", call.body_md5.as_deref())
                .optional("x-ms-content-crc64", call.body_crc64.as_deref()),
            _ => reply,
        })
    })
}

/// Properties of a blob that is about to be created by this request.
pub(super) fn fresh(call: &Call, kind: Kind, now: i64) -> Result<Properties, Failure> {
    let mut content = content_headers(call)?;
    if kind != Kind::Page || content.content_type.is_none() {
        // `Content-Type` of the request counts where there is a body that it can be about.
        content.content_type = match content.content_type {
            None => call.header("content-type")?.map(str::to_owned),
            given => given,
        };
    }
    Ok(Properties {
        name: call.blob().to_owned(),
        snapshot: None,
        kind,
        size: 0,
        sequence: 0,
        etag: String::new(),
        modified_ms: now,
        created_ms: now,
        content,
        metadata: call.metadata()?,
        lease: super::lease::Lease::default(),
        generation: 0,
        incarnation: 0,
        key_sha256: None,
        scope: None,
        tier: None,
        copy: None,
        blocks: Vec::new(),
        append_blocks: 0,
        version: None,
        previous: false,
        deleted_ms: None,
        data: String::new(),
    })
}

/// Puts a new version in the place of what was there, if the guards allow. The lease stays.
pub(super) fn replace(
    storage: &Storage,
    container: &Container,
    state: &mut EntryState,
    call: &Call,
    guards: &Guards,
    mut props: Properties,
    fill: impl FnOnce(&mut Version) -> std::io::Result<()>,
) -> Result<Properties, Failure> {
    let now = storage.clock.now_ms();
    if let Some(live) = &mut state.live {
        if guards.conditions.wants_absent() {
            return Err(error::BLOB_ALREADY_EXISTS.into());
        }
        if call.identity == (Identity::Sas { create_only: true }) {
            return Err(error::UNAUTHORIZED_OVERWRITE.into());
        }
        guards.check_write(live, now)?;
        live.props.lease.wipe(now);
        props.lease = live.props.lease.clone();
        // What is created over a blob is a new blob, but for its lease and its snapshots.
        props.created_ms = now;
    } else {
        if guards.conditions.check_write(None).is_err() {
            return Err(error::CONDITION_NOT_MET.into());
        }
        if call.lease_id()?.is_some() {
            return Err(error::LEASE_NOT_PRESENT_BLOB_OP.into());
        }
    }
    let mut version = storage.new_version(container, props);
    storage.touch(&mut version);
    version.props.version = storage.versioning.then(|| snapshot_time(storage.clock.tick()));
    let filled = fill(&mut version).and_then(|()| container.save(&mut version));
    if let Err(error) = filled {
        version.remove_files();
        return Err(error.into());
    }
    let props = version.props.clone();
    state.uncommitted.clear();
    match state.live.replace(version) {
        Some(old) if old.props.version.is_some() => state.keep(container, old)?,
        Some(old) => old.remove_files(),
        None => {}
    }
    if let Some(old) = state.deleted.take() {
        old.remove_files();
    }
    Ok(props)
}

/// `x-ms-blob-content-length`: whole pages, at most 8 TiB.
pub(super) fn page_blob_size(call: &Call) -> Result<Option<u64>, Failure> {
    const NAME: &str = "x-ms-blob-content-length";
    match call.number(NAME)? {
        Some(size) if !size.is_multiple_of(PAGE) || size > LARGEST_PAGE_BLOB => {
            Err(invalid_header(NAME, &size.to_string()))
        }
        size => Ok(size),
    }
}

/// The content headers that a request sets.
pub(super) fn content_headers(call: &Call) -> Result<ContentHeaders, Failure> {
    let get =
        |name| Ok::<_, Failure>(call.header(name)?.filter(|v| !v.is_empty()).map(str::to_owned));
    Ok(ContentHeaders {
        content_type: get("x-ms-blob-content-type")?,
        encoding: get("x-ms-blob-content-encoding")?,
        language: get("x-ms-blob-content-language")?,
        md5: get("x-ms-blob-content-md5")?,
        cache_control: get("x-ms-blob-cache-control")?,
        disposition: get("x-ms-blob-content-disposition")?,
    })
}

/// Get Blob and Get Blob Properties.
pub(super) fn get(storage: &Storage, call: &Call, head: bool) -> Result<Reply, Failure> {
    let guards = Guards::of(call)?;
    let range = if head { None } else { call.range()? };
    let want_md5 = call.flag("x-ms-range-get-content-md5")?;
    let want_crc = call.flag("x-ms-range-get-content-crc64")?;
    if want_md5 && want_crc {
        return Err(error::INVALID_INPUT.into());
    }
    if (want_md5 || want_crc) && !head && range.is_none() {
        return Err(error::missing_header("x-ms-range"));
    }
    if call.headers.contains_key("x-ms-structured-body") {
        return Err(error::UNSUPPORTED_HEADER.with("HeaderName", "x-ms-structured-body"));
    }
    let now = storage.clock.now_ms();
    access::read(storage, call, |version| {
        guards.check_read(version, now)?;
        let size = version.props.size;
        let (first, len) = match range {
            None => (0, size),
            Some(range) => within(range, size)?,
        };
        let partial = range.is_some();
        if (want_md5 || want_crc) && len > LARGEST as u64 {
            return Err(error::OUT_OF_RANGE_INPUT.into());
        }
        let mut reply = describe(Reply::new(if partial { 206 } else { 200 }), &version.props, now);
        if let (Some(md5), false) = (&version.props.content.md5, partial) {
            reply.set("content-md5", md5);
        } else if let Some(md5) = &version.props.content.md5 {
            reply.set("x-ms-blob-content-md5", md5);
        }
        if partial {
            reply.set("content-range", format!("bytes {first}-{}/{size}", first + len - 1));
        }
        if head {
            reply.content = Content::Length(size);
            return Ok(reply);
        }
        // One page write's worth is read at once, so that a reader never sees half of one.
        if len <= LARGEST as u64 {
            let mut buffer = storage.pool.take(len as usize);
            version.data.read(buffer.as_mut(), first)?;
            if want_md5 {
                reply.set("content-md5", hash::md5(buffer.as_ref()));
            }
            if want_crc {
                reply.set("x-ms-content-crc64", hash::crc64(buffer.as_ref()));
            }
            reply.content = Content::Bytes(Bytes::from_owner(buffer));
        } else {
            let (file, pool) = (version.data.open()?, Arc::clone(&storage.pool));
            reply.content = Content::File { file, offset: first, len, pool };
        }
        Ok(reply)
    })
}

/// Clips a range to a blob. `(first, length)`
fn within(range: Range, size: u64) -> Result<(u64, u64), Failure> {
    if range.first >= size {
        let failure = Failure::from(error::INVALID_RANGE);
        return Err(failure.header("content-range", format!("bytes */{size}")));
    }
    let end = range.last.map_or(size, |last| (last + 1).min(size));
    Ok((range.first, end - range.first))
}

/// The headers that say what a blob is.
fn describe(reply: Reply, props: &Properties, now: i64) -> Reply {
    let content = &props.content;
    let lease = &props.lease;
    let mut reply = reply
        .written(props)
        .header("accept-ranges", "bytes")
        .header("x-ms-blob-type", props.kind.as_str())
        .header("x-ms-creation-time", http_date(props.created_ms))
        .header("x-ms-server-encrypted", "true")
        .header(
            "content-type",
            content.content_type.as_deref().unwrap_or("application/octet-stream"),
        )
        .optional("content-encoding", content.encoding.as_deref())
        .optional("content-language", content.language.as_deref())
        .optional("cache-control", content.cache_control.as_deref())
        .optional("content-disposition", content.disposition.as_deref())
        .optional("x-ms-encryption-key-sha256", props.key_sha256.as_deref())
        .optional("x-ms-encryption-scope", props.scope.as_deref())
        .optional("x-ms-access-tier", props.tier.as_deref())
        .metadata(&props.metadata);
    if let Some(version) = &props.version {
        reply = reply.header("x-ms-version-id", version);
        if !props.previous {
            reply = reply.header("x-ms-is-current-version", "true");
        }
    }
    if props.older().is_none() {
        reply = reply
            .header("x-ms-lease-status", lease.status(now))
            .header("x-ms-lease-state", lease.state(now).as_str())
            .optional("x-ms-lease-duration", lease.duration(now));
    }
    if let Some(copy) = &props.copy {
        reply = reply
            .header("x-ms-copy-id", &copy.id)
            .header("x-ms-copy-source", &copy.source)
            .header("x-ms-copy-status", "success")
            .header("x-ms-copy-completion-time", http_date(copy.completed_ms))
            .header("x-ms-copy-progress", format!("{0}/{0}", props.size));
    }
    match props.kind {
        Kind::Append => {
            reply.header("x-ms-blob-committed-block-count", props.append_blocks.to_string())
        }
        Kind::Block => {
            reply.header("x-ms-access-tier", "Hot").header("x-ms-access-tier-inferred", "true")
        }
        Kind::Page => reply,
    }
}

/// Get Blob Metadata.
pub(super) fn get_metadata(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    let guards = Guards::of(call)?;
    let now = storage.clock.now_ms();
    access::read(storage, call, |version| {
        guards.check_read(version, now)?;
        let props = &version.props;
        let reply = Reply::new(200).stamps(&props.etag, props.modified_ms);
        Ok(reply.metadata(&props.metadata))
    })
}

/// Set Blob Metadata: replaces all of it.
pub(super) fn set_metadata(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    let guards = Guards::of(call)?;
    let metadata = call.metadata()?;
    let now = storage.clock.now_ms();
    access::change(storage, call, |container, version| {
        guards.check_write(version, now)?;
        guards.check_key(version)?;
        version.props.lease.wipe(now);
        version.props.metadata = metadata;
        storage.touch(version);
        container.save(version)?;
        let props = &version.props;
        Ok(guards.echo(Reply::new(200).stamps(&props.etag, props.modified_ms)))
    })
}

/// Snapshot Blob.
pub(super) fn snapshot(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    let guards = Guards::of(call)?;
    let metadata = call.metadata()?;
    let now = storage.clock.now_ms();
    if let Some(time) = call.snapshot() {
        return Err(error::invalid_query("snapshot", time));
    }
    let container = access::container(storage, call)?;
    let entry = container.entry(call.blob()).ok_or(error::BLOB_NOT_FOUND)?;
    let mut state = entry.state.write();
    let state = &mut *state;
    let live = state.live.as_mut().ok_or(error::BLOB_NOT_FOUND)?;
    guards.check_lease_read(live, now)?;
    guards.check_key(live)?;
    guards.conditions.check_write(Some(live.props.current()))?;

    let time = snapshot_time(storage.clock.tick());
    let mut props = live.props.clone();
    props.snapshot = Some(time.clone());
    props.version = None;
    props.lease = super::lease::Lease::default();
    let incarnation = props.incarnation;
    let mut copy = storage.new_version(&container, props);
    copy.props.incarnation = incarnation;
    if !metadata.is_empty() {
        copy.props.metadata = metadata;
        storage.touch(&mut copy);
    }
    // What is written from now on is new since this snapshot.
    live.props.generation += 1;
    let done = copy
        .copy_content(live)
        .and_then(|()| container.save(live))
        .and_then(|()| container.save(&mut copy));
    if let Err(error) = done {
        copy.remove_files();
        return Err(error.into());
    }
    let reply = guards
        .echo(Reply::new(201).stamps(&copy.props.etag, copy.props.modified_ms))
        .header("x-ms-snapshot", &time);
    state.snapshots.insert(time, copy);
    Ok(reply)
}
