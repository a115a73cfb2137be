//! The variables that tell of identities, by the names that the official SDKs have for them.

use std::path::PathBuf;

use url::Url;

use super::{Kind, Secret};
use crate::client::is_loopback;

pub(super) const TENANT: &str = "AZURE_TENANT_ID";
pub(super) const CLIENT: &str = "AZURE_CLIENT_ID";
pub(super) const SECRET: &str = "AZURE_CLIENT_SECRET";
pub(super) const CERTIFICATE: &str = "AZURE_CLIENT_CERTIFICATE_PATH";
const CERTIFICATE_PASSWORD: &str = "AZURE_CLIENT_CERTIFICATE_PASSWORD";
const SEND_CHAIN: &str = "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN";
pub(super) const FEDERATED_TOKEN: &str = "AZURE_FEDERATED_TOKEN_FILE";
pub(super) const AUTHORITY: &str = "AZURE_AUTHORITY_HOST";
pub(super) const ORDER: &str = "AZURE_TOKEN_CREDENTIALS";

/// The public cloud's Entra ID.
const PUBLIC_AUTHORITY: &str = "login.microsoftonline.com";

/// Where a virtual machine asks for what concerns itself.
const IMDS: &str = "http://169.254.169.254";

/// Where the agent of Azure Arc keeps what proves that its reader may read it.
const ARC_KEYS: &str = "/var/opt/azcmagent/tokens";

/// The agent of Azure Arc; where it is installed, the variables may be missing.
const ARC_AGENT: &str = "/opt/azcmagent/bin/himds";

/// What the machine says of itself. Comes from the environment alone, whatever else a file tells.
#[derive(Clone, Debug, Default)]
pub struct Platform {
    /// The base URL of the instance metadata service; its well-known address if `None`.
    pub imds: Option<String>,
    pub(super) identity_endpoint: Option<String>,
    pub(super) identity_header: Option<Secret>,
    pub(super) identity_thumbprint: bool,
    pub(super) imds_endpoint: Option<String>,
    pub(super) msi_endpoint: bool,
    /// Which identities are tried, where the user has said so.
    pub(super) order: Option<String>,
    /// Where Azure Arc's agent keeps its keys; the well-known directory if `None`.
    pub arc_keys: Option<PathBuf>,
}

impl Platform {
    /// The variables of the environment.
    pub fn read(env: &dyn Fn(&str) -> Option<String>) -> Platform {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        Platform {
            imds: env("AZURE_POD_IDENTITY_AUTHORITY_HOST"),
            identity_endpoint: env("IDENTITY_ENDPOINT"),
            identity_header: env("IDENTITY_HEADER").map(Secret),
            identity_thumbprint: env("IDENTITY_SERVER_THUMBPRINT").is_some(),
            imds_endpoint: env("IMDS_ENDPOINT"),
            msi_endpoint: env("MSI_ENDPOINT").is_some(),
            order: env(ORDER),
            arc_keys: None,
        }
    }

    pub(super) fn imds(&self) -> &str {
        self.imds.as_deref().unwrap_or(IMDS)
    }

    pub(super) fn arc_keys(&self) -> PathBuf {
        self.arc_keys.clone().unwrap_or_else(|| PathBuf::from(ARC_KEYS))
    }

    pub(super) fn has_arc_agent() -> bool {
        std::path::Path::new(ARC_AGENT).exists()
    }
}

/// Everything that identities are told of.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) tenant: Option<String>,
    pub(super) client: Option<String>,
    pub(super) secret: Option<Secret>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) certificate_password: bool,
    pub(super) send_chain: bool,
    pub(super) federated_token: Option<PathBuf>,
    authority: Option<String>,
    pub(super) platform: Platform,
}

impl Settings {
    /// The names that [`Settings::read`] asks for.
    pub const NAMES: [&'static str; 8] = [
        TENANT,
        CLIENT,
        SECRET,
        CERTIFICATE,
        CERTIFICATE_PASSWORD,
        SEND_CHAIN,
        FEDERATED_TOKEN,
        AUTHORITY,
    ];

    /// Reads the variables of applications from `values`.
    pub fn read(values: &dyn Fn(&str) -> Option<String>, platform: Platform) -> Settings {
        let value = |name: &str| values(name).filter(|value| !value.is_empty());
        // A daemon runs in another directory.
        let path = |name: &str| {
            let text = value(name)?;
            Some(std::path::absolute(&text).unwrap_or_else(|_| PathBuf::from(text)))
        };
        Settings {
            tenant: value(TENANT),
            client: value(CLIENT),
            secret: value(SECRET).map(Secret),
            certificate: path(CERTIFICATE),
            certificate_password: value(CERTIFICATE_PASSWORD).is_some(),
            send_chain: value(SEND_CHAIN)
                .is_some_and(|text| text == "1" || text.eq_ignore_ascii_case("true")),
            federated_token: path(FEDERATED_TOKEN),
            authority: value(AUTHORITY),
            platform,
        }
    }

    /// Whether an application is told of, and so wanted.
    pub fn names_an_application(&self) -> bool {
        self.secret.is_some() || self.certificate.is_some() || self.federated_token.is_some()
    }

    /// The first of the variables that an application of this kind needs and that is missing.
    pub(super) fn missing(&self, kind: Kind) -> Option<&'static str> {
        let (own, there) = match kind {
            Kind::ClientSecret => (SECRET, self.secret.is_some()),
            Kind::ClientCertificate => (CERTIFICATE, self.certificate.is_some()),
            Kind::WorkloadIdentity => (FEDERATED_TOKEN, self.federated_token.is_some()),
            Kind::ManagedIdentity | Kind::AzureCli => return None,
        };
        let needed =
            [(own, there), (TENANT, self.tenant.is_some()), (CLIENT, self.client.is_some())];
        needed.into_iter().find(|(_, there)| !there).map(|(name, _)| name)
    }

    /// Entra ID's URL, without a slash at the end.
    ///
    /// Errors: it is none, or would be told secrets in clear.
    pub(super) fn authority(&self) -> Result<String, String> {
        let text = self.authority.as_deref().unwrap_or(PUBLIC_AUTHORITY).trim();
        let text = match text.split_once("://") {
            Some(_) => text.to_owned(),
            None => format!("https://{text}"),
        };
        let sound = Url::parse(&text).is_ok_and(|url| {
            url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url))
        });
        if !sound {
            return Err(format!("{AUTHORITY} is no https URL; write https://{PUBLIC_AUTHORITY}"));
        }
        Ok(text.trim_end_matches('/').to_owned())
    }
}
