//! What is in flight: every message the client sent and the reply the server owes for it, in order.
//!
//! A *unit* is what one ReadyForQuery ends: a simple Query, a function call, or extended messages up to their Sync
//! (protocol-flow, "Extended Query" and "Pipelining"). The pipeline knows at any moment which units are owed a reply,
//! so that a lost backend leaves no request unanswered and none answered twice.
//! ```text
//!   sent:   P B D E S   Q   P B E …            replies pop from the left:
//!           └ unit ─┘ unit └ open unit         1→P  2→B  C/s/I→E  Z→S or Q;  E(rror) drops up to the next S
//! ```

use std::collections::{BTreeMap, VecDeque};

use crate::wire::message::{Bind, Parse, Query};
use crate::wire::{TxStatus, frontend};

use super::loss::Deeds;
use super::script::{self, Meaning};
use super::state::State;

/// The replies owed by one backend, and what they will mean for the session.
#[derive(Debug)]
pub struct Pipeline {
    owed: VecDeque<Owed>,
    /// What the last ReadyForQuery said.
    status: TxStatus,
    statements: BTreeMap<Vec<u8>, Meaning>,
    portals: BTreeMap<Vec<u8>, Meaning>,
    copy: Copy,
    /// The server reports an error once a unit; the rest of the unit is skipped by it.
    failed: bool,
    /// What was executed already in the unit at the front: its COMMIT comes with its Sync.
    passed: Option<Deeds>,
}

/// One message whose fate is open.
#[derive(Debug)]
pub(super) enum Owed {
    Query { meaning: Meaning, done: usize },
    Call,
    Parse { name: Vec<u8>, body: Option<Vec<u8>>, meaning: Meaning },
    Bind,
    Execute { meaning: Meaning },
    Close { statement: Option<Vec<u8>> },
    Describe,
    /// CopyDone or CopyFail of an extended COPY: no reply of its own, but Syncs before it are not answered.
    CopyEnd,
    Sync,
}

/// Whether the server reads CopyData now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    Out,
    InSimple,
    InExtended,
}

/// What a reply says to the relay beyond "pass it on".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Nothing.
    Plain,
    /// ReadyForQuery: a unit ended.
    Ready(TxStatus),
    /// A reply nobody is owed: the server broke the protocol, or we lost count. The backend is doubtful.
    Unexpected,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self {
            owed: VecDeque::new(),
            status: TxStatus::Idle,
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
            copy: Copy::Out,
            failed: false,
            passed: None,
        }
    }
}

impl Pipeline {
    /// The transaction status of the last ReadyForQuery.
    pub fn status(&self) -> TxStatus {
        self.status
    }

    /// Every request has been answered.
    pub fn is_quiet(&self) -> bool {
        self.owed.is_empty() && !self.failed
    }

    /// Quiet, and outside a transaction: the session may leave its backend here.
    pub fn is_idle(&self) -> bool {
        self.is_quiet() && self.status == TxStatus::Idle
    }

    /// How many messages are owed a reply.
    pub fn depth(&self) -> usize {
        self.owed.len()
    }

    /// A simple Query goes out.
    pub fn query(&mut self, meaning: Meaning, state: &mut State) {
        state.unnamed_gone();
        self.owed.push_back(Owed::Query { meaning, done: 0 });
    }

    /// A FunctionCall goes out.
    pub fn call(&mut self) {
        self.owed.push_back(Owed::Call);
    }

    /// A Parse goes out whole.
    pub fn parse(&mut self, name: &[u8], text: &[u8], body: &[u8], state: &mut State) {
        self.push_parse(name, script::read(text, false), body, state);
    }

    /// A Parse too large for one buffer begins; its body goes on with [`Self::parse_goes_on`].
    pub fn parse_begins(&mut self, name: &[u8], text: &[u8], part: &[u8], state: &mut State) {
        self.push_parse(name, script::read(text, true), part, state);
    }

    /// More of the body of the last frame: kept if that is a Parse, while there is room for it.
    pub fn parse_goes_on(&mut self, part: &[u8], state: &mut State) {
        let limit = state.limit();
        let Some(Owed::Parse { name, body, .. }) = self.owed.back_mut() else { return };
        if name.is_empty() {
            state.unnamed_goes_on(part);
        } else if let Some(kept) = body {
            if kept.len() + part.len() > limit {
                *body = None;
            } else {
                kept.extend_from_slice(part);
            }
        }
    }

    fn push_parse(&mut self, name: &[u8], meaning: Meaning, body: &[u8], state: &mut State) {
        let kept = if name.is_empty() {
            state.unnamed_sent(body);
            None
        } else {
            (body.len() <= state.limit()).then(|| body.to_vec())
        };
        self.push(Owed::Parse { name: name.to_vec(), body: kept, meaning });
    }

