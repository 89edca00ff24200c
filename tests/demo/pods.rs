//! The stage of `CLUSTER=1`: a real control plane, a StatefulSet of Patroni, and pgmoor from deploy/pgmoor.
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::faults;
use crate::cluster::patroni::PatroniCluster;
use crate::cluster::proxy::{Port, Proxy};
use crate::cluster::toolbox::PatroniVersion;
use crate::cluster::trouble::{Result, Trouble, eventually};
use crate::cluster::world::World;
use crate::screen::{Screen, Tone};
use crate::story::Story;
use crate::watch::Watch;
use crate::writer::Door;
use crate::{Outcome, pgmoor, unless_interrupted};

const NAMESPACE: &str = "demo";
const CALM: Duration = Duration::from_secs(3);
const FAILOVER: Duration = Duration::from_secs(90);

/// Plays the demo on a control plane of its own.
pub(crate) fn run(screen: &Arc<Screen>) -> Result<Outcome> {
    screen.heading("pgmoor keeps connections while pods are deleted and killed");
    screen.event(Tone::Quiet, "starting a Kubernetes control plane (the first time it is built: some 7 minutes)");
    let world = World::shared()?;
    let outcome = world.run(unless_interrupted(screen, play(screen, &world)));
    screen.rest();
    drop(world);
    screen.line(Tone::Quiet, "\n  The cluster is gone and every file removed.");
    outcome
}

async fn play(screen: &Arc<Screen>, world: &World) -> Result<Outcome> {
    screen.event(Tone::Quiet, "kubectl apply -k deploy/demo: a StatefulSet of three Patroni pods");
    let cluster = world.patroni(NAMESPACE, PatroniVersion::V4, 3).await?;
    synchronous(&cluster).await?;
    for pod in cluster.pods().await? {
        let ip = pod.ip.map_or_else(|| "no address".to_owned(), |ip| ip.to_string());
        screen.event(Tone::Plain, &format!("{} at {ip}: {}", pod.name, pod.role().unwrap_or("no role")));
    }
    screen.event(Tone::Quiet, "kubectl apply -k deploy/pgmoor: a Deployment of two pgmoor pods");
    let proxy = Proxy::deploy(&cluster, &pgmoor()?, |overlay| overlay).await?;
    let (rw, admin) = (first(&proxy, Port::Rw).await?, first(&proxy, Port::Admin).await?);
    let watch = Watch::begin(screen, admin).await?;
    let door = Door { address: rw, password: cluster.password("app")?.to_owned() };
    let played = acts(screen, &cluster, &door).await;
    drop(watch);
    if !matches!(played, Ok(Outcome::AsPromised)) {
        screen.line(Tone::Quiet, &format!("the end of pgmoor's logs:\n{}", proxy.logs(15).await));
    }
    played
}

async fn acts(screen: &Arc<Screen>, cluster: &PatroniCluster, door: &Door) -> Result<Outcome> {
    let mut story = Story::begin(screen, door).await?;
    story.watch_for(CALM).await;

    screen.heading("Act 1: the primary's pod is deleted");
    let old = cluster.primary().await?;
    cluster.kubectl(&["delete", "pod", &old, "--wait=false"]).await?;
    screen.event(Tone::Bad, &format!("kubectl delete pod {old}"));
    let new = cluster.wait_primary(Some(&old), FAILOVER).await?;
    screen.event(Tone::Plain, &format!("Patroni has made {new} the primary"));
    story.goes_on().await?;
    cluster.wait_ready(3, FAILOVER).await?;
    let address = cluster.address(&old)?;
    screen.event(Tone::Plain, &format!("{old} is back as a replica, at a new address: {}", address.ip()));
    confirmed(cluster).await?;
    story.watch_for(CALM).await;

    screen.heading("Act 2: every process of the primary's pod is killed");
    faults::kill9(cluster.kubelet(), cluster.namespace(), &new)?;
    let label = cluster.pod(&new).await?.role().unwrap_or("nothing").to_owned();
    let text = format!("kill -9 of all processes of {new}; its label still says {label}");
    screen.event(Tone::Bad, &text);
    story.goes_on().await?;
    let primary = cluster.wait_primary(None, FAILOVER).await?;
    screen.event(Tone::Plain, &format!("Patroni's primary is {primary}"));
    story.watch_for(CALM).await;
    story.verdict().await
}

async fn first(proxy: &Proxy, port: Port) -> Result<std::net::SocketAddr> {
    let found = proxy.addresses(port).await?.into_iter().next();
    found.ok_or_else(|| Trouble::new("no pod of pgmoor is ready"))
}

/// Patroni's synchronous mode: an acknowledged commit is on a standby, and only that one may be promoted. Without it no
/// failover could promise to lose nothing.
async fn synchronous(cluster: &PatroniCluster) -> Result<()> {
    let primary = cluster.address(&cluster.primary().await?)?;
    let mut stream = TcpStream::connect((primary.ip(), 8008)).await?;
    let body = json!({"synchronous_mode": true}).to_string();
    let request = format!(
        "PATCH /config HTTP/1.0\r\nHost: patroni\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if !answer.lines().next().is_some_and(|line| line.contains(" 200 ")) {
        return Err(Trouble::new(format!("Patroni does not take the synchronous mode: {answer}")));
    }
    confirmed(cluster).await
}

/// Waits until a standby confirms commits.
async fn confirmed(cluster: &PatroniCluster) -> Result<()> {
    let synchronous = || async {
        let client = cluster.connect(&cluster.primary().await.ok()?).await.ok()?;
        let sql = "SELECT FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')";
        client.query(sql, &[]).await.ok()?.first().map(drop)
    };
    eventually("a synchronous standby", FAILOVER, synchronous).await
}
