//! Orders against a table that is moved by hand.

use super::*;
use crate::ids::{Epoch, Timeline};
use crate::topology::routing::{Role, Route, Vacancy};

/// The first pod is the proven primary, the others are fit replicas.
pub(super) fn table(pods: &[(&str, &str)]) -> RoutingTable {
    let route = |at: usize, (name, uid): &(&str, &str)| {
        let role = if at == 0 { Role::Primary } else { Role::Replica { fit: true, lag: None, replayed: None } };
        let address = "127.0.0.1:5432".parse().ok();
        (
            PodName::new(name),
            Route { id: PodId::new(name, uid), address, role, draining: false, ready: true, zone: None },
        )
    };
    let primary = match pods.first() {
        Some((name, uid)) => Primary::Proven { pod: PodId::new(name, uid), timeline: Timeline(3) },
        None => Primary::Nobody(Vacancy::Unnamed),
    };
    RoutingTable {
        cluster: "orders".into(),
        epoch: Epoch(1),
        primary,
        pods: pods.iter().enumerate().map(|(at, pod)| route(at, pod)).collect(),
        floor: Timeline(3),
        stale: false,
        history: None,
        tenure: 0,
    }
}
