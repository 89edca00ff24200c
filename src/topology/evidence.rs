//! What can be learned about a cluster, from whom: sightings of pods and of the leader object, probes, sessions' evidence.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::ids::{Lsn, PodId, PodName, SystemId, Timeline, Zone};

use super::history::History;

/// One thing that happened, as the topology machine hears it.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A complete list of the cluster's pods (first list, or relist after a gap): replaces all pods at once.
    Relisted(Vec<PodSighting>),
    /// One pod appeared or changed.
    PodSeen(PodSighting),
    /// One incarnation was deleted.
    PodGone(PodId),
    /// The HA manager's leader object was read or changed.
    LeaderSeen(LeaderSighting),
    /// The watch of the pods or of the leader object broke (API server gone, 410, 429): what is known is kept, marked stale.
    WatchLost,
    /// Both watches work again; what they showed after the gap was handed in before this.
    WatchRestored,
    /// A probe ended.
    Probed {
        /// The incarnation that was asked.
        pod: PodId,
        /// What it said, or why it said nothing.
        outcome: Result<ProbeReport, ProbeFailure>,
    },
    /// A pod told where the timeline comes from that it writes. Handed in before the [`Event::Probed`] of the same turn, so that
    /// the table which proves the pod has it.
    HistoryRead {
        /// The incarnation that told it. Two pods promoted apart can write the same timeline with different histories.
        pod: PodId,
        /// What it told.
        history: History,
    },
    /// A session saw something that does not fit: the pod is probed at once; nothing else follows from it alone.
    Doubted {
        /// The incarnation the session was talking to.
        pod: PodId,
        /// What it saw.
        suspicion: Suspicion,
    },
    /// An operator's mark: this pod is to be left (true) or not any more (false).
    Drain {
        /// The stable name: the mark follows the pod, not the incarnation.
        pod: PodName,
        /// Set or cleared.
        on: bool,
    },
    /// Nothing but the passing of time ([`super::Topology::poll_timeout`]).
    Tick,
}

/// One pod as the API server (or the fixed list) shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodSighting {
    /// Which incarnation.
    pub id: PodId,
    /// Where PostgreSQL listens; `None` until the pod has an address.
    pub address: Option<SocketAddr>,
    /// What the role label says: a hint.
    pub label: RoleHint,
    /// The pod's Ready condition.
    pub ready: bool,
    /// It has a deletionTimestamp or the drain annotation.
    pub leaving: bool,
    /// Its availability zone, where known.
    pub zone: Option<Zone>,
}

/// What a role label can say. A missing label is not "replica".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoleHint {
    /// The label's value is one of the preset's primary values.
    Primary,
    /// The label's value is one of the preset's replica values.
    Replica,
    /// No label, or a value that says neither.
    Unknown,
}

/// What the HA manager's leader object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaderSighting {
    /// This kind of cluster has no leader object: the label is the strongest hint.
    NotUsed,
    /// The object is absent, or names nobody.
    Nobody,
    /// The object names this pod.
    Names(PodName),
}

/// What a pod's own PostgreSQL said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// `pg_control_system().system_identifier`.
    pub system_id: SystemId,
    /// The timeline it writes (primary) or receives (standby). `None` when a standby cannot tell.
    pub timeline: Option<Timeline>,
    /// Primary: insert LSN. Standby: replay LSN.
    pub lsn: Option<Lsn>,
    /// On a standby, how long ago the last replayed transaction was committed; zero when it has replayed all it received.
    pub lag: Option<Duration>,
    /// When the probe was *sent*: an answer is never newer than its question.
    pub asked_at: Instant,
}

/// Why a probe said nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeFailure {
    /// Connection refused, reset or closed.
    Unreachable,
    /// No answer within the probe's own deadline.
    TimedOut,
    /// PostgreSQL is starting up or shutting down (57P03 and kin).
    NotAccepting,
    /// Authentication failed: a fault of the configuration.
    Refused,
    /// It answered something that is not an answer.
    Garbled,
}

impl ProbeFailure {
    /// The label for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::NotAccepting => "not_accepting",
            Self::Refused => "refused",
            Self::Garbled => "garbled",
        }
    }
}

/// What a session can see that makes a pod doubtful.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suspicion {
    /// 25006: a write met a read-only server.
    ReadOnly,
    /// 57P01 / 57P02 / 57P03: it is going down, crashed, or not up.
    ShuttingDown,
    /// Connecting was refused or timed out.
    ConnectFailed,
    /// The connection ended without a word.
    Vanished,
}

impl Suspicion {
    /// The label for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "read_only",
            Self::ShuttingDown => "shutting_down",
            Self::ConnectFailed => "connect_failed",
            Self::Vanished => "vanished",
        }
    }
}
