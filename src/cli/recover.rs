//! `blobdir recover`: what needs somebody's decision after a writer has gone.

use std::path::PathBuf;

use super::{Failure, credentials};
use crate::config::{MountConfig, MountRequest};
use crate::daemon;

/// Breaks the lease of a blob and says what it was.
pub(super) fn break_lease(
    source: &str,
    path: &str,
    mut options: Vec<String>,
) -> Result<u8, Failure> {
    // Nothing is written, and nothing of this host is needed.
    options.push("ro".to_owned());
    let config = MountConfig::new(MountRequest {
        source: &credentials::rejoin(source),
        mount_point: PathBuf::new(),
        options: &options,
        env: &|name| std::env::var(name).ok(),
        caller: daemon::caller(),
    })
    .map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("cannot start: {error}")))?;
    let was = runtime.block_on(config.backend.break_lease(path)).map_err(Failure::other)?;
    super::print(&format!("{path}: the lease is broken; it was: {was}\n"));
    Ok(0)
}
