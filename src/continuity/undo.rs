//! What a transaction changed of its session although no rollback takes it back: prepared statements, and pins.
//!
//! PostgreSQL keeps a prepared statement when the transaction that prepared it is rolled back (sql-prepare). To run a lost
//! transaction again from its beginning, these must be as they were there: each change is noted with what was before.

use std::collections::BTreeMap;

use super::carried::Prepared;
use super::pins::Pins;

/// Changes since the last idle boundary, the latest last.
#[derive(Clone, Debug, Default)]
pub(super) struct Undo {
    changes: Vec<(Vec<u8>, Option<Prepared>)>,
    weight: usize,
    /// There were more than may be remembered.
    lost: bool,
    /// The unnamed statement then, if another has taken its place; else a buffer to be used again.
    unnamed: Vec<u8>,
    replaced: bool,
    alive: bool,
    pins: Pins,
}

impl Undo {
    /// Nothing has changed since now.
    pub(super) fn begin(&mut self, unnamed_alive: bool, pins: Pins) {
        if !self.changes.is_empty() {
            self.changes = Vec::new();
        }
        (self.weight, self.lost, self.replaced) = (0, false, false);
        (self.alive, self.pins) = (unnamed_alive, pins);
    }

    /// A named statement is another one now, or none; it was this one. `limit`: bytes remembered at most.
    pub(super) fn note(&mut self, name: &[u8], before: Option<Prepared>, limit: usize) {
        self.weight += name.len() + before.as_ref().map_or(0, Prepared::weight);
        if self.lost || self.weight > limit {
            (self.lost, self.changes) = (true, Vec::new());
        } else {
            self.changes.push((name.to_vec(), before));
        }
    }

    /// The unnamed statement is another one now. Gives back a buffer for the next.
    pub(super) fn note_unnamed(&mut self, before: Vec<u8>) -> Vec<u8> {
        if std::mem::replace(&mut self.replaced, true) { before } else { std::mem::replace(&mut self.unnamed, before) }
    }

    /// Nothing has changed.
    pub(super) const fn is_blank(&self) -> bool {
        self.changes.is_empty() && !self.lost
    }

    /// Takes everything back in `prepared`. `false`: not all of it is known.
    pub(super) fn apply(&self, prepared: &mut BTreeMap<Vec<u8>, Prepared>) -> bool {
        for (name, before) in self.changes.iter().rev() {
            match before {
                Some(before) => prepared.insert(name.clone(), before.clone()),
                None => prepared.remove(name),
            };
        }
        !self.lost
    }

    /// The unnamed statement's body, if it was another, and whether it lived.
    pub(super) fn unnamed(&self) -> (Option<&[u8]>, bool) {
        (self.replaced.then_some(self.unnamed.as_slice()), self.alive)
    }

    /// The pins then.
    pub(super) const fn pins(&self) -> Pins {
        self.pins
    }
}
