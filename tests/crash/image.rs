//! An ext4 in a file of the mount, by way of a loop device, and files in it that are fsynced.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::random::Random;
use crate::support::{Mount, Output, output_within};

/// The image in the mount.
pub(crate) const NAME: &str = "disk.img";
/// Its size, in a form that truncate(1) knows.
const SIZE: &str = "48M";
/// One command; all of them take well under a second.
const LIMIT: Duration = Duration::from_secs(60);
/// Directories that are worked in at the same time.
const WORKERS: usize = 3;
/// Files in each.
const FILES: u64 = 12;
/// The longest file, in bytes.
const LONGEST: u64 = 40_000;

fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments);
    output_within(LIMIT, command)
}

#[track_caller]
fn must(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(output.success, "{program} {arguments:?}: {}", output.text);
    output.text
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Makes the image.
pub(crate) fn make(mount: &Mount) {
    let image = mount.path().join(NAME);
    must("truncate", &["--size", SIZE, utf8(&image)]);
    // A small journal, which begins anew in every round.
    must("mkfs.ext4", &["-q", "-F", "-b", "4096", "-J", "size=4", utf8(&image)]);
}

/// Replays the journal as a boot would, which repairs nothing else, and checks every structure.
pub(crate) fn replay_and_check(mount: &Mount, round: u64) {
    let image = mount.path().join(NAME);
    let replay = run("e2fsck", &["-p", utf8(&image)]);
    assert!(matches!(replay.code, Some(0 | 1)), "round {round}: replaying: {replay:?}");
    let check = run("e2fsck", &["-f", "-n", utf8(&image)]);
    assert!(check.success, "round {round}: {}", check.text);
}

/// The image as a mounted disk. Dropped, it is taken away, whatever has become of the mount below.
pub(crate) struct Disk {
    device: String,
    mount_point: TempDir,
}

impl Disk {
    /// Attaches and mounts it: with and without the journal of data, and with and without the kernel's
    /// cache below.
    pub(crate) fn attach(mount: &Mount, round: u64) -> Disk {
        let image = mount.path().join(NAME);
        let direct = if round % 4 < 2 { "--direct-io=on" } else { "--direct-io=off" };
        let device = must("losetup", &["--find", "--show", direct, utf8(&image)]);
        let device = device.trim().to_owned();
        let disk = Disk { device, mount_point: TempDir::new().unwrap() };
        let data = if round.is_multiple_of(2) { "data=ordered" } else { "data=journal" };
        let options = format!("{data},errors=remount-ro");
        must("mount", &["-t", "ext4", "-o", &options, &disk.device, utf8(disk.path())]);
        disk
    }

    fn path(&self) -> &Path {
        self.mount_point.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = run("umount", &[utf8(self.path())]);
        if !unmounted.success {
            eprintln!("{}", unmounted.text);
            run("umount", &["--lazy", utf8(self.path())]);
        }
        let detached = run("losetup", &["--detach", &self.device]);
        if !detached.success {
            eprintln!("{}", detached.text);
        }
    }
}

/// What the files in the image hold, by what was acknowledged.
pub(crate) struct Files {
    workers: Vec<BTreeMap<String, Content>>,
}

/// One file: what it held at the last fsync, and what it was about to hold.
#[derive(Clone, Default)]
struct Content {
    fsynced: Option<Vec<u8>>,
    next: Option<Vec<u8>>,
}

impl Files {
    /// There are none.
    pub(crate) fn new() -> Files {
        Files { workers: vec![BTreeMap::new(); WORKERS] }
    }

    /// Looks whether all of them hold what they may.
    pub(crate) fn judge(&mut self, disk: &Disk, round: u64) {
        for (index, files) in self.workers.iter_mut().enumerate() {
            let directory = directory(disk, index);
            fs::create_dir_all(&directory).unwrap();
            for (name, content) in files {
                let found = match fs::read(directory.join(name)) {
                    Ok(found) => Some(found),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    Err(error) => panic!("round {round}, {index}/{name}: {error}"),
                };
                let next = content.next.take();
                assert!(
                    found == content.fsynced || found == next,
                    "round {round}, {index}/{name}: it is neither what was fsynced nor what came after"
                );
                content.fsynced = found;
            }
        }
    }

    /// Writes and fsyncs files until the disk is gone.
    pub(crate) fn work<'scope, 'env: 'scope>(
        &'env mut self,
        scope: &'scope Scope<'scope, 'env>,
        disk: &Disk,
        random: &mut Random,
        killed: &'env AtomicBool,
    ) {
        for (index, files) in self.workers.iter_mut().enumerate() {
            let mut random = random.split();
            let directory = directory(disk, index);
            scope.spawn(move || {
                loop {
                    let name = format!("f{}", random.below(FILES));
                    let content = files.entry(name.clone()).or_default();
                    if let Err(error) = step(&directory, &name, content, &mut random) {
                        assert!(killed.load(Ordering::SeqCst), "{index}/{name}: {error}");
                        return;
                    }
                }
            });
        }
    }
}

fn directory(disk: &Disk, index: usize) -> PathBuf {
    disk.path().join(format!("worker-{index}"))
}

/// A file is replaced, or removed.
fn step(
    directory: &Path,
    name: &str,
    content: &mut Content,
    random: &mut Random,
) -> io::Result<()> {
    let path = directory.join(name);
    let exists = content.fsynced.is_some();
    if exists && random.below(5) == 0 {
        content.next = None;
        // Either, until the directory is fsynced.
        fs::remove_file(&path)?;
    } else {
        let count = random.below(LONGEST) as usize;
        let bytes = random.bytes(count);
        let temporary = directory.join(format!("{name}.new"));
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        content.next = Some(bytes);
        fs::rename(&temporary, &path)?;
    }
    File::open(directory)?.sync_all()?;
    content.fsynced = content.next.take();
    Ok(())
}
