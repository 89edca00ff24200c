//! What one client knows: what it was told of each key and setting, and whether an answer can be true.

use std::collections::{BTreeMap, BTreeSet};

/// What a client may believe of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Acknowledged: there, once.
    There,
    /// Refused, rolled back, or 40001: not there.
    Absent,
    /// 08007, or no answer: there once or not at all.
    Unknown,
}

/// What one client was told.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) keys: BTreeMap<u64, Fate>,
    /// Written in the open transaction.
    pending: Vec<u64>,
    savepoints: Vec<(String, usize, BTreeMap<String, Option<String>>)>,
    /// The settings of this session; `None`: not known.
    settings: BTreeMap<String, Option<String>>,
    /// As they were when the open transaction began.
    before: Option<BTreeMap<String, Option<String>>>,
    local: BTreeSet<String>,
    /// Named statements.
    pub(crate) prepared: BTreeSet<String>,
    /// Commits can be lost with a primary: nothing is certain.
    pub(crate) lax: bool,
}

/// One statement, as far as it matters here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Act {
    Begin,
    Commit,
    Rollback,
    Savepoint(String),
    RollbackTo(String),
    Insert(Vec<u64>),
    /// The client's own rows.
    Own,
    Set {
        name: String,
        value: String,
        local: bool,
    },
    Show(String),
    /// Rows whose number and bytes are known.
    Many(u64),
    Wide(u64),
    /// Anything else that reads.
    Count,
}

/// How a statement was answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Said {
    /// With this tag, and the first column of these rows.
    Done(String, Vec<String>),
    Error(String),
    /// Skipped after an error in the same unit.
    Skipped,
}

impl Ledger {
    /// Of a client that has been told nothing yet.
    pub(crate) fn new(lax: bool) -> Self {
        Self { lax, ..Self::default() }
    }

    /// A new session: its settings are the server's own.
    pub(crate) fn reconnected(&mut self, fate: Fate) {
        self.settle(fate);
        self.settings.clear();
        self.prepared.clear();
    }

    /// The open transaction's rows are now this.
    pub(crate) fn settle(&mut self, fate: Fate) {
        for key in std::mem::take(&mut self.pending) {
            self.keys.insert(key, fate);
        }
        self.savepoints.clear();
        let before = self.before.take();
        self.local.clear();
        match (fate, before) {
            (Fate::There, _) | (_, None) => {}
            (Fate::Absent, Some(before)) => self.settings = before,
            (Fate::Unknown, Some(before)) => {
                for (name, value) in &mut self.settings {
                    if before.get(name).cloned().flatten() != *value {
                        *value = None;
                    }
                }
            }
        }
    }

    pub(crate) fn setting(&self, name: &str) -> Option<String> {
        self.settings.get(name).cloned().unwrap_or_else(|| Some(default_of(name).to_owned()))
    }

    /// Takes the answers of one unit; `status`: what its ReadyForQuery said.
    pub(crate) fn take(&mut self, unit: &[(Act, Said)], status: u8) -> Result<(), String> {
        let failed =
            unit.iter().find_map(|(_, said)| if let Said::Error(code) = said { Some(code.clone()) } else { None });
        let unsure = failed.as_deref() == Some("08007");
        let was_open = self.before.is_some();
        for (act, said) in unit {
            match said {
                Said::Done(tag, rows) => self.done(act, tag, rows, status, failed.is_some())?,
                Said::Error(_) | Said::Skipped => self.refused(act, unsure),
            }
        }
        // An error outside a transaction block undoes the whole unit.
        if status == b'I' && self.before.is_some() {
            self.settle(if unsure {
                Fate::Unknown
            } else if failed.is_some() {
                Fate::Absent
            } else {
                Fate::There
            });
        } else if unsure {
            self.settle(Fate::Unknown);
            if status != b'I' {
                self.open();
            }
        }
        if failed.is_none() && !was_open && status == b'E' {
            return Err("a failed transaction out of nothing".to_owned());
        }
        Ok(())
    }

    fn open(&mut self) {
        if self.before.is_none() {
            self.before = Some(self.settings.clone());
        }
    }

