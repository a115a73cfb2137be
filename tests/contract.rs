//! The contract of the port, asked of every store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blobdir::backend::{SourceRequest, scheme_of};
use blobdir::store::memory::MemoryStore;
use blobdir::store::{RemotePath, Store, contract};

#[path = "support/azurite.rs"]
mod azurite;
#[path = "support/rest.rs"]
mod rest;

/// Opens a source without options or environment.
async fn connect(source: &str) -> Arc<dyn Store> {
    let scheme = scheme_of(source).unwrap();
    let backend = (scheme.parse)(&SourceRequest {
        source,
        options: &BTreeMap::new(),
        env: &|_| None,
        timeout: Duration::from_secs(60),
    })
    .unwrap();
    backend.connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    let store = Arc::new(MemoryStore::new());
    contract::run(store, &RemotePath::new("contract").unwrap(), &[]).await;
}

/// What Azurite does otherwise than the service.
const AZURITE_GAPS: &[&str] = &[];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite() {
    let Some(server) = azurite::Azurite::start() else {
        return;
    };
    rest::create_container(&server.endpoint, "contract").await;
    let store = connect(&format!("{}/contract", server.endpoint)).await;
    contract::run(store, &RemotePath::new("a b").unwrap(), AZURITE_GAPS).await;
}
