//! The leases that make this mount the only writer of a blob.
//!
//! The first opening for updates takes the blob's lease, the last close gives it back; in between
//! [`renewal`](super::renewal) keeps it. The id is the same for every process of this host ([`StateDir`]), so that a host takes
//! its own lease again at once after a crash; a lock beside it keeps two processes apart.
//!
//! A lease counts as held from *before* the request that took or renewed it, by a clock that goes on
//! while the machine is suspended. Once that is as long ago as it lasts, or the service has said that
//! it is gone, no update is sent before it is confirmed again. Nothing is ever broken here but by
//! [`Leases::break_lease`], which somebody must ask for.
//!
//! A blob that we create is leased when it has been open for a [`YOUTH`], or as soon as something is to be
//! sent to it that is not the flush of its last close. Most new files are written and closed at once, and
//! the two requests would be a third of what they cost. While it is *young* it is ours because nobody
//! else has touched it, which each request to it has as its condition: the version that we made, or its
//! first epoch. Who opens it for writing in that time becomes its writer, and we are told by the next
//! request, which changes nothing.
//!
//! This module must not know updates, nor what a lost lease means for them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::future::join_all;
use http::header::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Notify};

use super::address::Address;
use super::client::Rest;
use super::state_dir::{Lock, NotLocked, StateDir};
use super::wire::Properties;
use crate::store::{Error, ErrorKind, Result, Retry};

/// The shortest and the longest lease that ends by itself, in seconds, as the service takes them.
pub(super) const SECONDS: std::ops::RangeInclusive<u8> = 15..=60;

/// How long blobs are leased.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Terms {
    /// They are not: whoever mounts so is the only writer by agreement.
    None,
    /// For so many seconds at a time.
    Seconds(u8),
    /// Until it is given back.
    Infinite,
}

impl Terms {
    /// The header value of the duration.
    pub(super) fn header(self) -> HeaderValue {
        match self {
            Terms::Seconds(seconds) => HeaderValue::from(u16::from(seconds)),
            Terms::None | Terms::Infinite => HeaderValue::from_static("-1"),
        }
    }

    /// How long it lasts, in milliseconds; `None` if it does not end.
    pub(super) fn lasts(self) -> Option<u64> {
        match self {
            Terms::Seconds(seconds) => Some(u64::from(seconds) * 1000),
            Terms::None | Terms::Infinite => None,
        }
    }
}

/// How long a blob that we have made is left without a lease, in milliseconds.
const YOUTH: u64 = 1000;

/// The leases of one store.
#[derive(Debug)]
pub(super) struct Leases {
    pub(super) rest: Arc<Rest>,
    pub(super) terms: Terms,
    /// `None` if nothing is to be written.
    state_dir: Option<StateDir>,
    pub(super) held: Mutex<HashMap<Arc<str>, Entry>>,
    /// The renewing task runs.
    pub(super) renewing: AtomicBool,
    /// Something is leased, or this is over.
    pub(super) wake: Arc<Notify>,
}

/// A lease, and how many opened blobs share it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) lease: Arc<Lease>,
    users: usize,
}

/// The lease of one blob.
#[derive(Debug)]
pub(super) struct Lease {
    at: Address,
    id: HeaderValue,
    pub(super) terms: Terms,
    /// There from when it was taken until it is given back. Locked while the service is asked about
    /// it: one request at a time.
    pub(super) lock: AsyncMutex<Option<Lock>>,
    /// When the request was sent that last confirmed it, in milliseconds of [`now`]; 0 if it is not
    /// held or must be confirmed first.
    pub(super) confirmed: AtomicU64,
    /// While it is young: when that ends, in milliseconds of [`now`]. Otherwise 0.
    pub(super) young_until: AtomicU64,
    /// How often it was lost and taken again, or taken after its youth, or that was tried.
    takings: AtomicU64,
    /// We have removed the blob, and the lease with it.
    gone: AtomicBool,
}

/// How a lease came to be confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It was ours all the time: had anybody written, it could not have been renewed.
    Kept,
    /// It was lost and is taken again, or taken after its youth. Somebody may have written meanwhile; once
    /// that is known not to be so, [`Hold::accept`] takes this.
    Retaken(u64),
}

