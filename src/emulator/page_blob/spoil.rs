//! Answers made wrong by a fault.
//!
//! Knows answers, not why they are to be wrong.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::data_file::read_or_zeros;
use super::error::{self, Failure};
use super::faults::Action;
use super::reply::{Content, Reply};

/// A refusal with any status.
pub(super) fn failure(status: u16, code: Option<&str>) -> Failure {
    let usual = match status {
        401 => error::INVALID_AUTHENTICATION_INFO,
        403 => error::AUTHENTICATION_FAILED,
        404 => error::BLOB_NOT_FOUND,
        409 => error::LEASE_ALREADY_PRESENT,
        412 => error::CONDITION_NOT_MET,
        416 => error::INVALID_RANGE,
        429 => error::TOO_MANY_REQUESTS,
        503 => error::SERVER_BUSY,
        _ => error::INTERNAL_ERROR,
    };
    let mut failure = match code.and_then(error::by_name) {
        Some(known) => Failure::from(known),
        None => Failure::from(usual),
    };
    if let Some(code) = code {
        failure.code = code.to_owned().into();
    }
    failure.status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    failure
}

/// Makes the bit in the middle of a body of `len` bytes wrong, if it is in `piece`, which begins at `at`.
pub(super) fn bit(piece: &mut [u8], at: usize, len: usize) {
    if let Some(byte) = (len / 2).checked_sub(at).and_then(|index| piece.get_mut(index)) {
        *byte ^= 1;
    }
}

/// Makes an answer wrong, where it has what can be wrong.
pub(super) fn reply(reply: &mut Reply, fault: &Action) {
    match fault {
        Action::ShortBody { bytes } => {
            let keep = |len: u64| len.saturating_sub(*bytes);
            match &mut reply.content {
                Content::Bytes(body) | Content::Chunked(body) => {
                    body.truncate(keep(body.len() as u64) as usize);
                }
                Content::File { len, .. } => *len = keep(*len),
                Content::Empty | Content::Length(_) => {}
            }
        }
        Action::LongBody { bytes } => {
            if let Content::Bytes(body) | Content::Chunked(body) = &mut reply.content {
                let mut longer = body.to_vec();
                longer.resize(body.len() + *bytes as usize, 0);
                *body = Bytes::from(longer);
            }
        }
        Action::Corrupt => {
            let mut wrong = match &reply.content {
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
            let len = wrong.len();
            bit(&mut wrong, 0, len);
            reply.content = match &reply.content {
                Content::Chunked(_) => Content::Chunked(Bytes::from(wrong)),
                _ => Content::Bytes(Bytes::from(wrong)),
            };
        }
        Action::WrongContentRange { shift } => {
            let shifted = reply.headers.get("content-range").and_then(|value| {
                let (range, size) = value.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
                let (first, last) = range.split_once('-')?;
                let add = |text: &str| text.parse::<u64>().ok().map(|number| number + shift);
                HeaderValue::from_str(&format!("bytes {}-{}/{size}", add(first)?, add(last)?)).ok()
            });
            if let Some(value) = shifted {
                reply.headers.insert("content-range", value);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoiled(fault: &Action) -> (String, Vec<u8>) {
        let mut answer = Reply::new(206).header("content-range", "bytes 0-3/512");
        answer.content = Content::Bytes(Bytes::from_static(b"abcd"));
        reply(&mut answer, fault);
        let Content::Bytes(body) = answer.content else { panic!("the body is gone") };
        (answer.headers["content-range"].to_str().unwrap().to_owned(), body.to_vec())
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

    #[test]
    fn any_status_has_a_code() {
        assert_eq!(failure(503, None).code, "ServerBusy");
        assert_eq!(failure(502, None).status, StatusCode::BAD_GATEWAY);
        let odd = failure(412, Some("SequenceNumberConditionNotMet"));
        assert_eq!((odd.status.as_u16(), &*odd.code), (412, "SequenceNumberConditionNotMet"));
        assert_eq!(failure(403, Some("Made Up")).code, "Made Up");
    }
}
