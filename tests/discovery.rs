//! The watch of a cluster from end to end: real PostgreSQL servers, a fixed list, and a scripted API server.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

#[path = "discovery/api.rs"]
#[expect(dead_code, reason = "shared with the unit tests, which look at the requests")]
mod api;
#[path = "discovery/server.rs"]
mod server;

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgmoor::config::{self, Cluster, Databases, FixedPod, Preset, Probe, ServerTls};
use pgmoor::discovery::{self, Discovery, PodTls};
use pgmoor::ids::{ClusterName, Lsn, PodName, Timeline};
use pgmoor::metrics::Metrics;
use pgmoor::topology::evidence::Suspicion;
use pgmoor::topology::routing::{Primary, Role, RoutingTable, Vacancy};
use tokio_util::sync::CancellationToken;

use api::{Api, Reply, Request};
use server::{HistoryFile, Server};

fn cluster(discovery: config::Discovery) -> Cluster {
    Cluster {
        name: ClusterName::new("orders"),
        databases: Databases::Every,
        users: None,
        discovery,
        probe: Probe {
            user: "prober".to_owned(),
            password: None,
            database: "postgres".to_owned(),
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(1000),
        },
        lag_limit: Duration::from_secs(10),
        tls: ServerTls::Disable,
        patroni: None,
    }
}

fn fixed(name: &str, port: u16) -> FixedPod {
    FixedPod { name: PodName::new(name), host: "127.0.0.1".to_owned(), port }
}

/// A watch under test.
struct Bench {
    discovery: Discovery,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
}

