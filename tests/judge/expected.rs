//! What a session's settings must be, by what its client set and was told: one value, or one of two where an answer was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::history::Told;

/// The settings of one session.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    settings: BTreeMap<String, BTreeSet<String>>,
    /// What a setting was before a set_config, and when that was acknowledged: see [`crate::history::Did::Forgot`].
    before: BTreeMap<String, (BTreeSet<String>, Duration)>,
    forgot: Option<Duration>,
}

impl Expected {
    /// The client set this and was told that.
    pub fn set(&mut self, name: &str, value: &str, told: &Told) {
        self.before.remove(name);
        let values = self.settings.entry(name.to_owned()).or_default();
        match told {
            Told::Done => *values = BTreeSet::from([value.to_owned()]),
            Told::Unknown | Told::Dropped(_) | Told::Stuck | Told::Wrong(_) => drop(values.insert(value.to_owned())),
            Told::Lost | Told::Refused | Told::Conflict => {}
        }
    }

    /// The same by a function, acknowledged at `now`.
    pub fn set_by_function(&mut self, name: &str, value: &str, told: &Told, now: Duration) {
        let before = self.settings.get(name).cloned().unwrap_or_default();
        self.set(name, value, told);
        self.before.insert(name.to_owned(), (before, now));
    }

    /// When that was acknowledged which the last [`Self::compare`] found forgotten, and nothing else.
    pub fn forgot(&mut self) -> Option<Duration> {
        self.forgot.take()
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
        let (mut wrong, mut forgot) = (Vec::new(), None);
        for ((name, values), saw) in self.settings.iter_mut().zip(saw) {
            let saw = saw.clone().unwrap_or_default();
            if !values.contains(&saw) {
                wrong.push(format!("{name} is {saw:?}, not {values:?}"));
                let before = self.before.get(name).filter(|(before, _)| before.contains(&saw));
                forgot = before.map(|(_, since)| *since);
            }
            *values = BTreeSet::from([saw]);
        }
        self.before.clear();
        self.forgot = forgot.filter(|_| wrong.len() == 1);
        wrong
    }
}
