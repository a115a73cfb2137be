//! Customers' keys and encryption scopes on real mounts, over a server that enforces them: HTTPS alone,
//! 409 without the key or with another one.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use support::{
    BLOBDIR, Emulator, Mount, account, cannot_mount, output_within, skip, state_dir, wait_until,
};
use tls::Identity;

const CONTAINER: &str = "vault";
/// The base64 of 32 bytes, and of 32 others.
const KEY: &str = "qgLDcLz2UxMVgkdQ3mPmDzaUkxlT3dBIyCEfnLwkZmI=";
const OTHER: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
/// How long a command may take that mounts nothing.
const LIMIT: Duration = Duration::from_secs(60);

/// A server over HTTPS with one container, and files with keys.
struct Vault {
    emulator: Emulator,
    identity: Identity,
    scratch: TempDir,
}

impl Vault {
    fn start() -> Vault {
        let scratch = TempDir::new().unwrap();
        let identity = Identity::new(scratch.path());
        let options = [
            "--container",
            CONTAINER,
            "--tls-certificate",
            identity.certificate.to_str().unwrap(),
            "--tls-key",
            identity.key.to_str().unwrap(),
        ];
        let emulator = Emulator::start_with(&scratch.path().join("blobs"), &options);
        Vault { emulator, identity, scratch }
    }

    fn key_file(&self, key: &str) -> PathBuf {
        key_file(self.scratch.path(), key)
    }

    fn environment(&self) -> Vec<(String, String)> {
        let trust = self.identity.authority.to_str().unwrap().to_owned();
        let mut environment = self.emulator.environment.clone();
        environment.push(("SSL_CERT_FILE".to_owned(), trust));
        environment
    }

    fn mount(&self, key: Option<&str>) -> Mount {
        self.mount_with(key, &[])
    }

    fn mount_with(&self, key: Option<&str>, environment: &[(&str, &str)]) -> Mount {
        let option = key.map(|key| format!("cpk={}", self.key_file(key).display()));
        let options: Vec<&str> = option.iter().map(String::as_str).collect();
        let mut all = self.environment();
        all.extend(environment.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        Mount::start(&source(), &options, &all)
    }
}

fn source() -> String {
    format!("az://{}/{CONTAINER}", account::NAME)
}

fn key_file(directory: &Path, key: &str) -> PathBuf {
    let path = directory.join(format!("key-{}", &key[..2]));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
    writeln!(file, "{key}").unwrap();
    path
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 512 * 31 + at) as u8).collect()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.expect_err("it has no right to this").raw_os_error().unwrap()
}

