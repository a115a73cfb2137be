//! The client side of container registries (OCI distribution specification): shared by every backend whose
//! bytes are in one.
//!
//! | file | what |
//! |---|---|
//! | `name`, `manifest`, `challenge` | what registries are told and tell, as values |
//! | `access` | who asks, and the tokens for it |
//! | `registry` | what it holds, and the bytes of its blobs |
//!
//! This module must not know how a registry is shown.

pub mod access;
pub mod challenge;
pub mod manifest;
pub mod name;
pub mod registry;
