//! What is asked, what the answers come to, and that COMMIT is told only behind the barrier.

use super::*;
use crate::ids::Lsn;
use crate::wire::frontend;
use crate::wire::message::Query;
use crate::wire::message::write::backend as reply;
use crate::wire::scan::{Interest, Scanner, Step as Scan};

fn mark(durability: Durability) -> Mark {
    Mark {
        pod: PodName::new("pg-0"),
        xid: Some((7 << 32) | 725),
        lsn: Some(Lsn(100)),
        timeline: Timeline(3),
        era: Some("monday".to_owned()),
        durability,
    }
}

fn inquest() -> Inquest {
    Inquest::new(mark(Durability::On), PodName::new("pg-0"), false)
}

/// The texts of the packet's Queries.
fn texts(packet: &[u8]) -> Vec<String> {
    let (mut scanner, mut rest) = (Scanner::new(&const { Interest::NONE.with(&[frontend::QUERY]) }, 1 << 20), packet);
    let mut found = Vec::new();
    while let Ok(Scan::Frame { body, .. }) = scanner.step(rest, true) {
        found.push(String::from_utf8(Query::read(body).unwrap().text.to_vec()).unwrap());
        rest = &rest[5 + body.len()..];
    }
    found
}

/// One reply of the server.
#[derive(Clone, Copy)]
enum Say<'a> {
    Row(&'a [Option<&'a str>]),
    Tag(&'a str),
    Error,
    Notice(&'a str),
    Ready(TxStatus),
}

use Say::{Error, Notice, Ready, Row, Tag};

const IDLE: Say<'_> = Ready(TxStatus::Idle);
const T3: Say<'_> = Row(&[Some("00000003"), Some("monday")]);
const COMMITTED: Say<'_> = Row(&[Some("committed")]);
const IN_PROGRESS: Say<'_> = Row(&[Some("in progress")]);

/// What the last of the replies comes to; the others must leave it open.
fn hear(inquest: &mut Inquest, history: Option<&History>, says: &[Say<'_>]) -> Step {
    let mut step = Step::More;
    for say in says {
        assert_eq!(step, Step::More);
        let mut frame = BytesMut::new();
        match say {
            Row(values) => {
                let values: Vec<_> = values.iter().map(|value| value.map(str::as_bytes)).collect();
                reply::data_row(&mut frame, &values);
            }
            Tag(tag) => reply::command_complete(&mut frame, tag),
            Error => frame.extend_from_slice(b"E\0\0\0\0SERROR\0VERROR\0C22023\0Mno\0\0"),
            Notice(severity) => {
                frame.extend_from_slice(format!("N\0\0\0\0S{severity}\0V{severity}\0C01000\0Mx\0\0").as_bytes());
            }
            Ready(status) => reply::ready_for_query(&mut frame, *status),
        }
        step = inquest.reply(frame[0], &frame[5..], history);
    }
    step
}

#[test]
fn the_question_has_the_whole_id_and_comes_before_the_status() {
    let asked = texts(&inquest().packet());
    assert_eq!(asked.len(), 1);
    let status = asked[0].find("pg_xact_status('30064771797'::pg_catalog.xid8)").unwrap();
    assert!(asked[0].find("pg_walfile_name").unwrap() < status);
}

#[test]
fn each_answer_of_the_same_primary() {
    for (status, step) in [
        (Some("aborted"), Step::Done(Verdict::Lost)),
        (Some("committed"), Step::Next),
        (Some("in progress"), Step::Again(Verdict::Pending)),
        (Some("what?"), Step::Done(Verdict::Unknown(Why::NotTold))),
        (None, Step::Done(Verdict::Unknown(Why::Forgotten))),
    ] {
        let mut inquest = inquest();
        inquest.packet();
        assert_eq!(hear(&mut inquest, None, &[T3, Tag("SELECT 1"), Row(&[status]), Tag("SELECT 1"), IDLE]), step);
    }
}

#[test]
fn what_is_no_answer_is_not_known() {
    let not_told = Step::Done(Verdict::Unknown(Why::NotTold));
    for says in [
        &[Error, IDLE][..], // in recovery
        &[IDLE],
        &[T3, IDLE],
        &[T3, Tag("SELECT 1"), Error, IDLE], // an id of the future
        &[T3, COMMITTED, Error, IDLE],
        &[T3, COMMITTED, Ready(TxStatus::InTransaction)],
        &[COMMITTED, IDLE],
        &[Row(&[Some("3"), Some("monday")]), COMMITTED, IDLE],
        &[Row(&[None, None]), COMMITTED, IDLE],
        &[T3, Row(&[]), COMMITTED, IDLE],
        &[T3, Row(&[Some("a"), None, None]), COMMITTED, IDLE],
    ] {
        let mut inquest = inquest();
        inquest.packet();
        assert_eq!(hear(&mut inquest, None, says), not_told);
    }
    for era in [Some("tuesday"), None] {
        let mut inquest = inquest();
        inquest.packet();
        let step = hear(&mut inquest, None, &[Row(&[Some("00000003"), era]), COMMITTED, IDLE]);
        assert_eq!(step, Step::Done(Verdict::Unknown(Why::Crash)));
    }
}

#[test]
fn commit_is_told_only_behind_the_barrier() {
    for (durability, word) in
        [(Durability::On, "on"), (Durability::RemoteWrite, "remote_write"), (Durability::RemoteApply, "remote_apply")]
    {
        let mut inquest = Inquest::new(mark(durability), PodName::new("pg-0"), false);
        inquest.packet();
        assert_eq!(hear(&mut inquest, None, &[T3, COMMITTED, IDLE]), Step::Next);
        let open = Ready(TxStatus::InTransaction);
        let begun = [Tag("BEGIN"), Tag("SET"), Tag("SET"), Row(&[Some("0/1")]), Tag("SELECT 1"), open];
        let tried = |inquest: &mut Inquest, rest: &[Say<'_>]| {
            let asked = texts(&inquest.packet());
            assert_eq!(asked.len(), 2);
            assert!(asked[0].contains(&format!("SET LOCAL synchronous_commit = {word};")), "{asked:?}");
            assert_eq!(asked[1], "COMMIT");
            hear(inquest, None, &[&begun[..], rest].concat())
        };
        let again = Step::Again(Verdict::Pending);
        assert_eq!(tried(&mut inquest, &[Notice("WARNING"), Tag("COMMIT"), IDLE]), again, "it gave up waiting");
        assert_eq!(tried(&mut inquest, &[Error, IDLE]), again);
        assert_eq!(tried(&mut inquest, &[Tag("ROLLBACK"), IDLE]), again);
        assert_eq!(tried(&mut inquest, &[Tag("COMMIT"), open]), again);
        assert_eq!(tried(&mut inquest, &[IDLE]), again);
        assert_eq!(tried(&mut inquest, &[Notice("NOTICE"), Tag("COMMIT"), IDLE]), Step::Done(Verdict::Committed));
    }
    for durability in [Durability::Off, Durability::Local] {
        let mut inquest = Inquest::new(mark(durability), PodName::new("pg-0"), false);
        inquest.packet();
        assert_eq!(hear(&mut inquest, None, &[T3, COMMITTED, IDLE]), Step::Done(Verdict::Committed));
    }
}

#[test]
fn an_orphan_is_ended_when_it_is_found_still_running() {
    let mut inquest = inquest();
    assert_eq!(texts(&inquest.packet()).len(), 1, "at first it is left alone");
    for _ in 0..2 {
        assert_eq!(hear(&mut inquest, None, &[T3, IN_PROGRESS, IDLE]), Step::Again(Verdict::Pending));
        let asked = texts(&inquest.packet());
        assert!(asked[0].contains("pg_terminate_backend") && asked[0].contains("'725'::pg_catalog.xid"), "{asked:?}");
        assert_eq!(asked.len(), 2);
        // Whether it may be ended or not, the answer decides.
        assert_eq!(hear(&mut inquest, None, &[Row(&[Some("t")]), Error, Notice("WARNING"), IDLE]), Step::More);
    }
    assert_eq!(hear(&mut inquest, None, &[T3, Row(&[Some("aborted")]), IDLE]), Step::Done(Verdict::Lost));
}

#[test]
fn on_a_later_timeline_the_history_decides_and_is_waited_for() {
    let mut inquest = Inquest::new(mark(Durability::On), PodName::new("pg-1"), false);
    let later = Row(&[Some("00000004"), Some("other")]);
    inquest.packet();
    let unknown = Step::Again(Verdict::Unknown(Why::NoHistory));
    assert_eq!(hear(&mut inquest, None, &[later, COMMITTED, IDLE]), unknown);
    inquest.packet();
    assert_eq!(hear(&mut inquest, Some(&History::first()), &[later, COMMITTED, IDLE]), unknown);
    let history = |end: &str| History::parse(Timeline(4), &format!("3\t{end}\tx\n")).unwrap();
    inquest.packet();
    assert_eq!(
        hear(&mut inquest, Some(&history("0/64")), &[later, IN_PROGRESS, IDLE]),
        Step::Again(Verdict::Pending),
        "prepared"
    );
    assert_eq!(texts(&inquest.packet()).len(), 1, "there is no backend to be ended");
    assert_eq!(hear(&mut inquest, Some(&history("0/64")), &[later, COMMITTED, IDLE]), Step::Next);

    for (resumed, end, step) in [
        (false, "0/63", Step::Done(Verdict::Lost)),
        (true, "0/64", Step::Done(Verdict::Unknown(Why::Crash))),
        (false, "0/64", Step::Next),
    ] {
        let mut inquest = Inquest::new(mark(Durability::On), PodName::new("pg-1"), resumed);
        inquest.packet();
        assert_eq!(hear(&mut inquest, Some(&history(end)), &[later, COMMITTED, IDLE]), step);
    }
}
