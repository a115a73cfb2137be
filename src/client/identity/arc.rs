//! The identity of a machine elsewhere that Azure Arc knows: its agent answers the first question with the
//! name of a file that only root and the agent's group can read, and the second one, with what stands in
//! it, with a token.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use url::Url;

use super::managed_identity;
use super::transport::{Transport, complaint, local_endpoint, put_secret, read_grant, request};
use crate::client::request::{Reply, Request};
use crate::client::token::{Audience, Grant, Identity, NoToken};

/// Where the agent listens where nobody says otherwise.
pub(super) const WELL_KNOWN_ENDPOINT: &str =
    "http://localhost:40342/metadata/identity/oauth2/token";

const METADATA: HeaderName = HeaderName::from_static("metadata");

/// The longest key file, in bytes. A longer one is none of the agent's.
const LONGEST_KEY: u64 = 4096;

#[derive(Debug)]
struct AzureArc {
    endpoint: Url,
    /// The one directory that keys are read from: an answer must not make us read and send anything else.
    keys: PathBuf,
    transport: Transport,
}

/// The identity that the agent at `endpoint` gives.
///
/// Errors: it is no URL that may be asked; an identity other than the machine's is wanted.
pub(super) fn new(
    endpoint: &str,
    keys: PathBuf,
    client: Option<&str>,
) -> Result<Arc<dyn Identity>, String> {
    if client.is_some() {
        return Err(
            "managed identity: a machine of Azure Arc has no other identity than its own; \
                    unset AZURE_CLIENT_ID"
                .to_owned(),
        );
    }
    let endpoint = local_endpoint("IDENTITY_ENDPOINT", endpoint, &[("api-version", "2020-06-01")])?;
    Ok(Arc::new(AzureArc { endpoint, keys, transport: Transport::default() }))
}

impl Identity for AzureArc {
    fn name(&self) -> String {
        managed_identity::name("this Azure Arc machine", None)
    }

    fn fetch<'a>(&'a self, audience: &'a Audience) -> BoxFuture<'a, Result<Grant, NoToken>> {
        Box::pin(async move {
            let named = |why: NoToken| why.map(|text| format!("{}: {text}", self.name()));
            self.dialogue(audience).await.map_err(named)
        })
    }
}

impl AzureArc {
    async fn dialogue(&self, audience: &Audience) -> Result<Grant, NoToken> {
        let first = self.transport.ask_a_few_times(|| Ok(self.question(audience))).await?;
        if first.status != StatusCode::UNAUTHORIZED {
            let why = format!("its agent did not ask for a key: {}", complaint(&first));
            return Err(NoToken::Refused(why));
        }
        let key = self.key(&first).map_err(NoToken::Refused)?;
        let question = || {
            let mut request = self.question(audience);
            put_secret(&mut request, AUTHORIZATION, &format!("Basic {key}"))?;
            Ok(request)
        };
        let reply = self.transport.ask_a_few_times(question).await?;
        if !reply.status.is_success() {
            return Err(NoToken::Refused(complaint(&reply)));
        }
        read_grant(&reply.body).map_err(NoToken::Unreachable)
    }

    fn question(&self, audience: &Audience) -> Request {
        let mut url = self.endpoint.clone();
        url.query_pairs_mut().append_pair("resource", audience.resource());
        let mut request = request(Method::GET, url);
        request.headers.insert(METADATA, HeaderValue::from_static("true"));
        request
    }

    /// What stands in the file that the answer names.
    fn key(&self, answer: &Reply) -> Result<String, String> {
        let challenge = answer.headers.get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let path = challenge
            .and_then(|text| text.split_once("realm="))
            .map(|(_, path)| Path::new(path.trim().trim_matches('"')))
            .ok_or("its agent did not say which key it wants")?;
        let shown = path.display();
        let is_key = path.parent() == Some(&self.keys)
            && path.file_name().is_some()
            && path.extension().is_some_and(|extension| extension == "key");
        if !is_key {
            let keys = self.keys.display();
            return Err(format!("its agent asks for {shown}, which is no key in {keys}"));
        }
        let unreadable = |why: std::io::Error| {
            format!("{shown}: {why}; run as root or as a member of the group himds")
        };
        let mut text = String::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(LONGEST_KEY + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > LONGEST_KEY {
            return Err(format!("{shown} is longer than a key can be"));
        }
        Ok(text.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    fn answer(challenge: &str) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_str(challenge).unwrap());
        Reply { status: StatusCode::UNAUTHORIZED, headers, body: Bytes::new() }
    }

    #[test]
    fn only_keys_of_the_agent_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("tokens");
        fs::create_dir_all(keys.join("deeper.key")).unwrap();
        for (name, text) in [("good.key", "s3cr3t\n"), ("other.txt", "x"), ("../up.key", "x")] {
            fs::write(keys.join(name), text).unwrap();
        }
        fs::write(keys.join("long.key"), "x".repeat(4097)).unwrap();
        fs::write(keys.join("deeper.key/in.key"), "x").unwrap();
        let endpoint = Url::parse("http://localhost:1/").unwrap();
        let arc = AzureArc { endpoint, keys: keys.clone(), transport: Transport::default() };
        let ask = |name: &str| arc.key(&answer(&format!("Basic realm={}/{name}", keys.display())));
        assert_eq!(ask("good.key").unwrap(), "s3cr3t");
        for (name, why) in [
            ("other.txt", "no key"),
            ("../up.key", "no key"),
            ("deeper.key/in.key", "no key"),
            ("deeper.key/../good.key", "no key"),
            ("", "no key"),
            (".key", "no key"),
            ("missing.key", "himds"),
            ("long.key", "longer"),
            ("deeper.key", "himds"),
        ] {
            let error = ask(name).unwrap_err();
            assert!(error.contains(why), "{name}: {error}");
        }
        for challenge in ["Basic", "Basic realm=", "Bearer x=y", "Basic realm=relative.key"] {
            assert!(arc.key(&answer(challenge)).is_err(), "{challenge}");
        }
    }
}
