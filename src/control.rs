//! How commands find a running mount and talk to it: a Unix socket for each mount in a directory
//! that only its user may enter, and the kernel's table of mounts.
//!
//! A command sends one line and reads lines until an answer:
//!
//! ```text
//! unmount 120000ms     ->  dirty 1048576     every 200 ms while bytes are on their way
//!                          ok                all bytes are in the service, the tree is unmounted
//!                          error TEXT        it is not; TEXT is for the user
//! snapshot PATH        ->  dirty …           the same
//!                          path PATH         where the snapshot is, from the root of the tree as the first
//!                          ok
//! changes A⇥B[⇥CURSOR] ->  dirty …           the same
//!                          written 0 4096    first byte, and the byte after the last one
//!                          cleared 4096 8192
//!                          next CURSOR       there is more, for another request
//!                          ok
//! ```
//!
//! After `unmount` the connection is closed when the daemon has ended. It knows a mount only as [`Served`].

pub mod mounts;

use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::Range;
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
/// The longest request line, bytes: two paths of the longest names, and a cursor.
const LONGEST_REQUEST: u64 = 16 << 10;
/// What a command says when the connection ends too early.
const ENDED_WITHOUT_ANSWER: &str = "the daemon ended before it had said that every byte is written";
/// The same for what ends no mount.
const ENDED: &str = "the daemon ended before it had answered";
const NONSENSE: &str = "the daemon's answer makes no sense; is it of another version?";

/// What a mount does for those who connect. Called from several threads at once.
pub trait Served: Send + Sync {
    /// Bytes that are not yet in the service.
    fn dirty_bytes(&self) -> u64;

    /// Brings all of them there and unmounts, within `timeout`; a tree in use stays mounted.
    ///
    /// Errors: one line for the user.
    fn unmount(&self, timeout: Duration) -> Result<(), String>;

    /// Takes a snapshot of a file, everything written to it included; gives its path. Both paths begin at
    /// the root of the tree.
    ///
    /// Errors: one line for the user.
    fn snapshot(&self, path: &str) -> Result<String, String>;

    /// One page of what has changed between two states of a file, from the beginning or where `cursor`
    /// says.
    ///
    /// Errors: one line for the user.
    fn changes(&self, from: &str, to: &str, cursor: Option<&str>) -> Result<Changes, String>;
}

/// A page of changes, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// The bytes, and whether they were cleared; otherwise they were written.
    pub ranges: Vec<(Range<u64>, bool)>,
    /// Where to go on, if there is more; holds neither tabs nor line ends.
    pub next: Option<String>,
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

/// What a command wants.
#[derive(Debug)]
enum Request {
    Unmount(Duration),
    Snapshot(String),
    Changes { from: String, to: String, cursor: Option<String> },
}

impl Request {
    fn parse(line: &str) -> Option<Request> {
        let (word, rest) = line.strip_suffix('\n')?.split_once(' ')?;
        match word {
            "unmount" => {
                let millis = rest.strip_suffix("ms")?.parse().ok()?;
                Some(Request::Unmount(Duration::from_millis(millis)))
            }
            "snapshot" => Some(Request::Snapshot(rest.to_owned())),
            "changes" => {
                let mut parts = rest.splitn(3, '\t').map(str::to_owned);
                let (from, to) = (parts.next()?, parts.next()?);
                Some(Request::Changes { from, to, cursor: parts.next() })
            }
            _ => None,
        }
    }

    /// Does it; gives the lines before `ok`.
    fn carry_out(&self, served: &dyn Served) -> Result<String, String> {
        match self {
            Request::Unmount(timeout) => served.unmount(*timeout).map(|()| String::new()),
            Request::Snapshot(path) => Ok(format!("path {}\n", served.snapshot(path)?)),
            Request::Changes { from, to, cursor } => {
                let changes = served.changes(from, to, cursor.as_deref())?;
                let mut lines = String::new();
                for (Range { start, end }, cleared) in changes.ranges {
                    let word = if cleared { CLEARED } else { WRITTEN };
                    let _ = writeln!(lines, "{word} {start} {end}");
                }
                if let Some(cursor) = changes.next {
                    let _ = writeln!(lines, "next {cursor}");
                }
                Ok(lines)
            }
        }
    }
}

const WRITTEN: &str = "written";
const CLEARED: &str = "cleared";

