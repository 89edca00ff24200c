//! The two sockets of one session and everything between them: bytes are moved by headers, frames of interest observed.
//!
//! The relay decides nothing. It stops and says why ([`Event`]) where a decision is due: the backend ended, a boundary
//! was reached that somebody waits for, the client wants a backend, the client left.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::backend::Parameters;
use crate::backend::pool::Parked;
use crate::continuity::journal::Journal;
use crate::continuity::loss::{Aftermath, Answer, Word};
use crate::continuity::pipeline::Pipeline;
use crate::continuity::restore::Restore;
use crate::continuity::state::{Origin, State};
use crate::error::{Code, Complaint};
use crate::metrics::{Direction, Metrics};
use crate::net::Stream;
use crate::net::pipe::Pipe;
use crate::topology::evidence::Suspicion;
use crate::wire::message::write::backend as write;
use crate::wire::scan::{Interest, ScanError};
use crate::wire::{MAX_BACKEND_FRAME, TxStatus, backend, frontend};

use super::{Shared, answer};

use front::Read;
use guard::Guard;
use replay::Lost;

pub(super) use listen::Listening;
pub(super) use replay::Fate;

mod begin;
mod early;
mod front;
mod guard;
mod listen;
mod mooring;
mod observe;
mod replay;
mod requests;
mod translate;

/// Turns of reading and writing before other tasks get theirs.
const BUDGET: u32 = 64;

/// Client frames that change what is in flight, or that a client may not send: all but COPY data.
const FROM_CLIENT: Interest = every_tag_but(frontend::COPY_DATA);

/// Backend frames that end something, change something, or are not ours to pass on.
const FROM_BACKEND: Interest = Interest::NONE.with(&[
    backend::BIND_COMPLETE,
    backend::CLOSE_COMPLETE,
    backend::COMMAND_COMPLETE,
    backend::COPY_BOTH_RESPONSE,
    backend::COPY_IN_RESPONSE,
    backend::EMPTY_QUERY_RESPONSE,
    backend::ERROR_RESPONSE,
    backend::NOTICE_RESPONSE,
    backend::NOTIFICATION_RESPONSE,
    backend::NO_DATA,
    backend::PARAMETER_STATUS,
    backend::PARSE_COMPLETE,
    backend::PORTAL_SUSPENDED,
    backend::READY_FOR_QUERY,
    backend::ROW_DESCRIPTION,
]);

/// The same while a row is of interest: an answer to pgmoor itself, or one that tells what a statement has set.
const FROM_BACKEND_ROWS: Interest = FROM_BACKEND.with(&[backend::DATA_ROW]);

const fn every_tag_but(left_out: u8) -> Interest {
    let mut tags = [0_u8; 255];
    let (mut tag, mut at) = (0_u8, 0);
    while at < tags.len() {
        if tag != left_out {
            tags[at] = tag;
            at += 1;
        }
        tag = tag.wrapping_add(1);
    }
    Interest::NONE.with(&tags)
}

/// Why the relay stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The client closed its connection, or it broke.
    ClientGone,
    /// The client said Terminate.
    Terminated,
    /// The client broke the protocol or a limit: the session ends with this.
    Violation(Complaint),
    /// The backend's connection ended. What it left behind: see [`Relay::wreck`].
    BackendLost(Suspicion),
    /// The backend ended the session for a reason of its own (an idle timeout, the database dropped) and has said so.
    BackendEnded,
    /// Idle, everything delivered: somebody wanted to be told.
    Boundary,
    /// All but its last ReadyForQuery was delivered: the backend is to be asked what the session has built up before the
    /// client may rely on it.
    Question,
    /// Without a backend, and the client has sent something that needs one.
    Demand,
    /// A lost transaction was run again: all goes on.
    Replayed,
    /// Run again, it is not what it was.
    Mismatch,
    /// A statement that the backend had before is of no use any more; what was to use it is run again elsewhere.
    Stale,
}

/// What the client's next frames are to be done with, while there is no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// They are for the backend.
    Requests,
    /// They belong to a unit that was answered already: thrown away up to its Sync, which is answered with this.
    Leftovers(TxStatus),
}

/// Whether the client is leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    /// No.
    Not,
    /// It said Terminate, and everything before was answered: the backend does not hear of it.
    Said,
    /// It said Terminate behind other requests: the backend closes when it has run them.
    Sent,
    /// Its connection ended.
    Unsaid,
}

