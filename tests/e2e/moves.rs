//! The main job: the primary's pod is deleted, then crashes, under idle and writing sessions; none of them is dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::faults::{self, Loss};
use crate::cluster::toolbox::PatroniVersion;
use crate::ledger::{self, Writers};
use crate::observer::Observer;
use crate::sleepers;
use crate::stage::{FAILOVER, Stage};

const IDLE: usize = 20;
const WRITING: usize = 20;
const PAUSE: Duration = Duration::from_millis(5);
/// What pgmoor may add to Patroni's own promotion, at the median over the writers.
const BEYOND: Duration = Duration::from_millis(250);

#[test]
fn sessions_survive_a_deleted_and_a_crashed_primary_with_patroni_4() {
    Stage::play("moves-4", PatroniVersion::V4, |overlay| overlay, survive);
}

#[test]
fn sessions_survive_a_deleted_and_a_crashed_primary_with_patroni_3() {
    Stage::play("moves-3", PatroniVersion::V3, |overlay| overlay, survive);
}

async fn survive(stage: Arc<Stage>) {
    stage.synchronous().await;
    let sleepers = sleepers::bed(&stage, IDLE).await;

    let old = stage.cluster.primary().await.unwrap();
    under_load(&stage, "kubectl delete pod", async || {
        stage.cluster.kubectl(&["delete", "pod", &old, "--wait=false"]).await.unwrap();
        stage.cluster.wait_primary(Some(&old), FAILOVER).await.unwrap();
    })
    .await;
    for sleeper in &sleepers {
        sleeper.check("after the deletion").await;
    }
    stage.cluster.wait_ready(3, FAILOVER).await.unwrap();

    let old = stage.cluster.primary().await.unwrap();
    under_load(&stage, "kill -9 of the whole pod", async || {
        faults::kill9(stage.cluster.kubelet(), stage.cluster.namespace(), &old).unwrap();
        // Its container is started again, and Patroni may take up the lock once more: either pod may lead now.
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage.cluster.wait_primary(None, FAILOVER).await.unwrap();
    })
    .await;
    for sleeper in &sleepers {
        sleeper.check("after the crash").await;
    }
    if std::env::var_os("PGMOOR_TELL").is_some() {
        println!("{}", stage.proxy.logs(400).await);
    }
    let moved = stage.metric("pgmoor_switches_total").await;
    // Who was between two transactions, as most are at any moment, had no backend to move from.
    assert!(moved > 0.0, "who had a backend then moved, and it was counted: {moved}");
}

/// Runs writers, does something to the cluster, and holds the books against the table.
async fn under_load(stage: &Arc<Stage>, what: &str, fault: impl AsyncFnOnce()) {
    let writers = Writers::start(stage, WRITING, PAUSE).await;
    let observer = Observer::start(stage).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    fault().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let books = writers.finish().await;
    let promoted = observer.promoted_after(began).await;
    let told = ledger::audit(stage, &books).await;
    let waits = ledger::waits_beyond(&books, began, promoted);
    let median = waits[waits.len() / 2];
    stage.tell(&format!(
        "{what}: promoted after {:.2} s; beyond that clients waited {} ms at the median, {} ms at most; longest write {:.2} s; {told:?}; 0 of {} connections dropped",
        (promoted - began).as_secs_f64(),
        median.as_millis(),
        waits.last().unwrap().as_millis(),
        ledger::longest(&books).as_secs_f64(),
        IDLE + WRITING,
    ));
    assert_eq!(waits.len(), WRITING, "every writer went on\n{}", stage.logs().await);
    assert!(median <= BEYOND, "{what}: {median:?} beyond the promotion\n{}", stage.logs().await);
    stage
        .cluster
        .connect_as(&stage.cluster.primary().await.unwrap(), "app", "app")
        .await
        .unwrap()
        .batch_execute("TRUNCATE ledger")
        .await
        .unwrap();
}

#[test]
fn sessions_survive_a_lost_node() {
    Stage::play("lost", PatroniVersion::V4, |overlay| overlay, lost);
}

/// The node falls silent: nobody resets a connection, and Kubernetes goes on showing the pod as the primary.
async fn lost(stage: Arc<Stage>) {
    stage.synchronous().await;
    let sleepers = sleepers::bed(&stage, IDLE).await;
    let old = stage.cluster.primary().await.unwrap();
    under_load(&stage, "the primary's node falls silent", async || {
        faults::lose_node(stage.cluster.kubelet(), stage.cluster.namespace(), &old, Loss::Frozen).await.unwrap();
        stage.cluster.wait_primary(Some(&old), FAILOVER).await.unwrap();
    })
    .await;
    for sleeper in &sleepers {
        sleeper.check("after the loss").await;
    }
    faults::return_node(stage.cluster.kubelet(), stage.cluster.namespace(), &old).await.unwrap();
    stage.cluster.wait_ready(3, FAILOVER).await.unwrap();
    for sleeper in &sleepers {
        sleeper.check("after its return").await;
    }
}
