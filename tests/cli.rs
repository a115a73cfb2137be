//! What the commands say about bad input: the exit code, exactly one line on stderr, nothing on
//! stdout, nothing mounted, and no secret anywhere.

#![allow(clippy::unwrap_used)] // a test that meets an error is to fail

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use tempfile::TempDir;

/// A source that is understood, at a service that nobody runs.
const SOURCE: &str = "az://devstoreaccount1/disks";

/// `blobdir`, without what this environment may say about accounts.
fn blobdir(args: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin("blobdir"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("AZURE_") || text.starts_with("BLOBDIR_") {
            command.env_remove(name);
        }
    }
    command.args(args).env("AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true");
    command
}

fn run(args: &[&str]) -> Output {
    blobdir(args).output().expect("blobdir runs")
}

/// The single line of stderr, without the program's name.
fn line(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).expect("stderr is text");
    let text = text.strip_suffix('\n').expect("a whole line");
    assert!(!text.contains('\n'), "more than one line: {text:?}");
    assert_eq!(output.stdout, b"", "stdout is for results");
    text.strip_prefix("blobdir: ")
        .unwrap_or_else(|| panic!("the program's name stands first: {text:?}"))
        .to_owned()
}

#[track_caller]
fn assert_refused(args: &[&str], code: i32, expected: &str) {
    let output = run(args);
    assert_eq!(line(&output), expected, "{args:?}");
    assert_eq!(output.status.code(), Some(code), "{args:?}");
}

fn assert_nothing_mounted(dir: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    assert!(!table.contains(dir.to_str().expect("a plain name")), "{table}");
}

