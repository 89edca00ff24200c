//! Who goes on when a primary is proven: its gate begins narrow, so that everyone who was held comes at a rising rate.

use std::sync::Arc;

use tokio::sync::watch;

use crate::backend::gate::Gates;
use crate::ids::PodId;
use crate::topology::routing::{Primary, RoutingTable};

/// Narrows the gate of every newly proven primary of one cluster, until its watch ends.
pub(super) async fn paced(mut routes: watch::Receiver<Arc<RoutingTable>>, gates: Gates) {
    let mut before = routes.borrow_and_update().primary.clone();
    while routes.changed().await.is_ok() {
        let now = routes.borrow_and_update().primary.clone();
        if let Some(pod) = newly_proven(&before, &now) {
            gates.reopen(pod);
        }
        before = now;
    }
}

/// The primary that was not proven before: another pod, another incarnation, a higher timeline, or the same one come back
/// after nobody was. Each time everyone who waited comes at once.
fn newly_proven<'a>(before: &Primary, now: &'a Primary) -> Option<&'a PodId> {
    match now {
        Primary::Proven { pod, .. } if now != before => Some(pod),
        Primary::Proven { .. } | Primary::Nobody(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::backend::gate::Pace;
    use crate::ids::{Epoch, Timeline};
    use crate::topology::routing::Vacancy;

    fn proven(uid: &str, timeline: u32) -> Primary {
        Primary::Proven { pod: PodId::new("pg-0", uid), timeline: Timeline(timeline) }
    }

    fn table(primary: Primary) -> Arc<RoutingTable> {
        let floor = Timeline(1);
        Arc::new(RoutingTable {
            cluster: "orders".into(),
            epoch: Epoch(1),
            primary,
            pods: BTreeMap::new(),
            floor,
            stale: false,
        })
    }

    #[test]
    fn a_primary_is_new_when_it_was_not_the_proven_one() {
        let nobody = Primary::Nobody(Vacancy::Unproven);
        let cases = [
            (proven("a", 1), proven("a", 1), false),
            (proven("a", 1), proven("a", 2), true),
            (proven("a", 1), proven("b", 1), true),
            (nobody.clone(), proven("a", 1), true),
            (proven("a", 1), nobody.clone(), false),
            (nobody.clone(), nobody, false),
        ];
        for (before, now, new) in cases {
            assert_eq!(newly_proven(&before, &now).is_some(), new, "{before:?} then {now:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_gate_of_a_new_primary_is_narrow_again() {
        let gates = Gates::new(Pace { start: 1, max: 9 });
        let pod = PodId::new("pg-0", "a");
        let width = || gates.load(&pod).map(|load| load.width);
        let widen = async || gates.enter(&pod).await.succeeded();
        widen().await;
        let (tables, routes) = watch::channel(table(proven("a", 1)));
        let task = tokio::spawn(paced(routes, gates.clone()));
        let settle = || tokio::time::sleep(Duration::from_secs(1));
        settle().await;

        tables.send_replace(table(proven("a", 1)));
        settle().await;
        assert_eq!(width(), Some(2), "nothing new");
        tables.send_replace(table(proven("a", 2)));
        settle().await;
        assert_eq!(width(), Some(1), "promoted");
        drop(tables);
        task.await.unwrap();
    }
}
