//! The reference: a small tree as a user expects it to behave, kept in vectors of bytes.
//!
//! It follows Linux in which error comes first, and knows nothing of blobs but one thing: a file
//! without a name may lose what was never in memory (`ESTALE`), because the service has nothing
//! of it any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::op::{NAMES, Op, SLOTS};

/// What an operation gives, as far as it is compared.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Done,
    Bytes(Vec<u8>),
    Names(BTreeSet<String>),
    /// Whether it is a directory, and its length.
    Stat(bool, u64),
}

/// What an operation gives, or its errno.
pub(crate) type Outcome = Result<Value, i32>;

/// Everything there is: a file's bytes, or `None` for a directory, by path.
pub(crate) type Contents = BTreeMap<String, Option<Vec<u8>>>;

/// What an operation is to give.
pub(crate) struct Expected {
    pub(crate) outcome: Outcome,
    /// `ESTALE` is as good, and changes nothing.
    pub(crate) or_stale: bool,
    /// After it everybody must see this name as the model does.
    pub(crate) published: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    File(usize),
}

#[derive(Clone)]
struct Slot {
    file: usize,
    write: bool,
}

/// The tree, and what is open.
#[derive(Clone, Default)]
pub(crate) struct Model {
    nodes: BTreeMap<&'static str, Node>,
    /// Files that ever were; one whose name is gone lives on in its slots.
    files: Vec<Arc<Vec<u8>>>,
    slots: [Option<Slot>; SLOTS],
}

