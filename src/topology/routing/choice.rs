//! What a routing table answers to a session: where to go, and whether to stay.

use std::net::SocketAddr;

use crate::ids::{PodId, PodName, Zone};

use super::{Need, Primary, Role, Route, RoutingTable, Vacancy};

/// Where a session's need leads now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Here.
    To {
        /// The incarnation.
        pod: PodId,
        /// Where its PostgreSQL listens.
        address: SocketAddr,
    },
    /// Nowhere yet: hold, and ask the next table.
    Wait(WaitReason),
}

/// Why there is nowhere to go yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitReason {
    /// No primary is proven.
    NoPrimary(Vacancy),
    /// The primary is to be left; its successor is not proven yet.
    PrimaryDraining,
    /// No replica is fit and staying, and the primary is not allowed, or not there.
    NoReplica,
    /// The pod asked for (or the primary) is not there, or has no address.
    PodAbsent,
    /// The pod asked for has not said what it is, or it is a stranger.
    PodUnproven,
    /// The pod asked for is on a superseded timeline: whatever it holds is not the cluster's data any more.
    PodSuperseded,
}

impl WaitReason {
    /// The label for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPrimary(Vacancy::Unnamed) => "primary_unnamed",
            Self::NoPrimary(Vacancy::Unproven) => "primary_unproven",
            Self::NoPrimary(Vacancy::Contested) => "primary_contested",
            Self::PrimaryDraining => "primary_draining",
            Self::NoReplica => "no_replica",
            Self::PodAbsent => "pod_absent",
            Self::PodUnproven => "pod_unproven",
            Self::PodSuperseded => "pod_superseded",
        }
    }
}

/// How a session that is on a pod stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It stays.
    Good,
    /// It leaves at the next boundary.
    Leave(LeaveReason),
    /// The connection is cut at once: nothing more may be written there.
    Cut,
}

impl Standing {
    /// The label for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Leave(_) => "leave",
            Self::Cut => "cut",
        }
    }
}

/// Why a session is to leave a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaveReason {
    /// The pod drains.
    Draining,
    /// It is not the proven primary any more, and nobody else is yet.
    NotPrimary,
    /// It was a replica and is the primary now, or the other way round, and a pod of the role wanted is there.
    RoleChanged,
    /// The replica lags, is not Ready or does not answer its probes, and a better pod is there.
    Unfit,
    /// This incarnation is gone.
    Gone,
}

impl LeaveReason {
    /// The label for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::NotPrimary => "not_primary",
            Self::RoleChanged => "role_changed",
            Self::Unfit => "unfit",
            Self::Gone => "gone",
        }
    }
}

impl Route {
    /// A replica that may be given new readers.
    fn takes_readers(&self) -> bool {
        match self.role {
            Role::Replica { fit, .. } => fit && !self.draining && self.address.is_some(),
            Role::Primary | Role::Superseded | Role::Unknown => false,
        }
    }

    fn or_absent(&self) -> Choice {
        match self.address {
            Some(address) => Choice::To { pod: self.id.clone(), address },
            None => Choice::Wait(WaitReason::PodAbsent),
        }
    }
}

impl RoutingTable {
    /// Chooses a pod for a need. `zone` is this pgmoor's own zone; `load` counts the sessions already on a pod;
    /// `dice` is any random number, so that the choice itself stays pure.
    pub fn choose(&self, need: &Need, zone: Option<&Zone>, load: impl Fn(&PodId) -> usize, dice: u64) -> Choice {
        match need {
            Need::Write => self.choose_primary(),
            Need::Read { or_primary } => match self.choose_replica(zone, load, dice) {
                Some(route) => route.or_absent(),
                None if *or_primary && self.takes_writers() => self.choose_primary(),
                None => Choice::Wait(WaitReason::NoReplica),
            },
            Need::Pod(name) => self.choose_pod(name),
        }
    }

    fn choose_primary(&self) -> Choice {
        match &self.primary {
            Primary::Nobody(vacancy) => Choice::Wait(WaitReason::NoPrimary(*vacancy)),
            Primary::Proven { pod, .. } => match self.route(pod) {
                None => Choice::Wait(WaitReason::PodAbsent),
                Some(route) if route.draining => Choice::Wait(WaitReason::PrimaryDraining),
                Some(route) => route.or_absent(),
            },
        }
    }

