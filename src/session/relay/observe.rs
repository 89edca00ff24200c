//! What the relay sees in the replies that pass: what they end, change and mean, and what a backend may not send.

use std::sync::Arc;

use bytes::BytesMut;
use tracing::warn;

use crate::backend::Parameters;
use crate::backend::pool::Papers;
use crate::continuity::journal::{Mismatch, Spoiled};
use crate::continuity::pipeline::{Note, Pipeline, Unexpected};
use crate::continuity::restore::{Progress, Restore};
use crate::continuity::state::State;
use crate::topology::evidence::Suspicion;
use crate::wire::message::{CommandComplete, ErrorFields, ParameterStatus, ReadyForQuery, Severity};
use crate::wire::scan::Step;
use crate::wire::{HEADER_LEN, TxStatus, backend};

use super::guard::{Guard, Told};
use super::listen::Listening;
use super::{Event, FROM_BACKEND, Relay};
use crate::continuity::plans::{DIGITS, PREFIX};

/// What becomes of one backend frame.
enum Verdict {
    /// Part of an answer: it goes to the client.
    Pass,
    /// An error: it goes to the client.
    Failed,
    /// The same, and the server skips everything up to a Sync, which the client will not send.
    Skipped,
    /// The same, in other words.
    Rename(BytesMut),
    /// An error that is not the client's doing: a statement that the backend had is of no use.
    Stale,
    /// The end of a unit: it goes to the client.
    Ready(TxStatus, Option<u64>),
    /// It goes to the client, and belongs to no answer.
    Aside(u8),
    /// It is not the client's: the dying words of a backend that is replaced, or an answer to pgmoor itself.
    Swallow,
    /// The last answer to what pgmoor set.
    SetUp,
    /// Something could not be set: what was sent behind it finds a failed transaction.
    Unrun(String),
    /// The client gets this instead.
    Replace(BytesMut),
    /// The backend lost count or broke the protocol.
    Doubtful(&'static str),
}

impl Relay {
    /// Walks what the backend sent.
    pub(super) fn observe_backend(&mut self) -> Result<(), Event> {
        while let Some((count, verdict)) = self.judge_next()? {
            let aside = matches!(verdict, Verdict::Aside(_));
            self.carry_out(verdict, count)?;
            if !aside {
                self.answer_told()?;
            }
        }
        Ok(())
    }

    /// What becomes of the next bytes; `None`: more have to come, or something has to be done before.
    fn judge_next(&mut self) -> Result<Option<(usize, Verdict)>, Event> {
        if self.down.unseen() == 0 {
            return Ok(None);
        }
        let holding = self.is_holding_asides();
        let leaves_doubt = self.leaves_doubt();
        Ok(Some(match self.down.step() {
            Ok(Step::Wait) => return Ok(None),
            Ok(Step::Pass(count)) => (count, Verdict::Pass),
            Ok(Step::Frame { tag: backend::READY_FOR_QUERY, body: b"I" })
                if self.listening.as_mut().is_some_and(Listening::holds_end) =>
            {
                return Ok(None);
            }
            Ok(Step::Frame { tag: backend::READY_FOR_QUERY, body: b"I" }) if leaves_doubt => {
                self.withheld = true;
                return Ok(None);
            }
            Ok(Step::Frame { tag, body }) => {
                let mut reply = Reply {
                    pipeline: &mut self.pipeline,
                    state: &mut self.state,
                    guard: &mut self.guard,
                    told: (!holding).then_some(&mut self.told),
                    papers: self.backend.as_deref_mut().map(|backend| &mut backend.papers),
                    setting_up: self.setting_up.as_deref_mut(),
                    hears: self.listening.is_some(),
                    dying: &mut self.dying,
                    read_only_hit: &mut self.read_only_hit,
                    ended: &mut self.ended,
                };
                (HEADER_LEN + body.len(), reply.observe(tag, body))
            }
            Ok(Step::Head { tag, part, .. }) => {
                let count = HEADER_LEN + part.len();
                (count, begun(&mut self.pipeline, &mut self.state, tag))
            }
            Ok(Step::Part { part, tag, .. }) if is_aside(tag) => (part.len(), Verdict::Aside(tag)),
            Ok(Step::Part { part, .. }) => (part.len(), Verdict::Pass),
            Err(error) => {
                warn!(session = self.state.owner(), %error, "the backend broke the protocol: closed");
                return Err(Event::BackendLost(Suspicion::Vanished));
            }
        }))
    }

