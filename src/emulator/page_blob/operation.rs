//! The operations of the service, and which request means which.
//!
//! Knows methods, paths and the two or three parameters that tell operations apart; not what they do.

use http::{HeaderMap, Method};

use super::error::{self, Failure};
use super::request::{Query, Target};
use crate::emulator::operations::operations;

operations! {
    /// GET of the account's containers.
    ListContainers,
    /// GET of what kind of account this is.
    GetAccountInformation,
    /// GET of the account's service properties.
    GetServiceProperties,
    /// PUT of a container.
    CreateContainer,
    /// DELETE of a container.
    DeleteContainer,
    /// GET or HEAD of a container.
    GetContainerProperties,
    /// PUT of a container's metadata.
    SetContainerMetadata,
    /// GET of a container's public access.
    GetContainerAcl,
    /// PUT of a container's public access.
    SetContainerAcl,
    /// The five actions on a container's lease.
    LeaseContainer,
    /// GET of a page of blobs.
    ListBlobs,
    /// PUT that creates or replaces a page, block or append blob.
    PutBlob,
    /// PUT of a range of pages.
    PutPage,
    /// PUT that clears a range of pages.
    ClearPages,
    /// PUT of a range of pages that are read from another blob.
    PutPageFromUrl,
    /// GET of a blob or a range of it.
    GetBlob,
    /// HEAD of a blob.
    GetBlobProperties,
    /// PUT of size, sequence number and content headers.
    SetBlobProperties,
    /// GET or HEAD of a blob's metadata.
    GetBlobMetadata,
    /// PUT of a blob's metadata.
    SetBlobMetadata,
    /// GET of the ranges that hold data.
    GetPageRanges,
    /// PUT that takes a snapshot.
    SnapshotBlob,
    /// The five actions on a blob's lease.
    LeaseBlob,
    /// PUT that copies a whole blob.
    CopyBlob,
    /// PUT that ends a copy.
    AbortCopyBlob,
    /// DELETE of a blob or a snapshot.
    DeleteBlob,
    /// PUT that brings a deleted blob back.
    UndeleteBlob,
    /// PUT of one block.
    PutBlock,
    /// PUT of the list of blocks that makes a block blob.
    PutBlockList,
    /// GET of the list of blocks.
    GetBlockList,
    /// PUT at the end of an append blob.
    AppendBlock,
}

impl Operation {
    /// Whether it only reads. Decides on conditions, public access and permissions.
    pub fn is_read(self) -> bool {
        matches!(
            self,
            Self::ListContainers
                | Self::GetAccountInformation
                | Self::GetServiceProperties
                | Self::GetContainerProperties
                | Self::GetContainerAcl
                | Self::ListBlobs
                | Self::GetBlob
                | Self::GetBlobProperties
                | Self::GetBlobMetadata
                | Self::GetPageRanges
                | Self::GetBlockList
        )
    }

