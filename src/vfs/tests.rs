//! The tree against the memory store.
