//! `mount.blobdir`: translates mount(8) arguments and execs the daemon.
fn main() {}
