//! What is in flight: every message the client sent and the reply the server owes for it, in order.
//!
//! A *unit* is what one ReadyForQuery ends: a simple Query, a function call, or extended messages up to their Sync
//! (protocol-flow, "Extended Query" and "Pipelining"). The pipeline knows at any moment which units are owed a reply,
//! so that a lost backend leaves no request unanswered and none answered twice.
//! ```text
//!   sent:   P B D E S   Q   P B E …            replies pop from the left:
//!           └ unit ─┘ unit └ open unit         1→P  2→B  T/n→D  C/s/I→E  3→C  Z→S or Q;  E(rror) drops up to the next S
//! ```
//! What a name stands for is looked up when the reply comes: only then it is known which Parse and Bind before it failed.

use crate::wire::message::{Bind, DataRow, Parse, Query};
use crate::wire::{TxStatus, frontend};

use super::names::Names;
use super::plans::Key;
use super::queue::Queue;
use super::script::{self, Act, Meaning};
use super::state::State;
use super::walk::Walk;

mod copying;
mod early;
mod long;
mod statements;

use early::Early;

/// Messages in flight at most: beyond, the client waits. A server that answers nothing yet holds back less than 8 kB of
/// replies, far fewer messages than these, so the wait ends.
const MOST: usize = 16 * 1024;

/// The replies owed by one backend, and what they will mean for the session.
#[derive(Debug, Default)]
pub struct Pipeline {
    owed: Queue<Owed>,
    /// What the last ReadyForQuery said.
    status: TxStatus,
    names: Names,
    /// The server reads CopyData now, and nothing else: it ignores Sync.
    copying: bool,
    /// Syncs sent during a COPY. One that ended with an error may have left them for the server's main loop.
    stray_syncs: usize,
    /// Extended messages were sent, and no Sync behind them yet.
    open: bool,
    /// The error of the unit at the front was reported: the rest of the unit is skipped by the server.
    failed: bool,
    /// What ran already in the unit at the front.
    walk: Walk,
    /// A buffer for the next unnamed Parse.
    spare: Vec<u8>,
    /// `standard_conforming_strings` is off: where statements end cannot be told.
    unreadable: bool,
    /// In the open transaction a statement completed that may have written.
    wrote: bool,
    /// What was asked about that transaction before its COMMIT.
    early: Early,
    /// The open unit does nothing but write rows, and all of it but its Sync was sent: nothing of it is committed.
    rows_only: bool,
    /// Statements were sent, at any time, whose rows tell what they set.
    tells: bool,
    /// One of them is in flight, as far as is known: rows are to be shown.
    reads_rows: bool,
    /// The row of the statement that runs.
    row: Option<Vec<u8>>,
    /// Counts units that were sent.
    unit: u64,
    reused: bool,
    /// Statements that were to be prepared, behind an error.
    unprepared: Vec<Key>,
}

/// What the names of statements stand for, apart from the pipeline.
#[derive(Clone, Debug)]
pub struct Kept(Names);

impl Kept {
    /// As it was at the last idle boundary.
    #[must_use]
    pub fn at_start(mut self) -> Self {
        self.0.rewind();
        self
    }
}

/// One message whose fate is open.
#[derive(Debug)]
pub(super) enum Owed {
    /// `end`: where the request ends in all that the client ever sent.
    Query {
        meaning: Meaning,
        done: usize,
        end: u64,
    },
    Call {
        end: u64,
    },
    Parse {
        name: Vec<u8>,
        body: Option<Vec<u8>>,
        meaning: Meaning,
        way: Way,
    },
    Bind {
        portal: Vec<u8>,
        statement: Vec<u8>,
    },
    Execute {
        portal: Vec<u8>,
    },
    /// `told`: it is not sent; pgmoor answers it in its turn.
    Close {
        statement: Option<Vec<u8>>,
        told: bool,
    },
    Describe,
    /// CopyDone or CopyFail: no reply of its own, but it ends a COPY that begins before it.
    CopyEnd {
        count: usize,
    },
    Sync {
        end: u64,
    },
    /// Requests of pgmoor's own: their replies are not the client's.
    Ours,
    /// The backend is brought to the session's state: the same.
    Setup,
    /// A statement of the session's that this backend lacked: so many replies are due before its ParseComplete, which are not
    /// the client's either. `alone`: a unit by itself.
    Prepare {
        key: Option<Key>,
        before: usize,
        alone: bool,
    },
}

