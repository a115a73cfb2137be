//! What to fetch before it is asked for. Pure: reads in, plans out; one [`Planner`] a file handle.
//!
//! A stream is a run of adjacent reads. Its first reads are fetched as asked: the kernel's own second
//! readahead after one small read is not progress, and a wrong guess costs a whole window. A stream
//! that goes on gets a window ahead of it that opens at [`FIRST_WINDOW`] and grows with what is
//! consumed, up to what keeps every connection busy. Random reads never get one.

use super::span::Span;

/// Bytes read in a row, over at least two reads, before a stream is believed.
const BELIEVED: u64 = 320 << 10;
/// Window of a stream that has just been believed, in bytes.
const FIRST_WINDOW: u64 = 16 << 20;
/// What the window grows by for each byte consumed. At 2 it doubles with every window read, and the
/// first 128 MiB of a distant blob take twice as long.
const GROWTH: u64 = 4;
/// Reads may come this far out of order, in bytes: one kernel readahead.
const SLACK: u64 = 1 << 20;
/// Streams told apart in one handle; the least recently read is given up for a new one.
const STREAMS: usize = 8;

/// Names a stream within its handle.
pub type StreamId = u64;

/// What a read asks to be done besides fetching it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// The stream of this read, and the span that should be fetched or under way for it: from behind
    /// the read up to the end of the window. `None` while the stream is not believed.
    pub ahead: Option<(StreamId, Span)>,
    /// A stream that was given up: nothing more is to be fetched for it.
    pub dropped: Option<StreamId>,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    id: StreamId,
    start: u64,
    next: u64,
    /// Where it was when it was first believed.
    opened_at: u64,
    believed: bool,
}

/// The streams of one handle.
#[derive(Debug)]
pub struct Planner {
    /// Most recently read first.
    streams: Vec<Stream>,
    max_window: u64,
}

impl Planner {
    /// A planner whose windows grow up to `max_window` bytes.
    pub fn new(max_window: u64) -> Planner {
        Planner { streams: Vec::new(), max_window }
    }

    /// Takes note of a read of a file of `len` bytes. `fresh_id` names the stream if it is a new one.
    pub fn next(&mut self, read: Span, len: u64, fresh_id: impl FnOnce() -> StreamId) -> Plan {
        let continued = self.streams.iter().position(|stream| {
            stream.next <= read.end.saturating_add(SLACK)
                && read.start <= stream.next + if stream.believed { SLACK } else { 0 }
                && read.start >= stream.start
        });
        let Some(index) = continued else {
            let dropped = if self.streams.len() == STREAMS { self.streams.pop() } else { None };
            let stream = Stream {
                id: fresh_id(),
                start: read.start,
                next: read.end,
                opened_at: 0,
                believed: false,
            };
            self.streams.insert(0, stream);
            return Plan { ahead: None, dropped: dropped.map(|stream| stream.id) };
        };
        self.streams[..=index].rotate_right(1);
        let stream = &mut self.streams[0];
        let progress = read.end > stream.next;
        stream.next = stream.next.max(read.end);
        if !stream.believed {
            if !progress || stream.next - stream.start < BELIEVED {
                return Plan::default();
            }
            stream.believed = true;
            stream.opened_at = stream.next;
        }
        let window = FIRST_WINDOW + GROWTH * (stream.next - stream.opened_at);
        let end = stream.next.saturating_add(window.min(self.max_window)).min(len);
        let ahead = Span::between(stream.next, end);
        Plan { ahead: (!ahead.is_empty()).then_some((stream.id, ahead)), dropped: None }
    }

    /// The streams that are still followed.
    pub fn streams(&self) -> impl Iterator<Item = StreamId> {
        self.streams.iter().map(|stream| stream.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const MAX: u64 = 128 * MIB;
    const LEN: u64 = 1 << 40;

    struct Reader {
        planner: Planner,
        ids: u64,
    }

    impl Reader {
        fn new() -> Reader {
            Reader { planner: Planner::new(MAX), ids: 0 }
        }

        fn read(&mut self, start: u64, len: u64) -> Plan {
            let Reader { planner, ids } = self;
            planner.next(Span::at(start, len), LEN, || {
                *ids += 1;
                *ids
            })
        }
    }

    #[test]
    fn a_small_read_and_the_kernels_guess_fetch_nothing_more() {
        let mut reader = Reader::new();
        assert_eq!(reader.read(0, 16 * KIB), Plan::default());
        assert_eq!(reader.read(16 * KIB, 32 * KIB), Plan::default());
        assert_eq!(reader.read(48 * KIB, 128 * KIB), Plan::default());
    }

    #[test]
    fn two_large_reads_in_a_row_open_the_window_and_it_grows() {
        let mut reader = Reader::new();
        assert_eq!(reader.read(0, MIB).ahead, None);
        let (_, ahead) = reader.read(MIB, MIB).ahead.expect("a stream");
        assert_eq!(ahead, Span::at(2 * MIB, FIRST_WINDOW));
        let mut widest = 0;
        for index in 2..400 {
            let (_, ahead) = reader.read(index * MIB, MIB).ahead.expect("a stream");
            assert_eq!(ahead.start, (index + 1) * MIB);
            widest = widest.max(ahead.len());
        }
        assert_eq!(widest, MAX);
    }

    #[test]
    fn interleaved_streams_are_told_apart() {
        let mut reader = Reader::new();
        for index in 0..20 {
            for stream in 0..4 {
                let plan = reader.read(stream * (1 << 30) + index * 256 * KIB, 256 * KIB);
                assert_eq!(plan.ahead.is_some(), index >= 1, "stream {stream}, read {index}");
                if let Some((id, _)) = plan.ahead {
                    assert_eq!(id, stream + 1);
                }
            }
        }
    }

    #[test]
    fn kernel_reads_may_come_out_of_order() {
        let mut reader = Reader::new();
        reader.read(0, MIB);
        reader.read(MIB, MIB);
        assert!(reader.read(3 * MIB, MIB).ahead.is_some());
        assert!(reader.read(2 * MIB, MIB).ahead.is_some());
        assert_eq!(reader.planner.streams.len(), 1);
    }

    #[test]
    fn a_ninth_stream_drops_the_oldest() {
        let mut reader = Reader::new();
        for stream in 0..8 {
            assert_eq!(reader.read(stream << 30, MIB).dropped, None);
        }
        assert_eq!(reader.read(8 << 30, MIB).dropped, Some(1));
    }

    proptest! {
        #[test]
        fn random_reads_never_open_a_window(starts in prop::collection::vec(0u64..100_000, 1..200)) {
            // Every 4 MiB at most one page: never two that touch.
            let mut reader = Reader::new();
            for start in starts {
                prop_assert_eq!(reader.read(start * 4 * MIB, 4 * KIB).ahead, None);
            }
        }

        #[test]
        fn the_window_is_behind_the_read_and_inside_the_file(
            reads in prop::collection::vec((0u64..64, 1u64..9), 1..100),
            len in MIB..80 * MIB,
        ) {
            let mut planner = Planner::new(MAX);
            let mut ids = 0;
            for (block, blocks) in reads {
                let read = Span::at(block * MIB, blocks * MIB).intersect(Span::between(0, len));
                if read.is_empty() { continue }
                let plan = planner.next(read, len, || { ids += 1; ids });
                if let Some((_, ahead)) = plan.ahead {
                    prop_assert!(ahead.start >= read.end && ahead.end <= len && ahead.len() <= MAX);
                }
                prop_assert!(planner.streams.len() <= STREAMS);
            }
        }
    }
}
