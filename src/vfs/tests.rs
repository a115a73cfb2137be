//! The tree against the memory store, driven as the kernel drives it.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use super::dir::FIRST;
use super::{Attr, Config, Error, FileKind, OpenFlags, ROOT, Replace, Result, SetAttr, Vfs};
use crate::io::{Config as IoConfig, Shared};
use crate::store::memory::MemoryStore;
use crate::store::{Access, ErrorKind, Opened, Outcome, RemotePath, Stat, Store, read_all};

const MIB: u64 = 1 << 20;
/// Far more than anything here takes: what is not done by then hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A tree, and the store below it as somebody else would use it.
struct Tree {
    store: MemoryStore,
    vfs: Arc<Vfs>,
}

fn config() -> Config {
    Config {
        read_only: false,
        uid: 7,
        gid: 8,
        umask: 0o022,
        attr_timeout: Duration::ZERO,
        keep: None,
    }
}

impl Tree {
    fn new() -> Tree {
        Tree::over(MemoryStore::new(), config())
    }

    fn over(store: MemoryStore, config: Config) -> Tree {
        let io = IoConfig {
            cache_size: 64 * MIB,
            dirty_limit: 16 * MIB,
            connections: 4,
            timeout: Duration::from_secs(2),
        };
        let io = Shared::new(&io, store.capabilities());
        let vfs = Arc::new(Vfs::new(Arc::new(store.clone()), io, config));
        Tree { store, vfs }
    }

    /// Looks a path up, one name after the other. The kernel then knows of the last one once more.
    async fn lookup(&self, path: &str) -> Result<Attr> {
        let (parent, name) = self.parent(path).await?;
        self.vfs.lookup(parent, OsStr::new(name)).await
    }

    /// The directory that holds `path`, and the name in it.
    async fn parent<'a>(&self, path: &'a str) -> Result<(u64, &'a str)> {
        let mut ino = ROOT;
        let mut rest = path;
        while let Some((dir, below)) = rest.split_once('/') {
            ino = self.vfs.lookup(ino, OsStr::new(dir)).await?.ino;
            rest = below;
        }
        Ok((ino, rest))
    }

    async fn create(&self, path: &str) -> Result<u64> {
        let (parent, name) = self.parent(path).await?;
        let (_, opened) = self.vfs.create(parent, OsStr::new(name), false).await?;
        Ok(opened.handle)
    }

    async fn open(&self, path: &str, write: bool) -> Result<super::Opened> {
        let attr = self.lookup(path).await?;
        self.vfs.open(attr.ino, OpenFlags { write }).await
    }

    async fn reader(&self, path: &str) -> u64 {
        self.open(path, false).await.unwrap().handle
    }

    async fn writer(&self, path: &str) -> u64 {
        self.open(path, true).await.unwrap().handle
    }

    async fn write(&self, handle: u64, at: u64, data: &[u8]) -> Result<()> {
        if self.vfs.write_now(handle, at, data)? {
            return Ok(());
        }
        self.vfs.write(handle, at, data).await
    }

    async fn read(&self, handle: u64, at: u64, len: u64) -> Result<Vec<u8>> {
        if let Some(bytes) = self.vfs.read_now(handle, at, len)? {
            return Ok(bytes.to_vec());
        }
        Ok(self.vfs.read(handle, at, len).await?.to_vec())
    }

    /// What close(2) does: the flush, whose error it returns, and the release.
    async fn close(&self, handle: u64) -> Result<()> {
        let result = self.vfs.flush(handle).await;
        self.vfs.release(handle).await;
        result
    }

    /// Creates a file with this content and closes it.
    async fn put(&self, path: &str, data: &[u8]) {
        let handle = self.create(path).await.unwrap();
        self.write(handle, 0, data).await.unwrap();
        self.close(handle).await.unwrap();
    }

    async fn rename(&self, from: &str, to: &str, replace: Replace) -> Result<()> {
        let (from, from_name) = self.parent(from).await?;
        let (to, to_name) = self.parent(to).await?;
        self.vfs.rename(from, OsStr::new(from_name), to, OsStr::new(to_name), replace).await
    }

    async fn unlink(&self, path: &str) -> Result<()> {
        let (parent, name) = self.parent(path).await?;
        self.vfs.unlink(parent, OsStr::new(name)).await
    }

    async fn mkdir(&self, path: &str) -> Result<Attr> {
        let (parent, name) = self.parent(path).await?;
        self.vfs.mkdir(parent, OsStr::new(name)).await
    }

    async fn rmdir(&self, path: &str) -> Result<()> {
        let (parent, name) = self.parent(path).await?;
        self.vfs.rmdir(parent, OsStr::new(name)).await
    }

    async fn len(&self, path: &str) -> u64 {
        self.lookup(path).await.unwrap().size
    }

    /// What somebody else reads in the store.
    async fn remote(&self, path: &str) -> Option<Vec<u8>> {
        let path = RemotePath::new(path).unwrap();
        match self.store.open(&path, Access::Read).await {
            Ok(Opened::Read(blob)) => Some(read_all(&*blob, 0..blob.len()).await.unwrap().to_vec()),
            Ok(Opened::Update(_)) => panic!("opened for reading"),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The names in a directory from an offset on, each with the offset behind it.
    async fn names(&self, dir: u64, handle: u64, mut offset: u64) -> Vec<(String, u64)> {
        let mut names = Vec::new();
        loop {
            let page = self.vfs.readdir(dir, handle, offset).await.unwrap();
            names.extend(page.entries().map(|entry| (entry.name, entry.next_offset)));
            match names.last() {
                Some((_, last)) if *last != offset => offset = *last,
                _ => return names,
            }
        }
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("it hangs") })
}

/// The kind of a failure that the store, or the data path, is the reason of.
#[track_caller]
fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    match result.unwrap_err() {
        Error::Store(error) => error.kind(),
        other => panic!("{other:?} is not the store's"),
    }
}

