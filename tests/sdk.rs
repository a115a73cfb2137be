//! The service's own SDK for Python, as a judge that nobody here wrote: of the built-in server, and of
//! what a mount makes of its blobs.

#![cfg(feature = "emulator")]

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use support::{Emulator, Mount, account, cannot_mount, output_within, root, skip};
use tls::Identity;

const CONTAINER: &str = "judged";
/// A script takes a few seconds on a quiet machine.
const LIMIT: Duration = Duration::from_secs(300);

/// The interpreter that has the SDK, if it was installed.
fn python() -> Option<PathBuf> {
    let python = root().join("target/tools/sdk/bin/python");
    if !python.exists() {
        skip("the SDK is not installed; run tests/support/setup.sh sdk");
        return None;
    }
    Some(python)
}

fn source() -> String {
    format!("az://{}/{CONTAINER}", account::NAME)
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Runs a script of `external/`; panics with what it said unless it succeeds.
fn run(python: &PathBuf, script: &str, arguments: &[&str], trust: Option<&Identity>) {
    let mut command = Command::new(python);
    command.arg(root().join("tests/external").join(script)).args(arguments);
    if let Some(trust) = trust {
        command.env("REQUESTS_CA_BUNDLE", &trust.authority);
    }
    let output = output_within(LIMIT, command);
    assert!(output.success, "{script} {} failed:\n{}", arguments.join(" "), output.text);
    println!("{}", output.text);
}

/// The URL of a server without the account.
fn origin(emulator: &Emulator) -> &str {
    emulator.endpoint.rsplit_once('/').expect("an account in the URL").0
}

#[test]
fn the_sdk_finds_the_emulator_to_be_the_service() {
    let Some(python) = python() else { return };
    let data = TempDir::new().expect("a data directory");
    let emulator = Emulator::start(data.path());
    run(&python, "page_blob_sdk.py", &[origin(&emulator)], None);
}

#[test]
fn the_same_over_https_with_what_the_sdk_does_there_alone() {
    let Some(python) = python() else { return };
    let data = TempDir::new().expect("a data directory");
    let (identity, options) = https(&data);
    let options: Vec<&str> = options.iter().map(String::as_str).chain(["--soft-delete"]).collect();
    let emulator = Emulator::start_with(&data.path().join("blobs"), &options);
    assert!(emulator.endpoint.starts_with("https://"), "{}", emulator.endpoint);
    run(&python, "page_blob_sdk.py", &[origin(&emulator)], Some(&identity));
}

#[test]
fn the_sdk_and_a_mount_agree_on_every_blob() {
    let Some(python) = python() else { return };
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let data = TempDir::new().expect("a data directory");
    let emulator = Emulator::start_with(data.path(), &["--container", CONTAINER]);
    let mount = Mount::start(&source(), &[], &emulator.environment);
    run(&python, "sdk_mount.py", &[origin(&emulator), CONTAINER, utf8(mount.path())], None);
    mount.unmount();
}

#[test]
fn the_sdk_and_a_mount_agree_under_a_key() {
    let Some(python) = python() else { return };
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let scratch = TempDir::new().expect("a directory");
    let (identity, options) = https(&scratch);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let options = [&["--container", CONTAINER], &options[..]].concat();
    let emulator = Emulator::start_with(&scratch.path().join("blobs"), &options);
    let key = scratch.path().join("key");
    let mut file = OpenOptions::new();
    let mut file = file.write(true).create_new(true).mode(0o600).open(&key).expect("a key file");
    writeln!(file, "qgLDcLz2UxMVgkdQ3mPmDzaUkxlT3dBIyCEfnLwkZmI=").expect("a key");
    let mut environment = emulator.environment.clone();
    environment.push(("SSL_CERT_FILE".to_owned(), utf8(&identity.authority).to_owned()));
    let mount = Mount::start(&source(), &[&format!("cpk={}", key.display())], &environment);
    let arguments = [origin(&emulator), CONTAINER, utf8(mount.path()), utf8(&key)];
    run(&python, "sdk_mount.py", &arguments, Some(&identity));
    mount.unmount();
}

/// An identity in a directory, and what makes a server use it.
fn https(directory: &TempDir) -> (Identity, Vec<String>) {
    let identity = Identity::new(directory.path());
    let options = vec![
        format!("--tls-certificate={}", identity.certificate.display()),
        format!("--tls-key={}", identity.key.display()),
    ];
    (identity, options)
}
