//! Entra identities as credentials of this service: for what, and where their tokens may go.

use std::sync::Arc;

use url::Url;

use super::auth::Credential;
use super::config::{Result, error};
use crate::backend::ConfigError;
use crate::client::identity::{self, Kind, Settings};
use crate::client::is_loopback;
use crate::client::token::{Audience, Grant, Identity, NoToken, Tokens};
use crate::store::BoxFuture;

/// What tokens for the Blob service are for, in every cloud.
const STORAGE: &str = "https://storage.azure.com";

/// Tokens of this identity, for the service at `endpoint`.
///
/// Errors: what the identity lacks; the endpoint is one that tokens must not go to.
pub(super) fn of_kind(kind: Kind, settings: &Settings, endpoint: &str) -> Result<Credential> {
    credential(identity::of_kind(kind, settings).map_err(ConfigError)?, endpoint)
}

/// Tokens of the first identity that is here, found out later. If there turns out to be none, `hint` is
/// what users are told, and then why.
///
/// Errors: the endpoint is one that tokens must not go to.
pub(super) fn in_usual_order(
    settings: &Settings,
    endpoint: &str,
    hint: String,
) -> Result<Credential> {
    let first = identity::in_usual_order(settings).map_err(ConfigError)?;
    credential(Arc::new(Hinted { first, hint }), endpoint)
}

/// Whether a token may be sent there: not in clear over a network.
pub(super) fn may_go_to(endpoint: &str) -> bool {
    Url::parse(endpoint).is_ok_and(|url| url.scheme() == "https" || is_loopback(&url))
}

fn credential(identity: Arc<dyn Identity>, endpoint: &str) -> Result<Credential> {
    if !may_go_to(endpoint) {
        return error(format!(
            "{endpoint}: an Entra token is not sent over plain http; use https, or another credential"
        ));
    }
    Ok(Credential::Tokens(Tokens::new(identity, Audience::new(STORAGE))))
}

/// An identity that may turn out not to be there.
#[derive(Debug)]
struct Hinted {
    first: Arc<dyn Identity>,
    hint: String,
}

impl Identity for Hinted {
    fn name(&self) -> String {
        self.first.name()
    }

    fn probe(&self) -> BoxFuture<'_, std::result::Result<(), String>> {
        self.first.probe()
    }

    fn fetch<'a>(
        &'a self,
        audience: &'a Audience,
    ) -> BoxFuture<'a, std::result::Result<Grant, NoToken>> {
        Box::pin(async move {
            self.first.fetch(audience).await.map_err(|why| match why {
                NoToken::Absent(why) => NoToken::Absent(format!("{}: {why}", self.hint)),
                other => other,
            })
        })
    }
}
