//! The identity of a machine, which proves itself by being where it is. Which endpoint to ask follows from
//! the variables that the platform sets.
//!
//! | variables | platform |
//! |---|---|
//! | `IDENTITY_ENDPOINT`, `IDENTITY_HEADER`, `IDENTITY_SERVER_THUMBPRINT` | Service Fabric: not supported |
//! | `IDENTITY_ENDPOINT`, `IDENTITY_HEADER` | App Service, Functions, Container Apps: `app_service` |
//! | `MSI_ENDPOINT` | Azure ML, Cloud Shell: not supported |
//! | `IDENTITY_ENDPOINT`, `IMDS_ENDPOINT`, or its agent is installed | Azure Arc: `arc` |
//! | none | a virtual machine: `imds` |

use std::sync::Arc;

use super::settings::{Platform, Settings};
use super::{app_service, arc, imds};
use crate::client::token::Identity;

/// The identity of this machine, as its platform gives it.
///
/// Errors: a platform that is not supported, or variables that make no sense.
pub(super) fn new(settings: &Settings) -> Result<Arc<dyn Identity>, String> {
    let platform = &settings.platform;
    let client = settings.client.as_deref();
    let refuse = |why: &str| Err(format!("managed identity: {why}"));
    match (&platform.identity_endpoint, &platform.identity_header, &platform.imds_endpoint) {
        (Some(_), Some(_), _) if platform.identity_thumbprint => {
            refuse("that of Service Fabric is not supported; use a client certificate")
        }
        (Some(endpoint), Some(header), _) => app_service::new(endpoint, header, client),
        _ if platform.msi_endpoint => {
            refuse("those of Azure ML and Cloud Shell (MSI_ENDPOINT) are not supported")
        }
        (Some(endpoint), None, Some(_)) => arc::new(endpoint, platform.arc_keys(), client),
        _ if Platform::has_arc_agent() => {
            arc::new(arc::WELL_KNOWN_ENDPOINT, platform.arc_keys(), client)
        }
        _ => imds::new(platform.imds(), client),
    }
}

/// What a machine's identity is called.
pub(super) fn name(of: &str, client: Option<&str>) -> String {
    match client {
        Some(client) => format!("managed identity {client} of {of}"),
        None => format!("managed identity of {of}"),
    }
}