fn pattern(len: u64, seed: u64) -> Vec<u8> {
    (0..len).map(|at| ((at ^ (at >> 9)).wrapping_mul(31).wrapping_add(seed) % 251) as u8).collect()
}

fn size(size: u64) -> SetAttr {
    SetAttr { size: Some(size), ..SetAttr::default() }
}

#[test]
fn names_are_looked_up() {
    run(async {
        let tree = Tree::new();
        tree.store.put("dir/file", &pattern(700, 1));
        let dir = tree.lookup("dir").await.unwrap();
        assert_eq!((dir.kind, dir.perm, dir.uid, dir.gid), (FileKind::Directory, 0o755, 7, 8));
        let file = tree.lookup("dir/file").await.unwrap();
        assert_eq!((file.kind, file.perm, file.size), (FileKind::Regular, 0o644, 700));
        assert_eq!(tree.vfs.getattr(file.ino).await.unwrap().size, 700);
        assert_eq!(tree.lookup("dir/file").await.unwrap().ino, file.ino, "the number is kept");
        assert_eq!(kind(tree.lookup("none").await), ErrorKind::NotFound);
        assert_eq!(kind(tree.lookup("dir/none").await), ErrorKind::NotFound);
        let long = "x".repeat(256);
        assert!(matches!(tree.lookup(&long).await, Err(Error::NameTooLong)));
        let bytes = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff");
        assert_eq!(kind(tree.vfs.lookup(ROOT, bytes).await), ErrorKind::BadName);
    });
}

#[test]
fn a_file_is_created_once() {
    run(async {
        let tree = Tree::new();
        let name = OsStr::new("a");
        let (attr, opened) = tree.vfs.create(ROOT, name, true).await.unwrap();
        assert_eq!((attr.size, attr.kind), (0, FileKind::Regular));
        assert_eq!(tree.remote("a").await, Some(Vec::new()), "at once, for everybody");
        tree.write(opened.handle, 0, b"kept").await.unwrap();
        assert_eq!(kind(tree.vfs.create(ROOT, name, true).await), ErrorKind::AlreadyExists);
        let (again, second) = tree.vfs.create(ROOT, name, false).await.unwrap();
        assert_eq!((again.ino, again.size), (attr.ino, 4), "the same file, not a new one");
        assert_eq!(tree.read(second.handle, 0, 9).await.unwrap(), b"kept");
        tree.close(second.handle).await.unwrap();
        tree.close(opened.handle).await.unwrap();
        assert_eq!(tree.remote("a").await.unwrap(), b"kept");
    });
}

#[test]
fn two_opens_share_one_state() {
    run(async {
        let tree = Tree::new();
        tree.store.put("a", &pattern(2000, 1));
        let reader = tree.reader("a").await;
        assert_eq!(tree.read(reader, 0, 4096).await.unwrap(), pattern(2000, 1));
        let (one, two) = (tree.writer("a").await, tree.writer("a").await);
        tree.write(one, 100, b"one").await.unwrap();
        tree.write(two, 1999, b"two").await.unwrap();
        let mut want = pattern(2000, 1);
        want[100..103].copy_from_slice(b"one");
        want.truncate(1999);
        want.extend(b"two");
        for handle in [reader, one, two] {
            assert_eq!(tree.read(handle, 0, 4096).await.unwrap(), want, "before it is sent");
        }
        assert_eq!(tree.len("a").await, 2002);
        tree.close(one).await.unwrap();
        tree.close(two).await.unwrap();
        assert_eq!(tree.remote("a").await.unwrap(), want);
        assert_eq!(tree.read(reader, 0, 4096).await.unwrap(), want, "after the writers left");
        tree.close(reader).await.unwrap();
    });
}

#[test]
fn a_handle_does_what_it_was_opened_for() {
    run(async {
        let tree = Tree::new();
        tree.store.put("a", b"x");
        let reader = tree.reader("a").await;
        assert!(matches!(tree.write(reader, 0, b"y").await, Err(Error::BadHandle)));
        assert!(matches!(tree.vfs.zero(reader, 0, 1, false).await, Err(Error::BadHandle)));
        assert!(matches!(tree.vfs.grow(reader, 10).await, Err(Error::BadHandle)));
        tree.close(reader).await.unwrap();
        assert!(matches!(tree.read(reader, 0, 1).await, Err(Error::BadHandle)));
        assert!(matches!(tree.vfs.readdir(ROOT, 99, 0).await, Err(Error::BadHandle)));
    });
}

#[test]
fn truncation_goes_both_ways() {
    run(async {
        let tree = Tree::new();
        for by_name in [false, true] {
            let path = if by_name { "named" } else { "held" };
            tree.store.put(path, &pattern(5000, 3));
            let attr = tree.lookup(path).await.unwrap();
            let handle = tree.writer(path).await;
            let by = (!by_name).then_some(handle);
            let mut want = pattern(5000, 3);
            for len in [4999u64, 513, 512, 700, 10_000, 1, 0, 300] {
                want.resize(len as usize, 0);
                let told = tree.vfs.setattr(attr.ino, by, size(len)).await.unwrap();
                assert_eq!(told.size, len);
                let got = tree.read(handle, 0, 20_000).await.unwrap();
                assert!(got == want, "{path} at {len}");
                assert_eq!(tree.remote(path).await.unwrap().len() as u64, len, "in the service");
            }
            tree.close(handle).await.unwrap();
            assert_eq!(tree.remote(path).await.unwrap(), want);
        }
    });
}

#[test]
fn lengths_beyond_the_service_are_refused() {
    run(async {
        let tree = Tree::new();
        let handle = tree.create("a").await.unwrap();
        let most = tree.store.capabilities().max_len;
        assert_eq!(kind(tree.write(handle, most, b"x").await), ErrorKind::TooLarge);
        let attr = tree.lookup("a").await.unwrap();
        let set = |len| tree.vfs.setattr(attr.ino, Some(handle), size(len));
        assert_eq!(kind(set(most + 1).await), ErrorKind::TooLarge);
        assert_eq!(set(most).await.unwrap().size, most);
        assert_eq!(set(3).await.unwrap().size, 3);
        tree.close(handle).await.unwrap();
        assert_eq!(tree.remote("a").await.unwrap(), [0; 3]);
    });
}

