//! Bodies of requests: read piece by piece, as a short whole, or to be forgotten.
//!
//! Knows bytes, not what a body is for.

use std::pin::Pin;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use hyper::body::Incoming;

use super::connection::NoAnswer;

/// Bytes of a refused body that are still read, so that the client hears why: 64 MiB.
const DISCARDED: u64 = 64 << 20;

/// Longest body that is kept in memory as a whole: 4 MiB.
const SHORT: usize = 4 << 20;

/// Reads a body to its end and forgets it. One that waits to be asked for is not asked for.
pub(super) async fn discard(headers: &HeaderMap, mut body: Incoming) {
    if headers.contains_key("expect") {
        return;
    }
    let mut left = DISCARDED;
    while left > 0
        && let Ok(Some(bytes)) = next(&mut body).await
    {
        left = left.saturating_sub(bytes.len() as u64);
    }
}

/// Reads a body that has every reason to be short: rules, forms, tokens.
pub(super) async fn short(mut body: Incoming) -> Result<Vec<u8>, NoAnswer> {
    let mut whole = Vec::new();
    while let Some(bytes) = next(&mut body).await? {
        if whole.len() + bytes.len() > SHORT {
            return Err(NoAnswer::Reset);
        }
        whole.extend_from_slice(&bytes);
    }
    Ok(whole)
}

/// The next piece of a body; `None` at its end.
pub(super) async fn next(body: &mut Incoming) -> Result<Option<Bytes>, NoAnswer> {
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        match frame.await {
            None => return Ok(None),
            Some(Err(error)) => return Err(NoAnswer::Connection(error)),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}
