//! What is known of one incarnation: how it was sighted, what its own probes said, how they fail.

use std::sync::Arc;
use std::time::Instant;

use crate::ids::{PodName, SystemId, Timeline};

use super::evidence::{PodSighting, ProbeFailure, ProbeReport};
use super::history::History;
use super::schedule::Asking;

/// One incarnation of a pod. A new uid starts from nothing.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) sighting: PodSighting,
    /// The last accepted answer; kept when later probes fail, because it is what fences a frozen primary.
    pub(super) report: Option<ProbeReport>,
    /// Where the timeline comes from that it writes, by its own word.
    pub(super) history: Option<Arc<History>>,
    pub(super) failures: Failures,
    pub(super) asking: Asking,
    /// The floor when it was last superseded: it is a primary again only above it.
    pub(super) barred: Option<Timeline>,
    /// An answer asked before this cannot make it primary: the leader object turned away from it then.
    pub(super) void_before: Option<Instant>,
}

impl Pod {
    pub(super) fn new(sighting: PodSighting) -> Self {
        Self {
            sighting,
            report: None,
            history: None,
            failures: Failures::default(),
            asking: Asking::default(),
            barred: None,
            void_before: None,
        }
    }

    pub(super) fn name(&self) -> &PodName {
        &self.sighting.id.name
    }

    /// Takes a newer sighting of the same incarnation. True when it is worth a question.
    pub(super) fn sight(&mut self, sighting: PodSighting) -> bool {
        let old = std::mem::replace(&mut self.sighting, sighting);
        let new = &self.sighting;
        old.label != new.label || old.address != new.address || old.ready != new.ready
    }

    /// Its PostgreSQL answered.
    pub(super) fn answered(&mut self, report: ProbeReport) {
        if self.asking.answered(report.asked_at) {
            self.report = Some(report);
            self.failures = Failures::default();
            if report.in_recovery {
                // Promoted again, it writes another timeline, or the same one (restored from a backup) with another past.
                self.history = None;
            }
        }
    }

    /// It told where the timeline comes from that it writes.
    pub(super) fn told(&mut self, history: History) {
        if self.history.as_deref() != Some(&history) {
            self.history = Some(Arc::new(history));
        }
    }

    /// Its PostgreSQL did not answer.
    pub(super) fn failed(&mut self, failure: ProbeFailure) {
        if self.asking.failed() {
            self.failures.count(failure);
        }
    }

    /// Not in recovery, as far as it ever said.
    pub(super) fn writes(&self) -> bool {
        self.report.is_some_and(|report| !report.in_recovery)
    }

    /// In recovery, by its last word.
    pub(super) fn recovers(&self) -> bool {
        self.report.is_some_and(|report| report.in_recovery)
    }

    /// It belongs to another system than this one.
    pub(super) fn is_stranger_to(&self, system: Option<SystemId>) -> bool {
        match (self.report, system) {
            (Some(report), Some(system)) => report.system_id != system,
            (Some(_) | None, None) | (None, Some(_)) => false,
        }
    }
}

/// Probes that failed since the last good answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failures {
    /// Unreachable or not accepting: somebody (a kernel, a postmaster) said no.
    flat: u32,
    /// Timed out or garbled: nobody said anything.
    slow: u32,
    /// Authentication failed. A fault of the configuration says nothing about a primary, so it does not unseat one;
    /// but it measures no lag either.
    refused: u32,
}

impl Failures {
    /// Two flat refusals: one alone may be a postmaster's restart of a crashed child.
    const FLAT_TO_DOUBT: u32 = 2;

    fn count(&mut self, failure: ProbeFailure) {
        let counter = match failure {
            ProbeFailure::Unreachable | ProbeFailure::NotAccepting => &mut self.flat,
            ProbeFailure::TimedOut | ProbeFailure::Garbled => &mut self.slow,
            ProbeFailure::Refused => &mut self.refused,
        };
        *counter = counter.saturating_add(1);
    }

    /// A question was given up without an outcome.
    pub(super) fn count_given_up(&mut self) {
        self.count(ProbeFailure::TimedOut);
    }

    /// Since the last good answer at least one probe failed.
    pub(super) fn any(self) -> bool {
        self.flat > 0 || self.slow > 0 || self.refused > 0
    }

    /// A proven primary with these is asked again soon. A wrong password is not: it does not heal by asking.
    pub(super) fn waver(self) -> bool {
        self.flat > 0 || self.slow > 0
    }

    /// Enough to take a proven primary's proof away.
    pub(super) fn doubt(self, limit: u32) -> bool {
        self.flat >= Self::FLAT_TO_DOUBT || self.slow >= limit
    }

    /// Enough to call a replica's last words too old to serve reads on.
    pub(super) fn silent(self, limit: u32) -> bool {
        self.doubt(limit) || self.flat + self.slow + self.refused >= limit.max(Self::FLAT_TO_DOUBT)
    }
}
