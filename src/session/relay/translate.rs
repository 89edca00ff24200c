//! Statement names on their way to a backend: a client's name becomes the one that every backend has for its text.
//!
//! ```text
//!   client            backend has it                 backend has it not
//!   Parse s text      nothing; answered by pgmoor    Close, Parse pgmoor_…   (their answers are not the client's)
//!   Bind p s          Bind p pgmoor_…                the same before it
//!   Describe S s      Describe S pgmoor_…            the same before it
//!   Close S s         nothing; answered by pgmoor
//! ```
//! SQL sees the server's names: before an EXECUTE or DEALLOCATE of a statement that was made by a Parse, the backend is given
//! it under the client's own name, too. A message of the client's whose name may still change in an earlier unit waits.

use bytes::BytesMut;

use crate::backend::Parameters;
use crate::backend::pool::Papers;
use crate::continuity::carried::Prepared;
use crate::continuity::journal::Mismatch;
use crate::continuity::pipeline::{Pipeline, Stands, Way};
use crate::continuity::plans::{Has, Key, Plans, Seen};
use crate::continuity::script::Meaning;
use crate::continuity::state::State;
use crate::wire::message::write::{ROOM, frontend as write};
use crate::wire::message::{Bind, Close, Describe, Parse, Target};
use crate::wire::scan::Step;
use crate::wire::sql::Verb;
use crate::wire::{HEADER_LEN, TxStatus, frontend};

use super::listen::Listening;
use super::{Event, Relay, broken_client};

/// What becomes of the frame at the front.
pub(super) enum Translated {
    /// It goes out like any other.
    AsItIs,
    /// It is dealt with.
    Done,
    /// The answer to an earlier unit decides what it means.
    Wait,
}

/// What is sent in a frame's place.
enum Turn {
    AsItIs,
    /// These bytes, behind what the backend lacks.
    Instead(BytesMut),
    /// Nothing: it is answered by pgmoor.
    Told,
    Wait,
}

/// What a name stands for.
enum Named {
    Shared(Key),
    /// Whatever it is, the backend has it under this name, or nothing.
    Own,
    Open,
}

impl Relay {
    /// Translates the frame at the front, if it names a statement.
    pub(super) fn translate(&mut self) -> Result<Translated, Event> {
        let meaning = self.front_meaning();
        let Self { up, pipeline, state, backend, guard, shared, listening, told, .. } = self;
        let Some(backend) = backend.as_deref_mut().filter(|_| !guard.makes_wait() && !pipeline.skips()) else {
            return Ok(Translated::AsItIs);
        };
        let Some((tag, body)) = up.peek() else { return Ok(Translated::AsItIs) };
        let mut front = Front {
            pipeline,
            state,
            papers: &mut backend.papers,
            most: shared.terms.statements,
            listening: listening.as_mut(),
            told,
            lacks: BytesMut::new(),
        };
        let turn = match (tag, body) {
            (frontend::PARSE, Some(body)) => front.parse(body, meaning, &shared.seen),
            (frontend::BIND, Some(body)) => front.bind(body),
            (frontend::DESCRIBE, Some(body)) => front.describe(body),
            (frontend::CLOSE, Some(body)) => front.close(body),
            (frontend::QUERY, _) => front.query(meaning),
            (frontend::BIND, None) => {
                let window = up.front(up.unseen());
                front.large_bind(window.get(HEADER_LEN..).unwrap_or_default())
            }
            _ => return Ok(Translated::AsItIs),
        };
        let lacks = front.lacks;
        if !lacks.is_empty() {
            self.up.inject(&lacks);
        }
        match turn {
            Turn::AsItIs => return Ok(Translated::AsItIs),
            Turn::Wait => return Ok(Translated::Wait),
            Turn::Told => self.take_front(None)?,
            Turn::Instead(other) => self.take_front(Some(&other))?,
        }
        self.guard.asked_for_this = false;
        self.answer_told()?;
        Ok(Translated::Done)
    }

