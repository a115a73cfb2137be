//! Where a blob is, and on what a request for it may depend.
//!
//! This module must not know operations.

use std::fmt::Write as _;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use super::older::Line;
use crate::client::Effect;
use crate::store::{Error, ErrorKind, Result};

const X_MS_IF_SEQUENCE_NUMBER_LT: HeaderName =
    HeaderName::from_static("x-ms-if-sequence-number-lt");
pub(super) const X_MS_LEASE_ID: HeaderName = HeaderName::from_static("x-ms-lease-id");

/// Everything but the unreserved characters of RFC 3986 is encoded: what signs the request and what
/// sends it then agree on the path byte by byte.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The same within a query.
pub(super) const QUERY: &AsciiSet = &PATH.add(b'/');

/// One blob's address, or that of one of its snapshots or versions.
#[derive(Clone)]
pub(super) struct Address {
    url: Url,
    /// The blob's container and name.
    blob: Arc<str>,
    target: Arc<str>,
    /// Which snapshot or version it is; `None` for the blob itself.
    older: Option<(Line, Arc<str>)>,
}

impl Address {
    /// The address of a blob at an endpoint.
    ///
    /// Errors: `BadName` for names that the service does not take.
    pub(super) fn new(endpoint: &str, container: &str, name: &str) -> Result<Address> {
        let target: Arc<str> = format!("{container}/{name}").into();
        let bad = |why: String| Error::new(ErrorKind::BadName, "name", &target, why);
        check_name(name).map_err(bad)?;
        let mut text = format!("{endpoint}/{container}/");
        let _ = write!(text, "{}", utf8_percent_encode(name, PATH));
        let url = Url::parse(&text).map_err(|error| bad(error.to_string()))?;
        Ok(Address { url, blob: Arc::clone(&target), target, older: None })
    }

    /// The address of this blob's snapshot or version of a time.
    pub(super) fn older(&self, line: Line, time: &str) -> Address {
        let (mut url, blob) = (self.url.clone(), Arc::clone(&self.blob));
        let value = utf8_percent_encode(time, QUERY);
        url.set_query(Some(&format!("{}={value}", line.parameter())));
        let target = format!("{blob} of {time}").into();
        Address { url, blob, target, older: Some((line, time.into())) }
    }

    /// Which snapshot or version it is; `None` for the blob itself.
    pub(super) fn time(&self) -> Option<(Line, &str)> {
        self.older.as_ref().map(|(line, time)| (*line, &**time))
    }

    /// Container and name of the blob, `container/name`.
    pub(super) fn blob(&self) -> &str {
        &self.blob
    }

    /// `pairs` of a query, and what chooses the snapshot or version, if it is one.
    pub(super) fn query(&self, pairs: &str) -> String {
        match &self.older {
            Some((line, time)) => {
                format!("{pairs}&{}={}", line.parameter(), utf8_percent_encode(time, QUERY))
            }
            None => pairs.to_owned(),
        }
    }

    /// The URL of the blob, or of its snapshot.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The name as it may be shown.
    pub(super) fn target(&self) -> &Arc<str> {
        &self.target
    }

    /// Whether a URL is this blob's, signatures apart.
    pub(super) fn is_at(&self, url: &str) -> bool {
        Url::parse(url).is_ok_and(|url| url.path() == self.url.path())
    }
}

/// Shows the name alone, which says as much as the URL.
impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({})", self.target)
    }
}

/// On what an update of a whole blob depends.
#[derive(Clone, Debug, Default)]
pub(super) enum Condition {
    /// Nothing.
    #[default]
    None,
    /// The blob is in this version.
    Match(HeaderValue),
    /// There is no such blob.
    Absent,
}

impl Condition {
    /// A condition on an ETag as the service gave it.
    pub(super) fn etag(etag: &str) -> Condition {
        // An ETag comes from a header or from XML; one that is no header value matches nothing.
        Condition::Match(etag_value(etag))
    }

    /// A condition makes duplicates harmless; without one only the first sending is safe.
    pub(super) fn effect(&self) -> Effect {
        match self {
            Condition::None => Effect::Update,
            Condition::Match(_) | Condition::Absent => Effect::Guarded,
        }
    }

    pub(super) fn put(&self, headers: &mut HeaderMap) {
        match self {
            Condition::None => {}
            Condition::Match(etag) => {
                headers.insert(IF_MATCH, etag.clone());
            }
            Condition::Absent => {
                headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
            }
        }
    }
}

/// An ETag as a header value.
pub(super) fn etag_value(etag: &str) -> HeaderValue {
    HeaderValue::from_str(etag).unwrap_or(HeaderValue::from_static("\"\""))
}

/// On what a page update depends, so that no one but the writer that means to makes it.
#[derive(Clone, Debug, Default)]
pub(super) struct Fence {
    /// The lease that is held.
    pub(super) lease: Option<HeaderValue>,
    /// The blob's sequence number must be less than this.
    pub(super) sequence_below: Option<u64>,
}

impl Fence {
    pub(super) fn put(&self, headers: &mut HeaderMap) {
        if let Some(lease) = &self.lease {
            headers.insert(X_MS_LEASE_ID, lease.clone());
        }
        if let Some(limit) = self.sequence_below {
            headers.insert(X_MS_IF_SEQUENCE_NUMBER_LT, HeaderValue::from(limit));
        }
    }
}

/// The longest name, in UTF-16 units as the service counts; and the most segments.
const LONGEST_NAME: usize = 1024;
const MOST_SEGMENTS: usize = 254;

/// Why the service does not take a name ("Naming and referencing containers, blobs, and metadata").
fn check_name(name: &str) -> std::result::Result<(), String> {
    if name.encode_utf16().count() > LONGEST_NAME {
        return Err(format!(
            "the path is longer than the {LONGEST_NAME} characters that the service takes"
        ));
    }
    if name.split('/').count() > MOST_SEGMENTS {
        return Err(format!(
            "the path is deeper than the {MOST_SEGMENTS} levels that the service takes"
        ));
    }
    if name.chars().any(|c| c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}')) {
        return Err("the service takes no control characters in names".to_owned());
    }
    // A URL cannot carry these: they would be resolved away.
    if name.split('/').any(|part| part == "." || part == "..") {
        return Err("a path cannot hold . or ..".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn names_that_the_service_takes() {
        for good in ["a", "a/b", "ü %#?+&=", "a//b", "a.", &"x".repeat(1024)] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
        let long = "x".repeat(1025);
        let deep = "x/".repeat(254) + "x";
        for bad in ["a\nb", "a/../b", "\u{7f}", "\u{85}", &long, &deep] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
