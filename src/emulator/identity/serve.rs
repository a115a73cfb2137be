//! Connections and requests, and which endpoint is asked.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{Behaviour, Endpoint, Service};

/// The longest form, in bytes.
const LONGEST_FORM: usize = 64 << 10;

/// Serves until it is aborted; connections end with it.
pub(super) async fn accept(listener: TcpListener, service: Arc<Service>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = Arc::clone(&service);
                connections.spawn(async move {
                    let answer = service_fn(|request| service.answer(request));
                    let connection =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                    if let Err(error) = connection.await {
                        log::debug!(target: "emulator", "connection ended: {error}");
                    }
                });
                while connections.try_join_next().is_some() {}
            }
            Err(error) => {
                log::warn!(target: "emulator", "cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Whole>, Infallible> {
        let (parts, body) = request.into_parts();
        let Some(form) = collect(body).await else {
            return Ok(respond(413, &json!({"error": "invalid_request"}), None));
        };
        let path = parts.uri.path();
        let tenant = path.strip_suffix("/oauth2/v2.0/token").map(|path| path.trim_matches('/'));
        let endpoint = match (path, tenant) {
            ("/metadata/identity/oauth2/token", _) => Endpoint::Imds,
            ("/msi/token", _) => Endpoint::AppService,
            ("/arc/metadata/identity/oauth2/token", _) => Endpoint::Arc,
            (_, Some(_)) => Endpoint::Entra,
            _ => return Ok(self.describe(&parts)),
        };
        self.asked[endpoint as usize].fetch_add(1, Ordering::Relaxed);
        let behaviour = *self.behaviour.lock();
        match behaviour {
            Behaviour::Serve => {}
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Fail(status) => {
                let error =
                    json!({"error": "server_error", "error_description": "as the test has it"});
                return Ok(respond(status, &error, None));
            }
            Behaviour::Garbage => {
                let mut response = respond(200, &Value::Null, None);
                *response.body_mut() =
                    Whole(Some(Bytes::from_static(b"<html>Sign in here</html>")));
                return Ok(response);
            }
        }
        let (status, value, challenge) = self.ask(endpoint, &parts, tenant, &form);
        Ok(respond(status, &value, challenge))
    }

    /// What the directory says of itself (OpenID Connect Discovery), which some clients read first.
    fn describe(&self, parts: &Parts) -> Response<Whole> {
        let path = parts.uri.path();
        let Some(tenant) = path.strip_suffix("/v2.0/.well-known/openid-configuration") else {
            return respond(404, &json!({"error": "not_found"}), None);
        };
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let base = format!("https://{}{tenant}", host.unwrap_or_default());
        let document = json!({
            "issuer": format!("{base}/v2.0"),
            "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
            "token_endpoint": format!("{base}/oauth2/v2.0/token"),
        });
        respond(200, &document, None)
    }

    fn ask(
        &self,
        endpoint: Endpoint,
        parts: &Parts,
        tenant: Option<&str>,
        form: &[u8],
    ) -> (u16, Value, Option<String>) {
        let wanted = if endpoint == Endpoint::Entra { Method::POST } else { Method::GET };
        if parts.method != wanted {
            return (405, json!({"error": "invalid_request"}), None);
        }
        let query = parts.uri.query().unwrap_or_default();
        let query: Vec<(String, String)> =
            url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        match endpoint {
            Endpoint::Entra => {
                let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
                let url = format!("http://{}{}", host.unwrap_or_default(), parts.uri.path());
                let (status, value) = self.directory.token(tenant.unwrap_or_default(), &url, form);
                (status, value, None)
            }
            Endpoint::Imds => self.machine.imds(&query, &parts.headers),
            Endpoint::AppService => self.machine.app_service(&query, &parts.headers),
            Endpoint::Arc => self.machine.arc(&query, &parts.headers),
        }
    }
}

async fn collect(body: Incoming) -> Option<Bytes> {
    let mut body = body;
    let mut all = BytesMut::new();
    loop {
        let next = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        match next {
            None => return Some(all.freeze()),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    all.extend_from_slice(&data);
                }
                if all.len() > LONGEST_FORM {
                    return None;
                }
            }
            Some(Err(_)) => return None,
        }
    }
}

fn respond(status: u16, value: &Value, challenge: Option<String>) -> Response<Whole> {
    let mut response = Response::new(Whole(Some(Bytes::from(value.to_string()))));
    *response.status_mut() = StatusCode::from_u16(status).expect("statuses are written by hand");
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    if let Some(challenge) = challenge.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// A body in one piece.
struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
