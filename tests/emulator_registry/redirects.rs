//! Blobs from the second port, by addresses that expire.

use std::time::Duration;

use blobdir::emulator::registry::{Config, Operation, Redirect};

use crate::client::{Registry, basic, noise, send_to, sha256, token_config};
use crate::http::Answer;

fn with_blob(redirect: Redirect) -> (Registry, Vec<u8>, String) {
    let registry = Registry::with(Config { redirect: Some(redirect), ..token_config() });
    let bytes = noise(100_000);
    let digest = registry.server.push_blob("team/app", &bytes).unwrap();
    (registry, bytes, format!("/v2/team/app/blobs/{digest}"))
}

/// Where a blob is to be fetched: the path and query of the other port.
fn away(registry: &Registry, method: &str, path: &str) -> String {
    let headers = [("authorization", &*basic("u", "p")), ("range", "bytes=junk")];
    let answer = registry.send(method, path, &headers, b"").expect(307);
    assert!(answer.has("docker-content-digest") && !answer.has("etag"));
    let location = answer.header("location");
    let prefix = format!("http://{}", registry.server.data_addr().unwrap());
    location.strip_prefix(&prefix).unwrap_or_else(|| panic!("{location}")).to_owned()
}

fn fetch(registry: &Registry, method: &str, at: &str, headers: &[(&str, &str)]) -> Answer {
    send_to(registry.server.data_addr().unwrap(), method, at, headers, b"").unwrap()
}

#[test]
fn a_blob_is_fetched_where_the_registry_says() {
    let (registry, bytes, path) = with_blob(Redirect::default());
    assert_ne!(registry.server.data_addr().unwrap().port(), registry.server.addr().port());
    let at = away(&registry, "GET", &path);
    assert!(at.contains("?se=20") && at.contains("&sig="), "{at}");
    let whole = fetch(&registry, "GET", &at, &[]).expect(200);
    assert!(whole.body == bytes && !whole.has("docker-content-digest"));
    let part = fetch(&registry, "GET", &at, &[("range", "bytes=99990-200000")]).expect(206);
    assert_eq!(part.header("content-range"), "bytes 99990-99999/100000");
    assert_eq!(part.body, &bytes[99_990..]);
    let past = fetch(&registry, "GET", &at, &[("range", "bytes=100000-")]).expect(416);
    assert_eq!(past.header("content-range"), "bytes */100000");
    let head = fetch(&registry, "HEAD", &away(&registry, "HEAD", &path), &[]).expect(200);
    assert_eq!(head.header("content-length"), "100000");
    let server = &registry.server;
    let counts =
        [Operation::GetBlob, Operation::HeadBlob, Operation::GetBlobData, Operation::HeadBlobData];
    assert_eq!(counts.map(|op| server.requests(op)), [1, 1, 3, 1]);
    assert_eq!((server.data_connections(), server.connections()), (4, 6));
    // Manifests do not go away, nor does what is not there.
    let headers = [("authorization", &*basic("u", "p"))];
    registry.get(&format!("/v2/team/app/blobs/{}", sha256(b"")), &headers).expect(404);
}

#[test]
fn an_address_is_all_the_credential_there_is() {
    let (registry, _, path) = with_blob(Redirect::default());
    let at = away(&registry, "GET", &path);
    let refused = fetch(&registry, "GET", &at, &[("authorization", "Bearer x")]).expect(400);
    assert_eq!(refused.header("x-ms-error-code"), "InvalidAuthenticationInfo");
    assert!(refused.text().contains("<Code>InvalidAuthenticationInfo</Code>"));
    let later = at.replace("?se=20", "?se=21");
    let (unsigned, _) = at.split_once("&sig").unwrap();
    for changed in [later.as_str(), unsigned, at.split('?').next().unwrap()] {
        let refused = fetch(&registry, "GET", changed, &[]).expect(403);
        assert_eq!(refused.header("x-ms-error-code"), "AuthenticationFailed");
    }
    registry.server.advance_clock(Duration::from_secs(20 * 60 - 5));
    fetch(&registry, "GET", &at, &[]).expect(200);
    registry.server.advance_clock(Duration::from_secs(10));
    fetch(&registry, "GET", &at, &[]).expect(403);
    fetch(&registry, "GET", &away(&registry, "GET", &path), &[]).expect(200);
    fetch(&registry, "GET", "/v2/", &[]).expect(404);
}

#[test]
fn an_address_for_get_may_be_no_good_for_head() {
    let (registry, _, path) = with_blob(Redirect { refuse_head: true, ..Redirect::default() });
    let at = away(&registry, "HEAD", &path);
    fetch(&registry, "HEAD", &at, &[]).expect(403);
    let probe = fetch(&registry, "GET", &at, &[("range", "bytes=0-0")]).expect(206);
    assert_eq!(probe.header("content-range"), "bytes 0-0/100000");
}
