//! blobdir mounts cloud blobs as ordinary files.

pub mod backend;
pub mod cli;
pub mod client;
pub mod config;
pub mod control;
pub mod daemon;
pub mod logging;
pub mod mount;
pub mod store;
