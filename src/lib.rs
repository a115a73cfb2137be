//! blobdir mounts cloud blobs as ordinary files.
//!
//! ```text
//! cli ─► mount ─► fuse ─► vfs ─► io ─┐
//!         └────► backend ─► client ─┴─► store
//! ```
//!
//! An arrow is an import; there are no others, and `tests/layering.rs` holds that. The modules, from
//! the bottom up:

pub mod store;

pub mod client;
pub mod io;

pub mod backend;
pub mod vfs;

pub mod fuse;

pub mod config;
pub mod mount;
pub mod recover;

pub mod control;
pub mod daemon;
pub mod logging;

#[cfg(feature = "emulator")]
pub mod emulator;

pub mod cli;
