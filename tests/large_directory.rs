//! A directory with a million names on a real mount: every name once, from any offset, in bounded memory
//! and without a request beyond its pages.
//!
//! The service is a small one of this file: it knows List Blobs alone, and makes its blobs up as it is
//! asked for them. A million blobs of the built-in server would be three million files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use support::{Mount, account, cannot_mount, output_within, skip};

const CONTAINER: &str = "disks";
/// Digits of a name: `n0000000` and so on, in the order of the numbers.
const DIGITS: usize = 7;
/// Names in one answer at most, as the service has it.
const PAGE: u64 = 5000;
/// Memory for a page of names as text, as what was understood of it, and between two of them: half of it
/// is what is seen.
const PAGES: u64 = 40 << 20;
/// A mount that is slower than this is not slow but stuck.
const LIMIT: Duration = Duration::from_secs(300);

/// A service with so many blobs in one container.
struct Names {
    endpoint: String,
    lists: Arc<AtomicU64>,
}

impl Names {
    fn start(count: u64) -> Names {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/{}", listener.local_addr().unwrap(), account::NAME);
        let lists = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lists);
        // Ends with the process: what it holds is one socket.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let counter = Arc::clone(&counter);
                thread::spawn(move || serve(&stream, count, &counter));
            }
        });
        Names { endpoint, lists }
    }

    fn mount(&self) -> Mount {
        let source = format!("az://{}/{CONTAINER}", account::NAME);
        let text = account::connection_string(&self.endpoint);
        let environment = [("AZURE_STORAGE_CONNECTION_STRING".to_owned(), text)];
        Mount::start(&source, &["ro"], &environment)
    }

    /// List Blobs since the last time.
    fn lists(&self) -> u64 {
        self.lists.swap(0, Ordering::Relaxed)
    }
}

/// Answers the requests of one connection until it ends.
fn serve(mut stream: &TcpStream, count: u64, lists: &AtomicU64) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(first) = lines.next() {
        let mut head = lines.by_ref().take_while(|line| !line.is_empty());
        assert!(head.all(|line| line.contains(": ")), "a head is made of headers");
        let target = first.split(' ').nth(1).unwrap_or_default();
        assert!(target.contains("comp=list"), "nothing but lists is asked for, not {first:?}");
        lists.fetch_add(1, Ordering::Relaxed);
        let body = list(count, target.split_once('?').unwrap().1);
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\
             x-ms-request-id: 0\r\nx-ms-version: 2021-12-02\r\n\r\n"
        );
        if stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body.as_bytes()))
            .is_err()
        {
            return;
        }
    }
}

fn name(number: u64) -> String {
    format!("n{number:0DIGITS$}")
}

/// List Blobs with a delimiter: a page of what begins with the prefix. The marker is a number.
fn list(count: u64, query: &str) -> String {
    let value = |name: &str| {
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or("")
    };
    let prefix = value("prefix");
    let names = match prefix.strip_prefix('n').map(|digits| (digits, digits.parse::<u64>())) {
        _ if prefix.is_empty() => 0..count,
        Some((digits, Ok(number))) if digits.len() <= DIGITS => {
            let below = 10u64.pow((DIGITS - digits.len()) as u32);
            number * below..((number + 1) * below).min(count)
        }
        _ => 0..0,
    };
    let start = value("marker").parse().unwrap_or(names.start);
    let most = value("maxresults").parse().unwrap_or(PAGE).min(PAGE);
    let end = names.end.min(start + most);
    let mut body =
        "\u{FEFF}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>".to_owned();
    for number in start..end {
        let _ = write!(
            body,
            "<Blob><Name>{}</Name><Properties><Creation-Time>Fri, 20 Nov 2026 06:54:00 GMT</Creation-Time>\
             <Last-Modified>Fri, 20 Nov 2026 06:54:00 GMT</Last-Modified><Etag>0x8DE27{number:010X}</Etag>\
             <Content-Length>{}</Content-Length><Content-Type>application/octet-stream</Content-Type>\
             <Content-Encoding /><Content-Language /><Content-MD5 /><Cache-Control /><Content-Disposition />\
             <x-ms-blob-sequence-number>1</x-ms-blob-sequence-number><BlobType>PageBlob</BlobType>\
             <LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState>\
             <ServerEncrypted>true</ServerEncrypted></Properties><Metadata /></Blob>",
            name(number),
            number * 512,
        );
    }
    let next = if end < names.end { end.to_string() } else { String::new() };
    let _ = write!(body, "</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>");
    body
}

