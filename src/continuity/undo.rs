//! What a transaction changed of its session although no rollback takes it back: prepared statements, and pins.
//!
//! PostgreSQL keeps a prepared statement when the transaction that prepared it is rolled back (sql-prepare). To run a lost
//! transaction again from its beginning, these must be as they were there: each change is noted with what was before.

use std::collections::BTreeMap;

use super::carried::Prepared;
use super::pins::Pins;

/// What has changed since the last idle boundary.
#[derive(Clone, Debug, Default)]
pub(super) struct Undo {
    pins: Pins,
    /// Of a session that has ever prepared a statement.
    statements: Option<Box<Statements>>,
}

/// The prepared statements.
#[derive(Clone, Debug, Default)]
struct Statements {
    /// The latest last.
    changes: Vec<(Vec<u8>, Option<Prepared>)>,
    weight: usize,
    /// There were more than may be remembered.
    lost: bool,
    /// The unnamed statement then, if another has taken its place; else a buffer to be used again.
    unnamed: Vec<u8>,
    replaced: bool,
    alive: bool,
}

impl Undo {
    /// Nothing has changed since now.
    pub(super) fn begin(&mut self, unnamed_alive: bool, pins: Pins) {
        self.pins = pins;
        if unnamed_alive {
            self.statements.get_or_insert_default();
        }
        let Some(statements) = &mut self.statements else { return };
        if !statements.changes.is_empty() {
            statements.changes = Vec::new();
        }
        (statements.weight, statements.lost, statements.replaced) = (0, false, false);
        statements.alive = unnamed_alive;
    }

    /// A named statement is another one now, or none; it was this one. `limit`: bytes remembered at most.
    pub(super) fn note(&mut self, name: &[u8], before: Option<Prepared>, limit: usize) {
        let statements = self.statements.get_or_insert_default();
        statements.weight += name.len() + before.as_ref().map_or(0, Prepared::weight);
        if statements.lost || statements.weight > limit {
            (statements.lost, statements.changes) = (true, Vec::new());
        } else {
            statements.changes.push((name.to_vec(), before));
        }
    }

    /// The unnamed statement is another one now. Gives back a buffer for the next.
    pub(super) fn note_unnamed(&mut self, before: Vec<u8>) -> Vec<u8> {
        let statements = self.statements.get_or_insert_default();
        if std::mem::replace(&mut statements.replaced, true) {
            before
        } else {
            std::mem::replace(&mut statements.unnamed, before)
        }
    }

    /// Nothing has changed.
    pub(super) fn is_blank(&self) -> bool {
        self.statements.as_ref().is_none_or(|statements| statements.changes.is_empty() && !statements.lost)
    }

    /// Takes everything back in `prepared`. `false`: not all of it is known.
    pub(super) fn apply(&self, prepared: &mut BTreeMap<Vec<u8>, Prepared>) -> bool {
        let Some(statements) = &self.statements else { return true };
        for (name, before) in statements.changes.iter().rev() {
            match before {
                Some(before) => prepared.insert(name.clone(), before.clone()),
                None => prepared.remove(name),
            };
        }
        !statements.lost
    }

    /// The unnamed statement's body, if it was another, and whether it lived.
    pub(super) fn unnamed(&self) -> (Option<&[u8]>, bool) {
        let Some(statements) = &self.statements else { return (None, false) };
        (statements.replaced.then_some(statements.unnamed.as_slice()), statements.alive)
    }

    /// The pins then.
    pub(super) const fn pins(&self) -> Pins {
        self.pins
    }
}
