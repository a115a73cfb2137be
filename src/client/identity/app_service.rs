//! The identity of an App Service, a Function or a Container App: an endpoint on the machine that wants a
//! header which only the application knows.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::Method;
use http::header::HeaderName;
use url::Url;

use super::transport::{Transport, complaint, local_endpoint, put_secret, read_grant, request};
use super::{Secret, managed_identity};
use crate::client::token::{Audience, Grant, Identity, NoToken};

const X_IDENTITY_HEADER: HeaderName = HeaderName::from_static("x-identity-header");

#[derive(Debug)]
struct AppService {
    endpoint: Url,
    header: Secret,
    /// An identity that was assigned besides the application's own.
    client: Option<String>,
    transport: Transport,
}

/// The identity behind `endpoint`.
///
/// Errors: it is no URL that may be asked.
pub(super) fn new(
    endpoint: &str,
    header: &Secret,
    client: Option<&str>,
) -> Result<Arc<dyn Identity>, String> {
    let endpoint = local_endpoint("IDENTITY_ENDPOINT", endpoint, &[("api-version", "2019-08-01")])?;
    let (header, client) = (header.clone(), client.map(str::to_owned));
    Ok(Arc::new(AppService { endpoint, header, client, transport: Transport::default() }))
}

impl Identity for AppService {
    fn name(&self) -> String {
        managed_identity::name("this App Service", self.client.as_deref())
    }

    fn fetch<'a>(&'a self, audience: &'a Audience) -> BoxFuture<'a, Result<Grant, NoToken>> {
        Box::pin(async move {
            let named = |why: NoToken| why.map(|text| format!("{}: {text}", self.name()));
            let question = || {
                let mut url = self.endpoint.clone();
                url.query_pairs_mut().append_pair("resource", audience.resource());
                if let Some(client) = &self.client {
                    url.query_pairs_mut().append_pair("client_id", client);
                }
                let mut request = request(Method::GET, url);
                put_secret(&mut request, X_IDENTITY_HEADER, &self.header.0)?;
                Ok(request)
            };
            let reply = self.transport.ask_a_few_times(question).await.map_err(named)?;
            if !reply.status.is_success() {
                return Err(named(NoToken::Refused(complaint(&reply))));
            }
            read_grant(&reply.body).map_err(|why| named(NoToken::Unreachable(why)))
        })
    }
}