    /// What a request that has not been sent would do. `body`: its frame's, if it is there whole.
    pub fn meaning_of(&self, tag: u8, body: Option<&[u8]>) -> Meaning {
        let body = body?;
        match tag {
            frontend::QUERY => script::read(Query::read(body).ok()?.text, false),
            frontend::PARSE => script::read(Parse::read(body).ok()?.query, false),
            frontend::BIND => self.statements.get(Bind::read(body).ok()?.statement).cloned().flatten(),
            _ => None,
        }
    }

    /// A Bind goes out.
    pub fn bind(&mut self, portal: &[u8], statement: &[u8]) {
        // The Parse may itself still be in flight: the newest one of that name counts.
        let sent = self.owed.iter().rev().find_map(|owed| match owed {
            Owed::Parse { name, meaning, .. } if name == statement => Some(meaning.clone()),
            Owed::Parse { .. }
            | Owed::Query { .. }
            | Owed::Call
            | Owed::Bind
            | Owed::Execute { .. }
            | Owed::Close { .. }
            | Owed::Describe
            | Owed::CopyEnd
            | Owed::Sync => None,
        });
        let meaning = sent.unwrap_or_else(|| self.statements.get(statement).cloned().flatten());
        match meaning {
            Some(script) => {
                self.portals.insert(portal.to_vec(), Some(script));
            }
            None => {
                self.portals.remove(portal);
            }
        }
        self.push(Owed::Bind);
    }

    /// An Execute goes out.
    pub fn execute(&mut self, portal: &[u8]) {
        let meaning = if self.portals.is_empty() { None } else { self.portals.get(portal).cloned().flatten() };
        self.push(Owed::Execute { meaning });
    }

    /// A Describe goes out.
    pub fn describe(&mut self) {
        self.push(Owed::Describe);
    }

    /// A Close goes out: of a prepared statement (its name), or of a portal.
    pub fn close(&mut self, statement: Option<&[u8]>) {
        self.push(Owed::Close { statement: statement.map(<[u8]>::to_vec) });
    }

    /// A Sync goes out. Within a COPY FROM the server ignores it (protocol-flow, "COPY Operations").
    pub fn sync(&mut self) {
        if self.copy != Copy::InExtended {
            self.owed.push_back(Owed::Sync);
        }
    }

    /// CopyDone or CopyFail goes out.
    pub fn copy_end(&mut self) {
        if self.copy != Copy::InSimple && !self.owed.is_empty() {
            self.push(Owed::CopyEnd);
        }
        self.copy = Copy::Out;
    }

    fn push(&mut self, owed: Owed) {
        // After an error the server skips everything up to the next Sync: nothing is owed for it.
        if !(self.failed && self.owed.is_empty()) {
            self.owed.push_back(owed);
        }
    }

    /// ParseComplete.
    pub fn parse_complete(&mut self, state: &mut State) -> Note {
        self.skip_to(|owed| matches!(owed, Owed::Parse { .. }));
        let Some(Owed::Parse { name, body, meaning }) = self.owed.pop_front() else { return Note::Unexpected };
        if name.is_empty() {
            state.unnamed_parsed();
        } else if let Some(body) = body {
            state.parsed(&name, body);
        } else {
            state.overflow();
        }
        match meaning {
            Some(script) => {
                self.statements.insert(name, Some(script));
            }
            None => {
                self.statements.remove(&name);
            }
        }
        Note::Plain
    }

    /// BindComplete.
    pub fn bind_complete(&mut self) -> Note {
        self.skip_to(|owed| matches!(owed, Owed::Bind));
        self.owed.pop_front().map_or(Note::Unexpected, |_| Note::Plain)
    }

    /// CloseComplete.
    pub fn close_complete(&mut self, state: &mut State) -> Note {
        self.skip_to(|owed| matches!(owed, Owed::Close { .. }));
        let Some(Owed::Close { statement }) = self.owed.pop_front() else { return Note::Unexpected };
        if let Some(name) = statement {
            self.statements.remove(&name);
            state.closed(&name);
        }
        Note::Plain
    }

    /// CommandComplete: what the statement did, it did now.
    pub fn command_complete(&mut self, tag: &[u8], state: &mut State) -> Note {
        self.skip_to(|owed| matches!(owed, Owed::Execute { .. } | Owed::Query { .. }));
        match self.owed.front_mut() {
            Some(Owed::Query { meaning, done }) => {
                ran(meaning, *done, tag, state);
                *done += 1;
                self.copy = Copy::Out;
                Note::Plain
            }
            Some(Owed::Execute { meaning }) => {
                ran(meaning, 0, tag, state);
                self.passed.get_or_insert_default().add(meaning);
                self.owed.pop_front();
                Note::Plain
            }
            Some(Owed::Call | Owed::Parse { .. } | Owed::Bind | Owed::Close { .. } | Owed::Describe | Owed::CopyEnd | Owed::Sync) | None => {
                Note::Unexpected
            }
        }
    }

