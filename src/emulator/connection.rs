//! One connection: bytes counted, paced, and cut off when a fault asks for that.
//!
//! Knows sockets and HTTP framing, not requests: those it hands to whatever [`Serves`].

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsAcceptor;

use super::body::Outgoing;

/// Bytes that hyper may hold of one connection in each direction: 1 MiB, for few system calls.
const CONNECTION_BUFFER: usize = 1 << 20;

/// Bytes handed to the kernel at a time where the rate is limited: 64 KiB are 1 ms at 60 MiB/s.
const PACED_WRITE: usize = 64 << 10;

/// How long a request may go on after the server was told to stop.
const GRACE: Duration = Duration::from_secs(2);

/// Bytes that went over all connections.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) connections: AtomicU64,
}

/// What connections belong to.
pub(super) trait Serves: Send + Sync + 'static {
    /// Where their bytes are counted.
    fn traffic(&self) -> &Traffic;

    /// Bytes a second of each, each way.
    fn connection_rate(&self) -> Option<u64>;

    /// What makes them HTTPS.
    fn tls(&self) -> Option<&TlsAcceptor>;

    /// Answers one request, or not.
    fn answer(
        self: &Arc<Self>,
        control: &Control,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Outgoing>, NoAnswer>> + Send;
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The connection failed.
    Connection(hyper::Error),
    /// The connection is to be reset.
    Reset,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(error) => write!(f, "connection failed: {error}"),
            Self::Reset => f.write_str("reset by a fault"),
        }
    }
}

impl std::error::Error for NoAnswer {}

/// Turns a failure of the server's own into one of the connection.
impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        log::error!(target: "emulator", "{error}");
        Self::Reset
    }
}

/// What a request can do to the connection that it came on.
#[derive(Debug, Default)]
pub(super) struct Control {
    reset: AtomicBool,
}

impl Control {
    /// The connection ends with a reset, as soon as it ends.
    pub(super) fn reset_at_end(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }
}

/// Serves what connects until the server is told to stop.
pub(super) async fn accept<S: Serves>(
    listener: TcpListener,
    service: Arc<S>,
    mut stop: watch::Receiver<bool>,
) {
    let stop_each = stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(serve(Arc::clone(&service), stream, stop_each.clone()));
            }
            Err(error) => {
                // Out of descriptors, usually: a pause lets some be closed.
                log::warn!(target: "emulator", "cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves one connection until it ends or the server does.
async fn serve<S: Serves>(service: Arc<S>, stream: TcpStream, mut stop: watch::Receiver<bool>) {
    let control = Arc::new(Control::default());
    service.traffic().connections.fetch_add(1, Ordering::Relaxed);
    // Small answers must not wait for the acknowledgement of earlier ones.
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!(target: "emulator", "cannot set TCP_NODELAY: {error}");
    }
    let rate = service.connection_rate();
    let io = Paced {
        stream,
        control: Arc::clone(&control),
        service: Arc::clone(&service),
        reading: rate.map(Pace::new),
        writing: rate.map(Pace::new),
    };
    let Some(tls) = service.tls() else {
        return serve_http(&service, &control, io, stop).await;
    };
    let accepted = tokio::select! {
        accepted = tls.accept(io) => accepted,
        () = stopped(&mut stop) => return,
    };
    match accepted {
        Ok(io) => serve_http(&service, &control, io, stop).await,
        Err(error) => log::debug!(target: "emulator", "no TLS connection: {error}"),
    }
}

async fn serve_http<S: Serves>(
    service: &Arc<S>,
    control: &Control,
    io: impl AsyncRead + AsyncWrite + Unpin,
    mut stop: watch::Receiver<bool>,
) {
    let answer = service_fn(|request| service.answer(control, request));
    let connection = http1::Builder::new()
        .max_buf_size(CONNECTION_BUFFER)
        .writev(true)
        .serve_connection(TokioIo::new(io), answer);
    let mut connection = std::pin::pin!(connection);
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = done {
        log::debug!(target: "emulator", "connection ended: {error}");
    }
}

/// Waits until the server is told to stop.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the server is gone, which is the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A stream with its rate limits.
struct Paced<S> {
    stream: TcpStream,
    control: Arc<Control>,
    service: Arc<S>,
    reading: Option<Pace>,
    writing: Option<Pace>,
}

impl<S> Drop for Paced<S> {
    fn drop(&mut self) {
        if self.control.reset.load(Ordering::Relaxed) {
            // Closing with a linger time of zero sends a reset instead of an end.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl<S: Serves> Paced<S> {
    fn wrote(&mut self, count: usize) {
        self.service.traffic().bytes_out.fetch_add(count as u64, Ordering::Relaxed);
        if let Some(pace) = &mut self.writing {
            pace.used(count);
        }
    }
}

impl<S: Serves> AsyncRead for Paced<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(pace) = &mut this.reading {
            ready!(pace.poll_ready(context));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let count = buffer.filled().len() - before;
        this.service.traffic().bytes_in.fetch_add(count as u64, Ordering::Relaxed);
        if let Some(pace) = &mut this.reading {
            pace.used(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Serves> AsyncWrite for Paced<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(pace) = &mut this.writing {
            ready!(pace.poll_ready(context));
            bytes = &bytes[..bytes.len().min(PACED_WRITE)];
        }
        let count = ready!(Pin::new(&mut this.stream).poll_write(context, bytes))?;
        this.wrote(count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.writing.is_some() {
            let first = slices.iter().find(|slice| !slice.is_empty());
            return self.poll_write(context, first.map_or(&[], |slice| &**slice));
        }
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.stream).poll_write_vectored(context, slices))?;
        this.wrote(count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.control.reset.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

/// How much later than asked a wait may end and still be made up for: timers and a busy machine take
/// their time, and without this they would take it from the rate.
const LATE: Duration = Duration::from_millis(5);

/// One direction's rate. Goes into debt with each use, and waits it out.
struct Pace {
    rate: f64,
    free_at: Instant,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        Self { rate: bytes_per_second.max(1) as f64, free_at: Instant::now(), wait: None }
    }

    fn used(&mut self, bytes: usize) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate);
        let earliest = Instant::now().checked_sub(LATE).unwrap_or(self.free_at);
        self.free_at = self.free_at.max(earliest) + cost;
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(context));
                self.wait = None;
            }
            // The runtime's timer is exact to a millisecond: less than two are not waited for,
            // but stay in the debt.
            let rest = self.free_at.saturating_duration_since(Instant::now());
            if rest < Duration::from_millis(2) {
                return Poll::Ready(());
            }
            self.wait = Some(Box::pin(sleep(rest)));
        }
    }
}
