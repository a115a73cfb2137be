//! `skopeo`, as a judge that nobody here wrote: an image goes in and comes out, with its digests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use blobdir::emulator::registry::{Config, Redirect};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{OCI_INDEX, OCI_MANIFEST, Registry, noise, sha256, token_config};

/// Whether it is here; says so if not.
fn present() -> bool {
    let found = Command::new("skopeo").arg("--version").output().is_ok();
    if !found {
        let reason = "skopeo is not installed; run tests/support/setup.sh packages";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "cannot run here: {reason}");
        eprintln!("skipped: {reason}");
    }
    found
}

fn run(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("timeout");
    command.args(["60", "skopeo"]).args(arguments);
    // Nothing of the developer's own logins may get into a test.
    command.env("REGISTRY_AUTH_FILE", "/nonexistent/auth.json");
    let output = command.output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// A layout on disk with two images of one layer each, and an index of both.
fn layout(dir: &Path) -> PathBuf {
    let layout = dir.join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let put = |bytes: &[u8], kind: &str| {
        let digest = sha256(bytes);
        fs::write(layout.join("blobs/sha256").join(&digest[7..]), bytes).unwrap();
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    };
    let image = |len: usize, architecture: &str| {
        // A type that is not compressed on the way.
        let layer = put(&noise(len), "application/vnd.example.data.v1");
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
        });
        let config = put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer],
        });
        let mut descriptor = put(manifest.to_string().as_bytes(), OCI_MANIFEST);
        descriptor["platform"] = json!({ "architecture": architecture, "os": "linux" });
        descriptor
    };
    let manifests = [image(5_000_000, "amd64"), image(77, "arm64")];
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    let mut descriptor = put(index.to_string().as_bytes(), OCI_INDEX);
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
    let top = json!({ "schemaVersion": 2, "manifests": [descriptor] });
    fs::write(layout.join("index.json"), top.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    layout
}

/// The names of all blobs of a layout; each holds what its name says.
fn digests(layout: &Path) -> Vec<String> {
    let entries = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert_eq!(sha256(&fs::read(&path).unwrap())[7..], name);
            name
        })
        .collect();
    names.sort();
    names
}

/// Copies the layout in and out again.
fn there_and_back(registry: &Registry) {
    let dir = TempDir::new().unwrap();
    let from = layout(dir.path());
    let to = dir.path().join("back");
    let image = format!("docker://{}/prod/bash:v1", registry.server.addr());
    let (source, target) =
        (format!("oci:{}:v1", from.display()), format!("oci:{}:v1", to.display()));
    let creds = ["--dest-tls-verify=false", "--dest-creds=u:p"];
    run(&["copy", "--all", creds[0], creds[1], &source, &image]).unwrap();
    run(&["copy", "--all", "--src-tls-verify=false", "--src-creds=u:p", &image, &target]).unwrap();
    assert_eq!(digests(&from).len(), 7);
    assert_eq!(digests(&from), digests(&to));
    let said = run(&["inspect", "--tls-verify=false", "--creds=u:p", &image]).unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["RepoTags"], json!(["v1"]));
    assert_eq!(said["Architecture"], "amd64");
}

#[test]
fn images_go_in_and_come_out() {
    if present() {
        there_and_back(&Registry::new());
    }
}

#[test]
fn the_same_with_tokens_and_from_the_second_port() {
    if !present() {
        return;
    }
    let redirect = Some(Redirect::default());
    let registry = Registry::with(Config { redirect, ..token_config() });
    there_and_back(&registry);
    assert!(registry.server.data_connections() > 0);
    let image = format!("docker://{}/prod/bash:v1", registry.server.addr());
    let refused = run(&["inspect", "--tls-verify=false", "--creds=u:wrong", &image]).unwrap_err();
    assert!(refused.contains("authentication required"), "{refused}");
}

#[test]
fn a_layout_on_disk_is_pushed_without_a_request() {
    let dir = TempDir::new().unwrap();
    let from = layout(dir.path());
    let registry = Registry::new();
    assert_eq!(registry.server.push_layout("prod/bash", &from).unwrap(), ["v1"]);
    assert_eq!(registry.server.total_requests(), 0);
    let index = registry.manifest("prod/bash", "v1").expect(200);
    assert_eq!(index.header("content-type"), OCI_INDEX);
    for name in digests(&from) {
        let blob = registry.get(&format!("/v2/prod/bash/blobs/sha256:{name}"), &[]).status;
        let manifest = registry.manifest("prod/bash", &format!("sha256:{name}")).status;
        assert!(blob == 200 || manifest == 200, "{name}");
    }
}