/// The use of a lease by one opened blob. Dropped, it is not given back to the service: only this host
/// can take it then, until it ends by itself.
#[derive(Debug)]
pub(super) struct Hold {
    leases: Arc<Leases>,
    lease: Arc<Lease>,
    /// Of the takings of the lease, the last one after which nobody was found to have written.
    accepted: AtomicU64,
}

impl Leases {
    /// Leases on these terms. `state_dir` is where the host keeps its secret; `None` if nothing is to
    /// be written.
    ///
    /// Errors: the state directory cannot be used, in a line that names the remedy.
    pub(super) fn new(
        rest: Arc<Rest>,
        terms: Terms,
        state_dir: Option<&Path>,
    ) -> std::result::Result<Leases, String> {
        Ok(Leases {
            rest,
            terms,
            state_dir: state_dir.map(StateDir::open).transpose()?,
            held: Mutex::default(),
            renewing: AtomicBool::new(false),
            wake: Arc::default(),
        })
    }

    /// Makes this process the only writer of the blob at `at`; `None` if blobs are not leased.
    ///
    /// Errors: `Busy` if somebody else holds the lease; as the service says.
    pub(super) async fn take(self: &Arc<Self>, at: &Address) -> Result<Option<Hold>> {
        self.hold(at, false).await
    }

    /// The same for a blob that we have just made: only this host's other processes are told so far.
    pub(super) async fn take_later(self: &Arc<Self>, at: &Address) -> Result<Option<Hold>> {
        self.hold(at, true).await
    }

    async fn hold(self: &Arc<Self>, at: &Address, later: bool) -> Result<Option<Hold>> {
        let state_dir = self.writing(at)?;
        if self.terms == Terms::None {
            return Ok(None);
        }
        let lease = {
            let mut held = self.held.lock();
            let entry = held.entry(Arc::clone(at.target())).or_insert_with(|| Entry {
                lease: Arc::new(Lease::new(at, self.terms, state_dir)),
                users: 0,
            });
            entry.users += 1;
            Arc::clone(&entry.lease)
        };
        let accepted = AtomicU64::new(lease.takings.load(Ordering::Acquire));
        let hold = Hold { leases: Arc::clone(self), lease, accepted };
        let lease = &hold.lease;
        let mut lock = lease.lock.lock().await;
        if lock.is_none() {
            let id = lease.id.to_str().expect("a GUID is text");
            let ours = state_dir.lock(id).map_err(|why| not_locked(at, &why))?;
            if later {
                lease.young_until.store(now() + YOUTH, Ordering::Release);
            } else {
                lease.acquire(&self.rest).await?;
            }
            *lock = Some(ours);
        } else if hold.is_young() && !later {
            lease.take_anew(&self.rest).await?;
        }
        drop(lock);
        self.keep_renewing();
        Ok(Some(hold))
    }

    /// Where the host keeps its secret.
    ///
    /// Errors: `ReadOnly` if nothing is to be written.
    pub(super) fn writing(&self, at: &Address) -> Result<&StateDir> {
        let refused = || Error::new(ErrorKind::ReadOnly, "open", at.target(), "mounted read-only");
        self.state_dir.as_ref().ok_or_else(refused)
    }

    /// The id of the lease that this store holds on a blob, if it does.
    pub(super) fn id_of(&self, at: &Address) -> Option<HeaderValue> {
        let held = self.held.lock();
        let lease = &held.get(at.target())?.lease;
        (lease.confirmed.load(Ordering::Acquire) != 0).then(|| lease.id.clone())
    }

    /// The blob was removed by us: there is nothing to renew or to give back.
    pub(super) async fn forget(&self, at: &Address) {
        let entry = self.held.lock().remove(at.target());
        if let Some(Entry { lease, .. }) = entry {
            lease.gone.store(true, Ordering::Release);
            lease.confirmed.store(0, Ordering::Release);
            *lease.lock.lock().await = None;
        }
    }

    /// Gives back every lease that is held, for a mount that ends.
    pub(super) async fn release_all(&self) {
        let all: Vec<_> = self.held.lock().drain().map(|(_, entry)| entry.lease).collect();
        join_all(all.iter().map(|lease| async {
            if let Err(error) = lease.release(&self.rest).await {
                log::warn!(target: "lease", "{error}; it ends by itself, or is taken again by this host");
            }
        }))
        .await;
    }

