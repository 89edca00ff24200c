//! The judge judged: fabricated histories, each with one broken promise, and the verdict names it. A history in which
//! everything is right has no violation.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::expected::Expected;
use crate::history::{Did, Entry, Found, Kind, Op, Told};
use crate::verdict::{Rules, Verdict, Violation, judge};

/// A storm over everything, but for its last part.
fn rules() -> Rules {
    let (hold, patience) = (Duration::from_secs(30), Duration::from_secs(60));
    let storms = vec![(Duration::ZERO, Duration::from_secs(2)), (Duration::from_secs(3), Duration::from_secs(100))];
    Rules { opening: 100, hold, patience, storms, unknown: 3 }
}

/// A small run with one of everything, all as it should be.
struct Run {
    ops: Vec<Op>,
    found: Found,
}

const TRANSFER: usize = 0;
const ROWS: usize = 1;
const LOST: usize = 2;
const UNKNOWN: usize = 3;
const WINNER: usize = 4;
const LOSER: usize = 5;
const TOUCH: usize = 6;
const READ: usize = 7;
const TOTAL: usize = 8;
const REFUSED: usize = 9;
const STATE: usize = 10;

fn right() -> Run {
    let transfer = Did::Transfer { from: 0, to: 1, amount: 30 };
    let script = [
        (1, Kind::TransferSimple, Told::Done, transfer),
        (1, Kind::List, Told::Done, Did::Rows(3)),
        (1, Kind::Copy, Told::Lost, Did::Rows(3)),
        (1, Kind::AppendSimple, Told::Unknown, Did::Rows(1)),
        (1, Kind::Race, Told::Done, Did::Key(7)),
        (2, Kind::Race, Told::Conflict, Did::Key(7)),
        (1, Kind::Touch, Told::Done, Did::Touch(Some(1))),
        (1, Kind::Version, Told::Done, Did::Version(Some(1))),
        (1, Kind::Total, Told::Done, Did::Total(Some(200))),
        (1, Kind::TransferExtended, Told::Refused, Did::Transfer { from: 1, to: 0, amount: 5 }),
        (1, Kind::State, Told::Done, Did::State(Vec::new())),
    ];
    let ops = script.into_iter().zip(1..).map(|((client, kind, told, did), n)| {
        let began = Duration::from_secs(u64::from(n));
        let took = if told == Told::Refused { 31 } else { 1 };
        Op { client, n, kind, began, ended: began + Duration::from_secs(took), told, did }
    });
    let ops: Vec<Op> = ops.collect();
    let found = Found {
        balances: vec![70, 130],
        ledger: BTreeMap::from([(ops[TRANSFER].tx(), vec![Entry { from: 0, to: 1, amount: 30 }])]),
        rows: BTreeMap::from([(ops[ROWS].tx(), vec![1, 2, 3])]),
        keys: BTreeMap::from([(7, ops[WINNER].tx())]),
        versions: BTreeMap::from([(1, 1)]),
    };
    Run { ops, found }
}

impl Run {
    fn judge(&self) -> Verdict {
        judge(&rules(), &self.ops, &self.found)
    }

    /// One more operation of client 1 at the end.
    fn and(mut self, kind: Kind, told: Told, did: Did) -> Self {
        let n = self.ops.len() as u32 + 1;
        let began = Duration::from_secs(50 + u64::from(n));
        self.ops.push(Op { client: 1, n, kind, began, ended: began + Duration::from_secs(1), told, did });
        self
    }

    fn last(&self) -> Op {
        self.ops.last().unwrap().clone()
    }
}

#[test]
fn a_right_history_has_no_violation() {
    let mut run = right();
    let verdict = run.judge();
    assert_eq!((verdict.violations, verdict.unknown), (vec![], (0, 1)));
    run.found.rows.insert(run.ops[UNKNOWN].tx(), vec![1]);
    let verdict = run.judge();
    assert_eq!((verdict.violations, verdict.unknown), (vec![], (1, 0)), "08007 allows either");
    assert_eq!(verdict.tally[&(Kind::Race, Told::Conflict)], 1);
}

#[test]
fn a_lost_acknowledgement_is_found() {
    let mut run = right();
    run.found.rows.clear();
    assert_eq!(run.judge().violations, [Violation::LostAck(run.ops[ROWS].clone())]);
    let mut run = right();
    run.found.ledger.clear();
    run.found.balances = vec![100, 100];
    assert_eq!(run.judge().violations, [Violation::LostAck(run.ops[TRANSFER].clone())]);
    let mut run = right();
    run.found.keys.insert(7, run.ops[LOSER].tx());
    let violations = run.judge().violations;
    assert!(violations.contains(&Violation::LostAck(run.ops[WINNER].clone())), "{violations:?}");
}