#[test]
fn zeroing_and_growing() {
    run(async {
        let tree = Tree::new();
        tree.store.put("a", &pattern(3000, 5));
        let handle = tree.writer("a").await;
        let mut want = pattern(3000, 5);
        tree.vfs.zero(handle, 100, 1000, false).await.unwrap();
        want[100..1100].fill(0);
        tree.vfs.zero(handle, 2900, 500, false).await.unwrap();
        want[2900..].fill(0);
        assert_eq!(tree.read(handle, 0, 9999).await.unwrap(), want, "cut at the end");
        tree.vfs.zero(handle, 2950, 1000, true).await.unwrap();
        want.resize(3950, 0);
        tree.vfs.grow(handle, 4000).await.unwrap();
        want.resize(4000, 0);
        tree.vfs.grow(handle, 10).await.unwrap();
        assert_eq!(tree.read(handle, 0, 9999).await.unwrap(), want);
        tree.close(handle).await.unwrap();
        assert_eq!(tree.remote("a").await.unwrap(), want);
    });
}

#[test]
fn seeking_finds_data_and_holes() {
    run(async {
        let tree = Tree::new();
        let mut bytes = pattern(700, 5);
        bytes.resize(5000, 0);
        tree.store.put("a", &bytes);
        let handle = tree.reader("a").await;
        let seek = async |at, hole| tree.vfs.seek(handle, at, hole).await;
        assert_eq!(seek(5, false).await.unwrap(), 5);
        assert_eq!(seek(5, true).await.unwrap(), 1024, "holes are made of whole sectors");
        assert_eq!(seek(4999, true).await.unwrap(), 4999);
        assert!(matches!(seek(1024, false).await, Err(Error::NoSuchOffset)));
        assert!(matches!(seek(5000, true).await, Err(Error::NoSuchOffset)));
        tree.close(handle).await.unwrap();
    });
}

#[test]
fn renaming_moves_a_file() {
    run(async {
        let tree = Tree::new();
        tree.mkdir("dir").await.unwrap();
        tree.store.put("a", b"content");
        tree.store.put("taken", b"other");
        let old = tree.lookup("a").await.unwrap();
        let refused = tree.rename("a", "taken", Replace::Refused).await;
        assert_eq!(kind(refused), ErrorKind::AlreadyExists);
        assert_eq!(tree.remote("a").await.unwrap(), b"content");
        assert_eq!(tree.remote("taken").await.unwrap(), b"other");
        tree.rename("a", "dir/b", Replace::Refused).await.unwrap();
        assert_eq!(kind(tree.lookup("a").await), ErrorKind::NotFound);
        assert_eq!(tree.lookup("dir/b").await.unwrap().ino, old.ino, "the inode moves");
        tree.rename("dir/b", "taken", Replace::Allowed).await.unwrap();
        let handle = tree.reader("taken").await;
        assert_eq!(tree.read(handle, 0, 99).await.unwrap(), b"content");
        tree.close(handle).await.unwrap();
        assert_eq!(kind(tree.rename("a", "b", Replace::Allowed).await), ErrorKind::NotFound);
        tree.rename("taken", "taken", Replace::Allowed).await.unwrap();
    });
}

#[test]
fn a_directory_is_renamed_by_copying() {
    run(async {
        let tree = Tree::new();
        tree.mkdir("empty").await.unwrap();
        tree.store.put("full/file", b"x");
        for dir in ["empty", "full"] {
            assert_eq!(
                kind(tree.rename(dir, "new", Replace::Allowed).await),
                ErrorKind::CrossDevice,
                "{dir} is not known"
            );
            tree.lookup(dir).await.unwrap();
            assert_eq!(
                kind(tree.rename(dir, "new", Replace::Allowed).await),
                ErrorKind::CrossDevice,
                "{dir} is known"
            );
        }
        let onto = tree.rename("full/file", "empty", Replace::Allowed).await;
        assert_eq!(kind(onto), ErrorKind::IsDirectory);
        assert_eq!(tree.remote("full/file").await.unwrap(), b"x");
    });
}

#[test]
fn an_open_dirty_file_is_renamed_with_what_is_dirty() {
    run(async {
        let tree = Tree::new();
        let handle = tree.create("a").await.unwrap();
        tree.write(handle, 0, &pattern(3000, 1)).await.unwrap();
        tree.rename("a", "b", Replace::Allowed).await.unwrap();
        assert_eq!(tree.remote("b").await.unwrap(), pattern(3000, 1), "nothing is left behind");
        tree.write(handle, 3000, b"more").await.unwrap();
        tree.write(handle, 10, b"in it").await.unwrap();
        tree.close(handle).await.unwrap();
        let mut want = pattern(3000, 1);
        want[10..15].copy_from_slice(b"in it");
        want.extend(b"more");
        assert_eq!(tree.remote("b").await.unwrap(), want);
        assert_eq!(tree.remote("a").await, None);
    });
}

#[test]
fn a_file_that_is_being_sent_is_renamed_at_any_moment() {
    run(async {
        let tree = Tree::new();
        let mut want = pattern(5 * MIB, 1);
        let handle = tree.create("f0").await.unwrap();
        tree.write(handle, 0, &want).await.unwrap();
        for round in 0..24u64 {
            tree.store.set_latency(Duration::from_millis(round % 5));
            // Something for each part of a flush: updates, room, a cut, the length.
            let at = round * 100_000;
            tree.write(handle, at, &pattern(3000, round)).await.unwrap();
            want[at as usize..][..3000].copy_from_slice(&pattern(3000, round));
            let len = want.len() as u64 + 70_000 - 40_000 * (round % 3);
            let vfs = Arc::clone(&tree.vfs);
            let ino = tree.lookup(&format!("f{round}")).await.unwrap().ino;
            let length =
                tokio::spawn(async move { vfs.setattr(ino, Some(handle), size(len)).await });
            let vfs = Arc::clone(&tree.vfs);
            let flush = tokio::spawn(async move { vfs.fsync(handle).await });
            tokio::time::sleep(Duration::from_millis(round % 7)).await;
            let (from, to) = (format!("f{round}"), format!("f{}", round + 1));
            tree.rename(&from, &to, Replace::Allowed).await.unwrap();
            flush.await.unwrap().unwrap();
            length.await.unwrap().unwrap();
            want.resize(len as usize, 0);
        }
        tree.close(handle).await.unwrap();
        assert!(tree.remote("f24").await.unwrap() == want);
        assert_eq!(tree.remote("f23").await, None);
    });
}

