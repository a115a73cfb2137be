//! What the port promises of contents: versions, reads, updates in place, lengths.

use std::sync::Arc;

use futures_util::future::{join, join_all, try_join_all};

use super::{Bench, Case, fill, pattern};
use crate::store::{
    Access, BlobMut, ErrorKind, Opened, Outcome, RemotePath, Replace, Store, all_extents, read_all,
};

pub(super) const CASES: &[Case] = &[
    Case { name: "reads give exactly their range", run: |bench| Box::pin(reads(bench)) },
    Case { name: "a reader sees one version or Stale", run: |bench| Box::pin(pinned(bench)) },
    Case { name: "a writer knows its own versions", run: |bench| Box::pin(continues(bench)) },
    Case { name: "updates land where they should", run: |bench| Box::pin(writes(bench)) },
    Case { name: "updates that cannot be are refused", run: |bench| Box::pin(refused(bench)) },
    Case {
        name: "cleared ranges read as zeros and are holes",
        run: |bench| Box::pin(clears(bench)),
    },
    Case {
        name: "a copy has the bytes of its source, or is refused",
        run: |bench| Box::pin(copies(bench)),
    },
    Case { name: "any length follows any length", run: |bench| Box::pin(lengths(bench)) },
    Case { name: "a reserve is not seen", run: |bench| Box::pin(reserve(bench)) },
    Case {
        name: "a reserve that was left behind is taken up",
        run: |bench| Box::pin(left_behind(bench)),
    },
    Case { name: "disjoint updates run side by side", run: |bench| Box::pin(parallel(bench)) },
    Case { name: "a writer notices another one", run: |bench| Box::pin(two_writers(bench)) },
];

/// Checks reads of a blob that has this content, at and across every edge.
pub(super) async fn reads_as(store: &dyn Store, path: &RemotePath, bytes: &[u8]) {
    let Opened::Read(blob) = store.open(path, Access::Read).await.unwrap() else {
        panic!("opened for reading");
    };
    let len = bytes.len() as u64;
    assert_eq!(blob.len(), len);
    let stat = store.stat(path).await.unwrap();
    assert_eq!((stat.len, stat.version), (len, Some(blob.version())));
    let edges = [0, 1, 511, 512, 513, 4096, len / 2, len.saturating_sub(1), len];
    for &start in &edges {
        for &end in &edges {
            if start <= end && end <= len {
                let got = read_all(&*blob, start..end).await.unwrap();
                assert_eq!(got, &bytes[start as usize..end as usize], "{start}..{end}");
            }
        }
    }
}

async fn reads(bench: Bench) {
    for len in [0, 1, 511, 512, 513, 100_000] {
        let name = format!("f{len}");
        let bytes = pattern(len as u64, len);
        bench.put(&name, &bytes).await;
        reads_as(&*bench.store, &bench.path(&name), &bytes).await;
    }
}

async fn pinned(bench: Bench) {
    let old = pattern(1, 2048);
    bench.put("f", &old).await;
    let reader = bench.read("f").await;
    assert_eq!(read_all(&*reader, 0..2048).await.unwrap(), old);
    let writer = bench.update("f").await;
    let new = pattern(2, 512);
    writer.write_at(512, vec![new.clone().into()]).await.unwrap();
    let kind = read_all(&*reader, 0..2048).await.unwrap_err().kind();
    assert_eq!(kind, ErrorKind::Stale, "the old version is gone");
    assert!(!reader.continues(&writer.version()));
    assert_eq!(reader.len(), 2048);
    let reader = bench.read("f").await;
    let mut expected = old;
    expected[512..1024].copy_from_slice(&new);
    assert_eq!(read_all(&*reader, 0..2048).await.unwrap(), expected);
    assert_eq!(
        read_all(&*writer, 0..2048).await.unwrap(),
        expected,
        "a writer's reads are not pinned"
    );
    bench.store.remove(&bench.path("f"), None).await.unwrap();
    let kind = read_all(&*reader, 0..2048).await.unwrap_err().kind();
    assert_eq!(kind, ErrorKind::Stale, "the blob is gone");
}

