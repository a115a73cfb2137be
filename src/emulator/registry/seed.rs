//! Content that a server is given without a request: by tests, and from image layouts on disk.
//!
//! Knows layouts and what a simple image is made of. Nothing is checked that a push would check, so that a
//! test can have a registry whose content is wrong.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::super::guid::new_guid;
use super::digest::{Algorithm, Digest};
use super::manifest::{self, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use super::name::{is_repository, is_tag};
use super::{Server, Storage};

/// The media type of an image's configuration.
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of a layer that is not compressed.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The annotation that holds a tag in the index of a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

impl Server {
    /// Gives a repository a blob. Returns its sha256 digest.
    pub fn push_blob(&self, repository: &str, bytes: &[u8]) -> io::Result<String> {
        check(repository, None)?;
        let digest = Digest::of(Algorithm::Sha256, bytes);
        let scratch = self.service.storage.upload_path(&new_guid());
        fs::write(&scratch, bytes)?;
        self.service.storage.add_blob(repository, &digest, &scratch)?;
        Ok(digest.to_string())
    }

    /// Gives a repository a blob that is in a file, which stays. Returns its sha256 digest.
    pub fn push_file(&self, repository: &str, file: &Path) -> io::Result<String> {
        check(repository, None)?;
        let digest = Digest::of_file(Algorithm::Sha256, &mut fs::File::open(file)?)?;
        copy_blob(&self.service.storage, repository, &digest, file)?;
        Ok(digest.to_string())
    }

    /// Gives a repository a manifest of any type and content, and a tag for it. Returns its sha256 digest.
    pub fn push_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: &[u8],
    ) -> io::Result<String> {
        check(repository, tag)?;
        let digest = Digest::of(Algorithm::Sha256, bytes);
        let facts = manifest::read(bytes, media_type).unwrap_or_default();
        self.service.storage.add_manifest(repository, &digest, bytes, (media_type, facts), tag)?;
        Ok(digest.to_string())
    }

    /// Gives a repository an image with these bytes as its layers, and a tag for it. Returns the sha256 digest
    /// of its manifest.
    pub fn push_image(&self, repository: &str, tag: &str, layers: &[&[u8]]) -> io::Result<String> {
        let mut descriptors = Vec::new();
        for layer in layers {
            let digest = self.push_blob(repository, layer)?;
            descriptors.push(json!({ "mediaType": LAYER, "digest": digest, "size": layer.len() }));
        }
        let digests: Vec<&Value> = descriptors.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-11-20T07:00:00Z",
            "rootfs": { "type": "layers", "diff_ids": digests },
        });
        let config = config.to_string();
        let digest = self.push_blob(repository, config.as_bytes())?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": { "mediaType": CONFIG, "digest": digest, "size": config.len() },
            "layers": descriptors,
        });
        self.push_manifest(repository, Some(tag), OCI_MANIFEST, manifest.to_string().as_bytes())
    }

    /// Gives a repository everything that the OCI image layout in a directory has, under the tags that its
    /// index names. Returns these.
    pub fn push_layout(&self, repository: &str, layout: &Path) -> io::Result<Vec<String>> {
        check(repository, None)?;
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
        let mut tags = Vec::new();
        for descriptor in index["manifests"].as_array().into_iter().flatten() {
            let tag = descriptor["annotations"][REF_NAME].as_str();
            // Other tools put whole references there; they are no tags.
            let tag = tag.filter(|tag| is_tag(tag));
            push_tree(&self.service.storage, repository, layout, descriptor, tag)?;
            tags.extend(tag.map(str::to_owned));
        }
        Ok(tags)
    }

    /// Takes a tag away; whether it was there.
    pub fn remove_tag(&self, repository: &str, tag: &str) -> io::Result<bool> {
        self.service.storage.remove_tag(repository, tag)
    }
}

/// Copies a manifest of a layout, and first what it refers to.
fn push_tree(
    storage: &Storage,
    repository: &str,
    layout: &Path,
    descriptor: &Value,
    tag: Option<&str>,
) -> io::Result<()> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    let digest =
        Digest::parse(digest).ok_or_else(|| invalid(format!("{digest:?} is no digest")))?;
    let media_type = descriptor["mediaType"].as_str().unwrap_or_default();
    let file = layout.join("blobs").join(digest.algorithm.name()).join(&digest.hex);
    if ![OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].contains(&media_type) {
        return copy_blob(storage, repository, &digest, &file);
    }
    let bytes = fs::read(&file)?;
    let named = |why| invalid(format!("{}: {why}", file.display()));
    let facts = manifest::read(&bytes, media_type).map_err(named)?;
    let value: Value = serde_json::from_slice(&bytes)?;
    let lists = ["layers", "manifests"].into_iter().filter_map(|name| value[name].as_array());
    let config = value.get("config").into_iter();
    for child in lists.flatten().chain(config).filter(|child| child.get("urls").is_none()) {
        push_tree(storage, repository, layout, child, None)?;
    }
    storage.add_manifest(repository, &digest, &bytes, (media_type, facts), tag)
}

fn copy_blob(storage: &Storage, repository: &str, digest: &Digest, file: &Path) -> io::Result<()> {
    let scratch = storage.upload_path(&new_guid());
    fs::copy(file, &scratch)?;
    storage.add_blob(repository, digest, &scratch)
}

/// Refuses names that the grammar does not allow: they become paths.
fn check(repository: &str, tag: Option<&str>) -> io::Result<()> {
    let invalid = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    if !is_repository(repository) {
        return invalid(format!("{repository:?} is no name of a repository"));
    }
    match tag {
        Some(tag) if !is_tag(tag) => invalid(format!("{tag:?} is no tag")),
        _ => Ok(()),
    }
}
