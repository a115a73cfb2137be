//! Entra ID as applications ask it for tokens: `POST /TENANT/oauth2/v2.0/token`, the client credentials
//! grant of OAuth 2.0.

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::Value;
use url::{Url, form_urlencoded};

use super::settings::{CLIENT, Settings, TENANT};
use super::transport::{Transport, complaint, host, read_grant, request};
use crate::client::token::{Audience, Grant, NoToken};

/// By what an application can say who it is.
pub(super) enum Proof {
    /// `client_secret`
    Secret(String),
    /// `client_assertion`: a token that somebody whom Entra ID trusts has signed.
    Assertion(String),
}

/// An application in a tenant.
#[derive(Debug)]
pub(super) struct Application {
    /// What it is called in messages.
    name: String,
    client: String,
    url: Url,
    transport: Transport,
}

impl Application {
    /// The application that the settings name; `what` it proves itself by.
    ///
    /// Errors: what is missing or wrong.
    pub(super) fn new(what: &str, settings: &Settings) -> Result<Application, String> {
        let missing = |name: &str| format!("{what}: {name} is missing");
        let tenant = settings.tenant.as_deref().ok_or_else(|| missing(TENANT))?;
        let client = settings.client.as_deref().ok_or_else(|| missing(CLIENT))?;
        // It becomes part of a URL.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        if !tenant.bytes().all(plain) {
            return Err(format!("{TENANT} is neither a tenant's id nor one of its domains"));
        }
        let text = format!("{}/{tenant}/oauth2/v2.0/token", settings.authority()?);
        let url = Url::parse(&text).map_err(|why| format!("{what}: {why}"))?;
        Ok(Application {
            name: format!("{what} of application {client} in tenant {tenant}"),
            client: client.to_owned(),
            url,
            transport: Transport::default(),
        })
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its id.
    pub(super) fn client(&self) -> &str {
        &self.client
    }

    /// Where it asks.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Asks for a token, a few times if need be; each time with a new proof.
    pub(super) async fn token(
        &self,
        audience: &Audience,
        proof: impl Fn() -> Result<Proof, NoToken>,
    ) -> Result<Grant, NoToken> {
        let named = |why: NoToken| why.map(|text| format!("{}: {text}", self.name));
        let question = || {
            let mut form = form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "client_credentials");
            form.append_pair("client_id", &self.client);
            form.append_pair("scope", &audience.scope());
            match proof()? {
                Proof::Secret(secret) => {
                    form.append_pair("client_secret", &secret);
                }
                Proof::Assertion(assertion) => {
                    form.append_pair(
                        "client_assertion_type",
                        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                    );
                    form.append_pair("client_assertion", &assertion);
                }
            }
            let mut request = request(Method::POST, self.url.clone());
            let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers.insert(CONTENT_TYPE, form_type);
            request.body = vec![Bytes::from(form.finish())];
            Ok(request)
        };
        let reply = self.transport.ask_a_few_times(question).await.map_err(named)?;
        let to = host(&self.url);
        if !reply.status.is_success() {
            let text = format!("{to} refused it: {}", complaint(&reply));
            let answer: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            return Err(named(match answer["error"].as_str() {
                Some("temporarily_unavailable" | "server_error") => NoToken::Unreachable(text),
                _ => NoToken::Refused(text),
            }));
        }
        read_grant(&reply.body).map_err(|why| named(NoToken::Unreachable(format!("{to}: {why}"))))
    }
}
