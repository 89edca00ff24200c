//! LISTEN in a session that lends its backend: the database's ear listens for it, and what it hears goes between two units.
//!
//! ```text
//!   LISTEN c ──► the ear listens to c, confirmed ──► LISTEN c goes to the backend ──► committed: c is told from now on
//!                (the request waits)                 (its transaction decides)
//!   any unit ──► its ReadyForQuery waits until the ear has heard what was committed before it: as PostgreSQL tells a session
//!                what it, or somebody it has heard of, has notified it of before the command's end; one round trip
//! ```
//! What the session's own backend is notified of is not told: the ear hears it, too. A backend on which LISTEN was run is closed
//! when it is given back. Outside of transactions only: protocol-flow, "Asynchronous Operations", and sql-notify.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};
use tracing::warn;

use crate::backend::{Identity, Parameters};
use crate::continuity::ear::{Channel, Heard, Moment};
use crate::error::{Code, Complaint};
use crate::session::ear::{Caller, Subscription};
use crate::session::{Realm, Shared};
use crate::wire::TxStatus;
use crate::wire::sql::Verb;

use super::{Event, Relay};

/// How one session would listen, and what it does of it.
pub(in crate::session) struct Listening {
    shared: Arc<Shared>,
    realm: Arc<Realm>,
    identity: Arc<Identity>,
    /// The process id that the client knows its server by.
    own: i32,
    /// While it listens, or is about to.
    part: Option<Box<Part>>,
}

/// One session's part in its database's ear.
#[derive(Debug)]
struct Part {
    subscription: Subscription,
    /// Channels that requests wait for.
    awaited: BTreeSet<Channel>,
    /// Until then.
    patience: Option<Pin<Box<Sleep>>>,
    /// Channels the ear listens to, or never will.
    settled: BTreeSet<Channel>,
    /// When the unit ended that ended last.
    moment: Option<Moment>,
    /// All up to there has been told.
    passed: bool,
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening").field("part", &self.part).finish_non_exhaustive()
    }
}

impl Listening {
    pub(in crate::session) fn new(shared: Arc<Shared>, realm: Arc<Realm>, identity: Arc<Identity>, own: i32) -> Self {
        Self { shared, realm, identity, own, part: None }
    }

    /// Whether these statements may go out: the ear hears the channels they LISTEN to. `told`: what the client knows of its
    /// server's settings.
    pub(super) fn allows<'a>(&mut self, verbs: impl Iterator<Item = &'a Verb>, told: &Parameters) -> bool {
        for verb in verbs {
            if let Verb::Listen { channel } = verb {
                self.hear(&Channel::new(channel), told);
            }
        }
        self.part.as_ref().is_none_or(|part| part.awaited.is_empty())
    }

    /// Has the ear listen to a channel.
    fn hear(&mut self, channel: &Channel, told: &Parameters) {
        // How long the ear's login may take.
        let timeout = self.shared.terms.connect;
        let part = self.part.get_or_insert_with(|| {
            let caller = Caller {
                database: self.identity.database.to_string(),
                user: self.identity.user.to_string(),
                credentials: self.identity.credentials.clone(),
                encoding: told.get("client_encoding").map_or("UTF8", String::as_str).to_owned(),
                timeout,
            };
            Box::new(Part::new(self.shared.ears.subscribe(&self.realm, caller)))
        });
        part.hear(channel, timeout);
    }

    /// The end of a unit waits: what was notified before it is told before it.
    pub(super) fn holds_end(&mut self) -> bool {
        self.part.as_mut().is_some_and(|part| part.holds_end())
    }

    /// A unit ended, outside of any transaction: these are the channels listened to.
    fn unit_ended(&mut self, channels: &BTreeSet<String>, told: &Parameters) {
        // A function, or a statement that was prepared before, may have listened to some that were not asked for.
        for channel in channels {
            self.hear(&Channel::new(channel), told);
        }
        if self.part.as_mut().is_some_and(|part| !part.unit_ended(channels)) {
            self.part = None;
        }
    }
}

