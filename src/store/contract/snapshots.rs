//! What the port promises of snapshots, and of what has changed since.

use std::ops::Range;

use bytes::Bytes;

use super::{Bench, Case, pattern};
use crate::store::{
    Access, Change, ErrorKind, Kind, Opened, RemotePath, Replace, Result, all_extents, read_all,
};

pub(super) const CASES: &[Case] = &[
    Case { name: "a snapshot stays as it was", run: |bench| Box::pin(stays(bench)) },
    Case { name: "a snapshot keeps its holes", run: |bench| Box::pin(holes(bench)) },
    Case { name: "snapshots are found in directories", run: |bench| Box::pin(found(bench)) },
    Case { name: "a snapshot is removed alone", run: |bench| Box::pin(removed(bench)) },
    Case { name: "a directory of snapshots goes with them", run: |bench| Box::pin(emptied(bench)) },
    Case { name: "nothing is made among snapshots", run: |bench| Box::pin(refused(bench)) },
    Case { name: "changes name all that differs", run: |bench| Box::pin(changed(bench)) },
    Case { name: "a comparison is of one version", run: |bench| Box::pin(moving(bench)) },
    Case { name: "only what is of one blob is compared", run: |bench| Box::pin(compared(bench)) },
];

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("the call must fail").kind()
}

impl Bench {
    async fn snapshot(&self, name: &str) -> RemotePath {
        self.store.snapshot(&self.path(name)).await.unwrap()
    }

    async fn bytes_at(&self, path: &RemotePath) -> Bytes {
        match self.store.open(path, Access::Read).await {
            Ok(Opened::Read(blob)) => read_all(&*blob, 0..blob.len()).await.unwrap(),
            other => panic!("opening {path} for reading gave {other:?}"),
        }
    }