    fn refused(&mut self, act: &Act, unsure: bool) {
        match act {
            Act::Insert(keys) => {
                let fate = if unsure { Fate::Unknown } else { Fate::Absent };
                for key in keys {
                    self.keys.insert(*key, fate);
                }
            }
            Act::Set { name, .. } if unsure => {
                self.settings.insert(name.clone(), None);
            }
            Act::Begin
            | Act::Commit
            | Act::Rollback
            | Act::Savepoint(_)
            | Act::RollbackTo(_)
            | Act::Own
            | Act::Set { .. }
            | Act::Show(_)
            | Act::Many(_)
            | Act::Wide(_)
            | Act::Count => {}
        }
    }

    fn done(&mut self, act: &Act, tag: &str, rows: &[String], _status: u8, _failed: bool) -> Result<(), String> {
        match act {
            Act::Begin => self.open(),
            Act::Commit => self.settle(if tag == "COMMIT" { Fate::There } else { Fate::Absent }),
            Act::Rollback => self.settle(Fate::Absent),
            Act::Savepoint(name) => self.savepoints.push((name.clone(), self.pending.len(), self.settings.clone())),
            Act::RollbackTo(name) => {
                if let Some(at) = self.savepoints.iter().rposition(|(other, ..)| other == name) {
                    self.savepoints.truncate(at + 1);
                    let (_, kept, settings) = self.savepoints[at].clone();
                    for key in self.pending.split_off(kept.min(self.pending.len())) {
                        self.keys.insert(key, Fate::Absent);
                    }
                    self.settings = settings;
                }
            }
            Act::Insert(keys) => {
                self.open();
                self.pending.extend(keys);
            }
            Act::Own => return self.check(rows),
            Act::Set { name, value, local } => {
                self.open();
                if *local {
                    self.local.insert(name.clone());
                } else {
                    self.settings.insert(name.clone(), Some(value.clone()));
                }
            }
            Act::Show(name) => {
                if self.local.contains(name) {
                    return Ok(());
                }
                match self.setting(name) {
                    Some(value) if rows != [value.clone()] => {
                        return Err(format!("{name} is {rows:?}, and was {value:?}"));
                    }
                    Some(_) => {}
                    None => {
                        self.settings.insert(name.clone(), rows.first().cloned());
                    }
                }
            }
            Act::Many(count) => {
                let whole = (0..*count).map(|row| format!("row {row:->60}")).eq(rows.iter().cloned());
                if !whole {
                    return Err(format!("{count} rows were due, {} came, or others", rows.len()));
                }
            }
            Act::Wide(bytes) => {
                if rows.len() != 1 || rows[0] != "w".repeat(*bytes as usize) {
                    return Err(format!("one row of {bytes} bytes was due: {:?}", rows.iter().map(String::len)));
                }
            }
            Act::Count => {}
        }
        Ok(())
    }

    /// Whether the client's own rows can be these.
    fn check(&mut self, rows: &[String]) -> Result<(), String> {
        let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
        for row in rows {
            *seen.entry(row.parse().map_err(|_| format!("not a key: {row:?}"))?).or_insert(0) += 1;
        }
        let wrong = self.judge(&seen);
        // What was seen committed stays so.
        if wrong.is_ok() && !self.lax {
            for key in seen.keys() {
                if self.keys.get(key) == Some(&Fate::Unknown) {
                    self.keys.insert(*key, Fate::There);
                }
            }
        }
        wrong
    }

    /// Whether these rows, with how often each is there, agree with what was told.
    pub(crate) fn judge(&self, seen: &BTreeMap<u64, u32>) -> Result<(), String> {
        for (key, count) in seen {
            let known = self.keys.get(key).copied();
            if *count > 1 {
                return Err(format!("key {key} is there {count} times"));
            }
            if !self.pending.contains(key) && matches!(known, None | Some(Fate::Absent)) {
                return Err(format!("key {key} is there, and was told to be {known:?}"));
            }
        }
        let there = self.keys.iter().filter(|(_, fate)| **fate == Fate::There && !self.lax).map(|(key, _)| key);
        for key in there.chain(&self.pending) {
            if !seen.contains_key(key) {
                return Err(format!("key {key} was acknowledged, and is not there"));
            }
        }
        Ok(())
    }
}

/// What a setting is in a session that never set it.
pub(crate) fn default_of(name: &str) -> &'static str {
    match name {
        "TimeZone" => "UTC",
        "application_name" => "sim",
        _ => "",
    }
}