    /// The frame at the front is dealt with; `other` goes out instead.
    fn take_front(&mut self, other: Option<&[u8]>) -> Result<(), Event> {
        let step = self.up.step().map_err(broken_client)?;
        // Of one too large for the buffer the beginning is here; its length is what changes with its names.
        let large = match step {
            Step::Head { length, part, .. } => Some((length as usize, part.len())),
            Step::Frame { .. } | Step::Pass(_) | Step::Part { .. } | Step::Wait => None,
        };
        let count = step.consumed();
        self.journal.sent(self.up.front(count));
        self.up.skip(count);
        self.read = None;
        let Some(other) = other else { return Ok(()) };
        if let Some((length, part)) = large {
            let mut frame = BytesMut::from(other);
            let whole = (length - part + other.len() - HEADER_LEN + 4) as u32;
            frame[1..HEADER_LEN].copy_from_slice(&whole.to_be_bytes());
            self.up.inject(&frame);
        } else {
            self.up.inject(other);
        }
        Ok(())
    }

    /// Answers what pgmoor answers itself, as far as its turn has come.
    pub(super) fn answer_told(&mut self) -> Result<(), Event> {
        while self.down.at_boundary()
            && let Some(tag) = self.pipeline.take_told(&mut self.state)
        {
            self.answer(&[tag, 0, 0, 0, 4])?;
        }
        Ok(())
    }

    /// An answer of pgmoor's own in the place of the server's: part of what a replay has to come to as well.
    pub(super) fn answer(&mut self, message: &[u8]) -> Result<(), Event> {
        let known = self.journal.hear(message).map_err(|Mismatch| Event::Mismatch)?;
        if known < message.len() {
            self.down.inject(&message[known..]);
        }
        Ok(())
    }

    /// An error came: what was to be prepared behind it was not.
    pub(super) fn forget_unprepared(&mut self) {
        let lost = self.pipeline.take_unprepared();
        if let Some(papers) = self.papers() {
            lost.into_iter().for_each(|key| papers.plans.lost(key));
        }
    }
}

/// What translating one frame may touch.
struct Front<'a> {
    pipeline: &'a mut Pipeline,
    state: &'a mut State,
    papers: &'a mut Papers,
    /// Statements a backend keeps at most.
    most: usize,
    listening: Option<&'a mut Listening>,
    /// What the client knows of its server's settings.
    told: &'a Parameters,
    /// What the backend lacks, to be sent before the frame.
    lacks: BytesMut,
}