impl Model {
    /// What `op` gives now, and the model after it; `None` if it means nothing (an empty slot).
    pub(crate) fn after(&self, op: &Op) -> Option<(Expected, Model)> {
        let mut next = self.clone();
        let mut expected = Expected { outcome: Ok(Value::Done), or_stale: false, published: None };
        expected.outcome = match *op {
            Op::Create { name, slot, exclusive } => {
                self.check_free(slot)?;
                next.create(NAMES[name], slot, exclusive)
            }
            Op::Open { name, slot, how } => {
                self.check_free(slot)?;
                match self.node(NAMES[name]) {
                    Ok(Node::File(file)) => {
                        next.slots[slot] = Some(Slot { file, write: how.writes() });
                        Ok(Value::Done)
                    }
                    Ok(Node::Directory) if how.writes() => Err(libc::EISDIR),
                    Ok(Node::Directory) => return None,
                    Err(errno) => Err(errno),
                }
            }
            Op::Close { slot } => {
                let open = self.slots[slot].as_ref()?;
                next.slots[slot] = None;
                if open.write {
                    expected.published = self.name_of(open.file);
                }
                Ok(Value::Done)
            }
            Op::Read { slot, at, len } | Op::MapRead { slot, at, len } => {
                let file = self.slots[slot].as_ref()?.file;
                self.check_map(op, file, at + len)?;
                expected.or_stale = self.name_of(file).is_none();
                let bytes = &self.files[file];
                let from = (at as usize).min(bytes.len());
                let to = ((at + len) as usize).min(bytes.len());
                Ok(Value::Bytes(bytes[from..to].to_vec()))
            }
            Op::Write { slot, at, len, seed } | Op::MapWrite { slot, at, len, seed } => {
                let file = self.writable(slot)?;
                self.check_map(op, file, at + len)?;
                expected.or_stale = self.name_of(file).is_none();
                next.write(file, at, &pattern(len, seed));
                Ok(Value::Done)
            }
            Op::Append { name, len, seed } => match self.file(NAMES[name]) {
                Ok(file) => {
                    next.write(file, self.len(file), &pattern(len, seed));
                    expected.published = Some(NAMES[name]);
                    Ok(Value::Done)
                }
                Err(errno) => Err(errno),
            },
            Op::Truncate { name, len } => match self.file(NAMES[name]) {
                Ok(file) => {
                    next.resize(file, len);
                    expected.published = Some(NAMES[name]);
                    Ok(Value::Done)
                }
                Err(errno) => Err(errno),
            },
            Op::SetLen { slot, len } => {
                let file = self.writable(slot)?;
                expected.or_stale = self.name_of(file).is_none();
                next.resize(file, len);
                Ok(Value::Done)
            }
            Op::Zero { slot, at, len, grow } => {
                let file = self.writable(slot)?;
                expected.or_stale = self.name_of(file).is_none();
                let end = if grow { at + len } else { (at + len).min(self.len(file)) };
                if at < end {
                    next.write(file, at, &vec![0; (end - at) as usize]);
                }
                Ok(Value::Done)
            }
            Op::Grow { slot, len } => {
                let file = self.writable(slot)?;
                expected.or_stale = self.name_of(file).is_none();
                next.resize(file, len.max(self.len(file)));
                Ok(Value::Done)
            }
            Op::Fsync { slot } => {
                let file = self.writable(slot)?;
                expected.published = self.name_of(file);
                Ok(Value::Done)
            }
            Op::Stat { name } => self.node(NAMES[name]).map(|node| match node {
                Node::Directory => Value::Stat(true, 0),
                Node::File(file) => Value::Stat(false, self.len(file)),
            }),
            Op::List { name } => match self.node(NAMES[name]) {
                Ok(Node::Directory) => Ok(Value::Names(self.children(NAMES[name]))),
                Ok(Node::File(_)) => Err(libc::ENOTDIR),
                Err(errno) => Err(errno),
            },
            Op::Rename { from, to, replace } => next.rename(NAMES[from], NAMES[to], replace),
            Op::Unlink { name } => self.file(NAMES[name]).map(|_| {
                next.nodes.remove(NAMES[name]);
                Value::Done
            }),
            Op::Mkdir { name } => match self.node(NAMES[name]) {
                Ok(_) => Err(libc::EEXIST),
                Err(errno) if self.parent_is_there(NAMES[name]) => {
                    debug_assert_eq!(errno, libc::ENOENT);
                    next.nodes.insert(NAMES[name], Node::Directory);
                    Ok(Value::Done)
                }
                Err(errno) => Err(errno),
            },
            Op::Rmdir { name } => match self.node(NAMES[name]) {
                Ok(Node::File(_)) => Err(libc::ENOTDIR),
                Ok(Node::Directory) if !self.children(NAMES[name]).is_empty() => {
                    Err(libc::ENOTEMPTY)
                }
                Ok(Node::Directory) => {
                    next.nodes.remove(NAMES[name]);
                    Ok(Value::Done)
                }
                Err(errno) => Err(errno),
            },
            Op::Remount => {
                next.slots = Default::default();
                Ok(Value::Done)
            }
            Op::Pause | Op::Forget => Ok(Value::Done),
        };
        Some((expected, next))
    }

    /// Slots that are open.
    pub(crate) fn open_slots(&self) -> Vec<usize> {
        (0..SLOTS).filter(|slot| self.slots[*slot].is_some()).collect()
    }

