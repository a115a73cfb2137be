//! Real HTTP servers of the remote services, for demos, tests and development without an account.
//!
//! Each emulator is a second, independent reading of a protocol. It imports nothing else from this
//! crate, so that a misunderstanding in a client cannot hide behind the same one in its server. What
//! they have in common is beside them here: connections, bodies, faults, limits and the clock.

mod body;
mod buffer;
mod clock;
mod connection;
mod faults;
mod guid;
mod incoming;
mod jwt;
mod operations;
mod query;
mod reply;
mod spoil;
mod throttle;
mod tls;

pub mod identity;
pub mod page_blob;
pub mod registry;
