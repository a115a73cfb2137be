//! blobdir mounts cloud blobs as ordinary files.

pub mod backend;
pub mod client;
pub mod config;
pub mod control;
pub mod daemon;
pub mod logging;
pub mod store;
