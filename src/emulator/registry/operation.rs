//! The operations of a registry, which request means which, and what right each one needs.
//!
//! Knows methods and paths; not what the operations do.

use http::Method;

use super::super::operations::operations;
use super::super::query::decode;
use super::digest::Digest;
use super::error::{self, Failure};
use super::name::{is_repository, is_tag};

operations! {
    /// GET of `/v2/`.
    Ping,
    /// GET of `/v2/_catalog`.
    ListRepositories,
    /// GET of a repository's tags.
    ListTags,
    /// GET of what refers to a manifest.
    ListReferrers,
    /// GET of a blob or a part of it.
    GetBlob,
    /// HEAD of a blob.
    HeadBlob,
    /// DELETE of a blob.
    DeleteBlob,
    /// GET of a manifest.
    GetManifest,
    /// HEAD of a manifest.
    HeadManifest,
    /// PUT of a manifest.
    PutManifest,
    /// DELETE of a manifest, or of a tag.
    DeleteManifest,
    /// POST that begins an upload, or mounts a blob of another repository.
    StartUpload,
    /// GET of how far an upload is.
    GetUpload,
    /// PATCH with a piece of an upload.
    UploadChunk,
    /// PUT that ends an upload.
    FinishUpload,
    /// DELETE of an upload.
    CancelUpload,
    /// GET or POST of an access token.
    GetToken,
    /// POST of an Entra token for a refresh token.
    ExchangeToken,
    /// GET of a blob or a part of it where a redirect has led.
    GetBlobData,
    /// HEAD of a blob where a redirect has led.
    HeadBlobData,
    /// GET of `/acr/v1/_catalog`.
    ListRepositoriesMetadata,
    /// GET of a repository's properties.
    GetRepositoryMetadata,
    /// PATCH of a repository's properties.
    SetRepositoryMetadata,
    /// DELETE of a repository.
    DeleteRepository,
    /// GET of the properties of tags.
    ListTagMetadata,
    /// GET of a tag's properties.
    GetTagMetadata,
    /// PATCH of a tag's properties.
    SetTagMetadata,
    /// DELETE of a tag.
    DeleteTag,
    /// GET of the properties of manifests.
    ListManifestMetadata,
    /// GET of a manifest's properties.
    GetManifestMetadata,
    /// PATCH of a manifest's properties.
    SetManifestMetadata,
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) op: Operation,
    /// The repository; empty where it is about none.
    pub(super) repository: String,
    /// A digest, a tag or the id of an upload; empty where there is none.
    pub(super) item: String,
}

/// The rights that an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// To be somebody.
    Login,
    /// Nothing: it is how one becomes somebody.
    Nothing,
    /// To read the catalog.
    Catalog,
    /// These actions in the repository.
    Actions(&'static [&'static str]),
}

impl Operation {
    pub(super) fn needs(self) -> Needs {
        match self {
            Self::Ping => Needs::Login,
            Self::GetToken | Self::ExchangeToken | Self::GetBlobData | Self::HeadBlobData => {
                Needs::Nothing
            }
            Self::ListRepositories | Self::ListRepositoriesMetadata => Needs::Catalog,
            Self::GetBlob
            | Self::HeadBlob
            | Self::GetManifest
            | Self::HeadManifest
            | Self::ListReferrers => Needs::Actions(&["pull"]),
            Self::ListTags
            | Self::GetRepositoryMetadata
            | Self::ListTagMetadata
            | Self::GetTagMetadata
            | Self::ListManifestMetadata
            | Self::GetManifestMetadata => Needs::Actions(&["metadata_read"]),
            Self::SetRepositoryMetadata | Self::SetTagMetadata | Self::SetManifestMetadata => {
                Needs::Actions(&["metadata_write"])
            }
            Self::DeleteBlob | Self::DeleteManifest | Self::DeleteRepository | Self::DeleteTag => {
                Needs::Actions(&["delete"])
            }
            Self::PutManifest
            | Self::StartUpload
            | Self::GetUpload
            | Self::UploadChunk
            | Self::FinishUpload
            | Self::CancelUpload => Needs::Actions(&["pull", "push"]),
        }
    }
}

