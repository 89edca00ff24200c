//! What a request will do that is only now being sent: its names are looked up behind everything that is still in flight.

use crate::wire::sql::{Discard, Verb};

use super::names::clip;
use super::pipeline::{Owed, Pipeline};
use super::script::Meaning;

impl Pipeline {
    /// What an Execute of this portal would run, if all that is in flight succeeds.
    pub fn executing(&self, portal: &[u8]) -> Meaning {
        let bound = self.owed().iter().enumerate().rev().find_map(|(at, owed)| match owed {
            Owed::Bind { portal: made, statement } if clip(made) == clip(portal) => Some((at, statement)),
            Owed::Bind { .. }
            | Owed::Query { .. }
            | Owed::Call { .. }
            | Owed::Parse { .. }
            | Owed::Execute { .. }
            | Owed::Close { .. }
            | Owed::Describe
            | Owed::CopyEnd { .. }
            | Owed::Sync { .. }
            | Owed::Ours => None,
        });
        let Some((at, statement)) = bound else { return self.names().portal(portal) };
        let parsed = self.owed().iter().take(at).rev().find_map(|owed| match owed {
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
            | Owed::Ours => None,
        });
        parsed.unwrap_or_else(|| self.names().statement(statement))
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
            | Owed::Ours => false,
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
