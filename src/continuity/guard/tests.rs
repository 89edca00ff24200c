//! The bytes that go out, and every way the replies may come.

use super::*;
use crate::ids::Lsn;
use crate::wire::message::write::backend as reply;
use crate::wire::message::{Bind, Close, Execute, Parse};
use crate::wire::scan::{Interest, Scanner, Step};
use crate::wire::{TxStatus, frontend};

const FORMS: [Guard; 12] = [
    form(false, false, End::Sync),
    form(false, false, End::Flush),
    form(false, false, End::Open),
    form(false, true, End::Sync),
    form(false, true, End::Flush),
    form(false, true, End::Open),
    form(true, false, End::Sync),
    form(true, false, End::Flush),
    form(true, false, End::Open),
    form(true, true, End::Sync),
    form(true, true, End::Flush),
    form(true, true, End::Open),
];

const fn form(prepare: bool, first: bool, end: End) -> Guard {
    Guard { prepare, first, end }
}

fn frames(bytes: &[u8], interest: &'static Interest) -> Vec<(u8, Vec<u8>)> {
    let (mut scanner, mut rest, mut found) = (Scanner::new(interest, 1 << 20), bytes, Vec::new());
    while let Ok(Step::Frame { tag, body }) = scanner.step(rest, true) {
        found.push((tag, body.to_vec()));
        rest = &rest[5 + body.len()..];
    }
    assert!(rest.is_empty());
    found
}

#[test]
fn the_requests() {
    const TAGS: [u8; 7] = [
        frontend::PARSE,
        frontend::BIND,
        frontend::EXECUTE,
        frontend::CLOSE,
        frontend::SYNC,
        frontend::FLUSH,
        frontend::QUERY,
    ];
    for form in FORMS {
        let mut packet = BytesMut::new();
        form.append(&mut packet);
        let mut order = String::new();
        for (tag, body) in frames(&packet, &const { Interest::NONE.with(&TAGS) }) {
            order.push(char::from(tag));
            match tag {
                frontend::PARSE => assert_eq!(Parse::read(&body).unwrap().name, NAME),
                frontend::BIND => {
                    let bind = Bind::read(&body).unwrap();
                    let era = if form.first { b't' } else { b'f' };
                    assert_eq!((bind.portal, bind.statement), (NAME, NAME));
                    assert_eq!(bind.rest, [0, 0, 0, 1, 0, 0, 0, 1, era, 0, 0], "text in, text out");
                }
                frontend::EXECUTE => assert_eq!(Execute::read(&body).unwrap().portal, NAME),
                frontend::CLOSE => assert_eq!(Close::read(&body).unwrap().name, NAME),
                _ => assert!(body.is_empty()),
            }
        }
        let end = match form.end {
            End::Sync => "S",
            End::Flush => "H",
            End::Open => "",
        };
        assert_eq!(order, format!("{}BEC{end}", if form.prepare { "CP" } else { "" }));
    }
}

const ROW: [Option<&str>; 5] = [Some("725"), Some("1A/30"), Some("0000001F"), Some("monday"), Some("on")];

fn row(values: &[Option<&str>]) -> Vec<u8> {
    let mut frame = BytesMut::new();
    let values: Vec<_> = values.iter().map(|value| value.map(str::as_bytes)).collect();
    reply::data_row(&mut frame, &values);
    frame[5..].to_vec()
}

/// The replies of a server that does as it is told.
fn replies(form: Guard, row: Vec<u8>) -> Vec<(u8, Vec<u8>)> {
    let mut replies = Vec::new();
    if form.prepare {
        replies.extend([(tag::CLOSE_COMPLETE, Vec::new()), (tag::PARSE_COMPLETE, Vec::new())]);
    }
    replies.extend([
        (tag::BIND_COMPLETE, Vec::new()),
        (tag::DATA_ROW, row),
        (tag::COMMAND_COMPLETE, b"SELECT 1\0".to_vec()),
        (tag::CLOSE_COMPLETE, Vec::new()),
    ]);
    if form.end == End::Sync {
        replies.push((tag::READY_FOR_QUERY, vec![TxStatus::InTransaction.byte()]));
    }
    replies
}

fn mark(reading: &Reply) -> Option<Mark> {
    reading.answer()?.mark(&PodName::new("pg-0"), Some("sunday"))
}

fn expected(era: &str) -> Mark {
    Mark {
        pod: PodName::new("pg-0"),
        xid: Some(725),
        lsn: Some(Lsn(0x1A_0000_0030)),
        timeline: Timeline(31),
        era: Some(era.to_owned()),
        durability: Durability::On,
    }
}

