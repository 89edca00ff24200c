//! The life of one session: pump, observe, decide, act. The only place where its sockets, trackers and machine meet.
//!
//! Each round obeys the machine's commands, then waits for the first of: a new routing table, the machine's deadline, a
//! join that ended, the relay stopping for a decision, the process draining. All progress is in `self`, so whatever
//! else was waited for may be dropped.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tracing::{Span, debug, info, info_span};

use crate::backend::Identity;
use crate::backend::pool::{Grant, Pool, Slot};
use crate::continuity::pins::Pins;
use crate::continuity::{Command, Continuity, Input, Stage, World};
use crate::error::{Code, Complaint};
use crate::ids::PodId;
use crate::metrics::{HoldGauge, Metrics, SessionGauge, SessionState};
use crate::shutdown::Phase;
use crate::topology::evidence::Suspicion;
use crate::topology::routing::{Need, RoutingTable};

use super::bell::Sleeper;
use super::handshake::Client;
use super::join::{JoinError, Joined};
use super::registry::Place;
use super::relay::{Event, Listening, Relay};
use super::{LAST_WORD, Realm, Shared, answer};

mod boarding;
mod login;
mod parting;

use boarding::Line;
use parting::{DRAINED, take_leave};

/// Why a session has no backend that has given its last one back after a transaction.
const LENT: &str = "lent";

/// Bytes a session moves before it counts them where all sessions count.
const FLUSH: u64 = 64 * 1024;

type Joining = Pin<Box<dyn Future<Output = Result<Joined, JoinError>> + Send>>;

/// One session.
pub(super) struct Life {
    shared: Arc<Shared>,
    realm: Arc<Realm>,
    identity: Arc<Identity>,
    relay: Relay,
    machine: Continuity,
    routes: watch::Receiver<Arc<RoutingTable>>,
    /// What that said last.
    table: Arc<RoutingTable>,
    /// Woken by a new one, and when the process goes on to its next phase.
    sleeper: Sleeper,
    /// The next deadline.
    timer: Option<Pin<Box<Sleep>>>,
    place: Place,
    /// Its place among those there may be.
    _permit: OwnedSemaphorePermit,
    gauge: SessionGauge,
    joining: Option<Joining>,
    /// Its place in line for a backend.
    line: Option<Box<Line>>,
    /// The pool of the pod it was on last.
    pool: Option<Arc<Pool>>,
    /// It stands in line there, or did so last.
    queued: bool,
    /// Its backend counts there.
    slot: Option<Slot>,
    held: Option<Box<Held>>,
    greeted: bool,
    draining: bool,
    /// It has a backend.
    moored: bool,
    /// The pod it has that on, or had one on last.
    last: Option<PodId>,
    /// The pins it has, as counted.
    pins: Pins,
    /// Why it left its last backend: the label of the switch it is in.
    reason: &'static str,
    /// Since when it has wanted the backend it has now, or wants.
    wanted_at: Instant,
    /// When it was woken last, or has waited for a backend to say something.
    now: Instant,
    /// What the last failed join said.
    refusal: Option<Box<str>>,
    /// When a lost transaction that has not been run again is given up.
    replay_until: Option<Instant>,
    /// How many primaries there had been when its backend was joined.
    tenure: u64,
}

/// It is one of the sessions that are held.
struct Held {
    _permit: OwnedSemaphorePermit,
    _gauge: HoldGauge,
}

/// What woke the session.
enum Woken {
    /// There is a new table, or the process has gone on to its next phase.
    News,
    Tick,
    Joined(Box<Result<Joined, JoinError>>),
    /// Its turn in line; `None`: there is no line any more.
    Turn(Option<Grant>),
    Relay(Event),
}

/// What a session does next.
enum Next {
    /// It waits for what comes.
    Wake,
    /// It asks its backend what it has built up. Nothing hurries, and a backend that is only slow is kept.
    Ask,
    /// At an idle boundary, it leaves its backend, or finds out what it would leave there.
    Reconsider,
    /// It ends.
    End(End),
}

impl From<Option<End>> for Next {
    fn from(end: Option<End>) -> Self {
        end.map_or(Self::Wake, Self::End)
    }
}

/// How a session ends.
enum End {
    /// The client is gone, or has said that it goes.
    Gone,
    /// Without a word: the client knows.
    Silent,
    /// With this as the last word.
    Said(Complaint),
    /// With PostgreSQL's own ErrorResponse.
    Quoted(bytes::Bytes),
}

