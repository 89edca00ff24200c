//! Looks after idle backends: closes those that are old, idle too long, or on pods that are not to be used; keeps the least number open.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::debug;

use crate::backend::pool::{Key, Load, Papers, Parked, Pools, Slot, Way};
use crate::backend::{self, Backend, Berth};
use crate::ids::{ClusterName, PodId};
use crate::metrics::Metrics;
use crate::session::Shared;
use crate::topology::routing::{Role, RoutingTable};

/// One round of looking. [`Pools`] tell idle time in it.
const ROUND: Duration = Duration::from_secs(1);

/// Runs until the watches of the clusters end.
pub(super) async fn keep(
    shared: watch::Receiver<Arc<Shared>>,
    tables: Vec<watch::Receiver<Arc<RoutingTable>>>,
    metrics: Arc<Metrics>,
) {
    let pools = shared.borrow().pools.clone();
    let mut openings = JoinSet::new();
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        if tables.iter().any(|table| table.has_changed().is_err()) {
            return;
        }
        drop(pools.expire(Instant::now()));
        while openings.try_join_next().is_some() {}
        for (way, slot) in pools.short() {
            let (connect, lifetime) = {
                let shared = shared.borrow();
                (shared.terms.connect, shared.dice.about(shared.terms.lifetime))
            };
            openings.spawn(open(way, slot, connect, lifetime));
        }
        count(&pools.loads(), &tables, &metrics);
    }
}

/// Opens a backend that nobody waits for. If that fails, the next round tries again.
async fn open(way: Way, slot: Slot, connect: Duration, lifetime: Duration) {
    let now = Instant::now();
    match backend::connect(&way.target, &way.identity.login(), now + connect).await {
        Ok(Backend { stream, key, parameters, .. }) => {
            let (berth, flavour) = (Berth::new(way.target, key), Arc::clone(&way.identity.flavour));
            let papers = Papers::fresh(berth, flavour, Arc::new(parameters), now + lifetime);
            slot.park(Box::new(Parked { stream, papers }));
        }
        Err(error) => debug!(%error, pod = %way.target.pod, "no backend opened to be idle"),
    }
}

/// Closes the pools of pods that are not to be used any more, at each new routing table.
pub(super) async fn sweep(pools: Pools, mut tables: Vec<watch::Receiver<Arc<RoutingTable>>>) {
    loop {
        let now: Vec<Arc<RoutingTable>> =
            tables.iter_mut().map(|table| Arc::clone(&table.borrow_and_update())).collect();
        pools.keep_only(|pod| now.iter().any(|table| is_usable(table, pod)));
        let changes = tables.iter_mut().map(|table| Box::pin(table.changed()));
        if futures::future::select_all(changes).await.0.is_err() {
            return;
        }
    }
}

/// Backends of this pod may be lent: it is there, not superseded, and not to be left.
fn is_usable(table: &RoutingTable, pod: &PodId) -> bool {
    table.route(pod).is_some_and(|route| match route.role {
        Role::Primary | Role::Replica { .. } | Role::Unknown => !route.draining,
        Role::Superseded => false,
    })
}

fn count(loads: &BTreeMap<Key, Load>, tables: &[watch::Receiver<Arc<RoutingTable>>], metrics: &Metrics) {
    let mut sums: BTreeMap<(ClusterName, PodId), Load> = BTreeMap::new();
    for table in tables {
        let table = table.borrow();
        for route in table.pods.values() {
            sums.insert((table.cluster.clone(), route.id.clone()), Load::default());
        }
    }
    for (key, load) in loads {
        if let Some((_, sum)) = sums.iter_mut().find(|((_, pod), _)| *pod == key.pod) {
            sum.lent += load.lent;
            sum.idle += load.idle;
            sum.waiting += load.waiting;
        }
    }
    for ((cluster, pod), load) in sums {
        metrics.backends(&cluster, &pod.name, load.lent, load.idle, load.waiting);
    }
}
