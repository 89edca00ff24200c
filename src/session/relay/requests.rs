//! What the relay sees in the requests that pass: what goes out, what has to wait, and what a client may not send.

use bytes::BytesMut;

use crate::continuity::pipeline::{Pipeline, Way};
use crate::continuity::script::Meaning;
use crate::continuity::state::State;
use crate::error::{Code, Complaint};
use crate::wire::message::write::backend as write;
use crate::wire::message::{Bind, Close, Execute, Parse, Query, ReadError, Target};
use crate::wire::scan::Step;
use crate::wire::{HEADER_LEN, TxStatus, frontend};

use super::guard::{End, Guard};
use super::translate::Translated;
use super::{Event, FROM_BACKEND_ROWS, Farewell, Reading, Relay, broken_client};

/// What a client frame is to the relay.
enum Request {
    /// Sent on.
    Forward,
    /// The client leaves; sent on, so that what it sent before is run.
    Farewell,
}

impl Relay {
    /// Walks what the client sent, as far as it may be sent on now.
    pub(super) fn observe_client(&mut self, stop: bool) -> Result<(), Event> {
        self.waits = false;
        loop {
            if self.up.unseen() == 0 || self.has_to_wait(stop) {
                return Ok(());
            }
            if self.orphaned {
                self.orphaned = !self.up.at_boundary();
                if self.orphaned && !self.drop_front_checked()? {
                    return Ok(());
                }
                continue;
            }
            if self.begun && self.up.peek().is_some_and(|(tag, _)| tag != frontend::TERMINATE) {
                self.send_begin();
                return Ok(());
            }
            if (self.untold || self.reading != Reading::Requests) && self.up.at_boundary() && !self.is_replaying() {
                if !self.hold_back()? {
                    return Ok(());
                }
                continue;
            }
            if self.foretells() {
                continue;
            }
            if self.pipeline.is_due_early() {
                self.ask_early();
            }
            match self.translate()? {
                Translated::AsItIs => {}
                Translated::Done => continue,
                Translated::Wait => {
                    self.waits = true;
                    return Ok(());
                }
            }
            if !self.send_next()? {
                return Ok(());
            }
        }
    }

    /// Sends the frame at the front, or what is there of it. `false`: it has to wait, or more has to come.
    fn send_next(&mut self) -> Result<bool, Event> {
        let sent = self.journal.position() + HEADER_LEN as u64;
        let (gated, sync_gated) = (self.is_gated(), self.is_sync_gated());
        let meaning = self.front_meaning();
        let mut whole_now = None;
        let (count, request) = match self.up.step() {
            Ok(Step::Wait) => return Ok(false),
            Ok(Step::Pass(count)) => (count, Ok(Request::Forward)),
            Ok(Step::Frame { tag, body }) => {
                let end = sent + body.len() as u64;
                let gated = gated && (tag != frontend::SYNC || (sync_gated && self.journal.ends_at(end)));
                match before(&self.pipeline, &self.state, &self.guard, gated, (tag, body, &meaning)) {
                    Before::Go => {}
                    Before::Vouch => self.guard.vouch(),
                    Before::Ask(end) => {
                        let sync = tag == frontend::SYNC;
                        self.ask(end, sync);
                        return Ok(true);
                    }
                    Before::Wait => return Ok(false),
                    Before::Stop => {
                        self.flush_once();
                        return Ok(false);
                    }
                }
                (HEADER_LEN + body.len(), whole(&mut self.pipeline, &self.state, (tag, body, meaning), end))
            }
            Ok(Step::Head { tag, part, length }) => {
                let end = sent + u64::from(length);
                (HEADER_LEN + part.len(), begun(&mut self.pipeline, &self.state, tag, part, end))
            }
            Ok(Step::Part { tag, part, length, last }) => {
                self.pipeline.parse_goes_on(part, &self.state);
                whole_now = last.then_some((tag, length as usize));
                (part.len(), Ok(Request::Forward))
            }
            Err(error) => return Err(broken_client(error)),
        };
        match request {
            Ok(Request::Forward) => {}
            Ok(Request::Farewell) if self.pipeline.is_quiet() => {
                self.farewell = Farewell::Said;
                self.up.skip(count);
                return Ok(false);
            }
            Ok(Request::Farewell) => self.farewell = Farewell::Sent,
            Err(complaint) => return Err(Event::Violation(complaint)),
        }
        self.guard.asked_for_this = false;
        self.read = None;
        self.journal.sent(self.up.front(count));
        if let Some((tag, length)) = whole_now {
            self.pipeline.is_whole(tag, self.journal.sent_last(length));
        }
        if self.pipeline.reads_rows() {
            self.down.set_interest(&FROM_BACKEND_ROWS);
        }
        self.up.pass(count);
        Ok(true)
    }

