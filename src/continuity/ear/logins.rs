//! Whose login an ear is to try: the password of one of its listeners opens the door for all.

use std::collections::BTreeSet;
use std::sync::Arc;

/// What became of the logins so far.
#[derive(Debug, Default)]
pub(super) struct Logins {
    /// Whose was taken last.
    welcome: Option<Arc<str>>,
    /// Whose was refused since.
    refused: BTreeSet<Arc<str>>,
}

impl Logins {
    /// Of these users, the latest first: one whose login was taken before, else the first of those not refused, for the
    /// password used last is the most likely to be right. When all were refused, it begins anew.
    pub(super) fn choose<'a, K>(&mut self, users: impl Iterator<Item = (K, &'a Arc<str>)> + Clone) -> Option<K> {
        if !self.is_any_left(users.clone().map(|(_, user)| user)) {
            self.refused.clear();
        }
        let open = || users.clone().filter(|(_, user)| !self.refused.contains(*user));
        let known = open().find(|(_, user)| Some(*user) == self.welcome.as_ref());
        known.or_else(|| open().next()).map(|(key, _)| key)
    }

    /// Whether one of these has not been refused.
    pub(super) fn is_any_left<'a>(&self, mut users: impl Iterator<Item = &'a Arc<str>>) -> bool {
        users.any(|user| !self.refused.contains(user))
    }

    pub(super) fn taken(&mut self, user: &str) {
        self.welcome = Some(user.into());
        self.refused.clear();
    }

    pub(super) fn refused(&mut self, user: &str) {
        if self.welcome.as_deref() == Some(user) {
            self.welcome = None;
        }
        self.refused.insert(user.into());
    }
}