impl Life {
    /// A session of an authenticated client, without a backend yet.
    pub(super) fn new(
        shared: Arc<Shared>,
        client: Client,
        place: Place,
        gauge: SessionGauge,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let terms = &shared.terms;
        let writes = client.need == Need::Write;
        let identity = client.identity;
        let mut routes = client.realm.routes.clone();
        let table = Arc::clone(&routes.borrow_and_update());
        let listening = (terms.pools && writes).then(|| {
            let own = place.process_id();
            Listening::new(Arc::clone(&shared), Arc::clone(&client.realm), Arc::clone(&identity), own)
        });
        let mut relay =
            Relay::new(client.stream, &client.leftover, &shared, place.id().0, &identity.origin, writes, listening);
        relay.say(&client.welcome);
        Self {
            relay,
            machine: Continuity::new(client.need, Arc::clone(&shared.settings)),
            sleeper: Sleeper::new(&client.realm.bell),
            timer: None,
            routes,
            table,
            realm: client.realm,
            identity,
            place,
            _permit: permit,
            gauge,
            joining: None,
            line: None,
            pool: None,
            queued: false,
            slot: None,
            held: None,
            greeted: false,
            draining: false,
            moored: false,
            last: None,
            pins: Pins::default(),
            reason: "startup",
            wanted_at: Instant::now(),
            now: Instant::now(),
            refusal: None,
            replay_until: None,
            tenure: 0,
            shared,
        }
    }

    /// Runs the session to its end. Boxed, for else it would stand in the future of its task four times over; so is what a
    /// session does rarely: an idle one pays for nothing but its wait.
    pub(super) async fn run(mut self: Box<Self>) {
        if let next @ (Next::Ask | Next::Reconsider | Next::End(_)) = self.starts() {
            let Some(on) = Box::pin(self.go_on(next)).await else { return };
            self = on;
        }
        loop {
            let next = poll_fn(|cx| self.poll_next(cx)).await;
            let Some(on) = Box::pin(self.go_on(next)).await else { return };
            self = on;
        }
    }

    fn starts(&mut self) -> Next {
        match self.begin() {
            Next::Wake => self.obey().into(),
            next @ (Next::Ask | Next::Reconsider | Next::End(_)) => next,
        }
    }

    /// Does what takes more than one poll. `None`: that was its end.
    async fn go_on(mut self: Box<Self>, next: Next) -> Option<Box<Self>> {
        let end = match next {
            Next::Wake => None,
            Next::Ask => self.ask(self.shared.terms.connect).await,
            Next::Reconsider => self.reconsider().await,
            Next::End(end) => Some(end),
        };
        let Some(end) = end.or_else(|| self.obey()) else { return Some(self) };
        self.finish(end).await;
        None
    }

    /// What the log says of the session, made anew for each line: a span that lives as long as its session takes a turn at each of
    /// its polls, half a kilobyte, and a place among others that is never given back.
    fn span(&self) -> Span {
        let Identity { user, database, .. } = &*self.identity;
        info_span!("session", id = self.place.id().0, peer = ?self.relay.peer(), user = &**user, database = &**database)
    }

