//! Real mounts: by identities, and by credentials that change under them.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tempfile::TempDir;

use blobdir::emulator::identity::Endpoint;
use blobdir::emulator::page_blob::Operation;

use crate::cloud::{APPLICATION, Cloud, Environment, SECRET, variables};
use crate::support::service::{CONTAINER, Service};
use crate::support::{BLOBDIR, Mount, Process, account, cannot_mount, output_within, skip};

const HOUR: Duration = Duration::from_secs(3600);
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Another key that an account may have.
const OTHER_KEY: &str =
    "T3RoZXIga2V5IG9mIHRoZSBhY2NvdW50LCBhcyBvbmUgbWFrZXMgaXQgYW5ldyBpbiB0aGUgcG9ydGFsLi4uLg==";

fn mount(cloud: &Cloud, auth: &str, env: Environment) -> Mount {
    let auth = format!("auth={auth}");
    let every_line = variables(&[("BLOBDIR_LOG", "trace")]);
    Mount::start(&cloud.source(), &[&auth, "attr_timeout=0"], &[env, every_line].concat())
}

fn write(path: &Path, text: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(text).unwrap();
    file.sync_all().unwrap();
}

/// Every clock of the cloud, and none of the mount's: to its eyes the token holds.
fn pass(cloud: &Cloud, time: Duration) {
    cloud.identity.advance_clock(time);
    cloud.service.server().advance_clock(time);
}

/// What must not be in any log: secrets, tokens and statements (JSON in base64 begins so), signatures.
fn assert_no_secret(log: &str, secrets: &[&str]) {
    assert!(log.lines().count() > 20, "so little was logged that nothing can be told: {log}");
    for secret in secrets.iter().chain(&["eyJ", "sig=", "client_secret="]) {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}

#[test]
fn an_application_with_a_secret_mounts_and_no_line_of_the_log_holds_it() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let cloud = Cloud::start();
    let mount = mount(&cloud, "client_secret", cloud.with_secret());
    let path = mount.path().join("file");
    write(&path, b"written by an application");
    assert_eq!(cloud.identity.asked(Endpoint::Entra), 1);
    // In the middle of a file that is open for writing.
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    pass(&cloud, 2 * HOUR);
    file.write_all_at(b"WRITTEN", 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"WRITTEN by an application");
    assert_eq!(cloud.identity.asked(Endpoint::Entra), 2);
    assert_no_secret(&mount.log(), &[SECRET]);
    mount.unmount();
}

/// The service reads the source with the token that is sent along for it.
#[test]
fn a_copy_inside_the_service_is_authorized_by_the_token() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let cloud = Cloud::start();
    let mount = mount(&cloud, "client_secret", cloud.with_secret());
    let bytes: Vec<u8> = (0..3 << 20).map(|at| (at / 512 * 7 + at) as u8).collect();
    let (from, to) = (mount.path().join("from"), mount.path().join("to"));
    write(&from, &bytes);
    let sent = cloud.service.server().requests(Operation::PutPage);
    assert_eq!(fs::copy(&from, &to).unwrap(), bytes.len() as u64);
    File::open(&to).unwrap().sync_all().unwrap();
    assert!(fs::read(&to).unwrap() == bytes, "the copy is another one");
    let server = cloud.service.server();
    assert!(server.requests(Operation::PutPageFromUrl) > 0, "{}", mount.log());
    assert_eq!(server.requests(Operation::PutPage), sent, "bytes went through this host");
    assert_no_secret(&mount.log(), &[SECRET]);
    mount.unmount();
}

#[test]
fn a_workload_mounts_and_its_token_is_renewed_in_its_file() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let cloud = Cloud::start();
    let (env, file) = cloud.with_federated_token(HOUR);
    let federated = fs::read_to_string(&file).unwrap();
    let mount = mount(&cloud, "workload_identity", env);
    write(&mount.path().join("one"), b"1");
    pass(&cloud, 2 * HOUR);
    // Neither the token in use nor the platform's holds any more.
    let error = fs::metadata(mount.path().join("unknown")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    // The platform gives us a new one, and an endpoint that refused is not asked again at once.
    cloud.write_federated_token(&file, HOUR);
    let again = |_| fs::write(mount.path().join("two"), b"2").is_ok();
    let recovered = crate::support::wait_until(PATIENCE, || again(()));
    assert!(recovered, "{}", mount.log());
    assert_eq!(fs::read(mount.path().join("one")).unwrap(), b"1");
    assert_no_secret(&mount.log(), &[federated.trim()]);
    mount.unmount();
}

