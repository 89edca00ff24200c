//! Who is primary, and what every other pod is: a function of the evidence, not of the order it came in.

use std::collections::BTreeMap;

use crate::ids::{PodId, PodName, SystemId, Timeline};

use super::Settings;
use super::evidence::{LeaderSighting, ProbeReport, RoleHint};
use super::pod::Pod;
use super::routing::{Primary, Role, Vacancy};

/// What outlives a pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// The leader object; `None` until it was heard of, and until then nobody is named.
    pub(super) leader: Option<LeaderSighting>,
    /// The last proven primary, until its own probe takes it back or another is proven.
    pub(super) incumbent: Option<Incumbent>,
    /// Whose server was proven last, until it is seen up again in recovery.
    pub(super) last: Option<PodName>,
    /// The cluster's system, fixed by the first proven primary.
    pub(super) system: Option<SystemId>,
    /// The highest timeline ever proven.
    pub(super) floor: Timeline,
    /// The watch is broken.
    pub(super) stale: bool,
}

/// The last proven primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Incumbent {
    pub(super) pod: PodId,
    pub(super) basis: Basis,
}

/// Why a primary was believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// The leader object or a label named it.
    Named,
    /// Nobody could name it (the watch was broken), but its timeline surpassed every other's.
    Surpassing,
}

/// The outcome of weighing the evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) primary: Primary,
    pub(super) basis: Basis,
}

/// A pod that claims to be primary and may be believed.
#[derive(Clone, Copy, Debug)]
struct Claim<'a> {
    pod: &'a PodId,
    timeline: Timeline,
    system: SystemId,
    /// The leader object, or without one the label, points at it.
    named: bool,
}

/// Every pod of the cluster, by its stable name.
pub(super) type Pods = BTreeMap<PodName, Pod>;

/// Weighs the evidence for a primary.
pub(super) fn verdict(pods: &Pods, memory: &Memory, settings: &Settings) -> Verdict {
    let all: Vec<Claim<'_>> = pods.values().filter_map(|pod| claim(pod, pods, memory, settings)).collect();
    let (named, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|claim| claim.named);
    let by_timeline_alone = memory.incumbent.as_ref().is_some_and(|it| it.basis == Basis::Surpassing);
    // With the watch broken nobody can name the next primary, and the one that was named no longer proves itself
    // (or its successor was believed for its timeline alone, and yields to a higher one).
    // A pod of this very system that is out of recovery on a timeline above every one proven before was promoted
    // after all that: PostgreSQL starts a new timeline at a promotion and at no other time, and it left the floor's
    // history when it did. So following it cannot go back. It could follow a promotion nobody should have made;
    // the alternative is an outage for as long as the API server's, and the leader object is obeyed again as soon
    // as it can be read. Without a primary proven before, there is nothing to surpass and the hold goes on.
    let by_timeline = memory.stale && memory.system.is_some() && (named.is_empty() || by_timeline_alone);
    let surpassing = others.into_iter().filter(|claim| by_timeline && claim.timeline > memory.floor);
    let claims: Vec<Claim<'_>> = named.into_iter().chain(surpassing).collect();
    let Some(top) = claims.iter().max_by_key(|claim| claim.timeline) else {
        return nobody(vacancy(pods, memory));
    };
    // The higher timeline wins; equal ones, and timelines of different systems (not comparable), are a tie.
    let rivals =
        |claim: &Claim<'_>| claim.pod != top.pod && (claim.timeline == top.timeline || claim.system != top.system);
    if claims.iter().any(rivals) {
        return nobody(Vacancy::Contested);
    }
    let basis = if top.named { Basis::Named } else { Basis::Surpassing };
    Verdict { primary: Primary::Proven { pod: top.pod.clone(), timeline: top.timeline }, basis }
}

/// Whether the leader object, or without one the label, points at this pod; or it stands where it was last proven.
pub(super) fn is_named(pod: &Pod, pods: &Pods, memory: &Memory) -> bool {
    // The floor is the timeline the incumbent was proven on. A new timeline needs a new name: otherwise it would
    // depend on who answers first whether an incumbent without its label, or a pod with it, is followed upwards.
    let stands = pod.report.is_some_and(|report| report.timeline == Some(memory.floor));
    let incumbent = memory.incumbent.as_ref().filter(|incumbent| stands && incumbent.pod == pod.sighting.id);
    let surpassed = incumbent.is_some_and(|incumbent| incumbent.basis == Basis::Surpassing);
    match &memory.leader {
        None => false,
        Some(LeaderSighting::Nobody) => surpassed,
        Some(LeaderSighting::Names(name)) => surpassed || name == pod.name(),
        // A primary keeps its standing without its label: Patroni takes the label away from a pod that restarts.
        // Its own next probe, asked at once, decides.
        Some(LeaderSighting::NotUsed) => {
            incumbent.is_some() || pod.sighting.label == RoleHint::Primary || are_unlabelled(pods)
        }
    }
}

