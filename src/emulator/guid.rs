//! Identifiers that never repeat while the process lives.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// A GUID that no other call returns.
pub(super) fn new_guid() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static BASE: std::sync::OnceLock<[u64; 2]> = std::sync::OnceLock::new();
    let base = BASE.get_or_init(|| {
        let mut bytes = [0; 16];
        if getrandom::fill(&mut bytes).is_err() {
            log::warn!(target: "emulator", "no randomness: identifiers repeat after a restart");
        }
        let (high, low) = bytes.split_at(8);
        [high, low].map(|half| half.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    });
    let serial = NEXT.fetch_add(1, Ordering::Relaxed);
    let (high, low) = (base[0], base[1].wrapping_add(serial));
    let mut text = String::with_capacity(36);
    let _ = write!(
        text,
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xFFFF,
        high & 0xFFF,
        0x8000 | low >> 48 & 0x3FFF,
        low & 0xFFFF_FFFF_FFFF
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_differ_and_have_their_form() {
        let (a, b) = (new_guid(), new_guid());
        assert_ne!(a, b);
        let lens: Vec<_> = a.split('-').map(str::len).collect();
        assert_eq!(lens, [8, 4, 4, 4, 12], "{a}");
        assert!(a.bytes().all(|c| c == b'-' || c.is_ascii_hexdigit()), "{a}");
    }
}
