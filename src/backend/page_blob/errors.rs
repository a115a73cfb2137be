//! What the Blob service's error codes mean ("Blob service error codes" of its documentation), in
//! words for users. The default verdict of the status holds for codes that are not here.

use http::header::HeaderMap;

use super::auth::Credential;
use super::wire;
use crate::client::{Again, Answer, Verdict, judge as by_status};
use crate::store::ErrorKind;

use Again::{Later, Never, Renewed};

/// What a code means, whether sending again can help, and what to do; an empty text leaves the words to
/// the service.
const CODES: &[(&str, ErrorKind, Again, &str)] = &[
    // Names.
    ("BlobNotFound", ErrorKind::NotFound, Never, "there is no such blob"),
    ("ResourceNotFound", ErrorKind::NotFound, Never, "there is no such blob"),
    (
        "ContainerNotFound",
        ErrorKind::NotFound,
        Never,
        "there is no such container; check its name, or create it",
    ),
    ("BlobAlreadyExists", ErrorKind::AlreadyExists, Never, "the name is taken"),
    ("ContainerBeingDeleted", ErrorKind::NotFound, Never, "the container is being deleted"),
    ("ContainerDisabled", ErrorKind::PermissionDenied, Never, "the container has been disabled"),
    ("InvalidResourceName", ErrorKind::BadName, Never, "the service does not take this name"),
    ("InvalidUri", ErrorKind::BadName, Never, "the service does not take this name"),
    (
        "OutOfRangeInput",
        ErrorKind::BadName,
        Never,
        "the service does not take a name or value of this length",
    ),
    // Conditions and leases.
    ("ConditionNotMet", ErrorKind::Stale, Never, "the blob was changed by somebody else"),
    ("TargetConditionNotMet", ErrorKind::Stale, Never, "the target was changed by somebody else"),
    ("SourceConditionNotMet", ErrorKind::Stale, Never, "the source was changed by somebody else"),
    ("CannotVerifyCopySource", ErrorKind::Unsupported, Never, "the service cannot read the source"),
    (
        "InvalidSourceBlobType",
        ErrorKind::Unsupported,
        Never,
        "the service does not copy from such a blob",
    ),
    (
        "SequenceNumberConditionNotMet",
        ErrorKind::Fenced,
        Never,
        "another writer has taken over this blob",
    ),
    ("LeaseLost", ErrorKind::Busy, Never, "the lease on the blob was lost; see who else writes it"),
    (
        "LeaseNotPresentWithBlobOperation",
        ErrorKind::Busy,
        Never,
        "the lease on the blob was lost; see who else writes it",
    ),
    (
        "LeaseIdMissing",
        ErrorKind::Busy,
        Never,
        "somebody else holds a lease on it; end that writer or break the lease",
    ),
    (
        "LeaseIdMismatchWithBlobOperation",
        ErrorKind::Busy,
        Never,
        "somebody else holds a lease on it; end that writer or break the lease",
    ),
    ("LeaseIdMismatchWithLeaseOperation", ErrorKind::Busy, Never, "somebody else holds the lease"),
    (
        "LeaseAlreadyPresent",
        ErrorKind::Busy,
        Never,
        "somebody else holds a lease on it; end that writer or break the lease",
    ),
    ("LeaseIsBreakingAndCannotBeAcquired", ErrorKind::Busy, Never, "a lease on it is being broken"),
    ("LeaseNotPresentWithLeaseOperation", ErrorKind::Fenced, Never, "there is no lease any more"),
    ("LeaseIsBrokenAndCannotBeRenewed", ErrorKind::Fenced, Never, "somebody broke the lease"),
    ("InfiniteLeaseDurationRequired", ErrorKind::Busy, Never, "somebody else holds a lease on it"),
    (
        "SnapshotsPresent",
        ErrorKind::Busy,
        Never,
        "it has snapshots, which would be destroyed with it; delete them first, in .snapshots",
    ),
    (
        "SnapshotCountExceeded",
        ErrorKind::Quota,
        Never,
        "it has as many snapshots as the account allows; delete old ones",
    ),
    // The service's own spelling.
    (
        "SnaphotOperationRateExceeded",
        ErrorKind::Busy,
        Never,
        "the account allows a snapshot of a blob every ten minutes only",
    ),
    ("PreviousSnapshotNotFound", ErrorKind::NotFound, Never, "there is no such snapshot"),
    (
        "PreviousSnapshotCannotBeNewer",
        ErrorKind::InvalidRange,
        Never,
        "the first is newer than the second; give the older one first",
    ),
    (
        "PreviousSnapshotOperationNotSupported",
        ErrorKind::Unsupported,
        Never,
        "the service cannot compare this snapshot",
    ),
    (
        "BlobOverwritten",
        ErrorKind::Unsupported,
        Never,
        "the blob was replaced as a whole since that snapshot, and the service cannot compare them",
    ),
    ("PendingCopyOperation", ErrorKind::Busy, Never, "a copy onto it is under way"),
    ("SystemInUse", ErrorKind::Busy, Never, "the service itself uses it"),
    (
        "BlobBeingRehydrated",
        ErrorKind::Busy,
        Never,
        "it is being brought back from the archive tier",
    ),
    (
        "BlobArchived",
        ErrorKind::PermissionDenied,
        Never,
        "it is in the archive tier; rehydrate it first",
    ),
    // What a blob cannot do.
    (
        "InvalidBlobType",
        ErrorKind::ReadOnly,
        Never,
        "it is no page blob, and only page blobs can be updated in place",
    ),
    (
        "BlobImmutableDueToPolicy",
        ErrorKind::PermissionDenied,
        Never,
        "an immutability policy protects it",
    ),
    ("BlobImmutableDueToLegalHold", ErrorKind::PermissionDenied, Never, "a legal hold protects it"),
    (
        "BlobUsesCustomerSpecifiedEncryption",
        ErrorKind::PermissionDenied,
        Never,
        "it is encrypted with a key that must be sent along; give it by -o cpk=FILE",
    ),
    (
        "BlobCustomerSpecifiedEncryptionMismatch",
        ErrorKind::PermissionDenied,
        Never,
        "it is encrypted with another key than that of -o cpk",
    ),
    (
        "BlobDoesNotUseCustomerSpecifiedEncryption",
        ErrorKind::PermissionDenied,
        Never,
        "it is not encrypted with a key that is sent along; mount it without -o cpk",
    ),
    (
        "FeatureNotSupportedByAccount",
        ErrorKind::Unsupported,
        Never,
        "accounts of this kind (hierarchical namespace?) have no page blobs",
    ),
    (
        "BlobTypeNotSupported",
        ErrorKind::Unsupported,
        Never,
        "accounts of this kind have no page blobs",
    ),
    (
        "FeatureNotSupported",
        ErrorKind::Unsupported,
        Never,
        "this emulator does not know a header of the request",
    ),
    ("APINotImplemented", ErrorKind::Unsupported, Never, "this emulator cannot do that"),
    (
        "InvalidPageRange",
        ErrorKind::InvalidRange,
        Never,
        "the range is not aligned to 512 bytes or ends beyond the blob; was it made smaller by somebody else?",
    ),
    (
        "InvalidRange",
        ErrorKind::InvalidRange,
        Never,
        "the range begins beyond the end of the blob; was it made smaller by somebody else?",
    ),
    ("RequestBodyTooLarge", ErrorKind::TooLarge, Never, "more than 4 MiB at once"),
    (
        "ContentLengthLargerThanTierLimit",
        ErrorKind::TooLarge,
        Never,
        "the account's tier has no blobs of this size",
    ),
    ("MetadataTooLarge", ErrorKind::TooLarge, Never, "its metadata is at the limit of 8 KiB"),
    ("Md5Mismatch", ErrorKind::Corrupt, Later, "the bytes were damaged on the way"),
    ("Crc64Mismatch", ErrorKind::Corrupt, Later, "the bytes were damaged on the way"),
    // Quota and load.
    (
        "ServerBusy",
        ErrorKind::RateLimited,
        Later,
        "the service is busy, or the account or the blob is at its limit of requests or bytes a second",
    ),
    ("OperationTimedOut", ErrorKind::TimedOut, Later, "the service did not finish in time"),
    ("InternalError", ErrorKind::Unavailable, Later, "the service failed"),
    ("AccountIsDisabled", ErrorKind::PermissionDenied, Never, "the account is disabled"),
];

