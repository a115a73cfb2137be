//! What the port promises of names: create, stat, list, remove, rename, directories.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::{Bench, Case, fill, pattern};
use crate::store::{Access, BoxFuture, ErrorKind, Kind, RemotePath, Replace, Version, read_all};

pub(super) const CASES: &[Case] = &[
    Case { name: "create makes an empty blob", run: |bench| Box::pin(create(bench)) },
    Case { name: "one of many exclusive creators wins", run: |bench| Box::pin(exclusive(bench)) },
    Case { name: "what is not there is not found", run: |bench| Box::pin(missing(bench)) },
    Case { name: "a listing has every name once", run: |bench| Box::pin(listing(bench)) },
    Case { name: "directories hide blobs of their name", run: |bench| Box::pin(shadow(bench)) },
    Case { name: "odd names are names", run: |bench| Box::pin(odd_names(bench)) },
    Case { name: "remove takes the version that is meant", run: |bench| Box::pin(remove(bench)) },
    Case { name: "rename moves a blob", run: |bench| Box::pin(rename(bench)) },
    Case { name: "directories are made and removed", run: |bench| Box::pin(directories(bench)) },
];

/// The kind of the error that a call must give.
async fn kind_of<T: std::fmt::Debug>(call: BoxFuture<'_, crate::store::Result<T>>) -> ErrorKind {
    call.await.expect_err("the call must fail").kind()
}

async fn create(bench: Bench) {
    let path = bench.path("new");
    let blob = bench.create("new").await;
    assert_eq!((blob.len(), blob.is_empty()), (0, true));
    let stat = bench.store.stat(&path).await.unwrap();
    assert_eq!((stat.kind, stat.len, stat.read_only), (Kind::File, 0, None));
    assert_eq!(stat.version, Some(blob.version()));

    assert_eq!(
        kind_of(bench.store.create(&path, Replace::Refused)).await,
        ErrorKind::AlreadyExists
    );
    fill(&*blob, &pattern(1, 700)).await;
    let before = blob.version();
    let blob = bench.store.create(&path, Replace::Allowed).await.unwrap();
    assert_eq!(blob.len(), 0);
    assert_ne!(blob.version(), before, "a replaced blob is another version");
    assert_eq!(bench.content("new").await.len(), 0);
}

async fn exclusive(bench: Bench) {
    let path = bench.path("lock");
    let made = join_all((0..8).map(|_| bench.store.create(&path, Replace::Refused))).await;
    let (won, lost): (Vec<_>, Vec<_>) = made.into_iter().partition(|made| made.is_ok());
    assert_eq!(won.len(), 1, "one creator");
    for lost in lost {
        assert_eq!(lost.unwrap_err().kind(), ErrorKind::AlreadyExists);
    }
}

async fn missing(bench: Bench) {
    let path = bench.path("no/such");
    let store = &bench.store;
    assert_eq!(kind_of(store.stat(&path)).await, ErrorKind::NotFound);
    assert_eq!(kind_of(store.open(&path, Access::Read)).await, ErrorKind::NotFound);
    assert_eq!(kind_of(store.open(&path, Access::Update)).await, ErrorKind::NotFound);
    assert_eq!(kind_of(store.remove(&path, None)).await, ErrorKind::NotFound);
    let root = store.stat(&RemotePath::root()).await.unwrap();
    assert_eq!(root.kind, Kind::Directory);
    assert!(bench.list(&path).await.is_empty());
}