    /// Nothing more is sent for now: the client leaves, the backend is to be left, or replies let it go on.
    fn has_to_wait(&self, stop: bool) -> bool {
        matches!(self.farewell, Farewell::Said | Farewell::Sent)
            || (stop && self.pipeline.is_idle() && self.up.at_boundary())
            || (self.pipeline.is_full() && !self.guard.is_paused())
            || self.withheld
            || self.is_beginning()
            || self.is_asking_for_query()
            // If the backend cannot be brought to the session's state, only what is behind it in one unit is surely not run.
            || (self.setting_up.is_some() && self.pipeline.has_whole_unit() && self.up.at_boundary())
    }

    /// With a backend already there again (a session that listens gets one unasked): the client's first frames are still
    /// part of a unit that was answered, or are owed the news of their lost transaction, which the new backend holds
    /// aborted. `false`: more bytes are needed.
    fn hold_back(&mut self) -> Result<bool, Event> {
        let Some((tag, body)) = self.up.peek() else { return Ok(false) };
        match (tag, self.reading) {
            (frontend::TERMINATE, _) => {
                (self.reading, self.untold) = (Reading::Requests, false);
                return Ok(true);
            }
            (frontend::SYNC, Reading::Leftovers(_)) => {
                self.reading = Reading::Requests;
                self.ready(self.pipeline.status());
            }
            (_, Reading::Leftovers(_)) => {}
            (frontend::SYNC, Reading::Requests) => {
                self.untold = false;
                return Ok(true);
            }
            (_, Reading::Requests) => {
                self.untold = false;
                let meaning = self.pipeline.meaning_of(tag, body);
                if !meaning.is_some_and(|script| script.only_rolls_back()) {
                    self.refuse(&Complaint::new(Code::TransactionLost), TxStatus::Failed);
                }
                return Ok(true);
            }
        }
        self.drop_front_checked()
    }

    /// Walks what the client sent while there is no backend. `true`: a request waits for one.
    pub(super) fn observe_loose(&mut self) -> Result<bool, Event> {
        loop {
            if self.up.unseen() == 0 {
                return Ok(false);
            }
            if !self.up.at_boundary() {
                // The rest of a frame whose beginning went to a backend that is gone.
                if !self.drop_front_checked()? {
                    return Ok(false);
                }
                continue;
            }
            if self.up.is_broken() {
                self.up.step().map_err(broken_client)?;
            }
            if self.reading == Reading::Requests && (self.foretells() || self.answer_failed()) {
                continue;
            }
            let Some((tag, body)) = self.up.peek() else { return Ok(false) };
            match (tag, self.reading) {
                (frontend::TERMINATE, _) => return Err(Event::Terminated),
                // Leftovers of a COPY that is over, and a Flush of nothing: PostgreSQL ignores them too.
                (frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL | frontend::FLUSH, _) => {}
                (frontend::SYNC, Reading::Leftovers(status)) => {
                    self.reading = Reading::Requests;
                    self.ready(status);
                }
                (_, Reading::Leftovers(_)) => {}
                (frontend::SYNC, Reading::Requests) if !self.untold => self.ready(self.status()),
                (_, Reading::Requests) => {
                    if !self.untold {
                        return Ok(true);
                    }
                    let meaning = self.pipeline.meaning_of(tag, body);
                    self.untold = false;
                    if meaning.as_ref().is_some_and(|script| script.only_rolls_back()) {
                        return Ok(true); // it wants the transaction gone: nothing has to be told
                    }
                    let commits = meaning.is_some_and(|script| script.may_commit());
                    let status = if commits { TxStatus::Idle } else { TxStatus::Failed };
                    self.refuse(&Complaint::new(Code::TransactionLost), status);
                    continue;
                }
            }
            if !self.drop_front_checked()? {
                return Ok(false);
            }
        }
    }

    fn ready(&mut self, status: TxStatus) {
        let mut message = BytesMut::new();
        write::ready_for_query(&mut message, status);
        self.down.inject(&message);
    }

    /// Throws away the frame at the front, or what is there of it.
    pub(super) fn drop_front(&mut self) {
        // What is wrong with it comes up again with the next look.
        let _ = self.drop_front_checked();
    }

    fn drop_front_checked(&mut self) -> Result<bool, Event> {
        let count = self.up.step().map_err(broken_client)?.consumed();
        self.up.skip(count);
        Ok(count > 0)
    }
}

