//! The contract of the port, asked of every store.

#![allow(clippy::unwrap_used)] // a test that meets an error is to fail
#![cfg(feature = "emulator")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blobdir::backend::{SourceRequest, scheme_of};
use blobdir::emulator::page_blob::{Config, WELL_KNOWN_ACCOUNT, start};
use blobdir::store::memory::MemoryStore;
use blobdir::store::{RemotePath, Store, contract};

mod support;

use support::account;
use support::azurite::Azurite;

const CONTAINER: &str = "contract";

/// Opens a container of a local server, without options or environment.
async fn connect(endpoint: &str) -> Arc<dyn Store> {
    account::create_container(endpoint, CONTAINER);
    let source = format!("{endpoint}/{CONTAINER}");
    let scheme = scheme_of(&source).unwrap();
    let backend = (scheme.parse)(&SourceRequest {
        source: &source,
        options: &BTreeMap::new(),
        env: &|_| None,
        timeout: Duration::from_secs(60),
        state_dir: Some(support::state_dir()),
    })
    .unwrap();
    backend.connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    // It has no writers that know of each other.
    let gaps = ["a writer knows its own versions", "a writer notices another one"];
    let store = Arc::new(MemoryStore::new());
    contract::run(store, &RemotePath::new("contract").unwrap(), &gaps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_blob_emulator() {
    for short_pages in [false, true] {
        let server = start(Config { short_pages, ..Config::default() }).await.unwrap();
        let store = connect(&server.account_url(WELL_KNOWN_ACCOUNT)).await;
        contract::run(store, &RemotePath::new("a b").unwrap(), &[]).await;
        server.shutdown().await;
    }
}

/// What Azurite does otherwise than the service.
const AZURITE_GAPS: &[&str] = &[
    // It does not know prevsnapshot, and gives all ranges with data.
    "changes name all that differs",
    "only what is of one blob is compared",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_blob_azurite() {
    let Some(server) = Azurite::start() else {
        return;
    };
    let store = connect(&server.endpoint).await;
    contract::run(store, &RemotePath::new("a b").unwrap(), AZURITE_GAPS).await;
}
