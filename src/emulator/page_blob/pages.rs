//! Page writes: update, clear, and update from another blob's bytes.
//!
//! Conditions are judged and the write is applied under one lock, so that a raised sequence number
//! fences: what was judged before it is complete before it, and what comes later is refused. Knows
//! nothing of how the body came here.

use super::access::{self, Guards};
use super::buffer::LARGEST;
use super::conditions::SequenceConditions;
use super::error::{self, Failure};
use super::hash;
use super::record::Kind;
use super::reply::Reply;
use super::request::{Call, Range};
use super::storage::Storage;
use super::version::Version;

/// The range that a page write is about, both ends given. `(start, end)` with `end` exclusive.
pub(super) fn target_range(call: &Call) -> Result<(u64, u64), Failure> {
    let range = call.range().map_err(as_page_range)?;
    range.ok_or_else(|| error::missing_header("x-ms-range"))?.pages("x-ms-range")
}

/// A reversed range is an invalid page range here.
fn as_page_range(failure: Failure) -> Failure {
    if failure.code == error::INVALID_RANGE.name {
        error::INVALID_PAGE_RANGE.into()
    } else {
        failure
    }
}

/// Put Page, update.
pub(super) fn update(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    let (start, end) = target_range(call)?;
    let bytes = call.payload.bytes();
    if bytes.len() as u64 != end - start {
        return Err(error::invalid_header("content-length", &bytes.len().to_string()));
    }
    let crc64 = call.body_crc64.as_deref();
    let reply = write(storage, call, start, end, |version| version.data.write(bytes, start))?;
    Ok(match call.body_md5.as_deref() {
        Some(md5) => reply.header("content-md5", md5),
        None => reply.optional("x-ms-content-crc64", crc64),
    })
}

/// Put Page, clear.
pub(super) fn clear(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    let (start, end) = target_range(call)?;
    change(storage, call, end, |version| version.clear(start, end))
}

/// Put Page From URL, once the source has been read.
pub(super) fn update_from(
    storage: &Storage,
    call: &Call,
    (start, end): (u64, u64),
    bytes: &[u8],
) -> Result<Reply, Failure> {
    let reply = write(storage, call, start, end, |version| version.data.write(bytes, start))?;
    Ok(if call.headers.contains_key("x-ms-source-content-md5") {
        reply.header("content-md5", hash::md5(bytes))
    } else {
        reply.header("x-ms-content-crc64", hash::crc64(bytes))
    })
}

/// The two ranges of Put Page From URL: target, and first byte of the source.
pub(super) fn ranges_from_url(call: &Call) -> Result<((u64, u64), u64), Failure> {
    const SOURCE: &str = "x-ms-source-range";
    let target = target_range(call)?;
    let source = Range::parse(SOURCE, call.required(SOURCE)?)?;
    let last = source.last.ok_or_else(|| error::invalid_header(SOURCE, "no end"))?;
    let len = last - source.first + 1;
    if len > LARGEST as u64 || target.1 - target.0 > LARGEST as u64 {
        return Err(error::REQUEST_BODY_TOO_LARGE.into());
    }
    if len != target.1 - target.0 {
        return Err(error::invalid_header(SOURCE, call.required(SOURCE)?));
    }
    Ok((target, source.first))
}

fn write(
    storage: &Storage,
    call: &Call,
    start: u64,
    end: u64,
    act: impl FnOnce(&mut Version) -> std::io::Result<()>,
) -> Result<Reply, Failure> {
    change(storage, call, end, |version| {
        act(version)?;
        version.mark_written(start, end)
    })
}

fn change(
    storage: &Storage,
    call: &Call,
    end: u64,
    act: impl FnOnce(&mut Version) -> std::io::Result<()>,
) -> Result<Reply, Failure> {
    let guards = Guards::of(call)?;
    let sequence = SequenceConditions::parse(&call.headers)?;
    let now = storage.clock.now_ms();
    access::change(storage, call, |container, version| {
        if version.props.kind != Kind::Page {
            return Err(error::INVALID_BLOB_TYPE.into());
        }
        guards.check_write(version, now)?;
        sequence.check(version.props.sequence)?;
        guards.check_key(version)?;
        if end > version.props.size {
            return Err(error::INVALID_PAGE_RANGE.into());
        }
        act(version)?;
        storage.touch(version);
        if version.props.lease.wipe(now) {
            container.save(version)?;
        }
        Ok(guards.echo(Reply::new(201).written(&version.props)))
    })
}
