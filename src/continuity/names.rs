//! What the names of prepared statements and portals stand for: what runs when they are executed.
//!
//! Only texts that mean something are kept; any other name stands for a statement that touches neither session state nor
//! the transaction. PostgreSQL tells names apart by their first 63 bytes, and so does this table.

use std::collections::BTreeMap;

use crate::wire::sql::{Discard, Verb};

use super::script::{self, Act, Meaning};

/// Bytes of a name that count (`NAMEDATALEN` - 1).
const NAME: usize = 63;

/// Names remembered at most. Beyond, every name may stand for anything.
const MOST: usize = 4096;

/// The names one backend knows. Most sessions have none to be remembered.
#[derive(Clone, Debug, Default)]
pub(super) struct Names(Option<Box<Table>>);

#[derive(Clone, Debug, Default)]
struct Table {
    statements: BTreeMap<Vec<u8>, Meaning>,
    portals: BTreeMap<Vec<u8>, Meaning>,
    /// Some could not be remembered.
    wild: bool,
    /// What statements meant before they were changed in this transaction, the latest last.
    before: Vec<(Vec<u8>, Option<Meaning>)>,
}

/// The part of a name that counts.
pub(super) fn clip(name: &[u8]) -> &[u8] {
    &name[..name.len().min(NAME)]
}

impl Names {
    /// What a prepared statement means.
    pub(super) fn statement(&self, name: &[u8]) -> Meaning {
        self.0.as_ref().and_then(|table| table.known(&table.statements, name))
    }

    /// What a portal means.
    pub(super) fn portal(&self, name: &[u8]) -> Meaning {
        self.0.as_ref().and_then(|table| table.known(&table.portals, name))
    }

    /// A statement was prepared.
    pub(super) fn parsed(&mut self, name: &[u8], meaning: Meaning) {
        if meaning.is_some() {
            self.0.get_or_insert_default();
        }
        if let Some(table) = &mut self.0 {
            table.parsed(name, meaning);
        }
    }

    /// An idle boundary: what changes from now on belongs to the next transaction.
    pub(super) fn checkpoint(&mut self) {
        if let Some(table) = &mut self.0 {
            table.before.clear();
        }
    }

    /// As it was at the last idle boundary.
    pub(super) fn rewind(&mut self) {
        if let Some(table) = &mut self.0 {
            table.rewind();
        }
    }

    /// A portal was made of a statement.
    pub(super) fn bound(&mut self, portal: &[u8], statement: &[u8]) {
        if let Some(table) = &mut self.0 {
            table.bound(portal, statement);
        }
    }

    /// A statement was closed.
    pub(super) fn closed(&mut self, name: &[u8]) {
        if let Some(table) = &mut self.0 {
            table.closed(name);
        }
    }

    /// Portals live no longer than their transaction.
    pub(super) fn transaction_ended(&mut self) {
        if let Some(table) = &mut self.0 {
            table.portals.clear();
        }
    }

    /// SQL has a hand in the same names.
    pub(super) fn ran(&mut self, act: &Act) {
        match &act.verb {
            Verb::Prepare { name } => {
                let executing = Act {
                    verb: Verb::Execute { name: name.clone() },
                    hints: act.hints,
                    configured: act.configured.clone(),
                    strange: act.strange,
                    durability: true,
                    told: Vec::new(),
                    text: Vec::new(),
                };
                self.parsed(name.as_bytes(), (!act.hints.is_empty() || act.durability).then(|| script::of(executing)));
            }
            Verb::Deallocate { name: Some(name) } => self.closed(name.as_bytes()),
            Verb::Deallocate { name: None } | Verb::Discard(Discard::All) => {
                if let Some(table) = &mut self.0 {
                    table.all_closed();
                }
            }
            Verb::Empty
            | Verb::Begin
            | Verb::Commit { .. }
            | Verb::Rollback { .. }
            | Verb::RollbackTo { .. }
            | Verb::Savepoint { .. }
            | Verb::Release { .. }
            | Verb::PrepareTransaction
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
            | Verb::Write => {}
        }
    }
}

impl Table {
    fn known(&self, names: &BTreeMap<Vec<u8>, Meaning>, name: &[u8]) -> Meaning {
        match names.get(clip(name)) {
            Some(meaning) => meaning.clone(),
            None if self.wild => script::unknown(),
            None => None,
        }
    }

    fn parsed(&mut self, name: &[u8], meaning: Meaning) {
        if meaning.is_some() || self.statements.contains_key(clip(name)) {
            self.note(name);
        }
        self.wild |= set(&mut self.statements, name, meaning, self.wild);
    }

    fn note(&mut self, name: &[u8]) {
        if self.before.len() > MOST {
            self.wild = true;
        } else {
            self.before.push((clip(name).to_vec(), self.statements.get(clip(name)).cloned()));
        }
    }

    fn rewind(&mut self) {
        while let Some((name, meaning)) = self.before.pop() {
            match meaning {
                Some(meaning) => self.statements.insert(name, meaning),
                None => self.statements.remove(&name),
            };
        }
        self.portals.clear();
    }

    fn bound(&mut self, portal: &[u8], statement: &[u8]) {
        let meaning = self.known(&self.statements, statement);
        if meaning.is_some() || !self.portals.is_empty() {
            self.wild |= set(&mut self.portals, portal, meaning, self.wild);
        }
    }

    fn closed(&mut self, name: &[u8]) {
        if self.statements.contains_key(clip(name)) {
            self.note(name);
            self.statements.remove(clip(name));
        }
    }

    fn all_closed(&mut self) {
        let named: Vec<_> = self.statements.keys().filter(|name| !name.is_empty()).cloned().collect();
        for name in named {
            self.closed(&name);
        }
        self.wild = false;
    }
}

/// Says whether the name could not be remembered.
fn set(table: &mut BTreeMap<Vec<u8>, Meaning>, name: &[u8], meaning: Meaning, wild: bool) -> bool {
    let name = clip(name);
    if meaning.is_none() && !wild {
        table.remove(name);
        return false;
    }
    if let Some(old) = table.get_mut(name) {
        *old = meaning;
        return false;
    }
    if table.len() >= MOST {
        return true;
    }
    table.insert(name.to_vec(), meaning);
    false
}
