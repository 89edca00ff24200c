//! What of a session's state is its backend's, too: left there for the next session, and compared with what that one wants.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::continuity::carried::{Prepared, Transactional};

use super::{NAME, State, is_own};

impl State {
    /// The part that a rollback takes back, as [`Self::settled`].
    pub fn shared(&self) -> &Arc<Transactional> {
        self.marks.first().map_or(&self.now, |mark| &mark.before)
    }

    /// Settings that are equal become one: of two, always the same one, so that all come to have that.
    pub(in crate::continuity) fn share(&mut self, others: &mut Arc<Transactional>) {
        if self.marks.is_empty() && !Arc::ptr_eq(&self.now, others) && self.now == *others {
            if Arc::as_ptr(&self.now) < Arc::as_ptr(others) {
                *others = Arc::clone(&self.now);
            } else {
                self.now = Arc::clone(others);
            }
        }
    }

    /// The same as its backend has it, which may have been reset to the name of its own login.
    pub(in crate::continuity) fn left_behind(&mut self) -> Arc<Transactional> {
        if !std::mem::take(&mut self.nameless) {
            return Arc::clone(self.shared());
        }
        let mut left = Transactional::clone(self.shared());
        left.settings.remove(NAME);
        Arc::new(left)
    }

    /// Whose functions may have set something on the backend there was.
    pub(in crate::continuity) fn take_touch(&mut self) -> Option<u64> {
        std::mem::take(&mut self.touched).then_some(self.owner)
    }

    /// The session's number.
    pub const fn owner(&self) -> u64 {
        self.owner
    }

    /// The prepared statements that backends have under the client's own names.
    /// Mostly there are none, and nothing is made then.
    pub(in crate::continuity) fn own_named(&self) -> BTreeMap<Vec<u8>, Prepared> {
        if self.own == 0 {
            return BTreeMap::new();
        }
        let own = self.prepared.iter().filter(|(_, prepared)| is_own(prepared));
        own.map(|(name, prepared)| (name.clone(), prepared.clone())).collect()
    }

    /// Whether these are those.
    pub(in crate::continuity) fn names_own(&self, others: &BTreeMap<Vec<u8>, Prepared>) -> bool {
        let named = |(name, prepared)| others.get(name) == Some(prepared);
        self.own == others.len() && (self.own == 0 || self.prepared.iter().filter(|(_, one)| is_own(one)).all(named))
    }
}
