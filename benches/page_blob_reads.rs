//! What signing, checking and retrying cost a read: GETs of 4 KiB and of 4 MiB one after another over
//! one connection, through the backend and through `reqwest` alone, against a server that does nothing.
//!
//! Prints requests a second, CPU time a request of client and server together, and the ratio.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blobdir::backend::{SourceRequest, scheme_of};
use blobdir::store::{Access, Blob, Opened, RemotePath, Sink};

/// Bytes of one read: a page of the kernel, and what readahead asks for.
const READS: [u64; 2] = [4096, 4 << 20];
/// Size of the blob in bytes.
const SIZE: u64 = 1 << 30;
/// How long one side is measured.
const ROUND: Duration = Duration::from_secs(2);

/// Answers every GET of a blob with its range of zeros.
fn serve(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        let (mut method, mut listing, mut range) = (String::new(), false, 0..0u64);
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            if let Some(value) = text.strip_prefix("x-ms-range: bytes=") {
                let (first, last) = value.split_once('-').expect("a range");
                range = first.parse().expect("digits")..last.parse::<u64>().expect("digits") + 1;
            } else if method.is_empty() {
                method = text.split(' ').next().unwrap_or_default().to_owned();
                listing = text.contains("comp=list");
            }
        }
        let answer = if listing {
            let body = "<EnumerationResults><Blobs/></EnumerationResults>";
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        } else if method == "HEAD" {
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\nETag: \"0x1\"\r\n\
                 x-ms-blob-type: PageBlob\r\n\r\n"
            )
            .into_bytes()
        } else {
            let length = range.end - range.start;
            let mut answer = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {length}\r\n\
                 Content-Type: application/octet-stream\r\n\
                 Content-Range: bytes {}-{}/{SIZE}\r\nETag: \"0x1\"\r\n\
                 Last-Modified: Fri, 20 Nov 2026 07:00:00 GMT\r\n\
                 x-ms-request-id: 11111111-2222-3333-4444-555555555555\r\n\
                 x-ms-version: 2021-12-02\r\nx-ms-blob-type: PageBlob\r\n\
                 Date: Fri, 20 Nov 2026 07:00:00 GMT\r\n\r\n",
                range.start,
                range.end - 1
            )
            .into_bytes();
            answer.resize(answer.len() + length as usize, 0);
            answer
        };
        writer.write_all(&answer)?;
    }
}

fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("a bound address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    addr
}

async fn open(addr: SocketAddr) -> Arc<dyn Blob> {
    let source = format!("http://{addr}/devstoreaccount1/bench");
    let scheme = scheme_of(&source).expect("a scheme");
    let backend = (scheme.parse)(&SourceRequest {
        source: &source,
        options: &BTreeMap::new(),
        env: &|_| None,
        timeout: Duration::from_secs(60),
        // It only reads.
        state_dir: None,
    })
    .expect("a source");
    let store = backend.connect().await.expect("a store");
    let path = RemotePath::new("disk").expect("a path");
    match store.open(&path, Access::Read).await.expect("a blob") {
        Opened::Read(blob) => blob,
        Opened::Update(_) => unreachable!("opened for reading"),
    }
}

#[derive(Default)]
struct Count(u64);

impl Sink for Count {
    fn put(&mut self, piece: &[u8]) {
        self.0 += piece.len() as u64;
    }

    fn confirm(&mut self) {}

    fn retract(&mut self) {
        panic!("nothing is damaged on loopback");
    }
}

async fn through_backend(blob: &dyn Blob, size: u64) -> u64 {
    let started = Instant::now();
    let mut done = 0;
    let mut sink = Count::default();
    while started.elapsed() < ROUND {
        let at = (done * size) % (SIZE - size);
        blob.read(at..at + size, &mut sink).await.expect("a read");
        done += 1;
    }
    assert_eq!(sink.0, done * size);
    done
}

async fn through_reqwest(client: &reqwest::Client, addr: SocketAddr, size: u64) -> u64 {
    let url: reqwest::Url =
        format!("http://{addr}/devstoreaccount1/bench/disk").parse().expect("a URL");
    let started = Instant::now();
    let mut done = 0;
    let mut bytes = 0;
    while started.elapsed() < ROUND {
        let at = (done * size) % (SIZE - size);
        let range = format!("bytes={at}-{}", at + size - 1);
        let sent = client.get(url.clone()).header("x-ms-range", range).send();
        let mut answer = sent.await.expect("an answer");
        while let Some(piece) = answer.chunk().await.expect("a body") {
            bytes += piece.len() as u64;
        }
        done += 1;
    }
    assert_eq!(bytes, done * size);
    done
}

/// User and system time of this process.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").expect("/proc");
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|n| n.parse::<u64>().expect("digits")).sum();
    Duration::from_millis(ticks * 10)
}

fn main() {
    let addr = start();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let blob = runtime.block_on(open(addr));
    let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().expect("a client");
    for size in READS {
        let mut ratios = Vec::new();
        for _ in 0..5 {
            let before = cpu();
            let raw = runtime.block_on(through_reqwest(&client, addr, size));
            let between = cpu();
            let ours = runtime.block_on(through_backend(&*blob, size));
            let after = cpu();
            let each = |spent: Duration, done: u64| spent.as_micros() as f64 / done as f64;
            let ratio = ours as f64 / raw as f64;
            println!(
                "{size:7} B   reqwest {:6.0}/s {:6.1} us   backend {:6.0}/s {:6.1} us   ratio {ratio:.2}",
                raw as f64 / ROUND.as_secs_f64(),
                each(between - before, raw),
                ours as f64 / ROUND.as_secs_f64(),
                each(after - between, ours),
            );
            ratios.push(ratio);
        }
        ratios.sort_by(f64::total_cmp);
        println!("{size:7} B   median ratio {:.2}", ratios[ratios.len() / 2]);
    }
}
