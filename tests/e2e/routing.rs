//! Who asks where gets there: pgbench through `rw` and `ro`, a pod by its name, and no more rights than deploy/ gives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio_postgres::NoTls;

use crate::cluster::proxy::Port;
use crate::cluster::toolbox::PatroniVersion;
use crate::cluster::trouble::eventually;
use crate::stage::{FAILOVER, Stage};

#[test]
fn reads_and_writes_land_where_they_should() {
    Stage::play("routing", PatroniVersion::V4, |overlay| overlay, routed);
}

async fn routed(stage: Arc<Stage>) {
    rights(&stage).await;
    monitored(&stage).await;
    pgbench(&stage, Port::Rw, &["-i", "-s", "1", "-q"]).await;
    let primary = stage.cluster.primary().await.unwrap();
    replicated(&stage, &primary).await;
    for (port, to_primary) in [(Port::Rw, true), (Port::Ro, false)] {
        let before = transactions(&stage).await;
        let output = pgbench(&stage, port, &["-S", "-c", "8", "-j", "2", "-t", "500"]).await;
        assert!(output.contains("4000/4000"), "{output}");
        let landed = || async {
            let after = transactions(&stage).await;
            let on = |pod: &str| after.get(pod).unwrap_or(&0) - before.get(pod).unwrap_or(&0);
            let there: i64 = after.keys().filter(|pod| (**pod == primary) == to_primary).map(|pod| on(pod)).sum();
            let elsewhere: i64 = after.keys().filter(|pod| (**pod == primary) != to_primary).map(|pod| on(pod)).sum();
            (there >= 4000 && elsewhere < 400).then_some((there, elsewhere))
        };
        let (there, elsewhere) =
            eventually("pgbench's transactions to be counted", Duration::from_secs(20), landed).await.unwrap();
        stage.tell(&format!("pgbench -S through {port:?}: {there} transactions where they belong, {elsewhere} others"));
    }
    by_name(&stage, &primary).await;
}

/// The role of deploy/ lets pgmoor look at pods and at the leader object, and at nothing else.
async fn rights(stage: &Stage) {
    let account = format!("--as=system:serviceaccount:{}:pgmoor", stage.cluster.namespace());
    for (verb, what, allowed) in [
        ("list", "pods", true),
        ("watch", "configmaps/demo-leader", true),
        ("watch", "configmaps", false),
        ("get", "secrets", false),
        ("delete", "pods", false),
        ("patch", "configmaps", false),
    ] {
        let answer = stage.cluster.kubectl(&["auth", "can-i", verb, what, &account]).await;
        let yes = answer.is_ok_and(|answer| answer.trim() == "yes");
        assert_eq!(yes, allowed, "{verb} {what}");
    }
}

/// deploy/monitoring renders, and points at a port the pods have. (This old API server ends in a panic when it is given an
/// object of a custom kind, so it is not applied.)
async fn monitored(stage: &Stage) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/monitoring");
    let text = stage.cluster.kubectl(&["kustomize", folder]).await.unwrap();
    assert!(text.contains("kind: ServiceMonitor") && text.contains("targetPort: admin"), "{text}");
    let metrics = stage.metric("pgmoor_build_info").await;
    assert!(metrics >= 2.0, "both pods answer on their admin port: {metrics}");
}

async fn pgbench(stage: &Stage, port: Port, args: &[&str]) -> String {
    let address = stage.proxy.addresses(port).await.unwrap()[0];
    let mut command = Command::new("/usr/lib/postgresql/15/bin/pgbench");
    command.args(args).args(["-h", &address.ip().to_string(), "-p", &address.port().to_string(), "-U", "app"]);
    if !args.contains(&"-i") {
        command.arg("-n");
    }
    let done = command
        .arg("app")
        .env("PGPASSWORD", stage.cluster.password("app").unwrap())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{text}");
    text
}

async fn replicated(stage: &Stage, primary: &str) {
    let caught_up = || async {
        let client = stage.cluster.connect(primary).await.ok()?;
        let behind: i64 = client
            .query_one("SELECT count(*) FROM pg_stat_replication WHERE replay_lsn < pg_current_wal_lsn()", &[])
            .await
            .ok()?
            .get(0);
        (behind == 0).then_some(())
    };
    eventually("the replicas to catch up", FAILOVER, caught_up).await.unwrap();
}

/// Transactions committed in database `app`, by pod.
async fn transactions(stage: &Stage) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    for pod in stage.cluster.pods().await.unwrap() {
        let client = stage.cluster.connect(&pod.name).await.unwrap();
        let row =
            client.query_one("SELECT xact_commit FROM pg_stat_database WHERE datname = 'app'", &[]).await.unwrap();
        counts.insert(pod.name, row.get(0));
    }
    counts
}

/// A session that named its pod stays with it over incarnations and addresses.
async fn by_name(stage: &Stage, primary: &str) {
    let pod = stage.cluster.pods().await.unwrap().into_iter().find(|pod| pod.name != primary).unwrap();
    let address = stage.proxy.addresses(Port::Rw).await.unwrap()[0];
    let mut config = tokio_postgres::Config::new();
    config.hostaddr(address.ip()).host(address.ip().to_string()).port(address.port()).user("app").dbname("app");
    config
        .password(stage.cluster.password("app").unwrap())
        .options(format!("-c pgmoor.pod={} -c statement_timeout=44s", pod.name));
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let here = "SELECT host(inet_server_addr()), current_setting('statement_timeout')";
    let row = client.query_one(here, &[]).await.unwrap();
    assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1)), (pod.ip.unwrap().to_string(), "44s".to_owned()));

    stage.cluster.kubectl(&["delete", "pod", &pod.name, "--wait=false"]).await.unwrap();
    let gone = || async { (stage.cluster.pod(&pod.name).await.ok()?.uid != pod.uid).then_some(()) };
    eventually("a new incarnation", FAILOVER, gone).await.unwrap();
    let row = client.query_one(here, &[]).await.unwrap(); // waits until the pod is back
    let now = stage.cluster.pod(&pod.name).await.unwrap();
    assert_ne!(now.ip, pod.ip);
    assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1)), (now.ip.unwrap().to_string(), "44s".to_owned()));
    stage.tell(&format!("a session followed {} from {} to {}", pod.name, pod.ip.unwrap(), now.ip.unwrap()));
}
