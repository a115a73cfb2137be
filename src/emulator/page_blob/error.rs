//! The error codes of the service, with their status and text.
//!
//! Knows what a refusal looks like, not when one is due and not how it is put on the wire.

use std::borrow::Cow;

use http::StatusCode;

/// A documented error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) status: u16,
    pub(super) name: &'static str,
    pub(super) message: &'static str,
}

impl Code {
    /// This code with more said about it in the body, such as `HeaderName`.
    pub(super) fn with(self, element: &'static str, value: impl Into<String>) -> Failure {
        Failure::from(self).with(element, value)
    }
}

/// A refusal: what the caller gets instead of what was asked for.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) code: Cow<'static, str>,
    pub(super) message: Cow<'static, str>,
    /// Further elements of the XML body, in order.
    pub(super) details: Vec<(&'static str, String)>,
    /// Further headers of the answer.
    pub(super) headers: Vec<(&'static str, String)>,
}

impl From<Code> for Failure {
    fn from(code: Code) -> Self {
        Self {
            status: StatusCode::from_u16(code.status).expect("codes carry valid statuses"),
            code: Cow::Borrowed(code.name),
            message: Cow::Borrowed(code.message),
            details: Vec::new(),
            headers: Vec::new(),
        }
    }
}

/// The backing directory failed: an internal error, after which a write may or may not be there.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        log::error!(target: "emulator", "storage failed: {error}");
        INTERNAL_ERROR.into()
    }
}

