//! What a session has built up on its backend, as learned from the wire: settings, role, prepared statements, channels, pins.
//!
//! Settings, role and LISTEN follow the transaction (a rolled-back SET never was); prepared statements and pins do not.
//! ```text
//!            BEGIN                SAVEPOINT s
//!   now ───────────► mark(base) ─────────────► mark(s) …      ROLLBACK TO s: now = mark(s)
//!    ▲                  │  COMMIT: marks dropped                ROLLBACK:      now = mark(base)
//!    └──────────────────┘
//! ```
//! Outside a transaction block, statements sent together are one implicit transaction: its base mark is taken at the
//! first statement that changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::wire::TxStatus;
use crate::wire::message::Parse;
use crate::wire::sql::{Discard, Scope, Setting as Value, Verb};

use super::carried::{Prepared, Setting, Transactional, characteristics};
use super::names::clip;
use super::pins::{Pin, Pins};
use super::plans::Key;
use super::script::Act;
use super::undo::Undo;

mod learned;
mod left;

/// Settings that end with the transaction they are set in, whatever the scope of the SET.
const OF_A_TRANSACTION: [&str; 3] = ["transaction_deferrable", "transaction_isolation", "transaction_read_only"];

/// Open savepoints at most; beyond, the session is pinned.
const MOST_MARKS: usize = 4096;

/// How many times its limit a session's open savepoints may remember.
const MOST_COPIES: usize = 4;

/// Everything that would have to be carried to another backend.
#[derive(Clone, Debug)]
pub struct State {
    now: Arc<Transactional>,
    marks: Vec<Mark>,
    prepared: Arc<BTreeMap<Vec<u8>, Prepared>>,
    /// Since there has been one.
    unnamed: Option<Box<Unnamed>>,
    pins: Pins,
    doubt: bool,
    /// Settings with a dot in their name that a function may have set: the server shows them to those who ask by name.
    #[expect(clippy::box_collection, reason = "hardly any session has one: two words less")]
    suspected: Option<Box<BTreeSet<String>>>,
    /// Inside BEGIN … COMMIT, where an error undoes nothing by itself.
    in_block: bool,
    /// That block has failed: when it is left without a word, everything in it is undone.
    broken: bool,
    /// DISCARD TEMP ran, and is not committed.
    discarding: bool,
    /// Bytes of marks that differ from what they were made of.
    copies: usize,
    weight: usize,
    limit: usize,
    /// What changed since the last idle boundary, and would not be rolled back.
    undo: Undo,
    /// What it began with: what RESET goes back to.
    origin: Arc<Origin>,
    /// The backend's own is the empty one of its login, by a RESET.
    nameless: bool,
    /// A function that is not PostgreSQL's own was called on the backend there is now: it may have set anything.
    touched: bool,
    /// The session's number.
    owner: u64,
    /// It listens elsewhere than on its backend.
    hears: bool,
    /// Prepared statements that backends have under the client's own names.
    own: usize,
}

/// What sessions begin with: the same for all whose clients call themselves the same, who share it.
#[derive(Debug, Default)]
pub struct Origin {
    /// `application_name` as the client gave it at its login. Backends are logged in without one.
    name: Option<String>,
    fresh: Arc<Transactional>,
    /// No prepared statements.
    nothing: Arc<BTreeMap<Vec<u8>, Prepared>>,
}

impl Origin {
    /// Of clients that call themselves so.
    pub fn called(name: Option<&str>) -> Self {
        let mut fresh = Transactional::default();
        give_name(name, &mut fresh);
        Self { name: name.map(str::to_owned), fresh: Arc::new(fresh), nothing: Arc::default() }
    }

    /// What they call themselves.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

#[derive(Clone, Debug)]
struct Mark {
    savepoint: Option<String>,
    before: Arc<Transactional>,
}

/// The unnamed statement: one buffer, used again and again.
#[derive(Clone, Debug, Default)]
struct Unnamed {
    body: Vec<u8>,
    alive: bool,
    /// What it is on every backend, if it is shared.
    key: Option<Key>,
    /// Its text was read, and means nothing.
    dull: bool,
}

impl State {
    /// A fresh session of a client without a name. `limit`: bytes remembered at most; beyond, the session is pinned.
    pub fn new(limit: usize) -> Self {
        Self::begin(limit, Arc::default())
    }