#[test]
fn a_wrong_secret_is_told_in_one_line_and_nothing_is_mounted() {
    let cloud = Cloud::start();
    cloud.identity.set_secret(APPLICATION, "another");
    let dir = TempDir::new().unwrap();
    for foreground in [true, false] {
        let mut command = Command::new(BLOBDIR);
        command.arg("mount").arg(cloud.source()).arg(dir.path());
        command.args(["-o", "ro,auth=client_secret"]).envs(cloud.with_secret());
        if foreground {
            command.arg("--foreground");
        }
        let output = output_within(PATIENCE, command);
        let line = output.text.trim_end();
        assert!(!output.success);
        assert!(line.starts_with("blobdir: mount http://127.0.0.1:"), "{line}");
        assert!(line.contains("AADSTS7000215: Invalid client secret provided."), "{line}");
        assert!(!line.contains('\n') && !line.contains(SECRET), "{line}");
    }
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(dir.path().to_str().unwrap()), "{table}");
}

#[test]
fn who_is_logged_in_with_the_azure_cli_mounts() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let cloud = Cloud::start();
    cloud.service.server().add_token("token-of-the-cli", None);
    let az = cloud.dir.path().join("az");
    let script =
        "#!/bin/sh\necho '{\"accessToken\": \"token-of-the-cli\", \"expires_on\": 4102444800}'\n";
    fs::write(&az, script).unwrap();
    fs::set_permissions(&az, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", cloud.dir.path().display(), std::env::var("PATH").unwrap());
    let mount = mount(&cloud, "azure_cli", variables(&[("PATH", &path)]));
    write(&mount.path().join("file"), b"written by a person");
    assert_no_secret(&mount.log(), &["token-of-the-cli"]);
    mount.unmount();
}

#[test]
fn what_the_emulator_says_to_export_is_all_that_a_mount_needs() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let mut command = Command::new(BLOBDIR);
    command.args(["emulator", "page-blob", "--listen", "127.0.0.1:0", "--container", CONTAINER]);
    command.arg("--identity");
    let (_emulator, stdout) = Process::start_piped(command);
    let mut env = Environment::new();
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        if let Some((name, value)) = line.strip_prefix("export ").and_then(|it| it.split_once('='))
        {
            env.push((name.to_owned(), value.trim_matches('\'').to_owned()));
        }
        if line.contains("AZURE_POD_IDENTITY_AUTHORITY_HOST") {
            break;
        }
    }
    let source = format!("az://{}/{CONTAINER}", account::NAME);
    for auth in ["auth=client_secret", "auth=managed_identity"] {
        let mount = Mount::start(&source, &[auth], &env);
        write(&mount.path().join(auth), b"x");
        mount.unmount();
    }
}

// -- credentials that change ------------------------------------------------------------------------

/// Puts a file in the place of the one before, as careful programs do.
fn put_credentials(path: &Path, lines: &str) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, lines).unwrap();
    fs::set_permissions(&fresh, PermissionsExt::from_mode(0o600)).unwrap();
    fs::rename(&fresh, path).unwrap();
}

/// A mount whose credential is in a file with these lines.
fn mount_by_file(service: &Service, lines: &str, env: &[(String, String)]) -> (Mount, TempDir) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("credentials");
    put_credentials(&file, lines);
    let option = format!("credentials={}", file.display());
    let env = [env, &variables(&[("BLOBDIR_LOG", "trace")])].concat();
    let source = format!("{}/{CONTAINER}", service.endpoint());
    (Mount::start(&source, &[&option, "attr_timeout=0"], &env), dir)
}

