//! Asking a backend, at an idle boundary, what its session has built up: also what was set inside functions.
//!
//! The question goes by the extended protocol under a name of its own, so that the client's unnamed statement and its
//! portals are not touched, and nothing is left behind.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;

use crate::wire::message::write::frontend as write;
use crate::wire::message::{DataRow, ReadyForQuery, Target};
use crate::wire::{TxStatus, backend};

use super::carried::{Setting, Transactional};
use super::guard;
use super::pins::{Pin, Pins};
use super::restore::literal;
use super::state::State;

/// The name of the prepared statement and of the portal, while the question is asked.
const NAME: &str = "pgmoor_ask";

/// One row for each thing the session has: its kind, its name, its value.
const QUESTION: &str = "\
SELECT 's', name, setting FROM pg_catalog.pg_settings WHERE source = 'session' \
AND name NOT IN ('transaction_deferrable', 'transaction_isolation', 'transaction_read_only') \
UNION ALL SELECT 'r', pg_catalog.current_setting('role'), NULL \
UNION ALL SELECT 'u', session_user::pg_catalog.text, NULL \
UNION ALL SELECT 'l', c, NULL FROM pg_catalog.pg_listening_channels() AS c \
UNION ALL SELECT 'p', name, statement FROM pg_catalog.pg_prepared_statements \
UNION ALL SELECT 'c', name, NULL FROM pg_catalog.pg_cursors WHERE is_holdable \
UNION ALL SELECT 'a', NULL, NULL FROM pg_catalog.pg_locks \
WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid() AND granted \
UNION ALL SELECT 't', NULL, NULL FROM pg_catalog.pg_class \
WHERE relnamespace = pg_catalog.pg_my_temp_schema() \
UNION ALL SELECT 't', NULL, NULL FROM pg_catalog.pg_type WHERE typnamespace = pg_catalog.pg_my_temp_schema() \
UNION ALL SELECT 't', NULL, NULL FROM pg_catalog.pg_proc WHERE pronamespace = pg_catalog.pg_my_temp_schema()";

/// The reading of the answer.
#[derive(Debug)]
pub struct Ask {
    login: String,
    truth: Transactional,
    statements: BTreeMap<String, String>,
    pins: Pins,
    failed: bool,
}

/// How far the asking is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// More replies are due.
    More,
    /// The state has learned the truth.
    Learned,
    /// The backend answered with an error: what the wire told has to do.
    Failed,
}

impl Ask {
    /// A question for a session whose login user is `login`.
    pub fn new(login: &str) -> Self {
        Self {
            login: login.to_owned(),
            truth: Transactional::default(),
            statements: BTreeMap::new(),
            pins: Pins::default(),
            failed: false,
        }
    }

    /// The bytes to send. Settings that no extension has declared (`my.name`) do not stand in `pg_settings`: those that
    /// `state` knows or suspects are asked for one by one.
    pub fn packet(state: &State) -> BytesMut {
        let mut question = QUESTION.to_owned();
        let known = state.settled().settings.keys().map(String::as_str);
        let names: BTreeSet<&str> = known.chain(state.suspected()).filter(|name| is_custom(name)).collect();
        for name in names.into_iter().map(literal) {
            question.push_str(&format!(" UNION ALL SELECT 's', {name}, pg_catalog.current_setting({name}, true)"));
        }
        let mut packet = BytesMut::new();
        write::parse(&mut packet, NAME, &question, &[]);
        write::bind(&mut packet, NAME, NAME, &[]);
        write::execute(&mut packet, NAME, 0);
        write::close(&mut packet, Target::Portal, NAME);
        write::close(&mut packet, Target::Statement, NAME);
        write::sync(&mut packet);
        packet
    }

    /// Takes one reply; tells `state` when all are there.
    pub fn reply(&mut self, tag: u8, body: &[u8], state: &mut State) -> Asked {
        match tag {
            backend::DATA_ROW => self.row(body),
            backend::ERROR_RESPONSE => self.failed = true,
            backend::READY_FOR_QUERY => {
                let idle = ReadyForQuery::read(body).is_ok_and(|ready| ready.status == TxStatus::Idle);
                if self.failed || !idle {
                    return Asked::Failed;
                }
                state.learn(std::mem::take(&mut self.truth), std::mem::take(&mut self.statements), self.pins);
                return Asked::Learned;
            }
            _ => {}
        }
        Asked::More
    }

    fn row(&mut self, body: &[u8]) {
        let Ok(row) = DataRow::read(body) else {
            self.failed = true;
            return;
        };
        let text = |column| row.text(column).unwrap_or_default().to_owned();
        let (kind, name, value) = (text(0), text(1), text(2));
        match kind.as_str() {
            "s" if row.columns().nth(2).is_some_and(|value| matches!(value, Ok(None))) => {} // reset meanwhile
            "s" => {
                self.truth.settings.insert(name.to_ascii_lowercase(), Setting::Value(value));
            }
            "r" if name != "none" => self.truth.role = Some(Setting::Value(name)),
            "u" if name != self.login => self.truth.authorization = Some(Setting::Value(name)),
            "l" => {
                self.truth.channels.insert(name);
            }
            "p" if name != NAME && name.as_bytes() != guard::NAME => {
                self.statements.insert(name, value);
            }
            "c" => self.pins.insert(Pin::HeldCursor),
            "a" => self.pins.insert(Pin::AdvisoryLock),
            "t" => self.pins.insert(Pin::TempObject),
            _ => {}
        }
    }
}

/// A setting's name with a dot in it: declared by an extension, or by nobody.
fn is_custom(name: &str) -> bool {
    name.contains('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'$') || byte >= 0x80)
}

#[cfg(test)]
mod tests;
