//! Who we are to the cloud, over the emulators: every Entra identity, the life of tokens, and credentials
//! that change while a tree is mounted.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used)] // a test that meets an error is to fail

mod cloud;
mod identities;
mod judge;
mod mounts;
mod tokens;

#[path = "../support/mod.rs"]
mod support;
