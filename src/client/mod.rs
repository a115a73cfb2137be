//! HTTP: the only user of `reqwest`.