impl Front<'_> {
    fn parse(&mut self, body: &[u8], meaning: Meaning, seen: &Seen) -> Turn {
        let frame = body;
        let Ok(parse) = Parse::read(body) else { return Turn::AsItIs };
        if self.pipeline.status() == TxStatus::Failed {
            return Turn::AsItIs; // the server says so, unless it ends the transaction
        }
        if !self.may_listen(&meaning) {
            return Turn::Wait;
        }
        if let Some(script) = &meaning {
            let verbs = script.acts().iter().map(|act| act.verb.clone());
            if !verbs.into_iter().all(|verb| self.own(&verb, false)) {
                return Turn::Wait;
            }
        }
        let tail = &body[parse.name.len() + 1..];
        let key = Key::of(tail, self.state.settled());
        if parse.name.is_empty() {
            if meaning.is_some() || !seen.again(key) {
                self.papers.unnamed = Some(key);
                return Turn::AsItIs;
            }
        } else {
            match (self.named(parse.name), self.state.named(parse.name)) {
                (Named::Open, _) => return Turn::Wait,
                // One of that name is there: the server says so.
                (Named::Shared(old), Some(Prepared::Shared(body, _))) => {
                    let body = body.clone();
                    if !self.ensure(old, &body) {
                        return Turn::Wait;
                    }
                    let other = again(old, &parse);
                    self.pipeline.parse(parse.name, meaning, frame, Way::AsItIs, self.state);
                    return Turn::Instead(other);
                }
                (Named::Own, Some(_)) => return Turn::AsItIs,
                (Named::Own | Named::Shared(_), _) => {}
            }
        }
        let reused = self.papers.plans.has(key, self.pipeline.unit()) == Has::Yes;
        if !self.ensure(key, body) {
            return Turn::Wait;
        }
        self.pipeline.reuses(reused);
        self.pipeline.parse(parse.name, meaning, body, Way::Shared(key), self.state);
        Turn::Told
    }

    fn bind(&mut self, body: &[u8]) -> Turn {
        let Ok(bind) = Bind::read(body) else { return Turn::AsItIs };
        let rest = &body[bind.portal.len() + bind.statement.len() + 2..];
        self.bind_to(bind.portal, bind.statement, rest)
    }

    fn large_bind(&mut self, part: &[u8]) -> Turn {
        let mut names = part.splitn(3, |byte| *byte == 0);
        match (names.next(), names.next(), names.next()) {
            (Some(portal), Some(statement), Some(rest)) => self.bind_to(portal, statement, rest),
            _ => Turn::AsItIs, // too long a name: it is refused
        }
    }

    fn bind_to(&mut self, portal: &[u8], statement: &[u8], rest: &[u8]) -> Turn {
        match self.find(statement) {
            Err(turn) => turn,
            Ok(key) => {
                self.pipeline.bind(portal, statement);
                let mut other = BytesMut::with_capacity(ROOM + rest.len());
                write::bind_raw(&mut other, portal, key.name(), rest);
                Turn::Instead(other)
            }
        }
    }

    fn describe(&mut self, body: &[u8]) -> Turn {
        let Ok(describe) = Describe::read(body) else { return Turn::AsItIs };
        if describe.target != Target::Statement {
            return Turn::AsItIs;
        }
        match self.find(describe.name) {
            Err(turn) => turn,
            Ok(key) => {
                self.pipeline.describe();
                let mut other = BytesMut::new();
                write::describe(&mut other, Target::Statement, key.name());
                Turn::Instead(other)
            }
        }
    }

    fn close(&mut self, body: &[u8]) -> Turn {
        let Ok(close) = Close::read(body) else { return Turn::AsItIs };
        if close.target != Target::Statement {
            return Turn::AsItIs;
        }
        match self.named(close.name) {
            Named::Open => Turn::Wait,
            Named::Own => {
                if close.name.is_empty() {
                    self.papers.unnamed = None;
                }
                Turn::AsItIs
            }
            Named::Shared(_) => {
                self.pipeline.close(Some(close.name), true);
                Turn::Told
            }
        }
    }

    /// A simple query ends the unnamed statement, and may speak of others by name.
    fn query(&mut self, meaning: Meaning) -> Turn {
        if !self.may_listen(&meaning) {
            return Turn::Wait;
        }
        if let Some(script) = meaning {
            let alone = !self.pipeline.has_open_unit();
            let verbs: Vec<Verb> = script.acts().iter().map(|act| act.verb.clone()).collect();
            if !verbs.iter().all(|verb| self.own(verb, alone)) {
                return Turn::Wait;
            }
        }
        self.papers.unnamed = None;
        Turn::AsItIs
    }

    /// What listens for the session hears the channels that this text is to LISTEN to.
    fn may_listen(&mut self, meaning: &Meaning) -> bool {
        let Some(listening) = &mut self.listening else { return true };
        let acts = meaning.as_ref().map_or(&[][..], |script| script.acts());
        listening.allows(acts.iter().map(|act| &act.verb), self.told)
    }

    /// SQL that names a shared statement finds it under that name. `false`: what the name stands for is open.
    fn own(&mut self, verb: &Verb, alone: bool) -> bool {
        let (Verb::Execute { name } | Verb::Deallocate { name: Some(name) } | Verb::Prepare { name }) = verb else {
            return true;
        };
        let name = name.as_bytes();
        match self.pipeline.stands(name) {
            Stands::Open => return false,
            Stands::Settled => {}
            Stands::Sent(_) | Stands::Closed => return true,
        }
        let Some(Prepared::Shared(body, _)) = self.state.named(name) else { return true };
        if let Ok(parse) = Parse::read(body) {
            write::parse_raw(&mut self.lacks, parse.name, parse.query, parse.types);
            if alone {
                write::sync(&mut self.lacks);
            }
            self.pipeline.prepare(None, 0, alone);
            self.state.make_own(name);
        }
        true
    }

    fn named(&self, name: &[u8]) -> Named {
        match self.pipeline.stands(name) {
            Stands::Open => Named::Open,
            Stands::Sent(Way::Shared(key)) => Named::Shared(key),
            Stands::Sent(Way::AsItIs) | Stands::Closed => Named::Own,
            Stands::Settled if name.is_empty() => self.state.unnamed_key().map_or(Named::Own, Named::Shared),
            Stands::Settled => match self.state.named(name) {
                Some(Prepared::Shared(_, key)) => Named::Shared(*key),
                Some(Prepared::Protocol(_) | Prepared::Sql(_)) | None => Named::Own,
            },
        }
    }

    /// The shared statement a name stands for, which the backend has, or is given.
    fn find(&mut self, name: &[u8]) -> Result<Key, Turn> {
        match self.named(name) {
            Named::Open => Err(Turn::Wait),
            Named::Own => {
                self.give_unnamed(name);
                Err(Turn::AsItIs)
            }
            Named::Shared(key) => {
                match self.papers.plans.has(key, self.pipeline.unit()) {
                    Has::Yes => return Ok(key),
                    Has::Open => return Err(Turn::Wait),
                    Has::No => {}
                }
                // One that was sent in this unit is there already.
                let body = if name.is_empty() {
                    self.state.unnamed().map(<[u8]>::to_vec)
                } else {
                    match self.state.named(name) {
                        Some(Prepared::Shared(body, other)) if *other == key => Some(body.clone()),
                        Some(_) | None => None,
                    }
                };
                match body {
                    Some(body) if self.ensure(key, &body) => Ok(key),
                    Some(_) => Err(Turn::Wait),
                    // It had to make room for others of its own unit: the server says that it is not there.
                    None => Err(Turn::AsItIs),
                }
            }
        }
    }

    /// The session's unnamed statement, if the backend has another's, or none.
    fn give_unnamed(&mut self, name: &[u8]) {
        if !name.is_empty() || self.pipeline.stands(name) != Stands::Settled {
            return;
        }
        let Some(body) = self.state.unnamed() else { return };
        let key = Key::of(&body[1..], self.state.settled());
        if self.papers.unnamed != Some(key)
            && let Ok(parse) = Parse::read(body)
        {
            write::parse_raw(&mut self.lacks, parse.name, parse.query, parse.types);
            self.pipeline.prepare(None, 0, false);
            self.papers.unnamed = Some(key);
        }
    }

    /// The backend has this statement, or is given it. `false`: an earlier unit decides.
    fn ensure(&mut self, key: Key, body: &[u8]) -> bool {
        let unit = self.pipeline.unit();
        let plans: &mut Plans = &mut self.papers.plans;
        match plans.has(key, unit) {
            Has::Yes => true,
            Has::Open => false,
            Has::No => {
                let Ok(parse) = Parse::read(body) else { return true };
                let evicted = plans.sent(key, unit, self.most);
                // One that is not there is closed without an error.
                let closes = evicted.into_iter().chain([key]);
                let count = closes.map(|key| write::close(&mut self.lacks, Target::Statement, key.name())).count();
                write::parse_raw(&mut self.lacks, key.name(), parse.query, parse.types);
                self.pipeline.prepare(Some(key), count, false);
                true
            }
        }
    }
}

/// A Parse of a name that is taken.
fn again(key: Key, parse: &Parse<'_>) -> BytesMut {
    let mut other = BytesMut::new();
    write::parse_raw(&mut other, key.name(), parse.query, parse.types);
    other
}
