//! The boundary to the kernel: the only user of `fuser`. Each callback takes its arguments, calls the
//! tree and replies; there is no policy here.
//!
//! A FUSE thread never waits for the network. What memory can answer is answered on the FUSE thread;
//! everything else moves its reply into a task. Each task has a hard deadline, because a process that
//! waits for FUSE cannot be killed before it is answered.

mod attr;
mod callbacks;
mod errno;
mod session;

pub use session::{Config, Session};
