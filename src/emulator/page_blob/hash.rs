//! The two checksums of the service, as their headers spell them.
//!
//! CRC64 is CRC-64/NVME, its eight bytes little-endian, in base64. Knows nothing of requests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use md5::{Digest, Md5};

/// `Content-MD5` of these bytes.
pub(super) fn md5(bytes: &[u8]) -> String {
    STANDARD.encode(Md5::digest(bytes))
}

/// `x-ms-content-crc64` of these bytes.
pub(super) fn crc64(bytes: &[u8]) -> String {
    crc64_text(crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes))
}

/// A CRC of bytes that arrive in pieces.
pub(super) fn running_crc64() -> Crc {
    Crc::new(CrcAlgorithm::Crc64Nvme)
}

/// The header form of a CRC.
pub(super) fn crc64_text(crc: u64) -> String {
    STANDARD.encode(crc.to_le_bytes())
}

/// Both checksums of a body that arrives in pieces.
#[derive(Clone)]
pub(super) struct Running {
    md5: Md5,
    crc64: Crc,
}

impl Running {
    pub(super) fn new() -> Self {
        Self { md5: Md5::new(), crc64: running_crc64() }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.crc64.update(bytes);
    }

    /// MD5 and CRC64 of all that was seen.
    pub(super) fn finish(self) -> (String, String) {
        (STANDARD.encode(self.md5.finalize()), crc64_text(self.crc64.finalize()))
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Values that the service itself returned for these bodies.
    #[test]
    fn crc64_matches_the_service() {
        for (body, expected) in [
            ("block 0", "qG0Ez70es10="),
            ("block 1", "0eQx/3Xu3SI="),
            ("block 2", "Wn9vry3/bqM="),
            ("block 3", "I/Zan+UPANw="),
            ("block 4", "J9tFV8770ZQ="),
        ] {
            assert_eq!(crc64(body.as_bytes()), expected, "{body}");
        }
        assert_eq!(crc64(&[0; 512]), "6YKnaCgO5h0=");
        assert_eq!(crc64(&[b'a'; 512]), "u661BimQ84c=");
        assert_eq!(crc64_text(0xAE8B_1486_0A79_9888), crc64(b"123456789"));
    }

    proptest! {
        /// Against another implementation: the client under test may use this one.
        #[test]
        fn crc64_is_what_others_compute(
            pieces in prop::collection::vec((any::<u8>(), 0usize..20_000), 1..6)
        ) {
            let mut running = Running::new();
            let mut other = crc64fast_nvme::Digest::new();
            for (seed, len) in pieces {
                let piece: Vec<u8> =
                    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect();
                running.update(&piece);
                other.write(&piece);
            }
            prop_assert_eq!(running.finish().1, crc64_text(other.sum64()));
        }
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        let mut running = Running::new();
        running.update(&[0; 100]);
        running.update(&[0; 412]);
        assert_eq!(running.finish(), (md5(&[0; 512]), crc64(&[0; 512])));
        assert_eq!(md5(&[0; 512]), "v2GerAzfP2jUluqTRBN+iw==");
    }
}