impl Route {
    fn new(op: Operation, repository: &str, item: &str) -> Self {
        Self { op, repository: repository.to_owned(), item: item.to_owned() }
    }

    /// How rules call what it is about: `repository@digest`, `repository:tag`, `repository`.
    pub(super) fn subject(&self) -> String {
        let Self { repository, item, .. } = self;
        match item.as_str() {
            "" => repository.clone(),
            item if item.contains(':') => format!("{repository}@{item}"),
            item => format!("{repository}:{item}"),
        }
    }

    /// What a request means.
    pub(super) fn of(method: &Method, path: &str) -> Result<Self, Failure> {
        let path = decode(path);
        if let Some(rest) = path.strip_prefix("/v2/") {
            distribution(method, rest)
        } else if let Some(rest) = path.strip_prefix("/acr/v1/") {
            metadata(method, rest)
        } else {
            match (path.as_str(), method) {
                ("/oauth2/token", &Method::GET | &Method::POST) => {
                    Ok(Self::new(Operation::GetToken, "", ""))
                }
                ("/oauth2/exchange", &Method::POST) => {
                    Ok(Self::new(Operation::ExchangeToken, "", ""))
                }
                _ => Err(Failure::not_found()),
            }
        }
    }
}

fn distribution(method: &Method, rest: &str) -> Result<Route, Failure> {
    use Operation as Op;
    let only = |op, allowed: &Method, name: &str, item: &str| {
        let route = Route::new(op, name, item);
        (method == allowed).then_some(route).ok_or_else(|| Failure::method_not_allowed("GET"))
    };
    match rest {
        "" if method == Method::HEAD => return Ok(Route::new(Op::Ping, "", "")),
        "" => return only(Op::Ping, &Method::GET, "", ""),
        "_catalog" => return only(Op::ListRepositories, &Method::GET, "", ""),
        _ => {}
    }
    if let Some((name, id)) = rest.rsplit_once("/blobs/uploads/") {
        let name = repository(name)?;
        let op = match (method, id.is_empty()) {
            (&Method::POST, true) => Op::StartUpload,
            (&Method::GET, false) => Op::GetUpload,
            (&Method::PATCH, false) => Op::UploadChunk,
            (&Method::PUT, false) => Op::FinishUpload,
            (&Method::DELETE, false) => Op::CancelUpload,
            (_, true) => return Err(Failure::method_not_allowed("POST")),
            _ => return Err(Failure::method_not_allowed("DELETE, GET, PATCH, PUT")),
        };
        return Ok(Route::new(op, name, id));
    }
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return only(Op::ListTags, &Method::GET, repository(name)?, "");
    }
    let (rest, item) = rest.rsplit_once('/').ok_or_else(Failure::not_found)?;
    let (name, kind) = rest.rsplit_once('/').ok_or_else(Failure::not_found)?;
    let name = repository(name)?;
    let is_digest = Digest::parse(item).is_some();
    let op = match (kind, method) {
        ("blobs", &Method::GET) => Op::GetBlob,
        ("blobs", &Method::HEAD) => Op::HeadBlob,
        ("blobs", &Method::DELETE) => Op::DeleteBlob,
        ("blobs", _) => return Err(Failure::method_not_allowed("DELETE, GET, HEAD")),
        ("manifests", &Method::GET) => Op::GetManifest,
        ("manifests", &Method::HEAD) => Op::HeadManifest,
        ("manifests", &Method::PUT) => Op::PutManifest,
        ("manifests", &Method::DELETE) => Op::DeleteManifest,
        ("manifests", _) => return Err(Failure::method_not_allowed("DELETE, GET, HEAD, PUT")),
        ("referrers", &Method::GET) => Op::ListReferrers,
        _ => return Err(Failure::not_found()),
    };
    match kind {
        "manifests" if is_digest || is_tag(item) => {}
        // Measured: what looks like a digest and is none is nobody's business until it is looked up.
        "manifests" if item.contains(':') => return Err(error::UNKNOWN.into()),
        "manifests" => return Err(Failure::not_found()),
        _ if is_digest => {}
        _ => return Err(error::DIGEST_INVALID.about(item.into())),
    }
    Ok(Route::new(op, name, item))
}