    /// A fresh session.
    pub fn begin(limit: usize, origin: Arc<Origin>) -> Self {
        Self {
            now: Arc::clone(&origin.fresh),
            marks: Vec::new(),
            prepared: Arc::clone(&origin.nothing),
            unnamed: None,
            pins: Pins::default(),
            doubt: false,
            suspected: None,
            in_block: false,
            broken: false,
            discarding: false,
            copies: 0,
            weight: 0,
            limit,
            undo: Undo::default(),
            origin,
            nameless: false,
            touched: false,
            owner: 0,
            hears: false,
            own: 0,
        }
    }

    /// Nothing was set since it began.
    pub fn is_pristine(&self) -> bool {
        self.marks.is_empty() && !self.touched && !self.doubt && self.now == self.origin.fresh
    }

    /// The session of this number; `elsewhere`: it listens elsewhere than on its backend.
    #[must_use]
    pub fn of(mut self, owner: u64, elsewhere: bool) -> Self {
        self.owner = owner;
        self.hears = elsewhere;
        self
    }

    /// What a prepared statement's name stands for; with the empty name, see [`Self::unnamed`].
    pub fn named(&self, name: &[u8]) -> Option<&Prepared> {
        self.prepared.get(clip(name))
    }

    /// SQL is about to use the name of a shared statement: from now on backends have it under that name.
    pub fn make_own(&mut self, name: &[u8]) {
        let body = match self.prepared.get(clip(name)) {
            Some(Prepared::Shared(body, _)) => body.clone(),
            Some(Prepared::Protocol(_) | Prepared::Sql(_)) | None => return,
        };
        self.remember(clip(name), Prepared::Protocol(body));
    }

    /// Settings, role and channels: those that stand once the open transaction, if any, is rolled back.
    pub fn settled(&self) -> &Transactional {
        self.marks.first().map_or(&self.now, |mark| &mark.before)
    }

    /// Named prepared statements.
    pub fn prepared(&self) -> &BTreeMap<Vec<u8>, Prepared> {
        &self.prepared
    }

    /// The Parse body of the unnamed statement, while it lives.
    pub fn unnamed(&self) -> Option<&[u8]> {
        self.living().map(|unnamed| unnamed.body.as_slice())
    }

    /// What the unnamed statement is on every backend, if it is shared.
    pub fn unnamed_key(&self) -> Option<Key> {
        self.living()?.key
    }

    /// This Parse body is the one that came last without a name, and its text meant nothing.
    pub fn is_dull_again(&self, body: &[u8]) -> bool {
        self.unnamed.as_ref().is_some_and(|unnamed| unnamed.dull && unnamed.body == body)
    }

    fn living(&self) -> Option<&Unnamed> {
        self.unnamed.as_deref().filter(|unnamed| unnamed.alive)
    }

    /// The SQL text of a prepared statement; with the empty name, of the unnamed one.
    pub fn text_of(&self, name: &[u8]) -> Option<Vec<u8>> {
        let of_parse = |body: &[u8]| Some(Parse::read(body).ok()?.query.to_vec());
        if name.is_empty() {
            return self.unnamed().and_then(of_parse);
        }
        match self.prepared.get(clip(name))? {
            Prepared::Shared(body, _) | Prepared::Protocol(body) => of_parse(body),
            Prepared::Sql(text) => Some(text.clone()),
        }
    }

    /// What ties the session to its backend.
    pub fn pins(&self) -> Pins {
        self.pins
    }

    /// Whether the session listens: then it wants a backend even while idle.
    pub fn listens(&self) -> bool {
        !self.settled().channels.is_empty()
    }

    /// Something ran whose effect cannot be read off the wire: the backend should be asked at the next idle boundary.
    pub fn in_doubt(&self) -> bool {
        self.doubt
    }

    /// Settings to be asked for by name, besides those that are known to be set.
    pub fn suspected(&self) -> impl Iterator<Item = &str> {
        self.suspected.iter().flat_map(|names| names.iter()).map(String::as_str)
    }

    /// The backend could not be asked: what the wire told has to do.
    pub fn give_up_doubt(&mut self) {
        self.doubt = false;
    }