    /// Does with the next `count` bytes what was found to be right.
    fn carry_out(&mut self, verdict: Verdict, count: usize) -> Result<(), Event> {
        match verdict {
            Verdict::Pass => self.deliver(count)?,
            Verdict::Failed => {
                self.forget_unprepared();
                self.deliver(count)?;
            }
            Verdict::Skipped => {
                self.deliver(count)?;
                self.rows_matter_no_more();
                self.end_skipped();
            }
            Verdict::Rename(message) => {
                self.forget_unprepared();
                self.down.skip(count);
                self.answer(&message)?;
            }
            Verdict::Stale => {
                // An error in the midst of a unit outside of any transaction has undone all of it.
                self.unrun = self.pipeline.status() == TxStatus::Idle;
                return Err(Event::Stale);
            }
            Verdict::Ready(status, until) => {
                self.deliver(count)?;
                self.unit_ended(status, until)?;
            }
            Verdict::Aside(tag) if self.is_holding_asides() => self.put_aside(tag, count),
            Verdict::Aside(_) => self.down.pass(count),
            Verdict::Swallow => {
                self.down.skip(count);
                self.rows_matter_no_more();
                if let Some(suspicion) = self.dying {
                    // What is sent from now on is not read: it waits for another.
                    return Err(Event::BackendLost(suspicion));
                }
            }
            Verdict::SetUp => {
                self.down.skip(count);
                self.is_set_up();
            }
            Verdict::Unrun(why) => {
                warn!(
                    session = self.state.owner(),
                    why, "a backend could not be brought to the session's state: closed"
                );
                self.unrun = true;
                return Err(Event::BackendLost(Suspicion::Vanished));
            }
            Verdict::Replace(message) => {
                self.down.skip(count);
                self.down.inject(&message);
            }
            Verdict::Doubtful(what) => {
                warn!(session = self.state.owner(), what, "the backend is doubtful: closed");
                return Err(Event::BackendLost(Suspicion::Vanished));
            }
        }
        Ok(())
    }

    /// The backend is in the session's state: what it reports is what the client knows, or is told.
    fn is_set_up(&mut self) {
        self.pipeline.is_set_up();
        self.setting_up = None;
        self.rows_matter_no_more();
        if let Some(mut backend) = self.backend.take() {
            self.tell_news(&mut backend.papers.parameters);
            self.backend = Some(backend);
        }
    }

    /// What the unit that ends has done to the session is not known, and the client would rely on it.
    fn leaves_doubt(&self) -> bool {
        self.asks && self.state.in_doubt() && self.pipeline.is_last() && !self.journal.is_verifying()
    }

    /// Part of an answer: to the client, but for what it has had before a replay.
    fn deliver(&mut self, count: usize) -> Result<(), Event> {
        let known = self.journal.hear(self.down.front(count)).map_err(|Mismatch| Event::Mismatch)?;
        if known > 0 {
            self.down.skip(known);
        }
        self.down.pass(count - known);
        Ok(())
    }

    /// Rows were of interest while pgmoor itself was owed one, or one was to tell what its statement has set.
    fn rows_matter_no_more(&mut self) {
        if !self.guard.is_asking() && !self.pipeline.reads_rows() && self.setting_up.is_none() {
            self.down.set_interest(&FROM_BACKEND);
        }
    }