impl Bench {
    async fn new(cluster: &Cluster) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let shutdown = CancellationToken::new();
        let tls = PodTls::new(cluster).unwrap();
        let counted = Arc::clone(&metrics);
        let discovery = discovery::start(cluster, tls, counted, shutdown.clone()).await.unwrap();
        Self { discovery, metrics, shutdown }
    }

    /// The first table for which this holds.
    async fn until(&mut self, what: &str, holds: impl FnMut(&Arc<RoutingTable>) -> bool) -> Arc<RoutingTable> {
        let routes = &mut self.discovery.routes;
        let found = async { Arc::clone(&routes.wait_for(holds).await.unwrap()) };
        let found = tokio::time::timeout(Duration::from_secs(30), found).await;
        found.unwrap_or_else(|_| panic!("not in time: {what}; the last table: {:#?}", self.discovery.routes.borrow()))
    }

    /// Probes that ended so.
    fn probes(&self, outcome: &str) -> u64 {
        let text = self.metrics.render().unwrap();
        let series = format!(r#"pgmoor_probes_total{{cluster="orders",outcome="{outcome}"}}"#);
        text.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |count| count.trim().parse().unwrap())
    }

    /// Shuts down, and checks that the last table and the probes were counted.
    async fn stop(self) {
        let last = Arc::clone(&self.discovery.routes.borrow());
        self.shutdown.cancel();
        let stopped = tokio::time::timeout(Duration::from_secs(5), self.discovery.stopped());
        stopped.await.unwrap();
        let text = self.metrics.render().unwrap();
        let value = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
        };
        assert!(value(r#"pgmoor_route_epoch{cluster="orders"}"#) >= last.epoch.0);
        assert!(value(r#"pgmoor_probes_total{cluster="orders",outcome="answered"}"#) > 0);
    }
}

fn is_primary(table: &RoutingTable, name: &str, timeline: u32) -> bool {
    matches!(&table.primary, Primary::Proven { pod, timeline: Timeline(t) } if pod.name.as_str() == name && *t == timeline)
}

fn role(table: &RoutingTable, name: &str) -> Option<Role> {
    table.pods.get(&PodName::new(name)).map(|route| route.role)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_of_real_servers() {
    if !server::is_installed() {
        return;
    }
    let a = Server::primary();
    let b = a.standby();
    let cluster = cluster(config::Discovery::Fixed(vec![fixed("a", a.port), fixed("b", b.port)]));
    let mut bench = Bench::new(&cluster).await;

    // Nothing has been written since the standby began: it lags by nothing all the same, and the probe has no rights.
    let both = |table: &Arc<RoutingTable>| {
        is_primary(table, "a", 1)
            && matches!(role(table, "b"), Some(Role::Replica { fit: true, replayed: Some(_), .. }))
    };
    let table = bench.until("a primary and a fit replica", both).await;
    let Some(Role::Replica { lag, .. }) = role(&table, "b") else { panic!("{table:?}") };
    assert_eq!(lag, Some(Duration::ZERO));

    a.freeze();
    let nobody = |table: &Arc<RoutingTable>| matches!(table.primary, Primary::Nobody(Vacancy::Unproven));
    bench.until("a frozen primary is proven no more", nobody).await;
    // The promotion's own checkpoint comes later: the timeline must not wait for it.
    b.promote();
    let table = bench.until("the promoted standby on its new timeline", |table| is_primary(table, "b", 2)).await;
    assert_eq!(table.history, None, "the prober may not read it, and is believed without");
    a.thaw();
    let fenced = |table: &Arc<RoutingTable>| is_primary(table, "b", 2) && role(table, "a") == Some(Role::Superseded);
    bench.until("the old primary is fenced", fenced).await;

    // It comes as soon as it may be read.
    b.grant_history();
    let told = |table: &Arc<RoutingTable>| is_primary(table, "b", 2) && table.history.is_some();
    let table = bench.until("the history", told).await;
    assert_eq!(table.history.as_ref().unwrap().ended(Timeline(1)), Some(switch_point(&b.history(2), 1)));

    // A server that is gone says so at once when somebody doubts it.
    let id = bench.discovery.routes.borrow().pods[&PodName::new("b")].id.clone();
    drop(b);
    bench.discovery.evidence.report(&id, Suspicion::ConnectFailed);
    bench.until("nobody is left", nobody).await;
    bench.stop().await;
}

/// Where a history file says that a timeline was left: read here in another way than pgmoor does.
fn switch_point(file: &str, timeline: u32) -> Lsn {
    let line = file.lines().find(|line| line.starts_with(&format!("{timeline}\t")));
    line.unwrap_or_else(|| panic!("no timeline {timeline} in {file:?}")).split('\t').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_table_with_a_new_primary_knows_where_its_timeline_comes_from() {
    if !server::is_installed() {
        return;
    }
    let a = Server::primary();
    a.grant_history();
    let b = a.standby();
    let cluster = cluster(config::Discovery::Fixed(vec![fixed("a", a.port), fixed("b", b.port)]));
    let mut bench = Bench::new(&cluster).await;
    let table = bench.until("timeline 1", |table| is_primary(table, "a", 1)).await;
    assert_eq!(table.history.as_ref().map(|history| history.ancestors().count()), Some(0));

    drop(a);
    b.promote();
    let table = bench.until("timeline 2", |table| is_primary(table, "b", 2)).await;
    let history = table.history.as_ref().expect("the history of timeline 2 in the table that proves it");
    let left = switch_point(&b.history(2), 1);
    assert!(left > Lsn(0));
    assert_eq!((history.timeline(), history.ended(Timeline(1))), (Timeline(2), Some(left)));

    // Two timelines on, over another server: every ancestor, the oldest included.
    let c = b.standby();
    bench.stop().await;
    let cluster = self::cluster(config::Discovery::Fixed(vec![fixed("b", b.port), fixed("c", c.port)]));
    let mut bench = Bench::new(&cluster).await;
    bench.until("timeline 2 again", |table| is_primary(table, "b", 2) && table.history.is_some()).await;
    drop(b);
    c.promote();
    let table = bench.until("timeline 3", |table| is_primary(table, "c", 3)).await;
    let ancestors: Vec<_> = table.history.as_ref().expect("the history of timeline 3").ancestors().collect();
    let second = switch_point(&c.history(3), 2);
    assert_eq!(ancestors, [(Timeline(1), left), (Timeline(2), second)]);
    assert!(second > left);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_cannot_be_read_hinders_no_proof() {
    if !server::is_installed() {
        return;
    }
    let a = Server::primary();
    a.grant_history();
    let b = a.standby();
    drop(a);
    b.promote();
    let whole = b.history(2);
    let cluster = cluster(config::Discovery::Fixed(vec![fixed("b", b.port)]));
    let cut = whole.trim_end();
    for file in [HistoryFile::Missing, HistoryFile::Stuck, HistoryFile::Text(cut), HistoryFile::Text("")] {
        b.set_history(2, file);
        let mut bench = Bench::new(&cluster).await;
        let table = bench.until("timeline 2", |table| is_primary(table, "b", 2)).await;
        assert_eq!(table.history, None);
        let (outcomes, asked) = (["unreachable", "timed_out", "refused", "garbled"], bench.probes("answered"));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while bench.probes("answered") < asked + 3 {
            assert!(tokio::time::Instant::now() < deadline, "the probes go on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        b.set_history(2, HistoryFile::Text(&whole));
        let table = bench.until("the history", |table| table.history.is_some()).await;
        assert!(is_primary(&table, "b", 2));
        assert_eq!(table.history.as_ref().unwrap().ended(Timeline(1)), Some(switch_point(&whole, 1)));
        assert_eq!(outcomes.map(|outcome| bench.probes(outcome)), [0; 4], "{outcomes:?}");
        bench.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_probe_connection_is_no_failure() {
    if !server::is_installed() {
        return;
    }
    let a = Server::primary();
    let cluster = cluster(config::Discovery::Fixed(vec![fixed("a", a.port)]));
    let mut bench = Bench::new(&cluster).await;
    bench.until("a primary", |table| is_primary(table, "a", 1)).await;
    for _ in 0..5 {
        a.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'prober'");
    }
    // Drain marks come by the same road as everything else, so a table with this one is newer than the terminations.
    assert!(bench.discovery.drains.mark(PodName::new("a"), true).await);
    let table = bench.until("the mark", |table| table.pods[&PodName::new("a")].draining).await;
    assert!(is_primary(&table, "a", 1));
    bench.stop().await;
}

fn pod(name: &str, uid: &str, version: u32, role: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"db","uid":"{uid}","resourceVersion":"{version}",
        "labels":{{"cluster-name":"orders","role":"{role}"}}}},"status":{{"phase":"Running","podIP":"127.0.0.1",
        "conditions":[{{"type":"Ready","status":"True"}}]}}}}"#
    )
    .replace('\n', "")
}

fn lock(version: u32, leader: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"orders-leader","namespace":"db","uid":"l","resourceVersion":"{version}",
        "annotations":{{"leader":"{leader}","renewTime":"2026-11-23T14:20:11.481273+00:00","ttl":"30"}}}}}}"#
    )
    .replace('\n', "")
}

