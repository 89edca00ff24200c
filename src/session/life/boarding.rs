//! Getting a backend: an idle one at once, or one that is waited for; and giving it back to whoever is next.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, info};

use crate::backend::pool::{Answer, Fit, Grant, Key, Parked, Pool, Slot, Turn};
use crate::backend::{Berth, Target};
use crate::continuity::{Input, Stage};
use crate::ids::PodId;
use crate::session::ear::Home;
use crate::session::join::{Case, JoinError, Joined, Order, join};
use crate::topology::evidence::Suspicion;
use crate::topology::routing::Need;
use crate::wire::TxStatus;

use super::{End, LENT, Life};

/// A place in a pool's line.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) turn: Turn,
    pub(super) pod: PodId,
    pub(super) address: SocketAddr,
}

impl Life {
    /// Gets a backend on this pod: an idle one at once, or one that is waited for.
    pub(super) fn order(&mut self, pod: PodId, address: SocketAddr) {
        let mut answer = self.ask_pool(&pod, address);
        if matches!(answer, Answer::Closed) && self.pool.take().is_some() {
            answer = self.ask_pool(&pod, address); // the pod is to be used again
        }
        match answer {
            Answer::Now(grant) => self.granted(address, pod, grant),
            Answer::Later(turn) => {
                self.queued = true;
                self.relay.stow();
                self.line = Some(Box::new(Line { turn, pod, address }));
            }
            Answer::Closed => self.not_granted(&pod),
        }
    }

    fn ask_pool(&mut self, pod: &PodId, address: SocketAddr) -> Answer {
        let pool = self.pool_of(pod);
        pool.ask(|papers| match papers.serves(&self.identity.flavour, address) {
            false => Fit::Not,
            true if papers.setup.fits(&self.relay.state) => Fit::Exactly,
            true => Fit::Changed,
        })
    }

    /// The pool has this for the session.
    pub(super) fn granted(&mut self, address: SocketAddr, pod: PodId, grant: Grant) {
        self.queued = false;
        match grant {
            // Of another kind than the session's, or from where the pod was before: room for one of its own.
            Grant::Backend(parked, slot) if !parked.papers.serves(&self.identity.flavour, address) => {
                drop(parked);
                self.await_backend(pod, address, Grant::Room(slot));
            }
            Grant::Backend(parked, slot) if self.greeted && self.may_board(&pod) => self.board(parked, slot),
            grant @ (Grant::Backend(..) | Grant::Room(_)) => self.await_backend(pod, address, grant),
        }
    }

    /// The pod's pools are closed.
    pub(super) fn not_granted(&mut self, pod: &PodId) {
        let words = format!("{pod} is not to be used any more");
        self.try_later(Suspicion::ConnectFailed, words);
    }

    /// What listens for this session is its database's ear.
    fn hears(&self) -> bool {
        self.shared.terms.pools && *self.machine.need() == Need::Write
    }

    /// Its database.
    fn home(&self) -> Home {
        Home::new(&self.realm.name, Arc::clone(&self.identity.database))
    }

    /// An idle backend can be taken at once. On a pod that is new to this session, what listens for others comes first.
    fn may_board(&mut self, pod: &PodId) -> bool {
        let known = self.last.as_ref() == Some(pod);
        self.relay.may_board() && (known || !self.hears() || self.shared.ears.is_ready(&self.home(), pod))
    }

    fn pool_of(&mut self, pod: &PodId) -> Arc<Pool> {
        if let Some(pool) = self.pool.as_ref().filter(|pool| *pool.pod() == *pod) {
            return Arc::clone(pool);
        }
        let (database, user) = (Arc::clone(&self.identity.database), Arc::clone(&self.identity.user));
        let pool = self.shared.pools.of(&Key { pod: pod.clone(), database, user });
        self.pool = Some(Arc::clone(&pool));
        pool
    }

