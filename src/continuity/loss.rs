//! A backend is gone: what each request in flight is told, and what becomes of the open transaction.
//!
//! | in flight | outside a transaction | inside one |
//! |---|---|---|
//! | a statement | 08007: it may have committed by itself | 40001: it cannot have committed |
//! | a statement, with a COMMIT behind it already | 08007 | 08007 |
//! | COMMIT | 08007 | 08007 |
//! | ROLLBACK | – | it is rolled back either way: answered as done |
//! | BEGIN alone | 40001: nothing was begun | – |
//! | anything, on a replica | 40001: nothing can have been written | 40001 |
//! | a statement whose CommandComplete was delivered, simple protocol | acknowledged: only the ReadyForQuery is made up | 40001 |

use crate::error::Code;
use crate::wire::TxStatus;

use super::pipeline::{Owed, Pipeline};
use super::script::Meaning;
use super::state::State;

/// What is said to the client after its backend was lost.
#[derive(Debug, PartialEq, Eq)]
pub struct Wreck {
    /// One answer for each unit that was sent whole.
    pub answers: Vec<Answer>,
    /// The client has begun a unit and not sent its Sync: its error. What follows up to the Sync is thrown away.
    pub open: Option<Answer>,
    /// What is left to be said or restored later.
    pub after: Aftermath,
}

/// The answer to one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What is said.
    pub word: Word,
    /// The transaction status of the ReadyForQuery that ends it.
    pub status: TxStatus,
}

/// What is said about one unit, before its ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// An error of the catalogue.
    Error(Code),
    /// Nothing more: its result, or its error, was delivered already.
    Nothing,
    /// CommandComplete `ROLLBACK`: true whatever happened.
    RolledBack,
}

/// What the loss leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aftermath {
    /// No transaction is open.
    Clean,
    /// A transaction is open in the client's eyes, and it has been told that it failed.
    Failed,
    /// A transaction is open in the client's eyes, and it has not been told yet.
    Untold,
}

/// What a unit's statements do to the transaction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deeds {
    executes: bool,
    begins: bool,
    only_begins: bool,
    may_commit: bool,
    rolls_back: bool,
    only_rolls_back: bool,
    acknowledged: bool,
    simple: bool,
    told: bool,
    closed: bool,
    /// Anything but a lone Sync.
    says: bool,
}

impl Pipeline {
    /// The backend ended. `read_only`: it was a replica, where nothing can have been written.
    pub fn lose(&mut self, read_only: bool, state: &mut State) -> Wreck {
        let units = self.units();
        let mut status = self.status();
        let mut answers = Vec::new();
        let mut open = None;
        for (at, unit) in units.iter().enumerate() {
            let later = &units[at + 1..];
            let answer = judge(*unit, status, later, read_only);
            status = answer.status;
            if unit.closed {
                answers.push(answer);
            } else {
                open = Some(answer);
            }
        }
        let after = match (status, units.is_empty()) {
            (TxStatus::Idle, _) => Aftermath::Clean,
            (TxStatus::InTransaction, true) => Aftermath::Untold,
            (TxStatus::InTransaction | TxStatus::Failed, _) => Aftermath::Failed,
        };
        state.transaction_lost();
        self.clear(if after == Aftermath::Clean { TxStatus::Idle } else { TxStatus::Failed });
        Wreck { answers, open, after }
    }

    /// The units in flight, the last one open if its Sync has not been sent.
    fn units(&self) -> Vec<Deeds> {
        let mut units = Vec::new();
        let mut unit = if self.has_failed() { Some(Deeds { told: true, ..Deeds::default() }) } else { self.passed() };
        for owed in self.owed() {
            match owed {
                Owed::Query { meaning, done } => units.push(simple(meaning, *done)),
                Owed::Call => units.push(Deeds { executes: true, simple: true, closed: true, ..Deeds::default() }),
                Owed::Sync => units.push(Deeds { closed: true, ..unit.take().unwrap_or_default() }),
                Owed::Execute { meaning } => unit.get_or_insert_default().add(meaning),
                Owed::Parse { .. } | Owed::Bind | Owed::Close { .. } | Owed::Describe | Owed::CopyEnd => {
                    unit.get_or_insert_default().says = true;
                }
            }
        }
        units.extend(unit);
        units
    }
}

fn simple(meaning: &Meaning, done: usize) -> Deeds {
    let mut deeds = Deeds { simple: true, closed: true, ..Deeds::default() };
    deeds.add(meaning);
    let statements = meaning.as_ref().map_or(1, |script| script.acts().len());
    deeds.acknowledged = done >= statements;
    deeds
}

impl Deeds {
    /// One more statement is executed in this unit.
    pub(super) fn add(&mut self, meaning: &Meaning) {
        self.executes = true;
        self.says = true;
        let Some(script) = meaning else { return };
        self.begins |= script.begins();
        self.only_begins = script.only_begins();
        self.may_commit |= script.may_commit();
        self.rolls_back |= script.rolls_back();
        self.only_rolls_back = script.only_rolls_back();
    }

    /// The transaction block, if one is open after this unit.
    fn status_after(self, before: TxStatus) -> TxStatus {
        let in_block = before != TxStatus::Idle || (self.begins && !self.only_begins);
        if in_block && !self.may_commit && !self.rolls_back { TxStatus::Failed } else { TxStatus::Idle }
    }
}

fn judge(unit: Deeds, before: TxStatus, later: &[Deeds], read_only: bool) -> Answer {
    let status = unit.status_after(before);
    let in_block = before != TxStatus::Idle;
    if unit.told {
        return Answer { word: Word::Nothing, status };
    }
    if unit.only_rolls_back && unit.simple {
        return Answer { word: Word::RolledBack, status: TxStatus::Idle };
    }
    if unit.acknowledged && status == TxStatus::Idle && !unit.only_begins {
        return Answer { word: Word::Nothing, status };
    }
    if !unit.says && !unit.simple && !in_block {
        return Answer { word: Word::Nothing, status };
    }
    let alone = !in_block && !unit.begins && unit.executes;
    let committed_later = status != TxStatus::Idle && commits(later);
    let doubtful = !read_only && (alone || (unit.may_commit && before != TxStatus::Failed) || committed_later);
    let code = if doubtful { Code::CommitUnknown } else { Code::TransactionLost };
    Answer { word: Word::Error(code), status }
}

/// Whether the block that is open before `later` may be committed by one of those units.
fn commits(later: &[Deeds]) -> bool {
    later.iter().find(|unit| unit.may_commit || unit.rolls_back).is_some_and(|unit| unit.may_commit)
}

#[cfg(test)]
mod tests;
