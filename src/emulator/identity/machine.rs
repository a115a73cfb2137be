//! The endpoints that a machine asks for tokens of its own: instance metadata service, App Service, Azure
//! Arc. Nobody proves anything here but that he is on the machine.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::issuer::Issuer;
use super::{Config, random_hex};

/// The identity that the machine has by itself.
const OWN: &str = "99999999-0000-0000-0000-000000000000";

/// The identities of a machine.
#[derive(Debug)]
pub(super) struct Machine {
    issuer: Arc<Issuer>,
    assigned: Vec<String>,
    /// What only an application of App Service knows.
    pub(super) header: String,
    arc_keys: Option<PathBuf>,
    /// Keys that Azure Arc waits for.
    waiting: Mutex<Vec<(PathBuf, String)>>,
}

/// An answer: status, body, and a challenge.
pub(super) type Answer = (u16, Value, Option<String>);

impl Machine {
    pub(super) fn new(config: &Config, issuer: Arc<Issuer>) -> io::Result<Self> {
        Ok(Self {
            issuer,
            assigned: config.assigned.clone(),
            header: random_hex()?,
            arc_keys: config.arc_keys.clone(),
            waiting: Mutex::default(),
        })
    }

    /// The instance metadata service.
    pub(super) fn imds(&self, query: &[(String, String)], headers: &HeaderMap) -> Answer {
        let refuse = |error: &str, description: &str| {
            (400, json!({"error": error, "error_description": description}), None)
        };
        if !is(headers, "metadata", "true") || headers.contains_key("x-forwarded-for") {
            return refuse("invalid_request", "Required metadata header not specified");
        }
        match get(query, "api-version") {
            None => {
                return refuse(
                    "invalid_request",
                    "Required query variable 'api-version' is missing",
                );
            }
            Some("2018-02-01" | "2019-08-01" | "2019-11-01") => {}
            Some(_) => return refuse("bad_request_102", "Invalid api-version"),
        }
        let Some(resource) = get(query, "resource") else {
            return refuse("invalid_request", "Required query variable 'resource' is missing");
        };
        let Some(identity) = self.identity(query) else {
            return refuse("invalid_request", "Identity not found");
        };
        let issued = self.issuer.issue(&identity, resource);
        // Every value is text.
        let answer = json!({
            "access_token": issued.token,
            "client_id": identity,
            "expires_in": issued.expires_in.to_string(),
            "expires_on": issued.expires_on.to_string(),
            "ext_expires_in": issued.expires_in.to_string(),
            "not_before": (issued.expires_on - issued.expires_in as i64).to_string(),
            "resource": resource,
            "token_type": "Bearer",
        });
        (200, answer, None)
    }

    /// App Service.
    pub(super) fn app_service(&self, query: &[(String, String)], headers: &HeaderMap) -> Answer {
        let refuse = |status: u16, message: &str| {
            (status, json!({"statusCode": status, "message": message}), None)
        };
        if !is(headers, "x-identity-header", &self.header) {
            return refuse(401, "The X-IDENTITY-HEADER is missing or wrong");
        }
        if get(query, "api-version") != Some("2019-08-01") {
            return refuse(400, "Unsupported api-version");
        }
        let Some(resource) = get(query, "resource") else {
            return refuse(400, "No resource");
        };
        let Some(identity) = self.identity(query) else {
            return refuse(
                400,
                "No User Assigned or Delegated Managed Identity found for specified ClientId",
            );
        };
        let issued = self.issuer.issue(&identity, resource);
        let answer = json!({
            "access_token": issued.token,
            "expires_on": issued.expires_on.to_string(),
            "resource": resource,
            "token_type": "Bearer",
            "client_id": identity,
        });
        (200, answer, None)
    }

    /// The agent of Azure Arc: a challenge first, a token for who answers it.
    pub(super) fn arc(&self, query: &[(String, String)], headers: &HeaderMap) -> Answer {
        let refuse = |status: u16, message: &str| {
            (status, json!({"error": {"code": status.to_string(), "message": message}}), None)
        };
        let Some(keys) = &self.arc_keys else {
            return refuse(404, "There is no agent here");
        };
        if !is(headers, "metadata", "true") {
            return refuse(403, "Missing Metadata header");
        }
        if get(query, "api-version") != Some("2020-06-01") {
            return refuse(400, "Unsupported api-version");
        }
        let Some(resource) = get(query, "resource") else {
            return refuse(400, "No resource");
        };
        let Some(authorization) = headers.get("authorization") else {
            return match self.make_key(keys) {
                Ok(path) => {
                    let challenge = format!("Basic realm={}", path.display());
                    (401, json!({}), Some(challenge))
                }
                Err(error) => refuse(500, &error.to_string()),
            };
        };
        let mut waiting = self.waiting.lock();
        let given = authorization.to_str().ok().and_then(|text| text.strip_prefix("Basic "));
        let Some(at) = waiting.iter().position(|(_, key)| given == Some(key)) else {
            return refuse(401, "The key is wrong");
        };
        // A key is good once.
        let (path, _) = waiting.remove(at);
        let _ = fs::remove_file(path);
        let issued = self.issuer.issue(OWN, resource);
        let answer = json!({
            "access_token": issued.token,
            "expires_in": issued.expires_in.to_string(),
            "expires_on": issued.expires_on.to_string(),
            "resource": resource,
            "token_type": "Bearer",
        });
        (200, answer, None)
    }

    fn make_key(&self, keys: &std::path::Path) -> io::Result<PathBuf> {
        let path = keys.join(format!("{}.key", random_hex()?));
        let key = random_hex()?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(key.as_bytes())?;
        self.waiting.lock().push((path.clone(), key));
        Ok(path)
    }

    /// The identity that is asked for, if there is one.
    fn identity(&self, query: &[(String, String)]) -> Option<String> {
        match get(query, "client_id") {
            None => Some(OWN.to_owned()),
            Some(id) => self.assigned.iter().find(|known| *known == id).cloned(),
        }
    }
}

fn get<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
}

fn is(headers: &HeaderMap, name: &str, value: &str) -> bool {
    headers.get(name).is_some_and(|given| given.as_bytes() == value.as_bytes())
}
