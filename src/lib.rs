//! blobdir mounts cloud blobs as ordinary files.

pub mod backend;
pub mod client;
pub mod fuse;
pub mod io;
pub mod store;
pub mod vfs;