/// A directory as readdir(3) reads it.
struct Dir(*mut libc::DIR);

impl Dir {
    fn open(path: &Path) -> Dir {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: `path` is a C string that outlives the call.
        let dir = unsafe { libc::opendir(path.as_ptr()) };
        assert!(!dir.is_null(), "{}", std::io::Error::last_os_error());
        Dir(dir)
    }

    /// The next name; `None` at the end.
    fn next(&mut self) -> Option<String> {
        // SAFETY: the stream is open; what it returns is good until the next call.
        unsafe {
            *libc::__errno_location() = 0;
            let entry = libc::readdir(self.0);
            if entry.is_null() {
                let error = std::io::Error::last_os_error();
                assert_eq!(error.raw_os_error(), Some(0), "{error}");
                return None;
            }
            let name = CStr::from_ptr((*entry).d_name.as_ptr());
            Some(name.to_str().unwrap().to_owned())
        }
    }

    /// Where [`next`](Dir::next) goes on.
    fn tell(&self) -> i64 {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0) }
    }

    fn seek(&mut self, to: i64) {
        // SAFETY: the stream is open, and `to` came from it.
        unsafe { libc::seekdir(self.0, to) }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // SAFETY: the stream is open, and nobody uses it after this.
        unsafe { libc::closedir(self.0) };
    }
}

/// A value of `/proc/PID/status`, in bytes.
fn memory(process: u32, which: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn a_million_names_are_read_once_each_in_bounded_memory() {
    const COUNT: u64 = 1_000_000;
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let service = Names::start(COUNT);
    let mount = service.mount();
    let before = memory(mount.pid(), "VmHWM");
    service.lists();
    let mut dir = Dir::open(mount.path());
    let mut saved = Vec::new();
    for expected in [".", ".."] {
        assert_eq!(dir.next().as_deref(), Some(expected));
    }
    for number in 0..COUNT {
        // Unevenly, so that places in the middle and at the borders of pages are among them.
        if number % 66_667 == 0 || (number + 1) % (PAGE * 50) < 2 {
            saved.push((number, dir.tell()));
        }
        assert_eq!(dir.next(), Some(name(number)));
    }
    let end = dir.tell();
    assert_eq!(dir.next(), None);
    let lists = service.lists();
    assert!(lists <= COUNT / PAGE + 1, "{lists} lists");
    // A copy of the names and of what is known of them would be five times this.
    let grown = memory(mount.pid(), "VmHWM") - before;
    assert!(grown <= PAGES, "{grown} bytes");

    // Back and forth.
    let (first, second) = saved.split_at(saved.len() / 2);
    for (number, offset) in first.iter().zip(second.iter().rev()).flat_map(|(a, b)| [b, a]) {
        dir.seek(*offset);
        assert_eq!(dir.next(), Some(name(*number)), "at {offset}");
        let after = (number + 1 < COUNT).then(|| name(number + 1));
        assert_eq!(dir.next(), after, "after {offset}");
    }
    dir.seek(end);
    assert_eq!(dir.next(), None);
    let lists = service.lists();
    assert!(lists <= 2 * saved.len() as u64 + 1, "{lists} lists for {} places", saved.len());
    let grown = memory(mount.pid(), "VmHWM") - before;
    assert!(grown <= PAGES, "{grown} bytes");
    drop(dir);
    mount.unmount();
}

#[test]
fn a_long_listing_asks_no_more_and_takes_little_memory_a_name() {
    const COUNT: u64 = 100_000;
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let service = Names::start(COUNT);
    let mount = service.mount();
    let before = memory(mount.pid(), "VmHWM");
    service.lists();
    let mut command = Command::new("ls");
    command.arg("-lU").arg(mount.path());
    let output = output_within(LIMIT, command);
    assert!(output.success, "{}", output.text);
    assert_eq!(output.text.lines().count() as u64, COUNT + 1);
    let lists = service.lists();
    assert!(lists <= COUNT / PAGE + 1, "{lists} lists");
    // The kernel keeps more than a KiB of each, and tells when it has forgotten one.
    let grown = memory(mount.pid(), "VmHWM") - before;
    assert!(grown <= PAGES + COUNT * 640, "{} bytes a name", grown / COUNT);
    mount.unmount();
}