    /// Bytes remembered at most.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// ParseComplete for the unnamed statement; `None`: its body is too large to carry. `dull`: its text means nothing. Gives
    /// back the old body, for reuse.
    pub fn unnamed_parsed(&mut self, body: Option<Vec<u8>>, key: Option<Key>, dull: bool) -> Vec<u8> {
        let unnamed = self.unnamed.get_or_insert_default();
        (unnamed.alive, unnamed.key, unnamed.dull) = (body.is_some(), key, dull && body.is_some());
        let before = std::mem::replace(&mut unnamed.body, body.unwrap_or_default());
        self.undo.note_unnamed(before)
    }

    /// A simple query, or an error in Parse, ends the unnamed statement.
    pub fn unnamed_gone(&mut self) {
        if let Some(unnamed) = &mut self.unnamed {
            unnamed.alive = false;
        }
    }

    /// ParseComplete for a named statement.
    pub fn parsed(&mut self, name: &[u8], body: Vec<u8>, key: Option<Key>) {
        self.remember(
            clip(name),
            match key {
                Some(key) => Prepared::Shared(body, key),
                None => Prepared::Protocol(body),
            },
        );
    }

    /// CloseComplete for a statement.
    pub fn closed(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed_gone();
        } else {
            self.forget(clip(name));
        }
    }

    /// The state can no longer be remembered whole.
    pub fn overflow(&mut self) {
        self.pins.insert(Pin::StateTooLarge);
    }

    /// A statement completed. `tag` is the server's command tag: it, not the text, says what happened.
    pub fn completed(&mut self, act: &Act, tag: &[u8]) {
        if !act.hints.is_empty() {
            self.hinted(act);
        }
        self.touched |= act.strange;
        match &act.verb {
            Verb::Begin => self.open_block(),
            Verb::Commit { chain } => self.end(*chain, tag == b"ROLLBACK"),
            Verb::PrepareTransaction => self.end(false, tag == b"ROLLBACK"),
            Verb::Rollback { chain } => self.end(*chain, true),
            Verb::Savepoint { name } => self.mark(Some(name.clone())),
            Verb::Release { name } => self.release(name),
            Verb::RollbackTo { savepoint } => self.roll_back_to(savepoint),
            Verb::Discard(what) => self.discard(*what),
            Verb::Prepare { name } => self.remember(name.as_bytes(), Prepared::Sql(act.text.clone())),
            Verb::Deallocate { name: Some(name) } => self.forget(name.as_bytes()),
            Verb::Deallocate { name: None } => self.forget_all(),
            Verb::Execute { name } => self.executed(name.as_bytes()),
            Verb::DeclareCursor { hold: true, .. } => self.pins.insert(Pin::HeldCursor),
            Verb::CreateTemp => {
                self.discarding = false;
                self.pins.insert(Pin::TempObject);
            }
            Verb::Load => self.pins.insert(Pin::Load),
            Verb::CloseCursor { .. } => self.doubt |= self.pins.has(Pin::HeldCursor),
            Verb::Drop => self.doubt |= self.pins.has(Pin::TempObject),
            Verb::Do | Verb::Call => self.doubt = true,
            Verb::Set { .. }
            | Verb::SetRole { .. }
            | Verb::SetSessionAuthorization { .. }
            | Verb::SetCharacteristics
            | Verb::Reset { .. }
            | Verb::ResetAll
            | Verb::Listen { .. }
            | Verb::Unlisten { .. } => self.set(act),
            Verb::SetTransaction
            | Verb::FinishPrepared
            | Verb::DeclareCursor { hold: false, .. }
            | Verb::Fetch
            | Verb::CopyIn
            | Verb::CopyOut
            | Verb::Read
            | Verb::Write
            | Verb::Empty => {}
        }
    }