fn list(version: u32, items: &[String]) -> Reply {
    let items = items.join(",");
    Reply::Json(
        200,
        format!(
            r#"{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"{version}"}},"items":[{items}]}}"#
        ),
    )
}

fn event(kind: &str, object: &str) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#)
}

/// What a watch says next; the test hands it in step by step. In between it ends at once.
type Script = Arc<Mutex<VecDeque<Reply>>>;

/// An API server with one pod, and a lock that names another. The Endpoints are forbidden: Patroni keeps its lock
/// elsewhere, so the rules may well not allow them.
async fn api_server(pods: &Script, locks: &Script) -> Api {
    let (pods, locks) = (Arc::clone(pods), Arc::clone(locks));
    let next = |script: &Script| {
        let reply = script.lock().unwrap().pop_front();
        reply.unwrap_or_else(|| Reply::Lines(vec![]))
    };
    let denied =
        r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","reason":"Forbidden","code":403}"#;
    Api::start(move |request: &Request| {
        let path = request.target.split('?').next().unwrap_or_default();
        match (path, request.is_watch()) {
            ("/api/v1/namespaces/db/pods", false) => list(10, &[pod("orders-0", "u0", 5, "primary")]),
            ("/api/v1/namespaces/db/pods", true) => next(&pods),
            ("/api/v1/namespaces/db/configmaps", false) => list(10, &[lock(7, "orders-1")]),
            ("/api/v1/namespaces/db/configmaps", true) => next(&locks),
            _ => Reply::Json(403, denied.to_owned()),
        }
    })
    .await
}