    /// EmptyQueryResponse or PortalSuspended: an Execute is answered, nothing was completed.
    pub fn execute_answered(&mut self) -> Note {
        self.skip_to(|owed| matches!(owed, Owed::Execute { .. } | Owed::Query { .. }));
        match self.owed.front() {
            Some(Owed::Execute { meaning }) => {
                self.passed.get_or_insert_default().add(meaning);
                self.owed.pop_front();
                Note::Plain
            }
            Some(Owed::Query { .. }) => Note::Plain,
            Some(Owed::Call | Owed::Parse { .. } | Owed::Bind | Owed::Close { .. } | Owed::Describe | Owed::CopyEnd | Owed::Sync) | None => {
                Note::Unexpected
            }
        }
    }

    /// CopyInResponse: until CopyDone or CopyFail the server takes CopyData, and ignores Sync.
    pub fn copy_in(&mut self) -> Note {
        self.skip_to(|owed| matches!(owed, Owed::Execute { .. } | Owed::Query { .. }));
        match self.owed.front() {
            Some(Owed::Query { .. }) => self.copy = Copy::InSimple,
            Some(Owed::Execute { .. }) => {
                let end = self.owed.iter().position(|owed| matches!(owed, Owed::CopyEnd));
                let until = end.unwrap_or(self.owed.len());
                let mut at = 0;
                self.owed.retain(|owed| {
                    at += 1;
                    at > until || !matches!(owed, Owed::Sync)
                });
                self.copy = if end.is_some() { Copy::Out } else { Copy::InExtended };
            }
            Some(Owed::Call | Owed::Parse { .. } | Owed::Bind | Owed::Close { .. } | Owed::Describe | Owed::CopyEnd | Owed::Sync) | None => {
                return Note::Unexpected;
            }
        }
        Note::Plain
    }

    /// ErrorResponse that does not end the connection. `false`: no request is in flight.
    pub fn error(&mut self, state: &mut State) -> bool {
        let Some(front) = self.owed.front() else { return false };
        let simple = matches!(front, Owed::Query { .. } | Owed::Call);
        if matches!(front, Owed::Parse { name, .. } if name.is_empty()) {
            state.unnamed_gone();
        }
        state.failed();
        self.copy = Copy::Out;
        if !simple {
            self.failed = true;
            self.skip_to(|owed| matches!(owed, Owed::Sync));
        }
        true
    }

    /// ReadyForQuery: a unit ended.
    pub fn ready(&mut self, status: TxStatus, state: &mut State) -> Note {
        self.skip_to(|owed| matches!(owed, Owed::Sync | Owed::Query { .. } | Owed::Call));
        if self.owed.pop_front().is_none() {
            return Note::Unexpected;
        }
        if self.owed.iter().all(|owed| matches!(owed, Owed::CopyEnd)) {
            self.owed.clear();
        }
        self.failed = false;
        self.passed = None;
        self.copy = Copy::Out;
        self.status = status;
        if status == TxStatus::Idle && !self.portals.is_empty() && self.owed.is_empty() {
            self.portals.clear(); // portals live no longer than their transaction
        }
        state.ready(status);
        Note::Ready(status)
    }

    fn skip_to(&mut self, wanted: impl Fn(&Owed) -> bool) {
        while self.owed.front().is_some_and(|owed| !wanted(owed)) {
            self.owed.pop_front();
        }
    }

    pub(super) fn owed(&self) -> &VecDeque<Owed> {
        &self.owed
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// A unit was answered without the backend: this is the status the client was told.
    pub fn settle(&mut self, status: TxStatus) {
        self.status = status;
    }

    /// The backend is gone: forget what it owed. What its statements mean stays, they are prepared again elsewhere.
    pub(super) fn clear(&mut self, status: TxStatus) {
        self.owed.clear();
        self.portals.clear();
        self.failed = false;
        self.passed = None;
        self.copy = Copy::Out;
        self.status = status;
    }

    pub(super) fn passed(&self) -> Option<Deeds> {
        self.passed
    }
}

/// The statement at `at` of this text completed with `tag`.
fn ran(meaning: &Meaning, at: usize, tag: &[u8], state: &mut State) {
    let Some(script) = meaning else { return };
    if let Some(act) = script.acts().get(at) {
        state.completed(act, tag);
    }
    if script.is_cut() {
        state.ran_unseen();
    }
}