/// No pod has a label: probes alone decide, and every pod is a candidate.
fn are_unlabelled(pods: &Pods) -> bool {
    pods.values().all(|pod| pod.sighting.label == RoleHint::Unknown)
}

fn vacancy(pods: &Pods, memory: &Memory) -> Vacancy {
    let named = match &memory.leader {
        None | Some(LeaderSighting::Nobody) => false,
        Some(LeaderSighting::Names(_)) => true,
        Some(LeaderSighting::NotUsed) => pods.values().any(|pod| is_named(pod, pods, memory)),
    };
    if named { Vacancy::Unproven } else { Vacancy::Unnamed }
}

/// The pod's own claim to be primary, if it may be believed.
fn claim<'a>(pod: &'a Pod, pods: &Pods, memory: &Memory, settings: &Settings) -> Option<Claim<'a>> {
    let report = pod.report.filter(|report| !report.in_recovery)?;
    let timeline = report.timeline?;
    let incumbent = memory.incumbent.as_ref().is_some_and(|incumbent| incumbent.pod == pod.sighting.id);
    // A primary that was proven survives a blink; one that never was must be answering now.
    let answers = if incumbent { !pod.failures.doubt(settings.failures_to_doubt) } else { !pod.failures.any() };
    let believed = answers
        && pod.sighting.address.is_some()
        && !pod.is_stranger_to(memory.system)
        && timeline >= memory.floor
        && pod.barred.is_none_or(|barred| timeline > barred)
        && pod.void_before.is_none_or(|void| report.asked_at >= void);
    let named = is_named(pod, pods, memory);
    believed.then_some(Claim { pod: &pod.sighting.id, timeline, system: report.system_id, named })
}

fn nobody(vacancy: Vacancy) -> Verdict {
    Verdict { primary: Primary::Nobody(vacancy), basis: Basis::Named }
}

/// The system replicas are compared with: the fixed one, or before there is one, the one all pods agree on
/// (a standby cluster has no primary, yet it serves reads).
pub(super) fn system(pods: &Pods, memory: &Memory) -> Option<SystemId> {
    if memory.system.is_some() {
        return memory.system;
    }
    let mut reported = pods.values().filter_map(|pod| pod.report).map(|report| report.system_id);
    let first = reported.next()?;
    reported.all(|other| other == first).then_some(first)
}

/// What a pod is, given who is primary. `memory.floor` already counts the primary; `system` is [`system`]'s.
pub(super) fn role(
    pod: &Pod,
    primary: &Primary,
    memory: &Memory,
    system: Option<SystemId>,
    settings: &Settings,
) -> Role {
    let top = match primary {
        Primary::Proven { pod: proven, .. } if *proven == pod.sighting.id => return Role::Primary,
        Primary::Proven { timeline, .. } => Some(*timeline),
        Primary::Nobody(_) => None,
    };
    let Some(report) = pod.report else {
        return Role::Unknown;
    };
    if system != Some(report.system_id) {
        return Role::Unknown;
    }
    if report.in_recovery {
        let fit = is_fit(pod, &report, memory, settings);
        return Role::Replica { fit, lag: report.lag, replayed: report.lsn };
    }
    let superseded = match report.timeline {
        Some(timeline) => {
            timeline < memory.floor
                || pod.barred.is_some_and(|barred| timeline <= barred)
                || top.is_some_and(|top| timeline <= top)
        }
        None => top.is_some(),
    };
    if superseded { Role::Superseded } else { Role::Unknown }
}

/// Whether a standby may serve reads. One that still receives a timeline below the floor follows a dead primary:
/// it has replayed all it will ever get, so its lag of zero says nothing.
fn is_fit(pod: &Pod, report: &ProbeReport, memory: &Memory, settings: &Settings) -> bool {
    let fresh = match settings.lag_limit {
        None => true,
        Some(limit) => report.lag.is_some_and(|lag| lag <= limit),
    };
    fresh
        && pod.sighting.ready
        && pod.sighting.address.is_some()
        && report.timeline.is_none_or(|timeline| timeline >= memory.floor)
        && !pod.failures.silent(settings.failures_to_doubt)
}
