//! The packet, and the reading of its replies.

use super::*;
use crate::continuity::script;
use crate::wire::frontend;
use crate::wire::message::Query;
use crate::wire::message::write::backend as reply;
use crate::wire::scan::{Interest, Scanner, Step as Scan};

fn state_after(texts: &[&str]) -> State {
    let mut state = State::new(1 << 16);
    for text in texts {
        if let Some(script) = script::read(text.as_bytes(), false) {
            for act in script.acts() {
                state.completed(act, b"");
            }
        }
        state.ready(TxStatus::Idle);
    }
    state
}

/// The packet's messages: simple queries by their text, others by their tag.
fn messages(restore: &Restore) -> Vec<String> {
    let tags = [frontend::QUERY, frontend::PARSE, frontend::BIND, frontend::EXECUTE, frontend::CLOSE, frontend::SYNC];
    let mut scanner = Scanner::new(Interest::NONE.with(&tags), 1 << 20);
    let (mut rest, mut found) = (restore.packet(), Vec::new());
    while let Ok(Scan::Frame { tag, body }) = scanner.step(rest, true) {
        found.push(match tag {
            frontend::QUERY => String::from_utf8_lossy(Query::read(body).unwrap().text).into_owned(),
            other => char::from(other).to_string(),
        });
        rest = &rest[5 + body.len()..];
    }
    found
}

#[test]
fn nothing_to_carry_is_nothing_to_send() {
    assert!(Restore::new(&State::new(10), false).is_empty());
    assert!(Restore::new(&State::new(10), false).packet().is_empty());
}

#[test]
fn each_kind_in_its_turn() {
    let mut state = state_after(&[
        "SET a = 'x' -- why",
        "SET search_path TO s",
        "SET ROLE r",
        "PREPARE p AS SELECT 1",
        "LISTEN \"q\"\"q\"",
    ]);
    state.parsed(b"s", b"s\0SELECT 2\0\0\0".to_vec());
    state.unnamed_parsed(Some(b"\0SELECT 3\0\0\0".to_vec()));
    let expected = [
        "SET search_path TO s\n;SET a = 'x' -- why\n;",
        "SET ROLE r\n;",
        "PREPARE p AS SELECT 1",
        "P",
        "S",
        "LISTEN \"q\"\"q\";",
        "P",
        "S",
    ];
    assert_eq!(messages(&Restore::new(&state, false)), expected);
    let aborted = messages(&Restore::new(&state, true));
    assert_eq!(aborted[8..], ["P", "B", "E", "C", "S", "B", "S"], "no simple query: the unnamed statement stays");
}

#[test]
fn values_are_quoted_whatever_they_are() {
    assert_eq!(literal("it's"), "'it''s'");
    assert_eq!(literal(r"a\b'"), r" E'a\\b'''");
}

fn answers(restore: &mut Restore, replies: &[Option<TxStatus>]) -> Result<Progress, String> {
    let mut progress = Progress::More;
    for answer in replies {
        let mut frame = BytesMut::new();
        match answer {
            Some(status) => reply::ready_for_query(&mut frame, *status),
            None => frame.extend_from_slice(b"E\0\0\0\0SERROR\0VERROR\0C42501\0Mno\0\0"),
        }
        progress = restore.reply(frame[0], &frame[5..])?;
    }
    Ok(progress)
}

#[test]
fn a_setting_must_a_statement_may() {
    let idle = Some(TxStatus::Idle);
    let setting = state_after(&["SET a = 1"]);
    assert_eq!(answers(&mut Restore::new(&setting, false), &[idle]), Ok(Progress::Done(TxStatus::Idle)));
    let error = answers(&mut Restore::new(&setting, false), &[None, idle]).unwrap_err();
    assert_eq!(error, "a setting could not be restored: no (42501)");
    let statement = state_after(&["PREPARE p AS SELECT 1"]);
    assert_eq!(answers(&mut Restore::new(&statement, false), &[None, idle]), Ok(Progress::Done(TxStatus::Idle)));
}

#[test]
fn an_aborted_transaction_is_one_only_if_the_server_failed_it() {
    let (open, failed) = (Some(TxStatus::InTransaction), Some(TxStatus::Failed));
    let nothing = State::new(10);
    assert_eq!(answers(&mut Restore::new(&nothing, true), &[open, None, failed]), Ok(Progress::Done(TxStatus::Failed)));
    assert!(answers(&mut Restore::new(&nothing, true), &[open, open]).is_err());
}
