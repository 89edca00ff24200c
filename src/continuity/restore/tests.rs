//! The packet, and the reading of its replies.

use super::*;
use crate::continuity::plans::Key;
use crate::continuity::script;
use crate::continuity::state::Origin;
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
    const TAGS: [u8; 6] =
        [frontend::QUERY, frontend::PARSE, frontend::BIND, frontend::EXECUTE, frontend::CLOSE, frontend::SYNC];
    let mut scanner = Scanner::new(&const { Interest::NONE.with(&TAGS) }, 1 << 20);
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

/// The way from what one session left behind to another's state.
fn way(left: &[&str], wants: &[&str]) -> Vec<String> {
    let (mut left, wants) = (state_after(left), state_after(wants));
    let setup = Setup::left_by(&mut left);
    assert_eq!(setup.fits(&wants), Restore::between(&setup, &wants, false, true).is_empty());
    messages(&Restore::between(&setup, &wants, false, true))
}

#[test]
fn what_the_last_session_left_is_changed_where_it_differs() {
    assert_eq!(way(&["SET a = 'x'"], &["SET a = 'x'"]), [""; 0]);
    assert_eq!(way(&["SET a = 'x'"], &[]), ["BEGIN;RESET \"a\";COMMIT"]);
    assert_eq!(
        way(&["SET a = 'x'", "SET b = 'y'"], &["SET b = 'z'", "SET search_path TO s"]),
        ["BEGIN;RESET \"a\";SET search_path TO s\n;SET b = 'z'\n;COMMIT"]
    );
    assert_eq!(
        way(&["SET ROLE r"], &["SET a = 'x'"]),
        ["BEGIN;RESET SESSION AUTHORIZATION;RESET ROLE;SET a = 'x'\n;COMMIT"]
    );
    assert_eq!(
        way(&["SET ROLE r"], &["SET ROLE r", "SET a = 'x'"]),
        ["BEGIN;RESET SESSION AUTHORIZATION;RESET ROLE;SET a = 'x'\n;SET ROLE r\n;COMMIT"]
    );
    assert_eq!(way(&["SET seed = 1"], &[]), ["BEGIN;COMMIT"], "the random seed is nobody's state");
}

#[test]
fn statements_of_another_are_closed_and_ones_own_prepared() {
    let plan = |name: &str, number: u8| format!("PREPARE {name} AS SELECT {number}");
    assert_eq!(way(&[&plan("p", 1)], &[&plan("p", 1)]), [""; 0]);
    assert_eq!(way(&[&plan("p", 1)], &[&plan("p", 2)]), ["C", "S", "PREPARE p AS SELECT 2"]);
    assert_eq!(way(&[&plan("p", 1), &plan("q", 2)], &[&plan("q", 2)]), ["C", "S"]);
}

#[test]
fn a_shared_statement_waits_until_it_is_used() {
    let mut state = State::new(1 << 16);
    state.parsed(b"s", b"s\0SELECT 2\0\0\0".to_vec(), Some(Key::of(b"SELECT 2\0\0\0", state.settled())));
    assert!(Restore::new(&state, false).is_empty());
    state.make_own(b"s");
    assert_eq!(messages(&Restore::new(&state, false)), ["P", "S"], "SQL has spoken of it");
    let setup = Setup::left_by(&mut state);
    assert_eq!(messages(&Restore::between(&setup, &State::new(10), false, true)), ["C", "S"]);
}

#[test]
fn a_name_is_the_session_s_own_even_after_a_reset() {
    let named = || State::begin(1 << 16, std::sync::Arc::new(Origin::called(Some("moor"))));
    let mut state = named();
    let setup = Setup::left_by(&mut state);
    assert!(setup.fits(&named()) && !setup.fits(&State::new(1 << 16)));
    for reset in ["RESET ALL", "DISCARD ALL", "RESET application_name"] {
        let act = script::read(reset.as_bytes(), false).unwrap();
        state.completed(&act.acts()[0], b"RESET");
        state.ready(TxStatus::Idle);
        let setup = Setup::left_by(&mut state);
        let expected = "BEGIN;SELECT pg_catalog.set_config('application_name','moor',false);COMMIT";
        assert_eq!(messages(&Restore::between(&setup, &state, false, true)), [expected], "{reset}");
    }
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
    state.parsed(b"s", b"s\0SELECT 2\0\0\0".to_vec(), None);
    let expected = [
        "BEGIN;SET search_path TO s\n;SET a = 'x' -- why\n;SET ROLE r\n;COMMIT",
        "PREPARE p AS SELECT 1",
        "P",
        "S",
        "LISTEN \"q\"\"q\";",
    ];
    assert_eq!(messages(&Restore::new(&state, false)), expected);
    let aborted = messages(&Restore::new(&state, true));
    assert_eq!(aborted[5..], ["P", "B", "E", "C", "S", "B", "S"], "no simple query: the unnamed statement stays");
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
    assert_eq!(error, "the session's state could not be restored: no (42501)");
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