#[test]
fn those_who_read_a_file_follow_it_to_its_new_name() {
    run(async {
        let tree = Tree::new();
        let data = pattern(3 * MIB, 1);
        tree.store.put("a", &data);
        let reader = tree.reader("a").await;
        assert_eq!(tree.read(reader, 0, 100).await.unwrap(), data[..100]);
        tree.rename("a", "b", Replace::Allowed).await.unwrap();
        assert_eq!(tree.read(reader, MIB, 100).await.unwrap(), data[MIB as usize..][..100]);
        let writer = tree.writer("b").await;
        tree.write(writer, 2 * MIB, b"new").await.unwrap();
        assert_eq!(tree.read(reader, 2 * MIB, 3).await.unwrap(), b"new", "shared state");
        tree.close(writer).await.unwrap();
        tree.close(reader).await.unwrap();
        // What somebody else put there meanwhile is not taken for what is read.
        let reader = tree.reader("b").await;
        assert_eq!(tree.read(reader, 0, 100).await.unwrap(), data[..100]);
        tree.store.put("b", &pattern(3 * MIB, 2));
        tree.rename("b", "c", Replace::Allowed).await.unwrap();
        assert_eq!(kind(tree.read(reader, 2 * MIB + 9000, 9).await), ErrorKind::Stale);
        let second = tree.reader("c").await;
        assert!(tree.read(second, 0, 100).await.unwrap() == pattern(100, 2));
        tree.close(reader).await.unwrap();
        tree.close(second).await.unwrap();
    });
}

#[test]
fn a_file_that_is_renamed_over_stays_with_those_who_have_it_open() {
    run(async {
        let tree = Tree::new();
        tree.store.put("a", b"the new one");
        tree.store.put("b", &pattern(5000, 1));
        let reader = tree.reader("b").await;
        assert_eq!(tree.read(reader, 0, 9999).await.unwrap(), pattern(5000, 1));
        let old = tree.lookup("b").await.unwrap();
        tree.lookup("a").await.unwrap();
        tree.rename("a", "b", Replace::Allowed).await.unwrap();
        let new = tree.lookup("b").await.unwrap();
        assert_ne!(new.ino, old.ino);
        assert_eq!(new.size, 11);
        assert_eq!(tree.read(reader, 0, 9999).await.unwrap(), pattern(5000, 1), "what was read");
        let second = tree.reader("b").await;
        assert_eq!(tree.read(second, 0, 9999).await.unwrap(), b"the new one");
        tree.close(reader).await.unwrap();
        tree.close(second).await.unwrap();
    });
}

/// What was written to the replaced file, and is being sent or not yet, must not come down upon the
/// file that has its name now.
#[test]
#[allow(clippy::async_yields_async)] // what is sent goes on beside the test
fn nothing_written_to_a_replaced_file_lands_in_its_successor() {
    for known in [true, false] {
        run(async {
            let tree = Tree::new();
            tree.store.put("a", &pattern(8192, 1));
            tree.store.put("b", &pattern(8192, 2));
            let handle = tree.writer("b").await;
            if known {
                tree.lookup("a").await.unwrap();
            }
            tree.store.set_latency(Duration::from_millis(60));
            let send = async |at: u64| {
                tree.write(handle, at, &[0xEE; 512]).await.unwrap();
                let vfs = Arc::clone(&tree.vfs);
                tokio::spawn(async move { vfs.fsync(handle).await })
            };
            // One update is on its way when the rename begins, and would arrive before it; the other
            // would arrive after it.
            let before = send(0).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            let after = async {
                tokio::time::sleep(Duration::from_millis(60)).await;
                send(4096).await
            };
            let (renamed, after) = tokio::join!(tree.rename("a", "b", Replace::Allowed), after);
            renamed.unwrap();
            before.await.unwrap().ok();
            after.await.unwrap().ok();
            tree.close(handle).await.ok();
            tree.store.set_latency(Duration::ZERO);
            assert!(tree.remote("b").await.unwrap() == pattern(8192, 1), "known: {known}");
        });
    }
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    run(async {
        let tree = Tree::new();
        let (attr, opened) = tree.vfs.create(ROOT, OsStr::new("a"), true).await.unwrap();
        let (ino, handle) = (attr.ino, opened.handle);
        tree.write(handle, 0, &pattern(1000, 1)).await.unwrap();
        tree.vfs.fsync(handle).await.unwrap();
        tree.write(handle, 1000, b"dirty").await.unwrap();
        tree.unlink("a").await.unwrap();
        assert_eq!(tree.remote("a").await, None);
        assert_eq!(kind(tree.lookup("a").await), ErrorKind::NotFound);
        tree.write(handle, 1005, b" still").await.unwrap();
        let mut want = pattern(1000, 1);
        want.extend(b"dirty still");
        assert_eq!(tree.read(handle, 0, 9999).await.unwrap(), want);
        tree.vfs.fsync(handle).await.unwrap();
        let attr = SetAttr { size: Some(3), ..SetAttr::default() };
        assert_eq!(tree.vfs.setattr(ino, Some(handle), attr).await.unwrap().size, 3);
        assert_eq!(tree.read(handle, 0, 9999).await.unwrap(), want[..3]);
        // The name is free, and nothing of the old file shows up in a new one.
        let fresh = tree.create("a").await.unwrap();
        tree.write(fresh, 0, b"new").await.unwrap();
        tree.write(handle, 0, b"old").await.unwrap();
        tree.close(handle).await.unwrap();
        tree.close(fresh).await.unwrap();
        assert_eq!(tree.remote("a").await.unwrap(), b"new");
        assert_eq!(tree.vfs.unconfirmed(), 0, "what nobody wants is given up");
        assert_eq!(kind(tree.unlink("none").await), ErrorKind::NotFound);
    });
}

