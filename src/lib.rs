//! blobdir mounts cloud blobs as ordinary files.
