//! Prepared statements as backends have them: one name for each text, whoever prepared it, the one used longest ago makes room.
//!
//! ```text
//!   client: Parse s1 "SELECT …"     backend: Parse pgmoor_<hash of text, types, and what it was parsed under>
//!           Bind s1                          Bind pgmoor_<hash>      (prepared first, where it is not)
//! ```
//! A client's name means what it means to its session alone; what a backend has is nobody's. A text that was sent without a
//! name for the second time is kept in the same way, so that the server need not parse and plan it anew.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use twox_hash::XxHash3_128;

use super::carried::{Setting, Transactional};

/// Texts that were seen once, at most, before a later one is taken for new again.
const SEEN: usize = 4096;

/// What every name begins with, and how many hexadecimal digits follow.
pub const PREFIX: &[u8] = b"pgmoor_";
/// See [`PREFIX`].
pub const DIGITS: usize = 32;

/// Settings under which a text may be parsed to something else (its names, its literals), and its bytes read.
const PARSED_UNDER: [&str; 9] = [
    "array_nulls",
    "backslash_quote",
    "client_encoding",
    "datestyle",
    "intervalstyle",
    "search_path",
    "standard_conforming_strings",
    "timezone",
    "transform_null_equals",
];

/// A text, its parameter types, and what it was parsed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u64; 2]); // no u128, which every place it stands in would be aligned to

impl Key {
    /// Of a Parse message's body behind its name, in a session with these settings.
    pub fn of(text: &[u8], under: &Transactional) -> Self {
        let mut seed = 0;
        for name in PARSED_UNDER {
            if let Some(setting) = under.settings.get(name) {
                let (kind, value) = match setting {
                    Setting::Statement(text) => (1, text.as_slice()),
                    Setting::Value(text) => (2, text.as_bytes()),
                };
                let mixed = XxHash3_128::oneshot_with_seed(seed ^ kind, value);
                seed = XxHash3_128::oneshot_with_seed(mixed as u64, name.as_bytes()) as u64;
            }
        }
        let hash = XxHash3_128::oneshot_with_seed(seed, text);
        Self([(hash >> 64) as u64, hash as u64])
    }

    /// Its name on every backend.
    pub fn name(self) -> [u8; PREFIX.len() + DIGITS] {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut name = [0; PREFIX.len() + DIGITS];
        let (prefix, digits) = name.split_at_mut(PREFIX.len());
        prefix.copy_from_slice(PREFIX);
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0.iter().flat_map(|half| half.to_be_bytes())) {
            pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        name
    }
}

/// What one backend has.
#[derive(Clone, Debug, Default)]
pub struct Plans {
    plans: BTreeMap<Key, Plan>,
    /// Counts uses.
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    used: u64,
    /// It was sent in this unit of requests, and its answer is not here.
    sent_in: Option<u64>,
}

/// Whether a backend has a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Has {
    /// It does, or will when this unit has come so far.
    Yes,
    /// It does not.
    No,
    /// That is not known before an earlier unit is answered.
    Open,
}

impl Plans {
    /// Whether it has this one, for a request of this unit.
    pub fn has(&mut self, key: Key, unit: u64) -> Has {
        self.clock += 1;
        match self.plans.get_mut(&key) {
            None => Has::No,
            Some(Plan { sent_in: Some(sent), .. }) if *sent != unit => Has::Open,
            Some(plan) => {
                plan.used = self.clock;
                Has::Yes
            }
        }
    }

    /// It is being prepared, in this unit. `most`: statements at most; gives back one that has to make room.
    pub fn sent(&mut self, key: Key, unit: u64, most: usize) -> Option<Key> {
        let room = self.plans.len() < most.max(1) || self.plans.contains_key(&key);
        let oldest = || {
            let settled = self.plans.iter().filter(|(_, plan)| plan.sent_in.is_none());
            settled.min_by_key(|(_, plan)| plan.used).map(|(key, _)| *key)
        };
        let evicted = if room { None } else { oldest() };
        if let Some(evicted) = evicted {
            self.plans.remove(&evicted);
        }
        self.plans.insert(key, Plan { used: self.clock, sent_in: Some(unit) });
        evicted
    }

