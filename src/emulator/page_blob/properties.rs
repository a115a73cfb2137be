//! Set Blob Properties: content headers, size and sequence number, in one step.
//!
//! Knows nothing of pages but that those beyond a smaller size are gone.

use super::access::{self, Guards};
use super::blob::{content_headers, page_blob_size};
use super::conditions::sequence;
use super::error::{self, Failure, invalid_header, missing_header};
use super::record::Kind;
use super::reply::Reply;
use super::request::Call;
use super::storage::Storage;

/// Largest sequence number: 2^63-1.
const LARGEST_SEQUENCE: u64 = i64::MAX as u64;

/// What is to become of the sequence number.
#[derive(Debug, Clone, Copy)]
enum Action {
    Max(u64),
    Update(u64),
    Increment,
}

impl Action {
    fn parse(call: &Call) -> Result<Option<Self>, Failure> {
        const ACTION: &str = "x-ms-sequence-number-action";
        const NUMBER: &str = "x-ms-blob-sequence-number";
        let number = sequence(&call.headers, NUMBER)?;
        let Some(action) = call.header(ACTION)? else {
            return match number {
                None => Ok(None),
                Some(_) => Err(missing_header(ACTION)),
            };
        };
        let given = || number.ok_or_else(|| missing_header(NUMBER));
        match action {
            "max" => Ok(Some(Self::Max(given()?))),
            "update" => Ok(Some(Self::Update(given()?))),
            "increment" => match number {
                None => Ok(Some(Self::Increment)),
                Some(number) => Err(invalid_header(NUMBER, &number.to_string())),
            },
            other => Err(invalid_header(ACTION, other)),
        }
    }

    fn apply(self, current: u64) -> Result<u64, Failure> {
        match self {
            Self::Max(number) => Ok(current.max(number)),
            Self::Update(number) => Ok(number),
            Self::Increment if current >= LARGEST_SEQUENCE => {
                Err(error::SEQUENCE_INCREMENT_TOO_LARGE.into())
            }
            Self::Increment => Ok(current + 1),
        }
    }
}

/// Set Blob Properties.
pub(super) fn set(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    let guards = Guards::of(call)?;
    let action = Action::parse(call)?;
    let size = page_blob_size(call)?;
    let content = content_headers(call)?;
    let any_content = content_given(call);
    let now = storage.clock.now_ms();
    access::change(storage, call, |container, version| {
        if (action.is_some() || size.is_some()) && version.props.kind != Kind::Page {
            return Err(error::INVALID_BLOB_TYPE.into());
        }
        guards.check_write(version, now)?;
        if size.is_some() && guards.encryption.key_sha256.is_some() {
            guards.check_key(version)?;
        }
        let sequence = match action {
            Some(action) => action.apply(version.props.sequence)?,
            None => version.props.sequence,
        };
        version.props.sequence = sequence;
        // With size or number alone the others stay; in any other case what is not given is cleared.
        if any_content || (action.is_none() && size.is_none()) {
            version.props.content = content;
        }
        version.props.lease.wipe(now);
        let before = version.props.size;
        version.props.size = size.unwrap_or(before);
        storage.touch(version);
        container.save(version)?;
        if version.props.size < before {
            version.cut(version.props.size)?;
        }
        Ok(Reply::new(200).written(&version.props))
    })
}

/// Whether any content header is in the request, even an empty one.
fn content_given(call: &Call) -> bool {
    [
        "x-ms-blob-cache-control",
        "x-ms-blob-content-type",
        "x-ms-blob-content-md5",
        "x-ms-blob-content-encoding",
        "x-ms-blob-content-language",
        "x-ms-blob-content-disposition",
    ]
    .iter()
    .any(|name| call.headers.contains_key(*name))
}