impl Part {
    fn new(subscription: Subscription) -> Self {
        let (awaited, settled) = (BTreeSet::new(), BTreeSet::new());
        Self { subscription, awaited, patience: None, settled, moment: None, passed: false }
    }

    fn hear(&mut self, channel: &Channel, timeout: Duration) {
        if !self.settled.contains(channel) {
            self.subscription.add(channel);
            self.awaited.insert(channel.clone());
            self.patience.get_or_insert_with(|| Box::pin(sleep(timeout)));
        }
    }

    fn holds_end(&mut self) -> bool {
        let holds = !self.settled.is_empty() && !self.passed;
        if holds {
            self.moment.get_or_insert_with(|| self.subscription.moment());
        }
        holds
    }

    /// These are the channels listened to. `false`: none, nor any that is about to be.
    fn unit_ended(&mut self, channels: &BTreeSet<String>) -> bool {
        (self.passed, self.moment) = (false, None);
        let channels: BTreeSet<Channel> = channels.iter().map(Channel::new).collect();
        self.settled.retain(|channel| channels.contains(channel));
        self.subscription.set(channels.union(&self.awaited).cloned());
        !(channels.is_empty() && self.awaited.is_empty())
    }
}

impl Relay {
    /// Looks after what the ear was asked for. `true`: a request may go on.
    pub(super) fn poll_ear(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(listening) = &mut self.listening else { return false };
        let Some(part) = listening.part.as_deref_mut() else { return false };
        let before = part.awaited.len();
        if part.patience.as_mut().is_some_and(|patience| patience.as_mut().poll(cx).is_ready()) {
            warn!(
                session = self.state.owner(),
                "what listens for all has no server yet: what is notified before it has one will be missed"
            );
            part.settled.append(&mut part.awaited);
        }
        let (settled, subscription) = (&mut part.settled, &part.subscription);
        part.awaited.retain(|channel| match subscription.poll_confirmed(cx, channel) {
            Poll::Pending => true,
            // One that PostgreSQL refuses, it refuses in the client's own statement, too.
            Poll::Ready(Ok(()) | Err(_)) => {
                settled.insert(channel.clone());
                false
            }
        });
        if part.awaited.is_empty() {
            part.patience = None;
        }
        let mut moved = before > 0 && part.awaited.is_empty();
        if let Some(moment) = part.moment
            && !part.passed
            && part.subscription.poll_passed(cx, moment).is_ready()
        {
            part.passed = true;
            moved = true;
        }
        moved
    }

    /// Tells the client what was heard, where PostgreSQL would: outside of transactions, between two answers.
    pub(super) fn tell_heard(&mut self, cx: &mut Context<'_>) -> Result<(), Event> {
        let Some(listening) = &self.listening else { return Ok(()) };
        let Some(part) = &listening.part else { return Ok(()) };
        let between = part.passed || (self.status() == TxStatus::Idle && self.pipeline.is_quiet());
        if !between || self.lost.is_some() || self.half || !self.down.at_boundary() {
            return Ok(());
        }
        let held =
            self.backend.as_ref().and_then(|backend| backend.papers.berth.key.as_ref()).map(|key| key.process_id);
        while self.down.is_drained() {
            match part.subscription.poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Heard::Overrun) => {
                    return Err(Event::Violation(Complaint::new(Code::ListenerOverrun)));
                }
                Poll::Ready(Heard::Notification(notification)) => {
                    let channels = &self.state.settled().channels;
                    if channels.iter().any(|channel| notification.is_about(&Channel::new(channel))) {
                        self.down.inject(&notification.told_to(listening.own, held));
                        if self.down.poll_drain(cx, &mut self.client).map_err(|_| Event::ClientGone)?.is_pending() {
                            break;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// A unit ended, outside of any transaction.
    pub(super) fn sync_channels(&mut self) {
        if let Some(listening) = &mut self.listening {
            listening.unit_ended(&self.state.settled().channels, &self.told);
        }
    }

    /// It listens on the backend it has, and wants one even while its client is silent.
    pub(in crate::session) fn keeps_for_channels(&self) -> bool {
        self.listening.is_none() && self.state.listens()
    }
}
