//! What is in flight of pgmoor's own for the sake of statements and settings: what a backend lacked, what it is brought to, what
//! pgmoor answers itself, and what a name stands for meanwhile.

use crate::continuity::names::clip;
use crate::continuity::plans::Key;
use crate::continuity::script::Meaning;
use crate::continuity::state::State;
use crate::wire::backend;
use crate::wire::sql::{Discard, Verb};

use super::{Owed, Pipeline, Stands, Unexpected, Way};

impl Pipeline {
    /// The backend is being brought to the session's state; what is sent from now on comes behind that.
    pub fn set_up(&mut self) {
        self.owed.push_back(Owed::Setup);
    }

    /// The next reply tells how that went.
    pub fn is_setting_up(&self) -> bool {
        matches!(self.owed.front(), Some(Owed::Setup))
    }

    /// It is in the session's state.
    pub fn is_set_up(&mut self) {
        if self.is_setting_up() {
            self.owed.pop_front();
        }
    }

    /// Whether a whole unit of the client's is in flight.
    pub fn has_whole_unit(&self) -> bool {
        self.owed.iter().any(|owed| matches!(owed, Owed::Query { .. } | Owed::Call { .. } | Owed::Sync { .. }))
    }

    /// A statement that this backend lacks goes out; `before`: so many Closes before it. `alone`: with a Sync of its own.
    pub fn prepare(&mut self, key: Option<Key>, before: usize, alone: bool) {
        if !self.is_skipping() {
            self.owed.push_back(Owed::Prepare { key, before, alone });
        }
    }

    /// The next reply is about such a statement.
    pub fn is_preparing(&self) -> bool {
        matches!(self.owed.front(), Some(Owed::Prepare { .. }))
    }

    /// One reply about it. `Ok(Some(key))`: it is there.
    ///
    /// # Errors
    /// It is not the reply that is due.
    pub fn prepared(&mut self, tag: u8) -> Result<Option<Key>, Unexpected> {
        let Some(Owed::Prepare { key, before, alone }) = self.owed.front_mut() else { return Err(Unexpected) };
        match tag {
            backend::CLOSE_COMPLETE if *before > 0 => {
                *before -= 1;
                Ok(None)
            }
            backend::PARSE_COMPLETE if *before == 0 => {
                let key = *key;
                if !*alone {
                    self.owed.pop_front();
                }
                Ok(key)
            }
            // Alone, and failed: whoever uses the name is told by the server.
            backend::ERROR_RESPONSE if *alone => Ok(None),
            backend::READY_FOR_QUERY if *alone => {
                self.owed.pop_front();
                Ok(None)
            }
            _ => Err(Unexpected),
        }
    }

    /// A request that pgmoor answers itself has come to its turn: its answer's tag.
    pub fn take_told(&mut self, state: &mut State) -> Option<u8> {
        match self.owed.front() {
            Some(Owed::Parse { way: Way::Shared(_), .. }) => {
                self.parse_complete(state);
                Some(backend::PARSE_COMPLETE)
            }
            Some(Owed::Close { told: true, .. }) => {
                self.close_complete(state);
                Some(backend::CLOSE_COMPLETE)
            }
            _ => None,
        }
    }

    /// The statements that were to be prepared and were not, for an error before them.
    pub fn take_unprepared(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.unprepared)
    }

    /// The number of the unit that is open, or begins now.
    pub fn unit(&self) -> u64 {
        self.unit
    }

    /// What a statement's name stands for, for a request of the open unit.
    pub fn stands(&self, name: &[u8]) -> Stands {
        let mut earlier = !self.open;
        for owed in self.owed.iter().rev() {
            let found = match owed {
                Owed::Parse { name: parsed, way, .. } if clip(parsed) == clip(name) => Stands::Sent(*way),
                Owed::Close { statement: Some(closed), .. } if clip(closed) == clip(name) => Stands::Closed,
                Owed::Query { meaning, .. } if name.is_empty() || renames(meaning) => {
                    return Stands::Open;
                }
                Owed::Sync { .. } | Owed::Query { .. } | Owed::Call { .. } => {
                    earlier = true;
                    continue;
                }
                Owed::Parse { .. }
                | Owed::Close { .. }
                | Owed::Bind { .. }
                | Owed::Execute { .. }
                | Owed::Describe
                | Owed::CopyEnd { .. }
                | Owed::Ours
                | Owed::Setup
                | Owed::Prepare { .. } => continue,
            };
            return if earlier { Stands::Open } else { found };
        }
        Stands::Settled
    }

    /// A Parse of this unit is answered from what the backend had before.
    pub fn reuses(&mut self, reused: bool) {
        self.reused |= reused;
    }

    /// Whether one was, since nothing was in flight.
    pub fn has_reused(&self) -> bool {
        self.reused
    }

    /// The client's name for the statement that the next reply is about.
    pub fn statement_at_front(&self) -> Option<&[u8]> {
        match self.owed.front()? {
            Owed::Parse { name, .. } => Some(name),
            Owed::Bind { statement, .. } => Some(statement),
            Owed::Query { .. }
            | Owed::Call { .. }
            | Owed::Execute { .. }
            | Owed::Close { .. }
            | Owed::Describe
            | Owed::CopyEnd { .. }
            | Owed::Sync { .. }
            | Owed::Ours
            | Owed::Setup
            | Owed::Prepare { .. } => None,
        }
    }

    /// Rows are to be shown to [`Self::row`]: one of them tells what its statement set.
    pub fn reads_rows(&self) -> bool {
        self.reads_rows
    }

    /// DataRow: kept if it tells what the statement that runs has set.
    pub fn row(&mut self, body: &[u8]) {
        let act = match self.owed.front() {
            Some(Owed::Query { meaning: Some(script), done, .. }) => script.acts().get(*done).cloned(),
            Some(Owed::Execute { portal }) => {
                self.names.portal(portal).and_then(|script| script.acts().first().cloned())
            }
            _ => None,
        };
        if act.is_some_and(|act| !act.told.is_empty()) {
            self.row = Some(body.to_vec());
        }
    }
}

/// It changes what names of statements stand for.
fn renames(meaning: &Meaning) -> bool {
    let acts = meaning.as_ref().map_or(&[][..], |script| script.acts());
    acts.iter()
        .any(|act| matches!(act.verb, Verb::Prepare { .. } | Verb::Deallocate { .. } | Verb::Discard(Discard::All)))
}
