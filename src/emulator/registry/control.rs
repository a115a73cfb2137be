//! The server's own paths, for tests in other processes and for people with curl.
//!
//! | request | effect |
//! |---|---|
//! | `GET /_stats` | counters as JSON |
//! | `GET`, `PUT`, `POST`, `DELETE /_faults` | rules: shown, replaced, added to, removed |
//! | `POST /_clock?advance=60s` | tokens and signed addresses age |
//! | `DELETE /_tokens` | refuses all tokens that were given so far |
//!
//! There is no authorisation here: the server listens on loopback.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::request::Parts;
use http::{Method, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::super::body::Outgoing;
use super::super::connection::NoAnswer;
use super::super::incoming;
use super::super::query::{Query, duration};
use super::super::reply::Reply;
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
        (&Method::POST, "/_clock") => match query.get("advance").and_then(duration) {
            Some(by) => {
                service.clock.advance(by);
                Ok(json!({ "now_ms": service.clock.now_ms() }))
            }
            None => Err("advance is not a duration such as 60s".to_owned()),
        },
        (&Method::DELETE, "/_tokens") => {
            service.authority.generation.fetch_add(1, Ordering::Relaxed);
            Ok(json!({}))
        }
        (method, path) => Err(format!("there is no {method} {path}")),
    };
    Ok(Reply::control(result).respond(false, None))
}

fn stats(service: &Service) -> Value {
    let of = |traffic: &super::super::connection::Traffic| {
        json!({
            "bytes_in": traffic.bytes_in.load(Ordering::Relaxed),
            "bytes_out": traffic.bytes_out.load(Ordering::Relaxed),
            "connections": traffic.connections.load(Ordering::Relaxed),
        })
    };
    json!({
        "requests": service.counters.to_json(),
        "registry": of(&service.traffic),
        "data": of(&service.data_traffic),
        "throttled": service.throttled.load(Ordering::Relaxed),
        "refused": service.refused.load(Ordering::Relaxed),
        "faults": service.faults.rules().iter().map(|rule| rule.injected).sum::<u64>(),
    })
}
