//! Parting from a backend, wanted or not, and making good what it left open.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::backend::{self, Parameters};
use crate::continuity::ask::Asked;
use crate::continuity::commit::Verdict;
use crate::continuity::{Input, Stage};
use crate::error::{Code, Complaint};
use crate::net::Stream;
use crate::session::ask::ask;
use crate::session::relay::Fate;
use crate::topology::evidence::Suspicion;
use crate::wire::message::write::frontend;

use super::{End, Life};

/// Why a session was evicted.
pub(super) const DRAINED: &str = "drained";

impl Life {
    /// An idle boundary of a session that should leave, or does not know what it has built up.
    pub(super) async fn reconsider(&mut self) -> Option<End> {
        match self.shared.terms.ask {
            Some(patience) => {
                // A planned move does not wait long. Otherwise nothing hurries, and a backend that is only slow is kept.
                let leaves = self.machine.is_leaving();
                let patience = if leaves { patience } else { patience.max(self.shared.terms.connect) };
                if let Some(end) = self.ask(patience).await {
                    return Some(end);
                }
            }
            None => self.relay.state.give_up_doubt(),
        }
        if !self.machine.is_leaving() {
            self.step_off();
        } else if self.is_free() {
            self.leave().await;
        }
        None
    }

    /// It has a backend, and nothing that ties it to it.
    fn is_free(&self) -> bool {
        self.moored && self.relay.state.pins().is_empty()
    }

    /// An idle boundary: the backend is for whoever is next.
    pub(super) fn step_off(&mut self) {
        if self.is_free() && self.shared.terms.pools && !self.relay.keeps_for_channels() {
            self.give_back();
            self.decide(Input::Left);
        }
    }

    /// Asks the backend what the session has built up.
    pub(super) async fn ask(&mut self, patience: Duration) -> Option<End> {
        let deadline = Instant::now() + patience;
        let (mut backend, mut unseen) = self.relay.lend()?;
        let answered = ask(&mut backend.stream, &self.identity.user, &mut self.relay.state, deadline).await;
        self.now = Instant::now();
        match answered {
            Ok((asked, others)) => {
                if asked == Asked::Failed {
                    warn!(parent: &self.span(), "the backend could not say what its session has built up: going by what was seen");
                    self.relay.state.give_up_doubt();
                }
                unseen.extend_from_slice(&others);
                self.relay.reattach(backend, &unseen);
                None
            }
            Err(_) => {
                self.relay.state.give_up_doubt();
                drop(backend);
                self.lost(Suspicion::Vanished)
            }
        }
    }

    /// Gives the backend up, everything carried.
    pub(super) async fn leave(&mut self) {
        if let Stage::Leaving { why, .. } = self.machine.stage() {
            self.reason = why.as_str();
        }
        self.moored = false;
        self.place.moor(None);
        if let Some(stream) = self.relay.detach() {
            take_leave(stream).await;
            self.now = Instant::now();
        }
        self.slot = None;
        self.decide(Input::Left);
        self.want_if_needed();
    }

    /// The backend ended by itself.
    pub(super) fn lost(&mut self, suspicion: Suspicion) -> Option<End> {
        if let Some(pod) = self.berth() {
            (self.realm.doubt)(pod, suspicion);
        }
        let end = self.part(suspicion.as_str());
        if end.is_none() {
            self.decide(Input::Lost);
            self.want_if_needed();
        }
        end
    }

