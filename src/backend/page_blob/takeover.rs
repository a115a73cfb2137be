//! Becoming the only writer of a blob, new or found, and ceasing to be: open, create and remove.
//!
//! A blob that is found is leased, and its sequence number is raised: nothing that a writer before us has
//! sent, another process of this host included, is applied after that. A blob that we create
//! needs no raise, for nothing was ever sent to it; but something may have been sent to a blob that had
//! its name, before a crash even, under the same lease id. So every writer begins in an epoch that is
//! larger than those of all writers before, of blobs that are gone too: the time. It does not need its lease at once
//! either: see [`lease`](super::lease).

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::address::{Address, Condition, Fence};
use super::epoch::LAST;
use super::lease::Hold;
use super::length::{Extent, Mark};
use super::store::PageBlobStore;
use super::updates::{Found, UpdatableBlob};
use super::wire::{Properties, metadata_headers};
use crate::store::{BlobMut, Error, ErrorKind, Outcome, Replace, Result, Version};

/// How often a change under a condition begins again because somebody else is changing the blob too.
const TRIES: u32 = 4;

/// The least first epoch of a writer that begins now: microseconds since 1970, which grow faster than
/// anybody raises a sequence number. A clock that is set back weakens this to what the service knows of
/// the blob that is there.
fn first_epoch() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(0).min(LAST - 1)
}