async fn continues(bench: Bench) {
    bench.put("f", &pattern(1, 2048)).await;
    let path = bench.path("f");
    let writer = bench.update("f").await;
    let seen = |writer: Arc<dyn BlobMut>| {
        let store = Arc::clone(&bench.store);
        let path = path.clone();
        async move {
            let version = store.stat(&path).await.unwrap().version.unwrap();
            writer.continues(&version)
        }
    };
    assert!(seen(Arc::clone(&writer)).await);
    writer.write_at(0, vec![pattern(2, 512).into()]).await.unwrap();
    assert!(seen(Arc::clone(&writer)).await);
    writer.clear(512..1024).await.unwrap();
    assert!(seen(Arc::clone(&writer)).await);
    writer.set_len(1000, false).await.unwrap();
    assert!(seen(Arc::clone(&writer)).await);
    let other = bench.update("f").await;
    other.write_at(0, vec![pattern(3, 512).into()]).await.unwrap();
    assert!(!seen(writer).await, "somebody else's version");
}

async fn writes(bench: Bench) {
    let blob = bench.create("f").await;
    let max = bench.max_update().min(8 << 20) as usize;
    let mut expected = vec![0; max + 4096];
    blob.set_len(expected.len() as u64, false).await.unwrap();
    let pieces = |bytes: &[u8], cuts: &[usize]| {
        let mut from = 0;
        let mut all = Vec::new();
        for &cut in cuts.iter().chain([&bytes.len()]) {
            all.push(bytes::Bytes::copy_from_slice(&bytes[from..cut]));
            from = cut;
        }
        all
    };
    for (at, len, cuts) in [
        (0, 512, &[][..]),
        (1024, 1024, &[512]),
        (512, 512, &[1, 3, 3, 500]),
        (4096, max, &[1 << 10, 1 << 20]),
    ] {
        let bytes = pattern(at as u64 + 9, len);
        expected[at..at + len].copy_from_slice(&bytes);
        blob.write_at(at as u64, pieces(&bytes, cuts)).await.unwrap();
    }
    assert_eq!(bench.content("f").await, expected);
}

async fn refused(bench: Bench) {
    let align = bench.align();
    let blob = bench.create("f").await;
    fill(&*blob, &pattern(1, 2048)).await;
    let page = bytes::Bytes::from(vec![1; align as usize]);
    let capacity = blob.capacity();
    let inside = blob.write_at(0, vec![page.slice(1..)]).await.unwrap_err();
    let beyond = blob.write_at(capacity, vec![page]).await.unwrap_err();
    let odd = blob.clear(1..align).await.unwrap_err();
    let straddling = blob.clear(0..capacity + align).await.unwrap_err();
    for error in [inside, beyond, odd, straddling] {
        if align > 1 {
            assert_eq!(error.kind(), ErrorKind::InvalidRange, "{error}");
        }
    }
    let longest = bench.store.capabilities().max_len;
    for error in [
        blob.set_len(longest + 1, false).await.unwrap_err(),
        blob.reserve(longest + 1).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }
    assert_eq!(bench.content("f").await, pattern(1, 2048));
}

async fn clears(bench: Bench) {
    let blob = bench.create("f").await;
    let size = 1 << 20;
    blob.set_len(size, false).await.unwrap();
    assert_eq!(all_extents(&*blob, 0..size).await.unwrap(), []);
    let data = pattern(1, 8192);
    blob.write_at(4096, vec![data.clone().into()]).await.unwrap();
    blob.write_at(12288, vec![data.clone().into()]).await.unwrap();
    blob.write_at(65536, vec![data.clone().into()]).await.unwrap();
    let all = all_extents(&*blob, 0..size).await.unwrap();
    assert_eq!(all, [4096..20480, 65536..73728], "adjacent ranges are one");
    let one = all_extents(&*blob, 5000..5001).await.unwrap();
    assert_eq!((one.len(), &one[0]), (1, &(5000..5001)));
    assert_eq!(all_extents(&*blob, 20480..65536).await.unwrap(), []);
    assert_eq!(all_extents(&*blob, 0..0).await.unwrap(), []);

    blob.clear(8192..66048).await.unwrap();
    let reader = bench.read("f").await;
    let all = all_extents(&*reader, 0..size).await.unwrap();
    assert_eq!(all, [4096..8192, 66048..73728]);
    let mut expected = vec![0; size as usize];
    expected[4096..8192].copy_from_slice(&data[..4096]);
    expected[66048..73728].copy_from_slice(&data[512..]);
    assert_eq!(bench.content("f").await, expected);
    blob.clear(0..size).await.unwrap();
    assert_eq!(all_extents(&*blob, 0..size).await.unwrap(), []);
}