/// One session's sockets, buffers and trackers.
pub(super) struct Relay {
    shared: Arc<Shared>,
    client: Stream,
    /// With what is known of it.
    backend: Option<Box<Parked>>,
    up: Pipe,
    down: Pipe,
    pub(super) pipeline: Pipeline,
    pub(super) state: State,
    /// What the client knows of its server's reported settings.
    pub(super) told: Parameters,
    reading: Reading,
    /// The text at the front.
    read: Option<Read>,
    farewell: Farewell,
    /// A transaction was lost while the client was silent: its next request is told.
    untold: bool,
    /// What the backend said before it went.
    dying: Option<Suspicion>,
    /// A write met a read-only server (25006).
    read_only_hit: bool,
    ended: bool,
    journal: Journal,
    guard: Guard,
    /// What a lost backend left open.
    lost: Option<Box<Lost>>,
    /// The client's own pipe, while requests are fed from the journal.
    parked: Option<Box<Pipe>>,
    /// A message of a backend that is gone is half delivered.
    half: bool,
    /// The client was told that its transaction has begun, and the backend has not heard of it.
    begun: bool,
    /// The session goes to a primary.
    writes: bool,
    /// Times that a backend vanished since the client was answered last.
    losses: u32,
    /// The backend is asked where the wire does not tell what a statement did.
    asks: bool,
    /// A ReadyForQuery waits for that.
    withheld: bool,
    /// The backend's way to the session's state, while it is on it.
    setting_up: Option<Box<Restore>>,
    /// That failed: what was sent behind it was not run.
    unrun: bool,
    /// How it listens without a backend of its own; `None`: on its backend.
    listening: Option<Listening>,
    /// What a request means is open before an earlier one is answered.
    waits: bool,
    /// The client is in the midst of a request whose beginning went to a backend that is gone, and which was answered.
    orphaned: bool,
    /// The backend was joined for a request that has not been sent yet.
    fresh: bool,
}

impl Relay {
    /// A logged-in client, no backend yet. `leftover`: bytes it sent beyond its login. `owner`: its number.
    pub(super) fn new(
        client: Stream,
        leftover: &[u8],
        shared: &Arc<Shared>,
        owner: u64,
        origin: &Arc<Origin>,
        writes: bool,
        listening: Option<Listening>,
    ) -> Self {
        let terms = &shared.terms;
        let limit = u32::try_from(terms.message_size).unwrap_or(u32::MAX);
        let mut up = Pipe::new(&FROM_CLIENT, limit);
        up.append(leftover);
        Self {
            shared: Arc::clone(shared),
            client,
            backend: None,
            up,
            down: Pipe::new(&FROM_BACKEND, MAX_BACKEND_FRAME),
            pipeline: Pipeline::default(),
            state: State::begin(terms.session_state, Arc::clone(origin)).of(owner, listening.is_some()),
            told: Parameters::default(),
            reading: Reading::Requests,
            read: None,
            farewell: Farewell::Not,
            untold: false,
            dying: None,
            read_only_hit: false,
            ended: false,
            journal: Journal::new(terms.replay.as_ref().map(|replay| replay.size)),
            guard: Guard::new(terms.guard),
            lost: None,
            parked: None,
            half: false,
            begun: false,
            writes,
            losses: 0,
            asks: terms.ask.is_some(),
            withheld: false,
            setting_up: None,
            unrun: false,
            waits: false,
            listening,
            fresh: false,
            orphaned: false,
        }
    }

    /// Counts the bytes moved, once they are more than `least`: the counters are shared by all sessions.
    pub(super) fn count(&mut self, least: u64) {
        for (pipe, direction) in [(&mut self.up, Direction::ToBackend), (&mut self.down, Direction::ToClient)] {
            if pipe.moved() > least {
                self.shared.metrics.bytes(direction, pipe.take_moved());
            }
        }
    }

