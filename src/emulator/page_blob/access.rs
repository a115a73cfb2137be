//! The way from a request to the blob it names, and the guards on that way.
//!
//! Every operation on a blob goes through here, so that lease, conditions and customer keys are
//! judged in one place and under the lock under which the operation then works. Knows no operation.

use std::sync::Arc;

use super::conditions::Conditions;
use super::encryption::Encryption;
use super::error::{self, Failure};
use super::lease::Leased;
use super::reply::Reply;
use super::request::Call;
use super::storage::{Container, EntryState, Storage};
use super::version::Version;

/// What a request demands of the blob before it may go on. Parsed before the blob is looked up.
#[derive(Debug)]
pub(super) struct Guards {
    lease: Option<String>,
    pub(super) conditions: Conditions,
    pub(super) encryption: Encryption,
}

impl Guards {
    pub(super) fn of(call: &Call) -> Result<Self, Failure> {
        let conditions = if call.op.is_read() {
            Conditions::of_read(&call.headers)?
        } else {
            Conditions::of_write(&call.headers)?
        };
        Ok(Self {
            lease: call.lease_id()?.map(str::to_owned),
            conditions,
            encryption: call.encryption()?,
        })
    }

    /// Judges a read, key included.
    pub(super) fn check_read(&self, version: &Version, now: i64) -> Result<(), Failure> {
        self.check_key(version)?;
        self.check_look(version, now)
    }

    /// Judges a read of what is not encrypted, such as where there are pages.
    pub(super) fn check_look(&self, version: &Version, now: i64) -> Result<(), Failure> {
        self.check_lease_read(version, now)?;
        self.conditions.check_read(version.props.current()).map_err(|code| {
            Failure::from(code).header("etag", format!("\"{}\"", version.props.etag))
        })
    }

    /// Judges the lease alone, for what needs no lease but may not carry a wrong one.
    pub(super) fn check_lease_read(&self, version: &Version, now: i64) -> Result<(), Failure> {
        Ok(version.props.lease.check_read(self.lease.as_deref(), Leased::Blob, now)?)
    }

    /// Judges lease and conditions of a write.
    pub(super) fn check_write(&self, version: &Version, now: i64) -> Result<(), Failure> {
        version.props.lease.check_write(self.lease.as_deref(), Leased::Blob, now)?;
        Ok(self.conditions.check_write(Some(version.props.current()))?)
    }

    /// Judges whether the request knows the key that the content was written with.
    pub(super) fn check_key(&self, version: &Version) -> Result<(), Failure> {
        match (&version.props.key_sha256, &self.encryption.key_sha256) {
            (Some(_), None) => Err(error::BLOB_USES_CUSTOMER_KEY.into()),
            (None, Some(_)) => Err(error::BLOB_HAS_NO_CUSTOMER_KEY.into()),
            (Some(has), Some(given)) if has != given => Err(error::BLOB_HAS_ANOTHER_KEY.into()),
            _ => Ok(()),
        }
    }

    /// Says with what an answered write was encrypted.
    pub(super) fn echo(&self, reply: Reply) -> Reply {
        reply
            .header("x-ms-request-server-encrypted", "true")
            .optional("x-ms-encryption-key-sha256", self.encryption.key_sha256.as_deref())
            .optional("x-ms-encryption-scope", self.encryption.scope.as_deref())
    }
}

/// The container that a request names.
pub(super) fn container(storage: &Storage, call: &Call) -> Result<Arc<Container>, Failure> {
    find_container(storage, &call.target.account, call.container())
        .ok_or_else(|| error::CONTAINER_NOT_FOUND.into())
}

pub(super) fn find_container(
    storage: &Storage,
    account: &str,
    name: &str,
) -> Option<Arc<Container>> {
    let account = storage.accounts.get(account)?;
    account.containers.read().get(name).map(Arc::clone)
}

/// Looks at the blob or snapshot that a request names, while nobody changes it.
pub(super) fn read<T>(
    storage: &Storage,
    call: &Call,
    look: impl FnOnce(&Version) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let container = container(storage, call)?;
    let entry = container.entry(call.blob()).ok_or(error::BLOB_NOT_FOUND)?;
    let state = entry.state.read();
    look(named(&state, call)?)
}

/// The blob, snapshot or version that a read names.
pub(super) fn named<'a>(state: &'a EntryState, call: &Call) -> Result<&'a Version, Failure> {
    let Some(id) = call.version_id() else {
        return pick(state, call.snapshot());
    };
    let live = state.live.as_ref().filter(|live| live.props.version.as_deref() == Some(id));
    live.or_else(|| state.versions.get(id)).ok_or_else(|| error::BLOB_NOT_FOUND.into())
}

/// The live blob or one of its snapshots.
pub(super) fn pick<'a>(
    state: &'a EntryState,
    snapshot: Option<&str>,
) -> Result<&'a Version, Failure> {
    let found = match snapshot {
        None => state.live.as_ref(),
        Some(time) => state.snapshots.get(time),
    };
    found.ok_or_else(|| error::BLOB_NOT_FOUND.into())
}

/// Changes the blob that a request names, while nobody else looks at it.
pub(super) fn change<T>(
    storage: &Storage,
    call: &Call,
    act: impl FnOnce(&Container, &mut Version) -> Result<T, Failure>,
) -> Result<T, Failure> {
    // A snapshot cannot be changed, and to change the blob instead would be worse than to refuse.
    if let Some(time) = call.snapshot() {
        return Err(error::invalid_query("snapshot", time));
    }
    if let Some(id) = call.version_id() {
        return Err(error::invalid_query("versionid", id));
    }
    let container = container(storage, call)?;
    let entry = container.entry(call.blob()).ok_or(error::BLOB_NOT_FOUND)?;
    let mut state = entry.state.write();
    let live = state.live.as_mut().ok_or(error::BLOB_NOT_FOUND)?;
    act(&container, live)
}