    /// All changes, those that follow each other put together.
    async fn changes(&self, from: &RemotePath, to: &RemotePath) -> Result<Vec<Change>> {
        let mut all: Vec<Change> = Vec::new();
        let mut cursor = None;
        loop {
            let page = self.store.changes(from, to, cursor).await?;
            for change in page.changes {
                assert!(!change.range.is_empty(), "a change is never empty");
                match all.last_mut() {
                    Some(last) if last.range.end > change.range.start => {
                        panic!("{change:?} is out of order after {last:?}")
                    }
                    Some(last)
                        if last.range.end == change.range.start
                            && last.cleared == change.cleared =>
                    {
                        last.range.end = change.range.end;
                    }
                    _ => all.push(change),
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }
}

/// The directory of the time of a snapshot of a blob at `path`, and of all times.
fn directories(taken: &RemotePath, path: &RemotePath) -> (RemotePath, RemotePath) {
    let time = taken.as_str().strip_suffix(path.as_str()).and_then(|time| time.strip_suffix('/'));
    let time = RemotePath::new(time.expect("a snapshot has the path of its blob")).unwrap();
    let times = time.parent();
    (time, times)
}

async fn stays(bench: Bench) {
    let old = pattern(1, 10_000);
    bench.put("disk", &old).await;
    let before = bench.store.stat(&bench.path("disk")).await.unwrap();
    let taken = bench.snapshot("disk").await;
    let reader = match bench.store.open(&taken, Access::Read).await.unwrap() {
        Opened::Read(blob) => blob,
        other => panic!("{other:?}"),
    };
    let writer = bench.update("disk").await;
    writer.write_at(0, vec![pattern(2, 512).into()]).await.unwrap();
    writer.set_len(77, false).await.unwrap();
    let second = bench.snapshot("disk").await;
    assert_ne!(second, taken, "each snapshot has a path of its own");
    writer.close().await.unwrap();
    bench.store.create(&bench.path("disk"), Replace::Allowed).await.unwrap().close().await.unwrap();

    assert_eq!(bench.content("disk").await.len(), 0);
    assert_eq!(bench.bytes_at(&taken).await, old);
    assert_eq!(bench.bytes_at(&second).await, pattern(2, 512)[..77]);
    assert_eq!(read_all(&*reader, 5000..10_000).await.unwrap(), old[5000..]);
    let stat = bench.store.stat(&taken).await.unwrap();
    assert_eq!((stat.kind, stat.len, stat.version), (Kind::File, 10_000, before.version));
    assert!(stat.read_only.is_some());
    assert_eq!(kind(bench.store.open(&taken, Access::Update).await), ErrorKind::ReadOnly);
}

async fn holes(bench: Bench) {
    const K: u64 = 1024;
    let writer = bench.create("disk").await;
    writer.set_len(64 * K, false).await.unwrap();
    writer.write_at(16 * K, vec![pattern(1, 8 * K as usize).into()]).await.unwrap();
    let taken = bench.snapshot("disk").await;
    writer.clear(16 * K..20 * K).await.unwrap();
    writer.write_at(40 * K, vec![pattern(1, 8 * K as usize).into()]).await.unwrap();
    writer.close().await.unwrap();
    let stat = bench.store.stat(&taken).await.unwrap();
    assert_eq!(bench.store.allocated(&taken, &stat).await.unwrap(), Some(8 * K));
    let Ok(Opened::Read(blob)) = bench.store.open(&taken, Access::Read).await else {
        panic!("{taken} cannot be opened")
    };
    assert_eq!(all_extents(&*blob, 0..64 * K).await.unwrap(), [16 * K..24 * K]);
    bench.store.remove(&taken, None).await.unwrap();
    bench.store.remove(&bench.path("disk"), None).await.unwrap();
}

async fn found(bench: Bench) {
    let (path, other) = (bench.path("a/b/disk"), bench.path("a/other"));
    bench.put("a/b/disk", &pattern(1, 1000)).await;
    bench.put("a/other", b"x").await;
    let taken = [bench.snapshot("a/b/disk").await, bench.snapshot("a/other").await];
    let third = bench.snapshot("a/b/disk").await;
    let (time, times) = directories(&taken[0], &path);
    let (time_of_other, _) = directories(&taken[1], &other);
    let (third, _) = directories(&third, &path);
    let all = bench.list(&times).await;
    for time in [&time, &time_of_other, &third] {
        let entry = all.iter().find(|entry| entry.name == time.name()).expect("its time is listed");
        assert_eq!(entry.stat, bench.store.stat(time).await.unwrap());
        assert_eq!(entry.stat.kind, Kind::Directory);
    }
    // Down to the blob, with nothing else beside it.
    let mut dir = time;
    for name in bench.path("a/b/disk").as_str().split('/') {
        let entries = bench.list(&dir).await;
        assert_eq!(entries.len(), 1, "{dir}: {entries:?}");
        assert_eq!(entries[0].name, name);
        dir = dir.join(name).unwrap();
        let mut stat = bench.store.stat(&dir).await.unwrap();
        stat.attributes.clear();
        assert_eq!(entries[0].stat, stat, "{dir}");
    }
    assert_eq!(dir, taken[0]);
    // Nothing of it stands in the way of those who look at all blobs.
    let top = bench.list(&RemotePath::root()).await;
    assert!(top.iter().all(|entry| entry.name != times.name()), "{top:?}");
    for nothing in ["a/none", "none"] {
        let nothing = taken[0].as_str().replace("a/b/disk", nothing);
        let nothing = RemotePath::new(&nothing).unwrap();
        assert_eq!(kind(bench.store.stat(&nothing).await), ErrorKind::NotFound);
        assert_eq!(kind(bench.store.open(&nothing, Access::Read).await), ErrorKind::NotFound);
        assert_eq!(kind(bench.store.remove(&nothing, None).await), ErrorKind::NotFound);
    }
    assert_eq!(
        kind(bench.store.open(&taken[0].parent(), Access::Read).await),
        ErrorKind::IsDirectory
    );
}

async fn removed(bench: Bench) {
    let path = bench.path("disk");
    bench.put("disk", b"old").await;
    let taken = [bench.snapshot("disk").await, bench.snapshot("disk").await];
    assert_eq!(kind(bench.store.remove(&path, None).await), ErrorKind::Busy);
    let to = bench.path("renamed");
    assert_eq!(kind(bench.store.rename(&path, &to, Replace::Allowed).await), ErrorKind::Busy);
    assert_eq!(bench.kind("renamed").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(bench.content("disk").await, b"old"[..]);

    bench.store.remove(&taken[0], None).await.unwrap();
    assert_eq!(kind(bench.store.stat(&taken[0]).await), ErrorKind::NotFound);
    assert_eq!(kind(bench.store.remove(&taken[0], None).await), ErrorKind::NotFound);
    assert_eq!(bench.bytes_at(&taken[1]).await, b"old"[..]);
    assert_eq!(bench.content("disk").await, b"old"[..]);
    assert_eq!(kind(bench.store.remove(&path, None).await), ErrorKind::Busy);
    bench.store.remove(&taken[1], None).await.unwrap();
    bench.store.remove(&path, None).await.unwrap();
}

async fn emptied(bench: Bench) {
    let path = bench.path("a/disk");
    bench.put("a/disk", b"old").await;
    let (first, second) = (bench.snapshot("a/disk").await, bench.snapshot("a/disk").await);
    let (time, times) = directories(&first, &path);
    assert_eq!(kind(bench.store.remove_dir(&first.parent()).await), ErrorKind::NotEmpty);
    assert_eq!(kind(bench.store.remove_dir(&times).await), ErrorKind::ReadOnly);
    assert_eq!(bench.bytes_at(&first).await, b"old"[..]);
    bench.store.remove_dir(&time).await.unwrap();
    assert_eq!(kind(bench.store.stat(&first).await), ErrorKind::NotFound);
    assert_eq!(kind(bench.store.remove_dir(&time).await), ErrorKind::NotFound);
    assert_eq!(bench.bytes_at(&second).await, b"old"[..]);
    assert_eq!(bench.content("a/disk").await, b"old"[..]);
}

async fn refused(bench: Bench) {
    let store = &bench.store;
    bench.put("a/disk", b"old").await;
    assert_eq!(kind(store.snapshot(&bench.path("a")).await), ErrorKind::IsDirectory);
    assert_eq!(kind(store.snapshot(&bench.path("none")).await), ErrorKind::NotFound);
    let taken = bench.snapshot("a/disk").await;
    assert_eq!(kind(store.snapshot(&taken).await), ErrorKind::ReadOnly);
    let new = taken.parent().join("new").unwrap();
    for replace in [Replace::Allowed, Replace::Refused] {
        assert_eq!(kind(store.create(&new, replace).await), ErrorKind::ReadOnly);
        assert_eq!(kind(store.create(&taken, replace).await), ErrorKind::ReadOnly);
        let disk = bench.path("a/disk");
        assert_eq!(kind(store.rename(&taken, &new, replace).await), ErrorKind::ReadOnly);
        // The source is busy as well, because it has a snapshot.
        let into = kind(store.rename(&disk, &new, replace).await);
        assert!(matches!(into, ErrorKind::ReadOnly | ErrorKind::Busy), "{into:?}");
    }
    bench.put("free", b"x").await;
    let into = store.rename(&bench.path("free"), &new, Replace::Allowed).await;
    assert_eq!(kind(into), ErrorKind::ReadOnly);
    assert_eq!(kind(store.make_dir(&new).await), ErrorKind::ReadOnly);
    assert_eq!(bench.bytes_at(&taken).await, b"old"[..]);
    assert_eq!(bench.content("free").await, b"x"[..]);
}

async fn changed(bench: Bench) {
    const K: u64 = 1024;
    let writer = bench.create("disk").await;
    writer.set_len(64 * K, false).await.unwrap();
    for at in [0, 16, 32] {
        writer.write_at(at * K, vec![pattern(at, 8 * K as usize).into()]).await.unwrap();
    }
    let first = bench.snapshot("disk").await;
    assert_eq!(bench.changes(&first, &bench.path("disk")).await.unwrap(), []);
    writer.write_at(K, vec![pattern(7, 512).into()]).await.unwrap();
    writer.clear(18 * K..20 * K).await.unwrap();
    writer.write_at(48 * K, vec![pattern(8, 2 * K as usize).into()]).await.unwrap();
    let second = bench.snapshot("disk").await;
    // Many small ones, so that they come in pages where the store has any.
    for at in 0..40 {
        writer.write_at(at * K, vec![pattern(100 + at, 512).into()]).await.unwrap();
    }
    writer.clear(48 * K..49 * K).await.unwrap();
    writer.set_len(50 * K - 100, false).await.unwrap();
    writer.close().await.unwrap();

    let written = |range: Range<u64>| Change { range, cleared: false };
    let cleared = |range: Range<u64>| Change { range, cleared: true };
    let early = bench.changes(&first, &second).await.unwrap();
    let expected = [written(K..K + 512), cleared(18 * K..20 * K), written(48 * K..50 * K)];
    assert_eq!(early, expected);
    let live = bench.path("disk");
    let mut expected: Vec<_> = (0..40).map(|at| written(at * K..at * K + 512)).collect();
    expected.push(cleared(48 * K..49 * K));
    let late = bench.changes(&second, &live).await.unwrap();
    assert_eq!(late, expected);

    let all = bench.changes(&first, &live).await.unwrap();
    let (old, new) = (bench.bytes_at(&first).await, bench.bytes_at(&live).await);
    assert!(all.iter().all(|change| change.range.end <= new.len() as u64), "{all:?}");
    for at in 0..new.len() {
        let named = all.iter().find(|change| change.range.contains(&(at as u64)));
        match named {
            None => assert_eq!(old[at], new[at], "byte {at} differs and no change names it"),
            Some(change) if change.cleared => assert_eq!(new[at], 0, "byte {at} is not clear"),
            Some(_) => {}
        }
    }
}

async fn moving(bench: Bench) {
    let writer = bench.create("disk").await;
    writer.set_len(1 << 20, false).await.unwrap();
    let taken = bench.snapshot("disk").await;
    for at in 0..40 {
        writer.write_at(at << 12, vec![pattern(at, 512).into()]).await.unwrap();
    }
    let live = bench.path("disk");
    let first = bench.store.changes(&taken, &live, None).await.unwrap();
    writer.write_at(0, vec![pattern(77, 512).into()]).await.unwrap();
    // A store may give all of it in one page.
    if first.next.is_some() {
        let second = bench.store.changes(&taken, &live, first.next).await;
        assert_eq!(kind(second), ErrorKind::Stale);
    }
    writer.close().await.unwrap();
}

async fn compared(bench: Bench) {
    bench.put("disk", b"old").await;
    bench.put("other", b"old").await;
    let (first, second) = (bench.snapshot("disk").await, bench.snapshot("disk").await);
    let (disk, other) = (bench.path("disk"), bench.path("other"));
    let changes = async |from: &RemotePath, to: &RemotePath| bench.changes(from, to).await;
    assert_eq!(changes(&first, &second).await.unwrap(), []);
    assert_eq!(kind(changes(&second, &first).await), ErrorKind::InvalidRange);
    assert_eq!(kind(changes(&disk, &first).await), ErrorKind::Unsupported);
    assert_eq!(kind(changes(&disk, &disk).await), ErrorKind::Unsupported);
    assert_eq!(kind(changes(&first, &other).await), ErrorKind::Unsupported);
    bench.store.remove(&first, None).await.unwrap();
    assert_eq!(kind(changes(&first, &disk).await), ErrorKind::NotFound);
    bench.store.remove(&second, None).await.unwrap();
}
