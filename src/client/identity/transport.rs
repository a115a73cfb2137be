//! Sending what identities have to ask, and reading the tokens in the answers.
//!
//! This module must not know any particular identity.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde_json::Value;
use url::{Host, Url};

use crate::client::http::Client;
use crate::client::request::{Effect, Reply, Request};
use crate::client::token::{Grant, NoToken};
use crate::client::{Attempt, Config, Service, is_loopback, pause_after};

/// How long one question may take. Tokens come within a second; a directory under load takes some.
const ANSWER: Duration = Duration::from_secs(10);

/// How often a question is asked, unless its identity says otherwise: once more for a packet that was
/// lost, and once for a server that goes away just then.
const ATTEMPTS: u32 = 3;

/// The longest wait that a service can ask for; with more, the question is given up for now.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The most characters of what somebody else says that get into a line.
const LONGEST_WORDS: usize = 300;

/// What asks. Connections are made when something is asked.
#[derive(Debug, Default)]
pub(super) struct Transport(OnceLock<Client>);

/// Requests are complete as they are made.
#[derive(Debug)]
struct Unsigned;

impl Service for Unsigned {
    fn sign(&self, _: &mut Attempt<'_>) {}
}

/// What came of a question.
pub(super) enum Heard {
    /// An answer, whatever it says.
    Answer(Reply),
    /// None, for this reason.
    Nothing(String),
}

impl Transport {
    /// Asks once.
    pub(super) async fn ask(&self, request: &Request) -> Heard {
        let client = match self.client() {
            Ok(client) => client,
            Err(why) => return Heard::Nothing(why),
        };
        match client.exchange(request).await {
            Ok(reply) => Heard::Answer(reply),
            Err(failure) => Heard::Nothing(failure.message),
        }
    }

    /// Asks until there is an answer that is none of a server in trouble, a few times. Every question is
    /// made anew.
    ///
    /// Errors: `Unreachable`, without the identity's name; as `question`.
    pub(super) async fn ask_a_few_times(
        &self,
        question: impl Fn() -> Result<Request, NoToken>,
    ) -> Result<Reply, NoToken> {
        let mut asked = 0;
        loop {
            let request = question()?;
            asked += 1;
            let (why, wait) = match self.ask(&request).await {
                Heard::Answer(reply) if !may_pass(reply.status) => return Ok(reply),
                Heard::Answer(reply) => {
                    let wait = crate::client::retry::retry_after(&reply.headers);
                    (format!("{} answered {}", host(&request.url), reply.status), wait)
                }
                Heard::Nothing(why) => (why, None),
            };
            let wait = wait.unwrap_or_default();
            if asked >= ATTEMPTS || wait > LONGEST_WAIT {
                return Err(NoToken::Unreachable(why));
            }
            log::debug!(target: "http", "{}: {why}; again", request.op);
            tokio::time::sleep(wait.max(pause_after(asked))).await;
        }
    }

    fn client(&self) -> Result<&Client, String> {
        if let Some(client) = self.0.get() {
            return Ok(client);
        }
        let settings = Config { timeout: ANSWER, connections: 2 };
        let client = Client::new(settings, Arc::new(Unsigned)).map_err(|why| why.to_string())?;
        Ok(self.0.get_or_init(|| client))
    }
}

/// Whether the same question may get another answer later.
pub(super) fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429) || status.is_server_error()
}

/// A request for a token.
pub(super) fn request(method: Method, url: Url) -> Request {
    let target = Arc::from(url.host_str().unwrap_or_default());
    Request::new("Get Token", target, method, url, Effect::Read)
}

/// Puts a header that nobody may see.
pub(super) fn put_secret(
    request: &mut Request,
    name: HeaderName,
    value: &str,
) -> Result<(), NoToken> {
    let mut value = HeaderValue::from_str(value).map_err(|_| {
        NoToken::Refused(format!("what is to be sent as {name} cannot stand in a header"))
    })?;
    value.set_sensitive(true);
    request.headers.insert(name, value);
    Ok(())
}

/// The URL of an endpoint on or beside this machine, with these parameters added.
///
/// Errors: it is no URL, or a token would come in clear over a network.
pub(super) fn local_endpoint(
    variable: &str,
    text: &str,
    parameters: &[(&str, &str)],
) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|why| format!("{variable} is no URL: {why}"))?;
    let is_local = |url: &Url| {
        let link_local = match url.host() {
            Some(Host::Ipv4(address)) => address.is_link_local(),
            Some(Host::Ipv6(address)) => address.is_unicast_link_local(),
            _ => false,
        };
        link_local || is_loopback(url)
    };
    if url.scheme() != "https" && !(url.scheme() == "http" && is_local(&url)) {
        return Err(format!("{variable} is neither https nor on this machine"));
    }
    url.query_pairs_mut().extend_pairs(parameters);
    Ok(url)
}

/// Host and port of a URL.
pub(super) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or("(no host)");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Reads a token. `expires_on` is believed before `expires_in`, as the machines' endpoints mean it; both
/// may be text.
pub(super) fn read_grant(body: &[u8]) -> Result<Grant, String> {
    let answer: Value =
        serde_json::from_slice(body).map_err(|_| "the answer is no JSON".to_owned())?;
    let token = answer["access_token"].as_str().filter(|token| !token.is_empty());
    let token = token.ok_or("the answer holds no access_token")?.to_owned();
    let number = |name: &str| match &answer[name] {
        Value::String(text) => text.trim().parse::<u64>().ok(),
        value => value.as_u64(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let lifetime = match (number("expires_on"), number("expires_in")) {
        (Some(end), _) => end.saturating_sub(now),
        (None, Some(lifetime)) => lifetime,
        (None, None) => return Err("the answer does not say how long the token holds".to_owned()),
    };
    Ok(Grant {
        token,
        lifetime: Duration::from_secs(lifetime),
        refresh_in: number("refresh_in").map(Duration::from_secs),
    })
}

/// What an answer says went wrong, fit for a line: of the documents that token endpoints give, or the
/// status.
pub(super) fn complaint(reply: &Reply) -> String {
    let answer: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let said = [&answer["error_description"], &answer["message"], &answer["error"]["message"]]
        .into_iter()
        .chain([&answer["error"]])
        .find_map(Value::as_str);
    match said.map(words).filter(|words| !words.is_empty()) {
        Some(words) => words,
        None => format!("it answered {}", reply.status),
    }
}

/// Somebody else's words, fit for a line: without what only its own log understands.
pub(super) fn words(text: &str) -> String {
    let text = text.split(['\r', '\n']).find(|line| !line.trim().is_empty()).unwrap_or_default();
    let text = text.split(" Trace ID:").next().unwrap_or_default();
    text.trim().chars().filter(|c| !c.is_control()).take(LONGEST_WORDS).collect()
}