#[test]
fn the_mark_is_there_with_its_row_and_the_end_with_the_last_reply() {
    for form in FORMS {
        let replies = replies(form, row(&ROW));
        let mut reading = form.replies();
        for (at, (tag, body)) in replies.iter().enumerate() {
            // What comes at any time is nobody's business here.
            for aside in [tag::NOTICE_RESPONSE, tag::NOTIFICATION_RESPONSE, tag::PARAMETER_STATUS] {
                assert_eq!(reading.take(aside, b"?"), Progress::Aside);
            }
            let last = at + 1 == replies.len();
            assert_eq!(reading.take(*tag, body), if last { Progress::Done } else { Progress::More }, "{form:?} {at}");
            let row_came = replies[..=at].iter().any(|(tag, _)| *tag == tag::DATA_ROW);
            assert_eq!(mark(&reading), row_came.then(|| expected("monday")));
        }
        assert_eq!(reading.take(tag::CLOSE_COMPLETE, b""), Progress::Unexpected, "nothing more is due");
    }
}

fn mark_of(row: Vec<u8>) -> Option<Mark> {
    let form = FORMS[0];
    let mut reading = form.replies();
    let last = replies(form, row).into_iter().map(|(tag, body)| reading.take(tag, &body)).last();
    assert_eq!(last, Some(Progress::Done), "a bad row spoils nothing but the mark");
    mark(&reading)
}

#[test]
fn what_a_row_may_say() {
    let known = [ROW[0], ROW[1], ROW[2], None, ROW[4]];
    assert_eq!(mark_of(row(&known)), Some(expected("sunday")), "the era that was known before");
    let empty = mark_of(row(&[None, None, None, None, Some("remote_apply")])).unwrap();
    assert!(empty.is_empty());
    let has_id = |values: &[Option<&str>]| Answer(row(values)).has_id();
    assert!(has_id(&ROW) && !has_id(&[None, None, None, None, Some("on")]) && !Answer(Vec::new()).has_id());
    assert_eq!((empty.timeline, empty.durability), (Timeline(0), Durability::RemoteApply));
    let most = "18446744073709551615";
    assert_eq!(mark_of(row(&[Some(most), ROW[1], ROW[2], None, ROW[4]])).unwrap().xid, Some(u64::MAX));
}

#[test]
fn a_row_that_is_not_such_a_row_gives_no_mark() {
    for (at, bad) in [
        (0, Some("x")),
        (0, Some("-1")),
        (0, Some("")),
        (0, None),
        (1, Some("0")),
        (1, None),
        (2, Some("1")),
        (2, Some("0000000G")),
        (2, Some("+000001F")),
        (2, Some("00000000")),
        (2, None),
        (4, Some("true")),
        (4, None),
    ] {
        let mut values = ROW;
        values[at] = bad;
        assert_eq!(mark_of(row(&values)), None, "column {at}: {bad:?}");
    }
    assert_eq!(mark_of(row(&ROW[..4])), None);
    assert_eq!(mark_of(row(&[ROW[0], ROW[1], ROW[2], ROW[3], ROW[4], None])), None);
    assert_eq!(mark_of(b"\0\x01\0\0\0\x01\xff".to_vec()), None, "not UTF-8");
}

#[test]
fn a_row_cut_at_every_byte_gives_no_mark() {
    let whole = row(&ROW);
    for at in 0..whole.len() {
        assert_eq!(mark_of(whole[..at].to_vec()), None, "{at}");
    }
    let mut longer = whole;
    longer.push(0);
    assert_eq!(mark_of(longer), None);
}

#[test]
fn an_error_ends_it_at_once_or_with_its_ready_for_query() {
    for form in FORMS {
        let replies = replies(form, row(&ROW));
        let most = replies.len() - usize::from(form.end == End::Sync);
        for at in 0..most {
            let mut reading = form.replies();
            for (tag, body) in &replies[..at] {
                assert_eq!(reading.take(*tag, body), Progress::More);
            }
            let error = reading.take(tag::ERROR_RESPONSE, b"SERROR\0\0");
            match form.end {
                End::Flush | End::Open => assert_eq!(error, Progress::Failed),
                End::Sync => {
                    assert_eq!(error, Progress::More);
                    assert_eq!(reading.take(tag::READY_FOR_QUERY, b"E"), Progress::Failed);
                }
            }
            assert_eq!((mark(&reading), reading.error()), (None, Some(&b"SERROR\0\0"[..])), "at {at}");
        }
    }
}

/// Whatever comes instead of what is due is told, once and for all.
#[test]
fn a_reply_out_of_turn_is_not_taken() {
    for form in FORMS {
        let replies = replies(form, row(&ROW));
        for at in 0..replies.len() {
            for wrong in 0..=u8::MAX {
                let aside = [tag::NOTICE_RESPONSE, tag::NOTIFICATION_RESPONSE, tag::PARAMETER_STATUS];
                if wrong == replies[at].0 || wrong == tag::ERROR_RESPONSE || aside.contains(&wrong) {
                    continue;
                }
                let mut reading = form.replies();
                for (tag, body) in &replies[..at] {
                    reading.take(*tag, body);
                }
                assert_eq!(reading.take(wrong, b""), Progress::Unexpected, "{form:?} {at} {wrong}");
                assert_eq!(reading.take(replies[at].0, &replies[at].1), Progress::Unexpected);
            }
        }
    }
}