async fn copies(bench: Bench) {
    let bytes = pattern(5, 3 << 20);
    bench.put("from", &bytes).await;
    let (from, to) = (bench.read("from").await, bench.create("to").await);
    to.set_len(4 << 20, false).await.unwrap();
    let Some(source) = from.copy_source().await.unwrap() else {
        panic!("a blob of {} cannot be a source", bench.path("from"));
    };
    let copied = join(
        to.copy_from(512, &source, 1024..1024 + (1 << 20)),
        to.copy_from(3 << 20, &source, 0..512),
    );
    let mut expected = vec![0; 4 << 20];
    match copied.await {
        (Ok(()), Ok(())) => {
            expected[512..512 + (1 << 20)].copy_from_slice(&bytes[1024..1024 + (1 << 20)]);
            expected[3 << 20..(3 << 20) + 512].copy_from_slice(&bytes[..512]);
        }
        // Azurite does not copy pages.
        (one, other) => {
            for error in [one.unwrap_err(), other.unwrap_err()] {
                let told = (error.kind(), error.outcome());
                assert_eq!(told, (ErrorKind::Unsupported, Outcome::NotApplied), "{error}");
            }
        }
    }
    assert!(bench.content("to").await == expected);
    let unaligned = to.copy_from(5, &source, 0..512).await.unwrap_err();
    assert_eq!(unaligned.kind(), ErrorKind::InvalidRange);

    // A version that is gone is no source any more.
    let writer = bench.update("from").await;
    writer.write_at(0, vec![pattern(9, 512).into()]).await.unwrap();
    let changed = to.copy_from(0, &source, 0..512).await.unwrap_err();
    assert_eq!((changed.kind(), changed.outcome()), (ErrorKind::Unsupported, Outcome::NotApplied));
    assert!(bench.content("to").await == expected, "nothing was written");
}

/// Lengths that meet every relation to the alignment and to one another.
const LENGTHS: [u64; 9] = [0, 1, 511, 512, 513, 1000, 1024, 2047, 5120];

async fn lengths(bench: Bench) {
    let align = bench.align();
    for (n, &from) in LENGTHS.iter().enumerate() {
        let name = format!("f{n}");
        let bytes = pattern(from, from as usize);
        bench.put(&name, &bytes).await;
        let mut blob = bench.update(&name).await;
        // What surely is as it was written: the least length so far.
        let mut kept = from;
        for (m, &to) in LENGTHS.iter().rev().chain(&LENGTHS).enumerate() {
            let keep = m % 3 == 0;
            if m % 4 == 3 {
                blob = bench.update(&name).await;
            }
            let before = (blob.len(), blob.capacity());
            blob.set_len(to, keep).await.unwrap();
            kept = kept.min(to);
            let what = format!("{before:?} -> {to}, reserve kept: {keep}");
            assert_eq!(blob.len(), to, "{what}");
            let needed = to.next_multiple_of(align);
            let capacity = if keep { needed.max(before.1) } else { needed };
            assert_eq!(blob.capacity(), capacity, "{what}");
            let stat = bench.store.stat(&bench.path(&name)).await.unwrap();
            assert_eq!(stat.len, to, "{what}");
            let got = bench.content(&name).await;
            assert_eq!(got.len() as u64, to, "{what}");
            assert_eq!(got[..kept as usize], bytes[..kept as usize], "{what}");
        }
    }
    // Growth shows zeros, but for the rest of the sector in which the old end was.
    bench.put("grown", &pattern(7, 700)).await;
    let blob = bench.update("grown").await;
    blob.set_len(70_001, false).await.unwrap();
    let got = bench.content("grown").await;
    assert_eq!(got[..700], pattern(7, 700));
    assert!(got[700usize.next_multiple_of(align as usize)..].iter().all(|byte| *byte == 0));
}

