//! The credential in force, and where a newer one comes from: the credentials file, or the Entra identity.
//!
//! | what happens | what is done |
//! |---|---|
//! | every few seconds in use | the file is looked at; if it changed, what it holds is in force from then on |
//! | the service refuses the credential | the same at once; a token that is not known is fetched anew |
//! | the file changed to something that makes no sense | a line in the log, and the old credential goes on |
//!
//! One at a time looks; whoever was refused with what is not in force any more need not.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::auth::Credential;
use super::config::Result;
use super::credentials::read_credentials;
use crate::client::{CredentialId, Ready, Refused};
use crate::store::ErrorKind;

/// How often the credentials file is looked at while requests are made: a key that was replaced there is
/// in use long before anybody revokes the old one.
const LOOKS_APART: Duration = Duration::from_secs(10);

/// What requests are signed with.
#[derive(Debug)]
pub(super) struct InForce {
    held: RwLock<Arc<Held>>,
    file: Option<Arc<CredentialsFile>>,
    looked: Mutex<Instant>,
    /// Held by who looks for a newer one because of a refusal.
    renewing: tokio::sync::Mutex<()>,
}

/// A credential and its name.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) credential: Credential,
    pub(super) id: CredentialId,
}

impl Held {
    fn new(credential: Credential) -> Arc<Held> {
        Arc::new(Held { credential, id: CredentialId::unique() })
    }

    /// What an attempt is signed with now.
    fn signs_as(&self) -> Option<CredentialId> {
        match &self.credential {
            Credential::Tokens(tokens) => tokens.credential(),
            _ => Some(self.id),
        }
    }
}

impl InForce {
    /// `credential`, which came from `file` if there is one.
    pub(super) fn new(credential: Credential, file: Option<Arc<CredentialsFile>>) -> Arc<InForce> {
        Arc::new(InForce {
            held: RwLock::new(Held::new(credential)),
            file,
            looked: Mutex::new(Instant::now()),
            renewing: tokio::sync::Mutex::default(),
        })
    }

    /// The credential.
    pub(super) fn get(&self) -> Arc<Held> {
        Arc::clone(&self.held.read())
    }

    /// For [`Service::ready`](crate::client::Service::ready).
    pub(super) fn ready(self: &Arc<Self>, deadline: Instant) -> Option<Ready<'_>> {
        if self.file.is_some() && self.is_time_to_look() {
            let this = Arc::clone(self);
            // Nobody waits for a disk.
            tokio::task::spawn_blocking(move || this.look());
        }
        match &self.get().credential {
            Credential::Tokens(tokens) => tokens.ready(deadline),
            Credential::SharedKey(_) | Credential::Sas(_) | Credential::Anonymous => None,
        }
    }

    fn is_time_to_look(&self) -> bool {
        let mut looked = self.looked.lock();
        let is_time = looked.elapsed() >= LOOKS_APART;
        if is_time {
            *looked = Instant::now();
        }
        is_time
    }

    /// For [`Service::renew`](crate::client::Service::renew).
    pub(super) async fn renew(self: &Arc<Self>, refused: Refused) -> bool {
        let of_token = |held: &Held| match &held.credential {
            Credential::Tokens(tokens) if refused.kind == ErrorKind::Unauthenticated => {
                Some(Arc::clone(tokens))
            }
            _ => None,
        };
        if self.file.is_none() && of_token(&self.get()).is_none() {
            return false;
        }
        let _one_at_a_time = self.renewing.lock().await;
        let held = self.get();
        if held.signs_as() != refused.credential {
            return true;
        }
        let this = Arc::clone(self);
        if tokio::task::spawn_blocking(move || this.look()).await.unwrap_or(false) {
            return true;
        }
        match of_token(&held) {
            Some(tokens) => tokens.replace(refused.credential).await,
            None => false,
        }
    }

    /// Takes what the file holds now, if that is something else than before. Whether it was.
    fn look(&self) -> bool {
        let Some(file) = &self.file else { return false };
        match file.changed() {
            Ok(None) => false,
            Ok(Some(credential)) => {
                log::info!(
                    target: "http",
                    "-o credentials={}: changed; its {} is used from now on",
                    file.path, credential.name()
                );
                *self.held.write() = Held::new(credential);
                true
            }
            Err(why) => {
                log::warn!(target: "http", "{why}; the credential from before is used on");
                false
            }
        }
    }
}

/// Finds the credential in what a file holds.
type Find = Box<dyn Fn(&Seen) -> Result<Credential> + Send + Sync>;

/// A file that holds a credential, which may become another one.
pub(super) struct CredentialsFile {
    path: String,
    find: Find,
    seen: Mutex<Seen>,
}

/// What a file held when it was read.
pub(super) struct Seen {
    stamp: Option<Stamp>,
    values: BTreeMap<String, String>,
}