    /// A statement that changes what a rollback takes back.
    fn set(&mut self, act: &Act) {
        let again = || Setting::Statement(act.text.clone());
        match &act.verb {
            Verb::Set { scope: Scope::Session, name, .. } if OF_A_TRANSACTION.contains(&name.as_str()) => {}
            Verb::Set { scope: Scope::Session, name, value: Value::Default } | Verb::Reset { name } => {
                self.reset(name);
            }
            Verb::Set { scope: Scope::Session, name, value: Value::Values(_) | Value::Raw(_) } => self.change(|now| {
                now.settings.insert(name.clone(), again());
            }),
            Verb::SetRole { scope: Scope::Session, role } => {
                self.change(|now| now.role = role.as_ref().map(|_| again()))
            }
            Verb::SetSessionAuthorization { scope: Scope::Session, user } => self.change(|now| {
                now.authorization = user.as_ref().map(|_| again());
                now.role = None;
            }),
            Verb::SetCharacteristics => {
                let set = characteristics(&act.text);
                self.doubt |= set.is_empty();
                self.change(|now| {
                    for (name, value) in set {
                        now.settings.insert(name.to_owned(), Setting::Value(value.to_owned()));
                    }
                });
            }
            Verb::ResetAll => self.reset_all(),
            Verb::Listen { channel } => self.change(|now| {
                now.channels.insert(channel.clone());
            }),
            Verb::Unlisten { channel: Some(channel) } => self.change(|now| {
                now.channels.remove(channel);
            }),
            Verb::Unlisten { channel: None } => self.change(|now| now.channels.clear()),
            // For this transaction only, or not handed here.
            Verb::Set { scope: Scope::Local, .. }
            | Verb::SetRole { scope: Scope::Local, .. }
            | Verb::SetSessionAuthorization { scope: Scope::Local, .. }
            | Verb::SetTransaction
            | Verb::Begin
            | Verb::Commit { .. }
            | Verb::Rollback { .. }
            | Verb::RollbackTo { .. }
            | Verb::Savepoint { .. }
            | Verb::Release { .. }
            | Verb::PrepareTransaction
            | Verb::FinishPrepared
            | Verb::Discard(_)
            | Verb::Prepare { .. }
            | Verb::Deallocate { .. }
            | Verb::Execute { .. }
            | Verb::DeclareCursor { .. }
            | Verb::Fetch
            | Verb::CloseCursor { .. }
            | Verb::Load
            | Verb::CreateTemp
            | Verb::Drop
            | Verb::CopyIn
            | Verb::CopyOut
            | Verb::Read
            | Verb::Call
            | Verb::Do
            | Verb::Write
            | Verb::Empty => {}
        }
    }

    /// The client's own name is what its login said.
    fn reset(&mut self, name: &str) {
        let origin = Arc::clone(&self.origin);
        let own = origin.name().filter(|_| name == NAME);
        self.nameless |= own.is_some();
        self.change(|now| {
            now.settings.remove(name);
            give_name(own, now);
        });
    }

    fn reset_all(&mut self) {
        let origin = Arc::clone(&self.origin);
        self.nameless |= origin.name.is_some();
        self.change(|now| {
            now.settings.clear();
            give_name(origin.name(), now);
        });
    }

    /// More of a text ran than was seen.
    pub fn ran_unseen(&mut self) {
        (self.doubt, self.touched) = (true, true);
    }

    /// A function was called by its number: nothing is known of it.
    pub fn called(&mut self) {
        self.touched = true;
    }

    /// An error: what the implicit transaction did so far is undone; an explicit one waits for its ROLLBACK.
    pub fn failed(&mut self) {
        self.discarding = false;
        if self.in_block {
            self.broken = true;
        } else {
            self.roll_back();
        }
    }

    /// ReadyForQuery: outside a transaction nothing is left to be undone.
    pub fn ready(&mut self, status: TxStatus) {
        if status == TxStatus::Idle {
            if self.broken {
                self.roll_back(); // its COMMIT failed
            }
            if std::mem::take(&mut self.discarding) {
                self.pins.remove(Pin::TempObject);
            }
            self.unmark();
            self.checkpoint();
        }
        self.in_block = status != TxStatus::Idle;
        self.broken = status == TxStatus::Failed;
    }

    /// An idle boundary: what changes from now on belongs to the next transaction.
    pub fn checkpoint(&mut self) {
        self.undo.begin(self.living().is_some(), self.pins);
    }

    /// The state at the last idle boundary, where the lost transaction began. `None`: too much has changed since.
    pub fn at_start(&self) -> Option<Self> {
        let mut start = self.clone();
        start.transaction_lost();
        if !self.undo.is_blank() && !self.undo.apply(Arc::make_mut(&mut start.prepared)) {
            return None;
        }
        start.weight = start.prepared.iter().map(|(name, prepared)| name.len() + prepared.weight()).sum();
        start.own = start.prepared.values().filter(|prepared| is_own(prepared)).count();
        let (body, alive) = self.undo.unnamed();
        if let Some(unnamed) = &mut start.unnamed {
            if let Some(body) = body {
                unnamed.body = body.to_vec();
                (unnamed.key, unnamed.dull) = (None, false); // its own again, which is always right
            }
            unnamed.alive = alive;
        }
        start.pins = self.undo.pins();
        start.checkpoint();
        Some(start)
    }