    /// The bytes of the file that has this name.
    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        match self.nodes.get(name)? {
            Node::File(file) => Some(&self.files[*file]),
            Node::Directory => None,
        }
    }

    /// Everything that has a name.
    pub(crate) fn contents(&self) -> Contents {
        let bytes = |name: &str| self.bytes(name).map(<[u8]>::to_vec);
        self.nodes.keys().map(|name| ((*name).to_owned(), bytes(name))).collect()
    }

    /// A mapping must be of what is surely there: there is no errno for touching a page, only SIGBUS.
    fn check_map(&self, op: &Op, file: usize, end: u64) -> Option<()> {
        let is_map = matches!(op, Op::MapRead { .. } | Op::MapWrite { .. });
        (!is_map || (end <= self.len(file) && self.name_of(file).is_some())).then_some(())
    }

    fn check_free(&self, slot: usize) -> Option<()> {
        self.slots[slot].is_none().then_some(())
    }

    fn writable(&self, slot: usize) -> Option<usize> {
        self.slots[slot].as_ref().filter(|slot| slot.write).map(|slot| slot.file)
    }

    fn len(&self, file: usize) -> u64 {
        self.files[file].len() as u64
    }

    fn name_of(&self, file: usize) -> Option<&'static str> {
        self.nodes.iter().find(|(_, node)| **node == Node::File(file)).map(|(name, _)| *name)
    }

    fn parent_is_there(&self, name: &str) -> bool {
        self.check_parent(name).is_ok()
    }

    fn check_parent(&self, name: &str) -> Result<(), i32> {
        match name.rsplit_once('/').map(|(parent, _)| self.nodes.get(parent)) {
            None | Some(Some(Node::Directory)) => Ok(()),
            Some(Some(Node::File(_))) => Err(libc::ENOTDIR),
            Some(None) => Err(libc::ENOENT),
        }
    }

    fn node(&self, name: &str) -> Result<Node, i32> {
        self.check_parent(name)?;
        self.nodes.get(name).copied().ok_or(libc::ENOENT)
    }

    fn file(&self, name: &str) -> Result<usize, i32> {
        match self.node(name)? {
            Node::File(file) => Ok(file),
            Node::Directory => Err(libc::EISDIR),
        }
    }

    fn children(&self, dir: &str) -> BTreeSet<String> {
        let below = |name: &&str| name.strip_prefix(dir)?.strip_prefix('/').map(str::to_owned);
        self.nodes.keys().filter_map(below).collect()
    }

    fn create(&mut self, name: &'static str, slot: usize, exclusive: bool) -> Outcome {
        let file = match self.node(name) {
            Ok(_) if exclusive => return Err(libc::EEXIST),
            Ok(Node::Directory) => return Err(libc::EISDIR),
            Ok(Node::File(file)) => file,
            Err(errno) if !self.parent_is_there(name) => return Err(errno),
            Err(_) => {
                self.files.push(Arc::default());
                self.nodes.insert(name, Node::File(self.files.len() - 1));
                self.files.len() - 1
            }
        };
        self.slots[slot] = Some(Slot { file, write: true });
        Ok(Value::Done)
    }

    fn write(&mut self, file: usize, at: u64, data: &[u8]) {
        let end = at as usize + data.len();
        if self.files[file].len() < end {
            self.resize(file, end as u64);
        }
        Arc::make_mut(&mut self.files[file])[at as usize..end].copy_from_slice(data);
    }

    fn resize(&mut self, file: usize, len: u64) {
        Arc::make_mut(&mut self.files[file]).resize(len as usize, 0);
    }

    fn rename(&mut self, from: &'static str, to: &'static str, replace: bool) -> Outcome {
        self.check_parent(from)?;
        self.check_parent(to)?;
        let moving = *self.nodes.get(from).ok_or(libc::ENOENT)?;
        let target = self.nodes.get(to).copied();
        if target.is_some() && !replace {
            return Err(libc::EEXIST);
        }
        let inside = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
        };
        if inside(to, from) {
            return Err(libc::EINVAL);
        }
        if inside(from, to) {
            return Err(libc::ENOTEMPTY);
        }
        if from == to {
            return Ok(Value::Done);
        }
        match (moving, target) {
            (Node::Directory, Some(Node::File(_))) => Err(libc::ENOTDIR),
            (Node::Directory, _) => Err(libc::EXDEV),
            (Node::File(_), Some(Node::Directory)) => Err(libc::EISDIR),
            (Node::File(_), _) => {
                self.nodes.remove(from);
                self.nodes.insert(to, moving);
                Ok(Value::Done)
            }
        }
    }
}

/// Bytes that tell where they belong; all zeros for seed 0.
pub(crate) fn pattern(len: u64, seed: u8) -> Vec<u8> {
    let byte = |at: u64| ((at ^ (at >> 9)).wrapping_mul(31).wrapping_add(seed.into()) % 251) as u8;
    (0..len).map(|at| if seed == 0 { 0 } else { byte(at) }).collect()
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Done => f.write_str("done"),
            Value::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Value::Names(names) => write!(f, "{names:?}"),
            Value::Stat(true, _) => f.write_str("a directory"),
            Value::Stat(false, len) => write!(f, "a file of {len} bytes"),
        }
    }
}
