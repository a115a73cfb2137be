//! `blobdir demo`: a built-in service in this process and its mount in a child, so that the two live
//! and end as they would on two machines: the mount flushes while the service is still there.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use super::emulator::{self, Service};
use super::scratch::Scratch;
use super::{Failure, mount_point};
use crate::control::{Client, mounts};
use crate::daemon::{self, Signal, Signals};
use crate::logging;

/// The container that is made and mounted.
const CONTAINER: &str = "demo";
/// How often the children are looked at.
const TICK: Duration = Duration::from_millis(20);
/// Where the service would like to listen: the port that other tools for it expect.
const PORT: u16 = 10000;

/// Runs a service and its mount below `dir` or a temporary directory, until `command` has ended or,
/// without one, a signal comes. Gives the exit code of `command`.
pub(super) fn demo(dir: Option<PathBuf>, command: &[OsString]) -> Result<u8, Failure> {
    logging::init(None).map_err(Failure::other)?;
    let signals = forward_signals(Signals::block());
    let scratch = match &dir {
        Some(_) => None,
        None => Some(Scratch::new().map_err(Failure::other)?),
    };
    let dir = dir.unwrap_or_else(|| scratch.as_ref().expect("no directory").path().to_path_buf());
    let cannot = |error| Failure::other(format!("{} cannot be used: {error}", dir.display()));
    fs::create_dir_all(&dir).map_err(cannot)?;
    // The command runs there, where a relative path would mean something else.
    let dir = dir.canonicalize().map_err(cannot)?;
    let disks = dir.join("disks");
    if let Err(error) = fs::create_dir(&disks)
        && error.kind() != ErrorKind::AlreadyExists
    {
        let shown = disks.display();
        return Err(Failure::other(format!("{shown} cannot be made: {error}")));
    }
    let disks = mount_point::prepare(&disks, super::complain).map_err(Failure::other)?;
    mount_point::check_fuse(daemon::caller().0, false).map_err(Failure::other)?;

    let service = start_service(&dir.join(".data"))?;
    let variable = ("AZURE_STORAGE_CONNECTION_STRING", service.connection_string());
    let mut mount = start_mount(&service, &disks, &dir.join(".state"), &variable)?;
    if let Some(code) = wait_until_usable(&mut mount, &disks, &signals)? {
        return Ok(code);
    }
    logging::started(false);
    let done = if command.is_empty() {
        print_welcome(&disks, &service);
        wait_for_end(&mut mount, &signals)
    } else {
        let mut run = Command::new(&command[0]);
        run.args(&command[1..])
            .current_dir(&dir)
            .env("BLOBDIR_DEMO_DIR", &dir)
            .env(variable.0, &variable.1);
        run_command(&mut run, &signals)
    };
    let unmounted = end_mount(mount, &signals);
    service.stop();
    match (done?, unmounted?) {
        (code, true) => Ok(code),
        // The mount has said what went wrong.
        (0, false) => Ok(1),
        (code, false) => Ok(code),
    }
}

/// A thread that waits for signals, so that this one can wait for several things.
fn forward_signals(signals: Signals) -> Receiver<Signal> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || while sender.send(signals.wait()).is_ok() {});
    receiver
}

fn start_service(data: &Path) -> Result<Service, Failure> {
    let settings = |port| emulator::Settings {
        listen: ([127, 0, 0, 1], port).into(),
        data: Some(data.to_path_buf()),
        containers: vec![CONTAINER.to_owned()],
        latency: Duration::ZERO,
        connection_rate: None,
        throttle: None,
        faults: None,
        tls: None,
        soft_delete: false,
        identity: false,
    };
    // Any other port will do as well.
    Service::start(settings(PORT)).or_else(|_| Service::start(settings(0)))
}