async fn listing(bench: Bench) {
    let mut expected = BTreeMap::new();
    for n in 0..23 {
        let name = format!("f{n:02}");
        bench.put(&name, &pattern(n, n as usize * 100)).await;
        expected.insert(name, (Kind::File, n * 100));
    }
    for name in ["d1/x", "d1/y/z", "d2/x"] {
        bench.put(name, b"x").await;
    }
    bench.store.make_dir(&bench.path("d3")).await.unwrap();
    for name in ["d1", "d2", "d3"] {
        expected.insert(name.to_owned(), (Kind::Directory, 0));
    }
    let got = bench.list(&bench.dir).await;
    for entry in &got {
        assert!(entry.stat.attributes.is_empty(), "listings have no attributes");
        let mut stat = bench.store.stat(&bench.path(&entry.name)).await.unwrap();
        stat.attributes.clear();
        assert_eq!(entry.stat, stat, "{}", entry.name);
    }
    let got: BTreeMap<_, _> =
        got.into_iter().map(|entry| (entry.name, (entry.stat.kind, entry.stat.len))).collect();
    assert_eq!(got, expected);
    let inner = bench.list(&bench.path("d1")).await;
    let inner: Vec<_> = inner.iter().map(|entry| (&*entry.name, entry.stat.kind)).collect();
    assert_eq!(inner, [("x", Kind::File), ("y", Kind::Directory)]);
}

async fn shadow(bench: Bench) {
    // Names that sort between a blob and the directory of its name.
    for name in ["a", "a!", "a-b", "a-b/x", "a.b", "a.txt"] {
        bench.put(name, b"x").await;
    }
    let below = bench.path("a/b");
    match bench.store.create(&below, Replace::Refused).await {
        Ok(_) => {}
        // A store whose directories are real cannot come to this.
        Err(error) if error.kind() == ErrorKind::NotDirectory => return,
        Err(error) => panic!("{error}"),
    }
    assert_eq!(bench.kind("a").await.unwrap(), Kind::Directory);
    assert_eq!(bench.kind("a-b").await.unwrap(), Kind::Directory);
    assert_eq!(bench.kind("a.b").await.unwrap(), Kind::File);
    let got = bench.list(&bench.dir).await;
    let got: Vec<_> = got.iter().map(|entry| (&*entry.name, entry.stat.kind)).collect();
    assert_eq!(
        got,
        [
            ("a", Kind::Directory),
            ("a!", Kind::File),
            ("a-b", Kind::Directory),
            ("a.b", Kind::File),
            ("a.txt", Kind::File),
        ]
    );
}

async fn odd_names(bench: Bench) {
    let long = "n".repeat(255);
    let names = [
        "with space",
        " leading and trailing ",
        "100%",
        "%41",
        "a#b",
        "what?",
        "a+b",
        "a&b=c;d",
        "<tag> \"quoted\" 'single'",
        "back`tick ~!@$^*(){}[]|,:",
        "ü",
        "日本語",
        "🦀",
        "...",
        ".hidden",
        "~",
        "-rf",
        &long,
    ];
    for (n, name) in names.iter().enumerate() {
        bench.put(name, &pattern(n as u64, 10 + n)).await;
    }
    let mut wanted: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    wanted.sort();
    let got: Vec<String> =
        bench.list(&bench.dir).await.into_iter().map(|entry| entry.name).collect();
    assert_eq!(got, wanted);
    for (n, name) in names.iter().enumerate() {
        let stat = bench.store.stat(&bench.path(name)).await.unwrap();
        assert_eq!(stat.len, 10 + n as u64, "{name}");
        assert_eq!(bench.content(name).await, pattern(n as u64, 10 + n), "{name}");
    }
    // As directories too.
    for name in ["with space", "100%", "ü", "what?"] {
        let inner = format!("dir {name}/{name}");
        bench.put(&inner, name.as_bytes()).await;
        let got = bench.list(&bench.path(&format!("dir {name}"))).await;
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].name, name);
        bench.store.remove(&bench.path(&inner), None).await.unwrap();
    }
    // And moved.
    bench.store.rename(&bench.path("100%"), &bench.path("50% ü"), Replace::Refused).await.unwrap();
    assert_eq!(bench.content("50% ü").await, pattern(2, 12));
}

