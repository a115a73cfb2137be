//! Request bodies made of pieces that are never copied together.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

/// The largest frame handed to the transport, in bytes: small enough that progress on a slow uplink
/// is seen several times a second, large enough to cost nothing.
const FRAME: usize = 256 << 10;

/// When the transport last took a frame, so that a slow upload is told from a stuck one.
#[derive(Clone, Debug)]
pub(super) struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    /// Begins now.
    pub(super) fn new() -> Progress {
        Progress(Arc::new(Mutex::new(Instant::now())))
    }

    /// When a frame was taken last, or this began.
    pub(super) fn last(&self) -> Instant {
        *self.0.lock()
    }
}

/// A body of known length.
#[derive(Debug)]
pub(super) struct Pieces {
    pieces: std::vec::IntoIter<Bytes>,
    current: Bytes,
    left: u64,
    progress: Progress,
}

impl Pieces {
    /// A body of these pieces, one after another.
    pub(super) fn new(pieces: Vec<Bytes>, progress: Progress) -> Pieces {
        let left = length(&pieces);
        Pieces { pieces: pieces.into_iter(), current: Bytes::new(), left, progress }
    }
}

/// Total length of the pieces in bytes.
pub(super) fn length(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        while self.current.is_empty() {
            match self.pieces.next() {
                Some(piece) => self.current = piece,
                None => return Poll::Ready(None),
            }
        }
        let take = self.current.len().min(FRAME);
        let frame = self.current.split_to(take);
        self.left -= take as u64;
        *self.progress.0.lock() = Instant::now();
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use bytes::Bytes;
    use http_body::Body;
    use tokio::time::Instant;

    use super::{FRAME, Pieces, Progress};

    #[tokio::test(start_paused = true)]
    async fn gives_every_byte_once_in_bounded_frames_and_tells_when() {
        let big = Bytes::from(vec![7u8; FRAME + 5]);
        let pieces = vec![Bytes::from_static(b"ab"), Bytes::new(), big.clone()];
        let progress = Progress::new();
        let mut body = pin!(Pieces::new(pieces, progress.clone()));
        assert_eq!(body.size_hint().exact(), Some(FRAME as u64 + 7));
        let mut cx = Context::from_waker(Waker::noop());
        let mut seen = Vec::new();
        loop {
            tokio::time::advance(Duration::from_secs(1)).await;
            let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) else { break };
            assert_eq!(progress.last(), Instant::now());
            let data = frame.unwrap().into_data().unwrap();
            assert!(!data.is_empty() && data.len() <= FRAME);
            seen.extend_from_slice(&data);
        }
        assert!(body.is_end_stream());
        assert_eq!(seen.len(), FRAME + 7);
        assert_eq!(&seen[..2], b"ab");
        assert_eq!(&seen[2..], &big[..]);
    }
}