/// Not the reply that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unexpected;

/// How a Parse reaches the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As the client sent it.
    AsItIs,
    /// Not at all: the backend has the statement under a name of pgmoor's, or is given it just before. pgmoor answers.
    Shared(Key),
}

/// What a statement's name stands for, for a request that is only now being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// For what the session's state says.
    Settled,
    /// For a Parse sent before it in the same unit.
    Sent(Way),
    /// For nothing: it was closed before it in the same unit.
    Closed,
    /// An earlier unit in flight decides.
    Open,
}

/// What a reply says to the relay beyond "pass it on".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Nothing.
    Plain,
    /// ReadyForQuery: the unit that ended there in all that the client ever sent; `None`: one that was ignored before.
    Ready(TxStatus, Option<u64>),
    /// A reply nobody is owed: the server broke the protocol, or we lost count. The backend is doubtful.
    Unexpected,
}

impl Pipeline {
    /// The transaction status of the last ReadyForQuery.
    pub fn status(&self) -> TxStatus {
        self.status
    }

    /// Every request has been answered, and no unit is open.
    pub fn is_quiet(&self) -> bool {
        self.owed.is_empty() && !self.open
    }

    /// Quiet, and outside a transaction: the session may leave its backend here.
    pub fn is_idle(&self) -> bool {
        self.is_quiet() && self.status == TxStatus::Idle
    }

    /// Nothing is in flight but the end of one unit of the client's.
    pub fn is_last(&self) -> bool {
        let last = matches!(self.owed.back(), Some(Owed::Query { .. } | Owed::Sync { .. } | Owed::Call { .. }));
        last && self.owed.len() == 1 && !self.open && self.stray_syncs == 0
    }

    /// As many messages are in flight as may be.
    pub fn is_full(&self) -> bool {
        self.owed.len() >= MOST
    }

    /// How many messages are owed a reply.
    pub fn depth(&self) -> usize {
        self.owed.len()
    }

    /// The server says how it reads strings (ParameterStatus `standard_conforming_strings`).
    pub fn conforming_strings(&mut self, on: bool) {
        self.unreadable = !on;
    }

    /// What a text would do. `cut`: only its beginning is here.
    pub fn read(&self, text: &[u8], cut: bool) -> Meaning {
        script::read(text, cut || (self.unreadable && text.contains(&b'\\')))
    }

    /// A simple Query goes out. `end`: where it ends in all that the client ever sent.
    pub fn query(&mut self, meaning: Meaning, end: u64) {
        self.reads_rows |= tells(&meaning);
        self.push_alone(Owed::Query { meaning, done: 0, end });
    }

    /// A FunctionCall goes out.
    pub fn call(&mut self, end: u64) {
        self.push_alone(Owed::Call { end });
    }

    /// Requests of pgmoor's own go out, between two of the client's.
    pub fn ours(&mut self) {
        self.owed.push_back(Owed::Ours);
    }

    /// The next reply is for pgmoor itself.
    pub fn is_ours(&self) -> bool {
        matches!(self.owed.iter().find(|owed| !matches!(owed, Owed::CopyEnd { .. })), Some(Owed::Ours))
    }

    /// The open unit writes rows, and its Sync is held back ([`Self::only_writes_rows`]).
    pub fn holds_sync_back(&mut self) {
        self.rows_only = true;
    }

    /// How many requests of pgmoor's own have not been answered.
    pub fn ours_count(&self) -> usize {
        self.owed.iter().filter(|owed| matches!(owed, Owed::Ours)).count()
    }

    /// Whether requests of pgmoor's own would be read here: not behind an error, nor (if they are a unit by themselves)
    /// within a unit of the client's, nor where a transaction has failed.
    pub fn takes_ours(&self, alone: bool) -> bool {
        !(self.is_skipping() || alone && self.open || self.status == TxStatus::Failed)
    }

    /// The last reply to requests of pgmoor's own was there.
    pub fn ours_answered(&mut self) {
        if matches!(self.front(), Some(Owed::Ours)) {
            self.owed.pop_front();
        }
    }

