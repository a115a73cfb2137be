//! Repositories on a directory: blobs, manifests and tags.
//!
//! | path | what |
//! |---|---|
//! | `content/ALGORITHM/HEX` | bytes, once for all repositories |
//! | `repositories/NAME/_blobs/ALGORITHM/HEX` | that the repository has this blob (empty) |
//! | `repositories/NAME/_manifests/ALGORITHM/HEX` | that it has this manifest, and its type (JSON) |
//! | `repositories/NAME/_tags/TAG` | which manifest the tag stands for (JSON) |
//! | `uploads/ID` | what has arrived of an upload |
//!
//! What is listed is kept in memory, too. Survives the end of the process, not that of the machine. Knows
//! what belongs together, not who asks and not HTTP.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::clock::Clock;
use super::super::guid::new_guid;
use super::digest::Digest;
use super::manifest::Facts;

/// What may be done with a repository, a tag or a manifest, in the words of ACR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attributes {
    pub(super) delete_enabled: bool,
    pub(super) write_enabled: bool,
    pub(super) list_enabled: bool,
    pub(super) read_enabled: bool,
}

impl Default for Attributes {
    fn default() -> Self {
        Self { delete_enabled: true, write_enabled: true, list_enabled: true, read_enabled: true }
    }
}

/// When something was made and changed, in ticks of the clock; and what may be done with it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Stamps {
    pub(super) created: u64,
    pub(super) updated: u64,
    pub(super) attributes: Attributes,
}

impl Stamps {
    fn now(clock: &Clock) -> Self {
        let now = clock.tick();
        Self { created: now, updated: now, attributes: Attributes::default() }
    }
}

/// A manifest of a repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) len: u64,
    pub(super) stamps: Stamps,
    pub(super) facts: Facts,
}

/// A tag of a repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Tag {
    pub(super) digest: String,
    pub(super) stamps: Stamps,
}

/// A repository.
#[derive(Debug, Clone)]
pub(super) struct Repository {
    pub(super) stamps: Stamps,
    /// Sizes by digest.
    pub(super) blobs: BTreeMap<Digest, u64>,
    pub(super) manifests: BTreeMap<Digest, Manifest>,
    pub(super) tags: BTreeMap<String, Tag>,
}

impl Repository {
    /// The manifest that a tag or digest stands for.
    pub(super) fn manifest(&self, reference: &str) -> Option<(Digest, &Manifest)> {
        let digest = match self.tags.get(reference) {
            Some(tag) => Digest::parse(&tag.digest)?,
            None => Digest::parse(reference)?,
        };
        let manifest = self.manifests.get(&digest)?;
        Some((digest, manifest))
    }
}

/// All repositories.
#[derive(Debug)]
pub(super) struct Storage {
    dir: PathBuf,
    clock: Arc<Clock>,
    repositories: RwLock<BTreeMap<String, Repository>>,
}

impl Storage {
    /// Opens a directory, which is made unless it is there. Uploads that were not finished are gone.
    pub(super) fn open(dir: &Path, clock: Arc<Clock>) -> io::Result<Self> {
        for kind in ["content/sha256", "content/sha512", "repositories"] {
            fs::create_dir_all(dir.join(kind))?;
        }
        let uploads = dir.join("uploads");
        if uploads.exists() {
            fs::remove_dir_all(&uploads)?;
        }
        fs::create_dir(&uploads)?;
        let storage = Self { dir: dir.to_owned(), clock, repositories: RwLock::default() };
        storage.load(&dir.join("repositories"), "")?;
        Ok(storage)
    }

    fn load(&self, dir: &Path, name: &str) -> io::Result<()> {
        for child in names_in(dir)? {
            if !child.starts_with('_') {
                let inner = if name.is_empty() { child.clone() } else { format!("{name}/{child}") };
                self.load(&dir.join(&child), &inner)?;
            }
        }
        let Ok(stamps) = read_json::<Stamps>(&dir.join("_repository")) else { return Ok(()) };
        let mut repository = Repository {
            stamps,
            blobs: BTreeMap::new(),
            manifests: BTreeMap::new(),
            tags: BTreeMap::new(),
        };
        for algorithm in ["sha256", "sha512"] {
            for hex in names_in(&dir.join("_blobs").join(algorithm))? {
                if let Some(digest) = Digest::parse(&format!("{algorithm}:{hex}")) {
                    let len = fs::metadata(self.content(&digest))?.len();
                    repository.blobs.insert(digest, len);
                }
            }
            let manifests = dir.join("_manifests").join(algorithm);
            for hex in names_in(&manifests)? {
                if let Some(digest) = Digest::parse(&format!("{algorithm}:{hex}")) {
                    repository.manifests.insert(digest, read_json(&manifests.join(&hex))?);
                }
            }
        }
        for tag in names_in(&dir.join("_tags"))? {
            let kept = read_json(&dir.join("_tags").join(&tag))?;
            repository.tags.insert(tag, kept);
        }
        self.repositories.write().insert(name.to_owned(), repository);
        Ok(())
    }

