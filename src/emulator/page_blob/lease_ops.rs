//! Lease Blob and Lease Container: the requests around the state machine.
//!
//! Parses the action before anything is looked up. Knows nothing of the rules, which are in `lease`.

use super::access;
use super::conditions::{Conditions, Current};
use super::error::{self, Failure, invalid_header, missing_header};
use super::lease::Lease;
use super::reply::Reply;
use super::request::{Call, guid};
use super::storage::Storage;

/// What a lease request asks for.
#[derive(Debug)]
enum Action {
    Acquire { id: String, duration_ms: Option<i64> },
    Renew { id: String },
    Change { id: String, proposed: String },
    Release { id: String },
    Break { period_ms: Option<i64> },
}

impl Action {
    fn parse(call: &Call, fresh_id: impl FnOnce() -> String) -> Result<Self, Failure> {
        const PROPOSED: &str = "x-ms-proposed-lease-id";
        let id = || {
            let id = call.lease_id()?.ok_or_else(|| missing_header("x-ms-lease-id"))?;
            Ok::<_, Failure>(id.to_owned())
        };
        let proposed = guid(&call.headers, PROPOSED)?.map(str::to_owned);
        match call.required("x-ms-lease-action")?.to_ascii_lowercase().as_str() {
            "acquire" => Ok(Self::Acquire {
                id: proposed.unwrap_or_else(fresh_id),
                duration_ms: duration(call)?,
            }),
            "renew" => Ok(Self::Renew { id: id()? }),
            "change" => Ok(Self::Change {
                id: id()?,
                proposed: proposed.ok_or_else(|| missing_header(PROPOSED))?,
            }),
            "release" => Ok(Self::Release { id: id()? }),
            "break" => Ok(Self::Break { period_ms: period(call)? }),
            other => Err(invalid_header("x-ms-lease-action", other)),
        }
    }

    /// Changes the lease, and says what to answer.
    fn apply(self, lease: &mut Lease, now: i64) -> Result<Reply, Failure> {
        match self {
            Self::Acquire { id, duration_ms } => {
                lease.acquire(&id, duration_ms, now)?;
                Ok(Reply::new(201).header("x-ms-lease-id", id))
            }
            Self::Renew { id } => {
                lease.renew(&id, now)?;
                Ok(Reply::new(200).header("x-ms-lease-id", id))
            }
            Self::Change { id, proposed } => {
                lease.change(&id, &proposed, now)?;
                Ok(Reply::new(200).header("x-ms-lease-id", proposed))
            }
            Self::Release { id } => {
                lease.release(&id)?;
                Ok(Reply::new(200))
            }
            Self::Break { period_ms } => {
                let seconds = lease.break_lease(period_ms, now)?;
                Ok(Reply::new(202).header("x-ms-lease-time", seconds.to_string()))
            }
        }
    }
}

/// 15 to 60 seconds, or -1 for one that never ends. There is no default.
fn duration(call: &Call) -> Result<Option<i64>, Failure> {
    const NAME: &str = "x-ms-lease-duration";
    let text = call.required(NAME)?;
    match text.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(seconds @ 15..=60) => Ok(Some(seconds * 1000)),
        _ => Err(invalid_header(NAME, text)),
    }
}

/// 0 to 60 seconds.
fn period(call: &Call) -> Result<Option<i64>, Failure> {
    const NAME: &str = "x-ms-lease-break-period";
    let Some(text) = call.header(NAME)? else {
        return Ok(None);
    };
    match text.parse::<i64>() {
        Ok(seconds @ 0..=60) => Ok(Some(seconds * 1000)),
        _ => Err(invalid_header(NAME, text)),
    }
}

/// Lease Blob. Changes neither ETag nor time.
pub(super) fn blob(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    // The lease id is what the action is about, not a guard; conditions are.
    let conditions = Conditions::of_write(&call.headers)?;
    let action = Action::parse(call, super::guid::new_guid)?;
    let now = storage.clock.now_ms();
    access::change(storage, call, |container, version| {
        conditions.check_write(Some(version.props.current()))?;
        let reply = action.apply(&mut version.props.lease, now)?;
        container.save(version)?;
        Ok(reply.stamps(&version.props.etag, version.props.modified_ms))
    })
}

/// Lease Container.
pub(super) fn container(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    let conditions = Conditions::of_write(&call.headers)?;
    let action = Action::parse(call, super::guid::new_guid)?;
    let now = storage.clock.now_ms();
    let container = access::container(storage, call)?;
    let mut info = container.info.write();
    if info.deleted {
        return Err(error::CONTAINER_NOT_FOUND.into());
    }
    conditions.check_write(Some(Current { etag: &info.etag, modified_ms: info.modified_ms }))?;
    let reply = action.apply(&mut info.lease, now)?;
    container.save_info(&info)?;
    Ok(reply.stamps(&info.etag, info.modified_ms))
}
