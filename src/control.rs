//! How commands find a running mount and talk to it: a Unix socket for each mount in a directory
//! that only its user may enter, and the kernel's table of mounts.
//!
//! A command sends one line and reads lines until an answer:
//!
//! ```text
//! unmount 120000ms     ->  dirty 1048576     every 200 ms while bytes are on their way
//!                          ok                all bytes are in the service, the tree is unmounted
//!                          error TEXT        it is not; TEXT is for the user
//! ```
//!
//! The connection is closed when the daemon has ended. It knows a mount only as [`Served`].

pub mod mounts;

use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use mounts::Mount;

/// Time between two `dirty` lines: short enough for a progress bar to look alive.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// A peer that is silent for so long, many times [`PROGRESS_INTERVAL`], is not there any more.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest request line, bytes.
const LONGEST_REQUEST: u64 = 256;
/// What a command says when the connection ends too early.
const ENDED_WITHOUT_ANSWER: &str = "the daemon ended before it had said that every byte is written";

/// What a mount does for those who connect. Called from several threads at once.
pub trait Served: Send + Sync {
    /// Bytes that are not yet in the service.
    fn dirty_bytes(&self) -> u64;

    /// Brings all of them there and unmounts, within `timeout`; a tree in use stays mounted.
    ///
    /// Errors: one line for the user.
    fn unmount(&self, timeout: Duration) -> Result<(), String>;
}

/// The socket of one mount. Its threads live as long as the process.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    conversations: Arc<AtomicUsize>,
}

impl Server {
    /// Opens the socket of `mount` in this user's runtime directory and serves it.
    ///
    /// Errors: the directory cannot be made, or is not this user's alone.
    pub fn start(mount: &Mount, user: u32, served: Arc<dyn Served>) -> io::Result<Server> {
        let dir = runtime_dir(user);
        make_private(&dir, user)?;
        Server::start_at(dir.join(socket_name(mount)), served)
    }

    fn start_at(path: PathBuf, served: Arc<dyn Served>) -> io::Result<Server> {
        // The kernel gives the number of an ended mount to a new one, so what is here is stale.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        let conversations = Arc::new(AtomicUsize::new(0));
        let open = Arc::clone(&conversations);
        thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept(&listener, &served, &open))?;
        Ok(Server { path, conversations })
    }

    /// Removes the socket and lets answers that are due get out, for a short time.
    pub fn finish(self) {
        let _ = fs::remove_file(&self.path);
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.conversations.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn accept(listener: &UnixListener, served: &Arc<dyn Served>, open: &Arc<AtomicUsize>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors: others will be closed.
            thread::sleep(PROGRESS_INTERVAL);
            continue;
        };
        let served = Arc::clone(served);
        let conversation = Conversation::begin(open);
        let spawned = thread::Builder::new().name("control-peer".to_owned()).spawn(move || {
            // A peer that went away needs no answer, and what it asked for goes on.
            let unmounted = converse(&stream, &served).unwrap_or(false);
            conversation.end();
            if unmounted {
                // This connection ends with the process, so that the peer knows when that was.
                std::mem::forget(stream);
            }
        });
        if let Err(error) = spawned {
            log::warn!(target: "control", "no thread for a connection: {error}");
        }
    }
}

/// Counts as open until dropped.
struct Conversation(Arc<AtomicUsize>);

impl Conversation {
    fn begin(open: &Arc<AtomicUsize>) -> Conversation {
        open.fetch_add(1, Ordering::AcqRel);
        Conversation(Arc::clone(open))
    }

