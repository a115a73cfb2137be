//! Bodies of answers on their way out: from memory or a file, whole or broken off by a fault.
//!
//! Knows bytes, not what they mean and not the connection that they go over.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::buffer::Pool;

/// Bytes of a long download that are read at a time: 1 MiB keeps a slow reader cheap.
const CHUNK: usize = 1 << 20;

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Content {
    Empty,
    /// No body, but the length of the one that GET would have.
    Length(u64),
    Bytes(Bytes),
    /// Sent in pieces, of a length that is not announced.
    Chunked(Bytes),
    /// A long part of a file, read while it is sent.
    File {
        file: Arc<File>,
        offset: u64,
        len: u64,
        pool: Arc<Pool>,
    },
}

impl Content {
    /// Bytes in the body.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Empty | Self::Length(_) => 0,
            Self::Bytes(bytes) | Self::Chunked(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }
}

/// Fills `bytes`; what is past the end of the file is zeros.
pub(super) fn read_or_zeros(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.read_at(bytes, offset) {
            Ok(0) => {
                bytes.fill(0);
                return Ok(());
            }
            Ok(count) => {
                bytes = &mut bytes[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A body on its way out.
#[derive(Debug)]
pub(super) struct Outgoing {
    content: Content,
    /// A fault: after so many bytes, this.
    pub(super) breaks: Option<(u64, Break)>,
    /// Runs while what came before a cut is sent.
    before_cut: Option<Pin<Box<Sleep>>>,
}

/// How long what came before a cut has, to be sent.
const BEFORE_CUT: Duration = Duration::from_millis(20);

/// How a body ends before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// The connection goes away.
    Cut,
    /// Nothing more comes.
    Stall,
}

impl Outgoing {
    pub(super) fn new(content: Content) -> Self {
        Self { content, breaks: None, before_cut: None }
    }

    fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        match &mut self.content {
            Content::Empty | Content::Length(_) => None,
            Content::Bytes(_) | Content::Chunked(_) => {
                match std::mem::replace(&mut self.content, Content::Empty) {
                    Content::Bytes(bytes) | Content::Chunked(bytes) if !bytes.is_empty() => {
                        Some(Ok(bytes))
                    }
                    _ => None,
                }
            }
            Content::File { len: 0, .. } => None,
            Content::File { file, offset, len, pool } => {
                let count = usize::try_from(*len).unwrap_or(CHUNK).min(CHUNK);
                let mut buffer = pool.take(count);
                if let Err(error) = read_or_zeros(file, buffer.as_mut(), *offset) {
                    return Some(Err(error));
                }
                *offset += count as u64;
                *len -= count as u64;
                Some(Ok(Bytes::from_owner(buffer)))
            }
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        match &this.breaks {
            Some((0, Break::Cut)) => {
                // While there is more to come, the transport sends what it has.
                let sent = this.before_cut.get_or_insert_with(|| Box::pin(sleep(BEFORE_CUT)));
                ready!(sent.as_mut().poll(context));
                return Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())));
            }
            // Nobody will wake this: the client has to give up.
            Some((0, Break::Stall)) => return Poll::Pending,
            _ => {}
        }
        let Some(next) = this.next() else {
            return Poll::Ready(None);
        };
        let mut bytes = next?;
        if let Some((left, _)) = &mut this.breaks {
            let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
            bytes.truncate(count);
            *left -= count as u64;
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.breaks.is_none()
            && match &self.content {
                Content::Empty | Content::Length(_) => true,
                Content::Bytes(bytes) => bytes.is_empty(),
                Content::Chunked(_) => false,
                Content::File { len, .. } => *len == 0,
            }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty | Content::Length(_) => SizeHint::with_exact(0),
            Content::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Chunked(_) => SizeHint::default(),
            Content::File { len, .. } => SizeHint::with_exact(*len),
        }
    }
}
