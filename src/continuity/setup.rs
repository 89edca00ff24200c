//! What a backend was set to since its login: the state of the session that had it last.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::carried::{Prepared, Transactional};
use super::state::State;

/// One backend's settings, role, and the statements it has under names of its last session's own. A fresh backend's are none.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    pub(super) transactional: Arc<Transactional>,
    pub(super) prepared: Arc<BTreeMap<Vec<u8>, Prepared>>,
}

impl Setup {
    /// What this session leaves behind, at an idle boundary, where nothing of it is in doubt.
    pub fn left_by(state: &mut State) -> Self {
        Self { transactional: state.left_behind(), prepared: state.own_named() }
    }

    /// Nothing has to be changed for this session.
    pub fn fits(&self, state: &State) -> bool {
        same(&self.transactional, state.shared()) && same(&self.prepared, &state.own_named())
    }
}

/// The same thing, or an equal one.
fn same<T: PartialEq>(one: &Arc<T>, other: &Arc<T>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}