    fn await_backend(&mut self, pod: PodId, address: SocketAddr, grant: Grant) {
        let tls = (self.realm.tls)(&pod.name);
        let patience = self.replay_until.unwrap_or_else(|| Instant::now() + self.shared.terms.hold);
        let case = self.relay.case().map(|(mark, committed)| Case {
            mark: mark.clone(),
            committed: committed.clone(),
            routes: self.routes.clone(),
            tenure: self.tenure,
            until: patience,
        });
        let hears = self.hears();
        let order = Order {
            target: Target { pod, address, tls, dial: self.shared.dial.clone() },
            identity: Arc::clone(&self.identity),
            state: self.relay.state.clone(),
            listens: !hears,
            ears: hears.then(|| (self.shared.ears.clone(), self.home())),
            aborted: self.relay.pipeline.status() == TxStatus::Failed,
            lifetime: self.shared.dice.about(self.shared.terms.lifetime),
            case,
            gates: self.shared.gates.clone(),
            metrics: Arc::clone(&self.shared.metrics),
            timeout: self.shared.terms.connect,
            writes: *self.machine.need() == Need::Write,
        };
        self.joining = Some(Box::pin(join(order, grant)));
    }

    /// Takes an idle backend, and goes on at once.
    fn board(&mut self, backend: Box<Parked>, slot: Slot) {
        self.moor(&backend.papers.berth, slot);
        self.relay.board(backend);
        self.decide(Input::Joined);
        self.tenure = self.table.tenure;
    }

    /// It has this backend now.
    fn moor(&mut self, berth: &Arc<Berth>, slot: Slot) {
        self.slot = Some(slot);
        self.moored = true;
        if self.last.as_ref() != Some(&berth.target.pod) {
            self.last = Some(berth.target.pod.clone());
        }
        self.place.moor(Some(Arc::clone(berth)));
    }

    /// A backend is there, in this session's state.
    pub(super) fn attach(&mut self, joined: Joined) -> Option<End> {
        let Joined { backend, slot, received, status, verdict } = joined;
        let (berth, parameters) = (Arc::clone(&backend.papers.berth), Arc::clone(&backend.papers.parameters));
        if self.reason != LENT {
            let took_ms = self.wanted_at.elapsed().as_millis() as u64;
            info!(parent: &self.span(), pod = %berth.target.pod, reason = self.reason, took_ms, "backend joined");
        }
        self.moor(&berth, slot);
        self.relay.attach(backend, &received);
        self.relay.pipeline.settle(status);
        if self.relay.state.is_pristine() {
            let need = self.machine.need();
            self.identity.greetings.remember(need, &berth.target.pod, self.table.tenure, &parameters);
        }
        if !self.greeted {
            self.greet();
        } else if self.reason != LENT {
            self.shared.metrics.switched(self.reason, "kept");
        }
        (self.refusal, self.queued) = (None, false);
        self.decide(Input::Joined);
        self.tenure = self.table.tenure;
        self.make_good(verdict, &parameters)
    }

    /// There is none.
    pub(super) fn not_joined(&mut self, error: JoinError) -> Option<End> {
        match error {
            JoinError::Later(suspicion, words) => {
                self.try_later(suspicion, words);
                None
            }
            JoinError::Refused(body) => {
                self.identity.greetings.forget();
                self.shared.metrics.switched(self.reason, "refused");
                Some(End::Quoted(body))
            }
            JoinError::No(complaint) => {
                self.shared.metrics.switched(self.reason, "not_portable");
                Some(End::Said(complaint))
            }
        }
    }

    /// Another try, perhaps elsewhere, may help.
    fn try_later(&mut self, suspicion: Suspicion, words: String) {
        if let Stage::Joining { pod, .. } = self.machine.stage() {
            debug!(parent: &self.span(), %pod, words, "backend not joined");
            (self.realm.doubt)(pod, suspicion);
        }
        self.refusal = Some(words.into());
        self.queued = false;
        self.decide(Input::JoinFailed);
    }

    /// Gives the backend to whoever is next; nothing of the session is left on it that is not known.
    pub(super) fn give_back(&mut self) {
        let slot = self.slot.take();
        self.place.moor(None);
        let parked = self.relay.give_back();
        // A cancel request that is on its way would hit somebody else.
        let parked = parked.filter(|backend| backend.papers.berth.cancels() == 0);
        self.moored = false;
        if let (Some(slot), Some(backend)) = (slot, parked) {
            slot.park(backend);
        }
        self.reason = LENT;
    }
}