/// What an answer means, for requests to `account` with `credential`.
pub(super) fn judge(answer: &Answer<'_>, account: &str, credential: &Credential) -> Verdict {
    let default = by_status(answer.status);
    let document = wire::parse_error(answer.body);
    let Some(code) = header_code(answer.headers).or(document.as_ref().map(|(code, _)| &**code))
    else {
        let message = match answer.status.as_u16() {
            401 | 403 => refusal(credential, account, "without a reason"),
            404 => "there is no such blob or container".to_owned(),
            412 => "the blob was changed by somebody else".to_owned(),
            _ => default.message,
        };
        let again = if answer.status.as_u16() == 401 { Renewed } else { default.again };
        return Verdict { message, again, ..default };
    };
    if let Some(&(_, kind, again, words)) = CODES.iter().find(|row| row.0 == code) {
        return Verdict { kind, again, message: format!("{words} ({code})") };
    }
    match code {
        "AuthenticationFailed" | "InvalidAuthenticationInfo" | "NoAuthenticationInformation" => {
            Verdict {
                kind: ErrorKind::Unauthenticated,
                again: Renewed,
                message: refusal(credential, account, code),
            }
        }
        // Azurite says this of signatures, Azure of network rules.
        "AuthorizationFailure" => Verdict {
            kind: ErrorKind::PermissionDenied,
            again: Renewed,
            message: format!(
                "{}, or the account's network rules keep this host out",
                refusal(credential, account, code)
            ),
        },
        "AuthorizationPermissionMismatch"
        | "AuthorizationServiceMismatch"
        | "AuthorizationResourceTypeMismatch"
        | "AuthorizationProtocolMismatch"
        | "AuthorizationSourceIPMismatch"
        | "InsufficientAccountPermissions"
        | "UnauthorizedBlobOverwrite"
        | "PublicAccessNotPermitted" => Verdict {
            kind: ErrorKind::PermissionDenied,
            again: Renewed,
            message: match credential {
                Credential::Tokens(tokens) => format!(
                    "{} may not do this in account {account} ({code}); it needs the role Storage Blob Data \
                     Contributor there, or Storage Blob Data Reader to read alone, and a new role takes \
                     minutes to be known",
                    tokens.name()
                ),
                _ => format!(
                    "the {} for account {account} does not allow this ({code}); \
                     it needs read and list, and write, create and delete to change anything",
                    credential.name()
                ),
            },
        },
        _ => {
            // The first line; the others are the request's id and time.
            let words = document
                .as_ref()
                .and_then(|(_, message)| message.lines().next())
                .unwrap_or_default();
            let words: String = words.chars().filter(|c| !c.is_control()).take(200).collect();
            Verdict {
                message: format!("the service answered {} {code}: {words}", answer.status.as_u16()),
                ..default
            }
        }
    }
}