    /// ReadyForQuery went to the client.
    fn unit_ended(&mut self, status: TxStatus, until: Option<u64>) -> Result<(), Event> {
        if !self.is_replaying() && !self.journal.is_verifying() {
            self.losses = 0;
        }
        if status != TxStatus::Idle {
            self.guard.unit_ended();
            return Ok(());
        }
        if self.journal.is_verifying() {
            return Err(Event::Mismatch); // it ended sooner than it did the first time
        }
        self.guard.transaction_ended();
        self.sync_channels();
        self.rows_matter_no_more();
        match until {
            _ if self.pipeline.is_quiet() && !self.is_replaying() => self.journal.clear(),
            Some(until) => self.journal.settled(until),
            None => self.journal.spoil(Spoiled::Strange),
        }
        Ok(())
    }
}

/// A frame begins that is too large for the buffer.
fn begun(pipeline: &mut Pipeline, state: &mut State, tag: u8) -> Verdict {
    match tag {
        _ if pipeline.is_setting_up() && !is_aside(tag) => Verdict::Doubtful("a long answer to what pgmoor set"),
        backend::ERROR_RESPONSE => {
            if pipeline.error(state) {
                Verdict::Failed
            } else {
                Verdict::Doubtful("an error nobody asked for")
            }
        }
        backend::ROW_DESCRIPTION if pipeline.described() == Note::Unexpected => {
            Verdict::Doubtful("columns nobody asked for")
        }
        tag if is_aside(tag) => Verdict::Aside(tag),
        _ => Verdict::Pass,
    }
}

/// Messages that may come at any time (protocol-flow, "Asynchronous Operations").
const fn is_aside(tag: u8) -> bool {
    matches!(tag, backend::NOTICE_RESPONSE | backend::NOTIFICATION_RESPONSE | backend::PARAMETER_STATUS)
}

/// What PostgreSQL says of a statement whose table has other columns now (`RevalidateCachedQuery`).
const STALE: &str = "cached plan must not change result type";

/// An ErrorResponse with the client's own name for a statement in the place of the one that backends have.
fn renamed(fields: &ErrorFields<'_>, name: Option<&[u8]>, body: &[u8]) -> Option<BytesMut> {
    let name = name?;
    let at = body.windows(PREFIX.len()).position(|part| part == PREFIX)?;
    let end = at + PREFIX.len() + DIGITS;
    let known = matches!(&*fields.code, "26000" | "42P05") && body.get(at..end).is_some();
    known.then(|| {
        let mut message = BytesMut::new();
        super::super::answer::quote(&mut message, &[&body[..at], name, &body[end..]].concat());
        message
    })
}

fn is_fatal(body: &[u8]) -> bool {
    ErrorFields::read(body).is_ok_and(|fields| matches!(fields.severity, Severity::Fatal | Severity::Panic))
}

/// Notes what a server has reported: what it has, and what the client is told of it. Both stay one while they are the same.
fn note(told: Option<&mut Parameters>, has: Option<&mut Parameters>, status: ParameterStatus<'_>) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (name, value) = (text(status.name), text(status.value));
    let put = |parameters: &mut Parameters| {
        if parameters.get(&name) != Some(&value) {
            Arc::make_mut(parameters).insert(name.clone(), value.clone());
        }
    };
    match (told, has) {
        (Some(told), Some(has)) if Arc::ptr_eq(told, has) => {
            let mut both = std::mem::take(has);
            *told = Parameters::default();
            put(&mut both);
            *told = Arc::clone(&both);
            *has = both;
        }
        (told, has) => told.into_iter().chain(has).for_each(put),
    }
}

/// What one backend frame may touch.
struct Reply<'a> {
    pipeline: &'a mut Pipeline,
    state: &'a mut State,
    guard: &'a mut Guard,
    /// Where what the client is told is noted; `None` while that waits.
    told: Option<&'a mut Parameters>,
    papers: Option<&'a mut Papers>,
    setting_up: Option<&'a mut Restore>,
    /// It hears elsewhere.
    hears: bool,
    dying: &'a mut Option<Suspicion>,
    read_only_hit: &'a mut bool,
    ended: &'a mut bool,
}

