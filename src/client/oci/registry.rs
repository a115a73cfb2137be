//! One registry: what it holds, and the bytes of its blobs (OCI distribution specification).
//!
//! Requests are signed by [`Access`]; a refusal makes it learn what the registry wants, once. Blobs may be
//! kept elsewhere: a redirect is followed here and not by the transport, so that nothing that gives access goes
//! to another host, and its target is kept for as long as it holds.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, LINK, LOCATION,
};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;
use url::{Host, Url};

use super::access::{Access, Credential};
use super::manifest;
use super::name::Repository;
use crate::client::http::Client;
use crate::client::request::{Effect, Reply, Request};
use crate::client::{Answer, Attempt, Config, Pin, Service, Verdict, is_loopback, judge};
use crate::store::{Digest, Error, ErrorKind, Result, Sink};

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// The purpose of requests that list repositories.
const CATALOG: &str = "catalog";

/// How long the target of a redirect holds that does not say so: what registries sign for.
const TARGET_LIFE: Duration = Duration::from_secs(20 * 60);
/// It is not used so shortly before its end that a request might meet it.
const TARGET_MARGIN: Duration = Duration::from_secs(30);

/// How often the way to a blob is looked for while one read goes on.
const ROUTES: u32 = 4;

/// One registry.
#[derive(Debug)]
pub struct Registry {
    http: Arc<Client>,
    access: Access,
    base: Url,
    timeout: Duration,
    /// Blobs have been found elsewhere before, so that it is worth asking where one is.
    redirects: AtomicBool,
    targets: Mutex<HashMap<Digest, Target>>,
}

/// Where the bytes of a blob are.
#[derive(Clone, Debug)]
struct Target {
    url: Url,
    ends: Instant,
}

/// A manifest as it was given.
#[derive(Clone, Debug)]
pub struct Given {
    /// Its bytes, which have its digest.
    pub bytes: Bytes,
    /// The media type of the answer.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
}

/// One page of a list, and where it goes on.
#[derive(Clone, Debug)]
pub struct Names {
    /// The names.
    pub names: Vec<String>,
    /// The URL of the next page.
    pub next: Option<Url>,
}

/// Reads the errors of registries.
#[derive(Debug)]
struct Distribution;

impl Service for Distribution {
    fn sign(&self, _: &mut Attempt<'_>) {}

    fn judge(&self, answer: &Answer<'_>) -> Verdict {
        let default = judge(answer.status);
        match first_error(answer.body) {
            Some(words) => {
                Verdict { message: format!("{} ({})", default.message, words), ..default }
            }
            None => default,
        }
    }
}

impl Registry {
    /// The registry at `base` (`https://host[:port]`), to which we are `credential`. Asks for nothing yet.
    ///
    /// Errors: the transport cannot be set up.
    pub fn new(base: Url, credential: Credential, config: Config) -> Result<Registry> {
        let http = Arc::new(Client::new(config, Arc::new(Distribution))?);
        let access = Access::new(credential, Arc::clone(&http));
        Ok(Registry {
            http,
            access,
            base,
            timeout: config.timeout,
            redirects: AtomicBool::new(false),
            targets: Mutex::default(),
        })
    }

    /// Whether it speaks the protocol and lets us in.
    ///
    /// Errors: as the registry says.
    pub async fn ping(&self) -> Result<()> {
        let request = self.request("ping", "the registry", Method::GET, self.url("/v2/"));
        self.call("ping", request).await.map(drop)
    }

    /// The repositories, a page at a time; `page` is where the last one said to go on.
    ///
    /// Errors: `PermissionDenied`, `NotFound` where it has no catalog or shows it to nobody.
    pub async fn repositories(&self, page: Option<Url>, max: u32) -> Result<Names> {
        let first = || self.url(&format!("/v2/_catalog?n={max}"));
        let request = self.request(
            "list repositories",
            "the catalog",
            Method::GET,
            page.unwrap_or_else(first),
        );
        let asked = request.url.clone();
        let reply = self.call(CATALOG, request).await?;
        self.names("repositories", &asked, &reply)
    }

