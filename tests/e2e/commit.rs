//! COMMITs that wait for their standby when the primary's node is lost: each is told as what it was.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::cluster::faults::{self, Loss, Part};
use crate::cluster::proxy::Port;
use crate::cluster::toolbox::PatroniVersion;
use crate::cluster::trouble::eventually;
use crate::stage::{FAILOVER, Stage};

const CLIENTS: i32 = 8;

#[test]
fn commits_in_flight_are_told_as_what_they_were() {
    Stage::play("commit", PatroniVersion::V4, |overlay| overlay, resolve);
}

async fn resolve(stage: Arc<Stage>) {
    stage.synchronous().await;
    let setup = stage.client(Port::Rw, 0).await;
    setup.batch_execute("CREATE TABLE told (id int); CREATE TABLE IF NOT EXISTS other (id int)").await.unwrap();
    let before = unknown(&stage).await;
    standing_still(&stage).await;
    replicated(&stage).await;
    assert_eq!(unknown(&stage).await, before, "every outcome was known\n{}", stage.logs().await);
}

/// COMMITs that were told to be unknown.
async fn unknown(stage: &Stage) -> f64 {
    stage.metric(r#"pgmoor_errors_total{code="commit_unknown"}"#).await
}

/// The standbys stand still: what has come as far as their sockets is written when they go on, the rest is gone with the node.
/// (`cuts` has those of which nothing has come.)
async fn standing_still(stage: &Arc<Stage>) {
    let old = stage.cluster.primary().await.unwrap();
    let (kubelet, namespace) = (stage.cluster.kubelet(), stage.cluster.namespace());
    let clients = begin(stage, 0).await;
    let standbys: Vec<String> =
        stage.cluster.pods().await.unwrap().into_iter().map(|pod| pod.name).filter(|pod| *pod != old).collect();
    for standby in &standbys {
        faults::freeze(kubelet, namespace, standby, Part::Postgres).unwrap();
    }
    let commits = commit(clients);
    waiting(stage, &old).await;
    faults::lose_node(kubelet, namespace, &old, Loss::PowerOff).await.unwrap();
    for standby in &standbys {
        faults::thaw(kubelet, namespace, standby, Part::Postgres).unwrap();
    }
    finish(stage, &old, commits, 0, "standbys standing still").await;
}

/// The synchronous standby has the WAL of these on disk, and has not applied it when the primary's node is lost.
async fn replicated(stage: &Arc<Stage>) {
    let old = stage.cluster.primary().await.unwrap();
    let clients = begin(stage, 100).await;
    for client in &clients {
        client.batch_execute("SET LOCAL synchronous_commit = remote_apply").await.unwrap();
    }
    let mut paused = Vec::new();
    for pod in stage.cluster.pods().await.unwrap().into_iter().filter(|pod| pod.name != old) {
        let standby = stage.cluster.connect(&pod.name).await.unwrap();
        standby.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
        paused.push(standby);
    }
    let commits = commit(clients);
    waiting(stage, &old).await;
    // Each commit has been flushed by the standby: it waits for nothing but its replay.
    let primary = stage.cluster.connect(&old).await.unwrap();
    let flushed = "SELECT count(*) FROM pg_stat_replication \
                   WHERE sync_state = 'sync' AND flush_lsn >= pg_current_wal_flush_lsn()";
    eventually("the standby to have it all", FAILOVER, || async {
        let count: i64 = primary.query_one(flushed, &[]).await.ok()?.get(0);
        (count == 1).then_some(())
    })
    .await
    .unwrap();
    faults::lose_node(stage.cluster.kubelet(), stage.cluster.namespace(), &old, Loss::PowerOff).await.unwrap();
    // Patroni compares what was received and replayed; a promotion ends the pause by itself.
    for standby in &paused {
        standby.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    }
    finish(stage, &old, commits, 100, "replicated").await;
}

/// Sessions that have written a row each, the first of them `from`, and not committed it.
async fn begin(stage: &Stage, from: i32) -> Vec<Client> {
    let mut clients = Vec::new();
    for id in 0..CLIENTS {
        let client = stage.client(Port::Rw, id as usize).await;
        client.batch_execute(&format!("BEGIN; INSERT INTO told VALUES ({})", from + id)).await.unwrap();
        clients.push(client);
    }
    clients
}

type Commits = Vec<tokio::task::JoinHandle<(Client, Result<(), tokio_postgres::Error>)>>;

fn commit(clients: Vec<Client>) -> Commits {
    let commit = |client: Client| async move {
        let told = client.batch_execute("COMMIT").await;
        (client, told)
    };
    clients.into_iter().map(|client| tokio::spawn(commit(client))).collect()
}

/// Waits until every COMMIT waits for its standby.
async fn waiting(stage: &Stage, primary: &str) {
    let primary = stage.cluster.connect(primary).await.unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND wait_event = 'SyncRep'";
    eventually("the commits to wait for their standby", FAILOVER, || async {
        let count: i64 = primary.query_one(waiting, &[]).await.ok()?.get(0);
        (count == i64::from(CLIENTS)).then_some(())
    })
    .await
    .unwrap();
}

/// Waits for the new primary and for what is told, and holds it against what is there.
async fn finish(stage: &Arc<Stage>, old: &str, commits: Commits, from: i32, what: &str) {
    let began = Instant::now();
    let new = stage.cluster.wait_primary(Some(old), FAILOVER).await.unwrap();
    let promoted = began.elapsed();
    let direct = stage.cluster.connect_as(&new, "app", "app").await.unwrap();
    let (mut done, mut lost) = (0, 0);
    for (id, commit) in (from..).zip(commits) {
        let (client, told) = tokio::time::timeout(FAILOVER, commit).await.unwrap().unwrap();
        let there: i64 = direct.query_one("SELECT count(*) FROM told WHERE id = $1", &[&id]).await.unwrap().get(0);
        match told {
            Ok(()) => {
                assert_eq!(there, 1, "{what}: row {id}: COMMIT was told\n{}", stage.logs().await);
                done += 1;
            }
            Err(error) => {
                let code = error.code().map(|code| code.code().to_owned());
                assert_eq!(code.as_deref(), Some("40001"), "{what}: row {id}: {error:?}\n{}", stage.logs().await);
                assert_eq!(there, 0, "{what}: row {id}: 40001 was told\n{}", stage.logs().await);
                lost += 1;
            }
        }
        client.batch_execute("INSERT INTO other VALUES (1)").await.unwrap();
    }
    stage.tell(&format!(
        "{what}: promoted after {:.1} s, all told {:.2} s later: {done} COMMIT, {lost} 40001",
        promoted.as_secs_f64(),
        (began.elapsed() - promoted).as_secs_f64(),
    ));
    faults::return_node(stage.cluster.kubelet(), stage.cluster.namespace(), old).await.unwrap();
    stage.cluster.wait_ready(3, FAILOVER + Duration::from_secs(60)).await.unwrap();
}
