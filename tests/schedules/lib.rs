//! The data path and the port, from the same sources as the program's.
//!
//! Here `tokio` and `parking_lot` are those of `shuttle`, by the manifest: a use of them is a point at which
//! its scheduler may let another task go on. Nothing in the sources knows of it.

#[path = "../../src/io/mod.rs"]
pub mod io;
#[path = "../../src/store/mod.rs"]
pub mod store;
