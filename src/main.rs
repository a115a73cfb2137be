//! The `blobdir` command.
fn main() {}
