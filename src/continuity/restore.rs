//! Bringing a fresh backend to a session's state: one packet of requests, and the reading of their replies.
//!
//! Order matters: settings before anything that is parsed under them, `search_path` above all; the role after the
//! settings, which may need more rights than it has; statements and channels last. Each step is a unit of its own
//! (it ends with a ReadyForQuery), so that one that may fail does not take the others with it.

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::wire::message::write::frontend as write;
use crate::wire::message::{ErrorFields, Parse, ReadyForQuery, Target};
use crate::wire::{TxStatus, backend};

use super::carried::{Prepared, Setting, Transactional};
use super::setup::Setup;
use super::state::State;

/// A statement that never was: to bind it makes PostgreSQL itself hold the transaction aborted.
const LOST: &str = "pgmoor_transaction_lost";

/// A setting that PostgreSQL does not reset.
const SEED: &str = "seed";

/// The name a BEGIN has while it is run.
const BEGIN: &str = "pgmoor_begin";

/// The requests, and what is expected back.
#[derive(Debug)]
pub struct Restore {
    packet: BytesMut,
    steps: VecDeque<Step>,
    error: Option<String>,
    /// It has simple queries: each ends the unnamed statement.
    simple: bool,
}

/// One unit of the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Settings, role, channels: if this fails the session is not what it was.
    Must(&'static str),
    /// A prepared statement: one that cannot be parsed any more fails for the client too, when it uses it.
    May,
    /// Meant to fail: the open transaction is made an aborted one.
    Abort,
}

/// How far the restoring is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More replies are due.
    More,
    /// The backend is in the session's state, with this transaction status.
    Done(TxStatus),
}

impl Restore {
    /// The way from a freshly logged-in backend to `state`. `aborted`: inside a transaction that has failed.
    pub fn new(state: &State, aborted: bool) -> Self {
        Self::between(&Setup::default(), state, aborted, true)
    }

    /// The way from a backend that was set to something else already. `listens`: on this backend, and not elsewhere.
    ///
    /// The requests behind the packet may be sent with it: if a setting cannot be made, they find a failed transaction and are
    /// not run, unless they begin with its end.
    pub fn between(setup: &Setup, state: &State, aborted: bool, listens: bool) -> Self {
        let mut restore = Self { packet: BytesMut::new(), steps: VecDeque::new(), error: None, simple: false };
        let strange = setup.is_strange(state);
        restore.settings(&setup.transactional, state.settled(), strange);
        restore.statements(setup, state);
        if listens {
            restore.channels(&setup.transactional, state);
        }
        if aborted {
            restore.abort();
        }
        restore
    }

    /// It has simple queries, each of which ends the unnamed statement.
    pub fn ends_unnamed(&self) -> bool {
        self.simple
    }

    /// Nothing has to be done.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The bytes to send, once.
    pub fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// Settings and role, in one transaction.
    /// `strange`: there may be more than is known.
    fn settings(&mut self, has: &Transactional, wants: &Transactional, strange: bool) {
        if !strange
            && has.settings == wants.settings
            && has.role == wants.role
            && has.authorization == wants.authorization
        {
            return;
        }
        let mut sql = Vec::from(*b"BEGIN;");
        // Settings are made with the rights of the login.
        if strange || has.authorization.is_some() || has.role.is_some() {
            sql.extend_from_slice(b"RESET SESSION AUTHORIZATION;RESET ROLE;");
        }
        let nothing = Transactional::default();
        let has = if strange { &nothing } else { has };
        if strange {
            sql.extend_from_slice(b"RESET ALL;");
        }
        for name in has.settings.keys().filter(|name| !wants.settings.contains_key(*name)) {
            if name != SEED {
                sql.extend_from_slice(format!("RESET {};", quote(name, '"')).as_bytes());
            }
        }
        let differing = wants.settings.iter().filter(|(name, setting)| has.settings.get(*name) != Some(setting));
        let (path, rest): (Vec<_>, Vec<_>) = differing.partition(|(name, _)| name.as_str() == "search_path");
        for (name, setting) in path.into_iter().chain(rest) {
            append(&mut sql, name, setting);
        }
        if let Some(setting) = &wants.authorization {
            append(&mut sql, "session_authorization", setting);
        }
        if let Some(setting) = &wants.role {
            append(&mut sql, "role", setting);
        }
        sql.extend_from_slice(b"COMMIT");
        self.query(&sql, Step::Must("the session's state"));
    }