fn start_mount(
    service: &Service,
    disks: &Path,
    state: &Path,
    (variable, value): &(&str, String),
) -> Result<Child, Failure> {
    let mut command = Command::new("/proc/self/exe");
    let state = state.to_string_lossy().replace('\\', "\\\\").replace(',', "\\,");
    command
        .args(["mount", "--foreground", "-o"])
        .arg(format!("state_dir={state}"))
        .arg("--")
        .arg(format!("az://{}/{CONTAINER}", service.account()))
        .arg(disks)
        .env(variable, value)
        // Ctrl-C is for this process, and for the command that runs in the tree.
        .process_group(0);
    daemon::unblock_signals_in(&mut command);
    daemon::stop_with_this_thread(&mut command);
    command.spawn().map_err(|error| Failure::other(format!("cannot start the mount: {error}")))
}

/// Waits until the mount serves. If it has ended instead, its exit code; it has said why.
fn wait_until_usable(
    mount: &mut Child,
    disks: &Path,
    signals: &Receiver<Signal>,
) -> Result<Option<u8>, Failure> {
    let (user, _) = daemon::caller();
    loop {
        if let Some(status) = ended(mount)? {
            return Ok(Some(code_of(status)));
        }
        // The control socket is opened when the tree is usable.
        if let Ok(Some(found)) = mounts::at(disks)
            && found.is_ours()
            && Client::connect(&found, user).is_ok()
        {
            return Ok(None);
        }
        if signals.recv_timeout(TICK).is_ok() {
            daemon::ask_to_stop(mount);
        }
    }
}

/// Waits for a signal, or for the tree to be unmounted by somebody else.
fn wait_for_end(mount: &mut Child, signals: &Receiver<Signal>) -> Result<u8, Failure> {
    loop {
        if signals.recv_timeout(TICK).is_ok() || ended(mount)?.is_some() {
            return Ok(0);
        }
    }
}

fn run_command(command: &mut Command, signals: &Receiver<Signal>) -> Result<u8, Failure> {
    let mut child = daemon::unblock_signals_in(command).spawn().map_err(|error| {
        let program = command.get_program().display();
        Failure::other(format!("{program} cannot be run: {error}"))
    })?;
    loop {
        if let Some(status) = ended(&mut child)? {
            return Ok(code_of(status));
        }
        match signals.recv_timeout(TICK) {
            // The terminal has sent it to the command as well.
            Ok(Signal::Interrupt) | Err(_) => {}
            Ok(Signal::Terminate | Signal::HangUp) => daemon::ask_to_stop(&child),
        }
    }
}

/// Lets the mount write everything and end. Whether every byte was written.
fn end_mount(mut mount: Child, signals: &Receiver<Signal>) -> Result<bool, Failure> {
    if ended(&mut mount)?.is_none() {
        daemon::ask_to_stop(&mount);
    }
    loop {
        if let Some(status) = ended(&mut mount)? {
            return Ok(status.success());
        }
        // It answers further signals by saying what they would cost.
        if signals.recv_timeout(TICK).is_ok() {
            daemon::ask_to_stop(&mount);
        }
    }
}

fn ended(child: &mut Child) -> Result<Option<ExitStatus>, Failure> {
    child
        .try_wait()
        .map_err(|error| Failure::other(format!("cannot wait for a child process: {error}")))
}

/// The exit code as a shell shows it.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(1)
}

fn print_welcome(disks: &Path, service: &Service) {
    let shown = disks.display();
    super::print(&format!(
        "\
Page blobs of a server on this machine are files in {shown}

Try in another terminal:
  cd {shown}
  truncate -s 1G disk.img        a sparse blob of 1 GiB, stored as nothing
  mkfs.ext4 disk.img             now a few MiB of it are stored
  mkdir /tmp/disk && mount -o loop disk.img /tmp/disk
  cp -r /etc /tmp/disk; umount /tmp/disk; du -h disk.img
  qemu-system-x86_64 -m 1G -drive file=disk.img,format=raw,if=virtio

For other programs that speak to Azure Storage:
  export AZURE_STORAGE_CONNECTION_STRING='{}'

Ctrl-C writes everything, unmounts, and stops the server.
",
        service.connection_string()
    ));
}
