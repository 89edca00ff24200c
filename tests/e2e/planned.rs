//! Planned moves: `pgmoor switchover`, `pgmoor drain`, and a rolling restart of the whole StatefulSet. No client sees an error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::cluster::proxy::Port;
use crate::cluster::toolbox::PatroniVersion;
use crate::cluster::trouble::eventually;
use crate::ledger::{self, Told, Writers};
use crate::sleepers;
use crate::stage::{FAILOVER, Stage};

const IDLE: usize = 20;
const WRITING: usize = 20;
const PAUSE: Duration = Duration::from_millis(5);

#[test]
fn a_switchover_and_a_drain_are_seen_by_nobody_with_patroni_4() {
    Stage::play("planned-4", PatroniVersion::V4, |overlay| overlay, planned);
}

#[test]
fn a_switchover_and_a_drain_are_seen_by_nobody_with_patroni_3() {
    Stage::play("planned-3", PatroniVersion::V3, |overlay| overlay, planned);
}

#[test]
fn a_rolling_restart_is_seen_by_nobody_with_patroni_4() {
    Stage::play("rolling-4", PatroniVersion::V4, |overlay| overlay, rolling);
}

#[test]
fn a_rolling_restart_is_seen_by_nobody_with_patroni_3() {
    Stage::play("rolling-3", PatroniVersion::V3, |overlay| overlay, rolling);
}

async fn planned(stage: Arc<Stage>) {
    stage.synchronous().await;
    let sleepers = sleepers::bed(&stage, IDLE).await;
    let old = stage.cluster.primary().await.unwrap();
    unseen(&stage, "pgmoor switchover", async || {
        let (good, said) = pgmoor(&stage, &["switchover"]).await;
        assert!(good, "{said}\n{}", stage.logs().await);
        stage.tell(said.lines().last().unwrap_or_default());
        let new = stage.cluster.wait_primary(Some(&old), FAILOVER).await.unwrap();
        assert!(said.contains(&format!("the primary was {old}")) && said.contains(&format!("and is {new}")), "{said}");
    })
    .await;
    for sleeper in &sleepers {
        sleeper.check("after the switchover").await;
    }
    stage.cluster.wait_ready(3, FAILOVER).await.unwrap();
    stage.synchronous().await;
    refused(&stage).await;
    drained(&stage).await;
    assert!(stage.metric("pgmoor_switchovers_total").await >= 2.0);
}

/// Patroni's own words reach the operator, and the clients go on where they are.
async fn refused(stage: &Arc<Stage>) {
    let primary = stage.cluster.primary().await.unwrap();
    let path = "jsonpath={.metadata.annotations.sync_standby}";
    let sync = stage.cluster.kubectl(&["get", "configmap", "demo-sync", "-o", path]).await.unwrap();
    let pods = stage.cluster.pods().await.unwrap();
    let other = pods.iter().find(|pod| pod.name != primary && pod.name != sync.trim()).unwrap();
    unseen(stage, "a switchover that Patroni refuses", async || {
        let (good, said) = pgmoor(stage, &["switchover", "--to", &other.name]).await;
        assert!(!good && said.contains("Patroni refused (412)") && said.contains("sync_standby"), "{said}");
        stage.tell(said.lines().last().unwrap_or_default());
        let (good, said) = pgmoor(stage, &["switchover", "--to", "demo-7"]).await;
        assert!(!good && said.contains("there is no pod demo-7"), "{said}");
    })
    .await;
    assert_eq!(stage.cluster.primary().await.unwrap(), primary);
}

/// Readers leave a drained replica, and come back when it is not drained any more.
async fn drained(stage: &Arc<Stage>) {
    let primary = stage.cluster.primary().await.unwrap();
    let mut readers = Vec::new();
    for seed in 0..12 {
        readers.push(stage.client(Port::Ro, seed).await);
    }
    let pods = stage.cluster.pods().await.unwrap();
    let pod = pods.iter().find(|pod| pod.name != primary).unwrap();
    let (name, ip) = (&pod.name, pod.ip.unwrap().to_string());
    let (good, said) = pgmoor(stage, &["drain", name, "--wait", "20s"]).await;
    assert!(good && said.contains(&format!("{name} drains: no session is on it")), "{said}");
    for reader in &readers {
        let row = reader.query_one("SELECT host(inet_server_addr())", &[]).await.unwrap();
        assert_ne!(row.get::<_, String>(0), ip, "a reader on the drained pod");
    }
    let (good, said) = pgmoor(stage, &["drain", name, "--undo"]).await;
    assert!(good && said.contains("the mark is taken back"), "{said}");
    let back = || async {
        let reader = stage.client(Port::Ro, 1).await;
        let row = reader.query_one("SELECT host(inet_server_addr())", &[]).await.ok()?;
        (row.get::<_, String>(0) == ip).then_some(())
    };
    eventually("a reader on the pod that was drained", FAILOVER, back).await.unwrap();
    stage.tell(&format!("{} readers left {name}, and others came back", readers.len()));
}

