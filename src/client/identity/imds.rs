//! The identity of a virtual machine, by the instance metadata service: an address that only the machine
//! itself reaches, and a header that a careless proxy would not add.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Method;
use http::header::{HeaderName, HeaderValue};
use tokio::time::{Instant, timeout};
use url::Url;

use super::managed_identity;
use super::transport::{
    Heard, Transport, complaint, local_endpoint, may_pass, read_grant, request,
};
use crate::client::request::Request;
use crate::client::token::{Audience, Grant, Identity, NoToken};

const METADATA: HeaderName = HeaderName::from_static("metadata");

/// How long the service may take to show that it is there. It is on the same machine; where it is not,
/// most networks drop what is sent to its address.
const PROBE: Duration = Duration::from_secs(1);

/// How often it is asked again, and the first pause, which doubles: what its documentation wants.
const AGAIN: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(800);
/// The longest pause, so that its coming back is noticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// How long a 410 can last: the service is being updated.
const UPDATE: Duration = Duration::from_secs(70);

#[derive(Debug)]
struct Imds {
    endpoint: Url,
    /// An identity that was assigned besides the machine's own.
    client: Option<String>,
    transport: Transport,
}

/// The identity of the machine whose metadata service is at `base`.
///
/// Errors: it is no URL that may be asked.
pub(super) fn new(base: &str, client: Option<&str>) -> Result<Arc<dyn Identity>, String> {
    let text = format!("{}/metadata/identity/oauth2/token", base.trim_end_matches('/'));
    let endpoint = local_endpoint(
        "AZURE_POD_IDENTITY_AUTHORITY_HOST",
        &text,
        &[("api-version", "2018-02-01")],
    )?;
    let client = client.map(str::to_owned);
    Ok(Arc::new(Imds { endpoint, client, transport: Transport::default() }))
}

impl Identity for Imds {
    fn name(&self) -> String {
        managed_identity::name("this machine", self.client.as_deref())
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            // Without the header it refuses, which tells as much.
            let question = request(Method::GET, self.endpoint.clone());
            let heard = timeout(PROBE, self.transport.ask(&question)).await;
            let why = match heard {
                Ok(Heard::Answer(_)) => return Ok(()),
                Ok(Heard::Nothing(why)) => why,
                Err(_) => format!("no answer within {} s", PROBE.as_secs()),
            };
            Err(format!("{}: {why}", self.name()))
        })
    }

    fn fetch<'a>(&'a self, audience: &'a Audience) -> BoxFuture<'a, Result<Grant, NoToken>> {
        Box::pin(async move {
            let named = |why: NoToken| why.map(|text| format!("{}: {text}", self.name()));
            self.ask(&self.question(audience)).await.map_err(named)
        })
    }
}

impl Imds {
    fn question(&self, audience: &Audience) -> Request {
        let mut url = self.endpoint.clone();
        url.query_pairs_mut().append_pair("resource", audience.resource());
        if let Some(client) = &self.client {
            url.query_pairs_mut().append_pair("client_id", client);
        }
        let mut request = request(Method::GET, url);
        request.headers.insert(METADATA, HeaderValue::from_static("true"));
        request
    }

    /// Asks, and again for as long as the service is known to be away for.
    async fn ask(&self, question: &Request) -> Result<Grant, NoToken> {
        let begun = Instant::now();
        let mut asked = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            let mut updating = false;
            let why = match self.transport.ask(question).await {
                Heard::Answer(reply) if reply.status.is_success() => {
                    return read_grant(&reply.body).map_err(NoToken::Unreachable);
                }
                // It knows no such identity.
                Heard::Answer(reply) if reply.status == http::StatusCode::BAD_REQUEST => {
                    return Err(NoToken::Absent(complaint(&reply)));
                }
                Heard::Answer(reply)
                    if may_pass(reply.status) || matches!(reply.status.as_u16(), 404 | 410) =>
                {
                    updating = reply.status == http::StatusCode::GONE;
                    complaint(&reply)
                }
                Heard::Answer(reply) => return Err(NoToken::Refused(complaint(&reply))),
                Heard::Nothing(why) => why,
            };
            asked += 1;
            if asked > AGAIN && !(updating && begun.elapsed() < UPDATE) {
                return Err(NoToken::Unreachable(why));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
