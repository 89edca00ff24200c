//! Startup packets of clients that were let in lately: the same bytes ask for the same, and most likely come from the same, so
//! nothing of them has to be read again.
//!
//! It holds what was read, never whether somebody may come in: that is found out each time.

use std::borrow::Borrow;
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::auth::Credentials;
use crate::backend::Identity;
use crate::wire::startup::Startup;

/// Packets that are remembered.
const RECENT: usize = 256;

/// Bytes of one that is worth it; drivers send about a hundred.
const LONGEST: usize = 512;

/// One packet, and what it asks for.
#[derive(Debug)]
pub(super) struct Asked {
    bytes: Box<[u8]>,
    pub(super) startup: Startup,
    /// Who it came from last.
    from: Mutex<Weak<Identity>>,
}

/// The packets that came last.
#[derive(Debug, Default)]
pub(super) struct Packets(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_bytes: HashSet<ByBytes, foldhash::fast::RandomState>,
    /// The same, the oldest first.
    in_turn: VecDeque<Arc<Asked>>,
}

/// A packet, to be found by its bytes.
#[derive(Debug)]
struct ByBytes(Arc<Asked>);

impl Asked {
    /// `bytes`: the packet that was read.
    pub(super) fn new(bytes: &[u8], startup: Startup) -> Arc<Self> {
        Arc::new(Self { bytes: bytes.into(), startup, from: Mutex::default() })
    }

    /// Bytes of the packet.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Who it came from last, if whoever sends it now has proven himself with the same.
    pub(super) fn from(&self, credentials: &Credentials) -> Option<Arc<Identity>> {
        self.from.lock().upgrade().filter(|identity| identity.credentials.is_same(credentials))
    }
}

impl Packets {
    /// The packet that stands at the front of `input`, if it is known.
    pub(super) fn recall(&self, input: &[u8]) -> Option<Arc<Asked>> {
        let length = u32::from_be_bytes(*input.first_chunk()?) as usize;
        let packet = input.get(..length)?;
        self.0.lock().by_bytes.get(packet).map(|ByBytes(asked)| Arc::clone(asked))
    }

    /// Whoever sent it was let in, and is this.
    pub(super) fn remember(&self, asked: &Arc<Asked>, identity: &Arc<Identity>) {
        *asked.from.lock() = Arc::downgrade(identity);
        if asked.len() > LONGEST {
            return;
        }
        let mut known = self.0.lock();
        if !known.by_bytes.insert(ByBytes(Arc::clone(asked))) {
            return;
        }
        known.in_turn.push_back(Arc::clone(asked));
        if known.in_turn.len() > RECENT
            && let Some(oldest) = known.in_turn.pop_front()
        {
            known.by_bytes.remove(&*oldest.bytes);
        }
    }
}

impl Borrow<[u8]> for ByBytes {
    fn borrow(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Hash for ByBytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.bytes.hash(state);
    }
}

impl PartialEq for ByBytes {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for ByBytes {}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::session::identities::Identities;
    use crate::wire::startup::{self, Packet};

    fn packet(user: &str) -> Vec<u8> {
        let body = format!("user\0{user}\0\0");
        let mut packet = (8 + body.len() as u32).to_be_bytes().to_vec();
        packet.extend_from_slice(&[0, 3, 0, 0]);
        packet.extend_from_slice(body.as_bytes());
        packet
    }

    fn asked(bytes: &[u8]) -> Arc<Asked> {
        let Ok(Some((Packet::Startup(startup), count))) = startup::parse(bytes) else { panic!("no startup packet") };
        Asked::new(&bytes[..count], startup)
    }

    #[test]
    fn a_packet_is_known_once_its_sender_was_let_in_and_only_when_all_of_it_is_there() {
        let identities = Identities::default();
        let packets = Packets::default();
        let mut bytes = packet("a");
        let first = asked(&bytes);
        assert!(packets.recall(&bytes).is_none());
        packets.remember(&first, &identities.of(&first, Credentials::None));
        for cut in 0..bytes.len() {
            assert!(packets.recall(&bytes[..cut]).is_none(), "{cut} bytes of it");
        }
        bytes.extend_from_slice(b"Q\0\0\0");
        assert!(Arc::ptr_eq(&packets.recall(&bytes).unwrap(), &first), "with something behind it");
        assert!(packets.recall(&packet("b")).is_none());
        bytes[3] += 1;
        assert!(packets.recall(&bytes).is_none(), "another length");
    }

    #[test]
    fn who_proves_himself_otherwise_is_somebody_else() {
        use crate::auth::Password;
        let identities = Identities::default();
        let packets = Packets::default();
        let (bytes, password) = (packet("a"), Credentials::Password(Password::new("secret")));
        let first = asked(&bytes);
        let before = identities.of(&first, password.clone());
        packets.remember(&first, &before);
        let again = packets.recall(&bytes).unwrap();
        assert!(Arc::ptr_eq(&again.from(&password).unwrap(), &before));
        assert!(again.from(&Credentials::Password(Password::new("other"))).is_none());
    }

    #[test]
    fn few_are_kept_and_none_that_is_long() {
        let identities = Identities::default();
        let packets = Packets::default();
        for number in 0..3 * RECENT {
            let asked = asked(&packet(&number.to_string()));
            packets.remember(&asked, &identities.of(&asked, Credentials::None));
            packets.remember(&asked, &identities.of(&asked, Credentials::None));
        }
        let known = packets.0.lock();
        assert_eq!((known.by_bytes.len(), known.in_turn.len()), (RECENT, RECENT));
        drop(known);
        assert!(packets.recall(&packet("0")).is_none());
        assert!(packets.recall(&packet(&(3 * RECENT - 1).to_string())).is_some());
        let long = packet(&"x".repeat(LONGEST));
        let asked = asked(&long);
        packets.remember(&asked, &identities.of(&asked, Credentials::None));
        assert!(packets.recall(&long).is_none());
    }
}
