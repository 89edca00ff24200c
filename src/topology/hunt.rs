//! Who is asked how often: calmly in quiet times, fast while the next primary is hunted.

use std::time::{Duration, Instant};

use crate::ids::PodName;

use super::evidence::{LeaderSighting, RoleHint};
use super::pod::Pod;
use super::routing::Primary;
use super::{Settings, Topology, judge};

impl Topology {
    /// When [`super::evidence::Event::Tick`] is due, if nothing happens before; `None` while there is nobody to probe.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let patience = self.patience();
        let of_pod = |pod: &Pod| pod.asking.give_up_at(patience).or_else(|| self.due(pod));
        self.pods.values().filter_map(of_pod).min()
    }

    /// How long an outcome is waited for.
    fn patience(&self) -> Duration {
        self.settings.probe_deadline * 2
    }

    /// Forgets questions that never got an outcome; they count as timed out.
    pub(super) fn give_up_probes(&mut self, now: Instant) {
        let patience = self.patience();
        for pod in self.pods.values_mut() {
            if pod.asking.give_up_at(patience).is_some_and(|at| at <= now) {
                pod.asking.give_up(now);
                pod.failures.count_given_up();
            }
        }
    }

    /// Sends the questions that are due.
    pub(super) fn ask(&mut self, now: Instant) {
        let is_due = |pod: &&Pod| self.due(pod).is_some_and(|due| due <= now);
        let due: Vec<PodName> = self.pods.values().filter(is_due).map(|pod| pod.name().clone()).collect();
        for name in due {
            if let Some(pod) = self.pods.get_mut(&name)
                && let Some(address) = pod.sighting.address
            {
                pod.asking.send(now);
                self.probes.push_back((pod.sighting.id.clone(), address));
            }
        }
    }

    /// When this pod's next question is due; `None` without an address, or while one is in flight.
    fn due(&self, pod: &Pod) -> Option<Instant> {
        pod.sighting.address?;
        pod.asking.due(self.cadence(pod))
    }

    fn cadence(&self, pod: &Pod) -> Duration {
        let Settings { probe_interval, hunt_interval, hunt_limit, .. } = self.settings;
        let wavers = match &self.table.primary {
            // A proven primary whose last probe failed is asked again soon, until it is doubted or answers.
            Primary::Proven { pod: proven, .. } if *proven == pod.sighting.id => pod.failures.waver(),
            Primary::Proven { .. } | Primary::Nobody(_) => false,
        };
        let hunted = self.is_hunting() && self.is_candidate(pod);
        let in_time = pod.asking.asked().is_none_or(|asked| asked < self.hunt_from + hunt_limit);
        if wavers || (hunted && in_time) { hunt_interval } else { probe_interval }
    }

    /// No primary is proven; or, without a leader object, a pod that still recovers has got the label.
    fn is_hunting(&self) -> bool {
        let by_label = self.memory.leader == Some(LeaderSighting::NotUsed);
        let promoting = |pod: &Pod| pod.recovers() && pod.sighting.label == RoleHint::Primary;
        match self.table.primary {
            Primary::Nobody(_) => true,
            Primary::Proven { .. } => by_label && self.pods.values().any(promoting),
        }
    }

    /// It may be the next primary.
    fn is_candidate(&self, pod: &Pod) -> bool {
        self.memory.stale || pod.sighting.label == RoleHint::Primary || judge::is_named(pod, &self.pods, &self.memory)
    }
}
