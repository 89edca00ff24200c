//! What the relay sees in the frames that pass: requests going out, their replies coming back, and what neither side may send.

use bytes::BytesMut;
use tracing::warn;

use crate::continuity::pipeline::Note;
use crate::error::{Code, Complaint};
use crate::topology::evidence::Suspicion;
use crate::wire::message::write::backend as write;
use crate::wire::message::{
    Bind, Close, CommandComplete, ErrorFields, Execute, ParameterStatus, Parse, Query, ReadError, ReadyForQuery,
    Severity, Target,
};
use crate::wire::scan::Step;
use crate::wire::{HEADER_LEN, TxStatus, backend, frontend};

use super::{Event, Farewell, Reading, Relay, broken_client};

/// What becomes of one backend frame.
enum Verdict {
    /// It goes to the client.
    Pass,
    /// It is not the client's: the dying words of a backend that is replaced.
    Swallow,
    /// The backend lost count or broke the protocol.
    Doubtful(&'static str),
}

/// What a client frame is to the relay.
enum Request {
    /// Sent on.
    Forward,
    /// The client leaves; sent on, so that what it sent before is run.
    Farewell,
}

impl Relay {
    /// Walks what the backend sent.
    pub(super) fn observe_backend(&mut self) -> Result<(), Event> {
        loop {
            let (count, verdict) = match self.down.step() {
                Ok(Step::Wait) => return Ok(()),
                Ok(Step::Pass(count)) => (count, Verdict::Pass),
                Ok(Step::Frame { tag, body }) => {
                    let mut reply = Reply {
                        pipeline: &mut self.pipeline,
                        state: &mut self.state,
                        told: &mut self.told,
                        dying: &mut self.dying,
                        read_only_hit: &mut self.read_only_hit,
                        ended: &mut self.ended,
                    };
                    (HEADER_LEN + body.len(), reply.observe(tag, body))
                }
                Ok(Step::Head { tag, part, .. }) => {
                    let count = HEADER_LEN + part.len();
                    match tag {
                        backend::ERROR_RESPONSE if !self.pipeline.error(&mut self.state) => {
                            (count, Verdict::Doubtful("an error nobody asked for"))
                        }
                        backend::ROW_DESCRIPTION if self.pipeline.described() == Note::Unexpected => {
                            (count, Verdict::Doubtful("columns nobody asked for"))
                        }
                        _ => (count, Verdict::Pass),
                    }
                }
                Ok(Step::Part { part, .. }) => (part.len(), Verdict::Pass),
                Err(error) => {
                    warn!(%error, "the backend broke the protocol: closed");
                    return Err(Event::BackendLost(Suspicion::Vanished));
                }
            };
            match verdict {
                Verdict::Pass => self.down.pass(count),
                Verdict::Swallow => self.down.skip(count),
                Verdict::Doubtful(what) => {
                    warn!(what, "the backend is doubtful: closed");
                    return Err(Event::BackendLost(Suspicion::Vanished));
                }
            }
        }
    }

