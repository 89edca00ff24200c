//! The scanner against a model that sees all frames at once.

use super::*;
use proptest::prelude::*;

const BIG: u32 = 1 << 20;

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

fn header(tag: u8, length: u32) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(length.to_be_bytes());
    bytes
}

#[test]
fn interest_is_a_set_of_tags() {
    const SET: Interest = Interest::NONE.with(b"ZC").with(&[0, 255]);
    let members: Vec<u8> = (0..=255).filter(|&tag| SET.has(tag)).collect();
    assert_eq!(members, [0, b'C', b'Z', 255]);
}

#[test]
fn boring_frames_pass_together_up_to_the_first_of_interest() {
    let mut scanner = Scanner::new(&const { Interest::NONE.with(b"Z") }, BIG);
    let stream = [frame(b'D', b"row"), frame(b'D', b""), frame(b'Z', b"I"), frame(b'D', b"x")].concat();
    assert_eq!(scanner.step(&stream, false), Ok(Step::Pass(13)));
    assert_eq!(scanner.step(&stream[13..], false), Ok(Step::Frame { tag: b'Z', body: b"I" }));
    assert_eq!(scanner.step(&stream[19..], false), Ok(Step::Pass(6)));
    assert_eq!(scanner.step(&[], false), Ok(Step::Wait));
}

#[test]
fn a_part_of_a_small_frame_waits() {
    let mut scanner = Scanner::new(&const { Interest::NONE.with(b"Z") }, BIG);
    for whole in [frame(b'D', b"row"), frame(b'Z', b"I")] {
        for cut in 0..whole.len() {
            assert_eq!(scanner.step(&whole[..cut], false), Ok(Step::Wait), "cut at {cut}");
        }
    }
    let stream = [frame(b'D', b"row"), frame(b'D', b"row")].concat();
    assert_eq!(scanner.step(&stream[..15], true), Ok(Step::Pass(8)), "only the whole one, even from a full buffer");
}

#[test]
fn a_large_boring_frame_streams_and_the_rest_of_it_passes_with_what_follows() {
    let mut scanner = Scanner::new(&Interest::NONE, BIG);
    let stream = [frame(b'D', &[7; 20]), frame(b'C', b"x")].concat();
    assert_eq!(scanner.step(&stream[..10], true), Ok(Step::Pass(10)));
    assert_eq!((scanner.at_boundary(), scanner.left()), (false, 15));
    assert_eq!(scanner.step(&[], false), Ok(Step::Wait));
    assert_eq!(scanner.step(&stream[10..], false), Ok(Step::Pass(21)));
    assert!(scanner.at_boundary());
}

#[test]
fn a_large_frame_of_interest_is_shown_in_parts() {
    let mut scanner = Scanner::new(&const { Interest::NONE.with(b"Q") }, BIG);
    let stream = frame(b'Q', b"0123456789");
    assert_eq!(scanner.step(&stream[..5], true), Ok(Step::Head { tag: b'Q', part: b"", length: 10 }));
    scanner.set_interest(&Interest::NONE);
    assert_eq!(scanner.step(&[], false), Ok(Step::Wait));
    assert_eq!(
        scanner.step(&stream[5..12], false),
        Ok(Step::Part { tag: b'Q', part: b"0123456", length: 10, last: false })
    );
    assert!(!scanner.at_boundary());
    assert_eq!(scanner.step(&stream[12..], false), Ok(Step::Part { tag: b'Q', part: b"789", length: 10, last: true }));
    assert!(scanner.at_boundary());
    assert_eq!(scanner.step(&stream, false), Ok(Step::Pass(15)), "the new interest counts from the next frame on");
}

#[test]
fn lengths_nobody_sends_are_errors() {
    let length = |n: i32| ScanError::Length { tag: b'D', length: n };
    let cases = [
        (header(b'D', 0), length(0)),
        (header(b'D', 3), length(3)),
        (header(b'D', u32::MAX), length(-1)),
        (header(b'D', 1 << 31), length(i32::MIN)),
        (header(b'D', i32::MAX as u32), ScanError::TooLong { tag: b'D', length: i32::MAX as u32, max: BIG }),
        (header(b'D', BIG + 1), ScanError::TooLong { tag: b'D', length: BIG + 1, max: BIG }),
        (header(0, 4), ScanError::ZeroTag),
    ];
    for (bytes, error) in cases {
        for interest in [&Interest::NONE, &const { Interest::NONE.with(&[b'D', 0]) }] {
            assert_eq!(Scanner::new(interest, BIG).step(&bytes, false), Err(error), "{bytes:?}");
        }
        let stream = [frame(b'C', b"ok"), bytes].concat();
        let mut scanner = Scanner::new(&Interest::NONE, BIG);
        assert_eq!(scanner.step(&stream, false), Ok(Step::Pass(7)), "what came before still passes");
        assert_eq!(scanner.step(&stream[7..], false), Err(error));
    }
}

