//! The data path over one opened blob: page cache, readahead, write-back.
//!
//! It knows the port ([`crate::store`]) and nothing of HTTP, names or FUSE.

pub mod buffer;
pub mod coalesce;
pub mod dirty;
pub mod page_cache;
pub mod readahead;
pub mod span;