#[test]
fn all_that_a_mount_does_works_under_a_key() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let vault = Vault::start();
    let mount = vault.mount(Some(KEY));
    let at = |name: &str| mount.path().join(name);
    let data = pattern(9_000_001);
    fs::write(at("large"), &data).unwrap();
    fs::write(at("small"), b"x").unwrap();
    fs::create_dir(at("dir")).unwrap();
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(at("dir/open"));
    let file = file.unwrap();
    file.write_all_at(&data[..5000], 0).unwrap();
    file.sync_all().unwrap();
    // A hole, a smaller and a larger length.
    file.write_all_at(&[0; 2048], 1024).unwrap();
    file.set_len(4000).unwrap();
    file.set_len(6000).unwrap();
    file.sync_all().unwrap();
    let expected = [&data[..1024], &[0; 2048], &data[3072..4000], &[0; 2000]].concat();
    // Renamed while it is dirty, onto another file, which is open too.
    file.write_all_at(b"dirty", 0).unwrap();
    fs::write(at("old"), b"to be replaced").unwrap();
    let replaced = OpenOptions::new().write(true).open(at("old")).unwrap();
    fs::rename(at("dir/open"), at("old")).unwrap();
    file.write_all_at(b"later", 5).unwrap();
    file.sync_all().unwrap();
    let expected = [b"dirtylater", &expected[10..]].concat();
    assert!(fs::read(at("old")).unwrap() == expected);
    drop((file, replaced));
    // An older state of it, under the same key.
    let mut command = Command::new(BLOBDIR);
    command.arg("snapshot").arg(at("old"));
    let output = output_within(LIMIT, command);
    assert!(output.success, "{}", output.text);
    fs::write(at("old"), b"newer").unwrap();
    let older = fs::read(output.text.trim()).unwrap();
    assert!(older == expected, "{}", output.text);
    fs::write(at("old"), older).unwrap();
    fs::remove_file(output.text.trim()).unwrap();
    // The service cannot read what it would copy from; nobody sees more of it than the time it takes.
    fs::copy(at("large"), at("dir/copied")).unwrap();
    fs::rename(at("large"), at("dir/large")).unwrap();
    fs::remove_file(at("small")).unwrap();
    mount.unmount();

    // By a mount that has cached nothing.
    let mount = vault.mount(Some(KEY));
    let at = |name: &str| mount.path().join(name);
    assert!(fs::read(at("dir/large")).unwrap() == data);
    assert!(fs::read(at("dir/copied")).unwrap() == data);
    assert!(fs::read(at("old")).unwrap() == expected);
    let mut names: Vec<_> =
        fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["dir", "old"]);
    fs::remove_dir_all(at("dir")).unwrap();
    mount.unmount();
}

#[test]
fn without_the_key_or_with_another_nothing_is_read_or_written() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let vault = Vault::start();
    let mount = vault.mount(Some(KEY));
    let data = pattern(3000);
    fs::write(mount.path().join("secret"), &data).unwrap();
    fs::write(mount.path().join("other"), &data).unwrap();
    mount.unmount();
    for key in [None, Some(OTHER)] {
        let mount = vault.mount(key);
        let secret = mount.path().join("secret");
        assert_eq!(fs::metadata(&secret).unwrap().len(), 3000, "names and lengths are no secret");
        assert_eq!(refused(File::open(&secret)), libc::EACCES);
        assert_eq!(refused(OpenOptions::new().write(true).open(&secret)), libc::EACCES);
        let remedy = if key.is_some() { "with another key" } else { "give it by -o cpk=FILE" };
        assert!(mount.log().contains(remedy), "{}", mount.log());
        if key.is_none() {
            fs::write(mount.path().join("plain"), b"everybody's").unwrap();
            // Whoever may delete needs no key for it.
            fs::remove_file(mount.path().join("other")).unwrap();
        }
        mount.unmount();
    }
    let mount = vault.mount(Some(KEY));
    assert!(fs::read(mount.path().join("secret")).unwrap() == data);
    assert!(!mount.path().join("other").exists());
    assert_eq!(refused(File::open(mount.path().join("plain"))), libc::EACCES);
    assert!(mount.log().contains("mount it without -o cpk"), "{}", mount.log());
    mount.unmount();
}

/// The key is in the memory of the daemon, in its file, and in requests to the endpoint; nowhere else.
#[test]
fn a_key_is_shown_to_nobody() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let vault = Vault::start();
    let mount = vault.mount_with(Some(KEY), &[("BLOBDIR_LOG", "trace")]);
    let file = mount.path().join("f");
    fs::write(&file, pattern(10_000)).unwrap();
    fs::rename(&file, mount.path().join("g")).unwrap();
    assert_eq!(fs::read(mount.path().join("g")).unwrap().len(), 10_000);
    let process = Path::new("/proc").join(mount.pid().to_string());
    let mut shown = fs::read_to_string("/proc/self/mounts").unwrap();
    for name in ["cmdline", "environ"] {
        shown.push_str(&String::from_utf8_lossy(&fs::read(process.join(name)).unwrap()));
    }
    let log = mount.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log has something to say");
    shown.push_str(&log);
    // Neither whole nor in part.
    let part = KEY.as_bytes().windows(8).find(|part| shown.contains(str::from_utf8(part).unwrap()));
    assert_eq!(part.map(String::from_utf8_lossy), None);
    mount.unmount();
}

