//! The Blob service's operations, one thin method each. No policy: what to ask, when and what to make of it
//! is the business of the callers.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_LENGTH, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH};
use percent_encoding::utf8_percent_encode;
use url::Url;

use super::address::{Address, Condition, Fence, QUERY, X_MS_LEASE_ID};
use super::copy_source::Source;
use super::encryption::Encryption;
use super::in_force::InForce;
use super::verify::Verifier;
use super::wire::{self, BlobPage, ContainerPage, Properties, RangePage};
use crate::client::{Client, Effect, Pin, Reply, Request};
use crate::store::{Error, ErrorKind, Outcome, Result, Retry, Sink};

const X_MS_BLOB_CONTENT_LENGTH: HeaderName = HeaderName::from_static("x-ms-blob-content-length");
pub(super) const X_MS_BLOB_SEQUENCE_NUMBER: HeaderName =
    HeaderName::from_static("x-ms-blob-sequence-number");
const X_MS_BLOB_TYPE: HeaderName = HeaderName::from_static("x-ms-blob-type");
const X_MS_PAGE_WRITE: HeaderName = HeaderName::from_static("x-ms-page-write");
const X_MS_RANGE: HeaderName = HeaderName::from_static("x-ms-range");
const X_MS_SOURCE_RANGE: HeaderName = HeaderName::from_static("x-ms-source-range");

/// How often a document may make no sense before it counts as corrupt.
const SENSELESS_ANSWERS: u32 = 5;

/// What to list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listing<'a> {
    /// Names begin with this.
    pub(super) prefix: &'a str,
    /// Names that go on with a `/` are shown as common prefixes.
    pub(super) folded: bool,
    /// Where to go on.
    pub(super) marker: Option<&'a str>,
    /// The most names in the page.
    pub(super) max: u32,
    /// Keep attributes of blobs.
    pub(super) attributes: bool,
}

/// The Blob service as one account or endpoint offers it.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) http: Client,
    /// Where containers are, without a slash at the end.
    endpoint: String,
    /// What sources of copies are opened with.
    pub(super) credential: Arc<InForce>,
    pub(super) verifier: Arc<Verifier>,
    pub(super) encryption: Encryption,
    /// The most attempts of one operation.
    pub(super) attempts: u32,
    /// Every call of the port ends within this time, however many operations it takes.
    pub(super) timeout: Duration,
}

impl Rest {
    /// How the service may read a blob of ours as the source of a copy; not if a key of ours encrypts it, which
    /// no source is told.
    pub(super) fn authorize_source(&self, at: &Address, etag: Option<&str>) -> Option<Source> {
        match self.encryption {
            Encryption::Key(_) => None,
            _ => Source::new(at, etag, Arc::clone(&self.credential)),
        }
    }

    /// Operations through `http` at `endpoint`.
    pub(super) fn new(
        http: Client,
        endpoint: &str,
        credential: Arc<InForce>,
        verifier: Arc<Verifier>,
        timeout: Duration,
    ) -> Rest {
        Rest {
            http,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            credential,
            verifier,
            encryption: Encryption::default(),
            attempts: u32::MAX,
            timeout,
        }
    }