    /// ParseComplete: it is there.
    pub fn arrived(&mut self, key: Key) {
        if let Some(plan) = self.plans.get_mut(&key) {
            plan.sent_in = None;
        }
    }

    /// It is not there after all: its Parse failed, or was skipped behind an error.
    pub fn lost(&mut self, key: Key) {
        self.plans.remove(&key);
    }

    /// All are gone, or of no use: DISCARD ALL, DEALLOCATE ALL, a table that has other columns now.
    pub fn clear(&mut self) {
        self.plans.clear();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.plans.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }
}

/// Texts sent without a name that were seen lately. Bounded: a newer one takes an older one's place.
#[derive(Debug)]
pub struct Seen(Vec<AtomicU64>);

impl Default for Seen {
    fn default() -> Self {
        Self((0..SEEN).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Seen {
    /// Whether this one was seen before; from now on it was.
    pub fn again(&self, key: Key) -> bool {
        let [high, low] = key.0;
        let (mark, place) = (low | 1, high as usize % SEEN);
        self.0[place].swap(mark, Ordering::Relaxed) == mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::of(text.as_bytes(), &Transactional::default())
    }

    #[test]
    fn a_text_is_another_under_another_path() {
        let under = |name: &str, value: &str| {
            let settings = [(name.to_owned(), Setting::Value(value.to_owned()))].into();
            Key::of(b"SELECT * FROM t", &Transactional { settings, ..Transactional::default() })
        };
        assert_eq!(under("work_mem", "7MB"), key("SELECT * FROM t"));
        assert_ne!(under("search_path", "a"), key("SELECT * FROM t"));
        assert_ne!(under("search_path", "a"), under("search_path", "b"));
        assert_ne!(under("search_path", "a"), under("datestyle", "a"));
        let name = key("SELECT 1").name();
        assert!(name.len() <= 63, "PostgreSQL would cut it");
        let [high, low] = key("SELECT 1").0;
        assert_eq!(name.as_slice(), format!("pgmoor_{high:016x}{low:016x}").as_bytes());
    }

    #[test]
    fn what_is_on_its_way_counts_for_its_own_unit_only() {
        let mut plans = Plans::default();
        assert_eq!(plans.has(key("a"), 1), Has::No);
        assert_eq!(plans.sent(key("a"), 1, 9), None);
        assert_eq!((plans.has(key("a"), 1), plans.has(key("a"), 2)), (Has::Yes, Has::Open));
        plans.arrived(key("a"));
        assert_eq!(plans.has(key("a"), 2), Has::Yes);
        plans.lost(key("a"));
        assert_eq!((plans.has(key("a"), 2), plans.is_empty()), (Has::No, true));
    }

    #[test]
    fn the_one_used_longest_ago_makes_room() {
        let mut plans = Plans::default();
        for text in ["a", "b"] {
            assert_eq!(plans.sent(key(text), 1, 2), None);
            plans.arrived(key(text));
        }
        plans.has(key("a"), 1);
        assert_eq!(plans.sent(key("c"), 2, 2), Some(key("b")));
        assert_eq!(plans.sent(key("d"), 2, 2), Some(key("a")), "not one that is on its way");
        assert_eq!(plans.sent(key("e"), 2, 2), None, "nothing can make room: the bound gives way");
        assert_eq!(plans.sent(key("e"), 2, 2), None, "it has its place already");
        assert_eq!(plans.len(), 3);
    }

    #[test]
    fn the_second_time_is_again() {
        let seen = Seen::default();
        assert!(!seen.again(key("a")) && seen.again(key("a")) && !seen.again(key("b")) && seen.again(key("a")));
    }
}