#[test]
fn directories_are_made_and_removed() {
    run(async {
        let tree = Tree::new();
        let attr = tree.mkdir("dir").await.unwrap();
        assert_eq!(attr.kind, FileKind::Directory);
        assert_eq!(kind(tree.mkdir("dir").await), ErrorKind::AlreadyExists);
        tree.put("dir/file", b"x").await;
        assert_eq!(kind(tree.rmdir("dir").await), ErrorKind::NotEmpty);
        assert_eq!(kind(tree.unlink("dir").await), ErrorKind::IsDirectory);
        assert_eq!(kind(tree.rmdir("dir/file").await), ErrorKind::NotDirectory);
        tree.unlink("dir/file").await.unwrap();
        tree.rmdir("dir").await.unwrap();
        assert_eq!(kind(tree.lookup("dir").await), ErrorKind::NotFound);
        assert_eq!(kind(tree.rmdir("dir").await), ErrorKind::NotFound);
        assert_eq!(kind(tree.open("dir", true).await), ErrorKind::NotFound);
    });
}

#[test]
fn directories_are_read_from_any_offset() {
    run(async {
        let tree = Tree::new();
        let files: Vec<String> = (0..10).map(|n| format!("f{n}")).collect();
        for file in &files {
            tree.store.put(&format!("dir/{file}"), &pattern(100, 1));
        }
        let dir = tree.lookup("dir").await.unwrap().ino;
        let handle = tree.vfs.opendir(dir).unwrap();
        let all = tree.names(dir, handle, 0).await;
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[..2], [".", ".."]);
        assert_eq!(names[2..], files);
        // Backwards over every border of a page, and behind the end.
        for (index, (_, offset)) in all.iter().enumerate().rev() {
            assert_eq!(tree.names(dir, handle, *offset).await, all[index + 1..], "at {offset}");
        }
        for (index, (_, offset)) in all.iter().enumerate() {
            assert_eq!(tree.names(dir, handle, *offset).await, all[index + 1..], "at {offset}");
        }
        assert!(tree.names(dir, handle, 999).await.is_empty());
        let page = tree.vfs.readdir(dir, handle, 0).await.unwrap();
        let known: Vec<_> = page.entries().map(|entry| page.remember(&entry)).collect();
        assert!(known[..2].iter().all(Option::is_none), "not of . and ..");
        assert_eq!(known[3].unwrap().size, 100);
        assert_eq!(tree.lookup("dir/f1").await.unwrap().ino, known[3].unwrap().ino);
        tree.vfs.releasedir(handle);
        assert!(matches!(tree.vfs.readdir(dir, handle, 0).await, Err(Error::BadHandle)));
    });
}

#[test]
fn reading_a_directory_anew_shows_what_is_there_now() {
    run(async {
        let tree = Tree::new();
        tree.store.put("a", b"");
        let handle = tree.vfs.opendir(ROOT).unwrap();
        assert_eq!(tree.names(ROOT, handle, 2).await.len(), 1);
        tree.put("b", b"").await;
        tree.unlink("a").await.unwrap();
        let names: Vec<String> =
            tree.names(ROOT, handle, 0).await.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [".", "..", "b"], "rewinddir(3) is as good as opening it again");
    });
}

#[test]
fn going_back_in_a_directory_that_has_changed_loses_and_doubles_nothing() {
    const FILES: [&str; 10] = ["f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9"];
    run(async {
        // Names come and go in every page, so that pages become longer, shorter and others.
        for removed in [&[1][..], &[2], &[0, 1, 2], &[3, 4, 5, 9], &[1, 2, 3, 4, 5, 6, 7, 8]] {
            for added in [&[][..], &["f0a"], &["f0a", "f0b", "f0c", "f0d"], &["f5a", "f9a"]] {
                let tree = Tree::new();
                for file in FILES {
                    tree.store.put(file, b"");
                }
                let handle = tree.vfs.opendir(ROOT).unwrap();
                let all = tree.names(ROOT, handle, FIRST).await;
                for file in removed {
                    tree.unlink(FILES[*file]).await.unwrap();
                }
                for file in added {
                    tree.store.put(file, b"");
                }
                let stayed = |name: &str| {
                    FILES.iter().enumerate().any(|(n, file)| *file == name && !removed.contains(&n))
                };
                let there: Vec<&str> = FILES.into_iter().filter(|name| stayed(name)).collect();
                // Whether names that came or went are shown is open; the others are, once each.
                for (_, offset) in all.iter().rev().chain(&all[..1]) {
                    let mut names: Vec<_> = tree
                        .names(ROOT, handle, *offset)
                        .await
                        .into_iter()
                        .map(|(name, _)| name)
                        .collect();
                    assert!(names.is_sorted_by(|one, other| one < other), "{names:?}");
                    names.retain(|name| stayed(name));
                    let after = there.len() - names.len();
                    assert_eq!(names, there[after..], "at {offset}, {removed:?} {added:?}");
                }
                let mut names = tree.names(ROOT, handle, FIRST).await;
                names.retain(|(name, _)| stayed(name));
                assert_eq!(names.len(), there.len());
            }
        }
    });
}

