//! Checksums of what is on its way: CRC-64/NVME as the service spells it, or MD5.
//!
//! A page update carries the checksum of its body, made just before it is sent; a ranged read asks for
//! that of the answer, which is made while the bytes arrive. Servers that know one of the two not at
//! all, as some emulators, are told from those that find damage, and served without.
//!
//! This module must not know what the bytes are for.

use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use md5::{Digest as _, Md5};

use crate::client::Checksum;

const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
const X_MS_CONTENT_CRC64: HeaderName = HeaderName::from_static("x-ms-content-crc64");
const ASK_MD5: HeaderName = HeaderName::from_static("x-ms-range-get-content-md5");
const ASK_CRC64: HeaderName = HeaderName::from_static("x-ms-range-get-content-crc64");

/// The longest range for which the service makes a checksum, in bytes.
pub(super) const LONGEST: u64 = 4 << 20;

/// Which checksum is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verify {
    /// CRC64, which costs next to nothing.
    Crc64,
    /// MD5, fifty times as much.
    Md5,
    /// None.
    Off,
}

impl Verify {
    /// As typed after `-o verify=`.
    pub(super) fn parse(text: &str) -> Option<Verify> {
        match text {
            "crc64" => Some(Verify::Crc64),
            "md5" => Some(Verify::Md5),
            "off" => Some(Verify::Off),
            _ => None,
        }
    }

    fn start(self) -> Option<Running> {
        match self {
            Verify::Crc64 => Some(Running::Crc64(Crc::new(CrcAlgorithm::Crc64Nvme))),
            Verify::Md5 => Some(Running::Md5(Md5::new())),
            Verify::Off => None,
        }
    }
}

/// The checksums of one mount.
#[derive(Debug)]
pub(super) struct Verifier {
    verify: Verify,
    /// The service does not know them of answers, or of updates.
    no_reads: AtomicBool,
    no_updates: AtomicBool,
}

impl Verifier {
    pub(super) fn new(verify: Verify) -> Verifier {
        Verifier { verify, no_reads: AtomicBool::new(false), no_updates: AtomicBool::new(false) }
    }

    /// The longest read that one checksum covers; any if there are none.
    pub(super) fn longest_read(&self) -> u64 {
        match self.ask() {
            Some(_) => LONGEST,
            None => u64::MAX,
        }
    }

    /// The header by which a read asks for the checksum of its answer.
    pub(super) fn ask(&self) -> Option<HeaderName> {
        match self.verify {
            _ if self.no_reads.load(Ordering::Relaxed) => None,
            Verify::Crc64 => Some(ASK_CRC64),
            Verify::Md5 => Some(ASK_MD5),
            Verify::Off => None,
        }
    }

    /// What an answer must agree with, to a read that has asked so.
    pub(super) fn of_answer(&self, asked: &HeaderMap, told: &HeaderMap) -> Option<Answer> {
        let (verify, header) = if asked.contains_key(ASK_CRC64) {
            (Verify::Crc64, X_MS_CONTENT_CRC64)
        } else if asked.contains_key(ASK_MD5) {
            (Verify::Md5, CONTENT_MD5)
        } else {
            return None;
        };
        match told.get(header) {
            Some(expected) => Some(Answer { running: verify.start()?, expected: expected.clone() }),
            None => {
                self.give_up_reads("sends no checksum of its answers");
                None
            }
        }
    }

    /// The header that tells the checksum of an update's body.
    pub(super) fn of_update(&self, body: &[Bytes]) -> Option<(HeaderName, HeaderValue)> {
        if self.no_updates.load(Ordering::Relaxed) {
            return None;
        }
        let mut running = self.verify.start()?;
        body.iter().for_each(|piece| running.update(piece));
        Some((running.header(), running.value()))
    }

    /// Nothing is asked of answers any more.
    pub(super) fn give_up_reads(&self, why: &str) {
        if !self.no_reads.swap(true, Ordering::Relaxed) {
            log::warn!(target: "http", "the service {why}: damage to what is read is not noticed from now on");
        }
    }

    /// An update was refused because the service does not know its checksum: takes that out of it, and
    /// out of later ones. `false` if there was none.
    pub(super) fn give_up_updates(&self, headers: &mut HeaderMap) -> bool {
        let had = [CONTENT_MD5, X_MS_CONTENT_CRC64].map(|name| headers.remove(name).is_some());
        let had = had.contains(&true);
        if had && !self.no_updates.swap(true, Ordering::Relaxed) {
            log::warn!(
                target: "http",
                "the service knows no checksum of updates: damage to what is written is not noticed from now on"
            );
        }
        had
    }
}

/// A checksum over bytes that come in pieces.
#[expect(clippy::large_enum_variant, reason = "one at a time, on a stack or in a box already")]
enum Running {
    Crc64(Crc),
    Md5(Md5),
}

impl Running {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Running::Crc64(crc) => crc.update(bytes),
            Running::Md5(md5) => md5.update(bytes),
        }
    }

    fn header(&self) -> HeaderName {
        match self {
            Running::Crc64(_) => X_MS_CONTENT_CRC64,
            Running::Md5(_) => CONTENT_MD5,
        }
    }

    /// The header's value; the bytes of a CRC64 begin with the lowest.
    fn value(&self) -> HeaderValue {
        let text = match self {
            Running::Crc64(crc) => STANDARD.encode(crc.finalize().to_le_bytes()),
            Running::Md5(md5) => STANDARD.encode(md5.clone().finalize()),
        };
        HeaderValue::from_maybe_shared(Bytes::from(text)).expect("base64 is a header value")
    }
}

