//! A temporary directory that is removed when it is dropped, and never the contents of a mount with
//! it.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::control::mounts;

/// A directory of this process, for this user alone.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes one in `TMPDIR`, or `/tmp`.
    ///
    /// Errors: one line for the user.
    pub(super) fn new() -> Result<Scratch, String> {
        let parent = std::env::temp_dir();
        let cannot = |error: &dyn std::fmt::Display| {
            format!("no temporary directory in {}: {error}", parent.display())
        };
        let name = getrandom::u64().map_err(|error| cannot(&error))?;
        let parent = parent.canonicalize().map_err(|error| cannot(&error))?;
        let path = parent.join(format!("blobdir-{name:016x}"));
        // Fails if it is there: nobody has prepared it for us.
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| cannot(&error))?;
        Ok(Scratch(path))
    }

    /// Where it is: absolute, without symbolic links.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is still mounted inside is not ours to remove.
        if matches!(mounts::any_below(&self.0), Ok(false)) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_and_goes_away_with_what_is_in_it() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::new().unwrap();
        let path = scratch.path().to_path_buf();
        fs::write(path.join("file"), "x").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(scratch);
        assert!(!path.exists());
    }
}
