//! Cases that once went wrong, shrunk.

use super::mounted::Mounted;
use super::op::How::{ReadOnly, ReadWrite};
use super::op::Op::{self, *};
use super::run::check;
use super::support::{cannot_mount, skip};
use super::tree::Tree;

/// On the tree and on a mount.
#[track_caller]
fn replay(ops: &[Op]) {
    check(&mut Tree::new(), ops).unwrap();
    match cannot_mount() {
        Some(reason) => skip(reason),
        None => check(&mut Mounted::new(&[]), ops).unwrap(),
    }
}

#[test]
fn a_file_truncated_by_name_while_it_is_read_tells_its_new_length() {
    replay(&[
        Create { name: 0, slot: 0, exclusive: true },
        Close { slot: 0 },
        Open { name: 0, slot: 0, how: ReadOnly },
        Truncate { name: 0, len: 1 },
        Stat { name: 0 },
        Read { slot: 0, at: 0, len: 9 },
    ]);
}

#[test]
fn what_is_written_to_an_unlinked_file_can_be_closed() {
    replay(&[
        Create { name: 0, slot: 0, exclusive: true },
        Unlink { name: 0 },
        Write { slot: 0, at: 5, len: 700, seed: 1 },
        Fsync { slot: 0 },
        Read { slot: 0, at: 0, len: 9 },
        Close { slot: 0 },
    ]);
}

#[test]
fn a_dirty_file_that_is_renamed_over_leaves_its_successor_alone() {
    replay(&[
        Create { name: 0, slot: 0, exclusive: true },
        Write { slot: 0, at: 0, len: 5000, seed: 1 },
        Close { slot: 0 },
        Create { name: 1, slot: 1, exclusive: true },
        Write { slot: 1, at: 100, len: 9000, seed: 2 },
        Rename { from: 0, to: 1, replace: true },
        Write { slot: 1, at: 4000, len: 9, seed: 3 },
        Open { name: 1, slot: 0, how: ReadWrite },
        Read { slot: 0, at: 0, len: 9999 },
        Close { slot: 1 },
        Read { slot: 0, at: 0, len: 9999 },
    ]);
}
