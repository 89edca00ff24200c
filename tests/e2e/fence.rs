//! A frozen Patroni leaves its PostgreSQL up as a zombie primary, still labelled so: nothing that starts later reaches it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::faults::{self, Part};
use crate::cluster::proxy::Port;
use crate::cluster::toolbox::PatroniVersion;
use crate::cluster::trouble::eventually;
use crate::ledger::{self, Writers};
use crate::sleepers;
use crate::stage::{FAILOVER, Stage};

#[test]
fn no_write_reaches_a_zombie_once_its_successor_is_proven_with_patroni_4() {
    Stage::play("fence-4", PatroniVersion::V4, |overlay| overlay, fence);
}

#[test]
fn no_write_reaches_a_zombie_once_its_successor_is_proven_with_patroni_3() {
    Stage::play("fence-3", PatroniVersion::V3, |overlay| overlay, fence);
}

async fn fence(stage: Arc<Stage>) {
    stage.synchronous().await;
    let sleepers = sleepers::bed(&stage, 4).await;
    let zombie = stage.cluster.primary().await.unwrap();
    // Few writes: Patroni promotes nobody while a zombie streams so much that each standby finds the other ahead of it.
    let writers = Writers::start(&stage, 4, Duration::from_secs(1)).await;
    let open = stage.client(Port::Rw, 1).await;
    open.batch_execute("BEGIN; INSERT INTO ledger (writer, n) VALUES (99, 1)").await.unwrap();
    let (kubelet, namespace) = (stage.cluster.kubelet(), stage.cluster.namespace());
    faults::freeze(kubelet, namespace, &zombie, Part::Patroni).unwrap();

    let successor = stage.cluster.wait_primary(Some(&zombie), FAILOVER).await.unwrap();
    for address in stage.proxy.addresses(Port::Admin).await.unwrap() {
        let proven = || async { (primary_of(address).await? == successor).then_some(()) };
        eventually("pgmoor to prove the successor", Duration::from_secs(10), proven).await.unwrap();
    }
    let proven = SystemTime::now();
    for pod in [&zombie, &successor] {
        let labels = stage.cluster.labels(pod).await.unwrap();
        assert_eq!(
            labels.get("role").map(String::as_str),
            Some(stage.cluster.leader_label()),
            "{pod}: two pods are labelled as the primary"
        );
    }
    assert!(stage.cluster.is_primary(&zombie).await.unwrap(), "the zombie's PostgreSQL is still up and writable");

    tokio::time::sleep(Duration::from_secs(3)).await; // the writers write on
    let direct = stage.cluster.connect(&zombie).await.unwrap();
    let seconds = proven.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let begun = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND query_start > to_timestamp($1)";
    let begun: i64 = direct.query_one(begun, &[&seconds]).await.unwrap().get(0);
    let app = stage.cluster.connect_as(&zombie, "app", "app").await.unwrap();
    let rows = "SELECT count(*) FROM ledger WHERE at > to_timestamp($1)";
    let rows: i64 = app.query_one(rows, &[&seconds]).await.unwrap().get(0);
    assert_eq!((begun, rows), (0, 0), "statements and rows on the zombie after its successor was proven");

    let run_again = open.query_one("SELECT count(*) FROM ledger WHERE writer = 99", &[]).await.unwrap();
    assert_eq!(run_again.get::<_, i64>(0), 1, "the transaction that was open on the zombie goes on at its successor");
    open.batch_execute("ROLLBACK").await.unwrap();
    let books = writers.finish().await;
    faults::thaw(kubelet, namespace, &zombie, Part::Patroni).unwrap();
    let told = ledger::audit(&stage, &books).await;
    stage.tell(&format!(
        "longest write {:.1} s (Patroni's ttl is 20 s); {told:?}",
        ledger::longest(&books).as_secs_f64()
    ));
    for sleeper in &sleepers {
        sleeper.check("after the fencing").await;
    }
    assert!(stage.metric("pgmoor_fenced_total").await >= 1.0, "sessions were cut from the zombie, and it was counted");
    stage.cluster.wait_ready(3, FAILOVER).await.unwrap();
}

/// The primary that one pgmoor routes to, by its status.
async fn primary_of(admin: std::net::SocketAddr) -> Option<String> {
    let status = status(admin).await?;
    let pods = status["clusters"][0]["pods"].as_array()?.clone();
    let primary = pods.iter().find(|pod| pod["role"] == "primary")?;
    Some(primary["name"].as_str()?.to_owned())
}

/// `/status.json` of one pgmoor.
pub async fn status(admin: std::net::SocketAddr) -> Option<serde_json::Value> {
    let mut http = TcpStream::connect(admin).await.ok()?;
    http.write_all(b"GET /status.json HTTP/1.0\r\n\r\n").await.ok()?;
    let mut text = String::new();
    http.read_to_string(&mut text).await.ok()?;
    serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
}