async fn reserve(bench: Bench) {
    let blob = bench.create("f").await;
    fill(&*blob, &pattern(1, 700)).await;
    blob.reserve(100_000).await.unwrap();
    let capacity = blob.capacity();
    assert!(capacity >= 100_000 && capacity.is_multiple_of(bench.align()));
    assert_eq!(blob.len(), 700);
    blob.reserve(4096).await.unwrap();
    assert_eq!(blob.capacity(), capacity, "a reserve never shrinks");
    assert_eq!(bench.content("f").await, pattern(1, 700), "others see the old length");

    let more = pattern(2, 4096);
    blob.write_at(1024, vec![more.clone().into()]).await.unwrap();
    assert_eq!(bench.content("f").await.len(), 700);
    assert_eq!(read_all(&*blob, 1024..5120).await.unwrap(), more);
    blob.set_len(5000, true).await.unwrap();
    assert_eq!((blob.len(), blob.capacity()), (5000, capacity));
    let got = bench.content("f").await;
    assert_eq!((&got[..700], &got[1024..]), (&pattern(1, 700)[..], &more[..3976]));
    blob.set_len(5000, false).await.unwrap();
    assert_eq!(blob.capacity(), 5000u64.next_multiple_of(bench.align()));
    assert_eq!(bench.content("f").await, got);
}

async fn left_behind(bench: Bench) {
    let blob = bench.create("f").await;
    fill(&*blob, &pattern(1, 700)).await;
    blob.reserve(50_000).await.unwrap();
    let capacity = blob.capacity();
    drop(blob);
    let blob = bench.update("f").await;
    assert_eq!((blob.len(), blob.capacity()), (700, capacity));
    blob.set_len(600, false).await.unwrap();
    assert_eq!(blob.capacity(), 600u64.next_multiple_of(bench.align()));
    assert_eq!(bench.content("f").await, pattern(1, 600));
    blob.close().await.unwrap();
    let got = read_all(&*blob, 0..600).await.unwrap();
    assert_eq!(got, pattern(1, 600), "reads go on working after close");
}

async fn parallel(bench: Bench) {
    const CHUNK: usize = 16 << 10;
    let blob = bench.create("f").await;
    let chunks = 64;
    blob.reserve((chunks * CHUNK) as u64).await.unwrap();
    for round in 0..2 {
        let writes = (0..chunks).map(|n| {
            let bytes = pattern((round * 1000 + n) as u64, CHUNK);
            blob.write_at((n * CHUNK) as u64, vec![bytes.into()])
        });
        let half = (chunks * CHUNK / 2) as u64;
        let lengths = async {
            blob.set_len(half, true).await?;
            blob.set_len(2 * half, true).await
        };
        let (writes, lengths) = join(join_all(writes), lengths).await;
        for write in writes {
            write.unwrap();
        }
        lengths.unwrap();
        let got = bench.content("f").await;
        assert_eq!(got.len(), chunks * CHUNK);
        for n in 0..chunks {
            let wanted = pattern((round * 1000 + n) as u64, CHUNK);
            assert_eq!(got[n * CHUNK..][..CHUNK], wanted, "chunk {n}");
        }
    }
    let reader = bench.read("f").await;
    let reads = (0..chunks).map(|n| {
        let start = (n * CHUNK) as u64;
        read_all(&*reader, start..start + CHUNK as u64)
    });
    for (n, got) in try_join_all(reads).await.unwrap().into_iter().enumerate() {
        assert_eq!(got, pattern((1000 + n) as u64, CHUNK));
    }
}

async fn two_writers(bench: Bench) {
    let first = bench.create("f").await;
    fill(&*first, &pattern(1, 2048)).await;
    let path = bench.path("f");
    bench.store.create(&path, Replace::Allowed).await.unwrap();
    let error = first.set_len(4096, false).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Stale | ErrorKind::Fenced), "{error:?}");
    assert_eq!(bench.content("f").await.len(), 0, "nothing of it was done");
}
