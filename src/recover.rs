//! Bringing kept sectors back: what differs from the blob today, and writing them after all.
//!
//! The second composition root beside [`crate::mount`]: it puts a recovery file and a store together,
//! without a tree.

use std::sync::Arc;

use bytes::Bytes;

pub use crate::io::Config;
use crate::io::Shared;
use crate::io::dirty::Taken;
use crate::io::file::File;
use crate::io::page_cache::ContentId;
pub use crate::io::recovery::{Recovery, list};
pub use crate::io::span::Span;
use crate::io::span::{SECTOR, SpanSet};
use crate::store::{Access, Blob, Error, ErrorKind, Opened, RemotePath, Result, Store, read_all};

/// Zeros are compared in pieces of this many bytes, so that a punched terabyte fits memory.
const COMPARED: u64 = 4 << 20;

/// Which ranges of the kept sectors differ from what the blob holds today, in whole sectors, in order.
/// A blob that is gone, or ends before them, differs in all of them.
///
/// Errors: as for [`Store::open`] and [`Blob::read`], but for `NotFound`.
pub async fn differences(recovery: &Recovery, store: &dyn Store) -> Result<Vec<Span>> {
    let mut differ = SpanSet::new();
    let blob = match store.open(&path_of(recovery)?, Access::Read).await {
        Ok(Opened::Read(blob)) => Some(blob),
        Ok(Opened::Update(writer)) => Some(writer as Arc<dyn Blob>),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let end = recovery.origin.len;
    for extent in &recovery.extents {
        for part in extent.span.split(COMPARED) {
            let shown = part.intersect(Span::between(0, end));
            let there =
                shown.intersect(Span::between(0, blob.as_ref().map_or(0, |blob| blob.len())));
            let found = match &blob {
                Some(blob) if !there.is_empty() => read_all(&**blob, there.range()).await?,
                _ => Bytes::new(),
            };
            for sector in shown.split(SECTOR) {
                let kept = kept_bytes(extent, sector);
                let today = sector.intersect(there);
                let same = today == sector && found[today.within(there.start)] == kept[..];
                if !same {
                    differ.insert(sector);
                }
            }
        }
    }
    Ok(differ.parts(Span::between(0, u64::MAX)))
}

/// Writes the kept sectors into the blob, which must exist, as its sole writer. It is made long enough
/// to hold them, never shorter. When this returns the service has confirmed everything.
///
/// Errors: as for [`Store::open`] and the updates; the recovery file is still needed then.
pub async fn apply(recovery: &Recovery, store: &dyn Store, config: &Config) -> Result<()> {
    let path = path_of(recovery)?;
    let Opened::Update(writer) = store.open(&path, Access::Update).await? else {
        return Err(Error::new(ErrorKind::ReadOnly, "recover", path, "it cannot be written"));
    };
    let shared = Shared::new(config, store.capabilities());
    let blob = Arc::clone(&writer) as Arc<dyn Blob>;
    let file = File::new(shared, ContentId::fresh(), blob, Some(Arc::clone(&writer)));
    let written = write_all(recovery, &file).await;
    let closed = writer.close().await;
    written.and(closed)
}

async fn write_all(recovery: &Recovery, file: &Arc<File>) -> Result<()> {
    // Beyond its end the file's last sector was padded; that is not what somebody wrote.
    let seen = Span::between(0, recovery.origin.len);
    let kept = recovery.extents.iter().map(|extent| (extent, extent.span.intersect(seen)));
    let kept: Vec<(&Taken, Span)> = kept.filter(|(_, span)| !span.is_empty()).collect();
    let end = kept.last().map_or(0, |(_, span)| span.end);
    if file.len() < end {
        file.set_len(end).await?;
    }
    for (extent, span) in kept {
        match &extent.bytes {
            None => file.zero(span, false).await?,
            Some(bytes) => file.write(span.start, &bytes[span.within(extent.span.start)]).await?,
        }
    }
    file.flush(true).await
}

fn path_of(recovery: &Recovery) -> Result<RemotePath> {
    RemotePath::new(&recovery.origin.path).ok_or_else(|| {
        let path = &recovery.origin.path;
        Error::new(ErrorKind::BadName, "recover", path, "it names no file")
    })
}

fn kept_bytes(extent: &Taken, part: Span) -> Bytes {
    match &extent.bytes {
        Some(bytes) => bytes.slice(part.within(extent.span.start)),
        None => Bytes::from_static(&[0; SECTOR as usize]).slice(..part.len() as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::recovery::Origin;
    use crate::store::memory::MemoryStore;

    fn config() -> Config {
        Config {
            cache_size: 16 << 20,
            dirty_limit: 16 << 20,
            connections: 4,
            timeout: std::time::Duration::from_secs(10),
        }
    }

    fn kept(extents: Vec<Taken>, len: u64) -> Recovery {
        let text = String::new;
        let origin =
            Origin { source: text(), path: "disk".into(), version: text(), reason: text(), len };
        Recovery { origin, extents }
    }

    fn data(start: u64, bytes: Vec<u8>) -> Taken {
        Taken { span: Span::at(start, bytes.len() as u64), bytes: Some(bytes.into()) }
    }

    async fn content(store: &MemoryStore) -> Vec<u8> {
        let path = RemotePath::new("disk").unwrap();
        let Opened::Read(blob) = store.open(&path, Access::Read).await.unwrap() else { panic!() };
        read_all(&*blob, 0..blob.len()).await.unwrap().to_vec()
    }

    #[tokio::test]
    async fn only_sectors_that_differ_are_named_and_applying_settles_them() {
        let store = MemoryStore::new();
        store.put("disk", &[1; 4096]);
        let zeros = Taken { span: Span::at(2048, 512), bytes: None };
        let recovery = kept(vec![data(0, vec![1; 512]), data(512, vec![2; 1024]), zeros], 4096);
        assert_eq!(
            differences(&recovery, &store).await.unwrap(),
            [Span::between(512, 1536), Span::between(2048, 2560)]
        );
        apply(&recovery, &store, &config()).await.unwrap();
        assert_eq!(differences(&recovery, &store).await.unwrap(), []);
        let mut want = vec![1; 4096];
        want[512..1536].fill(2);
        want[2048..2560].fill(0);
        assert_eq!(content(&store).await, want);
    }

    #[tokio::test]
    async fn a_blob_that_is_shorter_today_grows_to_the_length_that_was_seen() {
        let store = MemoryStore::new();
        store.put("disk", &[1; 100]);
        let mut sector = vec![3; 512];
        sector[188..].fill(0);
        let recovery = kept(vec![data(512, sector)], 700);
        assert_eq!(differences(&recovery, &store).await.unwrap(), [Span::between(512, 700)]);
        apply(&recovery, &store, &config()).await.unwrap();
        let mut want = vec![0; 700];
        want[..100].fill(1);
        want[512..].fill(3);
        assert_eq!(content(&store).await, want);
    }

    #[tokio::test]
    async fn a_blob_that_is_gone_differs_in_everything_and_is_not_made_again() {
        let store = MemoryStore::new();
        let recovery = kept(vec![data(0, vec![1; 512])], 512);
        assert_eq!(differences(&recovery, &store).await.unwrap(), [Span::between(0, 512)]);
        let error = apply(&recovery, &store, &config()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