/// A page of a listing is kept while it is read, and by then other calls may know better.
#[test]
fn an_old_listing_does_not_hide_what_was_written_since() {
    run(async {
        let slow = Config { attr_timeout: Duration::from_secs(60), ..config() };
        let tree = Tree::over(MemoryStore::new(), slow);
        tree.store.put("a", b"short");
        tree.store.put("b", b"short");
        let handle = tree.vfs.opendir(ROOT).unwrap();
        let page = tree.vfs.readdir(ROOT, handle, 2).await.unwrap();
        let all: Vec<_> = page.entries().collect();
        tree.put("a", b"much longer").await;
        page.remember(&all[0]).unwrap();
        let a = tree.vfs.inodes.at(&RemotePath::new("a").unwrap()).unwrap();
        assert_eq!(tree.vfs.getattr_now(a.ino).unwrap().size, 11);
        tree.unlink("b").await.unwrap();
        assert!(
            page.remember(&all[1]).is_none(),
            "a removed file is not shown to the kernel again"
        );
    });
}

#[test]
fn extended_attributes_are_only_those_of_the_service() {
    run(async {
        let tree = Tree::new();
        tree.store.put("a", b"");
        let attr = tree.lookup("a").await.unwrap();
        assert!(tree.vfs.listxattr(attr.ino).await.unwrap().is_empty());
        for name in ["user.blobdir.none", "user.other", "security.capability", "user.blobdir."] {
            let got = tree.vfs.getxattr(attr.ino, OsStr::new(name)).await;
            assert!(matches!(got, Err(Error::NoAttribute)), "{name}");
        }
        assert!(tree.vfs.listxattr(ROOT).await.unwrap().is_empty());
    });
}

#[test]
fn owner_and_mode_are_the_mounts() {
    run(async {
        let tree = Tree::new();
        tree.store.put("a", b"");
        let attr = tree.lookup("a").await.unwrap();
        let none = SetAttr::default();
        for change in [
            SetAttr { mode: Some(0o100_600), ..none },
            SetAttr { mode: Some(0o104_644), ..none },
            SetAttr { uid: Some(0), ..none },
            SetAttr { gid: Some(0), ..none },
        ] {
            let result = tree.vfs.setattr(attr.ino, None, change).await;
            assert!(matches!(result, Err(Error::Unsupported(_))), "{change:?}");
        }
        let same = SetAttr { mode: Some(0o100_644), uid: Some(7), gid: Some(8), size: None };
        tree.vfs.setattr(attr.ino, None, same).await.unwrap();
    });
}

#[test]
fn a_read_only_tree_refuses_every_change() {
    run(async {
        let store = MemoryStore::new();
        store.put("a", b"x");
        let tree = Tree::over(store, Config { read_only: true, ..config() });
        let attr = tree.lookup("a").await.unwrap();
        assert_eq!(attr.perm, 0o444);
        assert_eq!(kind(tree.open("a", true).await), ErrorKind::ReadOnly);
        assert_eq!(kind(tree.create("b").await), ErrorKind::ReadOnly);
        assert_eq!(kind(tree.mkdir("d").await), ErrorKind::ReadOnly);
        assert_eq!(kind(tree.unlink("a").await), ErrorKind::ReadOnly);
        assert_eq!(kind(tree.rmdir("a").await), ErrorKind::ReadOnly);
        assert_eq!(kind(tree.rename("a", "b", Replace::Allowed).await), ErrorKind::ReadOnly);
        assert_eq!(kind(tree.vfs.setattr(attr.ino, None, size(0)).await), ErrorKind::ReadOnly);
        let handle = tree.reader("a").await;
        assert_eq!(tree.read(handle, 0, 9).await.unwrap(), b"x");
        tree.close(handle).await.unwrap();
    });
}

#[test]
fn a_reader_never_sees_two_versions() {
    run(async {
        let tree = Tree::new();
        let old = pattern(2 * MIB, 1);
        tree.store.put("a", &old);
        let before = tree.lookup("a").await.unwrap();
        let handle = tree.reader("a").await;
        let got = tree.read(handle, 5000, 100).await.unwrap();
        assert_eq!(got, old[5000..5100]);
        tree.store.put("a", &pattern(2 * MIB, 2));
        assert_eq!(tree.read(handle, 5000, 100).await.unwrap(), old[5000..5100], "as it was read");
        assert_eq!(kind(tree.read(handle, MIB, 100).await), ErrorKind::Stale);
        let after = tree.lookup("a").await.unwrap();
        assert_ne!(
            after.ino, before.ino,
            "so that the kernel's cache is not taken for the new one"
        );
        assert!(matches!(tree.vfs.getattr(before.ino).await, Ok(attr) if attr.size == 2 * MIB));
        let second = tree.reader("a").await;
        assert!(tree.read(second, 0, MIB).await.unwrap() == pattern(2 * MIB, 2)[..MIB as usize]);
        assert_eq!(kind(tree.read(handle, MIB, 100).await), ErrorKind::Stale, "and stays so");
        tree.close(handle).await.unwrap();
        tree.close(second).await.unwrap();
    });
}

#[test]
fn opening_a_replaced_file_by_its_old_number_is_refused() {
    run(async {
        let tree = Tree::new();
        tree.store.put("a", b"one");
        let attr = tree.lookup("a").await.unwrap();
        let handle = tree.vfs.open(attr.ino, OpenFlags { write: false }).await.unwrap().handle;
        tree.store.put("a", b"other");
        let again = tree.vfs.open(attr.ino, OpenFlags { write: false }).await;
        assert!(matches!(again, Err(Error::StaleInode)));
        tree.close(handle).await.unwrap();
        // Nobody has it open, but the kernel goes by the length it was told.
        let attr = tree.lookup("a").await.unwrap();
        tree.store.put("a", b"another length");
        let opened = tree.vfs.open(attr.ino, OpenFlags { write: false }).await;
        assert!(matches!(opened, Err(Error::StaleInode)));
        let handle = tree.reader("a").await;
        assert_eq!(tree.read(handle, 0, 99).await.unwrap(), b"another length");
        tree.close(handle).await.unwrap();
    });
}