    /// What a request means.
    pub(super) fn of(
        method: &Method,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Self, Failure> {
        let comp = query.get("comp").unwrap_or("");
        let found = match target {
            Target { container: None, .. } => of_account(method, query, comp),
            Target { blob: None, .. } => of_container(method, query, comp),
            Target { .. } => of_blob(method, comp, headers)?,
        };
        found.ok_or_else(|| match *method {
            Method::GET | Method::HEAD | Method::PUT | Method::DELETE => {
                error::invalid_query("comp", comp)
            }
            _ => error::UNSUPPORTED_HTTP_VERB.into(),
        })
    }
}

fn of_account(method: &Method, query: &Query, comp: &str) -> Option<Operation> {
    match (method, comp, query.get("restype")) {
        (&Method::GET, "list", _) => Some(Operation::ListContainers),
        (&Method::GET | &Method::HEAD, "properties", Some("account")) => {
            Some(Operation::GetAccountInformation)
        }
        (&Method::GET, "properties", Some("service")) => Some(Operation::GetServiceProperties),
        _ => None,
    }
}

fn of_container(method: &Method, query: &Query, comp: &str) -> Option<Operation> {
    let read = *method == Method::GET || *method == Method::HEAD;
    if query.get("restype") == Some("account") && read {
        return Some(Operation::GetAccountInformation);
    }
    match (method, comp) {
        (&Method::PUT, "") => Some(Operation::CreateContainer),
        (&Method::DELETE, "") => Some(Operation::DeleteContainer),
        (_, "" | "metadata") if read => Some(Operation::GetContainerProperties),
        (&Method::PUT, "metadata") => Some(Operation::SetContainerMetadata),
        (_, "acl") if read => Some(Operation::GetContainerAcl),
        (&Method::PUT, "acl") => Some(Operation::SetContainerAcl),
        (&Method::PUT, "lease") => Some(Operation::LeaseContainer),
        (&Method::GET, "list") => Some(Operation::ListBlobs),
        _ => None,
    }
}

fn of_blob(method: &Method, comp: &str, headers: &HeaderMap) -> Result<Option<Operation>, Failure> {
    let copies = headers.contains_key("x-ms-copy-source");
    Ok(Some(match (method, comp) {
        (&Method::GET, "") => Operation::GetBlob,
        (&Method::HEAD, "") => Operation::GetBlobProperties,
        (&Method::GET | &Method::HEAD, "metadata") => Operation::GetBlobMetadata,
        (&Method::GET, "pagelist") => Operation::GetPageRanges,
        (&Method::GET, "blocklist") => Operation::GetBlockList,
        (&Method::DELETE, "") => Operation::DeleteBlob,
        (&Method::PUT, "") if copies && !headers.contains_key("x-ms-blob-type") => {
            Operation::CopyBlob
        }
        (&Method::PUT, "") if copies => return Err(error::NOT_IMPLEMENTED.into()),
        (&Method::PUT, "") => Operation::PutBlob,
        (&Method::PUT, "page") => {
            let action = headers.get("x-ms-page-write").map(http::HeaderValue::as_bytes);
            match action {
                Some(b"update") if copies => Operation::PutPageFromUrl,
                // What the service does without the header is not documented: its own page leaves it out.
                None if copies => Operation::PutPageFromUrl,
                Some(b"update") => Operation::PutPage,
                Some(b"clear") if !copies => Operation::ClearPages,
                Some(other) => {
                    let text = String::from_utf8_lossy(other);
                    return Err(error::invalid_header("x-ms-page-write", &text));
                }
                None => return Err(error::missing_header("x-ms-page-write")),
            }
        }
        (&Method::PUT, "properties") => Operation::SetBlobProperties,
        (&Method::PUT, "metadata") => Operation::SetBlobMetadata,
        (&Method::PUT, "snapshot") => Operation::SnapshotBlob,
        (&Method::PUT, "lease") => Operation::LeaseBlob,
        (&Method::PUT, "copy") => Operation::AbortCopyBlob,
        (&Method::PUT, "undelete") => Operation::UndeleteBlob,
        (&Method::PUT, "block") if copies => return Err(error::NOT_IMPLEMENTED.into()),
        (&Method::PUT, "block") => Operation::PutBlock,
        (&Method::PUT, "blocklist") => Operation::PutBlockList,
        (&Method::PUT, "appendblock") if copies => return Err(error::NOT_IMPLEMENTED.into()),
        (&Method::PUT, "appendblock") => Operation::AppendBlock,
        (&Method::PUT, "incrementalcopy" | "tier" | "tags" | "expiry" | "legalhold") => {
            return Err(error::NOT_IMPLEMENTED.into());
        }
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(
        method: Method,
        uri: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Operation, String> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let query = Query::parse(query);
        let target = Target::parse(path, &query).unwrap();
        let headers =
            headers.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
        Operation::of(&method, &target, &query, &headers).map_err(|failure| failure.code.into())
    }

    #[test]
    fn requests_are_told_apart() {
        use Operation as Op;
        let page = ("x-ms-page-write", "update");
        let source = ("x-ms-copy-source", "http://x/a/c/b");
        let cases = [
            (of(Method::GET, "/a?comp=list", &[]), Op::ListContainers),
            (of(Method::PUT, "/a/c?restype=container", &[]), Op::CreateContainer),
            (of(Method::GET, "/a/c?restype=container&comp=list", &[]), Op::ListBlobs),
            (of(Method::PUT, "/a/c/b", &[("x-ms-blob-type", "PageBlob")]), Op::PutBlob),
            (of(Method::PUT, "/a/c/b", &[source]), Op::CopyBlob),
            (of(Method::PUT, "/a/c/b?comp=page", &[page]), Op::PutPage),
            (of(Method::PUT, "/a/c/b?comp=page", &[("x-ms-page-write", "clear")]), Op::ClearPages),
            (of(Method::PUT, "/a/c/b?comp=page", &[page, source]), Op::PutPageFromUrl),
            (of(Method::HEAD, "/a/c/b", &[]), Op::GetBlobProperties),
            (of(Method::GET, "/a/c/d/b?comp=pagelist", &[]), Op::GetPageRanges),
        ];
        for (found, expected) in cases {
            assert_eq!(found, Ok(expected));
        }
        assert_eq!(of(Method::PUT, "/a/c/b?comp=page", &[]), Err("MissingRequiredHeader".into()));
        assert_eq!(
            of(Method::PUT, "/a/c/b?comp=what", &[]),
            Err("InvalidQueryParameterValue".into())
        );
        assert_eq!(of(Method::POST, "/a/c/b", &[]), Err("UnsupportedHttpVerb".into()));
    }
}
