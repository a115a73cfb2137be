//! What a registry reads in a manifest: its type, and what it refers to.
//!
//! Knows documents, not where they are kept.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::digest::Digest;

/// An OCI image manifest.
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index.
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// A Docker image manifest, schema 2.
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A Docker manifest list.
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What was found in a manifest. Nothing of one that cannot be read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) artifact_type: Option<String>,
    pub(super) config: Option<String>,
    pub(super) config_type: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) annotations: Map<String, Value>,
    /// Digests of layers, and of the configuration.
    pub(super) blobs: Vec<String>,
    /// Of an index: digest, architecture and operating system of each manifest.
    pub(super) manifests: Vec<(String, Value, Value)>,
}

/// Reads a manifest; the error is what is wrong with it.
pub(super) fn read(bytes: &[u8], media_type: &str) -> Result<Facts, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let document = value.as_object().ok_or("it is no object")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if let Some(inside) = document.get("mediaType").and_then(Value::as_str)
        && inside != media_type
    {
        return Err(format!("it says {inside} and is sent as {media_type}"));
    }
    let descriptors = |name: &str| match document.get(name) {
        None | Some(Value::Null) => Ok(&[][..]),
        Some(Value::Array(list)) => Ok(list.as_slice()),
        Some(_) => Err(format!("{name} is no list")),
    };
    let digest_of = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap_or_default();
        let digest = Digest::parse(digest).ok_or_else(|| format!("{digest:?} is no digest"))?;
        Ok::<_, String>(digest.to_string())
    };
    let mut facts = Facts {
        artifact_type: document.get("artifactType").and_then(text),
        annotations: document
            .get("annotations")
            .and_then(|annotations| annotations.as_object().cloned())
            .unwrap_or_default(),
        ..Facts::default()
    };
    if let Some(subject) = document.get("subject") {
        facts.subject = Some(digest_of(subject)?);
    }
    if let Some(config) = document.get("config") {
        let digest = digest_of(config)?;
        facts.config_type = text(&config["mediaType"]);
        facts.config = Some(digest.clone());
        facts.blobs.push(digest);
    }
    // Artifact manifests of ORAS call their layers blobs.
    for layer in descriptors("layers")?.iter().chain(descriptors("blobs")?) {
        // Foreign layers are kept elsewhere.
        if layer.get("urls").is_none() {
            facts.blobs.push(digest_of(layer)?);
        }
    }
    for child in descriptors("manifests")? {
        let platform = &child["platform"];
        facts.manifests.push((
            digest_of(child)?,
            platform["architecture"].clone(),
            platform["os"].clone(),
        ));
    }
    Ok(facts)
}

/// How a manifest of this type is refused to who does not accept it, by the measured habits of
/// docker-registry 2.8.2: status and message. Types that it does not know are always served.
pub(super) fn refused(media_type: &str, accepted: &[String]) -> Option<(u16, &'static str)> {
    let refusal = match media_type {
        OCI_MANIFEST => {
            (404, "OCI manifest found, but accept header does not support OCI manifests")
        }
        OCI_INDEX => (404, "OCI index found, but accept header does not support OCI indexes"),
        DOCKER_MANIFEST | DOCKER_LIST => (400, "manifest invalid"),
        _ => return None,
    };
    (!accepted.iter().any(|accepted| accepted == media_type)).then_some(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_manifest_is_told() {
        let digest = format!("sha256:{}", "1".repeat(64));
        let good = format!(
            r#"{{"mediaType":"{OCI_MANIFEST}","config":{{"digest":"{digest}"}},"layers":[{{"digest":"{digest}"}}]}}"#
        );
        assert_eq!(read(good.as_bytes(), OCI_MANIFEST).unwrap().blobs, [&*digest, &*digest]);
        for (bad, reason) in [
            (good.replace("1111", "zz"), "no digest"),
            (good.replace("image.manifest", "image.index"), "is sent as"),
            (good.replace("[{", "{").replace("}]", "}"), "no list"),
            ("[]".to_owned(), "no object"),
            ("{".to_owned(), "EOF"),
        ] {
            let error = read(bad.as_bytes(), OCI_MANIFEST).unwrap_err();
            assert!(error.contains(reason), "{bad}: {error}");
        }
    }
}