/// A server that sends everybody elsewhere, and somebody elsewhere who listens.
#[test]
fn a_key_does_not_follow_a_redirect() {
    let scratch = TempDir::new().unwrap();
    let identity = Identity::new(scratch.path());
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let target = elsewhere.local_addr().unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_file(&identity.certificate).unwrap()];
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&identity.key).unwrap())
        .unwrap();
    let config = Arc::new(config);
    let (sender, heard) = std::sync::mpsc::channel();
    // Ends with the test's process: it waits for connections that nobody makes any more.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            // Lists are refused, so that the blob itself is asked for.
            let status = match head.contains("comp=list") {
                true => "403 Forbidden".to_owned(),
                false => format!("307 Temporary Redirect\r\nLocation: https://{target}/"),
            };
            let end = "Content-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n{end}").as_bytes());
            let _ = sender.send(head);
        }
    });
    let mut command = Command::new(BLOBDIR);
    command
        .arg("mount")
        .arg(format!("https://{address}/{}/{CONTAINER}/blob?sv=2021-12-02&sig=x", account::NAME))
        .arg(scratch.path())
        .arg("-o")
        .arg(format!(
            "cpk={},state_dir={},timeout=5s",
            key_file(scratch.path(), KEY).display(),
            state_dir().display()
        ))
        .env("SSL_CERT_FILE", &identity.authority);
    let output = output_within(LIMIT, command);
    assert!(!output.success, "{}", output.text);
    let heads: Vec<String> = heard.try_iter().collect();
    assert!(heads.iter().any(|head| head.contains(KEY)), "the key was never sent: {heads:?}");
    let came = wait_until(Duration::from_millis(300), || elsewhere.accept().is_ok());
    assert!(!came, "somebody followed");
}

#[test]
fn keys_that_cannot_be_used_are_refused_with_the_remedy() {
    let scratch = TempDir::new().unwrap();
    let good = key_file(scratch.path(), KEY);
    let (open, bad) = (scratch.path().join("open"), scratch.path().join("bad"));
    fs::copy(&good, &open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o640)).unwrap();
    assert_ne!(fs::metadata(&open).unwrap().mode() & 0o077, 0);
    fs::copy(&good, &bad).unwrap();
    fs::write(&bad, "not a key").unwrap();
    let missing = scratch.path().join("none");
    let https = "https://127.0.0.1:9/devstoreaccount1/vault";
    let http = "http://127.0.0.1:9/devstoreaccount1/vault";
    for (source, options, words) in [
        (https, format!("cpk={}", open.display()), "others can read it (mode 640); run chmod 600"),
        (https, format!("cpk={}", bad.display()), "it does not hold the base64 of 32 bytes"),
        (https, format!("cpk={}", missing.display()), "No such file"),
        (http, format!("cpk={}", good.display()), "a key is sent over HTTPS alone"),
        (
            https,
            format!("cpk={},encryption_scope=abc", good.display()),
            "-o cpk and -o encryption_scope are both given",
        ),
        (https, "encryption_scope=a_b".to_owned(), "a scope's name has 3 to 63"),
    ] {
        let mut command = Command::new(BLOBDIR);
        command.args(["mount", source]).arg(scratch.path()).arg("-o").arg(&options);
        let output = output_within(LIMIT, command);
        assert_eq!(output.code, Some(2), "{options}: {}", output.text);
        assert!(output.text.contains(words), "{options}: {}", output.text);
        assert!(!output.text.contains(&KEY[..8]) && !output.text.contains("not a key"));
    }
}