#[test]
fn wrong_usage_exits_with_2() {
    for (args, expected) in [
        (&[][..], "a command is missing; 'blobdir --help' lists them"),
        (&["frob"], "unrecognized subcommand 'frob'"),
        (&["mount"], "the following required arguments were not provided: <SOURCE> <DIR>"),
        (&["unmount"], "the following required arguments were not provided: <DIR>"),
        (
            &["unmount", "/", "--timeout", "soon"],
            "invalid value 'soon' for '--timeout <TIME>': expected a time, such as 30, 0.5 or 200ms",
        ),
    ] {
        assert_refused(args, 2, expected);
    }
    let output = run(&["mount", SOURCE, "/mnt", "--force"]);
    assert!(line(&output).starts_with("unexpected argument '--force' found"));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn wrong_options_exit_with_2_and_name_option_and_expectation() {
    for (option, expected) in [
        ("cache-size=1G", "unknown option \"cache-size\"; did you mean cache_size?"),
        ("allow_others", "unknown option \"allow_others\"; did you mean allow_other?"),
        ("ui=5", "unknown option \"ui\"; did you mean uid?"),
        (
            "compression=9",
            "unknown option \"compression\"; 'blobdir mount --help' lists the options",
        ),
        (
            "cache_size=lots",
            "option cache_size: \"lots\" is not a size of at least 4MiB, such as 512MiB",
        ),
        (
            "dirty_limit=1KB",
            "option dirty_limit: \"1KB\" is not a size of at least 4MiB, such as 512MiB",
        ),
        ("umask=0888", "option umask: \"0888\" is not octal permission bits, such as 022"),
        ("uid=root", "option uid: \"root\" is not a number, such as 1000"),
        ("gid=-1", "option gid: \"-1\" is not a number, such as 1000"),
        ("attr_timeout=1d", "option attr_timeout: \"1d\" is not a time, such as 30, 0.5 or 200ms"),
        ("timeout=0", "option timeout: \"0\" is not a time above 0, such as 60 or 500ms"),
        ("timeout", "option timeout needs a value; write -o timeout=TIME"),
        ("ro=yes", "option ro takes no value; write -o ro"),
    ] {
        // The directory is not looked at before all that was typed makes sense.
        assert_refused(&["mount", SOURCE, "/nonexistent", "-o", option], 2, expected);
        let among = format!("ro,{option},allow_other");
        assert_refused(&["mount", "-o", &among, SOURCE, "/nonexistent"], 2, expected);
    }
}

#[test]
fn wrong_sources_exit_with_2() {
    for (source, part) in [
        ("disks", "source \"disks\" has no scheme; write az://ACCOUNT"),
        ("s3://bucket", "unknown scheme \"s3\" in source; write az://ACCOUNT"),
    ] {
        let output = run(&["mount", source, "/nonexistent"]);
        assert!(line(&output).starts_with(part), "{}", line(&output));
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn unusable_mount_points_exit_with_1() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let (file, gone) = (file.to_str().unwrap(), dir.path().join("gone"));
    let gone = gone.to_str().unwrap();
    assert_refused(
        &["mount", SOURCE, gone],
        1,
        &format!("{gone} does not exist; create it with mkdir -p {gone}"),
    );
    assert_refused(&["mount", SOURCE, file], 1, &format!("{file} is not a directory"));
    assert_refused(
        &["mount", SOURCE, "/proc"],
        1,
        "/proc is already a mount point, of proc (proc); choose another directory, or unmount it \
         first: umount /proc",
    );
    assert_nothing_mounted(dir.path());
}

#[test]
fn a_log_file_that_cannot_be_written_exits_with_1() {
    let dir = TempDir::new().unwrap();
    let (point, log) = (dir.path().join("point"), dir.path().join("gone/log"));
    fs::create_dir(&point).unwrap();
    let output =
        run(&["mount", SOURCE, point.to_str().unwrap(), "--log-file", log.to_str().unwrap()]);
    assert!(line(&output).contains("cannot be opened for the log"), "{}", line(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn unmounting_what_is_not_ours_exits_with_1() {
    let dir = TempDir::new().unwrap();
    let shown = dir.path().to_str().unwrap();
    assert_refused(&["unmount", shown], 1, &format!("{shown} is not a mount point"));
    assert_refused(
        &["unmount", "/proc"],
        1,
        "/proc is a mount of type proc, not of blobdir; use umount /proc",
    );
    assert_refused(&["unmount", "/nonexistent"], 1, "/nonexistent does not exist");
}

#[test]
fn an_unreachable_service_is_one_line_and_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let point = dir.path().to_str().unwrap();
    for foreground in [false, true] {
        // The discard port: nobody listens there.
        let mut command = blobdir(&["mount", SOURCE, point, "-o", "timeout=2s"]);
        command.args(foreground.then_some("--foreground")).env(
            "AZURE_STORAGE_CONNECTION_STRING",
            "AccountName=devstoreaccount1;AccountKey=c2VjcmV0LWtleQ==;\
             BlobEndpoint=http://127.0.0.1:9/devstoreaccount1",
        );
        let output = command.output().unwrap();
        let line = line(&output);
        assert!(line.contains(SOURCE), "{line}");
        assert!(!line.contains("c2VjcmV0"), "{line}");
        assert_eq!(output.status.code(), Some(1));
        assert_nothing_mounted(dir.path());
    }
}

#[test]
fn a_signature_in_the_source_is_taken_out_and_never_shown() {
    for (source, code) in [
        ("https://acct.blob.core.windows.net/disks?sv=2026-01-01&sig=c2VjcmV0&se=2030", 1),
        ("az://acct/disks?sv=2026-01-01&sig=c2VjcmV0&se=2030", 1),
        ("s3://bucket?sv=2026-01-01&sig=c2VjcmV0", 2),
        ("disks?sv=2026-01-01&sig=c2VjcmV0", 2),
    ] {
        let mut command = blobdir(&["mount", source, "/nonexistent"]);
        command.env_remove("AZURE_STORAGE_CONNECTION_STRING");
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("blobdir: took the SAS out of the command line"), "{text}");
        assert!(lines[0].contains("AZURE_STORAGE_SAS_TOKEN"), "{text}");
        assert!(!text.contains("c2VjcmV0") && !text.contains("sv=2026"), "{text}");
        assert_eq!(output.status.code(), Some(code), "{text}");
    }
}

#[test]
fn keys_on_the_command_line_are_refused_and_never_shown() {
    let text = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=c2VjcmV0";
    for args in [&["mount", text, "/mnt"][..], &["mount", SOURCE, "/mnt", "-o", text]] {
        let output = run(args);
        let line = line(&output);
        assert!(line.contains("AZURE_STORAGE_CONNECTION_STRING"), "{line}");
        assert!(!line.contains("c2VjcmV0"), "{line}");
        assert_eq!(output.status.code(), Some(2));
    }
    // Options that nobody knows may be secrets as well: only the name is shown.
    let output = run(&["mount", SOURCE, "/mnt", "-o", "password=c2VjcmV0"]);
    assert!(!line(&output).contains("c2VjcmV0"));
}

#[test]
fn help_lists_every_option() {
    for args in [["mount", "--help"], ["mount", "-h"]] {
        let output = run(&args);
        let help = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0));
        for word in [
            "ro",
            "rw",
            "allow_other",
            "uid=NUMBER",
            "gid=NUMBER",
            "umask=OCTAL",
            "cache_size=SIZE",
            "dirty_limit=SIZE",
            "attr_timeout=TIME",
            "timeout=TIME",
            "az://ACCOUNT",
            "--foreground",
            "--log-file",
        ] {
            assert!(help.contains(word), "{word} is not in\n{help}");
        }
    }
    let version = run(&["--version"]);
    assert!(version.stdout.starts_with(b"blobdir "));
}

/// Runs a check of `/dev` in a mount namespace where it is empty. Needs root.
#[test]
fn a_missing_fuse_device_is_named_with_the_remedy() {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let inner = blobdir(&["mount", SOURCE, dir.path().to_str().unwrap()]);
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c"])
        .arg("mount -t tmpfs none /dev && : > /dev/null && exec \"$@\"")
        .arg("sh")
        .arg(inner.get_program())
        .args(inner.get_args())
        .env("AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true");
    let output = command.output().expect("unshare is part of util-linux");
    let line = line(&output);
    assert!(line.starts_with("/dev/fuse cannot be opened"), "{line}");
    assert!(line.contains("modprobe fuse"), "{line}");
    assert_eq!(output.status.code(), Some(1));
}
