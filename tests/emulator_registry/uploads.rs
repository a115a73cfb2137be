//! Uploads: in one piece, in many, from another repository; and what is refused.

use crate::client::{Registry, code, noise, sha256, sha512};

fn begin(registry: &Registry) -> String {
    let begun = registry.send("POST", "/v2/team/app/blobs/uploads/", &[], b"").expect(202);
    assert!(begun.has("docker-upload-uuid"));
    begun.header("location").to_owned()
}

#[test]
fn pieces_join_to_a_blob() {
    let registry = Registry::new();
    let bytes = noise(300_000);
    let mut location = begin(&registry);
    for (start, end) in [(0, 100_000), (100_000, 250_000)] {
        let range = format!("{start}-{}", end - 1);
        let headers = [("content-range", &*range)];
        let more = registry.send("PATCH", &location, &headers, &bytes[start..end]).expect(202);
        assert_eq!(more.header("range"), format!("0-{}", end - 1));
        assert_ne!(more.header("location"), location);
        location = more.header("location").to_owned();
    }
    let status = registry.get(&location, &[]).expect(204);
    assert_eq!(status.header("range"), "0-249999");
    let digest = sha256(&bytes);
    let path = format!("{location}&digest={digest}");
    let made = registry.send("PUT", &path, &[], &bytes[250_000..]).expect(201);
    assert_eq!(made.header("docker-content-digest"), digest);
    assert_eq!(made.header("location"), format!("/v2/team/app/blobs/{digest}"));
    assert!(registry.get(made.header("location"), &[]).expect(200).body == bytes);
}

#[test]
fn only_what_has_its_digest_becomes_a_blob() {
    let registry = Registry::new();
    let wrong = format!("{}&digest={}", begin(&registry), sha256(b"other"));
    assert_eq!(code(&registry.send("PUT", &wrong, &[], b"bytes").expect(400)), "DIGEST_INVALID");
    for digest in [sha256(b"bytes"), sha256(b"other")] {
        registry.get(&format!("/v2/team/app/blobs/{digest}"), &[]).expect(404);
    }
    for nonsense in ["", "sha256:12", "md5:00"] {
        let path = format!("{}&digest={nonsense}", begin(&registry));
        assert_eq!(code(&registry.send("PUT", &path, &[], b"x").expect(400)), "DIGEST_INVALID");
    }
    let long = sha512(b"bytes");
    let path = format!("{}&digest={long}", begin(&registry));
    registry.send("PUT", &path, &[], b"bytes").expect(201);
    let kept = registry.get(&format!("/v2/team/app/blobs/{long}"), &[]).expect(200);
    assert_eq!((kept.text(), kept.header("docker-content-digest")), ("bytes", &*long));
}

#[test]
fn pieces_out_of_order_and_old_addresses_are_refused() {
    let registry = Registry::new();
    let first = begin(&registry);
    let next = registry.send("PATCH", &first, &[("content-range", "0-3")], b"0123").expect(202);
    let location = next.header("location").to_owned();
    for range in ["5-6", "0-1", "junk"] {
        let refused =
            registry.send("PATCH", &location, &[("content-range", range)], b"45").expect(416);
        assert_eq!(refused.header("range"), "0-3");
        assert_eq!(refused.header("location"), location);
    }
    let digest = sha256(b"0123");
    let old = registry.send("PUT", &format!("{first}&digest={digest}"), &[], b"").expect(404);
    assert_eq!(code(&old), "BLOB_UPLOAD_INVALID");
    let elsewhere = location.replace("team/app", "team/other");
    let refused = registry.send("PATCH", &elsewhere, &[], b"45").expect(404);
    assert_eq!(code(&refused), "BLOB_UPLOAD_UNKNOWN");
    registry.send("PUT", &format!("{location}&digest={digest}"), &[], b"").expect(201);
    registry.get(&location, &[]).expect(404);
}

#[test]
fn a_cancelled_upload_is_gone() {
    let registry = Registry::new();
    let location = begin(&registry);
    registry.send("DELETE", &location, &[], b"").expect(204);
    registry.get(&location, &[]).expect(404);
    registry.send("PATCH", &location, &[], b"x").expect(404);
}

#[test]
fn a_blob_is_mounted_where_it_is_known() {
    let registry = Registry::new();
    let digest = registry.upload("from", b"shared");
    let path = |from: &str| format!("/v2/to/blobs/uploads/?mount={digest}&from={from}");
    let unknown = registry.send("POST", &path("nobody"), &[], b"").expect(202);
    assert!(unknown.header("location").contains("/blobs/uploads/"));
    registry.get(&format!("/v2/to/blobs/{digest}"), &[]).expect(404);
    let mounted = registry.send("POST", &path("from"), &[], b"").expect(201);
    assert_eq!(mounted.header("docker-content-digest"), digest);
    assert_eq!(registry.get(mounted.header("location"), &[]).expect(200).text(), "shared");
}
