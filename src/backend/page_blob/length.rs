//! The logical length of a page blob: how it is marked in metadata, and in which order a change of
//! length is made so that a crash at any point shows the old length or the new one.
//!
//! A page blob's size is a multiple of 512 bytes; a file's length is not. One metadata key,
//! [`KEY`], says where the file ends:
//!
//! | value | means | valid if |
//! |---|---|---|
//! | absent | the file is as long as the blob | always |
//! | `LEN` | the file has exactly LEN bytes | LEN rounded up to 512 is the blob's size |
//! | `LEN+` | the file has LEN bytes, and a writer has made room behind them | LEN is at most the blob's size |
//!
//! An invalid value is ignored: somebody who does not know the key has resized the blob. Resizing and
//! writing metadata are two requests, so [`plan`] picks the shortest sequence whose every
//! intermediate state shows the old or the new length. What that comes to (`r` = rounded up):
//!
//! | from | to | steps | shown after each |
//! |---|---|---|---|
//! | absent, size = old | new a multiple of 512 | resize | new |
//! | absent | new odd, r(new) ≠ size | mark `new`, resize | old, new |
//! | absent or `old`, r(new) = size | new odd | mark `new` | new |
//! | `old` | new a multiple of 512, r(new) ≠ size | resize, unmark | new, new |
//! | `old` | new odd, other size | mark `min+`, resize, mark `new` | old or new, …, new |
//! | `old+` | new, reserve kept | mark `new+` | new |
//! | `old+` | old, reserve given back | resize, mark `old` or unmark | old, old |
//! | `old+` | new ≥ old, reserve given back | resize, mark `new` or unmark | old, new |
//! | absent or `old` | room beyond it | mark `old+`, resize | old, old |
//! | `old+` | more room | resize | old |
//!
//! This module must not know requests.

/// The metadata key. Lower-case letters only: names with `_` sort differently in the service's
/// signatures than in bytes.
pub(super) const KEY: &str = "blobdirlength";

/// Page blobs are made of pages of this many bytes.
pub(super) const PAGE: u64 = 512;

/// What the metadata key says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mark {
    /// The key is not there.
    Absent,
    /// `LEN`
    Exact(u64),
    /// `LEN+`
    Reserved(u64),
    /// Something else is there.
    Unreadable,
}

impl Mark {
    /// What the value of the key says; `None` if there is none.
    pub(super) fn parse(value: Option<&str>) -> Mark {
        let Some(value) = value else {
            return Mark::Absent;
        };
        let (digits, reserved) = match value.strip_suffix('+') {
            Some(digits) => (digits, true),
            None => (value, false),
        };
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        match digits.parse() {
            Ok(len) if plain && reserved => Mark::Reserved(len),
            Ok(len) if plain => Mark::Exact(len),
            _ => Mark::Unreadable,
        }
    }

    /// The value to write; `None` for no key.
    pub(super) fn value(self) -> Option<String> {
        match self {
            Mark::Exact(len) => Some(len.to_string()),
            Mark::Reserved(len) => Some(format!("{len}+")),
            Mark::Absent | Mark::Unreadable => None,
        }
    }

    /// Whether it says something about a blob of this size that can be true.
    pub(super) fn is_valid(self, size: u64) -> bool {
        match self {
            Mark::Absent => true,
            Mark::Exact(len) => len.checked_next_multiple_of(PAGE) == Some(size),
            Mark::Reserved(len) => len <= size,
            Mark::Unreadable => false,
        }
    }

    /// The length that a reader sees.
    pub(super) fn shown(self, size: u64) -> u64 {
        match self {
            Mark::Exact(len) | Mark::Reserved(len) if self.is_valid(size) => len,
            _ => size,
        }
    }
}

/// One request of a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Set Blob Properties with this size.
    Resize(u64),
    /// Set Blob Metadata with this mark.
    Mark(Mark),
}

/// What is there: the blob's size and its mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    /// Size of the blob in bytes, a multiple of [`PAGE`].
    pub(super) size: u64,
    /// What its metadata says.
    pub(super) mark: Mark,
}

impl Extent {
    /// The length that a reader sees.
    pub(super) fn shown(self) -> u64 {
        self.mark.shown(self.size)
    }

    /// What is there after a step.
    pub(super) fn after(self, step: Step) -> Extent {
        match step {
            Step::Resize(size) => Extent { size, ..self },
            Step::Mark(mark) => Extent { mark, ..self },
        }
    }
}

/// The steps that make `len` the length. The reserve stays if `keep_reserve`, else the size becomes
/// `len` rounded up. `len` must be at most 2^63.
pub(super) fn plan(from: Extent, len: u64, keep_reserve: bool) -> Vec<Step> {
    let needed = len.next_multiple_of(PAGE);
    let size = if keep_reserve { needed.max(from.size) } else { needed };
    // In order of preference where the number of steps is the same.
    let mut marks = Vec::with_capacity(3);
    if size > needed {
        marks.push(Mark::Reserved(len));
    } else {
        if len == needed {
            marks.push(Mark::Absent);
        }
        marks.push(Mark::Exact(len));
        if keep_reserve {
            marks.push(Mark::Reserved(len));
        }
    }
    shortest(from, size, &marks, len)
}

/// The steps that make the blob at least `capacity` bytes large and leave the length as it is.
pub(super) fn plan_reserve(from: Extent, capacity: u64) -> Vec<Step> {
    let size = capacity.next_multiple_of(PAGE);
    if size <= from.size {
        return Vec::new();
    }
    let len = from.shown();
    shortest(from, size, &[Mark::Reserved(len)], len)
}