/// What has to be done before a frame may go out.
enum Before {
    /// Nothing.
    Go,
    /// It is a COMMIT: ask for what tells its outcome. By its unit's kind, the question ends in this way.
    Ask(End),
    /// It is a COMMIT, and what tells its outcome is here already.
    Vouch,
    /// It is a COMMIT, and the answer to that question is not here.
    Wait,
    /// It may commit, and what came before it has not been verified.
    Stop,
}

/// `gated`: a replay is not verified yet.
fn before(
    pipeline: &Pipeline,
    state: &State,
    guard: &Guard,
    gated: bool,
    (tag, body, meaning): (u8, &[u8], &Meaning),
) -> Before {
    if guard.makes_wait() {
        return Before::Wait; // a COMMIT that was not sent is not in doubt
    }
    if tag == frontend::SYNC {
        let asks = guard.asks_autocommit() && pipeline.only_writes_rows(state);
        return if asks {
            Before::Ask(End::Flush)
        } else if gated {
            Before::Stop
        } else {
            Before::Go
        };
    }
    let asks = guard.is_on() && !guard.asked_for_this && pipeline.may_have_written();
    if !(gated || asks) {
        return Before::Go;
    }
    let (meaning, end) = match tag {
        frontend::QUERY => (meaning.clone(), End::Sync),
        frontend::EXECUTE => match Execute::read(body) {
            Ok(execute) => (pipeline.executing(execute.portal), End::Flush),
            Err(_) => return Before::Go,
        },
        _ => return Before::Go,
    };
    if gated && pipeline.may_commit(&meaning) {
        Before::Stop
    } else if asks && pipeline.takes_ours(end == End::Sync) && meaning.is_some_and(|script| script.only_commits()) {
        if pipeline.holds_early() && guard.knows_early() { Before::Vouch } else { Before::Ask(end) }
    } else {
        Before::Go
    }
}

/// A whole client frame goes out. `end`: where it ends in all that the client ever sent.
fn whole(
    pipeline: &mut Pipeline,
    state: &State,
    (tag, body, meaning): (u8, &[u8], Meaning),
    end: u64,
) -> Result<Request, Complaint> {
    match tag {
        frontend::QUERY => {
            Query::read(body).map_err(malformed)?;
            pipeline.query(meaning, end);
        }
        frontend::PARSE => {
            let parse = Parse::read(body).map_err(malformed)?;
            pipeline.parse(parse.name, meaning, body, Way::AsItIs, state);
        }
        frontend::BIND => {
            let bind = Bind::read(body).map_err(malformed)?;
            pipeline.bind(bind.portal, bind.statement);
        }
        frontend::DESCRIBE => pipeline.describe(),
        frontend::EXECUTE => pipeline.execute(Execute::read(body).map_err(malformed)?.portal),
        frontend::CLOSE => {
            let close = Close::read(body).map_err(malformed)?;
            pipeline.close((close.target == Target::Statement).then_some(close.name), false);
        }
        frontend::SYNC => pipeline.sync(end),
        frontend::FLUSH => {}
        frontend::FUNCTION_CALL => pipeline.call(end),
        frontend::COPY_DONE | frontend::COPY_FAIL => pipeline.copy_end(),
        frontend::TERMINATE => return Ok(Request::Farewell),
        other => return Err(stranger(other)),
    }
    Ok(Request::Forward)
}

/// The beginning of a client frame too large for the buffer goes out.
fn begun(pipeline: &mut Pipeline, state: &State, tag: u8, part: &[u8], end: u64) -> Result<Request, Complaint> {
    match tag {
        frontend::QUERY => pipeline.query_begins(part, end),
        frontend::PARSE => {
            let (name, text) = split(part).ok_or_else(name_too_long)?;
            pipeline.parse_begins(name, text, part, state);
        }
        frontend::BIND => {
            let (portal, rest) = split(part).ok_or_else(name_too_long)?;
            let (statement, _) = split(rest).ok_or_else(name_too_long)?;
            pipeline.bind(portal, statement);
        }
        frontend::FUNCTION_CALL => pipeline.call(end),
        frontend::COPY_FAIL => pipeline.copy_end(),
        frontend::DESCRIBE | frontend::EXECUTE | frontend::CLOSE => return Err(name_too_long()),
        other => return Err(stranger(other)),
    }
    Ok(Request::Forward)
}

/// A text up to its NUL, and what follows.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn malformed(error: ReadError) -> Complaint {
    Complaint::with(Code::ProtocolViolation, error.to_string()).fatal()
}

fn name_too_long() -> Complaint {
    Complaint::with(Code::TooLong, "a statement's or portal's name is longer than 16 kB").fatal()
}

fn stranger(tag: u8) -> Complaint {
    Complaint::with(
        Code::ProtocolViolation,
        format!("message type {:?} is not one a client sends here", char::from(tag)),
    )
    .fatal()
}