    /// Whether a COMMIT sent now may have something to commit: something was written, or it is not known yet.
    pub fn may_have_written(&self) -> bool {
        self.wrote || !self.owed.is_empty()
    }

    /// A Parse goes out whole.
    pub fn parse(&mut self, name: &[u8], meaning: Meaning, body: &[u8], way: Way, state: &State) {
        let kept = (body.len() <= state.limit()).then(|| {
            let mut kept = if name.is_empty() { std::mem::take(&mut self.spare) } else { Vec::new() };
            kept.clear();
            kept.extend_from_slice(body);
            kept
        });
        self.tells |= tells(&meaning);
        self.push(Owed::Parse { name: name.to_vec(), body: kept, meaning, way });
    }

    /// What a request that has not been sent would do. `body`: its frame's, if it is there whole.
    pub fn meaning_of(&self, tag: u8, body: Option<&[u8]>) -> Meaning {
        let body = body?;
        match tag {
            frontend::QUERY => self.read(Query::read(body).ok()?.text, false),
            frontend::PARSE => self.read(Parse::read(body).ok()?.query, false),
            frontend::BIND => self.names.statement(Bind::read(body).ok()?.statement),
            _ => None,
        }
    }

    /// A Bind goes out.
    pub fn bind(&mut self, portal: &[u8], statement: &[u8]) {
        self.push(Owed::Bind { portal: portal.to_vec(), statement: statement.to_vec() });
    }

    /// An Execute goes out.
    pub fn execute(&mut self, portal: &[u8]) {
        self.reads_rows |= self.tells && tells(&self.executing(portal));
        self.push(Owed::Execute { portal: portal.to_vec() });
    }

    /// A Describe goes out.
    pub fn describe(&mut self) {
        self.push(Owed::Describe);
    }

    /// A Close goes out: of a prepared statement (its name), or of a portal.
    /// `told`: pgmoor answers it.
    pub fn close(&mut self, statement: Option<&[u8]>, told: bool) {
        self.push(Owed::Close { statement: statement.map(<[u8]>::to_vec), told });
    }

    /// A Sync goes out. Within a COPY FROM the server ignores it (protocol-flow, "COPY Operations").
    pub fn sync(&mut self, end: u64) {
        if self.copying {
            self.stray_syncs += 1;
        } else {
            self.owed.push_back(Owed::Sync { end });
            (self.open, self.rows_only) = (false, false);
            self.unit += 1;
        }
    }

    /// CopyDone or CopyFail goes out. Outside a COPY the server ignores them.
    pub fn copy_end(&mut self) {
        if std::mem::take(&mut self.copying) {
            return;
        }
        match self.owed.back_mut() {
            None => {}
            Some(Owed::CopyEnd { count }) => *count += 1,
            Some(_) => self.owed.push_back(Owed::CopyEnd { count: 1 }),
        }
    }

    fn push(&mut self, owed: Owed) {
        // After an error the server skips everything up to the next Sync: nothing is owed for it.
        if !self.is_skipping() {
            self.owed.push_back(owed);
            self.open = true;
        }
    }

    /// A message that is a unit of its own, or ends the open one.
    fn push_alone(&mut self, owed: Owed) {
        if !self.is_skipping() {
            self.owed.push_back(owed);
            self.open = false;
            self.unit += 1;
        }
    }

    /// The server skips what is sent now, up to the next Sync.
    pub fn skips(&self) -> bool {
        self.is_skipping()
    }

    fn is_skipping(&self) -> bool {
        self.failed && self.owed.is_empty()
    }

    /// ParseComplete.
    pub fn parse_complete(&mut self, state: &mut State) -> Note {
        let Some(Owed::Parse { name, body, meaning, way }) = self.take(|owed| matches!(owed, Owed::Parse { .. }))
        else {
            return Note::Unexpected;
        };
        let key = match way {
            Way::Shared(key) => Some(key),
            Way::AsItIs => None,
        };
        if name.is_empty() {
            self.spare = state.unnamed_parsed(body, key, meaning.is_none());
        } else if let Some(body) = body {
            state.parsed(&name, body, key);
        } else {
            state.overflow();
        }
        self.names.parsed(&name, meaning);
        Note::Plain
    }