/// The shortest way from `from` to `size` and one of `marks`, showing the old length or `len` all the
/// way.
fn shortest(from: Extent, size: u64, marks: &[Mark], len: u64) -> Vec<Step> {
    let old = from.shown();
    let resize = Step::Resize(size);
    let mut ways: Vec<Vec<Step>> = Vec::new();
    for &mark in marks {
        let last = Step::Mark(mark);
        ways.push(vec![last, resize]);
        ways.push(vec![resize, last]);
        ways.push(vec![Step::Mark(Mark::Reserved(old.min(len))), resize, last]);
    }
    ways.into_iter()
        .map(|way| {
            let mut state = from;
            let mut sound = true;
            let mut steps = Vec::with_capacity(way.len());
            for step in way {
                let next = state.after(step);
                if next != state {
                    steps.push(step);
                    state = next;
                }
                sound &= state.shown() == old || state.shown() == len;
            }
            (steps, sound && state.shown() == len)
        })
        .filter(|(_, sound)| *sound)
        .map(|(steps, _)| steps)
        .min_by_key(Vec::len)
        .expect("going by way of the smaller length with a reserve is always sound")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Mark::{Absent, Exact, Reserved, Unreadable};
    use super::Step::{self, Resize};
    use super::{Extent, Mark, PAGE, plan, plan_reserve};

    #[test]
    fn reads_back_what_it_writes() {
        for mark in [Absent, Exact(0), Exact(700), Reserved(0), Reserved(1 << 40)] {
            assert_eq!(Mark::parse(mark.value().as_deref()), mark);
        }
        for bad in ["", "+", "-1", "+1", "1 ", "0x10", "1++", "99999999999999999999"] {
            assert_eq!(Mark::parse(Some(bad)), Unreadable, "{bad:?}");
        }
    }

    #[test]
    fn an_invalid_mark_shows_the_size() {
        assert_eq!(Exact(700).shown(1024), 700);
        assert_eq!(Exact(700).shown(512), 512);
        assert_eq!(Exact(700).shown(2048), 2048);
        assert_eq!(Exact(u64::MAX).shown(512), 512);
        assert_eq!(Reserved(700).shown(1 << 20), 700);
        assert_eq!(Reserved(700).shown(512), 512);
        assert_eq!(Unreadable.shown(512), 512);
    }

    #[test]
    fn the_table_of_the_module_doc() {
        let at = |size, mark| Extent { size, mark };
        let mark = Step::Mark;
        assert_eq!(plan(at(1024, Absent), 4096, false), [Resize(4096)]);
        assert_eq!(plan(at(4096, Absent), 1024, false), [Resize(1024)]);
        assert_eq!(plan(at(4096, Absent), 4096, false), []);
        assert_eq!(plan(at(1024, Absent), 5000, false), [mark(Exact(5000)), Resize(5120)]);
        assert_eq!(plan(at(1024, Absent), 1000, false), [mark(Exact(1000))]);
        assert_eq!(plan(at(1024, Exact(1000)), 1010, false), [mark(Exact(1010))]);
        assert_eq!(plan(at(1024, Exact(1000)), 512, false), [Resize(512), mark(Absent)]);
        assert_eq!(
            plan(at(1024, Exact(1000)), 2000, false),
            [mark(Reserved(1000)), Resize(2048), mark(Exact(2000))]
        );
        assert_eq!(plan(at(4096, Reserved(100)), 900, true), [mark(Reserved(900))]);
        assert_eq!(plan(at(4096, Reserved(1024)), 1024, false), [Resize(1024), mark(Absent)]);
        assert_eq!(plan(at(4096, Reserved(100)), 900, false), [Resize(1024), mark(Exact(900))]);
        assert_eq!(plan_reserve(at(0, Absent), 1 << 20), [mark(Reserved(0)), Resize(1 << 20)]);
        assert_eq!(plan_reserve(at(4096, Reserved(5)), 8000), [Resize(8192)]);
        assert_eq!(plan_reserve(at(4096, Absent), 4000), []);
    }

    fn any_extent() -> impl Strategy<Value = Extent> {
        let len = 0..6 * PAGE;
        let mark = prop_oneof![
            Just(Absent),
            Just(Unreadable),
            len.clone().prop_map(Exact),
            len.prop_map(Reserved)
        ];
        (0..6u64, mark).prop_map(|(pages, mark)| Extent { size: pages * PAGE, mark })
    }

    proptest! {
        #[test]
        fn every_crash_point_shows_the_old_or_the_new_length(
            from in any_extent(), len in 0..6 * PAGE, keep in any::<bool>()
        ) {
            let mut state = from;
            let steps = plan(from, len, keep);
            prop_assert!(steps.len() <= 3);
            for step in steps {
                state = state.after(step);
                prop_assert!(state.shown() == from.shown() || state.shown() == len);
            }
            prop_assert_eq!(state.shown(), len);
            let needed = len.next_multiple_of(PAGE);
            prop_assert_eq!(state.size, if keep { needed.max(from.size) } else { needed });
            prop_assert!(state.mark.is_valid(state.size));
            prop_assert!(keep || !matches!(state.mark, Reserved(_)));
            prop_assert_eq!(plan(state, len, keep), vec![]);
        }

        #[test]
        fn a_reserve_shows_the_same_length_all_the_way(
            from in any_extent(), capacity in 0..8 * PAGE
        ) {
            let mut state = from;
            for step in plan_reserve(from, capacity) {
                state = state.after(step);
                prop_assert_eq!(state.shown(), from.shown());
            }
            prop_assert!(state.size >= capacity.max(from.size));
        }
    }
}
