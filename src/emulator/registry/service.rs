//! The way of one request: understood, authorised, perhaps made to fail, answered.
//!
//! ```text
//! route ─► latency ─► authorise ─► fault? ─► throttle ─► perform ─► fault? ─► answer
//! ```
//!
//! What an operation does is in the modules beside; faults that concern the answer are played here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::header::{HOST, RANGE};
use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use super::super::body::Outgoing;
use super::super::buffer::Pool;
use super::super::clock::Clock;
use super::super::connection::{Control, NoAnswer, Serves, Traffic};
use super::super::faults::{Action, Faults};
use super::super::guid::new_guid;
use super::super::incoming;
use super::super::operations::Counters;
use super::super::query::Query;
use super::super::reply::Reply;
use super::super::throttle::Buckets;
use super::auth::{Authority, Origin};
use super::digest::{Algorithm, Digest};
use super::error::{self, Failure};
use super::operation::{Needs, Operation, Route};
use super::scope::Scope;
use super::storage::Storage;
use super::uploads::{self, Uploads};
use super::{Redirect, content, control, listing, manifest, metadata, redirect};

/// Largest manifest, in bytes: 4 MiB.
const LARGEST_MANIFEST: usize = 4 << 20;

/// What the limits are of: the registry as a whole.
const WHOLE: &str = "registry";

/// Everything that requests share.
pub(super) struct Service {
    pub(super) storage: Storage,
    pub(super) uploads: Uploads,
    pub(super) authority: Authority,
    pub(super) clock: Arc<Clock>,
    pub(super) counters: Counters,
    pub(super) traffic: Traffic,
    pub(super) data_traffic: Traffic,
    pub(super) faults: Faults,
    pub(super) latency: Duration,
    pub(super) connection_rate: Option<u64>,
    pub(super) throttle: Option<Buckets>,
    pub(super) throttled: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) redirect: Option<Redirect>,
    pub(super) data_port: u16,
    pub(super) referrers: bool,
    pub(super) page_size: usize,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) pool: Arc<Pool>,
}

/// The second port, to which blobs are redirected.
pub(super) struct DataPort(pub(super) Arc<Service>);

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("storage", &self.storage)
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

impl Serves for Service {
    fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    fn connection_rate(&self) -> Option<u64> {
        self.connection_rate
    }

    fn tls(&self) -> Option<&TlsAcceptor> {
        self.tls.as_ref()
    }

    async fn answer(
        self: &Arc<Self>,
        control: &Control,
        request: Request<Incoming>,
    ) -> Result<Response<Outgoing>, NoAnswer> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path();
        if path.starts_with("/_") {
            return control::answer(self, &parts, body).await;
        }
        let head = parts.method == Method::HEAD;
        if path == "/v2" {
            return Ok(Reply::new(301).header("location", "/v2/").respond(head, None));
        }
        tokio::time::sleep(self.latency).await;
        let origin = self.origin(&parts);
        let query = Query::parse(parts.uri.query().unwrap_or(""));
        let route = Route::of(&parts.method, path).and_then(|route| {
            self.authorize(&route, &query, &parts, &origin)?;
            Ok(route)
        });
        let route = match route {
            Ok(route) => route,
            Err(failure) => {
                incoming::discard(&parts.headers, body).await;
                return Ok(self.respond(Err(failure), head, None));
            }
        };
        let fault = match self.admit(&route) {
            Ok(fault) => fault,
            Err(failure) => {
                incoming::discard(&parts.headers, body).await;
                return Ok(self.respond(Err(failure), head, None));
            }
        };
        let instead = self.play(control, fault.as_ref(), &mut parts).await?;
        let result = match instead {
            Instead::Nothing => self.perform(&route, &query, &parts, &origin, body).await?,
            Instead::Answer(result, applied) => {
                if applied {
                    drop(self.perform(&route, &query, &parts, &origin, body).await?);
                } else {
                    incoming::discard(&parts.headers, body).await;
                }
                result
            }
            Instead::Silence(applied) => {
                if applied {
                    drop(self.perform(&route, &query, &parts, &origin, body).await?);
                }
                return self.silence(control, fault.as_ref()).await;
            }
        };
        Ok(self.respond(result, head, fault.as_ref()))
    }
}

impl Serves for DataPort {
    fn traffic(&self) -> &Traffic {
        let Self(service) = self;
        &service.data_traffic
    }

    fn connection_rate(&self) -> Option<u64> {
        self.0.connection_rate
    }

