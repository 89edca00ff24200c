//! What a session learns of itself beyond its statements' texts: from the server's answer to a question, from a row, from hints.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::continuity::carried::{Prepared, Setting, Transactional};
use crate::continuity::pins::{Pin, Pins};
use crate::continuity::script::Act;
use crate::wire::message::{DataRow, Parse};
use crate::wire::sql::{self, Column, Verb};

use super::{OF_A_TRANSACTION, State, is_own};

impl State {
    /// The backend was asked: its answer is the truth.
    pub fn learn(&mut self, mut truth: Transactional, statements: BTreeMap<String, String>, pins: Pins) {
        self.doubt = false;
        self.suspected = None;
        if self.hears {
            truth.channels.extend(self.settled().channels.iter().cloned());
        }
        self.now = Arc::new(truth);
        self.unmark();
        // A name that is not UTF-8 cannot have been told: it is taken to be there.
        let told = |name: &[u8]| std::str::from_utf8(name).map_or(true, |name| statements.contains_key(name));
        // A shared one has another name there, and comes back when it is used.
        let lost = |(name, prepared): &(&Vec<u8>, &Prepared)| is_own(prepared) && !told(name);
        let gone: Vec<Vec<u8>> = self.prepared.iter().filter(lost).map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.forget(&name);
        }
        for (name, text) in statements {
            // Protocol-level ones are known from the wire. Of SQL the server shows the whole text that a PREPARE was part of.
            let is_it = |verb: Verb| matches!(verb, Verb::Prepare { name: other } if other == name);
            if !self.prepared.contains_key(name.as_bytes())
                && let Some(statement) =
                    sql::statements(text.as_bytes()).filter(|statement| is_it(statement.verb())).last()
            {
                self.remember(name.as_bytes(), Prepared::Sql(statement.text().to_vec()));
            }
        }
        self.pins = self.pins.corrected(pins);
        self.checkpoint();
    }

    pub(super) fn hinted(&mut self, act: &Act) {
        if act.hints.advisory_lock {
            self.pins.insert(Pin::AdvisoryLock);
        }
        if act.hints.into_temp {
            self.pins.insert(Pin::TempObject);
        }
        self.suspect(&act.configured);
        self.doubt = true;
    }

    fn suspect(&mut self, names: &[String]) {
        for name in names.iter().filter(|name| name.contains('.')) {
            let weight: usize = self.suspected().map(str::len).sum();
            if weight + name.len() > self.limit {
                self.overflow();
                return;
            }
            self.suspected.get_or_insert_default().insert(name.clone());
        }
    }

    /// A statement that only sets settings completed, with this row: its columns tell their values.
    pub fn told(&mut self, columns: &[Column], row: Option<DataRow<'_>>) {
        for (at, column) in columns.iter().enumerate() {
            let Column::Session(name) = column else { continue };
            let Some(value) = row.as_ref().and_then(|row| row.text(at)) else {
                self.suspect(std::slice::from_ref(name));
                self.doubt = true; // NULL, or in an encoding of its own
                continue;
            };
            let set = Setting::Value(value.to_owned());
            match name.as_str() {
                name if OF_A_TRANSACTION.contains(&name) => {}
                "role" => self.change(|now| now.role = (value != "none").then_some(set)),
                "session_authorization" => self.change(|now| {
                    now.authorization = Some(set);
                    now.role = None;
                }),
                name => self.change(|now| {
                    now.settings.insert(name.to_owned(), set);
                }),
            }
        }
    }

    /// A prepared statement ran by SQL `EXECUTE`: calls in its text may have changed the session.
    pub(super) fn executed(&mut self, name: &[u8]) {
        let text = match self.prepared.get(name) {
            Some(Prepared::Sql(text)) => text.clone(),
            Some(Prepared::Shared(body, _) | Prepared::Protocol(body)) => match Parse::read(body) {
                Ok(parse) => {
                    self.doubt |= !sql::glance(parse.query);
                    parse.query.to_vec()
                }
                Err(_) => return self.ran_unseen(),
            },
            None => return self.ran_unseen(),
        };
        for statement in sql::statements(&text) {
            self.touched |= statement.calls_strangers();
            if !statement.hints().is_empty() {
                self.doubt = true;
                self.suspect(&statement.configured());
            }
        }
    }
}

impl State {
    pub(super) fn remember(&mut self, name: &[u8], prepared: Prepared) {
        self.forget(name);
        let weight = name.len() + prepared.weight();
        if self.weight + weight > self.limit {
            return self.overflow();
        }
        self.weight += weight;
        self.own += usize::from(is_own(&prepared));
        Arc::make_mut(&mut self.prepared).insert(name.to_vec(), prepared);
        self.undo.note(name, None, self.limit);
    }
}