/// The checksum of an answer that is on its way.
pub(super) struct Answer {
    running: Running,
    expected: HeaderValue,
}

impl Checksum for Answer {
    fn update(&mut self, bytes: &[u8]) {
        self.running.update(bytes);
    }

    fn matches(&mut self) -> bool {
        // Examples of the documents leave the padding out.
        let bare = |value: &HeaderValue| {
            value.to_str().ok().map(|text| text.trim_end_matches('=').to_owned())
        };
        bare(&self.running.value()) == bare(&self.expected)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::header::{HeaderMap, HeaderName, HeaderValue};

    use super::{ASK_CRC64, ASK_MD5, CONTENT_MD5, Verifier, Verify, X_MS_CONTENT_CRC64};
    use crate::client::Checksum as _;

    fn of(verify: Verify, body: &[&'static [u8]]) -> (HeaderName, String) {
        let body: Vec<Bytes> = body.iter().map(|piece| Bytes::from_static(piece)).collect();
        let (name, value) = Verifier::new(verify).of_update(&body).unwrap();
        (name, value.to_str().unwrap().to_owned())
    }

    /// Values that the service itself has returned for these bodies, and others made with Microsoft's
    /// own code.
    #[test]
    fn crc64_is_that_of_the_service() {
        for (body, expected) in [
            (&b"block 0"[..], "qG0Ez70es10="),
            (b"block 1", "0eQx/3Xu3SI="),
            (b"block 2", "Wn9vry3/bqM="),
            (b"block 3", "I/Zan+UPANw="),
            (b"block 4", "J9tFV8770ZQ="),
            (&[0; 512], "6YKnaCgO5h0="),
            (&[0; 4096], "TrYi62fTgmQ="),
            (&[0; 65536], "yKZz+FQfRFY="),
            (&[b'a'; 512], "u661BimQ84c="),
        ] {
            assert_eq!(of(Verify::Crc64, &[body]), (X_MS_CONTENT_CRC64, expected.to_owned()));
            let (first, last) = body.split_at(body.len() / 3);
            assert_eq!(of(Verify::Crc64, &[first, b"", last]).1, expected);
        }
        let check = 0xAE8B_1486_0A79_9888_u64.to_le_bytes();
        let check = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, check);
        assert_eq!(of(Verify::Crc64, &[b"123456789"]).1, check);
    }

    #[test]
    fn md5_is_that_of_everybody() {
        let expected = (CONTENT_MD5, "v2GerAzfP2jUluqTRBN+iw==".to_owned());
        assert_eq!(of(Verify::Md5, &[&[0; 500], &[0; 12]]), expected);
        assert!(Verifier::new(Verify::Off).of_update(&[]).is_none());
    }

    #[test]
    fn answers_are_checked_against_what_was_asked_for() {
        let headers = |name: HeaderName, value: &'static str| {
            HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
        };
        for (verify, ask, header, right) in [
            (Verify::Crc64, ASK_CRC64, X_MS_CONTENT_CRC64, "6YKnaCgO5h0="),
            (Verify::Md5, ASK_MD5, CONTENT_MD5, "v2GerAzfP2jUluqTRBN+iw=="),
        ] {
            let verifier = Verifier::new(verify);
            assert_eq!(verifier.ask(), Some(ask.clone()));
            let asked = headers(ask, "true");
            let matches = |told: &'static str, bytes: &[u8]| {
                let mut answer =
                    verifier.of_answer(&asked, &headers(header.clone(), told)).unwrap();
                bytes.chunks(100).for_each(|piece| answer.update(piece));
                answer.matches()
            };
            assert!(matches(right, &[0; 512]));
            assert!(matches(right.trim_end_matches('='), &[0; 512]));
            let mut wrong = [0; 512];
            wrong[300] = 1;
            assert!(!matches(right, &wrong));
            assert!(!matches(right, &[0; 511]));
            assert!(!matches("", &[0; 512]) && !matches("AAAAAAAAAAA=", &[0; 512]));
            // Nobody asked.
            let told = headers(header, right);
            assert!(verifier.of_answer(&HeaderMap::new(), &told).is_none());
            assert!(verifier.ask().is_some());
            // Asked, and not answered.
            assert!(verifier.of_answer(&asked, &HeaderMap::new()).is_none());
            assert_eq!((verifier.ask(), verifier.longest_read()), (None, u64::MAX));
        }
    }

    #[test]
    fn a_server_that_knows_no_checksums_is_served_without() {
        let verifier = Verifier::new(Verify::Crc64);
        let (name, value) = verifier.of_update(&[]).unwrap();
        let mut headers = HeaderMap::from_iter([(name, value)]);
        assert!(verifier.give_up_updates(&mut headers));
        assert!(headers.is_empty() && !verifier.give_up_updates(&mut headers));
        assert!(verifier.of_update(&[]).is_none());
        assert!(verifier.ask().is_some(), "reads are another matter");
    }
}