    /// Where the client is, if its connection still stands.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.client.peer()
    }

    /// The client's connection is encrypted.
    pub(super) const fn speaks_tls(&self) -> bool {
        self.client.is_tls()
    }

    /// Ends the client's connection in good order.
    pub(super) async fn close_client(&mut self) -> io::Result<()> {
        self.client.shutdown().await
    }

    /// The session may leave its backend here: every request was answered, no transaction is open, nothing is half sent.
    pub(super) fn is_idle(&self) -> bool {
        self.pipeline.is_idle() && self.up.at_boundary() && self.up.is_drained() && !self.is_open()
    }

    /// Whether a write has met a read-only server since this was asked last.
    pub(super) fn take_read_only_hit(&mut self) -> bool {
        std::mem::take(&mut self.read_only_hit)
    }

    /// Says something to the client, between frames. `false`: a frame is half delivered, nothing can be said.
    pub(super) fn say(&mut self, message: &[u8]) -> bool {
        let possible = self.down.at_boundary() && !self.half;
        if possible {
            self.down.inject(message);
        }
        possible
    }

    /// Sends what is left to the client, as far as its socket takes it.
    pub(super) fn poll_drain_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.down.poll_drain(cx, &mut self.client))?;
        Pin::new(&mut self.client).poll_flush(cx)
    }

    /// Relays until something has to be decided. `leave`: at an idle boundary, stop and say so; so it does by itself
    /// where something ran whose effect on the session cannot be read off the wire.
    ///
    /// # Cancel safety
    /// All progress is in `self`.
    pub(super) fn poll_attached(&mut self, cx: &mut Context<'_>, leave: bool) -> Poll<Event> {
        for _ in 0..BUDGET {
            let heard = match self.poll_backend(cx) {
                Ok(moved) => moved,
                Err(event) => return Poll::Ready(event),
            };
            if self.ended && self.down.is_drained() {
                return Poll::Ready(Event::BackendEnded);
            }
            match self.replay_ends() {
                Ok(false) => {}
                Ok(true) => return Poll::Ready(Event::Replayed),
                Err(event) => return Poll::Ready(event),
            }
            self.tell_asides();
            if let Err(event) = self.tell_heard(cx) {
                return Poll::Ready(event);
            }
            if self.withheld && !self.is_replaying() && self.up.is_drained() && self.down.is_drained() {
                return Poll::Ready(Event::Question);
            }
            let stop = (leave || self.state.in_doubt()) && !self.fresh && self.farewell == Farewell::Not;
            if stop && self.is_idle() && self.down.is_empty() {
                return Poll::Ready(Event::Boundary);
            }
            let asked = match self.poll_client(cx, stop) {
                Ok(moved) => moved,
                Err(event) => return Poll::Ready(event),
            };
            let confirmed = self.poll_ear(cx);
            if confirmed && let Err(event) = self.tell_heard(cx) {
                return Poll::Ready(event); // before the end of the unit that waited for it
            }
            // All that it was joined for is on its way, and its answer wakes us; or it needed no backend after all.
            let served = self.fresh && self.up.unseen() == 0;
            self.fresh &= !served;
            if !(heard || asked || confirmed || (served && self.is_idle())) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Backend to buffer, a look at what came, buffer to client. Says whether to come again at once.
    fn poll_backend(&mut self, cx: &mut Context<'_>) -> Result<bool, Event> {
        let Some(backend) = self.backend.as_mut() else { return Err(Event::BackendLost(Suspicion::Vanished)) };
        let full = !self.down.has_room();
        let filled = self.down.poll_fill(cx, &mut backend.stream);
        let unseen = self.down.unseen();
        self.observe_backend()?;
        if self.down.poll_drain(cx, &mut self.client).map_err(|_| Event::ClientGone)?.is_pending()
            && !self.down.has_room()
        {
            return Ok(false); // the client is slow: its socket wakes us
        }
        match filled {
            Poll::Ready(Ok(0) | Err(_)) if self.ended => Ok(false),
            // It has run everything that came before the client's Terminate, and closed.
            Poll::Ready(Ok(0) | Err(_)) if self.farewell == Farewell::Sent => Err(Event::Terminated),
            Poll::Ready(Ok(0) | Err(_)) => Err(Event::BackendLost(self.dying.unwrap_or(Suspicion::Vanished))),
            Poll::Ready(Ok(_)) => Ok(true),
            Poll::Pending => Ok(full || self.down.unseen() < unseen),
        }
    }

    /// Client to buffer, a look at what came, buffer to backend. Says whether to come again at once.
    fn poll_client(&mut self, cx: &mut Context<'_>, stop: bool) -> Result<bool, Event> {
        let full = !self.up.has_room();
        if self.is_replaying() {
            return self.poll_replay(cx);
        }
        // After a Terminate nothing is read for its own sake, but that the client has closed is noticed.
        let filled =
            if self.farewell == Farewell::Unsaid { Poll::Pending } else { self.up.poll_fill(cx, &mut self.client) };
        let closed = matches!(filled, Poll::Ready(Ok(0) | Err(_)));
        if closed && self.farewell == Farewell::Not {
            self.farewell = Farewell::Unsaid;
        }
        let unseen = self.up.unseen();
        self.observe_client(stop)?;
        let Some(backend) = self.backend.as_mut() else { return Ok(false) };
        let drained = self.up.poll_drain(cx, &mut backend.stream);
        if matches!(drained, Poll::Ready(Err(_))) {
            // Not judged here: what the backend said last is still to be read.
            self.up.cut_sink();
            self.dying.get_or_insert(Suspicion::Vanished);
            return Ok(true);
        }
        match (self.farewell, drained) {
            // Answers to what it sent before its Terminate are still delivered, as PostgreSQL does.
            (Farewell::Said, _) => Err(Event::Terminated),
            (Farewell::Sent, Poll::Ready(_)) if closed || self.pipeline.is_quiet() => Err(Event::Terminated),
            (Farewell::Sent, Poll::Ready(_)) => Ok(filled.is_ready()),
            (Farewell::Unsaid, Poll::Ready(_)) => Err(Event::ClientGone),
            (Farewell::Sent | Farewell::Unsaid, Poll::Pending) => Ok(false),
            (Farewell::Not, Poll::Pending) => Ok(false),
            // Where all of it went to the backend, nothing follows but the answer; not so where pgmoor itself has answered.
            (Farewell::Not, Poll::Ready(_)) => {
                let left = self.up.unseen() > 0 || !self.down.is_empty();
                Ok((full && self.up.has_room()) || filled.is_ready() || (left && self.up.unseen() < unseen))
            }
        }
    }

    /// The same with the journal in the client's place.
    fn poll_replay(&mut self, cx: &mut Context<'_>) -> Result<bool, Event> {
        let fed = self.poll_feed(cx)?;
        if self.farewell == Farewell::Unsaid {
            return Err(Event::ClientGone);
        }
        let unseen = self.up.unseen();
        self.observe_client(false)?;
        let Some(backend) = self.backend.as_mut() else { return Ok(false) };
        match self.up.poll_drain(cx, &mut backend.stream) {
            Poll::Ready(Err(_)) => {
                self.up.cut_sink();
                self.dying.get_or_insert(Suspicion::Vanished);
                Ok(true)
            }
            Poll::Ready(Ok(())) => Ok(fed || self.up.unseen() < unseen),
            Poll::Pending => Ok(false),
        }
    }

    /// Without a backend: delivers what is left, notices a hang-up, and (unless `waiting`) says when one is needed.
    ///
    /// # Cancel safety
    /// All progress is in `self`.
    pub(super) fn poll_loose(&mut self, cx: &mut Context<'_>, waiting: bool) -> Poll<Event> {
        loop {
            let demand = if waiting || self.is_open() {
                false
            } else {
                match self.observe_loose() {
                    Ok(demand) => demand,
                    Err(event) => return Poll::Ready(event),
                }
            };
            if let Poll::Ready(Err(_)) = self.down.poll_drain(cx, &mut self.client) {
                return Poll::Ready(Event::ClientGone);
            }
            if let Err(event) = self.tell_heard(cx) {
                return Poll::Ready(event);
            }
            if demand {
                return Poll::Ready(Event::Demand);
            }
            match self.up.poll_fill(cx, &mut self.client) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Event::ClientGone),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// What the client has sent waits for a backend.
    pub(super) fn stow(&mut self) {
        self.up.stow();
    }

    /// Answers the request that waits at the front with an error, and ends its unit with `status`. `false`: none waits.
    pub(super) fn refuse(&mut self, complaint: &Complaint, status: TxStatus) -> bool {
        let Some((tag, _)) = self.up.peek() else { return false };
        self.shared.metrics.error(complaint.code);
        let status = if std::mem::take(&mut self.begun) { TxStatus::Failed } else { status };
        self.turn_page(if status == TxStatus::Idle { Aftermath::Clean } else { Aftermath::Failed });
        let mut message = BytesMut::new();
        answer::complain(&mut message, complaint);
        if matches!(tag, frontend::QUERY | frontend::FUNCTION_CALL) {
            self.drop_front();
            write::ready_for_query(&mut message, status);
        } else {
            self.reading = Reading::Leftovers(status);
        }
        self.pipeline.settle(status);
        self.down.inject(&message);
        true
    }
}

/// A stream that cannot be followed any more: the client's fault.
fn broken_client(error: ScanError) -> Event {
    let code = match error {
        ScanError::TooLong { .. } => Code::TooLong,
        ScanError::ZeroTag | ScanError::Length { .. } => Code::ProtocolViolation,
    };
    Event::Violation(Complaint::with(code, error.to_string()).fatal())
}

fn speak(message: &mut BytesMut, answer: Answer, metrics: &Metrics) {
    match answer.word {
        Word::Error(code) => {
            metrics.error(code);
            answer::complain(message, &Complaint::new(code));
        }
        Word::RolledBack => write::command_complete(message, "ROLLBACK"),
        Word::Nothing => {}
    }
}
