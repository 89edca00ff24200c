//! The routing table: who is where, as one immutable snapshot.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{ClusterName, Epoch, Lsn, PodId, PodName, Timeline, Zone};

use super::history::History;

mod choice;

pub use choice::{Choice, LeaveReason, Standing, WaitReason};

/// One cluster's roles at one moment. Immutable; a newer one has a higher epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutingTable {
    /// The cluster this table is about.
    pub cluster: ClusterName,
    /// Grows by one whenever anything below differs.
    pub epoch: Epoch,
    /// Who may be written to.
    pub primary: Primary,
    /// How many times a primary was proven, the same one again after nobody was included, or came back in recovery before
    /// another was: who wrote on its timeline, or could be followed on it, in between may have crashed before.
    pub tenure: u64,
    /// Every pod known, by its stable name.
    pub pods: BTreeMap<PodName, Route>,
    /// The highest timeline ever proven on a primary: nothing is written to a pod below it.
    pub floor: Timeline,
    /// The watch is broken: labels and leader are the last known, probes go on.
    pub stale: bool,
    /// Where the proven primary's timeline comes from, as that primary itself tells it. `None` while nobody is proven, or
    /// the history could not be read (yet).
    pub history: Option<Arc<History>>,
}

/// Whether a primary is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Primary {
    /// This incarnation is: named by the leader object (or label) and by its own probe.
    Proven {
        /// The incarnation.
        pod: PodId,
        /// The timeline it writes.
        timeline: Timeline,
    },
    /// Nobody is; writes wait.
    Nobody(Vacancy),
}

/// Why there is no primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vacancy {
    /// No pod is named primary.
    Unnamed,
    /// A pod is named, but its own probe has not proven it (yet).
    Unproven,
    /// Two pods claim it on the same timeline.
    Contested,
}

impl Primary {
    /// The timeline that is written.
    pub const fn timeline(&self) -> Option<Timeline> {
        match self {
            Self::Proven { timeline, .. } => Some(*timeline),
            Self::Nobody(_) => None,
        }
    }
}

impl Vacancy {
    /// The label for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unnamed => "unnamed",
            Self::Unproven => "unproven",
            Self::Contested => "contested",
        }
    }
}

/// One pod in the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Which incarnation.
    pub id: PodId,
    /// Where its PostgreSQL listens.
    pub address: Option<SocketAddr>,
    /// What it is, proven.
    pub role: Role,
    /// To be left: deletionTimestamp, drain annotation or an operator's mark.
    pub draining: bool,
    /// Kubernetes' Ready condition.
    pub ready: bool,
    /// Its availability zone.
    pub zone: Option<Zone>,
}

/// What a pod is, proven by its own probe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    /// The proven primary.
    Primary,
    /// In recovery, of the same system.
    Replica {
        /// Within the lag limit and Ready: may serve reads.
        fit: bool,
        /// Last known lag.
        lag: Option<Duration>,
        /// Last known replay LSN.
        replayed: Option<Lsn>,
    },
    /// It was a primary, or claims to be one, on a superseded timeline: every backend to it is cut.
    Superseded,
    /// Not proven to be anything; also a pod of another system, which is never routed to.
    Unknown,
}

impl Role {
    /// The label for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica { .. } => "replica",
            Self::Superseded => "superseded",
            Self::Unknown => "unknown",
        }
    }
}

/// What a session asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The primary.
    Write,
    /// A replica; the primary too, if allowed.
    Read {
        /// Fall back to the primary when no replica is fit.
        or_primary: bool,
    },
    /// One pod by its stable identity, whatever its role.
    Pod(PodName),
}

impl RoutingTable {
    /// The entry of exactly this incarnation.
    pub fn route(&self, pod: &PodId) -> Option<&Route> {
        self.pods.get(&pod.name).filter(|route| route.id == *pod)
    }

    /// Whether both lead every need to the same places, and let everyone stay or leave alike: they differ at most in their
    /// epoch and in the replicas' lag and LSNs, which change with every probe of a busy replica.
    pub fn same_ways(&self, other: &Self) -> bool {
        // Taken apart whole, so that a new field cannot be forgotten here.
        let Self { cluster, epoch: _, primary, tenure, pods, floor, stale, history } = self;
        *cluster == other.cluster
            && *primary == other.primary
            && *tenure == other.tenure
            && *floor == other.floor
            && *stale == other.stale
            && *history == other.history
            && pods.len() == other.pods.len()
            && pods.iter().all(|(name, route)| other.pods.get(name).is_some_and(|other| route.same_ways(other)))
    }
}

impl Route {
    fn same_ways(&self, other: &Self) -> bool {
        let Self { id, address, role, draining, ready, zone } = self;
        *id == other.id
            && *address == other.address
            && role.same_ways(other.role)
            && *draining == other.draining
            && *ready == other.ready
            && *zone == other.zone
    }
}

impl Role {
    fn same_ways(self, other: Self) -> bool {
        match (self, other) {
            (Self::Replica { fit, lag: _, replayed: _ }, Self::Replica { fit: other, lag: _, replayed: _ }) => {
                fit == other
            }
            (Self::Primary | Self::Replica { .. } | Self::Superseded | Self::Unknown, _) => self == other,
        }
    }
}

#[cfg(test)]
mod tests;