impl Failure {
    pub(super) fn with(mut self, element: &'static str, value: impl Into<String>) -> Self {
        self.details.push((element, value.into()));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A header whose value cannot be what it says.
pub(super) fn invalid_header(name: &'static str, value: &str) -> Failure {
    INVALID_HEADER_VALUE.with("HeaderName", name).with("HeaderValue", value)
}

/// A header that the operation cannot do without.
pub(super) fn missing_header(name: &'static str) -> Failure {
    MISSING_REQUIRED_HEADER.with("HeaderName", name)
}

/// A query parameter whose value cannot be what it says.
pub(super) fn invalid_query(name: &'static str, value: &str) -> Failure {
    INVALID_QUERY_PARAMETER_VALUE
        .with("QueryParameterName", name)
        .with("QueryParameterValue", value)
}

macro_rules! codes {
    ($($ident:ident = $status:literal $name:literal $message:literal;)*) => {
        $(pub(super) const $ident: Code = Code { status: $status, name: $name, message: $message };)*

        /// The status that goes with a code's name, for faults that only name the code.
        pub(super) fn by_name(name: &str) -> Option<Code> {
            match name {
                $($name => Some($ident),)*
                _ => None,
            }
        }
    };
}

/// An unmet condition of a read that has what it asks for.
pub(super) const CONDITION_NOT_MET_READ: Code = Code { status: 304, ..CONDITION_NOT_MET };

codes! {
    CRC64_MISMATCH = 400 "Crc64Mismatch" "The CRC64 value specified in the request did not match with the CRC64 value calculated by the server.";
    INVALID_BLOCK_LIST = 400 "InvalidBlockList" "The specified block list is invalid.";
    INVALID_HEADER_VALUE = 400 "InvalidHeaderValue" "The value for one of the HTTP headers is not in the correct format.";
    INVALID_INPUT = 400 "InvalidInput" "One of the request inputs is not valid.";
    INVALID_MD5 = 400 "InvalidMd5" "The MD5 value specified in the request is invalid. MD5 value must be 128 bits and base64-encoded.";
    INVALID_METADATA = 400 "InvalidMetadata" "The specified metadata is invalid. It includes characters that are not permitted.";
    EMPTY_METADATA_KEY = 400 "EmptyMetadataKey" "The key for one of the metadata key-value pairs is empty.";
    INVALID_OPERATION = 400 "InvalidOperation" "The operation is not allowed on this resource.";
    INVALID_QUERY_PARAMETER_VALUE = 400 "InvalidQueryParameterValue" "Value for one of the query parameters specified in the request URI is invalid.";
    INVALID_RESOURCE_NAME = 400 "InvalidResourceName" "The specified resource name contains invalid characters.";
    INVALID_URI = 400 "InvalidUri" "The requested URI does not represent any resource on the server.";
    INVALID_XML_DOCUMENT = 400 "InvalidXmlDocument" "XML specified is not syntactically valid.";
    MD5_MISMATCH = 400 "Md5Mismatch" "The MD5 value specified in the request did not match with the MD5 value calculated by the server.";
    METADATA_TOO_LARGE = 400 "MetadataTooLarge" "The size of the specified metadata exceeds the maximum size permitted.";
    MISSING_REQUIRED_HEADER = 400 "MissingRequiredHeader" "An HTTP header that's mandatory for this request is not specified.";
    MULTIPLE_CONDITIONS = 400 "MultipleConditionHeadersNotSupported" "Multiple condition headers are not supported.";
    OUT_OF_RANGE_INPUT = 400 "OutOfRangeInput" "One of the request inputs is out of range.";
    OUT_OF_RANGE_QUERY = 400 "OutOfRangeQueryParameterValue" "A query parameter specified in the request URI is outside the permissible range.";
    PREVIOUS_SNAPSHOT_NEWER = 400 "PreviousSnapshotCannotBeNewer" "The prevsnapshot query parameter value cannot be newer than snapshot query parameter value.";
    UNSUPPORTED_HEADER = 400 "UnsupportedHeader" "One of the HTTP headers specified in the request is not supported.";

    INVALID_AUTHENTICATION_INFO = 401 "InvalidAuthenticationInfo" "Server failed to authenticate the request. Please refer to the information in the www-authenticate header.";
    NO_AUTHENTICATION_INFORMATION = 401 "NoAuthenticationInformation" "Server failed to authenticate the request. Please refer to the information in the www-authenticate header.";

    AUTHENTICATION_FAILED = 403 "AuthenticationFailed" "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly including the signature.";
    AUTHORIZATION_FAILURE = 403 "AuthorizationFailure" "This request is not authorized to perform this operation.";
    PERMISSION_MISMATCH = 403 "AuthorizationPermissionMismatch" "This request is not authorized to perform this operation using this permission.";
    PROTOCOL_MISMATCH = 403 "AuthorizationProtocolMismatch" "This request is not authorized to perform this operation using this protocol.";
    RESOURCE_TYPE_MISMATCH = 403 "AuthorizationResourceTypeMismatch" "This request is not authorized to perform this operation using this resource type.";
    SERVICE_MISMATCH = 403 "AuthorizationServiceMismatch" "This request is not authorized to perform this operation using this service.";
    UNAUTHORIZED_OVERWRITE = 403 "UnauthorizedBlobOverwrite" "This request is not authorized to perform blob overwrites.";

    BLOB_NOT_FOUND = 404 "BlobNotFound" "The specified blob does not exist.";
    CANNOT_VERIFY_COPY_SOURCE = 404 "CannotVerifyCopySource" "The specified blob does not exist.";
    CONTAINER_NOT_FOUND = 404 "ContainerNotFound" "The specified container does not exist.";
    RESOURCE_NOT_FOUND = 404 "ResourceNotFound" "The specified resource does not exist.";

    UNSUPPORTED_HTTP_VERB = 405 "UnsupportedHttpVerb" "The resource doesn't support specified Http Verb.";

    NO_PENDING_COPY = 409 "NoPendingCopyOperation" "There is currently no pending copy operation.";
    BLOB_ALREADY_EXISTS = 409 "BlobAlreadyExists" "The specified blob already exists.";
    BLOB_OVERWRITTEN = 409 "BlobOverwritten" "The blob has been recreated since the previous snapshot was taken.";
    BLOB_HAS_ANOTHER_KEY = 409 "BlobCustomerSpecifiedEncryptionMismatch" "The given customer specified encryption does not match the encryption used to encrypt the blob.";
    BLOB_HAS_NO_CUSTOMER_KEY = 409 "BlobDoesNotUseCustomerSpecifiedEncryption" "The blob is not encrypted with customer specified encryption, but it was provided in the request.";
    BLOB_USES_CUSTOMER_KEY = 409 "BlobUsesCustomerSpecifiedEncryption" "The blob is encrypted with customer specified encryption, but it was not provided in the request.";
    CONTAINER_ALREADY_EXISTS = 409 "ContainerAlreadyExists" "The specified container already exists.";
    CONTAINER_BEING_DELETED = 409 "ContainerBeingDeleted" "The specified container is being deleted. Try operation later.";
    INVALID_BLOB_TYPE = 409 "InvalidBlobType" "The blob type is invalid for this operation.";
    LEASE_ALREADY_PRESENT = 409 "LeaseAlreadyPresent" "There is already a lease present.";
    LEASE_ID_MISMATCH_LEASE_OP = 409 "LeaseIdMismatchWithLeaseOperation" "The lease ID specified did not match the lease ID for the blob.";
    LEASE_IS_BREAKING_ACQUIRE = 409 "LeaseIsBreakingAndCannotBeAcquired" "The lease ID matched, but the lease is currently in breaking state and cannot be acquired until it is broken.";
    LEASE_IS_BREAKING_CHANGE = 409 "LeaseIsBreakingAndCannotBeChanged" "The lease ID matched, but the lease is currently in breaking state and cannot be changed.";
    LEASE_IS_BROKEN_RENEW = 409 "LeaseIsBrokenAndCannotBeRenewed" "The lease ID matched, but the lease has been broken explicitly and cannot be renewed.";
    LEASE_NOT_PRESENT_LEASE_OP = 409 "LeaseNotPresentWithLeaseOperation" "There is currently no lease on the blob.";
    PREVIOUS_SNAPSHOT_NOT_FOUND = 409 "PreviousSnapshotNotFound" "The previous snapshot is not found.";
    PUBLIC_ACCESS_NOT_PERMITTED = 409 "PublicAccessNotPermitted" "Public access is not permitted on this storage account.";
    SEQUENCE_INCREMENT_TOO_LARGE = 409 "SequenceNumberIncrementTooLarge" "The sequence number increment cannot be performed because it would result in overflow of the sequence number.";
    SNAPSHOTS_PRESENT = 409 "SnapshotsPresent" "This operation is not permitted while the blob has snapshots.";

    MISSING_CONTENT_LENGTH = 411 "MissingContentLengthHeader" "The Content-Length header was not specified.";

    APPEND_POSITION_NOT_MET = 412 "AppendPositionConditionNotMet" "The append position condition specified was not met.";
    CONDITION_NOT_MET = 412 "ConditionNotMet" "The condition specified using HTTP conditional header(s) is not met.";
    LEASE_ID_MISMATCH_BLOB_OP = 412 "LeaseIdMismatchWithBlobOperation" "The lease ID specified did not match the lease ID for the blob.";
    LEASE_ID_MISMATCH_CONTAINER_OP = 412 "LeaseIdMismatchWithContainerOperation" "The lease ID specified did not match the lease ID for the container.";
    LEASE_ID_MISSING = 412 "LeaseIdMissing" "There is currently a lease on the blob and no lease ID was specified in the request.";
    LEASE_LOST = 412 "LeaseLost" "A lease ID was specified, but the lease for the blob has expired.";
    LEASE_NOT_PRESENT_BLOB_OP = 412 "LeaseNotPresentWithBlobOperation" "There is currently no lease on the blob.";
    LEASE_NOT_PRESENT_CONTAINER_OP = 412 "LeaseNotPresentWithContainerOperation" "There is currently no lease on the container.";
    MAX_BLOB_SIZE_NOT_MET = 412 "MaxBlobSizeConditionNotMet" "The max blob size condition specified was not met.";
    SEQUENCE_CONDITION_NOT_MET = 412 "SequenceNumberConditionNotMet" "The sequence number condition specified was not met.";
    SOURCE_CONDITION_NOT_MET = 412 "SourceConditionNotMet" "The source condition specified using HTTP conditional header(s) is not met.";

    REQUEST_BODY_TOO_LARGE = 413 "RequestBodyTooLarge" "The request body is too large and exceeds the maximum permissible limit.";

    INVALID_PAGE_RANGE = 416 "InvalidPageRange" "The page range specified is invalid.";
    INVALID_RANGE = 416 "InvalidRange" "The range specified is invalid for the current size of the resource.";

    TOO_MANY_REQUESTS = 429 "TooManyRequests" "Too many requests.";

    INTERNAL_ERROR = 500 "InternalError" "The server encountered an internal error. Please retry the request.";
    OPERATION_TIMED_OUT = 500 "OperationTimedOut" "The operation could not be completed within the permitted time.";
    NOT_IMPLEMENTED = 501 "NotImplemented" "The requested operation is not implemented on the specified resource.";
    SERVER_BUSY = 503 "ServerBusy" "The server is currently unable to receive requests. Please retry your request.";
}

/// A refusal with any status.
pub(super) fn of_status(status: u16, code: Option<&str>) -> Failure {
    let usual = match status {
        401 => INVALID_AUTHENTICATION_INFO,
        403 => AUTHENTICATION_FAILED,
        404 => BLOB_NOT_FOUND,
        409 => LEASE_ALREADY_PRESENT,
        412 => CONDITION_NOT_MET,
        416 => INVALID_RANGE,
        429 => TOO_MANY_REQUESTS,
        503 => SERVER_BUSY,
        _ => INTERNAL_ERROR,
    };
    let mut failure = match code.and_then(by_name) {
        Some(known) => Failure::from(known),
        None => Failure::from(usual),
    };
    if let Some(code) = code {
        failure.code = code.to_owned().into();
    }
    failure.status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_status_has_a_code() {
        assert_eq!(of_status(503, None).code, "ServerBusy");
        assert_eq!(of_status(502, None).status, StatusCode::BAD_GATEWAY);
        let odd = of_status(412, Some("SequenceNumberConditionNotMet"));
        assert_eq!((odd.status.as_u16(), &*odd.code), (412, "SequenceNumberConditionNotMet"));
        assert_eq!(of_status(403, Some("Made Up")).code, "Made Up");
    }
}