impl Reply<'_> {
    fn observe(&mut self, tag: u8, body: &[u8]) -> Verdict {
        if self.pipeline.is_setting_up()
            && let Some(verdict) = self.set_up(tag, body)
        {
            return verdict;
        }
        if self.guard.is_asking() && !is_aside(tag) && tag != backend::ERROR_RESPONSE && self.pipeline.is_ours() {
            return self.answer(tag, body);
        }
        if self.pipeline.is_preparing()
            && !is_aside(tag)
            && let Some(verdict) = self.prepared(tag, body)
        {
            return verdict;
        }
        let note = match tag {
            backend::READY_FOR_QUERY => match ReadyForQuery::read(body) {
                Ok(ready) => self.pipeline.ready(ready.status, self.state),
                Err(_) => return Verdict::Doubtful("a ReadyForQuery that is none"),
            },
            backend::COMMAND_COMPLETE => match CommandComplete::read(body) {
                Ok(complete) => {
                    let note = self.pipeline.command_complete(complete.tag, self.state);
                    self.heed(complete.tag);
                    if matches!(complete.tag, b"DISCARD ALL" | b"DEALLOCATE ALL") {
                        self.guard.forget();
                        if let Some(papers) = &mut self.papers {
                            papers.plans.clear();
                        }
                    }
                    if let (Note::Plain, Some(error)) = (note, self.guard.take_failure()) {
                        return Verdict::Replace(error);
                    }
                    note
                }
                Err(_) => return Verdict::Doubtful("a CommandComplete that is none"),
            },
            backend::DATA_ROW => {
                self.pipeline.row(body);
                Note::Plain
            }
            backend::NOTIFICATION_RESPONSE if self.hears => return Verdict::Swallow,
            backend::NOTICE_RESPONSE | backend::NOTIFICATION_RESPONSE => return Verdict::Aside(tag),
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
                    let has = self.papers.as_deref_mut().map(|papers| &mut papers.parameters);
                    note(self.told.as_deref_mut(), has, status);
                }
                return Verdict::Aside(tag);
            }
            backend::ERROR_RESPONSE => return self.error(body),
            _ => return Verdict::Doubtful("a message that does not belong here"),
        };
        match note {
            Note::Plain => Verdict::Pass,
            Note::Ready(status, until) => Verdict::Ready(status, until),
            Note::Unexpected => Verdict::Doubtful("a reply nobody is owed"),
        }
    }

    /// What concerns those who listen elsewhere.
    fn heed(&mut self, tag: &[u8]) {
        if let (true, b"LISTEN", Some(papers)) = (self.hears, tag, &mut self.papers) {
            papers.listened = true;
        }
    }

    /// A reply to what pgmoor set, if it is one.
    fn set_up(&mut self, tag: u8, body: &[u8]) -> Option<Verdict> {
        let way = self.setting_up.as_deref_mut()?;
        match tag {
            backend::PARAMETER_STATUS => {
                let has = self.papers.as_deref_mut().map(|papers| &mut papers.parameters);
                note(None, has, ParameterStatus::read(body).ok()?);
                Some(Verdict::Swallow)
            }
            backend::NOTICE_RESPONSE => Some(Verdict::Swallow),
            backend::NOTIFICATION_RESPONSE => None,
            backend::ERROR_RESPONSE if is_fatal(body) => None,
            _ => Some(match way.reply(tag, body) {
                Ok(Progress::More) => Verdict::Swallow,
                Ok(Progress::Done(TxStatus::Idle)) => Verdict::SetUp,
                Ok(Progress::Done(_)) => Verdict::Unrun("a transaction was left open".to_owned()),
                Err(why) => Verdict::Unrun(why),
            }),
        }
    }

    /// A reply about a statement that this backend lacked; `None`: an error, which is the client's.
    fn prepared(&mut self, tag: u8, body: &[u8]) -> Option<Verdict> {
        match self.pipeline.prepared(tag) {
            Ok(_) if tag == backend::ERROR_RESPONSE && is_fatal(body) => None,
            Ok(key) => {
                if let (Some(papers), Some(key)) = (&mut self.papers, key) {
                    papers.plans.arrived(key);
                }
                Some(Verdict::Swallow)
            }
            Err(Unexpected) if tag == backend::ERROR_RESPONSE => None,
            Err(Unexpected) => Some(Verdict::Doubtful("not an answer about a statement")),
        }
    }

    /// A reply to pgmoor itself.
    fn answer(&mut self, tag: u8, body: &[u8]) -> Verdict {
        match self.guard.reply(tag, body) {
            Told::More => Verdict::Swallow,
            Told::Last => {
                self.pipeline.ours_answered();
                Verdict::Swallow
            }
            Told::Failed | Told::Unexpected => Verdict::Doubtful("not an answer to what pgmoor asked"),
        }
    }

    /// A statement that the backend had before is of no use: the client has not asked for that.
    fn stale(&mut self, fields: &ErrorFields<'_>) -> Option<Verdict> {
        let changed = fields.code == "0A000" && fields.message == STALE;
        let gone = fields.code == "26000" && fields.message.contains("pgmoor_");
        if !(changed || gone) {
            return None;
        }
        if let Some(papers) = &mut self.papers {
            papers.plans.clear();
        }
        (gone || self.pipeline.has_reused()).then_some(Verdict::Stale)
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
            "40001" if fatal => {
                *self.dying = Some(Suspicion::Vanished);
                Verdict::Swallow
            }
            _ if fatal => {
                *self.ended = true;
                Verdict::Pass
            }
            code => {
                *self.read_only_hit |= code == "25006";
                let mut skipped = false;
                if self.guard.is_asking() && self.pipeline.is_ours() {
                    match self.guard.reply(backend::ERROR_RESPONSE, body) {
                        Told::More | Told::Last => return Verdict::Swallow,
                        Told::Failed => {
                            self.pipeline.ours_answered(); // the client's unit fails with it
                            skipped = self.pipeline.answers_query();
                        }
                        Told::Unexpected => return Verdict::Doubtful("an error instead of an answer to pgmoor"),
                    }
                }
                if let Some(papers) = &mut self.papers {
                    papers.unnamed = None; // as far as is known
                }
                if let Some(verdict) = self.stale(&fields) {
                    return verdict;
                }
                let other = renamed(&fields, self.pipeline.statement_at_front(), body);
                if self.pipeline.error(self.state) {
                    self.guard.keep(self.pipeline.ours_count());
                    if skipped {
                        return Verdict::Skipped;
                    }
                    other.map_or(Verdict::Failed, Verdict::Rename)
                } else {
                    Verdict::Doubtful("an error nobody asked for")
                }
            }
        }
    }
}
