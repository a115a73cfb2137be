//! Entra identities: who this host or user is to Microsoft's cloud, as far as that gives bearer tokens.
//!
//! | file | identity | how it proves itself |
//! |---|---|---|
//! | `client_secret` | an application | by a secret |
//! | `client_certificate` | an application | by a statement signed with the key of a certificate |
//! | `workload_identity` | an application | by a token that the platform (Kubernetes) keeps in a file |
//! | `managed_identity` | a machine | by being where it is; `imds`, `app_service`, `arc` are the ways to ask |
//! | `azure_cli` | a person | by what `az login` has left |
//! | `usual_order` | the first of these that is there | |
//!
//! `settings` says where each is told of, `authority` speaks with Entra ID and `transport` sends. Names of
//! variables, their order and the dialogues are those of the official SDKs (azure-identity 1.27 for
//! Python). This module must not know what the tokens are for: that is the
//! [`Audience`](super::token::Audience).

mod app_service;
mod arc;
mod authority;
mod azure_cli;
mod client_certificate;
mod client_secret;
mod imds;
mod managed_identity;
mod settings;
mod transport;
mod usual_order;
mod workload_identity;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

pub use self::settings::{Platform, Settings};
use super::token::Identity;

/// The identities that can be asked for by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An application and its secret.
    ClientSecret,
    /// An application and its certificate.
    ClientCertificate,
    /// An application that the platform vouches for.
    WorkloadIdentity,
    /// The machine.
    ManagedIdentity,
    /// Who is logged in by `az login`.
    AzureCli,
}

impl Kind {
    /// All of them, in the order in which the official SDKs try them.
    pub const ALL: [Kind; 5] = [
        Kind::ClientSecret,
        Kind::ClientCertificate,
        Kind::WorkloadIdentity,
        Kind::ManagedIdentity,
        Kind::AzureCli,
    ];

    /// The word for it, as in options.
    pub fn word(self) -> &'static str {
        match self {
            Kind::ClientSecret => "client_secret",
            Kind::ClientCertificate => "client_certificate",
            Kind::WorkloadIdentity => "workload_identity",
            Kind::ManagedIdentity => "managed_identity",
            Kind::AzureCli => "azure_cli",
        }
    }
}

/// The identity of this kind. Contacts nobody.
///
/// Errors: what is missing, in words that name the variables.
pub fn of_kind(kind: Kind, settings: &Settings) -> Result<Arc<dyn Identity>, String> {
    match kind {
        Kind::ClientSecret => client_secret::new(settings),
        Kind::ClientCertificate => client_certificate::new(settings),
        Kind::WorkloadIdentity => workload_identity::new(settings),
        Kind::ManagedIdentity => managed_identity::new(settings),
        Kind::AzureCli => Ok(azure_cli::new()),
    }
}

/// The first identity that is here, in the order of the official SDKs; found out when the first token is
/// wanted, and kept to from then on. Contacts nobody yet.
///
/// Errors: `AZURE_TOKEN_CREDENTIALS` names something else than identities.
pub fn in_usual_order(settings: &Settings) -> Result<Arc<dyn Identity>, String> {
    usual_order::new(settings)
}

/// Text that is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
