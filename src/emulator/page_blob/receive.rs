//! Request bodies: which there may be, received whole, verified.
//!
//! Knows limits and checksums, not what a body is for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method};
use hyper::body::Incoming;

use super::access;
use super::buffer::LARGEST;
use super::connection::NoAnswer;
use super::error::{self, Failure};
use super::hash::{self, Running};
use super::incoming::{discard, next};
use super::operation::Operation;
use super::pages;
use super::request::{Call, Payload, header};
use super::spoil;
use super::storage::Storage;

/// Largest block blob that is put at once, and largest block: 256 MiB.
const LARGEST_STAGED: u64 = 256 << 20;

/// What body an operation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// There is none; one that comes is an error.
    Empty,
    /// There is none; one that comes is ignored.
    Ignored,
    /// Into memory.
    Memory,
    /// Into a file.
    Staged,
}

fn expected(call: &Call) -> Expected {
    match call.op {
        Operation::PutPage | Operation::AppendBlock | Operation::PutBlockList => Expected::Memory,
        Operation::PutBlob => {
            match call.headers.get("x-ms-blob-type").map(|kind| kind.as_bytes()) {
                Some(b"BlockBlob") => Expected::Staged,
                _ => Expected::Empty,
            }
        }
        Operation::PutBlock => Expected::Staged,
        Operation::ClearPages | Operation::PutPageFromUrl => Expected::Empty,
        _ => Expected::Ignored,
    }
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let Some(text) = header(headers, "content-length")? else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| error::invalid_header("content-length", text))
}

/// Refuses a request whose headers announce a body that cannot be.
pub(super) fn check(call: &Call, method: &Method) -> Result<(), Failure> {
    if method != Method::PUT {
        return Ok(());
    }
    let len = content_length(&call.headers)?.ok_or(error::MISSING_CONTENT_LENGTH)?;
    let limit = match expected(call) {
        Expected::Empty if len > 0 => {
            return Err(error::invalid_header("content-length", &len.to_string()));
        }
        Expected::Empty | Expected::Ignored => return Ok(()),
        Expected::Memory => LARGEST as u64,
        Expected::Staged => LARGEST_STAGED,
    };
    if len > limit {
        return Err(error::REQUEST_BODY_TOO_LARGE.with("MaxLimit", limit.to_string()));
    }
    if call.op == Operation::PutPage {
        let (start, end) = pages::target_range(call)?;
        if end - start > limit {
            return Err(error::REQUEST_BODY_TOO_LARGE.with("MaxLimit", limit.to_string()));
        }
        if end - start != len {
            return Err(error::invalid_header("content-length", &len.to_string()));
        }
    }
    if let Some(md5) = call.header("content-md5")? {
        if STANDARD.decode(md5).map_or(0, |hash| hash.len()) != 16 {
            return Err(error::INVALID_MD5.with("HeaderName", "Content-MD5"));
        }
        if call.headers.contains_key("x-ms-content-crc64") {
            return Err(error::INVALID_INPUT.into());
        }
    }
    if call.headers.contains_key("x-ms-structured-body") {
        // Taken for plain data, the framing would end up in the blob.
        return Err(error::UNSUPPORTED_HEADER.with("HeaderName", "x-ms-structured-body"));
    }
    Ok(())
}

/// Receives the body of a request into its payload, with one bit wrong if `corrupt`. The outer error
/// is the connection's.
pub(super) async fn body(
    storage: &Storage,
    call: &mut Call,
    mut body: Incoming,
    corrupt: bool,
) -> Result<Result<(), Failure>, NoAnswer> {
    let len = content_length(&call.headers).ok().flatten().unwrap_or(0);
    let expected = expected(call);
    let (md5, crc64) = match expected {
        Expected::Empty | Expected::Ignored => {
            discard(&call.headers, body).await;
            return Ok(Ok(()));
        }
        Expected::Memory => {
            let mut buffer = storage.pool.take(len as usize);
            let mut crc = hash::running_crc64();
            let mut at = 0;
            while let Some(bytes) = next(&mut body).await? {
                let end = at + bytes.len();
                buffer.as_mut()[at..end].copy_from_slice(&bytes);
                if corrupt {
                    spoil::bit(&mut buffer.as_mut()[at..end], at, len as usize);
                }
                crc.update(&buffer.as_ref()[at..end]);
                at = end;
            }
            // MD5 costs milliseconds, and is computed only for those who send one.
            let wanted = call.headers.contains_key("content-md5");
            let md5 = wanted.then(|| hash::md5(buffer.as_ref()));
            call.payload = Payload::Memory(buffer);
            (md5, hash::crc64_text(crc.finalize()))
        }
        Expected::Staged => {
            let container = match access::container(storage, call) {
                Ok(container) => container,
                Err(failure) => {
                    discard(&call.headers, body).await;
                    return Ok(Err(failure));
                }
            };
            let mut staged = storage.stage(&container)?;
            let mut hashes = Running::new();
            while let Some(mut bytes) = next(&mut body).await? {
                if corrupt {
                    let mut wrong = bytes.to_vec();
                    spoil::bit(&mut wrong, staged.len() as usize, len as usize);
                    bytes = Bytes::from(wrong);
                }
                staged.append(&bytes)?;
                hashes.update(&bytes);
            }
            let (md5, crc64) = hashes.finish();
            call.payload = Payload::Staged(staged);
            (Some(md5), crc64)
        }
    };
    Ok(verify(call, md5, crc64))
}

fn verify(call: &mut Call, md5: Option<String>, crc64: String) -> Result<(), Failure> {
    if let (Some(given), Some(found)) = (call.header("content-md5")?, &md5)
        && given != found
    {
        return Err(error::MD5_MISMATCH
            .with("UserSpecifiedMd5", given)
            .with("ServerCalculatedMd5", found));
    }
    if let Some(given) = call.header("x-ms-content-crc64")?
        && given != crc64
    {
        return Err(error::CRC64_MISMATCH
            .with("UserSpecifiedCrc64", given)
            .with("ServerCalculatedCrc64", &crc64));
    }
    call.body_md5 = md5;
    call.body_crc64 = Some(crc64);
    Ok(())
}

/// Bytes in a payload.
pub(super) fn len(payload: &Payload) -> u64 {
    match payload {
        Payload::None => 0,
        Payload::Memory(buffer) => buffer.as_ref().len() as u64,
        Payload::Staged(staged) => staged.len(),
    }
}
