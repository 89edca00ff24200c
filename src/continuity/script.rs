//! What a client's text would do to its session: the few statements that matter, kept until the server says they ran.

use std::sync::Arc;

use crate::wire::sql::{self, Column, Hints, Scope, Verb};

/// A text that may touch session state or the transaction: its statements, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Script {
    acts: Vec<Act>,
    /// Only the beginning of the text was seen.
    cut: bool,
}

/// One statement of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// What it does, by its leading words.
    pub verb: Verb,
    /// Calls in it that may change session state.
    pub hints: Hints,
    /// The settings its calls of `set_config` name.
    pub configured: Vec<String>,
    /// It calls a function that is not PostgreSQL's own.
    pub strange: bool,
    /// It may change `synchronous_commit`, as far as its text tells.
    pub durability: bool,
    /// What the columns of its one row tell; empty if that is nothing.
    pub told: Vec<Column>,
    /// Its text, kept only where it would be run again to restore the state.
    pub text: Vec<u8>,
}

/// What is known of a text: nothing to see, or a script. Shared by the statement, its portals and what is in flight.
pub type Meaning = Option<Arc<Script>>;

/// Reads `text`; `None` when it is one statement that can touch neither session state nor the transaction.
/// `cut` says that only the beginning of a longer text is here: then it is never "nothing".
pub fn read(text: &[u8], cut: bool) -> Meaning {
    if !cut {
        if sql::glance(text) && !sql::calls_strangers(text) {
            return None;
        }
        if let Some(verb) = plain_verb(text) {
            return Some(of(Act::plain(verb)));
        }
    }
    by_tokens(text, cut)
}

fn by_tokens(text: &[u8], cut: bool) -> Meaning {
    let acts: Vec<Act> = sql::statements(text)
        .map(|statement| {
            let verb = statement.verb();
            let text = if is_rerun(&verb) { statement.text().to_vec() } else { Vec::new() };
            let glanced = sql::glance(statement.text());
            let mut hints = if glanced { Hints::NONE } else { statement.hints() };
            let configured = if hints.set_config { statement.configured() } else { Vec::new() };
            let mut told = Vec::new();
            let mut durability = hints.set_config;
            if hints.set_config
                && let Some(columns) = statement.assigns()
            {
                hints.set_config = false;
                durability = configured.iter().any(|name| is_durability(name)); // it names them all
                told = columns;
            }
            if told.iter().all(|column| *column == Column::Local) {
                told.clear(); // nothing outlives the transaction
            }
            let strange = matches!(verb, Verb::Do | Verb::Call) || statement.calls_strangers();
            durability |= strange || changes_durability(&verb);
            Act { verb, hints, configured, strange, durability, told, text }
        })
        .filter(|act| act.verb != Verb::Empty)
        .collect();
    let dull = acts.len() <= 1 && acts.iter().all(|act| matches!(act.verb, Verb::Read | Verb::Write) && act.is_plain());
    (!dull || cut).then(|| Arc::new(Script { acts, cut }))
}

/// Of the texts that every transaction begins and ends with, told by their few words.
fn plain_verb(text: &[u8]) -> Option<Verb> {
    if sql::only_begins(text).is_some() {
        Some(Verb::Begin)
    } else {
        sql::only_commits(text).then_some(Verb::Commit { chain: false })
    }
}

/// The setting that says how durable a COMMIT is.
fn is_durability(name: &str) -> bool {
    name.eq_ignore_ascii_case("synchronous_commit")
}

/// Statements of this kind set it, take back what has set it, or run what is not seen here.
fn changes_durability(verb: &Verb) -> bool {
    match verb {
        Verb::Set { name, .. } | Verb::Reset { name } => is_durability(name),
        Verb::ResetAll
        | Verb::Discard(_)
        | Verb::RollbackTo { .. }
        | Verb::Execute { .. }
        | Verb::Fetch
        | Verb::Load
        | Verb::Call
        | Verb::Do => true,
        Verb::Empty
        | Verb::Begin
        | Verb::Commit { .. }
        | Verb::Rollback { .. }
        | Verb::Savepoint { .. }
        | Verb::Release { .. }
        | Verb::PrepareTransaction
        | Verb::FinishPrepared
        | Verb::SetTransaction
        | Verb::SetCharacteristics
        | Verb::SetRole { .. }
        | Verb::SetSessionAuthorization { .. }
        | Verb::Listen { .. }
        | Verb::Unlisten { .. }
        | Verb::Prepare { .. }
        | Verb::Deallocate { .. }
        | Verb::DeclareCursor { .. }
        | Verb::CloseCursor { .. }
        | Verb::CreateTemp
        | Verb::Drop
        | Verb::CopyIn
        | Verb::CopyOut
        | Verb::Read
        | Verb::Write => false,
    }
}

/// Statements that are run again, word for word, on the next server.
fn is_rerun(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::Set { scope: Scope::Session, .. }
            | Verb::SetRole { scope: Scope::Session, .. }
            | Verb::SetSessionAuthorization { scope: Scope::Session, .. }
            | Verb::SetCharacteristics
            | Verb::Prepare { .. }
    )
}

