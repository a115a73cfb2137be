//! The registry emulator over the wire, judged by a client that shares no code with it, and by `skopeo`.
#![cfg(feature = "emulator")]
// The exemption of tests does not reach what tests share.
#![allow(clippy::unwrap_used)]

mod blobs;
mod client;
mod faults;
#[path = "../support/http.rs"]
mod http;
mod lists;
mod manifests;
mod metadata;
mod redirects;
mod seeds;
mod skopeo;
mod tokens;
mod uploads;