/// Everything that is written is under the scope, renamed or not.
#[test]
fn a_scope_is_that_of_everything_written() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let data = TempDir::new().unwrap();
    let emulator = Emulator::start_with(data.path(), &["--container", CONTAINER]);
    let plain = Mount::start(&source(), &[], &emulator.environment);
    fs::write(plain.path().join("before"), b"plain").unwrap();
    let mount = Mount::start(&source(), &["encryption_scope=finance"], &emulator.environment);
    let content = pattern(5000);
    fs::write(mount.path().join("new"), &content).unwrap();
    fs::rename(mount.path().join("new"), mount.path().join("renamed")).unwrap();
    assert!(fs::read(mount.path().join("renamed")).unwrap() == content);
    assert_eq!(fs::read(mount.path().join("before")).unwrap(), b"plain");
    assert_eq!(attribute(&mount.path().join("renamed"), "encryption_scope"), "finance");
    // Who reads need not name it.
    assert!(fs::read(plain.path().join("renamed")).unwrap() == content);
    mount.unmount();
    plain.unmount();
}

/// The service cannot copy under a scope or a key, so this host does: holes stay holes, and what would
/// take long is left to who asked.
#[test]
fn a_rename_that_the_service_cannot_make_is_made_here() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let data = TempDir::new().unwrap();
    let emulator = Emulator::start_with(data.path(), &["--container", CONTAINER]);
    let mount = Mount::start(&source(), &["encryption_scope=finance"], &emulator.environment);
    let at = |name: &str| mount.path().join(name);
    let file = File::create(at("sparse")).unwrap();
    file.set_len((1 << 30) + 700).unwrap();
    file.write_all_at(&pattern(6 << 20), 1 << 20).unwrap();
    file.write_all_at(b"end", (1 << 30) + 697).unwrap();
    drop(file);
    fs::rename(at("sparse"), at("moved")).unwrap();
    assert!(!at("sparse").exists());
    let moved = File::open(at("moved")).unwrap();
    assert_eq!(moved.metadata().unwrap().len(), (1 << 30) + 700);
    let mut bytes = vec![0; 7 << 20];
    moved.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes[..1 << 20] == vec![0; 1 << 20] && bytes[1 << 20..] == pattern(6 << 20));
    moved.read_exact_at(&mut bytes[..6], (1 << 30) + 694).unwrap();
    assert_eq!(&bytes[..6], b"\0\0\0end");
    drop(moved);
    let stored: u64 = data_bytes(data.path());
    assert!(stored < 8 << 20, "{stored} bytes are stored of 6 MiB");

    let large = File::create(at("large")).unwrap();
    let piece = pattern(4 << 20);
    for at in 0..65 {
        large.write_all_at(&piece, at << 22).unwrap();
    }
    drop(large);
    assert_eq!(refused(fs::rename(at("large"), at("elsewhere"))), libc::EXDEV);
    assert!(at("large").exists() && !at("elsewhere").exists());
    let output = output_within(LIMIT, {
        let mut mv = Command::new("mv");
        mv.arg(at("large")).arg(at("elsewhere"));
        mv
    });
    assert!(output.success, "{}", output.text);
    assert_eq!(fs::metadata(at("elsewhere")).unwrap().len(), 65 << 22);
    assert!(!at("large").exists());
    mount.unmount();
}

/// Bytes that the files of a directory take.
fn data_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.metadata().unwrap() {
            found if found.is_dir() => data_bytes(&entry.path()),
            found => found.blocks() * 512,
        })
        .sum()
}

fn attribute(path: &Path, name: &str) -> String {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let name = std::ffi::CString::new(format!("user.blobdir.{name}")).unwrap();
    let mut value = [0u8; 256];
    // SAFETY: both names end with a NUL, and the buffer is as long as is said.
    let len = unsafe {
        libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    let len =
        usize::try_from(len).unwrap_or_else(|_| panic!("{:?}", std::io::Error::last_os_error()));
    String::from_utf8(value[..len].to_vec()).unwrap()
}