    /// The state once the open transaction is committed.
    #[must_use]
    pub fn committed(&self) -> Self {
        let mut state = self.clone();
        state.end(false, false);
        state.ready(TxStatus::Idle);
        state
    }

    /// The backend is gone, and the open transaction with it.
    pub fn transaction_lost(&mut self) {
        self.roll_back();
        (self.in_block, self.broken, self.discarding) = (false, false, false);
    }

    fn change(&mut self, edit: impl FnOnce(&mut Transactional)) {
        if self.marks.is_empty() {
            self.mark(None);
        }
        if Arc::strong_count(&self.now) > 1 {
            self.copies += self.now.weight();
        }
        let before = Arc::clone(&self.now);
        edit(Arc::make_mut(&mut self.now));
        if self.now.weight() > self.limit || self.copies > MOST_COPIES * self.limit {
            self.now = before;
            self.overflow();
        }
    }

    fn open_block(&mut self) {
        self.mark(None);
        self.in_block = true;
    }

    fn mark(&mut self, savepoint: Option<String>) {
        if savepoint.is_none() && !self.marks.is_empty() {
            return; // BEGIN after other statements of one batch: their implicit transaction becomes the block.
        }
        if self.marks.len() >= MOST_MARKS {
            return self.overflow();
        }
        self.marks.push(Mark { savepoint, before: Arc::clone(&self.now) });
    }

    fn end(&mut self, chain: bool, undo: bool) {
        if undo {
            self.roll_back();
        }
        self.unmark();
        (self.in_block, self.broken) = (false, false);
        if chain {
            self.open_block();
        }
    }

    fn roll_back(&mut self) {
        if let Some(mark) = self.marks.drain(..).next() {
            self.now = mark.before;
        }
        self.unmark();
    }

    fn unmark(&mut self) {
        self.marks.clear();
        self.copies = 0;
    }

    fn roll_back_to(&mut self, savepoint: &str) {
        self.broken = false;
        if let Some(at) = self.position(savepoint) {
            self.marks.truncate(at + 1);
            if let Some(mark) = self.marks.last() {
                self.now = Arc::clone(&mark.before);
            }
        }
    }

    fn release(&mut self, savepoint: &str) {
        if let Some(at) = self.position(savepoint) {
            self.marks.truncate(at);
        }
    }

    fn position(&self, savepoint: &str) -> Option<usize> {
        self.marks.iter().rposition(|mark| mark.savepoint.as_deref() == Some(savepoint))
    }

    fn discard(&mut self, what: Discard) {
        match what {
            Discard::All => {
                self.nameless |= self.origin.name.is_some();
                self.now = Arc::clone(&self.origin.fresh);
                self.unmark();
                self.forget_all();
                self.pins.unpin_discarded();
                self.doubt = false;
            }
            Discard::Temp if self.in_block => self.doubt = true,
            Discard::Temp => self.discarding = true,
            Discard::Plans | Discard::Sequences => {}
        }
    }

    fn forget(&mut self, name: &[u8]) {
        if !self.prepared.contains_key(name) {
            return;
        }
        if let Some(old) = Arc::make_mut(&mut self.prepared).remove(name) {
            self.weight -= name.len() + old.weight();
            self.own -= usize::from(is_own(&old));
            self.undo.note(name, Some(old), self.limit);
        }
    }

    fn forget_all(&mut self) {
        // The unnamed one stays, as in PostgreSQL.
        let forgotten = std::mem::take(&mut self.prepared);
        for (name, old) in forgotten.iter() {
            self.undo.note(name, Some(old.clone()), self.limit);
        }
        (self.weight, self.own) = (0, 0);
    }
}

/// The name of the setting with which clients name themselves.
const NAME: &str = "application_name";

/// Backends have it under the client's own name.
fn is_own(prepared: &Prepared) -> bool {
    match prepared {
        Prepared::Shared(..) => false,
        Prepared::Protocol(_) | Prepared::Sql(_) => true,
    }
}

fn give_name(name: Option<&str>, now: &mut Transactional) {
    if let Some(name) = name {
        now.settings.insert(NAME.to_owned(), Setting::Value(name.to_owned()));
    }
}

#[cfg(test)]
mod tests;