#[test]
fn what_is_cached_is_kept_only_while_it_is_true() {
    run(async {
        let tree = Tree::new();
        tree.put("a", &pattern(9000, 1)).await;
        let opened = tree.open("a", false).await.unwrap();
        assert!(opened.keep_cache, "written here and unchanged since");
        let before = tree.store.requests();
        assert_eq!(tree.read(opened.handle, 0, 9999).await.unwrap(), pattern(9000, 1));
        assert_eq!(tree.store.requests(), before, "nothing is fetched");
        tree.close(opened.handle).await.unwrap();
        let opened = tree.open("a", false).await.unwrap();
        assert!(opened.keep_cache);
        tree.close(opened.handle).await.unwrap();
        // Of the same length, so that nothing else tells.
        let ino = tree.lookup("a").await.unwrap().ino;
        tree.store.put("a", &pattern(9000, 2));
        let opened = tree.vfs.open(ino, OpenFlags { write: false }).await.unwrap();
        assert!(!opened.keep_cache);
        assert_eq!(tree.read(opened.handle, 0, 9999).await.unwrap(), pattern(9000, 2));
    });
}

#[test]
fn what_was_closed_is_there_for_the_next_open_anywhere() {
    run(async {
        let here = Tree::new();
        let there = Tree::over(here.store.clone(), config());
        for round in 0..5u64 {
            let data = pattern(1000 + round * 700, round);
            here.put("a", &[]).await;
            let handle = here.writer("a").await;
            here.vfs
                .setattr(here.lookup("a").await.unwrap().ino, Some(handle), size(0))
                .await
                .unwrap();
            here.write(handle, 0, &data).await.unwrap();
            here.close(handle).await.unwrap();
            let opened = match there.open("a", false).await {
                // It had it open in an older version: open(2) looks the name up again then.
                Err(Error::StaleInode) => there.open("a", false).await.unwrap(),
                opened => opened.unwrap(),
            };
            assert_eq!(there.read(opened.handle, 0, 99_999).await.unwrap(), data);
            there.close(opened.handle).await.unwrap();
        }
    });
}

#[test]
fn a_duplicate_that_is_closed_costs_the_room_once_at_most() {
    run(async {
        let tree = Tree::new();
        let handle = tree.create("a").await.unwrap();
        let writer = tree.vfs.handle(handle).unwrap().file.writer_handle().unwrap();
        // A shell closes one as soon as it has redirected to the file.
        tree.vfs.flush(handle).await.unwrap();
        let mut all: Vec<u8> = Vec::new();
        for round in 1..=4 {
            // Enough to be sent before it is closed, which takes room.
            for piece in pattern(8 * MIB, round).chunks(MIB as usize) {
                tree.write(handle, all.len() as u64, piece).await.unwrap();
                all.extend(piece);
            }
            while writer.capacity() < all.len() as u64 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tree.vfs.flush(handle).await.unwrap();
            let len = all.len() as u64;
            assert_eq!(writer.len(), len);
            assert_eq!(writer.capacity() == len, round == 1, "after close {round}");
            assert!(tree.remote("a").await.unwrap() == all);
        }
        tree.vfs.release(handle).await;
        assert_eq!(writer.capacity(), all.len() as u64);
    });
}

#[test]
fn nothing_is_left_of_what_the_kernel_forgot() {
    run(async {
        let tree = Tree::new();
        let vfs = &tree.vfs;
        let mut told = Vec::new();
        for n in 0..50 {
            let name = format!("f{n}");
            let (attr, opened) = vfs.create(ROOT, OsStr::new(&name), true).await.unwrap();
            tree.write(opened.handle, 0, &pattern(700, 1)).await.unwrap();
            told.push(attr.ino);
            match n % 5 {
                0 => vfs.unlink(ROOT, OsStr::new(&name)).await.unwrap(),
                1 => {
                    let to = format!("g{n}");
                    let to = OsStr::new(&to);
                    vfs.rename(ROOT, OsStr::new(&name), ROOT, to, Replace::Allowed).await.unwrap();
                }
                2 => {
                    told.push(vfs.lookup(ROOT, OsStr::new(&name)).await.unwrap().ino);
                }
                3 => {
                    // Over a file that is open.
                    let to = format!("f{}", n - 1);
                    let to = OsStr::new(&to);
                    vfs.rename(ROOT, OsStr::new(&name), ROOT, to, Replace::Allowed).await.unwrap();
                }
                _ => {
                    tree.store.put(&name, b"by somebody else");
                    told.push(vfs.lookup(ROOT, OsStr::new(&name)).await.unwrap().ino);
                }
            }
            // Some are forgotten before the handle is closed.
            if n % 2 == 0 {
                vfs.forget(told.pop().unwrap(), 1);
            }
            tree.close(opened.handle).await.ok();
        }
        let handle = vfs.opendir(ROOT).unwrap();
        let mut offset = 0;
        loop {
            let page = vfs.readdir(ROOT, handle, offset).await.unwrap();
            let Some(last) = page.entries().last() else { break };
            offset = last.next_offset;
            let known = page.entries().filter_map(|entry| page.remember(&entry));
            told.extend(known.map(|attr| attr.ino));
        }
        vfs.releasedir(handle);
        assert!(vfs.inodes.count() > 20);
        for ino in told {
            vfs.forget(ino, 1);
        }
        assert_eq!(vfs.inodes.count(), 1, "the root alone");
        let path = |n| RemotePath::new(&format!("n{n}")).unwrap();
        let many: Vec<u64> =
            (0..5000).map(|n| vfs.inodes.remember(&path(n), Stat::directory()).ino).collect();
        assert!(vfs.inodes.room() > 5000);
        for ino in many {
            vfs.forget(ino, 1);
        }
        assert!(vfs.inodes.room() < 50, "for {} inodes", vfs.inodes.room());
        assert!(vfs.handles.read().is_empty() && vfs.dirs.read().is_empty());
        assert_eq!(vfs.unconfirmed(), 0);
        assert!(vfs.io.unsettled().is_empty());
    });
}