/// One request and its answer. Whether the tree is unmounted now.
fn converse(mut stream: &UnixStream, served: &Arc<dyn Served>) -> io::Result<bool> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST_REQUEST)).read_line(&mut line)?;
    let Some(request) = Request::parse(&line) else {
        stream.write_all(b"error request not understood by this version\n")?;
        return Ok(false);
    };
    let ends_it = matches!(request, Request::Unmount(_));
    let (sender, outcome) = mpsc::channel();
    let worker = Arc::clone(served);
    thread::Builder::new()
        .name("control-work".to_owned())
        .spawn(move || sender.send(request.carry_out(&*worker)))?;
    // The first progress line tells how much there is; a peer that is gone does not stop the work,
    // and this thread stays until it is done, so that the process does not end before.
    let mut peer = stream.write_all(format!("dirty {}\n", served.dirty_bytes()).as_bytes());
    loop {
        match outcome.recv_timeout(PROGRESS_INTERVAL) {
            Err(RecvTimeoutError::Timeout) => {
                let line = format!("dirty {}\n", served.dirty_bytes());
                peer = peer.and_then(|()| stream.write_all(line.as_bytes()));
            }
            Ok(Ok(lines)) => {
                peer.and_then(|()| stream.write_all(format!("{lines}ok\n").as_bytes()))?;
                return Ok(ends_it);
            }
            Ok(Err(line)) => {
                let line = format!("error {}\n", line.replace('\n', " "));
                peer.and_then(|()| stream.write_all(line.as_bytes()))?;
                return Ok(false);
            }
            Err(RecvTimeoutError::Disconnected) => {
                stream.write_all(b"error the daemon failed; see the log\n")?;
                return Ok(false);
            }
        }
    }
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
        let request = format!("unmount {}ms", timeout.as_millis());
        let mut rest = self.ask(&request, ENDED_WITHOUT_ANSWER, |word, text| {
            if word == "dirty" {
                progress(text.parse().unwrap_or_default());
            }
        })?;
        // The answer stands; the end of the connection only says that the process is gone too.
        let _ = rest.read_to_end(&mut Vec::new());
        Ok(())
    }

    /// Asks for a snapshot of a file by its path from the root of the tree; gives the snapshot's.
    ///
    /// Errors: one line for the user.
    pub fn snapshot(self, path: &str) -> Result<String, String> {
        let mut taken = None;
        self.ask(&format!("snapshot {path}"), ENDED, |word, text| {
            if word == "path" {
                taken = Some(text.to_owned());
            }
        })?;
        taken.ok_or_else(|| NONSENSE.to_owned())
    }

    /// Asks for a page of what has changed between two states of a file.
    ///
    /// Errors: one line for the user.
    pub fn changes(self, from: &str, to: &str, cursor: Option<&str>) -> Result<Changes, String> {
        let mut request = format!("changes {from}\t{to}");
        if let Some(cursor) = cursor {
            request.push('\t');
            request.push_str(cursor);
        }
        let mut changes = Changes::default();
        let mut sound = true;
        self.ask(&request, ENDED, |word, text| match word {
            WRITTEN | CLEARED => {
                let ends = text.split_once(' ').map(|(start, end)| (start.parse(), end.parse()));
                match ends {
                    Some((Ok(start), Ok(end))) => {
                        changes.ranges.push((start..end, word == CLEARED));
                    }
                    _ => sound = false,
                }
            }
            "next" => changes.next = Some(text.to_owned()),
            _ => {}
        })?;
        if sound { Ok(changes) } else { Err(NONSENSE.to_owned()) }
    }

    /// Sends a request and hands on the lines before `ok`, as their first word and the rest. `ended` is
    /// what is said of a connection that ends before that. Gives what is left of the connection.
    fn ask(
        self,
        request: &str,
        ended: &str,
        mut line: impl FnMut(&str, &str),
    ) -> Result<BufReader<UnixStream>, String> {
        let Client(mut stream) = self;
        let lost = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => "the daemon does not answer".to_owned(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ended.to_owned(),
            _ => format!("the connection to the daemon broke: {error}"),
        };
        stream.set_read_timeout(Some(PATIENCE)).map_err(lost)?;
        stream.write_all(format!("{request}\n").as_bytes()).map_err(lost)?;
        let mut lines = BufReader::new(stream);
        loop {
            let mut text = String::new();
            lines.read_line(&mut text).map_err(lost)?;
            if text == "ok\n" {
                return Ok(lines);
            }
            match text.strip_suffix('\n').and_then(|text| text.split_once(' ')) {
                Some(("error", text)) => return Err(text.to_owned()),
                Some((word, text)) => line(word, text),
                None => return Err(ended.to_owned()),
            }
        }
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
        fn snapshot(&self, path: &str) -> Result<String, String> {
            match self.refusal {
                Some(line) => Err(line.to_owned()),
                None => Ok(format!("old/{path}")),
            }
        }
        fn changes(&self, from: &str, to: &str, cursor: Option<&str>) -> Result<Changes, String> {
            assert_eq!((from, to), ("old/a b", "a b"));
            Ok(match cursor {
                None => Changes { ranges: vec![(0..512, true)], next: Some("x y".to_owned()) },
                Some("x y") => Changes { ranges: vec![(512..u64::MAX, false)], next: None },
                other => return Err(format!("{other:?} is another cursor")),
            })
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
    fn snapshots_are_taken_and_compared() {
        let (_dir, server, stream) = serve(None);
        assert_eq!(Client(stream).snapshot("a b").unwrap(), "old/a b");
        let connect = || Client(UnixStream::connect(&server.path).unwrap());
        let first = connect().changes("old/a b", "a b", None).unwrap();
        assert_eq!((&*first.ranges, first.next.as_deref()), (&[(0..512, true)][..], Some("x y")));
        let second = connect().changes("old/a b", "a b", first.next.as_deref()).unwrap();
        assert_eq!(second, Changes { ranges: vec![(512..u64::MAX, false)], next: None });
        assert!(connect().changes("old/a b", "a b", Some("z")).unwrap_err().contains("z"));
        let (_dir, _server, stream) = serve(Some("it is a directory"));
        assert_eq!(Client(stream).snapshot("a").unwrap_err(), "it is a directory");
    }

    #[test]
    fn other_requests_are_refused() {
        for request in
            ["status\n", "unmount\n", "unmount 1s\n", "unmount -1ms\n", "changes a\n", "\n"]
        {
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
