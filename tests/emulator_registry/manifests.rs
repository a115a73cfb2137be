//! Manifests: what must be accepted, conditions, and what a push checks.

use serde_json::{Value, json};

use crate::client::{OCI_INDEX, OCI_MANIFEST, Registry, code, json, sha256, sha512};

const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

#[test]
fn a_manifest_is_served_to_who_accepts_it() {
    let registry = Registry::new();
    let digest = registry.server.push_image("a", "v1", &[b"layer"]).unwrap();
    for reference in ["v1", &digest] {
        let path = format!("/v2/a/manifests/{reference}");
        let accept = format!("{DOCKER}, {OCI_MANIFEST};q=0.9");
        let answer =
            registry.get(&path, &[("accept", &accept), ("range", "bytes=0-1")]).expect(200);
        assert_eq!(sha256(&answer.body), digest);
        assert_eq!(answer.header("docker-content-digest"), digest);
        assert_eq!(answer.header("content-type"), OCI_MANIFEST);
        assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        let head = registry.head(&path, &[("accept", &accept)]).expect(200);
        assert_eq!(head.header("content-length"), answer.body.len().to_string());
        for other in [DOCKER, "*/*", ""] {
            let refused = registry.get(&path, &[("accept", other)]).expect(404);
            assert_eq!(code(&refused), "MANIFEST_UNKNOWN");
            assert!(refused.text().contains("OCI manifest found"), "{}", refused.text());
        }
        let etag = format!("\"{digest}\"");
        let same = [("accept", OCI_MANIFEST), ("if-none-match", &*etag)];
        assert!(registry.get(&path, &same).expect(304).body.is_empty());
    }
    registry.server.push_manifest("a", Some("index"), OCI_INDEX, b"{}").unwrap();
    let refused = registry.get("/v2/a/manifests/index", &[("accept", OCI_MANIFEST)]).expect(404);
    assert!(refused.text().contains("OCI index found"));
    registry.server.push_manifest("a", Some("docker"), DOCKER, b"{}").unwrap();
    registry.get("/v2/a/manifests/docker", &[]).expect(400);
    registry.get("/v2/a/manifests/docker", &[("accept", DOCKER)]).expect(200);
}

#[test]
fn what_is_not_there_is_told_as_measured() {
    let registry = Registry::new();
    registry.server.push_image("a", "v1", &[]).unwrap();
    let answer = registry.manifest("a", "nope").expect(404);
    assert_eq!(json(&answer)["errors"][0]["detail"]["Tag"], "nope");
    assert_eq!(code(&registry.manifest("a", &sha256(b"")).expect(404)), "MANIFEST_UNKNOWN");
    assert_eq!(code(&registry.manifest("a", "sha256:zz").expect(500)), "UNKNOWN");
    registry.manifest("nobody", "v1").expect(404);
}

fn manifest(layer: &str, config: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2 },
        "layers": [{ "mediaType": "application/octet-stream", "digest": layer, "size": 5 }],
    })
}

#[test]
fn a_pushed_manifest_must_be_right_and_complete() {
    let registry = Registry::new();
    let (layer, config) = (registry.upload("a", b"layer"), registry.upload("a", b"{}"));
    let good = manifest(&layer, &config).to_string();
    let put = |reference: &str, kind: &str, body: &str| {
        let headers = [("content-type", kind)];
        registry.send("PUT", &format!("/v2/a/manifests/{reference}"), &headers, body.as_bytes())
    };
    let made = put("v1", OCI_MANIFEST, &good).expect(201);
    let digest = sha256(good.as_bytes());
    assert_eq!(made.header("docker-content-digest"), digest);
    assert_eq!(registry.manifest("a", &digest).expect(200).text(), good);
    put(&digest, OCI_MANIFEST, &good).expect(201);
    assert_eq!(code(&put(&sha256(b"no"), OCI_MANIFEST, &good).expect(400)), "DIGEST_INVALID");
    assert_eq!(code(&put("v1", OCI_INDEX, &good).expect(400)), "MANIFEST_INVALID");
    assert_eq!(code(&put("v1", OCI_MANIFEST, "{").expect(400)), "MANIFEST_INVALID");
    let missing = manifest(&sha256(b"missing"), &config).to_string();
    let refused = put("v1", OCI_MANIFEST, &missing).expect(404);
    assert_eq!(code(&refused), "MANIFEST_BLOB_UNKNOWN");
    assert!(refused.text().contains(&sha256(b"missing")));
    let large = format!("{}{}", good, " ".repeat(4 << 20));
    put("v1", OCI_MANIFEST, &large).expect(413);
    // Nothing of all that has moved the tag.
    assert_eq!(registry.manifest("a", "v1").expect(200).header("docker-content-digest"), digest);
    let long = sha512(good.as_bytes());
    put(&long, OCI_MANIFEST, &good).expect(201);
    assert_eq!(registry.manifest("a", &long).expect(200).header("docker-content-digest"), long);
}

#[test]
fn a_deleted_manifest_takes_its_tags_along() {
    let registry = Registry::new();
    let digest = registry.server.push_image("a", "v1", &[b"1"]).unwrap();
    let bytes = registry.manifest("a", "v1").body;
    registry.server.push_manifest("a", Some("also"), OCI_MANIFEST, &bytes).unwrap();
    registry.send("DELETE", "/v2/a/manifests/also", &[], b"").expect(202);
    registry.manifest("a", "also").expect(404);
    registry.manifest("a", "v1").expect(200);
    registry.send("DELETE", &format!("/v2/a/manifests/{digest}"), &[], b"").expect(202);
    registry.manifest("a", "v1").expect(404);
    let tags = registry.get("/v2/a/tags/list", &[]).expect(200);
    assert_eq!(json(&tags)["tags"], Value::Null);
    registry.send("DELETE", &format!("/v2/a/manifests/{digest}"), &[], b"").expect(404);
}