#[test]
fn a_failed_close_is_made_good_when_the_service_is_back() {
    run(async {
        let tree = Tree::new();
        let handle = tree.create("a").await.unwrap();
        tree.write(handle, 0, &pattern(3000, 1)).await.unwrap();
        tree.store.set_failure(Some((ErrorKind::Unavailable, Outcome::NotApplied)));
        assert_eq!(kind(tree.vfs.fsync(handle).await), ErrorKind::Unavailable);
        assert_eq!(kind(tree.close(handle).await), ErrorKind::Unavailable, "close tells it");
        tree.store.set_failure(None);
        // Nobody asks any more: the data path does by itself.
        while tree.remote("a").await.unwrap() != pattern(3000, 1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // And it is not held open for that.
        let ino = tree.lookup("a").await.unwrap().ino;
        while tree.vfs.inodes.get(ino).unwrap().writable_file().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            tree.vfs.getattr_now(ino);
        }
        assert_eq!(tree.vfs.unconfirmed(), 0);
    });
}

#[test]
fn what_was_refused_is_read_and_sent_again() {
    run(async {
        let tree = Tree::new();
        tree.store.put("a", &pattern(9000, 1));
        let handle = tree.writer("a").await;
        tree.write(handle, 1000, &pattern(3000, 2)).await.unwrap();
        let mut want = pattern(9000, 1);
        want[1000..4000].copy_from_slice(&pattern(3000, 2));
        tree.store.set_failure(Some((ErrorKind::Unavailable, Outcome::NotApplied)));
        assert_eq!(kind(tree.vfs.fsync(handle).await), ErrorKind::Unavailable);
        tree.store.set_failure(None);
        assert_eq!(tree.read(handle, 0, 9999).await.unwrap(), want);
        assert_eq!(tree.remote("a").await.unwrap(), pattern(9000, 1));
        tree.vfs.fsync(handle).await.unwrap();
        assert_eq!(tree.remote("a").await.unwrap(), want);
        tree.close(handle).await.unwrap();
    });
}

#[test]
fn an_update_that_may_have_been_applied_fails_the_file_and_no_other() {
    run(async {
        let tree = Tree::new();
        let handle = tree.create("a").await.unwrap();
        let other = tree.create("b").await.unwrap();
        tree.write(handle, 0, &pattern(3000, 1)).await.unwrap();
        tree.store.set_failure(Some((ErrorKind::TimedOut, Outcome::Unknown)));
        assert_eq!(kind(tree.vfs.fsync(handle).await), ErrorKind::Fenced);
        tree.store.set_failure(None);
        for _ in 0..2 {
            assert_eq!(kind(tree.write(handle, 0, b"x").await), ErrorKind::Fenced);
            assert_eq!(kind(tree.vfs.fsync(handle).await), ErrorKind::Fenced);
            assert_eq!(kind(tree.vfs.flush(handle).await), ErrorKind::Fenced);
        }
        let second = tree.writer("a").await;
        assert_eq!(kind(tree.write(second, 0, b"x").await), ErrorKind::Fenced, "shared state");
        assert_eq!(kind(tree.close(second).await), ErrorKind::Fenced);
        assert_eq!(kind(tree.close(handle).await), ErrorKind::Fenced);
        tree.write(other, 0, b"fine").await.unwrap();
        tree.close(other).await.unwrap();
        assert_eq!(tree.remote("b").await.unwrap(), b"fine");
        assert_eq!(tree.vfs.unconfirmed(), 0, "the bytes are given up, and were logged");
        // Opened anew it starts from what the service has.
        let handle = tree.writer("a").await;
        tree.write(handle, 0, b"again").await.unwrap();
        tree.close(handle).await.unwrap();
        assert!(tree.remote("a").await.unwrap().starts_with(b"again"));
    });
}

/// Whoever makes a call may drop it wherever it stands.
#[test]
fn calls_that_are_given_up_leave_the_file_usable() {
    run(async {
        let tree = Tree::new();
        for (round, give_up) in [5u64, 35, 65, 95, 125].into_iter().enumerate() {
            let give_up = Duration::from_millis(give_up);
            let (a, b) = (format!("a{round}"), format!("b{round}"));
            tree.store.set_latency(Duration::ZERO);
            tree.store.put(&a, &pattern(9000, 1));
            let attr = tree.lookup(&a).await.unwrap();
            let handle = tree.writer(&a).await;
            tree.write(handle, 100, b"dirty").await.unwrap();
            tree.store.set_latency(Duration::from_millis(30));
            let vfs = &tree.vfs;
            let _ =
                tokio::time::timeout(give_up, vfs.setattr(attr.ino, Some(handle), size(600))).await;
            let _ = tokio::time::timeout(give_up, tree.rename(&a, &b, Replace::Allowed)).await;
            let _ = tokio::time::timeout(give_up, tree.unlink(&a)).await;
            let _ = tokio::time::timeout(give_up, tree.unlink(&b)).await;
            tree.write(handle, 0, b"later").await.unwrap();
            tree.store.set_latency(Duration::ZERO);
            let ended = tokio::time::timeout(Duration::from_secs(5), tree.close(handle)).await;
            assert!(ended.is_ok(), "close hangs after calls given up after {give_up:?}");
            for name in [a, b] {
                tree.unlink(&name).await.ok();
            }
        }
    });
}

#[test]
fn everything_is_flushed_at_the_end() {
    run(async {
        let tree = Tree::new();
        tree.store.set_latency(Duration::from_millis(5));
        let mut handles = Vec::new();
        for n in 0..8u64 {
            let handle = tree.create(&format!("f{n}")).await.unwrap();
            tree.write(handle, n * 300, &pattern(2000, n)).await.unwrap();
            handles.push(handle);
        }
        assert_eq!(tree.vfs.unflushed().len(), 8);
        tree.vfs.flush_all().await.unwrap();
        assert!(tree.vfs.unflushed().is_empty());
        for n in 0..8u64 {
            let mut want = vec![0; n as usize * 300];
            want.extend(pattern(2000, n));
            assert_eq!(tree.remote(&format!("f{n}")).await.unwrap(), want);
        }
    });
}
