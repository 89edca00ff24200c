//! What a backend was set to since its login: the state of the session that had it last.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::carried::{Prepared, Transactional};
use super::state::State;

/// One backend's settings, role, and the statements it has under names of its last session's own. A fresh backend's are none.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    pub(super) transactional: Arc<Transactional>,
    pub(super) prepared: BTreeMap<Vec<u8>, Prepared>,
    /// The session whose functions may have set more than is known.
    pub(super) touched: Option<u64>,
}

impl Setup {
    /// What this session leaves behind, at an idle boundary, where nothing of it is in doubt.
    pub fn left_by(state: &mut State) -> Self {
        let touched = state.take_touch();
        Self { transactional: state.left_behind(), prepared: state.own_named(), touched }
    }

    /// Settings that are equal become one: comparing them again is looking at a pointer.
    pub fn share(&mut self, state: &mut State) {
        state.share(&mut self.transactional);
    }

    /// Nothing has to be changed for this session.
    pub fn fits(&self, state: &State) -> bool {
        let same = Arc::ptr_eq(&self.transactional, state.shared()) || self.transactional == *state.shared();
        same && !self.is_strange(state) && state.names_own(&self.prepared)
    }
}

impl Setup {
    /// What another session's functions have set is to be undone.
    pub(super) fn is_strange(&self, state: &State) -> bool {
        self.touched.is_some_and(|owner| owner != state.owner())
    }

    /// It has been brought to this session's state.
    pub fn settle(&mut self, state: &State) {
        self.touched = self.touched.filter(|owner| *owner == state.owner());
    }

    /// What it was set to goes on: it was touched before, and by this session.
    pub fn keep_touch(&mut self, before: Option<u64>) {
        self.touched = self.touched.or(before);
    }

    /// Whose functions have touched it.
    pub const fn touched(&self) -> Option<u64> {
        self.touched
    }
}