/// That the service does not know us, and what to look at.
fn refusal(credential: &Credential, account: &str, code: &str) -> String {
    let remedy = match credential {
        Credential::SharedKey(_) => {
            "check that the key (AZURE_STORAGE_KEY, or AccountKey of the connection string) is one of \
             this account's, and that this host's clock is right within 15 minutes"
        }
        Credential::Sas(_) => {
            "check that it has not expired, is for this container and was copied whole"
        }
        Credential::Tokens(tokens) => {
            return format!(
                "the service refused the token of {} for account {account} ({code}); check that the \
                 identity and the account are of the same tenant",
                tokens.name()
            );
        }
        Credential::Anonymous => {
            "the container is not public; give a credential instead of -o anonymous"
        }
    };
    format!(
        "the service refused the {} for account {account} ({code}); {remedy}",
        credential.name()
    )
}

/// The code in the header, which is there even where a body cannot be.
fn header_code(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-ms-error-code")?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http::header::{HeaderMap, HeaderValue};

    use super::judge;
    use crate::backend::page_blob::auth::Credential;
    use crate::client::{Again, Answer};
    use crate::store::ErrorKind;

    fn verdict(status: u16, code: &'static str, body: &str) -> crate::client::Verdict {
        let mut headers = HeaderMap::new();
        if !code.is_empty() {
            headers.insert("x-ms-error-code", HeaderValue::from_static(code));
        }
        judge(
            &Answer {
                status: StatusCode::from_u16(status).unwrap(),
                headers: &headers,
                body: body.as_bytes(),
            },
            "acct",
            &Credential::Anonymous,
        )
    }

    #[test]
    fn codes_decide_where_they_are_known() {
        for (status, code, kind, again) in [
            (409, "BlobAlreadyExists", ErrorKind::AlreadyExists, Again::Never),
            (412, "SequenceNumberConditionNotMet", ErrorKind::Fenced, Again::Never),
            (412, "ConditionNotMet", ErrorKind::Stale, Again::Never),
            (412, "LeaseIdMissing", ErrorKind::Busy, Again::Never),
            (416, "InvalidPageRange", ErrorKind::InvalidRange, Again::Never),
            (400, "Md5Mismatch", ErrorKind::Corrupt, Again::Later),
            (503, "ServerBusy", ErrorKind::RateLimited, Again::Later),
            (403, "AuthenticationFailed", ErrorKind::Unauthenticated, Again::Renewed),
            (403, "AuthorizationPermissionMismatch", ErrorKind::PermissionDenied, Again::Renewed),
            (403, "AccountIsDisabled", ErrorKind::PermissionDenied, Again::Never),
            (500, "NeverHeardOf", ErrorKind::Unavailable, Again::Later),
        ] {
            let verdict = verdict(status, code, "");
            assert_eq!((verdict.kind, verdict.again), (kind, again), "{code}");
            assert!(verdict.message.contains(code));
        }
    }

    #[test]
    fn the_body_tells_when_the_header_does_not() {
        let body = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error>\
            <Code>SomethingNew</Code><Message>Words.\nRequestId:1\nTime:2</Message></Error>";
        let verdict = verdict(409, "", body);
        assert_eq!(verdict.kind, ErrorKind::Busy);
        assert_eq!(verdict.message, "the service answered 409 SomethingNew: Words.");
    }

    #[test]
    fn bodies_that_are_no_documents_do_no_harm() {
        for body in ["", "<html><p>Bad gateway", "\0\u{1}"] {
            assert_eq!(verdict(502, "", body).kind, ErrorKind::Unavailable);
        }
    }
}
