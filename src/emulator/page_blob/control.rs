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

use http::request::Parts;
use http::{Method, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::body::Outgoing;
use super::connection::NoAnswer;
use super::incoming;
use super::query::{Query, duration};
use super::reply::Reply;
use super::service::Service;

/// Answers a request to one of the server's own paths.
pub(super) async fn answer(
    service: &Arc<Service>,
    parts: &Parts,
    body: Incoming,
) -> Result<Response<Outgoing>, NoAnswer> {
    let body = incoming::short(body).await?;
    let query = Query::parse(parts.uri.query().unwrap_or(""));
    let result = match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/_stats") => Ok(stats(service)),
        (method, "/_faults") => service.faults.control(method, &body),
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
    Ok(Reply::control(result).respond(false, None))
}

fn stats(service: &Service) -> Value {
    json!({
        "requests": service.counters.to_json(),
        "bytes_in": service.traffic.bytes_in.load(Ordering::Relaxed),
        "bytes_out": service.traffic.bytes_out.load(Ordering::Relaxed),
        "connections": service.traffic.connections.load(Ordering::Relaxed),
        "throttled": service.throttled.load(Ordering::Relaxed),
        "refused": service.refused.load(Ordering::Relaxed),
        "faults": service.faults.rules().iter().map(|rule| rule.injected).sum::<u64>(),
    })
}