    /// The tags of a repository, likewise.
    ///
    /// Errors: `NotFound` if there is no such repository.
    pub async fn tags(
        &self,
        repository: &Repository,
        page: Option<Url>,
        max: u32,
    ) -> Result<Names> {
        let first = || self.url(&format!("/v2/{repository}/tags/list?n={max}"));
        let url = page.unwrap_or_else(first);
        let request = self.request("list tags", repository.as_str(), Method::GET, url);
        let asked = request.url.clone();
        let reply = self.call(repository.as_str(), request).await?;
        self.names("tags", &asked, &reply)
    }

    /// A manifest by tag or digest. `None` if it is still `known`.
    ///
    /// Errors: `NotFound`; `Corrupt` if its bytes have another digest.
    pub async fn manifest(
        &self,
        repository: &Repository,
        reference: &str,
        known: Option<&Digest>,
    ) -> Result<Option<Given>> {
        let url = self.url(&format!("/v2/{repository}/manifests/{reference}"));
        let target = format!("{repository}:{reference}");
        let mut request = self.request("get manifest", &target, Method::GET, url);
        request.headers.insert(ACCEPT, HeaderValue::from_static(manifest::ACCEPT));
        if let Some(known) = known
            && let Ok(tag) = HeaderValue::from_str(&format!("\"{known}\""))
        {
            request.headers.insert(IF_NONE_MATCH, tag);
            request.expected = &[ErrorKind::Stale];
        }
        let reply = match self.call(repository.as_str(), request).await {
            Ok(reply) => reply,
            Err(error) if known.is_some() && error.kind() == ErrorKind::Stale => return Ok(None),
            Err(error) => return Err(error),
        };
        let corrupt = |why: String| Error::new(ErrorKind::Corrupt, "get manifest", &target, why);
        if reply.body.len() > manifest::LONGEST {
            let why = format!("{} bytes, more than any manifest may have", reply.body.len());
            return Err(corrupt(why));
        }
        let told = header(&reply.headers, &DIGEST).and_then(|text| text.parse::<Digest>().ok());
        let wanted = reference.parse::<Digest>().ok().or(told);
        let algorithm = wanted.as_ref().map_or(crate::store::Algorithm::Sha256, Digest::algorithm);
        let digest = Digest::of(algorithm, &reply.body);
        if wanted.is_some_and(|wanted| wanted != digest) {
            return Err(corrupt(format!("its bytes have the digest {digest}")));
        }
        let media_type = header(&reply.headers, &CONTENT_TYPE).unwrap_or_default().to_owned();
        Ok(Some(Given { bytes: reply.body, media_type, digest }))
    }

    /// The length of a blob that no manifest has told of.
    ///
    /// Errors: `NotFound`.
    pub async fn blob_len(&self, repository: &Repository, digest: &Digest) -> Result<u64> {
        let mut tries = 0;
        loop {
            let (status, headers) = self.probe(repository, digest).await?;
            tries += 1;
            if status.is_redirection() {
                // The target tells by a range, which every one serves; some refuse HEAD.
                if let Some(len) = self.len_at_target(repository, digest).await? {
                    return Ok(len);
                }
                if tries < ROUTES {
                    continue;
                }
            }
            let range = header(&headers, &http::header::CONTENT_RANGE);
            let total = range.and_then(|range| range.rsplit_once('/')?.1.parse().ok());
            let whole =
                header(&headers, &http::header::CONTENT_LENGTH).and_then(|len| len.parse().ok());
            let len = match status {
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => total,
                _ => whole,
            };
            return len.ok_or_else(|| {
                Error::new(
                    ErrorKind::Corrupt,
                    "get blob",
                    digest,
                    "the registry does not tell its length",
                )
            });
        }
    }

