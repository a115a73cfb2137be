//! The server's own paths, for tests in other processes and for people with curl.
//!
//! | request | effect |
//! |---|---|
//! | `GET /_stats` | counters as JSON |
//! | `GET /_faults` | rules and how often they were played |
//! | `PUT /_faults` | these rules instead of all others |
//! | `POST /_faults` | these rules behind the others |
//! | `DELETE /_faults` | no rules |
//! | `POST /_release` | applies what is held to be applied late |
//! | `POST /_clock?advance=60s` | leases, signatures and tokens age |
//! | `POST /_tokens?token=T&expires=60s` | accepts a bearer token |
//! | `DELETE /_tokens` | refuses all bearer tokens |
//!
//! No account begins with an underscore, so that nothing of the service is hidden. There is no
//! authorisation here: the server listens on loopback.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::faults;
use super::operation::Operation;
use super::receive;
use super::reply::{Content, Outgoing};
use super::request::Query;
use super::service::{NoAnswer, Service};

/// Answers a request to one of the server's own paths.
pub(super) async fn answer(
    service: &Arc<Service>,
    parts: &Parts,
    body: Incoming,
) -> Result<Response<Outgoing>, NoAnswer> {
    let body = receive::short(body).await?;
    let query = Query::parse(parts.uri.query().unwrap_or(""));
    let result = match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/_stats") => Ok(stats(service)),
        (&Method::GET, "/_faults") => Ok(json!(service.faults.rules())),
        (&Method::PUT, "/_faults") => set_rules(service, &body, true),
        (&Method::POST, "/_faults") => set_rules(service, &body, false),
        (&Method::DELETE, "/_faults") => {
            service.faults.clear();
            Ok(json!({}))
        }
        (&Method::POST, "/_release") => Ok(json!({ "applied": service.release_held().await })),
        (&Method::POST, "/_clock") => match query.get("advance").and_then(duration) {
            Some(by) => {
                service.clock.advance(by);
                Ok(json!({ "now_ms": service.clock.now_ms() }))
            }
            None => Err("advance is not a duration such as 60s".to_owned()),
        },
        (&Method::POST, "/_tokens") => match query.filled("token") {
            Some(token) => {
                let lifetime = query.get("expires").and_then(duration);
                let expires = lifetime.map(|by| service.clock.now_ms() + by.as_millis() as i64);
                service.authority.add_token(token.to_owned(), expires);
                Ok(json!({}))
            }
            None => Err("token is missing".to_owned()),
        },
        (&Method::DELETE, "/_tokens") => {
            service.authority.revoke_tokens();
            Ok(json!({}))
        }
        (method, path) => Err(format!("there is no {method} {path}")),
    };
    let (status, value) = match result {
        Ok(value) => (StatusCode::OK, value),
        Err(text) => (StatusCode::BAD_REQUEST, json!({ "error": text })),
    };
    let content = Content::Bytes(Bytes::from(format!("{value}\n")));
    let mut response = Response::new(Outgoing::new(content));
    *response.status_mut() = status;
    Ok(response)
}

fn set_rules(service: &Service, body: &[u8], instead: bool) -> Result<Value, String> {
    let (seed, rules) = faults::parse(body)?;
    if instead {
        service.faults.clear();
    }
    if let Some(seed) = seed {
        service.faults.seed(seed);
    }
    let count = rules.len();
    rules.into_iter().try_for_each(|rule| service.faults.add(rule))?;
    Ok(json!({ "rules": count }))
}

fn stats(service: &Service) -> Value {
    let counts = Operation::ALL.iter().filter_map(|op| {
        let count = service.counters.get(*op);
        (count > 0).then(|| (op.name().to_owned(), json!(count)))
    });
    let requests: Map<String, Value> = counts.collect();
    json!({
        "requests": requests,
        "bytes_in": service.traffic.bytes_in.load(Ordering::Relaxed),
        "bytes_out": service.traffic.bytes_out.load(Ordering::Relaxed),
        "connections": service.traffic.connections.load(Ordering::Relaxed),
        "throttled": service.throttled.load(Ordering::Relaxed),
        "refused": service.refused.load(Ordering::Relaxed),
        "faults": service.faults.rules().iter().map(|rule| rule.injected).sum::<u64>(),
    })
}

/// `250ms`, `60s`, `5m` or plain seconds.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(number)),
        "" | "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("60s"), duration("60"));
        assert_eq!(duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!(duration("soon"), None);
        assert_eq!(duration(""), None);
    }
}