    /// Breaks the lease that anybody holds on a blob, at once. Says what it was.
    pub(super) async fn break_lease(rest: &Rest, at: &Address) -> Result<String> {
        let (found, _) = rest.head(at).await?;
        if found.attribute("lease_status") != Some("locked") {
            return Err(Error::new(
                ErrorKind::NotFound,
                "Lease Blob",
                at.target(),
                format!("there is no lease to break ({})", describe(&found)),
            ));
        }
        rest.break_lease(at).await?;
        Ok(describe(&found))
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl Lease {
    fn new(at: &Address, terms: Terms, state_dir: &StateDir) -> Lease {
        // The URL's query may hold a signature, which changes.
        let mut place = at.url().clone();
        place.set_query(None);
        let id = HeaderValue::try_from(state_dir.lease_id(place.as_str()));
        Lease {
            at: at.clone(),
            id: id.expect("a GUID is a header value"),
            terms,
            lock: AsyncMutex::new(None),
            confirmed: AtomicU64::new(0),
            young_until: AtomicU64::new(0),
            takings: AtomicU64::new(0),
            gone: AtomicBool::new(false),
        }
    }

    /// Whether it can be relied on without asking.
    fn is_fresh(&self) -> bool {
        match (self.confirmed.load(Ordering::Acquire), self.terms.lasts()) {
            (0, _) => false,
            (_, None) => true,
            (at, Some(lasts)) => now() < at + lasts,
        }
    }

    /// Takes it when it was lost, or when its youth ends. The caller has the lock.
    pub(super) async fn take_anew(&self, rest: &Rest) -> Result<()> {
        // Beforehand: an answer that is lost would leave a lease that can be renewed.
        self.takings.fetch_add(1, Ordering::AcqRel);
        self.young_until.store(0, Ordering::Release);
        self.acquire(rest).await
    }

    fn confirmed_at(&self, asked: u64) {
        self.confirmed.store(asked, Ordering::Release);
    }

    async fn acquire(&self, rest: &Rest) -> Result<()> {
        let asked = now();
        match rest.acquire_lease(&self.at, &self.id, self.terms).await {
            Ok(()) => {
                self.confirmed_at(asked);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Busy => {
                // Told with what there is to tell; that nothing more is known is no other failure.
                let holder = match rest.head(&self.at).await {
                    Ok((found, _)) => describe(&found),
                    Err(_) => "its state cannot be told".to_owned(),
                };
                let why = format!(
                    "somebody else holds the lease ({holder}); end that writer, or break the lease \
                     with blobdir recover --break-lease"
                );
                Err(Error::new(ErrorKind::Busy, "Lease Blob", self.at.target(), why))
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let why = format!("{error}; to write without leases, mount with -o lease=none");
                Err(Error::new(error.kind(), "Lease Blob", self.at.target(), why))
            }
            Err(error) => Err(error),
        }
    }

    /// Renews it, and takes note of what comes of that. The caller has the lock.
    pub(super) async fn ask_to_renew(&self, rest: &Rest) -> Result<()> {
        let asked = now();
        let result = rest.renew_lease(&self.at, &self.id).await;
        match &result {
            Ok(()) => self.confirmed_at(asked),
            Err(error) if error.retry() == Retry::Permanent => self.confirmed_at(0),
            Err(_) => {}
        }
        result
    }

    /// Gives it back. That there is none any more is as good.
    async fn release(&self, rest: &Rest) -> Result<()> {
        let mut lock = self.lock.lock().await;
        if lock.is_none() {
            return Ok(());
        }
        self.confirmed_at(0);
        if self.young_until.swap(0, Ordering::AcqRel) != 0 {
            *lock = None;
            return Ok(());
        }
        let result = match rest.release_lease(&self.at, &self.id).await {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Busy | ErrorKind::Fenced | ErrorKind::NotFound
                ) =>
            {
                Ok(())
            }
            result => result,
        };
        *lock = None;
        result
    }
}

impl Hold {
    /// The id, as requests carry it; `None` while it is young.
    pub(super) fn id(&self) -> Option<HeaderValue> {
        (!self.is_young()).then(|| self.lease.id.clone())
    }

    /// Whether nobody was asked for it yet.
    pub(super) fn is_young(&self) -> bool {
        self.lease.young_until.load(Ordering::Acquire) != 0
    }

    /// Whether it is young, and may be for a while.
    pub(super) fn may_wait(&self) -> bool {
        self.lease.young_until.load(Ordering::Acquire) > now()
    }

    /// Whether an update may be sent without confirming it first.
    pub(super) fn is_fresh(&self) -> bool {
        self.lease.is_fresh() && self.standing() == Standing::Kept
    }

    fn standing(&self) -> Standing {
        let takings = self.lease.takings.load(Ordering::Acquire);
        if takings == self.accepted.load(Ordering::Acquire) {
            Standing::Kept
        } else {
            Standing::Retaken(takings)
        }
    }

    /// Nobody has written before this taking.
    pub(super) fn accept(&self, taking: u64) {
        self.accepted.store(taking, Ordering::Release);
    }

    /// The service has refused a request in a way that may be about the lease.
    pub(super) fn distrust(&self) {
        self.lease.confirmed_at(0);
        // Its youth is over at once.
        let _ = self
            .lease
            .young_until
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |until| (until != 0).then_some(1));
    }

    /// Confirms it if it is not fresh, and takes it if it is young, or lost and free.
    ///
    /// Errors: `Fenced` if somebody else has it, `Stale` if the blob is gone; as the service says.
    pub(super) async fn confirm(&self) -> Result<Standing> {
        let lease = &*self.lease;
        let lock = lease.lock.lock().await;
        let about = |kind, why: &str| Error::new(kind, "Lease Blob", lease.at.target(), why);
        if lease.gone.load(Ordering::Acquire) {
            return Err(about(ErrorKind::Stale, "the blob was removed"));
        }
        if lock.is_none() {
            return Err(about(ErrorKind::Fenced, "the lease was given back"));
        }
        if lease.is_fresh() {
            return Ok(self.standing());
        }
        let rest = &self.leases.rest;
        if !self.is_young() {
            match lease.ask_to_renew(rest).await {
                Ok(()) => return Ok(self.standing()),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(error.with_kind(ErrorKind::Stale));
                }
                Err(error) if error.retry() != Retry::Permanent => return Err(error),
                Err(error) => log::warn!(target: "lease", "{error}; trying to take it again"),
            }
        }
        match lease.take_anew(rest).await {
            Ok(()) => Ok(self.standing()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(error.with_kind(ErrorKind::Stale))
            }
            Err(error) if matches!(error.kind(), ErrorKind::Busy | ErrorKind::Fenced) => {
                Err(error.with_kind(ErrorKind::Fenced))
            }
            Err(error) => Err(error),
        }
    }

