//! The client side of container registries (OCI distribution specification): shared by every backend whose
//! bytes are in one.
//!
//! | file | what |
//! |---|---|
//! | `name`, `manifest`, `challenge` | what registries are told and tell, as values |
//!
//! This module must not know how a registry is shown.

pub mod challenge;
pub mod manifest;
pub mod name;