    fn end(self) {}
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One request and its answer. Whether the tree is unmounted now.
fn converse(mut stream: &UnixStream, served: &Arc<dyn Served>) -> io::Result<bool> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = String::new();
    BufReader::new(stream.take(LONGEST_REQUEST)).read_line(&mut request)?;
    let Some(timeout) = unmount_request(&request) else {
        stream.write_all(b"error request not understood by this version\n")?;
        return Ok(false);
    };
    let (sender, outcome) = mpsc::channel();
    let worker = Arc::clone(served);
    thread::Builder::new()
        .name("control-unmount".to_owned())
        .spawn(move || sender.send(worker.unmount(timeout)))?;
    // The first progress line tells how much there is; a peer that is gone does not stop the work,
    // and this thread stays until it is done, so that the process does not end before.
    let mut peer = stream.write_all(format!("dirty {}\n", served.dirty_bytes()).as_bytes());
    loop {
        match outcome.recv_timeout(PROGRESS_INTERVAL) {
            Err(RecvTimeoutError::Timeout) => {
                let line = format!("dirty {}\n", served.dirty_bytes());
                peer = peer.and_then(|()| stream.write_all(line.as_bytes()));
            }
            Ok(Ok(())) => {
                peer.and_then(|()| stream.write_all(b"ok\n"))?;
                return Ok(true);
            }
            Ok(Err(line)) => {
                let line = format!("error {}\n", line.replace('\n', " "));
                peer.and_then(|()| stream.write_all(line.as_bytes()))?;
                return Ok(false);
            }
            Err(RecvTimeoutError::Disconnected) => {
                stream.write_all(b"error the unmounting failed; see the log\n")?;
                return Ok(false);
            }
        }
    }
}

fn unmount_request(line: &str) -> Option<Duration> {
    let millis = line.strip_suffix('\n')?.strip_prefix("unmount ")?.strip_suffix("ms")?;
    millis.parse().ok().map(Duration::from_millis)
}

/// A connection to the daemon of a mount.
#[derive(Debug)]
pub struct Client(UnixStream);

impl Client {
    /// Connects to the daemon of `mount`, whoever of this user, the mount's owner and root runs it.
    ///
    /// Errors: `NotFound` if there is no such daemon; anything else that connecting says.
    pub fn connect(mount: &Mount, user: u32) -> io::Result<Client> {
        let name = socket_name(mount);
        let mut users = vec![user, 0];
        users.extend(mount.user());
        let mut failure = io::ErrorKind::NotFound.into();
        for dir in users.into_iter().flat_map(runtime_dirs) {
            match UnixStream::connect(dir.join(&name)) {
                Ok(stream) => return Ok(Client(stream)),
                Err(error) => match error.kind() {
                    // A socket that nobody listens at was left behind by a crash.
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {}
                    _ => failure = error,
                },
            }
        }
        Err(failure)
    }

    /// Asks the daemon to write everything and unmount, and waits until it has ended. `progress` is
    /// given the bytes yet to be written, several times a second.
    ///
    /// Errors: one line for the user.
    pub fn unmount(self, timeout: Duration, mut progress: impl FnMut(u64)) -> Result<(), String> {
        let Client(mut stream) = self;
        let lost = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => "the daemon does not answer".to_owned(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                ENDED_WITHOUT_ANSWER.to_owned()
            }
            _ => format!("the connection to the daemon broke: {error}"),
        };
        stream.set_read_timeout(Some(PATIENCE)).map_err(lost)?;
        stream
            .write_all(format!("unmount {}ms\n", timeout.as_millis()).as_bytes())
            .map_err(lost)?;
        let mut lines = BufReader::new(stream);
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).map_err(lost)?;
            match line.trim_end().split_once(' ') {
                Some(("dirty", bytes)) => progress(bytes.parse().unwrap_or_default()),
                Some(("error", text)) => return Err(text.to_owned()),
                None if line == "ok\n" => break,
                _ => {
                    return Err(
                        "the daemon ended before it had said that every byte is written".to_owned()
                    );
                }
            }
        }
        // The answer stands; the end of the connection only says that the process is gone too.
        let _ = lines.read_to_end(&mut Vec::new());
        Ok(())
    }
}

fn socket_name(mount: &Mount) -> String {
    format!("{}.sock", mount.device.replace(':', "-"))
}

