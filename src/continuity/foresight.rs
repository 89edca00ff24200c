//! What a request will do that is only now being sent: its names are looked up behind everything that is still in flight.

use std::collections::BTreeMap;

use crate::wire::TxStatus;
use crate::wire::message::Parse;
use crate::wire::sql::{self, Discard, Verb};

use super::names::clip;
use super::pipeline::{Owed, Pipeline};
use super::script::Meaning;
use super::state::State;
use super::walk::Walk;

impl Pipeline {
    /// What an Execute of this portal would run, if all that is in flight succeeds.
    pub fn executing(&self, portal: &[u8]) -> Meaning {
        let mut earlier = self.owed().iter().rev();
        let bound = earlier.find_map(|owed| match owed {
            Owed::Bind { portal: made, statement } if clip(made) == clip(portal) => Some(statement),
            Owed::Bind { .. }
            | Owed::Query { .. }
            | Owed::Call { .. }
            | Owed::Parse { .. }
            | Owed::Execute { .. }
            | Owed::Close { .. }
            | Owed::Describe
            | Owed::CopyEnd { .. }
            | Owed::Sync { .. }
            | Owed::Ours
            | Owed::Setup
            | Owed::Prepare { .. } => None,
        });
        let Some(statement) = bound else { return self.names().portal(portal) };
        let parsed = earlier.find_map(|owed| match owed {
            Owed::Parse { name, meaning, .. } if clip(name) == clip(statement) => Some(meaning.clone()),
            Owed::Parse { .. }
            | Owed::Query { .. }
            | Owed::Call { .. }
            | Owed::Bind { .. }
            | Owed::Execute { .. }
            | Owed::Close { .. }
            | Owed::Describe
            | Owed::CopyEnd { .. }
            | Owed::Sync { .. }
            | Owed::Ours
            | Owed::Setup
            | Owed::Prepare { .. } => None,
        });
        parsed.unwrap_or_else(|| self.names().statement(statement))
    }

    /// Whether the open unit, outside of any transaction, does nothing but write rows: its Sync commits them, and nothing
    /// before does.
    pub fn only_writes_rows(&self, state: &State) -> bool {
        let fresh = self.status() == TxStatus::Idle && self.walk() == Walk::from(TxStatus::Idle);
        if !fresh || !self.has_open_unit() || self.has_failed() {
            return false;
        }
        let mut texts: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
        let mut bound: BTreeMap<&[u8], bool> = BTreeMap::new();
        let mut writes = false;
        for owed in self.owed().iter() {
            match owed {
                Owed::Parse { name, body, .. } => {
                    let Some(Ok(parse)) = body.as_deref().map(Parse::read) else { return false };
                    texts.insert(clip(name), parse.query);
                }
                Owed::Bind { portal, statement } => {
                    let rows = match texts.get(clip(statement)) {
                        Some(text) => writes_rows(text),
                        None => state.text_of(statement).is_some_and(|text| writes_rows(&text)),
                    };
                    bound.insert(clip(portal), rows);
                }
                Owed::Execute { portal } => {
                    if bound.get(clip(portal)) != Some(&true) {
                        return false;
                    }
                    writes = true;
                }
                Owed::Describe | Owed::Close { .. } | Owed::Setup | Owed::Prepare { .. } => {}
                // Another unit is not answered yet.
                Owed::Query { .. } | Owed::Call { .. } | Owed::Sync { .. } | Owed::CopyEnd { .. } | Owed::Ours => {
                    return false;
                }
            }
        }
        writes
    }

    /// Whether something in flight drops all prepared statements, pgmoor's own among them.
    pub fn drops_statements(&self) -> bool {
        let drops = |meaning: &Meaning| {
            let acts = meaning.as_ref().map_or(&[][..], |script| script.acts());
            acts.iter().any(|act| matches!(act.verb, Verb::Deallocate { name: None } | Verb::Discard(Discard::All)))
        };
        self.owed().iter().any(|owed| match owed {
            Owed::Query { meaning, .. } | Owed::Parse { meaning, .. } => drops(meaning),
            Owed::Execute { portal } => drops(&self.names().portal(portal)),
            Owed::Call { .. }
            | Owed::Bind { .. }
            | Owed::Close { .. }
            | Owed::Describe
            | Owed::CopyEnd { .. }
            | Owed::Sync { .. }
            | Owed::Ours
            | Owed::Setup
            | Owed::Prepare { .. } => false,
        })
    }

    /// Whether a text of this meaning may commit a transaction block.
    pub fn may_commit(&self, meaning: &Meaning) -> bool {
        let Some(script) = meaning else { return false };
        let by_name = |name: &str| self.names().statement(name.as_bytes()).is_some_and(|script| script.may_commit());
        script.may_commit()
            || script.acts().iter().any(|act| matches!(&act.verb, Verb::Execute { name } if by_name(name)))
    }
}

/// INSERT, UPDATE, DELETE and MERGE take part in a transaction like any other; what else writes may commit by itself.
fn writes_rows(text: &[u8]) -> bool {
    let word: Vec<u8> = text.trim_ascii_start().iter().take_while(|byte| byte.is_ascii_alphabetic()).copied().collect();
    ["insert", "update", "delete", "merge"].iter().any(|verb| word.eq_ignore_ascii_case(verb.as_bytes()))
        && sql::glance(text)
}