    /// The less loaded of two random ones, of this zone if it has any: as even as choosing the least loaded of all,
    /// without every pgmoor running to the same one.
    fn choose_replica(&self, zone: Option<&Zone>, load: impl Fn(&PodId) -> usize, dice: u64) -> Option<&Route> {
        let all: Vec<&Route> = self.pods.values().filter(|route| route.takes_readers()).collect();
        let near: Vec<&Route> =
            all.iter().copied().filter(|route| zone.is_some() && route.zone.as_ref() == zone).collect();
        let candidates = if near.is_empty() { all } else { near };
        let one = *pick(&candidates, dice & 0xFFFF_FFFF)?;
        let others: Vec<&Route> = candidates.iter().copied().filter(|route| route.id != one.id).collect();
        match pick(&others, dice >> 32) {
            Some(other) if load(&other.id) < load(&one.id) => Some(other),
            Some(_) | None => Some(one),
        }
    }

    /// A named pod serves whatever its role, draining too: it is what was asked for. But never one that has not
    /// proven to be of this cluster, or is superseded.
    fn choose_pod(&self, name: &PodName) -> Choice {
        let Some(route) = self.pods.get(name) else {
            return Choice::Wait(WaitReason::PodAbsent);
        };
        match route.role {
            Role::Primary | Role::Replica { .. } => route.or_absent(),
            Role::Superseded => Choice::Wait(WaitReason::PodSuperseded),
            Role::Unknown => Choice::Wait(WaitReason::PodUnproven),
        }
    }

    /// How a session with this need stands on the incarnation it is connected to.
    pub fn standing(&self, pod: &PodId, need: &Need) -> Standing {
        let route = self.route(pod);
        if route.is_some_and(|route| route.role == Role::Superseded) {
            return Standing::Cut;
        }
        match need {
            Need::Write => self.standing_of_writer(pod, route),
            Need::Read { or_primary } => self.standing_of_reader(pod, route, *or_primary),
            Need::Pod(_) if route.is_none() => Standing::Leave(LeaveReason::Gone),
            Need::Pod(_) => Standing::Good,
        }
    }

    fn standing_of_writer(&self, pod: &PodId, route: Option<&Route>) -> Standing {
        match &self.primary {
            Primary::Proven { pod: proven, .. } if proven != pod => Standing::Cut,
            Primary::Proven { .. } if route.is_some_and(|route| route.draining) => {
                Standing::Leave(LeaveReason::Draining)
            }
            Primary::Proven { .. } => Standing::Good,
            Primary::Nobody(_) if route.is_none() => Standing::Leave(LeaveReason::Gone),
            Primary::Nobody(_) => Standing::Leave(LeaveReason::NotPrimary),
        }
    }

    fn standing_of_reader(&self, pod: &PodId, route: Option<&Route>, or_primary: bool) -> Standing {
        let Some(route) = route else {
            return Standing::Leave(LeaveReason::Gone);
        };
        let leave_if = |better: bool, why| {
            if better { Standing::Leave(why) } else { Standing::Good }
        };
        let other_replica = self.pods.values().any(|other| other.id != *pod && other.takes_readers());
        let elsewhere = other_replica || (or_primary && self.takes_writers());
        match route.role {
            Role::Replica { .. } if route.takes_readers() => Standing::Good,
            Role::Replica { .. } if route.draining => leave_if(elsewhere, LeaveReason::Draining),
            Role::Replica { .. } => leave_if(elsewhere, LeaveReason::Unfit),
            Role::Primary if !or_primary => Standing::Leave(LeaveReason::RoleChanged),
            Role::Primary => leave_if(other_replica, LeaveReason::RoleChanged),
            Role::Unknown => leave_if(elsewhere, LeaveReason::RoleChanged),
            Role::Superseded => Standing::Cut,
        }
    }

    fn takes_writers(&self) -> bool {
        matches!(self.choose_primary(), Choice::To { .. })
    }
}

/// The element a random number points at.
fn pick<T>(items: &[T], dice: u64) -> Option<&T> {
    let count = u64::try_from(items.len()).ok().filter(|count| *count > 0)?;
    items.get(usize::try_from(dice % count).ok()?)
}