    fn tls(&self) -> Option<&TlsAcceptor> {
        self.0.tls.as_ref()
    }

    async fn answer(
        self: &Arc<Self>,
        control: &Control,
        request: Request<Incoming>,
    ) -> Result<Response<Outgoing>, NoAnswer> {
        let service = &self.0;
        let (mut parts, body) = request.into_parts();
        incoming::discard(&parts.headers, body).await;
        let head = parts.method == Method::HEAD;
        tokio::time::sleep(service.latency).await;
        let (Some(route), Some(redirect)) = (redirect::route(&parts), &service.redirect) else {
            return Ok(redirect::not_found().respond(head, None));
        };
        let fault = match service.admit(&route) {
            Ok(fault) => fault,
            Err(failure) => return Ok(failure.reply().respond(head, None)),
        };
        match service.play(control, fault.as_ref(), &mut parts).await? {
            Instead::Nothing => {}
            Instead::Answer(result, _) => {
                let reply = result.unwrap_or_else(|failure| failure.reply());
                return Ok(reply.respond(head, None));
            }
            Instead::Silence(_) => return service.silence(control, fault.as_ref()).await,
        }
        let Service { storage, clock, pool, authority, .. } = &**service;
        let reply =
            redirect::serve(&route, &parts, redirect, &authority.key, (storage, clock, pool));
        service.charge(&reply);
        Ok(reply.respond(head, fault.as_ref()))
    }
}

/// What a fault does before a request is performed.
enum Instead {
    /// Nothing: it goes on.
    Nothing,
    /// It is answered with this. `true`: and performed all the same.
    Answer(Result<Reply, Failure>, bool),
    /// It is not answered. `true`: but performed.
    Silence(bool),
}

impl Service {
    /// Where the server is, as the caller sees it.
    fn origin(&self, parts: &Parts) -> Origin {
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        Origin {
            scheme: if self.tls.is_some() { "https" } else { "http" },
            host: host.unwrap_or("localhost").to_owned(),
        }
    }

    fn authorize(
        &self,
        route: &Route,
        query: &Query,
        parts: &Parts,
        origin: &Origin,
    ) -> Result<(), Failure> {
        let mut needed = match route.op.needs() {
            Needs::Nothing => return Ok(()),
            Needs::Login => Vec::new(),
            Needs::Catalog => vec![Scope::catalog()],
            Needs::Actions(actions) => vec![Scope::repository(&route.repository, actions)],
        };
        if let (Operation::StartUpload, Some(from)) = (route.op, query.filled("from")) {
            needed.push(Scope::repository(from, &["pull"]));
        }
        let done = self.authority.authorize(&needed, &parts.headers, origin, &self.clock);
        if done.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        done
    }

    /// Counts a request, finds out what is to go wrong with it, and refuses what is too much.
    fn admit(&self, route: &Route) -> Result<Option<Action>, Failure> {
        self.counters.add(route.op as usize);
        let fault = self.faults.pick(route.op.name(), || route.subject());
        if let Some(buckets) = &self.throttle
            && !buckets.admit(WHOLE, Instant::now())
        {
            self.throttled.fetch_add(1, Ordering::Relaxed);
            return Err(Failure::from(error::TOO_MANY_REQUESTS).header("retry-after", "1"));
        }
        Ok(fault)
    }

    fn charge(&self, reply: &Reply) {
        if let Some(buckets) = &self.throttle {
            buckets.charge(WHOLE, reply.content.len());
        }
    }

    async fn play(
        &self,
        control: &Control,
        fault: Option<&Action>,
        parts: &mut Parts,
    ) -> Result<Instead, NoAnswer> {
        let Some(fault) = fault else { return Ok(Instead::Nothing) };
        Ok(match fault {
            Action::Delay { ms } => {
                tokio::time::sleep(Duration::from_millis(*ms)).await;
                Instead::Nothing
            }
            Action::IgnoreRange => {
                parts.headers.remove(RANGE);
                parts.headers.remove("x-ms-range");
                Instead::Nothing
            }
            Action::Answer { .. } => match Reply::instead(fault) {
                Some(reply) => Instead::Answer(Ok(reply), false),
                None => Instead::Nothing,
            },
            Action::Status { status, code, apply, retry_after } => {
                let mut failure = Failure::of_status(*status, code.as_deref());
                if let Some(seconds) = retry_after {
                    failure = failure.header("retry-after", seconds.to_string());
                }
                Instead::Answer(Err(failure), *apply)
            }
            Action::Reset { apply: false } => {
                control.reset_at_end();
                return Err(NoAnswer::Reset);
            }
            Action::Reset { apply } | Action::Stall { apply } => Instead::Silence(*apply),
            Action::ApplyLate { .. } | Action::CorruptRequest => {
                log::warn!(target: "emulator", "no fault of a registry: {fault:?}");
                Instead::Nothing
            }
            _ => Instead::Nothing,
        })
    }

