//! Microsoft's own client of Entra ID as a judge of the emulator, which judges ours.

use std::process::Command;
use std::time::Duration;

use crate::cloud::{APPLICATION, ASSIGNED, Cloud, SECRET, SUBJECT, certificate};
use crate::support::{output_within, root, skip};

/// The script takes a few seconds on a quiet machine.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn the_sdk_finds_the_emulator_to_be_entra() {
    let python = root().join("target/tools/sdk/bin/python");
    if !python.exists() {
        return skip("the SDK is not installed; run tests/support/setup.sh sdk");
    }
    let dir = tempfile::tempdir().unwrap();
    let Some((pem, der)) = certificate(dir.path(), "first") else { return };
    let Some((other, _)) = certificate(dir.path(), "other") else { return };
    let cloud = Cloud::start_with(Some(der));
    let federated = |name: &str, subject: &str| {
        let file = dir.path().join(name);
        let token = cloud.identity.federated_token(subject, Duration::from_secs(3600));
        std::fs::write(&file, token).unwrap();
        file
    };
    let (app_service, header) = cloud.identity.app_service();
    let mut command = Command::new(python);
    command
        .arg(root().join("tests/external/identity_sdk.py"))
        .env("BASE", cloud.identity.url())
        .env("TENANT", &cloud.tenant)
        .env("CLIENT", APPLICATION)
        .env("SECRET", SECRET)
        .env("CERTIFICATE", pem)
        .env("OTHER_CERTIFICATE", other)
        .env("FEDERATED_TOKEN", federated("own", SUBJECT))
        .env("STRANGE_TOKEN", federated("strange", "somebody"))
        .env("ASSIGNED", ASSIGNED)
        .env("APP_SERVICE", app_service)
        .env("APP_SERVICE_HEADER", header)
        .env("CONTAINER", cloud.source());
    let output = output_within(LIMIT, command);
    assert!(output.success, "identity_sdk.py failed:\n{}", output.text);
    println!("{}", output.text);
}