#[test]
fn the_limits_themselves_are_allowed() {
    let mut scanner = Scanner::new(&Interest::NONE, BIG);
    assert_eq!(scanner.step(&header(b'D', 4), false), Ok(Step::Pass(5)));
    assert_eq!(scanner.step(&header(b'D', BIG), false), Ok(Step::Wait));
    let mut scanner = Scanner::new(&Interest::NONE, i32::MAX as u32);
    assert_eq!(scanner.step(&header(b'D', i32::MAX as u32), true), Ok(Step::Pass(5)));
    assert_eq!(scanner.left(), i32::MAX as u32 - 4);
}

/// What a relay with a buffer of `capacity` bytes saw of a stream that arrived in `chunks`.
struct Relayed {
    forwarded: usize,
    seen: Vec<(u8, Vec<u8>)>,
    /// Where each step ended.
    stops: Vec<usize>,
}

fn relay(stream: &[u8], interest: &'static Interest, capacity: usize, chunks: &[usize]) -> Result<Relayed, ScanError> {
    let mut scanner = Scanner::new(interest, BIG);
    let mut relayed = Relayed { forwarded: 0, seen: Vec::new(), stops: Vec::new() };
    let (mut arrived, mut chunk) = (0, chunks.iter().cycle());
    loop {
        let window = &stream[relayed.forwarded..arrived];
        let full = window.len() == capacity;
        let step = scanner.step(window, full)?;
        relayed.forwarded += step.consumed();
        match step {
            Step::Pass(n) => assert!(n > 0, "a pass moves on"),
            Step::Frame { tag, body } => relayed.seen.push((tag, body.to_vec())),
            Step::Head { tag, part, length } => {
                assert!(full && part.len() < length as usize);
                relayed.seen.push((tag, part.to_vec()));
            }
            Step::Part { tag, part, last, .. } => {
                let seen = relayed.seen.last_mut().expect("a head came first");
                assert_eq!((seen.0, last), (tag, scanner.at_boundary()));
                seen.1.extend(part);
            }
            Step::Wait => {
                assert!(!full, "a full buffer never waits");
                if arrived == stream.len() {
                    return Ok(relayed);
                }
                let more = chunk.next().copied().unwrap_or(1).min(capacity - window.len());
                arrived = (arrived + more).min(stream.len());
                continue;
            }
        }
        relayed.stops.push(relayed.forwarded);
    }
}

proptest! {
    #[test]
    fn cuts_and_buffers_make_no_difference(
        frames in prop::collection::vec((b'a'..b'f', prop::collection::vec(any::<u8>(), 0..40)), 0..20),
        capacity in 5_usize..64,
        chunks in prop::collection::vec(1_usize..20, 1..8),
    ) {
        let interest = &const { Interest::NONE.with(b"ac") };
        let stream: Vec<u8> = frames.iter().flat_map(|(tag, body)| frame(*tag, body)).collect();
        let relayed = relay(&stream, interest, capacity, &chunks).expect("valid frames");
        prop_assert_eq!(relayed.forwarded, stream.len());
        let expected: Vec<_> = frames.iter().filter(|(tag, _)| interest.has(*tag)).cloned().collect();
        prop_assert_eq!(relayed.seen, expected);
        // Every stop is a boundary, or inside a frame that is larger than the buffer.
        let mut pos = 0;
        for (_, body) in &frames {
            let end = pos + HEADER_LEN + body.len();
            let inside = relayed.stops.iter().any(|&stop| pos < stop && stop < end);
            prop_assert!(!inside || end - pos > capacity);
            pos = end;
        }
    }

    #[test]
    fn any_bytes_have_the_same_end_however_they_are_cut(
        bytes in prop::collection::vec(prop_oneof![Just(0_u8), Just(5), any::<u8>()], 0..200),
        chunks in prop::collection::vec(1_usize..20, 1..8),
    ) {
        let interest = &const { Interest::NONE.with(&[5, 9]) };
        let whole = relay(&bytes, interest, 256, &[256]).map(|r| (r.forwarded, r.seen));
        let cut = relay(&bytes, interest, 256, &chunks).map(|r| (r.forwarded, r.seen));
        prop_assert_eq!(whole, cut);
    }
}
