//! Snapshots of files, asked for by path: they are no call that the kernel knows.

use super::{Result, Vfs};
use crate::store::{ChangePage, Cursor, Error, ErrorKind, RemotePath};

impl Vfs {
    /// Takes a snapshot of the file at `path`, with everything that was written to it here before. Gives
    /// the path at which it can be read.
    ///
    /// Errors: as of [`Store::snapshot`](crate::store::Store::snapshot), and of a flush.
    pub async fn snapshot(&self, path: &str) -> Result<String> {
        let path = parse("snapshot", path)?;
        self.check_writable(&path)?;
        self.flush_at(&path).await?;
        Ok(self.store.snapshot(&path).await?.as_str().to_owned())
    }

    /// One page of what has changed from the snapshot at `from` to `to`, a later snapshot of the same file
    /// or the file itself with everything that was written to it here; from the beginning or where
    /// `cursor` says.
    ///
    /// Errors: as of [`Store::changes`](crate::store::Store::changes), and of a flush.
    pub async fn changes(
        &self,
        from: &str,
        to: &str,
        cursor: Option<Cursor>,
    ) -> Result<ChangePage> {
        let (from, to) = (parse("compare", from)?, parse("compare", to)?);
        if cursor.is_none() {
            self.flush_at(&to).await?;
        }
        Ok(self.store.changes(&from, &to, cursor).await?)
    }

    /// Brings into the service what was written to a file here.
    async fn flush_at(&self, path: &RemotePath) -> Result<()> {
        match self.inodes.at(path).and_then(|inode| inode.writable_file()) {
            Some(file) => Ok(file.flush(false).await?),
            None => Ok(()),
        }
    }
}

fn parse(op: &'static str, path: &str) -> Result<RemotePath> {
    RemotePath::new(path).ok_or_else(|| {
        Error::new(ErrorKind::BadName, op, path, "it is no path of this tree").into()
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{Config, Error, OpenFlags, ROOT, Vfs};
    use crate::io::{Config as IoConfig, Shared};
    use crate::store::memory::MemoryStore;
    use crate::store::{Access, Change, ErrorKind, Opened, RemotePath, Store, read_all};

    fn tree(store: &MemoryStore, read_only: bool) -> Vfs {
        let io = IoConfig {
            cache_size: 16 << 20,
            dirty_limit: 16 << 20,
            connections: 4,
            timeout: Duration::from_secs(5),
        };
        let config = Config {
            read_only,
            uid: 0,
            gid: 0,
            umask: 0,
            attr_timeout: Duration::ZERO,
            keep: None,
        };
        let io = Shared::new(&io, store.capabilities());
        Vfs::new(Arc::new(store.clone()), io, config)
    }

    async fn content(store: &MemoryStore, path: &str) -> Vec<u8> {
        let path = RemotePath::new(path).unwrap();
        let Opened::Read(blob) = store.open(&path, Access::Read).await.unwrap() else { panic!() };
        read_all(&*blob, 0..blob.len()).await.unwrap().to_vec()
    }

    fn kind<T: std::fmt::Debug>(result: super::Result<T>) -> ErrorKind {
        match result.unwrap_err() {
            Error::Store(error) => error.kind(),
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn a_snapshot_holds_what_is_still_dirty() {
        let store = MemoryStore::new();
        store.put("f", &[1; 4096]);
        let vfs = tree(&store, false);
        let ino = vfs.lookup(ROOT, OsStr::new("f")).await.unwrap().ino;
        let handle = vfs.open(ino, OpenFlags { write: true }).await.unwrap().handle;
        vfs.write(handle, 1000, &[2; 10_000]).await.unwrap();
        let taken = vfs.snapshot("f").await.unwrap();
        let mut expected = vec![1; 1000];
        expected.extend([2; 10_000]);
        assert_eq!(content(&store, &taken).await, expected);
        // It goes on being written, and the snapshot does not change.
        vfs.write(handle, 0, &[3; 512]).await.unwrap();
        let page = vfs.changes(&taken, "f", None).await.unwrap();
        let expected_changes = [Change { range: 0..512, cleared: false }];
        assert_eq!((&*page.changes, page.next), (&expected_changes[..], None), "dirty bytes count");
        assert_eq!(content(&store, &taken).await, expected);
        vfs.release(handle).await;
    }

    #[tokio::test]
    async fn a_tree_that_is_read_only_takes_none() {
        let store = MemoryStore::new();
        store.put("f", &[1; 512]);
        let vfs = tree(&store, true);
        assert_eq!(kind(vfs.snapshot("f").await), ErrorKind::ReadOnly);
        assert_eq!(kind(tree(&store, false).snapshot("a//b").await), ErrorKind::BadName);
    }

    #[tokio::test]
    async fn snapshots_are_read_and_removed_as_files_and_never_written() {
        let store = MemoryStore::new();
        store.put("d/f", &[1; 512]);
        let vfs = tree(&store, false);
        let taken = vfs.snapshot("d/f").await.unwrap();
        let mut dir = ROOT;
        let mut above = ROOT;
        for name in taken.split('/').map(OsStr::new) {
            above = dir;
            dir = vfs.lookup(dir, name).await.unwrap().ino;
        }
        let file = vfs.lookup(above, OsStr::new("f")).await.unwrap();
        assert_eq!((file.size, file.perm & 0o222), (512, 0));
        assert_eq!(kind(vfs.open(file.ino, OpenFlags { write: true }).await), ErrorKind::ReadOnly);
        assert_eq!(kind(vfs.create(above, OsStr::new("g"), true).await), ErrorKind::ReadOnly);
        assert_eq!(kind(vfs.mkdir(above, OsStr::new("g")).await), ErrorKind::ReadOnly);
        let live = vfs.lookup(ROOT, OsStr::new("d")).await.unwrap().ino;
        assert_eq!(kind(vfs.unlink(live, OsStr::new("f")).await), ErrorKind::Busy);
        vfs.unlink(above, OsStr::new("f")).await.unwrap();
        assert_eq!(kind(vfs.lookup(above, OsStr::new("f")).await), ErrorKind::NotFound);
        vfs.unlink(live, OsStr::new("f")).await.unwrap();
    }
}