fn metadata(method: &Method, rest: &str) -> Result<Route, Failure> {
    use Operation as Op;
    let choose = |choices: &[(Method, Op)], name: &str, item: &str| {
        let found = choices.iter().find(|choice| choice.0 == *method);
        found
            .map(|choice| Route::new(choice.1, name, item))
            .ok_or_else(|| error::METHOD_UNSUPPORTED.into())
    };
    const GET: Method = Method::GET;
    const PATCH: Method = Method::PATCH;
    const DELETE: Method = Method::DELETE;
    if rest == "_catalog" {
        return choose(&[(GET, Op::ListRepositoriesMetadata)], "", "");
    }
    if let Some(name) = rest.strip_suffix("/_tags") {
        return choose(&[(GET, Op::ListTagMetadata)], repository(name)?, "");
    }
    if let Some(name) = rest.strip_suffix("/_manifests") {
        return choose(&[(GET, Op::ListManifestMetadata)], repository(name)?, "");
    }
    if let Some((name, tag)) = rest.rsplit_once("/_tags/") {
        let choices =
            [(GET, Op::GetTagMetadata), (PATCH, Op::SetTagMetadata), (DELETE, Op::DeleteTag)];
        return choose(&choices, repository(name)?, tag);
    }
    if let Some((name, digest)) = rest.rsplit_once("/_manifests/") {
        let choices = [(GET, Op::GetManifestMetadata), (PATCH, Op::SetManifestMetadata)];
        return choose(&choices, repository(name)?, digest);
    }
    let choices = [
        (GET, Op::GetRepositoryMetadata),
        (PATCH, Op::SetRepositoryMetadata),
        (DELETE, Op::DeleteRepository),
    ];
    choose(&choices, repository(rest)?, "")
}

/// The name, where it is one; the router knows no other path.
fn repository(name: &str) -> Result<&str, Failure> {
    is_repository(name).then_some(name).ok_or_else(Failure::not_found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        use Operation as Op;
        let hex = "0".repeat(64);
        let digest = format!("sha256:{hex}");
        for (method, path, expected) in [
            (Method::GET, "/v2/".to_owned(), Ok((Op::Ping, String::new()))),
            (Method::GET, "/v2/_catalog".into(), Ok((Op::ListRepositories, String::new()))),
            (Method::GET, "/v2/a/b/tags/list".into(), Ok((Op::ListTags, "a/b".into()))),
            (Method::GET, "/v2/a%2Fb/manifests/v1".into(), Ok((Op::GetManifest, "a/b:v1".into()))),
            (
                Method::HEAD,
                format!("/v2/a/blobs/sha256%3A{hex}"),
                Ok((Op::HeadBlob, format!("a@{digest}"))),
            ),
            (Method::POST, "/v2/a/blobs/uploads/".into(), Ok((Op::StartUpload, "a".into()))),
            (Method::PATCH, "/v2/a/blobs/uploads/7".into(), Ok((Op::UploadChunk, "a:7".into()))),
            (Method::GET, "/v2/a/blobs/sha256:zz".into(), Err(400)),
            (Method::GET, "/v2/a/manifests/sha256:zz".into(), Err(500)),
            (Method::GET, "/v2/UPPER/manifests/v1".into(), Err(404)),
            (Method::POST, format!("/v2/a/blobs/{digest}"), Err(405)),
            (Method::GET, "/v3/".into(), Err(404)),
            (Method::GET, "/acr/v1/a%2fb".into(), Ok((Op::GetRepositoryMetadata, "a/b".into()))),
            (Method::DELETE, "/acr/v1/a/_tags/v1".into(), Ok((Op::DeleteTag, "a:v1".into()))),
            (Method::PUT, "/acr/v1/a/_tags/v1".into(), Err(405)),
        ] {
            let found = Route::of(&method, &path)
                .map(|route| (route.op, route.subject()))
                .map_err(|failure| failure.status);
            assert_eq!(found, expected, "{method} {path}");
        }
    }
}
