//! Real HTTP servers of the remote services, for demos, tests and development without an account.
//!
//! Each emulator is a second, independent reading of a protocol. It imports nothing else from this
//! crate, so that a misunderstanding in a client cannot hide behind the same one in its server.

pub mod identity;
pub mod page_blob;
