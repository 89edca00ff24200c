//! What is carried from one backend to the next, as values: settings, role, channels, prepared statements; and their weight.

use std::collections::{BTreeMap, BTreeSet};

use super::plans::Key;

/// The part that a rollback takes back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transactional {
    /// Settings by name, as PostgreSQL folds names.
    pub settings: BTreeMap<String, Setting>,
    /// The role in force, if it was changed.
    pub role: Option<Setting>,
    /// The session authorization in force, if it was changed.
    pub authorization: Option<Setting>,
    /// Channels listened to.
    pub channels: BTreeSet<String>,
}

/// How one setting is made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// By the client's own statement, word for word.
    Statement(Vec<u8>),
    /// By its canonical value, as the server told it.
    Value(String),
}

/// A named prepared statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// By a Parse message: its body, as the client sent it, and what it is on every backend.
    Shared(Vec<u8>, Key),
    /// By a Parse message: its body; backends have it under the client's own name.
    Protocol(Vec<u8>),
    /// By SQL `PREPARE`: its text.
    Sql(Vec<u8>),
}

impl Transactional {
    /// Bytes it takes to remember.
    pub(super) fn weight(&self) -> usize {
        let settings: usize = self.settings.iter().map(|(name, setting)| name.len() + setting.weight()).sum();
        let who = [&self.role, &self.authorization].into_iter().flatten().map(Setting::weight).sum::<usize>();
        settings + who + self.channels.iter().map(String::len).sum::<usize>()
    }
}

impl Setting {
    /// Bytes it takes to remember.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Statement(text) => text.len(),
            Self::Value(text) => text.len(),
        }
    }
}

impl Prepared {
    /// Bytes it takes to remember.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Shared(body, _) | Self::Protocol(body) => body.len(),
            Self::Sql(text) => text.len(),
        }
    }
}

/// What SET SESSION CHARACTERISTICS AS TRANSACTION sets.
pub(super) fn characteristics(text: &[u8]) -> Vec<(&'static str, &'static str)> {
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    let words: Vec<&str> =
        text.split(|letter: char| !letter.is_ascii_alphabetic()).filter(|word| !word.is_empty()).collect();
    let Some(at) = words.iter().position(|word| *word == "transaction") else { return Vec::new() };
    let mut set = Vec::new();
    let mut words = &words[at + 1..];
    while !words.is_empty() {
        let (count, name, value) = match words {
            ["isolation", "level", "serializable", ..] => (3, "default_transaction_isolation", "serializable"),
            ["isolation", "level", "repeatable", "read", ..] => (4, "default_transaction_isolation", "repeatable read"),
            ["isolation", "level", "read", "committed", ..] => (4, "default_transaction_isolation", "read committed"),
            ["isolation", "level", "read", "uncommitted", ..] => {
                (4, "default_transaction_isolation", "read uncommitted")
            }
            ["read", "only", ..] => (2, "default_transaction_read_only", "on"),
            ["read", "write", ..] => (2, "default_transaction_read_only", "off"),
            ["not", "deferrable", ..] => (2, "default_transaction_deferrable", "off"),
            ["deferrable", ..] => (1, "default_transaction_deferrable", "on"),
            _ => return Vec::new(), // a comment between the words: ask
        };
        set.push((name, value));
        words = &words[count..];
    }
    set
}
