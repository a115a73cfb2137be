//! Lists: pages by `Link`, in the words of ACR; referrers.

use blobdir::emulator::registry::Config;
use serde_json::json;

use crate::client::{OCI_INDEX, OCI_MANIFEST, Registry, code, json};

/// Follows `Link` from page to page; the entries, and how many pages there were.
fn all(registry: &Registry, first: &str, key: &str) -> (Vec<String>, usize) {
    let (mut entries, mut pages, mut path) = (Vec::new(), 0, first.to_owned());
    loop {
        let answer = registry.get(&path, &[]).expect(200);
        let page = json(&answer)[key].as_array().unwrap().clone();
        entries.extend(page.iter().map(|entry| entry.as_str().unwrap().to_owned()));
        pages += 1;
        let link = answer.header("link");
        let Some(next) = link.strip_prefix('<').and_then(|link| link.split_once(">; rel=\"next\""))
        else {
            return (entries, pages);
        };
        path = next.0.to_owned();
    }
}

#[test]
fn repositories_come_in_pages() {
    let registry = Registry::new();
    let names = ["alpine", "lib/zeta", "lib/zeta/deep", "prod/bash"];
    for name in names {
        registry.server.push_image(name, "v1", &[]).unwrap();
    }
    assert_eq!(
        all(&registry, "/v2/_catalog?n=3", "repositories"),
        (names.map(String::from).into(), 2)
    );
    // A full page has a link, even if it is the last.
    assert_eq!(all(&registry, "/v2/_catalog?n=2", "repositories").1, 3);
    assert_eq!(all(&registry, "/acr/v1/_catalog?n=1", "repositories").0, names);
    let first = registry.get("/v2/_catalog?n=2", &[]).expect(200);
    let link = "</v2/_catalog?last=lib%2Fzeta&n=2&orderby=>; rel=\"next\"";
    assert_eq!(first.header("link"), link);
    assert_eq!(json(&registry.get("/v2/_catalog?n=0", &[]))["repositories"], json!([]));
    assert_eq!(all(&registry, "/v2/_catalog?n=junk", "repositories").0.len(), 4);
    let refused = registry.get("/v2/_catalog?n=1001", &[]).expect(400);
    assert_eq!(code(&refused), "PAGINATION_NUMBER_INVALID");
}

#[test]
fn tags_come_in_pages_and_in_order() {
    let registry = Registry::with(Config { page_size: 2, ..Config::default() });
    for tag in ["latest", "v1", "A", "z", "v10"] {
        registry.server.push_image("team/app", tag, &[]).unwrap();
    }
    let (tags, pages) = all(&registry, "/v2/team/app/tags/list", "tags");
    assert_eq!((tags.join(" ").as_str(), pages), ("A latest v1 v10 z", 3));
    assert_eq!(code(&registry.get("/v2/nobody/tags/list", &[]).expect(404)), "NAME_UNKNOWN");
}

#[test]
fn referrers_are_those_with_this_subject() {
    let registry = Registry::new();
    let subject = registry.server.push_image("a", "v1", &[b"1"]).unwrap();
    let attach = |kind: &str, note: &str| {
        let config = registry.server.push_blob("a", b"{}").unwrap();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": kind,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2 },
            "layers": [],
            "subject": { "mediaType": OCI_MANIFEST, "digest": subject, "size": 1 },
            "annotations": { "note": note },
        });
        let body = manifest.to_string();
        let headers = [("content-type", OCI_MANIFEST)];
        let path = format!("/v2/a/manifests/{}", crate::client::sha256(body.as_bytes()));
        let made = registry.send("PUT", &path, &headers, body.as_bytes()).expect(201);
        assert_eq!(made.header("oci-subject"), subject);
    };
    attach("application/sbom", "one");
    attach("application/signature", "two");
    let path = format!("/v2/a/referrers/{subject}");
    let answer = registry.get(&path, &[]).expect(200);
    assert_eq!(answer.header("content-type"), OCI_INDEX);
    assert_eq!(json(&answer)["manifests"].as_array().unwrap().len(), 2);
    let some = registry.get(&format!("{path}?artifactType=application/sbom"), &[]).expect(200);
    assert_eq!(some.header("oci-filters-applied"), "artifactType");
    let found = &json(&some)["manifests"];
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["annotations"]["note"], "one");
    let none = registry.get(&format!("/v2/b/referrers/{subject}"), &[]).expect(200);
    assert_eq!(json(&none)["manifests"], json!([]));
    let without = Registry::with(Config { referrers: false, ..Config::default() });
    let refused = without.get(&path, &[]).expect(404);
    assert_eq!(refused.header("content-type"), "text/plain; charset=utf-8");
}
