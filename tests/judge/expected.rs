//! What a session's settings must be, by what its client set and was told: one value, or one of two where an answer was lost.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::Told;

/// The settings of one session.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    settings: BTreeMap<String, BTreeSet<String>>,
}

impl Expected {
    /// The client set this and was told that.
    pub fn set(&mut self, name: &str, value: &str, told: &Told) {
        let values = self.settings.entry(name.to_owned()).or_default();
        match told {
            Told::Done => *values = BTreeSet::from([value.to_owned()]),
            Told::Unknown | Told::Dropped(_) | Told::Stuck | Told::Wrong(_) => drop(values.insert(value.to_owned())),
            Told::Lost | Told::Refused | Told::Conflict => {}
        }
    }

    /// The names, in the order in which [`Self::compare`] takes values.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.settings.keys().map(String::as_str)
    }

    /// Looks at what the server says. Of two values that could be, the one that is stays.
    pub fn compare(&mut self, saw: &[Option<String>]) -> Vec<String> {
        if saw.len() != self.settings.len() {
            return vec![format!("{} settings were asked for, and {} came", self.settings.len(), saw.len())];
        }
        let mut wrong = Vec::new();
        for ((name, values), saw) in self.settings.iter_mut().zip(saw) {
            let saw = saw.clone().unwrap_or_default();
            if !values.contains(&saw) {
                wrong.push(format!("{name} is {saw:?}, not {values:?}"));
            }
            *values = BTreeSet::from([saw]);
        }
        wrong
    }
}
