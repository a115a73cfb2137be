//! The Blob service's operations that copy a whole blob, one thin method each, as in
//! [`client`](super::client).

use std::sync::Arc;

use http::Method;
use http::header::{ETAG, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::utf8_percent_encode;

use super::address::{Address, Condition, QUERY, etag_value};
use super::client::{Rest, put_lease};
use super::copy_source;
use crate::client::Effect;
use crate::store::{Error, ErrorKind, Result};

const X_MS_COPY_ACTION: HeaderName = HeaderName::from_static("x-ms-copy-action");
const X_MS_COPY_ID: HeaderName = HeaderName::from_static("x-ms-copy-id");
const X_MS_COPY_SOURCE: HeaderName = HeaderName::from_static("x-ms-copy-source");
const X_MS_COPY_STATUS: HeaderName = HeaderName::from_static("x-ms-copy-status");
const X_MS_SOURCE_IF_MATCH: HeaderName = HeaderName::from_static("x-ms-source-if-match");

impl Rest {
    /// Copy Blob inside the account, from `source` in version `etag`. Gives the copy.
    pub(super) async fn copy(
        &self,
        source: &Address,
        etag: &str,
        to: &Address,
        condition: &Condition,
        lease: Option<HeaderValue>,
    ) -> Result<Copy> {
        let mut request = self.at("Copy Blob", to, Method::PUT, condition.effect());
        let url = copy_source::in_one_account(source.url(), &self.credential.get().credential);
        let mut url = HeaderValue::from_str(url.as_str()).map_err(|_| {
            Error::new(
                ErrorKind::BadName,
                "Copy Blob",
                source.target(),
                "its URL cannot be sent in a header",
            )
        })?;
        // It may hold a signature.
        url.set_sensitive(true);
        request.headers.insert(X_MS_COPY_SOURCE, url);
        request.headers.insert(X_MS_SOURCE_IF_MATCH, etag_value(etag));
        condition.put(&mut request.headers);
        put_lease(&mut request.headers, lease);
        request.expected = &[ErrorKind::AlreadyExists];
        let reply = self.http.call(&request).await?;
        Ok(Copy::of(&reply.headers))
    }

    /// Get Blob Properties of the target of a copy.
    pub(super) async fn copy_state(&self, at: &Address) -> Result<Copy> {
        let mut request = self.at("Get Blob Properties", at, Method::HEAD, Effect::Read);
        self.encryption.of_read(&mut request.headers);
        Ok(Copy::of(&self.http.call(&request).await?.headers))
    }

    /// Abort Copy Blob.
    pub(super) async fn abort_copy(&self, at: &Address, id: &str) -> Result<()> {
        let mut request = self.at("Abort Copy Blob", at, Method::PUT, Effect::Update);
        let query = format!("comp=copy&copyid={}", utf8_percent_encode(id, QUERY));
        self.query(&mut request, &query);
        request.headers.insert(X_MS_COPY_ACTION, HeaderValue::from_static("abort"));
        self.http.call(&request).await.map(drop)
    }
}

/// Where a copy stands.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    /// Its name; empty if the service told none.
    pub(super) id: String,
    /// `success`, `pending`, `aborted` or `failed`.
    pub(super) status: String,
    /// The URL of its source; told of the target alone.
    pub(super) source: String,
    /// The version of the target.
    pub(super) etag: Arc<str>,
}

impl Copy {
    fn of(headers: &HeaderMap) -> Copy {
        let text = |name: &HeaderName| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        Copy {
            id: text(&X_MS_COPY_ID),
            status: text(&X_MS_COPY_STATUS),
            source: text(&X_MS_COPY_SOURCE),
            etag: Arc::from(text(&ETAG)),
        }
    }
}