    /// BindComplete.
    pub fn bind_complete(&mut self) -> Note {
        let Some(Owed::Bind { portal, statement }) = self.take(|owed| matches!(owed, Owed::Bind { .. })) else {
            return Note::Unexpected;
        };
        self.names.bound(&portal, &statement);
        self.walk.portals = true;
        Note::Plain
    }

    /// RowDescription or NoData: the end of the answer to a Describe, or part of the answer to a Query.
    pub fn described(&mut self) -> Note {
        match self.front() {
            Some(Owed::Describe) => {
                self.owed.pop_front();
                Note::Plain
            }
            Some(Owed::Query { .. }) => Note::Plain,
            _ => Note::Unexpected,
        }
    }

    /// CloseComplete.
    pub fn close_complete(&mut self, state: &mut State) -> Note {
        let Some(Owed::Close { statement, .. }) = self.take(|owed| matches!(owed, Owed::Close { .. })) else {
            return Note::Unexpected;
        };
        if let Some(name) = statement {
            self.names.closed(&name);
            state.closed(&name);
        }
        Note::Plain
    }

    /// CommandComplete: what the statement did, it did now.
    pub fn command_complete(&mut self, tag: &[u8], state: &mut State) -> Note {
        let (meaning, at) = match self.front() {
            Some(Owed::Query { meaning, done, .. }) => {
                *done += 1;
                (meaning.clone(), *done - 1)
            }
            Some(Owed::Execute { portal }) => {
                let portal = std::mem::take(portal);
                self.owed.pop_front();
                (self.names.portal(&portal), 0)
            }
            _ => return Note::Unexpected,
        };
        (self.copying, self.stray_syncs) = (false, 0);
        self.wrote |= !script::only_looked(tag);
        self.ran(&meaning, at, tag, state);
        Note::Plain
    }

    /// The statement at `at` of this text completed with `tag`.
    fn ran(&mut self, meaning: &Meaning, at: usize, tag: &[u8], state: &mut State) {
        let row = self.row.take();
        let Some(script) = meaning else {
            self.walk.plain();
            return;
        };
        match script.acts().get(at) {
            Some(act) if act.fits(tag) => {
                self.walk.step(act);
                self.passed(act);
                self.names.ran(act);
                state.completed(act, tag);
                if !act.told.is_empty() {
                    state.told(&act.told, row.as_deref().and_then(|row| DataRow::read(row).ok()));
                }
            }
            Some(_) | None => {
                (self.walk.commits, self.walk.loose) = (true, true);
                self.early.spend();
                state.ran_unseen();
            }
        }
        if script.is_cut() {
            (self.walk.commits, self.walk.loose) = (true, true);
            self.early.spend();
            state.ran_unseen();
        }
    }

    /// EmptyQueryResponse: there was nothing to run.
    pub fn nothing_ran(&mut self) -> Note {
        match self.front() {
            Some(Owed::Query { done, .. }) => *done += 1,
            Some(Owed::Execute { .. }) => {
                self.owed.pop_front();
            }
            _ => return Note::Unexpected,
        }
        Note::Plain
    }

    /// PortalSuspended: the rows asked for are there, more are left.
    pub fn suspended(&mut self, state: &mut State) -> Note {
        let Some(Owed::Execute { portal }) = self.take(|owed| matches!(owed, Owed::Execute { .. })) else {
            return Note::Unexpected;
        };
        self.walk.plain();
        self.wrote = true; // as far as is known
        if self.names.portal(&portal).is_some() {
            self.early.spend();
            state.ran_unseen();
        }
        Note::Plain
    }

    /// ErrorResponse that does not end the connection. `false`: no request is in flight.
    pub fn error(&mut self, state: &mut State) -> bool {
        let open = self.open;
        let simple = match self.front() {
            Some(Owed::Query { meaning, done, .. }) => {
                state.unnamed_gone();
                // The last statement of a text is answered after its commit: a PREPARE may have run, and the commit failed.
                if meaning.as_ref().and_then(|script| script.acts().get(*done)).is_some_and(Act::outlives_rollback) {
                    state.ran_unseen();
                }
                true
            }
            Some(Owed::Call { .. }) => true,
            Some(Owed::Parse { name, .. }) => {
                if name.is_empty() {
                    state.unnamed_gone();
                }
                false
            }
            Some(_) => false,
            None if open => false,
            None => return false,
        };
        state.failed();
        self.row = None;
        self.copying = false;
        self.failed = true;
        self.walk.dead = self.walk.block;
        self.walk.loose = false;
        if !simple {
            while self.owed.front().is_some_and(|owed| !matches!(owed, Owed::Sync { .. })) {
                match self.owed.pop_front() {
                    Some(Owed::Prepare { key, .. }) => self.unprepared.extend(key),
                    // To prepare it has failed: the old one is gone in any case.
                    Some(Owed::Parse { name, way: Way::Shared(_), .. }) if name.is_empty() => state.unnamed_gone(),
                    Some(_) | None => {}
                }
            }
            self.open |= self.owed.is_empty();
        }
        true
    }

