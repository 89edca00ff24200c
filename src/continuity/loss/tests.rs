//! What is said of each request when the backend is gone: the table of the module, row by row.

use super::*;
use crate::continuity::pipeline::Note;
use crate::continuity::pipeline::Way as ParseWay;
use Code::{CommitUnknown, TransactionLost};

const UNKNOWN: Word = Word::Error(CommitUnknown);
const LOST: Word = Word::Error(TransactionLost);

/// A session in this status, with these simple queries in flight, of which so many CommandCompletes came for the first.
fn lose(status: TxStatus, queries: &[&str], tags: &[&str]) -> Vec<(Word, TxStatus)> {
    let (mut pipeline, mut state) = (Pipeline::default(), State::new(1 << 16));
    if status != TxStatus::Idle {
        pipeline.query(script::read(b"BEGIN", false), 0);
        pipeline.command_complete(b"BEGIN", &mut state);
        if status == TxStatus::Failed {
            pipeline.error(&mut state);
        }
        pipeline.ready(status, &mut state);
    }
    for query in queries {
        pipeline.query(script::read(query.as_bytes(), false), 0);
    }
    for tag in tags {
        let note = if *tag == "!" {
            assert!(pipeline.error(&mut state));
            Note::Plain
        } else {
            pipeline.command_complete(tag.as_bytes(), &mut state)
        };
        assert_eq!(note, Note::Plain);
    }
    let wreck = pipeline.lose(&mut state);
    assert_eq!(wreck.open, None);
    wreck.answers.iter().map(|answer| (answer.word, answer.status)).collect()
}

#[test]
fn one_request_in_flight() {
    use TxStatus::{Failed, Idle, InTransaction};
    let table: [(TxStatus, &str, &[&str], Word, TxStatus); 29] = [
        (Idle, "INSERT", &[], UNKNOWN, Idle),
        (Idle, "SELECT 1", &[], UNKNOWN, Idle),
        (Idle, "VACUUM", &[], UNKNOWN, Idle),
        (Idle, "CALL p()", &[], UNKNOWN, Idle),
        (Idle, "COMMIT PREPARED 'x'", &[], UNKNOWN, Idle),
        (Idle, "BEGIN", &[], LOST, Idle),
        (Idle, "BEGIN; INSERT", &[], LOST, Failed),
        (Idle, "INSERT; BEGIN", &[], UNKNOWN, Failed), // a VACUUM there would be committed
        (Idle, "BEGIN; INSERT; COMMIT", &[], UNKNOWN, Idle),
        (Idle, "INSERT; COMMIT; BEGIN", &[], UNKNOWN, Failed),
        (Idle, "BEGIN; INSERT; ROLLBACK", &[], LOST, Idle),
        (Idle, "ROLLBACK", &[], Word::RolledBack, Idle),
        (Idle, "INSERT", &["INSERT 0 1"], Word::Nothing, Idle),
        (Idle, "INSERT; INSERT", &["INSERT 0 1"], UNKNOWN, Idle),
        (Idle, "INSERT; INSERT", &["INSERT 0 1", "INSERT 0 1"], Word::Nothing, Idle),
        (Idle, "INSERT", &["!"], Word::Nothing, Idle),
        (Idle, "BEGIN; INSERT", &["BEGIN", "!"], Word::Nothing, Failed),
        (InTransaction, "INSERT", &[], LOST, Failed),
        (InTransaction, "CALL p()", &[], LOST, Failed),
        (InTransaction, "INSERT", &["INSERT 0 1"], LOST, Failed),
        (InTransaction, "INSERT", &["!"], Word::Nothing, Failed),
        (InTransaction, "COMMIT", &[], UNKNOWN, Idle),
        (InTransaction, "COMMIT", &["COMMIT"], Word::Nothing, Idle),
        (InTransaction, "PREPARE TRANSACTION 'x'", &[], UNKNOWN, Idle),
        (InTransaction, "ROLLBACK", &[], Word::RolledBack, Idle),
        (InTransaction, "ROLLBACK", &["ROLLBACK"], Word::Nothing, Idle),
        (InTransaction, "ROLLBACK; INSERT", &[], UNKNOWN, Idle),
        (InTransaction, "COMMIT AND CHAIN", &[], UNKNOWN, Failed),
        (Failed, "COMMIT", &[], LOST, Idle),
    ];
    for (status, query, tags, word, after) in table {
        assert_eq!(lose(status, &[query], tags), [(word, after)], "{status:?} {query} {tags:?}");
    }
}

#[test]
fn a_commit_behind_makes_what_is_before_it_unknown() {
    use TxStatus::{Failed, Idle, InTransaction};
    assert_eq!(lose(InTransaction, &["INSERT", "COMMIT"], &[]), [(UNKNOWN, Failed), (UNKNOWN, Idle)]);
    assert_eq!(lose(Idle, &["BEGIN", "INSERT", "COMMIT"], &[]).iter().filter(|(word, _)| *word == UNKNOWN).count(), 3);
    assert_eq!(lose(InTransaction, &["INSERT", "ROLLBACK"], &[]), [(LOST, Failed), (Word::RolledBack, Idle)]);
}

#[test]
fn a_silent_transaction_is_told_later() {
    let (mut pipeline, mut state) = (Pipeline::default(), State::new(1 << 16));
    pipeline.settle(TxStatus::InTransaction);
    let wreck = pipeline.lose(&mut state);
    assert_eq!(wreck, Wreck { answers: Vec::new(), open: None, after: Aftermath::Untold, chance: Chance::Open });
    assert_eq!(pipeline.status(), TxStatus::Failed);
}

#[test]
fn sql_execute_of_a_protocol_level_commit_may_commit() {
    let (mut pipeline, mut state) = (Pipeline::default(), State::new(1 << 16));
    pipeline.parse(b"c", pipeline.read(b"COMMIT", false), b"c\0COMMIT\0\0\0", ParseWay::AsItIs, &state);
    pipeline.parse_complete(&mut state);
    pipeline.sync(0);
    pipeline.ready(TxStatus::Idle, &mut state);
    pipeline.settle(TxStatus::InTransaction);
    pipeline.query(script::read(b"EXECUTE c", false), 0);
    assert_eq!(pipeline.lose(&mut state).answers[0].word, UNKNOWN);
}
