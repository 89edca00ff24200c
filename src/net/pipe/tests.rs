//! A pipe says what a plain list of bytes says, whatever is done to it and however reads and writes are cut.

use std::collections::VecDeque;
use std::task::Waker;

use proptest::prelude::*;

use super::*;

const ALL: Interest = Interest::NONE.with(b"QZ");

fn filled(bytes: &[u8]) -> Pipe {
    let mut pipe = Pipe::new(&ALL, 1 << 20);
    let mut source = bytes;
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(pipe.poll_fill(&mut cx, &mut source), Poll::Ready(Ok(n)) if n == bytes.len().min(BUFFER)));
    pipe
}

fn drained(pipe: &mut Pipe) -> Vec<u8> {
    let mut sink = Vec::new();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(pipe.poll_drain(&mut cx, &mut sink), Poll::Ready(Ok(()))));
    sink
}

#[test]
fn a_message_of_ours_goes_between_frames() {
    let mut pipe = filled(b"Z\0\0\0\x05IZ\0\0\0\x05T");
    assert!(matches!(pipe.step(), Ok(Step::Frame { tag: b'Z', body: b"I" })));
    pipe.pass(6);
    pipe.inject(b"N\0\0\0\x04");
    assert!(matches!(pipe.step(), Ok(Step::Frame { tag: b'Z', body: b"T" })));
    pipe.pass(6);
    assert_eq!(drained(&mut pipe), b"Z\0\0\0\x05IN\0\0\0\x04Z\0\0\0\x05T");
}

#[test]
fn a_skipped_frame_is_not_written() {
    let mut pipe = filled(b"Z\0\0\0\x05IZ\0\0\0\x05TZ\0\0\0\x05E");
    pipe.pass(6);
    pipe.skip(6);
    assert!(matches!(pipe.step(), Ok(Step::Frame { tag: b'Z', body: b"E" })));
    pipe.pass(6);
    assert_eq!(drained(&mut pipe), b"Z\0\0\0\x05IZ\0\0\0\x05E");
    assert!(pipe.is_empty());
}

#[test]
fn a_lost_source_leaves_whole_frames_only() {
    let mut pipe = filled(b"Z\0\0\0\x05IZ\0\0");
    pipe.pass(6);
    assert!(matches!(pipe.step(), Ok(Step::Wait)));
    assert!(pipe.cut_source());
    assert_eq!(drained(&mut pipe), b"Z\0\0\0\x05I");
}

#[test]
fn a_source_lost_within_a_large_frame_cannot_be_answered_for() {
    let mut bytes = vec![b'D'];
    bytes.extend(100_000_i32.to_be_bytes());
    bytes.resize(BUFFER, 7);
    let mut pipe = filled(&bytes);
    let Ok(Step::Pass(count)) = pipe.step() else { panic!("streamed") };
    pipe.pass(count);
    assert!(!pipe.cut_source());
}

#[test]
fn injecting_more_than_there_is_room_grows_the_buffer() {
    let mut pipe = filled(&[b'x'; BUFFER]);
    let message = vec![b'm'; 100];
    pipe.inject(&message);
    pipe.pass(BUFFER);
    let out = drained(&mut pipe);
    assert_eq!((out.len(), &out[..100]), (BUFFER + 100, &message[..]));
}

#[test]
fn without_bytes_there_is_no_buffer() {
    let mut pipe = filled(b"Z\0\0\0\x05I");
    assert_eq!(pipe.buf.len(), BUFFER);
    pipe.pass(6);
    assert_eq!(drained(&mut pipe), b"Z\0\0\0\x05I");
    assert!(pipe.buf.is_empty() && pipe.has_room());
    let mut cx = Context::from_waker(Waker::noop());
    let mut silent = Pieces { left: b"", pieces: VecDeque::from([0]) };
    assert!(pipe.poll_fill(&mut cx, &mut silent).is_pending());
    assert!(pipe.buf.is_empty(), "nothing came");
    pipe.inject(b"");
    pipe.append(b"");
    assert_eq!(pipe.fill(b""), 0);
    assert!(pipe.buf.is_empty() && pipe.is_empty());
    let rids: [fn(&mut Pipe); 3] = [
        |pipe| pipe.skip(6),
        |pipe| {
            pipe.cut_source();
        },
        |pipe| {
            pipe.pass(6);
            pipe.cut_sink();
        },
    ];
    for rid in rids {
        pipe.append(b"Z\0\0\0\x05I");
        assert_eq!(pipe.buf.len(), BUFFER);
        rid(&mut pipe);
        assert!(pipe.buf.is_empty() && pipe.is_empty());
    }
}