fn kubeconfig(url: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(
        file,
        "{{apiVersion: v1, kind: Config, current-context: none, \
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
         clusters: [{{name: c, cluster: {{server: '{url}'}}}}], users: [{{name: u, user: {{token: t}}}}]}}"
    )
    .unwrap();
    file
}

fn kubernetes(kubeconfig: &std::path::Path, port: u16) -> config::Discovery {
    config::Discovery::Kubernetes(config::Kubernetes {
        namespace: "db".to_owned(),
        // No scope in the selector: the pods' labels have it.
        selector: "application=patroni".to_owned(),
        preset: Preset::Patroni,
        kubeconfig: Some(kubeconfig.to_owned()),
        context: Some("c".to_owned()),
        port,
        leader: None,
        drain_annotation: "pgmoor.io/drain".to_owned(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_in_kubernetes() {
    if !server::is_installed() {
        return;
    }
    let a = Server::primary();
    let (pods, locks) = (Script::default(), Script::default());
    let api = api_server(&pods, &locks).await;
    let access = kubeconfig(&api.url());
    let cluster = cluster(kubernetes(access.path(), a.port));
    let mut bench = Bench::new(&cluster).await;

    // The label says primary and so does its PostgreSQL; the leader object names another.
    let unnamed = |table: &Arc<RoutingTable>| {
        table.pods.len() == 1 && !table.stale && matches!(table.primary, Primary::Nobody(_))
    };
    bench.until("a label alone is not enough", unnamed).await;
    locks.lock().unwrap().push_back(Reply::Lines(vec![event("MODIFIED", &lock(11, "orders-0"))]));
    bench.until("named and proven", |table| is_primary(table, "orders-0", 1) && !table.stale).await;

    let drained = pod("orders-0", "u0", 12, "primary")
        .replace(r#""labels""#, r#""annotations":{"pgmoor.io/drain":"true"},"labels""#);
    pods.lock().unwrap().push_back(Reply::Lines(vec![event("MODIFIED", &drained)]));
    bench.until("the annotation drains", |table| table.pods[&PodName::new("orders-0")].draining).await;

    // The next incarnation comes before the news that the former one is gone.
    let news = vec![
        event("ADDED", &pod("orders-0", "u1", 13, "primary")),
        event("DELETED", &drained.replace("\"12\"", "\"14\"")),
    ];
    pods.lock().unwrap().push_back(Reply::Lines(news));
    let reborn = |table: &Arc<RoutingTable>| {
        is_primary(table, "orders-0", 1) && table.pods[&PodName::new("orders-0")].id.uid.as_str() == "u1"
    };
    bench.until("the next incarnation", reborn).await;

    // An outage: what is known is kept.
    pods.lock().unwrap().extend((0..4).map(|_| Reply::Cut));
    let table = bench.until("stale", |table| table.stale).await;
    assert!(is_primary(&table, "orders-0", 1));
    bench.until("back", |table| !table.stale && is_primary(table, "orders-0", 1)).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_kubeconfig_that_is_not_there_is_an_error() {
    let cluster = cluster(kubernetes("/nonexistent/kubeconfig".as_ref(), 5432));
    let tls = PodTls::new(&cluster).unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let error = discovery::start(&cluster, tls, metrics, CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().starts_with("cluster orders: kubeconfig: "), "{error}");
}
