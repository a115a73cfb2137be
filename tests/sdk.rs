//! The service's own SDK for Python, as a judge that nobody here wrote: of the built-in server, and of
//! what a mount makes of its blobs.

#![cfg(feature = "emulator")]

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use support::{Emulator, output_within, root, skip};
use tls::Identity;

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

/// An identity in a directory, and what makes a server use it.
fn https(directory: &TempDir) -> (Identity, Vec<String>) {
    let identity = Identity::new(directory.path());
    let options = vec![
        format!("--tls-certificate={}", identity.certificate.display()),
        format!("--tls-key={}", identity.key.display()),
    ];
    (identity, options)
}
