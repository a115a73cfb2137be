//! This backend against what it was written for: configuration, and servers.