#[test]
fn a_doubled_write_is_found() {
    let mut run = right();
    run.found.rows.insert(run.ops[ROWS].tx(), vec![1, 1, 2, 2, 3, 3]);
    assert_eq!(run.judge().violations, [Violation::Doubled(run.ops[ROWS].clone())]);
    let mut run = right();
    run.found.rows.insert(run.ops[UNKNOWN].tx(), vec![1, 1]);
    assert_eq!(run.judge().violations, [Violation::Doubled(run.ops[UNKNOWN].clone())], "08007 allows one, not two");
    let mut run = right();
    run.found.ledger.get_mut(&run.ops[TRANSFER].tx()).unwrap().push(Entry { from: 0, to: 1, amount: 30 });
    run.found.balances = vec![40, 160];
    assert_eq!(run.judge().violations, [Violation::Doubled(run.ops[TRANSFER].clone())]);
}

#[test]
fn what_was_told_lost_and_is_there_is_found() {
    let mut run = right();
    run.found.rows.insert(run.ops[LOST].tx(), vec![1, 2, 3]);
    assert_eq!(run.judge().violations, [Violation::LostButThere(run.ops[LOST].clone())]);
    let mut run = right();
    run.found.ledger.insert(run.ops[REFUSED].tx(), vec![Entry { from: 1, to: 0, amount: 5 }]);
    run.found.balances = vec![75, 125];
    assert_eq!(run.judge().violations, [Violation::LostButThere(run.ops[REFUSED].clone())]);
    // A write that was sent twice meets itself the second time.
    let mut run = right();
    run.ops[WINNER].told = Told::Conflict;
    assert_eq!(run.judge().violations, [Violation::LostButThere(run.ops[WINNER].clone())]);
}

#[test]
fn a_torn_transaction_is_found() {
    for at in [ROWS, LOST, UNKNOWN] {
        let mut run = right();
        run.ops[at].did = Did::Rows(3);
        run.found.rows.insert(run.ops[at].tx(), vec![1, 3]);
        let violations = run.judge().violations;
        assert!(violations.contains(&Violation::Torn(run.ops[at].clone(), vec![1, 3])), "{violations:?}");
    }
}

#[test]
fn what_nobody_wrote_is_found() {
    let mut run = right();
    run.found.rows.insert(9_000_009, vec![1]);
    assert_eq!(run.judge().violations, [Violation::FromNowhere(9_000_009)]);
    let mut run = right();
    run.found.keys.insert(8, run.ops[WINNER].tx());
    assert_eq!(run.judge().violations, [Violation::FromNowhere(run.ops[WINNER].tx())]);
    let mut run = right();
    run.found.rows.insert(run.ops[ROWS].tx(), vec![1, 2, 3, 4]);
    assert_eq!(run.judge().violations, [Violation::Altered(run.ops[ROWS].clone(), "[1, 2, 3, 4]".to_owned())]);
}

#[test]
fn money_that_is_gone_is_found() {
    let mut run = right();
    run.found.balances[1] = 129;
    let balance = Violation::Balance { account: 1, expected: 130, found: 129 };
    assert_eq!(run.judge().violations, [balance, Violation::Money { expected: 200, found: 199 }]);
    let mut run = right();
    run.found.balances = vec![100, 100];
    assert_eq!(run.judge().violations.len(), 2, "the sum is right, and both accounts are wrong");
    let mut run = right();
    run.ops[TOTAL].did = Did::Total(Some(170));
    assert_eq!(run.judge().violations, [Violation::Total(run.ops[TOTAL].clone())]);
    let mut run = right();
    run.found.ledger.insert(run.ops[TRANSFER].tx(), vec![Entry { from: 0, to: 1, amount: 31 }]);
    run.found.balances = vec![69, 131];
    assert!(matches!(run.judge().violations.as_slice(), [Violation::Altered(..)]));
}

#[test]
fn a_read_that_goes_back_is_found() {
    let mut run = right();
    run.ops[READ].did = Did::Version(Some(0));
    assert_eq!(run.judge().violations, [Violation::WentBack(run.ops[READ].clone(), 1)], "its own write is not there");
    // Seen once, an attempt of unknown outcome has taken effect for good.
    let run = right().and(Kind::Touch, Told::Unknown, Did::Touch(None));
    assert_eq!(run.judge().violations, [], "not there, or not yet");
    let mut run = run.and(Kind::Version, Told::Done, Did::Version(Some(2)));
    run.found.versions.insert(1, 2);
    assert_eq!(run.judge().violations, []);
    let run = run.and(Kind::Version, Told::Done, Did::Version(Some(1)));
    assert_eq!(run.judge().violations, [Violation::WentBack(run.last(), 2)]);
}