#[test]
fn a_few_bytes_that_wait_have_a_buffer_of_their_own_size() {
    let mut cx = Context::from_waker(Waker::noop());
    let mut pipe = filled(b"Z\0\0\0\x05IZ\0\0");
    pipe.skip(6);
    pipe.stow();
    assert_eq!((pipe.buf.len(), pipe.front(3), lent::spare(Size::Usual)), (3, &b"Z\0\0"[..], 1));
    assert!(pipe.has_room());
    let mut silent = Pieces { left: b"", pieces: VecDeque::from([0]) };
    assert!(pipe.poll_fill(&mut cx, &mut silent).is_pending());
    let mut more = Pieces { left: b"\0\x05T", pieces: VecDeque::new() };
    assert!(matches!(pipe.poll_fill(&mut cx, &mut more), Poll::Ready(Ok(3))));
    assert!(matches!(pipe.step(), Ok(Step::Frame { tag: b'Z', body: b"T" })));
    pipe.stow();
    pipe.inject(b"N\0\0\0\x04");
    pipe.pass(6);
    assert_eq!(drained(&mut pipe), b"N\0\0\0\x04Z\0\0\0\x05T");
    assert!(pipe.buf.is_empty() && pipe.is_empty());

    let many = filled(&[b'x'; FEW + 1]);
    let (mut empty, mut many) = (Pipe::new(&ALL, 1 << 20), many);
    empty.stow();
    many.stow();
    assert_eq!((empty.buf.len(), many.buf.len()), (0, BUFFER), "nothing, and too much to be copied");
}

#[test]
fn a_thread_keeps_few_spare_buffers() {
    let many: Vec<_> = (0..100).map(|_| filled(b"Z\0\0\0\x05I")).collect();
    assert_eq!(lent::spare(Size::Usual), 0);
    drop(many);
    assert!((1..10).contains(&lent::spare(Size::Usual)));
}

#[test]
fn many_bytes_get_a_large_buffer_and_few_the_usual_one() {
    let rows: Vec<u8> = [b"d\0\0\x01\0".as_slice(), &[7; 252]].concat().repeat(2000);
    let mut cx = Context::from_waker(Waker::noop());
    let mut pipe = Pipe::new(&ALL, 1 << 20);
    let mut source = Pieces { left: &rows, pieces: VecDeque::from([usize::MAX, usize::MAX, usize::MAX, 20_000, 300]) };
    let (mut sizes, mut out) = (Vec::new(), Vec::new());
    while let Poll::Ready(Ok(1..)) = pipe.poll_fill(&mut cx, &mut source) {
        sizes.push(pipe.buf.len());
        while let Ok(Step::Pass(count)) = pipe.step() {
            pipe.pass(count);
        }
        out.extend(drained(&mut pipe));
    }
    // Twenty thousand at once are still worth it, three hundred are not; then it begins anew.
    assert_eq!(sizes[..8], [BUFFER, LARGE, LARGE, LARGE, LARGE, BUFFER, LARGE, LARGE]);
    assert!(out == rows);
    assert_eq!((lent::spare(Size::Usual), lent::spare(Size::Large)), (1, 1));
}

#[test]
fn who_reads_nothing_is_kept_no_more_than_a_buffer() {
    let rows = [b"d\0\0\x01\0".as_slice(), &[7; 252]].concat().repeat(2000);
    let mut cx = Context::from_waker(Waker::noop());
    let mut pipe = Pipe::new(&ALL, 1 << 20);
    let mut source = Pieces { left: &rows, pieces: VecDeque::new() };
    let mut sink = Drain { taken: Vec::new(), pieces: VecDeque::from([usize::MAX, 1000, 0, 0, 500, 0]) };
    for (drained, held) in [(true, BUFFER), (false, LARGE), (false, LARGE), (false, LARGE)] {
        let _ = pipe.poll_fill(&mut cx, &mut source);
        while let Ok(Step::Pass(count)) = pipe.step() {
            pipe.pass(count);
        }
        let tail = pipe.unseen();
        assert_eq!(pipe.poll_drain(&mut cx, &mut sink).is_ready(), drained);
        assert!(tail < 257 && pipe.buf.len() == held, "{} bytes, {tail} of a row", pipe.buf.len());
        assert_eq!(pipe.has_room(), drained);
    }
}

/// Gives its bytes in pieces of so many; where that is none, it waits.
struct Pieces<'a> {
    left: &'a [u8],
    pieces: VecDeque<usize>,
}

impl Source for Pieces<'_> {}

impl Source for &[u8] {}

impl Sink for Vec<u8> {}

impl Sink for Drain {}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let piece = self.pieces.pop_front().unwrap_or(usize::MAX);
        if piece == 0 {
            return Poll::Pending;
        }
        let (now, later) = self.left.split_at(piece.min(buf.remaining()).min(self.left.len()));
        buf.put_slice(now);
        self.left = later;
        Poll::Ready(Ok(()))
    }
}

