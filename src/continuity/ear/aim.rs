//! Where an ear is to listen, and until when sessions are kept from there for its sake.

use std::time::{Duration, Instant};

use crate::ids::PodId;

/// How long sessions are kept from a new primary. The ear is there first, if it gets there at all.
pub const GRACE: Duration = Duration::from_secs(2);

/// One aim.
#[derive(Debug)]
pub(super) struct Aim {
    pod: PodId,
    /// `None`: everything is heard there, or nobody waits for that any more.
    until: Option<Instant>,
}

impl Aim {
    pub(super) fn new(pod: PodId, now: Instant) -> Self {
        Self { pod, until: Some(now + GRACE) }
    }

    pub(super) const fn pod(&self) -> &PodId {
        &self.pod
    }

    /// Until when sessions wait, if they do.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Nobody needs to wait.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// Nobody waits any more.
    pub(super) const fn reached(&mut self) {
        self.until = None;
    }

    /// The backend there is gone.
    pub(super) fn lost(&mut self, now: Instant) {
        self.until = Some(now + GRACE);
    }
}