    /// Ends a call of several operations in time; each of them has its own deadline too.
    ///
    /// Errors: as `work`; `TimedOut`, with an unknown outcome.
    pub(super) async fn within<T>(
        &self,
        op: &'static str,
        target: impl std::fmt::Display,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                ErrorKind::TimedOut,
                op,
                target,
                format!("not done within {} s", self.timeout.as_secs()),
            )
            .with_retry(Retry::Exhausted)
            .with_outcome(Outcome::Unknown)),
        }
    }

    /// The address of a blob.
    ///
    /// Errors: `BadName` for names that the service does not take.
    pub(super) fn address(&self, container: &str, name: &str) -> Result<Address> {
        Address::new(&self.endpoint, container, name)
    }

    /// A request for a blob, without its query.
    pub(super) fn at(
        &self,
        op: &'static str,
        at: &Address,
        method: Method,
        effect: Effect,
    ) -> Request {
        let mut request =
            Request::new(op, Arc::clone(at.target()), method, at.url().clone(), effect);
        request.attempts = self.attempts;
        if request.method == Method::PUT {
            // Sent even when it is 0, which the service demands.
            request.headers.reserve(12);
            request.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        request
    }

    /// Makes `pairs` the request's query; a signature comes behind it when it is sent.
    pub(super) fn query(&self, request: &mut Request, pairs: &str) {
        request.url.set_query(Some(pairs));
    }

    /// List Blobs.
    pub(super) async fn list(&self, container: &str, listing: &Listing<'_>) -> Result<BlobPage> {
        self.list_including("metadata", container, listing).await
    }

    /// List Blobs with what `include` says, as it stands in a query.
    pub(super) async fn list_including(
        &self,
        include: &str,
        container: &str,
        listing: &Listing<'_>,
    ) -> Result<BlobPage> {
        let max = listing.max;
        let mut query = format!("restype=container&comp=list&include={include}&maxresults={max}");
        let mut add = |name: &str, value: &str| {
            let _ = write!(query, "&{name}={}", utf8_percent_encode(value, QUERY));
        };
        if !listing.prefix.is_empty() {
            add("prefix", listing.prefix);
        }
        if listing.folded {
            add("delimiter", "/");
        }
        if let Some(marker) = listing.marker {
            add("marker", marker);
        }
        let target = format!("{container}/{}", listing.prefix);
        let request = self.get_document("List Blobs", container, &target, &query)?;
        self.read_document(&request, |body| wire::parse_blobs(body, listing.attributes)).await
    }

    /// List Containers.
    pub(super) async fn list_containers(
        &self,
        marker: Option<&str>,
        max: u32,
    ) -> Result<ContainerPage> {
        let mut query = format!("comp=list&maxresults={max}");
        if let Some(marker) = marker {
            let _ = write!(query, "&marker={}", utf8_percent_encode(marker, QUERY));
        }
        let request = self.get_document("List Containers", "", "/", &query)?;
        self.read_document(&request, wire::parse_containers).await
    }

    /// A GET of something that is no blob.
    fn get_document(
        &self,
        op: &'static str,
        container: &str,
        target: &str,
        query: &str,
    ) -> Result<Request> {
        let url = Url::parse(&format!("{}/{container}", self.endpoint))
            .map_err(|error| Error::new(ErrorKind::BadName, op, target, error.to_string()))?;
        let mut request = Request::new(op, Arc::from(target), Method::GET, url, Effect::Read);
        request.attempts = self.attempts;
        self.query(&mut request, query);
        Ok(request)
    }

    /// Reads a document whole. One that makes no sense, cut off perhaps, is asked for again.
    pub(super) async fn read_document<T>(
        &self,
        request: &Request,
        parse: impl Fn(&[u8]) -> std::result::Result<T, String>,
    ) -> Result<T> {
        let mut senseless = 0;
        loop {
            let reply = self.http.call(request).await?;
            let why = match parse(&reply.body) {
                Ok(document) => return Ok(document),
                Err(why) => why,
            };
            senseless += 1;
            if senseless == SENSELESS_ANSWERS {
                return Err(corrupt(request.op, &request.target, &why));
            }
            log::debug!(target: "http", "{} {}: {why}; again", request.op, request.target);
        }
    }

    /// Get Blob Properties, with the headers they were made of.
    pub(super) async fn head(&self, at: &Address) -> Result<(Properties, HeaderMap)> {
        self.head_leased(at, None).await
    }

    /// The same, refused unless this lease is the one that is held.
    pub(super) async fn head_leased(
        &self,
        at: &Address,
        lease: Option<HeaderValue>,
    ) -> Result<(Properties, HeaderMap)> {
        let mut request = self.at("Get Blob Properties", at, Method::HEAD, Effect::Read);
        self.encryption.of_read(&mut request.headers);
        put_lease(&mut request.headers, lease);
        let reply = self.http.call(&request).await?;
        let properties = wire::parse_head(&reply.headers)
            .map_err(|why| corrupt("Get Blob Properties", at.target(), &why))?;
        Ok((properties, reply.headers))
    }

    /// Get Blob: exactly `range`, in one version if `pin` has an ETag; as many requests as checksums need.
    pub(super) async fn get(
        &self,
        at: &Address,
        range: Range<u64>,
        pin: Pin<'_>,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let mut start = range.start;
        while start < range.end {
            let ask = self.verifier.ask();
            let longest = self.verifier.longest_read();
            let mut request = self.at("Get Blob", at, Method::GET, Effect::Read);
            request.headers.reserve(12);
            self.encryption.of_read(&mut request.headers);
            if let Some(etag) = pin.etag {
                request.headers.insert(IF_MATCH, etag.clone());
            }
            if let Some(ask) = &ask {
                request.headers.insert(ask.clone(), HeaderValue::from_static("true"));
            }
            let mut part = start..range.end.min(start.saturating_add(longest));
            match self.http.read(&request, &mut part, pin, sink).await {
                Err(error) if error.kind() == ErrorKind::Unsupported && ask.is_some() => {
                    self.verifier.give_up_reads("knows no checksums of its answers");
                }
                result => result?,
            }
            start = part.start;
        }
        Ok(())
    }

    /// Get Page Ranges: one page of the ranges with data inside `range`. Tried at most `attempts` times.
    pub(super) async fn page_ranges(
        &self,
        at: &Address,
        range: &Range<u64>,
        etag: Option<&HeaderValue>,
        marker: Option<&str>,
        attempts: u32,
    ) -> Result<RangePage> {
        let mut request = self.at("Get Page Ranges", at, Method::GET, Effect::Read);
        request.attempts = attempts;
        let mut query = at.query("comp=pagelist");
        if let Some(marker) = marker {
            let _ = write!(query, "&marker={}", utf8_percent_encode(marker, QUERY));
        }
        self.query(&mut request, &query);
        request.headers.insert(X_MS_RANGE, range_value(range));
        if let Some(etag) = etag {
            request.headers.insert(IF_MATCH, etag.clone());
        }
        self.read_document(&request, wire::parse_ranges).await
    }

    /// A Put Page, update, to be sent by [`send_update`](Rest::send_update).
    pub(super) fn put_pages(&self, at: &Address, offset: u64, pieces: Vec<Bytes>) -> Request {
        let length: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let mut request = self.page_request("Put Page", at, &(offset..offset + length));
        request.headers.insert(X_MS_PAGE_WRITE, HeaderValue::from_static("update"));
        request.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        request.headers.extend(self.verifier.of_update(&pieces));
        request.body = pieces;
        request
    }

    /// A Put Page From URL, to be sent by [`send_update`](Rest::send_update): `range` of `source` to
    /// `offset`. The service's answer is about the target; an error of the source has a code of its own.
    pub(super) fn put_pages_from(
        &self,
        at: &Address,
        offset: u64,
        source: &Source,
        range: &Range<u64>,
    ) -> Request {
        let target = offset..offset + (range.end - range.start);
        let mut request = self.page_request("Put Page From URL", at, &target);
        let headers = &mut request.headers;
        // The page of the operation leaves it out, but the service asks for it.
        headers.insert(X_MS_PAGE_WRITE, HeaderValue::from_static("update"));
        headers.insert(X_MS_SOURCE_RANGE, range_value(range));
        source.put(headers, at);
        request
    }

    /// A Put Page, clear, to be sent by [`send_update`](Rest::send_update).
    pub(super) fn clear_pages(&self, at: &Address, range: &Range<u64>) -> Request {
        let mut request = self.page_request("Clear Pages", at, range);
        request.headers.insert(X_MS_PAGE_WRITE, HeaderValue::from_static("clear"));
        request
    }

    fn page_request(&self, op: &'static str, at: &Address, range: &Range<u64>) -> Request {
        let mut request = self.at(op, at, Method::PUT, Effect::Update);
        self.query(&mut request, "comp=page");
        request.headers.insert(X_MS_RANGE, range_value(range));
        self.encryption.of_write(&mut request.headers);
        // What they mean depends on what the writer knows.
        request.expected = &[ErrorKind::Fenced, ErrorKind::Busy];
        request
    }

    /// Sends a page update behind a fence, which may be another one each time. Gives the new ETag.
    pub(super) async fn send_update(
        &self,
        request: &mut Request,
        fence: &Fence,
    ) -> Result<Arc<str>> {
        fence.put(&mut request.headers);
        match self.http.call(request).await {
            // It was the checksum that the service does not know: without it the request can be sent again.
            Err(error)
                if error.kind() == ErrorKind::Unsupported
                    && self.verifier.give_up_updates(&mut request.headers) =>
            {
                Err(error.with_kind(ErrorKind::Unavailable))
            }
            answer => etag_of(request, &answer?),
        }
    }

    /// Set Blob Properties: the size. Gives the new ETag.
    pub(super) async fn resize(
        &self,
        at: &Address,
        size: u64,
        condition: &Condition,
        fence: &Fence,
    ) -> Result<Arc<str>> {
        let mut request = self.at("Set Blob Properties", at, Method::PUT, condition.effect());
        self.query(&mut request, "comp=properties");
        request.headers.insert(X_MS_BLOB_CONTENT_LENGTH, HeaderValue::from(size));
        self.encryption.of_write(&mut request.headers);
        condition.put(&mut request.headers);
        fence.put(&mut request.headers);
        request.expected = &[ErrorKind::Stale];
        etag_of(&request, &self.http.call(&request).await?)
    }

    /// Set Blob Metadata: all of it. Gives the new ETag.
    pub(super) async fn set_metadata(
        &self,
        at: &Address,
        metadata: &[(HeaderName, HeaderValue)],
        condition: &Condition,
        fence: &Fence,
    ) -> Result<Arc<str>> {
        let mut request = self.at("Set Blob Metadata", at, Method::PUT, condition.effect());
        self.query(&mut request, "comp=metadata");
        for (name, value) in metadata {
            request.headers.insert(name.clone(), value.clone());
        }
        self.encryption.of_write(&mut request.headers);
        condition.put(&mut request.headers);
        fence.put(&mut request.headers);
        request.expected = &[ErrorKind::Stale];
        etag_of(&request, &self.http.call(&request).await?)
    }

    /// Put Blob: an empty page blob with sequence number `sequence` and this metadata. Gives its ETag.
    pub(super) async fn create_page_blob(
        &self,
        at: &Address,
        sequence: u64,
        metadata: &[(HeaderName, HeaderValue)],
        condition: &Condition,
        lease: Option<HeaderValue>,
    ) -> Result<Arc<str>> {
        let mut request = self.at("Put Blob", at, Method::PUT, condition.effect());
        let headers = &mut request.headers;
        headers.insert(X_MS_BLOB_TYPE, HeaderValue::from_static("PageBlob"));
        headers.insert(X_MS_BLOB_CONTENT_LENGTH, HeaderValue::from_static("0"));
        headers.insert(X_MS_BLOB_SEQUENCE_NUMBER, HeaderValue::from(sequence));
        headers.extend(metadata.iter().cloned());
        self.encryption.of_write(headers);
        condition.put(headers);
        put_lease(headers, lease);
        request.expected = &[ErrorKind::AlreadyExists, ErrorKind::Stale];
        etag_of(&request, &self.http.call(&request).await?)
    }

    /// Put Blob: the empty block blob that marks a directory, unless it is there.
    pub(super) async fn create_directory_marker(&self, at: &Address) -> Result<()> {
        let condition = Condition::Absent;
        let mut request = self.at("Put Blob", at, Method::PUT, condition.effect());
        let headers = &mut request.headers;
        headers.insert(X_MS_BLOB_TYPE, HeaderValue::from_static("BlockBlob"));
        headers.insert(
            HeaderName::from_static("x-ms-meta-hdi_isfolder"),
            HeaderValue::from_static("true"),
        );
        self.encryption.of_write(headers);
        condition.put(headers);
        request.expected = &[ErrorKind::AlreadyExists];
        self.http.call(&request).await.map(drop)
    }

    /// Delete Blob. Snapshots are never deleted with it.
    pub(super) async fn delete(
        &self,
        at: &Address,
        condition: &Condition,
        lease: Option<HeaderValue>,
    ) -> Result<()> {
        let mut request = self.at("Delete Blob", at, Method::DELETE, condition.effect());
        condition.put(&mut request.headers);
        put_lease(&mut request.headers, lease);
        // Who asks looks why: a lease, or snapshots.
        request.expected = &[ErrorKind::Busy];
        match self.http.call(&request).await {
            Ok(_) => Ok(()),
            // An earlier attempt of this very request may have done it.
            Err(error)
                if error.kind() == ErrorKind::NotFound && error.outcome() == Outcome::Unknown =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

pub(super) fn put_lease(headers: &mut HeaderMap, lease: Option<HeaderValue>) {
    if let Some(lease) = lease {
        headers.insert(X_MS_LEASE_ID, lease);
    }
}

/// The ETag that an update made.
pub(super) fn etag_of(request: &Request, reply: &Reply) -> Result<Arc<str>> {
    reply.headers.get(ETAG).and_then(|value| value.to_str().ok()).map(Arc::from).ok_or_else(|| {
        corrupt(request.op, &request.target, "it has no ETag").with_outcome(Outcome::Unknown)
    })
}

pub(super) fn corrupt(op: &'static str, target: &str, why: &str) -> Error {
    let message = format!("the service's answer makes no sense: {why}");
    log::warn!(target: "http", "{op} {target}: {message}");
    Error::new(ErrorKind::Corrupt, op, target, message)
}

/// `bytes=FIRST-LAST`
pub(super) fn range_value(range: &Range<u64>) -> HeaderValue {
    let text = format!("bytes={}-{}", range.start, range.end - 1);
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("digits are a header value")
}
