//! The commit guard's early question: when it may be put, and whether what it told still holds at the COMMIT.
//!
//! ```text
//!               put before a request               may have changed what was told
//!   Unasked ───────────────────────────► Holds ──────────────────────────────────► Spent
//!      ▲                                   │                                          │
//!      └────────────────── the transaction ended (AND CHAIN, too) ◄───────────────────┘
//! ```
//! A transaction's id stands from its first write on, and so do the timeline and the era of the server it runs on. What may
//! change is `synchronous_commit`: then the COMMIT asks as if nothing had been asked. That a trigger, a view's rule, an
//! operator or a cast changes it behind a plain statement is not seen.

use crate::continuity::script::Act;
use crate::wire::TxStatus;
use crate::wire::sql::Verb;

use super::{Owed, Pipeline};

/// How far the open transaction has come with its early question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Early {
    /// It was not put.
    #[default]
    Unasked,
    /// It was, and nothing has run since that could change what it tells.
    Holds,
    /// What ran since may have changed it.
    Spent,
}

impl Early {
    /// Something ran of which more may have come than is known.
    pub(super) fn spend(&mut self) {
        if *self == Self::Holds {
            *self = Self::Spent;
        }
    }
}

impl Pipeline {
    /// The early question may be put now: the open transaction has written, as far as is known, it was not asked about, and
    /// nothing is in flight.
    pub fn is_due_early(&self) -> bool {
        self.wrote && self.early == Early::Unasked && self.status == TxStatus::InTransaction && self.is_quiet()
    }

    /// It was put; a request follows.
    pub fn asked_early(&mut self) {
        self.early = Early::Holds;
    }

    /// What it told is what would be told now: nothing in flight runs anything.
    pub fn holds_early(&self) -> bool {
        let runs_nothing = |owed: &Owed| match owed {
            Owed::Parse { .. } | Owed::Bind { .. } | Owed::Describe | Owed::Close { .. } | Owed::CopyEnd { .. } => true,
            Owed::Prepare { alone, .. } => !alone,
            Owed::Query { .. } | Owed::Call { .. } | Owed::Execute { .. } | Owed::Sync { .. } => false,
            Owed::Ours | Owed::Setup => false,
        };
        self.early == Early::Holds && self.status == TxStatus::InTransaction && self.owed.iter().all(runs_nothing)
    }

    /// The request that was sent last is a simple Query.
    pub fn ends_with_query(&self) -> bool {
        matches!(self.owed.back(), Some(Owed::Query { .. }))
    }

    /// The next reply is for a simple Query.
    pub fn answers_query(&self) -> bool {
        matches!(self.owed.front(), Some(Owed::Query { .. }))
    }

