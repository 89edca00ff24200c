//! The rows of an answer, and what the state learns of them.

use super::*;
use crate::continuity::carried::Prepared;
use crate::wire::message::write::backend as reply;

fn hear(ask: &mut Ask, state: &mut State, frame: &[u8]) -> Asked {
    ask.reply(frame[0], &frame[5..], state)
}

fn answer(rows: &[[Option<&str>; 3]], status: TxStatus) -> (Asked, State) {
    let (mut ask, mut state) = (Ask::new("me"), State::new(1 << 16));
    for row in rows {
        let mut frame = BytesMut::new();
        let values: Vec<_> = row.iter().map(|value| value.map(str::as_bytes)).collect();
        reply::data_row(&mut frame, &values);
        assert_eq!(hear(&mut ask, &mut state, &frame), Asked::More);
    }
    let mut frame = BytesMut::new();
    reply::ready_for_query(&mut frame, status);
    (hear(&mut ask, &mut state, &frame), state)
}

#[test]
fn every_kind_of_row_is_learned() {
    let rows = [
        [Some("s"), Some("DateStyle"), Some("SQL")],
        [Some("s"), Some("my.gone"), None],
        [Some("r"), Some("boss"), None],
        [Some("u"), Some("other"), None],
        [Some("l"), Some("c"), None],
        [Some("p"), Some("p"), Some("PREPARE p AS SELECT 1")],
        [Some("c"), Some("held"), None],
        [Some("a"), None, None],
        [Some("t"), None, None],
    ];
    let (asked, state) = answer(&rows, TxStatus::Idle);
    assert_eq!(asked, Asked::Learned);
    let value = |text: &str| Setting::Value(text.to_owned());
    let settled = state.settled();
    assert_eq!(
        settled.settings,
        BTreeMap::from([("datestyle".to_owned(), value("SQL"))]),
        "one spelling for one setting"
    );
    assert_eq!((&settled.role, &settled.authorization), (&Some(value("boss")), &Some(value("other"))));
    assert!(settled.channels.contains("c"));
    assert!(matches!(state.prepared().get(b"p".as_slice()), Some(Prepared::Sql(_))));
    assert_eq!(state.pins().iter().collect::<Vec<_>>(), [Pin::AdvisoryLock, Pin::HeldCursor, Pin::TempObject]);
}

#[test]
fn what_every_session_has_is_no_state() {
    let rows =
        [[Some("r"), Some("none"), None], [Some("u"), Some("me"), None], [Some("p"), Some(NAME), Some(QUESTION)]];
    let (asked, state) = answer(&rows, TxStatus::Idle);
    assert_eq!((asked, state.settled(), state.prepared().len()), (Asked::Learned, &Transactional::default(), 0));
}

#[test]
fn within_a_transaction_nothing_is_learned() {
    let (asked, state) = answer(&[[Some("l"), Some("c"), None]], TxStatus::InTransaction);
    assert_eq!(asked, Asked::Failed);
    assert!(!state.listens());
}