#[test]
fn a_counter_that_is_ahead_or_behind_is_found() {
    let mut run = right();
    run.ops[TOUCH].did = Did::Touch(Some(2));
    run.ops[READ].did = Did::Version(Some(2));
    run.found.versions.insert(1, 2);
    assert_eq!(run.judge().violations, [Violation::Ahead(run.ops[TOUCH].clone(), 1)], "it was run twice");
    let mut run = right();
    run.found.versions.clear();
    assert_eq!(run.judge().violations, [Violation::Counter(1, 1, 1, 0)]);
    let mut run = right().and(Kind::Touch, Told::Lost, Did::Touch(None));
    run.found.versions.insert(1, 2);
    assert_eq!(run.judge().violations, [Violation::Counter(1, 1, 1, 2)], "40001, and it is there");
}

#[test]
fn a_key_with_two_winners_or_none_is_found() {
    let mut run = right();
    run.ops[LOSER].told = Told::Done;
    let violations = run.judge().violations;
    let two = Violation::TwoWinners(run.ops[WINNER].clone(), run.ops[LOSER].clone());
    assert!(violations.contains(&two) && violations.contains(&Violation::LostAck(run.ops[LOSER].clone())));
    let mut run = right();
    run.ops[WINNER].told = Told::Lost;
    run.found.keys.clear();
    assert_eq!(run.judge().violations, [Violation::NoWinner(run.ops[LOSER].clone())]);
}

#[test]
fn a_dropped_connection_and_wrong_answers_are_found() {
    let wrong = "57P01 pgmoor is shutting down".to_owned();
    let run = right().and(Kind::AppendSimple, Told::Dropped(wrong), Did::Rows(1));
    assert_eq!(run.judge().violations, [Violation::Dropped(run.last())]);
    let run = right().and(Kind::AppendSimple, Told::Wrong("25006".to_owned()), Did::Rows(1));
    assert_eq!(run.judge().violations, [Violation::Wrong(run.last())]);
    let run = right().and(Kind::AppendSimple, Told::Conflict, Did::Rows(1));
    assert_eq!(run.judge().violations, [Violation::Wrong(run.last())], "only a race has losers");
}

#[test]
fn a_client_that_waits_too_long_or_is_refused_too_early_is_found() {
    let mut run = right();
    run.ops[ROWS].ended += Duration::from_secs(60);
    assert_eq!(run.judge().violations, [Violation::Stuck(run.ops[ROWS].clone())]);
    let run = right().and(Kind::Touch, Told::Stuck, Did::Touch(None));
    assert_eq!(run.judge().violations, [Violation::Stuck(run.last())]);
    let mut run = right();
    run.ops[REFUSED].ended -= Duration::from_secs(5);
    assert_eq!(run.judge().violations, [Violation::TooEarly(run.ops[REFUSED].clone())]);
}

#[test]
fn a_session_that_is_not_as_it_was_is_found() {
    let mut run = right();
    run.ops[STATE].did = Did::State(vec!["TimeZone is UTC".to_owned()]);
    assert_eq!(run.judge().violations, [Violation::State(run.ops[STATE].clone())]);

    let some = |text: &str| vec![Some(text.to_owned())];
    let mut expected = Expected::default();
    expected.set("my.note", "one", &Told::Done);
    assert_eq!(expected.compare(&some("one")), [""; 0]);
    assert_eq!(expected.compare(&[None]).len(), 1);
    expected.set("my.note", "one", &Told::Done);
    expected.set("my.note", "two", &Told::Lost);
    assert_eq!(expected.compare(&some("two")).len(), 1, "40001, and it is set");
    expected.set("my.note", "one", &Told::Done);
    expected.set("my.note", "two", &Told::Unknown);
    assert_eq!(expected.clone().compare(&some("one")), [""; 0], "08007 allows either");
    assert_eq!(expected.compare(&some("two")), [""; 0]);
    assert_eq!(expected.compare(&some("one")).len(), 1, "and which it is stays so");
    assert_eq!(expected.compare(&[]).len(), 1);
}

#[test]
fn a_lost_answer_while_all_is_well_is_found() {
    for told in [Told::Lost, Told::Unknown] {
        let mut run = right().and(Kind::Setting, told, Did::Nothing);
        let last = run.ops.last_mut().unwrap();
        (last.began, last.ended) = (Duration::from_secs(99), Duration::from_secs(101));
        assert_eq!(run.judge().violations, [], "it began in the storm");
        run.ops.last_mut().unwrap().began = Duration::from_millis(100_001);
        assert_eq!(run.judge().violations, [Violation::Unprovoked(run.last())]);
    }
}

#[test]
fn too_many_unknown_outcomes_are_found() {
    let more = |run: Run| run.and(Kind::Setting, Told::Unknown, Did::Nothing);
    let run = more(more(right()));
    assert_eq!(run.judge().violations, []);
    assert_eq!(more(run).judge().violations, [Violation::Unknowns(4, 3)]);
}