    fn content(&self, digest: &Digest) -> PathBuf {
        self.dir.join("content").join(digest.algorithm.name()).join(&digest.hex)
    }

    fn repository_dir(&self, name: &str) -> PathBuf {
        self.dir.join("repositories").join(name)
    }

    fn entry_path(&self, name: &str, kind: &str, digest: &Digest) -> PathBuf {
        self.repository_dir(name).join(kind).join(digest.algorithm.name()).join(&digest.hex)
    }

    /// Where an upload is kept.
    pub(super) fn upload_path(&self, id: &str) -> PathBuf {
        self.dir.join("uploads").join(id)
    }

    /// What is made of a repository, if it is there.
    pub(super) fn with<T>(&self, name: &str, look: impl FnOnce(&Repository) -> T) -> Option<T> {
        self.repositories.read().get(name).map(look)
    }

    /// The names of all repositories, in order.
    pub(super) fn names(&self) -> Vec<String> {
        self.repositories.read().keys().cloned().collect()
    }

    /// Opens a blob of a repository.
    pub(super) fn blob(&self, name: &str, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        match self.with(name, |repository| repository.blobs.get(digest).copied()).flatten() {
            Some(len) => Ok(Some((File::open(self.content(digest))?, len))),
            None => Ok(None),
        }
    }

    /// The bytes of a manifest, or of a blob that is known to be short.
    pub(super) fn read(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        fs::read(self.content(digest))
    }

    /// Gives a repository a blob whose bytes are in a file, which is taken away. They have this digest.
    pub(super) fn add_blob(&self, name: &str, digest: &Digest, from: &Path) -> io::Result<()> {
        fs::rename(from, self.content(digest))?;
        self.link_blob(name, digest)
    }

    /// Gives a repository a blob that another one has.
    pub(super) fn link_blob(&self, name: &str, digest: &Digest) -> io::Result<()> {
        let len = fs::metadata(self.content(digest))?.len();
        self.change(name, |repository| {
            write(&self.entry_path(name, "_blobs", digest), b"")?;
            repository.blobs.insert(digest.clone(), len);
            Ok(())
        })
    }

    /// Takes a blob from a repository; whether it had it.
    pub(super) fn remove_blob(&self, name: &str, digest: &Digest) -> io::Result<bool> {
        let had = self.with(name, |repository| repository.blobs.contains_key(digest));
        if had != Some(true) {
            return Ok(false);
        }
        self.change(name, |repository| {
            repository.blobs.remove(digest);
            fs::remove_file(self.entry_path(name, "_blobs", digest))
        })?;
        Ok(true)
    }

    /// Gives a repository a manifest with these bytes, which have this digest, and perhaps a tag.
    pub(super) fn add_manifest(
        &self,
        name: &str,
        digest: &Digest,
        bytes: &[u8],
        (media_type, facts): (&str, Facts),
        tag: Option<&str>,
    ) -> io::Result<()> {
        write(&self.content(digest), bytes)?;
        self.change(name, |repository| {
            let now = Stamps::now(&self.clock);
            let known = repository.manifests.get(digest).map(|known| known.stamps);
            let stamps = Stamps { updated: now.updated, ..known.unwrap_or(now) };
            let manifest = Manifest {
                media_type: media_type.to_owned(),
                len: bytes.len() as u64,
                stamps,
                facts,
            };
            write_json(&self.entry_path(name, "_manifests", digest), &manifest)?;
            repository.manifests.insert(digest.clone(), manifest);
            let Some(tag) = tag else { return Ok(()) };
            let known = repository.tags.get(tag).map(|known| known.stamps);
            let stamps = Stamps { updated: now.updated, ..known.unwrap_or(now) };
            let kept = Tag { digest: digest.to_string(), stamps };
            write_json(&self.repository_dir(name).join("_tags").join(tag), &kept)?;
            repository.tags.insert(tag.to_owned(), kept);
            Ok(())
        })
    }

