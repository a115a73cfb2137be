//! Manifests: what an image, an index or an artifact is made of (OCI image specification; Docker's schema 2
//! has the same shape). Read leniently, since others wrote them: what is not understood is left out.

use serde_json::Value;

use crate::store::Digest;

/// The longest manifest, in bytes: what registries must take at least, and most do at most.
pub const LONGEST: usize = 4 << 20;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const ORAS_MANIFEST: &str = "application/vnd.cncf.oras.artifact.manifest.v1+json";

/// What to ask for: a registry gives `MANIFEST_UNKNOWN` for a manifest of a type that is not listed.
pub const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.cncf.oras.artifact.manifest.v1+json, */*";

/// One piece of content, as a manifest names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// Its media type; empty if the manifest does not say.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// For an index: what it runs on, as `os/architecture[/variant]`.
    pub platform: Option<String>,
}

/// What a manifest says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// Its media type, from the answer or from itself.
    pub media_type: String,
    /// Other manifests, if it is an index.
    pub manifests: Vec<Descriptor>,
    /// The configuration, if it has one.
    pub config: Option<Descriptor>,
    /// Layers, or the blobs of an artifact.
    pub layers: Vec<Descriptor>,
    /// What it refers to.
    pub subject: Option<Descriptor>,
    /// Digests that cannot be checked, descriptors without one, sizes that are no length.
    pub left_out: usize,
}

/// Whether a media type is that of a manifest rather than of a blob.
pub fn is_manifest(media_type: &str) -> bool {
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST, ORAS_MANIFEST].contains(&media_type)
}

impl Manifest {
    /// Reads a manifest. `media_type` is that of the answer; the document's own is used if that is none of
    /// the known ones.
    ///
    /// Errors: in words, if it is no JSON object or too long.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Manifest, String> {
        if bytes.len() > LONGEST {
            return Err(format!("a manifest of {} bytes; {LONGEST} are allowed", bytes.len()));
        }
        // serde_json gives up at a depth of 128.
        let document: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let Value::Object(fields) = &document else {
            return Err("a manifest that is no JSON object".to_owned());
        };
        let media_type = media_type.split(';').next().unwrap_or("").trim();
        let own = fields.get("mediaType").and_then(Value::as_str);
        let mut manifest = Manifest {
            media_type: match own {
                Some(own) if !is_manifest(media_type) => own.to_owned(),
                _ => media_type.to_owned(),
            },
            ..Manifest::default()
        };
        manifest.manifests = manifest.list(fields.get("manifests"));
        manifest.config = fields.get("config").and_then(|value| manifest.descriptor(value));
        manifest.layers = manifest.list(fields.get("layers"));
        let blobs = manifest.list(fields.get("blobs"));
        manifest.layers.extend(blobs);
        manifest.subject = fields.get("subject").and_then(|value| manifest.descriptor(value));
        Ok(manifest)
    }

    /// Everything that it names, but what it refers to.
    pub fn content(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().chain(&self.config).chain(&self.layers)
    }

    fn list(&mut self, value: Option<&Value>) -> Vec<Descriptor> {
        let Some(Value::Array(values)) = value else { return Vec::new() };
        values.iter().filter_map(|value| self.descriptor(value)).collect()
    }

    fn descriptor(&mut self, value: &Value) -> Option<Descriptor> {
        let found = descriptor(value);
        self.left_out += usize::from(found.is_none());
        found
    }
}

fn descriptor(value: &Value) -> Option<Descriptor> {
    let text =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let digest = value.get("digest")?.as_str()?.parse().ok()?;
    let platform = value.get("platform").and_then(|platform| {
        let mut words = vec![text(platform, "os")?, text(platform, "architecture")?];
        words.extend(text(platform, "variant"));
        Some(words.join("/"))
    });
    Some(Descriptor {
        media_type: text(value, "mediaType").unwrap_or_default(),
        digest,
        // Lengths are signed in the specification, and as long as a file can be.
        size: value.get("size")?.as_u64().filter(|size| i64::try_from(*size).is_ok())?,
        platform,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(n: u8) -> String {
        format!("sha256:{:064x}", n)
    }

    #[test]
    fn an_image_an_index_and_an_artifact() {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}",
                "config":{{"mediaType":"c","digest":"{}","size":2}},
                "layers":[{{"mediaType":"l","digest":"{}","size":9007199254740993}},
                          {{"mediaType":"l","digest":"md5:00","size":1}},
                          {{"mediaType":"l","digest":"{}","size":-1}}],
                "subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":7}}}}"#,
            digest(1),
            digest(2),
            digest(3),
            digest(4)
        );
        let found = Manifest::parse("application/json; charset=utf-8", text.as_bytes()).unwrap();
        assert_eq!(found.media_type, OCI_MANIFEST);
        assert_eq!(found.config.as_ref().unwrap().size, 2);
        assert_eq!(found.layers.len(), 1);
        assert_eq!((found.layers[0].size, found.left_out), (9_007_199_254_740_993, 2));
        assert_eq!(found.subject.as_ref().unwrap().digest.as_str(), digest(4));
        assert_eq!(found.content().count(), 2);

        let text = format!(
            r#"{{"manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":5,
                "platform":{{"os":"linux","architecture":"arm64","variant":"v8"}}}}]}}"#,
            digest(5)
        );
        let found = Manifest::parse(OCI_INDEX, text.as_bytes()).unwrap();
        assert_eq!(found.media_type, OCI_INDEX);
        assert_eq!(found.manifests[0].platform.as_deref(), Some("linux/arm64/v8"));
        assert!(is_manifest(&found.manifests[0].media_type) && !is_manifest("c"));

        let text = format!(r#"{{"blobs":[{{"digest":"{}","size":0}}]}}"#, digest(6));
        assert_eq!(Manifest::parse(ORAS_MANIFEST, text.as_bytes()).unwrap().layers[0].size, 0);
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let deep = format!("{{\"layers\":{}", "[".repeat(100_000));
        let long = vec![b' '; LONGEST + 1];
        for bytes in [&b""[..], b"[]", b"null", b"{", deep.as_bytes(), &long] {
            assert!(Manifest::parse(OCI_MANIFEST, bytes).is_err());
        }
        let odd = br#"{"layers":7,"config":[],"manifests":[{},null,"x"],"subject":{"digest":5}}"#;
        let found = Manifest::parse("", odd).unwrap();
        assert_eq!((found.content().count(), found.left_out), (0, 5));
    }

    proptest! {
        #[test]
        fn anything_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::parse("", &bytes);
        }
    }
}
