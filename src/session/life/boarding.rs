//! Getting a backend: an idle one at once, or one that is waited for; and giving it back to whoever is next.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::info;

use crate::backend::Target;
use crate::backend::pool::{Answer, Fit, Grant, Key, Parked, Pool, Slot};
use crate::continuity::Input;
use crate::ids::PodId;
use crate::session::join::{Case, Joined, Order, join};
use crate::topology::routing::Need;
use crate::wire::TxStatus;

use super::{End, LENT, Life};

impl Life {
    /// Gets a backend on this pod: an idle one at once, or one that is waited for.
    pub(super) fn order(&mut self, pod: PodId, address: std::net::SocketAddr) {
        let pool = self.pool_of(&pod);
        let (identity, state) = (&self.identity, &self.relay.state);
        let answer = pool.ask(|papers| {
            if !Arc::ptr_eq(&papers.flavour, &identity.flavour) && papers.flavour != identity.flavour {
                Fit::Not
            } else if papers.setup.fits(state) {
                Fit::Exactly
            } else {
                Fit::Changed
            }
        });
        match answer {
            Answer::Now(Grant::Backend(parked, slot)) if self.greeted && self.may_board(&pod) => {
                self.board(*parked, slot);
            }
            answer @ (Answer::Now(_) | Answer::Later(_) | Answer::Closed) => {
                self.queued = matches!(answer, Answer::Later(_));
                self.await_backend(pod, address, answer);
            }
        }
    }

    /// What listens for this session is its database's ear.
    fn hears(&self) -> bool {
        self.shared.terms.pools && *self.machine.need() == Need::Write
    }

    /// An idle backend can be taken at once. On a pod that is new to this session, what listens for others comes first.
    fn may_board(&self, pod: &PodId) -> bool {
        let known = self.last.as_ref() == Some(pod);
        self.relay.may_board() && (known || !self.hears() || self.shared.ears.is_ready(&self.home, pod))
    }

    fn pool_of(&mut self, pod: &PodId) -> Arc<Pool> {
        if let Some(pool) = self.pool.as_ref().filter(|pool| *pool.pod() == *pod && !pool.is_closed()) {
            return Arc::clone(pool);
        }
        let (database, user) = (Arc::clone(&self.identity.database), Arc::clone(&self.identity.user));
        let pool = self.shared.pools.of(&Key { pod: pod.clone(), database, user });
        self.pool = Some(Arc::clone(&pool));
        pool
    }

    fn await_backend(&mut self, pod: PodId, address: std::net::SocketAddr, answer: Answer) {
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
            answer,
            state: self.relay.state.clone(),
            listens: !hears,
            ears: hears.then(|| (self.shared.ears.clone(), self.home.clone())),
            aborted: self.relay.pipeline.status() == TxStatus::Failed,
            lifetime: self.shared.dice.about(self.shared.terms.lifetime),
            case,
            gates: self.shared.gates.clone(),
            metrics: Arc::clone(&self.shared.metrics),
            timeout: self.shared.terms.connect,
            writes: *self.machine.need() == Need::Write,
        };
        self.joining = Some(Box::pin(join(order)));
    }

    /// Takes an idle backend, and goes on at once.
    fn board(&mut self, parked: Parked, slot: Slot) {
        let Parked { stream, papers } = parked;
        self.berth = Some(papers.berth.target.pod.clone());
        self.last.clone_from(&self.berth);
        self.place.moor(Some(Arc::clone(&papers.berth)));
        self.slot = Some(slot);
        self.relay.board(stream, papers);
        self.decide(Input::Joined);
        self.tenure = self.routes.borrow().tenure;
    }

    /// A backend is there, in this session's state.
    pub(super) fn attach(&mut self, joined: Joined) -> Option<End> {
        let Joined { stream, papers, slot, received, status, verdict } = joined;
        let (berth, parameters) = (Arc::clone(&papers.berth), Arc::clone(&papers.parameters));
        if self.reason != LENT {
            let took_ms = self.wanted_at.elapsed().as_millis() as u64;
            info!(pod = %berth.target.pod, reason = self.reason, took_ms, "backend joined");
        }
        self.relay.attach(stream, &received, papers);
        self.relay.pipeline.settle(status);
        self.slot = Some(slot);
        self.berth = Some(berth.target.pod.clone());
        self.last.clone_from(&self.berth);
        self.place.moor(Some(berth));
        if !self.greeted {
            self.greet();
        } else if self.reason != LENT {
            self.shared.metrics.switched(self.reason, "kept");
        }
        (self.refusal, self.queued) = (None, false);
        self.decide(Input::Joined);
        let end = self.make_good(verdict, &parameters);
        self.tenure = self.routes.borrow().tenure;
        end
    }

    /// Gives the backend to whoever is next; nothing of the session is left on it that is not known.
    pub(super) fn give_back(&mut self) {
        let slot = self.slot.take();
        self.place.moor(None);
        let parked = self.relay.give_back();
        // A cancel request that is on its way would hit somebody else.
        let parked = parked.filter(|(_, papers)| papers.berth.cancels() == 0);
        self.berth = None;
        if let (Some(slot), Some((stream, papers))) = (slot, parked) {
            slot.park(stream, papers);
        }
        self.reason = LENT;
    }
}