/// What tells a file from one that was written in its place, or over it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &str) -> Option<Stamp> {
        let meta = fs::metadata(path).ok()?;
        let changed = (meta.ctime(), meta.ctime_nsec());
        Some(Stamp { inode: meta.ino(), size: meta.size(), changed })
    }
}

/// Shows the path alone.
impl fmt::Debug for CredentialsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Seen {
    /// Reads the file at `path`.
    ///
    /// Errors: it cannot be read, others could read it, or it is not of the right form.
    pub(super) fn read(path: &str) -> Result<Seen> {
        // Before it is read: a change in between is seen later.
        let stamp = Stamp::of(path);
        Ok(Seen { stamp, values: read_credentials(path)? })
    }

    /// What it says of a variable.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.values.get(name).filter(|value| !value.is_empty()).cloned()
    }
}

impl CredentialsFile {
    /// The file at `path`, and the credential that `find` finds in it now.
    ///
    /// Errors: as `find`.
    pub(super) fn new(
        path: &str,
        seen: Seen,
        find: Find,
    ) -> Result<(Arc<CredentialsFile>, Credential)> {
        let credential = find(&seen)?;
        // A daemon runs in another directory.
        let path = std::path::absolute(path)
            .map_or_else(|_| path.to_owned(), |path| path.to_string_lossy().into_owned());
        Ok((Arc::new(CredentialsFile { path, find, seen: Mutex::new(seen) }), credential))
    }

    /// The credential in it, if it is another one than when it was last read.
    ///
    /// Errors: as [`Seen::read`] and as its finder; told once for each change.
    fn changed(&self) -> Result<Option<Credential>> {
        let mut seen = self.seen.lock();
        let stamp = Stamp::of(&self.path);
        if stamp == seen.stamp {
            return Ok(None);
        }
        seen.stamp = stamp;
        let now = Seen::read(&self.path)?;
        if now.values == seen.values {
            return Ok(None);
        }
        let credential = (self.find)(&now)?;
        *seen = now;
        Ok(Some(credential))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A file with this account key in it.
    fn write(path: &std::path::Path, key: &str) {
        let fresh = path.with_extension("new");
        fs::write(&fresh, format!("AZURE_STORAGE_KEY={key}\n")).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&fresh, path).unwrap();
    }

    /// Finds keys, which are shown as the signatures that they would be.
    fn open(path: &std::path::Path) -> Arc<InForce> {
        let find = |seen: &Seen| match seen.get("AZURE_STORAGE_KEY") {
            Some(key) if key != "nonsense" => Ok(Credential::Sas(Arc::from(key.as_str()))),
            _ => super::super::config::error("nothing in it"),
        };
        let path = path.to_str().unwrap();
        let seen = Seen::read(path).unwrap();
        let (file, credential) = CredentialsFile::new(path, seen, Box::new(find)).unwrap();
        InForce::new(credential, Some(file))
    }

    fn shown(in_force: &InForce) -> String {
        match &in_force.get().credential {
            Credential::Sas(text) => text.to_string(),
            other => panic!("{other:?}"),
        }
    }

    fn refusal(in_force: &InForce) -> Refused {
        Refused { credential: in_force.get().signs_as(), kind: ErrorKind::Unauthenticated }
    }

    #[tokio::test]
    async fn a_refusal_makes_it_look_and_nothing_new_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path, "one");
        let in_force = open(&path);
        let refused = refusal(&in_force);
        assert!(!in_force.renew(refused).await, "it is as it was");
        write(&path, "two");
        assert_eq!(shown(&in_force), "one");
        assert!(in_force.renew(refused).await);
        assert_eq!(shown(&in_force), "two");
        // Who was refused with the old one, before.
        assert!(in_force.renew(refused).await);
        assert!(!in_force.renew(refusal(&in_force)).await);
        // Written anew with the same in it.
        write(&path, "two");
        assert!(!in_force.renew(refusal(&in_force)).await);
    }

    #[tokio::test]
    async fn what_makes_no_sense_leaves_the_old_one_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path, "one");
        let in_force = open(&path);
        for spoil in [0, 1, 2] {
            match spoil {
                0 => write(&path, "nonsense"),
                1 => fs::remove_file(&path).unwrap(),
                _ => {
                    write(&path, "two");
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
                }
            }
            assert!(!in_force.renew(refusal(&in_force)).await);
            assert_eq!(shown(&in_force), "one");
        }
        write(&path, "three");
        assert!(in_force.renew(refusal(&in_force)).await);
        assert_eq!(shown(&in_force), "three");
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_noticed_without_a_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path, "one");
        let in_force = open(&path);
        write(&path, "two");
        let soon = || Instant::now() + LOOKS_APART;
        assert!(in_force.ready(soon()).is_none(), "nobody waits for it");
        tokio::time::advance(LOOKS_APART).await;
        assert_eq!(shown(&in_force), "one");
        assert!(in_force.ready(soon()).is_none());
        // The look is on its way in another thread.
        while shown(&in_force) == "one" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(shown(&in_force), "two");
    }
}