    fn statements(&mut self, setup: &Setup, state: &State) {
        let (has, wants) = (&setup.prepared, state.own_named());
        let stale = has.iter().filter(|(name, prepared)| wants.get(*name) != Some(prepared));
        let stale: Vec<&Vec<u8>> = stale.map(|(name, _)| name).collect();
        if !stale.is_empty() {
            stale.iter().for_each(|name| write::close(&mut self.packet, Target::Statement, name));
            write::sync(&mut self.packet);
            self.steps.push_back(Step::Must("the prepared statements"));
        }
        for (_, prepared) in wants.iter().filter(|(name, prepared)| has.get(*name) != Some(prepared)) {
            match prepared {
                Prepared::Shared(..) => {} // when it is used
                Prepared::Protocol(body) => self.parse(body),
                Prepared::Sql(text) => self.query(text, Step::May),
            }
        }
    }

    fn channels(&mut self, has: &Transactional, state: &State) {
        let wants = &state.settled().channels;
        let mut sql = String::new();
        for channel in has.channels.difference(wants) {
            sql.push_str("UNLISTEN ");
            sql.push_str(&quote(channel, '"'));
            sql.push(';');
        }
        for channel in wants.difference(&has.channels) {
            sql.push_str("LISTEN ");
            sql.push_str(&quote(channel, '"'));
            sql.push(';');
        }
        if !sql.is_empty() {
            self.query(sql.as_bytes(), Step::Must("a channel"));
        }
    }

    /// An aborted transaction. By the extended protocol, under names of its own: the unnamed statement stays.
    fn abort(&mut self) {
        write::parse(&mut self.packet, BEGIN, "BEGIN", &[]);
        write::bind(&mut self.packet, "", BEGIN, &[]);
        write::execute(&mut self.packet, "", 0);
        write::close(&mut self.packet, Target::Statement, BEGIN);
        write::sync(&mut self.packet);
        self.steps.push_back(Step::Must("a transaction"));
        write::bind(&mut self.packet, "", LOST, &[]);
        write::sync(&mut self.packet);
        self.steps.push_back(Step::Abort);
    }

    fn query(&mut self, sql: &[u8], step: Step) {
        self.simple = true;
        write::query(&mut self.packet, sql);
        self.steps.push_back(step);
    }

    fn parse(&mut self, body: &[u8]) {
        let Ok(parse) = Parse::read(body) else { return }; // it was read when it was sent
        write::parse_raw(&mut self.packet, parse.name, parse.query, parse.types);
        write::sync(&mut self.packet);
        self.steps.push_back(Step::May);
    }

    /// Takes one reply. ParameterStatus, notices and notifications are the caller's.
    ///
    /// # Errors
    /// What could not be restored, in words for the client.
    pub fn reply(&mut self, tag: u8, body: &[u8]) -> Result<Progress, String> {
        match tag {
            backend::ERROR_RESPONSE => {
                self.error = Some(match ErrorFields::read(body) {
                    Ok(fields) => format!("{} ({})", fields.message, fields.code),
                    Err(error) => error.to_string(),
                });
                Ok(Progress::More)
            }
            backend::READY_FOR_QUERY => {
                let Some(step) = self.steps.pop_front() else { return Err("an answer to nothing".to_owned()) };
                match (step, self.error.take()) {
                    (Step::Must(what), Some(error)) => return Err(format!("{what} could not be restored: {error}")),
                    (Step::Abort, None) => return Err("the lost transaction could not be marked as failed".to_owned()),
                    (Step::Must(_) | Step::May, None) | (Step::May | Step::Abort, Some(_)) => {}
                }
                if !self.steps.is_empty() {
                    return Ok(Progress::More);
                }
                let ready = ReadyForQuery::read(body).map_err(|error| error.to_string())?;
                Ok(Progress::Done(ready.status))
            }
            _ => Ok(Progress::More),
        }
    }
}

fn append(sql: &mut Vec<u8>, name: &str, setting: &Setting) {
    match setting {
        Setting::Statement(text) => {
            sql.extend_from_slice(text);
            sql.push(b'\n'); // a trailing "--" comment must not swallow the next one
        }
        Setting::Value(value) => {
            let (name, value) = (literal(name), literal(value));
            sql.extend_from_slice(format!("SELECT pg_catalog.set_config({name},{value},false)").as_bytes());
        }
    }
    sql.push(b';');
}

/// `text` between quotes of this kind, those inside doubled.
fn quote(text: &str, mark: char) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(mark);
    for letter in text.chars() {
        if letter == mark {
            quoted.push(mark);
        }
        quoted.push(letter);
    }
    quoted.push(mark);
    quoted
}

/// A string literal that means `text` whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    if text.contains('\\') { format!(" E{}", quote(&text.replace('\\', "\\\\"), '\'')) } else { quote(text, '\'') }
}

#[cfg(test)]
mod tests;