    /// Goes on until there is nothing to do but wait, or something that takes more than one poll.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            self.set_timer();
            self.be_counted(); // before its client is told
            let woken = ready!(self.poll_wake(cx));
            self.now = Instant::now();
            match self.react(woken) {
                Next::Wake => {}
                next @ (Next::Ask | Next::Reconsider | Next::End(_)) => return Poll::Ready(next),
            }
            if let Some(end) = self.obey() {
                return Poll::Ready(Next::End(end));
            }
        }
    }

    /// The pod it has a backend on.
    fn berth(&self) -> Option<&PodId> {
        self.last.as_ref().filter(|_| self.moored)
    }

    /// Puts an input to the machine, with the world as it is now.
    fn decide(&mut self, input: Input) {
        if self.routes.has_changed().unwrap_or(false) {
            self.table = Arc::clone(&self.routes.borrow_and_update());
        }
        let Shared { pools, dice, .. } = &*self.shared;
        let world = World { table: &self.table, load: &|pod| pools.lent(pod), dice: &|| dice.roll() };
        self.machine.handle(self.now.into_std(), world, input);
    }

    /// Counts it where it stands now.
    fn be_counted(&mut self) {
        let state = match self.machine.stage() {
            Stage::Loose => SessionState::Loose,
            Stage::Holding(_) => SessionState::Held,
            Stage::Joining { .. } => SessionState::Joining,
            Stage::Attached { .. } | Stage::Leaving { .. } => SessionState::Attached,
        };
        if self.gauge.state() != state {
            self.gauge.becomes(state);
            self.place.becomes(state);
        }
    }

    /// Obeys the machine until it has nothing more to say.
    fn obey(&mut self) -> Option<End> {
        while let Some(command) = self.machine.poll() {
            match command {
                Command::Join { pod, address } => self.order(pod, address),
                Command::StopJoin => (self.joining, self.line) = (None, None),
                Command::Hold => match Arc::clone(&self.shared.held).try_acquire_owned() {
                    Ok(permit) => {
                        self.relay.stow();
                        self.held = Some(Box::new(Held { _permit: permit, _gauge: self.shared.metrics.hold() }));
                    }
                    Err(_) => self.decide(Input::HoldRefused),
                },
                Command::Release => self.held = None,
                Command::Cut => {
                    self.shared.metrics.fenced();
                    if let Some(end) = self.part("fenced") {
                        return Some(end);
                    }
                    self.want_if_needed();
                }
                Command::Evict => {
                    if let Some(end) = self.part(DRAINED) {
                        return Some(end);
                    }
                    self.want_if_needed();
                }
                Command::Refuse(complaint) => {
                    if let Some(end) = self.refuse(complaint) {
                        return Some(end);
                    }
                }
            }
        }
        None
    }

    /// Sets the alarm for the next deadline.
    fn set_timer(&mut self) {
        let deadline = self.machine.poll_timeout().map(Instant::from_std);
        match (deadline.into_iter().chain(self.replay_until).min(), &mut self.timer) {
            (None, timer) => *timer = None,
            (Some(deadline), Some(timer)) if timer.deadline() == deadline => {}
            (Some(deadline), timer) => *timer = Some(Box::pin(sleep_until(deadline))),
        }
    }

    /// Waits for whatever comes first. What is new about the world comes before more bytes.
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Woken> {
        if self.sleeper.poll(cx).is_ready() {
            return Poll::Ready(Woken::News);
        }
        if self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
            self.timer = None;
            return Poll::Ready(Woken::Tick);
        }
        if let Some(joining) = &mut self.joining
            && let Poll::Ready(joined) = joining.as_mut().poll(cx)
        {
            return Poll::Ready(Woken::Joined(Box::new(joined)));
        }
        if let Some(line) = &mut self.line
            && let Poll::Ready(grant) = Pin::new(&mut line.turn).poll(cx)
        {
            return Poll::Ready(Woken::Turn(grant));
        }
        self.poll_relay(cx).map(Woken::Relay)
    }

    /// At an idle boundary the session leaves the backend it has, or is to be asked whether it does.
    fn leaves(&self) -> bool {
        let free = self.relay.state.pins().is_empty();
        let lends = free && self.shared.terms.pools && !self.relay.keeps_for_channels();
        self.draining || lends || (self.machine.is_leaving() && free)
    }

    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let event = match self.machine.stage() {
            Stage::Attached { .. } | Stage::Leaving { .. } => {
                let leave = self.leaves();
                self.relay.poll_attached(cx, leave)
            }
            Stage::Joining { .. } | Stage::Holding(_) => self.relay.poll_loose(cx, true),
            Stage::Loose => self.relay.poll_loose(cx, false),
        };
        self.relay.count(FLUSH);
        let pins = self.relay.state.pins();
        if self.pins != pins {
            count_pins(&self.shared.metrics, self.pins, pins);
            self.pins = pins;
        }
        if self.relay.take_read_only_hit()
            && *self.machine.need() == Need::Write
            && let Some(pod) = self.berth()
        {
            (self.realm.doubt)(pod, Suspicion::ReadOnly);
        }
        event
    }

    fn react(&mut self, woken: Woken) -> Next {
        match woken {
            Woken::News => self.heed().into(),
            Woken::Tick if self.replay_until.is_some_and(|until| Instant::now() >= until) => {
                self.give_up("deadline").into()
            }
            Woken::Tick => {
                self.decide(Input::Tick);
                Next::Wake
            }
            Woken::Joined(joined) => {
                self.joining = None;
                match *joined {
                    Ok(joined) => self.attach(joined).into(),
                    Err(error) => self.not_joined(error).into(),
                }
            }
            Woken::Turn(grant) => {
                if let Some(line) = self.line.take() {
                    let Line { pod, address, turn } = *line;
                    drop(turn);
                    match grant {
                        Some(grant) => self.granted(address, pod, grant),
                        None => self.not_granted(&pod),
                    }
                }
                Next::Wake
            }
            Woken::Relay(event) => self.relayed(event),
        }
    }

    /// Something is new about the world.
    fn heed(&mut self) -> Option<End> {
        if self.routes.has_changed().is_err() {
            return Some(End::Said(Complaint::new(Code::ShuttingDown))); // the watch has ended: so does the process
        }
        self.decide(Input::Routes);
        self.want_if_needed(); // one whose wait had an end listens again as soon as somebody is there
        self.heed_phase()
    }

    /// The process drains, or stops: at once where there is nothing to finish.
    fn heed_phase(&mut self) -> Option<End> {
        let ends = match self.shared.shutdown.phase() {
            Phase::Serving => false,
            Phase::Draining => !std::mem::replace(&mut self.draining, true) && !self.moored,
            Phase::Stopped => true,
        };
        ends.then(|| End::Said(Complaint::new(Code::ShuttingDown)))
    }

    fn relayed(&mut self, event: Event) -> Next {
        match event {
            Event::ClientGone | Event::Terminated => Next::End(End::Gone),
            Event::BackendEnded => Next::End(End::Silent),
            Event::Violation(complaint) => Next::End(End::Said(complaint)),
            Event::Demand => {
                self.want();
                Next::Wake
            }
            Event::BackendLost(suspicion) => self.lost(suspicion).into(),
            Event::Boundary if self.draining => Next::End(End::Said(Complaint::new(Code::ShuttingDown))),
            Event::Boundary if self.machine.is_leaving() || self.relay.state.in_doubt() => Next::Reconsider,
            Event::Boundary => {
                self.step_off();
                Next::Wake
            }
            Event::Question => Next::Ask,
            Event::Replayed => {
                self.replay_until = None;
                self.shared.metrics.replayed("replayed", "ok");
                info!(parent: &self.span(), reason = self.reason, "what was lost has been run again");
                Next::Wake
            }
            Event::Mismatch => self.give_up("mismatch").into(),
            Event::Stale => {
                let end = self.part("stale_statement");
                if end.is_none() {
                    self.decide(Input::Lost);
                    self.want_if_needed();
                }
                end.into()
            }
        }
    }

    /// A request, or a channel, needs a backend.
    fn want(&mut self) {
        if *self.machine.stage() == Stage::Loose {
            self.wanted_at = self.now;
            self.decide(Input::Wanted);
        }
    }

    /// A session that listens, or that has a lost transaction to run again, wants a backend even while its client is silent.
    fn want_if_needed(&mut self) {
        if self.relay.keeps_for_channels() || self.relay.is_open() {
            self.want();
        }
    }

    /// The machine gives up on a wait.
    fn refuse(&mut self, mut complaint: Complaint) -> Option<End> {
        if std::mem::take(&mut self.queued) && complaint.code != Code::TooManyHeld {
            let waited = format!("waited {} ms in line", self.shared.terms.hold.as_millis());
            complaint = Complaint::with(Code::PoolExhausted, waited);
        }
        if let (Some(refusal), Some(detail)) = (self.refusal.take(), complaint.detail.as_mut()) {
            detail.push_str("; the last try to connect: ");
            detail.push_str(&refusal);
        }
        if self.relay.is_open() {
            return self.give_up("hold");
        }
        self.shared.metrics.switched(self.reason, "gave_up");
        info!(parent: &self.span(), %complaint, "request refused");
        if !self.greeted {
            return Some(End::Said(complaint.fatal()));
        }
        let status = self.relay.status();
        self.relay.refuse(&complaint, status);
        None
    }

    /// The end: the last word, and both connections.
    async fn finish(mut self: Box<Self>, end: End) {
        let mut message = BytesMut::new();
        // Nobody hears that a socket is shut down before it is closed; the end of TLS is a message.
        let closes = !matches!(end, End::Gone) || self.relay.speaks_tls();
        match end {
            End::Gone | End::Silent => {}
            End::Said(complaint) => {
                self.shared.metrics.error(complaint.code);
                info!(parent: &self.span(), %complaint, "session ended by pgmoor");
                answer::complain(&mut message, &complaint.fatal());
            }
            End::Quoted(body) => answer::quote(&mut message, &body),
        }
        if self.relay.is_open() {
            self.call_off();
        }
        count_pins(&self.shared.metrics, self.pins, Pins::default());
        if self.relay.is_idle() && self.moored {
            self.give_back();
        }
        self.place.moor(None);
        (self.joining, self.line, self.held) = (None, None, None); // nobody waits behind a client that reads nothing
        if !message.is_empty() {
            self.relay.say(&message);
        }
        // A client that does not read its last word is left.
        let relay = &mut self.relay;
        let _ = timeout(LAST_WORD, poll_fn(|cx| relay.poll_drain_client(cx))).await;
        if closes {
            let _ = timeout(LAST_WORD, relay.close_client()).await;
        }
        self.relay.count(0);
        if let Some(stream) = self.relay.detach() {
            take_leave(stream).await;
        }
        self.slot = None;
        debug!(parent: &self.span(), "session ended");
    }
}

/// Pins that came, and pins that went.
fn count_pins(metrics: &Metrics, before: Pins, now: Pins) {
    now.iter().filter(|pin| !before.has(*pin)).for_each(|pin| metrics.pinned(pin.as_str()));
    before.iter().filter(|pin| !now.has(*pin)).for_each(|pin| metrics.unpinned(pin.as_str()));
}
