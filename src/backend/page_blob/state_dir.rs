//! The part of the state directory that makes one host one writer.
//!
//! ```text
//! DIR/lease-secret        32 random bytes, made once; mode 0600
//! DIR/leases/GUID.lock    held with flock while a process of this host holds the lease GUID
//! ```
//!
//! A lease id is made of the secret and the blob's place, so that this host, and no other, takes the
//! lease of a blob again at once after a crash. All processes of the host have the same id for a blob,
//! which is why the lock stands beside it: it goes with the process that held it, however that ends.
//!
//! This module must not know requests.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// The secret's name in the directory.
const SECRET: &str = "lease-secret";

/// Bytes of the secret: as many as its hash gives.
const SECRET_LEN: usize = 32;

/// The directory of the locks.
const LOCKS: &str = "leases";

/// What is written to find out whether the directory takes data, in bytes: a block of any file system.
const PROBE_LEN: usize = 4096;

/// A state directory that can be used.
pub(super) struct StateDir {
    locks: PathBuf,
    secret: [u8; SECRET_LEN],
}

/// Shows no secret.
impl fmt::Debug for StateDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateDir").field("locks", &self.locks).finish_non_exhaustive()
    }
}

/// That no other process of this host writes a blob. Dropped, another one may.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

/// Why a lock was not given.
#[derive(Debug)]
pub(super) enum NotLocked {
    /// Another process has it: this one, if it could be told.
    Held(Option<u32>),
    /// The directory cannot be used.
    Failed(io::Error),
}

impl StateDir {
    /// Makes the directory what it must be and finds out whether it takes data.
    ///
    /// Errors: one line that names the directory and the remedy.
    pub(super) fn open(dir: &Path) -> Result<StateDir, String> {
        let attempt = || -> io::Result<StateDir> {
            let locks = dir.join(LOCKS);
            DirBuilder::new().recursive(true).mode(0o700).create(&locks)?;
            probe(dir)?;
            Ok(StateDir { locks, secret: secret(dir)? })
        };
        attempt().map_err(|error| {
            format!(
                "the state directory {} cannot be used: {error}; give another one with \
                 -o state_dir=DIR, or mount read-only with -o ro",
                dir.display()
            )
        })
    }

    /// The lease id of the blob at `place`: a GUID that only this host can know.
    pub(super) fn lease_id(&self, place: &str) -> String {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.secret).expect("any length of key will do");
        mac.update(place.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        // Version 8, "custom", and the variant of RFC 9562.
        bytes[6] = bytes[6] & 0x0F | 0x80;
        bytes[8] = bytes[8] & 0x3F | 0x80;
        let number = u128::from_be_bytes(bytes);
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            number >> 96,
            number >> 80 & 0xFFFF,
            number >> 64 & 0xFFFF,
            number >> 48 & 0xFFFF,
            number & 0xFFFF_FFFF_FFFF
        )
    }

    /// Makes this process the only one of the host that holds the lease `id`.
    pub(super) fn lock(&self, id: &str) -> Result<Lock, NotLocked> {
        let path = self.locks.join(format!("{id}.lock"));
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(NotLocked::Failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    let _ = file.read_to_string(&mut text);
                    return Err(NotLocked::Held(text.trim().parse().ok()));
                }
                Err(TryLockError::Error(error)) => return Err(NotLocked::Failed(error)),
            }
            // Whoever had it has removed it before letting it go.
            let same = match (file.metadata(), fs::metadata(&path)) {
                (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
                _ => false,
            };
            if !same {
                continue;
            }
            // Whose it is, for the message of the next one; it is worth no failure.
            let _ = file.set_len(0).and_then(|()| file.rewind());
            let _ = writeln!(file, "{}", std::process::id());
            return Ok(Lock { path, _file: file });
        }
    }
}

/// Removes the file, so that the directory does not grow; still locked, so that nobody else's is
/// removed.
impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes something and removes it again: a file system that is full or read-only is found out now.
fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join(format!(".probe-{}", unique()?));
    let result = create_private(&path).and_then(|mut file| {
        file.write_all(&[0; PROBE_LEN])?;
        file.sync_all()
    });
    let removed = fs::remove_file(&path);
    result?;
    removed
}

/// The secret of this directory, made if there is none.
fn secret(dir: &Path) -> io::Result<[u8; SECRET_LEN]> {
    let path = dir.join(SECRET);
    loop {
        match File::open(&path) {
            Ok(mut file) => {
                let mut secret = [0; SECRET_LEN];
                file.read_exact(&mut secret).map_err(|error| {
                    io::Error::new(error.kind(), format!("{SECRET} in it is damaged; remove it"))
                })?;
                return Ok(secret);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut fresh = [0; SECRET_LEN];
        getrandom::fill(&mut fresh).map_err(io::Error::other)?;
        // Complete before it has its name, and never in the place of another one.
        let made = dir.join(format!(".{SECRET}-{}", unique()?));
        let written = create_private(&made).and_then(|mut file| {
            file.write_all(&fresh)?;
            file.sync_all()?;
            match fs::hard_link(&made, &path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => File::open(dir)?.sync_all(),
            }
        });
        let _ = fs::remove_file(&made);
        written?;
    }
}

fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// A part of a name that no other process uses.
fn unique() -> io::Result<String> {
    Ok(format!("{:016x}", getrandom::u64().map_err(io::Error::other)?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{NotLocked, SECRET, StateDir};

    #[test]
    fn one_directory_has_one_id_for_a_blob() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dir = a.path().join("made/on/the/way");
        let first = StateDir::open(&dir).unwrap();
        let again = StateDir::open(&dir).unwrap();
        let other = StateDir::open(b.path()).unwrap();
        let id = first.lease_id("account/disks/a");
        assert_eq!(id, again.lease_id("account/disks/a"));
        assert_ne!(id, first.lease_id("account/disks/b"));
        assert_ne!(id, other.lease_id("account/disks/a"));
        assert_eq!(id.len(), 36);
        assert!(id.split('-').map(str::len).eq([8, 4, 4, 4, 12]), "{id}");
        let mode = std::fs::metadata(dir.join(SECRET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let left: Vec<_> =
            std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn a_lock_is_held_by_one_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let held = state.lock("x").unwrap();
        let ours = Some(std::process::id());
        assert!(matches!(state.lock("x"), Err(NotLocked::Held(pid)) if pid == ours));
        drop(state.lock("y").unwrap());
        drop(held);
        drop(state.lock("x").unwrap());
        assert_eq!(std::fs::read_dir(dir.path().join("leases")).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for bad in [file.join("below"), file, "/proc/none".into()] {
            let line = StateDir::open(&bad).unwrap_err();
            assert!(
                line.contains(&*bad.to_string_lossy()) && line.contains("state_dir="),
                "{line}"
            );
        }
        let short = tempfile::tempdir().unwrap();
        std::fs::write(short.path().join(SECRET), "x").unwrap();
        assert!(StateDir::open(short.path()).unwrap_err().contains("damaged"));
    }

    #[test]
    fn debug_holds_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert!(!format!("{state:?}").contains("secret"));
    }
}
