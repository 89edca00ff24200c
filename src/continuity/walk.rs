//! Where a transaction stands, statement by statement, since the last ReadyForQuery.

use crate::wire::TxStatus;
use crate::wire::sql::Verb;

use super::script::{Act, Meaning};

/// How far one unit of requests has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Walk {
    /// Inside BEGIN … COMMIT.
    pub(super) block: bool,
    /// That block has failed: nothing but its end, or a way back to a savepoint, is taken.
    pub(super) dead: bool,
    /// Statements ran outside a block: they are committed when the unit ends.
    pub(super) loose: bool,
    /// Something was, or may have been, committed on the way.
    pub(super) commits: bool,
    /// A block was left on the way.
    pub(super) ends: bool,
    /// Portals were made on the way.
    pub(super) portals: bool,
}

impl Walk {
    /// A unit that begins with this status.
    pub(super) fn from(status: TxStatus) -> Self {
        Self { block: status != TxStatus::Idle, dead: status == TxStatus::Failed, ..Self::default() }
    }

    /// One statement runs.
    pub(super) fn step(&mut self, act: &Act) {
        match &act.verb {
            Verb::Begin => self.block = true, // what ran before it in this unit becomes part of the block
            Verb::Commit { chain } => self.commit(*chain),
            Verb::PrepareTransaction => self.commit(false),
            Verb::Rollback { chain } => {
                (self.block, self.dead, self.loose, self.ends) = (*chain, false, false, true);
            }
            Verb::RollbackTo { .. } => self.dead = false,
            Verb::Empty => {}
            Verb::Savepoint { .. }
            | Verb::Release { .. }
            | Verb::FinishPrepared
            | Verb::SetTransaction
            | Verb::SetCharacteristics
            | Verb::Set { .. }
            | Verb::SetRole { .. }
            | Verb::SetSessionAuthorization { .. }
            | Verb::Reset { .. }
            | Verb::ResetAll
            | Verb::Discard(_)
            | Verb::Listen { .. }
            | Verb::Unlisten { .. }
            | Verb::Prepare { .. }
            | Verb::Deallocate { .. }
            | Verb::Execute { .. }
            | Verb::DeclareCursor { .. }
            | Verb::Fetch
            | Verb::CloseCursor { .. }
            | Verb::Load
            | Verb::CreateTemp
            | Verb::Drop
            | Verb::CopyIn
            | Verb::CopyOut
            | Verb::Read
            | Verb::Call
            | Verb::Do
            | Verb::Write => self.plain(),
        }
    }

    /// A statement without a say in transactions runs.
    pub(super) fn plain(&mut self) {
        self.loose |= !self.block;
    }

    fn commit(&mut self, chain: bool) {
        self.commits |= !self.dead;
        (self.block, self.dead, self.loose, self.ends) = (chain, false, false, true);
    }

    /// Statements `from` on of a text run.
    pub(super) fn text(&mut self, meaning: &Meaning, from: usize) {
        let Some(script) = meaning else {
            if from == 0 {
                self.plain();
            }
            return;
        };
        for act in script.acts().iter().skip(from) {
            self.step(act);
        }
        if script.is_cut() {
            (self.commits, self.loose, self.ends) = (true, true, true);
        }
    }

    /// May anything of what ran be there after the unit's end.
    pub(super) fn may_commit(self) -> bool {
        self.commits || self.loose
    }
}