/// Where the daemons of `user` keep their sockets.
fn runtime_dir(user: u32) -> PathBuf {
    let dirs = runtime_dirs(user);
    let usable = |dir: &&PathBuf| dir.parent().is_some_and(Path::is_dir);
    dirs.iter().find(usable).unwrap_or(&dirs[0]).clone()
}

/// Where they may be: what systemd gives to services and sessions, and `/tmp` where it does not run.
fn runtime_dirs(user: u32) -> Vec<PathBuf> {
    match user {
        0 => vec!["/run/blobdir".into(), "/tmp/blobdir-0".into()],
        _ => {
            vec![format!("/run/user/{user}/blobdir").into(), format!("/tmp/blobdir-{user}").into()]
        }
    }
}

/// Makes `dir` unless it is there, and refuses one that others could have prepared.
fn make_private(dir: &Path, user: u32) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(dir)?;
    if found.is_dir() && found.uid() == user && found.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(io::Error::other(format!("{} is not a directory of this user alone", dir.display())))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    struct Fake {
        dirty: AtomicU64,
        refusal: Option<&'static str>,
    }

    impl Served for Fake {
        fn dirty_bytes(&self) -> u64 {
            self.dirty.load(Ordering::Relaxed)
        }
        fn unmount(&self, timeout: Duration) -> Result<(), String> {
            assert_eq!(timeout, Duration::from_millis(1500));
            if let Some(line) = self.refusal {
                return Err(line.to_owned());
            }
            thread::sleep(PROGRESS_INTERVAL * 2);
            self.dirty.store(0, Ordering::Relaxed);
            thread::sleep(PROGRESS_INTERVAL * 2);
            Ok(())
        }
    }

    fn serve(refusal: Option<&'static str>) -> (tempfile::TempDir, Server, UnixStream) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0-1.sock");
        fs::write(&path, "left behind").unwrap();
        let dirty = AtomicU64::new(4096);
        let server = Server::start_at(path.clone(), Arc::new(Fake { dirty, refusal })).unwrap();
        let stream = UnixStream::connect(path).unwrap();
        (dir, server, stream)
    }

    /// The daemon ends after its answer, which these servers do not: they live in the test.
    fn close_when_answered(stream: &UnixStream) {
        let stream = stream.try_clone().unwrap();
        thread::spawn(move || {
            thread::sleep(PROGRESS_INTERVAL * 8);
            stream.shutdown(std::net::Shutdown::Both).unwrap();
        });
    }

    #[test]
    fn unmounting_reports_progress_and_waits_for_the_end() {
        let (_dir, server, stream) = serve(None);
        close_when_answered(&stream);
        let mut seen = Vec::new();
        Client(stream).unmount(Duration::from_millis(1500), |bytes| seen.push(bytes)).unwrap();
        assert_eq!(seen.first(), Some(&4096));
        assert_eq!(seen.last(), Some(&0));
        let path = server.path.clone();
        server.finish();
        assert!(!path.exists());
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_mount() {
        let (_dir, _server, stream) = serve(Some("/mnt is in use"));
        let told = Client(stream).unmount(Duration::from_millis(1500), |_| {});
        assert_eq!(told.unwrap_err(), "/mnt is in use");
    }

    #[test]
    fn a_daemon_that_ends_without_an_answer_is_a_failure() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let _ = (&theirs).write_all(b"dirty 12\n");
        });
        let told = Client(ours).unmount(Duration::from_secs(1), |_| {});
        assert!(told.unwrap_err().contains("ended before"));
    }

    #[test]
    fn other_requests_are_refused() {
        for request in ["status\n", "unmount\n", "unmount 1s\n", "unmount -1ms\n", "\n"] {
            let (_dir, _server, mut stream) = serve(None);
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).unwrap();
            assert_eq!(answer, "error request not understood by this version\n");
        }
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let (user, _) = crate::daemon::caller();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blobdir");
        make_private(&path, user).unwrap();
        make_private(&path, user).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        make_private(&path, user).unwrap_err();
        make_private(&dir.path().join("a/b"), user).unwrap_err();
    }
}
