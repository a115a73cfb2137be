//! blobdir mounts cloud blobs as ordinary files.

#[cfg(feature = "emulator")]
pub mod emulator;
