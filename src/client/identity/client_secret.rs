//! An application that proves itself by a secret.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::Secret;
use super::authority::{Application, Proof};
use super::settings::{SECRET, Settings};
use crate::client::token::{Audience, Grant, Identity, NoToken};

#[derive(Debug)]
struct ClientSecret {
    application: Application,
    secret: Secret,
}

/// The application of the settings.
///
/// Errors: what is missing.
pub(super) fn new(settings: &Settings) -> Result<Arc<dyn Identity>, String> {
    let application = Application::new("client secret", settings)?;
    let secret = settings.secret.clone();
    let secret = secret.ok_or_else(|| format!("client secret: {SECRET} is missing"))?;
    Ok(Arc::new(ClientSecret { application, secret }))
}

impl Identity for ClientSecret {
    fn name(&self) -> String {
        self.application.name().to_owned()
    }

    fn fetch<'a>(&'a self, audience: &'a Audience) -> BoxFuture<'a, Result<Grant, NoToken>> {
        Box::pin(async move {
            let proof = || Ok(Proof::Secret(self.secret.0.clone()));
            let grant = self.application.token(audience, proof).await;
            // No known answer repeats the secret; no future one shall put it into a log.
            grant.map_err(|why| why.map(|text| text.replace(&self.secret.0, "(the secret)")))
        })
    }
}