    /// ReadyForQuery: a unit ended.
    pub fn ready(&mut self, status: TxStatus, state: &mut State) -> Note {
        let stray = self.stray_syncs > 0;
        let until = match self.front() {
            Some(Owed::Query { end, .. }) => {
                let end = *end;
                state.unnamed_gone();
                Some(end)
            }
            Some(Owed::Call { end }) => {
                let end = *end;
                self.early.spend();
                state.called();
                Some(end)
            }
            Some(Owed::Sync { end }) => Some(*end),
            None if stray => {
                self.stray_syncs -= 1;
                None
            }
            _ => return Note::Unexpected,
        };
        self.owed.pop_front();
        if self.owed.iter().all(|owed| matches!(owed, Owed::CopyEnd { .. })) {
            self.owed.clear();
        }
        self.failed = false;
        self.copying = false;
        self.reads_rows &= !self.is_quiet();
        self.reused &= !self.is_quiet();
        self.settle(status);
        if status == TxStatus::Idle {
            (self.wrote, self.early) = (false, Early::Unasked);
            self.names.transaction_ended();
            self.names.checkpoint();
        }
        state.ready(status);
        Note::Ready(status, until)
    }

    /// The message that the next reply is for.
    fn front(&mut self) -> Option<&mut Owed> {
        while matches!(self.owed.front(), Some(Owed::CopyEnd { .. })) {
            self.owed.pop_front();
        }
        self.owed.front_mut()
    }

    fn take(&mut self, wanted: impl Fn(&Owed) -> bool) -> Option<Owed> {
        if self.front().is_some_and(|owed| wanted(owed)) { self.owed.pop_front() } else { None }
    }

    /// A unit was answered without the backend: this is the status the client was told.
    pub fn settle(&mut self, status: TxStatus) {
        self.status = status;
        self.walk = Walk::from(status);
    }

    pub(super) fn owed(&self) -> &Queue<Owed> {
        &self.owed
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn has_rows_only(&self) -> bool {
        self.rows_only
    }

    pub(super) fn walk(&self) -> Walk {
        self.walk
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// What the names stand for, to be put back later.
    pub fn kept(&self) -> Kept {
        Kept(self.names.clone())
    }

    /// Nothing is in flight, and the names stand for this.
    pub fn begin_again(&mut self, kept: Kept) {
        self.clear(TxStatus::Idle);
        self.names = kept.0;
    }

    /// What was sent and answered up to here is not run again.
    pub fn turn_page(&mut self) {
        self.names.checkpoint();
    }

    /// Extended messages were sent, and no Sync behind them yet.
    pub fn has_open_unit(&self) -> bool {
        self.open
    }

    /// Where a text's statements end can be told.
    pub fn reads_plainly(&self) -> bool {
        !self.unreadable
    }

    /// The backend is gone: forget what it owed. What its statements mean stays, they are prepared again elsewhere.
    pub(super) fn clear(&mut self, status: TxStatus) {
        self.owed.clear();
        self.names.transaction_ended();
        (self.failed, self.open, self.copying, self.stray_syncs, self.wrote) = (false, false, false, 0, false);
        (self.rows_only, self.reads_rows, self.row) = (false, false, None);
        self.early = Early::Unasked;
        self.unprepared.clear();
        self.reused = false;
        self.settle(status);
    }
}

/// A row of it tells what it sets.
fn tells(meaning: &Meaning) -> bool {
    meaning.as_ref().is_some_and(|script| script.tells())
}

#[cfg(test)]
mod tests;