/// Takes bytes in pieces of so many; where that is none, it waits.
struct Drain {
    taken: Vec<u8>,
    pieces: VecDeque<usize>,
}

impl AsyncWrite for Drain {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let piece = self.pieces.pop_front().unwrap_or(usize::MAX);
        if piece == 0 {
            return Poll::Pending;
        }
        let count = piece.min(bytes.len());
        self.taken.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn what_is_put_behind_a_few_bytes_that_wait_leaves_room_for_the_rest_of_a_frame() {
    let frame = bytes_of(&[(b'Q', BUFFER - 8, 0)]);
    let mut cx = Context::from_waker(Waker::noop());
    let mut pipe = Pipe::new(&ALL, 1 << 20);
    assert_eq!(pipe.fill(&frame[..1]), 1);
    pipe.stow();
    pipe.append(&frame[1..15_000]);
    assert!(pipe.has_room());
    let mut source = Pieces { left: &frame[15_000..], pieces: VecDeque::new() };
    assert!(pipe.poll_fill(&mut cx, &mut source).is_ready());
    assert_eq!(pipe.unseen(), frame.len());
    assert!(matches!(pipe.step().unwrap(), Step::Frame { .. }));
}

/// What is done to a pipe.
#[derive(Clone, Debug)]
enum Act {
    Fill(usize),
    Feed(usize),
    /// A step; what it shows goes on, or (where nothing of its frame has) is thrown away.
    Step {
        keep: bool,
    },
    Inject(usize),
    Append(usize),
    Drain(Vec<usize>),
    CutSource,
    CutSink,
    Stow,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let piece = || prop_oneof![2 => 0..2_usize, 3 => 1..3000_usize, 3 => 10_000..100_000_usize];
    let act = prop_oneof![
        6 => piece().prop_map(Act::Fill),
        1 => piece().prop_map(Act::Feed),
        8 => prop::bool::weighted(0.8).prop_map(|keep| Act::Step { keep }),
        1 => prop_oneof![0..50_usize, 15_000..40_000_usize].prop_map(Act::Inject),
        1 => prop_oneof![0..50_usize, 15_000..40_000_usize].prop_map(Act::Append),
        6 => prop::collection::vec(piece(), 0..3).prop_map(Act::Drain),
        1 => Just(Act::CutSource),
        1 => Just(Act::CutSink),
        2 => Just(Act::Stow),
    ];
    prop::collection::vec(act, 0..60)
}

/// Frames of all sizes around what a buffer holds, boring ones and those of interest: tag, bytes of the body, their beginning.
fn frames() -> impl Strategy<Value = Vec<(u8, usize, u8)>> {
    let length =
        prop_oneof![6 => 0..40_usize, 4 => 900..3000_usize, 2 => BUFFER - 8..BUFFER + 3, 1 => 20_000..90_000_usize];
    prop::collection::vec((prop::sample::select(b"QDdZ".as_slice()), length, any::<u8>()), 1..60)
}

fn bytes_of(frames: &[(u8, usize, u8)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &(tag, length, seed) in frames {
        bytes.push(tag);
        bytes.extend_from_slice(&(length as u32 + 4).to_be_bytes());
        bytes.extend((0..length).map(|at| seed.wrapping_add((at / 7) as u8)));
    }
    bytes
}

/// The same as a plain list of bytes: what was passed and not written, what was read and not looked at.
#[derive(Default)]
struct Plain {
    passed: VecDeque<u8>,
    unseen: Vec<u8>,
    written: Vec<u8>,
    moved: u64,
}

impl Plain {
    fn compare(&self, pipe: &Pipe, sink: &Drain) {
        assert_eq!(pipe.unseen(), self.unseen.len());
        assert_eq!(pipe.front(pipe.unseen()), self.unseen, "what was not looked at");
        assert_eq!(pipe.is_drained(), self.passed.is_empty());
        assert_eq!(pipe.is_empty(), self.passed.is_empty() && self.unseen.is_empty());
        assert_eq!(pipe.buf.is_empty(), pipe.is_empty(), "lent only while bytes are in it");
        assert_eq!((sink.taken.len(), pipe.moved()), (self.written.len(), self.moved));
    }
}

/// One step on both. Says whether the pipe moved on.
fn step(pipe: &mut Pipe, plain: &mut Plain, keep: bool) -> bool {
    let within = !pipe.at_boundary();
    let (bytes, front) = (plain.unseen.clone(), pipe.peek().map(|(tag, body)| (tag, body.map(<[u8]>::to_vec))));
    let seen = pipe.step().unwrap();
    let count = seen.consumed();
    let whole = bytes.get(1..HEADER_LEN).map(|word| 1 + u32::from_be_bytes(word.try_into().unwrap()) as usize);
    match seen {
        Step::Wait => assert!(within || bytes.len() < BUFFER, "a frame that does not fit is streamed"),
        Step::Frame { tag, body } => assert_eq!(front, Some((tag, Some(body.to_vec())))),
        Step::Head { tag, .. } => assert_eq!(front, Some((tag, None))),
        Step::Part { .. } => assert!(within),
        Step::Pass(_) => {}
    }
    if !within && !pipe.at_boundary() {
        assert!(whole.unwrap() > BUFFER, "a frame that fits goes only whole");
    }
    if keep || within || !pipe.at_boundary() {
        pipe.pass(count);
        plain.passed.extend(plain.unseen.drain(..count));
    } else {
        pipe.skip(count);
        plain.unseen.drain(..count);
    }
    count > 0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_it_the_bytes_are_those_of_a_plain_list(frames in frames(), acts in acts()) {
        let stream = bytes_of(&frames);
        let mut cx = Context::from_waker(Waker::noop());
        let mut pipe = Pipe::new(&ALL, 1 << 20);
        let mut plain = Plain::default();
        let mut sink = Drain { taken: Vec::new(), pieces: VecDeque::new() };
        let mut left = stream.as_slice();
        for act in acts {
            match act {
                Act::Fill(piece) => {
                    let (room, mut source) = (pipe.has_room(), Pieces { left, pieces: VecDeque::from([piece]) });
                    match pipe.poll_fill(&mut cx, &mut source) {
                        Poll::Ready(read) => {
                            let count = read.unwrap();
                            prop_assert!(room && piece > 0 && (count > 0 || left.is_empty()));
                            plain.unseen.extend_from_slice(&left[..count]);
                            left = &left[count..];
                        }
                        Poll::Pending => prop_assert!(!room || piece == 0),
                    }
                }
                Act::Feed(piece) => {
                    let room = pipe.has_room();
                    let count = pipe.fill(&left[..piece.min(left.len())]);
                    prop_assert_eq!(count > 0, room && piece > 0 && !left.is_empty());
                    plain.unseen.extend_from_slice(&left[..count]);
                    left = &left[count..];
                }
                Act::Step { keep } => drop(step(&mut pipe, &mut plain, keep)),
                Act::Inject(length) if pipe.at_boundary() => {
                    pipe.inject(&vec![b'i'; length]);
                    plain.passed.extend(vec![b'i'; length]);
                }
                Act::Inject(_) => {}
                Act::Append(length) => {
                    let (now, later) = left.split_at(length.min(left.len()));
                    pipe.append(now);
                    plain.unseen.extend_from_slice(now);
                    left = later;
                }
                Act::Drain(pieces) => {
                    sink.pieces = pieces.into();
                    let drained = pipe.poll_drain(&mut cx, &mut sink).is_ready();
                    let written = sink.taken.len() - plain.written.len();
                    plain.written.extend(plain.passed.drain(..written));
                    plain.moved += written as u64;
                    prop_assert_eq!(drained, plain.passed.is_empty());
                }
                Act::CutSource => {
                    let whole = pipe.at_boundary();
                    prop_assert_eq!(pipe.cut_source(), whole);
                    plain.unseen.clear();
                    if !whole {
                        return Ok(()); // nothing can follow
                    }
                    // The next source begins with a frame: where one was cut, what follows of this stream does not.
                    let mut at = 0;
                    let from = stream.len() - left.len();
                    while at < from {
                        at += 1 + u32::from_be_bytes(stream[at + 1..at + 5].try_into().unwrap()) as usize;
                    }
                    left = &stream[at..];
                    pipe.renew_source();
                }
                Act::CutSink => {
                    pipe.cut_sink();
                    plain.passed.clear();
                }
                Act::Stow => {
                    let room = pipe.has_room();
                    pipe.stow();
                    prop_assert!(pipe.has_room() || !room || !pipe.is_drained());
                }
            }
            plain.compare(&pipe, &sink);
        }
        // And to the end: all of it comes through.
        sink.pieces.clear();
        let mut turns = 0..1000;
        while !left.is_empty() || !pipe.is_empty() {
            prop_assert!(turns.next().is_some(), "it moves on");
            let mut source = Pieces { left, pieces: VecDeque::new() };
            if let Poll::Ready(read) = pipe.poll_fill(&mut cx, &mut source) {
                plain.unseen.extend_from_slice(&left[..read.unwrap()]);
                left = source.left;
            }
            while step(&mut pipe, &mut plain, true) {}
            prop_assert!(pipe.poll_drain(&mut cx, &mut sink).is_ready());
            plain.moved += plain.passed.len() as u64;
            plain.written.extend(plain.passed.drain(..));
            plain.compare(&pipe, &sink);
        }
        prop_assert_eq!(sink.taken, plain.written);
    }
}