    async fn silence(
        &self,
        control: &Control,
        fault: Option<&Action>,
    ) -> Result<Response<Outgoing>, NoAnswer> {
        if let Some(Action::Stall { .. }) = fault {
            // Until the caller gives up.
            std::future::pending::<()>().await;
        }
        control.reset_at_end();
        Err(NoAnswer::Reset)
    }

    fn respond(
        &self,
        result: Result<Reply, Failure>,
        head: bool,
        fault: Option<&Action>,
    ) -> Response<Outgoing> {
        let reply = result.unwrap_or_else(|failure| failure.reply());
        self.charge(&reply);
        reply
            .header("docker-distribution-api-version", "registry/2.0")
            .header("server", concat!("blobdir/", env!("CARGO_PKG_VERSION")))
            .header("x-ms-correlation-request-id", new_guid())
            .respond(head, fault)
    }

    async fn perform(
        &self,
        route: &Route,
        query: &Query,
        parts: &Parts,
        origin: &Origin,
        body: Incoming,
    ) -> Result<Result<Reply, Failure>, NoAnswer> {
        let Self { storage, uploads, clock, .. } = self;
        let Route { repository, item, .. } = route;
        let page = self.page_size;
        Ok(match route.op {
            Operation::UploadChunk => {
                let range =
                    parts.headers.get("content-range").and_then(|value| value.to_str().ok());
                uploads.append(repository, item, query, range, body).await?
            }
            Operation::FinishUpload => {
                uploads.finish(storage, repository, item, query, body).await?
            }
            Operation::PutManifest => match manifest_body(body).await? {
                Some(bytes) => self.put_manifest(route, parts, &bytes),
                None => Err(error::MANIFEST_TOO_LARGE.into()),
            },
            Operation::GetToken if parts.method == Method::GET => {
                self.authority.token(&parts.headers, query, None, clock)
            }
            Operation::GetToken => {
                let form = form(&incoming::short(body).await?);
                self.authority.token(&parts.headers, query, Some(&form), clock)
            }
            Operation::ExchangeToken => {
                let form = form(&incoming::short(body).await?);
                self.authority.exchange(&form, clock)
            }
            Operation::SetRepositoryMetadata
            | Operation::SetTagMetadata
            | Operation::SetManifestMetadata => {
                let body = incoming::short(body).await?;
                metadata::answer(storage, route, &origin.host, query, &body, page)
            }
            Operation::Ping => Ok(Reply::new(200).json(&json!({}))),
            Operation::ListRepositories => {
                listing::repositories(storage, "/v2/_catalog", query, page)
            }
            Operation::ListRepositoriesMetadata => {
                listing::repositories(storage, "/acr/v1/_catalog", query, page)
            }
            Operation::ListTags => listing::tags(storage, repository, query, page),
            Operation::ListReferrers if !self.referrers => Err(Failure::not_found()),
            Operation::ListReferrers => listing::referrers(storage, repository, item, query, page),
            Operation::GetBlob | Operation::HeadBlob => self.blob(route, parts, origin),
            Operation::GetManifest | Operation::HeadManifest => {
                content::manifest(storage, repository, item, &parts.headers)
            }
            Operation::DeleteBlob => self.delete_blob(route),
            Operation::DeleteManifest => self.delete_manifest(route),
            Operation::StartUpload => self.start_upload(route, query),
            Operation::GetUpload => uploads.status(repository, item),
            Operation::CancelUpload => uploads.cancel(storage, repository, item),
            _ => metadata::answer(storage, route, &origin.host, query, b"", page),
        })
    }

    fn blob(&self, route: &Route, parts: &Parts, origin: &Origin) -> Result<Reply, Failure> {
        let name = &route.repository;
        let digest = Digest::parse(&route.item).ok_or(error::DIGEST_INVALID)?;
        let Some(redirect) = &self.redirect else {
            return content::blob(&self.storage, name, &digest, &parts.headers, &self.pool);
        };
        if self.storage.blob(name, &digest)?.is_none() {
            return Err(error::BLOB_UNKNOWN.about(json!(digest.to_string())));
        }
        let target = (self.data_port, redirect);
        Ok(redirect::away((name, &digest), origin, target, &self.authority.key, &self.clock))
    }