impl PageBlobStore {
    /// Makes us the only writer of the blob at `at`, which was found so.
    pub(super) async fn open_for_updates(
        &self,
        at: Address,
        found: (Properties, HeaderMap),
    ) -> Result<Arc<dyn BlobMut>> {
        if let Some(why) = found.0.blob_type.read_only() {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "open",
                at.target(),
                format!("it is a {why}; only page blobs can be written in place"),
            ));
        }
        let hold = self.leases.take(&at).await?;
        match self.raise(&at, found, hold.as_ref()).await {
            Ok((found, headers, renamed, epoch)) => Ok(self.writer(Found {
                extent: found.extent(),
                metadata: metadata_headers(&headers),
                at,
                etag: found.etag,
                renamed: Some(renamed),
                epoch,
                hold,
            })),
            Err(error) => {
                give_back(hold).await;
                Err(error)
            }
        }
    }

    /// Raises the sequence number, in the version that was found, so that what was found is what we begin
    /// with.
    async fn raise(
        &self,
        at: &Address,
        mut found: (Properties, HeaderMap),
        hold: Option<&Hold>,
    ) -> Result<(Properties, HeaderMap, Arc<str>, u64)> {
        let fence = Fence { lease: hold.and_then(Hold::id), sequence_below: None };
        let mut tries = 0;
        loop {
            tries += 1;
            let before = found.0.sequence.unwrap_or(0);
            if before >= LAST {
                let why = "its sequence number is the highest there is, so that late requests cannot be \
                           told from new ones; copy the blob to a new one";
                return Err(Error::new(ErrorKind::Other, "open", at.target(), why));
            }
            let epoch = self.doubts.next_epoch(at).max(before + 1).max(first_epoch());
            let condition = Condition::etag(&found.0.etag);
            match self.rest.raise_sequence(at, epoch, &condition, &fence).await {
                Ok((etag, now)) => {
                    self.doubts.settle(at, now);
                    return Ok((found.0, found.1, etag, now));
                }
                // Somebody has changed it since it was found, or an earlier attempt was applied.
                Err(error) if error.kind() == ErrorKind::Stale && tries < TRIES => {}
                Err(error) => return Err(error),
            }
            found = self.rest.head(at).await?;
        }
    }

    /// Creates an empty blob with this metadata, or replaces one, and makes us its only writer.
    pub(super) async fn create_at(
        &self,
        at: Address,
        replace: Replace,
        metadata: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Arc<dyn BlobMut>> {
        self.leases.writing(&at)?;
        let mut condition = Condition::Absent;
        let mut epoch = first_epoch().max(self.doubts.next_epoch(&at));
        let mut lease = None;
        let mut left_behind = None;
        let mut tries = 0;
        let etag = loop {
            tries += 1;
            let made = self.rest.create_page_blob(&at, epoch, &metadata, &condition, lease.clone());
            let made = made.await;
            match made {
                Ok(etag) => break etag,
                // The documented answer to `If-None-Match: *` is AlreadyExists; both say the same.
                Err(error)
                    if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Stale) =>
                {
                    if replace == Replace::Refused {
                        return Err(error.with_kind(ErrorKind::AlreadyExists));
                    }
                    if tries == TRIES {
                        give_back(left_behind).await;
                        return Err(error);
                    }
                }
                // A lease that this host has left behind is its own.
                Err(error)
                    if error.kind() == ErrorKind::Busy
                        && replace == Replace::Allowed
                        && left_behind.is_none() =>
                {
                    left_behind = self.leases.take(&at).await?;
                    if left_behind.is_none() {
                        return Err(error);
                    }
                }
                Err(error) => {
                    give_back(left_behind).await;
                    return Err(error);
                }
            }
            // Replaced in the version it is in: a late duplicate of the request would otherwise wipe
            // what is written later.
            (condition, lease) = match self.rest.head(&at).await {
                Ok((found, _)) => {
                    epoch = epoch.max(found.sequence.unwrap_or(0).min(LAST - 1) + 1);
                    (Condition::etag(&found.etag), self.leases.id_of(&at))
                }
                Err(error) if error.kind() == ErrorKind::NotFound => (Condition::Absent, None),
                Err(error) => return Err(error),
            };
        };
        let hold = self.leases.take_later(&at).await?;
        self.doubts.settle(&at, epoch);
        let extent = Extent { size: 0, mark: Mark::Absent };
        Ok(self.writer(Found { at, etag, renamed: None, extent, metadata, epoch, hold }))
    }

    /// The version that a blob has now, whoever can read it.
    async fn version_of(&self, at: &Address) -> Result<Version> {
        match self.rest.head(at).await {
            Ok((found, _)) => Ok(Version(found.etag)),
            // Perhaps for want of its key, which a list does without.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let (container, name) = at.target().split_once('/').unwrap_or_default();
                self.look(container, name).await.ok().and_then(|stat| stat.version).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    fn writer(&self, found: Found) -> Arc<dyn BlobMut> {
        let doubts = Arc::clone(&self.doubts);
        Arc::new(UpdatableBlob::new(Arc::clone(&self.rest), found, doubts))
    }

    /// Removes a blob in `version`, or in the one it has now: a late duplicate must not remove what is
    /// made under its name later.
    pub(super) async fn remove_at(&self, at: &Address, version: Option<&Version>) -> Result<()> {
        let mut tries = 0;
        let mut hold = None;
        let error = loop {
            tries += 1;
            let condition = match version {
                Some(version) => Condition::etag(&version.0),
                None => Condition::etag(&self.version_of(at).await?.0),
            };
            match self.rest.delete(at, &condition, self.leases.id_of(at)).await {
                Ok(()) => {
                    self.leases.forget(at).await;
                    return Ok(());
                }
                Err(error)
                    if error.kind() == ErrorKind::Stale && version.is_none() && tries < TRIES => {}
                Err(error) if error.kind() == ErrorKind::Busy && hold.is_none() => {
                    if self.has_snapshots(at).await? {
                        break error;
                    }
                    // A lease that this host has left behind is its own.
                    hold = self.leases.take(at).await?;
                    if hold.is_none() {
                        break error;
                    }
                }
                Err(error) => break error,
            }
        };
        // Whether an unanswered request did it can be seen: once it is gone, the request was used up.
        if error.outcome() == Outcome::Unknown
            && let Err(now) = self.rest.head(at).await
            && now.kind() == ErrorKind::NotFound
        {
            self.leases.forget(at).await;
            return Ok(());
        }
        give_back(hold).await;
        Err(error)
    }
}

/// Gives back a lease that was taken in vain.
async fn give_back(hold: Option<Hold>) {
    if let Some(hold) = hold
        && let Err(error) = hold.release().await
    {
        log::debug!(target: "lease", "{error}");
    }
}