    /// Walks what the client sent, as far as it may be sent on now.
    pub(super) fn observe_client(&mut self, stop: bool) -> Result<(), Event> {
        loop {
            if self.farewell == Farewell::Said || (stop && self.pipeline.is_idle() && self.up.at_boundary()) {
                return Ok(());
            }
            if self.pipeline.is_full() {
                return Ok(()); // its replies let it go on
            }
            if (self.untold || self.reading != Reading::Requests) && self.up.at_boundary() {
                if !self.hold_back()? {
                    return Ok(());
                }
                continue;
            }
            let (count, request) = match self.up.step() {
                Ok(Step::Wait) => return Ok(()),
                Ok(Step::Pass(count)) => (count, Ok(Request::Forward)),
                Ok(Step::Frame { tag, body }) => {
                    (HEADER_LEN + body.len(), sent(&mut self.pipeline, &self.state, tag, body))
                }
                Ok(Step::Head { tag, part, .. }) => {
                    (HEADER_LEN + part.len(), begun(&mut self.pipeline, &self.state, tag, part))
                }
                Ok(Step::Part { part, .. }) => {
                    self.pipeline.parse_goes_on(part, &self.state);
                    (part.len(), Ok(Request::Forward))
                }
                Err(error) => return Err(broken_client(error)),
            };
            match request {
                Ok(Request::Forward) => {}
                Ok(Request::Farewell) => self.farewell = Farewell::Said,
                Err(complaint) => return Err(Event::Violation(complaint)),
            }
            self.up.pass(count);
        }
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
            if !self.up.at_boundary() {
                // The rest of a frame whose beginning went to a backend that is gone.
                if !self.drop_front_checked()? {
                    return Ok(false);
                }
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
                (frontend::SYNC, Reading::Requests) if !self.untold => self.ready(self.pipeline.status()),
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

/// What one backend frame may touch.
struct Reply<'a> {
    pipeline: &'a mut crate::continuity::pipeline::Pipeline,
    state: &'a mut crate::continuity::state::State,
    told: &'a mut std::collections::BTreeMap<String, String>,
    dying: &'a mut Option<Suspicion>,
    read_only_hit: &'a mut bool,
    ended: &'a mut bool,
}

impl Reply<'_> {
    fn observe(&mut self, tag: u8, body: &[u8]) -> Verdict {
        let note = match tag {
            backend::READY_FOR_QUERY => match ReadyForQuery::read(body) {
                Ok(ready) => self.pipeline.ready(ready.status, self.state),
                Err(_) => return Verdict::Doubtful("a ReadyForQuery that is none"),
            },
            backend::COMMAND_COMPLETE => match CommandComplete::read(body) {
                Ok(complete) => self.pipeline.command_complete(complete.tag, self.state),
                Err(_) => return Verdict::Doubtful("a CommandComplete that is none"),
            },
            backend::PARSE_COMPLETE => self.pipeline.parse_complete(self.state),
            backend::BIND_COMPLETE => self.pipeline.bind_complete(),
            backend::CLOSE_COMPLETE => self.pipeline.close_complete(self.state),
            backend::ROW_DESCRIPTION | backend::NO_DATA => self.pipeline.described(),
            backend::PORTAL_SUSPENDED => self.pipeline.suspended(self.state),
            backend::EMPTY_QUERY_RESPONSE => self.pipeline.nothing_ran(),
            backend::COPY_IN_RESPONSE => self.pipeline.copy_in(),
            backend::PARAMETER_STATUS => {
                if let Ok(status) = ParameterStatus::read(body) {
                    if status.name == b"standard_conforming_strings" {
                        self.pipeline.conforming_strings(status.value == b"on");
                    }
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    self.told.insert(text(status.name), text(status.value));
                }
                Note::Plain
            }
            backend::ERROR_RESPONSE => return self.error(body),
            _ => return Verdict::Doubtful("a message that does not belong here"),
        };
        match note {
            Note::Plain | Note::Ready(_) => Verdict::Pass,
            Note::Unexpected => Verdict::Doubtful("a reply nobody is owed"),
        }
    }

    fn error(&mut self, body: &[u8]) -> Verdict {
        let Ok(fields) = ErrorFields::read(body) else { return Verdict::Doubtful("an ErrorResponse that is none") };
        let fatal = matches!(fields.severity, Severity::Fatal | Severity::Panic);
        match &*fields.code {
            // It goes down, crashed, or must give way to recovery (appendix A): the session goes on elsewhere.
            "57P01" | "57P02" | "57P03" if fatal => {
                *self.dying = Some(Suspicion::ShuttingDown);
                Verdict::Swallow
            }
            "40001" if fatal => Verdict::Swallow,
            _ if fatal => {
                *self.ended = true;
                Verdict::Pass
            }
            code => {
                *self.read_only_hit |= code == "25006";
                if self.pipeline.error(self.state) {
                    Verdict::Pass
                } else {
                    Verdict::Doubtful("an error nobody asked for")
                }
            }
        }
    }
}

/// A whole client frame goes out.
fn sent(
    pipeline: &mut crate::continuity::pipeline::Pipeline,
    state: &crate::continuity::state::State,
    tag: u8,
    body: &[u8],
) -> Result<Request, Complaint> {
    match tag {
        frontend::QUERY => pipeline.query(pipeline.read(Query::read(body).map_err(malformed)?.text, false)),
        frontend::PARSE => {
            let parse = Parse::read(body).map_err(malformed)?;
            pipeline.parse(parse.name, parse.query, body, state);
        }
        frontend::BIND => {
            let bind = Bind::read(body).map_err(malformed)?;
            pipeline.bind(bind.portal, bind.statement);
        }
        frontend::DESCRIBE => pipeline.describe(),
        frontend::EXECUTE => pipeline.execute(Execute::read(body).map_err(malformed)?.portal),
        frontend::CLOSE => {
            let close = Close::read(body).map_err(malformed)?;
            pipeline.close((close.target == Target::Statement).then_some(close.name));
        }
        frontend::SYNC => pipeline.sync(),
        frontend::FLUSH => {}
        frontend::FUNCTION_CALL => pipeline.call(),
        frontend::COPY_DONE | frontend::COPY_FAIL => pipeline.copy_end(),
        frontend::TERMINATE => return Ok(Request::Farewell),
        other => return Err(stranger(other)),
    }
    Ok(Request::Forward)
}

/// The beginning of a client frame too large for the buffer goes out.
fn begun(
    pipeline: &mut crate::continuity::pipeline::Pipeline,
    state: &crate::continuity::state::State,
    tag: u8,
    part: &[u8],
) -> Result<Request, Complaint> {
    match tag {
        frontend::QUERY => pipeline.query(pipeline.read(part, true)),
        frontend::PARSE => {
            let (name, text) = split(part).ok_or_else(name_too_long)?;
            pipeline.parse_begins(name, text, part, state);
        }
        frontend::BIND => {
            let (portal, rest) = split(part).ok_or_else(name_too_long)?;
            let (statement, _) = split(rest).ok_or_else(name_too_long)?;
            pipeline.bind(portal, statement);
        }
        frontend::FUNCTION_CALL => pipeline.call(),
        frontend::COPY_FAIL => pipeline.copy_end(),
        frontend::DESCRIBE | frontend::EXECUTE | frontend::CLOSE => return Err(name_too_long()),
        other => return Err(stranger(other)),
    }
    Ok(Request::Forward)
}

/// A text up to its NUL, and what follows.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
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