impl Script {
    /// The statements, in order.
    pub fn acts(&self) -> &[Act] {
        &self.acts
    }

    /// Only the beginning of the text was seen: what follows may do anything.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// A statement that may commit an explicit transaction.
    pub fn may_commit(&self) -> bool {
        self.cut || self.acts.iter().any(|act| matches!(act.verb, Verb::Commit { .. } | Verb::PrepareTransaction))
    }

    /// The row of one of its statements tells what it set.
    pub fn tells(&self) -> bool {
        self.acts.iter().any(|act| !act.told.is_empty())
    }

    /// Its first statement ends a transaction, or what it does is not known.
    pub fn ends_first(&self) -> bool {
        let first = self.acts.first().map(|act| &act.verb);
        self.cut
            || matches!(
                first,
                Some(
                    Verb::Commit { .. }
                        | Verb::Rollback { .. }
                        | Verb::RollbackTo { .. }
                        | Verb::PrepareTransaction
                        | Verb::FinishPrepared
                )
            )
    }

    /// Nothing but a COMMIT that leaves no transaction open.
    pub fn only_commits(&self) -> bool {
        matches!(self.acts.as_slice(), [Act { verb: Verb::Commit { chain: false }, .. }]) && !self.cut
    }

    /// A question of pgmoor's own may go out right before it, in the same unit: if that fails, the server skips all of it. It
    /// ends no transaction, needs nothing else before it, and leaves true what was told.
    pub fn follows_question(&self) -> bool {
        !self.cut && self.acts.iter().all(Act::follows_question)
    }

    /// Nothing but a BEGIN.
    pub fn only_begins(&self) -> bool {
        matches!(self.acts.as_slice(), [Act { verb: Verb::Begin, .. }]) && !self.cut
    }

    /// Nothing but a ROLLBACK of the whole transaction.
    pub fn only_rolls_back(&self) -> bool {
        matches!(self.acts.as_slice(), [Act { verb: Verb::Rollback { chain: false }, .. }]) && !self.cut
    }
}

impl Act {
    /// One of this kind that does nothing else.
    const fn plain(verb: Verb) -> Self {
        Self {
            verb,
            hints: Hints::NONE,
            configured: Vec::new(),
            strange: false,
            durability: false,
            told: Vec::new(),
            text: Vec::new(),
        }
    }

    /// Nothing in it touches the session.
    fn is_plain(&self) -> bool {
        self.hints.is_empty() && self.told.is_empty() && !self.durability
    }

    fn follows_question(&self) -> bool {
        !self.durability
            && !matches!(
                self.verb,
                Verb::Begin
                    | Verb::Commit { .. }
                    | Verb::Rollback { .. }
                    | Verb::PrepareTransaction
                    | Verb::FinishPrepared
                    | Verb::Prepare { .. }
                    | Verb::Deallocate { .. }
                    | Verb::Listen { .. }
                    | Verb::Unlisten { .. }
            )
    }

    /// Whether what it does stays, although its transaction is rolled back.
    pub fn outlives_rollback(&self) -> bool {
        matches!(self.verb, Verb::Prepare { .. } | Verb::Deallocate { .. } | Verb::Load) || !self.hints.is_empty()
    }

    /// Whether a statement of this kind ends with this command tag. If not, we and the server do not speak of the same one.
    pub fn fits(&self, tag: &[u8]) -> bool {
        let begins = |words: &[&str]| words.iter().any(|word| tag.starts_with(word.as_bytes()));
        match &self.verb {
            Verb::Begin => begins(&["BEGIN", "START TRANSACTION"]),
            Verb::Commit { .. } => tag == b"COMMIT" || tag == b"ROLLBACK",
            Verb::PrepareTransaction => tag == b"PREPARE TRANSACTION" || tag == b"ROLLBACK",
            Verb::Rollback { .. } | Verb::RollbackTo { .. } => tag == b"ROLLBACK",
            Verb::Savepoint { .. } => tag == b"SAVEPOINT",
            Verb::Release { .. } => tag == b"RELEASE",
            Verb::SetTransaction => begins(&["SET"]),
            Verb::Set { .. } | Verb::SetRole { .. } | Verb::SetSessionAuthorization { .. } => begins(&["SET", "RESET"]),
            Verb::SetCharacteristics => tag == b"SET",
            Verb::Reset { .. } | Verb::ResetAll => tag == b"RESET",
            Verb::Discard(_) => begins(&["DISCARD"]),
            Verb::Listen { .. } => tag == b"LISTEN",
            Verb::Unlisten { .. } => tag == b"UNLISTEN",
            Verb::Prepare { .. } => tag == b"PREPARE",
            Verb::Deallocate { .. } => begins(&["DEALLOCATE"]),
            Verb::DeclareCursor { .. } => tag == b"DECLARE CURSOR",
            Verb::CloseCursor { .. } => begins(&["CLOSE CURSOR"]),
            Verb::Load => tag == b"LOAD",
            Verb::FinishPrepared => begins(&["COMMIT PREPARED", "ROLLBACK PREPARED"]),
            Verb::Read
            | Verb::Write
            | Verb::Execute { .. }
            | Verb::Fetch
            | Verb::CopyIn
            | Verb::CopyOut
            | Verb::Call
            | Verb::Do => {
                !matches!(tag, b"BEGIN" | b"COMMIT" | b"ROLLBACK" | b"PREPARE TRANSACTION")
                    && !begins(&["DISCARD", "DEALLOCATE"])
            }
            Verb::CreateTemp | Verb::Drop => !matches!(tag, b"BEGIN" | b"COMMIT" | b"ROLLBACK"),
            Verb::Empty => false,
        }
    }
}

