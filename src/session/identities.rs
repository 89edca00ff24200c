//! Who sessions are to PostgreSQL. Those of the same user, to the same database, with the same startup parameters, share one
//! identity, and what it consists of stands in memory once.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::auth::Credentials;
use crate::backend::{Greetings, Identity};
use crate::continuity::state::Origin;
use crate::wire::startup::Startup;

use super::packets::{Asked, Packets};

/// The parameter that belongs to the session and not to its backend.
const NAME: &str = "application_name";

/// Identities that came last and are kept though nobody has them: what they were told of their servers is of use to those who
/// come again.
const RECENT: usize = 256;

/// The identities of all sessions there are.
#[derive(Debug, Default)]
pub struct Identities {
    hashing: RandomState,
    known: Mutex<Known>,
    packets: Packets,
}

#[derive(Debug, Default)]
struct Known {
    by_hash: HashMap<u64, Weak<Identity>>,
    /// So many were left when it was swept last.
    left: usize,
    recent: VecDeque<Arc<Identity>>,
}

impl Identities {
    /// The packet at the front of `input`, if somebody was let in with the same lately.
    pub(super) fn recall(&self, input: &[u8]) -> Option<Arc<Asked>> {
        self.packets.recall(input)
    }

    /// The identity of a client that has asked for this and logged in with `credentials`.
    pub(super) fn of(&self, asked: &Arc<Asked>, credentials: Credentials) -> Arc<Identity> {
        if let Some(identity) = asked.from(&credentials) {
            return identity;
        }
        let identity = self.find(&asked.startup, credentials);
        self.packets.remember(asked, &identity);
        identity
    }

    fn find(&self, startup: &Startup, credentials: Credentials) -> Arc<Identity> {
        let hash = self.hashing.hash_one((&startup.user, &startup.database, &startup.parameters));
        let mut known = self.known.lock();
        let found = known.by_hash.get(&hash).and_then(Weak::upgrade);
        if let Some(identity) = found.filter(|identity| is_of(identity, startup, &credentials)) {
            return identity;
        }
        let identity = Arc::new(identity(startup, credentials));
        known.enter(hash, &identity);
        identity
    }
}

impl Known {
    fn enter(&mut self, hash: u64, identity: &Arc<Identity>) {
        if self.by_hash.len() >= 2 * self.left.max(RECENT) {
            self.by_hash.retain(|_, known| known.strong_count() > 0);
            self.left = self.by_hash.len();
        }
        self.by_hash.insert(hash, Arc::downgrade(identity));
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(Arc::clone(identity));
    }
}

fn identity(startup: &Startup, credentials: Credentials) -> Identity {
    let flavour = startup.parameters.iter().filter(|(name, _)| *name != NAME);
    Identity {
        user: startup.user.as_str().into(),
        database: startup.database.as_str().into(),
        flavour: Arc::new(flavour.map(|(name, value)| (name.clone(), value.clone())).collect()),
        origin: Arc::new(Origin::called(startup.parameters.get(NAME).map(String::as_str))),
        credentials,
        greetings: Greetings::default(),
    }
}

fn is_of(identity: &Identity, startup: &Startup, credentials: &Credentials) -> bool {
    let flavour = startup.parameters.iter().filter(|(name, _)| *name != NAME);
    *identity.user == *startup.user
        && *identity.database == *startup.database
        && identity.origin.name() == startup.parameters.get(NAME).map(String::as_str)
        && flavour.eq(identity.flavour.iter().map(|(name, value)| (name, value)))
        && identity.credentials.is_same(credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::auth::Password;
    use crate::wire::startup::Replication;

    fn startup(user: &str, parameters: &[(&str, &str)]) -> Arc<Asked> {
        let startup = Startup {
            minor: 0,
            user: user.to_owned(),
            database: "app".to_owned(),
            parameters: parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            moor: Default::default(),
            replication: Replication::Off,
            extensions: Vec::new(),
        };
        Asked::new(format!("{user} {parameters:?}").as_bytes(), startup)
    }

    #[test]
    fn the_same_is_shared_and_anything_else_is_not() {
        let identities = Identities::default();
        let password = Credentials::Password(Password::new("secret"));
        let named = [("application_name", "moor"), ("datestyle", "ISO")];
        let one = identities.of(&startup("a", &named), password.clone());
        assert_eq!((one.origin.name(), one.flavour.len()), (Some("moor"), 1));
        assert!(Arc::ptr_eq(&one, &identities.of(&startup("a", &named), password.clone())));
        for (user, parameters) in [("b", &named[..]), ("a", &named[..1]), ("a", &named[1..]), ("a", &[])] {
            assert!(!Arc::ptr_eq(&one, &identities.of(&startup(user, parameters), password.clone())));
        }
        // Another password since a reload: those that come now log in with it.
        let renewed = Credentials::Password(Password::new("other"));
        let other = identities.of(&startup("a", &named), renewed.clone());
        assert!(!Arc::ptr_eq(&one, &other));
        assert!(Arc::ptr_eq(&other, &identities.of(&startup("a", &named), renewed)));
    }

    #[test]
    fn little_is_kept_of_those_who_left() {
        let identities = Identities::default();
        let stays = identities.of(&startup("stays", &[]), Credentials::None);
        for number in 0..10_000 {
            identities.of(&startup(&number.to_string(), &[]), Credentials::None);
        }
        assert!(identities.known.lock().by_hash.len() <= 2 * RECENT);
        assert!(Arc::ptr_eq(&stays, &identities.of(&startup("stays", &[]), Credentials::None)));
    }
}