/// `kubectl rollout restart` of the whole StatefulSet, whose preStop hook hands the primary over.
async fn rolling(stage: Arc<Stage>) {
    introduce(&stage).await;
    stage.synchronous().await;
    let sleepers = sleepers::bed(&stage, IDLE).await;
    let before: Vec<String> = uids(&stage).await;
    unseen(&stage, "kubectl rollout restart", async || {
        stage.cluster.kubectl(&["rollout", "restart", "statefulset/demo"]).await.unwrap();
        let done = ["rollout", "status", "statefulset/demo", "--timeout=300s"];
        if let Err(trouble) = stage.cluster.kubectl(&done).await {
            panic!("{trouble}\n{}", stage.logs().await);
        }
        stage.cluster.wait_ready(3, FAILOVER).await.unwrap();
    })
    .await;
    assert!(uids(&stage).await.iter().all(|uid| !before.contains(uid)), "every pod is another one");
    for sleeper in &sleepers {
        sleeper.check("after the rolling restart").await;
    }
    let switched = stage.metric("pgmoor_switchovers_total{cluster=\"demo\",outcome=\"switched\"}").await;
    stage.tell(&format!("{switched} switchovers were ordered by preStop hooks"));
    assert!(switched >= 1.0, "the primary was handed over by its hook\n{}", stage.logs().await);
    for pod in stage.cluster.pods().await.unwrap() {
        assert_eq!(drains(&stage, &pod.name).await, 0, "{}: a mark that outlived its incarnation", pod.name);
    }
}

async fn uids(stage: &Stage) -> Vec<String> {
    stage.cluster.pods().await.unwrap().into_iter().map(|pod| pod.uid).collect()
}

/// In how many pgmoors this pod drains.
async fn drains(stage: &Stage, pod: &str) -> usize {
    let mut count = 0;
    for address in stage.proxy.addresses(Port::Admin).await.unwrap() {
        let status = crate::fence::status(address).await.unwrap();
        let pods = status["clusters"][0]["pods"].as_array().unwrap();
        count += pods.iter().filter(|known| known["name"] == pod && known["draining"] == true).count();
    }
    count
}

/// Runs writers, does something, and holds the books against the table: every write was acknowledged, on its connection.
async fn unseen(stage: &Arc<Stage>, what: &str, act: impl AsyncFnOnce()) {
    let writers = Writers::start(stage, WRITING, PAUSE).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    act().await;
    let took = began.elapsed();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let books = writers.finish().await;
    let told = ledger::audit(stage, &books).await;
    stage.tell(&format!(
        "{what}: took {:.1} s; longest write {:.2} s; {told:?}; 0 of {} connections dropped",
        took.as_secs_f64(),
        ledger::longest(&books).as_secs_f64(),
        IDLE + WRITING,
    ));
    let errors = books.iter().flat_map(|book| &book.writes).filter(|write| write.told != Told::Done).count();
    assert_eq!(errors, 0, "{what}: {told:?}\n{}", stage.logs().await);
    let primary = stage.cluster.wait_primary(None, FAILOVER).await.unwrap();
    let client = stage.cluster.connect_as(&primary, "app", "app").await.unwrap();
    client.batch_execute("TRUNCATE ledger").await.unwrap();
}

/// One of pgmoor's own commands, told to all its pods: whether it exited with 0, and all it said.
async fn pgmoor(stage: &Stage, args: &[&str]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, stage.cluster.password("pgmoor-admin").unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgmoor"));
    command.args(args).arg("--token-file").arg(&token);
    for address in stage.proxy.addresses(Port::Admin).await.unwrap() {
        command.arg("--admin").arg(address.to_string());
    }
    let done = command.kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.success(), said.trim_end().to_owned())
}

/// The API server of the tests gives no Service to addresses of loopback: the database pods are told pgmoor's own ones.
async fn introduce(stage: &Stage) {
    let addresses = stage.proxy.addresses(Port::Admin).await.unwrap();
    let urls: Vec<String> = addresses.iter().map(|address| format!("http://{address}")).collect();
    let patch = serde_json::json!({"data": {"pgmoor-admin": urls.join(" ")}}).to_string();
    let patching = ["patch", "configmap", "demo-patroni", "--type", "merge", "--patch", &patch];
    stage.cluster.kubectl(&patching).await.unwrap();
    for pod in stage.cluster.pods().await.unwrap() {
        let incarnation = stage.cluster.kubelet().incarnation(stage.cluster.namespace(), &pod.name).unwrap();
        let read = ["cat", "/etc/patroni/pgmoor-admin"].map(str::to_owned);
        let told = || async {
            let container = incarnation.container("patroni")?;
            let text = container.exec(&read, Duration::from_secs(5)).await.ok()?;
            (text.trim() == urls.join(" ")).then_some(())
        };
        eventually("the pods to know where pgmoor is", FAILOVER, told).await.unwrap();
    }
}