/// Works on the mount, takes away what its credential is worth, sees that it fails without losing anything,
/// puts another credential into the file, and goes on.
fn changes_under_a_mount(mount: &Mount, file: &Path, void: impl FnOnce(), new: &str) {
    let path = mount.path().join("file");
    write(&path, b"before");
    let pid = mount.pid();
    let open = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    void();
    // Who asks is refused; what is written is kept.
    open.write_all_at(b"AFTER!", 0).unwrap();
    let error = open.sync_all().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    let unknown = fs::metadata(mount.path().join("unknown")).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::PermissionDenied, "{unknown}");
    put_credentials(file, new);
    let mut text = String::new();
    File::open(&path).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "AFTER!");
    open.sync_all().unwrap();
    drop(open);
    write(&mount.path().join("another"), b"x");
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 2);
    assert_eq!(mount.pid(), pid);
}

#[test]
fn an_account_key_that_was_rotated_is_taken_from_the_file_without_remounting() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let service = Service::start();
    let lines = |key: &str| format!("# of this test\nAZURE_STORAGE_KEY={key}\n");
    let (mount, dir) = mount_by_file(&service, &lines(account::KEY), &[]);
    let rotate = |key: &str| service.server().set_key(account::NAME, key).unwrap();
    let file = dir.path().join("credentials");
    changes_under_a_mount(&mount, &file, || rotate(OTHER_KEY), &lines(OTHER_KEY));
    assert_no_secret(&mount.log(), &[account::KEY, OTHER_KEY]);
    mount.unmount();
    // Those who know the first key look at what is in the service.
    rotate(account::KEY);
    let store = service.store();
    let path = blobdir::store::RemotePath::new("file").unwrap();
    let opened = service.block_on(store.open(&path, blobdir::store::Access::Read)).unwrap();
    let blobdir::store::Opened::Read(blob) = opened else { panic!("opened for reading") };
    let bytes = service.block_on(blobdir::store::read_all(&*blob, 0..6)).unwrap();
    assert_eq!(bytes, b"AFTER!"[..]);
}

#[test]
fn a_signature_that_ended_is_replaced_from_the_file_without_remounting() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let service = Service::start();
    let (first, second) = (signature(HOUR), signature(5 * HOUR));
    let lines = |sas: &str| format!("AZURE_STORAGE_SAS_TOKEN=\"?{sas}\"\n");
    let (mount, dir) = mount_by_file(&service, &lines(&first), &[]);
    let end = || service.server().advance_clock(2 * HOUR);
    changes_under_a_mount(&mount, &dir.path().join("credentials"), end, &lines(&second));
    assert_no_secret(&mount.log(), &[]);
    mount.unmount();
}

#[test]
fn a_client_secret_that_was_rotated_is_taken_from_the_file_without_remounting() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let cloud = Cloud::start();
    let lines = |secret: &str| {
        let application = cloud.application();
        let mut lines: String =
            application.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        lines.push_str(&format!("AZURE_CLIENT_SECRET={secret}\n"));
        lines
    };
    // The emulators' account would need no credential at all.
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("credentials");
    put_credentials(&file, &lines(SECRET));
    let option = format!("credentials={}", file.display());
    let options = ["auth=entra", &option, "attr_timeout=0"];
    let every_line = variables(&[("BLOBDIR_LOG", "trace")]);
    let mount = Mount::start(&cloud.source(), &options, &every_line);
    let second = "second~s3cr3t";
    let rotate = || {
        cloud.identity.set_secret(APPLICATION, second);
        pass(&cloud, 2 * HOUR);
    };
    changes_under_a_mount(&mount, &file, rotate, &lines(second));
    assert_no_secret(&mount.log(), &[SECRET, second]);
    mount.unmount();
}

/// A signature for all of the container that ends so long from now.
fn signature(lasts: Duration) -> String {
    let date = httpdate::fmt_http_date(SystemTime::now() + lasts);
    // Fri, 20 Nov 2026 07:00:00 GMT
    let words: Vec<&str> = date.split(' ').collect();
    let months =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = 1 + months.iter().position(|month| *month == words[2]).unwrap();
    let ends = format!("{}-{month:02}-{}T{}Z", words[3], words[1], words[4]);
    let resource = format!("/blob/{}/{CONTAINER}", account::NAME);
    let fields =
        ["racwdl", "", &ends, &resource, "", "", "", "2021-12-02", "c", "", "", "", "", "", "", ""];
    let key = STANDARD.decode(account::KEY).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(fields.join("\n").as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("sv=2021-12-02&sr=c&sp=racwdl&se={}&sig={signature}", ends.replace(':', "%3A"))
}
