//! What is done to a tree, and how it is made up at random.

use proptest::prelude::*;

/// Every path there may be, as a file or as a directory.
pub(crate) const NAMES: [&str; 6] = ["a", "b", "dir", "dir/a", "dir/b", "sub"];
/// Files that may be open together.
pub(crate) const SLOTS: usize = 3;

const DIR: usize = 2;
const BLOCK: u64 = 1 << 20;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    ReadOnly,
    ReadWrite,
    /// For reading and writing with `O_DIRECT`.
    Direct,
}

impl How {
    pub(crate) fn writes(self) -> bool {
        self != How::ReadOnly
    }
}

/// One operation. Names are places in [`NAMES`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Create {
        name: usize,
        slot: usize,
        exclusive: bool,
    },
    Open {
        name: usize,
        slot: usize,
        how: How,
    },
    Close {
        slot: usize,
    },
    Read {
        slot: usize,
        at: u64,
        len: u64,
    },
    Write {
        slot: usize,
        at: u64,
        len: u64,
        seed: u8,
    },
    /// The same through a shared mapping, inside the file alone.
    MapRead {
        slot: usize,
        at: u64,
        len: u64,
    },
    MapWrite {
        slot: usize,
        at: u64,
        len: u64,
        seed: u8,
    },
    /// Opens, appends, closes.
    Append {
        name: usize,
        len: u64,
        seed: u8,
    },
    Truncate {
        name: usize,
        len: u64,
    },
    SetLen {
        slot: usize,
        len: u64,
    },
    /// Punches a hole, or zeroes a range if the file may grow by it.
    Zero {
        slot: usize,
        at: u64,
        len: u64,
        grow: bool,
    },
    Grow {
        slot: usize,
        len: u64,
    },
    Fsync {
        slot: usize,
    },
    Stat {
        name: usize,
    },
    List {
        name: usize,
    },
    Rename {
        from: usize,
        to: usize,
        replace: bool,
    },
    Unlink {
        name: usize,
    },
    Mkdir {
        name: usize,
    },
    Rmdir {
        name: usize,
    },
    /// Closes everything, unmounts and mounts again.
    Remount,
    /// Lets the background get on.
    Pause,
    /// The kernel forgets what is not open.
    Forget,
}

/// Mostly around sector and page borders near the beginning, sometimes around a block border.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..3000,
        2 => 3600u64..4700,
        1 => (BLOCK - 700)..(BLOCK + 700),
        1 => 0..(5 * BLOCK / 2)
    ]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 1u64..2000,
        1 => (1u64..6).prop_map(|n| 512 * n),
        1 => (1u64..4).prop_map(|n| 4096 * n),
        1 => 1..(3 * BLOCK / 2)
    ]
}

fn seed() -> impl Strategy<Value = u8> {
    prop_oneof![1 => Just(0u8), 4 => 1u8..=255]
}

fn op() -> impl Strategy<Value = Op> {
    let name = || 0..NAMES.len();
    let slot = || 0..SLOTS;
    let how =
        prop_oneof![2 => Just(How::ReadOnly), 4 => Just(How::ReadWrite), 1 => Just(How::Direct)];
    prop_oneof![
        6 => (name(), slot(), any::<bool>())
            .prop_map(|(name, slot, exclusive)| Op::Create { name, slot, exclusive }),
        8 => (name(), slot(), how).prop_map(|(name, slot, how)| Op::Open { name, slot, how }),
        5 => slot().prop_map(|slot| Op::Close { slot }),
        12 => (slot(), offset(), length()).prop_map(|(slot, at, len)| Op::Read { slot, at, len }),
        16 => (slot(), offset(), length(), seed())
            .prop_map(|(slot, at, len, seed)| Op::Write { slot, at, len, seed }),
        2 => (slot(), offset(), length())
            .prop_map(|(slot, at, len)| Op::MapRead { slot, at, len }),
        3 => (slot(), offset(), length(), seed())
            .prop_map(|(slot, at, len, seed)| Op::MapWrite { slot, at, len, seed }),
        3 => (name(), length(), seed()).prop_map(|(name, len, seed)| Op::Append { name, len, seed }),
        4 => (name(), offset()).prop_map(|(name, len)| Op::Truncate { name, len }),
        4 => (slot(), offset()).prop_map(|(slot, len)| Op::SetLen { slot, len }),
        4 => (slot(), offset(), length(), any::<bool>())
            .prop_map(|(slot, at, len, grow)| Op::Zero { slot, at, len, grow }),
        2 => (slot(), 1..(5 * BLOCK / 2)).prop_map(|(slot, len)| Op::Grow { slot, len }),
        4 => slot().prop_map(|slot| Op::Fsync { slot }),
        4 => name().prop_map(|name| Op::Stat { name }),
        3 => name().prop_map(|name| Op::List { name }),
        6 => (name(), name(), any::<bool>())
            .prop_map(|(from, to, replace)| Op::Rename { from, to, replace }),
        4 => name().prop_map(|name| Op::Unlink { name }),
        2 => name().prop_map(|name| Op::Mkdir { name }),
        2 => name().prop_map(|name| Op::Rmdir { name }),
        1 => Just(Op::Remount),
        2 => Just(Op::Pause),
        2 => Just(Op::Forget),
    ]
}

/// Operations on a tree that is empty at first; they begin with something to work on.
pub(crate) fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..most).prop_map(|rest| {
        let mut ops = vec![
            Op::Mkdir { name: DIR },
            Op::Create { name: 0, slot: 0, exclusive: true },
            Op::Create { name: DIR + 1, slot: 1, exclusive: false },
        ];
        ops.extend(rest);
        ops
    })
}
