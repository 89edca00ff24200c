//! What a backend was set to since its login: the state of the session that had it last.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::carried::{Prepared, Transactional};
use super::state::State;

/// One backend's settings, role and statements. A fresh backend's are none.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    pub(super) transactional: Arc<Transactional>,
    pub(super) prepared: Arc<BTreeMap<Vec<u8>, Prepared>>,
    /// Whose unnamed statement it has, and which of that session's.
    pub(super) unnamed: Option<(u64, u64)>,
}

/// The same thing, or an equal one.
fn same<T: PartialEq>(one: &Arc<T>, other: &Arc<T>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

impl Setup {
    /// What this session leaves behind, at an idle boundary, where nothing of it is in doubt. `owner`: its number.
    pub fn left_by(state: &mut State, owner: u64) -> Self {
        let transactional = state.left_behind();
        let unnamed = state.unnamed().map(|_| (owner, state.unnamed_serial()));
        Self { transactional, prepared: Arc::clone(state.shared_prepared()), unnamed }
    }

    /// Nothing has to be changed for this session.
    pub fn fits(&self, state: &State, owner: u64) -> bool {
        same(&self.transactional, state.shared())
            && same(&self.prepared, state.shared_prepared())
            && self.has_unnamed(state, owner)
    }

    /// It has this session's unnamed statement, or the session has none.
    pub(super) fn has_unnamed(&self, state: &State, owner: u64) -> bool {
        state.unnamed().is_none() || self.unnamed == Some((owner, state.unnamed_serial()))
    }
}
