//! Answers made wrong by a fault.
//!
//! Knows answers, not why they are to be wrong.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::body::{Break, Content, read_or_zeros};
use super::faults::Action;

/// Makes the bit in the middle of a body of `len` bytes wrong, if it is in `piece`, which begins at `at`.
pub(super) fn bit(piece: &mut [u8], at: usize, len: usize) {
    if let Some(byte) = (len / 2).checked_sub(at).and_then(|index| piece.get_mut(index)) {
        *byte ^= 1;
    }
}

/// Where a body ends before its end, and how.
pub(super) fn breaks(fault: &Action) -> Option<(u64, Break)> {
    match fault {
        Action::Truncate { bytes } => Some((*bytes, Break::Cut)),
        Action::StallBody { bytes } => Some((*bytes, Break::Stall)),
        _ => None,
    }
}

/// Makes an answer wrong, where it has what can be wrong.
pub(super) fn answer(headers: &mut HeaderMap, content: &mut Content, fault: &Action) {
    match fault {
        Action::ShortBody { bytes } => {
            let keep = |len: u64| len.saturating_sub(*bytes);
            match content {
                Content::Bytes(body) | Content::Chunked(body) => {
                    body.truncate(keep(body.len() as u64) as usize);
                }
                Content::File { len, .. } => *len = keep(*len),
                Content::Empty | Content::Length(_) => {}
            }
        }
        Action::LongBody { bytes } => replace(content, |body| {
            body.resize(body.len() + *bytes as usize, 0);
        }),
        Action::Corrupt => replace(content, |body| {
            let len = body.len();
            bit(body, 0, len);
        }),
        Action::WrongContentRange { shift } => {
            let shifted = headers.get("content-range").and_then(|value| {
                let (range, size) = value.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
                let (first, last) = range.split_once('-')?;
                let add = |text: &str| text.parse::<u64>().ok().map(|number| number + shift);
                HeaderValue::from_str(&format!("bytes {}-{}/{size}", add(first)?, add(last)?)).ok()
            });
            if let Some(value) = shifted {
                headers.insert("content-range", value);
            }
        }
        _ => {}
    }
}

/// Changes a body, which is read into memory for that.
fn replace(content: &mut Content, change: impl FnOnce(&mut Vec<u8>)) {
    let mut body = match &*content {
        Content::Bytes(body) | Content::Chunked(body) => body.to_vec(),
        Content::File { file, offset, len, .. } => {
            let mut whole = vec![0; usize::try_from(*len).unwrap_or(0)];
            if let Err(error) = read_or_zeros(file, &mut whole, *offset) {
                log::error!(target: "emulator", "cannot read what is to be spoiled: {error}");
            }
            whole
        }
        Content::Empty | Content::Length(_) => return,
    };
    change(&mut body);
    *content = match &*content {
        Content::Chunked(_) => Content::Chunked(Bytes::from(body)),
        _ => Content::Bytes(Bytes::from(body)),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoiled(fault: &Action) -> (String, Vec<u8>) {
        let mut headers = HeaderMap::new();
        headers.insert("content-range", HeaderValue::from_static("bytes 0-3/512"));
        let mut content = Content::Bytes(Bytes::from_static(b"abcd"));
        answer(&mut headers, &mut content, fault);
        let Content::Bytes(body) = content else { panic!("the body is gone") };
        (headers["content-range"].to_str().unwrap().to_owned(), body.to_vec())
    }

    #[test]
    fn answers_go_wrong_as_asked() {
        let range = "bytes 0-3/512".to_owned();
        assert_eq!(spoiled(&Action::ShortBody { bytes: 1 }), (range.clone(), b"abc".to_vec()));
        assert_eq!(spoiled(&Action::LongBody { bytes: 1 }), (range.clone(), b"abcd\0".to_vec()));
        assert_eq!(spoiled(&Action::Corrupt), (range, b"abbd".to_vec()));
        let (range, body) = spoiled(&Action::WrongContentRange { shift: 512 });
        assert_eq!((range.as_str(), body), ("bytes 512-515/512", b"abcd".to_vec()));
    }
}
