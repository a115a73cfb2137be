//! An application that the platform vouches for: Kubernetes keeps a token of its own in a file, changes it
//! every hour or so, and Entra ID has been told to believe it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::authority::{Application, Proof};
use super::settings::{FEDERATED_TOKEN, Settings};
use crate::client::token::{Audience, Grant, Identity, NoToken};

#[derive(Debug)]
struct WorkloadIdentity {
    application: Application,
    file: PathBuf,
}

/// The application of the settings.
///
/// Errors: what is missing.
pub(super) fn new(settings: &Settings) -> Result<Arc<dyn Identity>, String> {
    let application = Application::new("workload identity", settings)?;
    let file = settings.federated_token.clone();
    let file = file.ok_or_else(|| format!("workload identity: {FEDERATED_TOKEN} is missing"))?;
    Ok(Arc::new(WorkloadIdentity { application, file }))
}

impl Identity for WorkloadIdentity {
    fn name(&self) -> String {
        self.application.name().to_owned()
    }

    fn fetch<'a>(&'a self, audience: &'a Audience) -> BoxFuture<'a, Result<Grant, NoToken>> {
        Box::pin(async move {
            // Anew each time: the file changes while we run.
            let proof = || {
                let file = self.file.display();
                let text = fs::read_to_string(&self.file)
                    .map_err(|why| NoToken::Refused(format!("{FEDERATED_TOKEN} {file}: {why}")))?;
                Ok(Proof::Assertion(text.trim().to_owned()))
            };
            self.application.token(audience, proof).await
        })
    }
}