    /// Gives `sink` the bytes of `range` of a blob of `len` bytes.
    ///
    /// Errors: `NotFound`; `Unsupported` if the registry serves no ranges; `Corrupt` for another length.
    pub async fn read(
        &self,
        repository: &Repository,
        digest: &Digest,
        len: u64,
        range: Range<u64>,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let mut rest = range;
        let pin = Pin { etag: None, total: Some(len) };
        let mut last = None;
        for _ in 0..ROUTES {
            if rest.is_empty() {
                return Ok(());
            }
            let target = self.route(repository, digest).await?;
            let result = match &target {
                Some(target) => {
                    let mut request = Request::new(
                        "get blob",
                        digest.shared(),
                        Method::GET,
                        target.url.clone(),
                        Effect::Read,
                    );
                    request.expected = &[ErrorKind::PermissionDenied, ErrorKind::Unauthenticated];
                    self.http.read(&request, &mut rest, pin, sink).await
                }
                None => {
                    let mut request = self.blob_request(repository, digest);
                    self.access.sign(repository.as_str(), &mut request, self.deadline()).await?;
                    request.expected = &[ErrorKind::Unauthenticated, ErrorKind::Other];
                    let result = self.http.read(&request, &mut rest, pin, sink).await;
                    if is_unauthenticated(&result) {
                        self.access.learn(repository.as_str(), &request).await?;
                    }
                    result
                }
            };
            let Err(error) = result else { return Ok(()) };
            match error.kind() {
                // The target does not hold any more, or never did.
                ErrorKind::PermissionDenied | ErrorKind::Unauthenticated if target.is_some() => {
                    self.targets.lock().remove(digest);
                }
                ErrorKind::Unauthenticated => {}
                // A redirect, from a registry that had served blobs itself.
                ErrorKind::Other if target.is_none() => {
                    self.redirects.store(true, Ordering::Relaxed);
                }
                _ => return Err(error),
            }
            last = Some(error);
        }
        Err(last.expect("every round but the last has ended in an error"))
    }

    /// Where to read a blob; `None` stands for the registry itself.
    async fn route(&self, repository: &Repository, digest: &Digest) -> Result<Option<Target>> {
        if !self.redirects.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if let Some(target) = self.target(digest) {
            return Ok(Some(target));
        }
        let (status, _) = self.probe(repository, digest).await?;
        if !status.is_redirection() {
            return Ok(None);
        }
        Ok(self.target(digest))
    }