    fn delete_blob(&self, route: &Route) -> Result<Reply, Failure> {
        let digest = Digest::parse(&route.item).ok_or(error::DIGEST_INVALID)?;
        let gone = self.storage.remove_blob(&route.repository, &digest)?;
        gone.then(|| Reply::new(202)).ok_or_else(|| error::BLOB_UNKNOWN.into())
    }

    fn delete_manifest(&self, route: &Route) -> Result<Reply, Failure> {
        let Route { repository, item, .. } = route;
        let unknown = || content::unknown_manifest(item);
        let Some(digest) = Digest::parse(item) else {
            let gone = self.storage.remove_tag(repository, item)?;
            return gone.then(|| Reply::new(202)).ok_or_else(unknown);
        };
        let known = |kept: &super::storage::Repository| kept.manifests.contains_key(&digest);
        if self.storage.with(repository, known) != Some(true) {
            return Err(unknown());
        }
        self.storage.remove_manifest(repository, &digest)?;
        Ok(Reply::new(202))
    }

    fn start_upload(&self, route: &Route, query: &Query) -> Result<Reply, Failure> {
        let name = &route.repository;
        let mount = query.get("mount").and_then(Digest::parse);
        if let (Some(digest), Some(from)) = (mount, query.filled("from"))
            && self.storage.blob(from, &digest)?.is_some()
        {
            self.storage.link_blob(name, &digest)?;
            return Ok(uploads::there(name, &digest));
        }
        // A digest that is given here already is not heeded: the caller goes on as with any upload.
        self.uploads.start(&self.storage, name)
    }

    fn put_manifest(&self, route: &Route, parts: &Parts, bytes: &[u8]) -> Result<Reply, Failure> {
        let Route { repository, item, .. } = route;
        let media_type = content::value(&parts.headers, http::header::CONTENT_TYPE);
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        let (digest, tag) = match Digest::parse(item) {
            Some(digest) if Digest::of(digest.algorithm, bytes) == digest => (digest, None),
            Some(digest) => return Err(error::DIGEST_INVALID.about(json!(digest.to_string()))),
            None => (Digest::of(Algorithm::Sha256, bytes), Some(item.as_str())),
        };
        if media_type.is_empty() {
            return Err(error::MANIFEST_INVALID.saying("Content-Type is missing"));
        }
        let facts = manifest::read(bytes, media_type)
            .map_err(|why| error::MANIFEST_INVALID.about(json!(why)))?;
        let missing = self.storage.with(repository, |kept| {
            let has_blob = |text: &String| {
                Digest::parse(text).is_some_and(|digest| kept.blobs.contains_key(&digest))
            };
            let has_manifest = |text: &String| kept.manifest(text).is_some();
            let blob = facts.blobs.iter().find(|blob| !has_blob(blob));
            let child = facts.manifests.iter().map(|child| &child.0);
            blob.or_else(|| child.into_iter().find(|child| !has_manifest(child))).cloned()
        });
        let first =
            || facts.blobs.first().or(facts.manifests.first().map(|child| &child.0)).cloned();
        if let Some(missing) = missing.unwrap_or_else(first) {
            return Err(error::MANIFEST_BLOB_UNKNOWN.about(json!({ "digest": missing })));
        }
        let subject = facts.subject.clone().filter(|_| self.referrers);
        self.storage.add_manifest(repository, &digest, bytes, (media_type, facts), tag)?;
        Ok(Reply::new(201)
            .header("location", format!("/v2/{repository}/manifests/{digest}"))
            .header("docker-content-digest", digest.to_string())
            .optional("oci-subject", subject))
    }
}

/// A manifest that is sent; `None` if it is too large.
async fn manifest_body(mut body: Incoming) -> Result<Option<Vec<u8>>, NoAnswer> {
    let mut whole = Vec::new();
    while let Some(bytes) = incoming::next(&mut body).await? {
        if whole.len() <= LARGEST_MANIFEST {
            whole.extend_from_slice(&bytes);
        }
    }
    Ok((whole.len() <= LARGEST_MANIFEST).then_some(whole))
}

/// The fields of a form, in which a plus is a blank.
fn form(body: &[u8]) -> Query {
    let pairs = url::form_urlencoded::parse(body);
    Query { pairs: pairs.map(|(name, value)| (name.to_lowercase(), value.into_owned())).collect() }
}
