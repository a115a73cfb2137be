//! The page-blob emulator over the wire, judged by a client that shares no code with it.
#![cfg(feature = "emulator")]
// The exemption of tests does not reach what tests share.
#![allow(clippy::unwrap_used)]

mod authorization;
mod blobs;
mod client;
mod conditions;
mod copies;
mod deletion;
mod durability;
mod encryption;
mod faults;
#[path = "../support/http.rs"]
mod http;
mod leases;
mod limits;
mod lists;
mod pages;
#[path = "../support/tls.rs"]
mod tls;
mod versions;