    /// Asks the registry for the first byte of a blob, and keeps where that leads to.
    async fn probe(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<(StatusCode, HeaderMap)> {
        let mut request = self.blob_request(repository, digest);
        request.headers.insert(http::header::RANGE, HeaderValue::from_static("bytes=0-0"));
        let mut learnt = false;
        loop {
            self.access.sign(repository.as_str(), &mut request, self.deadline()).await?;
            let (status, headers) = match self.http.head_of(&request).await {
                Ok(found) => found,
                Err(failure) => {
                    return Err(Error::new(
                        failure.kind,
                        request.op,
                        &request.target,
                        failure.message,
                    ));
                }
            };
            if status == StatusCode::UNAUTHORIZED && !learnt {
                learnt = true;
                self.access.learn(repository.as_str(), &request).await?;
                continue;
            }
            if status.is_redirection() {
                self.redirects.store(true, Ordering::Relaxed);
                let location = header(&headers, &LOCATION).unwrap_or_default();
                let target = self.check_target(location).map_err(|why| {
                    Error::new(ErrorKind::PermissionDenied, "get blob", digest, why)
                })?;
                self.targets.lock().insert(digest.clone(), target);
            } else if !status.is_success() && status != StatusCode::RANGE_NOT_SATISFIABLE {
                let verdict = judge(status);
                return Err(Error::new(verdict.kind, request.op, &request.target, verdict.message));
            }
            return Ok((status, headers));
        }
    }

    async fn len_at_target(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>> {
        let Some(target) = self.target(digest) else { return Ok(None) };
        let target_name = repository.as_str().into();
        let mut request =
            Request::new("get blob", target_name, Method::GET, target.url, Effect::Read);
        request.headers.insert(http::header::RANGE, HeaderValue::from_static("bytes=0-0"));
        let Ok((status, headers)) = self.http.head_of(&request).await else { return Ok(None) };
        let range = header(&headers, &http::header::CONTENT_RANGE);
        let total = range.and_then(|range| range.rsplit_once('/')?.1.parse().ok());
        if total.is_none() {
            self.targets.lock().remove(digest);
        }
        Ok(total.filter(|_| status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE))
    }

    fn target(&self, digest: &Digest) -> Option<Target> {
        let targets = self.targets.lock();
        targets.get(digest).filter(|target| Instant::now() + TARGET_MARGIN < target.ends).cloned()
    }

    /// A redirect's target, if it may be followed: never from TLS to plain HTTP, nor to where a host's own
    /// metadata is.
    fn check_target(&self, location: &str) -> std::result::Result<Target, String> {
        let url = self.base.join(location).map_err(|_| "it redirects to no URL".to_owned())?;
        let secure =
            url.scheme() == "https" || (url.scheme() == "http" && self.base.scheme() == "http");
        if !secure {
            return Err(format!("it redirects to {}, which is not safe", url.scheme()));
        }
        let local = match url.host() {
            Some(Host::Ipv4(address)) => address.is_link_local(),
            Some(Host::Ipv6(address)) => address.is_unicast_link_local(),
            Some(Host::Domain(_)) => false,
            None => true,
        };
        if local || (is_loopback(&url) && !is_loopback(&self.base)) {
            return Err("it redirects to an address of this host or link".to_owned());
        }
        let ends =
            url.query_pairs().find(|(name, _)| name == "se").and_then(|(_, time)| life(&time));
        let ends = Instant::now() + ends.unwrap_or(TARGET_LIFE).min(TARGET_LIFE);
        Ok(Target { url, ends })
    }

    /// Sends a request, and once more after the registry has said what it wants.
    async fn call(&self, purpose: &str, mut request: Request) -> Result<Reply> {
        self.access.sign(purpose, &mut request, self.deadline()).await?;
        let expected = request.expected;
        request.expected = &[ErrorKind::Unauthenticated, ErrorKind::Stale];
        let first = self.http.call(&request).await;
        if !is_unauthenticated(&first) {
            return first;
        }
        self.access.learn(purpose, &request).await?;
        self.access.sign(purpose, &mut request, self.deadline()).await?;
        request.expected = expected;
        self.http.call(&request).await
    }

    fn names(&self, field: &str, asked: &Url, reply: &Reply) -> Result<Names> {
        let corrupt = |why: &str| Error::new(ErrorKind::Corrupt, "list", asked.path(), why);
        let document: Value =
            serde_json::from_slice(&reply.body).map_err(|_| corrupt("the answer is no JSON"))?;
        let names = match document.get(field) {
            Some(Value::Array(values)) => {
                values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
            }
            Some(Value::Null) | None => Vec::new(),
            Some(_) => return Err(corrupt("the answer is no list")),
        };
        let next = header(&reply.headers, &LINK).and_then(next_link);
        let next = next.and_then(|link| asked.join(link).ok());
        let here = |url: &Url| url.origin() == self.base.origin() && url != asked;
        Ok(Names { names, next: next.filter(here) })
    }

    fn blob_request(&self, repository: &Repository, digest: &Digest) -> Request {
        let url = self.url(&format!("/v2/{repository}/blobs/{digest}"));
        Request::new("get blob", digest.shared(), Method::GET, url, Effect::Read)
    }

    fn request(&self, op: &'static str, target: &str, method: Method, url: Url) -> Request {
        Request::new(op, Arc::from(target), method, url, Effect::Read)
    }

    /// Names and digests that were parsed are safe in a URL.
    fn url(&self, path: &str) -> Url {
        self.base.join(path).expect("names and digests make a URL")
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }
}

fn is_unauthenticated<T>(result: &Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unauthenticated)
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The target of `<…>; rel="next"` (RFC 8288).
fn next_link(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = |parameter: &str| matches!(parameter.trim(), "rel=\"next\"" | "rel=next");
        parameters.split(';').any(is_next).then_some(target)
    })
}

/// The first error of a registry's answer, as `CODE: message`.
fn first_error(body: &[u8]) -> Option<String> {
    let document: Value = serde_json::from_slice(body).ok()?;
    let error = document.get("errors")?.get(0)?;
    let code = error.get("code")?.as_str()?;
    let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
    let text: String = format!("{code}: {message}").chars().filter(|c| !c.is_control()).collect();
    Some(text.chars().take(200).collect())
}

/// How long an address holds whose signature ends at `2026-11-20T07:00:00Z`.
fn life(end: &str) -> Option<Duration> {
    let number = |range: Range<usize>| end.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19).unwrap_or(0));
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.get(usize::try_from(month.checked_sub(1)?).ok()?)?;
    // The day of the week is not checked by the parser.
    let text = format!("{day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT");
    let parse = |weekday| httpdate::parse_http_date(&format!("{weekday}, {text}")).ok();
    let ends = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].into_iter().find_map(parse)?;
    Some(ends.duration_since(std::time::SystemTime::now()).unwrap_or_default())
}