    /// Takes a manifest from a repository, with the tags that stand for it.
    pub(super) fn remove_manifest(&self, name: &str, digest: &Digest) -> io::Result<()> {
        self.change(name, |repository| {
            repository.manifests.remove(digest);
            fs::remove_file(self.entry_path(name, "_manifests", digest))?;
            let text = digest.to_string();
            let gone: Vec<String> = repository
                .tags
                .iter()
                .filter(|(_, tag)| tag.digest == text)
                .map(|(tag, _)| tag.clone())
                .collect();
            gone.iter().try_for_each(|tag| {
                repository.tags.remove(tag);
                fs::remove_file(self.repository_dir(name).join("_tags").join(tag))
            })
        })
    }

    /// Takes a tag from a repository; whether it had it.
    pub(super) fn remove_tag(&self, name: &str, tag: &str) -> io::Result<bool> {
        let had = self.with(name, |repository| repository.tags.contains_key(tag));
        if had != Some(true) {
            return Ok(false);
        }
        self.change(name, |repository| {
            repository.tags.remove(tag);
            fs::remove_file(self.repository_dir(name).join("_tags").join(tag))
        })?;
        Ok(true)
    }

    /// Removes a repository; whether there was one. Its content stays, for it may be another's, too.
    pub(super) fn remove_repository(&self, name: &str) -> io::Result<Option<Repository>> {
        let Some(repository) = self.repositories.write().remove(name) else { return Ok(None) };
        let dir = self.repository_dir(name);
        for own in ["_repository", "_blobs", "_manifests", "_tags"] {
            let path = dir.join(own);
            if path.is_dir() {
                fs::remove_dir_all(path)?;
            } else if path.exists() {
                fs::remove_file(path)?;
            }
        }
        Ok(Some(repository))
    }

    /// Changes what may be done with something of a repository, or the repository itself; whether it is there.
    pub(super) fn set_attributes(
        &self,
        name: &str,
        item: &Item<'_>,
        attributes: impl FnOnce(Attributes) -> Attributes,
    ) -> io::Result<bool> {
        let mut repositories = self.repositories.write();
        let Some(repository) = repositories.get_mut(name) else { return Ok(false) };
        let dir = self.repository_dir(name);
        let touch = |stamps: &mut Stamps| {
            stamps.attributes = attributes(stamps.attributes);
            stamps.updated = self.clock.tick();
        };
        match item {
            Item::Repository => {
                touch(&mut repository.stamps);
                write_json(&dir.join("_repository"), &repository.stamps)?;
            }
            Item::Tag(tag) => {
                let Some(kept) = repository.tags.get_mut(*tag) else { return Ok(false) };
                touch(&mut kept.stamps);
                write_json(&dir.join("_tags").join(tag), kept)?;
            }
            Item::Manifest(digest) => {
                let Some(kept) = repository.manifests.get_mut(digest) else { return Ok(false) };
                touch(&mut kept.stamps);
                write_json(&self.entry_path(name, "_manifests", digest), kept)?;
            }
        }
        Ok(true)
    }

    /// Changes a repository, which is made unless it is there.
    fn change(
        &self,
        name: &str,
        change: impl FnOnce(&mut Repository) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut repositories = self.repositories.write();
        let repository = repositories.entry(name.to_owned()).or_insert_with(|| Repository {
            stamps: Stamps::now(&self.clock),
            blobs: BTreeMap::new(),
            manifests: BTreeMap::new(),
            tags: BTreeMap::new(),
        });
        repository.stamps.updated = self.clock.tick();
        write_json(&self.repository_dir(name).join("_repository"), &repository.stamps)?;
        change(repository)
    }
}

/// What attributes are of.
#[derive(Debug)]
pub(super) enum Item<'a> {
    Repository,
    Tag(&'a str),
    Manifest(Digest),
}

fn names_in(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        // A file, not a directory.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write(path, &serde_json::to_vec(value)?)
}

/// Writes a file whole or not at all, and the directories above it.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir)?;
    let scratch = dir.join(format!("_{}", new_guid()));
    fs::write(&scratch, bytes)?;
    fs::rename(scratch, path)
}
