//! blobdir mounts cloud blobs as ordinary files.

pub mod backend;
pub mod client;
pub mod io;
pub mod store;
