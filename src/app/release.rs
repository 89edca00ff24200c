//! Who goes on when a primary is proven: its gate begins narrow, so that everyone who was held comes at a rising rate.

use std::sync::Arc;

use tokio::sync::watch;

use crate::backend::gate::Gates;
use crate::ids::PodId;
use crate::topology::routing::{Primary, RoutingTable};

/// Narrows the gate of every newly proven primary of one cluster, until its watch ends.
///
/// Sessions hear of a new primary at the same moment as this does, and some of them sooner. So the gates of all pods are
/// narrowed already when nobody is primary any more: each of them may be the next, and may have grown wide with readers.
pub(super) async fn paced(mut routes: watch::Receiver<Arc<RoutingTable>>, gates: Gates) {
    let mut before = routes.borrow_and_update().primary.clone();
    while routes.changed().await.is_ok() {
        let now = Arc::clone(&routes.borrow_and_update());
        for pod in to_narrow(&before, &now) {
            gates.reopen(pod);
        }
        before = now.primary.clone();
    }
}

/// The primary that was not proven before (another pod, another incarnation, a higher timeline, or the same one come back
/// after nobody was); everybody, when nobody has just taken its place. Each time everyone who waited comes at once.
fn to_narrow<'a>(before: &Primary, now: &'a RoutingTable) -> Vec<&'a PodId> {
    match (before, &now.primary) {
        (before, after) if before == after => Vec::new(),
        (_, Primary::Proven { pod, .. }) => vec![pod],
        (Primary::Proven { .. }, Primary::Nobody(_)) => now.pods.values().map(|route| &route.id).collect(),
        (Primary::Nobody(_), Primary::Nobody(_)) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::gate::Pace;
    use crate::ids::{Epoch, PodName, Timeline};
    use crate::topology::routing::{Role, Route, Vacancy};

    fn proven(uid: &str, timeline: u32) -> Primary {
        Primary::Proven { pod: PodId::new("pg-0", uid), timeline: Timeline(timeline) }
    }

    fn route(name: &str, uid: &str) -> (PodName, Route) {
        let id = PodId::new(name, uid);
        (id.name.clone(), Route { id, address: None, role: Role::Unknown, draining: false, ready: true, zone: None })
    }

    fn table(primary: Primary) -> Arc<RoutingTable> {
        let floor = Timeline(1);
        Arc::new(RoutingTable {
            cluster: "orders".into(),
            epoch: Epoch(1),
            primary,
            pods: [route("pg-0", "a"), route("pg-1", "b")].into(),
            floor,
            stale: false,
            history: None,
            tenure: 0,
        })
    }

    #[test]
    fn a_primary_is_new_when_it_was_not_the_proven_one() {
        let nobody = Primary::Nobody(Vacancy::Unproven);
        let unnamed = Primary::Nobody(Vacancy::Unnamed);
        let everybody = ["pg-0/a", "pg-1/b"].as_slice();
        let cases = [
            (proven("a", 1), proven("a", 1), [].as_slice()),
            (proven("a", 1), proven("a", 2), &["pg-0/a"]),
            (proven("a", 1), proven("b", 1), &["pg-0/b"]),
            (nobody.clone(), proven("a", 1), &["pg-0/a"]),
            (proven("a", 1), nobody.clone(), everybody),
            (nobody.clone(), unnamed, &[]),
            (nobody.clone(), nobody, &[]),
        ];
        for (before, now, narrowed) in cases {
            let table = table(now);
            let pods: Vec<String> = to_narrow(&before, &table).into_iter().map(PodId::to_string).collect();
            assert_eq!(pods, narrowed, "{before:?} then {:?}", table.primary);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_gate_of_a_new_primary_is_narrow_again() {
        let gates = Gates::new(Pace { start: 1, max: 9 });
        let (pod, replica) = (PodId::new("pg-0", "a"), PodId::new("pg-1", "b"));
        let width = |pod| gates.load(pod).map(|load| load.width);
        for pod in [&pod, &replica] {
            gates.enter(pod).await.succeeded();
        }
        let (tables, routes) = watch::channel(table(proven("a", 1)));
        let task = tokio::spawn(paced(routes, gates.clone()));
        let settle = || tokio::time::sleep(Duration::from_secs(1));
        settle().await;

        tables.send_replace(table(proven("a", 1)));
        settle().await;
        assert_eq!(width(&pod), Some(2), "nothing new");
        tables.send_replace(table(proven("a", 2)));
        settle().await;
        assert_eq!((width(&pod), width(&replica)), (Some(1), Some(2)), "promoted");
        tables.send_replace(table(Primary::Nobody(Vacancy::Unproven)));
        settle().await;
        assert_eq!(width(&replica), Some(1), "it may be the next");
        drop(tables);
        task.await.unwrap();
    }
}