    /// A statement completed.
    pub(super) fn passed(&mut self, act: &Act) {
        if matches!(act.verb, Verb::Commit { .. } | Verb::Rollback { .. } | Verb::PrepareTransaction) {
            // With AND CHAIN the next one is open, which has written nothing yet.
            (self.wrote, self.early) = (false, Early::Unasked);
        } else if act.durability {
            self.early.spend();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::continuity::pipeline::Way;
    use crate::continuity::state::State;

    /// A pipeline, and the answers it gets.
    struct Talk {
        pipeline: Pipeline,
        state: State,
    }

    impl Talk {
        /// In a transaction that has written and was asked about.
        fn asked() -> Self {
            let mut talk = Self { pipeline: Pipeline::default(), state: State::new(1 << 16) };
            talk.runs("BEGIN", &["BEGIN"]);
            assert!(!talk.pipeline.is_due_early());
            talk.runs("INSERT INTO t VALUES (1)", &["INSERT 0 1"]);
            assert!(talk.pipeline.is_due_early() && !talk.pipeline.holds_early());
            talk.pipeline.ours();
            talk.pipeline.asked_early();
            assert!(!talk.pipeline.is_due_early() && !talk.pipeline.holds_early(), "its answer is not here");
            talk.pipeline.ours_answered();
            assert!(talk.pipeline.holds_early());
            talk
        }

        fn sends(&mut self, text: &str) {
            let meaning = self.pipeline.read(text.as_bytes(), false);
            self.pipeline.query(meaning, 0);
        }

        fn runs(&mut self, text: &str, tags: &[&str]) {
            self.sends(text);
            for tag in tags {
                self.pipeline.command_complete(tag.as_bytes(), &mut self.state);
            }
            self.pipeline.ready(TxStatus::InTransaction, &mut self.state);
        }
    }

    #[test]
    fn what_leaves_synchronous_commit_alone_leaves_it_true() {
        for (text, tag) in [
            ("SELECT 1", "SELECT 1"),
            ("UPDATE t SET a = 1", "UPDATE 1"),
            ("SELECT set_config('app.user', '7', true)", "SELECT 1"),
            ("SET LOCAL statement_timeout = '1s'", "SET"),
            ("SAVEPOINT a", "SAVEPOINT"),
            ("RELEASE a", "RELEASE"),
            ("DECLARE c CURSOR FOR SELECT 1", "DECLARE CURSOR"),
            ("INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO NOTHING", "INSERT 0 1"),
            ("DROP TABLE u", "DROP TABLE"),
        ] {
            let mut talk = Talk::asked();
            talk.sends(text);
            assert!(!talk.pipeline.holds_early(), "{text}: it is in flight");
            let mut talk = Talk::asked();
            talk.runs(text, &[tag]);
            assert!(talk.pipeline.holds_early() && !talk.pipeline.is_due_early(), "{text}");
        }
    }

    #[test]
    fn what_may_change_synchronous_commit_ends_it() {
        for (text, tag) in [
            ("SET LOCAL synchronous_commit = off", "SET"),
            ("SET \"Synchronous_Commit\" TO off", "SET"),
            ("RESET synchronous_commit", "RESET"),
            ("RESET ALL", "RESET"),
            ("SELECT set_config('synchronous_commit', 'off', true)", "SELECT 1"),
            ("SELECT pg_catalog.set_config('SYNCHRONOUS_commit', 'off', false)", "SELECT 1"),
            ("SELECT set_config($1, 'off', true)", "SELECT 1"),
            ("SELECT set_config(a, 'off', true) FROM t", "SELECT 1"),
            ("SELECT mine(1)", "SELECT 1"),
            ("INSERT INTO t SELECT mine(1)", "INSERT 0 1"),
            ("ROLLBACK TO a", "ROLLBACK"),
            ("EXECUTE p", "SELECT 1"),
            ("FETCH c", "FETCH 1"),
            ("DO 'begin end'", "DO"),
            ("CALL p()", "CALL"),
            ("LOAD 'x'", "LOAD"),
            ("SET LOCAL timezone = 'UTC'", "SELECT 1"), // we and the server do not speak of the same
        ] {
            let mut talk = Talk::asked();
            talk.runs(text, &[tag]);
            assert!(!talk.pipeline.holds_early(), "{text}");
            assert!(!talk.pipeline.is_due_early(), "{text}: the COMMIT asks");
        }
        let mut talk = Talk::asked();
        talk.runs("SELECT 1; SET LOCAL synchronous_commit = off; SELECT 1", &["SELECT 1", "SET", "SELECT 1"]);
        assert!(!talk.pipeline.holds_early());
        let mut talk = Talk::asked();
        talk.pipeline.call(0);
        talk.pipeline.ready(TxStatus::InTransaction, &mut talk.state);
        assert!(!talk.pipeline.holds_early(), "a function call may do anything");
        let mut talk = Talk::asked();
        let cut = talk.pipeline.read(b"SELECT 1", true);
        talk.pipeline.query(cut, 0);
        talk.pipeline.command_complete(b"SELECT 1", &mut talk.state);
        talk.pipeline.ready(TxStatus::InTransaction, &mut talk.state);
        assert!(!talk.pipeline.holds_early(), "of a text that was not seen whole");
    }

    #[test]
    fn it_is_of_one_transaction() {
        for (text, tags) in [
            ("COMMIT AND CHAIN", &["COMMIT"][..]),
            ("ROLLBACK AND CHAIN", &["ROLLBACK"]),
            ("COMMIT; BEGIN", &["COMMIT", "BEGIN"]),
            ("PREPARE TRANSACTION 'x'; BEGIN; SELECT 1", &["PREPARE TRANSACTION", "BEGIN", "SELECT 1"]),
        ] {
            let mut talk = Talk::asked();
            talk.runs(text, tags);
            assert!(!talk.pipeline.holds_early(), "{text}");
            assert!(!talk.pipeline.is_due_early() && !talk.pipeline.may_have_written(), "{text}: nothing written yet");
            talk.runs("INSERT INTO t VALUES (1)", &["INSERT 0 1"]);
            assert!(talk.pipeline.is_due_early(), "{text}");
        }
        let mut talk = Talk::asked();
        talk.sends("COMMIT");
        talk.pipeline.command_complete(b"COMMIT", &mut talk.state);
        talk.pipeline.ready(TxStatus::Idle, &mut talk.state);
        assert_eq!(talk.pipeline.early, Early::Unasked);
        let mut talk = Talk::asked();
        talk.pipeline.lose(&mut talk.state);
        assert_eq!(talk.pipeline.early, Early::Unasked, "it was of that backend");
    }

    #[test]
    fn what_runs_nothing_may_be_in_flight() {
        let mut talk = Talk::asked();
        let (pipeline, state) = (&mut talk.pipeline, &talk.state);
        pipeline.parse(b"", pipeline.read(b"COMMIT", false), b"\0COMMIT\0\0\0", Way::AsItIs, state);
        pipeline.prepare(None, 0, false);
        pipeline.bind(b"", b"");
        pipeline.describe();
        assert!(pipeline.holds_early());
        pipeline.execute(b"");
        assert!(!pipeline.holds_early());
    }

    #[test]
    fn a_failed_transaction_is_not_asked_about() {
        let mut talk = Talk { pipeline: Pipeline::default(), state: State::new(1 << 16) };
        talk.runs("BEGIN", &["BEGIN"]);
        talk.runs("INSERT INTO t VALUES (1)", &["INSERT 0 1"]);
        talk.sends("bad");
        talk.pipeline.error(&mut talk.state);
        talk.pipeline.ready(TxStatus::Failed, &mut talk.state);
        assert!(!talk.pipeline.is_due_early());
    }
}