async fn remove(bench: Bench) {
    bench.put("a", &pattern(1, 512)).await;
    let path = bench.path("a");
    let old = bench.store.stat(&path).await.unwrap().version.unwrap();
    let blob = bench.update("a").await;
    blob.set_len(1024, false).await.unwrap();
    assert_eq!(
        kind_of(bench.store.remove(&path, Some(&old))).await,
        ErrorKind::Stale,
        "another version is there"
    );
    let new: Version = bench.store.stat(&path).await.unwrap().version.unwrap();
    bench.store.remove(&path, Some(&new)).await.unwrap();
    assert_eq!(kind_of(bench.store.stat(&path)).await, ErrorKind::NotFound);
    bench.put("a", b"again").await;
    bench.store.remove(&path, None).await.unwrap();
    assert_eq!(kind_of(bench.store.remove(&path, None)).await, ErrorKind::NotFound);
}

async fn rename(bench: Bench) {
    let (a, b) = (bench.path("a"), bench.path("dir/b"));
    let bytes = pattern(1, 1234);
    bench.put("a", &bytes).await;
    bench.store.rename(&a, &b, Replace::Refused).await.unwrap();
    assert_eq!(kind_of(bench.store.stat(&a)).await, ErrorKind::NotFound);
    assert_eq!(bench.content("dir/b").await, bytes);
    let moved = bench.update("dir/b").await;
    assert_eq!(moved.len(), 1234, "what was moved can still be written");
    moved.set_len(1200, false).await.unwrap();

    bench.put("a", b"other").await;
    assert_eq!(
        kind_of(bench.store.rename(&a, &b, Replace::Refused)).await,
        ErrorKind::AlreadyExists
    );
    assert_eq!(bench.content("a").await, &b"other"[..], "nothing has moved");
    bench.store.rename(&a, &b, Replace::Allowed).await.unwrap();
    assert_eq!(bench.content("dir/b").await, &b"other"[..]);
    assert_eq!(kind_of(bench.store.rename(&a, &b, Replace::Allowed)).await, ErrorKind::NotFound);
    assert_eq!(
        kind_of(bench.store.rename(&bench.path("dir"), &a, Replace::Allowed)).await,
        ErrorKind::IsDirectory
    );
    bench.put("c", b"c").await;
    assert_eq!(
        kind_of(bench.store.rename(&bench.path("c"), &bench.path("dir"), Replace::Allowed)).await,
        ErrorKind::IsDirectory
    );
}

async fn directories(bench: Bench) {
    let dir = bench.path("made");
    let store = &bench.store;
    store.make_dir(&dir).await.unwrap();
    assert_eq!(bench.kind("made").await.unwrap(), Kind::Directory);
    assert!(bench.list(&dir).await.is_empty(), "a new directory is empty");
    assert_eq!(kind_of(store.make_dir(&dir)).await, ErrorKind::AlreadyExists);
    assert_eq!(kind_of(store.open(&dir, Access::Read)).await, ErrorKind::IsDirectory);

    bench.put("made/file", b"x").await;
    assert_eq!(kind_of(store.make_dir(&bench.path("made/file"))).await, ErrorKind::AlreadyExists);
    assert_eq!(kind_of(store.remove_dir(&bench.path("made/file"))).await, ErrorKind::NotDirectory);
    assert_eq!(kind_of(store.remove_dir(&dir)).await, ErrorKind::NotEmpty);
    store.remove(&bench.path("made/file"), None).await.unwrap();
    assert_eq!(
        bench.kind("made").await.unwrap(),
        Kind::Directory,
        "a directory that was made outlives what was in it"
    );
    store.remove_dir(&dir).await.unwrap();
    assert_eq!(kind_of(store.stat(&dir)).await, ErrorKind::NotFound);
    assert_eq!(kind_of(store.remove_dir(&dir)).await, ErrorKind::NotFound);

    bench.put("implied/by/a", b"x").await;
    assert_eq!(bench.kind("implied").await.unwrap(), Kind::Directory);
    assert_eq!(bench.kind("implied/by").await.unwrap(), Kind::Directory);
    assert_eq!(kind_of(store.remove_dir(&bench.path("implied"))).await, ErrorKind::NotEmpty);
    let blob = bench.read("implied/by/a").await;
    assert_eq!(read_all(&*blob, 0..1).await.unwrap(), &b"x"[..]);
}