/// Whether a statement that ended with this command tag wrote nothing, as far as its kind goes: a function that a SELECT
/// calls may have.
pub(super) fn only_looked(tag: &[u8]) -> bool {
    const LOOKING: [&[u8]; 15] = [
        b"SELECT",
        b"BEGIN",
        b"SHOW",
        b"SET",
        b"FETCH",
        b"START TRANSACTION",
        b"SAVEPOINT",
        b"RELEASE",
        b"ROLLBACK",
        b"COMMIT",
        b"DECLARE",
        b"CLOSE",
        b"MOVE",
        b"EXPLAIN",
        b"RESET",
    ];
    LOOKING.iter().any(|word| tag.starts_with(word))
}

/// What may do anything.
pub(super) fn unknown() -> Meaning {
    Some(Arc::new(Script { acts: Vec::new(), cut: true }))
}

/// What does nothing, and was not answered.
pub(super) fn nothing() -> Meaning {
    Some(of(Act::plain(Verb::Empty)))
}

/// A text of this one statement.
pub(super) fn of(act: Act) -> Arc<Script> {
    Arc::new(Script { acts: vec![act], cut: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verbs(text: &str) -> Vec<Verb> {
        read(text.as_bytes(), false)
            .map_or_else(Vec::new, |script| script.acts().iter().map(|act| act.verb.clone()).collect())
    }

    #[test]
    fn plain_statements_mean_nothing() {
        for text in ["SELECT 1", "insert into t values (1)", "  UPDATE t SET a = 1;", "", "-- nothing"] {
            assert_eq!(read(text.as_bytes(), false), None, "{text}");
        }
    }

    #[test]
    fn what_can_be_told_without_tokens_is_told_the_same() {
        let texts = [
            "BEGIN",
            "begin work;",
            " BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE",
            "START TRANSACTION READ ONLY",
            "COMMIT",
            "end transaction ; -- so it is",
            "COMMIT AND NO CHAIN",
            "COMMIT AND CHAIN",
            "COMMIT PREPARED 'a'",
            "BEGIN; COMMIT",
            "ROLLBACK",
            "SELECT count(*) FROM t",
            "INSERT INTO t (a) VALUES (now(), mine(1))",
        ];
        for text in texts {
            assert_eq!(read(text.as_bytes(), false), by_tokens(text.as_bytes(), false), "{text}");
        }
    }

    #[test]
    fn what_the_row_tells_is_no_riddle() {
        let script = read(b"SELECT set_config('a.b', $1, false)", false).unwrap();
        assert!(script.tells() && script.acts()[0].hints.is_empty());
        assert_eq!(read(b"SELECT set_config('a.b', $1, true)", false), None, "it ends with its transaction");
        let script = read(b"SELECT set_config($1, $2, false)", false).unwrap();
        assert!(!script.tells() && script.acts()[0].hints.set_config);
    }

    #[test]
    fn a_question_stands_only_before_what_fails_with_it() {
        let follows = |text: &str| read(text.as_bytes(), false).is_none_or(|script| script.follows_question());
        for text in ["SELECT 1", "UPDATE t SET a = 1", "SAVEPOINT a", "SELECT 1; SELECT 2", "SET LOCAL a.b = 'c'"] {
            assert!(follows(text), "{text}");
        }
        for text in [
            "COMMIT",
            "ROLLBACK",
            "COMMIT AND CHAIN",
            "PREPARE TRANSACTION 'a'",
            "ROLLBACK TO a",
            "SELECT 1; COMMIT",
            "EXECUTE a",
            "DEALLOCATE a",
            "LISTEN a",
            "SELECT mine()",
            "SET LOCAL synchronous_commit = off",
        ] {
            assert!(!follows(text), "{text}");
        }
        assert!(!read(b"SELECT 1", true).unwrap().follows_question());
    }

    #[test]
    fn two_plain_statements_are_counted() {
        assert_eq!(verbs("SELECT 1; INSERT INTO t VALUES (1)"), [Verb::Read, Verb::Write]);
    }

    #[test]
    fn what_a_cut_text_does_is_open() {
        let script = read(b"SELECT 1", true).unwrap();
        assert!(script.is_cut() && script.may_commit());
    }

    #[test]
    fn only_what_is_run_again_keeps_its_text() {
        let script = read(b"SET a.b = 'c'; SET LOCAL x.y = 'z'; LISTEN c", false).unwrap();
        let texts: Vec<&[u8]> = script.acts().iter().map(|act| act.text.trim_ascii()).collect();
        assert_eq!(texts, [b"SET a.b = 'c'".as_slice(), b"", b""]);
    }
}
