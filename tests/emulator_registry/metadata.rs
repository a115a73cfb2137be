//! ACR's own interface.

use serde_json::json;

use crate::client::{Registry, code, json};

#[test]
fn everything_has_properties() {
    let registry = Registry::new();
    let digest = registry.server.push_image("prod/bash", "v1", &[b"1"]).unwrap();
    registry.server.push_image("prod/bash", "v2", &[b"2"]).unwrap();
    let get = |path: &str| json(&registry.get(&format!("/acr/v1/{path}"), &[]).expect(200));
    let repository = get("prod%2Fbash?api-version=2021-07-01");
    assert_eq!(repository["imageName"], "prod/bash");
    assert_eq!((&repository["tagCount"], &repository["manifestCount"]), (&json!(2), &json!(2)));
    assert_eq!(repository["registry"], registry.server.addr().to_string());
    let time = repository["createdTime"].as_str().unwrap();
    assert_eq!((time.len(), &time[19..20], &time[27..]), (28, ".", "Z"));
    let tag = get("prod/bash/_tags/v1");
    assert_eq!(tag["tag"]["digest"], digest);
    let manifest = get(&format!("prod/bash/_manifests/{digest}"));
    assert_eq!(manifest["manifest"]["tags"], json!(["v1"]));
    assert_eq!(manifest["manifest"]["architecture"], "amd64");
    let tags = get("prod/bash/_tags?orderby=timedesc");
    assert_eq!(tags["tags"][0]["name"], "v2");
    let first = registry.get("/acr/v1/prod/bash/_tags?n=1", &[]).expect(200);
    let link = "</acr/v1/prod/bash/_tags?last=v1&n=1&orderby=>; rel=\"next\"";
    assert_eq!(first.header("link"), link);
    let of_one = get(&format!("prod/bash/_tags?digest={digest}"));
    assert_eq!(of_one["tags"].as_array().unwrap().len(), 1);
    assert_eq!(get("prod/bash/_manifests")["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(code(&registry.get("/acr/v1/nobody", &[]).expect(404)), "NAME_UNKNOWN");
    assert_eq!(code(&registry.get("/acr/v1/prod/bash/_tags/no", &[]).expect(404)), "TAG_UNKNOWN");
}

#[test]
fn properties_change_and_things_go() {
    let registry = Registry::new();
    registry.server.push_image("a", "v1", &[]).unwrap();
    let body = br#"{"writeEnabled": false}"#;
    let changed = json(&registry.send("PATCH", "/acr/v1/a/_tags/v1", &[], body).expect(200));
    let attributes = &changed["tag"]["changeableAttributes"];
    assert_eq!(
        (&attributes["writeEnabled"], &attributes["readEnabled"]),
        (&json!(false), &json!(true))
    );
    registry.send("PATCH", "/acr/v1/a", &[], b"{").expect(400);
    registry.send("DELETE", "/acr/v1/a/_tags/v1", &[], b"").expect(202);
    registry.send("DELETE", "/acr/v1/a/_tags/v1", &[], b"").expect(404);
    registry.send("DELETE", "/acr/v1/a", &[], b"").expect(202);
    registry.get("/acr/v1/a", &[]).expect(404);
    assert_eq!(json(&registry.get("/v2/_catalog", &[]))["repositories"], json!([]));
}