    /// Parts from a backend that is gone or forbidden: what was in flight is run again elsewhere or answered, or the session
    /// ends.
    pub(super) fn part(&mut self, reason: &'static str) -> Option<End> {
        let pod = self.berth().cloned()?;
        self.moored = false;
        let depth = self.relay.pipeline.depth();
        if depth > 0 && reason == DRAINED {
            self.call_off();
        }
        self.place.moor(None);
        self.reason = reason;
        let pins = self.relay.state.pins();
        let fate = self.relay.wreck(reason == Suspicion::Vanished.as_str());
        self.slot = None;
        info!(parent: &self.span(), %pod, reason, in_flight = depth, ?fate, "backend lost");
        let pins = if fate == Fate::Open { self.relay.state.pins() } else { pins };
        match fate {
            Fate::Cut(_) => return Some(self.half_told(reason)),
            Fate::Told(why) => {
                self.replay_until = None;
                self.shared.metrics.replayed("refused", why);
            }
            Fate::Unharmed => {}
            Fate::Open => {
                let terms = &self.shared.terms;
                let patience = terms.replay.as_ref().map_or(terms.hold, |replay| replay.deadline);
                self.replay_until.get_or_insert_with(|| Instant::now() + patience);
            }
        }
        if !pins.is_empty() {
            self.shared.metrics.switched(reason, "pinned");
            return Some(End::Said(Complaint::with(Code::Pinned, pins.describe())));
        }
        None
    }

    /// What the last backend left open is told, or run again. `verdict`: on the COMMIT in doubt.
    pub(super) fn make_good(&mut self, verdict: Option<Verdict>, parameters: &Parameters) -> Option<End> {
        let outcome = match verdict {
            None => "",
            Some(Verdict::Committed) => "committed",
            Some(Verdict::Lost) => "lost",
            Some(Verdict::Pending) => "pending",
            Some(Verdict::Unknown(why)) => why.as_str(),
        };
        if verdict.is_some() {
            info!(parent: &self.span(), outcome, "a COMMIT whose answer was lost");
            self.shared.metrics.commit_settled(outcome);
        }
        match verdict {
            Some(Verdict::Committed) => {
                self.relay.tell_committed(parameters);
                self.replay_until = None;
                None
            }
            Some(Verdict::Unknown(_) | Verdict::Pending) => self.give_up(outcome),
            Some(Verdict::Lost) | None => match self.relay.replay(parameters) {
                Ok(()) => None,
                Err(why) => self.give_up(why),
            },
        }
    }

    /// What the last backend left open is not run again: the client is told, and goes on.
    pub(super) fn give_up(&mut self, why: &'static str) -> Option<End> {
        info!(parent: &self.span(), why, "what was lost is not run again");
        self.shared.metrics.replayed(if why == "mismatch" { "mismatch" } else { "gave_up" }, why);
        self.replay_until = None;
        self.call_off();
        self.moored = false;
        self.place.moor(None);
        (self.joining, self.line, self.slot) = (None, None, None);
        let fate = self.relay.fall_back();
        self.decide(Input::GivenUp);
        if let Fate::Cut(_) = fate {
            return Some(self.half_told(why));
        }
        self.want_if_needed();
        None
    }

    /// What runs on the backend is not wanted any more. PostgreSQL would notice the end of the connection only when it has
    /// something to say: one that waits for a lock would wait on, and hold its own.
    pub(super) fn call_off(&self) {
        let Some(berth) = self.shared.registry.berth(&self.place.key()) else { return };
        let deadline = Instant::now() + self.shared.terms.connect;
        tokio::spawn(async move {
            // Who does not take it is gone, or will notice by itself.
            if let Some(key) = &berth.key {
                let _ = backend::cancel(&berth.target, key, deadline).await;
            }
        });
    }

    /// The client has half a message, whose other half is gone.
    fn half_told(&self, reason: &'static str) -> End {
        self.shared.metrics.switched(reason, "cut_within_a_row");
        warn!(parent: &self.span(), "the backend was lost in the midst of a message that was already half delivered: the client is dropped");
        End::Silent
    }
}

/// Says Terminate to a backend: it ends without an entry in PostgreSQL's log.
pub(super) async fn take_leave(mut stream: Stream) {
    let mut message = BytesMut::new();
    frontend::terminate(&mut message);
    // A backend that does not take it learns from the end of the connection.
    let _ = timeout(Duration::from_millis(100), async {
        stream.write_all(&message).await?;
        stream.shutdown().await
    })
    .await;
}