    /// Gives the lease back, unless other opened blobs share it.
    pub(super) async fn release(&self) -> Result<()> {
        // The entry stays until it is given back: whoever opens the blob meanwhile waits for that, and
        // takes it anew.
        let last = {
            let held = self.leases.held.lock();
            let entry = held.get(self.lease.at.target());
            entry.is_some_and(|entry| Arc::ptr_eq(&entry.lease, &self.lease) && entry.users == 1)
        };
        if last { self.lease.release(&self.leases.rest).await } else { Ok(()) }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.leases.held.lock();
        let target = self.lease.at.target();
        if let Some(entry) = held.get_mut(target)
            && Arc::ptr_eq(&entry.lease, &self.lease)
        {
            entry.users -= 1;
            if entry.users == 0 {
                held.remove(target);
            }
        }
    }
}

/// What the service says of a blob's lease, in words.
pub(super) fn describe(found: &Properties) -> String {
    let of = |name| found.attribute(name).unwrap_or("none");
    format!("state {}, duration {}", of("lease_state"), of("lease_duration"))
}

fn not_locked(at: &Address, why: &NotLocked) -> Error {
    let (kind, why) = match why {
        NotLocked::Held(pid) => {
            let who = pid.map_or("another process".to_owned(), |pid| format!("process {pid}"));
            (ErrorKind::Busy, format!("{who} of this host writes it; it has the lease"))
        }
        NotLocked::Failed(error) => {
            (ErrorKind::Quota, format!("the state directory cannot be used: {error}"))
        }
    };
    Error::new(kind, "Lease Blob", at.target(), why)
}

/// Milliseconds since the machine was started, suspended time included; never 0.
pub(super) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result, and the call keeps no reference to it.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    debug_assert_eq!(failed, 0, "every Linux since 2.6.39 has this clock");
    (time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000).max(1)
}
